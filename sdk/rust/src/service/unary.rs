//! The Instance protocol: a call for each task.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};

use flame_rpc::v1;
use flame_rpc::v1::instance_server::Instance;
use futures::FutureExt;
use tonic::{Request, Response, Status};

use super::{ApplicationContext, Service, SessionContext, TaskContext, TaskError};

/// The session that the process was bound to; a stream of tasks does not repeat it.
pub(super) type Session = Arc<Mutex<Option<Arc<str>>>>;

/// Speaks the Instance protocol for a [`Service`].
pub(super) struct Adapter<S> {
    service: Arc<S>,
    session: Session,
}

impl<S> Adapter<S> {
    pub(super) fn new(service: Arc<S>, session: Session) -> Self {
        Self { service, session }
    }
}

/// A panic becomes an error, so that it costs one task and not the process (where the program is
/// built to unwind).
pub(super) async fn caught<T>(work: impl Future<Output = Result<T, TaskError>>) -> Result<T, TaskError> {
    AssertUnwindSafe(work)
        .catch_unwind()
        .await
        .unwrap_or_else(|panic| {
            let text = panic
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned());
            Err(TaskError(format!(
                "the service panicked: {}",
                text.unwrap_or_else(|| "without a text".to_owned())
            )))
        })
}

fn result(outcome: Result<(), TaskError>) -> Response<v1::Result> {
    Response::new(match outcome {
        Ok(()) => v1::Result {
            return_code: 0,
            message: None,
        },
        Err(TaskError(message)) => v1::Result {
            return_code: -1,
            message: Some(message),
        },
    })
}

#[tonic::async_trait]
impl<S: Service> Instance for Adapter<S> {
    async fn on_session_enter(
        &self,
        request: Request<v1::SessionContext>,
    ) -> Result<Response<v1::Result>, Status> {
        let session = request.into_inner();
        let application = session.application.unwrap_or_default();
        let session = SessionContext {
            session_id: session.session_id,
            application: ApplicationContext {
                name: application.name,
                command: application.command,
                working_directory: application.working_directory,
                image: application.image,
                url: application.url,
                installer: application.installer,
            },
            common_data: session.common_data,
        };
        let id = Arc::from(session.session_id.as_str());
        let entered = caught(self.service.on_session_enter(session)).await;
        if entered.is_ok() {
            *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(id);
        }
        Ok(result(entered))
    }

    async fn on_task_invoke(
        &self,
        request: Request<v1::TaskContext>,
    ) -> Result<Response<v1::TaskResult>, Status> {
        let task = request.into_inner();
        let task = TaskContext {
            task_id: task.task_id,
            session_id: task.session_id,
            input: task.input,
        };
        Ok(Response::new(
            match caught(self.service.on_task_invoke(task)).await {
                Ok(output) => v1::TaskResult {
                    return_code: 0,
                    output,
                    message: None,
                },
                Err(TaskError(message)) => v1::TaskResult {
                    return_code: -1,
                    output: None,
                    message: Some(message),
                },
            },
        ))
    }

    async fn on_session_leave(
        &self,
        _request: Request<v1::EmptyRequest>,
    ) -> Result<Response<v1::Result>, Status> {
        Ok(result(caught(self.service.on_session_leave()).await))
    }
}
