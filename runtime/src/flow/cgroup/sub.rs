//! Cgroups below a container's, as an exec names them.

use std::path::{Path, PathBuf};

use super::Cgroup;
use crate::error::{Error, ErrorKind, Failure};

impl Cgroup {
    /// The cgroups below this one that an exec names.
    pub(crate) fn below(&self, places: &[SubCgroup]) -> Result<Self, Error> {
        let mut sub = self.clone();
        sub.unit = None;
        for place in places {
            let mut found = false;
            for dir in &mut sub.dirs {
                let named = match &place.controller {
                    None => true,
                    // Nothing else names v2's.
                    Some(name) => dir.controllers.contains(name) || dir.unified && name.is_empty(),
                };
                if named {
                    dir.path = dir.path.join(&place.path);
                    found = true;
                }
            }
            if let (false, Some(name)) = (found, &place.controller) {
                let step = format!("unknown controller {name} in --cgroup");
                return Err(Failure::new(ErrorKind::Invalid, "exec", step).into());
            }
        }
        Ok(sub)
    }
}

/// A place below a container's cgroup: `PATH`, or `CONTROLLER:PATH` on v1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SubCgroup {
    controller: Option<String>,
    path: PathBuf,
}

impl SubCgroup {
    /// One for each controller that is named.
    pub(crate) fn parse(text: &str) -> Result<Vec<Self>, Failure> {
        let (controllers, path) = match text.split_once(':') {
            Some((controllers, path)) => (Some(controllers), path),
            None => (None, text),
        };
        let plain = Path::new(path).components().all(|part| {
            matches!(part, std::path::Component::Normal(_) | std::path::Component::RootDir)
        });
        if !plain {
            let text = format!("bad sub cgroup path: {path}");
            return Err(Failure::new(ErrorKind::Invalid, "exec", text));
        }
        let path = PathBuf::from(path.trim_matches('/'));
        Ok(match controllers {
            None => vec![Self { controller: None, path }],
            Some(controllers) => controllers
                .split(',')
                .map(|name| Self { controller: Some(name.to_owned()), path: path.clone() })
                .collect(),
        })
    }
}
