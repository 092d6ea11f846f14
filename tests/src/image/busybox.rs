//! The test image: Debian's static busybox with its applets, a few users, nothing else.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result};
use serde_json::json;

use super::{Layer, Packing, Recipe};
use crate::host;

/// What the tests call it.
pub const BUSYBOX: &str = "busybox:test";

const PASSWD: &str = "\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
bob:x:1000:1000:Bob:/home/bob:/bin/sh
eve:x:1001:100:Eve:/home/eve:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
";

const GROUP: &str = "\
root:x:0:
daemon:x:1:
tty:x:5:
audio:x:29:bob
users:x:100:
staff:x:50:bob,eve
bob:x:1000:
nogroup:x:65534:
";

/// An image of two layers: busybox, then users and files.
///
/// # Errors
/// When Debian's busybox-static is not installed.
pub fn busybox() -> Result<Recipe> {
    let program = host::static_busybox()
        .context("no static busybox here: install Debian's package busybox-static")?;
    Ok(Recipe {
        layers: vec![busybox_layer(&program)?, passwd_layer()],
        config: json!({
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "FROM_IMAGE=yes"],
            "Cmd": ["/bin/sh"],
            "Labels": {"org.wharf.test": "busybox"},
        }),
        packing: Packing::Gzip,
    })
}

/// The folders that a root file system has, /bin/busybox and a link for each applet.
fn busybox_layer(program: &Path) -> Result<Layer> {
    let bytes = std::fs::read(program).with_context(|| format!("read {}", program.display()))?;
    let listed = Command::new(program).arg("--list").output().context("list busybox's applets")?;
    let mut layer = Layer::default();
    for (path, mode) in [
        ("bin", 0o755),
        ("dev", 0o755),
        ("etc", 0o755),
        ("home", 0o755),
        ("proc", 0o555),
        ("root", 0o700),
        ("sys", 0o555),
        ("tmp", 0o1777),
        ("var", 0o755),
    ] {
        layer = layer.folder(path, mode);
    }
    layer = layer.file("bin/busybox", 0o755, bytes);
    for applet in String::from_utf8_lossy(&listed.stdout).lines() {
        // Both kinds of link, so that both are unpacked in each test.
        layer = match applet {
            "busybox" | "" => layer,
            "sh" | "true" | "false" => layer.hardlink(&format!("bin/{applet}"), "bin/busybox"),
            _ => layer.symlink(&format!("bin/{applet}"), "busybox"),
        };
    }
    Ok(layer)
}

/// /etc/passwd, /etc/group, homes, a file that is not executable and a script without interpreter.
#[must_use]
pub fn passwd_layer() -> Layer {
    Layer::default()
        .file("etc/passwd", 0o644, PASSWD)
        .file("etc/group", 0o644, GROUP)
        .file("etc/hostname", 0o644, "image\n")
        .folder("home/bob", 0o755)
        .owned_by(1000, 1000)
        .file("home/bob/note", 0o600, "bob's\n")
        .owned_by(1000, 1000)
        .file("bin/not-executable", 0o644, "#!/bin/sh\n")
        .file("bin/no-interpreter", 0o755, "#!/no/such/interpreter\n")
}
