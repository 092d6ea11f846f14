//! Snapshots on overlay: `l/<number>/fs` a layer, `c/<container>/{fs,work}` a container, `trash/`.

use std::{
    collections::HashSet,
    fs::{self, DirBuilder, File},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    Access, Error, LayerRecord, Mount, NewLayer, RootView, Snapshotter, Usage, Visit, changes,
    implicit, trash::Trash, usage, view,
};
use crate::{drivers::content::Digest, ids::ContainerId, store::Store};

/// The driver; clones share it.
#[derive(Clone, Debug)]
pub struct Overlay {
    root: Arc<Path>,
    store: Store,
    trash: Trash,
    next_layer: Arc<AtomicU64>,
}

impl Overlay {
    /// Opens the snapshots in the folder `snapshots/overlay` of the data folder, which is made when
    /// missing.
    ///
    /// # Errors
    /// When its folders can't be made or read.
    pub fn open(data: &Path, store: Store) -> Result<Self, Error> {
        let root = data.join("snapshots/overlay");
        for dir in ["l", "c", "trash"] {
            make_private(&root.join(dir))?;
        }
        let highest = numbers(&root.join("l"))?.into_iter().max().unwrap_or(0);
        Ok(Self {
            trash: Trash::open(&root.join("trash"))?,
            root: root.into(),
            store,
            next_layer: Arc::new(AtomicU64::new(highest + 1)),
        })
    }

    pub(super) fn layer_folder(&self, number: u64) -> PathBuf {
        self.root.join("l").join(number.to_string())
    }

    pub(super) fn container_folder(&self, id: &ContainerId) -> PathBuf {
        self.root.join("c").join(id.as_str())
    }

    pub(super) fn trash(&self) -> &Trash {
        &self.trash
    }

    /// Where a container's folder is made, empty, before it gets its name: what is under that is
    /// whole.
    pub(super) fn container_aside(&self, id: &ContainerId) -> Result<PathBuf, Error> {
        let aside = self.root.join("c").join(format!("{id}.new"));
        self.trash.take(&aside)?;
        make_private(&aside)?;
        Ok(aside)
    }

    /// Whether this kernel and the file system of `data` can do overlay: tried with folders like a
    /// container's, mounted nowhere.
    ///
    /// # Errors
    /// Why not.
    pub fn probe(data: &Path) -> io::Result<()> {
        let folder = data.join("snapshots/probe");
        let dir = |name: &str| folder.join(name);
        for name in ["lower", "upper", "work"] {
            fs::create_dir_all(dir(name))?;
        }
        let tried = super::view::try_overlay(&dir("lower"), &dir("upper"), &dir("work"));
        fs::remove_dir_all(&folder)?;
        tried
    }

    /// Folders of a stack, the topmost first.
    pub(super) fn stack(&self, chain_id: Option<&Digest>) -> Result<Vec<PathBuf>, Error> {
        let mut folders = Vec::new();
        let mut next = chain_id.cloned();
        while let Some(id) = next {
            let record = self
                .store
                .get::<LayerRecord>(id.to_string().as_bytes())?
                .ok_or(Error::NoLayer(id))?;
            folders.push(self.layer_files(record.number));
            next = record.parent;
        }
        Ok(folders)
    }

    /// The root folder of a container looks as the image's does.
    pub(super) fn dress_root(&self, files: &Path, lower: &[PathBuf]) -> Result<(), Error> {
        let fail = |e: io::Error| Error::io("set the mode of", files, e);
        let to = OwnedFd::from(File::open(files).map_err(fail)?);
        match lower.first() {
            Some(top) => {
                let from = OwnedFd::from(File::open(top).map_err(|e| Error::io("open", top, e))?);
                implicit::copy(&from, &to).map_err(fail)
            }
            None => rustix::fs::fchmod(&to, rustix::fs::Mode::from_raw_mode(0o755))
                .map_err(|e| fail(e.into())),
        }
    }
}

