//! Logs of an installation without systemd: files below `logs/`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Entry;
use crate::failure::{Failure, Outcome};

/// How often it is looked for new lines.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The files of logs: of daemons directly below `directory`, with `all` also those of executors further down.
///
/// # Errors
/// A directory cannot be read.
pub(super) fn find(directory: &Path, all: bool) -> Outcome<Vec<PathBuf>> {
    let (mut found, mut open) = (Vec::new(), vec![directory.to_path_buf()]);
    while let Some(directory) = open.pop() {
        let entries = match directory.read_dir() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            entries => entries.map_err(|error| Failure::path("read", &directory, error))?,
        };
        for entry in entries {
            let path = entry
                .map_err(|error| Failure::path("read", &directory, error))?
                .path();
            // Links are not followed: they could lead anywhere.
            let Ok(metadata) = path.symlink_metadata() else {
                continue;
            };
            if metadata.is_dir() && all {
                open.push(path);
            } else if metadata.is_file() && (all || path.extension().is_some_and(|end| end == "log")) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// What a file is called: by its place below `directory`, without `.log`.
pub(super) fn name(directory: &Path, path: &Path) -> String {
    let below = path.strip_prefix(directory).unwrap_or(path).display().to_string();
    below.trim_end_matches(".log").to_owned()
}

/// Reads files from where it was left.
#[derive(Debug, Default)]
pub(super) struct Reader {
    places: BTreeMap<PathBuf, Place>,
}

#[derive(Debug, Default)]
struct Place {
    offset: u64,
    time: Option<i64>,
}

impl Reader {
    /// The new whole lines of `files` in the order of their times.
    pub(super) fn read(&mut self, directory: &Path, files: &[PathBuf]) -> Outcome<Vec<Entry>> {
        let mut entries = Vec::new();
        for path in files {
            let place = self.places.entry(path.clone()).or_default();
            let name = name(directory, path);
            place
                .read(path, &name, &mut entries)
                .map_err(|error| Failure::path("read", path, error))?;
        }
        // Stable, so that lines of one file stay in their order.
        entries.sort_by_key(|entry| entry.time_us);
        Ok(entries)
    }

    /// Gives what is written from now on to `each`, until it has enough.
    pub(super) fn follow(
        &mut self,
        look: &dyn Fn() -> Outcome<Vec<PathBuf>>,
        directory: &Path,
        each: &mut dyn FnMut(&Entry) -> ControlFlow<()>,
    ) -> Outcome<()> {
        loop {
            for entry in self.read(directory, &look()?)? {
                if each(&entry).is_break() {
                    return Ok(());
                }
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

impl Place {
    fn read(&mut self, path: &Path, name: &str, entries: &mut Vec<Entry>) -> std::io::Result<()> {
        let mut file = File::open(path)?;
        if file.metadata()?.len() < self.offset {
            // It was begun anew.
            self.offset = 0;
        }
        file.seek(SeekFrom::Start(self.offset))?;
        let mut reader = BufReader::new(file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let length = reader.read_until(b'\n', &mut line)?;
            if line.pop() != Some(b'\n') {
                // The rest of it is still being written.
                return Ok(());
            }
            self.offset += u64::try_from(length).unwrap_or_default();
            let entry = Entry::of_file(name, &String::from_utf8_lossy(&line), self.time);
            self.time = entry.time_us;
            entries.push(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn messages(entries: &[Entry]) -> Vec<&str> {
        entries.iter().map(|entry| entry.message.as_str()).collect()
    }

    #[test]
    fn files_are_read_together_and_only_once() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = |name: &str| directory.path().join(name);
        std::fs::write(
            path("a.log"),
            "2025-01-01T00:00:01Z one\nmore\n2025-01-01T00:00:03Z three\nhalf",
        )
        .expect("written");
        std::fs::write(path("b.log"), "2025-01-01T00:00:02Z two\n").expect("written");
        std::fs::create_dir_all(path("executors/1")).expect("made");
        std::fs::write(path("executors/1/stdout"), "1735689604000000 four\n").expect("written");
        let files = find(directory.path(), false).expect("found");
        assert_eq!(files, [path("a.log"), path("b.log")]);
        let all = find(directory.path(), true).expect("found");
        let mut reader = Reader::default();
        let read = reader.read(directory.path(), &all).expect("read");
        assert_eq!(messages(&read), ["one", "more", "two", "three", "four"]);
        assert_eq!(read[4].unit, "executors/1/stdout");
        let mut file = File::options().append(true).open(path("a.log")).expect("opened");
        file.write_all(b" a line\n").expect("written");
        assert_eq!(
            messages(&reader.read(directory.path(), &all).expect("read")),
            ["half a line"]
        );
        std::fs::write(path("b.log"), "new\n").expect("written");
        let mut followed = Vec::new();
        let look = || Ok(all.clone());
        let mut each = |entry: &Entry| {
            followed.push(entry.message.clone());
            ControlFlow::Break(())
        };
        reader
            .follow(&look, directory.path(), &mut each)
            .expect("followed");
        assert_eq!(followed, ["new"]);
        assert_eq!(
            find(&path("nothing"), true).expect("looked"),
            [""; 0].map(PathBuf::from)
        );
    }
}
