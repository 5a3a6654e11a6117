//! The connection to a session manager.

mod applications;
mod cluster;
mod control;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use flame_core::config::ClientConfig;
use flame_rpc::v1;
use flame_rpc::v1::control_client::ControlClient;
use flame_rpc::v1::frontend_batch_client::FrontendBatchClient;
use flame_rpc::v1::frontend_client::FrontendClient;
use flame_rpc::{channel, oversize};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::backoff::Backoff;
use crate::error::Error;
use crate::{Session, SessionOptions};

/// A restart of the session manager, or of the machine it runs on, is over within this time.
const RECONNECT_LIMIT: Duration = Duration::from_secs(120);

/// How a [`Client`] behaves.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// HTTP/2 connections to spread requests over; one is right for all but many thousands of
    /// tasks per second. At least 1.
    pub connections: usize,
    /// How long a session manager that cannot be reached, or cannot take new work at the moment
    /// (UNAVAILABLE), is asked again before a call gives up; 120 s by default. Only calls that
    /// cannot do a thing twice are repeated: see [`Client`].
    pub reconnect_limit: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            connections: 1,
            reconnect_limit: RECONNECT_LIMIT,
        }
    }
}

/// A connection to a session manager. Clones share it.
///
/// A session manager that was restarted, or killed, costs its clients nothing: calls that read,
/// that open, create or close a session, and those that create many tasks
/// ([`Session::create_tasks`]) are repeated with a growing pause until they are answered, for up to
/// [`ClientOptions::reconnect_limit`]; streams go on where they were. Calls that could do a thing
/// twice are only sent again if they certainly never left. Until a session manager has answered for
/// the first time nothing is repeated: a wrong address, or `http` where it should be `https`, is
/// told at once.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    frontends: Vec<FrontendClient<Channel>>,
    batch: FrontendBatchClient<Channel>,
    control: ControlClient<Channel>,
    next: AtomicUsize,
    /// A session manager has answered: there is one, and it is spoken to in the right way.
    answered: AtomicBool,
    options: ClientOptions,
}

impl Client {
    /// Connects as `~/.flame/flame.yaml` (if there is one) and the environment say, or else to
    /// the session manager of this machine.
    ///
    /// # Errors
    /// [`Error::Config`] for a wrong file or variable, and as [`Client::connect`].
    pub async fn connect_default() -> Result<Self, Error> {
        Self::connect_file(None).await
    }

    /// As [`Client::connect_default`], with another file.
    ///
    /// # Errors
    /// As [`Client::connect_default`]; the file must exist.
    pub async fn connect_file(path: Option<&Path>) -> Result<Self, Error> {
        Self::connect(&ClientConfig::load(path)?).await
    }

    /// Connects to the session manager that `config` names.
    ///
    /// # Errors
    /// [`Error::Connect`] if nobody answers there, or if TLS cannot be set up.
    pub async fn connect(config: &ClientConfig) -> Result<Self, Error> {
        Self::connect_with(config, ClientOptions::default()).await
    }

