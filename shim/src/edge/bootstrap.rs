//! How a caller starts a shim, in every form in use. Pure.
//!
//! | caller | standard input | answer |
//! | --- | --- | --- |
//! | containerd 2.3 and later | `BootstrapParams` | `BootstrapResult` |
//! | containerd 1.7 to 2.2 (sets `MAX_SHIM_VERSION`) | runtime options, or nothing | JSON with a version |
//! | older, and Wharf's supervisor | runtime options, or nothing | the bare address |
//!
//! Runtime options may decode as `BootstrapParams` by chance, so those count only when they name
//! the id and namespace of the command line.

use prost::Message as _;
use wharf_proto::containerd::bootstrap::{BootstrapParams, BootstrapResult};

use super::args::Args;

/// Version of the Task service that is told; 2 is served too.
const TASK_VERSION: u32 = 3;

/// What was in the environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Environment {
    pub(crate) ttrpc_address: Option<String>,
    pub(crate) max_shim_version: Option<String>,
}

/// The form of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Protobuf,
    Json { version: u32 },
    Bare,
}

/// A caller, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bootstrap {
    form: Form,
    /// Where events go; `None`: nobody wants them.
    pub(crate) events: Option<String>,
    pub(crate) socket_dir: Option<String>,
    pub(crate) debug: bool,
}

impl Bootstrap {
    pub(crate) fn new(args: &Args, environment: &Environment, input: &[u8]) -> Self {
        let events = environment.ttrpc_address.clone().filter(|address| !address.is_empty());
        let params = BootstrapParams::decode(input).ok().filter(|params| {
            !input.is_empty() && params.instance_id == args.id && params.namespace == args.namespace
        });
        if let Some(params) = params {
            let told = Some(params.containerd_ttrpc_address).filter(|address| !address.is_empty());
            return Self {
                form: Form::Protobuf,
                events: told.or(events),
                socket_dir: params.socket_dir.filter(|folder| folder.starts_with('/')),
                debug: args.debug || params.log_level < 0,
            };
        }
        let form = match &environment.max_shim_version {
            Some(version) => {
                let version = version.parse().unwrap_or(2).clamp(2, TASK_VERSION);
                Form::Json { version }
            }
            None => Form::Bare,
        };
        Self { form, events, socket_dir: None, debug: args.debug }
    }

    /// What goes to standard output.
    pub(crate) fn answer(&self, address: &str) -> Vec<u8> {
        match self.form {
            Form::Protobuf => BootstrapResult {
                version: i32::try_from(TASK_VERSION).unwrap_or(2),
                address: address.to_owned(),
                protocol: "ttrpc".to_owned(),
                ..Default::default()
            }
            .encode_to_vec(),
            Form::Json { version } => {
                serde_json::json!({"version": version, "address": address, "protocol": "ttrpc"})
                    .to_string()
                    .into_bytes()
            }
            Form::Bare => address.as_bytes().to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Args, Bootstrap, BootstrapParams, BootstrapResult, Environment};
    use prost::Message as _;

    fn args() -> Args {
        let words = "-namespace n -id i -address /a start";
        Args::parse(words.split(' ').map(str::to_owned)).expect("whole")
    }

    #[test]
    fn newest_talks_protobuf() {
        let params = BootstrapParams {
            instance_id: "i".into(),
            namespace: "n".into(),
            log_level: -4,
            containerd_ttrpc_address: "unix:///t".into(),
            socket_dir: Some("/run/x".into()),
            ..Default::default()
        };
        let bootstrap = Bootstrap::new(&args(), &Environment::default(), &params.encode_to_vec());
        assert!(bootstrap.debug);
        assert_eq!(bootstrap.events.as_deref(), Some("unix:///t"));
        assert_eq!(bootstrap.socket_dir.as_deref(), Some("/run/x"));
        let result = BootstrapResult::decode(&bootstrap.answer("unix:///s")[..]).expect("message");
        assert_eq!(
            (result.version, &result.address[..], &result.protocol[..]),
            (3, "unix:///s", "ttrpc")
        );
    }

    #[test]
    fn options_are_not_taken_for_parameters() {
        let other = BootstrapParams { instance_id: "type.url".into(), ..Default::default() };
        let environment =
            Environment { ttrpc_address: Some("/t".into()), max_shim_version: Some("2".into()) };
        let bootstrap = Bootstrap::new(&args(), &environment, &other.encode_to_vec());
        let answer: serde_json::Value =
            serde_json::from_slice(&bootstrap.answer("unix:///s")).expect("json");
        assert_eq!(
            answer,
            serde_json::json!({"version": 2, "address": "unix:///s", "protocol": "ttrpc"})
        );
        assert_eq!(bootstrap.events.as_deref(), Some("/t"));
    }

    #[test]
    fn oldest_wants_the_bare_address() {
        let bootstrap = Bootstrap::new(&args(), &Environment::default(), b"");
        assert_eq!(bootstrap.answer("unix:///s"), b"unix:///s");
        assert_eq!(bootstrap.events, None);
    }

    #[test]
    fn any_input_is_survived() {
        for length in 0..64 {
            let input: Vec<u8> = (0..length).map(|byte: u8| byte.wrapping_mul(37)).collect();
            Bootstrap::new(&args(), &Environment::default(), &input);
        }
    }
}
