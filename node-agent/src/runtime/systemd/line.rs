//! The line to systemd, which breaks when D-Bus is started again and is made anew by who hears its signals.

use std::time::Duration;

use flame_systemd::Systemd;
use flame_systemd::manager::{JobId, SystemdError};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};

/// After this, what failed is asked again although the line is the same: not D-Bus may have been away, but systemd.
const AGAIN: Duration = Duration::from_millis(500);

/// Calls without an answer at a time. The system bus refuses a connection that has more than 128, and systemd asks
/// polkit about each of them over one such connection, for all agents of the host.
const CALLS: usize = 16;

/// The present connection.
#[derive(Debug)]
pub(super) struct Line {
    systemd: watch::Sender<Systemd>,
    calls: Semaphore,
}

/// How often a call was made without an answer before.
pub(super) type Failures = u32;

impl Line {
    pub(super) fn new(systemd: Systemd) -> Self {
        Self {
            systemd: watch::Sender::new(systemd),
            calls: Semaphore::new(CALLS),
        }
    }

    /// The connection, which may be broken.
    pub(super) fn now(&self) -> Systemd {
        self.systemd.borrow().clone()
    }

    /// There is a new one.
    pub(super) fn replace(&self, systemd: Systemd) {
        self.systemd.send_replace(systemd);
    }

    /// Asks for the end of `unit`, for as long as it takes to ask: a unit that nobody ends would run for ever.
    pub(super) async fn begin_stop(&self, unit: &str) -> Result<JobId, SystemdError> {
        self.call(None, |systemd, _| async move { systemd.begin_stop(unit).await })
            .await
    }

    /// Sends a signal to all processes of `unit`, for as long as [`Self::begin_stop`].
    pub(super) async fn kill(&self, unit: &str, signal: i32) -> Result<(), SystemdError> {
        self.call(None, |systemd, _| async move { systemd.kill(unit, signal).await })
            .await
    }

    /// Makes a call, and makes it again for as long as D-Bus or systemd are away: until `patience` is over, or without
    /// end. It has to be one that may be done twice: nobody knows what became of a call whose answer was lost.
    pub(super) async fn call<T, F>(
        &self,
        patience: Option<Duration>,
        mut make: impl FnMut(Systemd, Failures) -> F,
    ) -> Result<T, SystemdError>
    where
        F: Future<Output = Result<T, SystemdError>>,
    {
        let begin = Instant::now();
        let mut line = self.systemd.subscribe();
        let mut failures = 0;
        loop {
            // Nobody closes it.
            let turn = self.calls.acquire().await;
            let systemd = line.borrow_and_update().clone();
            let error = match make(systemd, failures).await {
                Err(error) if error.is_unreachable() => error,
                done => return done,
            };
            drop(turn);
            failures += 1;
            tracing::debug!(%error, failures, "asked again when systemd can be reached");
            if let Some(limit) = patience.filter(|limit| begin.elapsed() >= *limit) {
                let source = Box::new(error);
                return Err(SystemdError::Unreachable { limit, source });
            }
            // The line stays the same if systemd alone was away.
            let _ = timeout(AGAIN, line.changed()).await;
        }
    }
}
