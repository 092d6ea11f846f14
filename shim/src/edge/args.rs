//! The command line of containerd's shim protocol: Go's flag syntax, then one action.

use std::path::PathBuf;

/// A command line that makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArgsError {
    #[error("flag -{0} is not known")]
    UnknownFlag(String),
    #[error("flag -{0} needs a value")]
    NoValue(String),
    #[error("action {0:?} is not one of: start, delete")]
    UnknownAction(String),
    #[error("an action is missing: start or delete")]
    NoAction,
    #[error("flag -id is missing")]
    NoId,
    #[error("flag -namespace is missing")]
    NoNamespace,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Start,
    Delete,
    /// Looks at the state of a shim that wants to become this program.
    Check,
    /// Goes on where another program was.
    Resume,
    /// Goes on where a shim was that died.
    Adopt,
    Version,
    Info,
}

/// A command line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Args {
    pub(crate) action: Action,
    pub(crate) namespace: String,
    pub(crate) id: String,
    /// Of containerd, or of the supervisor.
    pub(crate) address: String,
    pub(crate) publish_binary: String,
    pub(crate) bundle: Option<PathBuf>,
    pub(crate) socket: Option<PathBuf>,
    /// Descriptor of a state.
    pub(crate) state: i32,
    pub(crate) debug: bool,
}

impl Args {
    /// Without the program's name.
    pub(crate) fn parse(words: impl IntoIterator<Item = String>) -> Result<Self, ArgsError> {
        let mut args = Self {
            action: Action::Start,
            namespace: String::new(),
            id: String::new(),
            address: String::new(),
            publish_binary: String::new(),
            bundle: None,
            socket: None,
            state: 0,
            debug: false,
        };
        let mut words = words.into_iter();
        let mut action = None;
        while let Some(word) = words.next() {
            let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
                action = Some(word);
                break;
            };
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            match name {
                "v" | "version" => return Ok(Self { action: Action::Version, ..args }),
                "info" => return Ok(Self { action: Action::Info, ..args }),
                "debug" => args.debug = value.is_none_or(|value| value != "false"),
                "namespace" | "id" | "address" | "publish-binary" | "bundle" | "socket"
                | "state" => {
                    let value = value.or_else(|| words.next());
                    args.set(name, value.ok_or_else(|| ArgsError::NoValue(name.to_owned()))?);
                }
                other => return Err(ArgsError::UnknownFlag(other.to_owned())),
            }
        }
        args.action = match action.as_deref() {
            Some("start") => Action::Start,
            Some("delete") => Action::Delete,
            Some("check") => Action::Check,
            Some("resume") => Action::Resume,
            Some("adopt") => Action::Adopt,
            Some(other) => return Err(ArgsError::UnknownAction(other.to_owned())),
            None => return Err(ArgsError::NoAction),
        };
        if args.namespace.is_empty() {
            return Err(ArgsError::NoNamespace);
        }
        if args.id.is_empty() {
            return Err(ArgsError::NoId);
        }
        Ok(args)
    }

    fn set(&mut self, name: &str, value: String) {
        match name {
            "namespace" => self.namespace = value,
            "id" => self.id = value,
            "address" => self.address = value,
            "publish-binary" => self.publish_binary = value,
            "bundle" => self.bundle = Some(value.into()).filter(|path: &PathBuf| path != ""),
            "socket" => self.socket = Some(value.into()).filter(|path: &PathBuf| path != ""),
            "state" => self.state = value.parse().unwrap_or(0),
            other => unreachable!("{other} is not in the list of flags with a value"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Action, Args, ArgsError};

    fn parse(line: &str) -> Result<Args, ArgsError> {
        Args::parse(line.split_ascii_whitespace().map(str::to_owned))
    }

    #[test]
    fn as_containerd_calls() {
        let args =
            parse("-namespace default -address /run/c.sock -publish-binary /b -id x -debug start")
                .expect("whole");
        assert_eq!(
            (args.action, &args.namespace[..], &args.id[..], args.debug),
            (Action::Start, "default", "x", true)
        );
        let args = parse("--namespace=n --id=x -bundle /b delete").expect("whole");
        assert_eq!((args.action, args.bundle), (Action::Delete, Some("/b".into())));
        assert_eq!(parse("-v").expect("whole").action, Action::Version);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, error) in [
            ("-namespace n -id x", ArgsError::NoAction),
            ("-namespace n start", ArgsError::NoId),
            ("-id n start", ArgsError::NoNamespace),
            ("-id n -what start", ArgsError::UnknownFlag("what".into())),
            ("-id", ArgsError::NoValue("id".into())),
            ("-id n -namespace n run", ArgsError::UnknownAction("run".into())),
        ] {
            assert_eq!(parse(line), Err(error), "{line}");
        }
    }
}
