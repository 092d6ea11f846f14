//! `inspect`: all that is known of containers and images, under the names Docker gives it.

use anyhow::{Result, bail};
use jiff::Timestamp;
use serde_json::{Value, json};
use wharf_client::{
    Client, Kind,
    v1::{Container, ContainerSpec, ContainerState, Image, Mount},
};

use crate::cli::{context::Context, explain, health, human, output, template::Template};

/// Show all that is known of containers and images
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf inspect web
  wharf inspect -f '{{.State.Pid}}' web
  wharf inspect --type image busybox
  wharf inspect --oci web                the OCI spec it runs with")]
pub(crate) struct InspectArgs {
    /// Only of this type
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    kind: Option<What>,
    /// json (pretty), or a template as in '{{.State.Pid}}'
    #[arg(short, long, default_value = "json", hide_default_value = true)]
    format: String,
    /// The OCI spec of a container, as the runtime gets it
    #[arg(long)]
    oci: bool,
    /// For Docker's sake: sizes of containers are not known yet
    #[arg(short, long, hide = true)]
    size: bool,
    /// Names, ids or unique beginnings of ids
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    Container,
    Image,
}

impl InspectArgs {
    pub(crate) fn only_containers(mut self) -> Self {
        self.kind = Some(What::Container);
        self
    }

    pub(crate) fn only_images(mut self) -> Self {
        self.kind = Some(What::Image);
        self
    }
}

