//! Sessions: many tasks of one application.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flame_core::Resources;
use flame_core::id;
use flame_rpc::v1;

use crate::backoff::Backoff;
use crate::client::{Client, took};
use crate::error::Error;
use crate::task::{self, TaskFuture, TaskStream};

/// Length of the random part of a session id.
const RANDOM_PART: usize = 6;

/// What a new session shall be.
#[derive(Debug, Clone, Default)]
pub struct SessionOptions {
    application: String,
    id: Option<String>,
    common_data: Option<Bytes>,
    min_instances: u32,
    max_instances: Option<u32>,
    priority: u32,
    resources: Option<Resources>,
    node_selector: HashMap<String, String>,
    task_timeout: Option<Duration>,
}

impl SessionOptions {
    /// A session of `application` with a random id and the cluster's defaults.
    #[must_use]
    pub fn new(application: impl Into<String>) -> Self {
        Self {
            application: application.into(),
            ..Self::default()
        }
    }

    /// The session's id; without it `<application>-<6 random letters and digits>`.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Data that the service gets once per executor, before the first task.
    #[must_use]
    pub fn common_data(mut self, data: impl Into<Bytes>) -> Self {
        self.common_data = Some(data.into());
        self
    }

    /// Executors that the session keeps even without tasks.
    #[must_use]
    pub fn min_instances(mut self, count: u32) -> Self {
        self.min_instances = count;
        self
    }

    /// Executors that the session gets at most; without it only the application limits them.
    #[must_use]
    pub fn max_instances(mut self, count: u32) -> Self {
        self.max_instances = Some(count);
        self
    }

    /// Sessions with a higher number are served first; 0 is the default.
    #[must_use]
    pub fn priority(mut self, priority: u32) -> Self {
        self.priority = priority;
        self
    }

    /// What each executor needs; without it the cluster's default.
    #[must_use]
    pub fn resources(mut self, resources: Resources) -> Self {
        self.resources = Some(resources);
        self
    }

    /// Only nodes with the label `key=value` run the session; may be called several times.
    #[must_use]
    pub fn on_nodes_with(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.node_selector.insert(key.into(), value.into());
        self
    }

    /// A task that runs longer than `limit` on one attempt fails, and its service process is ended.
    /// Counted in whole milliseconds, at least one.
    #[must_use]
    pub fn task_timeout(mut self, limit: Duration) -> Self {
        self.task_timeout = Some(limit);
        self
    }

    /// The session's id and its specification on the wire.
    pub(crate) fn into_request(self) -> Result<(String, v1::SessionSpec), Error> {
        id::validate("application name", &self.application).map_err(Error::Name)?;
        let id = self.id.unwrap_or_else(|| random_id(&self.application));
        id::validate("session id", &id).map_err(Error::Name)?;
        let spec = v1::SessionSpec {
            application: self.application,
            common_data: self.common_data,
            min_instances: self.min_instances,
            max_instances: self.max_instances,
            batch_size: 1,
            priority: self.priority,
            resreq: self.resources.map(Into::into),
            node_selector: self.node_selector,
            task_timeout_ms: self.task_timeout.map(millis),
        };
        Ok((id, spec))
    }
}

