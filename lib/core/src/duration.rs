//! Durations as people write them: on a command line `0.5`, in a configuration `30d`.

use std::time::Duration;

/// A text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a number of seconds above 0, e.g. 30 or 0.5")]
pub struct DurationError(String);

/// The duration of that many seconds, which may have a fraction and must be above 0.
///
/// # Errors
/// [`DurationError`] for anything else.
pub fn parse_seconds(text: &str) -> Result<Duration, DurationError> {
    let wrong = || DurationError(text.to_owned());
    let seconds: f64 = text.parse().map_err(|_| wrong())?;
    let duration = Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?;
    if duration.is_zero() {
        Err(wrong())
    } else {
        Ok(duration)
    }
}

/// A text is no time span.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a whole number above 0 with a unit s, m, h or d, e.g. 12h or 30d")]
pub struct SpanError(String);

/// The time span that `text` names: a whole number above 0 and a unit, which is `s`, `m`, `h` or
/// `d`.
///
/// # Errors
/// [`SpanError`] for anything else.
pub fn parse_span(text: &str) -> Result<Duration, SpanError> {
    let wrong = || SpanError(text.to_owned());
    let trimmed = text.trim();
    let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = trimmed.split_at(digits);
    let unit: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    // What does not fit into milliseconds of 63 bits is longer than the clocks count.
    let seconds = number
        .checked_mul(unit)
        .filter(|seconds| (1..=i64::MAX as u64 / 1000).contains(seconds));
    seconds.map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_whole_numbers_with_a_unit() {
        for (text, seconds) in [("45s", 45), ("10m", 600), ("12h", 43_200), (" 30d", 2_592_000)] {
            assert_eq!(parse_span(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for wrong in [
            "",
            "d",
            "0d",
            "7",
            "1.5d",
            "-1d",
            "7 d",
            "7w",
            "9223372036854775807d",
        ] {
            assert!(parse_span(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_are_positive_seconds() {
        assert_eq!(parse_seconds("1.5"), Ok(Duration::from_millis(1500)));
        for wrong in ["", "0", "-1", "x", "inf", "NaN"] {
            assert!(parse_seconds(wrong).is_err(), "{wrong}");
        }
    }
}
