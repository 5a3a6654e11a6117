//! The store's own thread, and whether the store works.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::core::CoreError;
use crate::store::{Record, Store, StoreError};

/// Records that a commit was tried with, and what became of it.
pub(super) type Committed = (Vec<Record>, Result<(), StoreError>);

/// Makes records durable, one commit at a time.
pub(super) enum Storage {
    /// A store that only remembers: there is nothing to wait for.
    Inline(Box<dyn Store>),
    /// A store that waits for the disk, on its own thread.
    Thread(StoreThread),
}

/// The way to the store's thread and back.
pub(super) struct StoreThread {
    work: Sender<Vec<Record>>,
    done: UnboundedReceiver<Committed>,
    thread: JoinHandle<()>,
}

impl Storage {
    pub(super) fn start(store: Box<dyn Store>) -> std::io::Result<Self> {
        if !store.waits() {
            return Ok(Self::Inline(store));
        }
        let (work, queue) = channel();
        let (results, done) = unbounded_channel();
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || run(store, &queue, &results))?;
        Ok(Self::Thread(StoreThread { work, done, thread }))
    }

    /// Begins to store `records`; the result is there at once, or comes from
    /// [`Storage::committed`].
    pub(super) fn commit(&mut self, records: Vec<Record>) -> Option<Committed> {
        match self {
            Self::Inline(store) => {
                let result = store.commit(&records);
                Some((records, result))
            }
            Self::Thread(thread) => {
                // It ends only when this is dropped, or by a bug that has been logged.
                let _ended = thread.work.send(records);
                None
            }
        }
    }

    /// The result of the commit that was begun last.
    pub(super) async fn committed(&mut self) -> Option<Committed> {
        match self {
            Self::Inline(_) => std::future::pending().await,
            Self::Thread(thread) => thread.done.recv().await,
        }
    }

    /// Ends the thread; there must be no commit under way.
    pub(super) fn end(self) {
        if let Self::Thread(StoreThread { work, thread, .. }) = self {
            drop(work);
            if thread.join().is_err() {
                tracing::error!("the store thread had panicked");
            }
        }
    }
}

fn run(mut store: Box<dyn Store>, work: &Receiver<Vec<Record>>, done: &UnboundedSender<Committed>) {
    while let Ok(records) = work.recv() {
        let result = store.commit(&records);
        if done.send((records, result)).is_err() {
            return;
        }
    }
}

/// Whether the last commit failed, and why.
#[derive(Default)]
pub(super) struct StoreHealth {
    failed: AtomicBool,
    reason: Mutex<String>,
    changed: Notify,
}

impl StoreHealth {
    pub(super) fn check(&self) -> Result<(), CoreError> {
        if !self.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        let reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        Err(CoreError::Unavailable(format!(
            "the session manager {reason}; nothing new is taken until that works again"
        )))
    }

    pub(super) fn set(&self, reason: Option<String>) {
        self.failed.store(reason.is_some(), Ordering::Release);
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = reason.unwrap_or_default();
        self.changed.notify_one();
    }

    /// Waits until something was set since the last call; for one waiter.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}
