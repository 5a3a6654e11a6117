//! The connection to a service: HTTP/2 on its unix socket.
//!
//! tonic's own channel has a task of its own in front of the connection, which would be two more
//! turns of the agent's only thread for each task; this hands calls straight to the connection.

use std::io;
use std::path::Path;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response, Uri};

/// HTTP/2 flow-control windows. The protocol's 64 KiB stall outputs of megabytes.
pub(super) const STREAM_WINDOW: u32 = 4 * 1024 * 1024;
pub(super) const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// A connection that was made. Copies share it; it ends with the last of them and of their calls.
#[derive(Debug, Clone)]
pub(super) struct Connection(SendRequest<Body>);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// Nobody listens on the socket.
    #[error("cannot connect to {path}", path = .0.display())]
    Socket(std::path::PathBuf, #[source] io::Error),
    /// Who listens does not speak HTTP/2.
    #[error("no HTTP/2 on {path}", path = .0.display())]
    Handshake(std::path::PathBuf, #[source] hyper::Error),
}

impl Connection {
    /// Connects to the socket at `path`.
    pub(super) async fn open(path: &Path) -> Result<Self, ConnectError> {
        let stream = UnixStream::connect(path)
            .await
            .map_err(|error| ConnectError::Socket(path.to_owned(), error))?;
        let (requests, connection) = Builder::new(TokioExecutor::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| ConnectError::Handshake(path.to_owned(), error))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to a service ended");
            }
        });
        Ok(Self(requests))
    }

    /// What the client is told its calls go to: HTTP/2 wants an authority.
    pub(super) fn origin() -> Uri {
        Uri::from_static("http://localhost")
    }
}

impl Service<Request<Body>> for Connection {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // A connection that has ended is an error of the call, with its cause.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.0.send_request(request).boxed()
    }
}
