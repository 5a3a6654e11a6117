//! How the agent ends in an orderly way: nothing new, the tasks that run go on for a while, results
//! are delivered, and the session manager is told.

use std::pin::Pin;
use std::time::Duration;

use flame_core::lifecycle::LifecycleEvent;
use flame_rpc::node::{LeaveAnswer, LeaveRequest, from_agent};
use tokio::time::{Instant, Interval, Sleep, interval_at, sleep};

use super::{Agent, Outcome, message};
use crate::executor::{Command, GRACE, LEAVE_LIMIT};
use crate::life::Due;

/// How long a stop waits for the manager's acknowledgements once all executors are gone.
const DELIVERY_LIMIT: Duration = Duration::from_secs(2);
/// Longest stop after the time for the tasks that run: each step of a release at its limit, and the
/// delivery.
const RELEASE_LIMIT: Duration =
    Duration::from_secs(LEAVE_LIMIT.as_secs() + 2 * GRACE.as_secs() + DELIVERY_LIMIT.as_secs());
/// How often systemd is told that the stop goes on, from the loop that does the work.
const EXTEND_EVERY: Duration = Duration::from_secs(5);
/// How long it waits for the next such word: an agent that hangs is killed soon.
const EXTEND_BY: Duration = Duration::from_secs(20);

/// An orderly stop in progress.
pub(super) struct Stopping {
    reason: String,
    limit: Pin<Box<Sleep>>,
    extend: Interval,
    delivering: bool,
    refused: bool,
}

/// Completes with true when the stop takes too long, and with false when systemd has to hear that it goes on.
pub(super) async fn turn(stopping: Option<&mut Stopping>) -> bool {
    let Some(stopping) = stopping else {
        return std::future::pending().await;
    };
    tokio::select! {
        () = stopping.limit.as_mut() => true,
        _ = stopping.extend.tick() => false,
    }
}

impl Agent {
    /// A signal asks for the end. Whoever asks a second time does not want to wait; an end that began without a
    /// signal, as [life] wants it, goes on as it is.
    pub(super) async fn on_signal(&mut self) -> Option<Outcome> {
        let again = std::mem::replace(&mut self.signalled, true);
        if self.stopping.is_some() {
            if again {
                tracing::warn!("asked to stop again: executors are killed");
                self.host.runtime.kill_all().await;
                return Some(Outcome::Interrupted);
            }
            tracing::info!("asked to stop, which it does already; a second signal kills executors");
        } else if self.handover.is_some() {
            return Some(Outcome::HandedOver);
        } else if self.host.runtime.is_restarting().await {
            self.hand_over();
        } else {
            self.stop("it was asked to stop");
        }
        None
    }

    /// Begins to stop, unless it has begun before.
    pub(super) fn stop(&mut self, reason: &str) {
        if self.stopping.is_some() {
            return;
        }
        let drain = self.identity.life.drain_timeout;
        self.notifier.stopping();
        self.notifier.extend_timeout(EXTEND_BY);
        self.status.stopping(reason);
        tracing::info!(
            message_id = %LifecycleEvent::DaemonStopping.message_id(),
            flame_node = %self.identity.node,
            flame_executors = self.ledger.live(),
            flame_reused = self.reused,
            "stopping, because {reason}: executors are released; tasks that run have {} s",
            drain.as_secs()
        );
        self.ledger
            .stopping(&format!("the node agent is stopping: {reason}"));
        // First, so that what is released now is not parked.
        self.pool.close();
        for commands in self.commands.values() {
            // One that has just ended needs no release.
            let _ = commands.send(Command::Release {
                give_up: false,
                finish: drain,
            });
        }
        self.stopping = Some(Stopping {
            reason: reason.to_owned(),
            limit: Box::pin(sleep(drain.saturating_add(RELEASE_LIMIT))),
            extend: interval_at(Instant::now() + EXTEND_EVERY, EXTEND_EVERY),
            delivering: false,
            refused: false,
        });
    }

    /// The stop goes on, and this loop with it.
    pub(super) fn still_stopping(&self) {
        self.notifier.extend_timeout(EXTEND_BY);
    }

    /// The session manager does not want this node at all: what runs here is not wanted either.
    pub(super) fn refused(&mut self) {
        self.stop("the session manager refused this node");
        if let Some(stopping) = &mut self.stopping {
            stopping.refused = true;
        }
        for commands in self.commands.values() {
            let _ = commands.send(Command::Release {
                give_up: true,
                finish: Duration::ZERO,
            });
        }
    }

    /// Something is due in the life of the agent.
    pub(super) fn on_life(&mut self) {
        let now = Instant::now();
        match self.life.due(now) {
            Some(Due::Drain(reason)) => self.stop(&reason),
            Some(Due::Ask(reason)) => {
                let request = message(from_agent::Message::LeaveRequest(LeaveRequest { reason }));
                // Without room on the link other things are on their way, and it can ask later.
                match self
                    .link
                    .outbound()
                    .and_then(|outbound| outbound.try_reserve().ok())
                {
                    Some(room) => room.send(request),
                    None => self.life.stays(now),
                }
            }
            None => {}
        }
    }

    /// Whether it may leave because it has nothing to do. The manager gives it nothing from then on, so
    /// it has to go.
    pub(super) fn on_leave_answer(&mut self, answer: &LeaveAnswer) {
        if answer.granted {
            self.stop("nothing is left to do for it, which the session manager has confirmed");
        } else {
            tracing::debug!(node = %self.identity.node, reason = answer.reason, "the session manager needs this node");
            self.life.stays(Instant::now());
        }
    }

    /// Says Leave, if there is somebody who hears it.
    pub(super) async fn leave(&mut self) -> Outcome {
        let (reason, refused) = match &self.stopping {
            Some(stopping) => (stopping.reason.clone(), stopping.refused),
            None => return Outcome::Stopped,
        };
        if refused {
            return Outcome::Refused;
        }
        self.link
            .leave(&format!("the node agent was stopped, because {reason}"))
            .await;
        Outcome::Stopped
    }

    /// Whether an orderly stop is complete: no executor is left, and the manager, if there is
    /// one, knows everything.
    pub(super) fn is_finished(&mut self) -> bool {
        let Some(stopping) = &mut self.stopping else {
            return false;
        };
        if self.ledger.live() > 0 || !self.pool.is_empty() {
            return false;
        }
        if self.link.outbound().is_none() || self.ledger.is_settled() {
            return true;
        }
        if !stopping.delivering {
            stopping.delivering = true;
            stopping.limit = Box::pin(sleep(DELIVERY_LIMIT));
        }
        false
    }
}
