//! Runs the core. One thread owns the core and applies commands in batches; one thread owns the
//! store and makes each batch's records durable in one transaction. A reply, and news for
//! watchers, leave only when everything the batch decided is durable; the next batch is applied
//! meanwhile.
//!
//! If the store fails (disk full), the batch is kept and tried again until it succeeds: nothing
//! that was applied is forgotten. Until then new work is refused and reads go on.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use flame_rpc::node::ToAgent;
use tokio::sync::{mpsc, oneshot};

use crate::core::{
    Core, CoreError, Effects, LinkId, Notice, NoticeLevel, Now, SessionKey, Summary, TaskKey, TaskRow,
};
use crate::store::{Record, Store, StoreError};
use crate::watch::{Watch, Watchers};

/// Commands that are applied before their records are handed to the store: enough that one sync
/// serves all clients of a busy cluster, few enough that a batch takes milliseconds.
const MAX_BATCH: usize = 4096;

/// Wait between two tries to store a batch.
const STORE_RETRY: Duration = Duration::from_millis(500);

/// Sends a reply, or the reason why there is none.
type Release = Box<dyn FnOnce(Result<(), CoreError>) + Send>;
/// A command: applied to the core, it leaves effects and a reply.
type Job = Box<dyn FnOnce(&mut Core, Now, &mut Effects) -> Release + Send>;

/// What one batch leaves to be done after it is durable.
#[derive(Default)]
struct Batch {
    records: Vec<Record>,
    replies: Vec<Release>,
    answers: Vec<(LinkId, ToAgent)>,
    updates: Vec<Arc<TaskRow>>,
    closed: Vec<SessionKey>,
    hang_up: Vec<LinkId>,
}

/// Streams to the agents.
#[derive(Debug, Default)]
struct Links {
    senders: Mutex<HashMap<LinkId, mpsc::UnboundedSender<ToAgent>>>,
    last: AtomicU64,
}

/// The way to the core; cheap to clone.
#[derive(Clone)]
pub struct Engine {
    jobs: Sender<Job>,
    watchers: Arc<Watchers>,
    links: Arc<Links>,
    failed: Arc<StoreHealth>,
}

/// The engine's threads; they end when the last [`Engine`] is gone.
pub struct EngineThreads {
    core: JoinHandle<()>,
    store: JoinHandle<()>,
}

/// Whether the last commit failed, and why.
#[derive(Default)]
struct StoreHealth {
    failed: AtomicBool,
    reason: Mutex<String>,
}

impl StoreHealth {
    fn check(&self) -> Result<(), CoreError> {
        if !self.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        let reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        Err(CoreError::Unavailable(format!(
            "the session manager {reason}; nothing new is taken until that works again"
        )))
    }

    fn set(&self, reason: Option<String>) {
        self.failed.store(reason.is_some(), Ordering::Release);
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = reason.unwrap_or_default();
    }
}

