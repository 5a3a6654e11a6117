//! Units that outlived an agent whose next run uses none.

use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;

use super::record::Records;
use super::{Settings, SystemdRuntime, Unusable};
use crate::runtime::Stop;

/// How long their end is awaited: systemd kills what does not end by itself within ten seconds.
const END_LIMIT: Duration = Duration::from_secs(15);

/// Ends the executors that an earlier run of the agent has left in units, for an agent that runs none. `own` is the
/// runtime directory that systemd has made for this agent: an agent without one has no units, and what other agents
/// have written down is not its affair.
///
/// # Errors
/// [`Unusable`] if there may be such units, but systemd cannot be used.
pub async fn end_leftovers(settings: Settings, own: Option<&Path>) -> Result<(), Unusable> {
    if !own.is_some_and(|own| settings.records.starts_with(own)) || !settings.records.is_dir() {
        return Ok(());
    }
    if Records::new(settings.records.clone()).all()?.is_empty() {
        return Ok(());
    }
    let runtime = SystemdRuntime::connect(settings).await?;
    let left = runtime.survivors().await?;
    for executor in &left {
        executor.process.stop(Stop::Terminate);
    }
    for executor in &left {
        let id = &executor.owner.executor;
        match timeout(END_LIMIT, executor.process.exited()).await {
            Ok(_) => tracing::info!(executor = %id, "ended: it ran in a unit, and this agent uses none"),
            Err(_) => tracing::error!(executor = %id, "a unit that this agent does not use does not end"),
        }
    }
    Ok(())
}
