//! What a build shows while it goes on: a bar on a terminal, seldom a line elsewhere, or everything.

use std::io::Write;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::count::Count;
use crate::terminal;

/// Between two lines where there is no bar.
const SELDOM: Duration = Duration::from_secs(15);
/// Between two pictures of the clock in the bar.
const TICK: Duration = Duration::from_millis(200);

/// The bar before it is known how many packages there are, as while sources are downloaded.
const WAITING: &str = "  [{elapsed_precise}] {wide_msg}";
/// The bar then.
const COUNTING: &str = "  [{elapsed_precise}] [{bar:30}] {human_pos}/{human_len} packages  {wide_msg}";

/// Where and how it is shown.
pub(super) struct Display<'a> {
    err: &'a mut dyn Write,
    how: How,
}

enum How {
    /// Every line of cargo.
    Verbose,
    /// How far it is, now and then.
    Lines {
        every: Duration,
        last: Instant,
    },
    Bar(ProgressBar),
}

impl<'a> Display<'a> {
    /// Shows on the standard error, which is `err`: all if `verbose`, else a bar if it is a terminal and `people` look.
    pub(super) fn new(err: &'a mut dyn Write, verbose: bool, people: bool) -> Self {
        let how = if verbose {
            How::Verbose
        } else if people && terminal::can_draw() {
            How::Bar(bar())
        } else {
            How::lines(SELDOM)
        };
        Self { err, how }
    }

    /// Shows a line at least `every` so long.
    #[cfg(test)]
    pub(super) fn seldom(err: &'a mut dyn Write, every: Duration) -> Self {
        Self {
            err,
            how: How::lines(every),
        }
    }

    /// A line that is shown in every case.
    pub(super) fn say(&mut self, text: &str) {
        match &self.how {
            How::Bar(bar) => bar.println(text),
            // The build does not fail because nobody looks any more.
            _ => drop(writeln!(self.err, "{text}")),
        }
    }

    /// A line of cargo.
    pub(super) fn line(&mut self, text: &str) {
        match &self.how {
            How::Verbose => drop(writeln!(self.err, "{text}")),
            How::Bar(bar) if bar.position() == 0 => bar.set_message(text.trim().to_owned()),
            _ => {}
        }
    }

    /// The package `name` is done.
    pub(super) fn package(&mut self, count: &Count, name: &str) {
        match &mut self.how {
            How::Verbose => {}
            How::Lines { every, last } => {
                if last.elapsed() >= *every {
                    *last = Instant::now();
                    let _ = writeln!(self.err, "  {}", progress(count));
                }
            }
            How::Bar(bar) => {
                match (count.total(), bar.length()) {
                    (Some(total), None) => {
                        bar.set_length(total as u64);
                        bar.set_style(style(COUNTING));
                    }
                    (Some(total), _) => bar.set_length(total as u64),
                    _ => {}
                }
                bar.set_position(count.done() as u64);
                bar.set_message(name.to_owned());
            }
        }
    }

    /// Nothing more comes.
    pub(super) fn finish(&mut self) {
        if let How::Bar(bar) = &self.how {
            bar.finish_and_clear();
        }
    }
}

impl How {
    fn lines(every: Duration) -> Self {
        Self::Lines {
            every,
            last: Instant::now(),
        }
    }
}

fn progress(count: &Count) -> String {
    match count.total() {
        Some(total) => format!("{} of {total} packages", count.done()),
        None => format!("{} packages", count.done()),
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(style(WAITING));
    bar.enable_steady_tick(TICK);
    bar
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::count::tests::{artifact, metadata};

    #[test]
    fn the_pictures_of_the_bar_can_be_drawn() {
        for template in [WAITING, COUNTING] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }

    #[test]
    fn lines_come_seldom() {
        let mut count = Count::of(&metadata(), &["flmctl"]);
        for (every, expected) in [
            (Duration::ZERO, "  1 of 3 packages\n"),
            (Duration::from_secs(60), ""),
        ] {
            let mut shown = Vec::new();
            count.message(&artifact("tool", "lib", false));
            let mut display = Display::seldom(&mut shown, every);
            display.line("   Compiling tool v1.0.0");
            display.package(&count, "tool");
            display.finish();
            assert_eq!(String::from_utf8(shown).expect("text"), expected);
        }
    }

    #[test]
    fn verbose_shows_what_cargo_says() {
        let mut shown = Vec::new();
        let mut display = Display::new(&mut shown, true, true);
        display.line("   Compiling tool v1.0.0");
        display.package(&Count::default(), "tool");
        assert_eq!(
            String::from_utf8(shown).expect("text"),
            "   Compiling tool v1.0.0\n"
        );
    }
}