impl Engine {
    /// Starts the threads that own `core` and `store`.
    ///
    /// # Errors
    /// The threads cannot be started.
    pub fn start(core: Core, store: Box<dyn Store>) -> std::io::Result<(Self, EngineThreads)> {
        let (jobs, job_queue) = channel();
        // One batch waits while another is stored; the core goes on with a third.
        let (batches, batch_queue) = sync_channel(1);
        let engine = Self {
            jobs,
            watchers: Arc::new(Watchers::default()),
            links: Arc::new(Links::default()),
            failed: Arc::new(StoreHealth::default()),
        };
        let outstanding = Arc::new(AtomicU64::new(0));
        let shared = |engine: &Self| Shared {
            watchers: Arc::clone(&engine.watchers),
            links: Arc::clone(&engine.links),
            failed: Arc::clone(&engine.failed),
            outstanding: Arc::clone(&outstanding),
        };
        let (for_core, for_store) = (shared(&engine), shared(&engine));
        let core = std::thread::Builder::new()
            .name("core".to_owned())
            .spawn(move || run_core(core, &job_queue, &batches, &for_core))?;
        let store = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || run_store(store, &batch_queue, &for_store))?;
        Ok((engine, EngineThreads { core, store }))
    }

    /// Applies a command that reads. The reply comes when all that it shows is durable.
    ///
    /// # Errors
    /// Those of the command, or [`CoreError::Unavailable`] while the daemon stops.
    pub async fn read<T: Send + 'static>(
        &self,
        command: impl FnOnce(&mut Core, Now, &mut Effects) -> Result<T, CoreError> + Send + 'static,
    ) -> Result<T, CoreError> {
        let (sender, receiver) = oneshot::channel();
        self.post(move |core, now, fx| {
            let result = command(core, now, fx);
            Box::new(move |durable| {
                // A client that went away does not want its reply.
                let _gone = sender.send(durable.and(result));
            })
        });
        receiver.await.unwrap_or_else(|_| {
            Err(CoreError::Unavailable(
                "the session manager is stopping".to_owned(),
            ))
        })
    }

    /// Applies a command of a client that changes something. The reply comes when the change is
    /// durable.
    ///
    /// # Errors
    /// As [`Engine::read`], and [`CoreError::Unavailable`] while the state cannot be stored.
    pub async fn write<T: Send + 'static>(
        &self,
        command: impl FnOnce(&mut Core, Now, &mut Effects) -> Result<T, CoreError> + Send + 'static,
    ) -> Result<T, CoreError> {
        self.failed.check()?;
        self.read(command).await
    }

    /// Applies a command that nobody waits for.
    pub fn tell(&self, command: impl FnOnce(&mut Core, Now, &mut Effects) + Send + 'static) {
        self.post(move |core, now, fx| {
            command(core, now, fx);
            Box::new(|_| {})
        });
    }

    fn post(&self, job: impl FnOnce(&mut Core, Now, &mut Effects) -> Release + Send + 'static) {
        // The core thread ends only when every Engine is gone, or by a bug that has been logged.
        let _ended = self.jobs.send(Box::new(job));
    }

    /// Numbers for the STATUS line, through the core and the store: proof that both work.
    ///
    /// # Errors
    /// As [`Engine::read`].
    pub async fn summary(&self) -> Result<Summary, CoreError> {
        self.read(|core, _, _| Ok(core.summary())).await
    }

    /// Why the state cannot be stored at the moment, if that is so.
    #[must_use]
    pub fn store_failure(&self) -> Option<String> {
        self.failed.check().err().map(|error| error.to_string())
    }

    /// Watches `task` from now on. To miss nothing, start before its state is read.
    pub(crate) fn watch(&self, task: TaskKey) -> Watch {
        self.watchers.watch(task)
    }

    /// Watches the ends of a session's tasks from now on.
    pub(crate) fn watch_session(&self, session: SessionKey) -> mpsc::Receiver<Arc<TaskRow>> {
        self.watchers.watch_session(session)
    }

    /// A new link to an agent, and what the core sends on it.
    pub(crate) fn open_link(&self) -> (LinkId, mpsc::UnboundedReceiver<ToAgent>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let link = self.links.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.links
            .senders
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(link, sender);
        (link, receiver)
    }

    /// Ends a link: nothing is sent on it any more.
    pub(crate) fn close_link(&self, link: LinkId) {
        self.links.close(link);
    }
}

impl EngineThreads {
    /// Waits until everything that was posted is durable and the threads have ended. All
    /// [`Engine`]s have to be gone.
    pub fn join(self) {
        for (name, thread) in [("core", self.core), ("store", self.store)] {
            if thread.join().is_err() {
                tracing::error!("the {name} thread had panicked");
            }
        }
    }
}

impl Links {
    fn send(&self, messages: Vec<(LinkId, ToAgent)>) {
        if messages.is_empty() {
            return;
        }
        let senders = self.senders.lock().unwrap_or_else(PoisonError::into_inner);
        for (link, message) in messages {
            if let Some(sender) = senders.get(&link) {
                // If the stream has ended, the core is told so and requeues what was lost.
                let _ended = sender.send(message);
            }
        }
    }

    fn close(&self, link: LinkId) {
        self.senders
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&link);
    }
}

/// What both threads use.
struct Shared {
    watchers: Arc<Watchers>,
    links: Arc<Links>,
    failed: Arc<StoreHealth>,
    /// Batches that are on their way through the store.
    outstanding: Arc<AtomicU64>,
}

impl Shared {
    fn release(&self, batch: Batch) {
        self.links.send(batch.answers);
        for link in batch.hang_up {
            self.links.close(link);
        }
        self.watchers.publish(batch.updates, &batch.closed);
        for reply in batch.replies {
            reply(Ok(()));
        }
    }
}

