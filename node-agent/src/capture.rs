//! What services print: always drained, kept in bounded files, its last lines at hand for errors.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

/// A file of this size is renamed to `.1` (over the one before) and begun anew, in bytes.
const FILE_BYTES: u64 = 8 << 20;
/// Files of ended executors beyond this number are deleted, oldest first.
const FILES_KEPT: usize = 400;
/// Lines that an error shows.
const TAIL_LINES: usize = 20;
/// Bytes of a line that an error shows.
const TAIL_LINE_BYTES: usize = 512;
/// Read at once: what a pipe hands over cheaply without weighing on the agent's memory.
const READ_BYTES: usize = 4096;

/// The last lines of an output, shared between who reads and who asks.
#[derive(Debug, Clone, Default)]
pub struct Tail(Arc<Mutex<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    whole: VecDeque<String>,
    partial: Vec<u8>,
}

impl Tail {
    /// Adds output as it came.
    pub fn push(&self, bytes: &[u8]) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for byte in bytes {
            if *byte == b'\n' {
                lines.finish();
            } else if lines.partial.len() < TAIL_LINE_BYTES {
                lines.partial.push(*byte);
            }
        }
    }

    /// The last lines, joined.
    #[must_use]
    pub fn text(&self) -> String {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !lines.partial.is_empty() {
            lines.finish();
        }
        lines.whole.make_contiguous().join("\n")
    }
}

impl Lines {
    fn finish(&mut self) {
        let line = String::from_utf8_lossy(&self.partial).trim_end().to_owned();
        self.partial.clear();
        if self.whole.len() == TAIL_LINES {
            self.whole.pop_front();
        }
        self.whole.push_back(line);
    }
}

/// A file that never grows beyond a bound: full, it becomes `.1` and a new one is begun.
#[derive(Debug)]
pub struct BoundedFile {
    path: PathBuf,
    file: File,
    written: u64,
    bound: u64,
}

impl BoundedFile {
    /// A new file at `path`, in place of what was there.
    ///
    /// # Errors
    /// Those of creating it.
    pub fn create(path: PathBuf) -> io::Result<Self> {
        Self::with_bound(path, FILE_BYTES)
    }

    fn with_bound(path: PathBuf, bound: u64) -> io::Result<Self> {
        Ok(Self {
            file: open(&path)?,
            path,
            written: 0,
            bound,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.written >= self.bound {
            std::fs::rename(&self.path, older(&self.path))?;
            self.file = open(&self.path)?;
            self.written = 0;
        }
        self.file.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
}

fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}

/// Reads `pipe` to its end. A file that cannot be written is given up, but reading goes on: a
/// full pipe would block the service.
pub async fn drain(mut pipe: pipe::Receiver, file: io::Result<BoundedFile>, tail: Option<Tail>) {
    let mut file = file
        .inspect_err(|error| tracing::warn!(%error, "cannot keep the output of a service"))
        .ok();
    let mut buffer = vec![0_u8; READ_BYTES];
    loop {
        let length = match pipe.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(length) => length,
        };
        if let Some(tail) = &tail {
            tail.push(&buffer[..length]);
        }
        // Into the page cache: not worth a thread of its own.
        if let Some(open) = &mut file
            && let Err(error) = open.write(&buffer[..length])
        {
            tracing::warn!(%error, "output of a service is no longer kept in {}", open.path.display());
            file = None;
        }
    }
}

/// Deletes the oldest files in `directory` beyond those kept.
///
/// # Errors
/// Those of listing the directory.
pub fn prune(directory: &Path) -> io::Result<()> {
    prune_to(directory, FILES_KEPT)
}

fn prune_to(directory: &Path, keep: usize) -> io::Result<()> {
    let mut files: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let name = name.strip_suffix(".1").unwrap_or(&name);
        if (name.ends_with(".out") || name.ends_with(".err"))
            && let Ok(modified) = entry.metadata().and_then(|metadata| metadata.modified())
        {
            files.push((modified, entry.path()));
        }
    }
    let surplus = files.len().saturating_sub(keep);
    files.sort_unstable();
    for (_, path) in files.into_iter().take(surplus) {
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(%error, "cannot remove the old output {}", path.display());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_keeps_the_last_lines_and_shortens_them() {
        let tail = Tail::default();
        assert_eq!(tail.text(), "");
        for line in 1..=30 {
            tail.push(format!("line {line}\n").as_bytes());
        }
        tail.push(b"broken off");
        let text = tail.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            (lines.len(), lines[0], lines[19]),
            (TAIL_LINES, "line 12", "broken off")
        );
        tail.push(&vec![b'x'; 100_000]);
        tail.push(b"\n");
        assert_eq!(tail.text().lines().last().map(str::len), Some(TAIL_LINE_BYTES));
    }

    #[test]
    fn a_file_stays_within_its_bound_and_the_one_before_is_kept() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("e.out");
        let mut file = BoundedFile::with_bound(path.clone(), 10).expect("creatable");
        for text in ["0123456789", "abcdefghij", "new"] {
            file.write(text.as_bytes()).expect("writable");
        }
        assert_eq!(std::fs::read_to_string(&path).expect("there"), "new");
        assert_eq!(
            std::fs::read_to_string(older(&path)).expect("there"),
            "abcdefghij"
        );
    }

    #[test]
    fn only_the_oldest_outputs_are_deleted() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let start = SystemTime::now() - std::time::Duration::from_secs(1000);
        for (age, name) in ["a.out", "a.err.1", "b.out", "b.err", "other.txt"]
            .iter()
            .enumerate()
        {
            let file = File::create(directory.path().join(name)).expect("creatable");
            file.set_modified(start + std::time::Duration::from_secs(age as u64))
                .expect("time set");
        }
        prune_to(directory.path(), 2).expect("listed");
        let mut left: Vec<String> = std::fs::read_dir(directory.path())
            .expect("listed")
            .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
            .collect();
        left.sort();
        assert_eq!(left, ["b.err", "b.out", "other.txt"]);
    }

    #[tokio::test]
    async fn a_pipe_is_drained_even_if_nothing_can_be_kept() {
        let (mut sender, receiver) = pipe::pipe().expect("pipe");
        let tail = Tail::default();
        let drained = tokio::spawn(drain(receiver, Err(io::Error::other("full")), Some(tail.clone())));
        let text = "0123456789\n".repeat(20_000);
        tokio::io::AsyncWriteExt::write_all(&mut sender, text.as_bytes())
            .await
            .expect("more than a pipe holds");
        drop(sender);
        drained.await.expect("ended at the end of the pipe");
        assert_eq!(tail.text().lines().count(), TAIL_LINES);
    }
}
