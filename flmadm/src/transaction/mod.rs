//! Changes of a machine that are done wholly or not at all, also if the program or the machine dies in between.
//!
//! Before each effect the journal says durably what will be done and how it is undone. Until the commit a failure
//! undoes everything, newest first; from then on there is only cleaning up left, which can be repeated. Whoever finds
//! a journal without its writer does the one or the other: see [`Interrupted`].

mod finish;
mod journal;
mod lock;
mod place;
mod undo;

use std::path::{Path, PathBuf};

use crate::failure::{Failure, Outcome};
use crate::files::{self, Attributes};
use crate::host::Host;
use crate::output::Output;
use crate::prefix::Prefix;
use crate::step::{Status, Step};

pub(crate) use finish::{Finish, Left};
use journal::{Begun, Head, Journal, Record, Unreadable};
pub(crate) use lock::{Lock, Patience};
pub(crate) use place::Place;
pub(crate) use undo::{ServiceBefore, Traces, Undo, Was, stop};

/// Takes the locks for a change of `prefix`, and of the machine's units if it has or gets any.
///
/// # Errors
/// Another flmadm is at work.
pub(crate) fn lock(
    host: &dyn Host,
    prefix: &Prefix,
    has_units: bool,
    patience: Patience,
) -> Outcome<Vec<Lock>> {
    let mut locks = Vec::new();
    if has_units {
        locks.push(Lock::take(&lock_file(host, ""), patience)?);
    }
    locks.push(Lock::take(&lock_file(host, &own_name(prefix)), patience)?);
    Ok(locks)
}

/// A line about an interrupted change of `prefix`, for commands that do not put it in order; none while somebody is at
/// work on it.
pub(crate) fn warning(host: &dyn Host, prefix: &Prefix) -> Option<String> {
    Place::left(prefix)?;
    if is_at_work(host, prefix) {
        return None;
    }
    let what = match Interrupted::find(prefix, false) {
        Ok(None) => return None,
        Ok(Some(interrupted)) => interrupted.describe(),
        // It is root's, as a rule.
        Err(_) => "a change of this installation was interrupted".to_owned(),
    };
    Some(format!("{what}; flmadm repair puts it in order"))
}

/// Whether somebody changes `prefix` at this moment.
pub(crate) fn is_at_work(host: &dyn Host, prefix: &Prefix) -> bool {
    Lock::is_held(&lock_file(host, &own_name(prefix)))
}

fn lock_file(host: &dyn Host, of: &str) -> PathBuf {
    host.lock_directory().join(format!("flmadm{of}.lock"))
}

/// What is particular to the lock of `prefix`.
fn own_name(prefix: &Prefix) -> String {
    format!("-{}", place::particular(prefix))
}

/// A transaction that is under way.
pub(crate) struct Transaction<'a> {
    host: &'a dyn Host,
    place: Place,
    journal: Journal,
    begun: Vec<Begun>,
    /// Number of effects so far, for the names of saved files.
    saved: usize,
}

impl<'a> Transaction<'a> {
    /// Begins the change `verb` of `prefix`; its lock has to be held.
    ///
    /// # Errors
    /// The journal cannot be written; nothing is changed.
    pub(crate) fn begin(host: &'a dyn Host, place: Place, verb: &str, prefix: &Prefix) -> Outcome<Self> {
        place.make()?;
        let begun = || {
            host.checkpoint();
            // Whoever has to clean up may have no other program that can read what we write.
            if let Some(program) = host.own_program() {
                files::copy(program, &place.program(), Attributes::mode(0o700))?;
            }
            host.checkpoint();
            Journal::begin(&place.journal(), Head::new(verb, prefix.path()))
        };
        match begun() {
            Ok(journal) => {
                host.checkpoint();
                Ok(Self {
                    host,
                    place,
                    journal,
                    begun: Vec::new(),
                    saved: 0,
                })
            }
            Err(failure) => {
                let failure = failure.also("nothing was changed");
                Err(with_problem(
                    failure,
                    "could not remove the journal",
                    place.remove(),
                ))
            }
        }
    }

    /// Does `step` unless it is done. Gives whether it had something to do.
    ///
    /// # Errors
    /// It failed, and may be half done: [`Self::roll_back`] undoes it with the rest.
    pub(crate) fn run(&mut self, step: &Step) -> Outcome<bool> {
        if step.check(self.host)? == Status::Done {
            return Ok(false);
        }
        self.saved += 1;
        let undo = step.prepare(self.host, &self.place.saved(self.saved))?;
        let begun = Begun {
            id: step.id(),
            text: step.describe(),
            undo,
        };
        self.host.checkpoint();
        self.journal.step(begun.clone())?;
        self.begun.push(begun);
        self.host.checkpoint();
        step.apply(self.host)?;
        self.host.checkpoint();
        Ok(true)
    }

    /// Undoes everything because of `failure`, and gives it with what became of that.
    pub(crate) fn roll_back(self, failure: Failure) -> Failure {
        let count = self.begun.len();
        let (problems, notes) = undo_all(self.host, &self.begun);
        let mut failure = notes.iter().fold(failure, |failure, note| failure.also(note));
        if !problems.is_empty() {
            for problem in &problems {
                failure = failure.also(format!("could not undo: {problem}"));
            }
            return failure.also("the journal stays; mend the cause, then run: flmadm repair");
        }
        if let Err(problem) = self.place.remove() {
            failure = failure.also(format!("could not remove the journal: {}", problem.report()));
        }
        match count {
            0 => failure.also("nothing was changed"),
            1 => failure.also("the one change made before was undone"),
            count => failure.also(format!("the {count} changes made before were undone")),
        }
    }

