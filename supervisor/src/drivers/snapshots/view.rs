//! Reads files of a stack of layers without mounting it where anyone could see it.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, openat2},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
        fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
    },
};

use super::Error;

const RETRIES: u32 = 1024;

/// The files of a root file system, to be read. Links are resolved inside of it.
#[derive(Debug)]
pub struct RootView {
    /// None: a root file system with nothing in it.
    root: Option<OwnedFd>,
}

impl RootView {
    /// Of layers' folders, the topmost first.
    pub(super) fn open(layers: &[PathBuf]) -> Result<Self, Error> {
        let root = match layers {
            [] => None,
            [only] => Some(File::open(only).map_err(|e| Error::io("open", only, e))?.into()),
            [top, ..] => Some(
                detached_overlay(layers)
                    .map_err(|e| Error::io("look into the layers at", top, e))?,
            ),
        };
        Ok(Self { root })
    }

    /// Of one folder, as a container's `/proc/<pid>/root`.
    ///
    /// # Errors
    /// When it can't be opened.
    pub fn of_folder(folder: &Path) -> Result<Self, Error> {
        Self::open(&[folder.to_path_buf()])
    }

    /// The root folder; none of a root file system with nothing in it.
    #[must_use]
    pub fn folder(&self) -> Option<BorrowedFd<'_>> {
        self.root.as_ref().map(OwnedFd::as_fd)
    }

    /// The bytes of a regular file, or None if there is none at the path. What is no regular file is
    /// none.
    ///
    /// # Errors
    /// When the file has more than `max_bytes`, or can't be read.
    pub fn read(&self, path: &Path, max_bytes: u64) -> Result<Option<Vec<u8>>, Error> {
        let Some(mut file) = self.open_file(path)? else { return Ok(None) };
        let mut bytes = Vec::new();
        let n = file
            .by_ref()
            .take(max_bytes + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| Error::io("read", path, e))?;
        if n as u64 > max_bytes {
            return Err(Error::TooLarge { path: path.into(), limit: max_bytes });
        }
        Ok(Some(bytes))
    }

    /// The folder at the path, links resolved inside; none if there is no folder.
    ///
    /// # Errors
    /// When it can't be found out.
    pub fn open_folder(&self, path: &Path) -> Result<Option<OwnedFd>, Error> {
        self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// Whether there is a folder at the path.
    ///
    /// # Errors
    /// When it can't be found out.
    pub fn is_dir(&self, path: &Path) -> Result<bool, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        Ok(self.resolve(path, flags)?.is_some() || self.root.is_none() && is_root(path))
    }

    fn open_file(&self, path: &Path) -> Result<Option<File>, Error> {
        // A pipe must not make us wait, a device must not be opened: look first, then read.
        let Some(found) = self.resolve(path, OFlags::PATH)? else { return Ok(None) };
        let meta = File::from(found).metadata().map_err(|e| Error::io("look at", path, e))?;
        if !meta.is_file() {
            return Ok(None);
        }
        Ok(self.resolve(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?.map(File::from))
    }

    fn resolve(&self, path: &Path, flags: OFlags) -> Result<Option<OwnedFd>, Error> {
        let Some(root) = &self.root else { return Ok(None) };
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let mut tries = 0;
        loop {
            match openat2(root.as_fd(), path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Ok(fd) => return Ok(Some(fd)),
                Err(
                    Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG | Errno::ISDIR,
                ) => return Ok(None),
                Err(Errno::AGAIN) if tries < RETRIES => tries += 1,
                Err(e) => return Err(Error::io("open", path, e)),
            }
        }
    }
}

fn is_root(path: &Path) -> bool {
    path.components().all(|c| !matches!(c, std::path::Component::Normal(_)))
}

/// What is to be done to files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Look at them.
    Read,
    /// Change them.
    Write,
}

/// A folder as a mount of its own, mounted nowhere.
pub(super) fn bind(folder: &Path, access: Access) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(rustix::fs::CWD, folder, flags)?;
    if access == Access::Read {
        read_only(&tree)?;
    }
    Ok(tree)
}

