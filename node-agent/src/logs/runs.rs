//! Which executors have run on this node, for whom and when: on disk beside what they wrote, so that it can
//! be found later, also by the next run of the agent.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use flame_core::NodeName;
use flame_rpc::node::StartExecutor;
use serde::{Deserialize, Serialize};

use super::line::now;
use super::source::lock;
use super::tasks::{TaskNotes, Window};

/// Executors whose files are kept; those beyond it that wrote last are deleted first.
pub(super) const RUNS_KEPT: usize = 400;
/// Bytes of all files that are kept. Those of executors that run do not go, whatever they have.
pub(super) const BYTES_KEPT: u64 = 512 << 20;
/// Nothing is kept longer after it was written.
pub(super) const AGE_KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Starts of executors between two looks at what is too much.
const STARTS_PER_LOOK: usize = 16;
/// Endings of the files of an executor, before the number that later ones have.
const ENDINGS: [&str; 4] = ["run", "tasks", "out", "err"];

/// One executor, from its start to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run {
    /// The node that it ran on: several agents on a host share the directory.
    node: String,
    pub(super) executor: String,
    session: String,
    session_number: u64,
    application: String,
    /// Unix microseconds.
    pub(super) began: i64,
    pub(super) ended: Option<i64>,
    /// Id of its run as a unit of systemd: where its lines are in the journal, and not in files.
    pub(super) invocation: Option<String>,
}

impl Run {
    /// The time in which it wrote.
    pub(super) fn window(&self) -> Window {
        Window {
            begin: self.began,
            end: self.ended.unwrap_or(i64::MAX),
        }
    }
}

/// All that is known.
#[derive(Debug)]
pub(super) struct Runs {
    directory: PathBuf,
    node: String,
    known: BTreeMap<String, Run>,
    live: BTreeMap<String, TaskNotes>,
    /// Since the last look at what is too much.
    starts: usize,
}

impl Runs {
    /// Reads what earlier runs of the agent have left.
    pub(super) fn load(directory: &Path, node: &NodeName) -> Self {
        let mut runs = Self {
            directory: directory.to_path_buf(),
            node: node.to_string(),
            known: BTreeMap::new(),
            live: BTreeMap::new(),
            starts: STARTS_PER_LOOK,
        };
        let files = match list(directory) {
            Ok(files) => files,
            Err(error) => {
                tracing::warn!(%error, "cannot list {}", directory.display());
                return runs;
            }
        };
        for executor in files.into_keys() {
            // One that was broken off by a crash says nothing, and goes with its files.
            if let Ok(text) = std::fs::read(runs.path(&executor, "run"))
                && let Ok(run) = serde_json::from_slice::<Run>(&text)
                && run.node == runs.node
            {
                runs.known.insert(executor, run);
            }
        }
        runs
    }

