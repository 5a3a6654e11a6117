//! The sessions that the tasks run in: opened, made ready, closed.

use std::time::{Duration, Instant};

use flame_rs::v1::{Executor, ExecutorState};
use flame_rs::{Client, Error, Session, SessionOptions, error};

use crate::args::Args;

/// Executors are asked about that often while they start.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// Executors that are wanted start within this time, also many of them on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How long to try to close a session whose tasks still run after an interruption.
const CLOSE_LIMIT: Duration = Duration::from_secs(3);

/// What each session shall be.
pub(crate) fn options(args: &Args) -> SessionOptions {
    let mut wanted = SessionOptions::new(&args.application);
    if let Some(id) = &args.session {
        wanted = wanted.id(id);
    }
    if let Some(count) = args.executors {
        wanted = wanted.min_instances(count).max_instances(count);
    }
    wanted
}

/// Opens as many sessions as were asked for, with the executors that were asked for. Whatever comes
/// between, those in `opened` are open.
///
/// # Errors
/// As [`Client::create_session`], and [`Error::TimedOut`] if there are not so many executors.
pub(crate) async fn open(client: &Client, args: &Args, opened: &mut Vec<Session>) -> Result<(), Error> {
    for _ in 0..args.sessions {
        opened.push(client.create_session(options(args)).await?);
    }
    if let Some(count) = args.executors {
        let began = Instant::now();
        for session in opened.iter() {
            await_executors(client, session, count, began).await?;
        }
    }
    Ok(())
}

async fn await_executors(
    client: &Client,
    session: &Session,
    count: u32,
    began: Instant,
) -> Result<(), Error> {
    loop {
        let executors = client.list_executors().await?;
        let ready = executors
            .iter()
            .filter(|executor| serves(executor, session.id()))
            .count();
        if ready >= usize::try_from(count).unwrap_or(usize::MAX) {
            return Ok(());
        }
        if began.elapsed() >= START_LIMIT {
            let id = session.id();
            return Err(Error::TimedOut {
                doing: format!(
                    "get {count} executors for session {id} ({ready} are ready; has the cluster room for more?)"
                ),
                after: START_LIMIT,
            });
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

fn serves(executor: &Executor, session: &str) -> bool {
    executor.status.as_ref().is_some_and(|status| {
        // One that has nothing to do is shown as idle, although it is its session's.
        let ready = matches!(
            status.state(),
            ExecutorState::ExecutorBound | ExecutorState::ExecutorIdle
        );
        ready && status.session_id.as_deref() == Some(session)
    })
}

/// Closes the sessions; after an interruption their tasks may still run for a while.
pub(crate) async fn close(sessions: &[Session], cut: bool) -> bool {
    let limit = if cut { CLOSE_LIMIT } else { Duration::ZERO };
    let began = Instant::now();
    let mut all = true;
    for session in sessions {
        if let Err(error) = session.close_within(limit.saturating_sub(began.elapsed())).await {
            eprintln!("flmping: {}; close it later with flmctl", error::report(&error));
            all = false;
        }
    }
    all
}
