//! Runs the tasks: a bounded number under way, each followed to its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use flame_core::state::TaskState;
use flame_rs::batch::EndStream;
use flame_rs::{Error, Session, error, task};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::batched;
use crate::input::Inputs;
use crate::tally::Ended;

/// Ended tasks that may wait to be counted, before their workers pause.
const BACKLOG: usize = 4096;

/// Tasks under way unless asked otherwise: enough that all parts of a cluster on one machine are
/// busy. A single call costs its client more than a place in a batch.
const BATCHED_WINDOW: u64 = 10_000;
const UNARY_WINDOW: u64 = 1_000;

/// Payloads under way unless asked otherwise, in bytes: every part of a cluster may hold them.
const PAYLOADS_UNDER_WAY: u64 = 64 << 20;

/// What every session is to do.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Tasks of each session.
    pub(crate) tasks: u64,
    /// Number of the first task, and so how many the session has had.
    pub(crate) first: u64,
    /// Tasks under way in all sessions, if the user says so.
    pub(crate) window: Option<u64>,
    pub(crate) inputs: Inputs,
}

impl Plan {
    /// Tasks of one of `sessions` sessions that are under way at the same time.
    fn window(&self, sessions: usize, batches: bool) -> u64 {
        let usual = if batches { BATCHED_WINDOW } else { UNARY_WINDOW };
        let window = self.window.unwrap_or_else(|| {
            let payload = self.inputs.payload().map_or(0, |bytes| bytes as u64);
            // Two at least, so that one is on its way while another is worked on.
            let fitting = PAYLOADS_UNDER_WAY
                .checked_div(payload)
                .map_or(usual, |fit| fit.max(2));
            usual.min(fitting)
        });
        window.div_ceil(sessions.max(1) as u64)
    }
}

/// A session, and the stream of its ends if its server has one.
pub(crate) struct Followed {
    pub(crate) session: Session,
    pub(crate) ends: Option<EndStream>,
}

/// Tasks under way. Dropping it stops the submission and the watching.
pub(crate) struct Running {
    workers: JoinSet<()>,
    ended: mpsc::Receiver<Ended>,
}

impl Running {
    /// Starts the tasks of all `sessions`.
    pub(crate) fn start(sessions: Vec<Followed>, plan: &Plan) -> Self {
        let number = sessions.len();
        Self::of(|workers, sender| {
            for Followed { session, ends } in sessions {
                let window = plan.window(number, ends.is_some());
                match ends {
                    Some(ends) => batched::start(workers, sender, &session, ends, plan, window),
                    None => start(workers, sender, &session, plan, window),
                }
            }
        })
    }

    /// The workers that `start` makes, and what they send.
    pub(crate) fn of(start: impl FnOnce(&mut JoinSet<()>, &mpsc::Sender<Ended>)) -> Self {
        let (sender, ended) = mpsc::channel(BACKLOG);
        let mut workers = JoinSet::new();
        start(&mut workers, &sender);
        Self { workers, ended }
    }

    /// The next task that ended; `None` after the last one.
    pub(crate) async fn next(&mut self) -> Option<Ended> {
        self.ended.recv().await
    }

    /// Stops submitting and watching; tasks that the cluster has already are not withdrawn.
    pub(crate) async fn stop(mut self) {
        self.workers.shutdown().await;
    }
}

/// A worker for each place of the window.
fn start(
    workers: &mut JoinSet<()>,
    sender: &mpsc::Sender<Ended>,
    session: &Session,
    plan: &Plan,
    window: u64,
) {
    let started = Arc::new(AtomicU64::new(0));
    for _ in 0..window.min(plan.tasks) {
        let (session, plan) = (session.clone(), plan.clone());
        let (sender, started) = (sender.clone(), started.clone());
        workers.spawn(async move {
            loop {
                let turn = started.fetch_add(1, Ordering::Relaxed);
                if turn >= plan.tasks {
                    return;
                }
                let task = one(&session, &plan.inputs, plan.first + turn, Instant::now()).await;
                // The receiver is only gone when nobody wants to know any more.
                if sender.send(task).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// Runs task number `number` with the single calls. Its latency counts from `began`.
pub(crate) async fn one(session: &Session, inputs: &Inputs, number: u64, began: Instant) -> Ended {
    let mut id = 0;
    let outcome = follow(session, inputs, number, &mut id).await;
    let latency = began.elapsed();
    let (state, text) = match outcome {
        Ok(Ok(text)) => ("Succeed", text),
        Ok(Err(wrong)) => ("Wrong", wrong),
        Err(Error::TaskFailed { message, .. }) => ("Failed", message),
        Err(Error::TaskCancelled { .. }) => ("Cancelled", "the session was closed".to_owned()),
        Err(other) => ("Error", error::report(&other)),
    };
    Ended {
        session: session.id().into(),
        id,
        state,
        text,
        latency,
    }
}

/// What the inputs say to the task's output. Its id is put into `id` as soon as it is known.
async fn follow(
    session: &Session,
    inputs: &Inputs,
    number: u64,
    id: &mut u64,
) -> Result<Result<String, String>, Error> {
    let created = session.create_task_when_reachable(inputs.of(number)).await?;
    *id = created.parse().unwrap_or(0);
    let ended = session.wait_task(&created).await?;
    debug_assert_ne!(task::state(&ended), TaskState::Running);
    Ok(inputs.check(number, task::output(ended)?.as_deref()))
}

#[cfg(test)]
mod tests {
    use flmping::Ping;

    use super::*;

    #[test]
    fn large_payloads_and_many_sessions_make_the_window_small() {
        let plan = |inputs, window| Plan {
            tasks: 10,
            first: 0,
            window,
            inputs,
        };
        let ping = || Inputs::ping(Ping::default(), false);
        assert_eq!(plan(ping(), None).window(1, true), 10_000);
        assert_eq!(plan(ping(), None).window(10, false), 100);
        assert_eq!(plan(ping(), Some(1)).window(10, false), 1);
        let echo = |size| Inputs::echo(size, false);
        assert_eq!(plan(echo(1 << 10), None).window(1, true), 10_000);
        assert_eq!(plan(echo(1 << 20), None).window(1, true), 64);
        assert_eq!(plan(echo(200 << 20), None).window(1, true), 2);
        assert_eq!(plan(echo(1 << 20), Some(7)).window(1, true), 7);
    }
}
