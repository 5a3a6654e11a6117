//! Logs: to journald with fields when it holds our stderr, to stderr for people otherwise.

use std::io::IsTerminal;
use std::path::Path;

use tracing::Metadata;
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer};

use crate::text::{MESSAGE_ID, TextFields};

/// Variables that hold a filter, the first that is set wins.
const FILTER_VARIABLES: [&str; 2] = ["FLAME_LOG", "RUST_LOG"];

/// Fields appear in the journal as `FLAME_SESSION=...`, so that `journalctl FLAME_SESSION=s1` finds
/// the lines of one session on a node whatever unit wrote them. The fields of events that have a
/// `message_id` (see `flame_core::lifecycle`) appear under their own names, because `MESSAGE_ID` is
/// one of the journal's: such events call theirs `flame_session` and so on.
const FIELD_PREFIX: &str = "FLAME";

/// Logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter cannot be read.
    #[error("{from} holds no log filter: {filter:?}; write e.g. info or flame_session_manager=debug,info")]
    Filter {
        /// The variable, or "the default".
        from: &'static str,
        /// Its value.
        filter: String,
        /// Why.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Someone else has set a logger already.
    #[error("logging is set up already")]
    Twice(#[source] TryInitError),
}

/// Where log lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    /// journald's own protocol, with fields and priorities.
    Journal,
    /// Text on stderr.
    Stderr { colour: bool },
}

/// Sets up logging for this process, once. The filter is that of `FLAME_LOG`, else of `RUST_LOG`,
/// else `default_filter` (e.g. `info`).
///
/// # Errors
/// [`LoggingError`] if the filter cannot be read or logging was set up before.
pub fn init(default_filter: &str) -> Result<(), LoggingError> {
    let filter = filter(|name| std::env::var(name).ok(), default_filter)?;
    let output = output(
        std::env::var("JOURNAL_STREAM").ok().as_deref(),
        stderr_identity(),
        std::io::stderr().is_terminal(),
        std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()),
    );
    let registry = tracing_subscriber::registry().with(filter);
    // Whether stderr is the journal matters for the time stamps: journald has its own.
    let journal = match output {
        Output::Journal => tracing_journald::layer().ok().zip(tracing_journald::layer().ok()),
        Output::Stderr { .. } => None,
    };
    match (journal, output) {
        (Some((lines, events)), _) => registry
            .with(journal_layer(lines, Some(FIELD_PREFIX)).with_filter(filter_fn(|line| !is_event(line))))
            .with(journal_layer(events, None).with_filter(filter_fn(is_event)))
            .try_init(),
        (None, Output::Journal) => registry.with(text(false).without_time()).try_init(),
        (None, Output::Stderr { colour }) => registry.with(text(colour)).try_init(),
    }
    .map_err(LoggingError::Twice)
}

fn journal_layer(layer: tracing_journald::Layer, prefix: Option<&str>) -> tracing_journald::Layer {
    layer
        .with_field_prefix(prefix.map(str::to_owned))
        .with_syslog_identifier(identifier())
        .with_priority_mappings(PriorityMappings {
            error: Priority::Error,
            warn: Priority::Warning,
            info: Priority::Informational,
            debug: Priority::Debug,
            trace: Priority::Debug,
        })
}

fn is_event(line: &Metadata<'_>) -> bool {
    line.fields().field(MESSAGE_ID).is_some()
}

fn text<S>(
    colour: bool,
) -> tracing_subscriber::fmt::Layer<
    S,
    TextFields,
    tracing_subscriber::fmt::format::Format,
    fn() -> std::io::Stderr,
> {
    tracing_subscriber::fmt::layer()
        .fmt_fields(TextFields::default())
        .with_writer(std::io::stderr as fn() -> std::io::Stderr)
        .with_ansi(colour)
        .with_target(false)
}

fn filter(
    variable: impl Fn(&str) -> Option<String>,
    default_filter: &str,
) -> Result<EnvFilter, LoggingError> {
    let (from, filter) = FILTER_VARIABLES
        .into_iter()
        .find_map(|name| Some((name, variable(name).filter(|value| !value.trim().is_empty())?)))
        .unwrap_or_else(|| ("the default", default_filter.to_owned()));
    EnvFilter::try_new(&filter).map_err(|source| LoggingError::Filter { from, filter, source })
}

/// `JOURNAL_STREAM` is inherited by children whose stderr is something else, so it counts only if
/// it names the device and inode of our own stderr.
fn output(
    journal_stream: Option<&str>,
    stderr: Option<(u64, u64)>,
    terminal: bool,
    no_colour: bool,
) -> Output {
    let named = journal_stream
        .and_then(|stream| stream.split_once(':'))
        .and_then(|(device, inode)| Some((device.parse().ok()?, inode.parse().ok()?)));
    if named.is_some() && named == stderr {
        Output::Journal
    } else {
        Output::Stderr {
            colour: terminal && !no_colour,
        }
    }
}

/// Whether what this process writes to its standard error is in the journal.
#[must_use]
pub fn is_in_journal() -> bool {
    let stream = std::env::var("JOURNAL_STREAM").ok();
    output(stream.as_deref(), stderr_identity(), false, true) == Output::Journal
}

fn stderr_identity() -> Option<(u64, u64)> {
    let stat = rustix::fs::fstat(std::io::stderr()).ok()?;
    Some((stat.st_dev, stat.st_ino))
}

/// Name of the program, as `journalctl -t` takes it.
fn identifier() -> String {
    std::env::args_os()
        .next()
        .and_then(|program| Some(Path::new(&program).file_name()?.to_string_lossy().into_owned()))
        .unwrap_or_else(|| "flame".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_is_used_only_if_it_holds_our_stderr() {
        let ours = Some((9, 4711));
        for (stream, stderr, expected) in [
            (Some("9:4711"), ours, true),
            (Some("9:4712"), ours, false),
            (Some("4711:9"), ours, false),
            (Some("9"), ours, false),
            (Some(""), ours, false),
            (Some("x:y"), None, false),
            (None, ours, false),
            (None, None, false),
        ] {
            let found = output(stream, stderr, false, false);
            assert_eq!(found == Output::Journal, expected, "{stream:?} {stderr:?}");
        }
    }

    #[test]
    fn colour_needs_a_terminal_and_no_objection() {
        for (terminal, no_colour, colour) in [
            (true, false, true),
            (true, true, false),
            (false, false, false),
            (false, true, false),
        ] {
            assert_eq!(output(None, None, terminal, no_colour), Output::Stderr { colour });
        }
    }

    #[test]
    fn the_first_variable_with_a_value_wins() {
        let from = |flame: &str, rust: &str| {
            let pairs = [("FLAME_LOG", flame.to_owned()), ("RUST_LOG", rust.to_owned())];
            filter(
                move |name| {
                    pairs
                        .iter()
                        .find(|pair| pair.0 == name)
                        .map(|pair| pair.1.clone())
                },
                "warn",
            )
            .expect("a filter")
            .to_string()
        };
        assert_eq!(from("debug", "trace"), "debug");
        assert_eq!(from("", "trace"), "trace");
        assert_eq!(from(" ", ""), "warn");
    }

    #[test]
    fn a_broken_filter_names_its_variable() {
        let error =
            filter(|name| (name == "FLAME_LOG").then(|| "a=b=c".to_owned()), "info").expect_err("broken");
        assert!(
            error
                .to_string()
                .starts_with("FLAME_LOG holds no log filter: \"a=b=c\""),
            "{error}"
        );
    }
}
