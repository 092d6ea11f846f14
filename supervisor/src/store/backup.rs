//! A store as one file: a line for the whole, one for each record, one that says it is complete.
//!
//! ```text
//! {"wharf-backup":1,"schema":2}
//! {"tree":"containers","key":"<hexadecimal>","value":"<the record in JSON, as text>"}
//! {"records":17,"sha256":"<of all lines before>"}
//! ```

use std::io::{BufRead, Write};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Error, schema::META_TREE};

const FORMAT: u32 = 1;
/// sled's own tree, which is always there.
const DEFAULT_TREE: &[u8] = b"__sled__default";

/// A record, as bytes.
#[derive(Debug)]
pub(super) struct Raw {
    pub(super) tree: String,
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
}

/// What a backup holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Schema of the records.
    pub schema: u32,
    /// How many.
    pub records: u64,
}

#[derive(Serialize, Deserialize)]
struct Head {
    #[serde(rename = "wharf-backup")]
    format: u32,
    schema: u32,
}

#[derive(Serialize, Deserialize)]
struct Line {
    tree: String,
    key: String,
    value: String,
}

#[derive(Serialize, Deserialize)]
struct Tail {
    records: u64,
    sha256: String,
}

/// All records of a store that nobody writes to meanwhile.
pub(super) fn copy(db: &sled::Db) -> Result<Vec<Raw>, Error> {
    let mut all = Vec::new();
    for name in db.tree_names() {
        let tree = String::from_utf8_lossy(&name).into_owned();
        if name.as_ref() == DEFAULT_TREE || tree == META_TREE {
            continue;
        }
        for item in &db.open_tree(&name).map_err(Error::Read)? {
            let (key, value) = item.map_err(Error::Read)?;
            all.push(Raw { tree: tree.clone(), key: key.to_vec(), value: value.to_vec() });
        }
    }
    Ok(all)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    let digits = digits.filter(|d| d.len() % 2 == 0)?;
    Some(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

pub(super) fn write(records: &[Raw], schema: u32, out: &mut dyn Write) -> Result<Summary, Error> {
    let mut hash = Sha256::new();
    let mut line = |line: Vec<u8>, hash: &mut Sha256| {
        hash.update(&line);
        hash.update(b"\n");
        out.write_all(&line).and_then(|()| out.write_all(b"\n")).map_err(Error::Backup)
    };
    line(json(&Head { format: FORMAT, schema }), &mut hash)?;
    for record in records {
        let value = String::from_utf8_lossy(&record.value).into_owned();
        line(json(&Line { tree: record.tree.clone(), key: hex(&record.key), value }), &mut hash)?;
    }
    let records = records.len() as u64;
    let sha256 = hex(&hash.clone().finalize());
    line(json(&Tail { records, sha256 }), &mut hash)?;
    out.flush().map_err(Error::Backup)?;
    Ok(Summary { schema, records })
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("texts and numbers are JSON")
}

/// Reads a backup whole and checks it.
pub(super) fn read(source: impl BufRead) -> Result<(u32, Vec<Raw>), Error> {
    let bad = |line: usize, problem: &str| Error::BadBackup { line, problem: problem.into() };
    let mut hash = Sha256::new();
    let mut lines = source.split(b'\n').enumerate();
    let mut next = move || lines.next().map(|(n, line)| (n + 1, line));
    let (_, first) = next().ok_or_else(|| bad(1, "it is empty"))?;
    let first = first.map_err(Error::Backup)?;
    let head: Head =
        serde_json::from_slice(&first).map_err(|_| bad(1, "it is not a backup of Wharf's"))?;
    if head.format != FORMAT {
        return Err(bad(1, &format!("format {} is not known", head.format)));
    }
    hash.update(&first);
    hash.update(b"\n");
    let mut records = Vec::new();
    while let Some((number, line)) = next() {
        let line = line.map_err(Error::Backup)?;
        if let Ok(tail) = serde_json::from_slice::<Tail>(&line) {
            if tail.records != records.len() as u64 || tail.sha256 != hex(&hash.finalize()) {
                return Err(bad(number, "what stands above is not what was written"));
            }
            return Ok((head.schema, records));
        }
        let parsed: Line =
            serde_json::from_slice(&line).map_err(|_| bad(number, "not a record"))?;
        let key = unhex(&parsed.key).ok_or_else(|| bad(number, "not a key"))?;
        hash.update(&line);
        hash.update(b"\n");
        records.push(Raw { tree: parsed.tree, key, value: parsed.value.into_bytes() });
    }
    Err(bad(records.len() + 2, "it ends too early"))
}
