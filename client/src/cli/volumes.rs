//! `volume`: create, ls, inspect, rm, prune.

use std::collections::HashMap;

use anyhow::{Result, bail};
use clap::Subcommand;
use serde_json::{Map, Value, json};
use wharf_client::{
    Kind,
    v1::{CreateVolumeRequest, PruneFilter, Volume},
};

use crate::cli::{
    context::Context,
    explain, human,
    lifecycle::each,
    output::{self, Column, Format, List},
    parse::env,
    prune::{self, PruneArgs},
    template::Template,
};

/// Commands on volumes
#[derive(Debug, clap::Args)]
pub(crate) struct VolumeCommand {
    #[command(subcommand)]
    pub(crate) command: VolumeVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum VolumeVerb {
    Create(CreateArgs),
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    Inspect(InspectArgs),
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
    Prune(VolumePruneArgs),
}

/// Create a volume
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf volume create data
  wharf volume create -o type=none -o o=bind -o device=/srv/data data")]
pub(crate) struct CreateArgs {
    /// Driver: there is only local
    #[arg(short, long, value_name = "DRIVER", default_value = "local")]
    driver: String,
    /// Option of the driver NAME=VALUE (repeatable)
    #[arg(short, long, value_name = "NAME=VALUE")]
    opt: Vec<String>,
    /// Label NAME=VALUE (repeatable)
    #[arg(long, value_name = "NAME=VALUE")]
    label: Vec<String>,
    /// Its name; made up if not given
    name: Option<String>,
}

/// List volumes
#[derive(Debug, clap::Args)]
#[command(after_help = "Filters: name=PART, label=NAME[=VALUE], driver=local,
dangling=true|false (no container has it). All must hold.

Examples:
  wharf volume ls
  wharf volume ls -q --filter dangling=true")]
pub(crate) struct LsArgs {
    /// Only names
    #[arg(short, long)]
    quiet: bool,
    /// Only those that match KEY=VALUE (repeatable)
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// table, json, or a template as in '{{.Name}}'
    #[arg(long, default_value = "table", hide_default_value = true)]
    format: Format,
}

/// Show all that is known of volumes
#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// json (pretty), or a template as in '{{.Mountpoint}}'
    #[arg(short, long, default_value = "json", hide_default_value = true)]
    format: String,
    #[arg(required = true, value_name = "VOLUME")]
    names: Vec<String>,
}

/// Remove volumes that no container has
#[derive(Debug, clap::Args)]
pub(crate) struct RmArgs {
    /// One that is not there is no error
    #[arg(short, long)]
    force: bool,
    #[arg(required = true, value_name = "VOLUME")]
    names: Vec<String>,
}

/// Remove volumes without a name that no container has
#[derive(Debug, clap::Args)]
#[command(after_help = "Filters: label=NAME[=VALUE], label!=NAME[=VALUE], all=true.

Examples:
  wharf volume prune
  wharf volume prune -af --filter label!=keep")]
pub(crate) struct VolumePruneArgs {
    /// Those with a name too
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    common: PruneArgs,
}

/// A filter.
type Test = Box<dyn Fn(&Volume) -> bool>;

const COLUMNS: &[Column] = &[
    ("Driver", "DRIVER"),
    ("Name", "VOLUME NAME"),
    ("Scope", "SCOPE"),
    ("Mountpoint", "MOUNTPOINT"),
    ("Labels", "LABELS"),
    ("Links", "LINKS"),
];

pub(crate) async fn volume(context: &Context, verb: VolumeVerb) -> Result<u8> {
    match verb {
        VolumeVerb::Create(args) => create(context, args).await,
        VolumeVerb::Ls(args) => ls(context, args).await,
        VolumeVerb::Inspect(args) => inspect(context, args).await,
        VolumeVerb::Rm(args) => rm(context, args).await,
        VolumeVerb::Prune(args) => prune_volumes(context, args).await,
    }
}

async fn create(context: &Context, args: CreateArgs) -> Result<u8> {
    let client = context.client().await?;
    let request = CreateVolumeRequest {
        name: args.name.unwrap_or_default(),
        driver: args.driver,
        options: options(&args.opt)?,
        labels: env::labels(&[], &args.label)?,
    };
    output::print_line(&client.create_volume(request).await?.name)?;
    Ok(0)
}

fn options(given: &[String]) -> Result<HashMap<String, String>> {
    let mut options = HashMap::new();
    for entry in given {
        match entry.split_once('=') {
            Some((key, value)) => options.insert(key.to_owned(), value.to_owned()),
            None => bail!("--opt {entry:?} is not NAME=VALUE"),
        };
    }
    Ok(options)
}

