//! The Frontend service: translates between the wire and the core.

use std::pin::Pin;
use std::sync::Arc;

use flame_core::state::TaskState;
use flame_core::{ApplicationName, SessionId, TaskId};
use flame_rpc::v1;
use flame_rpc::v1::frontend_server::Frontend;
use futures::{Stream, StreamExt, stream};
use tonic::{Request, Response, Status};

use crate::core::{Core, CoreError, Found, LiveTasks, SessionKey, TaskRow};
use crate::engine::Engine;
use crate::store::{StoreError, TaskReader};
use crate::stored;

/// Ended tasks that are read from the store at a time.
const PAGE: usize = 500;

/// The Frontend, on top of an engine and its store.
pub struct FrontendService {
    engine: Engine,
    reader: Arc<dyn TaskReader>,
}

type TaskStream = Pin<Box<dyn Stream<Item = Result<v1::Task, Status>> + Send>>;

impl FrontendService {
    /// Serves what `engine` decides and `reader` remembers.
    #[must_use]
    pub fn new(engine: Engine, reader: Arc<dyn TaskReader>) -> Self {
        Self { engine, reader }
    }

    /// Runs a query of the store where it may block.
    async fn stored<T: Send + 'static>(
        &self,
        query: impl FnOnce(&dyn TaskReader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Status> {
        stored::read(Arc::clone(&self.reader), query).await
    }
}

/// Checks what the core does not: texts that have to be JSON Schema documents, and the working
/// directory, whose errors are statuses by the wire contract.
pub(crate) fn check_specification(spec: &v1::ApplicationSpec) -> Result<(), Box<Status>> {
    let invalid = |text: String| Err(Box::new(Status::invalid_argument(text)));
    Core::check_working_directory(spec).map_err(|error| Box::new(error.into()))?;
    let Some(schema) = &spec.schema else { return Ok(()) };
    for (name, text) in [
        ("input", &schema.input),
        ("output", &schema.output),
        ("common_data", &schema.common_data),
    ] {
        let Some(text) = text else { continue };
        match serde_json::from_str(text) {
            Err(error) => return invalid(format!("schema.{name} is not JSON: {error}")),
            Ok(value) => {
                if let Err(error) = jsonschema::meta::validate(&value) {
                    return invalid(format!("schema.{name} is not a JSON Schema: {error}"));
                }
            }
        }
    }
    Ok(())
}

fn required<T>(value: Option<T>, name: &str) -> Result<T, Status> {
    value.ok_or_else(|| Status::invalid_argument(format!("{name} is missing in the request")))
}

fn session_id(text: &str) -> Result<SessionId, Status> {
    SessionId::new(text).map_err(|error| Status::invalid_argument(error.to_string()))
}

/// Errors of the registry travel inside the answer.
fn in_band(result: Result<(), CoreError>) -> Result<Response<v1::Result>, Status> {
    match result {
        Ok(()) => Ok(Response::new(v1::Result {
            return_code: 0,
            message: None,
        })),
        Err(error @ CoreError::Unavailable(_)) => Err(error.into()),
        Err(error) => Ok(Response::new(v1::Result {
            return_code: -1,
            message: Some(error.to_string()),
        })),
    }
}

fn application_name(text: &str) -> Result<ApplicationName, CoreError> {
    ApplicationName::new(text).map_err(|error| CoreError::Invalid(error.to_string()))
}

/// A task as clients see it. Events are those of the states it has reached.
fn task_view(session: &str, row: &TaskRow, with_events: bool) -> v1::Task {
    let event = |state: TaskState, time: i64, message: Option<&String>| v1::Event {
        code: state.code(),
        message: Some(
            message
                .cloned()
                .unwrap_or_else(|| format!("task is {}", state.to_string().to_lowercase())),
        ),
        creation_time: time,
    };
    let mut events = Vec::new();
    if with_events {
        events.push(event(TaskState::Pending, row.created, None));
        events.extend(row.started.map(|time| event(TaskState::Running, time, None)));
        events.extend(
            row.finished
                .map(|time| event(row.state, time, row.message.as_ref())),
        );
    }
    let id = row.id.to_string();
    v1::Task {
        metadata: Some(v1::Metadata {
            id: id.clone(),
            name: id,
        }),
        spec: Some(v1::TaskSpec {
            session_id: session.to_owned(),
            input: row.input.clone(),
            output: row.output.clone(),
        }),
        status: Some(v1::TaskStatus {
            state: v1::TaskState::from(row.state).into(),
            creation_time: row.created,
            completion_time: row.finished,
            events,
        }),
    }
}

/// The tasks of a session in the order of their ids: the live ones as they were when the call
/// came, the ended ones page by page from the store.
fn all_tasks(reader: Arc<dyn TaskReader>, session: String, live: LiveTasks) -> TaskStream {
    struct State {
        reader: Arc<dyn TaskReader>,
        key: SessionKey,
        live: std::iter::Peekable<std::vec::IntoIter<TaskRow>>,
        after: TaskId,
        done: bool,
    }
    let state = State {
        reader,
        key: live.key,
        live: live.tasks.into_iter().peekable(),
        after: 0,
        done: false,
    };
    let pages = stream::unfold(state, |mut state| async move {
        if state.done {
            return None;
        }
        let (key, after) = (state.key, state.after);
        let page = match stored::read(Arc::clone(&state.reader), move |reader| {
            reader.tasks(key, after, PAGE)
        })
        .await
        {
            Ok(page) => page,
            Err(status) => {
                state.done = true;
                return Some((vec![Err(status)], state));
            }
        };
        state.done = page.len() < PAGE;
        let mut merged = Vec::with_capacity(page.len());
        for row in page {
            state.after = row.id;
            while let Some(live) = state.live.next_if(|live| live.id < row.id) {
                merged.push(Ok(live));
            }
            // It may have ended between the two looks.
            state.live.next_if(|live| live.id == row.id);
            merged.push(Ok(row));
        }
        if state.done {
            merged.extend(state.live.by_ref().map(Ok));
        }
        Some((merged, state))
    });
    let rows = pages.map(stream::iter).flatten();
    Box::pin(rows.map(move |row: Result<TaskRow, Status>| row.map(|row| task_view(&session, &row, false))))
}

#[tonic::async_trait]
impl Frontend for FrontendService {
    async fn register_application(
        &self,
        request: Request<v1::RegisterApplicationRequest>,
    ) -> Result<Response<v1::Result>, Status> {
        let request = request.into_inner();
        let spec = required(request.application, "application")?;
        check_specification(&spec).map_err(|status| *status)?;
        let registered = self.engine.write(move |core, now, fx| {
            core.register_application(&application_name(&request.name)?, spec, now, fx)
        });
        in_band(registered.await)
    }

