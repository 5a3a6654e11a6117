//! The InstanceStream protocol: tasks and outcomes in batches.

use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};

use flame_rpc::v1::instance_stream_server::InstanceStream;
use flame_rpc::v1::{TaskStreamRequest, TaskStreamResponse};
use futures::Stream;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tonic::{Request, Response, Status, Streaming};

use super::desk::Desk;
use super::unary::Session;
use super::{Service, worker};

/// Speaks the InstanceStream protocol for a [`Service`].
pub(super) struct TaskStreams<S> {
    service: Arc<S>,
    session: Session,
    stop: watch::Receiver<bool>,
}

impl<S> TaskStreams<S> {
    /// Streams that run no further task once `stop` is true.
    pub(super) fn new(service: Arc<S>, session: Session, stop: watch::Receiver<bool>) -> Self {
        Self {
            service,
            session,
            stop,
        }
    }
}

#[tonic::async_trait]
impl<S: Service> InstanceStream for TaskStreams<S> {
    type OnTaskStreamStream = Responses;

    async fn on_task_stream(
        &self,
        request: Request<Streaming<TaskStreamRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let session = self
            .session
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .ok_or_else(|| Status::failed_precondition("OnSessionEnter comes first"))?;
        let desk = Arc::new(Desk::default());
        let worker = tokio::spawn(worker::work(
            self.service.clone(),
            session,
            desk.clone(),
            self.stop.clone(),
        ));
        Ok(Response::new(Responses {
            requests: Some(request.into_inner()),
            desk,
            worker: worker.abort_handle(),
        }))
    }
}

/// The responses of one stream. It is polled when the connection has room for another one, and
/// takes the requests in meanwhile.
pub(super) struct Responses {
    /// None once the other side has ended its side.
    requests: Option<Streaming<TaskStreamRequest>>,
    desk: Arc<Desk>,
    worker: AbortHandle,
}

impl Drop for Responses {
    fn drop(&mut self) {
        // Nobody would hear of the outcome of a task that still runs.
        self.worker.abort();
    }
}

impl Stream for Responses {
    type Item = Result<TaskStreamResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        while let Some(requests) = &mut this.requests {
            if this.desk.is_full(cx) {
                break;
            }
            match Pin::new(requests).poll_next(cx) {
                Poll::Ready(Some(Ok(request))) => this.desk.take_in(request),
                Poll::Ready(None) => {
                    this.requests = None;
                    this.desk.close();
                }
                // The connection is gone, or what came is not the protocol.
                Poll::Ready(Some(Err(status))) => {
                    this.requests = None;
                    this.worker.abort();
                    return Poll::Ready(Some(Err(status)));
                }
                Poll::Pending => break,
            }
        }
        this.desk.poll_response(cx).map(|response| response.map(Ok))
    }
}
