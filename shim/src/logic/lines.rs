//! Container output to log lines: Kubernetes' CRI format and Docker's json-file. Pure: bytes in,
//! bytes out, no memory of what came before.
//!
//! CRI is lossless: the payloads one after the other, with a newline after each `F` and nothing
//! after a `P`, are what the container wrote. json-file holds text, so bytes that are not UTF-8
//! become U+FFFD there, as with Docker.

use super::timestamp::{RFC3339_LEN, rfc3339};
use serde::{Deserialize, Serialize};

/// Longest payload of one line, as other runtimes cut it.
pub(crate) const MAX_PAYLOAD: usize = 16 << 10;
/// The output buffer must hold a line whose every byte becomes `\u00XX`.
pub(crate) const MIN_OUT: usize = 6 * MAX_PAYLOAD + 128;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    const fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Format {
    Cri,
    JsonFile,
}

/// What to do with a last line that has no newline yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tail {
    /// More is there to be read at once: leave it to the next call.
    Keep,
    /// Nothing more for now: a prompt must reach the log.
    Flush,
}

/// How far a call came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Bytes of input that are in the output now.
    pub(crate) consumed: usize,
    /// Bytes of output.
    pub(crate) produced: usize,
    /// The last line of the output is a part: the next of its stream goes on with it.
    pub(crate) is_open: bool,
}

const CRI_HEAD: usize = RFC3339_LEN + " stdout F ".len();

/// Encodes for one stream at one time.
#[derive(Debug)]
pub(crate) struct Encoder {
    format: Format,
    stream: Stream,
    time: [u8; RFC3339_LEN],
    head: [u8; CRI_HEAD],
}

impl Encoder {
    pub(crate) fn new(format: Format, stream: Stream, unix_ns: i64) -> Self {
        let time = rfc3339(unix_ns);
        let mut head = [b' '; CRI_HEAD];
        head[..RFC3339_LEN].copy_from_slice(&time);
        head[RFC3339_LEN + 1..CRI_HEAD - 3].copy_from_slice(stream.name().as_bytes());
        head[CRI_HEAD - 2] = b'F';
        Self { format, stream, time, head }
    }

    /// Encodes as many lines as fit into `out`, which has at least [`MIN_OUT`] bytes. With all of
    /// the input consumed, or less than a line left under [`Tail::Keep`], there is no more to do.
    pub(crate) fn step(&self, input: &[u8], tail: Tail, out: &mut [u8]) -> Step {
        debug_assert!(out.len() >= MIN_OUT);
        let mut step = Step { consumed: 0, produced: 0, is_open: false };
        while let Some(line) = next_line(&input[step.consumed..], tail, self.format) {
            let rest = &mut out[step.produced..];
            if rest.len() < self.bound(line.payload.len()) {
                break;
            }
            step.produced += match self.format {
                Format::Cri => self.cri(&line, rest),
                Format::JsonFile => self.json(&line, rest),
            };
            step.consumed += line.payload.len() + usize::from(line.ended);
            step.is_open = !line.ended;
        }
        step
    }

    /// The most that a line of this payload may become.
    fn bound(&self, payload: usize) -> usize {
        match self.format {
            Format::Cri => CRI_HEAD + payload + 1,
            Format::JsonFile => 6 * payload + 100,
        }
    }

    fn cri(&self, line: &Line<'_>, out: &mut [u8]) -> usize {
        out[..CRI_HEAD].copy_from_slice(&self.head);
        if !line.ended {
            out[CRI_HEAD - 2] = b'P';
        }
        let end = CRI_HEAD + line.payload.len();
        out[CRI_HEAD..end].copy_from_slice(line.payload);
        out[end] = b'\n';
        end + 1
    }

