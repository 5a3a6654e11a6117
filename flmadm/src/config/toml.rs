//! Changes to one setting of a TOML file, with everything else as it was written.

use toml_edit::{DocumentMut, Item, Table, Value, value};

/// `text` with `new`, a TOML value or a plain text, at `key`, which is a table and a name; `None` removes the key.
///
/// # Errors
/// In words: the text is no TOML, or something else than a table is in the way.
pub(super) fn edit(text: &str, key: &str, new: Option<&str>) -> Result<String, String> {
    let mut document: DocumentMut = text
        .parse()
        .map_err(|error: toml_edit::TomlError| error.to_string())?;
    let (table, name) = key.split_once('.').ok_or_else(|| format!("{key} has no table"))?;
    let Some(new) = new else {
        if let Some(table) = document.get_mut(table).and_then(Item::as_table_like_mut) {
            table.remove(name);
        }
        return Ok(document.to_string());
    };
    let new = parse(new);
    let entry = document.entry(table).or_insert_with(|| {
        let mut table = Table::new();
        table.set_implicit(false);
        Item::Table(table)
    });
    let Some(table) = entry.as_table_like_mut() else {
        return Err(format!("{table} is no table in the file"));
    };
    match table.get_mut(name) {
        Some(Item::Value(old)) => {
            // What stands around the value, as a comment behind it, stays.
            let decor = old.decor().clone();
            *old = new;
            *old.decor_mut() = decor;
        }
        _ => drop(table.insert(name, value(new))),
    }
    Ok(document.to_string())
}

/// The value that `text` is in TOML, else the text itself: the parsers say what is wrong with either.
fn parse(text: &str) -> Value {
    match text.parse::<Value>() {
        Ok(Value::Datetime(_) | Value::Float(_) | Value::InlineTable(_)) | Err(_) => Value::from(text),
        Ok(parsed) => parsed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# The node.
[node]
#name = \"a\"
labels = [\"zone=a\"] # where it is

[resources]
# Its CPUs.
cpu = 4
";

    #[test]
    fn one_setting_changes_and_every_comment_stays() {
        for (key, new, from, to) in [
            ("resources.cpu", Some("8"), "cpu = 4", "cpu = 8"),
            (
                "node.labels",
                Some("[\"zone=b\"]"),
                "[\"zone=a\"]",
                "[\"zone=b\"]",
            ),
            (
                "node.labels",
                Some("zone=b,gpu=a"),
                "[\"zone=a\"]",
                "\"zone=b,gpu=a\"",
            ),
            (
                "resources.mem",
                Some("8g"),
                "cpu = 4\n",
                "cpu = 4\nmem = \"8g\"\n",
            ),
            (
                "life.ephemeral",
                Some("true"),
                "cpu = 4\n",
                "cpu = 4\n\n[life]\nephemeral = true\n",
            ),
            ("life.ephemeral", None, "", ""),
        ] {
            assert_eq!(
                edit(TEXT, key, new).expect(key),
                TEXT.replacen(from, to, 1),
                "{key}"
            );
        }
        let removed = edit(TEXT, "resources.cpu", None).expect("removed");
        assert!(
            removed.contains("[resources]") && !removed.contains("cpu ="),
            "{removed}"
        );
    }

    #[test]
    fn what_is_in_the_way_is_told() {
        assert!(edit("node = 1\n", "node.name", Some("a")).is_err());
        assert!(edit("[", "node.name", Some("a")).is_err());
    }
}
