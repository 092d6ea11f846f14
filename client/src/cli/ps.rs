//! `ps`.

use anyhow::{Result, bail};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use wharf_client::v1::{Container, ContainerFilter, ContainerState};

use crate::cli::{
    context::Context,
    human,
    output::{self, Column, Format, List},
};

/// List containers
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Filters: status=created|running|paused|restarting|exited, name=PART, id=BEGINNING,
ancestor=IMAGE, label=NAME[=VALUE], exited=CODE, health=starting|healthy|unhealthy|none.
All must hold; several of status, exited or health: any.

Examples:
  wharf ps
  wharf ps -aq --filter status=exited
  wharf ps --format '{{.ID}}\\t{{.Names}}'"
)]
pub(crate) struct PsArgs {
    /// Also those that do not run
    #[arg(short, long)]
    all: bool,
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// Only the one created last
    #[arg(short, long)]
    latest: bool,
    /// Only the so many created last
    #[arg(short = 'n', long, value_name = "NUMBER", allow_hyphen_values = true)]
    last: Option<i64>,
    /// Only those that match KEY=VALUE (repeatable)
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// table, json, or a template as in '{{.Names}}'
    #[arg(long, default_value = "table", hide_default_value = true)]
    format: Format,
    /// Also what each takes on the disk
    #[arg(short, long)]
    size: bool,
    /// Do not shorten ids and commands
    #[arg(long)]
    no_trunc: bool,
}

