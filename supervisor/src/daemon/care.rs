//! The metadata looked after: opened whatever happened to it, copied now and then, made from a copy.
//!
//! ```text
//! open ── ok ──────────────────────────────▶ records that can't be read are set aside, one by one
//!   │ damaged                                             ▲
//!   ▼                                                     │
//! set aside whole ─▶ from the last copy, or empty ────────┘
//! ```
//! So the supervisor always starts. As long as something that was set aside might need anything,
//! nothing is swept or collected; `wharf system doctor` tells of it, `--repair` settles it.

use std::{
    fs::{self, File},
    io::BufReader,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{Error, lock::Lock, make_folder};
use crate::{
    config::Config,
    drivers::{
        aside::{Aside, Item},
        content::ContentStore,
    },
    fault, faultpoint,
    services::doctor::{self, Depth, Doctor},
    store::{self, Extent, Store},
};

/// Between the start and the first copy, at most.
const FIRST_COPY: Duration = Duration::from_secs(20);

/// How often it is written down how far the journal is.
const MARK_EVERY: Duration = Duration::from_secs(1);

/// More events than come between two marks.
const NOT_MARKED: u64 = 10_000;

/// The metadata of a data folder.
pub(super) fn folder(root: &Path) -> PathBuf {
    root.join("meta")
}

/// The last copy of it.
pub(super) fn copy_path(root: &Path) -> PathBuf {
    root.join("meta.last.backup")
}

/// A store that is open, and what had to be set aside for that.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) store: Store,
    pub(super) set_aside: Vec<Item>,
    /// It was damaged, now or not long ago: what it has is from the last copy, or nothing.
    pub(super) is_anew: bool,
}

/// Opens the store of a data folder; see the module.
pub(super) fn open(root: &Path) -> Result<Opened, Error> {
    let aside = Aside::of(root);
    let mut set_aside = Vec::new();
    let was_begun = !folder(root).exists() && (copy_path(root).exists() || is_unsettled(&aside));
    // It was set aside, and the supervisor ended; or somebody has moved it away.
    let opened = if was_begun { None } else { Some(open_whole(root)) };
    let store = match opened {
        None => begin_anew(root)?,
        Some(Err(error)) if error.is_damage() => {
            let why = fault::chain(&error);
            let io = |source| Error::File { path: folder(root), source };
            let item = aside.move_here(&folder(root), "meta", &why).map_err(io)?;
            tracing::error!(
                error = why,
                set_aside = %item.path.display(),
                "metadata is damaged and was set aside; nothing is swept until `wharf system doctor --repair`"
            );
            set_aside.push(item);
            faultpoint::reach_blocking("startup.meta.set.aside");
            begin_anew(root)?
        }
        Some(opened) => opened?,
    };
    faultpoint::reach_blocking("startup.meta.opened");
    // Until somebody has looked: what is taken in again may take longer than this process lives.
    let is_anew = was_begun || is_unsettled(&aside);
    for unreadable in doctor::unreadable(&store)? {
        let item = doctor::set_record_aside(&store, &aside, &unreadable)?;
        tracing::error!(
            tree = unreadable.tree,
            key = %String::from_utf8_lossy(&unreadable.key),
            problem = unreadable.problem,
            set_aside = %item.path.display(),
            "record is damaged and was set aside"
        );
        set_aside.push(item);
    }
    Ok(Opened { store, set_aside, is_anew })
}

/// Whether metadata that was set aside waits for somebody to look at it.
fn is_unsettled(aside: &Aside) -> bool {
    aside.list().iter().any(doctor::is_store)
}

/// The store, if it knows at least what was marked.
fn open_whole(root: &Path) -> Result<Store, store::Error> {
    let folder = folder(root);
    let store = Store::open(&folder)?;
    let (last, marked) = (store.last_number()?, marked(root));
    if last < marked {
        let problem = format!("it ends at event {last}, and had {marked}");
        // Its lock is given back in a while.
        drop(store);
        let _ = store::released(&folder, Duration::from_secs(5));
        return Err(store::Error::Damaged { folder, problem });
    }
    Ok(store)
}

