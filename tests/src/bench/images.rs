//! Images: pull with unpacking and import, beside containerd, skopeo and tar, of a Debian tree in one
//! layer and in thirty, gzip and Zstandard.
//!
//! The tree is made once by debootstrap and kept in `$WHARF_BENCH_WORK` (`/var/tmp/wharf-bench`).
//! Each clock starts with empty caches: ext4 looks at every inode that was deleted a moment ago
//! before it takes a new one, so that whoever comes later in a round would be slower.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use wharf_proto::v1::{CommitContainerRequest, DeleteImageRequest, TimeSpent};

use super::{
    Engine as _,
    containerd::Containerd,
    report::{Row, median, median_ms, table},
    wharf::Wharf,
};
use crate::{host, registry::Registry};

const WORK: &str = "/var/tmp/wharf-bench";
const THIRTY: usize = 30;
const IMPORTED: &str = "docker.io/bench/imported:1";
const COMMITTED: &str = "docker.io/bench/committed:1";

/// How an image is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    layers: usize,
    format: &'static str,
    budget: &'static str,
}

const KINDS: [Kind; 4] = [
    Kind { layers: 1, format: "gzip", budget: "3 × containerd; 1.3 of tar" },
    Kind { layers: 1, format: "zstd", budget: "3 × containerd" },
    Kind { layers: THIRTY, format: "gzip", budget: "" },
    Kind { layers: THIRTY, format: "zstd", budget: "" },
];

impl Kind {
    fn tag(self) -> String {
        format!("{}-{}", self.layers, self.format)
    }

    fn what(self) -> String {
        let layers =
            if self.layers == 1 { "one layer".into() } else { format!("{} layers", self.layers) };
        format!("pull and unpack a Debian of {layers}, {}", self.format)
    }
}

/// What was measured of one kind.
#[derive(Debug, Default)]
struct Times {
    wharf: Vec<Duration>,
    containerd: Vec<Duration>,
    skopeo: Vec<Duration>,
    tar: Vec<Duration>,
    spent: Vec<TimeSpent>,
}

/// Archives of the tree as `docker save` makes them.
struct Inputs {
    folder: PathBuf,
}

/// Runs it all; `rounds` of each. None: why there is no way to.
///
/// # Errors
/// When something fails that should not.
pub async fn run(base: &Path, rounds: usize) -> Result<String> {
    for tool in ["debootstrap", "skopeo", "tar", "gzip"] {
        if host::tool(tool).is_none() {
            return Ok(format!(
                "No images: {tool} is not installed (Debian's package of that name).\n"
            ));
        }
    }
    if let Some(why) = Registry::missing() {
        return Ok(format!("No images: {why}.\n"));
    }
    let inputs = match Inputs::prepare() {
        Ok(inputs) => inputs,
        Err(error) => return Ok(format!("No images: {error:#}\n")),
    };
    let registry = Registry::start().await?;
    for kind in KINDS {
        inputs.push(&registry, kind)?;
    }
    let mut wharf = Wharf::new()?;
    wharf.start().await?;
    let mut containerd = match Containerd::missing() {
        Some(_) => None,
        None => {
            let mut engine = Containerd::new(base)?;
            engine.start().await?;
            Some(engine)
        }
    };
    let mut rows = Vec::new();
    let mut notes = String::new();
    let (mut own_peak, mut peer_peak) = (0, 0);
    for kind in KINDS {
        let mut times = Times::default();
        for round in 1..=rounds {
            super::tell(&format!("{}: round {round} of {rounds}", kind.tag()));
            one_round(base, &registry, kind, &mut wharf, containerd.as_mut(), &mut times).await?;
        }
        own_peak = own_peak.max(peak_kib(wharf.pid()?)?);
        if let Some(containerd) = &containerd {
            peer_peak = peer_peak.max(peak_kib(containerd.pid()?)?);
        }
        let figure = |times: &Vec<Duration>| (!times.is_empty()).then(|| median_ms(times));
        rows.push(Row {
            what: kind.what(),
            unit: "ms",
            more_is_better: false,
            figures: [&times.wharf, &times.containerd, &times.skopeo, &times.tar]
                .map(figure)
                .into(),
            budget: kind.budget,
        });
        notes += &split(kind, &times);
    }
    rows.push(import(&inputs, rounds, &mut wharf, containerd.as_ref()).await?);
    rows.push(commit(&registry, rounds, &mut wharf).await?);
    #[expect(clippy::cast_precision_loss, reason = "memory sizes in KiB")]
    let mib = |kib: u64| (kib > 0).then_some(kib as f64 / 1024.0);
    rows.push(Row {
        what: "peak memory of the daemon, of all of these pulls".into(),
        unit: "MiB",
        more_is_better: false,
        figures: vec![mib(own_peak), mib(peer_peak), None, None],
        budget: "64 MiB",
    });
    let peer = containerd.as_ref().map_or_else(|| "–".into(), super::Engine::name);
    let names = [wharf.name(), peer, "skopeo copy".into(), "tar -x alone".into()];
    wharf.remove().await?;
    if let Some(containerd) = containerd {
        containerd.remove().await?;
    }
    Ok(format!(
        "{}\n{notes}{rounds} rounds, caches empty at each start. Wharf answers when all is flushed; skopeo \
         only copies the blobs into a folder; tar only unpacks a file, and flushes nothing.\n",
        table(&names, &rows)
    ))
}

