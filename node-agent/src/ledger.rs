//! What the session manager has to be told: the executors, the tasks in hand, the results.
//! Knows no I/O, so that links, ends and acknowledgements in any order can be tested.

use std::collections::{HashMap, VecDeque};

use flame_core::ExecutorId;
use flame_core::event::bind;
use flame_rpc::node::{
    Draining, ExecutorPhase, ExecutorUpdate, Returned, RunningExecutor, StartExecutor, TaskAttempt, TaskDone,
    TaskItem, from_agent,
};
use flame_rpc::v1::ResourceRequirement;

use crate::executor::Ended;
use crate::results::ResultBuffer;

/// Tasks in an executor's hands (the running one among them) with which it need not be refilled
/// at once.
const ENOUGH_IN_HAND: usize = 2;

/// The agent's books. An executor stays in them until the manager has been told of its end and
/// has acknowledged its results: so long it belongs to what Hello lists.
#[derive(Debug)]
pub struct Ledger {
    executors: HashMap<ExecutorId, Entry>,
    results: ResultBuffer,
    /// To be sent after the results that came before.
    updates: VecDeque<ExecutorUpdate>,
    /// Recalled tasks. After a reconnect Hello tells the same by not listing them.
    returned: VecDeque<Returned>,
    /// The manager has to know at once what is unsent, because an executor may run out of work.
    urgent: bool,
    /// Why the agent is stopping, and whether the manager was told on the present link.
    stopping: Option<(String, bool)>,
    tasks_done: u64,
    /// Executors without an end.
    live: usize,
}

#[derive(Debug)]
struct Entry {
    session: String,
    application: String,
    resreq: Option<ResourceRequirement>,
    session_number: u64,
    bound: bool,
    /// Handed out and not finished, in order.
    in_hand: VecDeque<TaskAttempt>,
    /// Finished, but the result is not acknowledged, in order.
    unacknowledged: VecDeque<TaskAttempt>,
    end: Option<End>,
}

#[derive(Debug)]
struct End {
    update: ExecutorUpdate,
    /// It went out on some link.
    told: bool,
}

impl Entry {
    fn is_settled(&self) -> bool {
        self.unacknowledged.is_empty() && self.end.as_ref().is_some_and(|end| end.told)
    }
}

impl Ledger {
    /// Empty books for a link that carries messages up to `max_message_size` bytes.
    #[must_use]
    pub fn new(max_message_size: usize) -> Self {
        Self {
            executors: HashMap::new(),
            results: ResultBuffer::new(max_message_size),
            updates: VecDeque::new(),
            returned: VecDeque::new(),
            urgent: false,
            stopping: None,
            tasks_done: 0,
            live: 0,
        }
    }

    /// The manager takes messages up to `bytes`.
    pub fn limit_messages(&mut self, bytes: usize) {
        self.results.lower_limit(bytes);
    }

    /// The agent takes no more work, which the manager has to know.
    pub fn stopping(&mut self, reason: &str) {
        self.stopping = Some((reason.to_owned(), false));
    }

    /// A new executor.
    pub fn started(&mut self, id: ExecutorId, order: &StartExecutor) {
        let entry = Entry {
            session: order.session_id.clone(),
            application: order.application.clone(),
            resreq: order.resreq,
            session_number: order.session_number,
            bound: false,
            in_hand: VecDeque::new(),
            unacknowledged: VecDeque::new(),
            end: None,
        };
        self.live += 1;
        if self
            .executors
            .insert(id, entry)
            .is_some_and(|old| old.end.is_none())
        {
            self.live -= 1;
        }
    }

    /// An executor that an earlier run of the agent has bound. What it had in hand then, nobody waits for any more:
    /// Hello does not list it.
    pub fn adopted(&mut self, id: ExecutorId, order: &StartExecutor) {
        self.started(id.clone(), order);
        if let Some(entry) = self.executors.get_mut(id.as_str()) {
            entry.bound = true;
        }
    }

    /// Whether the executor is in the books.
    #[must_use]
    pub fn knows(&self, id: &str) -> bool {
        self.executors.contains_key(id)
    }

    /// The session of an executor in the books.
    #[must_use]
    pub fn session(&self, id: &str) -> Option<&str> {
        self.executors.get(id).map(|entry| entry.session.as_str())
    }

