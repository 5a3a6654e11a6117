//! Times, durations, sizes and payloads as text.

use std::fmt::Write as _;
use std::time::Duration;

use bytesize::ByteSize;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// Now and here. Handed in, so that what is printed can be tested.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    /// The present.
    pub(crate) now: Timestamp,
    /// Time zone of the user.
    pub(crate) zone: TimeZone,
}

impl Clock {
    /// The clock of this machine.
    pub(crate) fn system() -> Self {
        Self {
            now: Timestamp::now(),
            zone: TimeZone::system(),
        }
    }

    /// Time since `millis` (Unix milliseconds), e.g. `5m`. Clocks differ: the future counts as now.
    pub(crate) fn age(&self, millis: i64) -> String {
        if millis <= 0 {
            return "-".to_owned();
        }
        let elapsed = self.now.as_millisecond().saturating_sub(millis).max(0);
        span(elapsed, false)
    }

    /// Local time and age, e.g. `2026-11-21T10:00:00+01:00 (5m ago)`.
    pub(crate) fn moment(&self, millis: i64) -> String {
        if millis <= 0 {
            return "-".to_owned();
        }
        format!("{} ({} ago)", self.local(millis), self.age(millis))
    }

    /// Local time to the second, RFC 3339.
    pub(crate) fn local(&self, millis: i64) -> String {
        match Timestamp::from_millisecond(millis) {
            Ok(time) => time
                .to_zoned(self.zone.clone())
                .strftime("%Y-%m-%dT%H:%M:%S%:z")
                .to_string(),
            Err(_) => format!("{millis} ms"),
        }
    }
}

impl Clock {
    /// Local time of `micros` (Unix microseconds) to the microsecond, RFC 3339.
    pub(crate) fn local_exact(&self, micros: i64) -> String {
        match Timestamp::from_microsecond(micros) {
            Ok(time) => time
                .to_zoned(self.zone.clone())
                .strftime("%Y-%m-%dT%H:%M:%S.%6f%:z")
                .to_string(),
            Err(_) => format!("{micros} us"),
        }
    }
}

/// `millis` (Unix milliseconds) as RFC 3339 in UTC, for programs; nothing for "never".
pub(crate) fn rfc3339(millis: i64) -> Option<String> {
    if millis <= 0 {
        return None;
    }
    Timestamp::from_millisecond(millis)
        .ok()
        .map(|time| format!("{time:.3}"))
}

/// Time between two moments in milliseconds, e.g. `250ms`, `1.5s`, `5m30s`, `3h`.
pub(crate) fn duration(from: i64, to: i64) -> String {
    span(to.saturating_sub(from).max(0), true)
}

/// The two largest units; below a minute with fractions if `precise`.
fn span(millis: i64, precise: bool) -> String {
    let seconds = millis / 1000;
    let two = |large: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 {
            format!("{large}{unit}")
        } else {
            format!("{large}{unit}{small}{small_unit}")
        }
    };
    match seconds {
        0 if precise => format!("{millis}ms"),
        0..60 if precise => format!("{seconds}.{}s", millis % 1000 / 100),
        0..120 => format!("{seconds}s"),
        120..600 => two(seconds / 60, "m", seconds % 60, "s"),
        600..10_800 => format!("{}m", seconds / 60),
        10_800..36_000 => two(seconds / 3600, "h", seconds / 60 % 60, "m"),
        36_000..172_800 => format!("{}h", seconds / 3600),
        172_800..864_000 => two(seconds / 86_400, "d", seconds / 3600 % 24, "h"),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Bytes for people, e.g. `1.5 GiB`.
pub(crate) fn size(bytes: u64) -> String {
    if bytes < 1024 {
        format!("{bytes} B")
    } else {
        ByteSize(bytes).display().iec().to_string()
    }
}

/// Reads a number of seconds, or a duration with units such as `5m` or `1h 30m`.
pub(crate) fn seconds(text: &str) -> Result<i64, String> {
    let wrong = || format!("{text:?} is no time; write seconds or e.g. 60s, 5m, 1h");
    let text = text.trim();
    let seconds = match text.parse::<i64>() {
        Ok(seconds) => seconds,
        Err(_) => {
            let read: SignedDuration = text.parse().map_err(|_| wrong())?;
            if read.subsec_nanos() != 0 {
                return Err(format!("{text:?} is too fine; whole seconds are possible"));
            }
            read.as_secs()
        }
    };
    if seconds < 0 { Err(wrong()) } else { Ok(seconds) }
}

/// Reads a time above 0: seconds, which may have a fraction, or with units such as `500ms` or `5m`.
pub(crate) fn time_limit(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time above 0; write seconds or e.g. 500ms, 1.5s, 5m, 1h");
    let text = text.trim();
    let time = match flame_core::duration::parse_seconds(text) {
        Ok(time) => time,
        Err(_) => {
            let read: SignedDuration = text.parse().map_err(|_| wrong())?;
            Duration::try_from(read).map_err(|_| wrong())?
        }
    };
    if millis(time) == 0 { Err(wrong()) } else { Ok(time) }
}

/// Whole milliseconds.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// How many bytes of a payload that is no text are shown.
const HEX_PREVIEW: usize = 64;

/// A payload as text if it is text, else the first bytes in hex.
pub(crate) fn payload(data: &[u8]) -> String {
    match std::str::from_utf8(data) {
        Ok(text) => printable(text),
        Err(_) => {
            let mut shown = String::new();
            for (at, byte) in data.iter().take(HEX_PREVIEW).enumerate() {
                let space = match at {
                    0 => "",
                    _ if at % 16 == 0 => "\n",
                    _ => " ",
                };
                // Writing to a String does not fail.
                let _ = write!(shown, "{space}{byte:02x}");
            }
            if data.len() > HEX_PREVIEW {
                shown.push_str(" ...");
            }
            shown
        }
    }
}

/// `text` without control characters that a terminal would obey.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escape = c.is_control() && !matches!(c, '\n' | '\t');
            let escaped = escape.then(|| c.escape_default());
            escaped.into_iter().flatten().chain((!escape).then_some(c))
        })
        .collect()
}

