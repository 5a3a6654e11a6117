//! The Control service: tasks that are ended early, nodes that are taken out of service, and why a
//! session does not run.

use std::sync::Arc;

use flame_core::TaskId;
use flame_rpc::v1;
use flame_rpc::v1::control_server::Control;
use tonic::{Request, Response, Status};

use crate::core::{Cancel, ended_otherwise};
use crate::engine::Engine;
use crate::frontend::read_stored;
use crate::store::TaskReader;

/// Longest reason, in bytes: it is stored with each task that it ends.
const MAX_REASON: usize = 1024;

/// The Control service, on top of an engine and its store.
pub struct ControlService {
    engine: Engine,
    reader: Arc<dyn TaskReader>,
}

impl ControlService {
    /// Serves what `engine` decides and `reader` remembers.
    #[must_use]
    pub fn new(engine: Engine, reader: Arc<dyn TaskReader>) -> Self {
        Self { engine, reader }
    }
}

fn task_id(text: &str) -> Result<TaskId, Status> {
    text.parse()
        .map_err(|_| Status::invalid_argument(format!("task id {text:?} is not a number")))
}

/// A reason that says something and is not too long.
fn checked(reason: Option<String>) -> Result<Option<String>, Status> {
    match reason {
        Some(text) if text.len() > MAX_REASON => Err(Status::invalid_argument(format!(
            "the reason has {} bytes, and may have {MAX_REASON}",
            text.len()
        ))),
        reason => Ok(reason.filter(|text| !text.trim().is_empty())),
    }
}

impl ControlService {
    async fn cordon(&self, request: v1::CordonNodeRequest, drain: bool) -> Result<v1::Node, Status> {
        let reason = checked(request.reason)?;
        let name = request.name;
        let cordoned = self
            .engine
            .write(move |core, now, fx| core.cordon_node(&name, drain, reason, now, fx));
        Ok(cordoned.await?)
    }
}

#[tonic::async_trait]
impl Control for ControlService {
    async fn cancel_task(
        &self,
        request: Request<v1::CancelTaskRequest>,
    ) -> Result<Response<v1::CancelTaskResponse>, Status> {
        let request = request.into_inner();
        let id = task_id(&request.task_id)?;
        let reason = checked(request.reason)?;
        let session = request.session_id.clone();
        let cancelled = self
            .engine
            .write(move |core, now, fx| core.cancel_task(&session, id, reason, now, fx))
            .await?;
        if let Cancel::InStore(key) = cancelled {
            let stored = read_stored(Arc::clone(&self.reader), move |reader| reader.task(key, id)).await?;
            let session = &request.session_id;
            let Some(row) = stored else {
                return Err(Status::not_found(format!(
                    "task {id} of session {session} not found"
                )));
            };
            ended_otherwise(session, &row)?;
        }
        let changed = cancelled == Cancel::Changed;
        Ok(Response::new(v1::CancelTaskResponse { changed }))
    }

    async fn cancel_tasks(
        &self,
        request: Request<v1::CancelTasksRequest>,
    ) -> Result<Response<v1::CancelTasksResponse>, Status> {
        let request = request.into_inner();
        let reason = checked(request.reason)?;
        let id = request.session_id;
        let cancelled = self
            .engine
            .write(move |core, now, fx| core.cancel_tasks(&id, reason, now, fx))
            .await?;
        Ok(Response::new(v1::CancelTasksResponse { cancelled }))
    }

    async fn cancel_session(
        &self,
        request: Request<v1::CancelSessionRequest>,
    ) -> Result<Response<v1::Session>, Status> {
        let request = request.into_inner();
        let reason = checked(request.reason)?;
        let id = request.session_id;
        let closed = self
            .engine
            .write(move |core, now, fx| core.cancel_session(&id, reason, now, fx));
        Ok(Response::new(closed.await?))
    }

    async fn explain_session(
        &self,
        request: Request<v1::ExplainSessionRequest>,
    ) -> Result<Response<v1::ExplainSessionResponse>, Status> {
        let id = request.into_inner().session_id;
        let explained = self
            .engine
            .read(move |core, now, _| core.explain_session(&id, now));
        Ok(Response::new(explained.await?))
    }

    async fn cordon_node(
        &self,
        request: Request<v1::CordonNodeRequest>,
    ) -> Result<Response<v1::Node>, Status> {
        Ok(Response::new(self.cordon(request.into_inner(), false).await?))
    }

    async fn drain_node(
        &self,
        request: Request<v1::CordonNodeRequest>,
    ) -> Result<Response<v1::Node>, Status> {
        Ok(Response::new(self.cordon(request.into_inner(), true).await?))
    }

    async fn uncordon_node(&self, request: Request<v1::NodeRequest>) -> Result<Response<v1::Empty>, Status> {
        let name = request.into_inner().name;
        let done = self
            .engine
            .write(move |core, _, fx| core.uncordon_node(&name, fx));
        done.await?;
        Ok(Response::new(v1::Empty {}))
    }

    async fn forget_node(&self, request: Request<v1::NodeRequest>) -> Result<Response<v1::Empty>, Status> {
        let name = request.into_inner().name;
        let done = self
            .engine
            .write(move |core, now, fx| core.forget_node(&name, now, fx));
        done.await?;
        Ok(Response::new(v1::Empty {}))
    }
}
