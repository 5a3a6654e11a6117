//! The last lines that a unit's processes wrote to their standard error, from the journal.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

/// How long the journal is asked. A line is there some milliseconds after it was written.
const LIMIT: Duration = Duration::from_millis(80);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);
/// Lines that are kept: those that tell why a service died are the last.
const LINES: usize = 20;
/// Longest line that is kept, in bytes.
const LINE_BYTES: usize = 1024;

/// The last lines of the run `invocation`, joined; empty if it wrote none. Waits until
/// two looks show the same, within a tenth of a second: journald may be a little behind.
pub(super) async fn last_lines(invocation: &str) -> String {
    let deadline = Instant::now() + LIMIT;
    let mut seen = String::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(found) = timeout(left, look(invocation)).await else {
            return seen;
        };
        match found {
            Ok(text) if !text.is_empty() && text == seen => return text,
            Ok(text) => seen = text,
            Err(error) => {
                tracing::warn!(%error, "cannot read the journal with journalctl");
                return seen;
            }
        }
        sleep(PAUSE).await;
    }
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
