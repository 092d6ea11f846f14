//! The OCI bundle of a container that runs: a folder in the state folder.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::{
    io::Errno,
    mount::{UnmountFlags, unmount},
};
use serde::Deserialize;
use wharf_proto::shim::ExitRecord;

use super::ShimError;
use crate::ids::ContainerId;

/// A bundle: `config.json`, `rootfs/`, and what the shim keeps beside them.
#[derive(Clone, Debug)]
pub struct Bundle {
    path: PathBuf,
}

/// The shim's own record of the end, as far as the supervisor reads it.
#[derive(Deserialize)]
struct ExitFile {
    pid: u32,
    exit_code: u32,
    signal: u32,
    oom_killed: bool,
    exited_at_unix_ns: i64,
    #[serde(default)]
    unknown: bool,
}

impl Bundle {
    /// Makes an empty file in it, which says something by being there. Blocks for a moment.
    ///
    /// # Errors
    /// [`ShimError::Bundle`].
    pub fn note(&self, name: &str) -> Result<(), ShimError> {
        let path = self.path.join(name);
        let made = fs::File::create(&path).map(drop);
        made.map_err(|source| ShimError::Bundle { step: "make", path, source })
    }

    /// Where the bundle of `id` is, below the folder of all bundles.
    #[must_use]
    pub fn of(folder: &Path, id: &ContainerId) -> Self {
        Self { path: folder.join(id.short()) }
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The socket that a shim of ours listens on.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path.join("shim.sock")
    }

    /// Whether its shim is somebody else's. Blocks, for a moment.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        super::Place::read(self).is_some()
    }

    /// Whether the folder is there.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.path.exists()
    }

    /// Makes the folder anew and writes the spec and the other files (name, content). Blocks.
    ///
    /// # Errors
    /// [`ShimError::Bundle`].
    pub fn write(&self, config_json: &[u8], files: &[(&str, String)]) -> Result<(), ShimError> {
        self.remove()?;
        let error = |step, path: &Path| {
            let path = path.to_owned();
            move |source| ShimError::Bundle { step, path, source }
        };
        let rootfs = self.path.join("rootfs");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&rootfs)
            .map_err(error("make the folder", &rootfs))?;
        let config = self.path.join("config.json");
        write_file(&config, 0o600, config_json).map_err(error("write", &config))?;
        for (name, content) in files {
            let path = self.path.join(name);
            write_file(&path, 0o644, content.as_bytes()).map_err(error("write", &path))?;
        }
        Ok(())
    }

    /// Removes the folder; one that is not there is no error. Blocks.
    ///
    /// # Errors
    /// [`ShimError::Bundle`].
    pub fn remove(&self) -> Result<(), ShimError> {
        self.unmount_rootfs()?;
        if let Some(place) = super::Place::read(self) {
            place.unlink();
        }
        match fs::remove_dir_all(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(ShimError::Bundle { step: "remove", path: self.path.clone(), source: e })
            }
            _ => Ok(()),
        }
    }

    /// What a foreign shim mounted and a killed one left: the container's files are not to be
    /// removed with the folder.
    fn unmount_rootfs(&self) -> Result<(), ShimError> {
        let path = self.path.join("rootfs");
        loop {
            match unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
                Ok(()) => {}
                // Nothing is mounted there, or there is no such folder.
                Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
                Err(errno) => {
                    return Err(ShimError::Bundle { step: "unmount", path, source: errno.into() });
                }
            }
        }
    }

    /// How the container ended, if its shim wrote that down. Blocks.
    #[must_use]
    pub fn exit_record(&self) -> Option<ExitRecord> {
        let text = fs::read(self.path.join("exit.json")).ok()?;
        let file: ExitFile = serde_json::from_slice(&text).ok()?;
        Some(ExitRecord {
            pid: file.pid,
            exit_code: file.exit_code,
            signal: file.signal,
            oom_killed: file.oom_killed,
            exited_at_unix_ns: file.exited_at_unix_ns,
            unknown: file.unknown,
        })
    }
}

fn write_file(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?.write_all(content)
}
