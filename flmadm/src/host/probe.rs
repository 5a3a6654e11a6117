//! A task through the session manager of this machine and a real executor.

use std::time::Duration;

use flame_core::config::{ClientConfig, ClusterConfig};
use flame_rs::{Client, ClientOptions, SessionOptions};

use super::Probed;
use crate::failure::{Failure, Kind, Outcome};

/// Built-in application that answers at once.
const APPLICATION: &str = "flmping";
/// Before every session of a user.
const PRIORITY: u32 = u32::MAX;
/// How often it is asked what keeps the task waiting.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Why a session does not run although there is nothing wrong with the release: see `flmctl explain`.
const HELD_UP: [&str; 7] = [
    "room_is_held",
    "node_slots",
    "node_cordoned",
    "node_draining",
    "node_unstable",
    "session_at_max_instances",
    "application_at_max_instances",
];
/// Its executors were started in vain so often that they are not tried again.
const GIVEN_UP: &str = "paused";
/// How long tasks of others may keep a probe waiting before that itself is the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs it.
///
/// # Errors
/// The session manager does not answer, or the task fails, or nothing comes of it within `limit` although executors
/// are free.
pub(super) fn run(config: &ClusterConfig, limit: Duration) -> Outcome<Probed> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failed("cannot start the client").because(error))?;
    runtime.block_on(async {
        tokio::time::timeout(limit, probe(config, limit))
            .await
            .unwrap_or_else(|_| {
                let seconds = limit.as_secs();
                Err(failed(&format!("no task went through within {seconds} s")))
            })
    })
}

fn failed(what: &str) -> Failure {
    Failure::new(Kind::Start, what)
}

async fn probe(config: &ClusterConfig, limit: Duration) -> Outcome<Probed> {
    let client = connect(config, limit).await?;
    let error = |what: &'static str| move |error: flame_rs::Error| failed(what).because(error);
    let options = SessionOptions::new(APPLICATION)
        .max_instances(1)
        .priority(PRIORITY);
    let session = client
        .create_session(options)
        .await
        .map_err(error("the session manager does not open a session"))?;
    let task = session.submit(None);
    let done = tokio::select! {
        result = task => result.map(|_| Probed::Done).map_err(error("a task of the probe failed")),
        held_up = is_held_up(&client, session.id()) => held_up,
    };
    let closed = client
        .cancel_session(session.id(), Some("the probe of flmadm is over"))
        .await;
    let _it_is_only_shown_as_open = match closed {
        Ok(_) => Ok(()),
        Err(_) => session.close().await.map(drop),
    };
    done
}

async fn connect(config: &ClusterConfig, limit: Duration) -> Outcome<Client> {
    let config = ClientConfig {
        endpoint: config.endpoint.clone(),
        ca_file: config.tls.as_ref().and_then(|tls| tls.ca_file.clone()),
        ..ClientConfig::default()
    };
    let options = ClientOptions {
        reconnect_limit: limit,
        ..ClientOptions::default()
    };
    Client::connect_with(&config, options)
        .await
        .map_err(|error| failed("the session manager does not answer").because(error))
}

/// Returns when it is clear what keeps `session` from running: that others have all the room, or that its executors do
/// not start.
async fn is_held_up(client: &Client, session: &str) -> Outcome<Probed> {
    let mut since = tokio::time::Instant::now();
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        let Ok(answer) = client.explain_session(session).await else {
            continue;
        };
        let of = |codes: &[&str]| {
            answer
                .reasons
                .iter()
                .find(|reason| codes.contains(&reason.code.as_str()))
        };
        if let Some(reason) = of(&[GIVEN_UP]) {
            return Err(failed("no executor starts").because(reason.text.clone()));
        }
        if of(&HELD_UP).is_none() {
            since = tokio::time::Instant::now();
        }
        if since.elapsed() >= PATIENCE {
            return Ok(Probed::Busy);
        }
    }
}
