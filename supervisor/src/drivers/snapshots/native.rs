//! Snapshots by copying, for where overlay can't be had.
//!
//! Layers are kept as the overlay driver keeps them, so that images survive a change of driver. Beside
//! the top layer of a stack is the stack's whole tree, `l/<number>/merged`, made when it is first
//! needed; a container gets a copy of that, which shares its blocks where the file system can.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    Access, Error, LayerRecord, Mount, NewLayer, Overlay, RootView, Snapshotter, Usage, Visit,
    changes,
    copy::{self, copy_tree},
    view,
};
use crate::{drivers::content::Digest, ids::ContainerId, store::Store};

/// The driver; clones share it.
#[derive(Clone, Debug)]
pub struct Native {
    layers: Overlay,
    /// One at a time makes a stack's tree.
    merging: Arc<Mutex<()>>,
}

impl Native {
    /// As [`Overlay::open`], in the same folder.
    ///
    /// # Errors
    /// When its folders can't be made or read.
    pub fn open(data: &Path, store: Store) -> Result<Self, Error> {
        Ok(Self { layers: Overlay::open(data, store)?, merging: Arc::default() })
    }

    /// The whole tree of a stack; none of a stack of nothing.
    fn merged(&self, chain_id: Option<&Digest>) -> Result<Option<PathBuf>, Error> {
        let Some(chain_id) = chain_id else { return Ok(None) };
        let top = self.layer(chain_id)?.ok_or_else(|| Error::NoLayer(chain_id.clone()))?;
        let stack = self.layers.stack(Some(chain_id))?;
        if let [only] = stack.as_slice() {
            return Ok(Some(only.clone()));
        }
        let folder = self.layers.layer_folder(top.number);
        let whole = folder.join("merged");
        let _alone = self.merging.lock().unwrap_or_else(PoisonError::into_inner);
        if whole.exists() {
            return Ok(Some(whole));
        }
        let aside = folder.join("merged.new");
        self.layers.trash().take(&aside)?;
        let fail = |e: io::Error| Error::io("merge the layers into", &aside, e);
        fs::create_dir(&aside).map_err(fail)?;
        let to = OwnedFd::from(File::open(&aside).map_err(fail)?);
        let replaced = folder.join("replaced");
        self.layers.trash().take(&replaced)?;
        fs::create_dir(&replaced).map_err(fail)?;
        for layer in stack.iter().rev() {
            let from = OwnedFd::from(File::open(layer).map_err(|e| Error::io("open", layer, e))?);
            let replaced = OwnedFd::from(File::open(&replaced).map_err(fail)?);
            copy::merge(&from, &to, &replaced).map_err(fail)?;
        }
        self.layers.trash().take(&replaced)?;
        fs::rename(&aside, &whole).map_err(|e| Error::io("name", &whole, e))?;
        Ok(Some(whole))
    }

    fn files(&self, id: &ContainerId) -> Result<PathBuf, Error> {
        let folder = self.layers.container_folder(id);
        if folder.exists() { Ok(folder.join("fs")) } else { Err(Error::NoContainer(id.clone())) }
    }
}

fn bound(files: &Path) -> Vec<Mount> {
    vec![Mount {
        kind: "bind".into(),
        source: files.to_string_lossy().into_owned(),
        options: vec!["rbind".into(), "rw".into()],
    }]
}

