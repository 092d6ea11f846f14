//! `image prune`, `container prune`, `system prune` and `system df`.

use std::{
    collections::HashMap,
    fmt::Write as _,
    io::{self, BufRead as _, IsTerminal as _},
};

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use wharf_client::v1::{ContainerState, DiskUsageResponse, PruneFilter};

use crate::cli::{
    context::Context,
    human,
    output::{self, Column, Format, List},
    parse::time,
    volumes,
};

/// Flags of every prune.
#[derive(Debug, clap::Args)]
pub(crate) struct PruneArgs {
    /// Do not ask
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Only those that match: until=TIME, label=NAME[=VALUE], label!=NAME[=VALUE] (repeatable)
    #[arg(long, value_name = "FILTER")]
    pub(crate) filter: Vec<String>,
}

/// Remove containers that do not run
#[derive(Debug, clap::Args)]
pub(crate) struct ContainerPruneArgs {
    #[command(flatten)]
    common: PruneArgs,
}

/// Remove images that are not needed
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf image prune
  wharf image prune -af --filter until=240h")]
pub(crate) struct ImagePruneArgs {
    /// All that no container was made from, not only those without a name
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    common: PruneArgs,
}

/// Remove all that is not needed
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf system prune
  wharf system prune -af --volumes")]
pub(crate) struct SystemPruneArgs {
    /// All images that no container was made from, not only those without a name
    #[arg(short, long)]
    all: bool,
    /// Also volumes without a name
    #[arg(long)]
    volumes: bool,
    #[command(flatten)]
    common: PruneArgs,
}

/// Show what images, containers and volumes take on the disk
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf system df
  wharf system df -v")]
pub(crate) struct DfArgs {
    /// Each one
    #[arg(short, long)]
    verbose: bool,
    /// table, json, or a template as in '{{.Type}}: {{.Size}}'
    #[arg(long, default_value = "table", hide_default_value = true)]
    format: Format,
}

const ASK: &str = "Are you sure you want to continue? [y/N] ";

/// Asks on the terminal, as Docker does; anything but yes is no.
pub(crate) fn confirm(warning: &str) -> Result<bool> {
    output::print(&format!("{warning}\n{ASK}"))?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).context("read the answer")?;
    if !io::stdin().is_terminal() {
        output::print("\n")?;
    }
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Filters of a prune; those named in `more` are given back.
pub(crate) fn filter(
    given: &[String],
    more: &[&str],
) -> Result<(PruneFilter, HashMap<String, String>)> {
    let mut filter = PruneFilter::default();
    let mut others = HashMap::new();
    for entry in given {
        let Some((key, value)) = entry.split_once('=') else {
            bail!("--filter {entry:?} is not KEY=VALUE, as in until=24h");
        };
        match key {
            "until" => {
                let at = time::moment(value, Timestamp::now()).context("--filter until")?;
                filter.until = Some(prost_types::Timestamp {
                    seconds: at.as_second(),
                    nanos: at.subsec_nanosecond(),
                });
            }
            "label" => filter.labels.push(value.to_owned()),
            "label!" => filter.labels_not.push(value.to_owned()),
            key if more.contains(&key) => {
                others.insert(key.to_owned(), value.to_owned());
            }
            _ => bail!("--filter {entry:?}: there are until, label and label!"),
        }
    }
    Ok((filter, others))
}

/// A list under its heading, and the sum.
pub(crate) fn told(heading: &str, gone: &[String], bytes: Option<u64>) -> String {
    let mut text = String::new();
    if !gone.is_empty() {
        let _ = writeln!(text, "{heading}\n{}\n", gone.join("\n"));
    }
    if let Some(bytes) = bytes {
        let _ = writeln!(text, "Total reclaimed space: {}", human::size(bytes));
    }
    text
}

pub(crate) async fn containers(context: &Context, args: ContainerPruneArgs) -> Result<u8> {
    let (filter, _) = filter(&args.common.filter, &[])?;
    let warning = "WARNING! This will remove all stopped containers.";
    if !args.common.force && !confirm(warning)? {
        return Ok(1);
    }
    let gone = context.client().await?.prune_containers(filter).await?;
    output::print(&told("Deleted Containers:", &gone.deleted, Some(gone.reclaimed_bytes)))?;
    Ok(0)
}

