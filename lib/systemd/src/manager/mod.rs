//! The service manager over D-Bus: start, stop, enable and watch units, and wait for the outcome.

mod error;
mod instances;
mod limits;
mod machine;
mod properties;
pub mod proxies;
mod sight;
mod signals;
mod status;

use std::future::Future;
use std::time::Duration;

use futures::StreamExt;
use zbus::proxy::CacheProperties;
use zbus::{Connection, OwnedObjectPath, OwnedVariant, connection};

pub use error::{Bus, JobResult, SystemdError};
pub use instances::LoadedUnit;
pub use limits::Limits;
pub use proxies::UnitFileChange;
pub use sight::UnitSight;
pub use signals::{JobId, UnitChange, UnitSignal, UnitSignals};
pub use status::UnitStatus;

use properties::{Properties, SERVICE, UNIT};
use proxies::{ManagerProxy, ServiceProxy, UnitProxy};

/// Longest wait for the answer to one call; reloading a machine with thousands of units takes seconds.
const CALL_LIMIT: Duration = Duration::from_secs(60);
/// How often a state is read again while waiting for it, in case a signal does not tell of it
/// (the manager sends none for a unit that it has just unloaded).
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How a new job meets an old one: it takes its place.
const REPLACE: &str = "replace";

/// The manager's answer to the second subscription of a connection.
const ALREADY_SUBSCRIBED: &str = "org.freedesktop.systemd1.AlreadySubscribed";

/// A connection to a service manager.
#[derive(Debug, Clone)]
pub struct Systemd {
    connection: Connection,
    manager: ManagerProxy<'static>,
}

/// What is done to a unit by a job.
#[derive(Debug, Clone, Copy)]
enum Verb {
    Start,
    Stop,
    Restart,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
        }
    }
}

impl Systemd {
    /// The machine's service manager.
    ///
    /// # Errors
    /// [`SystemdError::NoBus`] or [`SystemdError::NoManager`].
    pub async fn system() -> Result<Self, SystemdError> {
        Self::connect(Bus::System, connection::Builder::system()).await
    }

    /// The service manager of the user's session.
    ///
    /// # Errors
    /// [`SystemdError::NoBus`] or [`SystemdError::NoManager`].
    pub async fn user() -> Result<Self, SystemdError> {
        Self::connect(Bus::User, connection::Builder::session()).await
    }

    async fn connect(bus: Bus, builder: connection::Builder<'_>) -> Result<Self, SystemdError> {
        let connection = builder
            .method_timeout(CALL_LIMIT)
            .build()
            .await
            .map_err(|source| SystemdError::NoBus { bus, source })?;
        let no_manager = |source| SystemdError::NoManager { bus, source };
        let manager = ManagerProxy::builder(&connection)
            .cache_properties(CacheProperties::No)
            .build()
            .await
            .map_err(no_manager)?;
        manager.version().await.map_err(no_manager)?;
        Ok(Self { connection, manager })
    }

    /// Version of systemd.
    ///
    /// # Errors
    /// [`SystemdError::Call`].
    pub async fn version(&self) -> Result<String, SystemdError> {
        call("ask for the version of", &[], self.manager.version()).await
    }

    /// Reads all unit files again.
    ///
    /// # Errors
    /// [`SystemdError::Denied`] or [`SystemdError::Call`].
    pub async fn reload(&self) -> Result<(), SystemdError> {
        call("reload", &[], self.manager.reload()).await
    }

    /// Makes the links of the `[Install]` sections of `files` (names or absolute paths).
    ///
    /// # Errors
    /// [`SystemdError::Denied`] or [`SystemdError::Call`].
    pub async fn enable(&self, files: &[&str]) -> Result<Vec<UnitFileChange>, SystemdError> {
        // Not forced: links of somebody else are an error that the user should see.
        let call_it = self.manager.enable_unit_files(files, false, false);
        Ok(call("enable", files, call_it).await?.1)
    }

    /// Removes the links of `files` (names).
    ///
    /// # Errors
    /// [`SystemdError::Denied`] or [`SystemdError::Call`].
    pub async fn disable(&self, files: &[&str]) -> Result<Vec<UnitFileChange>, SystemdError> {
        call("disable", files, self.manager.disable_unit_files(files, false)).await
    }

    /// Starts `unit` and waits at most `limit` until its job is done: for `Type=notify`, until READY.
    ///
    /// # Errors
    /// [`SystemdError::Job`] or [`SystemdError::Timeout`] with the unit's state, and those of a call.
    pub async fn start(&self, unit: &str, limit: Duration) -> Result<JobResult, SystemdError> {
        self.job(Verb::Start, unit, limit).await
    }

