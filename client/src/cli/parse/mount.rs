//! `-v`, `--mount` and `--tmpfs`.

use std::path::{Component, Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use wharf_client::v1::Mount;

use crate::cli::parse::size;

const PROPAGATION: [&str; 6] = ["shared", "slave", "private", "rshared", "rslave", "rprivate"];

/// `[SRC:]DST[:OPTIONS]`: SRC is a volume's name or a folder of the host, which is taken from `here`,
/// the caller's folder, if it is relative; without it, the container gets a volume of its own.
pub(crate) fn volume(given: &str, here: &Path) -> Result<Mount> {
    let parts: Vec<&str> = given.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => ("", target, ""),
        [source, target] if target.starts_with('/') || !source.starts_with('/') => {
            (source, target, "")
        }
        [source, target, options] => (source, target, options),
        _ => bail!("volume {given:?} is not [SRC:]DST[:OPTIONS], as in /srv/data:/data:ro"),
    };
    let folder = host_path(source, here);
    let (kind, source) = match folder {
        Some(folder) => ("bind", folder),
        None if source.is_empty() && parts.len() > 1 => {
            bail!("volume {given:?}: the source is missing")
        }
        None if source.contains('/') => bail!(
            "volume {given:?}: {source:?} is neither a volume's name nor a folder of the host, which \
             is absolute or begins with ./ or ../"
        ),
        None => ("volume", source.to_owned()),
    };
    let mut mount = Mount {
        r#type: kind.to_owned(),
        source,
        target: container_path(target)?,
        create_source: kind == "bind",
        ..Mount::default()
    };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" | "readonly" => mount.read_only = true,
            "rw" => mount.read_only = false,
            // SELinux relabelling, which changes nothing where SELinux is not on, and hints of
            // Docker's for other systems.
            "z" | "Z" | "consistent" | "cached" | "delegated" => {}
            "nocopy" if mount.r#type == "volume" => mount.options.push(option.to_owned()),
            "rbind" | "bind" | "nosuid" | "nodev" | "noexec" | "noatime" | "idmap" | "noidmap" => {
                mount.options.push(option.to_owned());
            }
            option if PROPAGATION.contains(&option) => mount.options.push(option.to_owned()),
            _ => bail!(
                "volume {given:?}: option {option:?} is not known; there are ro, rw, nosuid, nodev, \
                 noexec, noatime, noidmap and the propagations ({})",
                PROPAGATION.join(", ")
            ),
        }
    }
    Ok(mount)
}

/// `type=volume|bind,source=…,target=…[,readonly]` or `type=tmpfs,target=…`.
pub(crate) fn mount(given: &str, here: &Path) -> Result<Mount> {
    let mut mount = Mount::default();
    for field in given.split(',') {
        let (key, value) = field.split_once('=').unwrap_or((field, ""));
        let flag = || match value {
            "" | "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(anyhow!("mount {given:?}: {key} is true or false, not {value:?}")),
        };
        match key {
            "type" => value.clone_into(&mut mount.r#type),
            "source" | "src" => value.clone_into(&mut mount.source),
            "target" | "dst" | "destination" => mount.target = container_path(value)?,
            "readonly" | "ro" => mount.read_only = flag()?,
            "bind-create-src" => mount.create_source = flag()?,
            "bind-propagation" if PROPAGATION.contains(&value) => {
                mount.options.push(value.to_owned());
            }
            "tmpfs-size" => mount.options.push(format!("size={}", size::bytes(value)?)),
            "tmpfs-mode" if u32::from_str_radix(value, 8).is_ok_and(|mode| mode <= 0o7777) => {
                mount.options.push(format!("mode={value}"));
            }
            "idmap" if flag()? => mount.options.push("ridmap".to_owned()),
            "idmap" => mount.options.push("noidmap".to_owned()),
            "volume-nocopy" if flag()? => mount.options.push("nocopy".to_owned()),
            "consistency" | "volume-nocopy" | "volume-driver" => {}
            _ => bail!(
                "mount {given:?}: {field:?} is not known; there are type, source, target, \
                 readonly, bind-propagation, bind-create-src, volume-nocopy, idmap, tmpfs-size and tmpfs-mode"
            ),
        }
    }
    match mount.r#type.as_str() {
        "bind" => {
            let source = host_path(&mount.source, here);
            mount.source = source.ok_or_else(|| {
                anyhow!("mount {given:?}: source must be a path, absolute or beginning with ./")
            })?;
        }
        "tmpfs" if mount.source.is_empty() => {}
        "tmpfs" => bail!("mount {given:?}: a tmpfs has no source"),
        // As Docker: what is not said is a volume.
        "" | "volume" => "volume".clone_into(&mut mount.r#type),
        other => bail!("mount {given:?}: type {other:?} is not known; use volume, bind or tmpfs"),
    }
    if mount.target.is_empty() {
        bail!("mount {given:?}: target is missing");
    }
    Ok(mount)
}

/// `DST[:OPTIONS]`.
pub(crate) fn tmpfs(given: &str) -> Result<Mount> {
    let (target, options) = given.split_once(':').unwrap_or((given, ""));
    let mut mount =
        Mount { r#type: "tmpfs".to_owned(), target: container_path(target)?, ..Mount::default() };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => mount.read_only = true,
            "rw" => mount.read_only = false,
            option => mount.options.push(option.to_owned()),
        }
    }
    Ok(mount)
}