/// `text` on one line of at most `width` characters.
pub(crate) fn one_line(text: &str, width: usize) -> String {
    let flat = printable(&text.split_whitespace().collect::<Vec<_>>().join(" "));
    if flat.chars().count() <= width {
        return flat;
    }
    let mut cut: String = flat.chars().take(width.saturating_sub(3)).collect();
    cut.push_str("...");
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock() -> Clock {
        let now = Timestamp::from_millisecond(1_700_000_600_000).expect("time");
        Clock {
            now,
            zone: TimeZone::fixed(jiff::tz::offset(2)),
        }
    }

    #[test]
    fn ages_have_one_or_two_units() {
        for (seconds, text) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (330, "5m30s"),
            (3600, "60m"),
            (10_800, "3h"),
            (12_000, "3h20m"),
            (100_000, "27h"),
            (200_000, "2d7h"),
            (8_640_000, "100d"),
        ] {
            assert_eq!(clock().age(1_700_000_600_000 - seconds * 1000), text);
        }
        assert_eq!(clock().age(0), "-", "never");
        assert_eq!(
            clock().age(1_700_000_700_000),
            "0s",
            "the future, by a clock that is ahead"
        );
    }

    #[test]
    fn durations_below_a_minute_have_fractions() {
        assert_eq!(duration(0, 0), "0ms");
        assert_eq!(duration(1000, 1250), "250ms");
        assert_eq!(duration(1000, 2560), "1.5s");
        assert_eq!(duration(0, 330_000), "5m30s");
    }

    #[test]
    fn times_are_local_for_people_and_utc_for_programs() {
        assert_eq!(
            clock().moment(1_700_000_000_000),
            "2023-11-15T00:13:20+02:00 (10m ago)"
        );
        assert_eq!(
            rfc3339(1_700_000_000_123).as_deref(),
            Some("2023-11-14T22:13:20.123Z")
        );
        assert_eq!(
            rfc3339(1_700_000_000_000).as_deref(),
            Some("2023-11-14T22:13:20.000Z")
        );
        assert_eq!(rfc3339(0), None);
        assert_eq!(
            clock().local(i64::MAX),
            "9223372036854775807 ms",
            "a broken server"
        );
    }

    #[test]
    fn sizes_are_humanised() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(8 << 30), "8.0 GiB");
    }

    #[test]
    fn time_limits_have_fractions_or_units() {
        for (text, millis) in [
            ("2", 2000),
            ("0.25", 250),
            ("500ms", 500),
            ("1.5s", 1500),
            ("5m", 300_000),
        ] {
            assert_eq!(time_limit(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for wrong in ["", "0", "-1", "0.0001", "soon", "-5m"] {
            assert!(time_limit(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn seconds_have_optional_units() {
        for (text, value) in [("0", 0), ("60", 60), ("60s", 60), ("5m", 300), ("1h 30m", 5400)] {
            assert_eq!(seconds(text), Ok(value), "{text}");
        }
        for wrong in ["", "x", "-1", "-5s", "1.5s", "1500ms"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn payloads_are_text_or_hex_and_never_control_the_terminal() {
        assert_eq!(payload("grün\n".as_bytes()), "grün\n");
        assert_eq!(payload(b"\x1b[31mred"), "\\u{1b}[31mred");
        assert_eq!(payload(&[0xff, 0x00]), "ff 00");
        let long = payload(&[0xff; 100]);
        assert!(long.ends_with("ff ...") && long.lines().count() == 4, "{long}");
    }

    #[test]
    fn long_text_is_cut() {
        assert_eq!(one_line("a  b\nc", 10), "a b c");
        assert_eq!(one_line("0123456789", 8), "01234...");
    }
}
