//! Changes to one setting of a YAML file, with everything else as it was written.

use std::str::FromStr;

use serde_json::Value;
use yaml_edit::Document;
use yaml_edit::path::{PathError, YamlPath};

use super::tree;

/// `text` with `value`, a YAML text, at `key`; `None` removes the key.
///
/// # Errors
/// In words: the text or the value is no YAML, or nothing but that key could not be changed.
pub(super) fn edit(text: &str, key: &str, value: Option<&str>) -> Result<String, String> {
    let before = parse(text)?;
    let document = Document::from_str(text).map_err(|error| error.to_string())?;
    let wanted = match value {
        Some(value) => Some(scalar_or_list(value)?),
        None => None,
    };
    let done = match value {
        Some(value) => {
            // As it is written on the command line, so that quotes and the style of lists stay.
            let parsed =
                Document::from_str(&format!("value: {value}\n")).map_err(|error| error.to_string())?;
            match parsed.get("value") {
                Some(node) => document.try_set_path(key, &node),
                None => return Err(format!("{value:?} is no value")),
            }
        }
        None => document.try_remove_path(key).map(drop),
    };
    match done {
        Ok(()) => {}
        Err(PathError::NotFound { .. }) if value.is_none() => return Ok(text.to_owned()),
        Err(error) => return Err(format!("{key} cannot be changed there: {error}")),
    }
    let mut changed = document.to_string();
    if value.is_none() {
        changed = without_empty_parents(&changed, key)?;
    }
    only_that_changed(before, &changed, key, wanted)?;
    Ok(changed)
}

/// A mapping that holds nothing any more is no setting: the parsers would take it for a wrong value.
fn without_empty_parents(text: &str, key: &str) -> Result<String, String> {
    let mut text = text.to_owned();
    let mut rest = key;
    while let Some((parent, _)) = rest.rsplit_once('.') {
        let held = tree::get(&parse(&text)?, parent).cloned();
        let empty = match held {
            Some(Value::Null) => true,
            Some(Value::Object(map)) => map.is_empty(),
            _ => false,
        };
        if !empty {
            break;
        }
        let document = Document::from_str(&text).map_err(|error| error.to_string())?;
        document
            .try_remove_path(parent)
            .map_err(|error| error.to_string())?;
        text = document.to_string();
        rest = parent;
    }
    Ok(text)
}

/// Makes sure that `changed` differs from `before` in `key` alone: an editor that is wrong must not cost a setting.
fn only_that_changed(
    mut before: Value,
    changed: &str,
    key: &str,
    wanted: Option<Value>,
) -> Result<(), String> {
    let after = parse(changed)?;
    match wanted {
        Some(wanted) => tree::set(&mut before, key, wanted),
        None => tree::remove(&mut before, key),
    }
    match tree::normal(before) == tree::normal(after) {
        true => Ok(()),
        false => Err(format!(
            "{key} cannot be changed without changing something else, because of how the file is written; \
             change it with an editor"
        )),
    }
}

/// The value that `text` is in YAML: settings are values or lists of values.
fn scalar_or_list(text: &str) -> Result<Value, String> {
    let no_value = || format!("{text:?} is neither a value nor a list of values like [a, b]");
    if text.contains('\n') {
        return Err(no_value());
    }
    match parse(&format!("value: {text}\n")) {
        Ok(Value::Object(map)) => match map.get("value") {
            Some(Value::Null | Value::Object(_)) | None => Err(no_value()),
            Some(value) if map.len() == 1 => Ok(value.clone()),
            Some(_) => Err(no_value()),
        },
        _ => Err(no_value()),
    }
}

/// The values in a YAML text.
///
/// # Errors
/// It is no YAML, in words.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    serde_saphyr::from_str(text).map_err(|error| error.to_string())
}

/// The line, from 1, on which `key` is in the text.
pub(super) fn line(text: &str, key: &str) -> Option<usize> {
    let document = Document::from_str(text).ok()?;
    let node = document.try_get_path(key).ok()?;
    let start = usize::try_from(node.byte_range().start).ok()?;
    Some(1 + text.bytes().take(start).filter(|byte| *byte == b'\n').count())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# The cluster.
cluster:
  name: flame   # for people
  # Where it is.
  endpoint: \"http://127.0.0.1:8080\"
  policies: [priority, drf]
  limits:
    max_sessions: 10
    # Of a node.
    max_executors: 4

# The end.
";

    #[test]
    fn one_setting_changes_and_every_comment_stays() {
        for (key, value, from, to) in [
            ("cluster.name", Some("lab"), "name: flame ", "name: lab "),
            (
                "cluster.endpoint",
                Some("\"http://manager:9000\""),
                "\"http://127.0.0.1:8080\"",
                "\"http://manager:9000\"",
            ),
            ("cluster.policies", Some("[drf]"), "[priority, drf]", "[drf]"),
            ("cluster.limits.max_sessions", Some("20"), ": 10\n", ": 20\n"),
            ("cluster.limits.max_sessions", None, "    max_sessions: 10\n", ""),
        ] {
            let changed = edit(TEXT, key, value).expect(key);
            assert_eq!(changed, TEXT.replacen(from, to, 1), "{key} {value:?}");
        }
    }

    #[test]
    fn new_settings_and_tables_are_added() {
        let changed = edit(TEXT, "cluster.retention.max_age", Some("7d")).expect("added");
        assert_eq!(
            tree::get(&parse(&changed).expect("YAML"), "cluster.retention.max_age"),
            Some(&Value::from("7d"))
        );
        for line in TEXT.lines() {
            assert!(changed.contains(line), "{line:?} is gone: {changed}");
        }
        let back = edit(&changed, "cluster.retention.max_age", None).expect("removed");
        assert_eq!(parse(&back), parse(TEXT));
        assert_eq!(edit(TEXT, "cluster.retention.max_age", None).as_deref(), Ok(TEXT));
    }

    #[test]
    fn a_table_that_lost_its_last_setting_goes() {
        let text = "cluster:\n  name: a\n  limits:\n    max_executors: 4\n  placement: pack\n";
        let changed = edit(text, "cluster.limits.max_executors", None).expect("removed");
        assert_eq!(changed, "cluster:\n  name: a\n  placement: pack\n");
    }

    #[test]
    fn flow_style_is_edited_too() {
        let text = "cluster: {name: a, limits: {max_executors: 4}} # all\n";
        let changed = edit(text, "cluster.limits.max_executors", Some("5")).expect("changed");
        assert_eq!(changed, text.replace('4', "5"));
    }

    #[test]
    fn what_is_no_value_is_refused() {
        for value in ["", "a: b", "{a: b}", "a\nb: c", "[a", "\"a", "~"] {
            assert!(edit(TEXT, "cluster.name", Some(value)).is_err(), "{value:?}");
        }
        assert!(edit(TEXT, "cluster.name.first", Some("a")).is_err());
        assert!(edit("cluster: [", "cluster.name", Some("a")).is_err());
        let shared = "defaults: &d\n  name: a\ncluster: *d\nother: *d\n";
        assert!(
            edit(shared, "cluster.name", Some("b")).is_err(),
            "others would change, too"
        );
    }

    #[test]
    fn lines_are_known() {
        assert_eq!(line(TEXT, "cluster.name"), Some(3));
        assert_eq!(line(TEXT, "cluster.limits.max_executors"), Some(10));
        assert_eq!(line(TEXT, "cluster.placement"), None);
    }
}
