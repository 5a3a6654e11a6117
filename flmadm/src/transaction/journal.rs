//! The journal of a transaction: a line is durable before the effect that it announces.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::finish::Finish;
use super::undo::Undo;
use crate::failure::{Failure, Outcome};

/// Version of the lines below. A journal of another one is read by the program that lies beside it.
const FORMAT: u32 = 1;

/// What a transaction is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// See [`FORMAT`].
    pub(crate) format: u32,
    /// The command: `install`, `upgrade`, ...
    pub(crate) verb: String,
    /// The installation.
    pub(crate) prefix: PathBuf,
    /// Version of the flmadm that wrote it.
    pub(crate) version: String,
}

impl Head {
    /// The head of a journal that we write.
    pub(crate) fn new(verb: &str, prefix: &Path) -> Self {
        Self {
            format: FORMAT,
            verb: verb.to_owned(),
            prefix: prefix.to_path_buf(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// A step that was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Begun {
    /// What it is, for programs.
    pub(crate) id: String,
    /// What it is, for people.
    pub(crate) text: String,
    /// How it is undone, whether it was done or not.
    pub(crate) undo: Undo,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Begin(Head),
    Step(Box<Begun>),
    /// From here on there is no way back; this is left to do.
    Commit(Vec<Finish>),
}

/// An open journal.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Begins the journal at `path`.
    ///
    /// # Errors
    /// It cannot be written; there is none then.
    pub(super) fn begin(path: &Path, head: Head) -> Outcome<Self> {
        let file = std::fs::OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(|error| Failure::path("begin the journal", path, error))?;
        let mut journal = Self {
            path: path.to_path_buf(),
            file,
        };
        let begun = journal.write(&Line::Begin(head)).and_then(|()| {
            crate::files::sync_parent(path).map_err(|error| Failure::path("sync the journal", path, error))
        });
        if let Err(failure) = begun {
            let _empty = std::fs::remove_file(path);
            return Err(failure);
        }
        Ok(journal)
    }

    /// Announces a step.
    ///
    /// # Errors
    /// It is not announced durably, so it must not be done.
    pub(super) fn step(&mut self, begun: Begun) -> Outcome<()> {
        self.write(&Line::Step(Box::new(begun)))
    }

    /// Passes the point of no return.
    ///
    /// # Errors
    /// It is not passed.
    pub(super) fn commit(&mut self, finish: Vec<Finish>) -> Outcome<()> {
        self.write(&Line::Commit(finish))
    }

    fn write(&mut self, line: &Line) -> Outcome<()> {
        let failed = |error: std::io::Error| Failure::path("write the journal", &self.path, error);
        let mut text = serde_json::to_string(line).map_err(|error| failed(error.into()))?;
        text.push('\n');
        self.file
            .write_all(text.as_bytes())
            .and_then(|()| crate::files::make_durable(&self.file))
            .map_err(failed)
    }
}

/// What a journal says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) head: Head,
    /// Steps in the order in which they were begun.
    pub(crate) steps: Vec<Begun>,
    /// What is left to do; `None` if there is a way back.
    pub(crate) committed: Option<Vec<Finish>>,
}

/// Why a journal cannot be used.
#[derive(Debug)]
pub(crate) enum Unreadable {
    /// It has not even a whole head, so nothing was begun.
    Empty,
    /// It was written by another version, in another format.
    Foreign { format: u64 },
    /// Somebody else has written in it, or the disk is broken.
    Broken(String),
}

/// Reads what a journal says. Its last line may be cut off: what it announces was not begun then.
///
/// # Errors
/// [`Unreadable`]
pub(crate) fn parse(text: &str) -> Result<Record, Unreadable> {
    let mut lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let Some(first) = lines.next() else {
        return Err(Unreadable::Empty);
    };
    let broken = |error: serde_json::Error| Unreadable::Broken(error.to_string());
    let value: serde_json::Value = serde_json::from_str(first).map_err(broken)?;
    let format = value["begin"]["format"].as_u64().unwrap_or_default();
    if format != u64::from(FORMAT) {
        return Err(Unreadable::Foreign { format });
    }
    let Line::Begin(head) = serde_json::from_value(value).map_err(broken)? else {
        return Err(Unreadable::Broken("it does not begin with its head".to_owned()));
    };
    let mut record = Record {
        head,
        steps: Vec::new(),
        committed: None,
    };
    for line in lines {
        match serde_json::from_str(line).map_err(broken)? {
            Line::Begin(_) => return Err(Unreadable::Broken("it has two heads".to_owned())),
            Line::Step(begun) => record.steps.push(*begun),
            Line::Commit(finish) => record.committed = Some(finish),
        }
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> (tempfile::TempDir, PathBuf, Record) {
        let home = tempfile::tempdir().expect("temporary directory");
        let path = home.path().join("journal");
        let head = Head::new("install", Path::new("/opt/flame"));
        let mut journal = Journal::begin(&path, head.clone()).expect("begun");
        let steps: Vec<Begun> = ["a", "b"]
            .into_iter()
            .map(|id| Begun {
                id: id.to_owned(),
                text: format!("step {id}"),
                undo: Undo::Nothing,
            })
            .collect();
        for step in &steps {
            journal.step(step.clone()).expect("written");
        }
        let finish = vec![Finish::Tree {
            path: "/opt/trash".into(),
        }];
        journal.commit(finish.clone()).expect("committed");
        let record = Record {
            head,
            steps,
            committed: Some(finish),
        };
        (home, path, record)
    }

    #[test]
    fn it_is_read_as_it_was_written_as_far_as_it_was() {
        let (_home, path, record) = written();
        let text = std::fs::read_to_string(path).expect("there");
        assert_eq!(parse(&text).expect("read"), record);
        let ends: Vec<usize> = text.match_indices('\n').map(|(at, _)| at + 1).collect();
        for length in 0..text.len() {
            let whole = ends.iter().filter(|end| **end <= length).count();
            match parse(&text[..length]) {
                Err(Unreadable::Empty) => assert_eq!(whole, 0),
                Ok(read) => {
                    assert_eq!(read.steps.len(), (whole - 1).min(2));
                    assert_eq!(read.committed, None);
                }
                Err(other) => panic!("{length}: {other:?}"),
            }
        }
    }

    #[test]
    fn another_format_and_rubbish_are_told_apart() {
        let (_home, path, _) = written();
        let text = std::fs::read_to_string(path).expect("there");
        let newer = text.replacen("\"format\":1", "\"format\":7", 1);
        assert!(matches!(parse(&newer), Err(Unreadable::Foreign { format: 7 })));
        for broken in ["{\n", "[]\nx\n"] {
            assert!(parse(&(text.clone() + broken)).is_err(), "{broken}");
        }
    }

    #[test]
    fn there_is_one_journal_at_a_time() {
        let (_home, path, _) = written();
        Journal::begin(&path, Head::new("install", Path::new("/opt/flame"))).expect_err("there is one");
        assert!(path.exists());
    }
}