fn container_path(given: &str) -> Result<String> {
    if !given.starts_with('/') {
        bail!("{given:?} is not an absolute path in the container");
    }
    if Path::new(given).components().all(|part| part == Component::RootDir) {
        bail!("the container's root can't be mounted over");
    }
    Ok(given.to_owned())
}

/// None for what is no path (a volume's name) or no UTF-8.
fn host_path(given: &str, here: &Path) -> Option<String> {
    let relative =
        matches!(given, "." | "..") || given.starts_with("./") || given.starts_with("../");
    if !relative && !given.starts_with('/') {
        return None;
    }
    // Without asking the file system: the folder may not be there yet.
    let mut path = PathBuf::new();
    for part in here.join(given).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                path.pop();
            }
            part => path.push(part),
        }
    }
    path.into_os_string().into_string().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "/home/me";

    fn parsed(given: &str) -> Mount {
        volume(given, Path::new(HERE)).expect(given)
    }

    #[test]
    fn volumes() {
        let plain = parsed("/a:/b");
        assert_eq!((plain.source.as_str(), plain.target.as_str()), ("/a", "/b"));
        assert!(!plain.read_only && plain.create_source);
        let options = parsed("./x/../y:/b:ro,rslave,z");
        assert_eq!(options.source, "/home/me/y");
        assert!(options.read_only);
        assert_eq!(options.options, ["rslave"]);
        assert_eq!(parsed("..:/b").source, "/home");
        assert_eq!(parsed(".:/b").source, HERE);
        for given in ["", "b", ":/b", "/a:b", "/a:/", "/a:/b:xx", "/a:/b:ro:z", "/a:", "a/b:/c"] {
            assert!(volume(given, Path::new(HERE)).is_err(), "{given}");
        }
        let named = parsed("data:/b:ro,nocopy");
        assert_eq!((named.r#type.as_str(), named.source.as_str()), ("volume", "data"));
        assert!(named.read_only && !named.create_source && named.options == ["nocopy"]);
        let own = parsed("/b");
        assert_eq!((own.r#type.as_str(), own.source.as_str()), ("volume", ""));
    }

    #[test]
    fn mounts() {
        let parsed = |given: &str| mount(given, Path::new(HERE));
        let bind = parsed("type=bind,src=/a,dst=/b,ro,bind-propagation=rshared").expect("a bind");
        assert_eq!((bind.source.as_str(), bind.target.as_str()), ("/a", "/b"));
        assert!(bind.read_only && !bind.create_source);
        assert_eq!(bind.options, ["rshared"]);
        let tmpfs = parsed("type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1777").expect("a tmpfs");
        assert_eq!(tmpfs.options, ["size=1048576", "mode=1777"]);
        assert!(!parsed("type=bind,src=/a,dst=/b,readonly=false").expect("rw").read_only);
        for given in ["type=volume,src=data,dst=/b,volume-nocopy", "src=data,dst=/b,volume-nocopy"]
        {
            let volume = parsed(given).expect("a volume");
            assert_eq!((volume.r#type.as_str(), volume.source.as_str()), ("volume", "data"));
            assert_eq!(volume.options, ["nocopy"]);
        }
        for given in [
            "type=bind,src=/a",
            "type=bind,dst=/a",
            "type=tmpfs,src=/a,dst=/b",
            "type=bind,src=/a,dst=/b,x=y",
            "type=bind,src=/a,dst=/b,ro=perhaps",
            "type=tmpfs,dst=/b,tmpfs-mode=9",
        ] {
            assert!(parsed(given).is_err(), "{given}");
        }
    }

    #[test]
    fn tmpfs_forms() {
        let mount = tmpfs("/run:rw,size=64m,mode=755").expect("a tmpfs");
        assert_eq!(mount.target, "/run");
        assert_eq!(mount.options, ["size=64m", "mode=755"]);
        assert!(tmpfs("run").is_err());
    }
}
