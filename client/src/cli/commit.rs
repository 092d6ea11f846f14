//! `commit` and `history`.

use anyhow::{Result, bail};
use clap::ArgAction;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use wharf_client::v1::{CommitContainerRequest, HistoryStep, ImageHistoryResponse};

use crate::cli::{
    context::Context,
    human,
    output::{self, Column, Format, List},
};

/// Make an image of a container's changes
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The container is paused meanwhile, so that its files are of one moment. The image
takes over what the container was given: command, environment, user, labels.

Examples:
  wharf commit web web:patched
  wharf commit -m 'with tools' -a me --change 'CMD [\"app\"]' --change 'ENV A=1' web web:2"
)]
pub(crate) struct CommitArgs {
    /// Author, for the image's history
    #[arg(short, long, value_name = "WHO")]
    author: Option<String>,
    /// Message, for the image's history
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// Dockerfile instruction that changes the image's config (repeatable)
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// Pause the container meanwhile
    #[arg(short, long, value_name = "true|false", num_args = 0..=1, require_equals = true,
          default_value_t = true, default_missing_value = "true", action = ArgAction::Set)]
    pause: bool,
    /// Let the container run on: files may be caught half written
    #[arg(long)]
    no_pause: bool,
    /// Name, id or unique beginning of an id
    container: String,
    /// Name of the image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

/// Show how an image came about
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf history busybox
  wharf history --no-trunc --format '{{.CreatedBy}}' busybox")]
pub(crate) struct HistoryArgs {
    /// Sizes and times for people: true or false
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true,
          default_value_t = true, default_missing_value = "true", action = ArgAction::Set)]
    human: bool,
    /// Do not shorten
    #[arg(long)]
    no_trunc: bool,
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// table, json, or a template as in '{{.ID}}: {{.CreatedBy}}'
    #[arg(long, default_value = "table", hide_default_value = true)]
    format: Format,
    /// Reference, id or unique beginning of an id
    image: String,
}

const COLUMNS: &[Column] = &[
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
    ("CreatedAt", "CREATED AT"),
    ("DiffID", "DIFF ID"),
];
const CREATED_BY_LEN: usize = 45;

pub(crate) async fn commit(context: &Context, args: CommitArgs) -> Result<u8> {
    let client = context.client().await?;
    let request = CommitContainerRequest {
        container: args.container,
        name: args.name.unwrap_or_default(),
        message: args.message.unwrap_or_default(),
        author: args.author.unwrap_or_default(),
        changes: args.change,
        keep_running: args.no_pause || !args.pause,
    };
    let image = client.commit_container(request).await?;
    output::print_line(&image.id)?;
    Ok(0)
}

pub(crate) async fn history(context: &Context, args: HistoryArgs) -> Result<u8> {
    let client = context.client().await?;
    let history = client.image_history(&args.image).await?;
    let rows = rows(&history, &args, Timestamp::now());
    if args.quiet && args.format == Format::Table {
        let ids = rows.iter().filter_map(|row| row.get("ID")?.as_str());
        output::print(&ids.map(|id| format!("{id}\n")).collect::<String>())?;
        return Ok(0);
    }
    if rows.is_empty() && args.format == Format::Table {
        bail!("the image says nothing of how it came about");
    }
    let shown = COLUMNS[..5].iter().map(|(key, _)| *key).collect();
    let list = List { columns: COLUMNS, shown, rows };
    output::print(&list.render(&args.format)?)?;
    Ok(0)
}

fn rows(
    history: &ImageHistoryResponse,
    args: &HistoryArgs,
    now: Timestamp,
) -> Vec<Map<String, Value>> {
    let row = |(index, step): (usize, &HistoryStep)| {
        let created = human::timestamp(step.created_at);
        let id = match index {
            0 if args.no_trunc => history.id.as_str(),
            0 => human::short_id(&history.id),
            _ => "<missing>",
        };
        let by = if args.no_trunc { step.created_by.clone() } else { short(&step.created_by) };
        let row = json!({
            "ID": id,
            "CreatedSince": match args.human {
                true => human::ago(created, now),
                false => created.map(human::instant).unwrap_or_default(),
            },
            "CreatedAt": created.map(human::instant).unwrap_or_default(),
            "CreatedBy": by,
            "Size": if args.human { human::size(step.size_bytes) } else { step.size_bytes.to_string() },
            "Comment": step.comment,
            "DiffID": step.diff_id,
        });
        match row {
            Value::Object(row) => row,
            _ => Map::new(),
        }
    };
    history.steps.iter().enumerate().map(row).collect()
}

/// On one line, not too long.
fn short(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= CREATED_BY_LEN {
        return line;
    }
    line.chars().take(CREATED_BY_LEN - 1).chain(['…']).collect()
}
