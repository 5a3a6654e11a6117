//! `flmctl logs`: lines as they come, in the order in which the session manager has them.

use std::collections::VecDeque;
use std::io::IsTerminal;

use flame_rpc::v1;

use crate::cli::LogsArgs;
use crate::client::Client;
use crate::error::CtlError;
use crate::format::printable;
use crate::model::{LogLine, LogNote};
use crate::printer::Printer;

/// Notes after which a log of one agent is none.
const NO_LOG: [&str; 3] = ["node_failed", "node_away", "node_silent"];

/// Shows the log that was asked for.
pub(crate) async fn run(client: &Client, printer: &Printer, args: LogsArgs) -> Result<(), CtlError> {
    let action = match (&args.session, &args.task, &args.node) {
        (Some(session), Some(task), _) => format!("read the log of task {task} of session {session:?}"),
        (Some(session), None, _) => format!("read the log of session {session:?}"),
        (None, _, node) => format!("read the log of node {:?}", node.as_deref().unwrap_or_default()),
    };
    let of_agent = args.session.is_none();
    let request = v1::ReadLogsRequest {
        session_id: args.session,
        task_id: args.task.map(|task| task.to_string()),
        node: args.node,
        lines: args.lines,
        follow: args.follow,
    };
    let mut stream = client.read_logs(&action, request).await?;
    let mut lines = Last::new(args.lines);
    let mut shown = 0_usize;
    let mut problem = None;
    let is_terminal = std::io::stdout().is_terminal();
    loop {
        let message = stream.message().await;
        let Some(message) = message.map_err(|status| client.failed(action.clone(), &status))? else {
            break;
        };
        for note in message.notes {
            let fatal = note.code == "nothing_kept"
                || (of_agent && !args.follow && NO_LOG.contains(&note.code.as_str()));
            let fatal = fatal || (of_agent && note.code == "node_failed");
            match fatal {
                true => problem = Some(note),
                false => say(printer, note)?,
            }
        }
        for line in message.lines {
            if let Some(line) = lines.put(line) {
                shown += 1;
                show(printer, line, is_terminal)?;
            }
        }
        if message.caught_up {
            for line in lines.caught_up() {
                shown += 1;
                show(printer, line, is_terminal)?;
            }
        }
    }
    for line in lines.caught_up() {
        shown += 1;
        show(printer, line, is_terminal)?;
    }
    match problem {
        Some(note) if shown == 0 => Err(CtlError::NoLogs {
            action,
            code: note.code,
            reason: note.text,
        }),
        Some(note) => say(printer, note),
        None => Ok(()),
    }
}

/// The last lines of all nodes, each of which has sent its own last ones; everything once those are known.
struct Last {
    /// As many as are wanted, until all have come.
    wanted: Option<usize>,
    kept: VecDeque<v1::LogLine>,
}

impl Last {
    fn new(wanted: Option<u32>) -> Self {
        Self {
            wanted: wanted.and_then(|wanted| usize::try_from(wanted).ok()),
            kept: VecDeque::new(),
        }
    }

    /// Takes a line in, or gives it back if it is to be shown at once.
    fn put(&mut self, line: v1::LogLine) -> Option<v1::LogLine> {
        let Some(wanted) = self.wanted else {
            return Some(line);
        };
        self.kept.push_back(line);
        if self.kept.len() > wanted {
            self.kept.pop_front();
        }
        None
    }

    /// All that were there have come: those to be shown.
    fn caught_up(&mut self) -> VecDeque<v1::LogLine> {
        self.wanted = None;
        std::mem::take(&mut self.kept)
    }
}

fn say(printer: &Printer, note: v1::LogNote) -> Result<(), CtlError> {
    if printer.is_json() {
        return printer.json_line(&LogNote::from(note));
    }
    printer.note(&printable(&note.text));
    Ok(())
}

