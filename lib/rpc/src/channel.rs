//! Channels and servers: where they connect, with which TLS, limits and keep-alive.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, ServerTlsConfig, Uri};

/// Largest message a link carries unless configured otherwise, in bytes.
pub const DEFAULT_MAX_MESSAGE_SIZE: usize = 64 * 1024 * 1024;

/// How long a connection attempt may take before it counts as failed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// An idle connection is probed this often, so that a cut cable is noticed
/// (the peer's answer is awaited for [`KEEPALIVE_TIMEOUT`]).
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Three missed heartbeats: the same time after which a node is suspect.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(15);

/// HTTP/2 flow-control windows. The protocol's 64 KiB stall a link that carries megabytes.
const STREAM_WINDOW: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// What went wrong with a channel.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The endpoint is not a URL that can be connected to.
    #[error("endpoint \"{endpoint}\" is not usable: {reason}")]
    Endpoint {
        /// As the user gave it.
        endpoint: String,
        /// What is wrong, and what is wanted.
        reason: String,
    },
    /// A certificate or key could not be read.
    #[error("cannot read {what} {path}", path = path.display())]
    TlsFile {
        /// "CA certificate", "certificate" or "private key".
        what: &'static str,
        /// The configured path.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// TLS cannot be set up with the given files.
    #[error("cannot set up TLS for {endpoint}")]
    Tls {
        /// The peer or the listener.
        endpoint: String,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// Nobody answered.
    #[error("cannot connect to {endpoint}")]
    Connect {
        /// The peer.
        endpoint: String,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
}

/// Describes how to reach `endpoint` (`http://host:port` or `https://host:port`), with `ca_file`
/// (PEM) instead of the system's roots if it is given. Nothing is connected yet.
///
/// # Errors
/// [`ChannelError::Endpoint`] if it is no such URL, [`ChannelError::TlsFile`] and
/// [`ChannelError::Tls`] for TLS.
pub fn endpoint(endpoint: &str, ca_file: Option<&Path>) -> Result<Endpoint, ChannelError> {
    let bad = |reason: &str| ChannelError::Endpoint {
        endpoint: endpoint.to_owned(),
        reason: reason.to_owned(),
    };
    let uri: Uri = endpoint
        .parse()
        .map_err(|_| bad("want http://HOST:PORT or https://HOST:PORT"))?;
    let host = uri.host().ok_or_else(|| bad("it has no host"))?.to_owned();
    let secure = match uri.scheme_str() {
        Some("http" | "grpc") => false,
        Some("https" | "grpcs" | "grpc+tls") => true,
        _ => return Err(bad("want http://HOST:PORT or https://HOST:PORT")),
    };
    let mut built = Endpoint::from(uri)
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(KEEPALIVE_INTERVAL))
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    if secure {
        let mut tls = ClientTlsConfig::new().domain_name(host);
        tls = match ca_file {
            Some(path) => tls.ca_certificate(Certificate::from_pem(read("CA certificate", path)?)),
            None => tls.with_native_roots(),
        };
        built = built.tls_config(tls).map_err(|source| ChannelError::Tls {
            endpoint: endpoint.to_owned(),
            source,
        })?;
    }
    Ok(built)
}

/// Connects to `endpoint`, see [`endpoint`].
///
/// # Errors
/// As [`endpoint`], and [`ChannelError::Connect`] if nobody answers.
pub async fn connect(endpoint_url: &str, ca_file: Option<&Path>) -> Result<Channel, ChannelError> {
    endpoint(endpoint_url, ca_file)?
        .connect()
        .await
        .map_err(|source| ChannelError::Connect {
            endpoint: endpoint_url.to_owned(),
            source,
        })
}

/// Connects to the service that listens on the unix socket at `path`.
///
/// # Errors
/// [`ChannelError::Connect`] if nobody listens there.
pub async fn connect_unix(path: &Path) -> Result<Channel, ChannelError> {
    let named = || path.display().to_string();
    let socket = path.to_path_buf();
    // The URI is only there because HTTP/2 wants an authority; the connector ignores it.
    Endpoint::from_static("http://localhost")
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .connect_with_connector(tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        }))
        .await
        .map_err(|source| ChannelError::Connect {
            endpoint: named(),
            source,
        })
}

/// TLS of a listener, from PEM files.
///
/// # Errors
/// [`ChannelError::TlsFile`] if one of them cannot be read.
pub fn server_tls(cert_file: &Path, key_file: &Path) -> Result<ServerTlsConfig, ChannelError> {
    let cert = read("certificate", cert_file)?;
    let key = read("private key", key_file)?;
    Ok(ServerTlsConfig::new().identity(Identity::from_pem(cert, key)))
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, ChannelError> {
    std::fs::read(path).map_err(|source| ChannelError::TlsFile {
        what,
        path: path.to_path_buf(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_without_scheme_or_host_are_refused_with_what_is_wanted() {
        for wrong in ["127.0.0.1:8080", "ftp://host:1", "", "http://", "/tmp/socket"] {
            let error = endpoint(wrong, None).expect_err(wrong).to_string();
            assert!(error.contains(wrong), "{error}");
        }
    }

    #[test]
    fn a_missing_ca_file_is_named() {
        let error =
            endpoint("https://host:1", Some(Path::new("/nonexistent/ca.pem"))).expect_err("no such file");
        assert_eq!(
            error.to_string(),
            "cannot read CA certificate /nonexistent/ca.pem"
        );
    }
}
