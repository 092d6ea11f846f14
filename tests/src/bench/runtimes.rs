//! The runtimes alone: `run` of `true`, one process a life, no daemon.
//!
//! crun refuses a hybrid cgroup set-up, so all of them run in a private mount namespace in which the
//! cgroup2 mount is taken away; the bench starts itself again in there.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use super::spec;
use crate::{host, image::Image};

/// The argument that makes this program the loop inside the namespace.
pub const LOOP: &str = "runtime-loop";

/// The bundle that is measured.
const TRUE: &str = "true";
/// The bundle that proves that a container runs at all.
const PROOF: &str = "proof";
const ALIVE: &str = "alive";
/// Parent of the containers' cgroups.
const CGROUP: &str = "wharf-bench-runtime";

/// A runtime with runc's command line.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// As the table calls it.
    pub name: String,
    /// Its program.
    pub program: PathBuf,
}

/// Wharf's runtime first, then those that are installed.
#[must_use]
pub fn all() -> Vec<Runtime> {
    let own = host::binary("wharf-runtime").ok();
    let mut found: Vec<_> =
        own.into_iter().map(|program| Runtime { name: "wharf-runtime".into(), program }).collect();
    for name in ["crun", "runc"] {
        if let Some(program) = host::tool(name) {
            found.push(Runtime { name: name.into(), program });
        }
    }
    found
}

/// A bundle of the image in a folder.
#[derive(Debug)]
pub struct Bundle {
    folder: TempDir,
}

impl Bundle {
    /// Unpacks the image's layers and writes config.json.
    ///
    /// # Errors
    /// When the folder can't be written.
    pub fn new(base: &Path, image: &Image) -> Result<Self> {
        let folder = TempDir::with_prefix_in("w-bundle-", base).context("make a bundle")?;
        let rootfs = folder.path().join("rootfs");
        fs::create_dir(&rootfs)?;
        for layer in &image.layers {
            tar::Archive::new(layer.tar.as_slice()).unpack(&rootfs).context("unpack a layer")?;
        }
        for (name, args) in [(TRUE, ["/bin/true"].as_slice()), (PROOF, &["/bin/echo", ALIVE])] {
            let mut config = spec::spec(args, &format!("/{CGROUP}/{name}"));
            config["root"]["path"] = rootfs.display().to_string().into();
            fs::create_dir(folder.path().join(name))?;
            fs::write(folder.path().join(name).join("config.json"), config.to_string())?;
        }
        Ok(Self { folder })
    }

    /// Times of `count` lives.
    ///
    /// # Errors
    /// When the runtime fails.
    pub fn measure(&self, runtime: &Runtime, count: usize) -> Result<Vec<Duration>> {
        let me = std::env::current_exe().context("own path")?;
        let output = Command::new("unshare")
            .args(["--mount", "sh", "-c"])
            .arg("umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\"")
            .arg("sh")
            .args([&me, Path::new(LOOP), &runtime.program, self.folder.path()])
            .arg(count.to_string())
            .env_remove("RUST_BACKTRACE")
            .env_remove("RUST_LIB_BACKTRACE")
            .stdin(Stdio::null())
            .output()
            .context("run unshare")?;
        if !output.status.success() {
            bail!("{}: {}", runtime.name, String::from_utf8_lossy(&output.stderr).trim());
        }
        String::from_utf8_lossy(&output.stdout)
            .split_whitespace()
            .map(|nanos| Ok(Duration::from_nanos(nanos.parse().context("a time")?)))
            .collect()
    }
}

/// The loop: nanoseconds of each life, one a line. `bundles` holds the bundles.
///
/// # Errors
/// When the runtime fails.
pub fn run_loop(program: &str, bundles: &str, count: usize) -> Result<Vec<u128>> {
    let state = TempDir::with_prefix("w-runtime-").context("make a folder")?;
    let run = |bundle: &str, id: &str| -> Result<String> {
        let output = Command::new(program)
            .arg("--root")
            .arg(state.path())
            .args(["run", "--bundle", &format!("{bundles}/{bundle}"), id])
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("run {program}"))?;
        if !output.status.success() {
            bail!("{program}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let said = run(PROOF, "proof")?;
    if said != ALIVE {
        bail!("{program} ran `echo {ALIVE}` and said {said:?}");
    }
    let mut times = Vec::new();
    for n in 0..count {
        let begin = Instant::now();
        run(TRUE, &format!("bench-{n}"))?;
        times.push(begin.elapsed().as_nanos());
    }
    super::remove_cgroup(CGROUP);
    Ok(times)
}
