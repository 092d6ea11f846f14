//! Looking.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Container, Finding, LayerRecord, Repair, Subject, Volume, unreadable};
use crate::{
    drivers::{
        aside::Aside,
        content::{ContentStore, Digest},
        leftovers,
    },
    fault,
    ids::ContainerId,
    services::{containers::machine::State, images::Image},
    store::{self, Store},
};

/// Between two looks at a supervisor that runs.
const APART: Duration = Duration::from_millis(1500);
/// Less than that is told of.
const LITTLE_SPACE: u64 = 64 << 20;

/// How much to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Names and sizes.
    Names,
    /// Every byte of every blob.
    Bytes,
}

/// The folders and the store of a supervisor.
#[derive(Clone, Debug)]
pub struct Doctor {
    /// The metadata.
    pub store: Store,
    /// The blobs.
    pub content: ContentStore,
    /// `--root`
    pub root: PathBuf,
    /// `--state`
    pub state: PathBuf,
    /// Of the containers' cgroups.
    pub cgroup_parent: String,
}

const PULL: &str = "pull or load the image again";
const ASIDE: &str = "--repair moves it to <root>/set-aside";

fn by_hand(subject: Subject, what: String, problem: String, remedy: &str) -> Finding {
    Finding { subject, what, problem, remedy: remedy.into(), repair: Repair::ByHand }
}

/// What is kept of containers, as far as it says what else should be there.
struct Known {
    live: HashSet<ContainerId>,
    all: HashSet<ContainerId>,
}

impl Known {
    fn has(&self, id: &str) -> bool {
        id.parse::<ContainerId>().is_ok_and(|id| self.all.contains(&id))
    }

    fn runs(&self, short: &str) -> bool {
        self.live.iter().any(|id| id.short() == short)
    }
}

impl Doctor {
    /// All that is wrong while a supervisor runs: what is seen twice.
    ///
    /// # Errors
    /// As [`Doctor::examine`].
    pub fn examine_twice(&self, depth: Depth) -> Result<Vec<Finding>, store::Error> {
        let first = self.examine(Depth::Names)?;
        std::thread::sleep(APART);
        let mut second = self.examine(depth)?;
        second.retain(|finding| {
            let deep = depth == Depth::Bytes && finding.subject == Subject::Missing;
            deep || first.contains(finding)
        });
        Ok(second)
    }

    /// All that is wrong.
    ///
    /// # Errors
    /// When the store can't be read at all.
    pub fn examine(&self, depth: Depth) -> Result<Vec<Finding>, store::Error> {
        // First what is there, then what should be: so nothing that has just come looks like nobody's.
        let shims = leftovers::shims(&self.bundles());
        let cgroups = leftovers::cgroups(&self.cgroup_parent);
        let folders = [self.bundles(), self.root.join("snapshots")];
        let mounts = leftovers::mounts(&folders);
        let files = self.list_files();
        let mut findings = Vec::new();
        for found in unreadable(&self.store)? {
            findings.push(Finding {
                subject: Subject::Record,
                what: format!("{}/{}", found.tree, String::from_utf8_lossy(&found.key)),
                problem: found.problem.clone(),
                remedy: ASIDE.into(),
                repair: Repair::Record(found),
            });
        }
        let containers: Vec<Container> = self.all()?;
        let known = Known {
            live: containers.iter().filter(|c| c.state.is_live()).map(|c| c.id.clone()).collect(),
            all: containers.iter().map(|c| c.id.clone()).collect(),
        };
        self.set_aside(&mut findings);
        intents(&containers, &mut findings);
        self.missing(&containers, depth, &mut findings)?;
        self.kernel(&known, shims, cgroups, mounts, &mut findings);
        self.foreign(&known, files, &mut findings)?;
        self.space(&mut findings);
        Ok(findings)
    }

    fn bundles(&self) -> PathBuf {
        self.state.join("c")
    }

    fn all<R: store::Record>(&self) -> Result<Vec<R>, store::Error> {
        Ok(self.store.all::<R>()?.flatten().map(|(_, record)| record).collect())
    }

    fn set_aside(&self, findings: &mut Vec<Finding>) {
        let both = [&self.root, &self.state].map(|base| Aside::of(base).list());
        for item in both.into_iter().flatten() {
            findings.push(Finding {
                subject: Subject::SetAside,
                what: item.path.display().to_string(),
                problem: item.why.clone(),
                remedy:
                    "look at it; --repair keeps it in set-aside/settled, and what nobody needs is \
                         collected again"
                        .into(),
                repair: Repair::Settle(item),
            });
        }
    }

