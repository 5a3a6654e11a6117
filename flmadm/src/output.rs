//! What a command prints: progress and results for people, or one JSON document.

use std::io::Write;

use serde::Serialize;

use crate::cli::{Format, OutputArg};

/// Where a command prints to.
pub(crate) struct Output<'a> {
    format: Format,
    out: &'a mut dyn Write,
}

impl<'a> Output<'a> {
    pub(crate) fn new(output: OutputArg, out: &'a mut dyn Write) -> Self {
        Self {
            format: output.format,
            out,
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
            // Results are plain structures with string keys; there is nothing in them that JSON cannot hold.
            match serde_json::to_string_pretty(result) {
                Ok(text) => self.write(&text),
                Err(error) => self.write(&serde_json::json!({"error": error.to_string()}).to_string()),
            }
        }
    }

    fn write(&mut self, text: &str) {
        // A reader that went away (`| head`) must not stop an installation half-way.
        let _ = writeln!(self.out, "{text}");
    }
}
