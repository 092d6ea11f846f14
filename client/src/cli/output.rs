//! Standard output and lists: tables as Docker draws them, one JSON object a line, templates.
//!
//! A reader that went away (`wharf ps | head`) is no error to shout about: see [`StdoutClosed`].

use std::io::{self, Write as _};

use anyhow::{Context as _, Result};
use serde_json::{Map, Value};

use crate::cli::template::Template;

/// Nobody reads our standard output any more. The program ends as if by SIGPIPE, silently.
#[derive(Debug, thiserror::Error)]
#[error("standard output is closed")]
pub(crate) struct StdoutClosed;

/// Writes to standard output at once.
pub(crate) fn print(text: &str) -> Result<()> {
    written(io::stdout().lock().write_all(text.as_bytes()))?;
    written(io::stdout().flush())
}

/// Writes one line to standard output at once.
pub(crate) fn print_line(text: &str) -> Result<()> {
    print(&format!("{text}\n"))
}

/// Turns a failed write to standard output into what the program ends with.
pub(crate) fn written(result: io::Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(StdoutClosed.into()),
        other => other.context("write the output"),
    }
}

/// Writes one line to standard error. A failure is nothing that could be told.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// `--format` of commands that list.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Format {
    Table,
    /// Columns of the caller's choice.
    TableOf(Template),
    /// One object a line.
    Json,
    Lines(Template),
}

impl std::str::FromStr for Format {
    type Err = anyhow::Error;

    fn from_str(given: &str) -> Result<Self> {
        Ok(match given {
            "table" | "" => Self::Table,
            "json" => Self::Json,
            _ => match given.strip_prefix("table ") {
                Some(columns) => Self::TableOf(columns.parse()?),
                None => Self::Lines(given.parse()?),
            },
        })
    }
}

/// One column of a list: its key in JSON and templates, its heading.
pub(crate) type Column = (&'static str, &'static str);

/// Rows that are printed in any [`Format`].
#[derive(Debug)]
pub(crate) struct List {
    /// All that templates may use; JSON has what the rows have.
    pub(crate) columns: &'static [Column],
    /// Keys of the plain table.
    pub(crate) shown: Vec<&'static str>,
    pub(crate) rows: Vec<Map<String, Value>>,
}

impl List {
    pub(crate) fn render(&self, format: &Format) -> Result<String> {
        let mut text = String::new();
        match format {
            Format::Table => {
                let heading = |key: &&str| self.heading(key).to_owned();
                let headings = self.shown.iter().map(heading).collect();
                let cell = |row: &Map<String, Value>, key: &str| match row.get(key) {
                    Some(Value::String(text)) => text.clone(),
                    Some(other) => other.to_string(),
                    None => String::new(),
                };
                let cells = |row| self.shown.iter().map(|key| cell(row, key)).collect();
                text = table(headings, self.rows.iter().map(cells).collect());
            }
            Format::TableOf(template) => {
                let headings = template.headings(|key| self.heading(key).to_owned());
                let split = |line: String| line.split('\t').map(str::to_owned).collect();
                let lines =
                    self.rows.iter().map(|row| template.render(&Value::Object(row.clone())));
                let lines = lines.collect::<Result<Vec<_>>>()?.into_iter();
                text = table(split(headings), lines.map(split).collect());
            }
            Format::Json => {
                for row in &self.rows {
                    text += &serde_json::to_string(row)?;
                    text.push('\n');
                }
            }
            Format::Lines(template) => {
                for row in &self.rows {
                    text += &template.render(&Value::Object(row.clone()))?;
                    text.push('\n');
                }
            }
        }
        Ok(text)
    }

    fn heading(&self, key: &str) -> &'static str {
        self.columns.iter().find(|(k, _)| *k == key).map_or("", |(_, heading)| heading)
    }
}

/// Columns are as wide as their widest cell and three spaces, and at least ten characters.
fn table(headings: Vec<String>, rows: Vec<Vec<String>>) -> String {
    let mut lines = vec![headings];
    lines.extend(rows);
    let columns = lines[0].len();
    let width = |column: usize| {
        let widest = lines.iter().filter_map(|line| Some(line.get(column)?.chars().count())).max();
        (widest.unwrap_or(0) + 3).max(10)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        for (column, cell) in line.iter().enumerate() {
            if column + 1 < line.len() {
                text +=
                    &format!("{cell:<width$}", width = widths.get(column).copied().unwrap_or(0));
            } else {
                text += cell;
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn list() -> List {
        let row = |id: &str, names: &str| match json!({"ID": id, "Names": names}) {
            Value::Object(row) => row,
            _ => Map::new(),
        };
        List {
            columns: &[("ID", "CONTAINER ID"), ("Names", "NAMES")],
            shown: vec!["ID", "Names"],
            rows: vec![row("0123456789ab", "calm_hare"), row("1", "é")],
        }
    }

    fn rendered(format: &str) -> String {
        list().render(&format.parse().expect(format)).expect(format)
    }

    #[test]
    fn formats() {
        assert_eq!(
            rendered("table"),
            "CONTAINER ID   NAMES\n0123456789ab   calm_hare\n1              é\n"
        );
        assert_eq!(
            rendered("json").lines().next(),
            Some(r#"{"ID":"0123456789ab","Names":"calm_hare"}"#)
        );
        assert_eq!(rendered("{{.Names}}"), "calm_hare\né\n");
        assert_eq!(
            rendered(r"table {{.Names}}\t{{.ID}}"),
            "NAMES       CONTAINER ID\ncalm_hare   0123456789ab\né           1\n"
        );
    }

    #[test]
    fn narrow_columns_have_ten_characters() {
        let text = table(vec!["A".into(), "B".into()], vec![vec!["1".into(), "2".into()]]);
        assert_eq!(text, "A         B\n1         2\n");
    }
}
