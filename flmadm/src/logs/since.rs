//! Times as `--since` takes them.

use jiff::civil;
use jiff::{SignedDuration, Zoned};

use crate::failure::{Failure, Outcome};

/// The time that `text` names, in microseconds since 1970: a span before now (`90s`, `2h`, `1d`), `today`, a date, or
/// a date and a time of the machine's time zone.
///
/// # Errors
/// It is none of them.
pub(super) fn parse(text: &str, now: &Zoned) -> Outcome<i64> {
    let zone = now.time_zone();
    let local = |time: civil::DateTime| time.to_zoned(zone.clone()).ok();
    let moment = match text.trim() {
        "today" => local(now.date().at(0, 0, 0, 0)),
        span if flame_core::duration::parse_span(span).is_ok() => flame_core::duration::parse_span(span)
            .ok()
            .and_then(|span| SignedDuration::try_from(span).ok())
            .and_then(|span| now.checked_sub(span).ok()),
        text => match text.parse::<jiff::Timestamp>() {
            Ok(time) => Some(time.to_zoned(zone.clone())),
            Err(_) => {
                let with_minutes = civil::DateTime::strptime("%Y-%m-%d %H:%M", text);
                let time = text.parse::<civil::DateTime>().or(with_minutes).ok();
                let date = text.parse::<civil::Date>().ok().map(|date| date.at(0, 0, 0, 0));
                time.or(date).and_then(local)
            }
        },
    };
    moment
        .map(|moment| moment.timestamp().as_microsecond())
        .ok_or_else(|| {
            Failure::arguments(format!("--since: {text:?} is no time"))
                .hint("give a span before now (90s, 30m, 2h, 1d), today, 2026-01-31, or \"2026-01-31 14:00\"")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        let now: Zoned = "2026-01-31T14:00:00+00:00[UTC]".parse().expect("a time");
        let at = |text: &str| {
            let timestamp =
                jiff::Timestamp::from_microsecond(parse(text, &now).expect(text)).expect("a time");
            timestamp.to_string()
        };
        for (text, expected) in [
            ("90s", "2026-01-31T13:58:30Z"),
            ("2h", "2026-01-31T12:00:00Z"),
            ("1d", "2026-01-30T14:00:00Z"),
            ("today", "2026-01-31T00:00:00Z"),
            ("2026-01-30", "2026-01-30T00:00:00Z"),
            ("2026-01-30 08:30", "2026-01-30T08:30:00Z"),
            ("2026-01-30 08:30:15", "2026-01-30T08:30:15Z"),
            ("2026-01-30T08:30:15Z", "2026-01-30T08:30:15Z"),
        ] {
            assert_eq!(at(text), expected, "{text}");
        }
        for text in ["", "2 weeks", "yesterday", "2026-13-01", "-1h", "99999999999999d"] {
            assert!(parse(text, &now).is_err(), "{text}");
        }
    }
}
