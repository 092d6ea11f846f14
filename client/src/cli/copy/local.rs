//! This machine's side of `cp`. What comes from a container is not to be trusted: nothing is written
//! through a link that the tar has brought, and nothing outside of where it was wanted.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::fs::{MetadataExt as _, lchown},
    path::{Component, Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};

/// Whose copied files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owners {
    Kept,
    Ours,
}

/// Where files go.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// A folder that is there.
    folder: PathBuf,
    /// In place of the name that they have; none: that name. Empty: what is in the folder goes there.
    name: Option<OsString>,
}

/// As Docker's cp finds it: into a folder that is there, else under the name that was given.
pub(super) fn place(
    to: &Path,
    wants_folder: bool,
    is_folder: bool,
    only_content: bool,
) -> Result<Place> {
    let shown = to.display();
    match fs::metadata(to) {
        Ok(meta) if meta.is_dir() => {
            let name = only_content.then(OsString::new);
            return Ok(Place { folder: to.into(), name });
        }
        Ok(_) if is_folder => bail!("{shown} is a file, and a folder can't replace it"),
        Ok(_) if wants_folder => bail!("{shown} is no folder"),
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("look at {shown}"));
        }
        Err(_) if wants_folder && !is_folder => bail!("{shown} is not there"),
        _ => {}
    }
    if only_content {
        fs::create_dir(to).with_context(|| format!("make {shown}"))?;
        return Ok(Place { folder: to.into(), name: Some(OsString::new()) });
    }
    let name = to.file_name().ok_or_else(|| anyhow!("{shown} has no name"))?.to_owned();
    let folder = match to.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    if !folder.is_dir() {
        bail!("{} is no folder", folder.display());
    }
    Ok(Place { folder, name: Some(name) })
}

/// What a path is called, however it is written.
pub(super) fn own_name(path: &Path) -> Result<OsString> {
    if let Some(name) = path.file_name() {
        return Ok(name.to_owned());
    }
    let real = path.canonicalize().with_context(|| format!("look at {}", path.display()))?;
    Ok(real.file_name().unwrap_or_default().to_owned())
}

impl Place {
    /// Where an entry goes, from the folder. None: it is the folder.
    fn of(&self, entry: &Path) -> Result<Option<PathBuf>> {
        let mut parts = Vec::new();
        for part in entry.components() {
            match part {
                Component::Normal(part) => parts.push(part),
                Component::CurDir => {}
                Component::RootDir | Component::ParentDir | Component::Prefix(_) => {
                    bail!("the container sends a path that leads out: {}", entry.display())
                }
            }
        }
        let renamed: PathBuf = match &self.name {
            Some(name) if !name.is_empty() => {
                std::iter::once(name.as_os_str()).chain(parts.into_iter().skip(1)).collect()
            }
            _ => parts.into_iter().collect(),
        };
        Ok((!renamed.as_os_str().is_empty()).then_some(renamed))
    }

    /// The path on this machine, whose folders, below where all goes, are made and are no links.
    fn ready(&self, path: &Path) -> Result<PathBuf> {
        let mut at = self.folder.clone();
        let parents = path.parent().unwrap_or(Path::new(""));
        for part in parents.components() {
            at.push(part);
            match fs::symlink_metadata(&at) {
                Ok(meta) if meta.is_dir() => {}
                Ok(_) => bail!("{} is no folder", at.display()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    fs::create_dir(&at).with_context(|| format!("make {}", at.display()))?;
                }
                Err(error) => {
                    return Err(error).with_context(|| format!("look at {}", at.display()));
                }
            }
        }
        Ok(self.folder.join(path))
    }
}

