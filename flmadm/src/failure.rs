//! Why a command failed, and the exit code that says so to scripts.

use std::error::Error;
use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

use crate::style::Part;

/// What kind of thing failed. The numbers are a promise to scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub(crate) enum Kind {
    /// The command line cannot be carried out as it is.
    Arguments = 1,
    /// Building or downloading the programs failed.
    Build = 2,
    /// Files, directories or accounts could not be changed.
    Installation = 3,
    /// systemd or D-Bus is missing or refused.
    Systemd = 4,
    /// A service did not start, or does not run.
    Start = 5,
}

/// All exit codes with their meaning, for `help exit-codes` and the manual.
pub(crate) const EXIT_CODES: [(u8, &str); 6] = [
    (0, "done; for status: everything that is installed is active"),
    (
        Kind::Arguments as u8,
        "the arguments cannot be used, or do not fit what is installed; also: a bundle is refused",
    ),
    (
        Kind::Build as u8,
        "building or downloading failed, or a program to install is missing",
    ),
    (
        Kind::Installation as u8,
        "files, directories or the user could not be changed; also: nothing is installed",
    ),
    (Kind::Systemd as u8, "systemd or D-Bus is missing, or refused"),
    (
        Kind::Start as u8,
        "a service did not start; for status: something that is installed is not active; for doctor: an error was found",
    ),
];

/// The exit codes as a table for people.
pub(crate) fn exit_codes_text() -> String {
    EXIT_CODES
        .iter()
        .map(|(code, meaning)| format!("  {code}  {meaning}\n"))
        .collect()
}

/// A failure of a command: what, why, and what to do.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Decides the exit code.
    pub(crate) kind: Kind,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn Error + Send + Sync>>,
    is_told: bool,
}

/// What commands give.
pub(crate) type Outcome<T> = Result<T, Failure>;

impl Kind {
    /// The kind that has this exit code.
    pub(crate) const fn of_code(code: i32) -> Self {
        match code {
            1 => Self::Arguments,
            2 => Self::Build,
            4 => Self::Systemd,
            5 => Self::Start,
            _ => Self::Installation,
        }
    }
}

impl Failure {
    /// Another flmadm failed in this one's place. It has said why, so there is nothing to print.
    pub(crate) fn told(kind: Kind) -> Self {
        Self {
            is_told: true,
            ..Self::new(kind, "the flmadm of the bundle failed")
        }
    }

    /// Whether somebody has printed it already.
    pub(crate) const fn is_told(&self) -> bool {
        self.is_told
    }

    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
            source: None,
            is_told: false,
        }
    }

    pub(crate) fn arguments(message: impl Into<String>) -> Self {
        Self::new(Kind::Arguments, message)
    }

    pub(crate) fn installation(message: impl Into<String>) -> Self {
        Self::new(Kind::Installation, message)
    }

    /// Adds what the user can do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the cause.
    pub(crate) fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds a line to what was said, e.g. what has been undone.
    pub(crate) fn also(mut self, line: impl fmt::Display) -> Self {
        self.message = format!("{}\n{line}", self.message);
        self
    }

    /// An operation on a path failed.
    pub(crate) fn path(action: &str, path: &std::path::Path, source: std::io::Error) -> Self {
        let denied = source.kind() == std::io::ErrorKind::PermissionDenied;
        let failure = Self::installation(format!("cannot {action} {}", path.display())).because(source);
        if denied {
            failure.hint("run it with sudo, or choose a --prefix that you may write to")
        } else {
            failure
        }
    }

    /// Why it failed, from the nearest cause to the farthest.
    fn causes(&self) -> Vec<String> {
        let nearest = self.source.as_deref().map(|source| source as _);
        causes(self.lines().0, nearest)
    }

    /// The whole chain and the hint, as printed once, at the end.
    pub(crate) fn report(&self) -> String {
        let mut text = format!("{} {}", Part::Error.paint("error:"), self.chain());
        if let Some(hint) = &self.hint {
            text.push_str(&format!("\n{} {hint}", Part::Hint.paint("hint:")));
        }
        text
    }

    /// What failed and why, without the hint.
    pub(crate) fn chain(&self) -> String {
        let (what, more) = self.lines();
        joined(what.to_owned(), self.causes()) + more
    }

    /// What failed, which the causes are of, and what was added to it.
    fn lines(&self) -> (&str, &str) {
        let end = self.message.find('\n').unwrap_or(self.message.len());
        self.message.split_at(end)
    }

    /// The same for programs.
    pub(crate) fn document(&self) -> Document {
        Document {
            error: Report {
                code: self.kind as u8,
                kind: self.kind,
                message: self.message.clone(),
                causes: self.causes(),
                hint: self.hint.clone(),
            },
        }
    }
}