    async fn unregister_application(
        &self,
        request: Request<v1::UnregisterApplicationRequest>,
    ) -> Result<Response<v1::Result>, Status> {
        let name = request.into_inner().name;
        let removed = self
            .engine
            .write(move |core, _, fx| core.unregister_application(&application_name(&name)?, fx));
        in_band(removed.await)
    }

    async fn update_application(
        &self,
        request: Request<v1::UpdateApplicationRequest>,
    ) -> Result<Response<v1::Result>, Status> {
        let request = request.into_inner();
        let spec = required(request.application, "application")?;
        check_specification(&spec).map_err(|status| *status)?;
        let updated = self
            .engine
            .write(move |core, _, fx| core.update_application(&application_name(&request.name)?, spec, fx));
        in_band(updated.await)
    }

    async fn get_application(
        &self,
        request: Request<v1::GetApplicationRequest>,
    ) -> Result<Response<v1::Application>, Status> {
        let name = request.into_inner().name;
        Ok(Response::new(
            self.engine
                .read(move |core, _, _| core.get_application(&name))
                .await?,
        ))
    }

    async fn list_application(
        &self,
        _request: Request<v1::ListApplicationRequest>,
    ) -> Result<Response<v1::ApplicationList>, Status> {
        Ok(Response::new(
            self.engine
                .read(|core, _, _| Ok(core.list_applications()))
                .await?,
        ))
    }

    async fn list_executor(
        &self,
        _request: Request<v1::ListExecutorRequest>,
    ) -> Result<Response<v1::ExecutorList>, Status> {
        Ok(Response::new(
            self.engine.read(|core, _, _| Ok(core.list_executors())).await?,
        ))
    }

