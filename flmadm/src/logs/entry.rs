//! One line of a log, from the journal or from a file.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A line of a log: with `--output json` there is one such object per line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Entry {
    /// When, in microseconds since 1970; `None` for a line of a file that begins with no time.
    pub(crate) time_us: Option<i64>,
    /// The unit, or the name of the file.
    pub(crate) unit: String,
    /// The process that wrote it.
    pub(crate) pid: Option<u32>,
    /// From 0 (emergency) over 3 (error), 4 (warning) and 6 (information) to 7 (debugging).
    pub(crate) priority: Option<u8>,
    /// What was written.
    pub(crate) message: String,
}

/// As journalctl writes it.
#[derive(Debug, Deserialize)]
struct Raw {
    #[serde(rename = "__REALTIME_TIMESTAMP")]
    time: String,
    #[serde(rename = "_SYSTEMD_UNIT")]
    writer: Option<String>,
    /// What a line of systemd itself is about.
    #[serde(rename = "UNIT")]
    about: Option<String>,
    #[serde(rename = "_PID")]
    pid: Option<String>,
    #[serde(rename = "PRIORITY")]
    priority: Option<String>,
    #[serde(rename = "MESSAGE")]
    message: Option<Message>,
}

/// A message as journalctl writes it.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Message {
    Text(String),
    /// What is not UTF-8, or has control characters.
    Bytes(Vec<u8>),
    /// A field may be there more than once.
    Several(Vec<Message>),
}

impl Message {
    fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Self::Several(messages) => messages.iter().map(Self::text).collect::<Vec<_>>().join("\n"),
        }
    }
}

impl Entry {
    /// The entry that journalctl wrote as `json`; `None` if it is none.
    pub(crate) fn parse(json: &[u8]) -> Option<Self> {
        let raw: Raw = serde_json::from_slice(json).ok()?;
        Some(Self {
            time_us: Some(raw.time.parse().ok()?),
            unit: raw.about.or(raw.writer).unwrap_or_default(),
            pid: raw.pid.and_then(|pid| pid.parse().ok()),
            priority: raw.priority.and_then(|priority| priority.parse().ok()),
            message: raw.message.map(|message| message.text()).unwrap_or_default(),
        })
    }

    /// A line of the file called `name`. The time that it begins with, as daemons and the output of applications have
    /// it, is taken out; a line without one has that of the line before.
    pub(crate) fn of_file(name: &str, line: &str, before: Option<i64>) -> Self {
        let (time_us, message) = match line
            .split_once(' ')
            .and_then(|(word, rest)| Some((time(word)?, rest)))
        {
            Some((time, rest)) => (Some(time), rest),
            None => (before, line),
        };
        Self {
            time_us,
            unit: name.to_owned(),
            pid: None,
            priority: None,
            message: message.trim_start().to_owned(),
        }
    }

    /// Without time and unit, fit for a terminal: nothing in it moves the cursor or changes colours.
    pub(crate) fn text(&self) -> String {
        let shown = |c: char| match c {
            '\n' | '\t' => c,
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            c => c,
        };
        self.message.chars().map(shown).collect()
    }

    /// For people, in the time zone.
    pub(crate) fn line(&self, zone: &TimeZone) -> String {
        let time = self
            .time_us
            .and_then(|time| Timestamp::from_microsecond(time).ok());
        let time = match time {
            Some(time) => time.to_zoned(zone.clone()).strftime("%F %T.%3f").to_string(),
            None => "-".to_owned(),
        };
        let unit = self.unit.trim_end_matches(".service");
        let pid = self.pid.map(|pid| format!("[{pid}]")).unwrap_or_default();
        // Further lines stand below the first, so that each entry can be told from the next.
        let text = self.text().replace('\n', "\n    ");
        format!("{time} {unit}{pid}: {text}")
    }
}

/// A time as lines of files begin with it: RFC 3339, or microseconds since 1970.
fn time(word: &str) -> Option<i64> {
    let word = word.trim_end_matches('+');
    match word.len() == 16 && word.bytes().all(|byte| byte.is_ascii_digit()) {
        true => word.parse().ok(),
        false => word.parse::<Timestamp>().ok().map(Timestamp::as_microsecond),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_the_journal_are_read() {
        let own = br#"{"__REALTIME_TIMESTAMP":"1763743848123456","_SYSTEMD_UNIT":"flame-node-agent.service",
            "_PID":"42","PRIORITY":"6","MESSAGE":"registered"}"#;
        let entry = Entry::parse(own).expect("an entry");
        assert_eq!(
            entry.line(&TimeZone::UTC),
            "2025-11-21 16:50:48.123 flame-node-agent[42]: registered"
        );
        // systemd writes about a unit from one of its own.
        let about = br#"{"__REALTIME_TIMESTAMP":"0","_SYSTEMD_UNIT":"init.scope","UNIT":"flame.target",
            "_PID":"1","MESSAGE":[27,91,109,10,98]}"#;
        let entry = Entry::parse(about).expect("an entry");
        assert_eq!(entry.unit, "flame.target");
        assert_eq!(entry.text(), "\u{fffd}[m\nb");
        assert!(entry.line(&TimeZone::UTC).ends_with("[m\n    b"));
        assert_eq!(Entry::parse(b"{}"), None);
        assert_eq!(Entry::parse(b"-- no entries --"), None);
    }

    #[test]
    fn lines_of_files_have_their_times() {
        let daemon = Entry::of_file("session-manager", "2025-11-21T16:50:48.123456Z  INFO up", None);
        assert_eq!(
            (daemon.time_us, daemon.message.as_str()),
            (Some(1_763_743_848_123_456), "INFO up")
        );
        let service = Entry::of_file("stdout", "1763743848123456 text here", None);
        assert_eq!(
            (service.time_us, service.message.as_str()),
            (Some(1_763_743_848_123_456), "text here")
        );
        let next = Entry::of_file("session-manager", "  at line 7", daemon.time_us);
        assert_eq!(
            (next.time_us, next.message.as_str()),
            (daemon.time_us, "at line 7")
        );
    }
}
