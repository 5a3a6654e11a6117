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
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;

/// A file of this size is renamed to `.1` (over the one before) and begun anew, in bytes.
const FILE_BYTES: u64 = 8 << 20;
/// Files of ended executors beyond this number are deleted, oldest first.
const FILES_KEPT: usize = 400;
/// Lines that an error shows.
pub(crate) const TAIL_LINES: usize = 20;
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

    /// Forgets all lines.
    fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Lines::default();
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

/// Has what comes from a pipe from now on kept elsewhere.
#[derive(Debug)]
pub struct Switch {
    /// Where.
    pub file: io::Result<BoundedFile>,
    /// Told when all that the pipe had before is kept as before.
    pub done: oneshot::Sender<()>,
}

/// What becomes of one output of a service.
#[derive(Debug)]
struct Keeper {
    /// None if it cannot be kept.
    file: Option<BoundedFile>,
    tail: Option<Tail>,
}

impl Keeper {
    fn keep_in(&mut self, file: io::Result<BoundedFile>) {
        self.file = file
            .inspect_err(|error| tracing::warn!(%error, "cannot keep the output of a service"))
            .ok();
    }

    fn keep(&mut self, bytes: &[u8]) {
        if let Some(tail) = &self.tail {
            tail.push(bytes);
        }
        // Into the page cache: not worth a thread of its own.
        if let Some(open) = &mut self.file
            && let Err(error) = open.write(bytes)
        {
            tracing::warn!(%error, "output of a service is no longer kept in {}", open.path.display());
            self.file = None;
        }
    }
}

/// Reads `pipe` to its end. A file that cannot be written is given up, but reading goes on: a
/// full pipe would block the service.
pub async fn drain(
    mut pipe: pipe::Receiver,
    file: io::Result<BoundedFile>,
    tail: Option<Tail>,
    mut switches: UnboundedReceiver<Switch>,
) {
    let mut keeper = Keeper { file: None, tail };
    keeper.keep_in(file);
    let mut buffer = vec![0_u8; READ_BYTES];
    loop {
        tokio::select! {
            read = pipe.read(&mut buffer) => match read {
                Ok(0) | Err(_) => return,
                Ok(length) => keeper.keep(&buffer[..length]),
            },
            Some(switch) = switches.recv() => {
                read_what_is_there(&pipe, &mut buffer, &mut keeper);
                keeper.keep_in(switch.file);
                if let Some(tail) = &keeper.tail {
                    tail.clear();
                }
                // Who asked may have lost interest.
                let _ = switch.done.send(());
            }
        }
    }
}

/// Asks the kernel, because tokio may not have heard yet of what has just been written.
fn read_what_is_there(pipe: &pipe::Receiver, buffer: &mut [u8], keeper: &mut Keeper) {
    let mut there = rustix::io::ioctl_fionread(pipe).unwrap_or(0);
    while there > 0 {
        match rustix::io::read(pipe, &mut *buffer) {
            // An end or a failure is met again by who waits for it.
            Ok(0) | Err(_) => return,
            Ok(length) => {
                keeper.keep(&buffer[..length]);
                there = there.saturating_sub(length as u64);
            }
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
    use tokio::io::AsyncWriteExt;
    use tokio::sync::mpsc::unbounded_channel;

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
        let (_switch, switches) = unbounded_channel();
        let drained = tokio::spawn(drain(
            receiver,
            Err(io::Error::other("full")),
            Some(tail.clone()),
            switches,
        ));
        let text = "0123456789\n".repeat(20_000);
        sender
            .write_all(text.as_bytes())
            .await
            .expect("more than a pipe holds");
        drop(sender);
        drained.await.expect("ended at the end of the pipe");
        assert_eq!(tail.text().lines().count(), TAIL_LINES);
    }

    #[tokio::test]
    async fn after_a_switch_nothing_goes_where_it_went_before_it() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let files = ["one", "two"].map(|name| directory.path().join(name));
        let (mut sender, receiver) = pipe::pipe().expect("pipe");
        let (switch, switches) = unbounded_channel();
        let tail = Tail::default();
        let drained = tokio::spawn(drain(
            receiver,
            BoundedFile::create(files[0].clone()),
            Some(tail.clone()),
            switches,
        ));
        // More than is read at once, and the reader has not run yet.
        let first = "first\n".repeat(READ_BYTES);
        sender
            .write_all(&first.as_bytes()[..3 * READ_BYTES])
            .await
            .expect("fits");
        let (done, switched) = oneshot::channel();
        let file = BoundedFile::create(files[1].clone());
        switch.send(Switch { file, done }).expect("the reader lives");
        switched.await.expect("the reader lives");
        assert_eq!(tail.text(), "");
        sender.write_all(b"second\n").await.expect("fits");
        drop(sender);
        drained.await.expect("ended at the end of the pipe");
        let written = files.map(|file| std::fs::read_to_string(file).expect("there"));
        assert_eq!(written[0], first[..3 * READ_BYTES]);
        assert_eq!(
            (written[1].as_str(), tail.text().as_str()),
            ("second\n", "second")
        );
    }
}
