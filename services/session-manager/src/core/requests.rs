//! Calls that may come twice. A client whose answer was lost with a connection asks again under
//! the same request id, and gets the first answer instead of a second set of tasks.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use flame_core::TaskId;

use super::{Core, CoreError, Effects, Now, SessionKey};
use crate::store::Record;

/// Longest request id, in bytes: room for any hash or UUID, in any notation.
const MAX_ID_LENGTH: usize = 64;

/// Requests that are remembered per session. A client that repeats a call has a few of them under
/// way, not a thousand.
pub(crate) const MAX_REQUESTS: usize = 1024;

/// A call that made tasks: under which id it came, and what was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestRow {
    /// The session of the tasks.
    pub session: SessionKey,
    /// Chosen by the client.
    pub id: Arc<[u8]>,
    /// The first task that it made.
    pub first: TaskId,
    /// How many it made.
    pub count: u64,
}

/// The latest requests of one session.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    answers: HashMap<Arc<[u8]>, (TaskId, u64)>,
    /// Oldest first.
    order: VecDeque<Arc<[u8]>>,
}

impl Requests {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// What was answered to the request `id`: the first task and their number.
    fn answer(&self, id: &[u8]) -> Option<(TaskId, u64)> {
        self.answers.get(id).copied()
    }

    /// Remembers a request; returns the one that is forgotten in its favour.
    pub(crate) fn remember(&mut self, row: &RequestRow) -> Option<Arc<[u8]>> {
        self.answers.insert(Arc::clone(&row.id), (row.first, row.count));
        self.order.push_back(Arc::clone(&row.id));
        if self.order.len() <= MAX_REQUESTS {
            return None;
        }
        let oldest = self.order.pop_front()?;
        self.answers.remove(&oldest);
        Some(oldest)
    }
}

impl Core {
    /// As [`Core::create_tasks`], but only once for each `id`: a repeated call makes nothing and
    /// returns what the first one did. The latest 1,024 ids of an open session are remembered,
    /// also across a restart.
    ///
    /// # Errors
    /// As [`Core::create_tasks`]; also if the id is empty or longer than 64 bytes, or came with
    /// another number of tasks before.
    pub fn create_tasks_once(
        &mut self,
        session: &str,
        id: &[u8],
        inputs: Vec<Option<Bytes>>,
        now: Now,
        fx: &mut Effects,
    ) -> Result<TaskId, CoreError> {
        if !(1..=MAX_ID_LENGTH).contains(&id.len()) {
            let text = format!(
                "request_id has {} bytes; 1 to {MAX_ID_LENGTH} are possible",
                id.len()
            );
            return Err(CoreError::Invalid(text));
        }
        let count = inputs.len() as u64;
        if let Some((first, made)) = self.session(session)?.requests.answer(id) {
            if made == count {
                return Ok(first);
            }
            return Err(CoreError::Invalid(format!(
                "request_id was used before in session {session}, for {made} tasks and not for {count}; \
                 every new request needs an id of its own"
            )));
        }
        let first = self.create_tasks(session, inputs, now, fx)?;
        let key = self.session_key(session)?;
        if let Some(found) = self.sessions.get_mut(&key).filter(|_| count > 0) {
            let row = RequestRow {
                session: key,
                id: Arc::from(id),
                first,
                count,
            };
            let forgotten = found.requests.remember(&row);
            fx.records.push(Record::RequestAnswered { row, forgotten });
        }
        Ok(first)
    }
}
