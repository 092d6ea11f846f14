//! What could not be understood, moved out of the way: nothing of it is ever deleted here.
//!
//! ```text
//! <root>/set-aside/<name>-<time>       the thing itself: a folder, a file, the bytes of a record
//! <root>/set-aside/<name>-<time>.why   the reason, a line of text
//! <root>/set-aside/settled/            what somebody has taken note of since
//! ```
//! All of it blocks.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// Folder in the data folder.
const FOLDER: &str = "set-aside";
const SETTLED: &str = "settled";
/// End of the names of reasons.
const WHY: &str = "why";
/// Characters of a name.
const MAX_NAME: usize = 120;

/// The folder for what is set aside, of a data or state folder.
#[derive(Clone, Debug)]
pub struct Aside {
    folder: PathBuf,
}

/// One thing that was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Where it is now.
    pub path: PathBuf,
    /// Why.
    pub why: String,
}

impl Item {
    /// Its name in the folder.
    #[must_use]
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

impl Aside {
    /// Of this data or state folder; it is made when it is first needed.
    #[must_use]
    pub fn of(base: &Path) -> Self {
        Self { folder: base.join(FOLDER) }
    }

    /// Moves a file or folder here, under a name that begins with `name`.
    ///
    /// # Errors
    /// When it can't be moved: among others because it is on another file system.
    pub fn move_here(&self, path: &Path, name: &str, why: &str) -> io::Result<Item> {
        let item = self.begin(name, why)?;
        match fs::rename(path, &item.path) {
            Ok(()) => self.keep(item),
            Err(error) => {
                let _ = fs::remove_file(reason_of(&item.path));
                Err(error)
            }
        }
    }

    /// Writes bytes here, under a name that begins with `name`; on the disk when this answers.
    ///
    /// # Errors
    /// When they can't be written.
    pub fn write(&self, bytes: &[u8], name: &str, why: &str) -> io::Result<Item> {
        let item = self.begin(name, why)?;
        let mut file = File::create_new(&item.path)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        self.keep(item)
    }

    /// All that was set aside and not settled.
    #[must_use]
    pub fn list(&self) -> Vec<Item> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut items: Vec<Item> = entries
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_none_or(|end| end != WHY))
            .filter(|path| path.file_name().is_none_or(|name| name != SETTLED))
            .map(|path| {
                let why = fs::read_to_string(reason_of(&path)).unwrap_or_default();
                Item { path, why: why.trim().to_owned() }
            })
            .collect();
        items.sort_by(|a, b| a.path.cmp(&b.path));
        items
    }

    /// Somebody has taken note of it: it is kept, and not told of any more.
    ///
    /// # Errors
    /// When it can't be moved.
    pub fn settle(&self, item: &Item) -> io::Result<()> {
        let folder = self.folder.join(SETTLED);
        make_private(&folder)?;
        let name = item.path.file_name().unwrap_or_default();
        let target = free(&folder.join(name));
        match fs::rename(reason_of(&item.path), reason_of(&target)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::rename(&item.path, target)
    }

    /// How many things were settled.
    #[must_use]
    pub fn settled(&self) -> usize {
        let entries = fs::read_dir(self.folder.join(SETTLED)).into_iter().flatten().flatten();
        entries.filter(|entry| entry.path().extension().is_none_or(|end| end != WHY)).count()
    }

    /// A place for it, with the reason written down first.
    fn begin(&self, name: &str, why: &str) -> io::Result<Item> {
        make_private(&self.folder)?;
        let name: String =
            name.chars().map(|c| if matches!(c, '/' | '\0') { '_' } else { c }).collect();
        let name: String = name.chars().take(MAX_NAME).collect();
        let path = free(&self.folder.join(format!("{name}-{}", now())));
        let mut reason = File::create_new(reason_of(&path))?;
        writeln!(reason, "{}", why.replace('\n', " "))?;
        Ok(Item { path, why: why.into() })
    }

    fn keep(&self, item: Item) -> io::Result<Item> {
        File::open(&self.folder)?.sync_all()?;
        Ok(item)
    }
}

fn reason_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(WHY);
    name.into()
}

/// The path, or one like it that is not taken.
fn free(path: &Path) -> PathBuf {
    let mut free = path.to_owned();
    let mut number = 1;
    while free.symlink_metadata().is_ok() || reason_of(&free).symlink_metadata().is_ok() {
        number += 1;
        let mut name = path.as_os_str().to_owned();
        name.push(format!("-{number}"));
        free = name.into();
    }
    free
}

/// "20260131T235959Z"
fn now() -> String {
    let mut now = prost_types::Timestamp::from(SystemTime::now());
    now.nanos = 0;
    now.to_string().replace(['-', ':'], "")
}

fn make_private(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::Aside;

    #[test]
    fn what_is_set_aside_is_listed_with_its_reason_until_it_is_settled() {
        let dir = tempfile::tempdir().expect("tempdir");
        let aside = Aside::of(dir.path());
        assert!(aside.list().is_empty());
        let thing = dir.path().join("thing");
        fs::create_dir(&thing).expect("make");
        fs::write(thing.join("in"), "it").expect("write");
        let moved = aside.move_here(&thing, "thing", "because\nof that").expect("move");
        assert!(!thing.exists());
        assert_eq!(fs::read_to_string(moved.path.join("in")).expect("read"), "it");
        let written = aside.write(b"\xff\x00", "a/b", "bytes").expect("write");
        let again = aside.write(b"other", "a/b", "bytes").expect("write");
        assert_ne!(written.path, again.path);
        assert_eq!(fs::read(&written.path).expect("read"), b"\xff\x00");
        let listed = aside.list();
        assert_eq!(listed.len(), 3);
        assert!(listed.iter().any(|item| item.why == "because of that"), "{listed:?}");
        aside.move_here(&dir.path().join("nothing"), "x", "y").expect_err("not there");
        for item in listed {
            aside.settle(&item).expect("settle");
        }
        assert!(aside.list().is_empty());
        assert_eq!(aside.settled(), 3);
    }
}
