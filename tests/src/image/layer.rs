//! One layer: files in order, written as a tar with fixed times.

use anyhow::{Context as _, Result};
use tar::{Builder, EntryType, Header};

/// Files of one layer, in the order they were added.
#[derive(Clone, Debug, Default)]
pub struct Layer {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    path: String,
    mode: u32,
    uid: u64,
    gid: u64,
    node: Node,
}

#[derive(Clone, Debug)]
enum Node {
    Folder,
    File(Vec<u8>),
    Symlink(String),
    Hardlink(String),
}

/// 2024-05-06: files from the future make some tools warn.
const MTIME: u64 = 1_714_979_289;

impl Layer {
    /// A folder.
    #[must_use]
    pub fn folder(self, path: &str, mode: u32) -> Self {
        self.entry(path, mode, Node::Folder)
    }

    /// A regular file.
    #[must_use]
    pub fn file(self, path: &str, mode: u32, bytes: impl Into<Vec<u8>>) -> Self {
        self.entry(path, mode, Node::File(bytes.into()))
    }

    /// A symbolic link.
    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(path, 0o777, Node::Symlink(target.into()))
    }

    /// A second name of a file of this layer.
    #[must_use]
    pub fn hardlink(self, path: &str, target: &str) -> Self {
        self.entry(path, 0o755, Node::Hardlink(target.into()))
    }

    /// Takes away what a lower layer has at this path.
    #[must_use]
    pub fn whiteout(self, path: &str) -> Self {
        let path = match path.rsplit_once('/') {
            Some((folder, name)) => format!("{folder}/.wh.{name}"),
            None => format!(".wh.{path}"),
        };
        self.file(&path, 0o644, [])
    }

    /// Takes away all that lower layers have in this folder.
    #[must_use]
    pub fn opaque(self, folder: &str) -> Self {
        let path = format!("{folder}/.wh..wh..opq");
        self.file(&path, 0o644, [])
    }

    /// Gives the entry that was added last to someone.
    #[must_use]
    pub fn owned_by(mut self, uid: u64, gid: u64) -> Self {
        if let Some(entry) = self.entries.last_mut() {
            (entry.uid, entry.gid) = (uid, gid);
        }
        self
    }

    fn entry(mut self, path: &str, mode: u32, node: Node) -> Self {
        self.entries.push(Entry { path: path.to_owned(), mode, uid: 0, gid: 0, node });
        self
    }

    /// The layer's tar. Paths are written as they are, hostile ones too.
    pub(super) fn tar(&self) -> Result<Vec<u8>> {
        let mut tar = Builder::new(Vec::new());
        for entry in &self.entries {
            entry.write(&mut tar).with_context(|| format!("add {} to a layer", entry.path))?;
        }
        tar.into_inner().context("finish a layer")
    }
}

impl Entry {
    fn write(&self, tar: &mut Builder<Vec<u8>>) -> Result<()> {
        let (kind, bytes, link): (_, &[u8], _) = match &self.node {
            Node::Folder => (EntryType::Directory, &[], None),
            Node::File(bytes) => (EntryType::Regular, bytes, None),
            Node::Symlink(target) => (EntryType::Symlink, &[], Some(target)),
            Node::Hardlink(target) => (EntryType::Link, &[], Some(target)),
        };
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(self.mode);
        header.set_uid(self.uid);
        header.set_gid(self.gid);
        header.set_mtime(MTIME);
        header.set_size(u64::try_from(bytes.len())?);
        if let Some(link) = link {
            header.set_link_name_literal(link)?;
        }
        // Not `set_path`: that refuses what a hostile layer would hold.
        let name = self.path.as_bytes();
        let field = header.as_old_mut().name.get_mut(..name.len()).context("path is too long")?;
        field.copy_from_slice(name);
        header.set_cksum();
        tar.append(&header, bytes)?;
        Ok(())
    }
}
