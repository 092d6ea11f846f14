//! What runs a container, by name: our shim with its own runtime, our shim with another OCI
//! runtime, or somebody else's shim.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// The runtime in our own shim.
pub const OWN: &str = "wharf";
const SHIM_PREFIX: &str = "containerd-shim-";

/// What a name means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// The one in our shim.
    Own,
    /// This OCI runtime, under our shim.
    Oci(PathBuf),
    /// This shim.
    Shim(PathBuf),
}

/// Names of the configuration, and the default.
#[derive(Clone, Debug, Default)]
pub struct Runtimes {
    default: String,
    named: BTreeMap<String, PathBuf>,
    /// As in PATH.
    folders: Vec<PathBuf>,
}

impl Runtimes {
    /// With the names of the configuration; others are looked for in PATH.
    #[must_use]
    pub fn new(default: String, named: BTreeMap<String, PathBuf>) -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        Self { default, named, folders: std::env::split_paths(&path).collect() }
    }

    /// Of containers that name none.
    #[must_use]
    pub fn default_name(&self) -> &str {
        &self.default
    }

    /// What runs a container with this runtime; empty is the default.
    ///
    /// # Errors
    /// What is wrong with the name, and what would be right.
    pub fn find(&self, name: &str) -> Result<Runtime, String> {
        let name = if name.is_empty() { self.default.as_str() } else { name };
        if name.is_empty() || name == OWN {
            return Ok(Runtime::Own);
        }
        if let Some(path) = self.named.get(name) {
            return Ok(of_path(path.clone()));
        }
        if name.starts_with('/') {
            let path = PathBuf::from(name);
            return if path.is_file() {
                Ok(of_path(path))
            } else {
                Err(format!("there is no program {name}"))
            };
        }
        if name.contains('/') {
            return Err(format!("{name:?} is neither a name nor an absolute path"));
        }
        let program = match name.rsplit('.').collect::<Vec<_>>().as_slice() {
            // io.containerd.runc.v2 is containerd-shim-runc-v2 (containerd docs, runtime-v2.md).
            [version, kind, _, ..] => format!("{SHIM_PREFIX}{kind}-{version}"),
            _ => name.to_owned(),
        };
        let found = self.folders.iter().map(|folder| folder.join(&program)).find(|p| p.is_file());
        found.map(of_path).ok_or_else(|| {
            format!("{name:?} is not known: no {program} in PATH, and no [runtimes.{name}] in the configuration")
        })
    }
}

fn of_path(path: PathBuf) -> Runtime {
    let name = path.file_name().map(Path::new).and_then(Path::to_str).unwrap_or_default();
    if name.starts_with(SHIM_PREFIX) { Runtime::Shim(path) } else { Runtime::Oci(path) }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::{Runtime, Runtimes};

    #[test]
    fn names_and_what_they_mean() {
        let folder = tempfile::tempdir().expect("a folder");
        let program = |name: &str| {
            let path = folder.path().join(name);
            fs::write(&path, "").expect("written");
            path
        };
        let shim = program("containerd-shim-runc-v2");
        let crun = program("crun");
        let named = [("kata".to_owned(), PathBuf::from("/x/containerd-shim-kata-v2"))];
        let mut runtimes = Runtimes::new(String::new(), named.into());
        runtimes.folders = vec![folder.path().to_owned()];
        assert_eq!(runtimes.find(""), Ok(Runtime::Own));
        assert_eq!(runtimes.find("wharf"), Ok(Runtime::Own));
        assert_eq!(runtimes.find("io.containerd.runc.v2"), Ok(Runtime::Shim(shim.clone())));
        assert_eq!(runtimes.find("crun"), Ok(Runtime::Oci(crun)));
        assert_eq!(runtimes.find(shim.to_str().expect("text")), Ok(Runtime::Shim(shim)));
        let kata = PathBuf::from("/x/containerd-shim-kata-v2");
        assert_eq!(runtimes.find("kata"), Ok(Runtime::Shim(kata)));
        for bad in ["youki", "io.containerd.kata.v2", "/no/such", "a/b", "../crun"] {
            assert!(runtimes.find(bad).is_err(), "{bad}");
        }
        runtimes.default = "kata".into();
        assert!(matches!(runtimes.find(""), Ok(Runtime::Shim(_))));
    }
}
