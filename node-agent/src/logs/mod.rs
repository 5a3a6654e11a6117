//! Logs: what executors write is kept, found by session and task, and sent to the session manager for whoever reads
//! it. Each log is read by a task of its own that sends no more than it has credit for, behind everything else that the
//! agent has to say.

mod files;
mod journal;
pub(crate) mod line;
mod runs;
mod source;
mod tasks;

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flame_core::NodeName;
use flame_rpc::node::{
    FromAgent, LogChunk, LogEnd, LogOrder, OpenLog, StartExecutor, TaskAttempt, TaskDone, TaskItem,
    from_agent, log_order, open_log,
};
use flame_rpc::v1::LogPlace;
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, stream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::AbortHandle;

use files::Files;
pub(crate) use journal::{JOURNALCTL, Message};
use journal::{Journal, Whose};
use runs::{Limits, Runs};
use source::{Batch, Source, Subject, Wanted, lock};

/// Logs that are read on this node at the same time. Each may have a few chunks under way, so this bounds what a
/// result may have to wait for on a slow line, too.
const MAX_LOGS: usize = 16;
/// Chunks of a log that may be under way, whatever the manager allows.
const MAX_CREDIT: u32 = 4;
/// Chunks of all logs between their tasks and the connection.
const OUTBOUND: usize = 1;
/// How often it is looked whether a session has executors here by now.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Where a process sees which unit it runs in.
const CGROUPS: &str = "/proc/self/cgroup";

/// What has been written on this node, and who reads it.
pub struct Logs {
    runs: Arc<Mutex<Runs>>,
    out: Option<mpsc::Sender<FromAgent>>,
    readers: HashMap<u64, Reader>,
    journalctl: OsString,
    /// The agent's own unit, if its log is in the journal.
    unit: Option<String>,
}

