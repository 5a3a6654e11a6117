//! What a daemon tells the service manager about itself (`sd_notify`): ready, status, alive, stopping.

use std::time::Duration;

use sd_notify::NotifyState;

/// Tells systemd about this process. Does nothing where no one listens, so callers need not ask.
///
/// The environment is left as it is (changing it is not safe once threads run); whoever starts child
/// processes removes [`CHILD_UNSAFE_VARIABLES`] from their environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notifier {
    listening: bool,
    watchdog_interval: Option<Duration>,
}

/// Variables that systemd gives to a daemon and that its children must not inherit: a child would
/// otherwise speak in the daemon's name, or take its own stderr for the journal's socket.
pub const CHILD_UNSAFE_VARIABLES: [&str; 7] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "JOURNAL_STREAM",
];

/// Pings per watchdog period: two, as sd_watchdog_enabled(3) asks.
const PINGS_PER_PERIOD: u32 = 2;

impl Notifier {
    /// A notifier for the socket that `NOTIFY_SOCKET` names; silent if it names none.
    #[must_use]
    pub fn from_env() -> Self {
        let listening = std::env::var_os("NOTIFY_SOCKET").is_some_and(|socket| !socket.is_empty());
        Self {
            listening,
            watchdog_interval: sd_notify::watchdog_enabled()
                .filter(|period| listening && !period.is_zero())
                .map(|period| period / PINGS_PER_PERIOD),
        }
    }

    /// Whether a service manager listens.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.listening
    }

    /// The service can be used now (`READY=1`).
    pub fn ready(&self) {
        self.send(&[NotifyState::Ready]);
    }

    /// What the service does, in one line, for `systemctl status` (`STATUS=`).
    pub fn status(&self, text: &str) {
        // A line break would begin another assignment.
        let line = text.replace(['\n', '\r'], " ");
        self.send(&[NotifyState::Status(&line)]);
    }

    /// The service is alive (`WATCHDOG=1`); due every [`Self::watchdog_interval`].
    pub fn watchdog(&self) {
        self.send(&[NotifyState::Watchdog]);
    }

    /// The service has begun to stop (`STOPPING=1`).
    pub fn stopping(&self) {
        self.send(&[NotifyState::Stopping]);
    }

    /// Starting or stopping needs at least `more` from now on (`EXTEND_TIMEOUT_USEC=`).
    pub fn extend_timeout(&self, more: Duration) {
        let microseconds = u32::try_from(more.as_micros()).unwrap_or(u32::MAX);
        self.send(&[NotifyState::ExtendTimeoutUsec(microseconds)]);
    }

    /// How often [`Self::watchdog`] is due: half of the unit's `WatchdogSec=`. `None` if systemd
    /// does not watch this process.
    #[must_use]
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog_interval
    }

    fn send(&self, states: &[NotifyState<'_>]) {
        if self.listening
            && let Err(error) = sd_notify::notify(states)
        {
            tracing::debug!(%error, "The service manager could not be notified");
        }
    }
}
