//! Durations as people write them on a command line.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_positive_seconds() {
        assert_eq!(parse_seconds("1.5"), Ok(Duration::from_millis(1500)));
        for wrong in ["", "0", "-1", "x", "inf", "NaN"] {
            assert!(parse_seconds(wrong).is_err(), "{wrong}");
        }
    }
}
