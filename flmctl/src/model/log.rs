//! Lines of logs, and what there is to know about those that are missing.

use flame_rpc::v1;
use jiff::Timestamp;
use serde::Serialize;

/// A line, for programs.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    /// RFC 3339 in UTC with microseconds.
    pub(crate) time: String,
    pub(crate) node: String,
    /// None in the log of an agent.
    pub(crate) executor: Option<String>,
    /// `out` or `err`.
    pub(crate) output: &'static str,
    /// What is not UTF-8 is replaced.
    pub(crate) text: String,
    /// It goes on with the line before it.
    pub(crate) continued: bool,
}

/// Something about lines that are missing, for programs.
#[derive(Debug, Serialize)]
pub(crate) struct Note {
    /// A stable word.
    pub(crate) note: String,
    pub(crate) node: Option<String>,
    pub(crate) text: String,
}

impl From<v1::LogLine> for Line {
    fn from(line: v1::LogLine) -> Self {
        let output = match line.output() {
            v1::LogOutput::Err => "err",
            v1::LogOutput::Out | v1::LogOutput::Unspecified => "out",
        };
        Self {
            time: time(line.time_us),
            output,
            node: line.node,
            executor: Some(line.executor).filter(|executor| !executor.is_empty()),
            text: String::from_utf8_lossy(&line.text).into_owned(),
            continued: line.continued,
        }
    }
}

impl From<v1::LogNote> for Note {
    fn from(note: v1::LogNote) -> Self {
        Self {
            note: note.code,
            node: Some(note.node).filter(|node| !node.is_empty()),
            text: note.text,
        }
    }
}

fn time(micros: i64) -> String {
    match Timestamp::from_microsecond(micros) {
        Ok(time) => format!("{time:.6}"),
        Err(_) => format!("{micros} us"),
    }
}