/// A log that is being read, until this is dropped.
struct Reader {
    credit: Arc<Semaphore>,
    finish: watch::Sender<bool>,
    task: AbortHandle,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Logs {
    /// Knows what earlier runs of the agent of `node` have left in `directory`.
    #[must_use]
    pub fn new(directory: &Path, node: &NodeName) -> Self {
        let in_journal = flame_systemd::logging::is_in_journal();
        let unit = in_journal
            .then(|| std::fs::read_to_string(CGROUPS).ok())
            .flatten();
        Self {
            runs: Arc::new(Mutex::new(Runs::load(directory, node))),
            out: None,
            readers: HashMap::new(),
            journalctl: JOURNALCTL.into(),
            unit: unit.as_deref().and_then(journal::own_unit),
        }
    }

    /// An executor is about to start.
    pub fn began(&mut self, order: &StartExecutor) {
        let due = lock(&self.runs).began(order);
        if due {
            let runs = self.runs.clone();
            tokio::task::spawn_blocking(move || {
                if let Err(error) = runs::prune(&runs, Limits::default()) {
                    tracing::warn!(%error, "cannot look for old outputs of executors");
                }
            });
        }
    }

    /// An executor of an earlier run of the agent goes on: what it has written belongs to the same run of it.
    pub fn goes_on(&mut self, order: &StartExecutor) {
        let is_known = lock(&self.runs).goes_on(&order.executor_id);
        if !is_known {
            self.began(order);
        }
    }

    /// Its lines are in the journal, under this id of its unit's run.
    pub fn runs_in(&mut self, executor: &str, invocation: String) {
        lock(&self.runs).runs_in(executor, invocation);
    }

    /// It has got these tasks.
    pub fn handed_out(&mut self, executor: &str, tasks: &[TaskItem]) {
        let now = line::now();
        if let Some(notes) = lock(&self.runs).notes(executor) {
            tasks.iter().for_each(|task| notes.handed_out(task.task_id, now));
        }
    }

    /// It has given them back.
    pub fn returned(&mut self, executor: &str, tasks: &[TaskAttempt]) {
        if let Some(notes) = lock(&self.runs).notes(executor) {
            tasks.iter().for_each(|task| notes.returned(task.task_id));
        }
    }

    /// It has ended them, the last one just now.
    pub fn done(&mut self, executor: &str, done: &[TaskDone]) {
        let mut runs = lock(&self.runs);
        let Some(notes) = runs.notes(executor) else { return };
        let mut full = false;
        // Results that come together ended one after the other.
        let mut end = line::now();
        for done in done.iter().rev() {
            full |= notes.ended(done.task_id, end, done.duration_us);
            end = end.saturating_sub(i64::try_from(done.duration_us).unwrap_or(i64::MAX));
        }
        if full {
            runs.write_notes(executor);
        }
    }

    /// It is gone.
    pub fn ended(&mut self, executor: &str) {
        lock(&self.runs).ended(executor);
    }

    /// There is a link to the session manager, which takes chunks through `out`.
    pub fn link_up(&mut self, out: mpsc::Sender<FromAgent>) {
        self.link_down();
        self.out = Some(out);
    }

    /// There is none any more, and nobody reads.
    pub fn link_down(&mut self) {
        self.readers.clear();
        self.out = None;
    }

    /// What the session manager wants of a log.
    pub fn order(&mut self, order: LogOrder) {
        match order.order {
            Some(log_order::Order::Open(open)) => self.open(order.log, &open),
            Some(log_order::Order::Credit(chunks)) => {
                if let Some(reader) = self.readers.get(&order.log) {
                    add_credit(&reader.credit, chunks);
                }
            }
            Some(log_order::Order::Finish(_)) => {
                if let Some(reader) = self.readers.get(&order.log) {
                    reader.finish.send_replace(true);
                }
            }
            Some(log_order::Order::Close(_)) => drop(self.readers.remove(&order.log)),
            // Of a newer manager; what it means is not known here.
            None => {}
        }
    }

    fn open(&mut self, log: u64, order: &OpenLog) {
        let Some(out) = self.out.clone() else { return };
        self.readers.retain(|_, reader| !reader.task.is_finished());
        let (finish, finished) = watch::channel(false);
        let credit = Arc::new(Semaphore::new(0));
        add_credit(&credit, order.credit.max(1));
        let source = match self.readers.len() {
            MAX_LOGS.. => Err(format!("the node sends {MAX_LOGS} logs already")),
            _ => self.source(order, finished),
        };
        let task = tokio::spawn(read(log, source, credit.clone(), out)).abort_handle();
        self.readers.insert(log, Reader { credit, finish, task });
    }

    fn source(&self, order: &OpenLog, finish: watch::Receiver<bool>) -> Result<Box<dyn Source>, String> {
        let wanted = Wanted::new(order, finish);
        let journalctl = self.journalctl.clone();
        match &order.source {
            Some(open_log::Source::Session(session)) => Ok(Box::new(SessionSource {
                subject: Subject {
                    runs: self.runs.clone(),
                    session: session.session_id.clone(),
                    number: session.session_number,
                    task: session.task_id,
                },
                wanted,
                journalctl,
                source: None,
                waits: false,
            })),
            Some(open_log::Source::Agent(_)) => match &self.unit {
                Some(unit) => Ok(Box::new(Journal::new(
                    journalctl,
                    Whose::Unit(unit.clone()),
                    wanted,
                ))),
                None => Err(
                    "the agent was not started by systemd: its log is where its standard error goes"
                        .to_owned(),
                ),
            },
            None => Err("this agent does not have logs of that kind".to_owned()),
        }
    }
}

/// Credit that is not used does not grow.
fn add_credit(credit: &Semaphore, chunks: u32) {
    let room = (MAX_CREDIT as usize).saturating_sub(credit.available_permits());
    credit.add_permits(room.min(chunks as usize));
}

/// The messages to the session manager: chunks of logs go only when there is nothing else. Ends with `messages`.
pub(crate) fn behind(
    mut messages: mpsc::Receiver<FromAgent>,
) -> (mpsc::Sender<FromAgent>, impl Stream<Item = FromAgent>) {
    let (sender, mut chunks) = mpsc::channel(OUTBOUND);
    let merged = stream::poll_fn(move |context| {
        use std::task::Poll::{Pending, Ready};
        match messages.poll_recv(context) {
            Ready(message) => Ready(message),
            Pending => match chunks.poll_recv(context) {
                Ready(Some(chunk)) => Ready(Some(chunk)),
                Ready(None) | Pending => Pending,
            },
        }
    });
    (sender, merged)
}

/// Sends the lines of `source` as credit allows, until they are over.
async fn read(
    log: u64,
    source: Result<Box<dyn Source>, String>,
    credit: Arc<Semaphore>,
    out: mpsc::Sender<FromAgent>,
) {
    let mut source = source.map_err(Some);
    loop {
        let Ok(permit) = credit.acquire().await else {
            return;
        };
        permit.forget();
        let batch = match &mut source {
            Ok(source) => source.next().await,
            Err(error) => Err(error.take().unwrap_or_default()),
        };
        let chunk = match batch {
            Ok(batch) => LogChunk {
                log,
                lines: batch.lines,
                notes: batch.notes,
                caught_up: batch.caught_up,
                place: batch.begin.map(|begin_us| LogPlace {
                    begin_us,
                    ..LogPlace::default()
                }),
                end: batch.over.then(|| LogEnd {
                    error: None,
                    executors: u32::try_from(batch.executors).unwrap_or(u32::MAX),
                }),
            },
            Err(error) => LogChunk {
                log,
                end: Some(LogEnd {
                    error: Some(error),
                    executors: 0,
                }),
                ..LogChunk::default()
            },
        };
        let over = chunk.end.is_some();
        let message = FromAgent {
            message: Some(from_agent::Message::Log(chunk)),
        };
        if out.send(message).await.is_err() || over {
            return;
        }
    }
}

/// The lines of a session, which are in files or in the journal: that is known when it has executors.
struct SessionSource {
    subject: Subject,
    wanted: Wanted,
    journalctl: OsString,
    source: Option<Box<dyn Source>>,
    /// It was told that there is nothing yet.
    waits: bool,
}

impl SessionSource {
    async fn read(&mut self) -> Result<Batch, String> {
        loop {
            if let Some(source) = &mut self.source {
                return source.next().await;
            }
            let goes_on = self.wanted.goes_on();
            let place = self.place();
            if place.is_some() || !goes_on {
                let (subject, wanted) = (self.subject.clone(), self.wanted.clone());
                self.source = Some(match place {
                    Some(Place::Journal) => Box::new(Journal::new(
                        self.journalctl.clone(),
                        Whose::Session(subject),
                        wanted,
                    )),
                    Some(Place::Files) | None => Box::new(Files::new(subject, wanted)),
                });
                continue;
            }
            if !std::mem::replace(&mut self.waits, true) {
                // What comes from now on is new, and none of the last lines.
                self.wanted.lines = None;
                return Ok(Batch {
                    caught_up: true,
                    begin: Some(self.wanted.after.begin_us()),
                    ..Batch::default()
                });
            }
            let mut finish = self.wanted.finish.clone();
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                _ = finish.wait_for(|finish| *finish) => {}
            }
        }
    }

    /// Where executors of the session write; nothing if none has begun to.
    fn place(&self) -> Option<Place> {
        let runs = lock(&self.subject.runs);
        let found = runs.of_session(&self.subject.session, self.subject.number);
        if found.iter().any(|run| run.invocation.is_some()) {
            return Some(Place::Journal);
        }
        let writes = found.iter().any(|run| runs.path(&run.executor, "out").exists());
        writes.then_some(Place::Files)
    }
}

enum Place {
    Files,
    Journal,
}

impl Source for SessionSource {
    fn next(&mut self) -> BoxFuture<'_, Result<Batch, String>> {
        self.read().boxed()
    }
}
