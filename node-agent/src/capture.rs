//! What services print: always drained, kept in bounded files, its last lines at hand for errors.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;

use crate::logs::line::{self, Stamper};

/// After a file of this size the next one is begun, in bytes.
const FILE_BYTES: u64 = 8 << 20;
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

/// Files that never grow beyond a bound: after the first, at its path, comes one with `.1` behind its name, and so
/// on; only the last two are kept. Each line has its time, see `logs/line.rs`.
#[derive(Debug)]
pub struct BoundedFile {
    path: PathBuf,
    generation: u32,
    file: File,
    written: u64,
    bound: u64,
    stamper: Stamper,
    /// What is written at once, kept for its room.
    stamped: Vec<u8>,
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
            generation: 0,
            written: 0,
            bound,
            stamper: Stamper::default(),
            stamped: Vec::new(),
        })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.written >= self.bound {
            self.begin_next()?;
        }
        self.stamper.stamp(bytes, line::now(), &mut self.stamped);
        self.flush()
    }

    fn begin_next(&mut self) -> io::Result<()> {
        self.stamper.cut(&mut self.stamped);
        self.flush()?;
        self.file = open(&generation(&self.path, self.generation + 1))?;
        if let Some(before) = self.generation.checked_sub(1) {
            std::fs::remove_file(generation(&self.path, before))?;
        }
        self.generation += 1;
        self.written = 0;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let written = self.file.write_all(&self.stamped);
        self.written += self.stamped.len() as u64;
        self.stamped.clear();
        written
    }
}

/// The file that has that number after the first at `path`.
pub(crate) fn generation(path: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return path.to_path_buf();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

fn open(path: &Path) -> io::Result<File> {
    File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
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

    /// What was written, without the times.
    fn text(path: &Path) -> String {
        let file = std::fs::read(path).expect("there");
        let lines = file.split_inclusive(|byte| *byte == b'\n').map(|line| {
            let (text, end) = match line.strip_suffix(b"\n") {
                Some(text) => (text, "\n"),
                None => (line, ""),
            };
            let line = line::parse(text).expect("stamped");
            format!("{}{end}", String::from_utf8_lossy(line.text))
        });
        lines.collect()
    }

    #[test]
    fn files_stay_within_their_bound_and_the_last_two_are_kept() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("e.out");
        let mut file = BoundedFile::with_bound(path.clone(), 10).expect("creatable");
        for text in ["one\n", "two\n", "thr", "ee\n", "last\n"] {
            file.write(text.as_bytes()).expect("writable");
        }
        let written = |number| text(&generation(&path, number));
        assert_eq!((written(3).as_str(), written(4).as_str()), ("ee\n", "last\n"));
        let third = std::fs::read(generation(&path, 3)).expect("there");
        let line = line::parse(third.strip_suffix(b"\n").expect("a line")).expect("stamped");
        assert!(line.continued, "the line before it was cut");
        assert_eq!(std::fs::read_dir(directory.path()).expect("listed").count(), 2);
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
        let written = files.map(|file| text(&file));
        assert_eq!(written[0], first[..3 * READ_BYTES]);
        assert_eq!(
            (written[1].as_str(), tail.text().as_str()),
            ("second\n", "second")
        );
    }
}