    /// Where all files are.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn path(&self, executor: &str, ending: &str) -> PathBuf {
        self.directory.join(format!("{executor}.{ending}"))
    }

    /// An executor starts. Returns whether it is time for [`Runs::prune`].
    pub(super) fn began(&mut self, order: &StartExecutor) -> bool {
        let executor = order.executor_id.clone();
        let run = Run {
            node: self.node.clone(),
            executor: executor.clone(),
            session: order.session_id.clone(),
            session_number: order.session_number,
            application: order.application.clone(),
            began: now(),
            ended: None,
            invocation: None,
        };
        self.write(&run);
        self.known.insert(executor.clone(), run);
        self.live.insert(executor, TaskNotes::default());
        self.starts += 1;
        let due = self.starts >= STARTS_PER_LOOK;
        if due {
            self.starts = 0;
        }
        due
    }

    /// An executor of an earlier run of the agent goes on. Returns whether it is known.
    pub(super) fn goes_on(&mut self, executor: &str) -> bool {
        let is_known = self.known.contains_key(executor);
        if is_known {
            self.live.insert(executor.to_owned(), TaskNotes::default());
        }
        is_known
    }

    /// It is a unit of systemd, with this id.
    pub(super) fn runs_in(&mut self, executor: &str, invocation: String) {
        self.change(executor, |run| run.invocation = Some(invocation));
    }

    /// It is gone.
    pub(super) fn ended(&mut self, executor: &str) {
        self.write_notes(executor);
        self.live.remove(executor);
        self.change(executor, |run| run.ended = Some(now()));
    }

    fn change(&mut self, executor: &str, change: impl FnOnce(&mut Run)) {
        if let Some(run) = self.known.get_mut(executor) {
            change(run);
            let run = run.clone();
            self.write(&run);
        }
    }

    /// The notes about the tasks of an executor that runs, maybe since an earlier run of the agent.
    pub(super) fn notes(&mut self, executor: &str) -> Option<&mut TaskNotes> {
        if !self.live.contains_key(executor) {
            self.known.get(executor).filter(|run| run.ended.is_none())?;
            self.live.insert(executor.to_owned(), TaskNotes::default());
        }
        self.live.get_mut(executor)
    }

    /// Writes the notes about tasks of `executor` that are not written yet.
    pub(super) fn write_notes(&mut self, executor: &str) {
        let path = self.path(executor, "tasks");
        if let Some(notes) = self.live.get_mut(executor)
            && let Err(error) = notes.write(&path)
        {
            tracing::warn!(%error, "cannot write {}", path.display());
        }
    }

    fn write(&self, run: &Run) {
        let path = self.path(&run.executor, "run");
        let written = serde_json::to_vec(run)
            .map_err(io::Error::from)
            // Not synced: after a crash of the machine a file that is broken off is as good as none.
            .and_then(|text| {
                let mut options = OpenOptions::new();
                let options = options.write(true).create(true).truncate(true).mode(0o600);
                options.open(&path)?.write_all(&text)
            });
        if let Err(error) = written {
            tracing::warn!(%error, "what the executor writes will not be found: cannot write {}", path.display());
        }
    }

    /// The executors that served a session, those that began first first.
    pub(super) fn of_session(&self, session: &str, number: u64) -> Vec<Run> {
        let mut found: Vec<Run> = self
            .known
            .values()
            .filter(|run| run.session == session && run.session_number == number)
            .cloned()
            .collect();
        found.sort_by_key(|run| run.began);
        found
    }

    /// When a task that has not ended runs on `executor`.
    pub(super) fn running(&self, executor: &str, task: u64) -> Option<Window> {
        self.live.get(executor)?.running(task)
    }

    /// Forgets what is too old or too much, and returns its files.
    fn forget(&mut self, mut files: BTreeMap<String, Group>, limits: Limits) -> Vec<PathBuf> {
        let mut kept: Vec<(SystemTime, u64, String)> = Vec::new();
        let mut goes = Vec::new();
        let oldest = SystemTime::now().checked_sub(limits.age);
        for (executor, group) in &files {
            if self.live.contains_key(executor) {
                continue;
            }
            if oldest.is_some_and(|oldest| group.modified < oldest) {
                goes.push(executor.clone());
            // Those of other agents are theirs to count.
            } else if self.known.contains_key(executor) {
                kept.push((group.modified, group.bytes, executor.clone()));
            }
        }
        kept.sort_unstable();
        let (mut count, mut bytes) = (kept.len(), kept.iter().map(|(_, bytes, _)| bytes).sum::<u64>());
        for (_, size, executor) in kept {
            if count <= limits.runs && bytes <= limits.bytes {
                break;
            }
            count -= 1;
            bytes -= size;
            goes.push(executor);
        }
        let mut paths = Vec::new();
        for executor in goes {
            self.known.remove(&executor);
            paths.extend(files.remove(&executor).into_iter().flat_map(|group| group.paths));
        }
        paths
    }
}

impl Drop for Runs {
    /// Executors may go on under the next run of the agent.
    fn drop(&mut self) {
        let live: Vec<String> = self.live.keys().cloned().collect();
        live.iter().for_each(|executor| self.write_notes(executor));
    }
}

/// Deletes what is too old or too much. The agent goes on meanwhile.
///
/// # Errors
/// The directory cannot be listed.
pub(super) fn prune(runs: &Mutex<Runs>, limits: Limits) -> io::Result<()> {
    let directory = lock(runs).directory.clone();
    let files = list(&directory)?;
    let goes = lock(runs).forget(files, limits);
    for path in goes {
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(%error, "cannot remove {}", path.display());
        }
    }
    Ok(())
}

/// What is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) runs: usize,
    pub(super) bytes: u64,
    pub(super) age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            runs: RUNS_KEPT,
            bytes: BYTES_KEPT,
            age: AGE_KEPT,
        }
    }
}

/// The files of one executor.
#[derive(Debug)]
struct Group {
    paths: Vec<PathBuf>,
    bytes: u64,
    modified: SystemTime,
}

fn list(directory: &Path) -> io::Result<BTreeMap<String, Group>> {
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(executor) = executor_of(&name) else {
            continue;
        };
        // One that is gone meanwhile does not count.
        let Ok(metadata) = entry.metadata() else { continue };
        let group = groups.entry(executor.to_owned()).or_insert_with(|| Group {
            paths: Vec::new(),
            bytes: 0,
            modified: SystemTime::UNIX_EPOCH,
        });
        group.paths.push(entry.path());
        group.bytes += metadata.len();
        group.modified = group
            .modified
            .max(metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH));
    }
    Ok(groups)
}

