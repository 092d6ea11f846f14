//! Flags and operands, read as runc's own library reads them: flags first, `--x v`, `--x=v` and
//! `-x` alike, everything from the first operand on left alone.

use super::CommandError;

/// One flag: its names, and whether a value follows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flag {
    pub(crate) names: &'static [&'static str],
    pub(crate) value: bool,
}

/// A flag without a value.
pub(crate) const fn switch(names: &'static [&'static str]) -> Flag {
    Flag { names, value: false }
}

/// A flag with a value.
pub(crate) const fn value(names: &'static [&'static str]) -> Flag {
    Flag { names, value: true }
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    found: Vec<(&'static str, String)>,
    pub(crate) operands: Vec<String>,
}

impl Parsed {
    pub(crate) fn parse(flags: &[Flag], args: &[String]) -> Result<Self, CommandError> {
        let mut parsed = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            if arg == "--" {
                break;
            }
            let Some(word) = arg.strip_prefix('-').filter(|word| !word.is_empty()) else {
                parsed.operands.push(arg.clone());
                break;
            };
            let word = word.strip_prefix('-').unwrap_or(word);
            let (name, given) = match word.split_once('=') {
                Some((name, given)) => (name, Some(given.to_owned())),
                None => (word, None),
            };
            let Some(flag) = flags.iter().find(|flag| flag.names.contains(&name)) else {
                return Err(CommandError::Usage(format!("flag provided but not defined: -{name}")));
            };
            let text = match (flag.value, given) {
                (_, Some(given)) => given,
                (false, None) => "true".to_owned(),
                (true, None) => args.next().cloned().ok_or_else(|| {
                    CommandError::Usage(format!("flag needs an argument: -{name}"))
                })?,
            };
            parsed.found.push((flag.names[0], text));
        }
        parsed.operands.extend(args.cloned());
        Ok(parsed)
    }

    /// The last value of a flag, by its first name.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.found.iter().rev().find(|(found, _)| *found == name).map(|(_, text)| text.as_str())
    }

    /// All values of a flag.
    pub(crate) fn all(&self, name: &str) -> Vec<String> {
        self.found
            .iter()
            .filter(|(found, _)| *found == name)
            .map(|(_, text)| text.clone())
            .collect()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some_and(|text| text != "false")
    }

    /// A number.
    pub(crate) fn number<T: std::str::FromStr>(
        &self,
        name: &str,
    ) -> Result<Option<T>, CommandError> {
        self.get(name)
            .map(|text| {
                text.parse().map_err(|_| {
                    CommandError::Usage(format!("invalid value {text:?} for flag -{name}"))
                })
            })
            .transpose()
    }

    /// The operand that every container command begins with.
    pub(crate) fn id(&self) -> Result<&str, CommandError> {
        self.operands
            .first()
            .map(String::as_str)
            .ok_or_else(|| CommandError::Usage("the container's id is missing".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|w| (*w).to_owned()).collect()
    }

    #[test]
    fn flags_end_at_the_first_operand() {
        let flags = [value(&["bundle", "b"]), switch(&["detach", "d"])];
        let p = Parsed::parse(&flags, &strings(&["-b", "/x", "--detach", "id", "-d", "ls"]))
            .expect("valid");
        assert_eq!(p.get("bundle"), Some("/x"));
        assert!(p.has("detach"));
        assert_eq!(p.operands, ["id", "-d", "ls"]);
        let p = Parsed::parse(&flags, &strings(&["--bundle=/y", "--", "-b"])).expect("valid");
        assert_eq!((p.get("bundle"), p.operands.as_slice()), (Some("/y"), &strings(&["-b"])[..]));
        assert!(Parsed::parse(&flags, &strings(&["--nope"])).is_err());
        assert!(Parsed::parse(&flags, &strings(&["-b"])).is_err());
    }
}
