//! Making a container: the request checked, what it leaves open filled in, the record committed.

use std::{path::Path, sync::Arc};

use super::{
    Containers, Error, Window,
    driver::Driver,
    health,
    machine::State,
    names,
    oci::ALL_CAPS,
    process::{self, Process},
    record::{ImageRef, Record},
    restart::{Policy, Restarts},
    spec::{MountKind, Resources, Spec},
    table::Handle,
    user,
    user_namespace::Given,
};
use crate::{
    config::Network,
    drivers::{
        shims::Runtime,
        snapshots::{self, RootView},
    },
    faultpoint,
    ids::{ContainerId, ContainerName, Namespace, VolumeName},
    services::{
        events::{Event, now_unix_ns},
        images::ResolvedImage,
        requests,
    },
    store::{Durability, Need, Ops},
};

/// Largest /etc/passwd or /etc/group that is read.
const MAX_IDENTITY_FILE: u64 = 4 << 20;
/// As Docker: less, and not even a shell starts.
const MIN_MEMORY_BYTES: i64 = 6 << 20;
/// Arguments and environment together, in bytes: below the kernel's limit for execve(2), and in a
/// record that the store takes.
const MAX_PROCESS_BYTES: usize = 96 << 10;

/// A container that is wanted.
#[derive(Clone, Debug)]
pub struct NewContainer {
    /// Made up when empty.
    pub name: Option<ContainerName>,
    /// What it should be.
    pub spec: Spec,
}

/// What a container is that this same request made before, and that is not there any more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Undone {
    /// Removed by somebody since.
    Gone,
    /// To be made anew, if it was never started.
    Anew,
}

impl Containers {
    /// Makes a container; nothing of it runs.
    ///
    /// # Errors
    /// [`Error`]; nothing is left behind.
    pub async fn create(
        &self,
        namespace: &Namespace,
        new: NewContainer,
    ) -> Result<Arc<Record>, Error> {
        match self.create_handle(namespace, new, Undone::Gone).await {
            Ok(handle) => Ok(handle.record()),
            Err(error) => gone_since(error),
        }
    }

    /// Makes a container and starts it.
    ///
    /// # Errors
    /// As `create` and `start`; a container that does not start is kept unless it is auto_remove.
    pub async fn run(
        &self,
        namespace: &Namespace,
        new: NewContainer,
        window: Window,
    ) -> Result<Arc<Record>, Error> {
        let handle = match self.create_handle(namespace, new, Undone::Anew).await {
            Ok(handle) => handle,
            Err(error) => return gone_since(error),
        };
        let before = handle.record();
        match self.start_handle(&handle, window).await {
            // It may have ended and removed itself already.
            Err(Error::Removed(_)) => Ok(before),
            other => other,
        }
    }

    async fn create_handle(
        &self,
        namespace: &Namespace,
        new: NewContainer,
        undone: Undone,
    ) -> Result<Handle, Error> {
        if let Some(before) = requests::done_before() {
            match self.tools.table.find(namespace, before.id.as_str()) {
                // Its start was undone, and it has gone with that: it was never there.
                Err(Error::NotFound(_))
                    if undone == Undone::Anew && !before.state.was_started() => {}
                found => return found,
            }
        }
        let NewContainer { name, mut spec } = new;
        check(&spec)?;
        self.take_volumes_from(namespace, &mut spec)?;
        // Held until the record is in the table: the image's layers are not collected meanwhile.
        let image = self.images.resolve(namespace, &spec.image).await?;
        let id = self.new_id()?;
        let name = match name {
            Some(name) => name,
            None => names::made_up(|n| self.name_taken(namespace, n)).map_err(Error::Random)?,
        };
        let reservation = self.tools.table.reserve(namespace, &name, &id)?;
        self.complete(&mut spec, &id, &image)?;
        let _range = self.users(&mut spec, &id)?;
        let process = self.process(&name, &spec, &image).await?;
        let volumes = self.volumes(namespace, &mut spec, &image).await?;
        let record = Record {
            id,
            namespace: namespace.clone(),
            name,
            spec,
            image: ImageRef {
                id: image.id.to_string(),
                manifest_digest: image.manifest_digest.to_string(),
                chain_id: image.chain_id.clone(),
            },
            process,
            created_unix_ns: now_unix_ns(),
            revision: 1,
            state: State::Created,
            remove_volumes: false,
            restarts: Restarts::default(),
            health: None,
        };
        let mut ops = Ops::new();
        ops.needs(Need::Growth);
        ops.put(record.key(), &record)?;
        requests::stamp(&mut ops, Some(&record))?;
        let event = Event::now(namespace, "container.create", record.id.as_str())
            .with("name", &record.name)
            .with("image", &record.spec.image);
        self.tools.events.append(&mut ops, &event)?;
        volumes.record(&mut ops)?;
        faultpoint::reach("create.checked").await;
        self.tools.store.commit(ops, Durability::Power).await?;
        faultpoint::reach("create.committed").await;
        reservation.keep();
        let handle = Driver::spawn(&self.tools, record);
        // Not before the table knows who uses them.
        volumes.keep();
        Ok(handle)
    }

