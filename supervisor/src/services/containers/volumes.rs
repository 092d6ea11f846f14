//! The volumes of a container: those that were asked for, the image's, other containers'.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Containers, Error, Table, TableUsers,
    driver::Tools,
    machine::State,
    record::Record,
    spec::{Mount, MountKind, Spec},
};
use crate::{
    drivers::snapshots,
    ids::{Namespace, VolumeName},
    services::{
        images::ResolvedImage,
        volumes::{Asked, Prepared, VolumeUsers},
    },
};

/// The option of a volume that is not to be filled from the image.
pub(super) const NO_COPY: &str = "nocopy";

impl Containers {
    /// Adds the mounts of the containers in `volumes_from`, but for those whose target is taken.
    pub(super) fn take_volumes_from(
        &self,
        namespace: &Namespace,
        spec: &mut Spec,
    ) -> Result<(), Error> {
        for (index, from) in spec.volumes_from.clone().iter().enumerate() {
            let wrong =
                |problem: String| Error::field(format!("spec.volumes_from[{index}]"), problem);
            let (name, mode) = from.split_once(':').unwrap_or((from, ""));
            let read_only = match mode {
                "" | "rw" | "z" | "Z" => false,
                "ro" => true,
                other => return Err(wrong(format!("{other:?} is neither ro nor rw"))),
            };
            let record = match self.tools.table.find(namespace, name) {
                Ok(handle) => handle.record(),
                Err(error) => return Err(wrong(error.to_string())),
            };
            for mount in &record.spec.mounts {
                let is_taken = spec.mounts.iter().any(|m| same_target(&m.target, &mount.target));
                if mount.kind != MountKind::Tmpfs && !is_taken {
                    let mut mount = mount.clone();
                    mount.read_only |= read_only;
                    spec.mounts.push(mount);
                }
            }
        }
        Ok(())
    }

    /// Adds the image's volumes, and makes and fills all that are not there.
    pub(super) async fn volumes(
        &self,
        namespace: &Namespace,
        spec: &mut Spec,
        image: &ResolvedImage,
    ) -> Result<Prepared, Error> {
        let config = image.config.config().as_ref();
        let mut of_image = config.and_then(|c| c.volumes().clone()).unwrap_or_default();
        of_image.sort();
        for target in of_image {
            let target = clean(&target);
            if target == "/" {
                let problem = "its volume is the root, which can't be mounted over";
                return Err(Error::field("spec.image", problem));
            }
            if !spec.mounts.iter().any(|m| same_target(&m.target, &target)) {
                spec.mounts.push(Mount {
                    kind: MountKind::Volume,
                    source: String::new(),
                    target,
                    read_only: false,
                    options: Vec::new(),
                    create_source: false,
                });
            }
        }
        let mut asked = Vec::new();
        for mount in spec.mounts.iter().filter(|m| m.kind == MountKind::Volume) {
            let name = Some(mount.source.as_str()).filter(|name| !name.is_empty());
            let name: Option<VolumeName> = name.map(str::parse).transpose()?;
            let no_copy = mount.options.iter().any(|option| option == NO_COPY);
            asked.push(Asked { name, target: mount.target.clone(), no_copy });
        }
        let (snapshots, chain_id) = (Arc::clone(&self.tools.snapshots), image.chain_id.clone());
        let view = move || -> Result<_, snapshots::Error> { snapshots.view(chain_id.as_ref()) };
        let (volumes, prepared) = self.tools.volumes.prepare(namespace, &asked, view).await?;
        let mounts = spec.mounts.iter_mut().filter(|m| m.kind == MountKind::Volume);
        for (mount, volume) in mounts.zip(volumes) {
            mount.source = volume.name.to_string();
        }
        Ok(prepared)
    }
}

impl Tools {
    /// Where the volumes of a container are, by their names.
    pub(super) fn volume_sources(&self, record: &Record) -> HashMap<String, PathBuf> {
        volumes_of(record)
            .filter_map(|name| {
                let source = self.volumes.source_of(&record.namespace, name).ok()?;
                Some((name.to_owned(), source))
            })
            .collect()
    }

    /// Whether all volumes of a container are there.
    pub(super) fn check_volumes(&self, record: &Record) -> Result<(), Error> {
        for name in volumes_of(record) {
            let source = self.volumes.source_of(&record.namespace, name)?;
            if !Path::new(&source).is_dir() {
                let problem = format!("volume {name}: {} is not a folder", source.display());
                return Err(Error::field("spec.mounts", problem));
            }
        }
        Ok(())
    }

    /// Takes away the volumes that go with a container.
    pub(super) async fn remove_volumes(&self, record: &Record) -> Result<(), Error> {
        if !record.remove_volumes {
            return Ok(());
        }
        let names: Vec<String> = volumes_of(record).map(str::to_owned).collect();
        Ok(self.volumes.remove_orphans(&record.namespace, &names).await?)
    }
}

fn volumes_of(record: &Record) -> impl Iterator<Item = &str> {
    let mounts = record.spec.mounts.iter().filter(|m| m.kind == MountKind::Volume);
    mounts.map(|m| m.source.as_str())
}

impl VolumeUsers for TableUsers {
    fn users(&self) -> HashMap<(Namespace, VolumeName), Vec<String>> {
        users(&self.0)
    }
}

/// A container that is being removed has none any more.
fn users(table: &Table) -> HashMap<(Namespace, VolumeName), Vec<String>> {
    let mut users: HashMap<_, Vec<String>> = HashMap::new();
    for record in table.records() {
        if matches!(record.state, State::Removing { .. }) {
            continue;
        }
        for name in volumes_of(&record) {
            if let Ok(name) = name.parse::<VolumeName>() {
                let key = (record.namespace.clone(), name);
                users.entry(key).or_default().push(record.name.to_string());
            }
        }
    }
    users
}

fn same_target(a: &str, b: &str) -> bool {
    clean(a) == clean(b)
}

/// As a path from the root, without what leads out of it: the image's config is not to be believed.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::{clean, same_target};

    #[test]
    fn targets_are_cleaned() {
        for (given, expected) in [
            ("/a//b/", "/a/b"),
            ("data", "/data"),
            ("/../../etc/x", "/etc/x"),
            ("/", "/"),
            ("..", "/"),
        ] {
            assert_eq!(clean(given), expected, "{given}");
        }
        assert!(same_target("/a/", "/a") && !same_target("/a", "/a/b"));
    }
}
