//! A store as one file: a line for the whole, one for each record, one that says it is complete.
//!
//! ```text
//! {"wharf-backup":1,"schema":2}
//! {"tree":"containers","key":"<hexadecimal>","value":"<the record in JSON, as text>"}
//! {"tree":"containers","key":"<hexadecimal>","bytes":"<what is no text, hexadecimal>"}
//! {"records":17,"sha256":"<of all lines before>"}
//! ```

use std::io::{BufRead, Write};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Error, JOURNAL, schema::META_TREE};

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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Tail {
    records: u64,
    sha256: String,
}

/// How much a backup holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Everything.
    All,
    /// Everything but the journal's older part.
    Brief,
}

/// Of the journal, in a brief backup.
const BRIEF_EVENTS: usize = 1000;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    let digits = digits.filter(|d| d.len() % 2 == 0)?;
    Some(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// Writes the records of a store that nobody writes to meanwhile, one after the other: what is in
/// memory does not grow with them.
pub(super) fn write(
    db: &sled::Db,
    schema: u32,
    extent: Extent,
    out: &mut dyn Write,
) -> Result<Summary, Error> {
    let mut hash = Sha256::new();
    let mut line = |line: Vec<u8>, hash: &mut Sha256| {
        hash.update(&line);
        hash.update(b"\n");
        out.write_all(&line).and_then(|()| out.write_all(b"\n")).map_err(Error::Backup)
    };
    line(json(&Head { format: FORMAT, schema }), &mut hash)?;
    let mut records = 0;
    for name in db.tree_names() {
        // Names of ours are text.
        let Ok(tree) = std::str::from_utf8(&name) else { continue };
        if name.as_ref() == DEFAULT_TREE || tree == META_TREE {
            continue;
        }
        let opened = db.open_tree(&name).map_err(Error::Read)?;
        let from = match extent {
            Extent::Brief if tree == JOURNAL => {
                let oldest = opened.iter().keys().rev().take(BRIEF_EVENTS).last();
                oldest.transpose().map_err(Error::Read)?.unwrap_or_default()
            }
            _ => sled::IVec::default(),
        };
        for item in opened.range(from..) {
            let (key, value) = item.map_err(Error::Read)?;
            let text = std::str::from_utf8(&value).ok().map(str::to_owned);
            let bytes = text.is_none().then(|| hex(&value));
            let record = Line { tree: tree.into(), key: hex(&key), value: text, bytes };
            line(json(&record), &mut hash)?;
            records += 1;
        }
    }
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
        let value = match (parsed.value, parsed.bytes) {
            (Some(text), None) => Some(text.into_bytes()),
            (None, Some(bytes)) => unhex(&bytes),
            _ => None,
        };
        let value = value.ok_or_else(|| bad(number, "not a value"))?;
        hash.update(&line);
        hash.update(b"\n");
        records.push(Raw { tree: parsed.tree, key, value });
    }
    Err(bad(records.len() + 2, "it ends too early"))
}
