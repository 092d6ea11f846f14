//! The small part of Go's templates that scripts use with Docker: `{{.Field.Path}}` and
//! `{{json .Field}}`. Pure.

use std::str::FromStr;

use anyhow::{Result, anyhow, bail};
use serde_json::Value;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Text(String),
    /// The way to a field from the top; as JSON or as text.
    Field {
        path: Vec<String>,
        as_json: bool,
    },
}

impl FromStr for Template {
    type Err = anyhow::Error;

    fn from_str(given: &str) -> Result<Self> {
        let mut parts = Vec::new();
        let mut rest = given;
        while let Some((text, after)) = rest.split_once("{{") {
            let (action, after) = after
                .split_once("}}")
                .ok_or_else(|| anyhow!("format {given:?}: a {{{{ has no }}}} after it"))?;
            parts.push(Part::Text(unescape(text)));
            parts.push(field(action, given)?);
            rest = after;
        }
        parts.push(Part::Text(unescape(rest)));
        parts.retain(|part| *part != Part::Text(String::new()));
        if !parts.iter().any(|part| matches!(part, Part::Field { .. })) {
            bail!(
                "format {given:?} is not known: use table, json or a template with fields, as in \
                 '{{{{.Names}}}}'"
            );
        }
        Ok(Self(parts))
    }
}

fn field(action: &str, given: &str) -> Result<Part> {
    let (as_json, name) = match action.trim().strip_prefix("json ") {
        Some(name) => (true, name.trim()),
        None => (false, action.trim()),
    };
    let known = name.starts_with('.')
        && !name.contains(char::is_whitespace)
        && (name == "." || name.split('.').skip(1).all(|part| !part.is_empty()));
    if !known {
        bail!(
            "format {given:?}: {{{{{action}}}}} is more than this program's templates can do; there \
             are {{{{.Field.Path}}}} and {{{{json .Field}}}}"
        );
    }
    let path = name.split('.').filter(|part| !part.is_empty()).map(str::to_owned).collect();
    Ok(Part::Field { path, as_json })
}

/// `\t` and `\n`, which a shell leaves alone.
fn unescape(text: &str) -> String {
    text.replace(r"\t", "\t").replace(r"\n", "\n")
}

impl Template {
    /// The template with the value's fields in it. A field that is not there is an error that
    /// names those that are.
    pub(crate) fn render(&self, value: &Value) -> Result<String> {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(plain) => text += plain,
                Part::Field { path, as_json } => {
                    let found = lookup(value, path)?;
                    text += &if *as_json { serde_json::to_string(found)? } else { plain(found) };
                }
            }
        }
        Ok(text)
    }

    /// The template with a heading in place of each field.
    pub(crate) fn headings(&self, heading: impl Fn(&str) -> String) -> String {
        let part = |part: &Part| match part {
            Part::Text(plain) => plain.clone(),
            Part::Field { path, .. } => heading(&path.join(".")),
        };
        self.0.iter().map(part).collect()
    }
}

fn lookup<'a>(value: &'a Value, path: &[String]) -> Result<&'a Value> {
    let mut at = value;
    for (depth, name) in path.iter().enumerate() {
        at = at.get(name).ok_or_else(|| {
            let here = path[..depth].iter().map(|part| format!(".{part}")).collect::<String>();
            let there = match at {
                Value::Object(fields) => fields.keys().cloned().collect::<Vec<_>>().join(", "),
                _ => "none".to_owned(),
            };
            anyhow!("format: there is no field {here}.{name}; fields here are: {there}")
        })?;
    }
    Ok(at)
}

/// As Go prints values.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "<nil>".to_owned(),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(" "))
        }
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| format!("{name}:{}", plain(value));
            format!("map[{}]", fields.iter().map(field).collect::<Vec<_>>().join(" "))
        }
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rendered(template: &str) -> Result<String> {
        let value = json!({"State": {"Pid": 7, "Running": true}, "Args": ["a", "b"], "N": null});
        template.parse::<Template>()?.render(&value)
    }

    #[test]
    fn fields() {
        for (template, expected) in [
            ("{{.State.Pid}}", "7"),
            ("{{ .State.Running }}!", "true!"),
            (r"{{.Args}}\t{{json .Args}}", "[a b]\t[\"a\",\"b\"]"),
            ("{{json .State}}", r#"{"Pid":7,"Running":true}"#),
            ("{{.State}} {{.N}}", "map[Pid:7 Running:true] <nil>"),
        ] {
            assert_eq!(rendered(template).expect(template), expected, "{template}");
        }
    }

    #[test]
    fn refusals() {
        let error = rendered("{{.State.Nope}}").expect_err("no field").to_string();
        assert!(error.contains(".State.Nope") && error.contains("Pid, Running"), "{error}");
        for template in
            ["{{range .A}}x{{end}}", "{{.A", "jsonn", "{{.A | upper}}", "{{A}}", "{{..A}}"]
        {
            assert!(template.parse::<Template>().is_err(), "{template}");
        }
    }
}