    /// As [`Client::connect`], with options.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect_with(config: &ClientConfig, options: ClientOptions) -> Result<Self, Error> {
        let url = config.endpoint.url();
        let first = channel::connect(&url, config.ca_file.as_deref()).await?;
        let batch = FrontendBatchClient::new(first.clone())
            .max_decoding_message_size(oversize::MAX_ANSWER)
            // What is too much is said by the server, which knows its limit.
            .max_encoding_message_size(usize::MAX);
        let control = ControlClient::new(first.clone()).max_decoding_message_size(oversize::MAX_ANSWER);
        let mut channels = vec![first];
        for _ in 1..options.connections {
            channels.push(channel::connect(&url, config.ca_file.as_deref()).await?);
        }
        let mut frontends = Vec::new();
        for channel in channels {
            let frontend = FrontendClient::new(channel)
                .max_decoding_message_size(oversize::MAX_ANSWER)
                .max_encoding_message_size(usize::MAX);
            frontends.push(frontend);
        }
        Ok(Self {
            shared: Arc::new(Shared {
                frontends,
                batch,
                control,
                next: AtomicUsize::new(0),
                answered: AtomicBool::new(false),
                options,
            }),
        })
    }

    /// Creates a session.
    ///
    /// If the answer is lost with the connection, the call is repeated; a session that is there
    /// by then and is what was asked for is the one that the first call created.
    ///
    /// # Errors
    /// [`Error::Name`] for an id that is not valid, [`Error::Rpc`] with `NotFound` for an unknown
    /// application and with `AlreadyExists` for an id that is taken.
    pub async fn create_session(&self, options: SessionOptions) -> Result<Session, Error> {
        let (id, spec) = options.into_request()?;
        let doing = || format!("create a session of application {}", spec.application);
        let request = v1::CreateSessionRequest {
            session_id: id,
            session: Some(spec.clone()),
        };
        let mut backoff = Backoff::new(self.reconnect_limit());
        let mut answer_lost = false;
        loop {
            let answer = took(self.frontend().create_session(request.clone()).await, doing);
            self.note(&answer);
            let error = match answer {
                Ok(created) => return Session::new(self.clone(), created, doing),
                Err(error) => error,
            };
            if answer_lost && error.code() == Some(Code::AlreadyExists) {
                return self.adopt(&request, error).await;
            }
            answer_lost |= error.is_lost() && !error.is_unsent();
            if !self.may_repeat(&error) || !backoff.wait().await {
                return Err(error);
            }
        }
    }

    /// The session that an earlier call with this request has created, although its answer was
    /// lost; `taken` if it is somebody else's.
    async fn adopt(&self, request: &v1::CreateSessionRequest, taken: Error) -> Result<Session, Error> {
        let open = v1::OpenSessionRequest {
            session_id: request.session_id.clone(),
            session: request.session.clone(),
        };
        let doing = || format!("open session {}", request.session_id);
        let call = || {
            let (mut frontend, open) = (self.frontend(), open.clone());
            async move { frontend.open_session(open).await }
        };
        let found = match self.repeat(doing, call).await {
            Ok(found) => found,
            Err(lost) if lost.is_lost() => return Err(lost),
            Err(_) => return Err(taken), // it is closed or differs
        };
        // The server compares everything else.
        let common = |spec: &Option<v1::SessionSpec>| spec.as_ref().and_then(|spec| spec.common_data.clone());
        if common(&found.spec) != common(&request.session) {
            return Err(taken);
        }
        Session::new(self.clone(), found, doing)
    }

    /// Opens the session `id`: the existing one, or if there is none and `options` are given a new
    /// one. An existing one must fit the options.
    ///
    /// # Errors
    /// [`Error::Rpc`] with `NotFound` if there is none and no options are given, and with
    /// `InvalidArgument` if it is closed or does not fit.
    pub async fn open_session(&self, id: &str, options: Option<SessionOptions>) -> Result<Session, Error> {
        let spec = match options {
            Some(options) => Some(options.id(id).into_request()?.1),
            None => None,
        };
        let request = v1::OpenSessionRequest {
            session_id: id.to_owned(),
            session: spec,
        };
        let doing = || format!("open session {id}");
        let call = || {
            let (mut frontend, request) = (self.frontend(), request.clone());
            async move { frontend.open_session(request).await }
        };
        Session::new(self.clone(), self.repeat(doing, call).await?, doing)
    }

    /// The session `id` as the server knows it, open or closed.
    ///
    /// # Errors
    /// [`Error::Rpc`] with `NotFound` if there is none.
    pub async fn get_session(&self, id: &str) -> Result<v1::Session, Error> {
        let request = v1::GetSessionRequest {
            session_id: id.to_owned(),
        };
        let call = || {
            let (mut frontend, request) = (self.frontend(), request.clone());
            async move { frontend.get_session(request).await }
        };
        self.repeat(|| format!("get session {id}"), call).await
    }

    /// All sessions, closed ones too.
    ///
    /// # Errors
    /// [`Error::Rpc`] and [`Error::Lost`].
    pub async fn list_sessions(&self) -> Result<Vec<v1::Session>, Error> {
        let call = || {
            let mut frontend = self.frontend();
            async move { frontend.list_session(v1::ListSessionRequest {}).await }
        };
        Ok(self
            .repeat(|| "list the sessions".to_owned(), call)
            .await?
            .sessions)
    }

    /// Closes session `id`: its pending tasks are cancelled. Closing a closed session succeeds.
    ///
    /// # Errors
    /// [`Error::Rpc`] with `NotFound` if there is none, and with another code while tasks run.
    pub async fn close_session(&self, id: &str) -> Result<v1::Session, Error> {
        let request = v1::CloseSessionRequest {
            session_id: id.to_owned(),
        };
        let call = || {
            let (mut frontend, request) = (self.frontend(), request.clone());
            async move { frontend.close_session(request).await }
        };
        self.repeat(|| format!("close session {id}"), call).await
    }

    /// Deletes the closed session `id` and its tasks.
    ///
    /// # Errors
    /// [`Error::Rpc`] if there is none or if it is open.
    pub async fn delete_session(&self, id: &str) -> Result<v1::Session, Error> {
        let request = v1::DeleteSessionRequest {
            session_id: id.to_owned(),
        };
        took(self.frontend().delete_session(request).await, || {
            format!("delete session {id}")
        })
    }

    /// One of the connections, by turns.
    pub(crate) fn frontend(&self) -> FrontendClient<Channel> {
        let frontends = &self.shared.frontends;
        let turn = self.shared.next.fetch_add(1, Ordering::Relaxed) % frontends.len();
        frontends[turn].clone()
    }

    pub(crate) fn batch(&self) -> FrontendBatchClient<Channel> {
        self.shared.batch.clone()
    }

    /// Makes a call that cannot do a thing twice until it is answered, for as long as the options
    /// say. `doing` names it in an error.
    pub(crate) async fn repeat<T, C>(
        &self,
        doing: impl Fn() -> String,
        mut call: impl FnMut() -> C,
    ) -> Result<T, Error>
    where
        C: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let mut backoff = Backoff::new(self.reconnect_limit());
        loop {
            let answer = took(call().await, &doing);
            self.note(&answer);
            let error = match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if !self.may_repeat(&error) || !backoff.wait().await {
                return Err(error);
            }
            tracing::debug!("asking again: {error}");
        }
    }

    /// Takes note of whether somebody has answered.
    pub(crate) fn note<T>(&self, answer: &Result<T, Error>) {
        if !matches!(answer, Err(Error::Lost { .. })) {
            self.shared.answered.store(true, Ordering::Relaxed);
        }
    }

    /// Whether a call that failed so and cannot do a thing twice should be repeated.
    pub(crate) fn may_repeat(&self, error: &Error) -> bool {
        error.is_lost() && self.shared.answered.load(Ordering::Relaxed)
    }

    pub(crate) fn reconnect_limit(&self) -> Duration {
        self.shared.options.reconnect_limit
    }
}

/// The answer without its envelope, or what the failure means. `doing` is only asked for then.
pub(crate) fn took<T>(
    answer: Result<tonic::Response<T>, Status>,
    doing: impl FnOnce() -> String,
) -> Result<T, Error> {
    answer
        .map(tonic::Response::into_inner)
        .map_err(|status| Error::from_status(doing(), &status))
}