pub(crate) async fn images(context: &Context, args: ImagePruneArgs) -> Result<u8> {
    let (filter, more) = filter(&args.common.filter, &["dangling"])?;
    let all = args.all || more.get("dangling").is_some_and(|v| matches!(v.as_str(), "false" | "0"));
    let warning = match all {
        true => {
            "WARNING! This will remove all images without at least one container associated \
                 to them."
        }
        false => "WARNING! This will remove all dangling images.",
    };
    if !args.common.force && !confirm(warning)? {
        return Ok(1);
    }
    let gone = context.client().await?.prune_images(all, filter).await?;
    output::print(&told("Deleted Images:", &image_lines(&gone), Some(gone.reclaimed_bytes)))?;
    Ok(0)
}

fn image_lines(gone: &wharf_client::v1::PruneResponse) -> Vec<String> {
    let untagged = gone.untagged.iter().map(|n| format!("untagged: {}", human::familiar(n)));
    untagged.chain(gone.deleted.iter().map(|id| format!("deleted: {id}"))).collect()
}

pub(crate) async fn system(context: &Context, args: SystemPruneArgs) -> Result<u8> {
    let (filter, _) = filter(&args.common.filter, &[])?;
    let mut warning = String::from("WARNING! This will remove:\n  - all stopped containers\n");
    if args.volumes {
        warning += "  - all anonymous volumes not used by at least one container\n";
    }
    warning += match args.all {
        true => "  - all images without at least one container associated to them\n",
        false => "  - all dangling images\n",
    };
    if !args.common.force && !confirm(&warning)? {
        return Ok(1);
    }
    let client = context.client().await?;
    let containers = client.prune_containers(filter.clone()).await?;
    output::print(&told("Deleted Containers:", &containers.deleted, None))?;
    let mut bytes = containers.reclaimed_bytes;
    if args.volumes {
        let gone = client.prune_volumes(false, volumes::only_anonymous(&filter)).await?;
        output::print(&told("Deleted Volumes:", &gone.deleted, None))?;
        bytes += gone.reclaimed_bytes;
    }
    let images = client.prune_images(args.all, filter).await?;
    bytes += images.reclaimed_bytes;
    output::print(&told("Deleted Images:", &image_lines(&images), Some(bytes)))?;
    Ok(0)
}

const COLUMNS: &[Column] = &[
    ("Type", "TYPE"),
    ("TotalCount", "TOTAL"),
    ("Active", "ACTIVE"),
    ("Size", "SIZE"),
    ("Reclaimable", "RECLAIMABLE"),
];
const IMAGES: &[Column] = &[
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("ID", "IMAGE ID"),
    ("Size", "SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("InUse", "IN USE"),
];
const CONTAINERS: &[Column] = &[
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Size", "SIZE"),
    ("Inodes", "INODES"),
    ("Status", "STATUS"),
    ("Names", "NAMES"),
];
const VOLUMES: &[Column] =
    &[("Name", "VOLUME NAME"), ("Links", "LINKS"), ("Size", "SIZE"), ("Inodes", "INODES")];

pub(crate) async fn df(context: &Context, args: DfArgs) -> Result<u8> {
    let usage = context.client().await?.disk_usage().await?;
    if args.verbose && args.format == Format::Table {
        for (title, columns, rows) in each(&usage) {
            let shown = columns.iter().map(|(key, _)| *key).collect();
            let list = List { columns, shown, rows };
            output::print(&format!("{title} space usage:\n\n{}\n", list.render(&args.format)?))?;
        }
        return Ok(0);
    }
    let shown = COLUMNS.iter().map(|(key, _)| *key).collect();
    let list = List { columns: COLUMNS, shown, rows: sums(&usage) };
    output::print(&list.render(&args.format)?)?;
    Ok(0)
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(row) => row,
        _ => Map::new(),
    }
}