impl Snapshotter for Native {
    fn name(&self) -> &'static str {
        "native"
    }

    fn begin_layer(&self) -> Result<NewLayer, Error> {
        self.layers.begin_layer()
    }

    fn layer(&self, chain_id: &Digest) -> Result<Option<LayerRecord>, Error> {
        self.layers.layer(chain_id)
    }

    fn adopt_implicit(
        &self,
        files: &Path,
        implicit: &[Vec<u8>],
        below: &[PathBuf],
    ) -> Result<(), Error> {
        self.layers.adopt_implicit(files, implicit, below)
    }

    fn layer_files(&self, number: u64) -> PathBuf {
        self.layers.layer_files(number)
    }

    fn remove_layer(&self, number: u64) {
        self.layers.remove_layer(number);
    }

    fn prepare(&self, id: &ContainerId, chain_id: Option<&Digest>) -> Result<Vec<Mount>, Error> {
        let folder = self.layers.container_folder(id);
        if !folder.exists() {
            let base = self.merged(chain_id)?;
            let aside = self.layers.container_aside(id)?;
            let files = aside.join("fs");
            fs::create_dir(&files).map_err(|e| Error::io("make", &files, e))?;
            let lower: Vec<PathBuf> = base.iter().cloned().collect();
            self.layers.dress_root(&files, &lower)?;
            if let Some(base) = &base {
                let open = |path: &Path| {
                    File::open(path).map(OwnedFd::from).map_err(|e| Error::io("open", path, e))
                };
                copy_tree(&open(base)?, &open(&files)?)
                    .map_err(|e| Error::io("copy the image to", &files, e))?;
            }
            fs::rename(&aside, &folder).map_err(|e| Error::io("name", &folder, e))?;
        }
        Ok(bound(&folder.join("fs")))
    }

    fn mounts(&self, id: &ContainerId, _: Option<&Digest>) -> Result<Vec<Mount>, Error> {
        Ok(bound(&self.files(id)?))
    }

    fn remove(&self, id: &ContainerId) -> Result<(), Error> {
        self.layers.remove(id)
    }

    fn usage(&self, id: &ContainerId) -> Result<Usage, Error> {
        self.layers.usage(id)
    }

    fn view(&self, chain_id: Option<&Digest>) -> Result<RootView, Error> {
        let whole = self.merged(chain_id)?;
        RootView::open(&whole.into_iter().collect::<Vec<_>>())
    }

    fn view_container(&self, id: &ContainerId, _: Option<&Digest>) -> Result<RootView, Error> {
        RootView::open(&[self.files(id)?])
    }

    fn tree(&self, id: &ContainerId, _: Option<&Digest>, access: Access) -> Result<OwnedFd, Error> {
        let files = self.files(id)?;
        view::bind(&files, access).map_err(|e| Error::io("mount the container's copy", &files, e))
    }

    fn changes(
        &self,
        id: &ContainerId,
        chain_id: Option<&Digest>,
        own: &HashSet<Vec<u8>>,
        visit: &mut Visit<'_>,
    ) -> Result<(), Error> {
        let files = self.files(id)?;
        let top = File::open(&files).map_err(|e| Error::io("open", &files, e))?;
        let base = self.view(chain_id)?;
        changes::walk(changes::Source::Whole, &top.into(), base.folder(), own, visit)
            .map_err(|e| Error::io("read the changes in", &files, e))
    }

    fn flush(&self) -> Result<(), Error> {
        self.layers.flush()
    }

    fn sweep(&self, containers: &HashSet<ContainerId>, mounted: &[String]) -> Result<(), Error> {
        self.layers.sweep(containers, mounted)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::{Native, Snapshotter as _};
    use crate::{
        drivers::{
            content::Digest,
            snapshots::{LayerRecord, chain_ids},
        },
        store::{Durability, Ops, Store},
    };

    #[test]
    fn layers_are_merged_as_overlay_would() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::open(&dir.path().join("meta")).expect("store");
        let native = Native::open(dir.path(), store.clone()).expect("native");
        let diff_ids = [Digest::of(b"1"), Digest::of(b"2")];
        let chain = chain_ids(&diff_ids);
        let mut records = Vec::new();
        for (index, chain_id) in chain.iter().enumerate() {
            let layer = native.begin_layer().expect("layer");
            let at = |name: &str| layer.files().join(name);
            if index == 0 {
                fs::create_dir_all(at("kept/deep")).expect("mkdir");
                fs::create_dir_all(at("opaque")).expect("mkdir");
                fs::create_dir_all(at("to-file/x")).expect("mkdir");
                for name in ["gone", "kept/a", "kept/deep/b", "opaque/old", "to-dir"] {
                    fs::write(at(name), "1").expect("write");
                }
            } else {
                fs::create_dir_all(at("kept")).expect("mkdir");
                fs::create_dir_all(at("opaque")).expect("mkdir");
                fs::create_dir_all(at("to-dir")).expect("mkdir");
                fs::write(at("kept/a"), "2").expect("write");
                fs::hard_link(at("kept/a"), at("kept/c")).expect("link");
                fs::write(at("opaque/new"), "2").expect("write");
                symlink("kept/a", at("to-file")).expect("symlink");
                rustix::fs::mknodat(
                    rustix::fs::CWD,
                    at("gone"),
                    rustix::fs::FileType::CharacterDevice,
                    0o600.into(),
                    0,
                )
                .expect("whiteout");
                rustix::fs::lsetxattr(
                    at("opaque"),
                    "trusted.overlay.opaque",
                    b"y",
                    rustix::fs::XattrFlags::empty(),
                )
                .expect("opaque");
            }
            let record = LayerRecord {
                chain_id: chain_id.clone(),
                number: layer.number(),
                parent: index.checked_sub(1).map(|below| chain[below].clone()),
                diff_id: diff_ids[index].clone(),
                size_bytes: 1,
            };
            layer.keep();
            records.push(record);
        }
        let mut ops = Ops::new();
        for record in &records {
            ops.put(record.chain_id.to_string().as_bytes(), record).expect("record");
        }
        store.commit_blocking(ops, Durability::Process).expect("commit");

        let id = format!("{:064x}", 1).parse().expect("id");
        let mounts = native.prepare(&id, chain.last()).expect("prepare");
        let root = std::path::PathBuf::from(&mounts[0].source);
        let read = |name: &str| fs::read_to_string(root.join(name)).ok();
        assert_eq!(read("kept/a").as_deref(), Some("2"));
        assert_eq!(read("kept/c").as_deref(), Some("2"));
        assert_eq!(read("kept/deep/b").as_deref(), Some("1"));
        assert_eq!(read("opaque/new").as_deref(), Some("2"));
        assert_eq!(read("to-file").as_deref(), Some("2"));
        assert!(root.join("to-dir").is_dir());
        assert!(!root.join("gone").exists() && !root.join("opaque/old").exists());

        fs::write(root.join("kept/deep/b"), "changed").expect("write");
        fs::remove_file(root.join("opaque/new")).expect("remove");
        fs::create_dir(root.join("added")).expect("mkdir");
        let mut told = Vec::new();
        native
            .changes(&id, chain.last(), &Default::default(), &mut |change| {
                told.push((String::from_utf8_lossy(change.path).into_owned(), change.kind));
                Ok(())
            })
            .expect("changes");
        use crate::drivers::snapshots::ChangeKind::{Added, Deleted, Modified};
        let expected = [
            ("", Modified),
            ("added", Added),
            ("kept", Modified),
            ("kept/deep", Modified),
            ("kept/deep/b", Modified),
            ("opaque", Modified),
            ("opaque/new", Deleted),
        ];
        assert_eq!(told, expected.map(|(path, kind)| (path.to_owned(), kind)));
    }
}
