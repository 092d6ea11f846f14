//! Containers' logs, read: from a place on, or the last lines, across rotation, and followed.
//!
//! The shim writes, this reads, and the file between them is all they share: a slow reader costs
//! nobody anything, and every reader can go on from its [`Cursor`]. A cursor names a file by its
//! inode, since rotation renames (`c.log` → `c.log.1` → `c.log.2`).

pub mod cri;
mod driver;
mod json;
mod watch;

use std::{
    fmt,
    fs::File,
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    str::FromStr,
};

use cri::Stream;
pub use driver::LogDriver;
pub use watch::LogWatch;

/// Bytes read at once.
const CHUNK: usize = 64 << 10;
/// Bytes read at once when looking for the last lines.
const TAIL_CHUNK: u64 = 256 << 10;
/// A line of the log is at most 16 KiB of output and its head; more is no line of ours.
const MAX_LINE: usize = 1 << 20;

/// A place in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    inode: u64,
    offset: u64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.inode, self.offset)
    }
}

/// A text that is no cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor")]
pub struct NoCursor;

impl FromStr for Cursor {
    type Err = NoCursor;

    fn from_str(text: &str) -> Result<Self, NoCursor> {
        let (inode, offset) = text.split_once(':').ok_or(NoCursor)?;
        Ok(Self {
            inode: inode.parse().map_err(|_| NoCursor)?,
            offset: offset.parse().map_err(|_| NoCursor)?,
        })
    }
}

/// An entry, with the place after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Nanoseconds since the epoch.
    pub time_unix_ns: i64,
    /// Which output.
    pub stream: Stream,
    /// The line goes on in the next entry of its stream.
    pub partial: bool,
    /// As the container wrote it, with its newline if the line is whole.
    pub data: Vec<u8>,
    /// After this entry.
    pub cursor: Cursor,
}

/// A reader at a place in a log. Blocks on the disk only.
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    rotated: u32,
    file: File,
    cursor: Cursor,
}

impl LogReader {
    /// At the beginning of all that is kept. `rotated` files are looked for besides the current.
    ///
    /// # Errors
    /// When there is no log.
    pub fn at_start(path: &Path, rotated: u32) -> io::Result<Self> {
        let files = files(path, rotated);
        let (file, inode) = match files.into_iter().last() {
            Some(oldest) => oldest,
            None => opened(path)?,
        };
        Ok(Self { path: path.into(), rotated, file, cursor: Cursor { inode, offset: 0 } })
    }

    /// At a cursor; `None` when its file is not kept any more.
    ///
    /// # Errors
    /// When the log can't be read.
    pub fn at(path: &Path, rotated: u32, cursor: Cursor) -> io::Result<Option<Self>> {
        for (file, inode) in files(path, rotated) {
            if inode == cursor.inode {
                if file.metadata()?.len() < cursor.offset {
                    return Ok(None);
                }
                return Ok(Some(Self { path: path.into(), rotated, file, cursor }));
            }
        }
        Ok(None)
    }

    /// Where the last `lines` lines begin, or where the log begins if it has fewer.
    ///
    /// # Errors
    /// When the log can't be read.
    pub fn at_tail(path: &Path, rotated: u32, lines: u64) -> io::Result<Self> {
        let mut missing = lines;
        // A last line that goes on is one, though nothing ends it.
        let mut open_end = true;
        for (file, inode) in files(path, rotated) {
            let end = file.metadata()?.len();
            if let Some(offset) = tail_offset(&file, end, &mut missing, &mut open_end)? {
                let cursor = Cursor { inode, offset };
                return Ok(Self { path: path.into(), rotated, file, cursor });
            }
        }
        Self::at_start(path, rotated)
    }

    /// Where the reader is.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Entries from here on, about [`CHUNK`] bytes of them; none at the end of what is written.
    /// Lines that no shim writes are passed over.
    ///
    /// # Errors
    /// When the log can't be read, or the file after a rotated one is gone (`NotFound`).
    pub fn read(&mut self) -> io::Result<Vec<Entry>> {
        loop {
            // Whether a newer file is there has to be known before the end is looked for: once it
            // is, nothing more is written to this one.
            let newer = self.newer()?;
            let entries = self.read_file()?;
            if !entries.is_empty() {
                return Ok(entries);
            }
            match newer {
                None => return Ok(entries),
                Some((file, inode)) => {
                    self.file = file;
                    self.cursor = Cursor { inode, offset: 0 };
                }
            }
        }
    }

