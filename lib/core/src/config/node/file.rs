//! Reading the file: TOML whose keys are all known.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Key, Origin, Problems, Said};
use crate::config::nearest;

/// What the text of a `node-agent.toml`, which is at `path`, says. Values are checked later, with those of
/// other sources.
///
/// # Errors
/// The text is no TOML, or keys are not known: all of them, with their lines.
pub fn parse(text: &str, path: &Path) -> Result<Said, Problems> {
    let place = |at: usize| format!("{}, line {}", path.display(), line(text, at));
    let document = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        Problems(vec![format!("{}: {}", place(at), error.message())])
    })?;
    let known: Vec<&str> = known();
    let (mut said, mut unknown) = (Said::default(), Vec::new());
    for (name, at, value) in leaves(document.get_ref()) {
        match Key::ALL.iter().find(|key| key.name() == name) {
            Some(key) => {
                let origin = Origin::File {
                    path: path.to_path_buf(),
                    line: line(text, at),
                };
                said.say(*key, plain(value), origin);
            }
            None => unknown.push(format!(
                "{}: unknown key \"{name}\"{}",
                place(at),
                nearest(&name, &known)
            )),
        }
    }
    match unknown.is_empty() {
        true => Ok(said),
        false => Err(Problems(unknown)),
    }
}

/// All keys and their tables, for the hint at an unknown one.
fn known() -> Vec<&'static str> {
    let keys = Key::ALL.iter().map(|key| key.name());
    let mut known: Vec<_> = keys
        .flat_map(|key| [key.split('.').next().unwrap_or_default(), key])
        .collect();
    known.sort_unstable();
    known.dedup();
    known
}

/// Keys below the tables, or beside them, with their places and values.
fn leaves<'a>(document: &'a DeTable<'a>) -> Vec<(String, usize, &'a Spanned<DeValue<'a>>)> {
    let mut found = Vec::new();
    for (name, value) in document {
        match value.get_ref() {
            DeValue::Table(table) if known().contains(&name.get_ref().as_ref()) => {
                for (key, value) in table {
                    let full = format!("{}.{}", name.get_ref(), key.get_ref());
                    found.push((full, key.span().start, value));
                }
            }
            _ => found.push((name.get_ref().to_string(), name.span().start, value)),
        }
    }
    // Problems are told in the order of the lines.
    found.sort_by_key(|(_, at, _)| *at);
    found
}

/// The value without its places.
fn plain(value: &Spanned<DeValue<'_>>) -> toml::Value {
    match value.get_ref() {
        DeValue::String(text) => toml::Value::String(text.to_string()),
        DeValue::Boolean(truth) => toml::Value::Boolean(*truth),
        DeValue::Array(values) => toml::Value::Array(values.iter().map(plain).collect()),
        // A number that does not fit is found wrong as the text that it is.
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => toml::Value::Integer(number),
            Err(_) => toml::Value::String(number.as_str().to_owned()),
        },
        DeValue::Float(number) => toml::Value::String(number.as_str().to_owned()),
        DeValue::Datetime(time) => toml::Value::String(time.to_string()),
        DeValue::Table(_) => toml::Value::Table(toml::Table::new()),
    }
}

/// The line of a place in `text`, from 1.
fn line(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}
