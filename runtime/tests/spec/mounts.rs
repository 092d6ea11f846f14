//! Mounts: options, mappings, propagation, and where they may go.

use std::os::unix::fs::{PermissionsExt, symlink};

use serde_json::json;

use super::world::{Check, World};
use super::{in_user_namespace, lines};

/// Images have links that lead to nothing until something is mounted behind them.
pub(super) fn links_that_lead_to_nothing_yet() -> Check {
    let mut w = World::new()?;
    let source = w.path("source");
    std::fs::write(&source, "here\n")?;
    symlink("/run/deep/er/file", w.root().join("link"))?;
    symlink("../../made/by/a/link", w.root().join("bin/up"))?;
    symlink("round", w.root().join("round"))?;
    w.mount(json!({"destination": "/link", "source": source, "options": ["bind"]}));
    w.mount(json!({"destination": "/bin/up/below", "source": source, "options": ["bind"]}));
    w.sh("cat /run/deep/er/file /made/by/a/link/below");
    w.same("read", lines(&w)?.join(" "), "here here".to_owned())?;
    w.mount(json!({"destination": "/round/x", "source": source, "options": ["bind"]}));
    let error = w.refused()?.to_string();
    w.has(&error, "open destination /round/x: too many levels of symbolic links")
}

/// A tmpfs has the mode of what it covers, or the one it is given, or its own.
pub(super) fn modes_of_a_tmpfs() -> Check {
    let mut w = World::new()?;
    for (name, mode) in [("covered", 0o710), ("given", 0o710), ("sticky", 0o7777)] {
        std::fs::create_dir(w.root().join(name))?;
        std::fs::set_permissions(w.root().join(name), std::fs::Permissions::from_mode(mode))?;
    }
    for (name, options) in [
        ("covered", json!([])),
        ("given", json!(["mode=0444"])),
        ("sticky", json!(["nodev"])),
        ("new", json!([])),
    ] {
        let destination = format!("/{name}");
        w.mount(json!({"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options}));
    }
    w.sh("stat -c %a /covered /given /sticky /new");
    w.same("modes", lines(&w)?.join(" "), "710 444 7777 1777".to_owned())
}

/// A bind may show what an earlier mount has brought, and by no link what is outside.
pub(super) fn sources_that_mounts_have_brought() -> Check {
    let mut w = World::new()?;
    let source = w.path("source");
    std::fs::create_dir_all(source.join("in"))?;
    std::fs::write(source.join("in/file"), "brought\n")?;
    symlink(w.path("config.json"), source.join("out"))?;
    std::fs::write(w.path("config.json"), "host's")?;
    let root = w.root().canonicalize()?;
    w.mount(json!({"destination": "/first", "source": source, "options": ["bind"]}));
    w.mount(
        json!({"destination": "/second", "source": root.join("first/in"), "options": ["bind"]}),
    );
    w.sh("cat /second/file");
    w.same("read", lines(&w)?.join(" "), "brought".to_owned())?;
    w.mount(
        json!({"destination": "/third", "source": root.join("first/out"), "options": ["bind"]}),
    );
    let error = w.refused()?.to_string();
    w.has(&error, "first/out: no such file or directory")
}

pub(super) fn mounts_with_mapped_owners() -> Check {
    let mut w = World::new()?;
    let source = w.path("source");
    std::fs::create_dir_all(&source)?;
    std::fs::write(source.join("file"), "x")?;
    std::os::unix::fs::chown(source.join("file"), Some(1000), Some(2000))?;
    let one = |from: u32, to: u32| json!([{"containerID": from, "hostID": to, "size": 1}]);
    w.mount(json!({"destination": "/mapped", "source": source, "options": ["bind", "idmap"],
        "uidMappings": one(1000, 5000), "gidMappings": one(2000, 6000)}));
    w.mount(json!({"destination": "/deep", "source": source, "options": ["rbind", "ridmap", "ro"],
        "uidMappings": one(1000, 5001), "gidMappings": one(2000, 6001)}));
    w.mount(json!({"destination": "/plain", "source": source, "options": ["bind"]}));
    w.sh("stat -c %u:%g /mapped/file /deep/file /plain/file; touch /deep/x 2>/dev/null || echo ro");
    w.same("owners", lines(&w)?.join(" "), "5000:6000 5001:6001 1000:2000 ro".to_owned())
}

pub(super) fn a_mapped_mount_in_a_user_namespace() -> Check {
    let mut w = World::new()?;
    in_user_namespace(&mut w)?;
    let source = w.path("source");
    std::fs::create_dir_all(&source)?;
    std::fs::set_permissions(&source, std::fs::Permissions::from_mode(0o777))?;
    std::fs::write(source.join("file"), "x")?;
    w.mount(json!({"destination": "/mapped", "source": source, "options": ["bind", "idmap"]}));
    w.mount(json!({"destination": "/plain", "source": source, "options": ["bind"]}));
    w.sh("stat -c %u /mapped/file /plain/file; touch /mapped/made");
    w.same("owners", lines(&w)?.join(" "), "0 65534".to_owned())?;
    use std::os::unix::fs::MetadataExt;
    w.same("made by the host's root", std::fs::metadata(source.join("made"))?.uid(), 0)
}

pub(super) fn copied_up() -> Check {
    let mut w = World::new()?;
    let under = w.root().join("under");
    std::fs::create_dir_all(under.join("deep/er"))?;
    std::fs::write(under.join("deep/er/file"), "content")?;
    std::fs::set_permissions(under.join("deep/er/file"), std::fs::Permissions::from_mode(0o4751))?;
    std::os::unix::fs::chown(under.join("deep"), Some(12), Some(34))?;
    std::os::unix::fs::symlink("/etc/shadow", under.join("link"))?;
    std::fs::set_permissions(&under, std::fs::Permissions::from_mode(0o1755))?;
    w.mount(json!({"destination": "/under", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "ro"]}));
    w.sh("cat /under/deep/er/file; echo; stat -c %a /under/deep/er/file /under; \
          stat -c %u:%g /under/deep; readlink /under/link; \
          mount | grep -c 'tmpfs on /under type tmpfs (ro'; touch /under/x 2>/dev/null || echo ro");
    w.same("all", lines(&w)?.join(" "), "content 4751 1755 12:34 /etc/shadow 1 ro".to_owned())
}

pub(super) fn attributes_of_all_below() -> Check {
    let mut w = World::new()?;
    w.mount(
        json!({"destination": "/deep", "source": "/dev", "options": ["rbind", "rro", "rnoexec"]}),
    );
    w.mount(json!({"destination": "/flat", "source": "/dev", "options": ["rbind", "ro"]}));
    w.sh("for at in deep flat; do grep \" /$at/pts \" /proc/self/mountinfo | cut -d' ' -f6 | grep -oE '^(ro|rw)|noexec' | sort -u | tr '\\n' ' '; done");
    let all = lines(&w)?.join("");
    w.has(&all, "noexec ro ")?;
    w.has(&all, "rw ")
}

pub(super) fn propagation_of_the_root() -> Check {
    for (word, sign) in [
        ("shared", "shared:"),
        ("rshared", "shared:"),
        ("slave", ""),
        ("rslave", ""),
        ("private", ""),
        ("unbindable", "unbindable"),
    ] {
        let mut w = World::new()?;
        w.spec["linux"]["rootfsPropagation"] = json!(word);
        w.sh("while read a b c d e f g h; do [ \"$e\" = / ] && echo \"$g\"; done </proc/self/mountinfo; true");
        let line = lines(&w)?.join("");
        w.same(
            &format!("{word}: {line}"),
            line.contains(sign) && (!sign.is_empty() || !line.contains("shared:")),
            true,
        )?;
    }
    Ok(())
}
