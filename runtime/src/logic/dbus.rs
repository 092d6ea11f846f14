//! Messages of D-Bus: as much of the protocol as it takes to ask systemd for a unit. Little endian,
//! no file descriptors.

/// A value that may be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Bool(bool),
    Int32(i32),
    Uint32(u32),
    Int64(i64),
    Uint64(u64),
    Text(String),
    Texts(Vec<String>),
    Uint32s(Vec<u32>),
    Bytes(Vec<u8>),
    /// Pairs of a name and a variant, as systemd takes a unit's properties.
    Properties(Vec<(String, Value)>),
    /// Units to be made beside, of which there are none.
    NoUnits,
}

impl Value {
    fn signature(&self) -> &'static str {
        match self {
            Self::Bool(_) => "b",
            Self::Int32(_) => "i",
            Self::Uint32(_) => "u",
            Self::Int64(_) => "x",
            Self::Uint64(_) => "t",
            Self::Text(_) => "s",
            Self::Texts(_) => "as",
            Self::Uint32s(_) => "au",
            Self::Bytes(_) => "ay",
            Self::Properties(_) => "a(sv)",
            Self::NoUnits => "a(sa(sv))",
        }
    }
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        let length = self.0.len().next_multiple_of(to);
        self.0.resize(length, 0);
    }

    fn uint32(&mut self, number: u32) {
        self.align(4);
        self.0.extend(number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.uint32(text.len() as u32);
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.0.push(text.len() as u8);
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    /// The length in front does not count what aligns the first element.
    fn array(&mut self, alignment: usize, fill: impl FnOnce(&mut Self)) {
        self.uint32(0);
        let at = self.0.len() - 4;
        self.align(alignment);
        let start = self.0.len();
        fill(self);
        let length = (self.0.len() - start) as u32;
        self.0[at..at + 4].copy_from_slice(&length.to_le_bytes());
    }

    fn variant(&mut self, value: &Value) {
        self.signature(value.signature());
        self.value(value);
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Bool(yes) => self.uint32(u32::from(*yes)),
            Value::Int32(number) => self.uint32(number.cast_unsigned()),
            Value::Uint32(number) => self.uint32(*number),
            Value::Int64(number) => {
                self.align(8);
                self.0.extend(number.to_le_bytes());
            }
            Value::Uint64(number) => {
                self.align(8);
                self.0.extend(number.to_le_bytes());
            }
            Value::Text(text) => self.text(text),
            Value::Texts(all) => self.array(4, |w| all.iter().for_each(|text| w.text(text))),
            Value::Uint32s(all) => self.array(4, |w| all.iter().for_each(|n| w.uint32(*n))),
            Value::Bytes(all) => self.array(1, |w| w.0.extend(all)),
            Value::Properties(all) => self.array(8, |w| {
                for (name, value) in all {
                    w.align(8);
                    w.text(name);
                    w.variant(value);
                }
            }),
            Value::NoUnits => self.array(8, |_| ()),
        }
    }
}

/// A call of a method of systemd's manager (or of a standard interface on it).
pub(crate) fn call(serial: u32, interface: &str, member: &str, arguments: &[Value]) -> Vec<u8> {
    let mut body = Writer::default();
    arguments.iter().for_each(|value| body.value(value));
    let signature: String = arguments.iter().map(Value::signature).collect();
    // Little endian, a method call, no flags, version 1.
    let mut message = Writer(vec![b'l', 1, 0, 1]);
    message.uint32(body.0.len() as u32);
    message.uint32(serial);
    let fields = [
        (1, "o", "/org/freedesktop/systemd1"),
        (2, "s", interface),
        (3, "s", member),
        (6, "s", "org.freedesktop.systemd1"),
    ];
    message.array(8, |w| {
        for (code, kind, text) in fields {
            w.align(8);
            w.0.push(code);
            w.signature(kind);
            w.text(text);
        }
        if !signature.is_empty() {
            w.align(8);
            w.0.push(8);
            w.signature("g");
            w.signature(&signature);
        }
    });
    message.align(8);
    message.0.extend(body.0);
    message.0
}

/// What kind of message came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Reply,
    Error,
    Signal,
    Other,
}

/// A message that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Incoming {
    pub(crate) kind: Kind,
    pub(crate) reply_to: u32,
    pub(crate) member: String,
    pub(crate) error: String,
    pub(crate) signature: String,
    body: Vec<u8>,
}

/// Length of what every message begins with.
pub(crate) const HEAD: usize = 16;
/// Longer ones are not from systemd.
const MOST: usize = 1 << 20;

