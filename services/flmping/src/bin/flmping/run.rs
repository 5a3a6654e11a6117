//! Runs the tasks: a bounded number under way, each followed to its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use flame_core::state::TaskState;
use flame_rs::{Bytes, Error, Session, error, task};
use flmping::Pong;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::tally::Ended;

/// Ended tasks that may wait to be counted, before their workers pause.
pub(crate) const BACKLOG: usize = 4096;

/// Tasks under way. Dropping it stops the submission and the watching.
pub(crate) struct Running {
    pub(crate) workers: JoinSet<()>,
    pub(crate) ended: mpsc::Receiver<Ended>,
}

impl Running {
    /// Starts `tasks` tasks with `input`, at most `window` at the same time.
    pub(crate) fn start(session: &Session, tasks: u64, window: u64, input: Option<Bytes>) -> Self {
        let (sender, ended) = mpsc::channel(BACKLOG);
        let started = Arc::new(AtomicU64::new(0));
        let mut workers = JoinSet::new();
        for _ in 0..window.min(tasks) {
            let (session, input) = (session.clone(), input.clone());
            let (sender, started) = (sender.clone(), started.clone());
            workers.spawn(async move {
                while started.fetch_add(1, Ordering::Relaxed) < tasks {
                    // The receiver is only gone when nobody wants to know any more.
                    if sender.send(one(&session, input.clone()).await).await.is_err() {
                        return;
                    }
                }
            });
        }
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

async fn one(session: &Session, input: Option<Bytes>) -> Ended {
    let started = Instant::now();
    let mut id = 0;
    let outcome = follow(session, input, &mut id).await;
    let latency = started.elapsed();
    let (state, text) = match outcome {
        Ok(text) => ("Succeed", text),
        Err(Error::TaskFailed { message, .. }) => ("Failed", message),
        Err(Error::TaskCancelled { .. }) => ("Cancelled", "the session was closed".to_owned()),
        Err(other) => ("Error", error::report(&other)),
    };
    Ended {
        id,
        state,
        text,
        latency,
    }
}

/// The message of the task, whose number is put into `id` as soon as it is known.
async fn follow(session: &Session, input: Option<Bytes>, id: &mut u64) -> Result<String, Error> {
    let created = session.create_task_when_reachable(input).await?;
    *id = created.parse().unwrap_or(0);
    let ended = session.wait_task(&created).await?;
    debug_assert_ne!(task::state(&ended), TaskState::Running);
    Ok(message(task::output(ended)?.as_deref()))
}

/// Any application may be pinged; an answer in other words is shown as it is.
pub(crate) fn message(output: Option<&[u8]>) -> String {
    let output = output.unwrap_or_default();
    serde_json::from_slice::<Pong>(output).map_or_else(
        |_| String::from_utf8_lossy(output).into_owned(),
        |pong| pong.message,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_shown_and_other_answers_as_they_are() {
        assert_eq!(message(Some(br#"{"message":"Completed"}"#)), "Completed");
        assert_eq!(message(Some(b"hello")), "hello");
        assert_eq!(message(None), "");
    }
}
