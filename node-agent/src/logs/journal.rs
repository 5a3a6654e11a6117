//! Lines from the journal, which `journalctl` reads: those of units by the ids of their runs, and the agent's own.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use flame_rpc::log_place::After;
use flame_rpc::v1::{LogLine, LogOutput};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde::Deserialize;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{sleep, timeout};

use super::line::{LINE_BYTES, now};
use super::source::{Batch, CHUNK_BYTES, LINE_COST, Part, Source, Subject, Wanted};

/// The program that reads the journal.
pub(crate) const JOURNALCTL: &str = "journalctl";
/// Longest entry that is read, in bytes: journald cuts lines at 48 KiB, and one that is not UTF-8 is written as numbers.
const ENTRY_BYTES: usize = 256 << 10;
/// Bytes that are kept at most while the last lines are looked for.
const LAST_BYTES: usize = 4 << 20;
/// How often it is looked whether the session has new executors, or has ended.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long more lines are waited for, so that they are sent together.
const TOGETHER: Duration = Duration::from_millis(20);
/// journald may write a line that came on one stream after one that came a little later on another, in microseconds.
const OUT_OF_ORDER: i64 = 1_000_000;
/// Lines of priority warning are those of standard error, see `runtime/systemd/inside/stream.rs`.
const STANDARD_ERROR: &str = "4";

/// The id of this machine.
const MACHINE_ID: &str = "/etc/machine-id";

/// Whose lines.
pub(super) enum Whose {
    /// Of a session's executors.
    Session(Subject),
    /// Of the unit that the agent runs in.
    Unit(String),
}

/// Reads the journal.
pub(super) struct Journal {
    program: OsString,
    whose: Whose,
    wanted: Wanted,
    parts: Vec<Part>,
    after: After,
    /// It is told where the log begins.
    began: bool,
    /// Where to go on.
    cursor: Option<String>,
    reading: Option<Reading>,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// What is there.
    History,
    /// What comes.
    Follow,
    /// What came between the last look and the end.
    Rest,
}

/// A `journalctl`, which ends with this value.
struct Reading {
    child: Child,
    output: BufReader<ChildStdout>,
    /// Read, and not a whole entry yet.
    partial: Partial,
}

#[derive(Debug, Default)]
struct Partial {
    bytes: Vec<u8>,
    /// It is longer than may be.
    skipped: bool,
}

/// What came of a look for an entry.
enum Next {
    Entry(Vec<u8>),
    /// There was one that is too long.
    TooLong,
    End,
}

impl Journal {
    pub(super) fn new(program: OsString, whose: Whose, wanted: Wanted) -> Self {
        Self {
            program,
            whose,
            after: wanted.after.clone(),
            began: false,
            wanted,
            parts: Vec::new(),
            cursor: None,
            reading: None,
            phase: Phase::History,
        }
    }

    async fn read(&mut self) -> Result<Batch, String> {
        let mut batch = match self.phase {
            Phase::History => self.read_history().await,
            Phase::Follow => self.follow().await,
            Phase::Rest => self.read_rest().await,
        }?;
        let told = batch.caught_up || batch.over || !batch.lines.is_empty();
        if told && !std::mem::replace(&mut self.began, true) {
            if let (Some(_), Some(first)) = (self.wanted.lines, batch.lines.first()) {
                self.after.not_before(first.time_us);
            }
            batch.begin = Some(self.after.begin_us());
        }
        Ok(batch)
    }

    async fn read_history(&mut self) -> Result<Batch, String> {
        if self.wanted.lines == Some(0) {
            self.after.not_before(now());
            return Ok(self.caught_up(Batch::default()));
        }
        if self.reading.is_none() && !self.begin(false).await? {
            return Ok(self.caught_up(Batch::default()));
        }
        let Some(last) = self.wanted.lines.filter(|_| self.is_filtered()) else {
            let batch = self.read_chunk().await?;
            return Ok(if batch.over { self.caught_up(batch) } else { batch });
        };
        // journalctl would count lines that are not wanted.
        let mut all = Batch::default();
        let (mut kept, mut bytes) = (VecDeque::new(), 0);
        loop {
            let batch = self.read_chunk().await?;
            all.notes.extend(batch.notes);
            for line in batch.lines {
                bytes += line.text.len() + LINE_COST;
                kept.push_back(line);
                while kept.len() > last || bytes > LAST_BYTES {
                    let Some(LogLine { text, .. }) = kept.pop_front() else {
                        break;
                    };
                    bytes -= text.len() + LINE_COST;
                }
            }
            if batch.over {
                break;
            }
        }
        all.lines = kept.into();
        Ok(self.caught_up(all))
    }