/// Unpacks what comes from a container.
pub(super) fn unpack(tar: impl io::Read, place: &Place, owners: Owners) -> Result<()> {
    let mut archive = tar::Archive::new(tar);
    // Folders get their modes and times when all is in them.
    let mut folders = Vec::new();
    for entry in archive.entries().context("read the files")? {
        let mut entry = entry.context("read the files")?;
        let named = entry.path().context("read the files")?.into_owned();
        let Some(path) = place.of(&named)? else { continue };
        let at = place.ready(&path)?;
        let failed = || format!("write {}", at.display());
        let there = fs::symlink_metadata(&at).ok();
        let kind = entry.header().entry_type();
        let is_folder = there.as_ref().is_some_and(fs::Metadata::is_dir);
        if kind.is_dir() {
            match there {
                Some(meta) if meta.is_dir() => {}
                Some(_) => bail!("{} is no folder", at.display()),
                None => fs::create_dir(&at).with_context(failed)?,
            }
            let header = entry.header();
            folders.push((at, header.mode().unwrap_or(0o755), header.mtime().unwrap_or(0)));
            continue;
        }
        if is_folder {
            bail!("{} is a folder, and can't be replaced by a file", at.display());
        }
        if there.is_some() {
            fs::remove_file(&at).with_context(failed)?;
        }
        if kind.is_hard_link() {
            let link = entry.link_name().context("read the files")?.unwrap_or_default();
            let link = place.of(&link)?.ok_or_else(|| anyhow!("a hard link to nothing"))?;
            fs::hard_link(place.ready(&link)?, &at).with_context(failed)?;
            continue;
        }
        if !kind.is_symlink() && !kind.is_file() && !kind.is_contiguous() {
            // Devices and pipes of a container mean nothing here.
            crate::cli::output::complain(&format!("left out, no file: {}", named.display()));
            continue;
        }
        entry.set_preserve_permissions(false);
        entry.set_preserve_mtime(true);
        entry.unpack(&at).with_context(failed)?;
        if owners == Owners::Kept {
            keep_owner(&at, entry.header())?;
        }
    }
    for (at, mode, mtime) in folders.into_iter().rev() {
        use std::os::unix::fs::PermissionsExt as _;
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(mtime);
        let mode = fs::Permissions::from_mode(mode & 0o777);
        let set = fs::set_permissions(&at, mode)
            .and_then(|()| fs::File::open(&at).and_then(|folder| folder.set_modified(time)));
        set.with_context(|| format!("set the mode of {}", at.display()))?;
    }
    Ok(())
}

fn keep_owner(at: &Path, header: &tar::Header) -> Result<()> {
    let id = |id: io::Result<u64>| id.ok().and_then(|id| u32::try_from(id).ok());
    let (uid, gid) = (id(header.uid()), id(header.gid()));
    lchown(at, uid, gid).with_context(|| format!("set the owner of {}", at.display()))
}

/// Packs what goes to a container; `name` none: what is in the folder.
pub(super) fn pack(
    source: &Path,
    name: Option<&OsStr>,
    follow: bool,
    out: impl io::Write,
) -> Result<()> {
    let failed = || format!("read {}", source.display());
    let mut tar = tar::Builder::new(out);
    tar.follow_symlinks(false);
    let source =
        if follow { source.canonicalize().with_context(failed)? } else { source.to_owned() };
    let meta = fs::symlink_metadata(&source).with_context(failed)?;
    // "link/" and "link/." mean the folder.
    let meta = if name.is_none() { fs::metadata(&source).with_context(failed)? } else { meta };
    let name = name.map_or(Path::new("."), Path::new);
    if meta.is_dir() {
        append_folder(&mut tar, &source, name).with_context(failed)?;
    } else {
        append(&mut tar, &source, name, &meta).with_context(failed)?;
    }
    tar.finish().context("send the files")?;
    tar.into_inner().and_then(|mut out| out.flush()).context("send the files")
}

fn append_folder<W: io::Write>(
    tar: &mut tar::Builder<W>,
    folder: &Path,
    name: &Path,
) -> io::Result<()> {
    tar.append_dir(name, folder)?;
    let mut entries: Vec<_> = fs::read_dir(folder)?.collect::<io::Result<_>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), name.join(entry.file_name()));
        let meta = fs::symlink_metadata(&path)?;
        if meta.is_dir() {
            append_folder(tar, &path, &name)?;
        } else {
            append(tar, &path, &name, &meta)?;
        }
    }
    Ok(())
}

