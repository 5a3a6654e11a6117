//! Streams to the agents, and when something came from them, as the engine sees them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flame_core::NodeName;
use flame_rpc::node::ToAgent;
use tokio::sync::mpsc;

use super::clock::Ear;
use super::logs::LogRoutes;
use crate::core::LinkId;

/// The open links.
#[derive(Debug, Default)]
pub(super) struct Links {
    senders: Mutex<HashMap<LinkId, mpsc::UnboundedSender<ToAgent>>>,
    /// By name, because a link may wait in the queue to be the node's.
    ears: Mutex<HashMap<LinkId, (NodeName, Arc<Ear>)>>,
    last: AtomicU64,
    pub(super) logs: LogRoutes,
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

    /// Returns whether the link is open.
    pub(super) fn send_one(&self, link: LinkId, message: ToAgent) -> bool {
        let senders = self.senders.lock().unwrap_or_else(PoisonError::into_inner);
        senders
            .get(&link)
            .is_some_and(|sender| sender.send(message).is_ok())
    }

    pub(super) fn close(&self, link: LinkId) {
        self.senders
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&link);
        self.logs.link_ended(link);
    }

    /// What arrives of `node` on that link is heard by `ear`.
    pub(super) fn listen(&self, link: LinkId, node: NodeName, ear: Arc<Ear>) {
        self.ears().insert(link, (node, ear));
    }

    /// The core knows that the link has ended, or has ended it.
    pub(super) fn stop_listening(&self, link: LinkId) {
        self.ears().remove(&link);
    }

    /// Which nodes were heard since the last call, and when.
    pub(super) fn heard(&self) -> Vec<(NodeName, Duration)> {
        let ears = self.ears();
        let heard = ears
            .values()
            .filter_map(|(node, ear)| Some((node.clone(), ear.take()?)));
        heard.collect()
    }

    fn ears(&self) -> MutexGuard<'_, HashMap<LinkId, (NodeName, Arc<Ear>)>> {
        self.ears.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
