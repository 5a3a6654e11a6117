//! The room on this node, and the service processes that wait in it for another session.
//!
//! The session manager knows nothing of them and counts their room as free. So whoever is to be
//! started and finds too little room has those that have waited longest ended, and waits for that.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flame_core::Resources;
use flame_rpc::node::StartExecutor;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::kind::Kind;
use super::occupancy::{Occupancy, Use};
use super::prepare::Files;
use super::service::Service;
use crate::runtime::Running;

/// A service process and all that is gone with it.
pub(super) struct ServiceProcess {
    pub(super) process: Arc<dyn Running>,
    pub(super) service: Service,
    pub(super) files: Files,
    pub(super) room: Room,
}

impl ServiceProcess {
    /// Ends the process and returns its room.
    pub(super) async fn end(self) -> Room {
        super::end(self.process.as_ref()).await;
        self.room
    }
}

/// Room that is taken, until this value is dropped.
pub(super) struct Room {
    pool: Arc<Pool>,
    number: u64,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.pool.state().occupancy.free(self.number);
        self.pool.changes.send_replace(());
    }
}

/// Where an executor begins.
pub(super) enum Place {
    /// With a process that has served another session.
    Warm(Box<ServiceProcess>),
    /// With nothing but room for a process.
    Cold(Room),
}

/// All room of the node.
pub struct Pool {
    state: Mutex<State>,
    /// Something was freed, taken or closed.
    changes: watch::Sender<()>,
}

struct State {
    occupancy: Occupancy,
    /// The one that has waited longest is the first.
    parked: VecDeque<Parked>,
    closed: bool,
}

struct Parked {
    kind: Kind,
    process: Box<ServiceProcess>,
    keeper: AbortHandle,
}

impl Pool {
    /// A node of that size without processes.
    #[must_use]
    pub fn new(capacity: Resources) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                occupancy: Occupancy::new(capacity),
                parked: VecDeque::new(),
                closed: false,
            }),
            changes: watch::Sender::new(()),
        })
    }

    /// The session manager starts at most `count` executors on this node.
    pub fn limit_executors(&self, count: usize) {
        self.state().occupancy.limit_executors(count);
    }

    /// Ends all parked processes; from now on none is parked.
    pub fn close(self: &Arc<Self>) {
        let parked = {
            let mut state = self.state();
            state.closed = true;
            std::mem::take(&mut state.parked)
        };
        self.dismiss(parked, "the node agent is stopping");
    }

    /// Completes when no process is parked or being ended on behalf of the pool.
    pub async fn emptied(&self) {
        let mut changes = self.changes.subscribe();
        loop {
            // Marked before looking, so that a change in between is not missed.
            changes.borrow_and_update();
            if self.is_empty() || changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Whether no process is parked or being ended on behalf of the pool.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let state = self.state();
        !state.occupancy.has(Use::Parked) && !state.occupancy.has(Use::Leaving)
    }

    /// A place for the executor of `order`: with the process of its kind that was parked last, or
    /// else as soon as all that has to go for it is gone.
    pub(super) async fn place(self: &Arc<Self>, order: &StartExecutor, kind: Option<&Kind>) -> Place {
        let request = order.resreq.as_ref().map(Resources::from).unwrap_or_default();
        let outdated = self.state().take_all(|parked| parked.kind.is_outdated_by(order));
        self.dismiss(outdated, "its application has changed");
        if let Some(parked) = kind.and_then(|kind| self.state().take_last(kind)) {
            parked.keeper.abort();
            return Place::Warm(parked.process);
        }
        let room = self.room(request);
        self.make_room().await;
        Place::Cold(room)
    }

    /// Room for a process that is there, whether it fits or not.
    pub(super) fn room(self: &Arc<Self>, request: Resources) -> Room {
        Room {
            number: self.state().occupancy.take(request),
            pool: self.clone(),
        }
    }

    /// Parks `process`, whose session has ended in order, or ends it if it cannot be parked.
    pub(super) async fn park(self: &Arc<Self>, kind: Kind, process: ServiceProcess) {
        let keep = kind.keep();
        {
            let mut state = self.state();
            if !state.closed && !keep.is_zero() {
                let number = process.room.number;
                let keeper = tokio::spawn(self.clone().keep(number, process.process.clone(), keep));
                state.occupancy.set(number, Use::Parked);
                state.parked.push_back(Parked {
                    kind,
                    process: Box::new(process),
                    keeper: keeper.abort_handle(),
                });
                return;
            }
        }
        process.end().await;
    }

    /// Watches a parked process, and ends it when its time is over.
    async fn keep(self: Arc<Self>, number: u64, process: Arc<dyn Running>, keep: Duration) {
        tokio::select! {
            exit = process.exited() => {
                // What belonged to it goes with it.
                if self.remove(number).is_some() {
                    tracing::info!(pid = process.pid(), "a parked service process {exit}");
                }
            }
            () = sleep(keep) => {
                let parked = self.remove(number);
                self.dismiss(parked, "no other session came");
            }
        }
    }

    fn remove(&self, number: u64) -> Option<Parked> {
        let mut state = self.state();
        let place = state
            .parked
            .iter()
            .position(|parked| parked.process.room.number == number)?;
        state.parked.remove(place)
    }

    /// Has those that have waited longest ended as far as their room is needed, and completes when
    /// they are gone.
    async fn make_room(self: &Arc<Self>) {
        let mut surplus = Vec::new();
        let mut changes = self.changes.subscribe();
        {
            let mut state = self.state();
            while state.occupancy.stays_exceeded()
                && let Some(oldest) = state.parked.pop_front()
            {
                state.occupancy.set(oldest.process.room.number, Use::Leaving);
                surplus.push(oldest);
            }
        }
        self.dismiss(surplus, "its room is needed");
        loop {
            // Marked before looking, so that a change in between is not missed.
            changes.borrow_and_update();
            {
                let state = self.state();
                // Where nothing leaves, the session manager wants more than there is, and knows why.
                if !state.occupancy.is_exceeded() || !state.occupancy.has(Use::Leaving) {
                    return;
                }
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Ends processes that are parked no longer, all at the same time.
    fn dismiss(self: &Arc<Self>, parked: impl IntoIterator<Item = Parked>, why: &'static str) {
        for Parked { process, keeper, .. } in parked {
            keeper.abort();
            self.state().occupancy.set(process.room.number, Use::Leaving);
            tracing::debug!(
                pid = process.process.pid(),
                "a parked service process is ended: {why}"
            );
            tokio::spawn(process.end());
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take_all(&mut self, goes: impl Fn(&Parked) -> bool) -> Vec<Parked> {
        let (gone, kept) = std::mem::take(&mut self.parked)
            .into_iter()
            .partition::<Vec<_>, _>(goes);
        self.parked = kept.into();
        gone
    }

    /// The one that has waited least is the one whose memory is most likely still at hand.
    fn take_last(&mut self, kind: &Kind) -> Option<Parked> {
        let place = self.parked.iter().rposition(|parked| parked.kind == *kind)?;
        let parked = self.parked.remove(place)?;
        self.occupancy.set(parked.process.room.number, Use::Serving);
        Some(parked)
    }
}
