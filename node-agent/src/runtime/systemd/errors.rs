//! The last lines that a unit's processes wrote to their standard error, from the journal.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout_at};

/// How long the journal is asked again. A line is there some milliseconds after it was written.
const LIMIT: Duration = Duration::from_millis(80);
/// How long its first answer may take: on a machine that is so busy, the lines are worth more than the time.
const FIRST_LIMIT: Duration = Duration::from_secs(1);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);
/// Lines that are kept: those that tell why a service died are the last.
const LINES: usize = 20;
/// Longest line that is kept, in bytes.
const LINE_BYTES: usize = 1024;

/// The last lines of the run `invocation`, joined; empty if it wrote none. Waits until
/// two looks show the same, usually within a tenth of a second: journald may be a little behind.
pub(super) async fn last_lines(invocation: &str) -> String {
    let begin = Instant::now();
    let mut seen: Option<String> = None;
    while seen.is_none() || begin.elapsed() < LIMIT {
        let limit = if seen.is_some() { LIMIT } else { FIRST_LIMIT };
        let Ok(found) = timeout_at(begin + limit, look(invocation)).await else {
            break;
        };
        match found {
            Ok(text) if !text.is_empty() && seen.as_ref() == Some(&text) => break,
            Ok(text) => seen = Some(text),
            Err(error) => {
                tracing::warn!(%error, "cannot read the journal with journalctl");
                break;
            }
        }
        sleep(PAUSE).await;
    }
    seen.unwrap_or_default()
}

async fn look(invocation: &str) -> std::io::Result<String> {
    let output = Command::new("journalctl")
        .args(["--quiet", "--no-pager", "--output=cat", "--boot"])
        .arg(format!("--lines={LINES}"))
        .arg(format!("_SYSTEMD_INVOCATION_ID={invocation}"))
        // The SyslogLevel= of the unit, whose stream is the standard error.
        .arg("PRIORITY=4")
        // Not what systemd itself says about the unit.
        .arg("_TRANSPORT=stdout")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await?;
    Ok(shorten(&String::from_utf8_lossy(&output.stdout)))
}

fn shorten(text: &str) -> String {
    let lines = text.trim_end().lines().map(|line| {
        let end = (0..=LINE_BYTES).rev().find(|end| line.is_char_boundary(*end));
        line.get(..end.unwrap_or(0).min(line.len())).unwrap_or(line)
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_and_joined() {
        let long = "ä".repeat(LINE_BYTES);
        let text = shorten(&format!("one\n{long}\nlast\n\n"));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines[0], lines[1].len(), lines[2]), ("one", LINE_BYTES, "last"));
        assert_eq!(shorten("\n"), "");
    }

    #[tokio::test]
    async fn a_run_that_nobody_knows_has_written_nothing() {
        let begin = Instant::now();
        assert_eq!(last_lines("00000000000000000000000000000000").await, "");
        assert!(begin.elapsed() < Duration::from_secs(5));
    }
}
