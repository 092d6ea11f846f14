//! What the command keeps of each container: a folder with `state.json`, a copy of `config.json`,
//! and the socket at which a created container waits for `start`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::spec::Spec;
use serde::{Deserialize, Serialize};

use super::CommandError;
use crate::TaskState;

/// The socket's name in the folder.
pub(crate) const START_SOCKET: &str = "start.sock";
const STATE: &str = "state.json";
const CONFIG: &str = "config.json";
/// Of the record's form: another one is reported, not guessed at.
const VERSION: u32 = 1;

/// What is kept of a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    pub(crate) id: String,
    pub(crate) oci_version: String,
    pub(crate) bundle: PathBuf,
    pub(crate) rootfs: PathBuf,
    /// RFC 3339.
    pub(crate) created: String,
    pub(crate) owner: u32,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) task: TaskState,
}

impl Record {
    pub(crate) fn new(id: &str, bundle: &Path, spec: &Spec, task: TaskState) -> Self {
        let root = spec.root().as_ref().map_or(Path::new("rootfs"), |root| root.path());
        Self {
            version: VERSION,
            id: id.to_owned(),
            oci_version: spec.version().clone(),
            bundle: bundle.to_owned(),
            rootfs: bundle.join(root),
            created: super::log::now(),
            owner: crate::sys::cred::own_uid(),
            annotations: spec.annotations().clone().unwrap_or_default().into_iter().collect(),
            task,
        }
    }
}

/// Makes the record of a container that the library has made.
pub(crate) fn tell_command(
    task: &crate::Task,
    root: &Path,
    id: &str,
    bundle: &Path,
) -> Result<(), crate::Error> {
    let tell = || {
        let store = Store::new(Some(root.to_owned()));
        let (spec, bytes) = read_spec(&bundle.join("config.json"))?;
        let folder = store.claim(id)?;
        let kept = store.save(&folder, &Record::new(id, bundle, &spec, task.state()), &bytes);
        // The first failure is the one to report.
        kept.inspect_err(|_| drop(store.remove(id)))
    };
    tell().map_err(|error| {
        let what = format!("write the state of {id} below {}", root.display());
        crate::Failure::new(crate::ErrorKind::Internal, what, error.to_string()).into()
    })
}

fn default_root() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if crate::sys::cred::own_uid() != 0 => Path::new(&dir).join("wharf-runtime"),
        _ => PathBuf::from("/run/wharf-runtime"),
    }
}

/// All containers below one `--root`.
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
    /// It was said where.
    named: bool,
}

fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CommandError {
    let path = path.display().to_string();
    move |source| CommandError::File { action, path, source }
}

impl Store {
    /// Below `root`, or where this user's containers are.
    pub(crate) fn new(root: Option<PathBuf>) -> Self {
        Self { named: root.is_some(), root: root.unwrap_or_else(default_root) }
    }

    /// The root, if it was named.
    pub(crate) fn named_root(&self) -> Option<&Path> {
        self.named.then_some(self.root.as_path())
    }

    /// runc's own rule, so that every id it takes is taken and none leaves the folder.
    fn check_id(id: &str) -> Result<(), CommandError> {
        let good = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
        if id.is_empty() || id == "." || id == ".." || id.len() > 1024 || !id.chars().all(good) {
            return Err(CommandError::Usage(format!("invalid container id {id:?}")));
        }
        Ok(())
    }

    pub(crate) fn folder(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }

    /// Takes the id: the folder is made, or was there and it is taken.
    pub(crate) fn claim(&self, id: &str) -> Result<PathBuf, CommandError> {
        Self::check_id(id)?;
        let folder = self.folder(id);
        let make = || fs::DirBuilder::new().mode(0o700).create(&folder);
        let made = match make() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                fs::DirBuilder::new()
                    .mode(0o700)
                    .recursive(true)
                    .create(&self.root)
                    .map_err(file("make", &self.root))?;
                make()
            }
            made => made,
        };
        match made {
            Ok(()) => Ok(folder),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(CommandError::State {
                text: "container with given ID already exists".to_owned(),
            }),
            Err(e) => Err(file("make", &folder)(e)),
        }
    }

    /// The folder's descriptor, to name the socket in it.
    pub(crate) fn open_folder(folder: &Path) -> Result<OwnedFd, CommandError> {
        crate::sys::path::open_host(folder).map_err(file("open", folder))
    }

    pub(crate) fn save(
        &self,
        folder: &Path,
        record: &Record,
        config: &[u8],
    ) -> Result<(), CommandError> {
        let write = |name: &str, bytes: &[u8]| {
            let (new, path) = (folder.join(format!(".{name}")), folder.join(name));
            fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&new)
                .and_then(|mut file| io::Write::write_all(&mut file, bytes))
                .and_then(|()| fs::rename(&new, &path))
                .map_err(file("write", &path))
        };
        write(CONFIG, config)?;
        // Last: a folder with a state has everything. In /run nothing outlives a power cut, so
        // nothing is flushed.
        let state = serde_json::to_vec(record)
            .map_err(|e| CommandError::Content { path: STATE.to_owned(), text: e.to_string() })?;
        write(STATE, &state)
    }

    pub(crate) fn load(&self, id: &str) -> Result<Record, CommandError> {
        Self::check_id(id)?;
        let path = self.folder(id).join(STATE);
        let bytes = match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(CommandError::NoContainer { id: id.to_owned() });
            }
            bytes => bytes.map_err(file("read", &path))?,
        };
        let bad = |text: String| CommandError::Content { path: path.display().to_string(), text };
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        let head: Head = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
        if head.version != VERSION {
            return Err(bad(format!("is of version {}, not {VERSION}", head.version)));
        }
        serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))
    }

    /// The spec as it was at create.
    pub(crate) fn config(&self, id: &str) -> Result<Spec, CommandError> {
        read_spec(&self.folder(id).join(CONFIG)).map(|(spec, _)| spec)
    }

    pub(crate) fn is_waiting(&self, id: &str) -> bool {
        self.folder(id).join(START_SOCKET).exists()
    }

    pub(crate) fn started(&self, id: &str) {
        // If it stays, the container counts as created until it ends; nothing else can be done.
        let _ = fs::remove_file(self.folder(id).join(START_SOCKET));
    }

    pub(crate) fn remove(&self, id: &str) -> Result<(), CommandError> {
        let folder = self.folder(id);
        match fs::remove_dir_all(&folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done.map_err(file("remove", &folder)),
        }
    }

    /// All ids, sorted.
    pub(crate) fn ids(&self) -> Result<Vec<String>, CommandError> {
        let entries = match fs::read_dir(&self.root) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(file("read", &self.root))?,
        };
        let mut all: Vec<String> = entries
            .filter_map(Result::ok)
            .filter(|entry| {
                entry.metadata().is_ok_and(|facts| facts.mode() & 0o170_000 == 0o040_000)
            })
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        all.sort_unstable();
        Ok(all)
    }
}

/// A spec and its bytes.
pub(crate) fn read_spec(path: &Path) -> Result<(Spec, Vec<u8>), CommandError> {
    let bytes = fs::read(path).map_err(file("read", path))?;
    Ok((Spec::parse(&bytes)?, bytes))
}
