//! Sizes as people write them: `512`, `4g`, `1.5` is none, `64MiB`.

/// Why a text is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Not a whole number with an optional unit.
    #[error(
        "{0:?} is not a size; write a whole number with an optional unit K, M, G, T or P, e.g. 512M or 4GiB"
    )]
    Syntax(String),
    /// More than 64 bits can count.
    #[error("{0:?} is more than this machine can count")]
    TooLarge(String),
}

/// Bytes that `text` means. `K`, `KB`, `Ki` and `KiB` (and M, G, T, P alike, in either case) are
/// all powers of 1024; without a unit the number is bytes.
///
/// # Errors
/// [`SizeError`] for anything else.
pub fn parse(text: &str) -> Result<u64, SizeError> {
    let trimmed = text.trim();
    let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = trimmed.split_at(digits);
    let syntax = || SizeError::Syntax(text.to_owned());
    if number.is_empty() {
        return Err(syntax());
    }
    let shift = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "ki" | "kib" => 10,
        "m" | "mb" | "mi" | "mib" => 20,
        "g" | "gb" | "gi" | "gib" => 30,
        "t" | "tb" | "ti" | "tib" => 40,
        "p" | "pb" | "pi" | "pib" => 50,
        _ => return Err(syntax()),
    };
    let number: u64 = number.parse().map_err(|_| SizeError::TooLarge(text.to_owned()))?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| SizeError::TooLarge(text.to_owned()))
}

/// `bytes` in the largest unit that keeps it a whole number, so that [`parse`] reads it back.
#[must_use]
pub fn format(bytes: u64) -> String {
    const UNITS: [(&str, u32); 5] = [("P", 50), ("T", 40), ("G", 30), ("M", 20), ("K", 10)];
    for (unit, shift) in UNITS {
        if bytes >= 1 << shift && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units_are_binary_and_case_does_not_matter() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("1k", 1024),
            ("1KB", 1024),
            ("2Ki", 2048),
            ("2 KiB", 2048),
            ("4g", 4 << 30),
            ("1T", 1 << 40),
            ("3pib", 3 << 50),
            ("7b", 7),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_an_error() {
        for text in [
            "",
            "g",
            "1.5g",
            "-1",
            "4x",
            "4gbb",
            "99999999999999999999",
            "20000p",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(bytes: u64) {
            prop_assert_eq!(parse(&format(bytes)), Ok(bytes));
        }
    }
}
