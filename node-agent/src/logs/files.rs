//! Lines from the files of plain processes: those of all executors of a session as one, by their times.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use flame_rpc::log_place::After;
use flame_rpc::v1::{LogLine, LogOutput};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::line::{self, LINE_BYTES};
use super::source::{Batch, CHUNK_BYTES, LINE_COST, Part, Source, Subject, Wanted, lock};
use crate::capture::generation;

/// How often files are looked at for more: what a reader does not notice as a delay.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A line that was stamped this long ago is in its file for certain, in microseconds.
const SETTLED: i64 = 20_000;
/// Read at once: there may be hundreds of files.
const READ_BYTES: usize = 4096;
/// Longest line of a file: time, mark and text.
const LONGEST: usize = LINE_BYTES + 32;

/// Reads the files of a session's executors.
pub(super) struct Files {
    wanted: Wanted,
    /// None while it is in use on another thread.
    merge: Option<Merge>,
    caught_up: bool,
}

impl Files {
    pub(super) fn new(subject: Subject, wanted: Wanted) -> Self {
        let directory = lock(&subject.runs).directory().to_path_buf();
        let merge = Merge {
            directory,
            subject,
            parts: None,
            last: wanted.lines,
            after: wanted.after.clone(),
            began: false,
            tails: BTreeMap::new(),
        };
        Self {
            wanted,
            merge: Some(merge),
            caught_up: false,
        }
    }

    async fn read(&mut self) -> Result<Batch, String> {
        loop {
            // Looked at first: what was written before it is read then.
            let goes_on = self.wanted.goes_on();
            let mut merge = self.merge.take().ok_or("its files were given up")?;
            let until = if self.wanted.follow && goes_on {
                line::now() - SETTLED
            } else {
                i64::MAX
            };
            // Files that nobody has read for days come from the disk, which must not hold up the agent.
            let read = tokio::task::spawn_blocking(move || {
                let batch = merge.read(until, goes_on);
                (merge, batch)
            });
            let (merge, mut batch) = read.await.map_err(|error| error.to_string())?;
            self.merge = Some(merge);
            let at_the_end = batch.caught_up;
            batch.caught_up = at_the_end && !self.caught_up;
            self.caught_up |= at_the_end;
            batch.over = at_the_end && !goes_on;
            if batch.over || batch.caught_up || !batch.lines.is_empty() || !batch.notes.is_empty() {
                return Ok(batch);
            }
            let mut finish = self.wanted.finish.clone();
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                // An end that comes without a word is one, too.
                _ = finish.wait_for(|finish| *finish) => {}
            }
        }
    }
}

impl Source for Files {
    fn next(&mut self) -> BoxFuture<'_, Result<Batch, String>> {
        self.read().boxed()
    }
}

/// All files of the session.
struct Merge {
    subject: Subject,
    directory: PathBuf,
    /// Of the look that is not at its end.
    parts: Option<Vec<Part>>,
    /// Only that many of the lines that are there, until those are found.
    last: Option<usize>,
    after: After,
    /// It is told where the log begins.
    began: bool,
    /// By executor and output, so that lines of the same time always come in the same order.
    tails: BTreeMap<(String, LogOutput), Tail>,
}

impl Merge {
    /// Lines up to that time, which are caught up with if there are no more. If nothing will be written any more, a line without
    /// an end is one, too.
    fn read(&mut self, until: i64, goes_on: bool) -> Batch {
        let parts = self.parts.take().unwrap_or_else(|| self.subject.parts());
        let batch = self.merge(&parts, until, goes_on);
        if !batch.caught_up {
            self.parts = Some(parts);
        }
        batch
    }

