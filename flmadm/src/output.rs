//! What a command prints: progress and results for people, or one JSON document.

use std::io::Write;

use crate::cli::Format;

/// Where a command prints to.
pub(crate) struct Output<'a> {
    format: Format,
    out: &'a mut dyn Write,
}

impl<'a> Output<'a> {
    pub(crate) fn new(format: Format, out: &'a mut dyn Write) -> Self {
        Self { format, out }
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

    /// The result for programs.
    pub(crate) fn json(&mut self, value: &serde_json::Value) {
        if self.format == Format::Json {
            self.write(&format!("{value:#}"));
        }
    }

    fn write(&mut self, text: &str) {
        // A reader that went away (`| head`) must not stop an installation half-way.
        let _ = writeln!(self.out, "{text}");
    }
}