fn sums(usage: &DiskUsageResponse) -> Vec<Map<String, Value>> {
    let row = |kind: &str, total: usize, active: usize, bytes: u64, free: u64| {
        let percent = free.saturating_mul(100).checked_div(bytes).unwrap_or(0);
        object(json!({
            "Type": kind,
            "TotalCount": total.to_string(),
            "Active": active.to_string(),
            "Size": human::size(bytes),
            "Reclaimable": format!("{} ({percent}%)", human::size(free)),
        }))
    };
    let runs = |c: &&wharf_client::v1::ContainerDiskUsage| {
        let state = c.container.as_ref().map(wharf_client::v1::Container::state);
        !matches!(state, Some(ContainerState::Created | ContainerState::Stopped) | None)
    };
    let has_users = |v: &&wharf_client::v1::VolumeDiskUsage| {
        v.volume.as_ref().is_some_and(|v| !v.used_by.is_empty())
    };
    let containers: u64 = usage.containers.iter().map(|c| c.bytes).sum();
    let busy: u64 = usage.containers.iter().filter(runs).map(|c| c.bytes).sum();
    let volumes: u64 = usage.volumes.iter().map(|v| v.bytes).sum();
    let had: u64 = usage.volumes.iter().filter(has_users).map(|v| v.bytes).sum();
    vec![
        row(
            "Images",
            usage.images.len(),
            usage.images.iter().filter(|i| i.in_use).count(),
            usage.images_bytes,
            usage.images_reclaimable_bytes,
        ),
        row(
            "Containers",
            usage.containers.len(),
            usage.containers.iter().filter(runs).count(),
            containers,
            containers - busy,
        ),
        row(
            "Local Volumes",
            usage.volumes.len(),
            usage.volumes.iter().filter(has_users).count(),
            volumes,
            volumes - had,
        ),
    ]
}

type Table = (&'static str, &'static [Column], Vec<Map<String, Value>>);

fn each(usage: &DiskUsageResponse) -> Vec<Table> {
    let now = Timestamp::now();
    let images = usage.images.iter().map(|one| {
        let image = one.image.clone().unwrap_or_default();
        let name = image.names.first().map(|name| human::familiar(name)).unwrap_or_default();
        let (repository, tag, _) = human::split_reference(name);
        let or_none = |text: &str| if text.is_empty() { "<none>" } else { text }.to_owned();
        object(json!({
            "Repository": or_none(repository),
            "Tag": or_none(tag.unwrap_or("")),
            "ID": human::short_id(&image.id),
            "Size": human::size(one.shared_bytes + one.unique_bytes),
            "SharedSize": human::size(one.shared_bytes),
            "UniqueSize": human::size(one.unique_bytes),
            "InUse": if one.in_use { "yes" } else { "no" },
        }))
    });
    let containers = usage.containers.iter().map(|one| {
        let container = one.container.clone().unwrap_or_default();
        let spec = container.spec.clone().unwrap_or_default();
        object(json!({
            "ID": human::short_id(&container.id),
            "Image": human::familiar(&spec.image),
            "Size": human::size(one.bytes),
            "Inodes": one.inodes.to_string(),
            "Status": human::status(&container, now),
            "Names": spec.name,
        }))
    });
    let volumes = usage.volumes.iter().map(|one| {
        let volume = one.volume.clone().unwrap_or_default();
        object(json!({
            "Name": volume.name,
            "Links": volume.used_by.len().to_string(),
            "Size": human::size(one.bytes),
            "Inodes": one.inodes.to_string(),
        }))
    });
    vec![
        ("Images", IMAGES, images.collect()),
        ("Containers", CONTAINERS, containers.collect()),
        ("Local Volumes", VOLUMES, volumes.collect()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        let list = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let (filter, more) =
            super::filter(&list(&["until=24h", "label=a", "label!=b=c", "all=1"]), &["all"])
                .expect("filters");
        assert!(filter.until.is_some());
        assert_eq!((filter.labels, filter.labels_not), (list(&["a"]), list(&["b=c"])));
        assert_eq!(more["all"], "1");
        for bad in ["x=y", "until=later", "label", "all=1"] {
            assert!(super::filter(&list(&[bad]), &[]).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_told() {
        assert_eq!(told("H:", &[], Some(0)), "Total reclaimed space: 0B\n");
        assert_eq!(told("H:", &["a".into(), "b".into()], None), "H:\na\nb\n\n");
        assert_eq!(sums(&DiskUsageResponse::default()).len(), 3);
        assert_eq!(each(&DiskUsageResponse::default()).len(), 3);
    }
}
