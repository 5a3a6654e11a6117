//! Runs the core: commands go in through one queue, and a reply, and news for watchers, leave only
//! when everything that was decided up to then is durable (the rule is in `outbox.rs`, what works by
//! it in `driver.rs`). The store has a thread of its own (`storing.rs`), and the next batch is
//! applied while one is stored.
//!
//! If the store fails (disk full), what could not be stored is kept and tried again until it
//! succeeds: nothing that was applied is forgotten. Until then new work is refused and reads go on.

mod clock;
mod driver;
mod links;
mod logs;
pub(crate) mod outbox;
mod storing;

use std::sync::Arc;

use flame_core::NodeName;
use flame_rpc::node::{LogChunk, OpenLog, ToAgent};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::core::{Core, CoreError, Effects, LinkId, Now, SessionKey, Summary, TaskKey};
use crate::metrics::Metrics;
use crate::store::Store;
use crate::watch::{SessionWatch, Watch, Watchers};
pub(crate) use clock::Ear;
use clock::{Clock, LOOK_EVERY};
use driver::Driver;
use links::Links;
pub(crate) use logs::LogReader;
use storing::{Storage, StoreHealth};

/// What is left of a command that was applied.
struct Release {
    /// Sends the reply, or the reason why there is none.
    send: Box<dyn FnOnce(Result<(), CoreError>) + Send>,
    /// Whoever gets the reply believes that something is durable. Also if nothing had to be changed
    /// for that: what changed it before may not be durable yet.
    promises: bool,
}

/// A command: applied to the core, it leaves effects and a reply.
type Job = Box<dyn FnOnce(&mut Core, Now, &mut Effects) -> Release + Send>;

/// The way to the core; cheap to clone.
#[derive(Clone)]
pub struct Engine {
    jobs: mpsc::UnboundedSender<Job>,
    watchers: Arc<Watchers>,
    links: Arc<Links>,
    clock: Arc<Clock>,
    health: Arc<StoreHealth>,
    metrics: Arc<Metrics>,
}

/// What runs behind an [`Engine`]: a task on the present runtime, and the store's thread. Dropping
/// it lets them end by themselves.
#[derive(Debug)]
pub struct EngineRun {
    stop: oneshot::Sender<()>,
    driver: JoinHandle<()>,
}

impl Engine {
    /// Starts what owns `core` and `store`, on the present runtime.
    ///
    /// # Errors
    /// The store's thread cannot be started.
    pub fn start(core: Core, store: Box<dyn Store>) -> std::io::Result<(Self, EngineRun)> {
        Self::start_with(core, store, Clock::new(LOOK_EVERY))
    }

    fn start_with(
        core: Core,
        store: Box<dyn Store>,
        clock: Arc<Clock>,
    ) -> std::io::Result<(Self, EngineRun)> {
        let (jobs, queue) = mpsc::unbounded_channel();
        let engine = Self {
            jobs,
            watchers: Arc::new(Watchers::default()),
            links: Arc::new(Links::default()),
            clock,
            health: Arc::new(StoreHealth::default()),
            metrics: Arc::new(Metrics::default()),
        };
        let driver = Driver {
            core,
            jobs: queue,
            storage: Storage::start(store)?,
            watchers: Arc::clone(&engine.watchers),
            links: Arc::clone(&engine.links),
            health: Arc::clone(&engine.health),
            metrics: Arc::clone(&engine.metrics),
            clock: Arc::clone(&engine.clock),
        };
        let (stop, stopped) = oneshot::channel();
        let driver = tokio::spawn(driver.run(stopped));
        Ok((engine, EngineRun { stop, driver }))
    }