fn run_core(mut core: Core, jobs: &Receiver<Job>, batches: &SyncSender<Batch>, shared: &Shared) {
    let started = Instant::now();
    let clock = || Now {
        wall: unix_millis(),
        mono: started.elapsed(),
    };
    loop {
        let now = clock();
        let first = match core.next_deadline(now) {
            None => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(at) => jobs.recv_timeout(at.saturating_sub(now.mono)),
        };
        if matches!(first, Err(RecvTimeoutError::Disconnected)) {
            return;
        }
        let now = clock();
        let mut fx = Effects::default();
        let mut replies = Vec::new();
        for job in first.into_iter().chain(jobs.try_iter()).take(MAX_BATCH) {
            replies.push(job(&mut core, now, &mut fx));
        }
        core.settle(now, &mut fx);
        shared.links.send(fx.orders);
        fx.notices.iter().for_each(log);
        let Effects {
            records,
            answers,
            updates,
            closed,
            hang_up,
            ..
        } = fx;
        let batch = Batch {
            records,
            replies,
            answers,
            updates,
            closed,
            hang_up,
        };
        let nothing_to_wait_for = batch.records.is_empty() && shared.outstanding.load(Ordering::Acquire) == 0;
        if nothing_to_wait_for {
            shared.release(batch);
        } else {
            shared.outstanding.fetch_add(1, Ordering::AcqRel);
            if batches.send(batch).is_err() {
                return;
            }
        }
    }
}

fn run_store(mut store: Box<dyn Store>, batches: &Receiver<Batch>, shared: &Shared) {
    while let Ok(mut batch) = batches.recv() {
        // What came meanwhile shares the transaction.
        let mut merged = 1;
        while let Ok(more) = batches.try_recv() {
            batch.merge(more);
            merged += 1;
        }
        if let Err(error) = commit(store.as_mut(), &batch) {
            merged += hold_out(store.as_mut(), &mut batch, error, batches, shared);
        }
        shared.release(batch);
        shared.outstanding.fetch_sub(merged, Ordering::AcqRel);
    }
}

fn commit(store: &mut dyn Store, batch: &Batch) -> Result<(), StoreError> {
    if batch.records.is_empty() {
        Ok(())
    } else {
        store.commit(&batch.records)
    }
}

/// Keeps the batch that could not be stored, and what comes after it, until storing works again.
/// Clients that wait for a change are told at once, those that read get their answer. Returns
/// how many more batches went into this one.
fn hold_out(
    store: &mut dyn Store,
    batch: &mut Batch,
    mut error: StoreError,
    batches: &Receiver<Batch>,
    shared: &Shared,
) -> u64 {
    tracing::error!(%error, "state cannot be stored; nothing new is taken, and storing is tried again");
    let mut merged = 0;
    loop {
        shared.failed.set(Some(error.to_string()));
        batch.refuse_replies(&error);
        let retry_at = Instant::now() + STORE_RETRY;
        // Also when the daemon stops: it has a limit of its own, and space may come back.
        while let Some(wait) = retry_at.checked_duration_since(Instant::now()) {
            match batches.recv_timeout(wait) {
                Ok(mut more) => {
                    if more.records.is_empty() {
                        more.replies.drain(..).for_each(|reply| reply(Ok(())));
                    } else {
                        more.refuse_replies(&error);
                    }
                    batch.merge(more);
                    merged += 1;
                }
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(wait),
            }
        }
        match commit(store, batch) {
            Ok(()) => break,
            Err(again) => error = again,
        }
    }
    shared.failed.set(None);
    tracing::info!("state can be stored again");
    merged
}

impl Batch {
    fn merge(&mut self, more: Self) {
        self.records.extend(more.records);
        self.replies.extend(more.replies);
        self.answers.extend(more.answers);
        self.updates.extend(more.updates);
        self.closed.extend(more.closed);
        self.hang_up.extend(more.hang_up);
    }

    fn refuse_replies(&mut self, error: &StoreError) {
        let text = format!("the session manager {error}; whether this request takes effect is not known yet");
        for reply in self.replies.drain(..) {
            reply(Err(CoreError::Unavailable(text.clone())));
        }
    }
}

fn unix_millis() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn log(notice: &Notice) {
    let session = notice.session.as_ref().map(tracing::field::display);
    let node = notice.node.as_ref().map(tracing::field::display);
    let executor = notice.executor.as_ref().map(tracing::field::display);
    let text = notice.text.as_str();
    match notice.level {
        NoticeLevel::Info => tracing::info!(session, node, executor, "{text}"),
        NoticeLevel::Warn => tracing::warn!(session, node, executor, "{text}"),
    }
}

#[cfg(test)]
mod tests;
