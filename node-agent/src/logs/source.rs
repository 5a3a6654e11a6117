//! Where lines come from: files or the journal.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flame_rpc::log_place::{After, ReadPlace};
use flame_rpc::node::OpenLog;
use flame_rpc::v1::LogLine;
use futures::future::BoxFuture;
use tokio::sync::watch;

use super::runs::{Run, Runs};
use super::tasks::{self, Window};

/// About as many bytes of lines are sent together.
pub(super) const CHUNK_BYTES: usize = 32 << 10;
/// What a line costs beside its text.
pub(super) const LINE_COST: usize = 64;
/// Lines that a reader may ask for as the last ones.
const LAST_LINES: usize = 100_000;
/// A line may get its time a little before its task is known to have begun, or after it is known to have ended,
/// in microseconds: journald has more to do than the agent, which reads outputs as they come.
const BEFORE_TASK: i64 = 1_000;
const AFTER_TASK: i64 = 5_000;
const AFTER_TASK_IN_JOURNAL: i64 = 20_000;

/// Lines of one log, in the order of their times.
pub(super) trait Source: Send {
    /// The next lines, when there are some, or something else to tell. Not to be asked again after one that is over.
    ///
    /// # Errors
    /// Why there are none, in words.
    fn next(&mut self) -> BoxFuture<'_, Result<Batch, String>>;
}

/// Lines that came together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) lines: Vec<LogLine>,
    pub(super) notes: Vec<String>,
    /// Where the log begins, in Unix microseconds, as soon as that is known; 0 is with the first line of all.
    pub(super) begin: Option<i64>,
    /// With these, all that was there is told.
    pub(super) caught_up: bool,
    /// There will be no more.
    pub(super) over: bool,
    /// Executors that were looked at.
    pub(super) executors: usize,
}

/// What a reader wants.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) lines: Option<usize>,
    pub(super) follow: bool,
    pub(super) after: After,
    /// True when nothing more will be written.
    pub(super) finish: watch::Receiver<bool>,
}

impl Wanted {
    pub(super) fn new(order: &OpenLog, finish: watch::Receiver<bool>) -> Self {
        let lines = order.lines.and_then(|lines| usize::try_from(lines).ok());
        let (after, goes_on) = match (&order.place, order.after) {
            (Some(place), _) => (After::place(place.clone().into()), true),
            (None, Some(position)) => (After::position(position), true),
            (None, None) => (After::place(ReadPlace::default()), false),
        };
        Self {
            lines: lines.map(|lines| lines.min(LAST_LINES)).filter(|_| !goes_on),
            follow: order.follow,
            after,
            finish,
        }
    }

    /// Whether lines that are not there yet are wanted.
    pub(super) fn goes_on(&self) -> bool {
        self.follow && !*self.finish.borrow()
    }
}

/// The executors that a log is about.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub(super) runs: Arc<Mutex<Runs>>,
    pub(super) session: String,
    pub(super) number: u64,
    /// 0 is all of them.
    pub(super) task: u64,
}

/// An executor, and when it wrote what is wanted.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) run: Run,
    pub(super) windows: Vec<Window>,
}

impl Part {
    pub(super) fn wants(&self, time: i64) -> bool {
        self.windows.iter().any(|window| window.contains(time))
    }
}

pub(super) fn lock(runs: &Mutex<Runs>) -> MutexGuard<'_, Runs> {
    runs.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Subject {
    /// Those that have run by now. Reads files.
    pub(super) fn parts(&self) -> Vec<Part> {
        // The agent's loop must not wait for files.
        let found: Vec<(Run, Option<Window>, PathBuf)> = {
            let mut runs = lock(&self.runs);
            let found = runs.of_session(&self.session, self.number).into_iter();
            let found = found.map(|run| {
                if self.task != 0 {
                    runs.write_notes(&run.executor);
                }
                let running = runs.running(&run.executor, self.task);
                let notes = runs.path(&run.executor, "tasks");
                (run, running, notes)
            });
            found.collect()
        };
        let part = |(run, running, notes): (Run, Option<Window>, PathBuf)| {
            let whole = run.window();
            let after = match run.invocation {
                Some(_) => AFTER_TASK_IN_JOURNAL,
                None => AFTER_TASK,
            };
            let windows = match self.task {
                0 => vec![whole],
                task => {
                    let windows = tasks::windows(&notes, task).into_iter().chain(running);
                    // What a process had written for another session is none of its lines.
                    let within = windows.map(|window| Window {
                        begin: (window.begin - BEFORE_TASK).max(whole.begin),
                        end: window.end.saturating_add(after).min(whole.end),
                    });
                    within.collect()
                }
            };
            Part { run, windows }
        };
        found.into_iter().map(part).collect()
    }
}
