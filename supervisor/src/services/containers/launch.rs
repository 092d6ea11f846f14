//! From a record to what a shim needs: log, root file system, bundle.

use std::{
    fs,
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use wharf_proto::{
    shim::{
        CreateOptions, LogTarget,
        log_target::{Format, WhenFull},
    },
    task::Mount,
};

use super::{Error, devices, driver::Tools, found, oci, record::Record, spec::MountKind};
use crate::{
    config::Network,
    drivers::logs::LogDriver,
    drivers::shims::{Bundle, CreateTask, Runtime},
    faultpoint,
};

/// In the bundle of a container that a commit has paused.
const PAUSE_NOTE: &str = "paused-by-commit";
/// Largest file of the host that is copied into a bundle.
const MAX_HOST_FILE: u64 = 64 << 10;

/// A terminal's size in characters; 0: not said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

/// All that is ready for a shim.
#[derive(Debug)]
pub(super) struct Plan {
    /// The bundle, written.
    pub bundle: Bundle,
    rootfs: Vec<Mount>,
}

impl Plan {
    /// The call that makes the task.
    #[must_use]
    pub(super) fn task<'a>(
        &'a self,
        tools: &'a Tools,
        record: &Record,
        runtime: &Runtime,
        window: Window,
    ) -> CreateTask<'a> {
        let rules = tools.log_rules(record);
        let when_full = if rules.drops_when_full { WhenFull::Drop } else { WhenFull::Block };
        let format = match rules.driver {
            LogDriver::JsonFile => Format::JsonFile,
            LogDriver::Cri | LogDriver::None => Format::Cri,
        };
        CreateTask {
            bundle: self.bundle.path(),
            rootfs: self.rootfs.clone(),
            terminal: record.spec.tty,
            options: CreateOptions {
                log: Some(LogTarget {
                    path: tools.log_path(record).display().to_string(),
                    format: format.into(),
                    max_bytes: rules.max_bytes,
                    max_files: rules.rotated,
                    when_full: when_full.into(),
                }),
                open_stdin: record.spec.open_stdin,
                terminal_width: window.width,
                terminal_height: window.height,
                runtime_binary: match runtime {
                    Runtime::Oci(program) => program.display().to_string(),
                    Runtime::Own | Runtime::Shim(_) => String::new(),
                },
                ..Default::default()
            },
            logger: tools.launcher.program(),
        }
    }
}

/// Makes the log file if it is not there, and tells where its end is.
///
/// # Errors
/// [`Error::File`].
pub(super) fn prepare_log(path: &Path) -> Result<String, Error> {
    let file = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .and_then(|file| file.metadata())
        .map_err(|source| Error::File { step: "open the log", path: path.into(), source })?;
    Ok(format!("{}:{}", file.ino(), file.len()))
}

