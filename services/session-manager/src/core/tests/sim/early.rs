//! Clients that end tasks before their time: one task, all of a session, or the session. What was
//! acknowledged stays so: a cancelled task has ended as cancelled and as nothing else.

use std::time::Duration;

use flame_core::TaskId;
use flame_core::state::TaskState;

use super::client::{Answer, Call, ClientEvent, Stage};
use super::manager::Request;
use super::payload::Content;
use super::scenario::Ending;
use super::world::{Checked, Event, World};
use crate::core::{Cancel, Core, CoreError, Effects, Now, SessionKey, ended_otherwise};

/// What is to end.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    Task(TaskId),
    /// All tasks of the session, which goes on.
    Tasks,
    Session,
}

/// Applies it.
pub(super) fn answer(
    core: &mut Core,
    session: &str,
    end: End,
    now: Now,
    fx: &mut Effects,
) -> Result<Answer, CoreError> {
    match end {
        End::Task(id) => {
            let key = core.session_progress(session)?.key;
            let cancel = core.cancel_task(session, id, None, now, fx)?;
            Ok(Answer::Cancelled(key, cancel))
        }
        End::Tasks => core.cancel_tasks(session, None, now, fx).map(|_| Answer::Done),
        End::Session => core.cancel_session(session, None, now, fx).map(|_| Answer::Done),
    }
}

impl World {
    /// What `control.rs` does with the answer: what has ended long ago is looked up in the store.
    pub(super) fn look_up_end(
        &self,
        call: &Call,
        answer: Result<Answer, CoreError>,
    ) -> Result<Answer, CoreError> {
        let (Request::End(End::Task(id)), Ok(Answer::Cancelled(key, Cancel::InStore(_)))) =
            (&call.request, &answer)
        else {
            return answer;
        };
        let Some(row) = self.disk.task(*key, *id) else {
            return Err(CoreError::NotFound(format!("task {id} is not in the store")));
        };
        ended_otherwise(&call.session, row).and(answer)
    }

    /// Tasks are known to exist: some are cancelled after a while.
    pub(super) fn plan_cancels(&mut self, client: usize, contents: &[Content], first: TaskId) {
        let found = &self.clients[client];
        let (life, wave) = (found.life, found.waves.saturating_sub(1));
        let Some(after) = found.plan.waves.get(wave).map(|wave| wave.cancelled_after) else {
            return;
        };
        for (content, task) in contents.iter().zip(first..) {
            if content.cancelled {
                let event = ClientEvent::Ends(life, End::Task(task));
                self.after(after, Event::Client(client, event));
            }
        }
    }

    /// Everything is created: what comes next without waiting for the ends.
    pub(super) fn plan_ending(&mut self, client: usize) {
        let found = &self.clients[client];
        let (patience, end) = match found.plan.ending {
            Ending::Waits => return,
            Ending::Closes => {
                self.clients[client].stage = Stage::Closing;
                return self.simple_call(client, Request::Close);
            }
            Ending::CancelsTasks(patience) => (patience, End::Tasks),
            Ending::CancelsSession(patience) => (patience, End::Session),
        };
        let event = ClientEvent::Ends(found.life, end);
        self.after(patience, Event::Client(client, event));
    }

    pub(super) fn end_early(&mut self, client: usize, end: End) {
        let found = &mut self.clients[client];
        match end {
            // It may run and hold up the end of the session.
            End::Task(id) if found.stage < Stage::Closed => drop(found.cancels.insert(id)),
            End::Tasks if found.stage == Stage::Waiting => found.cancels_all = true,
            End::Session if found.stage == Stage::Waiting => found.stage = Stage::Closing,
            _ => return,
        }
        self.simple_call(client, Request::End(end));
    }

    /// What a client was told of the end of something is true and durable.
    pub(super) fn ended_early(
        &mut self,
        client: usize,
        end: End,
        answer: Result<Answer, CoreError>,
    ) -> Checked {
        let found = &mut self.clients[client];
        match (end, answer) {
            (End::Task(id), Ok(Answer::Cancelled(key, _))) => {
                found.cancelled.insert(id);
                if let Some(state) = found.ended.get(&id).filter(|end| **end != TaskState::Cancelled) {
                    return Err(format!(
                        "client {client} cancelled task {id}, and was told before that it ended as {state}"
                    ));
                }
                self.has_ended(key, id, "cancelled", &[TaskState::Cancelled])
            }
            (End::Task(id), Err(CoreError::Precondition(_))) => match found.key {
                None => Ok(()),
                Some(key) => {
                    let others = [TaskState::Succeed, TaskState::Failed];
                    self.has_ended(key, id, "refused to be cancelled", &others)
                }
            },
            (End::Task(_) | End::Tasks, Err(CoreError::NotFound(_)))
                if found.stage >= Stage::Deleting || found.key.is_none() =>
            {
                Ok(())
            }
            (End::Tasks, Ok(Answer::Done)) => {
                let Some(key) = found.key else { return Ok(()) };
                let all = [TaskState::Succeed, TaskState::Failed, TaskState::Cancelled];
                for id in self.clients[client].acknowledged.keys() {
                    self.has_ended(key, *id, "cancelled with all others", &all)?;
                }
                Ok(())
            }
            (End::Session, Ok(Answer::Done)) => {
                found.stage = Stage::Closed;
                self.finish(client)
            }
            (end, answer) => Err(format!(
                "client {client} wanted to end {end:?} and got {answer:?}"
            )),
        }
    }

    fn has_ended(&self, key: SessionKey, id: TaskId, how: &str, states: &[TaskState]) -> Checked {
        if !self.disk.sessions.contains_key(&key) {
            return Ok(()); // it was deleted meanwhile
        }
        let state = self.disk.task(key, id).map(|row| row.state);
        match state.is_some_and(|state| states.contains(&state)) {
            true => Ok(()),
            false => Err(format!(
                "task {id} of session {key} was {how}, and is stored as {state:?}"
            )),
        }
    }
}

/// For how long a session goes on after everything is created, whatever runs.
pub(super) fn patience(ending: Ending) -> Duration {
    match ending {
        Ending::Waits | Ending::Closes => Duration::ZERO,
        Ending::CancelsTasks(patience) | Ending::CancelsSession(patience) => patience,
    }
}