/// Number of an event that the store had, on the disk.
fn marked(root: &Path) -> u64 {
    let text = fs::read_to_string(mark_path(root)).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

fn mark_path(root: &Path) -> PathBuf {
    root.join("meta.last.event")
}

fn begin_anew(root: &Path) -> Result<Store, Error> {
    let folder = folder(root);
    match File::open(copy_path(root)) {
        Ok(file) => match Store::restore(&folder, BufReader::new(file)) {
            Ok(summary) => {
                tracing::warn!(records = summary.records, "metadata is made from its last copy");
            }
            Err(error) => {
                tracing::error!(error = fault::chain(&error), "the last copy is no good");
            }
        },
        Err(error) => {
            tracing::warn!(%error, "there is no copy of the metadata: it begins empty");
        }
    }
    let lost = marked(root) + NOT_MARKED;
    // Of the store before: to be empty, or to know less than that one, is no sign of damage now.
    let _ = fs::remove_file(mark_path(root));
    store::forget_reserve(&folder);
    let store = Store::open(&folder)?;
    // No number is given twice, whatever was lost.
    store.skip_numbers(lost)?;
    Ok(store)
}

/// Copies the metadata each time that `every` has passed and something has changed, and marks how far
/// it is in between. Ends with the daemon.
pub(super) async fn keep_copies(store: Store, root: PathBuf, every: Duration) {
    let mut due = Instant::now() + FIRST_COPY.min(every);
    let (mut copied, mut marked) = (None, 0);
    loop {
        tokio::time::sleep(MARK_EVERY).await;
        let durable = store.durable_number();
        if durable > marked {
            marked = durable;
            let root = root.clone();
            // Without it, a loss is found out a little later.
            let _ = tokio::task::spawn_blocking(move || mark(&root, durable)).await;
        }
        let commits = store.commits();
        if Instant::now() < due || copied == Some(commits) {
            continue;
        }
        due = Instant::now() + every;
        let (from, to) = (store.clone(), copy_path(&root));
        let written = move || write_copy(&from, &to, Extent::Brief);
        match tokio::task::spawn_blocking(written).await {
            Ok(Ok(_)) => copied = Some(commits),
            // The one before is still there.
            Ok(Err(error)) => {
                tracing::warn!(error = fault::chain(&error), "metadata is not copied");
            }
            Err(_) => return,
        }
    }
}

/// Not flushed: whatever of it survives a power cut, it is no more than what the store has.
fn mark(root: &Path, durable: u64) -> std::io::Result<()> {
    let aside = mark_path(root).with_extension("new");
    fs::write(&aside, format!("{durable}\n"))?;
    fs::rename(&aside, mark_path(root))
}

/// Writes a copy over the one that is there, all of it or nothing; on the disk when this answers.
pub(super) fn write_copy(store: &Store, path: &Path, extent: Extent) -> Result<u64, store::Error> {
    let io = store::Error::Backup;
    let aside = path.with_extension("new");
    let written = private(&aside).map_err(io).and_then(|file| {
        let (file, summary) = store.backup(file, extent)?;
        faultpoint::step_blocking("backup.written").map_err(io)?;
        file.sync_all().and_then(|()| fs::rename(&aside, path)).map_err(io)?;
        Ok(summary.records)
    });
    if written.is_err() {
        let _ = fs::remove_file(&aside);
    }
    written
}

fn private(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    File::options().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// Reads everything that is kept and says what is wrong, one thing a line; with `repair`, what can be
/// is put right. Gives how many things are left. The supervisor must not run.
///
/// # Errors
/// When one runs, or the store can't be opened for a reason that is not its own.
pub fn check(config: &Config, repair: bool, say: &mut dyn FnMut(&str)) -> Result<usize, Error> {
    let _held = hold(config)?;
    if !folder(&config.root).exists() {
        // To open it would make it.
        if copy_path(&config.root).exists() || is_unsettled(&Aside::of(&config.root)) {
            say(
                "metadata\tis not there\tthe next start makes it from its last copy, if there is one\t",
            );
            return Ok(1);
        }
        return Ok(0);
    }
    let store = match open_whole(&config.root) {
        Err(error) if error.is_damage() => {
            say(&format!(
                "metadata\t{}\t{}\tthe next start (or --repair) sets it aside and begins with its last copy",
                folder(&config.root).display(),
                fault::chain(&error)
            ));
            if !repair {
                return Ok(1);
            }
            open(&config.root)?.store
        }
        opened => opened?,
    };
    let doctor = Doctor {
        store,
        content: ContentStore::open(&config.root).map_err(Error::Content)?,
        root: config.root.clone(),
        state: config.state.clone(),
        cgroup_parent: config.cgroup_parent.clone(),
    };
    let mut findings = doctor.examine(Depth::Bytes)?;
    for finding in &findings {
        let doctor::Finding { subject, what, problem, remedy, .. } = finding;
        say(&format!("{subject}\t{what}\t{problem}\t{remedy}"));
    }
    if repair {
        let finish = |_: &str, _: &str| Err("the next start finishes it".into());
        for done in doctor.repair(&findings, finish) {
            let word = done.problem.map_or("done".into(), |problem| format!("not done: {problem}"));
            say(&format!("repair\t{}\t{word}", done.finding.what));
        }
        findings = doctor.examine(Depth::Names)?;
    }
    Ok(findings.len())
}

/// Makes the metadata from a backup; there must be none. Gives the number of records.
///
/// # Errors
/// When a supervisor runs, there is metadata, or the backup is no good.
pub fn restore(config: &Config, backup: &Path) -> Result<u64, Error> {
    let _held = hold(config)?;
    let file = File::open(backup).map_err(|source| Error::File { path: backup.into(), source })?;
    let summary = Store::restore(&folder(&config.root), BufReader::new(file))?;
    // Of the store before.
    let _ = fs::remove_file(mark_path(&config.root));
    store::forget_reserve(&folder(&config.root));
    Ok(summary.records)
}

fn hold(config: &Config) -> Result<[Lock; 2], Error> {
    for folder in [&config.root, &config.state] {
        make_folder(folder)?;
    }
    Ok([Lock::take(&config.root)?, Lock::take(&config.state)?])
}