    /// Whether a task is in some executor's hands.
    #[must_use]
    pub fn has_tasks_in_hand(&self) -> bool {
        let mut live = self.executors.values().filter(|entry| entry.end.is_none());
        live.any(|entry| !entry.in_hand.is_empty())
    }

    /// Executors whose process is there or is being started.
    #[must_use]
    pub fn live(&self) -> usize {
        self.live
    }

    /// Tasks finished since the agent started.
    #[must_use]
    pub fn tasks_done(&self) -> u64 {
        self.tasks_done
    }

    /// OnSessionEnter has succeeded.
    pub fn bound(&mut self, id: &str) {
        if let Some(entry) = self.executors.get_mut(id) {
            entry.bound = true;
            self.updates.push_back(update(id, ExecutorPhase::Bound));
        }
    }

    /// Tells once more what is known of an executor, because the manager asked again. One that
    /// is still being started is told of when it is decided.
    pub fn repeat(&mut self, id: &str) {
        match self.executors.get(id) {
            Some(Entry { end: Some(end), .. }) => self.updates.push_back(end.update.clone()),
            Some(Entry { bound: true, .. }) => self.updates.push_back(update(id, ExecutorPhase::Bound)),
            Some(_) => {}
            None => self.updates.push_back(update(id, ExecutorPhase::Released)),
        }
    }

    /// An executor that was asked for will not be started.
    pub fn refused(&mut self, id: &str, reason: &str) {
        self.updates.push_back(ExecutorUpdate {
            code: bind::UNKNOWN,
            message: reason.to_owned(),
            ..update(id, ExecutorPhase::BindFailed)
        });
    }

    /// Takes tasks into the books. Returns false if the executor is no more; the manager is
    /// then told that they are lost.
    pub fn handed_out(&mut self, id: &str, tasks: &[TaskItem]) -> bool {
        let attempts = tasks.iter().map(|task| TaskAttempt {
            task_id: task.task_id,
            attempt: task.attempt,
        });
        let mut answer = match self.executors.get_mut(id) {
            Some(entry) => match &entry.end {
                None => {
                    entry.in_hand.extend(attempts);
                    return true;
                }
                Some(end) => end.update.clone(),
            },
            None => update(id, ExecutorPhase::Released),
        };
        answer.lost = attempts.collect();
        answer.running = false;
        self.updates.push_back(answer);
        false
    }

    /// Tasks of an executor have ended.
    pub fn done(&mut self, id: &str, done: Vec<TaskDone>) {
        self.tasks_done += done.len() as u64;
        if let Some(entry) = self.executors.get_mut(id) {
            for attempt in done.iter().map(attempt_of) {
                remove(&mut entry.in_hand, attempt);
                entry.unacknowledged.push_back(attempt);
            }
            self.urgent |= entry.in_hand.len() <= ENOUGH_IN_HAND;
        }
        for done in done {
            self.results.push(done);
        }
    }

    /// Recalled tasks are out of this agent's hands.
    pub fn returned(&mut self, id: &str, tasks: Vec<TaskAttempt>) {
        if let Some(entry) = self.executors.get_mut(id) {
            for attempt in &tasks {
                remove(&mut entry.in_hand, *attempt);
            }
        }
        self.returned.push_back(Returned {
            executor_id: id.to_owned(),
            tasks,
        });
    }

    /// The executor is no more; what it had in hand is lost.
    pub fn ended(&mut self, id: &str, ended: &Ended) {
        let Some(entry) = self.executors.get_mut(id) else {
            return;
        };
        let mut told = match ended {
            Ended::BindFailed { code, message } => ExecutorUpdate {
                code: *code,
                message: message.clone(),
                ..update(id, ExecutorPhase::BindFailed)
            },
            Ended::Died { message, running } => ExecutorUpdate {
                message: message.clone(),
                running: *running,
                ..update(id, ExecutorPhase::Died)
            },
            Ended::Released { running } => ExecutorUpdate {
                running: *running,
                ..update(id, ExecutorPhase::Released)
            },
        };
        told.lost = entry.in_hand.iter().copied().collect();
        let end = End {
            update: told.clone(),
            told: false,
        };
        if entry.end.replace(end).is_none() {
            self.live -= 1;
        }
        self.updates.push_back(told);
    }

