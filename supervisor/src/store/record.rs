//! Records and the changes that a commit makes to them.

use serde::{Serialize, de::DeserializeOwned};

use super::{Error, Need};

/// sled keeps larger values in files of their own, whose durability was not measured.
const MAX_VALUE_BYTES: usize = 128 << 10;

/// A kind of record: a tree of its own, values in JSON so that a field may be added later.
pub trait Record: Serialize + DeserializeOwned + 'static {
    /// Name of the tree.
    const TREE: &'static str;
}

/// What a commit survives once it has been answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// The end of this process. For what ends with the host anyway (shims, mounts, cgroups).
    Process,
    /// The end of power. For whatever a caller is told.
    Power,
}

/// Changes that become true together.
#[derive(Debug, Default)]
pub struct Ops {
    pub(super) ops: Vec<Op>,
    pub(super) need: Need,
}

#[derive(Debug)]
pub(super) enum Op {
    Put {
        tree: &'static str,
        key: Vec<u8>,
        value: Vec<u8>,
    },
    Delete {
        tree: &'static str,
        key: Vec<u8>,
    },
    /// The key is the next number of the tree.
    Append {
        tree: &'static str,
        value: Vec<u8>,
    },
}

/// A record that got its number.
#[derive(Clone, Debug)]
pub struct Appended {
    /// Name of the tree.
    pub tree: &'static str,
    /// Its number, from 1.
    pub sequence: u64,
    /// The record in JSON.
    pub value: Vec<u8>,
}

impl Ops {
    /// No changes yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes a record, over the one with that key if there is one.
    ///
    /// # Errors
    /// When it is too large.
    pub fn put<R: Record>(&mut self, key: &[u8], record: &R) -> Result<(), Error> {
        let value = encode(key, record)?;
        self.ops.push(Op::Put { tree: R::TREE, key: key.to_vec(), value });
        Ok(())
    }

    /// Removes a record; one that is not there is no error.
    pub fn delete<R: Record>(&mut self, key: &[u8]) {
        self.ops.push(Op::Delete { tree: R::TREE, key: key.to_vec() });
    }

    /// Writes a record under the next number of its tree (big-endian, so that order is kept).
    ///
    /// # Errors
    /// When it is too large.
    pub fn append<R: Record>(&mut self, record: &R) -> Result<(), Error> {
        let value = encode(b"", record)?;
        self.ops.push(Op::Append { tree: R::TREE, value });
        Ok(())
    }

    /// Says what room the commit needs: a change of what is there, unless said.
    pub fn needs(&mut self, need: Need) {
        self.need = need;
    }

    /// Bytes of all values.
    pub(super) fn bytes(&self) -> u64 {
        let len = |op: &Op| match op {
            Op::Put { value, .. } | Op::Append { value, .. } => value.len() as u64,
            Op::Delete { .. } => 0,
        };
        self.ops.iter().map(len).sum()
    }

    pub(super) fn delete_raw(&mut self, tree: &'static str, key: &[u8]) {
        self.ops.push(Op::Delete { tree, key: key.to_vec() });
    }

    /// Adds all changes of `other`.
    pub fn extend(&mut self, other: Self) {
        self.ops.extend(other.ops);
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

fn encode<R: Record>(key: &[u8], record: &R) -> Result<Vec<u8>, Error> {
    let value = serde_json::to_vec(record).map_err(|e| damaged::<R>(key, e))?;
    if value.len() > MAX_VALUE_BYTES {
        return Err(Error::TooLarge {
            tree: R::TREE,
            key: String::from_utf8_lossy(key).into_owned(),
            len: value.len(),
            limit: MAX_VALUE_BYTES,
        });
    }
    Ok(value)
}

pub(super) fn decode<R: Record>(key: &[u8], value: &[u8]) -> Result<R, Error> {
    serde_json::from_slice(value).map_err(|e| damaged::<R>(key, e))
}

fn damaged<R: Record>(key: &[u8], source: serde_json::Error) -> Error {
    Error::Record { tree: R::TREE, key: String::from_utf8_lossy(key).into_owned(), source }
}
