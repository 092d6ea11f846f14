//! Changes of an image's config, as Dockerfiles say them. Pure.
//!
//! Source: Docker's reference of `docker commit --change` and of the Dockerfile: CMD, ENTRYPOINT, ENV,
//! EXPOSE, HEALTHCHECK, LABEL, ONBUILD, SHELL, STOPSIGNAL, USER, VOLUME, WORKDIR.

use serde_json::{Map, Value, json};

/// The `config` object of an image's config.
pub type Config = Map<String, Value>;

const KNOWN: &str = "CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, SHELL, STOPSIGNAL, \
                     USER, VOLUME and WORKDIR";

/// An instruction that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{instruction:?}: {problem}")]
pub struct BadInstruction {
    /// As given.
    pub instruction: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

/// Applies instructions one after the other.
///
/// # Errors
/// Naming the first that is none.
pub fn apply(config: &mut Config, instructions: &[String]) -> Result<(), BadInstruction> {
    let has_cmd = |line: &String| word(line).0.eq_ignore_ascii_case("cmd");
    let sets_cmd = instructions.iter().any(has_cmd);
    for line in instructions {
        one(config, line, sets_cmd)
            .map_err(|problem| BadInstruction { instruction: line.clone(), problem })?;
    }
    Ok(())
}

fn one(config: &mut Config, line: &str, sets_cmd: bool) -> Result<(), String> {
    let (name, rest) = word(line);
    let upper = name.to_ascii_uppercase();
    let known = [
        "CMD",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "HEALTHCHECK",
        "LABEL",
        "ONBUILD",
        "SHELL",
        "STOPSIGNAL",
        "USER",
        "VOLUME",
        "WORKDIR",
    ];
    if !known.contains(&upper.as_str()) {
        return Err(format!("it is not an instruction that can be given here; there are {KNOWN}"));
    }
    if rest.is_empty() && !matches!(upper.as_str(), "CMD" | "ENTRYPOINT") {
        return Err(format!("{upper} needs an argument"));
    }
    match upper.as_str() {
        "CMD" => set(config, "Cmd", command(config, rest)?),
        "ENTRYPOINT" => {
            set(config, "Entrypoint", command(config, rest)?);
            // A command meant for the entrypoint before is not meant for this one.
            if !sets_cmd {
                config.remove("Cmd");
            }
        }
        "ENV" => {
            for (key, value) in pairs(rest, &environment(config))? {
                let mut env = environment(config);
                match env.iter_mut().find(|(known, _)| *known == key) {
                    Some(entry) => entry.1 = value,
                    None => env.push((key, value)),
                }
                let env: Vec<String> = env.into_iter().map(|(k, v)| format!("{k}={v}")).collect();
                set(config, "Env", json!(env));
            }
        }
        "LABEL" => {
            for (key, value) in pairs(rest, &environment(config))? {
                object(config, "Labels").insert(key, json!(value));
            }
        }
        "EXPOSE" => {
            for port in words(rest, &environment(config))? {
                object(config, "ExposedPorts").insert(exposed(&port)?, json!({}));
            }
        }
        "VOLUME" => {
            let volumes = match list(rest) {
                Some(list) => list,
                None => words(rest, &environment(config))?,
            };
            for volume in volumes {
                if volume.trim().is_empty() {
                    return Err("the name of a volume is empty".into());
                }
                object(config, "Volumes").insert(volume, json!({}));
            }
        }
        "USER" => set(config, "User", json!(expand(rest, &environment(config))?)),
        "STOPSIGNAL" => {
            let signal = expand(rest, &environment(config))?;
            set(config, "StopSignal", json!(signal));
        }
        "WORKDIR" => {
            let dir = expand(rest, &environment(config))?;
            let before = config.get("WorkingDir").and_then(Value::as_str).unwrap_or("/");
            set(config, "WorkingDir", json!(joined(before, &dir)));
        }
        "SHELL" => match list(rest) {
            Some(shell) if !shell.is_empty() => set(config, "Shell", json!(shell)),
            _ => return Err("SHELL needs a list, as in [\"/bin/sh\", \"-c\"]".into()),
        },
        "ONBUILD" => {
            let (trigger, _) = word(rest);
            if ["ONBUILD", "FROM", "MAINTAINER"].contains(&&*trigger.to_ascii_uppercase()) {
                return Err(format!("{trigger} can't be a trigger"));
            }
            let mut triggers = strings(config, "OnBuild");
            triggers.push(rest.to_owned());
            set(config, "OnBuild", json!(triggers));
        }
        _ => set(config, "Healthcheck", healthcheck(rest)?),
    }
    Ok(())
}

/// The first word, and what is left.
fn word(line: &str) -> (&str, &str) {
    let line = line.trim();
    match line.find(char::is_whitespace) {
        Some(end) => (&line[..end], line[end..].trim_start()),
        None => (line, ""),
    }
}

fn set(config: &mut Config, key: &str, value: Value) {
    config.insert(key.into(), value);
}

fn object<'a>(config: &'a mut Config, key: &str) -> &'a mut Map<String, Value> {
    let value = config.entry(key).or_insert_with(|| json!({}));
    if !value.is_object() {
        *value = json!({});
    }
    value.as_object_mut().expect("was made one above")
}

