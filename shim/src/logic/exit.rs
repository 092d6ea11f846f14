//! What is known of the end of a process, and its form on disk. Pure.

use serde::{Deserialize, Serialize};

/// Version of the record's form on disk.
pub(crate) const EXIT_VERSION: u32 = 1;

/// The end of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exit {
    /// Of the record's form.
    pub(crate) version: u32,
    pub(crate) pid: u32,
    /// As the process gave it; 128 + signal when a signal ended it.
    pub(crate) exit_code: u32,
    /// 0: it exited by itself.
    pub(crate) signal: u32,
    pub(crate) oom_killed: bool,
    pub(crate) exited_at_unix_ns: i64,
    /// It ended unseen, and nobody can tell how any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) unknown: bool,
}

/// How the kernel says that a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It called exit with this code.
    Code(i32),
    /// A signal ended it. Numbers beyond the named ones (real-time signals) occur.
    Signal(i32),
}

impl Exit {
    pub(crate) fn new(pid: u32, ending: Ending, oom_killed: bool, at_unix_ns: i64) -> Self {
        let (exit_code, signal) = match ending {
            Ending::Code(code) => (u32::try_from(code & 0xff).unwrap_or(255), 0),
            Ending::Signal(signal) => {
                let signal = u32::try_from(signal).unwrap_or(0);
                (128 + signal, signal)
            }
        };
        Self {
            version: EXIT_VERSION,
            pid,
            exit_code,
            signal,
            oom_killed,
            exited_at_unix_ns: at_unix_ns,
            unknown: false,
        }
    }

    /// Of a process that ended unseen.
    pub(crate) fn unknown(pid: u32, found_at_unix_ns: i64) -> Self {
        Self { unknown: true, ..Self::new(pid, Ending::Code(255), false, found_at_unix_ns) }
    }
}

#[cfg(test)]
mod tests {
    use super::{Ending, Exit};

    #[test]
    fn codes_as_a_shell_gives_them() {
        for (ending, code, signal) in [
            (Ending::Code(0), 0, 0),
            (Ending::Code(255), 255, 0),
            (Ending::Signal(9), 137, 9),
            (Ending::Signal(64), 192, 64),
        ] {
            let exit = Exit::new(7, ending, false, 1);
            assert_eq!((exit.exit_code, exit.signal), (code, signal));
        }
    }

    #[test]
    fn version_1_is_read() {
        let text = r#"{"version":1,"pid":7,"exit_code":137,"signal":9,"oom_killed":true,"exited_at_unix_ns":5}"#;
        let exit: Exit = serde_json::from_str(text).expect("version 1");
        assert_eq!(exit, Exit::new(7, Ending::Signal(9), true, 5));
        assert_eq!(serde_json::to_string(&exit).expect("plain struct"), text);
    }
}