    fn new_id(&self) -> Result<ContainerId, Error> {
        loop {
            let id = ContainerId::random().map_err(Error::Random)?;
            if !self.tools.table.short_id_taken(&id) {
                return Ok(id);
            }
        }
    }

    /// Fills in what the request leaves open.
    fn complete(
        &self,
        spec: &mut Spec,
        id: &ContainerId,
        image: &ResolvedImage,
    ) -> Result<(), Error> {
        let network = *spec.network.get_or_insert(self.defaults.network);
        let runtimes = &self.tools.runtimes;
        if spec.runtime.is_empty() {
            runtimes.default_name().clone_into(&mut spec.runtime);
        }
        let unknown = |problem| Error::field("spec.runtime", problem);
        runtimes.find(&spec.runtime).map_err(unknown)?;
        if spec.hostname.is_empty() {
            spec.hostname = match network {
                Network::None => id.short().to_owned(),
                Network::Host => nix::unistd::gethostname()
                    .map(|name| name.to_string_lossy().into_owned())
                    .unwrap_or_else(|_| id.short().to_owned()),
            };
        }
        let of_image = image.config.config().as_ref();
        for (key, value) in of_image.and_then(|c| c.labels().clone()).unwrap_or_default() {
            spec.labels.entry(key).or_insert(value);
        }
        let mut ports = of_image.and_then(|c| c.exposed_ports().clone()).unwrap_or_default();
        ports.append(&mut spec.exposed_ports);
        for port in &mut ports {
            if !port.contains('/') {
                port.push_str("/tcp");
            }
        }
        ports.sort();
        ports.dedup();
        spec.exposed_ports = ports;
        let own = spec.health.take().unwrap_or_default();
        spec.health = own.over(health::of_image(&image.config_json).as_ref());
        if spec.stop_signal.is_none() {
            let config = image.config.config().as_ref();
            let signal = config.and_then(|c| c.stop_signal().clone()).unwrap_or_default();
            if !signal.is_empty() {
                let wrong = |e| Error::field("spec.stop_signal", format!("the image's {e}"));
                spec.stop_signal = Some(signal.parse().map_err(wrong)?);
            }
        }
        Ok(())
    }

    /// Fills in whose users the container has; the range is its own while the guard lives, and then
    /// because its record says so.
    fn users(&self, spec: &mut Spec, id: &ContainerId) -> Result<Option<Given>, Error> {
        let field = "spec.user_namespace";
        let default = || self.defaults.user_namespace.clone();
        let namespace = spec.user_namespace.get_or_insert_with(default);
        namespace.check(field)?;
        let runtime = self.tools.runtimes.find(&spec.runtime);
        if namespace.is_mapped() && runtime != Ok(Runtime::Own) {
            let problem = format!(
                "runtime {:?} gets the root file system from others, who can't map its owners: only \
                 \"wharf\" can",
                spec.runtime
            );
            return Err(Error::field(field, problem));
        }
        if namespace.is_mapped() && spec.privileged {
            let problem = "a privileged container has the host's users: \"host\" is needed";
            return Err(Error::field(field, problem));
        }
        self.ranges.give(id, namespace, || self.tools.table.records())
    }