/// An error that is not ours with its causes, on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let message = error.to_string();
    let causes = causes(&message, error.source());
    joined(message, causes)
}

/// What `nearest` says and then its own causes, without what `message` and those before them have said already.
fn causes(message: &str, nearest: Option<&(dyn Error + 'static)>) -> Vec<String> {
    let mut said = message.to_owned();
    let mut causes = Vec::new();
    let mut next = nearest;
    while let Some(error) = next {
        let words = error.to_string();
        // Some libraries repeat their source in their own text.
        if !said.contains(&words) {
            said.push_str(&words);
            causes.push(words);
        }
        next = error.source();
    }
    causes
}

fn joined(message: String, causes: Vec<String>) -> String {
    let mut words = vec![message];
    words.extend(causes);
    words.join(": ")
}

/// What a command that failed prints instead of a result. Results have no field `error`.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(title = "Error")]
pub(crate) struct Document {
    /// Why there is no result.
    error: Report,
}

/// Why a command failed.
#[derive(Debug, Serialize, JsonSchema)]
struct Report {
    /// The exit code.
    code: u8,
    /// What kind of thing failed; each has its exit code.
    kind: Kind,
    /// What failed.
    message: String,
    /// Why, from the nearest cause to the farthest.
    causes: Vec<String>,
    /// What can be done.
    hint: Option<String>,
}

impl From<flame_core::fsutil::WriteError> for Failure {
    fn from(error: flame_core::fsutil::WriteError) -> Self {
        Self::path(error.action, &error.path, error.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_is_printed_once() {
        let source = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let failure = Failure::path("write", std::path::Path::new("/x"), source);
        assert_eq!(
            failure.report(),
            "error: cannot write /x: permission denied\nhint: run it with sudo, or choose a --prefix that you may \
             write to"
        );
    }

    #[test]
    fn a_cause_stands_beside_what_it_is_the_cause_of() {
        let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let failure = Failure::path("write", std::path::Path::new("/x"), source);
        let failure = failure
            .also("could not undo: no storage space")
            .also("all is lost");
        assert_eq!(
            failure.chain(),
            "cannot write /x: no storage space\ncould not undo: no storage space\nall is lost"
        );
    }

    #[test]
    fn a_cause_that_repeats_its_source_is_not_said_twice() {
        let inner = Wrapped("no entry", None);
        let middle = Wrapped("cannot read: no entry", Some(inner.into()));
        let outer = Wrapped("broken", Some(middle.into()));
        assert_eq!(chain(&outer), "broken: cannot read: no entry");
    }

    #[derive(Debug)]
    struct Wrapped(&'static str, Option<Box<dyn Error + Send + Sync>>);

    impl fmt::Display for Wrapped {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Wrapped {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|source| source as _)
        }
    }

    #[test]
    fn a_document_says_the_same_as_the_report() {
        let source = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let failure = Failure::path("write", std::path::Path::new("/x"), source);
        let text = serde_json::to_string_pretty(&failure.document()).expect("JSON") + "\n";
        crate::golden::check("error.json", &text);
    }

    #[test]
    fn every_kind_has_its_documented_code() {
        for (index, (code, _)) in EXIT_CODES.iter().enumerate() {
            assert_eq!(index, usize::from(*code));
            if *code > 0 {
                assert_eq!(Kind::of_code(i32::from(*code)) as u8, *code);
            }
        }
    }
}
