//! The options of `Create`: Wharf's own, or those of containerd's runc shim.
//!
//! An option that would change what the container gets and is not served is refused by name, so
//! that nobody runs a container other than the one they asked for.

use prost::Message as _;
use prost_types::Any;
use wharf_proto::containerd::runc::v1::Options as RuncOptions;
use wharf_proto::shim as wharf;

use super::status::EdgeError;
use crate::flow::{LogTarget, Options, Owner};
use crate::logic::lines::Format;
use crate::sys::journal::{self, Level};

const RUNC_OPTIONS: &str = "containerd.runc.v1.Options";

/// What `Create` makes of its options.
#[derive(Debug, Default)]
pub(crate) struct CreateOptions {
    /// `None`: the caller is not Wharf's supervisor.
    pub(crate) wharf: Option<Options>,
    pub(crate) owner: Option<Owner>,
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
    if !asked.runtime_binary.is_empty() {
        return Err(EdgeError::Option("runtime_binary"));
    }
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
    Ok(CreateOptions { wharf: Some(options), owner: None })
}

fn runc(value: &[u8]) -> Result<CreateOptions, EdgeError> {
    let asked = RuncOptions::decode(value)?;
    for (is_set, name) in [
        (!asked.binary_name.is_empty(), "binary_name"),
        (asked.systemd_cgroup, "systemd_cgroup"),
        (asked.no_pivot_root, "no_pivot_root"),
    ] {
        if is_set {
            return Err(EdgeError::Option(name));
        }
    }
    // Where the shim itself runs, and keyrings: the container is the same without.
    for (is_set, name) in
        [(!asked.shim_cgroup.is_empty(), "shim_cgroup"), (asked.no_new_keyring, "no_new_keyring")]
    {
        if is_set {
            journal::write(Level::Warn, "option has no effect", &[("option", &name)]);
        }
    }
    let owner = (asked.io_uid != 0 || asked.io_gid != 0).then_some((asked.io_uid, asked.io_gid));
    Ok(CreateOptions { wharf: None, owner })
}

#[cfg(test)]
mod tests {
    use super::{Any, EdgeError, RuncOptions, parse};
    use prost::Message as _;
    use wharf_proto::kind::Kind;

    fn runc(options: &RuncOptions) -> Any {
        Any { type_url: "containerd.runc.v1.Options".into(), value: options.encode_to_vec() }
    }

    #[test]
    fn what_is_not_served_is_named() {
        let options = RuncOptions { systemd_cgroup: true, ..Default::default() };
        let error = parse(Some(&runc(&options))).expect_err("not served");
        assert!(matches!(error, EdgeError::Option("systemd_cgroup")));
        assert_eq!(error.kind(), Kind::Unsupported);
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
