//! The end of sessions: closed, deleted. For how long closed ones are kept is in `retention.rs`.

use flame_core::lifecycle::LifecycleEvent;
use flame_core::state::{SessionState, TaskState};
use flame_rpc::v1;

use super::{Core, CoreError, Effects, Now, Requests};
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
                "Cannot close session with running tasks: {} of session {id} run; wait for them and try again, or cancel them",
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
        self.forget_idle(key);
        if let Some(session) = self.sessions.get_mut(&key) {
            session.row.state = SessionState::Closed;
            session.row.completed = Some(now.wall);
            session.waiting_since = None;
            session.requests = Requests::default();
            fx.records.push(Record::SessionClosed {
                session: key,
                time: now.wall,
                last_task: session.last_task,
                succeeded: session.succeeded,
                failed: session.failed,
                cancelled: session.cancelled,
            });
            fx.closed.push(key);
            let text = format!(
                "session {id} was closed: of its tasks {} succeeded, {} failed, {} were cancelled",
                session.succeeded, session.failed, session.cancelled
            );
            fx.event(LifecycleEvent::SessionClosed, text).session = Some(session.row.id.clone());
            self.counters.sessions_closed += 1;
        }
        self.dirty = true;
        // The answer shows what will not stay in memory.
        let view = self.get_session(id);
        if let Some(session) = self.sessions.get_mut(&key) {
            self.open.remove(&key);
            self.closed.insert(session, false);
        }
        view
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
        let text = format!("session {id} was deleted");
        fx.event(LifecycleEvent::SessionDeleted, text).session = Some(session.row.id.clone());
        self.forget_session(key, fx);
        Ok(view)
    }
}
