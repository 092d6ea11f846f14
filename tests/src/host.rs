//! What the machine has: privilege, the binaries under test, Debian's tools.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

/// Refuses to go on without root, in words that say what to do.
///
/// # Errors
/// When the effective user is not root.
pub fn need_root() -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    bail!("these tests start real containers and need root: run `sudo make test`")
}

/// One of the project's binaries, as `make build` leaves it; `WHARF_BIN_DIR` names another folder.
///
/// # Errors
/// When it has not been built.
pub fn binary(name: &str) -> Result<PathBuf> {
    let folder = match env::var_os("WHARF_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => built_folder()?,
    };
    let path = folder.join(name);
    if !path.is_file() {
        bail!("{} is missing: run `make build` first, or set WHARF_BIN_DIR", path.display());
    }
    Ok(path)
}

/// Where cargo puts the binaries of the profile that this program was built with: tests are in
/// `<profile>/deps`, programs in `<profile>`.
fn built_folder() -> Result<PathBuf> {
    let me = env::current_exe().context("own path")?;
    let folder = me.parent().context("own folder")?;
    Ok(if folder.ends_with("deps") {
        folder.parent().context("own folder")?.to_owned()
    } else {
        folder.to_owned()
    })
}

/// A program in `PATH` or in the folders of system programs.
#[must_use]
pub fn tool(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
}

/// Debian's busybox, if it is the static one.
#[must_use]
pub fn static_busybox() -> Option<PathBuf> {
    ["/usr/bin/busybox", "/bin/busybox"]
        .map(PathBuf::from)
        .into_iter()
        .find(|path| path.is_file() && is_static(path))
}

/// Whether an ELF file names no interpreter (no PT_INTERP program header; 64 bit only).
#[must_use]
pub fn is_static(path: &Path) -> bool {
    const PT_INTERP: u32 = 3;
    let Ok(bytes) = std::fs::read(path) else { return false };
    let number = |at: usize, len: usize| -> Option<usize> {
        let mut value = 0_usize;
        for byte in bytes.get(at..at + len)?.iter().rev() {
            value = value << 8 | usize::from(*byte);
        }
        Some(value)
    };
    if bytes.get(..5) != Some(b"\x7fELF\x02") {
        return false;
    }
    let (Some(table), Some(size), Some(count)) = (number(32, 8), number(54, 2), number(56, 2))
    else {
        return false;
    };
    (0..count).all(|i| number(table + i * size, 4) != Some(PT_INTERP as usize))
}

/// Says why a test does nothing here. Under `WHARF_TEST_NO_SKIP=1` that is a failure: CI installs
/// what the tests need.
///
/// # Errors
/// Under `WHARF_TEST_NO_SKIP=1`.
#[expect(clippy::print_stderr, reason = "a skip is told to whoever runs the tests")]
pub fn skip(test: &str, why: &str) -> Result<()> {
    if env::var_os("WHARF_TEST_NO_SKIP").is_some_and(|v| v == "1") {
        bail!("{test} may not be skipped here (WHARF_TEST_NO_SKIP=1): {why}");
    }
    eprintln!("SKIP {test}: {why}");
    Ok(())
}

/// The same for a test whose tool CI has no package of: it may be skipped everywhere.
#[expect(clippy::print_stderr, reason = "a skip is told to whoever runs the tests")]
pub fn skip_optional(test: &str, why: &str) {
    eprintln!("SKIP {test}: {why}");
}