/// A limit of less than a millisecond is no reason to have none.
fn millis(limit: Duration) -> u64 {
    u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// `<application>-<6 alphanumerics>`, shortened so that it is a valid id.
fn random_id(application: &str) -> String {
    let room = id::MAX_NAME_LENGTH - RANDOM_PART - 1;
    let name: String = application.chars().take(room).collect();
    let random: String = std::iter::repeat_with(fastrand::alphanumeric)
        .take(RANDOM_PART)
        .collect();
    format!("{name}-{random}")
}

/// An open session. Clones are the same session; it stays open until it is closed.
#[derive(Debug, Clone)]
pub struct Session {
    pub(crate) client: Client,
    pub(crate) id: Arc<str>,
    record: Arc<v1::Session>,
}

impl Session {
    pub(crate) fn new(
        client: Client,
        record: v1::Session,
        doing: impl FnOnce() -> String,
    ) -> Result<Self, Error> {
        let Some(metadata) = &record.metadata else {
            return Err(Error::Answer {
                doing: doing(),
                missing: "metadata",
            });
        };
        Ok(Self {
            client,
            id: Arc::from(metadata.id.as_str()),
            record: Arc::new(record),
        })
    }

    /// The session's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The session as it was when it was opened.
    #[must_use]
    pub fn record(&self) -> &v1::Session {
        &self.record
    }

    /// The session as it is now.
    ///
    /// # Errors
    /// As [`Client::get_session`].
    pub async fn get(&self) -> Result<v1::Session, Error> {
        self.client.get_session(&self.id).await
    }

    /// Closes the session: its pending tasks are cancelled.
    ///
    /// # Errors
    /// As [`Client::close_session`].
    pub async fn close(&self) -> Result<v1::Session, Error> {
        self.client.close_session(&self.id).await
    }

    /// As [`Session::close`], but waits up to `limit` for tasks that still run.
    ///
    /// # Errors
    /// As [`Client::close_session`], if the session cannot be closed by then.
    pub async fn close_within(&self, limit: Duration) -> Result<v1::Session, Error> {
        let mut backoff = Backoff::new(limit);
        loop {
            match self.close().await {
                Ok(closed) => return Ok(closed),
                Err(error) if error.is_not_found() || !backoff.wait().await => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// Cancels task `id`, also if it runs: then its service process is ended. Returns whether it
    /// ended by that; false if it had been cancelled before.
    ///
    /// # Errors
    /// As [`Client::cancel_task`].
    pub async fn cancel_task(&self, id: &str) -> Result<bool, Error> {
        self.client.cancel_task(&self.id, id, None).await
    }

    /// Cancels all tasks that have not ended; returns how many. The session stays open.
    ///
    /// # Errors
    /// As [`Client::cancel_tasks`].
    pub async fn cancel_tasks(&self) -> Result<u64, Error> {
        self.client.cancel_tasks(&self.id, None).await
    }

    /// Closes the session whatever its tasks do: those that have not ended are cancelled.
    ///
    /// # Errors
    /// As [`Client::cancel_session`].
    pub async fn cancel(&self) -> Result<v1::Session, Error> {
        self.client.cancel_session(&self.id, None).await
    }

    /// Runs one task to its end and returns its output.
    ///
    /// A stream that ends early is opened again, and a lost connection is made again, until
    /// [`crate::ClientOptions::reconnect_limit`] is over; the task itself runs on meanwhile.
    ///
    /// # Errors
    /// [`Error::TaskFailed`] with the service's own words, [`Error::TaskCancelled`] if the session
    /// was closed, [`Error::Rpc`] and [`Error::Lost`].
    pub async fn invoke(&self, input: Option<Bytes>) -> Result<Option<Bytes>, Error> {
        let task = task::create_when_reachable(self, input).await?;
        task::output(self.wait_task(&task).await?)
    }

    /// Starts one task and returns at once with the future of its output. The task goes on
    /// whether or not the future is awaited; dropping the future does not cancel it.
    ///
    /// Must be called within a tokio runtime. The future fails as [`Session::invoke`] does.
    #[must_use = "a task's failure is only seen by awaiting it"]
    pub fn submit(&self, input: Option<Bytes>) -> TaskFuture {
        let session = self.clone();
        TaskFuture::spawn(async move { session.invoke(input).await })
    }

    /// Creates a task and returns its record, whose `metadata.id` is the task's id.
    ///
    /// # Errors
    /// [`Error::Rpc`] with `NotFound` or `InvalidArgument` if the session is gone or closed, and
    /// [`Error::Lost`]: then the task may or may not exist, unless [`Error::is_unsent`].
    pub async fn create_task(&self, input: Option<Bytes>) -> Result<v1::Task, Error> {
        let request = v1::CreateTaskRequest {
            task: Some(v1::TaskSpec {
                session_id: self.id.to_string(),
                input,
                output: None,
            }),
        };
        took(self.client.frontend().create_task(request).await, || {
            format!("create a task of session {}", self.id)
        })
    }

    /// As [`Session::create_task`], but waits for a server that cannot be reached: a request that
    /// certainly never left is sent again, until [`crate::ClientOptions::reconnect_limit`] is
    /// over. Returns the task's id.
    ///
    /// # Errors
    /// As [`Session::create_task`].
    pub async fn create_task_when_reachable(&self, input: Option<Bytes>) -> Result<String, Error> {
        task::create_when_reachable(self, input).await
    }

    /// Task `id`, with its events.
    ///
    /// # Errors
    /// [`Error::Rpc`] with `NotFound` if there is none.
    pub async fn get_task(&self, id: &str) -> Result<v1::Task, Error> {
        let request = v1::GetTaskRequest {
            task_id: id.to_owned(),
            session_id: self.id.to_string(),
        };
        let call = || {
            let (mut frontend, request) = (self.client.frontend(), request.clone());
            async move { frontend.get_task(request).await }
        };
        let doing = || format!("get task {id} of session {}", self.id);
        self.client.repeat(doing, call).await
    }

    /// Follows task `id`: one record per change of its state, the last one terminal. The stream
    /// may end early, for example without any record if there is no such task; prefer
    /// [`Session::wait_task`].
    ///
    /// # Errors
    /// [`Error::Rpc`] and [`Error::Lost`].
    pub async fn watch_task(&self, id: &str) -> Result<TaskStream, Error> {
        let request = v1::WatchTaskRequest {
            task_id: id.to_owned(),
            session_id: self.id.to_string(),
        };
        let doing = || format!("watch task {id} of session {}", self.id);
        let call = || {
            let (mut frontend, request) = (self.client.frontend(), request.clone());
            async move { frontend.watch_task(request).await }
        };
        let stream = self.client.repeat(doing, call).await?;
        Ok(TaskStream::new(stream, doing()))
    }

    /// Waits for the end of task `id` and returns its last record, which is terminal and, if the
    /// task failed, carries the events that say why.
    ///
    /// # Errors
    /// [`Error::Rpc`] with `NotFound` if there is no such task; [`Error::Lost`] if the connection
    /// stays lost beyond the client's limit.
    pub async fn wait_task(&self, id: &str) -> Result<v1::Task, Error> {
        task::wait(self, id).await
    }

    /// The session's tasks, in no order and without events.
    ///
    /// # Errors
    /// [`Error::Rpc`] with `NotFound` if the session is gone.
    pub async fn list_tasks(&self) -> Result<TaskStream, Error> {
        let request = v1::ListTaskRequest {
            session_id: self.id.to_string(),
        };
        let doing = || format!("list the tasks of session {}", self.id);
        let call = || {
            let (mut frontend, request) = (self.client.frontend(), request.clone());
            async move { frontend.list_task(request).await }
        };
        let stream = self.client.repeat(doing, call).await?;
        Ok(TaskStream::new(stream, doing()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_made_of_the_application_and_six_alphanumerics() {
        let (id, spec) = SessionOptions::new("flmping").into_request().expect("valid");
        let random = id.strip_prefix("flmping-").expect("prefix");
        assert!(
            random.len() == 6 && random.bytes().all(|b| b.is_ascii_alphanumeric()),
            "{id}"
        );
        assert_eq!((spec.application.as_str(), spec.batch_size), ("flmping", 1));
        let long = "a".repeat(id::MAX_NAME_LENGTH);
        assert!(SessionOptions::new(long).into_request().is_ok());
    }

    #[test]
    fn a_time_limit_is_at_least_a_millisecond() {
        for (limit, millis) in [(Duration::from_micros(3), 1), (Duration::from_secs(2), 2000)] {
            let options = SessionOptions::new("flmping").task_timeout(limit);
            let (_, spec) = options.into_request().expect("valid");
            assert_eq!(spec.task_timeout_ms, Some(millis));
        }
    }

    #[test]
    fn what_no_server_takes_is_refused_here() {
        let wrong = SessionOptions::new("flmping").id("../x").into_request();
        assert!(matches!(wrong, Err(Error::Name(_))), "{wrong:?}");
        assert!(SessionOptions::new("").into_request().is_err());
    }
}
