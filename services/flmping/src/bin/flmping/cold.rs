//! A session for each task, one after the other: what a user waits for who begins.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use flame_rs::{Client, Session, SessionOptions, error};

use crate::input::Inputs;
use crate::run::{Running, one};
use crate::tally::Ended;

/// The session that is in use, so that it can be closed after an interruption.
pub(crate) type Current = Arc<Mutex<Option<Session>>>;

/// Starts `tasks` tasks, each in a session that `options` describe.
pub(crate) fn start(
    client: &Client,
    options: &SessionOptions,
    tasks: u64,
    inputs: &Inputs,
    current: &Current,
) -> Running {
    let (client, options) = (client.clone(), options.clone());
    let (inputs, current) = (inputs.clone(), Arc::clone(current));
    Running::of(|workers, sender| {
        let sender = sender.clone();
        workers.spawn(async move {
            for number in 0..tasks {
                let ended = alone(&client, options.clone(), &inputs, number, &current).await;
                // The receiver is only gone when nobody wants to know any more.
                if sender.send(ended).await.is_err() {
                    return;
                }
            }
        });
    })
}

/// One task in a session of its own, which is closed after the clock has stopped.
async fn alone(
    client: &Client,
    options: SessionOptions,
    inputs: &Inputs,
    number: u64,
    current: &Current,
) -> Ended {
    let keep = |session| *current.lock().unwrap_or_else(PoisonError::into_inner) = session;
    let began = Instant::now();
    let failed = |error| Ended {
        session: "-".into(),
        id: 0,
        state: "Error",
        text: error::report(&error),
        latency: began.elapsed(),
    };
    let session = match client.create_session(options).await {
        Ok(session) => session,
        Err(error) => return failed(error),
    };
    keep(Some(session.clone()));
    let ended = one(&session, inputs, number, began).await;
    let closed = session.close().await;
    keep(None);
    match closed {
        Ok(_) => ended,
        Err(error) => failed(error),
    }
}
