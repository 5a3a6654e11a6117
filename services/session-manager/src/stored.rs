//! Questions to the store, asked where they may block, and what a client is told about a task that
//! it names.

use std::sync::Arc;

use flame_core::TaskId;
use tonic::Status;

use crate::core::{SessionKey, TaskRow};
use crate::store::{StoreError, TaskReader};

/// The answer of the store to a query.
pub(crate) async fn read<T: Send + 'static>(
    reader: Arc<dyn TaskReader>,
    query: impl FnOnce(&dyn TaskReader) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Status> {
    match tokio::task::spawn_blocking(move || query(reader.as_ref())).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => Err(Status::internal(format!("the session manager {error}"))),
        Err(_) => Err(Status::unavailable("the session manager is stopping")),
    }
}

/// The number of a task, as clients write it.
pub(crate) fn task_id(text: &str) -> Result<TaskId, Status> {
    text.parse()
        .map_err(|_| Status::invalid_argument(format!("task id {text:?} is not a number")))
}

/// A task that has ended and is in the store only, if there is one; `session` is its session's id.
pub(crate) async fn ended_task(
    reader: Arc<dyn TaskReader>,
    session: &str,
    key: SessionKey,
    id: TaskId,
) -> Result<TaskRow, Status> {
    let found = read(reader, move |reader| reader.task(key, id)).await?;
    found.ok_or_else(|| Status::not_found(format!("task {id} of session {session} not found")))
}