    /// Stops `unit` and waits at most `limit` until nothing of it runs.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn stop(&self, unit: &str, limit: Duration) -> Result<JobResult, SystemdError> {
        self.job(Verb::Stop, unit, limit).await
    }

    /// Stops `unit` if it runs, starts it, and waits at most `limit`.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn restart(&self, unit: &str, limit: Duration) -> Result<JobResult, SystemdError> {
        self.job(Verb::Restart, unit, limit).await
    }

    /// Makes the manager send signals to this connection; once is enough.
    async fn subscribe(&self) -> Result<(), SystemdError> {
        match self.manager.subscribe().await {
            Err(error) if error::name(&error).as_deref() == Some(ALREADY_SUBSCRIBED) => Ok(()),
            result => call("subscribe to", &[], async { result }).await,
        }
    }

    async fn job(&self, verb: Verb, unit: &str, limit: Duration) -> Result<JobResult, SystemdError> {
        let doing = verb.name();
        self.subscribe().await?;
        // Before the call that makes the job: a fast job would otherwise be over unheard.
        let mut removed = call("subscribe to", &[], self.manager.receive_job_removed()).await?;
        let made = match verb {
            Verb::Start => self.manager.start_unit(unit, REPLACE).await,
            Verb::Stop => self.manager.stop_unit(unit, REPLACE).await,
            Verb::Restart => self.manager.restart_unit(unit, REPLACE).await,
        };
        let job = made.map_err(|source| SystemdError::from_call(doing, unit, Some(unit), source))?;
        let outcome = async {
            while let Some(signal) = removed.next().await {
                if let Ok(ended) = signal.args()
                    && *ended.job() == job
                {
                    return Some(JobResult::from_name(ended.result()));
                }
            }
            None
        };
        match tokio::time::timeout(limit, outcome).await {
            Ok(Some(outcome)) if outcome.is_success() => Ok(outcome),
            Ok(Some(outcome)) => Err(SystemdError::Job {
                doing,
                status: Box::new(self.status(unit).await?),
                outcome,
            }),
            Ok(None) => Err(SystemdError::Disconnected {
                what: format!("the {doing}"),
                unit: unit.to_owned(),
            }),
            Err(_) => Err(SystemdError::Timeout {
                what: format!("the {doing}"),
                status: Box::new(self.status(unit).await?),
                limit,
            }),
        }
    }

    /// Forgets a failure of `unit`; nothing to do if systemd does not know it.
    ///
    /// # Errors
    /// [`SystemdError::Denied`] or [`SystemdError::Call`].
    pub async fn reset_failed(&self, unit: &str) -> Result<(), SystemdError> {
        match self.manager.reset_failed_unit(unit).await {
            Ok(()) => Ok(()),
            Err(source) => match SystemdError::from_call("reset", unit, Some(unit), source) {
                error if error.is_no_such_unit() => Ok(()),
                error => Err(error),
            },
        }
    }

    /// Changes properties of `unit` until the machine stops, or for good if not `runtime`.
    ///
    /// # Errors
    /// [`SystemdError::NoSuchUnit`], [`SystemdError::Denied`] or [`SystemdError::Call`].
    pub async fn set_properties(
        &self,
        unit: &str,
        runtime: bool,
        properties: &[(&str, OwnedVariant)],
    ) -> Result<(), SystemdError> {
        let set = self.manager.set_unit_properties(unit, runtime, properties);
        call("set properties of", &[unit], set).await
    }

    /// Whether a unit file is enabled; `None` if there is no such file.
    ///
    /// # Errors
    /// [`SystemdError::Denied`] or [`SystemdError::Call`].
    pub async fn unit_file_state(&self, unit: &str) -> Result<Option<String>, SystemdError> {
        // A missing file is an ordinary D-Bus "file not found", whose name is not of systemd's own.
        let status = self.status(unit).await?;
        if !status.exists() {
            return Ok(None);
        }
        call(
            "look at the file of",
            &[unit],
            self.manager.get_unit_file_state(unit),
        )
        .await
        .map(Some)
    }

    /// Names of the loaded units that match one of `patterns` (as `flame-*`).
    ///
    /// # Errors
    /// [`SystemdError::Call`].
    pub async fn loaded(&self, patterns: &[&str]) -> Result<Vec<String>, SystemdError> {
        let listed = call(
            "list",
            patterns,
            self.manager.list_units_by_patterns(&[], patterns),
        )
        .await?;
        Ok(listed.into_iter().map(|unit| unit.0).collect())
    }

    /// State of `unit`; of one that does not exist, `load_state` says so.
    ///
    /// # Errors
    /// [`SystemdError::Denied`] or [`SystemdError::Call`].
    pub async fn status(&self, unit: &str) -> Result<UnitStatus, SystemdError> {
        let path = call("look at", &[unit], self.manager.load_unit(unit)).await?;
        call("look at", &[unit], self.read(unit, path)).await
    }

    /// What all units have, of the one at `path`.
    async fn unit(&self, path: OwnedObjectPath) -> zbus::Result<UnitProxy<'static>> {
        let unit = UnitProxy::builder(&self.connection).path(path);
        unit.cache_properties(CacheProperties::No).build().await
    }

    /// What only services have, of the one at `path`.
    async fn service(&self, path: OwnedObjectPath) -> zbus::Result<ServiceProxy<'static>> {
        let service = ServiceProxy::builder(&self.connection).path(path);
        service.cache_properties(CacheProperties::No).build().await
    }

    async fn read(&self, name: &str, path: OwnedObjectPath) -> zbus::Result<UnitStatus> {
        let mut unit = Properties::read(&self.connection, path.clone(), UNIT).await?;
        let mut status = UnitStatus {
            load_state: unit.take("LoadState")?,
            active_state: unit.take("ActiveState")?,
            sub_state: unit.take("SubState")?,
            unit_file_state: unit.take("UnitFileState")?,
            fragment_path: Some(unit.take("FragmentPath")?).filter(|path: &String| !path.is_empty()),
            drop_ins: unit.take("DropInPaths")?,
            needs_reload: unit.take("NeedDaemonReload")?,
            invocation_id: hex(&unit.take::<Vec<u8>>("InvocationID")?),
            active_since_us: Some(unit.take("ActiveEnterTimestamp")?).filter(|time| *time > 0),
            ..UnitStatus::named(name)
        };
        if name.ends_with(".service") && status.exists() {
            let mut service = Properties::read(&self.connection, path, SERVICE).await?;
            status.result = Some(service.take("Result")?);
            status.exit_status = Some(service.take("ExecMainStatus")?);
            status.main_pid = Some(service.take("MainPID")?).filter(|pid| *pid > 0);
            // The time of the last run stays when it is over.
            status.main_since_us = Some(service.take("ExecMainStartTimestamp")?)
                .filter(|time| *time > 0 && status.main_pid.is_some());
            status.restarts = Some(service.take("NRestarts")?);
            status.status_text = Some(service.take("StatusText")?).filter(|text: &String| !text.is_empty());
            status.memory_bytes = Some(service.take("MemoryCurrent")?).filter(|bytes| *bytes < u64::MAX);
        }
        Ok(status)
    }

    /// Watches `unit` until `look` finds what it waits for, at most for `limit`. `what` names that.
    ///
    /// # Errors
    /// [`SystemdError::Timeout`] with the unit's last state, and those of a call.
    pub async fn wait_for<T>(
        &self,
        unit: &str,
        what: &str,
        limit: Duration,
        look: impl Fn(&UnitStatus) -> Option<T>,
    ) -> Result<T, SystemdError> {
        self.subscribe().await?;
        let path = call("look at", &[unit], self.manager.load_unit(unit)).await?;
        let signals = async {
            zbus::fdo::PropertiesProxy::builder(&self.connection)
                .destination("org.freedesktop.systemd1")
                .path(path)
                .build()
                .await?
                .receive_properties_changed()
                .await
        };
        let mut changes = call("watch", &[unit], signals).await?;
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            let status = self.status(unit).await?;
            if let Some(found) = look(&status) {
                return Ok(found);
            }
            let now = tokio::time::Instant::now();
            if now >= deadline {
                return Err(SystemdError::Timeout {
                    what: what.to_owned(),
                    status: Box::new(status),
                    limit,
                });
            }
            // Either way the state is read again: the signal is only a hint that it is worth it.
            let pause = LOOK_AGAIN.min(deadline - now);
            if let Ok(None) = tokio::time::timeout(pause, changes.next()).await {
                return Err(SystemdError::Disconnected {
                    what: what.to_owned(),
                    unit: unit.to_owned(),
                });
            }
        }
    }
}