async fn ls(context: &Context, args: LsArgs) -> Result<u8> {
    let mut tests: Vec<Test> = Vec::new();
    for entry in &args.filter {
        let (key, value) = entry.split_once('=').unwrap_or((entry, ""));
        let value = value.to_owned();
        tests.push(match (key, value.as_str()) {
            ("name", _) => Box::new(move |v| v.name.contains(&value)),
            ("driver", _) => Box::new(move |v| v.driver == value),
            ("dangling", "true" | "1") => Box::new(|v| v.used_by.is_empty()),
            ("dangling", "false" | "0") => Box::new(|v| !v.used_by.is_empty()),
            ("label", _) => Box::new(move |v| match value.split_once('=') {
                Some((name, value)) => v.labels.get(name).is_some_and(|v| v == value),
                None => v.labels.contains_key(&value),
            }),
            _ => bail!("--filter {entry:?}: there are name, label, driver and dangling"),
        });
    }
    let client = context.client().await?;
    let mut volumes = client.list_volumes().await?;
    volumes.retain(|volume| tests.iter().all(|test| test(volume)));
    if args.quiet && args.format == Format::Table {
        output::print(&volumes.iter().map(|v| format!("{}\n", v.name)).collect::<String>())?;
        return Ok(0);
    }
    let rows = volumes.iter().map(row).collect();
    let list = List { columns: COLUMNS, shown: vec!["Driver", "Name"], rows };
    output::print(&list.render(&args.format)?)?;
    Ok(0)
}

fn row(volume: &Volume) -> Map<String, Value> {
    let mut labels: Vec<String> = volume.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    labels.sort();
    let row = json!({
        "Driver": volume.driver,
        "Name": volume.name,
        "Scope": "local",
        "Mountpoint": volume.mountpoint,
        "Labels": labels.join(","),
        "Links": volume.used_by.len().to_string(),
    });
    match row {
        Value::Object(row) => row,
        _ => Map::new(),
    }
}

async fn inspect(context: &Context, args: InspectArgs) -> Result<u8> {
    let template = match args.format.as_str() {
        "json" | "" => None,
        given => Some(given.parse::<Template>()?),
    };
    let client = context.client().await?;
    let mut found = Vec::new();
    let mut failed = false;
    for name in &args.names {
        match client.volume(name).await {
            Ok(volume) => found.push(shown(&volume)),
            Err(error @ wharf_client::Error::Connect { .. }) => return Err(error.into()),
            Err(error) => {
                failed = true;
                explain::tell(&error.into(), &[]);
            }
        }
    }
    match template {
        None => output::print_line(&serde_json::to_string_pretty(&Value::Array(found))?)?,
        Some(template) => {
            for value in &found {
                output::print_line(&template.render(value)?)?;
            }
        }
    }
    Ok(u8::from(failed))
}

/// As `docker volume inspect` has it.
fn shown(volume: &Volume) -> Value {
    let created = human::timestamp(volume.created_at).map(human::instant).unwrap_or_default();
    let options = if volume.options.is_empty() { Value::Null } else { json!(volume.options) };
    json!({
        "CreatedAt": created,
        "Driver": volume.driver,
        "Labels": volume.labels,
        "Mountpoint": volume.mountpoint,
        "Name": volume.name,
        "Options": options,
        "Scope": "local",
        "Anonymous": volume.anonymous,
    })
}

async fn rm(context: &Context, args: RmArgs) -> Result<u8> {
    let client = context.client().await?;
    each(context, &args.names, async |name: &str| match client.delete_volume(name).await {
        Err(error) if args.force && error.kind() == Kind::NotFound => Ok(name.to_owned()),
        other => Ok(other.map(|()| name.to_owned())?),
    })
    .await
}

async fn prune_volumes(context: &Context, args: VolumePruneArgs) -> Result<u8> {
    let (filter, more) = prune::filter(&args.common.filter, &["all"])?;
    let all = args.all || more.get("all").is_some_and(|v| matches!(v.as_str(), "true" | "1"));
    let what = match all {
        true => "This will remove all local volumes not used by at least one container.",
        false => "This will remove anonymous local volumes not used by at least one container.",
    };
    if !args.common.force && !prune::confirm(&format!("WARNING! {what}"))? {
        return Ok(1);
    }
    let client = context.client().await?;
    let gone = client.prune_volumes(all, filter).await?;
    output::print(&prune::told("Deleted Volumes:", &gone.deleted, Some(gone.reclaimed_bytes)))?;
    Ok(0)
}

/// Of `system prune`: those without a name.
pub(crate) fn only_anonymous(filter: &PruneFilter) -> PruneFilter {
    // Docker does not hold `until` against volumes.
    PruneFilter { until: None, ..filter.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_all_columns() {
        let row = row(&Volume::default());
        for (key, _) in COLUMNS {
            assert!(row.contains_key(*key), "{key}");
        }
        assert!(options(&["a=b".to_owned()]).is_ok() && options(&["a".to_owned()]).is_err());
        assert_eq!(shown(&Volume::default())["Options"], Value::Null);
    }
}