    fn json(&self, line: &Line<'_>, out: &mut [u8]) -> usize {
        let mut writer = Writer { out, len: 0 };
        writer.raw(b"{\"log\":\"");
        for chunk in line.payload.utf8_chunks() {
            writer.escaped(chunk.valid());
            if !chunk.invalid().is_empty() {
                writer.raw("\u{fffd}".as_bytes());
            }
        }
        if line.ended {
            writer.raw(b"\\n");
        }
        writer.raw(b"\",\"stream\":\"");
        writer.raw(self.stream.name().as_bytes());
        writer.raw(b"\",\"time\":\"");
        writer.raw(&self.time);
        writer.raw(b"\"}\n");
        writer.len
    }
}

/// A part of a line at the end of a log whose writer was killed: which byte is to become what for
/// the part to be a line in truth. `None`: nothing of the container is in it.
pub(crate) fn mend(format: Format, part: &[u8]) -> Option<(usize, u8)> {
    match format {
        Format::Cri if part.len() > CRI_HEAD => Some((CRI_HEAD - 2, b'P')),
        Format::Cri | Format::JsonFile => None,
    }
}

/// Bytes into a slice that [`Encoder::bound`] has found long enough.
struct Writer<'a> {
    out: &'a mut [u8],
    len: usize,
}

impl Writer<'_> {
    fn raw(&mut self, bytes: &[u8]) {
        self.out[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn escaped(&mut self, text: &str) {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        for &byte in text.as_bytes() {
            match byte {
                b'"' => self.raw(b"\\\""),
                b'\\' => self.raw(b"\\\\"),
                b'\r' => self.raw(b"\\r"),
                b'\t' => self.raw(b"\\t"),
                0..=0x1f | 0x7f => {
                    let [high, low] = [byte >> 4, byte & 15].map(|half| HEX[usize::from(half)]);
                    self.raw(&[b'\\', b'u', b'0', b'0', high, low]);
                }
                _ => self.raw(&[byte]),
            }
        }
    }
}

/// A line, or a part of one.
struct Line<'a> {
    payload: &'a [u8],
    /// A newline follows the payload.
    ended: bool,
}

fn next_line(input: &[u8], tail: Tail, format: Format) -> Option<Line<'_>> {
    // One byte further than a payload: a line of exactly that length is whole.
    let window = &input[..input.len().min(MAX_PAYLOAD + 1)];
    if let Some(end) = memchr::memchr(b'\n', window) {
        return Some(Line { payload: &window[..end], ended: true });
    }
    if window.len() > MAX_PAYLOAD {
        let end = match format {
            Format::Cri => MAX_PAYLOAD,
            Format::JsonFile => whole_characters(&window[..MAX_PAYLOAD]),
        };
        return Some(Line { payload: &window[..end], ended: false });
    }
    match tail {
        Tail::Flush if !window.is_empty() => Some(Line { payload: window, ended: false }),
        Tail::Flush | Tail::Keep => None,
    }
}