const COLUMNS: &[Column] = &[
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("Ports", "PORTS"),
    ("Names", "NAMES"),
    ("CreatedAt", "CREATED AT"),
    ("State", "STATE"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("Networks", "NETWORKS"),
    ("Pid", "PID"),
    ("Size", "SIZE"),
];

pub(crate) async fn ps(context: &Context, args: PsArgs) -> Result<u8> {
    let (mut filter, exited) = parse_filters(&args.filter)?;
    let limit = match args.last {
        _ if args.latest => Some(1),
        Some(last) if last >= 0 => usize::try_from(last).ok(),
        _ => None,
    };
    if filter.states.is_empty() && !args.all && limit.is_none() && exited.is_empty() {
        for state in ["running", "paused", "unknown", "restarting"] {
            filter.states.push(self::state(state)?.into());
        }
        filter.restarting = Some(true);
    }
    let client = context.client().await?;
    let mut containers = client.list_containers_with(filter, args.size).await?;
    let code = |container: &Container| {
        let exit = container.incarnation.as_ref().and_then(|incarnation| incarnation.exit.as_ref());
        exit.map(|exit| exit.exit_code)
    };
    containers.retain(|c| exited.is_empty() || code(c).is_some_and(|code| exited.contains(&code)));
    containers.truncate(limit.unwrap_or(usize::MAX));
    if args.quiet && args.format == Format::Table {
        let id = |c: &Container| match args.no_trunc {
            true => format!("{}\n", c.id),
            false => format!("{}\n", human::short_id(&c.id)),
        };
        output::print(&containers.iter().map(id).collect::<String>())?;
        return Ok(0);
    }
    let now = Timestamp::now();
    let list = List {
        columns: COLUMNS,
        shown: COLUMNS[..7]
            .iter()
            .map(|(key, _)| *key)
            .chain(args.size.then_some("Size"))
            .collect(),
        rows: containers.iter().map(|c| row(c, now, args.no_trunc)).collect(),
    };
    output::print(&list.render(&args.format)?)?;
    Ok(0)
}

/// The server's filter, and exit codes, which it does not look at.
fn parse_filters(given: &[String]) -> Result<(ContainerFilter, Vec<i32>)> {
    let mut filter = ContainerFilter::default();
    let mut exited = Vec::new();
    // Those that wait for their restart are wanted; those that do not are.
    let mut restarting = (false, false);
    let once = |place: &mut String, value: &str, key: &str| {
        if !place.is_empty() {
            bail!("--filter {key} can be given only once");
        }
        value.clone_into(place);
        Ok(())
    };
    for entry in given {
        let Some((key, value)) = entry.split_once('=') else {
            bail!("--filter {entry:?} is not KEY=VALUE, as in status=exited");
        };
        match key {
            "status" => {
                filter.states.push(state(value)?.into());
                match value {
                    "restarting" => restarting.0 = true,
                    "exited" | "stopped" => restarting.1 = true,
                    _ => {}
                }
            }
            "health" => match value {
                "starting" | "healthy" | "unhealthy" | "none" => {
                    filter.health.push(value.to_owned());
                }
                _ => bail!(
                    "--filter health={value}: there are starting, healthy, unhealthy and none"
                ),
            },
            "name" => once(&mut filter.name, value, key)?,
            "id" => once(&mut filter.id, value, key)?,
            "ancestor" | "image" => once(&mut filter.image, value, key)?,
            "label" => filter.labels.push(value.to_owned()),
            "exited" => match value.parse() {
                Ok(code) => exited.push(code),
                Err(_) => bail!("--filter {entry:?}: an exit code is a number"),
            },
            _ => {
                bail!(
                    "--filter {entry:?}: there are status, name, id, ancestor, label, exited and \
                     health"
                )
            }
        }
    }
    if restarting.0 != restarting.1 {
        filter.restarting = Some(restarting.0);
    }
    Ok((filter, exited))
}

fn state(given: &str) -> Result<ContainerState> {
    Ok(match given {
        "created" => ContainerState::Created,
        "running" => ContainerState::Running,
        "paused" => ContainerState::Paused,
        "exited" | "stopped" | "restarting" => ContainerState::Stopped,
        "unknown" => ContainerState::Unknown,
        _ => {
            bail!(
                "--filter status={given}: there are created, running, paused, restarting, exited \
                 and unknown"
            )
        }
    })
}

fn row(container: &Container, now: Timestamp, no_trunc: bool) -> Map<String, Value> {
    let spec = container.spec.clone().unwrap_or_default();
    let created = human::timestamp(container.created_at);
    let command = container.command.join(" ");
    let (id, command) = match no_trunc {
        true => (container.id.as_str(), command),
        false => (human::short_id(&container.id), human::shorten(&command, 20)),
    };
    let mut labels: Vec<String> = spec.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    labels.sort();
    let mounts: Vec<&str> = spec.mounts.iter().map(|mount| mount.source.as_str()).collect();
    let pid = container.incarnation.as_ref().map_or(0, |incarnation| incarnation.pid);
    let row = json!({
        "ID": id,
        "Image": human::familiar(&spec.image),
        "Command": human::quote(&command),
        "RunningFor": human::ago(created, now),
        "Status": human::status(container, now),
        "Ports": "",
        "Names": spec.name,
        "CreatedAt": human::date(created),
        "State": human::state(container),
        "Labels": labels.join(","),
        "Mounts": mounts.join(","),
        "Networks": spec.network,
        "Pid": pid,
        "Size": size(container),
    });
    match row {
        Value::Object(row) => row,
        _ => Map::new(),
    }
}

/// As Docker: what it has written, and that with its image.
fn size(container: &Container) -> String {
    match (container.size_rw_bytes, container.size_root_bytes) {
        (Some(own), Some(root)) => {
            format!("{} (virtual {})", human::size(own), human::size(root))
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        let given = ["status=exited", "label=a=b", "label=c", "name=web", "exited=1"];
        let given: Vec<String> = given.iter().map(|&s| s.to_owned()).collect();
        let (filter, exited) = parse_filters(&given).expect("good");
        assert_eq!(filter.states, [ContainerState::Stopped as i32]);
        assert_eq!(filter.labels, ["a=b", "c"]);
        assert_eq!((filter.name.as_str(), exited.as_slice()), ("web", &[1][..]));
        let wanted = |given: &[&str]| {
            let given: Vec<String> = given.iter().map(|&s| s.to_owned()).collect();
            parse_filters(&given).expect("good").0
        };
        assert_eq!(wanted(&["status=restarting"]).restarting, Some(true));
        assert_eq!(wanted(&["status=exited", "status=running"]).restarting, Some(false));
        assert_eq!(wanted(&["status=exited", "status=restarting"]).restarting, None);
        assert_eq!(wanted(&["health=healthy", "health=none"]).health, ["healthy", "none"]);
        for bad in ["health=ill", "status=gone", "x=y", "name", "exited=one"] {
            assert!(parse_filters(&[bad.to_owned()]).is_err(), "{bad}");
        }
        assert!(parse_filters(&["name=a".to_owned(), "name=b".to_owned()]).is_err());
    }

    #[test]
    fn rows_have_all_columns() {
        let row = row(&Container::default(), Timestamp::UNIX_EPOCH, false);
        for (key, _) in COLUMNS {
            assert!(row.contains_key(*key), "{key}");
        }
        assert_eq!(row.len(), COLUMNS.len());
    }
}