    /// `batch` is the last of what was there.
    fn caught_up(&mut self, batch: Batch) -> Batch {
        self.reading = None;
        let follow = self.wanted.goes_on();
        self.phase = if follow { Phase::Follow } else { Phase::Rest };
        Batch {
            caught_up: true,
            over: !follow,
            executors: self.parts.len(),
            ..batch
        }
    }

    async fn follow(&mut self) -> Result<Batch, String> {
        loop {
            if !self.wanted.goes_on() {
                self.reading = None;
                self.phase = Phase::Rest;
                return self.read_rest().await;
            }
            // A journalctl that runs looks for the units that were known when it was started.
            if self.has_new_parts().await {
                self.reading = None;
            }
            if self.reading.is_none() && !self.begin(true).await? {
                self.wait().await;
                continue;
            }
            let mut finish = self.wanted.finish.clone();
            let arrived = tokio::select! {
                arrived = Self::arrived(self.reading.as_mut()) => arrived,
                () = sleep(LOOK_EVERY) => continue,
                _ = finish.wait_for(|finish| *finish) => continue,
            };
            if !arrived {
                return Err(self.why_it_ended().await);
            }
            let batch = self.read_chunk().await?;
            if !batch.lines.is_empty() || !batch.notes.is_empty() {
                return Ok(Batch { over: false, ..batch });
            }
        }
    }

    async fn read_rest(&mut self) -> Result<Batch, String> {
        if self.reading.is_none() && !self.begin(false).await? {
            return Ok(Batch {
                over: true,
                executors: self.parts.len(),
                ..Batch::default()
            });
        }
        let batch = self.read_chunk().await?;
        Ok(Batch {
            executors: self.parts.len(),
            ..batch
        })
    }

