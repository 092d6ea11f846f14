//! `images` and `rmi`.

use anyhow::{Result, bail};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use wharf_client::v1::Image;

use crate::cli::{
    context::Context,
    human,
    lifecycle::each,
    output::{self, Column, Format, List},
};

/// List images
#[derive(Debug, clap::Args)]
#[command(after_help = "Filters: reference=PART, dangling=true|false, label=NAME[=VALUE].

Examples:
  wharf images
  wharf images busybox
  wharf images --format '{{.Repository}}:{{.Tag}} {{.ID}}'")]
pub(crate) struct ImagesArgs {
    /// For Docker's sake: all images are listed anyway
    #[arg(short, long, hide = true)]
    all: bool,
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// Only those that match KEY=VALUE (repeatable)
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// table, json, or a template as in '{{.Repository}}:{{.Tag}}'
    #[arg(long, default_value = "table", hide_default_value = true)]
    format: Format,
    /// Do not shorten ids
    #[arg(long)]
    no_trunc: bool,
    /// Also the digests
    #[arg(long)]
    digests: bool,
    /// Only this repository or repository:tag
    #[arg(value_name = "REPOSITORY[:TAG]")]
    reference: Option<String>,
}

/// Remove images
#[derive(Debug, clap::Args)]
#[command(
    after_help = "An image with several names loses the one that is given; with the last name the image goes.

Examples:
  wharf rmi busybox:latest
  wharf rmi -f 3f5a1c"
)]
pub(crate) struct RmiArgs {
    /// Remove it with all its names, even if containers were made from it
    #[arg(short, long)]
    force: bool,
    /// References, ids or unique beginnings of ids
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

const COLUMNS: &[Column] = &[
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("Size", "SIZE"),
    ("CreatedAt", "CREATED AT"),
    ("Platform", "PLATFORM"),
];

#[derive(Debug, Default)]
struct Filters {
    reference: Option<String>,
    dangling: Option<bool>,
    labels: Vec<String>,
}

pub(crate) async fn images(context: &Context, args: ImagesArgs) -> Result<u8> {
    let filters = parse_filters(&args.filter)?;
    let part = filters.reference.clone().unwrap_or_default();
    let client = context.client().await?;
    let mut images = client.list_images(&part).await?;
    images.retain(|image| matches(image, &filters));
    images.sort_by_key(|image| {
        std::cmp::Reverse(image.created_at.map_or((0, 0), |at| (at.seconds, at.nanos)))
    });
    let now = Timestamp::now();
    let rows: Vec<_> = images
        .iter()
        .flat_map(|image| rows(image, args.reference.as_deref(), now, args.no_trunc))
        .collect();
    if args.quiet && args.format == Format::Table {
        let mut ids: Vec<&str> = rows.iter().filter_map(|row| row.get("ID")?.as_str()).collect();
        ids.dedup();
        output::print(&ids.iter().map(|id| format!("{id}\n")).collect::<String>())?;
        return Ok(0);
    }
    let shown = COLUMNS[..6].iter().map(|(key, _)| *key);
    let shown = shown.filter(|key| args.digests || *key != "Digest").collect();
    let list = List { columns: COLUMNS, shown, rows };
    output::print(&list.render(&args.format)?)?;
    Ok(0)
}

fn parse_filters(given: &[String]) -> Result<Filters> {
    let mut filters = Filters::default();
    for entry in given {
        match entry.split_once('=') {
            Some(("reference", value)) => filters.reference = Some(value.to_owned()),
            Some(("dangling", "true" | "1")) => filters.dangling = Some(true),
            Some(("dangling", "false" | "0")) => filters.dangling = Some(false),
            Some(("label", value)) => filters.labels.push(value.to_owned()),
            _ => bail!(
                "--filter {entry:?}: there are reference=PART, dangling=true|false and \
                 label=NAME[=VALUE]"
            ),
        }
    }
    Ok(filters)
}

fn matches(image: &Image, filters: &Filters) -> bool {
    let label = |given: &String| match given.split_once('=') {
        Some((name, value)) => image.labels.get(name).is_some_and(|v| v == value),
        None => image.labels.contains_key(given),
    };
    filters.dangling.is_none_or(|dangling| image.names.is_empty() == dangling)
        && filters.labels.iter().all(label)
}

/// One row a name, as Docker has it; one with `<none>` for an image with no name.
fn rows(
    image: &Image,
    only: Option<&str>,
    now: Timestamp,
    no_trunc: bool,
) -> Vec<Map<String, Value>> {
    let names: Vec<&str> = match image.names.is_empty() {
        true => vec![""],
        false => image.names.iter().map(|name| human::familiar(name)).collect(),
    };
    let wanted = |name: &&str| {
        only.is_none_or(|only| {
            let only = human::familiar(only);
            let (repository, ..) = human::split_reference(name);
            *name == only || repository == only
        })
    };
    let row = |name: &str| {
        let (repository, tag, _) = human::split_reference(name);
        let or_none = |text: &str| if text.is_empty() { "<none>" } else { text }.to_owned();
        let created = human::timestamp(image.created_at);
        let row = json!({
            "Repository": or_none(repository),
            "Tag": or_none(tag.unwrap_or("")),
            "Digest": or_none(&image.digest),
            "ID": if no_trunc { &image.id } else { human::short_id(&image.id) },
            "CreatedSince": human::ago(created, now),
            "Size": human::size(image.size_bytes),
            "CreatedAt": human::date(created),
            "Platform": image.platform,
        });
        match row {
            Value::Object(row) => row,
            _ => Map::new(),
        }
    };
    names.into_iter().filter(wanted).map(row).collect()
}

pub(crate) async fn rmi(context: &Context, args: RmiArgs) -> Result<u8> {
    let client = context.client().await?;
    each(context, &args.images, async |name: &str| {
        let gone = client.delete_image(name, args.force).await?;
        let untagged = gone.untagged.iter().map(|n| format!("Untagged: {}", human::familiar(n)));
        // The only layer's chain id is its own digest.
        let once = |(at, digest): &(usize, &String)| !gone.deleted[..*at].contains(digest);
        let deleted = gone.deleted.iter().enumerate().filter(once);
        let deleted = deleted.map(|(_, digest)| format!("Deleted: {digest}"));
        Ok(untagged.chain(deleted).collect::<Vec<_>>().join("\n"))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_row_a_name() {
        let image = Image {
            id: "sha256:0123456789abcdef".to_owned(),
            names: vec!["docker.io/library/a:1".to_owned(), "localhost:5000/b:2".to_owned()],
            ..Image::default()
        };
        let all = rows(&image, None, Timestamp::UNIX_EPOCH, false);
        assert_eq!(all.len(), 2);
        assert_eq!((&all[0]["Repository"], &all[0]["Tag"]), (&json!("a"), &json!("1")));
        assert_eq!(all[1]["Repository"], "localhost:5000/b");
        assert_eq!(all[0]["ID"], "0123456789ab");
        assert_eq!(rows(&image, Some("a"), Timestamp::UNIX_EPOCH, true).len(), 1);
        assert_eq!(rows(&image, Some("a:2"), Timestamp::UNIX_EPOCH, true).len(), 0);
        let unnamed = rows(&Image::default(), None, Timestamp::UNIX_EPOCH, true);
        assert_eq!(unnamed[0]["Repository"], "<none>");
    }
}