/// Whose file has that name; nothing if it is no executor's.
fn executor_of(name: &OsStr) -> Option<&str> {
    let (rest, last) = name.to_str()?.rsplit_once('.')?;
    if ENDINGS.contains(&last) {
        return Some(rest);
    }
    last.parse::<u32>().ok()?;
    let (executor, ending) = rest.rsplit_once('.')?;
    ENDINGS.contains(&ending).then_some(executor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::tasks;

    fn node(name: &str) -> NodeName {
        NodeName::new(name).expect("valid")
    }

    fn order(executor: &str, session: &str, session_number: u64) -> StartExecutor {
        StartExecutor {
            executor_id: executor.to_owned(),
            session_id: session.to_owned(),
            session_number,
            ..StartExecutor::default()
        }
    }

    fn names(runs: &[Run]) -> Vec<&str> {
        runs.iter().map(|run| run.executor.as_str()).collect()
    }

    #[test]
    fn what_ran_is_found_by_its_session_also_by_the_next_agent() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mut runs = Runs::load(directory.path(), &node("n1"));
        for (executor, session, number) in [
            ("e1-2", "s", 4),
            ("e1-1", "s", 4),
            ("e1-3", "s", 5),
            ("e1-4", "t", 6),
        ] {
            runs.began(&order(executor, session, number));
        }
        runs.runs_in("e1-1", "ab".to_owned());
        runs.notes("e1-1").expect("runs").ended(7, 50, 20);
        runs.ended("e1-1");
        runs.notes("e1-2").expect("runs").ended(8, 60, 20);
        assert_eq!(
            names(&runs.of_session("s", 5)),
            ["e1-3"],
            "another session of that id"
        );
        drop(runs);
        std::fs::write(directory.path().join("e1-9.run"), "{").expect("writable");
        let mut runs = Runs::load(directory.path(), &node("n1"));
        let found = runs.of_session("s", 4);
        assert_eq!(names(&found), ["e1-2", "e1-1"], "by their begin");
        assert_eq!(found[1].invocation.as_deref(), Some("ab"));
        assert!(found[1].ended.is_some() && found[0].ended.is_none());
        assert!(runs.notes("e1-2").is_some(), "it goes on under this agent");
        assert_eq!(
            tasks::windows(&runs.path("e1-2", "tasks"), 8),
            [Window { begin: 40, end: 60 }]
        );
        assert!(runs.notes("e1-1").is_none() && runs.notes("e1-9").is_none());
        assert_eq!(
            tasks::windows(&runs.path("e1-1", "tasks"), 7),
            [Window { begin: 30, end: 50 }]
        );
        let others = Runs::load(directory.path(), &node("n2"));
        assert!(
            others.of_session("s", 4).is_empty(),
            "of another agent on the host"
        );
    }

    #[test]
    fn the_oldest_go_first_and_those_that_run_stay() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mut runs = Runs::load(directory.path(), &node("n1"));
        let looks: usize = (1..=STARTS_PER_LOOK * 3)
            .map(|number| {
                let executor = format!("e1-{number}");
                let due = runs.began(&order(&executor, "s", 1));
                if number > 2 {
                    runs.ended(&executor);
                }
                usize::from(due)
            })
            .sum();
        assert!((2..=4).contains(&looks), "{looks}");
        let long_ago = SystemTime::now() - Duration::from_secs(1000);
        for (number, name) in [
            "e1-1.out",
            "e1-3.out",
            "e1-3.err.4",
            "e1-3.run",
            "e1-4.run",
            "x.out",
            "other.txt",
        ]
        .iter()
        .zip(0..)
        .map(|(name, number)| (number, directory.path().join(name)))
        {
            let file = std::fs::OpenOptions::new().append(true).create(true).open(name);
            let file = file.expect("writable");
            file.set_modified(long_ago + Duration::from_secs(number))
                .expect("set");
        }
        let limits = Limits {
            runs: STARTS_PER_LOOK * 3 - 3,
            ..Limits::default()
        };
        let runs = Mutex::new(runs);
        prune(&runs, limits).expect("listed");
        let left: Vec<String> = list(directory.path()).expect("listed").into_keys().collect();
        assert!(!left.contains(&"e1-3".to_owned()), "{left:?}");
        for name in ["e1-1", "e1-2", "e1-4", "x"] {
            assert!(left.contains(&name.to_owned()), "{name} of {left:?}");
        }
        assert_eq!(lock(&runs).of_session("s", 1).len(), STARTS_PER_LOOK * 3 - 1);
        let bytes = Limits { bytes: 0, ..limits };
        prune(&runs, bytes).expect("listed");
        assert_eq!(names(&lock(&runs).of_session("s", 1)), ["e1-1", "e1-2"]);
        let age = Limits {
            age: Duration::from_secs(500),
            ..limits
        };
        prune(&runs, age).expect("listed");
        let left: Vec<String> = list(directory.path()).expect("listed").into_keys().collect();
        assert_eq!(
            left,
            ["e1-1", "e1-2"],
            "files that nobody knows go when they are old"
        );
        assert!(directory.path().join("other.txt").exists());
    }
}