    fn missing(
        &self,
        containers: &[Container],
        depth: Depth,
        findings: &mut Vec<Finding>,
    ) -> Result<(), store::Error> {
        let layers: HashMap<Digest, LayerRecord> = self
            .all::<LayerRecord>()?
            .into_iter()
            .map(|layer| (layer.chain_id.clone(), layer))
            .collect();
        for container in containers {
            let what = format!("container {} ({})", container.name, container.id.short());
            let remedy = "pull its image again, or remove it";
            self.stack(&what, container.image.chain_id.as_ref(), &layers, remedy, findings);
        }
        let mut seen = HashSet::new();
        for image in self.all::<Image>()? {
            let what = image.names.first().map_or(image.id.to_string(), |n| n.reference.clone());
            let what = format!("image {what}");
            self.stack(&what, image.chain_id.as_ref(), &layers, PULL, findings);
            for blob in &image.blobs {
                if seen.insert(blob.digest.clone())
                    && let Some(problem) = self.blob(&blob.digest, blob.size_bytes, depth)
                {
                    let problem = format!("blob {} {problem}", blob.digest);
                    findings.push(by_hand(Subject::Missing, what.clone(), problem, PULL));
                }
            }
        }
        Ok(())
    }

    fn stack(
        &self,
        what: &str,
        top: Option<&Digest>,
        layers: &HashMap<Digest, LayerRecord>,
        remedy: &str,
        findings: &mut Vec<Finding>,
    ) {
        let mut next = top.cloned();
        while let Some(chain_id) = next {
            let Some(layer) = layers.get(&chain_id) else {
                let problem = format!("layer {chain_id} has no record");
                findings.push(by_hand(Subject::Missing, what.into(), problem, remedy));
                return;
            };
            let folder = self.root.join(format!("snapshots/overlay/l/{}/fs", layer.number));
            if !folder.is_dir() {
                let problem = format!("layer {chain_id}: {} is not there", folder.display());
                findings.push(by_hand(Subject::Missing, what.into(), problem, remedy));
            }
            next = layer.parent.clone();
        }
    }

    fn blob(&self, digest: &Digest, size: u64, depth: Depth) -> Option<String> {
        match self.content.stat(digest) {
            Err(error) => Some(fault::chain(&error)),
            Ok(None) => Some("is not there".into()),
            Ok(Some(blob)) if blob.size_bytes != size => {
                Some(format!("has {} bytes, not {size}", blob.size_bytes))
            }
            Ok(Some(_)) if depth == Depth::Bytes => {
                let read = self.content.open_blob(digest).map_err(|e| fault::chain(&e));
                let read = read.and_then(|mut blob| {
                    io::copy(&mut blob, &mut io::sink()).map_err(|e| e.to_string())
                });
                read.err()
            }
            Ok(Some(_)) => None,
        }
    }

    fn kernel(
        &self,
        known: &Known,
        shims: Vec<leftovers::ShimProcess>,
        cgroups: Vec<(String, PathBuf)>,
        mounts: Vec<PathBuf>,
        findings: &mut Vec<Finding>,
    ) {
        let short = |path: &Path| {
            path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
        };
        for shim in shims.into_iter().filter(|shim| !known.runs(&short(&shim.bundle))) {
            findings.push(Finding {
                subject: Subject::Process,
                what: format!("pid {} in {}", shim.pid, shim.bundle.display()),
                problem: "a shim of no container that runs".into(),
                remedy: "--repair kills it".into(),
                repair: Repair::Kill(shim),
            });
        }
        for (name, folder) in cgroups {
            let Ok(id) = name.parse::<ContainerId>() else { continue };
            // Another supervisor's containers may be below the same parent.
            let ours = known.all.contains(&id) || self.bundles().join(id.short()).exists();
            let pids = leftovers::processes_of(&folder);
            if known.live.contains(&id) || (!ours && !pids.is_empty()) {
                continue;
            }
            let problem = match pids.len() {
                0 => "an empty cgroup of no container that runs".into(),
                count => format!("{count} processes of no container that runs"),
            };
            findings.push(Finding {
                subject: Subject::Cgroup,
                what: folder.display().to_string(),
                problem,
                remedy: "--repair kills what is in it and removes it".into(),
                repair: Repair::Cgroup(folder),
            });
        }
        for point in mounts {
            let bundle = point.parent().map(short).unwrap_or_default();
            // Shims of others mount there.
            if point.ends_with("rootfs") && known.runs(&bundle) {
                continue;
            }
            findings.push(Finding {
                subject: Subject::Mount,
                what: point.display().to_string(),
                problem: "a mount of no container that runs".into(),
                remedy: "--repair unmounts it".into(),
                repair: Repair::Unmount(point),
            });
        }
    }

