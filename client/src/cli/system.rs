//! `info` and `version`.

use std::fmt::Write as _;

use anyhow::Result;
use serde_json::{Value, json};
use wharf_client::v1::{InfoResponse, VersionResponse};

use crate::cli::{context::Context, explain, human, output, template::Template};

/// Show the supervisor and its host
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf info
  wharf info --format '{{.ContainersRunning}}'")]
pub(crate) struct InfoArgs {
    /// json, or a template as in '{{.ContainersRunning}}'
    #[arg(short, long, default_value = "", hide_default_value = true)]
    format: String,
}

/// Show the versions of this program and of the supervisor
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf version
  wharf version --format '{{.Server.Version}}'")]
pub(crate) struct VersionArgs {
    /// json, or a template as in '{{.Server.Version}}'
    #[arg(short, long, default_value = "", hide_default_value = true)]
    format: String,
}

/// Prints a value as `--format` says; false if it says nothing.
fn formatted(value: &Value, format: &str) -> Result<bool> {
    match format {
        "" | "table" => return Ok(false),
        "json" => output::print_line(&serde_json::to_string(value)?)?,
        given => output::print_line(&given.parse::<Template>()?.render(value)?)?,
    }
    Ok(true)
}

fn server(version: &VersionResponse) -> Value {
    json!({
        "Version": version.version,
        "ApiVersion": version.api_version,
        "GitCommit": version.git_commit,
        "RustVersion": version.rust_version,
        "Os": version.os,
        "Arch": version.arch,
        "KernelVersion": version.kernel_version,
    })
}

pub(crate) async fn info(context: &Context, args: InfoArgs) -> Result<u8> {
    let client = context.client().await?;
    let info = client.info().await?;
    if !formatted(&info_value(&info), &args.format)? {
        output::print(&info_text(&info))?;
    }
    for warning in &info.warnings {
        output::complain(&format!("WARNING: {warning}"));
    }
    Ok(0)
}

fn info_value(info: &InfoResponse) -> Value {
    let version = info.version.clone().unwrap_or_default();
    json!({
        "Containers": info.containers,
        "ContainersRunning": info.containers_running,
        "ContainersStopped": info.containers_stopped,
        "Images": info.images,
        "Driver": info.snapshotter,
        "DefaultNetwork": info.default_network,
        "CgroupVersion": info.cgroup_version,
        "ServerVersion": version.version,
        "KernelVersion": version.kernel_version,
        "OSType": version.os,
        "Architecture": version.arch,
        "NCPU": info.cpus,
        "MemTotal": info.memory_bytes,
        "Name": info.hostname,
        "RootDir": info.root_dir,
        "StateDir": info.state_dir,
        "ShimPath": info.shim_path,
        "Pid": info.pid,
        "StartedAt": human::timestamp(info.started_at).map(human::instant),
        "Warnings": info.warnings,
    })
}

fn info_text(info: &InfoResponse) -> String {
    let version = info.version.clone().unwrap_or_default();
    let started = human::timestamp(info.started_at).map(human::instant).unwrap_or_default();
    let mut text = String::from("Server:\n");
    let mut line = |name: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(text, " {name}: {value}");
    };
    line("Containers", &info.containers);
    line(" Running", &info.containers_running);
    line(" Stopped", &info.containers_stopped);
    line("Images", &info.images);
    line("Server Version", &version.version);
    line("Process", &format_args!("{} (since {started})", info.pid));
    line("Storage Driver", &info.snapshotter);
    line("Default Network", &info.default_network);
    line("Cgroup Version", &info.cgroup_version);
    line("Kernel Version", &version.kernel_version);
    line("OSType", &version.os);
    line("Architecture", &version.arch);
    line("CPUs", &info.cpus);
    line("Total Memory", &human::memory(info.memory_bytes));
    line("Name", &info.hostname);
    line("Root Dir", &info.root_dir);
    line("State Dir", &info.state_dir);
    line("Shim", &info.shim_path);
    text
}

pub(crate) async fn version(context: &Context, args: VersionArgs) -> Result<u8> {
    let client_version = env!("CARGO_PKG_VERSION");
    let client = context.client().await?;
    let answer = client.version().await;
    let own = json!({
        "Version": client_version,
        "ApiVersion": "wharf.v1",
        "Os": std::env::consts::OS,
        "Arch": std::env::consts::ARCH,
    });
    let there = answer.as_ref().map_or(Value::Null, server);
    if !formatted(&json!({"Client": own, "Server": there}), &args.format)? {
        let mut text = String::new();
        let _ = write!(text, "Client:\n Version:      {client_version}\n API version:  wharf.v1\n");
        let _ =
            writeln!(text, " OS/Arch:      {}/{}", std::env::consts::OS, std::env::consts::ARCH);
        if let Ok(server) = &answer {
            text += "\nServer: wharfd\n";
            for (name, value) in [
                ("Version", &server.version),
                ("API version", &server.api_version),
                ("Git commit", &server.git_commit),
                ("Rust version", &server.rust_version),
                ("OS/Arch", &format!("{}/{}", server.os, server.arch)),
                ("Kernel", &server.kernel_version),
            ] {
                // A build outside a repository knows no commit.
                if !value.is_empty() {
                    let _ = writeln!(text, " {:<13} {value}", format!("{name}:"));
                }
            }
        }
        output::print(&text)?;
    }
    match answer {
        Ok(_) => Ok(0),
        // As Docker: this program's part is told, then what is wrong with the other.
        Err(error) => {
            let error = error.into();
            explain::tell(&error, &explain::hints(context, &error).await);
            Ok(1)
        }
    }
}
