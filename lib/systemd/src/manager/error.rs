//! What can go wrong between us and the service manager.

use std::fmt;
use std::time::Duration;

use super::UnitStatus;

/// Which service manager is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// That of the machine.
    System,
    /// That of the user's session.
    User,
}

impl fmt::Display for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::System => "system",
            Self::User => "user",
        })
    }
}

impl Bus {
    /// What a person can do when the bus cannot be reached.
    fn remedy(self) -> &'static str {
        match self {
            Self::System => {
                "install D-Bus and start it (package dbus on Debian, dbus-broker on Fedora), on a machine \
                 that runs systemd"
            }
            Self::User => "log in with a session (loginctl enable-linger USER helps without one)",
        }
    }
}

/// An operation of the service manager failed.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// There is no message bus.
    #[error("cannot reach the {bus} bus of D-Bus; {remedy}", remedy = bus.remedy())]
    NoBus {
        /// The bus.
        bus: Bus,
        /// Why.
        source: zbus::Error,
    },
    /// There is a bus, but no systemd on it.
    #[error("systemd does not answer on the {bus} bus; is this machine run by systemd?")]
    NoManager {
        /// The bus.
        bus: Bus,
        /// Why.
        source: zbus::Error,
    },
    /// systemd knows no such unit.
    #[error("cannot {doing} {unit}: there is no such unit")]
    NoSuchUnit {
        /// What we were doing, as "start".
        doing: &'static str,
        /// The unit.
        unit: String,
    },
    /// We may not do that.
    #[error("cannot {doing} {subject}: permission denied; root may")]
    Denied {
        /// What we were doing.
        doing: &'static str,
        /// The units, or "the service manager".
        subject: String,
    },
    /// A call failed in another way.
    #[error("cannot {doing} {subject}")]
    Call {
        /// What we were doing.
        doing: &'static str,
        /// The units, or "the service manager".
        subject: String,
        /// Why.
        source: zbus::Error,
    },
    /// A job ended, but not well.
    #[error("cannot {doing} {unit}: the job ended as \"{outcome}\"{state}", unit = status.name, state = state(status))]
    Job {
        /// What we were doing.
        doing: &'static str,
        /// The unit after the job.
        status: Box<UnitStatus>,
        /// What became of the job.
        outcome: JobResult,
    },
    /// Something did not come to pass in time.
    #[error(
        "gave up after {} s waiting for {what} of {unit}{state}",
        limit.as_secs_f32(), unit = status.name, state = state(status)
    )]
    Timeout {
        /// What was waited for, as "the start".
        what: String,
        /// The unit at that time.
        status: Box<UnitStatus>,
        /// How long it was waited for.
        limit: Duration,
    },
    /// What was asked for again and again had no answer.
    #[error("D-Bus or systemd could not be reached for {} s", limit.as_secs_f32())]
    Unreachable {
        /// For how long it was asked.
        limit: Duration,
        /// How it failed the last time.
        source: Box<SystemdError>,
    },
    /// The bus went away while we waited for a signal.
    #[error("the connection to D-Bus ended while waiting for {what} of {unit}")]
    Disconnected {
        /// What was waited for.
        what: String,
        /// The unit.
        unit: String,
    },
}

/// A unit's state in words, to follow what went wrong.
fn state(status: &UnitStatus) -> String {
    let mut words = format!("; it is {} ({})", status.active_state, status.sub_state);
    if let Some(result) = status.result.as_deref().filter(|result| *result != "success") {
        words.push_str(&format!(", its last run ended with {result}"));
        if let Some(code) = status.exit_status.filter(|code| *code != 0) {
            words.push_str(&format!(" {code}"));
        }
    }
    if let Some(text) = status.status_text.as_deref().filter(|text| !text.is_empty()) {
        words.push_str(&format!(", its status is \"{text}\""));
    }
    words.push_str(&format!("; its log: journalctl -u {}", status.name));
    words
}

impl SystemdError {
    /// Sorts an error of D-Bus; `unit` is the one unit meant, if it is one.
    pub(super) fn from_call(
        doing: &'static str,
        subject: &str,
        unit: Option<&str>,
        source: zbus::Error,
    ) -> Self {
        match (name(&source).as_deref(), unit) {
            (Some("org.freedesktop.systemd1.NoSuchUnit"), Some(unit)) => Self::NoSuchUnit {
                doing,
                unit: unit.to_owned(),
            },
            (
                Some(
                    "org.freedesktop.DBus.Error.AccessDenied"
                    | "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired",
                ),
                _,
            ) => Self::Denied {
                doing,
                subject: subject.to_owned(),
            },
            _ => Self::Call {
                doing,
                subject: subject.to_owned(),
                source,
            },
        }
    }

    /// Whether D-Bus or systemd could not be reached. What was asked for may have been done or not; to ask again may
    /// help in a moment, when a daemon that is being started again is back.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::NoBus { .. }
            | Self::NoManager { .. }
            | Self::Unreachable { .. }
            | Self::Disconnected { .. } => true,
            Self::Call { source, .. } => {
                is_io(source) || name(source).is_some_and(|name| UNREACHABLE.contains(&name.as_str()))
            }
            _ => false,
        }
    }

    /// Whether the unit simply does not exist.
    #[must_use]
    pub fn is_no_such_unit(&self) -> bool {
        matches!(self, Self::NoSuchUnit { .. })
    }
}

