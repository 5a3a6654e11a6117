//! Running instances of a template without waiting: the jobs' ends and the units' ends come as
//! [`UnitSignals`](super::UnitSignals).

use super::proxies::JobProxy;
use super::sight::NO_JOB;
use super::{JobId, REPLACE, Systemd, SystemdError, call};
use zbus::proxy::CacheProperties;

/// Name of the service that decides what an unprivileged caller may do.
const POLKIT: &str = "org.freedesktop.PolicyKit1";
/// Every process of a unit, for KillUnit.
const ALL: &str = "all";

/// A unit that systemd has loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedUnit {
    /// Full name.
    pub name: String,
    /// `active`, `inactive`, `failed`, `activating`, `deactivating`, ...
    pub active_state: String,
}

impl Systemd {
    /// Asks for the start of `unit` and returns the job.
    ///
    /// # Errors
    /// [`SystemdError::NoSuchUnit`], [`SystemdError::Denied`] or [`SystemdError::Call`].
    pub async fn begin_start(&self, unit: &str) -> Result<JobId, SystemdError> {
        let start = self.manager.start_unit(unit, REPLACE);
        Ok(JobId::new(call("start", &[unit], start).await?.as_str()))
    }

    /// Asks for the end of `unit`: SIGTERM, and SIGKILL when its `TimeoutStopSec=` is over.
    ///
    /// # Errors
    /// As [`Self::begin_start`].
    pub async fn begin_stop(&self, unit: &str) -> Result<JobId, SystemdError> {
        let stop = self.manager.stop_unit(unit, REPLACE);
        Ok(JobId::new(call("stop", &[unit], stop).await?.as_str()))
    }

    /// Sends a signal to all processes of `unit`.
    ///
    /// # Errors
    /// As [`Self::begin_start`].
    pub async fn kill(&self, unit: &str, signal: i32) -> Result<(), SystemdError> {
        call("kill", &[unit], self.manager.kill_unit(unit, ALL, signal)).await
    }

    /// The loaded units that match `pattern`, as `flame-executor@*`.
    ///
    /// # Errors
    /// [`SystemdError::Call`].
    pub async fn list(&self, pattern: &str) -> Result<Vec<LoadedUnit>, SystemdError> {
        let patterns = [pattern];
        let listed = self.manager.list_units_by_patterns(&[], &patterns);
        let listed = call("list", &patterns, listed).await?;
        Ok(listed
            .into_iter()
            .map(|unit| LoadedUnit {
                name: unit.0,
                active_state: unit.3,
            })
            .collect())
    }

    /// Paths that `unit` may write to although its system is read-only; a dash in front says that one may be missing.
    ///
    /// # Errors
    /// [`SystemdError::Call`], also if there is no such service.
    pub async fn writable_paths(&self, unit: &str) -> Result<Vec<String>, SystemdError> {
        let paths = async {
            let path = self.manager.load_unit(unit).await?;
            self.service(path).await?.read_write_paths().await
        };
        call("look at the paths of", &[unit], paths).await
    }

    /// Variables that `unit` has in its environment, as `NAME=value`, by its files.
    ///
    /// # Errors
    /// [`SystemdError::Call`], also if there is no such service.
    pub async fn environment(&self, unit: &str) -> Result<Vec<String>, SystemdError> {
        let variables = async {
            let path = self.manager.load_unit(unit).await?;
            self.service(path).await?.environment().await
        };
        call("look at the environment of", &[unit], variables).await
    }

    /// Whether polkit is there, or can be started by D-Bus.
    ///
    /// # Errors
    /// [`SystemdError::Call`].
    pub async fn has_polkit(&self) -> Result<bool, SystemdError> {
        let names = async {
            let bus = zbus::fdo::DBusProxy::new(&self.connection).await?;
            let mut names = bus.list_activatable_names().await?;
            names.extend(bus.list_names().await?);
            zbus::Result::Ok(names)
        };
        let names = call("ask D-Bus about", &[], names).await?;
        Ok(names.iter().any(|name| name.as_str() == POLKIT))
    }

    /// Kind of the job that is pending for the unit of the calling process: `stop`, `restart`, ...
    /// Tells a service that was sent SIGTERM whether it will be started again.
    ///
    /// # Errors
    /// [`SystemdError::Call`], also if the process belongs to no unit.
    pub async fn own_job(&self) -> Result<Option<String>, SystemdError> {
        let own = async {
            let path = self.manager.get_unit_by_pid(std::process::id()).await?;
            let (number, path) = self.unit(path).await?.job().await?;
            if number == NO_JOB {
                return Ok(None);
            }
            let job = JobProxy::builder(&self.connection)
                .path(path)
                .cache_properties(CacheProperties::No)
                .build()
                .await?;
            job.job_type().await.map(Some)
        };
        call("look at the job of", &[], own).await
    }
}
