//! What a command prints: progress and results for people, or one JSON document.

use std::ffi::OsString;
use std::io::Write;
use std::time::Duration;

use clap::ArgMatches;
use indicatif::ProgressBar;
use serde::Serialize;

use crate::cli::{Format, OutputArg};
use crate::terminal;

/// How often the sign moves that something is waited for.
const TICK: Duration = Duration::from_millis(100);

/// Where a command prints to.
pub(crate) struct Output<'a> {
    format: Format,
    out: &'a mut dyn Write,
    /// What is waited for, on a terminal.
    waiting: Option<ProgressBar>,
}

impl Drop for Output<'_> {
    fn drop(&mut self) {
        self.is_over();
    }
}

impl<'a> Output<'a> {
    pub(crate) fn new(output: OutputArg, out: &'a mut dyn Write) -> Self {
        Self {
            format: output.format,
            out,
            waiting: None,
        }
    }

    /// A thing that is under way, shown on a terminal until the next line.
    pub(crate) fn doing(&mut self, what: &str) {
        if !self.is_for_people() || !terminal::can_draw() {
            return;
        }
        let bar = self.waiting.get_or_insert_with(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(TICK);
            bar
        });
        bar.set_message(what.to_owned());
    }

    fn is_over(&mut self) {
        if let Some(bar) = self.waiting.take() {
            bar.finish_and_clear();
        }
    }

    /// Whether people read it.
    pub(crate) fn is_for_people(&self) -> bool {
        self.format == Format::Table
    }

    /// A line for people.
    pub(crate) fn line(&mut self, text: &str) {
        if self.format == Format::Table {
            self.write(text);
        }
    }

    /// A thing done, for people.
    pub(crate) fn progress(&mut self, what: &str) {
        self.line(&format!("  {what}"));
    }

    /// The result for programs, in the shape that [`crate::schema`] describes.
    pub(crate) fn json(&mut self, result: &impl Serialize) {
        if self.format == Format::Json {
            document(self.out, result);
        }
    }

    /// A line of an endless result, for either reader; false if nobody reads any more.
    pub(crate) fn stream(&mut self, text: &str) -> bool {
        writeln!(self.out, "{text}")
            .and_then(|()| self.out.flush())
            .is_ok()
    }

    /// An element of an endless result, on one line; false if nobody reads any more.
    pub(crate) fn stream_json(&mut self, element: &impl Serialize) -> bool {
        match serde_json::to_string(element) {
            Ok(text) => self.stream(&text),
            Err(error) => self.stream(&serde_json::json!({"error": error.to_string()}).to_string()),
        }
    }

    fn write(&mut self, text: &str) {
        self.is_over();
        // A reader that went away (`| head`) must not stop an installation half-way.
        let _ = writeln!(self.out, "{text}");
    }
}

/// Writes `document` as JSON.
pub(crate) fn document(out: &mut dyn Write, document: &impl Serialize) {
    // Documents are plain structures with string keys; there is nothing in them that JSON cannot hold.
    let text = serde_json::to_string_pretty(document)
        .unwrap_or_else(|error| serde_json::json!({"error": {"message": error.to_string()}}).to_string());
    let _ = writeln!(out, "{text}");
}

/// A stream that knows whether something was written to it, so that nothing is added to a whole document.
pub(crate) struct Once<'a> {
    out: &'a mut dyn Write,
    begun: bool,
}

impl<'a> Once<'a> {
    pub(crate) fn new(out: &'a mut dyn Write) -> Self {
        Self { out, begun: false }
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.begun
    }
}

impl Write for Once<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.begun |= !bytes.is_empty();
        self.out.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

/// The format that the command of `matches` prints in.
pub(crate) fn format(matches: &ArgMatches) -> Format {
    let mut deepest = matches;
    while let Some((_, below)) = deepest.subcommand() {
        deepest = below;
    }
    // Commands without a result do not have the argument.
    let chosen = deepest.try_get_one::<Format>("format");
    chosen.ok().flatten().copied().unwrap_or(Format::Table)
}

/// Whether a command line that cannot be parsed asks for JSON.
pub(crate) fn wants_json(words: &[OsString]) -> bool {
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    let together = ["-ojson", "-o=json", "--output=json"];
    words.iter().any(|word| together.contains(&word.as_ref()))
        || words
            .windows(2)
            .any(|pair| ["-o", "--output"].contains(&pair[0].as_ref()) && pair[1] == "json")
}
