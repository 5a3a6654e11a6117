//! Streams to the agents, as the engine sees them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use flame_rpc::node::ToAgent;
use tokio::sync::mpsc;

use crate::core::LinkId;

/// The open links.
#[derive(Debug, Default)]
pub(super) struct Links {
    senders: Mutex<HashMap<LinkId, mpsc::UnboundedSender<ToAgent>>>,
    last: AtomicU64,
}

impl Links {
    /// A new link, and what is sent on it.
    pub(super) fn open(&self) -> (LinkId, mpsc::UnboundedReceiver<ToAgent>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let link = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.senders
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(link, sender);
        (link, receiver)
    }

    pub(super) fn send(&self, messages: Vec<(LinkId, ToAgent)>) {
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

    pub(super) fn close(&self, link: LinkId) {
        self.senders
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&link);
    }
}