    async fn list_nodes(
        &self,
        _request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::NodeList>, Status> {
        Ok(Response::new(
            self.engine.read(|core, _, _| Ok(core.list_nodes())).await?,
        ))
    }

    async fn get_node(
        &self,
        request: Request<v1::GetNodeRequest>,
    ) -> Result<Response<v1::GetNodeResponse>, Status> {
        let name = request.into_inner().name;
        let node = self.engine.read(move |core, _, _| core.get_node(&name)).await?;
        Ok(Response::new(v1::GetNodeResponse { node: Some(node) }))
    }

    async fn create_session(
        &self,
        request: Request<v1::CreateSessionRequest>,
    ) -> Result<Response<v1::Session>, Status> {
        let request = request.into_inner();
        let id = session_id(&request.session_id)?;
        let spec = required(request.session, "session")?;
        let created = self
            .engine
            .write(move |core, now, fx| core.create_session(&id, spec, now, fx));
        Ok(Response::new(created.await?))
    }

    async fn open_session(
        &self,
        request: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<v1::Session>, Status> {
        let request = request.into_inner();
        let id = session_id(&request.session_id)?;
        let opened = self
            .engine
            .write(move |core, now, fx| core.open_session(&id, request.session, now, fx));
        Ok(Response::new(opened.await?))
    }

    async fn close_session(
        &self,
        request: Request<v1::CloseSessionRequest>,
    ) -> Result<Response<v1::Session>, Status> {
        let id = request.into_inner().session_id;
        Ok(Response::new(
            self.engine
                .write(move |core, now, fx| core.close_session(&id, now, fx))
                .await?,
        ))
    }

    async fn delete_session(
        &self,
        request: Request<v1::DeleteSessionRequest>,
    ) -> Result<Response<v1::Session>, Status> {
        let id = request.into_inner().session_id;
        Ok(Response::new(
            self.engine
                .write(move |core, _, fx| core.delete_session(&id, fx))
                .await?,
        ))
    }

    async fn get_session(
        &self,
        request: Request<v1::GetSessionRequest>,
    ) -> Result<Response<v1::Session>, Status> {
        let id = request.into_inner().session_id;
        let asked = self
            .engine
            .read(move |core, _, _| Ok((core.get_session(&id)?, core.common_data_in_store(&id))));
        let (mut session, stored) = asked.await?;
        if let (Some(key), Some(spec)) = (stored, session.spec.as_mut()) {
            spec.common_data = self.stored(move |reader| reader.common_data(key)).await?;
        }
        Ok(Response::new(session))
    }

    async fn list_session(
        &self,
        _request: Request<v1::ListSessionRequest>,
    ) -> Result<Response<v1::SessionList>, Status> {
        Ok(Response::new(
            self.engine.read(|core, _, _| Ok(core.list_sessions())).await?,
        ))
    }

    async fn create_task(
        &self,
        request: Request<v1::CreateTaskRequest>,
    ) -> Result<Response<v1::Task>, Status> {
        let spec = required(request.into_inner().task, "task")?;
        let session = spec.session_id.clone();
        let created = self
            .engine
            .write(move |core, now, fx| core.create_task(&spec.session_id, spec.input, now, fx))
            .await?;
        Ok(Response::new(task_view(&session, &created, false)))
    }

    async fn get_task(&self, request: Request<v1::GetTaskRequest>) -> Result<Response<v1::Task>, Status> {
        let request = request.into_inner();
        let id = stored::task_id(&request.task_id)?;
        let session = request.session_id.clone();
        let found = self
            .engine
            .read(move |core, _, _| core.get_task(&request.session_id, id))
            .await?;
        let row = match found {
            Found::AtHand(row) => row,
            Found::InStore(key) => {
                Arc::new(stored::ended_task(Arc::clone(&self.reader), &session, key, id).await?)
            }
        };
        Ok(Response::new(task_view(&session, &row, true)))
    }

    type WatchTaskStream = TaskStream;

    async fn watch_task(
        &self,
        request: Request<v1::WatchTaskRequest>,
    ) -> Result<Response<Self::WatchTaskStream>, Status> {
        let request = request.into_inner();
        let id = stored::task_id(&request.task_id)?;
        let session = request.session_id;
        let (engine, name) = (self.engine.clone(), session.clone());
        // The watch starts in the core's own thread, so that no news is missed.
        let begun = self.engine.read(move |core, _, _| {
            let found = core.get_task(&name, id)?;
            let key = match &found {
                Found::AtHand(row) => row.session,
                Found::InStore(key) => *key,
            };
            Ok((found, engine.watch((key, id))))
        });
        let (found, watch) = match begun.await {
            Ok(begun) => begun,
            // By the contract the stream of a task that does not exist just ends.
            Err(CoreError::NotFound(_)) => return Ok(Response::new(Box::pin(stream::empty()))),
            Err(error) => return Err(error.into()),
        };
        let first = match found {
            Found::AtHand(row) => Some(row),
            Found::InStore(key) => {
                let stored = self.stored(move |reader| reader.task(key, id)).await?;
                let last = stored.map(|row| Ok(task_view(&session, &row, true)));
                return Ok(Response::new(Box::pin(stream::iter(last))));
            }
        };
        let news = stream::unfold(
            (first, watch, TaskState::Pending),
            |(first, mut watch, last)| async move {
                if last.is_terminal() {
                    return None;
                }
                let mut next = first;
                loop {
                    let row = match next.take() {
                        Some(row) => row,
                        None => watch.next().await?,
                    };
                    // News of a batch that was on its way when the watch began may repeat the state.
                    if row.state != last {
                        let state = row.state;
                        return Some((row, (None, watch, state)));
                    }
                }
            },
        );
        Ok(Response::new(Box::pin(news.map(move |row| {
            Ok(task_view(&session, &row, row.state.is_terminal()))
        }))))
    }

    type ListTaskStream = TaskStream;

    async fn list_task(
        &self,
        request: Request<v1::ListTaskRequest>,
    ) -> Result<Response<Self::ListTaskStream>, Status> {
        let session = request.into_inner().session_id;
        let name = session.clone();
        let live = self.engine.read(move |core, _, _| core.list_tasks(&name)).await?;
        Ok(Response::new(all_tasks(Arc::clone(&self.reader), session, live)))
    }
}

#[cfg(test)]
mod tests;
