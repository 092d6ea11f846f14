//! Environment and labels: `NAME=VALUE`, `NAME` and files of such lines.

use std::{collections::HashMap, ffi::OsString, path::Path};

use anyhow::{Context as _, Result, bail};

/// Environment of `-e` and `--env-file`; a name alone is taken from `ours`, or left out if it is
/// not there.
pub(crate) fn environment(
    files: &[std::path::PathBuf],
    given: &[String],
    ours: impl Fn(&str) -> Option<OsString>,
) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for file in files {
        for (number, line) in lines(file)?.iter().enumerate() {
            let entry = variable(line, &ours);
            all.extend(entry.with_context(|| format!("{}:{}", file.display(), number + 1))?);
        }
    }
    for entry in given {
        all.extend(variable(entry, &ours)?);
    }
    Ok(all)
}

fn variable(entry: &str, ours: impl Fn(&str) -> Option<OsString>) -> Result<Option<String>> {
    let name = entry.split_once('=').map_or(entry, |(name, _)| name);
    if name.is_empty() || name.contains(char::is_whitespace) {
        bail!("{entry:?} is not NAME=VALUE or NAME");
    }
    if entry.contains('=') {
        return Ok(Some(entry.to_owned()));
    }
    match ours(name) {
        Some(value) => match value.into_string() {
            Ok(value) => Ok(Some(format!("{name}={value}"))),
            Err(_) => bail!("the value of {name} here is not UTF-8"),
        },
        None => Ok(None),
    }
}

/// Labels of `--label-file` and `--label`; a name alone has an empty value.
pub(crate) fn labels(
    files: &[std::path::PathBuf],
    given: &[String],
) -> Result<HashMap<String, String>> {
    let mut all = HashMap::new();
    let from_files = files.iter().map(|file| lines(file)).collect::<Result<Vec<_>>>()?;
    for entry in from_files.iter().flatten().chain(given) {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        if name.is_empty() {
            bail!("{entry:?} is not NAME=VALUE or NAME");
        }
        all.insert(name.to_owned(), value.to_owned());
    }
    Ok(all)
}

/// The lines of a file that are neither empty nor begin with "#".
fn lines(file: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let meant = |line: &&str| !line.is_empty() && !line.starts_with('#');
    Ok(text.lines().map(str::trim_start).filter(meant).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environments() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("env");
        std::fs::write(&file, "# no\n\nA=1\n  B=2 \nHOME\nNOT_HERE\n").expect("a file");
        let ours = |name: &str| (name == "HOME").then(|| OsString::from("/root"));
        let given = ["C=x=y".to_owned(), "HOME".to_owned(), "D=".to_owned()];
        let all = environment(std::slice::from_ref(&file), &given, ours).expect("good");
        assert_eq!(all, ["A=1", "B=2 ", "HOME=/root", "C=x=y", "HOME=/root", "D="]);
        assert!(environment(&[], &["=x".to_owned()], ours).is_err());
        assert!(environment(&[], &["a b=x".to_owned()], ours).is_err());
        std::fs::write(&file, "A=1\nb c=2\n").expect("a file");
        let error = environment(&[file], &[], ours).expect_err("bad line");
        assert!(format!("{error:#}").contains("env:2"), "{error:#}");
    }

    #[test]
    fn label_forms() {
        let all = labels(&[], &["a=1".to_owned(), "b".to_owned(), "a=2".to_owned()]).expect("good");
        assert_eq!((all["a"].as_str(), all["b"].as_str()), ("2", ""));
        assert!(labels(&[], &["=1".to_owned()]).is_err());
    }
}