/// What the bus says of a call that it did not hand on, or whose answer got lost.
const UNREACHABLE: [&str; 7] = [
    "org.freedesktop.DBus.Error.Disconnected",
    // The bus forwards no more at a time.
    "org.freedesktop.DBus.Error.LimitsExceeded",
    "org.freedesktop.DBus.Error.NameHasNoOwner",
    "org.freedesktop.DBus.Error.NoReply",
    "org.freedesktop.DBus.Error.NoServer",
    "org.freedesktop.DBus.Error.ServiceUnknown",
    "org.freedesktop.DBus.Error.Spawn.ServiceNotFound",
];

/// Whether the connection itself failed, whichever way zbus sorted it.
fn is_io(error: &zbus::Error) -> bool {
    match error {
        zbus::Error::InputOutput(_) => true,
        zbus::Error::FDO(error) => matches!(error.as_ref(), zbus::fdo::Error::ZBus(inner) if is_io(inner)),
        _ => false,
    }
}

/// Name of the D-Bus error, whichever way zbus sorted it.
pub(super) fn name(error: &zbus::Error) -> Option<String> {
    match error {
        zbus::Error::MethodError(name, ..) => Some(name.as_str().to_owned()),
        zbus::Error::FDO(error) => match error.as_ref() {
            zbus::fdo::Error::ZBus(inner) => name(inner),
            other => Some(zbus::DBusError::name(other).as_str().to_owned()),
        },
        _ => None,
    }
}

/// What became of a job of the service manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobResult {
    /// Done.
    Done,
    /// Another job replaced it.
    Canceled,
    /// It took longer than the unit allows.
    Timeout,
    /// The unit failed.
    Failed,
    /// A unit that it needs failed.
    Dependency,
    /// There was nothing to do.
    Skipped,
    /// A result that this list does not know.
    Other(String),
}

impl JobResult {
    pub(super) fn from_name(name: &str) -> Self {
        match name {
            "done" => Self::Done,
            "canceled" => Self::Canceled,
            "timeout" => Self::Timeout,
            "failed" => Self::Failed,
            "dependency" => Self::Dependency,
            "skipped" => Self::Skipped,
            other => Self::Other(other.to_owned()),
        }
    }

    /// Whether what was asked for has come to pass.
    #[must_use]
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Done | Self::Skipped)
    }
}

impl fmt::Display for JobResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Done => "done",
            Self::Canceled => "canceled",
            Self::Timeout => "timeout",
            Self::Failed => "failed",
            Self::Dependency => "dependency",
            Self::Skipped => "skipped",
            Self::Other(other) => other,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_job_tells_what_the_unit_says() {
        let status = UnitStatus {
            result: Some("exit-code".to_owned()),
            exit_status: Some(3),
            status_text: Some("port 8080 is in use".to_owned()),
            active_state: "activating".to_owned(),
            sub_state: "auto-restart".to_owned(),
            ..UnitStatus::named("flame-session-manager.service")
        };
        let error = SystemdError::Job {
            doing: "start",
            status: Box::new(status),
            outcome: JobResult::from_name("failed"),
        };
        assert_eq!(
            error.to_string(),
            "cannot start flame-session-manager.service: the job ended as \"failed\"; it is activating \
             (auto-restart), its last run ended with exit-code 3, its status is \"port 8080 is in use\"; \
             its log: journalctl -u flame-session-manager.service"
        );
    }

    #[test]
    fn what_could_not_be_asked_is_told_from_what_was_refused() {
        use zbus::fdo::Error;
        let from = |source| SystemdError::from_call("stop", "a.service", Some("a.service"), source);
        let io = || zbus::Error::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        let fdo = |error| zbus::Error::FDO(Box::new(error));
        for source in [
            io(),
            fdo(Error::ZBus(io())),
            fdo(Error::NoReply(String::new())),
            fdo(Error::ServiceUnknown(String::new())),
            fdo(Error::NameHasNoOwner(String::new())),
            fdo(Error::LimitsExceeded(String::new())),
        ] {
            assert!(from(source.clone()).is_unreachable(), "{source:?}");
        }
        for source in [
            fdo(Error::AccessDenied(String::new())),
            fdo(Error::InvalidArgs(String::new())),
            zbus::Error::IncorrectType,
        ] {
            assert!(!from(source.clone()).is_unreachable(), "{source:?}");
        }
    }

    #[test]
    fn results_of_jobs_are_read_and_written() {
        for (name, success) in [
            ("done", true),
            ("skipped", true),
            ("canceled", false),
            ("timeout", false),
            ("failed", false),
            ("dependency", false),
            ("collected", false),
        ] {
            let result = JobResult::from_name(name);
            assert_eq!(result.to_string(), name);
            assert_eq!(result.is_success(), success, "{name}");
        }
    }
}