fn strings(config: &Config, key: &str) -> Vec<String> {
    let list = config.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn environment(config: &Config) -> Vec<(String, String)> {
    let split = |entry: &String| {
        let (key, value) = entry.split_once('=').unwrap_or((entry, ""));
        (key.to_owned(), value.to_owned())
    };
    strings(config, "Env").iter().map(split).collect()
}

/// A JSON list of strings.
fn list(text: &str) -> Option<Vec<String>> {
    if text.starts_with('[') { serde_json::from_str(text).ok() } else { None }
}

/// A list as it stands, anything else through a shell.
fn command(config: &Config, rest: &str) -> Result<Value, String> {
    if let Some(list) = list(rest) {
        return Ok(json!(list));
    }
    if rest.is_empty() {
        return Ok(Value::Null);
    }
    let mut shell = strings(config, "Shell");
    if shell.is_empty() {
        shell = vec!["/bin/sh".into(), "-c".into()];
    }
    shell.push(rest.into());
    Ok(json!(shell))
}

/// `80`, `80/udp`, `8000-8010`.
fn exposed(port: &str) -> Result<String, String> {
    let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    let one = |text: &str| text.parse::<u16>().is_ok_and(|n| n > 0);
    let numbers = match number.split_once('-') {
        Some((first, last)) => one(first) && one(last),
        None => one(number),
    };
    if !numbers || !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Err(format!("{port:?} is not PORT[/tcp|udp|sctp]"));
    }
    Ok(format!("{number}/{protocol}"))
}

