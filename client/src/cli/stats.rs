//! `stats`.

use std::io::IsTerminal as _;

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};
use wharf_client::v1::{Container, ContainerFilter, ContainerState, ContainerStats, StatsRequest};

use crate::cli::{
    context::Context,
    human,
    output::{self, Column, Format, List},
};

/// Show what containers use
#[derive(Debug, clap::Args)]
#[command(after_help = "Without a name: all that run.

Examples:
  wharf stats
  wharf stats --no-stream --format '{{.Name}} {{.CPUPerc}} {{.MemUsage}}' web")]
pub(crate) struct StatsArgs {
    /// Also those that do not run
    #[arg(short, long)]
    all: bool,
    /// Print once
    #[arg(long)]
    no_stream: bool,
    /// Do not shorten ids
    #[arg(long)]
    no_trunc: bool,
    /// table, json, or a template as in '{{.Name}}'
    #[arg(long, default_value = "table", hide_default_value = true)]
    format: Format,
    /// Names, ids or unique beginnings of ids
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
}

const COLUMNS: &[Column] = &[
    ("ID", "CONTAINER ID"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
    ("Container", "CONTAINER"),
];
const SHOWN: usize = 8;

/// Erases the screen and goes to its beginning.
const CLEAR: &str = "\x1b[2J\x1b[H";

pub(crate) async fn stats(context: &Context, args: StatsArgs) -> Result<u8> {
    if args.all && !args.containers.is_empty() {
        bail!("--all and names of containers exclude each other");
    }
    let client = context.client().await?;
    let mut containers = args.containers;
    if args.all {
        let found = client.list_containers(ContainerFilter::default()).await?;
        containers = found.into_iter().map(|container: Container| container.id).collect();
        if containers.is_empty() {
            print(&[], &args.format, args.no_trunc)?;
            return Ok(0);
        }
    }
    let request = StatsRequest { containers, follow: !args.no_stream, ..StatsRequest::default() };
    let mut turns = client.stats(request).await?;
    let screen = !args.no_stream
        && matches!(args.format, Format::Table | Format::TableOf(_))
        && std::io::stdout().is_terminal();
    while let Some(turn) = turns.next().await? {
        if screen {
            output::print(CLEAR)?;
        }
        print(&turn, &args.format, args.no_trunc)?;
    }
    Ok(0)
}

fn print(turn: &[ContainerStats], format: &Format, no_trunc: bool) -> Result<()> {
    let shown = COLUMNS[..SHOWN].iter().map(|(key, _)| *key).collect();
    let rows = turn.iter().map(|stats| row(stats, no_trunc)).collect();
    output::print(&List { columns: COLUMNS, shown, rows }.render(format)?)
}

fn row(stats: &ContainerStats, no_trunc: bool) -> Map<String, Value> {
    let id = if no_trunc { stats.id.as_str() } else { stats.id.get(..12).unwrap_or(&stats.id) };
    let runs = matches!(stats.state(), ContainerState::Running | ContainerState::Paused);
    let known = stats.error.is_empty();
    let of = |text: String| if known { text } else { "--".to_owned() };
    let percent = |part: f64| format!("{part:.2}%");
    let memory_percent = match stats.memory_limit_bytes {
        0 => 0.0,
        limit => stats.memory_usage_bytes as f64 * 100.0 / limit as f64,
    };
    let pair = |a: String, b: String| format!("{a} / {b}");
    let cpu = stats
        .cpu_percent
        .map_or_else(|| if runs { "--".to_owned() } else { percent(0.0) }, percent);
    let row = json!({
        "Container": id,
        "ID": id,
        "Name": stats.name,
        "CPUPerc": of(cpu),
        "MemUsage": of(pair(
            human::memory(stats.memory_usage_bytes),
            human::memory(stats.memory_limit_bytes),
        )),
        "MemPerc": of(percent(memory_percent)),
        "NetIO": of(pair(
            human::size(stats.network_received_bytes),
            human::size(stats.network_sent_bytes),
        )),
        "BlockIO": of(pair(
            human::size(stats.block_read_bytes),
            human::size(stats.block_written_bytes),
        )),
        "PIDs": of(stats.pids.to_string()),
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
    fn as_docker_shows_them() {
        let stats = ContainerStats {
            id: "0123456789abcdef".into(),
            name: "web".into(),
            state: ContainerState::Running.into(),
            cpu_percent: Some(12.345),
            memory_usage_bytes: 1 << 20,
            memory_limit_bytes: 4 << 20,
            network_received_bytes: 1500,
            pids: 3,
            ..ContainerStats::default()
        };
        let of_row = row(&stats, false);
        assert_eq!(of_row["ID"], "0123456789ab");
        assert_eq!(of_row["CPUPerc"], "12.35%");
        assert_eq!(of_row["MemUsage"], "1MiB / 4MiB");
        assert_eq!(of_row["MemPerc"], "25.00%");
        assert_eq!(of_row["NetIO"], "1.5kB / 0B");
        let silent = row(&ContainerStats { error: "no answer".into(), ..stats }, false);
        assert_eq!(silent["CPUPerc"], "--");
    }
}
