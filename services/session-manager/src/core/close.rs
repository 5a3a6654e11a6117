//! The end of sessions: closed, deleted, forgotten.

use flame_core::state::{SessionState, TaskState};
use flame_rpc::v1;

use super::{Core, CoreError, Effects, Now, Requests, SessionKey};
use crate::store::Record;

impl Core {
    /// Closes a session: its pending tasks are cancelled and its executors released. Closing a
    /// closed session changes nothing.
    ///
    /// # Errors
    /// It does not exist, or a task runs.
    pub fn close_session(&mut self, id: &str, now: Now, fx: &mut Effects) -> Result<v1::Session, CoreError> {
        let key = self.session_key(id)?;
        let session = self.session(id)?;
        if !session.is_open() {
            return Ok(session.view());
        }
        if session.running() > 0 {
            return Err(CoreError::Busy(format!(
                "Cannot close session with running tasks: {} of session {id} run; wait for them and try again",
                session.running()
            )));
        }
        let pending: Vec<_> = session.pending.iter().copied().collect();
        let executors: Vec<_> = session.executors.iter().cloned().collect();
        for task in pending {
            self.finish_task(
                (key, task),
                TaskState::Cancelled,
                None,
                Some("the session was closed".to_owned()),
                now,
                fx,
            );
        }
        for executor in executors {
            self.release(&executor, "the session was closed", fx);
        }
        if let Some(session) = self.sessions.get_mut(&key) {
            session.row.state = SessionState::Closed;
            session.row.completed = Some(now.wall);
            session.waiting_since = None;
            session.requests = Requests::default();
            fx.records.push(Record::SessionClosed {
                session: key,
                time: now.wall,
            });
            fx.closed.push(key);
        }
        self.dirty = true;
        self.get_session(id)
    }

    /// Removes a closed session and its tasks.
    ///
    /// # Errors
    /// It does not exist or is open.
    pub fn delete_session(&mut self, id: &str, fx: &mut Effects) -> Result<v1::Session, CoreError> {
        let session = self.session(id)?;
        if session.is_open() {
            return Err(CoreError::Invalid(format!(
                "session {id} is open; close it before it is deleted"
            )));
        }
        let (key, view) = (session.row.key, session.view());
        self.forget_session(key, fx);
        Ok(view)
    }

    pub(super) fn forget_session(&mut self, key: SessionKey, fx: &mut Effects) {
        if let Some(session) = self.sessions.remove(&key) {
            self.session_keys.remove(session.row.id.as_str());
            fx.records.push(Record::SessionRemoved(key));
        }
    }

    /// Keeps `limits.max_sessions`: the closed sessions that were closed first go first.
    pub(super) fn forget_old_sessions(&mut self, fx: &mut Effects) {
        let Some(limit) = self.config.limits.max_sessions else {
            return;
        };
        if self.sessions.len() <= limit {
            return;
        }
        let mut closed: Vec<_> = self
            .sessions
            .values()
            .filter(|s| !s.is_open())
            .map(|s| (s.row.completed, s.row.key))
            .collect();
        let surplus = closed.len().saturating_sub(limit);
        closed.sort_unstable();
        for (_, key) in closed.into_iter().take(surplus) {
            self.forget_session(key, fx);
        }
    }
}
