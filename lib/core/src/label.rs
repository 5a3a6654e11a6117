//! Labels: `key=value` pairs by which sessions select nodes.

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
}