    /// The manager has all results up to `sequence`.
    pub fn acknowledged(&mut self, sequence: u64) {
        let released = self.results.acknowledge(sequence);
        for of_one in released.chunk_by(|one, next| one.executor_id == next.executor_id) {
            let Some(entry) = of_one
                .first()
                .and_then(|done| self.executors.get_mut(done.executor_id.as_str()))
            else {
                continue;
            };
            for done in of_one {
                remove(&mut entry.unacknowledged, attempt_of(done));
            }
            if entry.is_settled()
                && let Some(done) = of_one.first()
            {
                self.executors.remove(done.executor_id.as_str());
            }
        }
    }

    /// There is a new connection: what Hello says, and everything that the manager may not
    /// have heard is to be sent again after it. Nothing else of the old link remains.
    pub fn reconnected(&mut self) -> Vec<RunningExecutor> {
        self.results.rewind();
        self.urgent = true;
        self.returned.clear();
        if let Some((_, told)) = &mut self.stopping {
            *told = false;
        }
        let ends = self.executors.values().filter_map(|entry| entry.end.as_ref());
        self.updates = ends.map(|end| end.update.clone()).collect();
        self.executors
            .iter()
            .map(|(id, entry)| RunningExecutor {
                executor_id: id.to_string(),
                session_id: entry.session.clone(),
                application: entry.application.clone(),
                resreq: entry.resreq,
                session_number: entry.session_number,
                bound: entry.bound,
                tasks: entry
                    .unacknowledged
                    .iter()
                    .chain(&entry.in_hand)
                    .copied()
                    .collect(),
            })
            .collect()
    }

    /// Whether there is something to send on the present link.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        self.results.has_unsent()
            || !self.updates.is_empty()
            || !self.returned.is_empty()
            || self.must_say_draining()
    }

    /// Whether what is unsent should go at once. Otherwise results may wait for others, because
    /// their executors have enough to do: one message for many costs both sides much less.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        self.urgent
            || self.results.has_full_batch()
            || !self.updates.is_empty()
            || !self.returned.is_empty()
            || self.must_say_draining()
    }

    fn must_say_draining(&self) -> bool {
        matches!(self.stopping, Some((_, false)))
    }

    /// Whether all is sent and all results are acknowledged.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.results.is_empty() && self.updates.is_empty() && self.returned.is_empty()
    }

    /// What to send next on the present link, counted as sent from now on. Results go before
    /// updates: whoever hears of an executor's end has its results already.
    pub fn next_message(&mut self) -> Option<from_agent::Message> {
        if let Some((reason, told @ false)) = &mut self.stopping {
            *told = true;
            let reason = reason.clone();
            return Some(from_agent::Message::Draining(Draining { reason }));
        }
        if let Some(batch) = self.results.next_batch() {
            self.urgent &= self.results.has_unsent();
            return Some(from_agent::Message::Results(batch));
        }
        if let Some(returned) = self.returned.pop_front() {
            return Some(from_agent::Message::Returned(returned));
        }
        let update = self.updates.pop_front()?;
        if let Some(entry) = self.executors.get_mut(update.executor_id.as_str()) {
            if let Some(end) = &mut entry.end {
                end.told = true;
            }
            if entry.is_settled() {
                self.executors.remove(update.executor_id.as_str());
            }
        }
        Some(from_agent::Message::Executor(update))
    }
}

fn update(id: &str, phase: ExecutorPhase) -> ExecutorUpdate {
    ExecutorUpdate {
        executor_id: id.to_owned(),
        phase: phase.into(),
        ..ExecutorUpdate::default()
    }
}

fn attempt_of(done: &TaskDone) -> TaskAttempt {
    TaskAttempt {
        task_id: done.task_id,
        attempt: done.attempt,
    }
}

/// Tasks end in order, so the first is nearly always the right one.
fn remove(attempts: &mut VecDeque<TaskAttempt>, attempt: TaskAttempt) {
    if attempts.front() == Some(&attempt) {
        attempts.pop_front();
    } else if let Some(place) = attempts.iter().position(|held| *held == attempt) {
        attempts.remove(place);
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
