//! Labels: `key=value` pairs by which sessions select nodes.

use std::collections::BTreeSet;

/// Longest key and longest value, in bytes.
const MAX_PART: usize = 63;

/// Why a label cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("label {label:?} is not valid: {reason}")]
pub struct LabelError {
    label: String,
    reason: &'static str,
}

/// Checks a label: `key=value`, both of at most 63 of `A-Z a-z 0-9 . _ - /`, the key not empty.
///
/// # Errors
/// [`LabelError`] says which part of the rule is broken.
pub fn validate(label: &str) -> Result<(), LabelError> {
    let invalid = |reason| {
        Err(LabelError {
            label: label.to_owned(),
            reason,
        })
    };
    let Some((key, value)) = label.split_once('=') else {
        return invalid("it must be written key=value");
    };
    if key.is_empty() {
        return invalid("its key is empty");
    }
    if key.len() > MAX_PART || value.len() > MAX_PART {
        return invalid("a key and a value have at most 63 characters");
    }
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'/');
    if !key.bytes().chain(value.bytes()).all(known) {
        return invalid("only letters, digits, '.', '_', '-' and '/' are possible");
    }
    Ok(())
}

/// The labels of one node: each is valid, and no key has two values. A session selects a key by one
/// value, so that a second one is a mistake.
///
/// # Errors
/// As [`validate`], or the label whose key was there before.
pub fn set<'a>(labels: impl IntoIterator<Item = &'a str>) -> Result<BTreeSet<String>, LabelError> {
    let (mut set, mut keys) = (BTreeSet::new(), BTreeSet::new());
    for label in labels {
        validate(label)?;
        let key = label.split_once('=').map_or(label, |(key, _)| key);
        // The same label twice says nothing new.
        if set.insert(label.to_owned()) && !keys.insert(key) {
            return Err(LabelError {
                label: label.to_owned(),
                reason: "another label has the same key",
            });
        }
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_pairs_of_plain_words() {
        for good in ["zone=a", "gpu=", "example.com/rack=r-1_2"] {
            assert_eq!(validate(good), Ok(()), "{good}");
        }
        let long = format!("k={}", "v".repeat(64));
        for (bad, reason) in [
            ("zone", "key=value"),
            ("=a", "key is empty"),
            ("zone=a=b", "only letters"),
            ("zone=a b", "only letters"),
            (long.as_str(), "at most 63"),
        ] {
            let error = validate(bad).expect_err(bad).to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_node_has_one_value_for_a_key() {
        let known = set(["zone=a", "gpu=", "zone=a"]).expect("valid");
        assert_eq!(known.into_iter().collect::<Vec<_>>(), ["gpu=", "zone=a"]);
        let error = set(["zone=a", "disk=ssd", "zone=b"])
            .expect_err("two zones")
            .to_string();
        assert_eq!(
            error,
            "label \"zone=b\" is not valid: another label has the same key"
        );
        assert!(set(["zone"]).is_err());
    }
}
