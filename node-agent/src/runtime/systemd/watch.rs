//! Hears what systemd tells about units, for as long as the agent runs.

use std::sync::Weak;
use std::time::Duration;

use flame_systemd::Systemd;
use flame_systemd::manager::{SystemdError, UnitSignal, UnitSignals};
use tokio::time::sleep;

use super::{Shared, TEMPLATES};

/// First and longest wait between attempts to reach D-Bus again.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Hands every signal on until the runtime is gone. After a lost connection it looks at what has become of the
/// units meanwhile.
pub(super) async fn watch(shared: Weak<Shared>, mut signals: UnitSignals) {
    loop {
        while let Some(signal) = signals.next().await {
            let Some(shared) = shared.upgrade() else { return };
            match signal {
                UnitSignal::Changed { unit, change } => shared.tell(&unit, |life| life.on_change(change)),
                UnitSignal::JobRemoved { unit, job, result } => {
                    shared.tell(&unit, |life| life.on_job_over(&job, &result));
                }
            }
        }
        tracing::warn!("the connection to D-Bus ended; ends of executors are unknown until it is back");
        let (mut wait, longest) = RECONNECT;
        signals = loop {
            sleep(wait).await;
            let Some(shared) = shared.upgrade() else { return };
            match again(&shared).await {
                Ok(signals) => break signals,
                Err(error) => tracing::debug!(%error, "D-Bus is not back yet"),
            }
            wait = (wait * 2).min(longest);
        };
        tracing::info!("connected to D-Bus again");
    }
}

async fn again(shared: &Shared) -> Result<UnitSignals, SystemdError> {
    let systemd = Systemd::system().await?;
    let signals = systemd.unit_signals(TEMPLATES).await?;
    // After the subscription: what ends from now on is told.
    let loaded = systemd.list(&format!("{TEMPLATES}*")).await?;
    shared.use_connection(systemd);
    for unit in shared.units() {
        let alive = loaded.iter().any(|other| {
            other.name == unit && !["inactive", "failed"].contains(&other.active_state.as_str())
        });
        if !alive {
            shared.tell(&unit, super::life::Life::on_vanished);
        }
    }
    Ok(signals)
}
