//! The form of the records, and the way from each older form to ours.
//!
//! A step is one transaction with the new mark in it, so a store is always of one schema. Before the
//! first step all there is is written to a backup beside the store.

use std::{convert::Infallible, fs::File, io::BufWriter, path::Path};

use serde_json::Value;
use sled::Transactional as _;

use super::{Error, backup};

/// Raised when the form of the records changes; a newer one is refused.
pub const SCHEMA: u32 = 2;

const SCHEMA_KEY: &[u8] = b"schema";
pub(super) const META_TREE: &str = "meta";

/// One record that a step changes.
struct Changed {
    tree: &'static str,
    key: sled::IVec,
    value: Value,
}

type Step = fn(&sled::Db) -> Result<Vec<Changed>, Error>;

/// The step at index n leads from schema n + 1 to n + 2.
const STEPS: [Step; SCHEMA as usize - 1] = [mark_interrupted];

/// The schema of a store; none for one that is new.
pub(super) fn of(db: &sled::Db) -> Result<Option<u32>, Error> {
    let meta = db.open_tree(META_TREE).map_err(Error::Read)?;
    let Some(found) = meta.get(SCHEMA_KEY).map_err(Error::Read)? else { return Ok(None) };
    found.as_ref().try_into().map(u32::from_be_bytes).map(Some).map_err(|_| Error::NoSchema)
}

pub(super) fn mark_as(db: &sled::Db, schema: u32) -> Result<(), Error> {
    let meta = db.open_tree(META_TREE).map_err(Error::Read)?;
    meta.insert(SCHEMA_KEY, &schema.to_be_bytes()).map_err(Error::Read)?;
    db.flush().map_err(Error::Read)?;
    Ok(())
}

/// Brings a store to our schema. `folder` is the store's.
pub(super) fn migrate(db: &sled::Db, folder: &Path) -> Result<(), Error> {
    let Some(found) = of(db)? else { return mark_as(db, SCHEMA) };
    if found > SCHEMA {
        return Err(Error::NewerSchema { found, known: SCHEMA });
    }
    if found == 0 {
        return Err(Error::NoSchema);
    }
    if found < SCHEMA {
        keep_old(db, folder, found)?;
    }
    for from in found..SCHEMA {
        let changed = STEPS[from as usize - 1](db)?;
        apply(db, &changed, from + 1)?;
        tracing::info!(from, to = from + 1, records = changed.len(), "metadata migrated");
    }
    Ok(())
}

/// Writes what there is into `<folder>.schema-<n>.backup`, over one of an attempt before.
fn keep_old(db: &sled::Db, folder: &Path, schema: u32) -> Result<(), Error> {
    let path = folder.with_extension(format!("schema-{schema}.backup"));
    let file = File::create(&path).map_err(|e| Error::folder(&path, e))?;
    let mut out = BufWriter::new(file);
    backup::write(db, schema, backup::Extent::All, &mut out)?;
    let file = out.into_inner().map_err(|e| Error::folder(&path, e.into_error()))?;
    file.sync_all().map_err(|e| Error::folder(&path, e))
}

fn apply(db: &sled::Db, changed: &[Changed], schema: u32) -> Result<(), Error> {
    let mut trees = vec![db.open_tree(META_TREE).map_err(Error::Read)?];
    let mut names = vec![META_TREE];
    let mut writes = vec![(0, SCHEMA_KEY.to_vec(), schema.to_be_bytes().to_vec())];
    for Changed { tree, key, value } in changed {
        let index = match names.iter().position(|name| name == tree) {
            Some(index) => index,
            None => {
                names.push(tree);
                trees.push(db.open_tree(tree).map_err(Error::Read)?);
                names.len() - 1
            }
        };
        writes.push((index, key.to_vec(), value.to_string().into_bytes()));
    }
    let result: sled::transaction::TransactionResult<(), Infallible> =
        trees.as_slice().transaction(|views| {
            for (index, key, value) in &writes {
                views[*index].insert(key.as_slice(), value.as_slice())?;
            }
            Ok(())
        });
    match result {
        Ok(()) => db.flush().map(drop).map_err(Error::Read),
        Err(sled::transaction::TransactionError::Storage(e)) => Err(Error::Read(e)),
        Err(sled::transaction::TransactionError::Abort(never)) => match never {},
    }
}

/// 1 to 2: a start that was undone because the supervisor ended says so by a mark, not by its text.
fn mark_interrupted(db: &sled::Db) -> Result<Vec<Changed>, Error> {
    const TEXT: &str = "the supervisor ended while it was being started";
    let tree = db.open_tree("containers").map_err(Error::Read)?;
    let mut changed = Vec::new();
    for item in &tree {
        let (key, value) = item.map_err(Error::Read)?;
        // One that can't be read is left as it is: whoever reads it next sets it aside.
        let Ok(mut value) = serde_json::from_slice::<Value>(&value) else { continue };
        let Some(end) = value.pointer_mut("/state/end") else { continue };
        if end["message"] == TEXT {
            end["interrupted"] = Value::Bool(true);
            changed.push(Changed { tree: "containers", key, value });
        }
    }
    Ok(changed)
}
