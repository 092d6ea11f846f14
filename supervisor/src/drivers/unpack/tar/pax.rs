//! PAX records: what did not fit into a header, and extended attributes.

use super::{super::Limits, Error, header::Header};

const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";
const SPARSE_PREFIX: &[u8] = b"GNU.sparse.";

/// The records of one extended header that matter here.
#[derive(Debug, Default)]
pub(super) struct Pax {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: Option<PaxSparse>,
}

/// GNU's three ways to say in PAX that a file is sparse.
#[derive(Debug, Default)]
pub(super) struct PaxSparse {
    /// 1: the map begins the data. 0: it is in the records.
    pub(super) major: u64,
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    /// Offsets and lengths in turn.
    pub(super) numbers: Vec<u64>,
}

impl Pax {
    /// Parses `LENGTH KEY=VALUE\n`, again and again.
    pub(super) fn parse(mut bytes: &[u8], limits: &Limits) -> Result<Self, Error> {
        let mut pax = Self::default();
        while !bytes.is_empty() && bytes[0] != 0 {
            let record = Record::split(&mut bytes)
                .ok_or(Error::Header("an extended header's record is damaged"))?;
            pax.take(&record, limits)?;
        }
        Ok(pax)
    }

    fn take(&mut self, record: &Record<'_>, limits: &Limits) -> Result<(), Error> {
        let value = record.value;
        let bad = |field| Error::Field { field, entry: String::from_utf8_lossy(value).into() };
        match record.key {
            b"path" => self.path = (!value.is_empty()).then(|| value.to_vec()),
            b"linkpath" => self.link = (!value.is_empty()).then(|| value.to_vec()),
            b"size" => self.size = Some(decimal(value).ok_or_else(|| bad("size"))?),
            b"uid" => self.uid = Some(small(value).ok_or_else(|| bad("owner"))?),
            b"gid" => self.gid = Some(small(value).ok_or_else(|| bad("group"))?),
            b"mtime" => self.mtime = Some(time(value).ok_or_else(|| bad("time"))?),
            key if key.starts_with(XATTR_PREFIX) => {
                let name = key[XATTR_PREFIX.len()..].to_vec();
                self.xattrs.retain(|(known, _)| *known != name);
                self.xattrs.push((name, value.to_vec()));
            }
            key if key.starts_with(SPARSE_PREFIX) => {
                let sparse = self.sparse.get_or_insert_default();
                sparse.take(&key[SPARSE_PREFIX.len()..], value, limits)?;
            }
            // Access and change times are not kept; names of owners mean nothing here.
            _ => {}
        }
        Ok(())
    }

    pub(super) fn amend(&self, header: &mut Header) -> Result<(), Error> {
        if let Some(path) = &self.path {
            header.path.clone_from(path);
        }
        if let Some(link) = &self.link {
            header.link.clone_from(link);
        }
        header.data_size = self.size.unwrap_or(header.data_size);
        header.uid = self.uid.unwrap_or(header.uid);
        header.gid = self.gid.unwrap_or(header.gid);
        if let Some((seconds, nanoseconds)) = self.mtime {
            (header.mtime_s, header.mtime_ns) = (seconds, nanoseconds);
        }
        Ok(())
    }

    pub(super) fn xattrs(&self) -> &[(Vec<u8>, Vec<u8>)] {
        &self.xattrs
    }

    pub(super) fn sparse(&self) -> Option<&PaxSparse> {
        self.sparse.as_ref()
    }
}

impl PaxSparse {
    fn take(&mut self, key: &[u8], value: &[u8], limits: &Limits) -> Result<(), Error> {
        const BAD: Error = Error::Header("an extended header's sparse map is damaged");
        match key {
            b"major" => self.major = decimal(value).ok_or(BAD)?,
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.real_size = Some(decimal(value).ok_or(BAD)?),
            b"offset" | b"numbytes" => self.numbers.push(decimal(value).ok_or(BAD)?),
            b"map" => {
                for part in value.split(|b| *b == b',') {
                    self.numbers.push(decimal(part).ok_or(BAD)?);
                }
            }
            _ => {}
        }
        if self.numbers.len() / 2 > limits.sparse_extents {
            let limit = limits.sparse_extents as u64;
            return Err(Error::Limit { what: "extents in a sparse file", limit });
        }
        Ok(())
    }
}

struct Record<'a> {
    key: &'a [u8],
    value: &'a [u8],
}

impl<'a> Record<'a> {
    fn split(bytes: &mut &'a [u8]) -> Option<Self> {
        let space = bytes.iter().take(20).position(|b| *b == b' ')?;
        let len = usize::try_from(decimal(&bytes[..space])?).ok()?;
        let record = bytes.get(space + 1..len)?.strip_suffix(b"\n")?;
        *bytes = &bytes[len..];
        let equals = record.iter().position(|b| *b == b'=')?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        (!key.is_empty() && !key.contains(&0)).then_some(Self { key, value })
    }
}

pub(super) fn decimal(bytes: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(bytes).ok()?;
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

fn small(bytes: &[u8]) -> Option<u32> {
    decimal(bytes).and_then(|n| u32::try_from(n).ok())
}

/// `[-]SECONDS[.FRACTION]`, as whole seconds rounded down and nanoseconds after them.
fn time(bytes: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds = i64::try_from(decimal(whole.as_bytes())?).ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    Some(match (negative, nanoseconds) {
        (false, ns) => (seconds, ns),
        (true, 0) => (-seconds, 0),
        (true, ns) => (-seconds - 1, 1_000_000_000 - ns),
    })
}

#[cfg(test)]
mod tests {
    use super::time;

    #[test]
    fn times_before_the_epoch_round_down() {
        assert_eq!(time(b"1700000000.5"), Some((1_700_000_000, 500_000_000)));
        assert_eq!(time(b"12"), Some((12, 0)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"-3"), Some((-3, 0)));
        assert_eq!(time(b"1.0000000019"), Some((1, 1)));
        for bad in [&b""[..], b"x", b"1.x", b"--1", b"99999999999999999999"] {
            assert_eq!(time(bad), None, "{bad:?}");
        }
    }
}
