//! Logs that agents send: which reader gets which chunk. A reader has room for as many chunks as it has given credit
//! for, so that nothing waits for it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use flame_rpc::node::{
    CloseLog, FinishLog, LogChunk, LogOrder, OpenLog, ToAgent, log_order::Order, to_agent,
};
use tokio::sync::mpsc;

use super::links::Links;
use crate::core::LinkId;

/// Chunks of a log that may be under way: one that is being read, and one that comes meanwhile.
const CREDIT: u32 = 2;

/// Readers by link and log.
#[derive(Debug, Default)]
pub(super) struct LogRoutes {
    readers: Mutex<HashMap<(LinkId, u64), mpsc::Sender<LogChunk>>>,
    last: AtomicU64,
}

impl LogRoutes {
    /// Hands a chunk to its reader, if there still is one.
    pub(super) fn arrived(&self, link: LinkId, chunk: LogChunk) {
        let mut readers = self.readers();
        let key = (link, chunk.log);
        if let Some(reader) = readers.get(&key)
            && let Err(mpsc::error::TrySendError::Full(_)) = reader.try_send(chunk)
        {
            tracing::warn!(link, "an agent sent more of a log than it had credit for");
            readers.remove(&key);
        }
    }

    /// Nothing more comes on that link.
    pub(super) fn link_ended(&self, link: LinkId) {
        self.readers().retain(|(of, _), _| *of != link);
    }

    fn readers(&self) -> MutexGuard<'_, HashMap<(LinkId, u64), mpsc::Sender<LogChunk>>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A log that an agent sends, until this is dropped.
#[derive(Debug)]
pub(crate) struct LogReader {
    links: Arc<Links>,
    link: LinkId,
    log: u64,
    chunks: mpsc::Receiver<LogChunk>,
}

impl LogReader {
    /// Asks for a log on `link`. If that has ended, so has the log.
    pub(super) fn open(links: &Arc<Links>, link: LinkId, open: OpenLog) -> Self {
        let log = links.logs.last.fetch_add(1, Ordering::Relaxed) + 1;
        let (sender, chunks) = mpsc::channel(CREDIT as usize);
        links.logs.readers().insert((link, log), sender);
        let reader = Self {
            links: Arc::clone(links),
            link,
            log,
            chunks,
        };
        // Looked at after the entry, so that an end in between is not missed.
        if reader.order(Order::Open(OpenLog {
            credit: CREDIT,
            ..open
        })) {
            return reader;
        }
        links.logs.readers().remove(&(link, log));
        reader
    }

    /// The next chunk; nothing when the link has ended.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<LogChunk>> {
        self.chunks.poll_recv(context)
    }

    /// A chunk was used up; another may come.
    pub(crate) fn used(&self) {
        self.order(Order::Credit(1));
    }

    /// Nothing more will be written.
    pub(crate) fn finish(&self) {
        self.order(Order::Finish(FinishLog {}));
    }

    fn order(&self, order: Order) -> bool {
        let message = to_agent::Message::Log(LogOrder {
            log: self.log,
            order: Some(order),
        });
        self.links.send_one(
            self.link,
            ToAgent {
                message: Some(message),
            },
        )
    }
}

impl Drop for LogReader {
    fn drop(&mut self) {
        self.links.logs.readers().remove(&(self.link, self.log));
        // A link that has ended has ended its logs, too.
        self.order(Order::Close(CloseLog {}));
    }
}