pub(crate) async fn inspect(context: &Context, args: InspectArgs) -> Result<u8> {
    let template = match args.format.as_str() {
        "json" | "" => None,
        given => Some(given.parse::<Template>()?),
    };
    let client = context.client().await?;
    let mut found = Vec::new();
    let mut failed = false;
    for name in &args.names {
        match one(&client, name, args.kind, args.oci).await {
            Ok(value) => found.push(value),
            Err(error) => {
                if let Some(wharf_client::Error::Connect { .. }) = explain::client_error(&error) {
                    return Err(error);
                }
                failed = true;
                let hints = match explain::client_error(&error) {
                    Some(_) => explain::hints(context, &error).await,
                    None => explain::any_hint(context, name).await,
                };
                explain::tell(&error, &hints);
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

async fn one(client: &Client, name: &str, kind: Option<What>, oci: bool) -> Result<Value> {
    if kind != Some(What::Image) {
        match client.container_with_spec(name).await {
            Ok((_, spec)) if oci => return Ok(serde_json::from_str(&spec)?),
            Ok((found, _)) => return Ok(container(&found)),
            Err(error) if error.kind() == Kind::NotFound && kind.is_none() && !oci => {}
            Err(error) => return Err(error.into()),
        }
    }
    match client.image(name).await {
        Ok((found, config)) => Ok(image(&found, &config)),
        Err(error) if error.kind() == Kind::NotFound && kind.is_none() => {
            bail!("neither a container nor an image is called {name}")
        }
        Err(error) => Err(error.into()),
    }
}

/// Go's zero time, which Docker has where there is no time.
fn time(at: Option<prost_types::Timestamp>) -> String {
    const NEVER: &str = "0001-01-01T00:00:00Z";
    human::timestamp(at).map_or_else(|| NEVER.to_owned(), |at: Timestamp| human::instant(at))
}

fn container(container: &Container) -> Value {
    let spec = container.spec.clone().unwrap_or_default();
    let (path, arguments) = match container.command.split_first() {
        Some((path, arguments)) => (path.as_str(), arguments),
        None => ("", &[][..]),
    };
    json!({
        "Id": container.id,
        "Created": time(container.created_at),
        "Path": path,
        "Args": arguments,
        "State": state(container),
        "Image": container.image_id,
        "ImageDigest": container.image_digest,
        "Name": spec.name,
        "Namespace": container.namespace,
        "Revision": container.revision,
        "RestartCount": container.restart_count,
        "LogPath": container.log_path,
        "BundlePath": container.bundle_path,
        "HostConfig": host_config(&spec),
        "Mounts": spec.mounts.iter().map(mount).collect::<Vec<_>>(),
        "Config": config(&spec),
    })
}

fn state(container: &Container) -> Value {
    let incarnation = container.incarnation.clone().unwrap_or_default();
    let exit = incarnation.exit.clone().unwrap_or_default();
    let is = |state| container.state() == state;
    let mut shown = json!({
        "Status": human::state(container),
        "Running": is(ContainerState::Running) || is(ContainerState::Paused),
        "Paused": is(ContainerState::Paused),
        "Restarting": container.restarting,
        "OOMKilled": exit.oom_killed,
        "Dead": false,
        "Pid": incarnation.pid,
        "ExitCode": exit.exit_code,
        "Signal": exit.signal,
        "Reason": exit.reason,
        "Error": exit.message,
        "Incarnation": incarnation.number,
        "StartedAt": time(incarnation.started_at),
        "FinishedAt": time(exit.finished_at),
    });
    if let Some(known) = &container.health {
        shown["Health"] = health::state(known);
    }
    shown
}

/// As Docker has them.
fn security_options(spec: &ContainerSpec) -> Vec<String> {
    let seccomp = (!spec.seccomp.is_empty()).then(|| format!("seccomp={}", spec.seccomp));
    let privileges = spec.no_new_privileges.map(|is_on| format!("no-new-privileges={is_on}"));
    seccomp.into_iter().chain(privileges).collect()
}

fn host_config(spec: &ContainerSpec) -> Value {
    let limits = spec.resources.clone().unwrap_or_default();
    let timeout = spec.stop_timeout.map(|timeout| timeout.seconds);
    let ulimit = |limit: &wharf_client::v1::Rlimit| json!({"Name": limit.name, "Soft": limit.soft as i64, "Hard": limit.hard as i64});
    json!({
        "NetworkMode": spec.network,
        "AutoRemove": spec.auto_remove,
        "RestartPolicy": restart_policy(&spec.restart),
        "LogConfig": log_config(spec),
        "CapAdd": spec.cap_add,
        "CapDrop": spec.cap_drop,
        "Privileged": spec.privileged,
        "SecurityOpt": security_options(spec),
        "GroupAdd": spec.group_add,
        "ReadonlyRootfs": spec.read_only_rootfs,
        "ShmSize": spec.shm_size_bytes,
        "Annotations": spec.annotations,
        "Memory": limits.memory_bytes.unwrap_or(0),
        "MemorySwap": limits.memory_swap_bytes.unwrap_or(0),
        "NanoCpus": limits.nano_cpus.unwrap_or(0),
        "CpuShares": limits.cpu_shares.unwrap_or(0),
        "CpusetCpus": limits.cpuset_cpus.unwrap_or_default(),
        "PidsLimit": limits.pids_limit,
        "StopTimeout": timeout,
        "Ulimits": spec.rlimits.iter().map(ulimit).collect::<Vec<_>>(),
    })
}

/// As Docker has it: what is the server's default is left out.
fn log_config(spec: &ContainerSpec) -> Value {
    let Some(log) = &spec.log else { return json!({"Type": "", "Config": {}}) };
    let mut config = serde_json::Map::new();
    if let Some(bytes) = log.max_size_bytes {
        config.insert("max-size".into(), json!(bytes.to_string()));
    }
    if let Some(files) = log.max_files {
        config.insert("max-file".into(), json!(files.to_string()));
    }
    if log.drop_when_full {
        config.insert("mode".into(), json!("non-blocking"));
    }
    json!({"Type": log.driver, "Config": config})
}

fn restart_policy(policy: &str) -> Value {
    let (name, count) = policy.split_once(':').unwrap_or((policy, "0"));
    json!({"Name": name, "MaximumRetryCount": count.parse::<u32>().unwrap_or(0)})
}

fn mount(mount: &Mount) -> Value {
    let kind = if mount.r#type.is_empty() { "bind" } else { &mount.r#type };
    let name = if kind == "volume" { mount.source.as_str() } else { "" };
    json!({
        "Type": kind,
        "Name": name,
        "Source": mount.source,
        "Destination": mount.target,
        "Mode": mount.options.join(","),
        "RW": !mount.read_only,
    })
}

fn config(spec: &ContainerSpec) -> Value {
    let mut shown = json!({
        "Hostname": spec.hostname,
        "User": spec.user,
        "Tty": spec.tty,
        "OpenStdin": spec.open_stdin,
        "StdinOnce": spec.stdin_once,
        "Env": spec.env,
        "Cmd": spec.args,
        "Entrypoint": spec.entrypoint,
        "Image": spec.image,
        "WorkingDir": spec.working_dir,
        "Labels": spec.labels,
        "StopSignal": spec.stop_signal,
        "ExposedPorts": exposed_ports(spec),
    });
    if let Some(check) = &spec.health_check {
        shown["Healthcheck"] = health::config(check);
    }
    shown
}

fn exposed_ports(spec: &ContainerSpec) -> Value {
    let ports = spec.exposed_ports.iter().map(|port| (port.clone(), json!({})));
    Value::Object(ports.collect())
}

/// An image as `docker image inspect` shows it, and what Wharf knows besides.
fn image(image: &Image, config_json: &str) -> Value {
    let mut platform = image.platform.split('/');
    let (os, arch) = (platform.next().unwrap_or(""), platform.next().unwrap_or(""));
    let names = || image.names.iter().map(|name| human::familiar(name));
    let digests: Vec<String> = names()
        .map(|name| human::split_reference(name).0)
        .filter(|_| !image.digest.is_empty())
        .map(|repository| format!("{repository}@{}", image.digest))
        .collect();
    let raw: Value = serde_json::from_str(config_json).unwrap_or(Value::Null);
    let text = |name: &str| raw.get(name).and_then(Value::as_str).unwrap_or_default();
    let history = raw.get("history").and_then(Value::as_array).cloned().unwrap_or_default();
    let comment = history.last().and_then(|step| step.get("comment")).and_then(Value::as_str);
    let layers = raw.pointer("/rootfs/diff_ids").cloned().unwrap_or_else(|| json!([]));
    json!({
        "Id": image.id,
        "RepoTags": names().collect::<Vec<_>>(),
        "RepoDigests": digests,
        "Parent": "",
        "Comment": comment.unwrap_or_default(),
        "Created": time(image.created_at),
        "DockerVersion": text("docker_version"),
        "Author": text("author"),
        "Config": image_config(image, raw.get("config")),
        "Architecture": arch,
        "Variant": platform.next().unwrap_or(""),
        "Os": os,
        "Size": image.size_bytes,
        "RootFS": {"Type": "layers", "Layers": layers},
        "Metadata": {"LastTagTime": time(image.imported_at)},
        "Digest": image.digest,
        "ManifestDigest": image.manifest_digest,
        "ChainId": image.chain_id,
        "ContentSize": image.content_bytes,
        "History": history,
    })
}

/// All that the image's config says, with what Docker always shows.
fn image_config(image: &Image, raw: Option<&Value>) -> Value {
    let config = image.config.clone().unwrap_or_default();
    let set = |all: &[String]| -> Value {
        all.iter().map(|key| (key.clone(), json!({}))).collect::<serde_json::Map<_, _>>().into()
    };
    let mut shown = json!({
        "User": config.user,
        "Env": config.env,
        "Cmd": config.cmd,
        "Entrypoint": config.entrypoint,
        "WorkingDir": config.working_dir,
        "StopSignal": config.stop_signal,
        "Volumes": set(&config.volumes),
        "ExposedPorts": set(&config.exposed_ports),
        "Labels": image.labels,
        "OnBuild": Value::Null,
    });
    if let (Some(shown), Some(raw)) = (shown.as_object_mut(), raw.and_then(Value::as_object)) {
        for (key, value) in raw.iter().filter(|(_, value)| !value.is_null()) {
            shown.insert(key.clone(), value.clone());
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_scripts_ask_for() {
        let found = container(&Container::default());
        for path in ["{{.State.Pid}}", "{{.State.ExitCode}}", "{{.Config.Image}}", "{{.Name}}"] {
            let template: Template = path.parse().expect(path);
            assert!(template.render(&found).is_ok(), "{path}");
        }
        assert_eq!(found["State"]["StartedAt"], "0001-01-01T00:00:00Z");
        let names = vec!["docker.io/library/a:1".to_owned()];
        let digest = "sha256:0".to_owned();
        let found = image(&Image { names, digest, ..Image::default() }, "{}");
        assert_eq!(found["RepoTags"][0], "a:1");
        assert_eq!(found["RepoDigests"][0], "a@sha256:0");
        let config = r#"{"config": {"Healthcheck": {"Test": ["NONE"]}, "User": "bob"},
            "rootfs": {"diff_ids": ["sha256:1"]}, "history": [{"comment": "a"}, {"comment": "b"}]}"#;
        let found = super::image(&Image::default(), config);
        assert_eq!(found["Config"]["Healthcheck"]["Test"][0], "NONE");
        assert_eq!((&found["Config"]["User"], &found["Comment"]), (&json!("bob"), &json!("b")));
        assert_eq!(found["RootFS"]["Layers"][0], "sha256:1");
    }
}
