//! When an executor's tasks ran: the latest few thousand, so that the lines of one can be found.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Bytes of a note: task, begin and end.
const NOTE_BYTES: usize = 24;
/// Notes that are written at once: one in memory costs little, a call for each would not.
const NOTES_AT_ONCE: usize = 64;
/// A file of this size is renamed to `.1` (over the one before) and begun anew, in bytes: room for 5461
/// notes, so at least as many are there.
const FILE_BYTES: u64 = 128 << 10;

/// A part of the time, in Unix microseconds, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) begin: i64,
    pub(super) end: i64,
}

impl Window {
    pub(super) fn contains(&self, time: i64) -> bool {
        (self.begin..=self.end).contains(&time)
    }
}

/// Notes about the tasks of an executor that runs.
#[derive(Debug, Default)]
pub(super) struct TaskNotes {
    /// Handed out at these times, and not ended.
    in_hand: BTreeMap<u64, i64>,
    /// When the last one ended.
    last_end: i64,
    unwritten: Vec<u8>,
}

impl TaskNotes {
    pub(super) fn handed_out(&mut self, task: u64, now: i64) {
        self.in_hand.insert(task, now);
    }

    pub(super) fn returned(&mut self, task: u64) {
        self.in_hand.remove(&task);
    }

    /// `task` has ended at `end` after `duration`. Returns whether it is time to write.
    pub(super) fn ended(&mut self, task: u64, end: i64, duration: u64) -> bool {
        self.in_hand.remove(&task);
        let begin = end.saturating_sub(i64::try_from(duration).unwrap_or(i64::MAX));
        self.last_end = self.last_end.max(end);
        self.unwritten.extend(task.to_le_bytes());
        self.unwritten.extend(begin.to_le_bytes());
        self.unwritten.extend(end.to_le_bytes());
        self.unwritten.len() >= NOTES_AT_ONCE * NOTE_BYTES
    }

    /// The time of `task` if it has not ended. It begins when it was handed out, or when the one before it ended.
    pub(super) fn running(&self, task: u64) -> Option<Window> {
        let handed_out = *self.in_hand.get(&task)?;
        Some(Window {
            begin: handed_out.max(self.last_end),
            end: i64::MAX,
        })
    }

    /// Writes what is not written yet to the file at `path`.
    pub(super) fn write(&mut self, path: &Path) -> io::Result<()> {
        if self.unwritten.is_empty() {
            return Ok(());
        }
        let mut file = open(path)?;
        if file.metadata()?.len() >= FILE_BYTES {
            std::fs::rename(path, older(path))?;
            file = open(path)?;
        }
        let written = file.write_all(&self.unwritten);
        self.unwritten.clear();
        written
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

/// The file before the one at `path`.
pub(super) fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}

/// When `task` ran, as often as the files say.
pub(super) fn windows(path: &Path, task: u64) -> Vec<Window> {
    let mut found = Vec::new();
    for path in [older(path), path.to_path_buf()] {
        // A file that is not there has no notes.
        for note in std::fs::read(path).unwrap_or_default().chunks_exact(NOTE_BYTES) {
            let (id, times) = note.split_at(8);
            let (begin, end) = times.split_at(8);
            let number = |bytes: &[u8]| bytes.try_into().map(i64::from_le_bytes).unwrap_or_default();
            if number(id) == task.cast_signed() {
                found.push(Window {
                    begin: number(begin),
                    end: number(end),
                });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(begin: i64, end: i64) -> Window {
        Window { begin, end }
    }

    #[test]
    fn a_task_ran_from_its_begin_to_its_end_and_one_that_runs_has_none() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("e1.tasks");
        let mut notes = TaskNotes::default();
        notes.handed_out(1, 100);
        notes.handed_out(2, 101);
        notes.handed_out(3, 102);
        assert_eq!(notes.running(1), Some(window(100, i64::MAX)));
        assert!(!notes.ended(1, 500, 380));
        assert_eq!(notes.running(2), Some(window(500, i64::MAX)));
        notes.returned(3);
        assert_eq!((notes.running(1), notes.running(3)), (None, None));
        // Again, as after a death.
        notes.ended(1, 900, 10);
        notes.write(&path).expect("writable");
        notes.write(&path).expect("nothing to do");
        assert_eq!(windows(&path, 1), [window(120, 500), window(890, 900)]);
        assert_eq!(windows(&path, 2), []);
    }

    #[test]
    fn the_latest_tasks_are_kept_within_a_bound() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("e1.tasks");
        let mut notes = TaskNotes::default();
        for task in 1..=20_000_u64 {
            if notes.ended(task, task.cast_signed(), 0) {
                notes.write(&path).expect("writable");
            }
        }
        notes.write(&path).expect("writable");
        assert_eq!(windows(&path, 20_000 - 5_000), [window(15_000, 15_000)]);
        assert_eq!(windows(&path, 1), []);
        let sizes = [&path, &older(&path)].map(|path| std::fs::metadata(path).expect("there").len());
        let most = FILE_BYTES + (NOTES_AT_ONCE * NOTE_BYTES) as u64;
        assert!(sizes.iter().all(|size| *size <= most), "{sizes:?}");
    }
}
