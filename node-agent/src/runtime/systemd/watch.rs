//! Hears what systemd tells about units, for as long as the agent runs.

use std::sync::{Arc, Weak};
use std::time::Duration;

use flame_systemd::Systemd;
use flame_systemd::manager::{SystemdError, UnitSight, UnitSignal, UnitSignals};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::time::sleep;

use super::Shared;
use super::unit::Unit;

/// First and longest wait between attempts to reach D-Bus again.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How many units are looked at at a time.
const LOOKS: usize = 16;

/// Hands every signal on until the runtime is gone. Where signals were lost, it looks at what has become of the
/// units meanwhile.
pub(super) async fn watch(shared: Weak<Shared>, mut signals: UnitSignals) {
    loop {
        while let Some(signal) = signals.next().await {
            let Some(shared) = shared.upgrade() else { return };
            if hand_on(&shared, signal) == Heard::Gap {
                tracing::info!("systemd is on D-Bus again; looking at what has become of executors");
                if let Err(error) = catch_up(&shared, &mut signals).await {
                    tracing::warn!(%error, "cannot look at what has become of executors");
                    break;
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

/// Whether signals may be missing before this one.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    All,
    Gap,
}

fn hand_on(shared: &Shared, signal: UnitSignal) -> Heard {
    match signal {
        UnitSignal::Changed { unit, change } => shared.tell(&unit, |life| life.on_change(change)),
        UnitSignal::JobRemoved { unit, job, result } => {
            shared.tell(&unit, |life| life.on_job_over(&job, &result));
        }
        UnitSignal::Returned => return Heard::Gap,
    }
    Heard::All
}

async fn again(shared: &Shared) -> Result<UnitSignals, SystemdError> {
    let systemd = Systemd::system().await?;
    let mut signals = systemd.unit_signals(&shared.settings.templates()).await?;
    shared.line.replace(systemd);
    // After the subscription: what happens from now on is told.
    catch_up(shared, &mut signals).await?;
    Ok(signals)
}

/// Tells the lives of all units what is seen of them now.
async fn catch_up(shared: &Shared, signals: &mut UnitSignals) -> Result<(), SystemdError> {
    let mut later = Vec::new();
    'look: loop {
        let look = look_at(shared.line.now(), shared.units());
        tokio::pin!(look);
        let seen = loop {
            // Signals are taken meanwhile: they share the connection with the answers, which would wait behind them.
            tokio::select! {
                biased;
                seen = &mut look => break seen?,
                signal = signals.next() => match signal {
                    Some(UnitSignal::Returned) => continue 'look,
                    Some(signal) => later.push(signal),
                    None => {
                        return Err(SystemdError::Disconnected {
                            what: "news".to_owned(),
                            unit: "executors".to_owned(),
                        });
                    }
                },
            }
        };
        for (unit, sight) in seen {
            shared.tell_of(&unit, |life| life.on_seen(sight));
        }
        break;
    }
    // They may tell what was seen already, but the last of them tells the last state.
    for signal in later {
        hand_on(shared, signal);
    }
    Ok(())
}

async fn look_at(
    systemd: Systemd,
    units: Vec<Arc<Unit>>,
) -> Result<Vec<(Arc<Unit>, Option<UnitSight>)>, SystemdError> {
    stream::iter(units)
        .map(|unit| {
            let systemd = &systemd;
            async move { Ok((unit.clone(), systemd.look(unit.name()).await?)) }
        })
        .buffer_unordered(LOOKS)
        .try_collect()
        .await
}
