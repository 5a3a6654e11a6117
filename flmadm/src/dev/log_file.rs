//! Log files of daemons: their ends, what is added to them, and their bound.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// A log that has grown to this size begins anew; the old one is kept beside it as `.1`.
const LOG_MAX: u64 = 10 << 20;
/// Bytes from the end of a log in which its last lines are looked for.
const TAIL_MAX: u64 = 1 << 20;
/// Most bytes that are read at a time from a log that grows.
const READ_MAX: u64 = 1 << 20;

/// Begins a log anew if it is too large. The daemon goes on writing to the same file, which nobody can make it open
/// again: what it writes between the last look and the cut, some microseconds, is in neither file.
///
/// # Errors
/// It cannot be copied or cut.
pub(super) fn bound(path: &Path) -> io::Result<()> {
    bound_at(path, LOG_MAX)
}

fn bound_at(path: &Path, most: u64) -> io::Result<()> {
    match path.metadata() {
        Ok(found) if found.len() >= most => {}
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    let mut log = File::options().read(true).write(true).open(path)?;
    let mut kept = File::create(older(path))?;
    // The daemon writes meanwhile: copied is everything up to the end as it is then.
    while io::copy(&mut log, &mut kept)? > 0 {}
    log.set_len(0)
}

/// Where the log is kept that was there before.
fn older(path: &Path) -> PathBuf {
    let mut older = path.as_os_str().to_owned();
    older.push(".1");
    older.into()
}

/// The last `count` lines of a log; none if there is no log.
///
/// # Errors
/// It cannot be read.
pub(super) fn tail(path: &Path, count: usize) -> io::Result<Vec<String>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    let start = length.saturating_sub(TAIL_MAX);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(TAIL_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(count)..]
        .iter()
        .map(|line| (*line).to_owned())
        .collect())
}

/// Reads what is added to a log.
#[derive(Debug)]
pub(super) struct Follower {
    path: PathBuf,
    offset: u64,
    /// A line that is not whole yet.
    begun: Vec<u8>,
}

impl Follower {
    /// Follows a log from its present end on; it need not be there yet.
    pub(super) fn from_end(path: PathBuf) -> Self {
        let offset = path.metadata().map_or(0, |found| found.len());
        Self {
            path,
            offset,
            begun: Vec::new(),
        }
    }

    /// The lines that are new.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn new_lines(&mut self) -> io::Result<Vec<String>> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut bytes = std::mem::take(&mut self.begun);
        if file.metadata()?.len() < self.offset {
            // It has begun anew; what came before that is in the older one.
            rest(&older(&self.path), self.offset, &mut bytes)?;
            self.offset = 0;
        }
        file.seek(SeekFrom::Start(self.offset))?;
        self.offset += file.take(READ_MAX).read_to_end(&mut bytes)? as u64;
        let whole = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |last| last + 1);
        self.begun = bytes.split_off(whole);
        Ok(String::from_utf8_lossy(&bytes)
            .lines()
            .map(str::to_owned)
            .collect())
    }
}

/// Adds what is in a file from `offset` on. Of a file that is not there nothing, and what `bytes` held of it is no line.
fn rest(path: &Path, offset: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
    match File::open(path) {
        Ok(mut file) => {
            file.seek(SeekFrom::Start(offset))?;
            file.take(READ_MAX).read_to_end(bytes).map(drop)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bytes.clear();
            Ok(())
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn append(path: &Path, text: &str) {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(path)
            .expect("opened");
        file.write_all(text.as_bytes()).expect("written");
    }

    #[test]
    fn the_end_is_a_number_of_lines() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let log = directory.path().join("a.log");
        assert!(tail(&log, 5).expect("read").is_empty());
        append(&log, "one\ntwo\nthree\n");
        assert_eq!(tail(&log, 2).expect("read"), ["two", "three"]);
        assert_eq!(tail(&log, 9).expect("read"), ["one", "two", "three"]);
        assert!(tail(&log, 0).expect("read").is_empty());
    }

    #[test]
    fn new_lines_come_whole_and_once() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let log = directory.path().join("a.log");
        let mut follower = Follower::from_end(log.clone());
        assert!(follower.new_lines().expect("read").is_empty());
        append(&log, "one\ntw");
        assert_eq!(follower.new_lines().expect("read"), ["one"]);
        append(&log, "o\n");
        assert_eq!(follower.new_lines().expect("read"), ["two"]);
        assert!(follower.new_lines().expect("read").is_empty());
        assert!(Follower::from_end(log).new_lines().expect("read").is_empty());
    }

    #[test]
    fn a_log_that_is_too_large_begins_anew_and_is_followed() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let log = directory.path().join("a.log");
        bound_at(&log, 8).expect("nothing to do");
        append(&log, "one\n");
        let mut follower = Follower::from_end(log.clone());
        bound_at(&log, 8).expect("small");
        append(&log, "two\n");
        assert_eq!(follower.new_lines().expect("read"), ["two"]);
        append(&log, "three\nfo");
        bound_at(&log, 8).expect("cut");
        append(&log, "ur\n5\n");
        assert_eq!(follower.new_lines().expect("read"), ["three", "four", "5"]);
        let kept = std::fs::read_to_string(older(&log)).expect("kept");
        assert_eq!(kept, "one\ntwo\nthree\nfo");
        // Somebody has removed what was kept: there is nothing more to tell of it.
        bound_at(&log, 1).expect("cut");
        std::fs::remove_file(older(&log)).expect("removed");
        append(&log, "6\n");
        assert_eq!(follower.new_lines().expect("read"), ["6"]);
    }
}
