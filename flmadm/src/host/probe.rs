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
        () = is_busy(&client, session.id()) => Ok(Probed::Busy),
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

/// Returns when every executor has been at work for others than `session` for a while.
async fn is_busy(client: &Client, session: &str) {
    let mut since = tokio::time::Instant::now();
    loop {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let Ok(executors) = client.list_executors().await else {
            continue;
        };
        let all = !executors.is_empty()
            && executors
                .iter()
                .filter_map(|executor| executor.status.as_ref())
                .all(|status| status.session_id.as_deref().is_some_and(|id| id != session));
        if !all {
            since = tokio::time::Instant::now();
        }
        if since.elapsed() >= PATIENCE {
            return;
        }
    }
}
