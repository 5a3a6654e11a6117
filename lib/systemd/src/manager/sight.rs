//! A unit as it is at one moment, for whoever has missed signals about it.

use super::{JobId, Systemd, SystemdError, UnitChange, call, hex};

/// Number of a job if there is none.
pub(super) const NO_JOB: u32 = 0;

/// What signals would have told about a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitSight {
    /// Its state; what there is none of is `None`.
    pub change: UnitChange,
    /// The job that is pending for it.
    pub job: Option<JobId>,
}

impl Systemd {
    /// Looks at a service that systemd may have loaded; `None` if it has not. Signals that come after the call began
    /// may tell something newer.
    ///
    /// # Errors
    /// [`SystemdError::Call`].
    pub async fn look(&self, unit: &str) -> Result<Option<UnitSight>, SystemdError> {
        match call("look at", &[unit], self.manager.get_unit(unit)).await {
            Ok(path) => call("look at", &[unit], self.see(path)).await.map(Some),
            Err(error) if error.is_no_such_unit() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn see(&self, path: zbus::OwnedObjectPath) -> zbus::Result<UnitSight> {
        let unit = self.unit(path.clone()).await?;
        let service = self.service(path).await?;
        // The job before the state: a job that is over by then has left its state. The state before the rest: what
        // is read after an end is about that end, and of an end that comes in between a signal tells.
        let (number, job) = unit.job().await?;
        let active_state = Some(unit.active_state().await?);
        Ok(UnitSight {
            job: (number != NO_JOB).then(|| JobId::new(job.as_str())),
            change: UnitChange {
                active_state,
                invocation_id: hex(&unit.invocation_id().await?),
                result: Some(service.result().await?),
                main_pid: Some(service.main_pid().await?),
                exit_code: Some(service.exec_main_code().await?),
                exit_status: Some(service.exec_main_status().await?),
            },
        })
    }
}