    fn read_file(&mut self) -> io::Result<Vec<Entry>> {
        let mut len = CHUNK;
        loop {
            let mut buffer = vec![0; len];
            let got = read_at(&self.file, &mut buffer, self.cursor.offset)?;
            let buffer = &buffer[..got];
            let Some(end) = buffer.iter().rposition(|b| *b == b'\n') else {
                // No whole line yet, or one longer than the buffer.
                if got == len && len < MAX_LINE {
                    len *= 4;
                    continue;
                }
                return Ok(Vec::new());
            };
            return Ok(self.entries(&buffer[..=end]));
        }
    }

    fn entries(&mut self, lines: &[u8]) -> Vec<Entry> {
        let mut entries = Vec::new();
        for line in lines.split_inclusive(|b| *b == b'\n') {
            self.cursor.offset += line.len() as u64;
            entries.extend(entry(&line[..line.len() - 1], self.cursor));
        }
        entries
    }

    /// The file that was begun after this one, if this one was rotated.
    fn newer(&self) -> io::Result<Option<(File, u64)>> {
        if std::fs::metadata(&self.path).is_ok_and(|m| m.ino() == self.cursor.inode) {
            return Ok(None);
        }
        let mut files = files(&self.path, self.rotated);
        match files.iter().position(|(_, inode)| *inode == self.cursor.inode) {
            // Renamed, and the new one not made yet.
            Some(0) => Ok(None),
            Some(index) => Ok(Some(files.swap_remove(index - 1))),
            // Ours was removed by rotation: go on with the oldest that is left.
            None => Ok(files.pop()),
        }
    }
}

/// A line in either format: what its first byte is tells them apart.
fn entry(line: &[u8], cursor: Cursor) -> Option<Entry> {
    if line.first() == Some(&b'{') {
        return json::parse(line, cursor);
    }
    let parsed = cri::parse(line)?;
    let mut data = parsed.data.to_vec();
    if !parsed.partial {
        data.push(b'\n');
    }
    let cri::Line { time_unix_ns, stream, partial, .. } = parsed;
    Some(Entry { time_unix_ns, stream, partial, data, cursor })
}

/// Whether a line (of the log) ends a line (of the container).
fn ends_line(line: &[u8]) -> bool {
    if line.first() == Some(&b'{') { json::ends_line(line) } else { cri::ends_line(line) }
}

/// The current file and the rotated ones that are there, newest first, each with its inode.
fn files(path: &Path, rotated: u32) -> Vec<(File, u64)> {
    let older = (1..=rotated).map(|n| PathBuf::from(format!("{}.{n}", path.display())));
    std::iter::once(path.to_owned()).chain(older).filter_map(|p| opened(&p).ok()).collect()
}

fn opened(path: &Path) -> io::Result<(File, u64)> {
    let file = File::open(path)?;
    let inode = file.metadata()?.ino();
    Ok((file, inode))
}

fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match file.read_at(&mut buffer[got..], offset + got as u64) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(got)
}