    async fn wait(&self) {
        let mut finish = self.wanted.finish.clone();
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            _ = finish.wait_for(|finish| *finish) => {}
        }
    }

    fn invocations(parts: &[Part]) -> impl Iterator<Item = &str> {
        parts.iter().filter_map(|part| part.run.invocation.as_deref())
    }

    /// Whether there are executors in units that were not there before.
    async fn has_new_parts(&mut self) -> bool {
        let Whose::Session(subject) = &self.whose else {
            return false;
        };
        let subject = subject.clone();
        let Ok(parts) = tokio::task::spawn_blocking(move || subject.parts()).await else {
            return false;
        };
        let is_new =
            Self::invocations(&parts).any(|id| !Self::invocations(&self.parts).any(|known| known == id));
        // Their times may have changed in any case.
        self.parts = parts;
        is_new
    }

    /// Whether lines that journalctl finds may be none of those that are wanted.
    fn is_filtered(&self) -> bool {
        matches!(&self.whose, Whose::Session(subject) if subject.task != 0)
    }

    /// Starts to read. Returns false if there is nothing to read.
    async fn begin(&mut self, follow: bool) -> Result<bool, String> {
        let _ = self.has_new_parts().await;
        let mut command = Command::new(&self.program);
        command.args([
            "--quiet",
            "--no-pager",
            // Else long fields are left out.
            "--all",
            "--output=json",
            "--output-fields=MESSAGE,PRIORITY,_SYSTEMD_INVOCATION_ID",
        ]);
        if follow {
            // Without --merge it follows only the boot that /proc names, which in a container is not the
            // one that journald writes down.
            command.args(["--follow", "--no-tail", "--merge"]);
        }
        let last = self.wanted.lines.filter(|_| !follow && !self.is_filtered());
        match (&self.cursor, last) {
            (Some(cursor), _) => {
                command.arg(format!("--after-cursor={cursor}"));
            }
            (None, Some(lines)) => {
                command.arg(format!("--lines={lines}"));
            }
            _ => {}
        }
        // The place of an earlier log is the more exact one, if there is any.
        let latest = self.after.read().latest();
        let since = match &self.whose {
            // With --since, --lines would be the first ones from then on.
            _ if self.cursor.is_some() || last.is_some() => None,
            _ if latest > 0 => Some((latest - OUT_OF_ORDER).max(self.after.begin_us())),
            Whose::Session(_) => self.parts.iter().map(|part| part.run.began).min(),
            Whose::Unit(_) => None,
        };
        if let Some(since) = since {
            command.arg(format!("--since={}", moment(since)));
        }
        match &self.whose {
            Whose::Session(_) => {
                if Self::invocations(&self.parts).next().is_none() {
                    return Ok(false);
                }
                let mut ids: Vec<&str> = Self::invocations(&self.parts).collect();
                ids.sort_unstable();
                ids.dedup();
                command.args(ids.into_iter().map(|id| format!("_SYSTEMD_INVOCATION_ID={id}")));
            }
            Whose::Unit(unit) => {
                command.arg(format!("_SYSTEMD_UNIT={unit}"));
                // A machine may keep the journals of others, too.
                if let Ok(machine) = std::fs::read_to_string(MACHINE_ID) {
                    command.arg(format!("_MACHINE_ID={}", machine.trim()));
                }
            }
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Whoever reads may go away at any time.
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("cannot run {}: {error}", self.program.display()))?;
        let output = child.stdout.take().ok_or("journalctl has no output")?;
        self.reading = Some(Reading {
            child,
            output: BufReader::with_capacity(CHUNK_BYTES, output),
            partial: Partial::default(),
        });
        Ok(true)
    }

    /// Completes when there is something to read; false at the end.
    async fn arrived(reading: Option<&mut Reading>) -> bool {
        match reading {
            Some(reading) => reading
                .output
                .fill_buf()
                .await
                .is_ok_and(|bytes| !bytes.is_empty()),
            None => false,
        }
    }

    /// Lines that arrive together, or the end: over.
    async fn read_chunk(&mut self) -> Result<Batch, String> {
        let mut batch = Batch::default();
        let mut bytes = 0;
        while bytes < CHUNK_BYTES {
            let Some(reading) = &mut self.reading else {
                return Err("the journal is not being read".to_owned());
            };
            let entry = next_entry(&mut reading.output, &mut reading.partial);
            let entry = if batch.lines.is_empty() && self.phase != Phase::Follow {
                entry.await
            } else {
                match timeout(TOGETHER, entry).await {
                    Ok(entry) => entry,
                    Err(_) => return Ok(batch),
                }
            };
            let entry = match entry.map_err(|error| format!("cannot read the journal: {error}"))? {
                Next::Entry(entry) => entry,
                Next::TooLong => {
                    batch
                        .notes
                        .push(format!("an entry of more than {ENTRY_BYTES} bytes is left out"));
                    continue;
                }
                Next::End => {
                    let error = self.why_it_ended().await;
                    return if error.is_empty() {
                        Ok(Batch { over: true, ..batch })
                    } else {
                        Err(error)
                    };
                }
            };
            let Ok(entry) = serde_json::from_slice::<Entry>(&entry) else {
                batch
                    .notes
                    .push("an entry of the journal cannot be understood".to_owned());
                continue;
            };
            let Ok(time) = entry.time.parse() else { continue };
            for line in self.lines_of(&entry, time) {
                bytes += line.text.len() + LINE_COST;
                batch.lines.push(line);
            }
            self.cursor = Some(entry.cursor);
        }
        Ok(batch)
    }

    /// Empty after an end in order.
    async fn why_it_ended(&mut self) -> String {
        let Some(mut reading) = self.reading.take() else {
            return String::new();
        };
        let mut said = Vec::new();
        if let Some(errors) = reading.child.stderr.take() {
            // What it says is one line; more is of no use.
            let _ = errors.take(1024).read_to_end(&mut said).await;
        }
        let status = reading.child.wait().await;
        if status.as_ref().is_ok_and(ExitStatus::success) {
            return String::new();
        }
        let said = String::from_utf8_lossy(&said);
        match (said.trim(), status) {
            ("", Ok(status)) => format!("journalctl ended with {status}"),
            ("", Err(error)) => format!("journalctl ended: {error}"),
            (said, _) => format!("journalctl: {}", said.replace('\n', "; ")),
        }
    }

    fn lines_of(&mut self, entry: &Entry, time: i64) -> Vec<LogLine> {
        let executor = match &self.whose {
            Whose::Unit(_) => String::new(),
            Whose::Session(_) => {
                // A unit may have served one executor after the other.
                let part = self
                    .parts
                    .iter()
                    .find(|part| part.run.invocation == entry.invocation && part.wants(time));
                match part {
                    Some(part) => part.run.executor.clone(),
                    None => return Vec::new(),
                }
            }
        };
        let is_error =
            matches!(self.whose, Whose::Unit(_)) || entry.priority.as_deref() == Some(STANDARD_ERROR);
        let output = if is_error { LogOutput::Err } else { LogOutput::Out };
        let text = entry.message.as_ref().map(Message::bytes).unwrap_or_default();
        let pieces = text.split(|byte| *byte == b'\n').flat_map(|line| {
            let cut = line
                .chunks(LINE_BYTES)
                .enumerate()
                .map(|(number, piece)| (number > 0, piece));
            let empty = line.is_empty().then_some((false, line));
            empty.into_iter().chain(cut)
        });
        let line = |(continued, piece): (bool, &[u8])| LogLine {
            time_us: time,
            executor: executor.clone(),
            output: output.into(),
            text: Bytes::copy_from_slice(piece),
            continued,
            ..LogLine::default()
        };
        let after = &mut self.after;
        let wanted = pieces.filter(|_| after.takes(&executor, output, time));
        wanted.map(line).collect()
    }
}