fn joined(before: &str, dir: &str) -> String {
    let whole = if dir.starts_with('/') { dir.to_owned() } else { format!("{before}/{dir}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// `A=b "C=d e" F='g'`, or the old form `A b c`.
fn pairs(text: &str, env: &[(String, String)]) -> Result<Vec<(String, String)>, String> {
    let (first, rest) = word(text);
    if !first.contains('=') {
        if rest.is_empty() {
            return Err("NAME=VALUE is needed".into());
        }
        return Ok(vec![(first.to_owned(), expand(rest, env)?)]);
    }
    let mut found = Vec::new();
    for entry in words(text, env)? {
        match entry.split_once('=') {
            Some((key, value)) if !key.is_empty() => found.push((key.into(), value.into())),
            _ => return Err(format!("{entry:?} is not NAME=VALUE")),
        }
    }
    Ok(found)
}

/// Words apart, without their quotes, variables filled in.
fn words(text: &str, env: &[(String, String)]) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut scan = Scan { chars: text.chars().peekable(), env };
    loop {
        while scan.chars.next_if(|c| c.is_whitespace()).is_some() {}
        if scan.chars.peek().is_none() {
            return Ok(words);
        }
        words.push(scan.until(char::is_whitespace)?);
    }
}

/// The whole text without its quotes, variables filled in.
fn expand(text: &str, env: &[(String, String)]) -> Result<String, String> {
    Scan { chars: text.chars().peekable(), env }.until(|_| false)
}

struct Scan<'a> {
    chars: std::iter::Peekable<std::str::Chars<'a>>,
    env: &'a [(String, String)],
}

impl Scan<'_> {
    fn until(&mut self, end: impl Fn(char) -> bool) -> Result<String, String> {
        let mut out = String::new();
        while let Some(c) = self.chars.next_if(|c| !end(*c)) {
            match c {
                '\\' => out.extend(self.chars.next()),
                '\'' => loop {
                    match self.chars.next() {
                        Some('\'') => break,
                        Some(c) => out.push(c),
                        None => return Err("a quote is not closed".into()),
                    }
                },
                '"' => self.quoted(&mut out)?,
                '$' => self.variable(&mut out)?,
                c => out.push(c),
            }
        }
        Ok(out)
    }

    fn quoted(&mut self, out: &mut String) -> Result<(), String> {
        loop {
            match self.chars.next() {
                Some('"') => return Ok(()),
                Some('\\') => match self.chars.next() {
                    Some(c @ ('"' | '\\' | '$')) => out.push(c),
                    Some(c) => out.extend(['\\', c]),
                    None => return Err("a quote is not closed".into()),
                },
                Some('$') => self.variable(out)?,
                Some(c) => out.push(c),
                None => return Err("a quote is not closed".into()),
            }
        }
    }

    /// `$NAME`, `${NAME}`, `${NAME:-default}`, `${NAME:+instead}`.
    fn variable(&mut self, out: &mut String) -> Result<(), String> {
        let braces = self.chars.next_if_eq(&'{').is_some();
        let mut name = String::new();
        while let Some(c) = self.chars.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
            name.push(c);
        }
        let value = self.env.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str());
        if !braces {
            if name.is_empty() {
                out.push('$');
            }
            out.push_str(value.unwrap_or_default());
            return Ok(());
        }
        let mut rest = String::new();
        loop {
            match self.chars.next() {
                Some('}') => break,
                Some(c) => rest.push(c),
                None => return Err("${ is not closed".into()),
            }
        }
        let set = value.filter(|value| !value.is_empty());
        match (rest.get(..2), rest.as_str()) {
            (_, "") if !name.is_empty() => out.push_str(value.unwrap_or_default()),
            (Some(":-"), _) => out.push_str(set.unwrap_or(&rest[2..])),
            (Some(":+"), _) => out.push_str(if set.is_some() { &rest[2..] } else { "" }),
            _ => return Err(format!("${{{name}{rest}}} is not understood")),
        }
        Ok(())
    }
}

fn healthcheck(text: &str) -> Result<Value, String> {
    let mut check = Map::new();
    let mut rest = text;
    while let Some(flag) = rest.strip_prefix("--") {
        let (flag, after) = word(flag);
        let (key, value) = flag.split_once('=').ok_or(format!("--{flag} has no value"))?;
        let wrong = || format!("--{key}={value} makes no sense");
        let (name, value) = match key {
            "interval" => ("Interval", nanoseconds(value).ok_or_else(wrong)?),
            "timeout" => ("Timeout", nanoseconds(value).ok_or_else(wrong)?),
            "start-period" => ("StartPeriod", nanoseconds(value).ok_or_else(wrong)?),
            "start-interval" => ("StartInterval", nanoseconds(value).ok_or_else(wrong)?),
            "retries" => ("Retries", value.parse().map_err(|_| wrong())?),
            _ => return Err(format!("--{key} is not known")),
        };
        check.insert(name.into(), json!(value));
        rest = after;
    }
    let (kind, command) = word(rest);
    let test = match (kind.to_ascii_uppercase().as_str(), list(command)) {
        ("NONE", _) => vec!["NONE".to_owned()],
        ("CMD", Some(list)) if !list.is_empty() => {
            std::iter::once("CMD".to_owned()).chain(list).collect()
        }
        ("CMD", None) if !command.is_empty() => vec!["CMD-SHELL".into(), command.into()],
        _ => return Err("HEALTHCHECK needs CMD and a command, or NONE".into()),
    };
    check.insert("Test".into(), json!(test));
    Ok(Value::Object(check))
}

