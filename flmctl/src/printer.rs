//! Where results go: standard output in the format that was asked for, notes to standard error.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::cli::Format;
use crate::error::CtlError;
use crate::format::Clock;

/// Prints results. All output goes through here, so that a closed pipe is an error value and no panic.
#[derive(Debug, Clone)]
pub(crate) struct Printer {
    /// The format asked for.
    pub(crate) format: Format,
    /// Whether states get colours.
    pub(crate) color: bool,
    /// For ages and local times.
    pub(crate) clock: Clock,
}

impl Printer {
    /// Colours only for a terminal whose user has not declined them.
    pub(crate) fn new(format: Format, no_color: bool) -> Self {
        let declined = no_color || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            format,
            color: !declined && io::stdout().is_terminal(),
            clock: Clock::system(),
        }
    }

    /// Whether programs read the result.
    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Prints `value` as JSON, or what `text` makes of it.
    pub(crate) fn show<T: Serialize + ?Sized>(
        &self,
        value: &T,
        text: impl FnOnce(&Self) -> String,
    ) -> Result<(), CtlError> {
        if self.is_json() {
            self.json(value)
        } else {
            self.text(&text(self))
        }
    }

    /// Prints a list: JSON array, or a table, or "no `what`" on standard error.
    pub(crate) fn list<T: Serialize>(
        &self,
        items: &[T],
        what: &str,
        table: impl FnOnce(&Self) -> String,
    ) -> Result<(), CtlError> {
        if items.is_empty() && !self.is_json() {
            self.note(&format!("no {what}"));
            return Ok(());
        }
        self.show(items, table)
    }

    /// Indented JSON and a newline.
    pub(crate) fn json<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), CtlError> {
        let mut out = io::BufWriter::new(io::stdout().lock());
        serde_json::to_writer_pretty(&mut out, value).map_err(|error| CtlError::Output(error.into()))?;
        out.write_all(b"\n")
            .and_then(|()| out.flush())
            .map_err(CtlError::Output)
    }

    /// JSON on one line, for streams.
    pub(crate) fn json_line<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), CtlError> {
        let line = serde_json::to_string(value).map_err(|error| CtlError::Output(error.into()))?;
        self.text(&format!("{line}\n"))
    }

    /// Text as it is.
    pub(crate) fn text(&self, text: &str) -> Result<(), CtlError> {
        self.bytes(text.as_bytes())
    }

    /// Bytes as they are.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<(), CtlError> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)
            .and_then(|()| out.flush())
            .map_err(CtlError::Output)
    }

    /// A remark for people, on standard error. Nobody may be listening there: that is no failure.
    pub(crate) fn note(&self, text: &str) {
        if !self.is_json() {
            let _ = writeln!(io::stderr(), "{text}");
        }
    }
}