fn read_only(tree: &OwnedFd) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the path is an empty C string; `attributes` is a whole mount_attr of the size given and
    // lives through the call.
    #[expect(unsafe_code, reason = "rustix has no call for it")]
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            std::ptr::from_ref(&attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Mounts a folder or file of the host at a path of a detached root; a folder is made for it if that
/// is missing and can be.
///
/// # Errors
/// When it can't be mounted, as before Linux 6.15.
pub fn bind_into(
    root: BorrowedFd<'_>,
    source: &Path,
    target: &str,
    access: Access,
) -> Result<(), Error> {
    let fail = |e: io::Error| {
        Error::io("mount a volume for a container that does not run at", Path::new(target), e)
    };
    let path = Path::new(target.trim_start_matches('/'));
    let Some(place) = place_for(root, path).map_err(fail)? else { return Ok(()) };
    let tree = bind(source, access).map_err(fail)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    match move_mount(&tree, "", &place, "", flags) {
        Err(Errno::NOTDIR) => Ok(()),
        done => done.map_err(|e| fail(e.into())),
    }
}

/// None: it is not there, and nothing can be made there.
fn place_for(root: BorrowedFd<'_>, path: &Path) -> io::Result<Option<OwnedFd>> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let open =
        |path: &Path| openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve);
    let mut done = std::path::PathBuf::new();
    let mut at = open(Path::new("."))?;
    for part in path.components() {
        done.push(part);
        at = match open(&done) {
            Err(Errno::NOENT) => {
                let name = part.as_os_str();
                match rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(Errno::ROFS) => return Ok(None),
                    Err(e) => return Err(e.into()),
                }
                open(&done)?
            }
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            opened => opened?,
        };
    }
    Ok(Some(at))
}

/// Where an overlay's changes go: its upper and work folder.
type Changes<'a> = Option<(&'a Path, &'a Path)>;

/// An overlay that is mounted nowhere and goes with its descriptor.
pub(super) fn detached_overlay(layers: &[PathBuf]) -> io::Result<OwnedFd> {
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(fsmount(&overlay(layers, None)?, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// An overlay that can be written to, mounted nowhere.
pub(super) fn writable(lower: &[PathBuf], upper: &Path, work: &Path) -> io::Result<OwnedFd> {
    let context = overlay(lower, Some((upper, work)))?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
}

fn overlay(lower: &[PathBuf], changes: Changes<'_>) -> io::Result<OwnedFd> {
    match one_by_one(lower, changes) {
        // Before Linux 6.8 there is no `lowerdir+`; before 6.5 that shows only at the end.
        Err(Errno::INVAL) => all_at_once(lower, changes),
        other => Ok(other?),
    }
}

fn one_by_one(lower: &[PathBuf], changes: Changes<'_>) -> Result<OwnedFd, Errno> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in lower {
        fsconfig_set_string(&context, "lowerdir+", layer)?;
    }
    create(&context, changes)?;
    Ok(context)
}

/// In one option, of which the kernel takes 255 bytes: layers by descriptors, if need be.
fn all_at_once(lower: &[PathBuf], changes: Changes<'_>) -> io::Result<OwnedFd> {
    const MOST: usize = 255;
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let mut text = lower.iter().map(|l| l.to_string_lossy()).collect::<Vec<_>>().join(":");
    let mut open = Vec::new();
    if text.len() > MOST {
        for layer in lower {
            open.push(File::open(layer)?);
        }
        let name = |file: &File| format!("/proc/self/fd/{}", file.as_raw_fd());
        text = open.iter().map(name).collect::<Vec<_>>().join(":");
    }
    fsconfig_set_string(&context, "lowerdir", text)?;
    create(&context, changes)?;
    drop(open);
    Ok(context)
}

fn create(context: &OwnedFd, changes: Changes<'_>) -> Result<(), Errno> {
    if let Some((upper, work)) = changes {
        fsconfig_set_string(context, "upperdir", upper)?;
        fsconfig_set_string(context, "workdir", work)?;
    }
    fsconfig_create(context)
}

/// Makes an overlay that can be written to, and lets it go.
pub(super) fn try_overlay(lower: &Path, upper: &Path, work: &Path) -> io::Result<()> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "lowerdir", lower)?;
    fsconfig_set_string(&context, "upperdir", upper)?;
    fsconfig_set_string(&context, "workdir", work)?;
    fsconfig_create(&context)?;
    // Where it can't keep its marks, the kernel makes it read-only, and says so only in its log.
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    rustix::fs::mkdirat(&mount, "probe", Mode::from_raw_mode(0o700))?;
    rustix::fs::fsetxattr(
        File::open(upper)?,
        "trusted.overlay.opaque",
        b"y",
        rustix::fs::XattrFlags::empty(),
    )?;
    Ok(())
}