/// Where the last `missing` lines of a file begin; `None` when it has fewer, which are taken off.
fn tail_offset(
    file: &File,
    end: u64,
    missing: &mut u64,
    open_end: &mut bool,
) -> io::Result<Option<u64>> {
    if *missing == 0 {
        return Ok(Some(end));
    }
    // What is behind `line_end` was looked at; `carry` is the beginning of a line that starts
    // further ahead.
    let mut block_end = end;
    let mut carry: Vec<u8> = Vec::new();
    while block_end > 0 {
        let start = block_end.saturating_sub(TAIL_CHUNK);
        let len = usize::try_from(block_end - start).unwrap_or(usize::MAX);
        let mut block = vec![0; len];
        let got = read_at(file, &mut block, start)?;
        block.truncate(got);
        block.extend_from_slice(&carry);
        let mut line_end = block.len();
        loop {
            // The newline before the line that ends at `line_end`.
            let body = line_end.saturating_sub(1);
            let newline = block[..body].iter().rposition(|b| *b == b'\n');
            let line_start = match newline {
                Some(at) => at + 1,
                None if start == 0 => 0,
                None => break,
            };
            if line_start < line_end {
                let ends = ends_line(&block[line_start..line_end]);
                if ends && !*open_end {
                    *missing -= 1;
                    if *missing == 0 {
                        return Ok(Some(start + line_end as u64));
                    }
                }
                *open_end = false;
            }
            line_end = line_start;
            if line_start == 0 {
                break;
            }
        }
        carry = block[..line_end].to_vec();
        block_end = start;
        if carry.len() > MAX_LINE {
            break;
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _, path::Path};

    use super::{Cursor, LogReader};

    fn write(path: &Path, lines: &[(&str, &str)]) {
        let mut file = fs::OpenOptions::new().append(true).create(true).open(path).expect("open");
        for (tag, data) in lines {
            writeln!(file, "2026-01-01T00:00:00.000000001Z stdout {tag} {data}").expect("write");
        }
    }

    fn rest(reader: &mut LogReader) -> String {
        let mut text = String::new();
        loop {
            let entries = reader.read().expect("read");
            if entries.is_empty() {
                return text;
            }
            for entry in entries {
                text.push_str(&String::from_utf8_lossy(&entry.data));
            }
        }
    }

    #[test]
    fn reads_across_rotation_and_goes_on_from_any_cursor() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("c.log");
        write(&path, &[("F", "1"), ("P", "2a"), ("F", "2b")]);
        let mut reader = LogReader::at_start(&path, 2).expect("open");
        let first = reader.read().expect("read");
        assert_eq!(first.len(), 3);
        fs::rename(&path, dir.path().join("c.log.1")).expect("rotate");
        assert!(reader.read().expect("no new file yet").is_empty());
        write(&path, &[("F", "3")]);
        assert_eq!(rest(&mut reader), "3\n");
        for (entry, expected) in first.iter().zip(["2a2b\n3\n", "2b\n3\n", "3\n"]) {
            let cursor: Cursor = entry.cursor.to_string().parse().expect("cursor");
            let mut again =
                LogReader::at(&path, 2, cursor).expect("read").expect("the file is kept");
            assert_eq!(rest(&mut again), expected);
        }
        assert_eq!(rest(&mut LogReader::at_start(&path, 2).expect("open")), "1\n2a2b\n3\n");
        let foreign = Cursor { inode: 1, offset: 0 };
        assert!(LogReader::at(&path, 2, foreign).expect("read").is_none());
    }

    #[test]
    fn tails() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("c.log");
        write(&dir.path().join("c.log.1"), &[("F", "0"), ("F", "1")]);
        write(&path, &[("P", "2a"), ("F", "2b"), ("F", "3")]);
        for (lines, expected) in [
            (0, ""),
            (1, "3\n"),
            (2, "2a2b\n3\n"),
            (3, "1\n2a2b\n3\n"),
            (4, "0\n1\n2a2b\n3\n"),
            (9, "0\n1\n2a2b\n3\n"),
        ] {
            let mut reader = LogReader::at_tail(&path, 2, lines).expect("open");
            assert_eq!(rest(&mut reader), expected, "{lines}");
        }
        write(&path, &[("P", "4")]);
        assert_eq!(rest(&mut LogReader::at_tail(&path, 2, 1).expect("open")), "4");
    }

    #[test]
    fn tails_of_json() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("c.log");
        let line = |log: &str| {
            let time = "1970-01-01T00:00:01Z";
            format!("{}\n", serde_json::json!({"log": log, "stream": "stdout", "time": time}))
        };
        // The second ends with a backslash and an n, and not with a line's end.
        fs::write(&path, line("1\n") + &line("2\\n") + &line("2\n") + &line("3\n")).expect("write");
        for (lines, expected) in [(1, "3\n"), (2, "2\\n2\n3\n"), (9, "1\n2\\n2\n3\n")] {
            let mut reader = LogReader::at_tail(&path, 2, lines).expect("open");
            assert_eq!(rest(&mut reader), expected, "{lines}");
        }
    }

    #[test]
    fn tails_of_many_lines() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("c.log");
        let lines: Vec<String> = (0..20_000).map(|n| format!("line {n}")).collect();
        write(&path, &lines.iter().map(|l| ("F", l.as_str())).collect::<Vec<_>>());
        let mut reader = LogReader::at_tail(&path, 0, 15_000).expect("open");
        let expected: String = (5_000..20_000).map(|n| format!("line {n}\n")).collect();
        assert!(rest(&mut reader) == expected);
    }

    #[test]
    fn a_line_that_is_being_written_is_left_for_later() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("c.log");
        fs::write(&path, "2026-01-01T00:00:00Z stdout F who").expect("write");
        let mut reader = LogReader::at_start(&path, 0).expect("open");
        assert!(reader.read().expect("read").is_empty());
        let mut file = fs::OpenOptions::new().append(true).open(&path).expect("open");
        file.write_all(b"le\n").expect("write");
        assert_eq!(rest(&mut reader), "whole\n");
    }
}