fn show(printer: &Printer, line: v1::LogLine, is_terminal: bool) -> Result<(), CtlError> {
    if printer.is_json() {
        return printer.json_line(&LogLine::from(line));
    }
    printer.bytes(&printed(printer, &line, is_terminal))
}

/// For people: time, node, executor, output and text. The text is as it was written, unless a terminal would obey it.
fn printed(printer: &Printer, line: &v1::LogLine, is_terminal: bool) -> Vec<u8> {
    let output = match line.output() {
        v1::LogOutput::Err => "err",
        v1::LogOutput::Out | v1::LogOutput::Unspecified => "out",
    };
    let mut text = printer.clock.local_exact(line.time_us);
    for word in [&line.node, &line.executor] {
        if !word.is_empty() {
            text.push(' ');
            text.push_str(&printable(word));
        }
    }
    if !line.executor.is_empty() {
        text.push(' ');
        text.push_str(output);
    }
    text.push_str(if line.continued { "+ " } else { "  " });
    let mut bytes = text.into_bytes();
    match is_terminal {
        true => bytes.extend(printable(&String::from_utf8_lossy(&line.text)).into_bytes()),
        false => bytes.extend_from_slice(&line.text),
    }
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Format;

    fn line(text: &[u8]) -> v1::LogLine {
        v1::LogLine {
            time_us: 1_700_000_000_123_456,
            node: "n1".to_owned(),
            executor: "e1-2".to_owned(),
            output: v1::LogOutput::Err.into(),
            text: text.to_vec().into(),
            continued: false,
        }
    }

    fn printer() -> Printer {
        Printer {
            format: Format::Table,
            color: false,
            clock: crate::format::Clock {
                now: jiff::Timestamp::UNIX_EPOCH,
                zone: jiff::tz::TimeZone::UTC,
            },
        }
    }

    fn shown(line: &v1::LogLine, is_terminal: bool) -> String {
        String::from_utf8_lossy(&printed(&printer(), line, is_terminal)).into_owned()
    }

    #[test]
    fn a_line_says_when_where_and_what() {
        let mut line = line(b"no database");
        let prefix = "2023-11-14T22:13:20.123456+00:00 n1";
        assert_eq!(shown(&line, false), format!("{prefix} e1-2 err  no database\n"));
        line.continued = true;
        assert_eq!(shown(&line, false), format!("{prefix} e1-2 err+ no database\n"));
        line.executor = String::new();
        assert_eq!(shown(&line, false), format!("{prefix}+ no database\n"));
    }

    #[test]
    fn a_terminal_does_not_obey_what_a_service_writes() {
        let text = b"\x1b[2Jred\ttab \xff";
        assert!(!shown(&line(text), true).contains('\x1b'));
        let raw = printed(&printer(), &line(text), false);
        assert!(
            raw.windows(text.len()).any(|part| part == text),
            "into a file as it was"
        );
    }

    #[test]
    fn json_has_the_time_to_the_microsecond_and_text_that_is_text() {
        let value = serde_json::to_value(LogLine::from(line(b"a\xff"))).expect("JSON");
        assert_eq!(
            value,
            serde_json::json!({
                "time": "2023-11-14T22:13:20.123456Z", "node": "n1", "executor": "e1-2", "output": "err",
                "text": "a\u{fffd}", "continued": false,
            })
        );
    }

    #[test]
    fn of_the_last_lines_of_each_node_the_last_ones_are_shown() {
        let numbered = |number| v1::LogLine {
            time_us: number,
            ..v1::LogLine::default()
        };
        let mut last = Last::new(Some(2));
        assert!((1..=5).all(|number| last.put(numbered(number)).is_none()));
        let times: Vec<i64> = last.caught_up().iter().map(|line| line.time_us).collect();
        assert_eq!(times, [4, 5]);
        assert!(last.put(numbered(6)).is_some(), "what comes is shown as it comes");
        let mut none = Last::new(Some(0));
        assert!(none.put(numbered(1)).is_none());
        assert!(none.caught_up().is_empty());
    }
}
