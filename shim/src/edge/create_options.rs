//! The options of `Create`: Wharf's own, or those of containerd's runc shim.
//!
//! What asks for another runtime, or for what only a runtime's command does, has the container made
//! by that command.

use std::path::PathBuf;

use prost::Message as _;
use prost_types::Any;
use wharf_proto::containerd::runc::v1::Options as RuncOptions;
use wharf_proto::shim as wharf;

use super::status::EdgeError;
use crate::flow::{Foreign, LogTarget, Options, Owner, own_command};
use crate::logic::lines::Format;
use crate::sys::journal::{self, Level};

const RUNC_OPTIONS: &str = "containerd.runc.v1.Options";

/// What `Create` makes of its options.
#[derive(Debug, Default)]
pub(crate) struct CreateOptions {
    /// `None`: the caller is not Wharf's supervisor.
    pub(crate) wharf: Option<Options>,
    pub(crate) owner: Option<Owner>,
    /// Another runtime's program.
    pub(crate) foreign: Option<Foreign>,
    /// A checkpoint to restore, where the request itself names none.
    pub(crate) criu_image: Option<PathBuf>,
    /// Where criu's own files go.
    pub(crate) criu_work: Option<PathBuf>,
    /// criu's program; empty: the one in PATH.
    pub(crate) criu: PathBuf,
    /// Where the shim itself is to be.
    pub(crate) shim_cgroup: Option<String>,
}

pub(crate) fn parse(any: Option<&Any>) -> Result<CreateOptions, EdgeError> {
    let Some(any) = any else { return Ok(CreateOptions::default()) };
    // A prefix up to the last slash says where a type's definition is.
    match any.type_url.rsplit('/').next().unwrap_or_default() {
        wharf::CREATE_OPTIONS_TYPE_URL => own(&any.value),
        RUNC_OPTIONS => runc(&any.value),
        other => {
            journal::write(Level::Warn, "options are not known", &[("type", &other)]);
            Ok(CreateOptions::default())
        }
    }
}

fn own(value: &[u8]) -> Result<CreateOptions, EdgeError> {
    let asked = wharf::CreateOptions::decode(value)?;
    let is_foreign = !asked.runtime_binary.is_empty() || asked.systemd_cgroup;
    let foreign = is_foreign.then(|| Foreign {
        binary: binary(&asked.runtime_binary),
        root: asked.runtime_root.clone().into(),
        args: asked.runtime_args.clone(),
        systemd_cgroup: asked.systemd_cgroup,
        no_pivot: false,
        no_new_keyring: false,
        criu: PathBuf::new(),
    });
    let log = asked.log.filter(|log| !log.path.is_empty()).map(|log| {
        let drops_when_full = log.when_full() == wharf::log_target::WhenFull::Drop;
        LogTarget {
            format: match log.format() {
                wharf::log_target::Format::JsonFile => Format::JsonFile,
                wharf::log_target::Format::Unspecified | wharf::log_target::Format::Cri => {
                    Format::Cri
                }
            },
            path: log.path.into(),
            max_bytes: log.max_bytes,
            max_files: log.max_files,
            drops_when_full,
        }
    });
    let size = |value: u32| u16::try_from(value).ok().filter(|&value| value > 0);
    let window = size(asked.terminal_width).zip(size(asked.terminal_height));
    let options = Options { log, open_stdin: asked.open_stdin, window };
    Ok(CreateOptions { wharf: Some(options), foreign, ..Default::default() })
}

fn runc(value: &[u8]) -> Result<CreateOptions, EdgeError> {
    let asked = RuncOptions::decode(value)?;
    let is_foreign = !asked.binary_name.is_empty()
        || asked.systemd_cgroup
        || asked.no_pivot_root
        || asked.no_new_keyring;
    let foreign = is_foreign.then(|| Foreign {
        binary: binary(&asked.binary_name),
        // By namespace in containerd's own shim; ids are unique in a bundle.
        root: asked.root.clone().into(),
        args: Vec::new(),
        systemd_cgroup: asked.systemd_cgroup,
        no_pivot: asked.no_pivot_root,
        no_new_keyring: asked.no_new_keyring,
        criu: asked.criu_path.clone().into(),
    });
    let owner = (asked.io_uid != 0 || asked.io_gid != 0).then_some((asked.io_uid, asked.io_gid));
    let path = |text: String| (!text.is_empty()).then(|| PathBuf::from(text));
    Ok(CreateOptions {
        wharf: None,
        owner,
        foreign,
        criu_image: path(asked.criu_image_path),
        criu_work: path(asked.criu_work_path),
        criu: asked.criu_path.into(),
        shim_cgroup: Some(asked.shim_cgroup).filter(|path| !path.is_empty()),
    })
}

/// What the embedded runtime is not asked for over its calls, its command does.
fn binary(name: &str) -> PathBuf {
    if name.is_empty() { own_command() } else { name.into() }
}

#[cfg(test)]
mod tests {
    use super::{Any, RuncOptions, parse};
    use prost::Message as _;

    fn runc(options: &RuncOptions) -> Any {
        Any { type_url: "containerd.runc.v1.Options".into(), value: options.encode_to_vec() }
    }

    #[test]
    fn another_runtime() {
        let options = RuncOptions { systemd_cgroup: true, ..Default::default() };
        let foreign = parse(Some(&runc(&options))).expect("served").foreign.expect("a command");
        assert!(foreign.systemd_cgroup);
        assert!(foreign.binary.ends_with("wharf-runtime"));
        let options = RuncOptions { binary_name: "crun".into(), ..Default::default() };
        let foreign = parse(Some(&runc(&options))).expect("served").foreign.expect("a command");
        assert_eq!(foreign.binary, std::path::Path::new("crun"));
        assert!(parse(Some(&runc(&RuncOptions::default()))).expect("served").foreign.is_none());
    }

    #[test]
    fn owners_and_strangers() {
        let options = RuncOptions { io_uid: 7, io_gid: 8, ..Default::default() };
        assert_eq!(parse(Some(&runc(&options))).expect("served").owner, Some((7, 8)));
        let other = Any { type_url: "kata.v1.Options".into(), value: vec![1, 2] };
        assert!(parse(Some(&other)).expect("ignored").wharf.is_none());
        assert!(parse(None).expect("none").owner.is_none());
    }
}
