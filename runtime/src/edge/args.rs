//! Flags and operands, read as runc's own library reads them: `--x v`, `--x=v` and `-x` alike.

use super::CommandError;

/// One flag: its names, and whether a value follows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flag {
    pub(crate) names: &'static [&'static str],
    pub(crate) value: bool,
    pub(crate) help: &'static str,
}

/// A flag without a value.
pub(crate) const fn switch(names: &'static [&'static str], help: &'static str) -> Flag {
    Flag { names, value: false, help }
}

/// A flag with a value.
pub(crate) const fn value(names: &'static [&'static str], help: &'static str) -> Flag {
    Flag { names, value: true, help }
}

/// Where flags may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Before the first operand: what follows is another program's.
    FlagsFirst,
    Anywhere,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    found: Vec<(&'static str, String)>,
    pub(crate) operands: Vec<String>,
}

impl Parsed {
    pub(crate) fn parse(
        flags: &[Flag],
        order: Order,
        args: &[String],
    ) -> Result<Self, CommandError> {
        let mut parsed = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            if arg == "--" {
                break;
            }
            let Some(word) = arg.strip_prefix('-').filter(|word| !word.is_empty()) else {
                parsed.operands.push(arg.clone());
                match order {
                    Order::FlagsFirst => break,
                    Order::Anywhere => continue,
                }
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

    /// The last value of a flag that is not empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|text| !text.is_empty())
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
        self.text(name)
            .map(|text| {
                text.parse().map_err(|_| {
                    CommandError::Usage(format!("invalid value {text:?} for flag -{name}"))
                })
            })
            .transpose()
    }

    /// A size in bytes: `67108864`, `64M`, `1g`, `-1` for none.
    pub(crate) fn bytes(&self, name: &str) -> Result<Option<i64>, CommandError> {
        self.text(name)
            .map(|text| {
                bytes(text).ok_or_else(|| {
                    CommandError::Usage(format!("invalid value for {name}: invalid size: {text:?}"))
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

fn bytes(text: &str) -> Option<i64> {
    if text == "-1" {
        return Some(-1);
    }
    let lower = text.trim().to_ascii_lowercase();
    let end = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(end);
    let unit = unit.trim().trim_end_matches('b').trim_end_matches('i');
    let shift = ["", "k", "m", "g", "t", "p"].iter().position(|known| *known == unit)? * 10;
    match number.parse::<i64>() {
        Ok(whole) => whole.checked_mul(1 << shift),
        Err(_) => {
            let part = number.parse::<f64>().ok()? * (1u64 << shift) as f64;
            (part < i64::MAX as f64).then_some(part as i64)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|w| (*w).to_owned()).collect()
    }

    const FLAGS: [Flag; 2] = [value(&["bundle", "b"], ""), switch(&["detach", "d"], "")];

    #[test]
    fn flags_end_at_the_first_operand() {
        let parse = |words: &[&str]| Parsed::parse(&FLAGS, Order::FlagsFirst, &strings(words));
        let p = parse(&["-b", "/x", "--detach", "id", "-d", "ls"]).expect("valid");
        assert_eq!(p.get("bundle"), Some("/x"));
        assert!(p.has("detach"));
        assert_eq!(p.operands, ["id", "-d", "ls"]);
        let p = parse(&["--bundle=/y", "--", "-b"]).expect("valid");
        assert_eq!((p.get("bundle"), p.operands.as_slice()), (Some("/y"), &strings(&["-b"])[..]));
        assert!(parse(&["--nope"]).is_err());
        assert!(parse(&["-b"]).is_err());
    }

    #[test]
    fn or_stand_anywhere() {
        let parse = |words: &[&str]| Parsed::parse(&FLAGS, Order::Anywhere, &strings(words));
        let p = parse(&["id", "-d", "-b", "/x", "--", "-z"]).expect("valid");
        assert!(p.has("detach"));
        assert_eq!(p.get("bundle"), Some("/x"));
        assert_eq!(p.operands, ["id", "-z"]);
        assert!(parse(&["id", "--nope"]).is_err());
    }

    #[test]
    fn sizes_with_and_without_units() {
        for (text, number) in [
            ("67108864", 67_108_864),
            ("50M", 50 << 20),
            ("1g", 1 << 30),
            ("2KiB", 2048),
            ("1.5k", 1536),
            ("-1", -1),
        ] {
            assert_eq!(bytes(text), Some(number), "{text}");
        }
        for text in ["", "x", "5x", "-5", "99999999999999t"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }
}
