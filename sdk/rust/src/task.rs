//! Tasks: following one to its end, whatever happens to the connection meanwhile.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use flame_core::state::TaskState;
use flame_rpc::v1;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::Streaming;

use crate::backoff::Backoff;
use crate::error::Error;
use crate::session::Session;

/// A server that ends streams early while it answers otherwise is asked as long as it answers.
const NO_LIMIT: Duration = Duration::MAX;

/// Records of tasks as they come.
#[derive(Debug)]
pub struct TaskStream {
    stream: Streaming<v1::Task>,
    doing: String,
}

impl TaskStream {
    pub(crate) fn new(stream: Streaming<v1::Task>, doing: String) -> Self {
        Self { stream, doing }
    }

    /// The next record; `None` at the end.
    ///
    /// # Errors
    /// [`Error::Rpc`] and [`Error::Lost`].
    pub async fn next(&mut self) -> Result<Option<v1::Task>, Error> {
        self.stream
            .message()
            .await
            .map_err(|status| Error::from_status(self.doing.as_str(), &status))
    }

    /// All that are still to come.
    ///
    /// # Errors
    /// As [`TaskStream::next`].
    pub async fn collect(mut self) -> Result<Vec<v1::Task>, Error> {
        let mut tasks = Vec::new();
        while let Some(task) = self.next().await? {
            tasks.push(task);
        }
        Ok(tasks)
    }
}

/// The future output of a submitted task.
#[derive(Debug)]
pub struct TaskFuture(JoinHandle<Result<Option<Bytes>, Error>>);

impl TaskFuture {
    pub(crate) fn spawn(task: impl Future<Output = Result<Option<Bytes>, Error>> + Send + 'static) -> Self {
        Self(tokio::spawn(task))
    }
}

impl Future for TaskFuture {
    type Output = Result<Option<Bytes>, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|joined| joined.unwrap_or(Err(Error::Interrupted)))
    }
}

/// The state of the task, as the record says.
#[must_use]
pub fn state(task: &v1::Task) -> TaskState {
    task.status
        .as_ref()
        .map_or(TaskState::Pending, |status| status.state().into())
}

/// Why the task failed, in the service's words, if the record's events say so.
#[must_use]
pub fn failure(task: &v1::Task) -> Option<&str> {
    let events = &task.status.as_ref()?.events;
    let failed = events
        .iter()
        .rev()
        .filter(|event| event.code == TaskState::Failed.code());
    failed
        .filter_map(|event| event.message.as_deref())
        .find(|text| !text.is_empty())
}

/// The id of the task.
#[must_use]
pub fn id(task: &v1::Task) -> &str {
    task.metadata.as_ref().map_or("", |metadata| metadata.id.as_str())
}

/// Creates a task and returns its id. A request that certainly never left is sent again once the
/// server is back; any other lost request is not, because the task may exist already.
pub(crate) async fn create_when_reachable(session: &Session, input: Option<Bytes>) -> Result<String, Error> {
    let mut backoff = Backoff::new(session.client.reconnect_limit());
    loop {
        match session.create_task(input.clone()).await {
            Ok(task) => return Ok(id(&task).to_owned()),
            Err(error) if error.is_unsent() => {
                tracing::debug!(session = session.id(), "cannot create a task yet: {error}");
                if !backoff.wait().await {
                    return Err(error);
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// How long to wait for the end of a stream after its last message; they usually come together.
const STREAM_END_LIMIT: Duration = Duration::from_secs(1);

/// Follows the task to its end.
pub(crate) async fn wait(session: &Session, id: &str) -> Result<v1::Task, Error> {
    let mut early = Backoff::new(NO_LIMIT);
    loop {
        let mut silent = true;
        if let Some(task) = follow(session, id, &mut silent).await? {
            return explained(session, task).await;
        }
        // The contract lets a stream end without a word, and a connection that breaks ends it in
        // the midst of one, so the record is asked for.
        let task = session.get_task(id).await?;
        if state(&task).is_terminal() {
            return Ok(task);
        }
        if !silent {
            early.reset();
        }
        early.wait().await;
    }
}

/// The task's terminal record; `None` if the stream ended or broke before it came. `silent` is
/// cleared if any record came.
async fn follow(session: &Session, id: &str, silent: &mut bool) -> Result<Option<v1::Task>, Error> {
    let mut stream = session.watch_task(id).await?;
    loop {
        let task = match stream.next().await {
            Ok(Some(task)) => task,
            Ok(None) => return Ok(None),
            Err(error) if error.is_lost() => {
                tracing::debug!(session = session.id(), task = id, "watching again: {error}");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        *silent = false;
        if state(&task).is_terminal() {
            // A stream that is dropped before its end is reset, and an HTTP/2 connection with
            // more than a thousand of such resets is closed ("too_many_internal_resets").
            let _ended = timeout(STREAM_END_LIMIT, stream.next()).await;
            return Ok(Some(task));
        }
    }
}

/// A failed task whose record does not say why is asked for once more, with its events.
async fn explained(session: &Session, task: v1::Task) -> Result<v1::Task, Error> {
    if state(&task) != TaskState::Failed || failure(&task).is_some() {
        return Ok(task);
    }
    // The failure itself is known; its text is worth one question, not an error.
    Ok(session.get_task(id(&task)).await.unwrap_or(task))
}

/// The output of a task that has ended.
///
/// # Errors
/// [`Error::TaskFailed`] and [`Error::TaskCancelled`], if it ended so.
pub fn output(task: v1::Task) -> Result<Option<Bytes>, Error> {
    let named = |task: &v1::Task| {
        let session = task.spec.as_ref().map(|spec| spec.session_id.clone());
        (session.unwrap_or_default(), id(task).to_owned())
    };
    match state(&task) {
        TaskState::Succeed => Ok(task.spec.and_then(|spec| spec.output)),
        TaskState::Cancelled => {
            let (session, task) = named(&task);
            Err(Error::TaskCancelled { session, task })
        }
        _ => {
            let message = failure(&task).unwrap_or("the service gave no reason").to_owned();
            let (session, task) = named(&task);
            Err(Error::TaskFailed {
                session,
                task,
                message,
            })
        }
    }
}