    fn merge(&mut self, parts: &[Part], until: i64, goes_on: bool) -> Batch {
        let mut batch = Batch {
            executors: parts.len(),
            ..Batch::default()
        };
        if let Some(last) = self.last.take() {
            self.after.not_before(self.threshold_of(parts, last));
        }
        if !std::mem::replace(&mut self.began, true) {
            batch.begin = Some(self.after.begin_us());
        }
        let parts: BTreeMap<&str, &Part> = parts
            .iter()
            .filter(|part| part.run.invocation.is_none())
            .map(|part| (part.run.executor.as_str(), part))
            .collect();
        for executor in parts.keys() {
            for output in [LogOutput::Out, LogOutput::Err] {
                self.tails
                    .entry(((*executor).to_owned(), output))
                    .or_insert_with(|| {
                        let begin = match self.after.read().last_of(executor, output) {
                            Some(time) => Begin::After(time),
                            None if self.after.begin_us() == 0 => Begin::First,
                            None => Begin::Late,
                        };
                        Tail::new(&self.directory, executor, output, begin)
                    });
            }
        }
        // Files of executors that nobody knows any more are gone.
        self.tails
            .retain(|(executor, _), _| parts.contains_key(executor.as_str()));
        let mut bytes = 0;
        let mut heads: BinaryHeap<Reverse<(i64, &(String, LogOutput))>> = BinaryHeap::new();
        let mut tails: BTreeMap<_, _> = self.tails.iter_mut().collect();
        for (key, tail) in &mut tails {
            let ended = !goes_on
                || parts
                    .get(key.0.as_str())
                    .is_none_or(|part| part.run.ended.is_some());
            if let Some(time) = tail.head(ended, &mut batch.notes) {
                heads.push(Reverse((time, *key)));
            }
        }
        while let Some(Reverse((time, key))) = heads.pop() {
            if time > until {
                break;
            }
            if bytes >= CHUNK_BYTES {
                return batch;
            }
            let (Some(tail), Some(part)) = (tails.get_mut(key), parts.get(key.0.as_str())) else {
                continue;
            };
            if let Some(line) = tail.ready.pop_front()
                && part.wants(time)
                && self.after.takes(&key.0, key.1, time)
            {
                bytes += line.text.len() + LINE_COST;
                batch.lines.push(LogLine {
                    time_us: time,
                    executor: key.0.clone(),
                    output: key.1.into(),
                    text: line.text,
                    continued: line.continued,
                    ..LogLine::default()
                });
            }
            let ended = !goes_on || part.run.ended.is_some();
            if let Some(time) = tail.head(ended, &mut batch.notes) {
                heads.push(Reverse((time, key)));
            }
        }
        batch.caught_up = true;
        batch
    }

    /// The time of the last line but `last` of those that are there.
    fn threshold_of(&self, parts: &[Part], last: usize) -> i64 {
        if last == 0 {
            return line::now();
        }
        let mut times = BinaryHeap::new();
        for part in parts.iter().filter(|part| part.run.invocation.is_none()) {
            for output in [LogOutput::Out, LogOutput::Err] {
                let mut tail = Tail::new(&self.directory, &part.run.executor, output, Begin::Late);
                while let Some(time) = tail.head(true, &mut Vec::new()) {
                    tail.ready.pop_front();
                    if !part.wants(time) {
                        continue;
                    }
                    times.push(Reverse(time));
                    if times.len() > last {
                        times.pop();
                    }
                }
            }
        }
        times.peek().map_or(0, |Reverse(time)| *time)
    }
}

/// A line that was read.
#[derive(Debug)]
struct Ready {
    time: i64,
    text: Bytes,
    continued: bool,
}

/// Which lines of an output are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begin {
    /// All.
    First,
    /// Those that follow on one of that time, which the reader has.
    After(i64),
    /// Only later ones.
    Late,
}

/// One output of an executor, file by file. Files are not kept open: there may be hundreds.
#[derive(Debug)]
struct Tail {
    /// The first of its files.
    path: PathBuf,
    /// What is said of it in notes.
    name: String,
    generation: u32,
    offset: u64,
    begin: Begin,
    /// Its first files are gone, and it is not known yet whether something of them is missing.
    skipped: bool,
    /// Read, and not a whole line yet.
    rest: Vec<u8>,
    ready: VecDeque<Ready>,
}

impl Tail {
    fn new(directory: &Path, executor: &str, output: LogOutput, begin: Begin) -> Self {
        let (ending, name) = match output {
            LogOutput::Err => ("err", "standard error"),
            LogOutput::Out | LogOutput::Unspecified => ("out", "standard output"),
        };
        Self {
            path: directory.join(format!("{executor}.{ending}")),
            name: format!("the {name} of executor {executor}"),
            generation: 0,
            offset: 0,
            begin,
            skipped: false,
            rest: Vec::new(),
            ready: VecDeque::new(),
        }
    }