impl Source for Journal {
    fn next(&mut self) -> BoxFuture<'_, Result<Batch, String>> {
        self.read().boxed()
    }
}

/// An entry up to its end. Nothing is lost if this is given up and asked for again.
async fn next_entry(
    output: &mut (impl AsyncBufRead + Unpin),
    partial: &mut Partial,
) -> std::io::Result<Next> {
    loop {
        let bytes = output.fill_buf().await?;
        if bytes.is_empty() {
            return Ok(Next::End);
        }
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let part = &bytes[..end.unwrap_or(bytes.len())];
        partial.skipped |= partial.bytes.len() + part.len() > ENTRY_BYTES;
        if partial.skipped {
            partial.bytes = Vec::new();
        } else {
            partial.bytes.extend_from_slice(part);
        }
        let used = part.len() + usize::from(end.is_some());
        output.consume(used);
        if end.is_some() {
            let whole = std::mem::take(partial);
            return Ok(if whole.skipped {
                Next::TooLong
            } else {
                Next::Entry(whole.bytes)
            });
        }
    }
}

/// As `--since` takes it.
fn moment(time: i64) -> String {
    format!(
        "@{}.{:06}",
        time.div_euclid(1_000_000),
        time.rem_euclid(1_000_000)
    )
}

/// The unit that this process runs in, by the text of `/proc/self/cgroup`.
pub(super) fn own_unit(cgroups: &str) -> Option<String> {
    // Where both versions of cgroups are there, systemd may use either.
    let paths = cgroups.lines().filter_map(|line| {
        line.strip_prefix("0::")
            .or_else(|| line.split_once(":name=systemd:").map(|(_, path)| path))
    });
    let mut units = paths.filter_map(|path| path.rsplit('/').find(|part| part.ends_with(".service")));
    units.next().map(str::to_owned)
}

/// An entry of the journal, as far as it matters.
#[derive(Debug, Deserialize)]
struct Entry {
    #[serde(rename = "__CURSOR")]
    cursor: String,
    /// Unix microseconds.
    #[serde(rename = "__REALTIME_TIMESTAMP")]
    time: String,
    #[serde(rename = "_SYSTEMD_INVOCATION_ID")]
    invocation: Option<String>,
    #[serde(rename = "PRIORITY")]
    priority: Option<String>,
    #[serde(rename = "MESSAGE")]
    message: Option<Message>,
}

/// A message as journalctl writes it.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Message {
    Text(String),
    /// What is not UTF-8, or has control characters.
    Bytes(Vec<u8>),
    /// A field may be there more than once.
    Several(Vec<Message>),
}

impl Message {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.clone().into_bytes(),
            Self::Bytes(bytes) => bytes.clone(),
            Self::Several(messages) => messages.iter().map(Self::bytes).collect::<Vec<_>>().join(&b'\n'),
        }
    }
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
