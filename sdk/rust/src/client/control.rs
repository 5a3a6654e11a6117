//! Ending tasks early, and asking why a session does not run. Other implementations of the session
//! manager answer `Unimplemented`.

use flame_rpc::v1;
use flame_rpc::v1::control_client::ControlClient;
use tonic::transport::Channel;

use super::Client;
use crate::error::Error;

impl Client {
    fn control(&self) -> ControlClient<Channel> {
        self.shared.control.clone()
    }

    /// Cancels task `id` of `session`, also if it runs: then its service process is ended. Returns
    /// whether it ended by that; false if it had been cancelled before. `reason` becomes the
    /// message of the task.
    ///
    /// # Errors
    /// [`Error::Rpc`] with `NotFound` if there is no such task, and with `FailedPrecondition` if it
    /// has succeeded or failed.
    pub async fn cancel_task(&self, session: &str, id: &str, reason: Option<&str>) -> Result<bool, Error> {
        let request = v1::CancelTaskRequest {
            session_id: session.to_owned(),
            task_id: id.to_owned(),
            reason: reason.map(str::to_owned),
        };
        let call = || {
            let (mut control, request) = (self.control(), request.clone());
            async move { control.cancel_task(request).await }
        };
        let doing = || format!("cancel task {id} of session {session}");
        Ok(self.repeat(doing, call).await?.changed)
    }

    /// Cancels all tasks of `session` that have not ended; returns how many. The session stays
    /// open.
    ///
    /// # Errors
    /// [`Error::Rpc`] with `NotFound` if there is no such session.
    pub async fn cancel_tasks(&self, session: &str, reason: Option<&str>) -> Result<u64, Error> {
        let request = v1::CancelTasksRequest {
            session_id: session.to_owned(),
            reason: reason.map(str::to_owned),
        };
        let call = || {
            let (mut control, request) = (self.control(), request.clone());
            async move { control.cancel_tasks(request).await }
        };
        let doing = || format!("cancel the tasks of session {session}");
        Ok(self.repeat(doing, call).await?.cancelled)
    }

    /// Closes session `id` whatever its tasks do: those that have not ended are cancelled.
    ///
    /// # Errors
    /// [`Error::Rpc`] with `NotFound` if there is none.
    pub async fn cancel_session(&self, id: &str, reason: Option<&str>) -> Result<v1::Session, Error> {
        let request = v1::CancelSessionRequest {
            session_id: id.to_owned(),
            reason: reason.map(str::to_owned),
        };
        let call = || {
            let (mut control, request) = (self.control(), request.clone());
            async move { control.cancel_session(request).await }
        };
        self.repeat(|| format!("cancel session {id}"), call).await
    }

    /// Why session `id` does not run, or not faster.
    ///
    /// # Errors
    /// [`Error::Rpc`] with `NotFound` if there is none.
    pub async fn explain_session(&self, id: &str) -> Result<v1::ExplainSessionResponse, Error> {
        let request = v1::ExplainSessionRequest {
            session_id: id.to_owned(),
        };
        let call = || {
            let (mut control, request) = (self.control(), request.clone());
            async move { control.explain_session(request).await }
        };
        self.repeat(|| format!("explain session {id}"), call).await
    }
}