    /// The time of the next line, if there is one by now.
    fn head(&mut self, ended: bool, notes: &mut Vec<String>) -> Option<i64> {
        while self.ready.is_empty() {
            if self.fill(notes) {
                continue;
            }
            if !ended || self.rest.is_empty() {
                return None;
            }
            let rest = std::mem::take(&mut self.rest);
            self.take(&rest);
        }
        let first = self.ready.front().map(|line| line.time)?;
        if std::mem::take(&mut self.skipped)
            && let Begin::After(time) = self.begin
            && first > time
        {
            notes.push(self.missing());
        }
        Some(first)
    }

    /// Reads on. Returns whether there was something.
    fn fill(&mut self, notes: &mut Vec<String>) -> bool {
        let mut found = self.read_on();
        if found == Found::End {
            if !generation(&self.path, self.generation + 1).exists() {
                return false;
            }
            // What was written between the look and the begin of the next file.
            found = self.read_on();
        }
        let next = match found {
            Found::Something => return true,
            Found::End => self.generation + 1,
            Found::Nothing => match self.first_after() {
                Some(next) => next,
                None => return false,
            },
        };
        if found == Found::Nothing {
            match self.begin {
                _ if self.offset > 0 || self.generation > 0 => notes.push(self.missing()),
                Begin::First => notes.push(self.missing()),
                Begin::After(_) => self.skipped = true,
                Begin::Late => {}
            }
        }
        self.rest.clear();
        (self.generation, self.offset) = (next, 0);
        true
    }

    fn missing(&self) -> String {
        format!(
            "lines of {} are missing: there were too many to keep, or to be read before they were overwritten",
            self.name
        )
    }

    fn read_on(&mut self) -> Found {
        let mut file = match File::open(generation(&self.path, self.generation)) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Found::Nothing,
            Err(_) => return Found::End,
        };
        let mut buffer = [0; READ_BYTES];
        let read = file
            .seek(SeekFrom::Start(self.offset))
            .and_then(|_| file.read(&mut buffer))
            .unwrap_or_default();
        if read == 0 {
            return Found::End;
        }
        self.offset += read as u64;
        self.rest.extend_from_slice(&buffer[..read]);
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
            if self.rest.len() > LONGEST {
                // No file of ours.
                self.rest.clear();
            }
            return Found::Something;
        };
        let rest = self.rest.split_off(end + 1);
        let whole = std::mem::replace(&mut self.rest, rest);
        for line in whole[..end].split(|byte| *byte == b'\n') {
            self.take(line);
        }
        Found::Something
    }

    fn take(&mut self, line: &[u8]) {
        if let Some(line) = line::parse(line) {
            self.ready.push_back(Ready {
                time: line.time,
                text: Bytes::copy_from_slice(line.text),
                continued: line.continued,
            });
        }
    }

    /// The number of the first file after the present one, which is gone: only the last two are kept.
    fn first_after(&self) -> Option<u32> {
        let name = self.path.file_name()?.to_str()?;
        let names = std::fs::read_dir(self.path.parent()?).ok()?;
        let numbers = names.filter_map(|entry| {
            let entry = entry.ok()?.file_name();
            let number = entry.to_str()?.strip_prefix(name)?.strip_prefix('.')?;
            number.parse().ok()
        });
        numbers.filter(|number| *number > self.generation).min()
    }
}