    /// Everything in the folders where only Wharf's own files are expected.
    fn list_files(&self) -> Vec<PathBuf> {
        let folders = [
            self.root.join("content/blobs/sha256"),
            self.root.join("content/blobs/sha512"),
            self.root.join("snapshots/overlay/l"),
            self.root.join("snapshots/overlay/c"),
            self.root.join("logs"),
            self.bundles(),
        ];
        let mut files: Vec<PathBuf> = folders.iter().flat_map(|folder| entries(folder)).collect();
        for namespace in entries(&self.root.join("volumes")) {
            if !namespace.ends_with(".trash") {
                files.extend(entries(&namespace));
            }
        }
        files
    }

    fn foreign(
        &self,
        known: &Known,
        files: Vec<PathBuf>,
        findings: &mut Vec<Finding>,
    ) -> Result<(), store::Error> {
        let layers: HashSet<u64> = self.all::<LayerRecord>()?.iter().map(|l| l.number).collect();
        let volumes: HashSet<(String, String)> = self
            .all::<Volume>()?
            .iter()
            .map(|v| (v.namespace.to_string(), v.name.to_string()))
            .collect();
        for path in files {
            let text =
                |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let name = text(&path);
            let folder = path.parent().map(text).unwrap_or_default();
            let container = "of no container that is known";
            let problem = match folder.as_str() {
                "sha256" | "sha512" => match format!("{folder}:{name}").parse::<Digest>() {
                    Ok(_) => continue,
                    Err(_) => "not a blob",
                },
                "l" => match name.parse::<u64>() {
                    // Collected at the next start, when nothing is set aside that might need it.
                    Ok(number) if !layers.contains(&number) => continue,
                    Ok(_) => continue,
                    Err(_) => "not a layer",
                },
                "c" if path.starts_with(&self.state) => {
                    let of_known = known.all.iter().any(|id| id.short() == name);
                    if known.runs(&name) {
                        continue;
                    }
                    if of_known { "of a container that does not run" } else { container }
                }
                "c" if known.has(name.strip_suffix(".new").unwrap_or(&name)) => continue,
                "logs" if known.has(name.split('.').next().unwrap_or_default()) => continue,
                "c" | "logs" => container,
                namespace if volumes.contains(&(namespace.to_owned(), name.clone())) => continue,
                _ => "of no volume that is known",
            };
            findings.push(Finding {
                subject: Subject::File,
                what: path.display().to_string(),
                problem: problem.into(),
                remedy: ASIDE.into(),
                repair: Repair::Move(path),
            });
        }
        Ok(())
    }

    fn space(&self, findings: &mut Vec<Finding>) {
        for folder in [&self.root, &self.state] {
            let Ok(stat) = rustix::fs::statvfs(folder) else { continue };
            let free = stat.f_bavail * stat.f_frsize;
            if free < LITTLE_SPACE {
                findings.push(by_hand(
                    Subject::Space,
                    folder.display().to_string(),
                    format!("{} MiB are free", free >> 20),
                    "free some: stop, delete and list work, new things may be refused",
                ));
            }
        }
        if !self.root.join("meta.reserve").exists() {
            findings.push(by_hand(
                Subject::Space,
                self.root.join("meta.reserve").display().to_string(),
                "there is no reserve for opening the metadata on a full disk".into(),
                "free some space; the next start makes it",
            ));
        }
    }
}

fn intents(containers: &[Container], findings: &mut Vec<Finding>) {
    for container in containers {
        let what = format!("container {} ({})", container.name, container.id.short());
        let (id, namespace) = (container.id.to_string(), container.namespace.to_string());
        let (problem, remedy, repair) = match &container.state {
            State::Starting { .. } => {
                let remedy = "it is finished or given up by itself; a restart of wharfd undoes it";
                ("its start is not finished", remedy, Repair::ByHand)
            }
            State::Removing { .. } => {
                let repair = Repair::Finish(namespace, id);
                ("its removal is not finished", "--repair removes it", repair)
            }
            State::Unreachable(_) => {
                let remedy =
                    "another shim is tried each minute; kill it with SIGKILL to give it up";
                ("its shim is gone, and no other goes on with it", remedy, Repair::ByHand)
            }
            State::Created | State::Running(_) | State::Paused(_) | State::Stopped { .. } => {
                continue;
            }
        };
        findings.push(Finding {
            subject: Subject::Intent,
            what,
            problem: problem.into(),
            remedy: remedy.into(),
            repair,
        });
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}
