//! OnTaskInvoke for services without a stream: the one call that is made for each task.
//!
//! Straight on HTTP/2, and driven by whoever calls: the layers of a gRPC client and a task per
//! connection cost more than half of what such a call takes in the agent.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flame_rpc::v1::{TaskContext, TaskResult};
use h2::RecvStream;
use h2::client::{Builder, Connection, SendRequest};
use prost::Message;
use tokio::net::UnixStream;
use tonic::codegen::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version, header};
use tonic::{Code, Status};

use super::connection::{CONNECTION_WINDOW, STREAM_WINDOW};

const ON_TASK_INVOKE: &str = "http://localhost/flame.v1.Instance/OnTaskInvoke";
/// What gRPC puts before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// A connection for calls, one at a time.
pub(super) struct Caller {
    requests: SendRequest<Bytes>,
    connection: Connection<UnixStream>,
    over: bool,
    uri: Uri,
    headers: HeaderMap,
    limit: usize,
}

impl Caller {
    /// Connects to the socket at `path`, for answers of up to `limit` bytes.
    pub(super) async fn open(path: &Path, limit: usize) -> Result<Self, Status> {
        let stream = UnixStream::connect(path).await.map_err(broken)?;
        let (requests, connection) = Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .enable_push(false)
            .handshake(stream)
            .await
            .map_err(broken)?;
        let mut headers = HeaderMap::new();
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        Ok(Self {
            requests,
            connection,
            over: false,
            uri: Uri::from_static(ON_TASK_INVOKE),
            headers,
            limit,
        })
    }

    /// Answers what the other side asks of the connection. Completes when that has ended.
    pub(super) async fn idle(&mut self) {
        std::future::poll_fn(|cx| {
            self.drive(cx);
            if self.over { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// One call. A broken connection is a status with a source.
    pub(super) async fn invoke(&mut self, task: &TaskContext) -> Result<TaskResult, Status> {
        let bytes = task.encoded_len();
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = self.headers.clone();
        let (mut response, mut body) = self.requests.send_request(request, false).map_err(broken)?;
        let mut message = BytesMut::with_capacity(PREFIX + bytes);
        message.put_u8(0);
        message.put_u32(u32::try_from(bytes).map_err(|error| Status::resource_exhausted(error.to_string()))?);
        task.encode(&mut message)
            .map_err(|error| Status::internal(error.to_string()))?;
        body.send_data(message.freeze(), true).map_err(broken)?;

        let answer = std::future::poll_fn(|cx| {
            self.drive(cx);
            Pin::new(&mut response).poll(cx)
        })
        .await
        .map_err(broken)?;
        let (head, mut body) = answer.into_parts();
        if head.status != StatusCode::OK {
            return Err(Status::unknown(format!(
                "HTTP status {} instead of an answer",
                head.status
            )));
        }
        if let Some(status) = Status::from_header_map(&head.headers) {
            accepted(status)?;
        }
        let message = self.read(&mut body).await?;
        let trailers = std::future::poll_fn(|cx| {
            self.drive(cx);
            body.poll_trailers(cx)
        })
        .await
        .map_err(broken)?;
        match trailers.as_ref().and_then(Status::from_header_map) {
            Some(status) => accepted(status)?,
            None if message.is_none() => return Err(Status::unknown("an answer without a status")),
            None => {}
        }
        let message = message.ok_or_else(|| Status::internal("an answer without a message"))?;
        TaskResult::decode(message).map_err(|error| Status::internal(error.to_string()))
    }

    /// Reads the answer's message, if there is one.
    async fn read(&mut self, body: &mut RecvStream) -> Result<Option<Bytes>, Status> {
        let mut whole = Bytes::new();
        // More than one part, which are put together.
        let mut parts = BytesMut::new();
        let mut checked = false;
        while let Some(part) = std::future::poll_fn(|cx| {
            self.drive(cx);
            let part = ready!(body.poll_data(cx));
            if let Some(Ok(part)) = &part {
                // The stream is read to its end in any case; a closed one needs no window.
                let _ = body.flow_control().release_capacity(part.len());
            }
            Poll::Ready(part)
        })
        .await
        {
            let part = part.map_err(broken)?;
            if whole.is_empty() && parts.is_empty() {
                whole = part;
            } else {
                if parts.is_empty() {
                    parts.unsplit(BytesMut::from(std::mem::take(&mut whole)));
                }
                parts.extend_from_slice(&part);
            }
            let so_far = if parts.is_empty() { &whole[..] } else { &parts[..] };
            if !checked && let Some((_, length)) = prefix(so_far) {
                self.check(length)?;
                checked = true;
            }
        }
        let mut message = if parts.is_empty() { whole } else { parts.freeze() };
        if message.is_empty() {
            return Ok(None);
        }
        match prefix(&message) {
            Some((0, length)) if message.len() == PREFIX + length => {
                message.advance(PREFIX);
                Ok(Some(message))
            }
            Some((1, _)) => Err(Status::unimplemented(
                "the answer is compressed, which nobody asked for",
            )),
            _ => Err(Status::internal("the answer is no gRPC message")),
        }
    }

    /// Lets the connection write and read.
    fn drive(&mut self, cx: &mut Context<'_>) {
        if !self.over {
            self.over = Pin::new(&mut self.connection).poll(cx).is_ready();
        }
    }

    fn check(&self, bytes: usize) -> Result<(), Status> {
        if bytes <= self.limit {
            return Ok(());
        }
        Err(Status::resource_exhausted(format!(
            "the task's output has {bytes} bytes, but a message may have at most {}",
            self.limit
        )))
    }
}

fn prefix(message: &[u8]) -> Option<(u8, usize)> {
    let (compressed, rest) = message.split_first()?;
    let length = u32::from_be_bytes(*rest.first_chunk()?);
    Some((*compressed, usize::try_from(length).ok()?))
}

fn accepted(status: Status) -> Result<(), Status> {
    match status.code() {
        Code::Ok => Ok(()),
        _ => Err(status),
    }
}

/// A status with the connection's error as its source.
fn broken(error: impl std::error::Error + Send + Sync + 'static) -> Status {
    Status::from_error(Box::new(error))
}
