//! `system doctor` and `system backup`.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::{Map, Value, json};
use wharf_client::v1::{DoctorRequest, Finding};

use crate::cli::{
    context::Context,
    output::{self, Column, Format, List},
    save::Target,
};

/// Look for what is damaged, missing or nobody's
#[derive(Debug, clap::Args)]
#[command(after_help = "Ends with 1 if anything is wrong (after --repair: if anything still is).
Nothing is deleted: what can't be understood is moved to set-aside in the supervisor's root folder.

Examples:
  wharf system doctor
  wharf system doctor --repair
  wharf system doctor --deep --format json

With the supervisor stopped: wharfd --check, and wharfd --restore FILE.")]
pub(crate) struct DoctorArgs {
    /// Put right what can be; the last column says what that is
    #[arg(long)]
    repair: bool,
    /// Read every byte of every image too
    #[arg(long)]
    deep: bool,
    /// table, json, or a template as in '{{.What}}: {{.Problem}}'
    #[arg(long, default_value = "table", hide_default_value = true)]
    format: Format,
}

/// Write all metadata to a file, while everything runs on
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf system backup /srv/backup/wharf-$(date +%F)

With the supervisor stopped and <root>/meta moved away, wharfd --restore FILE makes it again. Images'
content and containers' files are not in it.")]
pub(crate) struct BackupArgs {
    /// The file; - for standard output
    file: PathBuf,
}

const COLUMNS: &[Column] = &[
    ("State", "STATE"),
    ("Kind", "KIND"),
    ("What", "WHAT"),
    ("Problem", "PROBLEM"),
    ("Remedy", "REMEDY"),
    ("Repairable", "REPAIRABLE"),
];

fn row(state: &str, finding: &Finding) -> Map<String, Value> {
    match json!({
        "State": state,
        "Kind": finding.kind,
        "What": finding.what,
        "Problem": finding.problem,
        "Remedy": finding.remedy,
        "Repairable": finding.repairable,
    }) {
        Value::Object(row) => row,
        _ => Map::new(),
    }
}

pub(crate) async fn doctor(context: &Context, args: DoctorArgs) -> Result<u8> {
    let client = context.client().await?;
    let request = DoctorRequest { repair: args.repair, deep: args.deep };
    let report = client.doctor(request).await?;
    let all =
        [("repaired", &report.repaired), ("failed", &report.failed), ("wrong", &report.findings)];
    let rows: Vec<_> = all
        .into_iter()
        .flat_map(|(state, findings)| findings.iter().map(move |one| row(state, one)))
        .collect();
    let is_table = args.format == Format::Table;
    if rows.is_empty() && is_table {
        output::print_line("nothing is wrong")?;
    } else {
        let shown = vec!["State", "Kind", "What", "Problem", "Remedy"];
        output::print(&List { columns: COLUMNS, shown, rows }.render(&args.format)?)?;
    }
    if report.settled > 0 && is_table {
        output::complain(&format!(
            "{} things are in set-aside/settled: remove them when you need them no more",
            report.settled
        ));
    }
    Ok(u8::from(!report.findings.is_empty() || !report.failed.is_empty()))
}

pub(crate) async fn backup(context: &Context, args: BackupArgs) -> Result<u8> {
    let client = context.client().await?;
    let mut backup = client.backup().await?;
    // The first piece shows that there will be one: only then is a file touched.
    let mut next = backup.next().await?;
    let mut target = Target::open((args.file.as_os_str() != "-").then_some(&args.file))?;
    while let Some(piece) = next {
        target.write(&piece)?;
        next = backup.next().await?;
    }
    target.finish()?;
    Ok(0)
}