fn append<W: io::Write>(
    tar: &mut tar::Builder<W>,
    path: &Path,
    name: &Path,
    meta: &fs::Metadata,
) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt as _;
    if meta.file_type().is_socket() {
        return Ok(());
    }
    debug_assert!(meta.mode() > 0, "looked at");
    tar.append_path_with_name(path, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a folder")
    }

    #[test]
    fn places_as_docker_finds_them() {
        let dir = folder();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("there")).expect("mkdir");
        fs::write(at("file"), "x").expect("write");
        let found = |name: &str, is_folder, content| {
            place(&at(name), name.ends_with('/'), is_folder, content)
                .ok()
                .map(|p| (p.folder, p.name))
        };
        assert_eq!(found("there", false, false), Some((at("there"), None)));
        assert_eq!(found("there", true, true), Some((at("there"), Some("".into()))));
        assert_eq!(found("new", true, false), Some((dir.path().into(), Some("new".into()))));
        assert_eq!(found("file", false, false), Some((dir.path().into(), Some("file".into()))));
        for (name, is_folder) in [("file", true), ("none/", false), ("none/new", true)] {
            assert_eq!(found(name, is_folder, false), None, "{name}");
        }
    }

    #[test]
    fn a_hostile_tar_stays_inside() {
        let dir = folder();
        fs::create_dir(dir.path().join("in")).expect("mkdir");
        fs::create_dir(dir.path().join("out")).expect("mkdir");
        let place = || Place { folder: dir.path().join("in"), name: None };
        let tar_of = |entries: &[(&str, &str)]| {
            let mut tar = tar::Builder::new(Vec::new());
            for (path, link) in entries {
                let mut header = tar::Header::new_ustar();
                header.set_entry_type(match link.is_empty() {
                    true => tar::EntryType::Regular,
                    false => tar::EntryType::Symlink,
                });
                header.set_link_name_literal(link).expect("link");
                header.set_size(0);
                header.set_mode(0o644);
                header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
                header.set_cksum();
                tar.append(&header, io::empty()).expect("append");
            }
            tar.into_inner().expect("tar")
        };
        for bad in [
            tar_of(&[("../out/x", "")]),
            tar_of(&[("/etc/x", "")]),
            tar_of(&[("l", "../out"), ("l/x", "")]),
            tar_of(&[("a/l", "/"), ("a/l/x", "")]),
        ] {
            assert!(unpack(&bad[..], &place(), Owners::Ours).is_err());
        }
        assert_eq!(fs::read_dir(dir.path().join("out")).expect("list").count(), 0);
        unpack(&tar_of(&[("l", "../out"), ("b/c", "")])[..], &place(), Owners::Ours).expect("good");
        assert!(dir.path().join("in/b/c").is_file());
    }

    #[test]
    fn round_trip() {
        let dir = folder();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("from/deep")).expect("mkdir");
        fs::write(at("from/deep/file"), "text").expect("write");
        std::os::unix::fs::symlink("file", at("from/deep/link")).expect("link");
        let mut tar = Vec::new();
        pack(&at("from"), Some(OsStr::new("to")), false, &mut tar).expect("pack");
        let place = Place { folder: dir.path().into(), name: None };
        unpack(&tar[..], &place, Owners::Ours).expect("unpack");
        assert_eq!(fs::read_to_string(at("to/deep/file")).expect("read"), "text");
        assert_eq!(fs::read_link(at("to/deep/link")).expect("link"), Path::new("file"));
        let mut tar = Vec::new();
        pack(&at("from/."), None, false, &mut tar).expect("pack");
        let renamed = Place { folder: at("to"), name: Some(OsString::new()) };
        unpack(&tar[..], &renamed, Owners::Ours).expect("unpack");
        assert!(at("to/deep/file").is_file());
    }
}
