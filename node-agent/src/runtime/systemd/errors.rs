//! The last lines that a unit's processes wrote to their standard error, from the journal.

use std::collections::VecDeque;
use std::io;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::{Instant, timeout_at};

use crate::logs::{JOURNALCTL, Message};

/// How long the journal is read. A line is there some milliseconds after it was written, and journalctl takes about
/// ten to start, but a machine may be busy.
const LIMIT: Duration = Duration::from_millis(500);
/// How long lines may come after systemd's word of the end, which journald reads from another socket.
const STRAGGLERS: Duration = Duration::from_millis(3);
/// Lines that are kept: those that tell why a service died are the last.
const LINES: usize = 20;
/// Longest line that is kept, in bytes.
const LINE_BYTES: usize = 1024;
/// What systemd says when nothing of a unit is left, by the ids of its messages (systemd.directives(7)): that it was
/// deactivated, or failed.
const ENDS: [&str; 2] = [
    "7ad2d189f7e94e70a38c781354912448",
    "d9b373ed55a64feb8242e02dbe79a49c",
];

/// The last lines of the run `invocation`, which has ended, joined; empty if it wrote none. Complete when the journal
/// has systemd's word of the end, for journald may be a little behind.
pub(super) async fn last_lines(invocation: &str) -> String {
    read(invocation, true).await
}

/// The last lines so far of the run `invocation`, which goes on.
pub(super) async fn lines_so_far(invocation: &str) -> String {
    read(invocation, false).await
}

async fn read(invocation: &str, to_the_end: bool) -> String {
    if invocation.is_empty() {
        return String::new();
    }
    let mut last = Last::default();
    if let Err(error) = collect(invocation, to_the_end, &mut last).await {
        tracing::warn!(%error, "cannot read the journal with journalctl");
    }
    last.joined()
}

/// An entry of the journal, as far as it matters.
#[derive(Debug, Deserialize)]
struct Entry {
    #[serde(rename = "MESSAGE")]
    message: Option<Message>,
    /// Only systemd's words have one here.
    #[serde(rename = "MESSAGE_ID")]
    id: Option<String>,
}

async fn collect(invocation: &str, to_the_end: bool, last: &mut Last) -> io::Result<()> {
    let mut command = Command::new(JOURNALCTL);
    command
        .args(["--quiet", "--no-pager", "--all", "--output=json"])
        .arg("--output-fields=MESSAGE,MESSAGE_ID")
        // The word of the end is one more.
        .arg(format!("--lines={}", LINES + 1))
        .arg(format!("_SYSTEMD_INVOCATION_ID={invocation}"))
        // The SyslogLevel= of the unit, whose stream is the standard error.
        .arg("PRIORITY=4")
        // Not what systemd itself says about the unit.
        .arg("_TRANSPORT=stdout");
    if to_the_end {
        // Without --merge it follows only the boot that /proc names, which in the agent's sandbox may be that of a
        // container's host.
        command.args(["--follow", "--merge"]);
        command.arg("+").arg(format!("INVOCATION_ID={invocation}"));
        command
            .arg("_PID=1")
            .args(ENDS.map(|id| format!("MESSAGE_ID={id}")));
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let output = child
        .stdout
        .take()
        .ok_or_else(|| io::Error::other("it has no output"))?;
    let mut entries = BufReader::new(output).lines();
    let mut deadline = Instant::now() + LIMIT;
    while let Ok(entry) = timeout_at(deadline, entries.next_line()).await {
        let Some(entry) = entry? else { break };
        let entry: Entry = serde_json::from_str(&entry)?;
        match entry.id {
            Some(_) => deadline = deadline.min(Instant::now() + STRAGGLERS),
            None => last.add(&entry.message.map(|message| message.bytes()).unwrap_or_default()),
        }
    }
    Ok(())
}

/// The last lines, each of a bounded length.
#[derive(Debug, Default)]
struct Last(VecDeque<String>);

impl Last {
    fn add(&mut self, line: &[u8]) {
        let line = line.get(..LINE_BYTES).unwrap_or(line);
        // A letter that is cut through is no letter any more.
        let text = match std::str::from_utf8(line) {
            Err(error) if error.error_len().is_none() => line.get(..error.valid_up_to()).unwrap_or(line),
            _ => line,
        };
        if self.0.len() == LINES {
            self.0.pop_front();
        }
        self.0.push_back(String::from_utf8_lossy(text).into_owned());
    }

    fn joined(self) -> String {
        Vec::from(self.0).join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_and_the_last_are_kept() {
        let mut last = Last::default();
        for number in 1..=21 {
            last.add(format!("line {number}").as_bytes());
        }
        let joined = last.joined();
        assert!(
            joined.starts_with("line 2\nline 3\n") && joined.ends_with("\nline 21"),
            "{joined}"
        );
        let mut last = Last::default();
        last.add(format!("x{}", "ä".repeat(LINE_BYTES)).as_bytes());
        last.add(b"\xff\n");
        let joined = last.joined();
        assert_eq!(joined, format!("x{}\n\u{fffd}\n", "ä".repeat(LINE_BYTES / 2 - 1)));
        assert_eq!(Last::default().joined(), "");
    }

    #[test]
    fn entries_are_lines_or_the_word_of_the_end() {
        let entry = |text| serde_json::from_str::<Entry>(text).expect("an entry");
        let line = entry(r#"{"MESSAGE":"no database","__CURSOR":"s=1"}"#);
        assert_eq!(line.message.expect("a line").bytes(), b"no database");
        assert!(line.id.is_none());
        let end =
            entry(r#"{"MESSAGE":"x.service: Failed.","MESSAGE_ID":"d9b373ed55a64feb8242e02dbe79a49c"}"#);
        assert!(end.id.is_some_and(|id| ENDS.contains(&id.as_str())));
        assert!(entry(r#"{"MESSAGE":null}"#).message.is_none());
    }

    #[tokio::test]
    async fn a_run_that_nobody_knows_has_written_nothing() {
        let begin = Instant::now();
        assert_eq!(last_lines("00000000000000000000000000000000").await, "");
        assert_eq!(lines_so_far("00000000000000000000000000000000").await, "");
        assert_eq!(last_lines("").await, "");
        assert!(begin.elapsed() < Duration::from_secs(5));
    }
}
