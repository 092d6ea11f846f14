//! `top`.

use anyhow::{Result, bail};
use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Map, Value, json};
use wharf_client::v1::Process;

use crate::cli::{
    context::Context,
    human,
    output::{self, Column, Format, List},
};

/// Show the processes of a container
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Pids and users are the host's. Columns: uid, user, pid, ppid, c, stime, tty, time, cmd,
stat, rss, nlwp, exec; after a dash, as ps has them: -o pid,cmd.

Examples:
  wharf top web
  wharf top web -o pid,user,rss,cmd
  wharf top --format json web"
)]
pub(crate) struct TopArgs {
    /// table, json, or a template as in '{{.PID}} {{.CMD}}'
    #[arg(long, default_value = "table", hide_default_value = true)]
    format: Format,
    /// Name, id or unique beginning of an id, and columns
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "CONTAINER [-o COLUMNS]"
    )]
    words: Vec<String>,
}

const COLUMNS: &[Column] = &[
    ("UID", "UID"),
    ("PID", "PID"),
    ("PPID", "PPID"),
    ("C", "C"),
    ("STIME", "STIME"),
    ("TTY", "TTY"),
    ("TIME", "TIME"),
    ("CMD", "CMD"),
    ("USER", "USER"),
    ("STAT", "STAT"),
    ("RSS", "RSS"),
    ("NLWP", "NLWP"),
    ("EXEC", "EXEC"),
];
const USUAL: usize = 8;

pub(crate) async fn top(context: &Context, args: TopArgs) -> Result<u8> {
    let (container, options) = args.words.split_first().expect("clap wants one");
    let shown = columns(options)?;
    let client = context.client().await?;
    let processes = client.processes(container).await?;
    let rows = processes.iter().map(|process| row(process, Timestamp::now())).collect();
    output::print(&List { columns: COLUMNS, shown, rows }.render(&args.format)?)?;
    Ok(0)
}

fn columns(options: &[String]) -> Result<Vec<&'static str>> {
    let usual = COLUMNS[..USUAL].iter().map(|(key, _)| *key);
    let list = match options {
        [] => return Ok(usual.collect()),
        [all] if matches!(all.as_str(), "-ef" | "-e" | "ef" | "-A" | "-f") => {
            return Ok(usual.collect());
        }
        [flag, list] if matches!(flag.as_str(), "-o" | "-eo" | "-O") => list.as_str(),
        [one] if one.starts_with("-o") => &one[2..],
        other => bail!("{:?} is not understood: -ef or -o COLUMNS", other.join(" ")),
    };
    list.split(',')
        .map(|name| {
            let upper = match name.trim().to_ascii_uppercase().as_str() {
                "COMMAND" | "ARGS" => "CMD".to_owned(),
                "S" | "STATE" => "STAT".to_owned(),
                "TT" => "TTY".to_owned(),
                "START" => "STIME".to_owned(),
                "THCOUNT" => "NLWP".to_owned(),
                other => other.to_owned(),
            };
            let known = COLUMNS.iter().find(|(key, _)| *key == upper);
            let all = || COLUMNS.iter().map(|(key, _)| key.to_lowercase()).collect::<Vec<_>>();
            match known {
                Some((key, _)) => Ok(*key),
                None => bail!("column {name:?} is not known: {}", all().join(", ")),
            }
        })
        .collect()
}

fn row(process: &Process, now: Timestamp) -> Map<String, Value> {
    let started = human::timestamp(process.started_at).unwrap_or(Timestamp::UNIX_EPOCH);
    let local = started.to_zoned(TimeZone::system());
    let day = now.to_zoned(TimeZone::system()).date() == local.date();
    let cpu = process.cpu_time.as_ref().map_or(0, |time| time.seconds);
    let age = (now.as_second() - started.as_second()).max(1);
    let user = if process.user.is_empty() { process.uid.to_string() } else { process.user.clone() };
    let row = json!({
        "UID": user,
        "USER": user,
        "PID": process.pid.to_string(),
        "PPID": process.parent_pid.to_string(),
        "C": (cpu * 100 / age).to_string(),
        "STIME": local.strftime(if day { "%H:%M" } else { "%b%d" }).to_string(),
        "TTY": if process.tty.is_empty() { "?" } else { &process.tty },
        "TIME": format!("{:02}:{:02}:{:02}", cpu / 3600, cpu / 60 % 60, cpu % 60),
        "CMD": process.command.join(" "),
        "STAT": process.state,
        "RSS": (process.resident_bytes / 1024).to_string(),
        "NLWP": process.threads.to_string(),
        "EXEC": process.exec_id,
    });
    match row {
        Value::Object(row) => row,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_by_name() {
        let given =
            |words: &[&str]| columns(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
        assert_eq!(given(&[]).expect("usual").len(), USUAL);
        assert_eq!(given(&["-o", "pid,args"]).expect("known"), ["PID", "CMD"]);
        assert_eq!(given(&["-opid"]).expect("known"), ["PID"]);
        assert!(given(&["-o", "pid,colour"]).is_err());
        assert!(given(&["aux"]).is_err());
    }

    #[test]
    fn a_process_as_ps_shows_it() {
        let process = Process {
            pid: 12,
            uid: 7,
            cpu_time: Some(prost_types::Duration { seconds: 3725, nanos: 0 }),
            command: vec!["sleep".into(), "1".into()],
            ..Process::default()
        };
        let row = row(&process, Timestamp::now());
        assert_eq!((row["UID"].as_str(), row["TIME"].as_str()), (Some("7"), Some("01:02:05")));
        assert_eq!((row["CMD"].as_str(), row["TTY"].as_str()), (Some("sleep 1"), Some("?")));
    }
}
