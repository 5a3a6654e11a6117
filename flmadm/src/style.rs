//! Colours and weight of what people read. They are left out where `NO_COLOR` or the terminal says so.

use std::sync::atomic::{AtomicBool, Ordering};

use anstyle::{AnsiColor, Style};

/// Whether what is printed may have colours at all: only `main` prints to streams that know what they can show.
static ENABLED: AtomicBool = AtomicBool::new(false);

/// What a piece of text is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part {
    /// The word before a failure.
    Error,
    /// The word before what can be done, or known.
    Hint,
}

impl Part {
    fn style(self) -> Style {
        match self {
            Self::Error => AnsiColor::Red.on_default().bold(),
            Self::Hint => AnsiColor::Cyan.on_default().bold(),
        }
    }

    /// `text` in the style of the part.
    pub(crate) fn paint(self, text: &str) -> String {
        self.painted(text, is_enabled())
    }

    fn painted(self, text: &str, enabled: bool) -> String {
        let style = self.style();
        match enabled {
            true => format!("{style}{text}{style:#}"),
            false => text.to_owned(),
        }
    }
}

/// Lets text have colours: the streams that it is printed to take them out again where they are not wanted.
pub(crate) fn enable() {
    ENABLED.store(true, Ordering::Relaxed);
}

/// Whether text may have colours.
pub(crate) fn is_enabled() -> bool {
    ENABLED.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_end_where_their_text_ends() {
        assert_eq!(Part::Error.painted("error", false), "error");
        assert_eq!(
            Part::Error.painted("error", true),
            "\u{1b}[1m\u{1b}[31merror\u{1b}[0m"
        );
    }
}
