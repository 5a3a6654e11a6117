//! The Control service: tasks that are ended early, nodes that are taken out of service, and why a
//! session does not run.

use std::sync::Arc;

use flame_rpc::v1;
use flame_rpc::v1::control_server::Control;
use tonic::{Request, Response, Status};

use crate::core::{Cancel, ended_otherwise};
use crate::engine::Engine;
use crate::logs::{LinesStream, Logs};
use crate::store::TaskReader;
use crate::stored;

/// Longest reason, in bytes: it is stored with each task that it ends.
const MAX_REASON: usize = 1024;

/// The Control service, on top of an engine and its store.
pub struct ControlService {
    engine: Engine,
    reader: Arc<dyn TaskReader>,
    logs: Logs,
}

impl ControlService {
    /// Serves what `engine` decides and `reader` remembers.
    #[must_use]
    pub fn new(engine: Engine, reader: Arc<dyn TaskReader>) -> Self {
        let logs = Logs::new(engine.clone());
        Self { engine, reader, logs }
    }
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
    type ReadLogsStream = LinesStream;

    async fn read_logs(
        &self,
        request: Request<v1::ReadLogsRequest>,
    ) -> Result<Response<LinesStream>, Status> {
        self.logs.read(request).await
    }

    async fn cancel_task(
        &self,
        request: Request<v1::CancelTaskRequest>,
    ) -> Result<Response<v1::CancelTaskResponse>, Status> {
        let request = request.into_inner();
        let id = stored::task_id(&request.task_id)?;
        let reason = checked(request.reason)?;
        let session = request.session_id.clone();
        let cancelled = self
            .engine
            .write(move |core, now, fx| core.cancel_task(&session, id, reason, now, fx))
            .await?;
        if let Cancel::InStore(key) = cancelled {
            let session = &request.session_id;
            let row = stored::ended_task(Arc::clone(&self.reader), session, key, id).await?;
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

#[cfg(test)]
mod tests {
    use flame_core::config::ClusterConfig;
    use flame_core::{ApplicationName, SessionId};
    use tonic::Code;

    use super::*;
    use crate::engine::EngineRun;
    use crate::server::start_engine;

    /// A session `s` with two tasks, on a store.
    async fn service(directory: &std::path::Path) -> (ControlService, EngineRun) {
        let storage = directory.join("flame.db");
        let text = format!(
            "cluster: {{name: t, endpoint: \"http://127.0.0.1:1\", storage: \"sqlite://{}\"}}",
            storage.display()
        );
        let config = ClusterConfig::parse(&text).expect("valid");
        let (engine, run, readers) = start_engine(&config).expect("starts");
        let made = engine.write(|core, now, fx| {
            let app = ApplicationName::new("app").expect("valid");
            let spec = v1::SessionSpec {
                application: "app".to_owned(),
                ..v1::SessionSpec::default()
            };
            if core.get_application("app").is_err() {
                core.register_application(&app, v1::ApplicationSpec::default(), now, fx)?;
                core.create_session(&SessionId::new("s").expect("valid"), spec, now, fx)?;
                core.create_tasks("s", vec![None, None], now, fx)?;
            }
            Ok(())
        });
        made.await.expect("made");
        (ControlService::new(engine, readers.tasks), run)
    }

    async fn cancel(service: &ControlService, task: &str, reason: Option<String>) -> Result<bool, Status> {
        let request = v1::CancelTaskRequest {
            session_id: "s".to_owned(),
            task_id: task.to_owned(),
            reason,
        };
        let answer = service.cancel_task(Request::new(request)).await?;
        Ok(answer.into_inner().changed)
    }

    #[tokio::test]
    async fn a_task_is_cancelled_once_also_over_a_restart() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (control, run) = service(directory.path()).await;
        assert!(cancel(&control, "1", None).await.expect("cancelled"));
        assert!(!cancel(&control, "1", None).await.expect("repeated"));
        drop(control);
        run.stop().await;
        // The end is only in the store now.
        let (control, _run) = service(directory.path()).await;
        assert!(!cancel(&control, "1", None).await.expect("repeated"));
        for (task, code) in [("3", Code::NotFound), ("x", Code::InvalidArgument)] {
            let refused = cancel(&control, task, None).await.expect_err("refused");
            assert_eq!(refused.code(), code, "{refused}");
        }
        let all = v1::CancelTasksRequest {
            session_id: "s".to_owned(),
            reason: Some("  ".to_owned()),
        };
        let all = control.cancel_tasks(Request::new(all)).await.expect("cancelled");
        assert_eq!(all.into_inner().cancelled, 1);
    }

    #[tokio::test]
    async fn a_reason_that_is_a_novel_is_refused() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (control, _run) = service(directory.path()).await;
        let long = Some("x".repeat(MAX_REASON + 1));
        let refused = cancel(&control, "1", long).await.expect_err("refused");
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
}
