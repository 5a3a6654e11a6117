//! What is asked for over D-Bus: a connection with its runtime, and a limit for each answer.

use std::future::Future;
use std::time::Duration;

use flame_systemd::Systemd;
use flame_systemd::manager::SystemdError;

use crate::failure::{Failure, Kind, Outcome};

/// Longest wait for an answer: D-Bus may start the service that gives it.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// A connection to the machine's bus.
pub(super) struct Bus {
    runtime: tokio::runtime::Runtime,
    systemd: Systemd,
}

impl Bus {
    pub(super) fn connect() -> Outcome<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::new(Kind::Systemd, "cannot start the D-Bus client").because(error))?;
        let systemd = within(&runtime, Systemd::system())?;
        Ok(Self { runtime, systemd })
    }

    /// Asks, and waits for the answer.
    pub(super) fn ask<'a, T, F>(&'a self, question: impl FnOnce(&'a Systemd) -> F) -> Outcome<T>
    where
        F: Future<Output = Result<T, SystemdError>>,
    {
        within(&self.runtime, question(&self.systemd))
    }
}

fn within<T>(
    runtime: &tokio::runtime::Runtime,
    answer: impl Future<Output = Result<T, SystemdError>>,
) -> Outcome<T> {
    // The timer needs the runtime when it is made, hence the block.
    match runtime.block_on(async { tokio::time::timeout(ANSWER_LIMIT, answer).await }) {
        Ok(answer) => answer.map_err(|error| {
            let failure = Failure::new(Kind::Systemd, error.to_string());
            match std::error::Error::source(&error) {
                Some(source) => failure.because(source.to_string()),
                None => failure,
            }
        }),
        Err(_) => Err(Failure::new(
            Kind::Systemd,
            format!("no answer over D-Bus within {} s", ANSWER_LIMIT.as_secs()),
        )),
    }
}
