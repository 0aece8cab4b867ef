//! What a command answers, and how it looks as text, as Markdown and as JSON.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// The answer of a command.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A sentence.
    Sentence(String),
    /// Rows of values under the names of their columns.
    Table(Vec<&'static str>, Vec<Vec<Value>>),
    /// Values by name.
    Fields(Vec<(&'static str, Value)>),
}

impl Answer {
    /// The answer in a format.
    pub fn written(&self, format: Format) -> String {
        match format {
            Format::Text => self.to_string(),
            Format::Markdown => self.to_markdown(),
            Format::Json => self.to_json().to_string(),
        }
    }

    fn to_markdown(&self) -> String {
        let cell = |value: &Value| plain(value).replace('|', "\\|").replace('\n', " ");
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        match self {
            Self::Sentence(sentence) => sentence.clone(),
            Self::Table(_, rows) if rows.is_empty() => "None.".to_owned(),
            Self::Table(columns, rows) => {
                let mut text = line(columns.iter().map(|name| (*name).to_owned()).collect());
                text.push_str(&line(columns.iter().map(|_| "---".to_owned()).collect()));
                rows.iter().for_each(|row| text.push_str(&line(row.iter().map(cell).collect())));
                text
            }
            Self::Fields(fields) => {
                fields.iter().map(|(name, value)| format!("- **{name}**: {}\n", plain(value))).collect()
            }
        }
    }

    /// The answer for programs: a string, a list of objects, or an object.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Sentence(sentence) => json!(sentence),
            Self::Table(columns, rows) => {
                let object =
                    |row: &Vec<Value>| columns.iter().map(|name| (*name).to_owned()).zip(row.clone()).collect();
                rows.iter().map(|row| Value::Object(object(row))).collect()
            }
            Self::Fields(fields) => {
                let fields: Map<_, _> =
                    fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
                Value::Object(fields)
            }
        }
    }
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people: in columns.
    #[default]
    Text,
    /// For people: tables and lists of Markdown.
    Markdown,
    /// For programs.
    Json,
}

/// A value as people read it: a dash for `null` and for an empty list, text without quotation marks, lists without
/// brackets.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Array(values) if values.is_empty() => "-".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

/// The answer for people; the last line ends without a break.
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sentence(sentence) => f.write_str(sentence),
            Self::Table(_, rows) if rows.is_empty() => f.write_str("None."),
            Self::Table(columns, rows) => {
                let head = columns.iter().map(|name| (*name).to_owned()).collect();
                let mut lines: Vec<Vec<String>> = vec![head];
                lines.extend(rows.iter().map(|row| row.iter().map(plain).collect()));
                aligned(f, &lines)
            }
            Self::Fields(fields) => {
                let lines: Vec<_> = fields.iter().map(|(name, value)| vec![(*name).to_owned(), plain(value)]).collect();
                aligned(f, &lines)
            }
        }
    }
}

/// Writes the cells in columns two spaces apart.
fn aligned(f: &mut fmt::Formatter<'_>, lines: &[Vec<String>]) -> fmt::Result {
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
    for (number, line) in lines.iter().enumerate() {
        if number > 0 {
            writeln!(f)?;
        }
        let mut text = String::new();
        for (column, cell) in line.iter().enumerate() {
            let width = width(column).unwrap_or(0) + 2;
            text.push_str(&format!("{cell:width$}"));
        }
        f.write_str(text.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_for_people_and_objects_for_programs() {
        let rows = vec![vec![json!("@a:b"), json!(true)], vec![json!("@long:b"), Value::Null]];
        let table = Answer::Table(vec!["user", "admin"], rows);
        assert_eq!(table.to_string(), "user     admin\n@a:b     yes\n@long:b  -");
        assert_eq!(table.to_json(), json!([{"user": "@a:b", "admin": true}, {"user": "@long:b", "admin": null}]));
        assert_eq!(Answer::Table(vec!["user"], Vec::new()).to_string(), "None.");
        let markdown = table.written(Format::Markdown);
        assert_eq!(markdown, "| user | admin |\n| --- | --- |\n| @a:b | yes |\n| @long:b | - |\n");
        let fields = Answer::Fields(vec![("rooms", json!(["!a", "!b"])), ("n", json!(7))]);
        assert_eq!(fields.to_string(), "rooms  !a !b\nn      7");
        assert_eq!(fields.to_json(), json!({"rooms": ["!a", "!b"], "n": 7}));
    }
}