/// As Go writes durations: "1m30s", "500ms".
fn nanoseconds(text: &str) -> Option<i64> {
    let mut total: f64 = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let after = &rest[end..];
        let unit_end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let scale = match &after[..unit_end] {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        total += number * scale;
        rest = &after[unit_end..];
    }
    // Longer than a century is a mistake.
    #[allow(clippy::cast_possible_truncation)]
    (!text.is_empty() && total < 3.2e18).then_some(total as i64)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::apply;

    fn changed(before: Value, lines: &[&str]) -> Result<Value, String> {
        let Value::Object(mut config) = before else { panic!("an object") };
        let lines: Vec<String> = lines.iter().map(|l| (*l).to_owned()).collect();
        apply(&mut config, &lines).map_err(|e| e.to_string())?;
        Ok(Value::Object(config))
    }

    #[test]
    fn as_dockers_reference_has_them() {
        let env = json!({"Env": ["A=1", "PATH=/bin"]});
        for (before, line, expected) in [
            (json!({}), "CMD [\"a\", \"b c\"]", json!({"Cmd": ["a", "b c"]})),
            (json!({}), "cmd echo  $X", json!({"Cmd": ["/bin/sh", "-c", "echo  $X"]})),
            (
                json!({"Shell": ["/bin/bash", "-ec"]}),
                "CMD x",
                json!({"Shell": ["/bin/bash", "-ec"], "Cmd": ["/bin/bash", "-ec", "x"]}),
            ),
            (json!({"Cmd": ["old"]}), "ENTRYPOINT [\"/e\"]", json!({"Entrypoint": ["/e"]})),
            (env.clone(), "ENV B=2 A=\"x y\"", json!({"Env": ["A=x y", "PATH=/bin", "B=2"]})),
            (env.clone(), "ENV C the rest", json!({"Env": ["A=1", "PATH=/bin", "C=the rest"]})),
            (env.clone(), "ENV PATH=/x:$PATH", json!({"Env": ["A=1", "PATH=/x:/bin"]})),
            (
                json!({"Env": ["A=1"]}),
                "LABEL a.b=${A} c='$A' \"d e\"=${NO:-f} g=${A:+h}",
                json!({"Env": ["A=1"], "Labels": {"a.b": "1", "c": "$A", "d e": "f", "g": "h"}}),
            ),
            (
                json!({"ExposedPorts": {"1/tcp": {}}}),
                "EXPOSE 80 53/UDP",
                json!({"ExposedPorts": {"1/tcp": {}, "80/tcp": {}, "53/udp": {}}}),
            ),
            (json!({}), "USER web:log", json!({"User": "web:log"})),
            (json!({"WorkingDir": "/a"}), "WORKDIR b/../c", json!({"WorkingDir": "/a/c"})),
            (json!({}), "WORKDIR /x/", json!({"WorkingDir": "/x"})),
            (json!({}), "VOLUME [\"/a\", \"/b\"]", json!({"Volumes": {"/a": {}, "/b": {}}})),
            (json!({}), "VOLUME /a /b", json!({"Volumes": {"/a": {}, "/b": {}}})),
            (json!({}), "STOPSIGNAL INT", json!({"StopSignal": "INT"})),
            (json!({"OnBuild": ["x"]}), "ONBUILD RUN y", json!({"OnBuild": ["x", "RUN y"]})),
            (
                json!({}),
                "HEALTHCHECK --interval=1m30s --retries=2 CMD curl -f x",
                json!({"Healthcheck": {
                    "Interval": 90_000_000_000_i64, "Retries": 2, "Test": ["CMD-SHELL", "curl -f x"],
                }}),
            ),
            (
                json!({}),
                "HEALTHCHECK --timeout=500ms CMD [\"a\", \"b\"]",
                json!({"Healthcheck": {"Timeout": 500_000_000, "Test": ["CMD", "a", "b"]}}),
            ),
            (json!({}), "HEALTHCHECK NONE", json!({"Healthcheck": {"Test": ["NONE"]}})),
        ] {
            assert_eq!(changed(before, &[line]), Ok(expected), "{line}");
        }
        let both = changed(json!({"Cmd": ["old"]}), &["CMD [\"new\"]", "ENTRYPOINT [\"/e\"]"]);
        assert_eq!(both, Ok(json!({"Cmd": ["new"], "Entrypoint": ["/e"]})));
    }

    #[test]
    fn nonsense_is_named() {
        for line in [
            "RUN x",
            "ENV",
            "ENV A",
            "ENV A=1 B",
            "EXPOSE 80/ip",
            "EXPOSE 0",
            "LABEL a=\"b",
            "LABEL a=${b",
            "SHELL x",
            "HEALTHCHECK --often=1 CMD x",
            "HEALTHCHECK --interval=1x CMD x",
            "HEALTHCHECK RUN x",
            "ONBUILD ONBUILD RUN x",
            "",
        ] {
            let error = changed(json!({}), &[line]).expect_err(line);
            assert!(error.starts_with(&format!("{line:?}")), "{error}");
        }
    }
}