async fn one_round(
    base: &Path,
    registry: &Registry,
    kind: Kind,
    wharf: &mut Wharf,
    containerd: Option<&mut Containerd>,
    times: &mut Times,
) -> Result<()> {
    let reference = registry.reference(&format!("bench/debian:{}", kind.tag()));
    cold()?;
    let begun = Instant::now();
    let done = wharf.api()?.pull(&reference).await?.1;
    times.wharf.push(begun.elapsed());
    times.spent.extend(done.spent);
    wharf.forget(&reference).await?;
    if let Some(containerd) = containerd {
        cold()?;
        let begun = Instant::now();
        containerd.pull(&reference).await?;
        times.containerd.push(begun.elapsed());
        containerd.forget(&reference).await?;
    }
    let folder = TempDir::with_prefix_in("w-skopeo-", base)?;
    cold()?;
    let begun = Instant::now();
    run_tool(Command::new("skopeo").args(["copy", "-q", "--insecure-policy"]).args([
        "--src-tls-verify=false",
        &format!("docker://{reference}"),
        &format!("oci:{}:x", folder.path().join("layout").display()),
    ]))?;
    times.skopeo.push(begun.elapsed());
    if kind.layers == 1 {
        let blob = largest(&folder.path().join("layout/blobs/sha256"))?;
        let out = TempDir::with_prefix_in("w-tar-", base)?;
        cold()?;
        let begun = Instant::now();
        let flags: &[&str] = if kind.format == "gzip" { &["-xzf"] } else { &["--zstd", "-xf"] };
        run_tool(Command::new("tar").args(flags).arg(&blob).arg("-C").arg(out.path()))?;
        times.tar.push(begun.elapsed());
    }
    Ok(())
}

async fn import(
    inputs: &Inputs,
    rounds: usize,
    wharf: &mut Wharf,
    containerd: Option<&Containerd>,
) -> Result<Row> {
    let path = inputs.archive(1);
    let (mut own, mut peer) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let archive = fs::read(&path).context("read the archive")?;
        cold()?;
        let mut api = wharf.api()?;
        let begun = Instant::now();
        api.import(&archive, IMPORTED).await?;
        own.push(begun.elapsed());
        let request = DeleteImageRequest { image: IMPORTED.into(), force: true };
        api.images.delete(request).await?;
        drop(archive);
        if let Some(containerd) = containerd {
            cold()?;
            let begun = Instant::now();
            let archive = path.display().to_string();
            tokio::task::block_in_place(|| {
                containerd.ctr(&["image", "import", "--snapshotter", "overlayfs", &archive])
            })?;
            peer.push(begun.elapsed());
            tokio::task::block_in_place(|| containerd.ctr(&["image", "rm", "--sync", IMPORTED]))?;
        }
    }
    Ok(Row {
        what: "import of an archive of one layer".into(),
        unit: "ms",
        more_is_better: false,
        figures: vec![
            Some(median_ms(&own)),
            (!peer.is_empty()).then(|| median_ms(&peer)),
            None,
            None,
        ],
        budget: "",
    })
}

