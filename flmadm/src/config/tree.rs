//! Values by dotted keys.

use serde_json::{Map, Value};

/// The value at `key`.
pub(super) fn get<'a>(tree: &'a Value, key: &str) -> Option<&'a Value> {
    key.split('.').try_fold(tree, |value, part| value.get(part))
}

/// Puts `value` at `key`; what is on the way becomes a table.
pub(super) fn set(tree: &mut Value, key: &str, value: Value) {
    if !tree.is_object() {
        *tree = Value::Object(Map::new());
    }
    let Value::Object(map) = tree else { return };
    match key.split_once('.') {
        Some((first, rest)) => set(map.entry(first).or_insert(Value::Null), rest, value),
        None => drop(map.insert(key.to_owned(), value)),
    }
}

/// Removes what is at `key`.
pub(super) fn remove(tree: &mut Value, key: &str) {
    let Value::Object(map) = tree else { return };
    match key.split_once('.') {
        Some((first, rest)) => {
            if let Some(below) = map.get_mut(first) {
                remove(below, rest);
            }
        }
        None => drop(map.remove(key)),
    }
}

/// Without tables that hold nothing.
pub(super) fn normal(tree: Value) -> Value {
    let Value::Object(map) = tree else { return tree };
    let below = map.into_iter().map(|(key, value)| (key, normal(value)));
    let nothing = |value: &Value| value.is_null() || value.as_object().is_some_and(Map::is_empty);
    Value::Object(below.filter(|(_, value)| !nothing(value)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_reached_by_their_keys() {
        let mut tree = json!({"a": {"b": 1, "c": [2]}, "d": 3});
        assert_eq!(get(&tree, "a.b"), Some(&json!(1)));
        assert_eq!(get(&tree, "a.x"), None);
        assert_eq!(get(&tree, "d.x"), None);
        set(&mut tree, "a.e.f", json!(4));
        remove(&mut tree, "a.b");
        remove(&mut tree, "x.y");
        assert_eq!(tree, json!({"a": {"c": [2], "e": {"f": 4}}, "d": 3}));
        remove(&mut tree, "a.e.f");
        assert_eq!(normal(tree), json!({"a": {"c": [2]}, "d": 3}));
    }
}