impl Snapshotter for Overlay {
    fn name(&self) -> &'static str {
        "overlay"
    }

    fn begin_layer(&self) -> Result<NewLayer, Error> {
        let number = self.next_layer.fetch_add(1, Ordering::Relaxed);
        let folder = self.layer_folder(number);
        let layer = NewLayer {
            number,
            files: folder.join("fs"),
            folder,
            trash: self.trash.clone(),
            kept: false,
        };
        make_private(&layer.trash())?;
        // The mode is set apart: the one given to mkdir is less the umask.
        fs::create_dir(&layer.files)
            .and_then(|()| fs::set_permissions(&layer.files, fs::Permissions::from_mode(0o755)))
            .map_err(|e| Error::io("make", &layer.files, e))?;
        Ok(layer)
    }

    fn layer(&self, chain_id: &Digest) -> Result<Option<LayerRecord>, Error> {
        Ok(self.store.get(chain_id.to_string().as_bytes())?)
    }

    fn adopt_implicit(
        &self,
        files: &Path,
        implicit: &[Vec<u8>],
        below: &[PathBuf],
    ) -> Result<(), Error> {
        implicit::adopt(files, implicit, below)
    }

    fn layer_files(&self, number: u64) -> PathBuf {
        self.layer_folder(number).join("fs")
    }

    fn remove_layer(&self, number: u64) {
        self.trash.throw(&self.layer_folder(number));
    }

    fn prepare(&self, id: &ContainerId, chain_id: Option<&Digest>) -> Result<Vec<Mount>, Error> {
        let lower = self.stack(chain_id)?;
        let folder = self.container_folder(id);
        if !folder.exists() {
            let aside = self.container_aside(id)?;
            make_private(&aside.join("work"))?;
            let files = aside.join("fs");
            fs::create_dir(&files).map_err(|e| Error::io("make", &files, e))?;
            self.dress_root(&files, &lower)?;
            fs::rename(&aside, &folder).map_err(|e| Error::io("name", &folder, e))?;
            // Not flushed, which would cost a start more than all else here: journalling file systems
            // keep the order of the steps above, and a folder that a power cut took is made anew.
        }
        Ok(container_mounts(&folder, &lower))
    }

    fn mounts(&self, id: &ContainerId, chain_id: Option<&Digest>) -> Result<Vec<Mount>, Error> {
        let folder = self.container_folder(id);
        if !folder.exists() {
            return Err(Error::NoContainer(id.clone()));
        }
        Ok(container_mounts(&folder, &self.stack(chain_id)?))
    }

    fn remove(&self, id: &ContainerId) -> Result<(), Error> {
        self.trash.take(&self.container_folder(id))
    }

    fn usage(&self, id: &ContainerId) -> Result<Usage, Error> {
        let folder = self.container_folder(id);
        if !folder.exists() {
            return Err(Error::NoContainer(id.clone()));
        }
        usage::measure(&folder.join("fs"))
    }

    fn view(&self, chain_id: Option<&Digest>) -> Result<RootView, Error> {
        RootView::open(&self.stack(chain_id)?)
    }

    fn view_container(
        &self,
        id: &ContainerId,
        chain_id: Option<&Digest>,
    ) -> Result<RootView, Error> {
        let folder = self.container_folder(id);
        if !folder.exists() {
            return Err(Error::NoContainer(id.clone()));
        }
        let mut layers = vec![folder.join("fs")];
        layers.extend(self.stack(chain_id)?);
        RootView::open(&layers)
    }

    fn tree(
        &self,
        id: &ContainerId,
        chain_id: Option<&Digest>,
        access: Access,
    ) -> Result<OwnedFd, Error> {
        let folder = self.container_folder(id);
        if !folder.exists() {
            return Err(Error::NoContainer(id.clone()));
        }
        let (upper, lower) = (folder.join("fs"), self.stack(chain_id)?);
        let mounted = match (access, lower.is_empty()) {
            (_, true) => view::bind(&upper, access),
            (Access::Read, false) => {
                let layers: Vec<PathBuf> = [vec![upper.clone()], lower].concat();
                view::detached_overlay(&layers)
            }
            (Access::Write, false) => view::writable(&lower, &upper, &folder.join("work")),
        };
        mounted.map_err(|e| Error::io("mount the container's layer", &upper, e))
    }

    fn changes(
        &self,
        id: &ContainerId,
        chain_id: Option<&Digest>,
        own: &HashSet<Vec<u8>>,
        visit: &mut Visit<'_>,
    ) -> Result<(), Error> {
        let files = self.container_folder(id).join("fs");
        let top = match File::open(&files) {
            Ok(top) => OwnedFd::from(top),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NoContainer(id.clone()));
            }
            Err(e) => return Err(Error::io("open", &files, e)),
        };
        let base = self.view(chain_id)?;
        changes::walk(changes::Source::Upper, &top, base.folder(), own, visit)
            .map_err(|e| Error::io("read the changes in", &files, e))
    }

    fn flush(&self) -> Result<(), Error> {
        let flushed = File::open(&*self.root).and_then(|dir| Ok(rustix::fs::syncfs(&dir)?));
        flushed.map_err(|e| Error::io("flush", &self.root, e))
    }

    fn sweep(&self, containers: &HashSet<ContainerId>, mounted: &[String]) -> Result<(), Error> {
        let mut recorded = HashSet::new();
        for layer in self.store.all::<LayerRecord>()? {
            recorded.insert(layer?.1.number);
        }
        for number in numbers(&self.root.join("l"))? {
            let folder = self.layer_folder(number);
            let inside = format!("{}/", folder.display());
            let in_use = mounted.iter().any(|options| options.contains(&inside));
            if !recorded.contains(&number) && !in_use {
                self.trash.take(&folder)?;
            }
        }
        for name in names(&self.root.join("c"))? {
            let whole = name.strip_suffix(".new");
            let Ok(id) = whole.unwrap_or(&name).parse::<ContainerId>() else {
                tracing::warn!(name, "not a container's files: left alone");
                continue;
            };
            if whole.is_some() || !containers.contains(&id) {
                self.trash.take(&self.root.join("c").join(name))?;
            }
        }
        Ok(())
    }
}

/// In containerd's form. Without a lower layer overlay has no work, and the folder itself is bound.
fn container_mounts(folder: &Path, lower: &[PathBuf]) -> Vec<Mount> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    if lower.is_empty() {
        return vec![Mount {
            kind: "bind".into(),
            source: text(&folder.join("fs")),
            options: vec!["rbind".into(), "rw".into()],
        }];
    }
    let lower: Vec<_> = lower.iter().map(|l| text(l)).collect();
    vec![Mount {
        kind: "overlay".into(),
        source: "overlay".into(),
        options: vec![
            format!("lowerdir={}", lower.join(":")),
            format!("upperdir={}", text(&folder.join("fs"))),
            format!("workdir={}", text(&folder.join("work"))),
        ],
    }]
}

fn make_private(dir: &Path) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| Error::io("make", dir, e))
}

fn names(dir: &Path) -> Result<Vec<String>, Error> {
    let entries = fs::read_dir(dir).map_err(|e| Error::io("list", dir, e))?;
    entries
        .map(|entry| {
            let entry = entry.map_err(|e| Error::io("list", dir, e))?;
            Ok(entry.file_name().to_string_lossy().into_owned())
        })
        .collect()
}

fn numbers(dir: &Path) -> Result<Vec<u64>, Error> {
    Ok(names(dir)?.iter().filter_map(|name| name.parse().ok()).collect())
}