    async fn process(
        &self,
        name: &ContainerName,
        spec: &Spec,
        image: &ResolvedImage,
    ) -> Result<Process, Error> {
        let args = process::command(spec, &image.config)?;
        let snapshots = Arc::clone(&self.tools.snapshots);
        let (name, chain_id) = (name.clone(), image.chain_id.clone());
        let read = tokio::task::spawn_blocking(move || {
            identity_files(&name, || snapshots.view(chain_id.as_ref()))
        });
        let (passwd, group) = read.await.expect("reading does not panic")?;
        let user = process::user(spec, &image.config);
        let identity =
            user::resolve(user, &spec.group_add, &passwd, &group).map_err(Error::User)?;
        if let Some(namespace) = &spec.user_namespace {
            namespace.check_identity("spec.user", &identity)?;
        }
        let env = process::environment(spec, &image.config, &spec.hostname, &identity.home);
        let cwd = process::working_dir(spec, &image.config);
        let bytes: usize = args.iter().chain(&env).map(|s| s.len() + 9).sum();
        if bytes > MAX_PROCESS_BYTES {
            return Err(Error::field(
                "spec.args",
                format!(
                    "arguments and environment have {bytes} bytes, at most {MAX_PROCESS_BYTES} fit"
                ),
            ));
        }
        Ok(Process { args, env, cwd, identity })
    }
}

/// The answer to a request that was done before and whose container is gone since.
///
/// # Errors
/// Another error than that.
pub(super) fn gone_since(error: Error) -> Result<Arc<Record>, Error> {
    match (error, requests::done_before()) {
        (Error::NotFound(_) | Error::Removed(_), Some(before)) if !before.state.is_starting() => {
            Ok(Arc::new(before))
        }
        (error, _) => Err(error),
    }
}

/// /etc/passwd and /etc/group of a root file system, empty where it has none. Blocks.
pub(super) fn identity_files(
    name: &ContainerName,
    view: impl FnOnce() -> Result<RootView, snapshots::Error>,
) -> Result<(String, String), Error> {
    let read = || {
        let view = view()?;
        let text = |path: &str| {
            let bytes = view.read(Path::new(path), MAX_IDENTITY_FILE)?;
            Ok::<_, snapshots::Error>(
                String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned(),
            )
        };
        Ok((text("/etc/passwd")?, text("/etc/group")?))
    };
    read().map_err(|source| Error::Snapshot { name: name.clone(), source })
}

/// What is removed when it has stopped can't be started again.
pub(super) fn check_restart(field: &str, policy: Policy, auto_remove: bool) -> Result<(), Error> {
    if auto_remove && policy != Policy::No {
        let problem = format!("{policy} and the removal at the end (--rm) exclude each other");
        return Err(Error::field(field, problem));
    }
    Ok(())
}

/// Checks what can be checked without the image.
fn check(spec: &Spec) -> Result<(), Error> {
    if spec.image.is_empty() {
        return Err(Error::field("spec.image", "the name of an image is needed"));
    }
    check_restart("spec.restart", spec.restart, spec.auto_remove)?;
    if let Some(Err(bad)) = spec.health.as_ref().map(health::HealthCheck::check) {
        return Err(Error::field(format!("spec.health_check.{}", bad.field), bad.problem));
    }
    for (index, entry) in spec.env.iter().enumerate() {
        if entry.find('=').is_none_or(|at| at == 0) || entry.contains('\0') {
            let problem = format!("{entry:?} is not NAME=value");
            return Err(Error::field(format!("spec.env[{index}]"), problem));
        }
    }
    for (field, list) in [("spec.args", &spec.args), ("spec.entrypoint", &spec.entrypoint)] {
        if list.iter().any(|arg| arg.contains('\0')) {
            return Err(Error::field(field, "an argument can't contain a zero byte"));
        }
    }
    if !spec.working_dir.is_empty() && !spec.working_dir.starts_with('/') {
        let problem = format!("{:?} is not an absolute path", spec.working_dir);
        return Err(Error::field("spec.working_dir", problem));
    }
    let hostname_ok = spec.hostname.len() <= 63
        && spec.hostname.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    if !hostname_ok {
        let problem = format!("{:?} is not a host name of at most 63 characters", spec.hostname);
        return Err(Error::field("spec.hostname", problem));
    }
    check_mounts(spec)?;
    check_caps("spec.cap_add", &spec.cap_add)?;
    check_caps("spec.cap_drop", &spec.cap_drop)?;
    for (index, limit) in spec.rlimits.iter().enumerate() {
        if limit.soft > limit.hard {
            let problem = format!("soft {} is above hard {}", limit.soft, limit.hard);
            return Err(Error::field(format!("spec.rlimits[{index}]"), problem));
        }
    }
    if spec.shm_size_bytes < 0 {
        return Err(Error::field("spec.shm_size_bytes", "a size can't be negative"));
    }
    check_resources("spec.resources", &spec.resources)
}