/// Awaits a D-Bus call and says what it was for if it fails.
async fn call<T, E: Into<zbus::Error>>(
    doing: &'static str,
    units: &[&str],
    future: impl Future<Output = Result<T, E>>,
) -> Result<T, SystemdError> {
    future.await.map_err(|source| {
        let subject = match units {
            [] => "the service manager".to_owned(),
            units => units.join(", "),
        };
        let unit = match units {
            [unit] => Some(*unit),
            _ => None,
        };
        SystemdError::from_call(doing, &subject, unit, source.into())
    })
}

fn hex(bytes: &[u8]) -> Option<String> {
    (!bytes.is_empty()).then(|| bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invocation_id_is_written_as_the_journal_has_it() {
        assert_eq!(hex(&[0x0a, 0xff, 0x00]).as_deref(), Some("0aff00"));
        assert_eq!(hex(&[]), None);
    }

    #[tokio::test]
    async fn a_missing_bus_says_what_to_do() {
        let builder = connection::Builder::address("unix:path=/nonexistent/bus");
        let error = Systemd::connect(Bus::System, builder).await.expect_err("no bus");
        let text = error.to_string();
        assert!(
            text.starts_with("cannot reach the system bus of D-Bus; install D-Bus"),
            "{text}"
        );
    }
}