    /// Applies a command that reads. The reply comes when all that it shows is durable.
    ///
    /// # Errors
    /// Those of the command, or [`CoreError::Unavailable`] while the daemon stops.
    pub async fn read<T: Send + 'static>(
        &self,
        command: impl FnOnce(&mut Core, Now, &mut Effects) -> Result<T, CoreError> + Send + 'static,
    ) -> Result<T, CoreError> {
        self.ask(command, false).await
    }

    async fn ask<T: Send + 'static>(
        &self,
        command: impl FnOnce(&mut Core, Now, &mut Effects) -> Result<T, CoreError> + Send + 'static,
        promises: bool,
    ) -> Result<T, CoreError> {
        let (sender, receiver) = oneshot::channel();
        self.post(move |core, now, fx| {
            let result = command(core, now, fx);
            let send = Box::new(move |durable: Result<(), CoreError>| {
                // A client that went away does not want its reply.
                let _gone = sender.send(durable.and(result));
            });
            Release { send, promises }
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
        self.health.check()?;
        self.ask(command, true).await
    }

    /// Applies a command that nobody waits for.
    pub fn tell(&self, command: impl FnOnce(&mut Core, Now, &mut Effects) + Send + 'static) {
        self.post(move |core, now, fx| {
            command(core, now, fx);
            Release {
                send: Box::new(|_| {}),
                promises: false,
            }
        });
    }

    fn post(&self, job: impl FnOnce(&mut Core, Now, &mut Effects) -> Release + Send + 'static) {
        // After the stop nothing is taken any more; dropping the job tells whoever waits for it.
        let _stopped = self.jobs.send(Box::new(job));
    }

    /// Looks at the core without waiting for the store: what is seen may not be durable. Nothing if
    /// the daemon stops.
    pub(crate) async fn peek<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Core, Now) -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, receiver) = oneshot::channel();
        self.tell(move |core, now, _| {
            // Whoever asked may not wait any longer.
            let _gone = sender.send(look(core, now));
        });
        receiver.await.ok()
    }

    /// What is measured while the engine works.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Waits until a commit failed, or succeeded after one that failed; for one waiter.
    pub(crate) async fn store_health_changed(&self) {
        self.health.changed().await;
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
        self.health.check().err().map(|error| error.to_string())
    }

    /// Watches `task` from now on. To miss nothing, start before its state is read.
    pub(crate) fn watch(&self, task: TaskKey) -> Watch {
        self.watchers.watch(task)
    }

    /// Watches the ends of a session's tasks from now on.
    pub(crate) fn watch_session(&self, session: SessionKey) -> SessionWatch {
        self.watchers.watch_session(session)
    }

    /// A new link to an agent, and what the core sends on it.
    pub(crate) fn open_link(&self) -> (LinkId, mpsc::UnboundedReceiver<ToAgent>) {
        self.links.open()
    }

    /// An ear for a new connection, see [`Engine::listen`].
    pub(crate) fn ear(&self) -> Arc<Ear> {
        Ear::new(Arc::clone(&self.clock))
    }

    /// From now on what `ear` hears are signs of life of `node`, whatever waits in the queue.
    pub(crate) fn listen(&self, link: LinkId, node: NodeName, ear: Arc<Ear>) {
        self.links.listen(link, node, ear);
    }

    /// The core is told that a link has ended: it is not listened to any more.
    pub(crate) fn stop_listening(&self, link: LinkId) {
        self.links.stop_listening(link);
    }

    /// Has the agent on `link` send a log.
    pub(crate) fn read_log(&self, link: LinkId, open: OpenLog) -> LogReader {
        LogReader::open(&self.links, link, open)
    }

    /// A chunk of a log has come from the agent on `link`.
    pub(crate) fn log_arrived(&self, link: LinkId, chunk: LogChunk) {
        self.links.logs.arrived(link, chunk);
    }

    /// Ends a link: nothing is sent on it any more.
    pub(crate) fn close_link(&self, link: LinkId) {
        self.links.close(link);
    }
}

impl EngineRun {
    /// Takes no more commands, and waits until everything that was posted is durable.
    pub async fn stop(self) {
        // If it has ended by itself, there is nobody to tell.
        let _ended = self.stop.send(());
        if self.driver.await.is_err() {
            tracing::error!("the core's task had panicked");
        }
    }
}

#[cfg(test)]
mod tests;