/// Of a container that has copied its `/usr/lib`. Debian's containerd has no commit of its own.
async fn commit(registry: &Registry, rounds: usize, wharf: &mut Wharf) -> Result<Row> {
    let reference = registry.reference(&format!("bench/debian:{}", KINDS[0].tag()));
    let mut api = wharf.api()?;
    api.pull(&reference).await?;
    let mut spec = crate::api::spec(["/bin/cp", "-a", "/usr/lib", "/copy"]);
    spec.image = reference.clone();
    spec.name = "bench-commit".into();
    let id = api.create(spec).await?.id;
    api.start(&id).await?;
    api.wait(&id).await?;
    let mut times = Vec::new();
    for _ in 0..rounds {
        cold()?;
        let begun = Instant::now();
        let request = CommitContainerRequest {
            container: id.clone(),
            name: COMMITTED.into(),
            ..CommitContainerRequest::default()
        };
        api.containers.commit(request).await?;
        times.push(begun.elapsed());
        let request = DeleteImageRequest { image: COMMITTED.into(), force: true };
        api.images.delete(request).await?;
    }
    api.remove(&id).await?;
    wharf.forget(&reference).await?;
    Ok(Row {
        what: "commit of a container with a copy of /usr/lib".into(),
        unit: "ms",
        more_is_better: false,
        figures: vec![Some(median_ms(&times)), None, None, None],
        budget: "",
    })
}

#[expect(clippy::cast_precision_loss, reason = "seconds of a pull in microseconds")]
fn split(kind: Kind, times: &Times) -> String {
    let of = |part: fn(&TimeSpent) -> u64| median(times.spent.iter().map(|s| part(s) as f64 / 1e3));
    format!(
        "{}: network {:.0} ms, hash {:.0} ms, inflate {:.0} ms, write {:.0} ms, flush {:.0} ms, on all \
         threads.\n",
        kind.tag(),
        of(|s| s.network_us),
        of(|s| s.hash_us),
        of(|s| s.inflate_us),
        of(|s| s.write_us),
        of(|s| s.flush_us),
    )
}

/// Flushes, and empties the kernel's caches.
fn cold() -> Result<()> {
    nix::unistd::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").context("empty the caches")
}

/// The most memory that a process has had.
fn peak_kib(pid: i32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("read its status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    line.trim().trim_end_matches(" kB").parse().context("VmHWM is no number")
}

fn largest(folder: &Path) -> Result<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let entry = entry?;
        files.push((entry.metadata()?.len(), entry.path()));
    }
    files.into_iter().max().map(|(_, path)| path).context("no blobs")
}

