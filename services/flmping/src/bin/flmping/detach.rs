//! Creates tasks and leaves them to the cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flame_rs::{Error, Session};
use serde::Serialize;
use tokio::task::JoinSet;

use crate::batched;
use crate::input::Inputs;

/// Calls for single tasks that are under way at the same time.
const CALLS: u64 = 256;

/// The result for programs.
#[derive(Debug, Serialize)]
pub(crate) struct Created {
    created: u64,
    seconds: f64,
    tasks_per_second: f64,
    sessions: Vec<String>,
}

/// Creates `tasks` tasks in each of `sessions`; the first error ends it.
pub(crate) async fn create(
    sessions: &[Session],
    tasks: u64,
    unary: bool,
    inputs: &Inputs,
) -> Result<Created, Error> {
    let began = Instant::now();
    let mut workers = JoinSet::new();
    for session in sessions {
        workers.spawn(fill(session.clone(), tasks, unary, inputs.clone()));
    }
    while let Some(done) = workers.join_next().await {
        done.unwrap_or(Err(Error::Interrupted))?;
    }
    Ok(Created::new(sessions, tasks, began.elapsed()))
}

async fn fill(session: Session, tasks: u64, unary: bool, inputs: Inputs) -> Result<(), Error> {
    let chunk = batched::chunk(&inputs);
    let mut next = 0;
    while !unary && next < tasks {
        let end = tasks.min(next + chunk);
        let batch = (next..end).map(|number| inputs.of(number)).collect();
        if session.create_tasks(batch).await?.is_none() {
            break; // a server without batches
        }
        next = end;
    }
    one_by_one(session, next, tasks, inputs).await
}

/// Creates the tasks from number `first` on with a call for each.
async fn one_by_one(session: Session, first: u64, tasks: u64, inputs: Inputs) -> Result<(), Error> {
    let next = Arc::new(AtomicU64::new(first));
    let mut workers = JoinSet::new();
    for _ in 0..CALLS.min(tasks - first) {
        let (session, inputs, next) = (session.clone(), inputs.clone(), Arc::clone(&next));
        workers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= tasks {
                    return Ok(());
                }
                session.create_task_when_reachable(inputs.of(number)).await?;
            }
        });
    }
    while let Some(done) = workers.join_next().await {
        done.unwrap_or(Err(Error::Interrupted))?;
    }
    Ok(())
}

impl Created {
    fn new(sessions: &[Session], tasks: u64, took: Duration) -> Self {
        let created = tasks.saturating_mul(sessions.len() as u64);
        let seconds = took.as_secs_f64();
        Self {
            created,
            seconds,
            tasks_per_second: if seconds > 0.0 {
                created as f64 / seconds
            } else {
                0.0
            },
            sessions: sessions.iter().map(|session| session.id().to_owned()).collect(),
        }
    }
}

impl std::fmt::Display for Created {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} tasks created in {:.3} s ({:.1} tasks/s); open: {}",
            self.created,
            self.seconds,
            self.tasks_per_second,
            self.sessions.join(" ")
        )
    }
}