/// What was at the present place in the present file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Something,
    End,
    /// There is no such file.
    Nothing,
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use flame_core::NodeName;
    use flame_rpc::log_place::ReadPlace;
    use flame_rpc::node::StartExecutor;
    use tokio::sync::watch;

    use super::*;
    use crate::logs::runs::Runs;

    fn write(directory: &Path, name: &str, lines: &[&str]) {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        std::fs::write(directory.join(name), text).expect("writable");
    }

    /// All that a look finds.
    fn look(tail: &mut Tail) -> (Vec<String>, usize) {
        let (mut lines, mut notes) = (Vec::new(), Vec::new());
        while tail.head(false, &mut notes).is_some() {
            let line = tail.ready.pop_front().expect("there");
            lines.push(String::from_utf8_lossy(&line.text).into_owned());
        }
        (lines, notes.len())
    }

    fn found(lines: &[&str], notes: usize) -> (Vec<String>, usize) {
        (lines.iter().map(|line| (*line).to_owned()).collect(), notes)
    }

    #[test]
    fn one_file_follows_the_other_and_what_was_not_read_in_time_is_said() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let at = directory.path();
        let mut tail = Tail::new(at, "e1", LogOutput::Out, Begin::First);
        assert_eq!(look(&mut tail), found(&[], 0), "nothing is there yet");
        write(at, "e1.out", &["1 a"]);
        assert_eq!(look(&mut tail), found(&["a"], 0));
        write(at, "e1.out", &["1 a", "2 b", "no line of ours"]);
        write(at, "e1.out.1", &["3 c"]);
        assert_eq!(look(&mut tail), found(&["b", "c"], 0));
        // The end of the second was read, but the begin of the third is gone with it.
        std::fs::remove_file(at.join("e1.out")).expect("removed");
        std::fs::remove_file(at.join("e1.out.1")).expect("removed");
        write(at, "e1.out.2", &["4 d"]);
        write(at, "e1.out.3", &["5 e"]);
        assert_eq!(look(&mut tail), found(&["d", "e"], 1));
        let mut late = Tail::new(at, "e1", LogOutput::Out, Begin::First);
        assert_eq!(look(&mut late), found(&["d", "e"], 1), "the first are missing");
        let mut last = Tail::new(at, "e1", LogOutput::Out, Begin::Late);
        assert_eq!(look(&mut last), found(&["d", "e"], 0), "which nobody wants");
        for (time, notes) in [(3, 1), (4, 0)] {
            let mut again = Tail::new(at, "e1", LogOutput::Out, Begin::After(time));
            assert_eq!(look(&mut again), found(&["d", "e"], notes), "after {time}");
        }
    }

    #[test]
    fn a_line_without_an_end_waits_for_it_unless_nothing_more_comes() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mut tail = Tail::new(directory.path(), "e1", LogOutput::Err, Begin::First);
        std::fs::write(directory.path().join("e1.err"), "1 whole\n2 half").expect("writable");
        assert_eq!(look(&mut tail), found(&["whole"], 0));
        assert_eq!(tail.head(true, &mut Vec::new()), Some(2));
    }

    /// A line has the time of its first byte and is one with its last, so others come before it.
    #[tokio::test]
    async fn a_log_that_is_read_on_has_what_was_not_read_of_each_output() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mut runs = Runs::load(directory.path(), &NodeName::new("n1").expect("valid"));
        runs.began(&StartExecutor {
            executor_id: "e1".to_owned(),
            session_id: "s".to_owned(),
            ..StartExecutor::default()
        });
        let subject = Subject {
            runs: Arc::new(Mutex::new(runs)),
            session: "s".to_owned(),
            number: 0,
            task: 0,
        };
        let finish = watch::Sender::new(false);
        let read = async |place: &ReadPlace, count: usize| {
            let wanted = Wanted {
                lines: None,
                follow: true,
                after: After::place(place.clone()),
                finish: finish.subscribe(),
            };
            let mut files = Files::new(subject.clone(), wanted);
            let mut lines = Vec::new();
            while lines.len() < count {
                lines.extend(files.next().await.expect("readable").lines);
            }
            lines
        };
        let texts = |lines: &[LogLine]| -> Vec<String> {
            let text = |line: &LogLine| String::from_utf8_lossy(&line.text).into_owned();
            lines.iter().map(text).collect()
        };
        let begin = line::now();
        let at = |time: i64, text: &str| format!("{} {text}", begin + time);
        let path = |name: &str| directory.path().join(name);
        write(directory.path(), "e1.out", &[&at(1, "one"), &at(3, "three")]);
        std::fs::write(path("e1.err"), at(2, "ha")).expect("writable");
        let first = read(&ReadPlace::default(), 2).await;
        assert_eq!(texts(&first), ["one", "three"]);

        std::fs::write(path("e1.err"), at(2, "half\n")).expect("writable");
        write(
            directory.path(),
            "e1.out",
            &[&at(1, "one"), &at(3, "three"), &at(4, "four")],
        );
        let mut place = ReadPlace::default();
        first.iter().for_each(|line| place.took(line));
        assert_eq!(texts(&read(&place, 2).await), ["half", "four"]);
    }
}