/// Removes the log and its rotated ones. Blocks.
///
/// # Errors
/// [`Error::File`].
pub(super) fn remove_logs(path: &Path, rotated: u32) -> Result<(), Error> {
    let older = (1..=rotated).map(|n| PathBuf::from(format!("{}.{n}", path.display())));
    for file in std::iter::once(path.to_owned()).chain(older) {
        match fs::remove_file(&file) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(Error::File { step: "remove the log", path: file, source });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Prepares the root file system and writes the bundle, on a thread that may block.
///
/// # Errors
/// [`Error`].
pub(super) async fn prepare(tools: &Arc<Tools>, record: &Record) -> Result<Plan, Error> {
    let tools = Arc::clone(tools);
    let record = record.clone();
    tokio::task::spawn_blocking(move || prepare_blocking(&tools, &record))
        .await
        .expect("preparation does not panic")
}

fn prepare_blocking(tools: &Tools, record: &Record) -> Result<Plan, Error> {
    let name = &record.name;
    check_sources(record)?;
    tools.check_volumes(record)?;
    let rootfs: Vec<Mount> = tools
        .snapshots
        .prepare(&record.id, record.image.chain_id.as_ref())
        .map_err(|source| Error::Snapshot { name: name.clone(), source })?
        .into_iter()
        .map(|mount| Mount {
            r#type: mount.kind,
            source: mount.source,
            target: String::new(),
            options: match record.spec.mapped() {
                Some(_) => mount.options.into_iter().chain(["idmap".to_owned()]).collect(),
                None => mount.options,
            },
        })
        .collect();
    let fault = |at: std::io::Result<()>| {
        let path = tools.bundles.clone();
        at.map_err(|source| Error::File { step: "prepare", path, source })
    };
    fault(faultpoint::step_blocking("start.snapshot.prepared"))?;
    let bundle = Bundle::of(&tools.bundles, &record.id);
    let config = oci_config(tools, record).to_string();
    let mut files = identity_files(record);
    files.push((found::FILE, found::Kept::text(record, &rootfs)));
    bundle
        .write(config.as_bytes(), &files)
        .map_err(|source| Error::Start { name: name.clone(), source })?;
    Ok(Plan { bundle, rootfs })
}

/// Writes down that a container is about to be paused by us, to be resumed whatever happens.
///
/// # Errors
/// [`ShimError::Bundle`](crate::drivers::shims::ShimError).
pub(super) fn note_pause(bundle: &Bundle) -> Result<(), crate::drivers::shims::ShimError> {
    bundle.note(PAUSE_NOTE)
}

/// Whether it was, by a supervisor that has ended since.
#[must_use]
pub(super) fn has_pause_note(bundle: &Bundle) -> bool {
    bundle.path().join(PAUSE_NOTE).exists()
}

/// It goes on.
pub(super) fn forget_pause(bundle: &Bundle) {
    // Gone with its bundle, if the container has ended.
    let _ = fs::remove_file(bundle.path().join(PAUSE_NOTE));
}

/// The OCI spec of a container, as its next start would have it.
#[must_use]
pub(super) fn oci_config(tools: &Tools, record: &Record) -> serde_json::Value {
    oci::config(&oci::Input {
        volumes: &tools.volume_sources(record),
        spec: &record.spec,
        process: &record.process,
        devices: &if record.spec.privileged { devices::of_host() } else { Vec::new() },
        cgroup: format!("{}/{}", tools.cgroup_parent.trim_end_matches('/'), record.id),
        bundle: Bundle::of(&tools.bundles, &record.id).path(),
    })
}

/// Sources of bind mounts are there, or made where that was asked for.
fn check_sources(record: &Record) -> Result<(), Error> {
    for (index, mount) in record.spec.mounts.iter().enumerate() {
        if mount.kind != MountKind::Bind || Path::new(&mount.source).exists() {
            continue;
        }
        if mount.create_source {
            fs::create_dir_all(&mount.source).map_err(|source| Error::File {
                step: "make the source of a mount,",
                path: PathBuf::from(&mount.source),
                source,
            })?;
        } else {
            return Err(Error::field(
                format!("spec.mounts[{index}].source"),
                format!("{} does not exist on the host", mount.source),
            ));
        }
    }
    Ok(())
}

/// The files of /etc that are the container's own.
fn identity_files(record: &Record) -> Vec<(&'static str, String)> {
    let spec = &record.spec;
    let host = |name: &str| host_file(&format!("/etc/{name}"));
    oci::identity_files(spec)
        .map(|name| {
            let content = match (name, spec.network) {
                ("hostname", _) => format!("{}\n", spec.hostname),
                ("hosts", Some(Network::None) | None) => format!(
                    "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
                     127.0.1.1\t{}\n",
                    spec.hostname
                ),
                (name, _) => host(name),
            };
            (name, content)
        })
        .collect()
}

/// A small file of the host; one that can't be read is empty in the container.
fn host_file(path: &str) -> String {
    let mut text = String::new();
    if let Ok(file) = fs::File::open(path)
        && let Err(error) = file.take(MAX_HOST_FILE).read_to_string(&mut text)
    {
        tracing::warn!(path, %error, "host's file is not given to the container");
    }
    text
}
