//! Many tasks at once, with servers that offer it: created in one call, their ends followed on
//! one stream per session. Other servers are served by the single calls.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use flame_rpc::v1;
use tonic::{Code, Status, Streaming};
use uuid::Uuid;

use crate::backoff::Backoff;
use crate::error::Error;
use crate::session::Session;

/// The ends of a session's tasks, each exactly once and in the order in which they ended. A lost
/// connection is made again, and the stream goes on where it was.
#[derive(Debug)]
pub struct EndStream {
    session: Session,
    stream: Option<Streaming<v1::TaskEnds>>,
    arrived: VecDeque<v1::TaskEnd>,
    last: u64,
}

impl Session {
    /// Creates a task for each input in one call, and returns their ids, in the order of the
    /// inputs. All were created or none. `None` if the server has no such call.
    ///
    /// The call has an id of its own, by which the server knows it: if the connection is lost or
    /// the server cannot take work at the moment, it is repeated until
    /// [`crate::ClientOptions::reconnect_limit`] is over, and creates its tasks once.
    ///
    /// # Errors
    /// As [`Session::create_task`]; if [`Error::is_lost`], the tasks may or may not exist.
    pub async fn create_tasks(&self, inputs: Vec<Option<Bytes>>) -> Result<Option<Range<u64>>, Error> {
        let request = v1::CreateTasksRequest {
            session_id: self.id.to_string(),
            tasks: inputs.into_iter().map(|input| v1::TaskInput { input }).collect(),
            request_id: Some(Bytes::copy_from_slice(Uuid::new_v4().as_bytes())),
        };
        let call = || {
            let (mut batch, request) = (self.client.batch(), request.clone());
            async move { batch.create_tasks(request).await }
        };
        let doing = || format!("create tasks of session {}", self.id);
        match self.client.repeat(doing, call).await {
            Ok(created) => Ok(Some(created.first_task_id..created.first_task_id + created.count)),
            Err(error) if error.code() == Some(Code::Unimplemented) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Follows the ends of the session's tasks after the first `after` of them. `None` if the
    /// server has no such stream.
    ///
    /// # Errors
    /// [`Error::Rpc`] with `NotFound` if the session is gone, and [`Error::Lost`].
    pub async fn watch_ends(&self, after: u64) -> Result<Option<EndStream>, Error> {
        let mut ends = EndStream {
            session: self.clone(),
            stream: None,
            arrived: VecDeque::new(),
            last: after,
        };
        let mut backoff = Backoff::new(self.client.reconnect_limit());
        loop {
            let answer = ends.connect().await.map_err(|status| ends.error(&status));
            self.client.note(&answer);
            match answer {
                Ok(()) => return Ok(Some(ends)),
                Err(error) if error.code() == Some(Code::Unimplemented) => return Ok(None),
                Err(error) if !self.client.may_repeat(&error) || !backoff.wait().await => return Err(error),
                Err(_) => {}
            }
        }
    }
}

impl EndStream {
    /// The next end; `None` when the session is closed and all its tasks were returned.
    ///
    /// # Errors
    /// As [`Session::watch_ends`], if the connection stays lost beyond the client's limit.
    pub async fn next(&mut self) -> Result<Option<v1::TaskEnd>, Error> {
        let mut backoff = Backoff::new(self.session.client.reconnect_limit());
        loop {
            if let Some(end) = self.arrived.pop_front() {
                self.last = end.sequence;
                return Ok(Some(end));
            }
            let news = match &mut self.stream {
                Some(stream) => stream.message().await,
                None => match self.connect().await {
                    Ok(()) => continue,
                    Err(status) => Err(status),
                },
            };
            match news {
                Ok(Some(message)) => self.arrived.extend(message.ends),
                // A server that stops may end its streams in peace, too.
                Ok(None) if !self.is_open().await => return Ok(None),
                Ok(None) => {
                    self.stream = None;
                    backoff.wait().await;
                }
                Err(status) => {
                    self.stream = None;
                    let error = self.error(&status);
                    if !error.is_lost() || !backoff.wait().await {
                        return Err(error);
                    }
                }
            }
        }
    }

    async fn is_open(&self) -> bool {
        let open = |session: &v1::Session| {
            session
                .status
                .as_ref()
                .is_some_and(|s| s.state() == v1::SessionState::Open)
        };
        match self.session.get().await {
            Ok(session) => open(&session),
            Err(error) => error.is_lost(),
        }
    }

    async fn connect(&mut self) -> Result<(), Status> {
        let request = v1::WatchSessionRequest {
            session_id: self.session.id.to_string(),
            after_sequence: self.last,
        };
        let answer = self.session.client.batch().watch_session(request).await?;
        self.stream = Some(answer.into_inner());
        Ok(())
    }

    fn error(&self, status: &Status) -> Error {
        Error::from_status(format!("watch session {}", self.session.id), status)
    }
}