fn check_mounts(spec: &Spec) -> Result<(), Error> {
    for (index, mount) in spec.mounts.iter().enumerate() {
        let field = |name: &str| format!("spec.mounts[{index}].{name}");
        let absolute = |path: &str| {
            path.starts_with('/')
                && !path.split('/').any(|part| part == "..")
                && !path.contains('\0')
        };
        if !absolute(&mount.target) || mount.target.trim_matches('/').is_empty() {
            let problem = format!("{:?} is not an absolute path below / without ..", mount.target);
            return Err(Error::field(field("target"), problem));
        }
        if mount.kind == MountKind::Volume && !mount.source.is_empty() {
            let name: Result<VolumeName, _> = mount.source.parse();
            name.map_err(|e| Error::field(field("source"), e))?;
        }
        if mount.kind == MountKind::Bind && !absolute(&mount.source) {
            let problem =
                format!("{:?} is not an absolute path on the host without ..", mount.source);
            return Err(Error::field(field("source"), problem));
        }
        let missing = mount.kind == MountKind::Bind
            && !mount.create_source
            && !Path::new(&mount.source).exists();
        if missing {
            let problem = format!("{} does not exist on the host", mount.source);
            return Err(Error::field(field("source"), problem));
        }
        let same = |other: &super::spec::Mount| {
            other.target.trim_end_matches('/') == mount.target.trim_end_matches('/')
        };
        if spec.mounts[..index].iter().any(same) {
            let problem = format!("{} is the target of another mount", mount.target);
            return Err(Error::field(field("target"), problem));
        }
    }
    Ok(())
}

fn check_caps(field: &'static str, caps: &[String]) -> Result<(), Error> {
    let unknown = |cap: &String| cap != "ALL" && !ALL_CAPS.contains(&cap.as_str());
    match caps.iter().position(unknown) {
        None => Ok(()),
        Some(index) => {
            let problem = format!("{} is not a capability (capabilities(7))", caps[index]);
            Err(Error::field(format!("{field}[{index}]"), problem))
        }
    }
}

/// Checks limits.
///
/// # Errors
/// [`Error::Field`] below `field`.
pub(super) fn check_resources(field: &str, resources: &Resources) -> Result<(), Error> {
    let wrong = |name: &str, problem: String| Err(Error::field(format!("{field}.{name}"), problem));
    if let Some(memory) = resources.memory
        && memory < MIN_MEMORY_BYTES
    {
        return wrong(
            "memory_bytes",
            format!("{memory} is below the least, {MIN_MEMORY_BYTES} (6 MiB)"),
        );
    }
    if let Some(swap) = resources.memory_swap {
        let memory = resources.memory.unwrap_or(0);
        if swap != -1 && (memory == 0 || swap < memory) {
            return wrong(
                "memory_swap_bytes",
                format!(
                    "{swap} is memory and swap together: -1, or at least memory_bytes ({memory})"
                ),
            );
        }
    }
    if let Some(nano) = resources.nano_cpus {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let most = i64::try_from(cpus).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
        if !(10_000_000..=most).contains(&nano) {
            return wrong(
                "nano_cpus",
                format!("{nano} is not from 10000000 (0.01) to {most} ({cpus})"),
            );
        }
    }
    if let Some(shares) = resources.cpu_shares
        && !(2..=262_144).contains(&shares)
    {
        return wrong("cpu_shares", format!("{shares} is not from 2 to 262144"));
    }
    if let Some(cpus) = &resources.cpuset_cpus
        && !is_cpu_list(cpus)
    {
        return wrong("cpuset_cpus", format!("{cpus:?} is not a list like \"0-2,7\""));
    }
    if let Some(nodes) = &resources.cpuset_mems
        && !is_cpu_list(nodes)
    {
        return wrong("cpuset_mems", format!("{nodes:?} is not a list like \"0-1\""));
    }
    if let Some(weight) = resources.blkio_weight
        && !(10..=1000).contains(&weight)
    {
        return wrong("blkio_weight", format!("{weight} is not from 10 to 1000"));
    }
    check_reservation(field, resources)?;
    check_quota(field, resources)
}