    /// Passes the point of no return, and does what is left to do.
    ///
    /// # Errors
    /// Before that point everything is undone; after it, `flmadm repair` goes on.
    pub(crate) fn commit(mut self, finish: Vec<Finish>) -> Outcome<Left> {
        self.host.checkpoint();
        if let Err(failure) = self.journal.commit(finish.clone()) {
            return Err(self.roll_back(failure));
        }
        self.host.checkpoint();
        finish_all(self.host, &self.place, &finish)
    }
}

fn with_problem(failure: Failure, what: &str, result: Outcome<()>) -> Failure {
    match result {
        Ok(()) => failure,
        Err(problem) => failure.also(format!("{what}: {}", problem.report())),
    }
}

/// Undoes `begun`, newest first. Gives what could not be undone, and lines for people. It goes on after a failure:
/// what can be put back is better put back.
fn undo_all(host: &dyn Host, begun: &[Begun]) -> (Vec<String>, Vec<String>) {
    let (mut problems, mut notes) = (Vec::new(), Vec::new());
    for step in begun.iter().rev() {
        host.checkpoint();
        match step.undo.undo(host) {
            Ok(note) => notes.extend(note),
            Err(failure) => problems.push(format!("{}: {}", step.text, failure.report())),
        }
    }
    host.checkpoint();
    (problems, notes)
}

fn finish_all(host: &dyn Host, place: &Place, finish: &[Finish]) -> Outcome<Left> {
    let mut left = Left::default();
    for one in finish {
        one.run(host, &mut left)
            .map_err(|failure| failure.also("all else is done; mend the cause, then run: flmadm repair"))?;
        host.checkpoint();
    }
    place.remove()?;
    Ok(left)
}

/// A transaction whose program died, or could not clean up.
#[derive(Debug)]
pub(crate) struct Interrupted {
    place: Place,
    record: Record,
}

/// What became of an interrupted transaction.
#[derive(Debug)]
pub(crate) struct Repaired {
    /// The command that was interrupted.
    pub(crate) verb: String,
    /// Version of the flmadm that ran it.
    pub(crate) version: String,
    /// Whether it was finished; else everything was undone.
    pub(crate) finished: bool,
    /// Steps that were undone, newest first.
    pub(crate) undone: Vec<String>,
    pub(crate) left: Left,
}

impl Interrupted {
    /// Looks for an interrupted transaction on `prefix`. The lock has to be held to be sure that nobody is at work.
    /// What is left of one that never began is removed if `clean`.
    ///
    /// # Errors
    /// There is a journal that cannot be read by this program.
    pub(crate) fn find(prefix: &Prefix, clean: bool) -> Outcome<Option<Self>> {
        if clean {
            for path in Place::bundles(prefix) {
                crate::bundle::clean(&path)?;
            }
        }
        let Some(place) = Place::left(prefix) else {
            return Ok(None);
        };
        let path = place.journal();
        let parsed = match std::fs::read_to_string(&path) {
            Ok(text) => journal::parse(&text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Unreadable::Empty),
            Err(error) => return Err(Failure::path("read the journal", &path, error)),
        };
        match parsed {
            Ok(record) => Ok(Some(Self { place, record })),
            Err(Unreadable::Empty) => {
                if clean {
                    place.remove()?;
                }
                Ok(None)
            }
            Err(Unreadable::Foreign { format }) => Err(Failure::installation(format!(
                "the journal {} is of another version of flmadm (format {format})",
                path.display()
            ))
            .hint(format!(
                "the program that wrote it can read it: {} repair --prefix {}",
                place.program().display(),
                prefix.path().display()
            ))),
            Err(Unreadable::Broken(why)) => Err(Failure::installation(format!(
                "the journal {} is broken: {why}",
                path.display()
            ))
            .hint("it says line by line what was begun; undo that by hand, then remove its directory")),
        }
    }

    /// One line about it.
    pub(crate) fn describe(&self) -> String {
        let Head { verb, version, .. } = &self.record.head;
        match (&self.record.committed, self.record.steps.last()) {
            (Some(_), _) => format!("the {verb} by flmadm {version} was interrupted while it cleaned up"),
            (None, Some(step)) => format!(
                "the {verb} by flmadm {version} was interrupted at step {}: {}",
                self.record.steps.len(),
                step.text
            ),
            (None, None) => {
                format!("the {verb} by flmadm {version} was interrupted before its first step")
            }
        }
    }

    /// Where its journal lies.
    pub(crate) fn place(&self) -> &Path {
        self.place.path()
    }

    /// Finishes it if it had passed the point of no return, else undoes it.
    ///
    /// # Errors
    /// Something could not be done; it can be tried again.
    pub(crate) fn repair(self, host: &dyn Host, output: &mut Output<'_>) -> Outcome<Repaired> {
        let Record {
            head,
            steps,
            committed,
        } = self.record;
        let repaired = |finished, undone, left| Repaired {
            verb: head.verb.clone(),
            version: head.version.clone(),
            finished,
            undone,
            left,
        };
        if let Some(finish) = committed {
            let left = finish_all(host, &self.place, &finish)?;
            return Ok(repaired(true, Vec::new(), left));
        }
        let (problems, notes) = undo_all(host, &steps);
        if let Some(last) = problems.last() {
            return Err(Failure::installation(format!(
                "{} of {} steps could not be undone: {}",
                problems.len(),
                steps.len(),
                problems.join("; ")
            ))
            .hint(format!(
                "mend the cause, then run flmadm repair again; the last was: {last}"
            )));
        }
        self.place.remove()?;
        let undone: Vec<String> = steps.into_iter().rev().map(|step| step.text).collect();
        for text in &undone {
            output.progress(&format!("undone: {text}"));
        }
        let left = Left {
            kept: Vec::new(),
            notes,
        };
        Ok(repaired(false, undone, left))
    }
}

#[cfg(test)]
mod tests;
