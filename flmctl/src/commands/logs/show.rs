//! Lines and notes as people and programs get them.

use flame_rpc::v1;

use crate::error::CtlError;
use crate::format::printable;
use crate::model::{LogLine, LogNote};
use crate::printer::Printer;

/// What a reader has to know.
pub(super) fn say(printer: &Printer, note: v1::LogNote) -> Result<(), CtlError> {
    if printer.is_json() {
        return printer.json_line(&LogNote::from(note));
    }
    printer.note(&printable(&note.text));
    Ok(())
}

/// A line.
pub(super) fn show(printer: &Printer, line: v1::LogLine, is_terminal: bool) -> Result<(), CtlError> {
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
}
