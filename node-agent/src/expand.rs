//! Expansion of `$NAME` and `${NAME}` in what an application's registration says.

/// Replaces `$NAME` and `${NAME}` by what `lookup` knows. What it does not know, and what is no
/// name, stays as it is, so that a text meant for a shell arrives there unharmed.
#[must_use]
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        expanded.push_str(&rest[..dollar]);
        rest = &rest[dollar..];
        let (name, length) = name_at(&rest[1..]);
        match name.and_then(&lookup) {
            Some(value) => expanded.push_str(&value),
            None => expanded.push_str(&rest[..=length]),
        }
        rest = &rest[1 + length..];
    }
    expanded.push_str(rest);
    expanded
}

/// The variable's name at the start of `text` (which follows a `$`), and how many bytes the
/// reference takes there.
fn name_at(text: &str) -> (Option<&str>, usize) {
    if let Some(braced) = text.strip_prefix('{') {
        return match braced.find('}') {
            Some(end) if name_length(braced) == end && end > 0 => (Some(&braced[..end]), end + 2),
            _ => (None, 0),
        };
    }
    match name_length(text) {
        0 => (None, 0),
        length => (Some(&text[..length]), length),
    }
}

/// Bytes at the start of `text` that are a variable's name.
fn name_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    if bytes.first().is_none_or(u8::is_ascii_digit) {
        return 0;
    }
    bytes
        .iter()
        .take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_')
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_variables_are_replaced_and_all_else_stays() {
        let lookup = |name: &str| match name {
            "HOME" => Some("/home/me".to_owned()),
            "A1_b" => Some("x".to_owned()),
            "EMPTY" => Some(String::new()),
            "TRICKY" => Some("$HOME".to_owned()),
            _ => None,
        };
        for (text, expanded) in [
            ("", ""),
            ("plain", "plain"),
            ("$HOME/bin", "/home/me/bin"),
            ("${HOME}bin", "/home/mebin"),
            ("$HOMEbin", "$HOMEbin"),
            ("a${A1_b}b$A1_b", "axbx"),
            ("[$EMPTY]", "[]"),
            ("$UNKNOWN ${UNKNOWN}", "$UNKNOWN ${UNKNOWN}"),
            ("$TRICKY", "$HOME"),
            ("$", "$"),
            ("$$HOME", "$/home/me"),
            ("${", "${"),
            ("${}", "${}"),
            ("${HOME", "${HOME"),
            ("${HO ME}", "${HO ME}"),
            ("$1 ${1}", "$1 ${1}"),
            ("ä$HOMEä", "ä/home/meä"),
            ("a\\$b", "a\\$b"),
        ] {
            assert_eq!(expand(text, lookup), expanded, "{text}");
        }
    }
}