fn run_tool(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

impl Inputs {
    fn prepare() -> Result<Self> {
        let folder =
            std::env::var_os("WHARF_BENCH_WORK").map_or_else(|| WORK.into(), PathBuf::from);
        let inputs = Self { folder };
        fs::create_dir_all(&inputs.folder).context("make the work folder")?;
        let tree = inputs.folder.join("tree");
        if !tree.is_dir() {
            super::tell("a Debian tree by debootstrap, once");
            let part = inputs.folder.join("tree.part");
            drop(fs::remove_dir_all(&part));
            let codename = codename().context("no VERSION_CODENAME in /etc/os-release")?;
            run_tool(
                Command::new("debootstrap")
                    .args(["--variant=minbase", "--include=perl,python3,gcc", &codename])
                    .arg(&part),
            )?;
            fs::rename(&part, &tree).context("name the tree")?;
        }
        for layers in [1, THIRTY] {
            let path = inputs.archive(layers);
            if !path.is_file() {
                super::tell(&format!("an archive of {layers}"));
                let part = path.with_extension("part");
                inputs.save(&tree, layers, &part)?;
                fs::rename(&part, &path).context("name the archive")?;
            }
        }
        Ok(inputs)
    }

    fn archive(&self, layers: usize) -> PathBuf {
        self.folder.join(format!("debian-{layers}.tar"))
    }

    /// What `docker save` writes of the tree in so many layers.
    fn save(&self, tree: &Path, layers: usize, path: &Path) -> Result<()> {
        let work = TempDir::new_in(&self.folder)?;
        let mut names = Vec::new();
        walk(tree, Path::new(""), &mut names)?;
        let (mut diff_ids, mut files) = (Vec::new(), Vec::new());
        for (number, part) in names.chunks(names.len().div_ceil(layers)).enumerate() {
            let list = work.path().join("list");
            let mut file = fs::File::create(&list)?;
            for name in part {
                file.write_all(std::os::unix::ffi::OsStrExt::as_bytes(name.as_os_str()))?;
                file.write_all(b"\0")?;
            }
            drop(file);
            let layer = format!("{number}.tar");
            run_tool(
                Command::new("tar")
                    .args(["--numeric-owner", "--no-recursion", "--null", "--xattrs", "-C"])
                    .arg(tree)
                    .arg("-T")
                    .arg(&list)
                    .arg("-cf")
                    .arg(work.path().join(&layer)),
            )?;
            let mut hasher = Sha256::new();
            let mut reader = fs::File::open(work.path().join(&layer))?;
            let mut buffer = vec![0; 1 << 20];
            loop {
                let n = std::io::Read::read(&mut reader, &mut buffer)?;
                if n == 0 {
                    break;
                }
                hasher.update(&buffer[..n]);
            }
            let hex: String = hasher.finalize().iter().map(|b| format!("{b:02x}")).collect();
            diff_ids.push(format!("sha256:{hex}"));
            files.push(layer);
        }
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux", "config": {"Cmd": ["/bin/true"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        fs::write(work.path().join("config.json"), config.to_string())?;
        let manifest = json!([{"Config": "config.json", "RepoTags": [IMPORTED], "Layers": files}]);
        fs::write(work.path().join("manifest.json"), manifest.to_string())?;
        run_tool(
            Command::new("tar")
                .arg("-C")
                .arg(work.path())
                .arg("-cf")
                .arg(path)
                .args(["manifest.json", "config.json"])
                .args(&files),
        )
    }

    fn push(&self, registry: &Registry, kind: Kind) -> Result<()> {
        super::tell(&format!("{} into the registry", kind.tag()));
        run_tool(Command::new("skopeo").args(["copy", "-q", "--insecure-policy"]).args([
            "--dest-tls-verify=false",
            "--format=oci",
            "--dest-compress-format",
            kind.format,
            &format!("docker-archive:{}", self.archive(kind.layers).display()),
            &format!("docker://{}", registry.reference(&format!("bench/debian:{}", kind.tag()))),
        ]))
    }
}

/// All that is below, folders before what is in them.
fn walk(tree: &Path, below: &Path, names: &mut Vec<PathBuf>) -> Result<()> {
    let folder = tree.join(below);
    let mut entries: Vec<_> = fs::read_dir(&folder)
        .with_context(|| format!("list {}", folder.display()))?
        .collect::<Result<_, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = below.join(entry.file_name());
        let is_dir = entry.file_type()?.is_dir();
        names.push(name.clone());
        if is_dir {
            walk(tree, &name, names)?;
        }
    }
    Ok(())
}

fn codename() -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(line.trim_matches('"').to_owned())
}
