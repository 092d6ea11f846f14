//! `--security-opt`, as Docker's users write it.

use anyhow::{Context as _, Result, bail};

/// What the options say, taken together.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Security {
    /// For `ContainerSpec.seccomp`: a profile is read from its file here, as the server may have none.
    pub(crate) seccomp: String,
    pub(crate) no_new_privileges: Option<bool>,
}

/// Reads all; the last of a kind counts.
pub(crate) fn options(given: &[String]) -> Result<Security> {
    let mut all = Security::default();
    for option in given {
        // The colon is Docker's older form.
        let (name, value) = match option.split_once(['=', ':']) {
            Some((name, value)) => (name, Some(value)),
            None => (option.as_str(), None),
        };
        match (name, value) {
            ("seccomp", Some("default" | "builtin")) => all.seccomp.clear(),
            ("seccomp", Some("unconfined")) => all.seccomp = "unconfined".into(),
            ("seccomp", Some(path)) if !path.is_empty() => {
                all.seccomp = std::fs::read_to_string(path)
                    .with_context(|| format!("--security-opt: read the seccomp profile {path}"))?;
            }
            ("no-new-privileges", None | Some("true")) => all.no_new_privileges = Some(true),
            ("no-new-privileges", Some("false")) => all.no_new_privileges = Some(false),
            // None is ever set.
            ("apparmor", Some("unconfined")) | ("label", Some("disable")) => {}
            _ => bail!(
                "--security-opt: {option:?} is not known: seccomp=unconfined, seccomp=FILE and \
                 no-new-privileges[=false] are"
            ),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(given: &[&str]) -> Result<Security> {
        options(&given.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn all_forms() -> Result<()> {
        assert_eq!(read(&[])?, Security::default());
        let both = read(&["seccomp:unconfined", "no-new-privileges=false", "label=disable"])?;
        assert_eq!(both.seccomp, "unconfined");
        assert_eq!(both.no_new_privileges, Some(false));
        assert_eq!(read(&["no-new-privileges"])?.no_new_privileges, Some(true));
        assert_eq!(read(&["seccomp=unconfined", "seccomp=builtin"])?, Security::default());
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(&file, "{}")?;
        assert_eq!(read(&[&format!("seccomp={}", file.path().display())])?.seccomp, "{}");
        for bad in ["seccomp", "seccomp=", "seccomp=/not/there", "apparmor=mine", "x=y"] {
            assert!(read(&[bad]).is_err(), "{bad}");
        }
        Ok(())
    }
}