fn check_reservation(field: &str, resources: &Resources) -> Result<(), Error> {
    let Some(reserved) = resources.memory_reservation else { return Ok(()) };
    let problem = if reserved < MIN_MEMORY_BYTES {
        format!("{reserved} is below the least, {MIN_MEMORY_BYTES} (6 MiB)")
    } else if resources.memory.is_some_and(|limit| limit < reserved) {
        format!("{reserved} is above the limit, memory_bytes")
    } else {
        return Ok(());
    };
    Err(Error::field(format!("{field}.memory_reservation_bytes"), problem))
}

/// As the kernel bounds them (Documentation/scheduler/sched-bwc.rst).
fn check_quota(field: &str, resources: &Resources) -> Result<(), Error> {
    let wrong = |name: &str, problem: String| Err(Error::field(format!("{field}.{name}"), problem));
    if let Some(period) = resources.cpu_period
        && !(1_000..=1_000_000).contains(&period)
    {
        return wrong("cpu_period", format!("{period} is not from 1000 to 1000000"));
    }
    if let Some(quota) = resources.cpu_quota
        && quota != -1
        && quota < 1_000
    {
        return wrong("cpu_quota", format!("{quota} is neither -1 (none) nor at least 1000"));
    }
    if resources.nano_cpus.is_some()
        && (resources.cpu_quota.is_some() || resources.cpu_period.is_some())
    {
        return wrong(
            "nano_cpus",
            "it can't be given together with cpu_quota or cpu_period".into(),
        );
    }
    Ok(())
}

fn is_cpu_list(text: &str) -> bool {
    let number = |s: &str| s.parse::<u16>().ok();
    text.split(',').all(|part| match part.split_once('-') {
        None => number(part).is_some(),
        Some((a, b)) => matches!((number(a), number(b)), (Some(a), Some(b)) if a <= b),
    })
}

#[cfg(test)]
mod tests {
    use super::{check, is_cpu_list};
    use crate::services::containers::{
        Error,
        spec::{Mount, MountKind, Resources, Spec},
    };

    fn bind(source: &str, target: &str) -> Mount {
        Mount {
            kind: MountKind::Bind,
            source: source.into(),
            target: target.into(),
            read_only: false,
            options: Vec::new(),
            create_source: false,
        }
    }

    fn field_of(spec: Spec) -> String {
        match check(&Spec { image: "i".into(), ..spec }) {
            Err(Error::Field { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_the_field_that_is_wrong() {
        let memory = |bytes| Resources { memory: Some(bytes), ..Default::default() };
        for (spec, field) in [
            (Spec { env: vec!["A=1".into(), "=x".into()], ..Default::default() }, "spec.env[1]"),
            (Spec { working_dir: "x".into(), ..Default::default() }, "spec.working_dir"),
            (Spec { hostname: "a b".into(), ..Default::default() }, "spec.hostname"),
            (
                Spec { mounts: vec![bind("/tmp", "x")], ..Default::default() },
                "spec.mounts[0].target",
            ),
            (
                Spec { mounts: vec![bind("/tmp", "/")], ..Default::default() },
                "spec.mounts[0].target",
            ),
            (
                Spec { mounts: vec![bind("/tmp", "/a/../../b")], ..Default::default() },
                "spec.mounts[0].target",
            ),
            (
                Spec {
                    mounts: vec![bind("/tmp", "/a"), bind("/tmp", "/a/")],
                    ..Default::default()
                },
                "spec.mounts[1].target",
            ),
            (
                Spec { mounts: vec![bind("tmp", "/a")], ..Default::default() },
                "spec.mounts[0].source",
            ),
            (
                Spec { mounts: vec![bind("/no/such/thing", "/a")], ..Default::default() },
                "spec.mounts[0].source",
            ),
            (Spec { cap_add: vec!["CAP_FOO".into()], ..Default::default() }, "spec.cap_add[0]"),
            (Spec { resources: memory(1), ..Default::default() }, "spec.resources.memory_bytes"),
        ] {
            assert_eq!(field_of(spec), field);
        }
    }

    #[test]
    fn cpu_lists() {
        for good in ["0", "0-2,7", "1,2,3"] {
            assert!(is_cpu_list(good), "{good}");
        }
        for bad in ["", "a", "2-1", "1,,2", "-1", "1-"] {
            assert!(!is_cpu_list(bad), "{bad}");
        }
    }
}
