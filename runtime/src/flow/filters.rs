//! Compiled seccomp profiles, kept from one container to the next.
//!
//! A profile is the same for nearly all containers of a host, and to compile one is a good part of
//! what a start takes. What was compiled lies in a folder of this user's alone, in memory: `/run`,
//! or the user's own `XDG_RUNTIME_DIR`. It ends with the boot, so the kernel is always the same.
//! Whatever is wrong with it (owner, mode, form, content), the profile is compiled as if nothing were
//! there: nothing in here can fail a container.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::logic::seccomp::{Filter, compile, kept};
use crate::spec::LinuxSeccomp;
use crate::sys::cred::own_uid;
use crate::sys::no;

/// More than any host has profiles; then all are dropped, and those in use come again.
const MOST: usize = 64;
const FOLDER: &str = "wharf-filters";

/// The program for a profile: kept, or compiled now.
///
/// # Errors
/// The field of the profile that makes no sense.
pub(crate) fn filter_of(profile: &LinuxSeccomp) -> Result<Filter, Error> {
    match folder() {
        Some(folder) => filter_in(&folder, profile),
        None => compile(profile),
    }
}

fn folder() -> Option<PathBuf> {
    let base = match own_uid() {
        0 => PathBuf::from("/run"),
        _ => PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?),
    };
    Some(base.join(FOLDER))
}

fn filter_in(folder: &Path, profile: &LinuxSeccomp) -> Result<Filter, Error> {
    let Some(key) = kept::key(profile) else { return compile(profile) };
    let path = folder.join(kept::name(&key));
    if is_our_own(folder)
        && let Ok(bytes) = read(&path)
        && let Some(filter) = kept::decode(&bytes, &key)
    {
        return Ok(filter);
    }
    let filter = compile(profile)?;
    // A full or read-only file system: then the next one compiles, too.
    let _ = keep(folder, &path, &kept::encode(&key, &filter));
    Ok(filter)
}

/// A folder, not a link to one, that nobody else may touch.
fn is_our_own(folder: &Path) -> bool {
    fs::symlink_metadata(folder)
        .is_ok_and(|facts| facts.is_dir() && facts.uid() == own_uid() && facts.mode() & 0o077 == 0)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file =
        OpenOptions::new().read(true).custom_flags(no::NOFOLLOW | no::NONBLOCK).open(path)?;
    let facts = file.metadata()?;
    let is_ours = facts.is_file()
        && facts.uid() == own_uid()
        && facts.mode() & 0o7177 == 0
        && facts.nlink() == 1
        && facts.len() <= kept::MAX_BYTES;
    if !is_ours {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = Vec::with_capacity(facts.len() as usize + 1);
    file.take(kept::MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn keep(folder: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    if !is_our_own(folder) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    make_room(folder)?;
    // Whole or not at all, also for one who does the same at the same time.
    let new = folder.join(format!(".{}", std::process::id()));
    let write = |mut file: File| file.write_all(bytes).and_then(|()| fs::rename(&new, path));
    let opened =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).and_then(write);
    if opened.is_err() {
        // Ours, or of a process of that number that was killed.
        let _ = fs::remove_file(&new);
    }
    opened
}

fn make_room(folder: &Path) -> io::Result<()> {
    let all: Vec<_> = fs::read_dir(folder)?.filter_map(Result::ok).collect();
    if all.len() >= MOST {
        all.iter().try_for_each(|entry| fs::remove_file(entry.path()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn profile(number: u32) -> LinuxSeccomp {
        let json = format!(
            r#"{{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":{number},
                "syscalls":[{{"names":["read"],"action":"SCMP_ACT_ALLOW"}}]}}"#
        );
        serde_json::from_str(&json).expect("json")
    }

    fn only_file(folder: &Path) -> PathBuf {
        let mut all = fs::read_dir(folder).expect("a folder");
        let first = all.next().expect("a file").expect("an entry").path();
        assert!(all.next().is_none(), "more than one");
        first
    }

    #[test]
    fn kept_once_and_found_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("filters");
        let first = filter_in(&folder, &profile(7)).expect("valid");
        let file = only_file(&folder);
        assert_eq!(fs::metadata(&file).expect("facts").mode() & 0o7777, 0o600);
        assert_eq!(fs::metadata(&folder).expect("facts").mode() & 0o7777, 0o700);
        // What is in the file is what is taken: another sound program, under a right sum.
        let key = kept::key(&profile(7)).expect("small");
        let other = compile(&profile(9)).expect("valid");
        assert_ne!(first, other);
        fs::write(&file, kept::encode(&key, &other)).expect("write");
        assert_eq!(filter_in(&folder, &profile(7)).expect("valid"), other);
    }

    #[test]
    fn what_is_not_to_be_trusted_is_compiled_anew() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("filters");
        let right = filter_in(&folder, &profile(7)).expect("valid");
        let file = only_file(&folder);
        let key = kept::key(&profile(7)).expect("small");
        let wrong = kept::encode(&key, &compile(&profile(9)).expect("valid"));
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
        };
        let check = |what: &str| {
            assert_eq!(filter_in(&folder, &profile(7)).expect("valid"), right, "{what}");
        };
        fs::write(&file, &wrong[..wrong.len() - 1]).expect("write");
        check("torn");
        assert_ne!(fs::read(&file).expect("read").len(), wrong.len() - 1, "it was not replaced");
        fs::write(&file, &wrong).expect("write");
        mode(&file, 0o620);
        check("others may write");
        fs::write(&file, &wrong).expect("write");
        fs::hard_link(&file, folder.join("second")).expect("link");
        check("has a second name");
        fs::remove_file(folder.join("second")).expect("remove");
        let elsewhere = dir.path().join("elsewhere");
        fs::write(&elsewhere, &wrong).expect("write");
        mode(&elsewhere, 0o600);
        fs::remove_file(&file).expect("remove");
        symlink(&elsewhere, &file).expect("link");
        check("a link");
        fs::write(&file, &wrong).expect("write");
        mode(&folder, 0o770);
        check("a folder of others");
        mode(&folder, 0o700);
        if own_uid() == 0 {
            std::os::unix::fs::chown(&folder, Some(1), None).expect("chown");
            check("a folder of another");
            std::os::unix::fs::chown(&folder, Some(0), None).expect("chown");
            std::os::unix::fs::chown(&file, Some(1), None).expect("chown");
            check("a file of another");
        }
        let real = dir.path().join("real");
        fs::rename(&folder, &real).expect("rename");
        symlink(&real, &folder).expect("link");
        fs::write(real.join(file.file_name().expect("a name")), &wrong).expect("write");
        check("a link to a folder");
    }

    #[test]
    fn their_number_is_bounded() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("filters");
        for number in 0..(2 * MOST as u32 + 5) {
            filter_in(&folder, &profile(number)).expect("valid");
        }
        assert!(fs::read_dir(&folder).expect("a folder").count() <= MOST);
    }
}
