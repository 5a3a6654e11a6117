//! How log lines for people show fields: without the number of an event, which only the journal
//! needs, and with short names.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing_subscriber::field::{MakeVisitor, VisitFmt, VisitOutput};
use tracing_subscriber::fmt::format::{DefaultFields, DefaultVisitor, Writer};

/// The field that holds the number of a life-cycle event, as events name it.
pub(crate) const MESSAGE_ID: &str = "message_id";
/// How the fields of such an event begin that the journal is to have under that very name.
const PREFIX: &str = "flame_";

/// Makes [`TextVisitor`]s.
#[derive(Debug, Default)]
pub(crate) struct TextFields(DefaultFields);

/// Writes the fields of one event.
#[derive(Debug)]
pub(crate) struct TextVisitor<'a> {
    rest: DefaultVisitor<'a>,
    result: fmt::Result,
}

impl<'a> MakeVisitor<Writer<'a>> for TextFields {
    type Visitor = TextVisitor<'a>;

    fn make_visitor(&self, target: Writer<'a>) -> Self::Visitor {
        TextVisitor {
            rest: self.0.make_visitor(target),
            result: Ok(()),
        }
    }
}

impl Visit for TextVisitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name().strip_prefix(PREFIX) {
            Some(name) => self.renamed(name, &value),
            None => self.rest.record_str(field, value),
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.rest.record_error(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            MESSAGE_ID => {}
            name => match name.strip_prefix(PREFIX) {
                Some(name) => self.renamed(name, value),
                None => self.rest.record_debug(field, value),
            },
        }
    }
}

impl TextVisitor<'_> {
    /// The message comes first, so there is something to part from.
    fn renamed(&mut self, name: &str, value: &dyn fmt::Debug) {
        let written = write!(self.rest.writer(), " {name}={value:?}");
        self.result = self.result.and(written);
    }
}

impl VisitOutput<fmt::Result> for TextVisitor<'_> {
    fn finish(self) -> fmt::Result {
        self.result.and(self.rest.finish())
    }
}

impl VisitFmt for TextVisitor<'_> {
    fn writer(&mut self) -> &mut dyn fmt::Write {
        self.rest.writer()
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn people_see_short_names_and_no_numbers_of_events() {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(lines.clone())
            .with_ansi(false)
            .with_target(false)
            .without_time()
            .fmt_fields(TextFields::default())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let (session, nobody) = (tracing::field::display("s1"), None::<&str>);
            tracing::info!(
                message_id = %"26ce",
                flame_session = session,
                flame_node = "n1",
                flame_task = 7,
                flame_executor = nobody,
                "made"
            );
            tracing::warn!(error = %"disk full", count = 2, "not \u{1b}[31mstored");
        });
        let text = String::from_utf8(lines.0.lock().expect("not poisoned").clone()).expect("text");
        let expected = " INFO made session=s1 node=\"n1\" task=7\n\
                        \u{20}WARN not \\x1b[31mstored error=disk full count=2\n";
        assert_eq!(text, expected);
    }
}
