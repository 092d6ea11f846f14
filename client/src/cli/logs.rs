//! `logs`.

use std::io::{self, Write};

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use wharf_client::v1::{LogEntry, LogsRequest, Stream};

use crate::cli::{context::Context, human, output, parse::time};

/// Show the output of a container
#[derive(Debug, clap::Args)]
#[command(after_help = "Times: 10m (ago), 2026-01-31T12:00:00Z, or seconds since the epoch.

Examples:
  wharf logs web
  wharf logs -f --tail 10 -t web
  wharf logs --since 10m web")]
pub(crate) struct LogsArgs {
    /// Go on with what is written, until the container stops
    #[arg(short, long)]
    follow: bool,
    /// Only the last so many lines; all if not given
    #[arg(short = 'n', long, value_name = "LINES", allow_hyphen_values = true)]
    tail: Option<String>,
    /// Put the time before each line
    #[arg(short, long)]
    timestamps: bool,
    /// Only what was written since then
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only what was written until then
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Name, id or unique beginning of an id
    container: String,
}

pub(crate) async fn logs(context: &Context, args: LogsArgs) -> Result<u8> {
    let moment = |given: Option<&str>, flag: &'static str| {
        let at = given.map(|given| time::moment(given, Timestamp::now())).transpose();
        at.context(flag).map(|at| at.map(to_wire))
    };
    let request = LogsRequest {
        container: args.container,
        follow: args.follow,
        tail: match args.tail.as_deref() {
            None | Some("all" | "-1") => None,
            Some(lines) => match lines.parse::<i64>() {
                Ok(lines) if lines >= 0 => Some(lines),
                _ => bail!("--tail {lines:?} is neither a number of lines nor \"all\""),
            },
        },
        since: moment(args.since.as_deref(), "--since")?,
        until: moment(args.until.as_deref(), "--until")?,
        stdout: true,
        stderr: true,
        cursor: String::new(),
    };
    let client = context.client().await?;
    let mut log = client.logs(request).await?;
    let mut lines = Lines { timestamps: args.timestamps, open: [false; 2] };
    while let Some(entries) = log.next().await? {
        output::written(lines.write(&entries, &mut io::stdout().lock(), &mut io::stderr().lock()))?;
    }
    Ok(0)
}

pub(crate) fn to_wire(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() }
}

/// Writes entries; knows which stream is in the middle of a line, where no time is to be put.
struct Lines {
    timestamps: bool,
    open: [bool; 2],
}

impl Lines {
    fn write(
        &mut self,
        entries: &[LogEntry],
        stdout: &mut impl Write,
        stderr: &mut impl Write,
    ) -> io::Result<()> {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        for entry in entries {
            let is_err = entry.stream() == Stream::Stderr;
            // The order between the two is kept as far as two files can keep it.
            let (buffer, other): (_, &mut Vec<u8>) =
                if is_err { (&mut err, &mut out) } else { (&mut out, &mut err) };
            if !other.is_empty() {
                let data = std::mem::take(other);
                if is_err {
                    stdout.write_all(&data)?
                } else {
                    stderr.write_all(&data)?
                }
                stdout.flush()?;
            }
            let open = &mut self.open[usize::from(is_err)];
            if self.timestamps && !*open {
                let at = human::timestamp(entry.time).unwrap_or(Timestamp::UNIX_EPOCH);
                buffer.extend_from_slice(human::instant(at).as_bytes());
                buffer.push(b' ');
            }
            buffer.extend_from_slice(&entry.data);
            *open = entry.partial;
        }
        stdout.write_all(&out)?;
        stdout.flush()?;
        stderr.write_all(&err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(stream: Stream, data: &str, partial: bool) -> LogEntry {
        let time = Some(prost_types::Timestamp { seconds: 1, nanos: 5 });
        let data = data.as_bytes().to_vec();
        LogEntry { time, stream: stream.into(), data, partial, cursor: String::new() }
    }

    #[test]
    fn times_stand_at_the_beginning_of_lines() {
        let mut lines = Lines { timestamps: true, open: [false; 2] };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let entries = [
            entry(Stream::Stdout, "long ", true),
            entry(Stream::Stderr, "x\n", false),
            entry(Stream::Stdout, "line\n", false),
            entry(Stream::Stdout, "next\n", false),
        ];
        lines.write(&entries, &mut out, &mut err).expect("in memory");
        let at = "1970-01-01T00:00:01.000000005Z";
        assert_eq!(String::from_utf8_lossy(&out), format!("{at} long line\n{at} next\n"));
        assert_eq!(String::from_utf8_lossy(&err), format!("{at} x\n"));
    }
}