/// Length of the bytes without a UTF-8 character that the cut would break.
fn whole_characters(bytes: &[u8]) -> usize {
    for back in 1..=3 {
        let at = bytes.len() - back;
        let length = match bytes[at] {
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf7 => 4,
            0x80..=0xbf => continue,
            _ => 1,
        };
        return if length > back { at } else { bytes.len() };
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::{Encoder, Format, MAX_PAYLOAD, MIN_OUT, Stream, Tail};

    fn encode(format: Format, input: &[u8]) -> Vec<u8> {
        let encoder = Encoder::new(format, Stream::Stdout, 0);
        let mut log = Vec::new();
        let mut at = 0;
        while at < input.len() {
            let mut out = vec![0; MIN_OUT];
            let step = encoder.step(&input[at..], Tail::Flush, &mut out);
            assert!(step.consumed > 0, "no progress");
            log.extend_from_slice(&out[..step.produced]);
            at += step.consumed;
        }
        log
    }

    /// What a reader of the log makes of it.
    fn decode(log: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for line in log.split_inclusive(|&byte| byte == b'\n') {
            let line = line.strip_suffix(b"\n").expect("every line ends");
            let mut fields = line.splitn(4, |&byte| byte == b' ');
            let _time = fields.next().expect("time");
            assert_eq!(fields.next(), Some(&b"stdout"[..]));
            let tag = fields.next().expect("tag");
            let payload = fields.next().expect("payload");
            assert!(payload.len() <= MAX_PAYLOAD);
            bytes.extend_from_slice(payload);
            match tag {
                b"F" => bytes.push(b'\n'),
                b"P" => {}
                other => panic!("tag {other:?}"),
            }
        }
        bytes
    }

    #[test]
    fn cri_lines() {
        let time = "1970-01-01T00:00:00.000000000Z";
        assert_eq!(
            String::from_utf8(encode(Format::Cri, b"one\n\ntwo")).expect("text"),
            format!("{time} stdout F one\n{time} stdout F \n{time} stdout P two\n")
        );
    }

    #[test]
    fn keep_leaves_the_tail() {
        let encoder = Encoder::new(Format::Cri, Stream::Stderr, 0);
        let mut out = vec![0; MIN_OUT];
        assert_eq!(encoder.step(b"a\nbc", Tail::Keep, &mut out).consumed, 2);
        assert_eq!(encoder.step(b"bc", Tail::Keep, &mut out).produced, 0);
    }

    #[test]
    fn a_line_of_the_limit_is_whole() {
        for (length, lines) in [(MAX_PAYLOAD - 1, 1), (MAX_PAYLOAD, 1), (MAX_PAYLOAD + 1, 2)] {
            let mut input = vec![b'x'; length];
            input.push(b'\n');
            let log = encode(Format::Cri, &input);
            assert_eq!(log.iter().filter(|&&byte| byte == b'\n').count(), lines, "{length}");
            assert_eq!(decode(&log), input);
        }
    }

    #[test]
    fn a_torn_line_is_closed_as_a_part() {
        let log = encode(Format::Cri, b"one\ntwo\n");
        let whole = log.len() / 2;
        for cut in 1..whole {
            let mut torn = log[..whole + cut].to_vec();
            match super::mend(Format::Cri, &torn[whole..]) {
                Some((at, byte)) => {
                    torn[whole + at] = byte;
                    torn.push(b'\n');
                    assert!(b"one\ntwo".starts_with(&decode(&torn)), "{cut}");
                    assert!(decode(&torn).len() > 4);
                }
                None => assert!(cut <= super::CRI_HEAD),
            }
        }
        assert_eq!(super::mend(Format::JsonFile, b"{\"log\":\"one"), None);
    }

    #[test]
    fn json_file_lines() {
        let log = encode(Format::JsonFile, b"a\"b\\\x01\xff\n");
        let value: serde_json::Value = serde_json::from_slice(&log).expect("json");
        assert_eq!(value["log"], "a\"b\\\u{1}\u{fffd}\n");
        assert_eq!(value["stream"], "stdout");
        assert_eq!(value["time"], "1970-01-01T00:00:00.000000000Z");
        assert_eq!(log.last(), Some(&b'\n'));
    }

    #[test]
    fn json_file_does_not_cut_characters() {
        let text = "é".repeat(MAX_PAYLOAD);
        let mut joined = String::new();
        for line in encode(Format::JsonFile, text.as_bytes()).split(|&byte| byte == b'\n') {
            if !line.is_empty() {
                let value: serde_json::Value = serde_json::from_slice(line).expect("json");
                joined.push_str(value["log"].as_str().expect("text"));
            }
        }
        assert_eq!(joined, text);
    }

    proptest::proptest! {
        #[test]
        fn cri_is_lossless(input in proptest::collection::vec(
            proptest::prop_oneof![
                proptest::strategy::Just(b"\n".to_vec()),
                proptest::collection::vec(proptest::arbitrary::any::<u8>(), 0..40),
                (0..40_000_usize).prop_map(|length| vec![b'z'; length]),
            ], 0..12)) {
            let input = input.concat();
            proptest::prop_assert_eq!(decode(&encode(Format::Cri, &input)), input);
        }
    }

    use proptest::strategy::Strategy as _;
}
