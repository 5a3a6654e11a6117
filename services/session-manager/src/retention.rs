//! Looks after the size of the state beside the work: tells the core how large it is, and has what
//! removed sessions left deleted slice by slice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::core::{CoreError, SessionKey};
use crate::engine::Engine;
use crate::store::{Record, StateSize, StoreError, Upkeep};

/// How often the size is looked at. A session of a million tasks takes longer than that to fill.
const INTERVAL: Duration = Duration::from_secs(10);
/// Shortest wait between two slices. The longest is as long as the last slice took, so that
/// deleting takes at most half of the store's time.
const SLICE_PAUSE: Duration = Duration::from_millis(5);
/// Sessions that are measured, and removed, in one go.
const MEASURED_AT_ONCE: usize = 200;

/// Runs for as long as it is polled.
pub(crate) async fn run(engine: &Engine, upkeep: Arc<dyn Upkeep>) {
    let mut full = false;
    loop {
        match step(engine, &upkeep, &mut full).await {
            Ok(true) => {}
            Ok(false) => tokio::time::sleep(INTERVAL).await,
            Err(reason) => {
                tracing::warn!("the state cannot be looked after: {reason}");
                tokio::time::sleep(INTERVAL).await;
            }
        }
    }
}

/// Does the next thing; returns whether there may be more. `full` remembers that nothing more can
/// be removed although the state is too large.
async fn step(engine: &Engine, upkeep: &Arc<dyn Upkeep>, full: &mut bool) -> Result<bool, String> {
    let size = look(upkeep, |upkeep| upkeep.size()).await?;
    if size.untidy {
        // While nothing can be stored, nothing can be deleted; the engine tells people about that.
        if engine.store_failure().is_some() {
            return Ok(false);
        }
        let started = Instant::now();
        let tidied = engine.write(|_, _, fx| {
            fx.records.push(Record::Tidied);
            Ok(())
        });
        done(tidied.await)?;
        tokio::time::sleep(started.elapsed().max(SLICE_PAUSE)).await;
        return Ok(true);
    }
    free_space(engine, upkeep, size, full).await
}

/// Removes closed sessions if the state is larger than it may be.
async fn free_space(
    engine: &Engine,
    upkeep: &Arc<dyn Upkeep>,
    size: StateSize,
    full: &mut bool,
) -> Result<bool, String> {
    let used = size.used;
    let asked = engine.read(move |core, _, _| {
        Ok((
            core.excess(used),
            core.sessions_to_free_space(used, MEASURED_AT_ONCE),
        ))
    });
    let (excess, candidates) = asked.await.map_err(|error| error.to_string())?;
    if candidates.is_empty() {
        if excess > 0 && !*full {
            tracing::warn!(
                bytes = used,
                "the state is larger than cluster.retention.max_size, and there is no closed session to remove"
            );
        }
        *full = excess > 0;
        return Ok(false);
    }
    *full = false;
    let sizes = look(upkeep, move |upkeep| measure(upkeep, candidates, excess)).await?;
    if engine.store_failure().is_some() {
        return Ok(false);
    }
    let freed = engine.write(move |core, _, fx| {
        core.free_space(used, &sizes, fx);
        Ok(())
    });
    done(freed.await)?;
    Ok(true)
}

/// The sizes of the first sessions, as far as they are needed to free `excess` bytes.
fn measure(
    upkeep: &dyn Upkeep,
    sessions: Vec<SessionKey>,
    excess: u64,
) -> Result<Vec<(SessionKey, u64)>, StoreError> {
    let (mut sizes, mut sum) = (Vec::new(), 0);
    for session in sessions {
        if sum >= excess {
            break;
        }
        let size = upkeep.session_size(session)?;
        sizes.push((session, size));
        sum += size;
    }
    Ok(sizes)
}

/// A failure to store is told by the engine.
fn done(result: Result<(), CoreError>) -> Result<(), String> {
    match result {
        Ok(()) | Err(CoreError::Unavailable(_)) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Asks the store where it may block.
async fn look<T: Send + 'static>(
    upkeep: &Arc<dyn Upkeep>,
    question: impl FnOnce(&dyn Upkeep) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, String> {
    let upkeep = Arc::clone(upkeep);
    let asked = tokio::task::spawn_blocking(move || question(upkeep.as_ref()));
    match asked.await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(stopped) => Err(stopped.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use flame_core::config::ClusterConfig;
    use flame_core::{ApplicationName, SessionId};
    use flame_rpc::v1::{ApplicationSpec, SessionSpec};

    use super::*;
    use crate::server::start_engine;

    /// Three closed sessions, each with cancelled tasks of 5 MiB in all; 8 MiB may stay.
    async fn too_large(storage: &str) {
        let config = ClusterConfig::parse(&format!(
            "cluster: {{name: t, endpoint: \"http://127.0.0.1:1\", storage: \"{storage}\", \
             retention: {{max_size: 8M}}}}"
        ));
        let (engine, _run, readers) = start_engine(&config.expect("valid")).expect("starts");
        let upkeep = readers.upkeep;
        let filled = engine.write(|core, now, fx| {
            let app = ApplicationName::new("app").expect("valid");
            core.register_application(&app, ApplicationSpec::default(), now, fx)?;
            for id in ["a", "b", "c"] {
                let spec = SessionSpec {
                    application: "app".to_owned(),
                    ..SessionSpec::default()
                };
                core.create_session(&SessionId::new(id).expect("valid"), spec, now, fx)?;
                for _ in 0..5 {
                    core.create_task(id, Some(Bytes::from(vec![7; 1 << 20])), now, fx)?;
                }
                core.close_session(id, now, fx)?;
            }
            Ok(())
        });
        filled.await.expect("stored");
        let mut full = false;
        // What is said to be more to do has to come to an end.
        for _ in 0..100 {
            if !step(&engine, &upkeep, &mut full).await.expect("works") {
                break;
            }
        }
        let listed = engine.read(|core, _, _| Ok(core.list_sessions().sessions));
        let ids: Vec<_> = listed
            .await
            .expect("listed")
            .into_iter()
            .filter_map(|session| session.metadata.map(|metadata| metadata.id))
            .collect();
        assert_eq!(ids, ["c"], "{storage}");
        let size = upkeep.size().expect("measured");
        assert!(!size.untidy && size.used <= 8 << 20, "{storage}: {size:?}");
    }

    #[tokio::test]
    async fn what_is_too_large_becomes_small_enough_with_every_store() {
        let directory = tempfile::tempdir().expect("temporary directory");
        too_large("none").await;
        too_large(&format!("sqlite://{}/flame.db", directory.path().display())).await;
    }
}