/// The length of a whole message, from its first [`HEAD`] bytes.
pub(crate) fn length(head: &[u8; HEAD]) -> Option<usize> {
    if head[0] != b'l' {
        return None;
    }
    let number = |at: usize| -> Option<usize> {
        Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?) as usize)
    };
    let whole = (HEAD + number(12)?).next_multiple_of(8) + number(4)?;
    (whole <= MOST).then_some(whole)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take(&mut self, count: usize) -> Option<&[u8]> {
        let part = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(part)
    }

    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn uint32(&mut self) -> Option<u32> {
        self.align(4);
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<String> {
        let length = self.uint32()? as usize;
        let text = String::from_utf8(self.take(length)?.to_vec()).ok()?;
        self.take(1)?;
        Some(text)
    }

    fn signature(&mut self) -> Option<String> {
        let length = usize::from(*self.take(1)?.first()?);
        let text = String::from_utf8(self.take(length)?.to_vec()).ok()?;
        self.take(1)?;
        Some(text)
    }
}

impl Incoming {
    /// Reads a whole message; nothing if it is none.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader { bytes, at: 12 };
        let kind = match bytes.get(1)? {
            2 => Kind::Reply,
            3 => Kind::Error,
            4 => Kind::Signal,
            _ => Kind::Other,
        };
        let mut message = Self {
            kind,
            reply_to: 0,
            member: String::new(),
            error: String::new(),
            signature: String::new(),
            body: Vec::new(),
        };
        let end = HEAD + reader.uint32()? as usize;
        while reader.at < end {
            reader.align(8);
            if reader.at >= end {
                break;
            }
            let code = *reader.take(1)?.first()?;
            match reader.signature()?.as_str() {
                "u" => {
                    let number = reader.uint32()?;
                    if code == 5 {
                        message.reply_to = number;
                    }
                }
                "s" | "o" => {
                    let text = reader.text()?;
                    match code {
                        3 => message.member = text,
                        4 => message.error = text,
                        _ => {}
                    }
                }
                "g" => {
                    let text = reader.signature()?;
                    if code == 8 {
                        message.signature = text;
                    }
                }
                _ => return None,
            }
        }
        message.body = bytes.get(end.next_multiple_of(8)..)?.to_vec();
        Some(message)
    }

    /// The texts among the body's first values: numbers are stepped over, a variant is opened.
    pub(crate) fn texts(&self) -> Vec<String> {
        let mut reader = Reader { bytes: &self.body, at: 0 };
        let mut all = Vec::new();
        for kind in self.signature.chars() {
            let kind = match kind {
                'v' => match reader.signature() {
                    Some(inner) if inner == "s" => 's',
                    _ => break,
                },
                kind => kind,
            };
            match kind {
                'u' => {
                    if reader.uint32().is_none() {
                        break;
                    }
                }
                's' | 'o' => match reader.text() {
                    Some(text) => all.push(text),
                    None => break,
                },
                _ => break,
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let properties = vec![
            ("Delegate".to_owned(), Value::Bool(true)),
            ("PIDs".to_owned(), Value::Uint32s(vec![7])),
            ("MemoryMax".to_owned(), Value::Uint64(u64::MAX)),
            ("AllowedCPUs".to_owned(), Value::Bytes(vec![3])),
        ];
        let arguments = [
            Value::Text("a.scope".to_owned()),
            Value::Text("replace".to_owned()),
            Value::Properties(properties),
            Value::NoUnits,
        ];
        let bytes = call(3, "org.freedesktop.systemd1.Manager", "StartTransientUnit", &arguments);
        let head: [u8; HEAD] = bytes[..HEAD].try_into().expect("long enough");
        assert_eq!(length(&head), Some(bytes.len()));
        let message = Incoming::parse(&bytes).expect("whole");
        assert_eq!(message.member, "StartTransientUnit");
        assert_eq!(message.signature, "ssa(sv)a(sa(sv))");
        assert_eq!(message.texts(), ["a.scope", "replace"]);
    }

    #[test]
    fn cut_or_changed_messages_are_refused_and_nothing_panics() {
        let bytes = call(1, "a.b", "C", &[Value::Text("x".to_owned())]);
        for end in 0..bytes.len() {
            if let Some(message) = Incoming::parse(&bytes[..end]) {
                assert!(message.texts().is_empty() || end >= bytes.len() - 1);
            }
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut other = bytes.clone();
                other[at] ^= 1 << bit;
                if let Some(message) = Incoming::parse(&other) {
                    let _ = message.texts();
                }
            }
        }
        assert_eq!(length(&[0xff; HEAD]), None);
    }
}
