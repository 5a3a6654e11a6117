//! An agent's books, by the same rules as the node agent's own (`node-agent/src/ledger.rs`): an
//! executor stays in them until the manager was told of its end and has acknowledged its results.

use std::collections::{BTreeMap, VecDeque};

use flame_rpc::node::{
    Draining, ExecutorPhase, ExecutorUpdate, ResultBatch, Returned, RunningExecutor, StartExecutor,
    TaskAttempt, TaskDone, TaskItem, from_agent::Message,
};

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    executors: BTreeMap<String, Entry>,
    sequence: u64,
    open: Vec<TaskDone>,
    sealed: VecDeque<ResultBatch>,
    /// How many of `sealed` went out on the present link.
    sent: usize,
    updates: VecDeque<ExecutorUpdate>,
    returned: VecDeque<Returned>,
    /// The agent is stopping, and whether the manager was told on the present link.
    stopping: Option<bool>,
}

#[derive(Debug)]
struct Entry {
    order: StartExecutor,
    bound: bool,
    in_hand: VecDeque<TaskAttempt>,
    unacknowledged: VecDeque<TaskAttempt>,
    end: Option<(ExecutorUpdate, bool)>,
}

impl Entry {
    fn is_settled(&self) -> bool {
        self.unacknowledged.is_empty() && self.end.as_ref().is_some_and(|(_, told)| *told)
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

impl Ledger {
    pub(super) fn started(&mut self, order: &StartExecutor) {
        let entry = Entry {
            order: order.clone(),
            bound: false,
            in_hand: VecDeque::new(),
            unacknowledged: VecDeque::new(),
            end: None,
        };
        self.executors.insert(order.executor_id.clone(), entry);
    }

    pub(super) fn knows(&self, id: &str) -> bool {
        self.executors.contains_key(id)
    }

    pub(super) fn stopping(&mut self) {
        self.stopping = Some(false);
    }

    pub(super) fn is_settled(&self) -> bool {
        self.sealed.is_empty() && self.open.is_empty() && self.updates.is_empty() && self.returned.is_empty()
    }

    pub(super) fn bound(&mut self, id: &str) {
        if let Some(entry) = self.executors.get_mut(id) {
            entry.bound = true;
            self.updates.push_back(update(id, ExecutorPhase::Bound));
        }
    }

    /// The manager asked again for something that is decided.
    pub(super) fn repeat(&mut self, id: &str) {
        match self.executors.get(id) {
            Some(Entry {
                end: Some((end, _)), ..
            }) => self.updates.push_back(end.clone()),
            Some(Entry { bound: true, .. }) => self.updates.push_back(update(id, ExecutorPhase::Bound)),
            Some(_) => {}
            None => self.updates.push_back(update(id, ExecutorPhase::Released)),
        }
    }

    pub(super) fn refused(&mut self, id: &str) {
        self.updates.push_back(ExecutorUpdate {
            code: 19,
            message: "the node agent is stopping".to_owned(),
            ..update(id, ExecutorPhase::BindFailed)
        });
    }

    /// False if the executor is no more; the manager is then told that the tasks are lost.
    pub(super) fn handed_out(&mut self, id: &str, tasks: &[TaskItem]) -> bool {
        let attempts = tasks.iter().map(super::super::attempt);
        let mut answer = match self.executors.get_mut(id) {
            Some(entry) => match &entry.end {
                None => {
                    entry.in_hand.extend(attempts);
                    return true;
                }
                Some((end, _)) => end.clone(),
            },
            None => update(id, ExecutorPhase::Released),
        };
        answer.lost = attempts.collect();
        answer.running = false;
        self.updates.push_back(answer);
        false
    }

    pub(super) fn done(&mut self, done: TaskDone) {
        if let Some(entry) = self.executors.get_mut(&done.executor_id) {
            let attempt = attempt_of(&done);
            entry.in_hand.retain(|held| *held != attempt);
            entry.unacknowledged.push_back(attempt);
        }
        self.open.push(done);
    }

    pub(super) fn returned(&mut self, id: &str, tasks: Vec<TaskAttempt>) {
        if let Some(entry) = self.executors.get_mut(id) {
            entry.in_hand.retain(|held| !tasks.contains(held));
        }
        self.returned.push_back(Returned {
            executor_id: id.to_owned(),
            tasks,
        });
    }

    pub(super) fn ended(&mut self, id: &str, phase: ExecutorPhase, message: &str, running: bool) {
        let Some(entry) = self.executors.get_mut(id) else {
            return;
        };
        let told = ExecutorUpdate {
            code: if phase == ExecutorPhase::BindFailed { 12 } else { 0 },
            message: message.to_owned(),
            running,
            lost: entry.in_hand.iter().copied().collect(),
            ..update(id, phase)
        };
        entry.end = Some((told.clone(), false));
        self.updates.push_back(told);
    }

    pub(super) fn acknowledged(&mut self, sequence: u64) {
        while self
            .sealed
            .front()
            .is_some_and(|batch| batch.sequence <= sequence)
        {
            let Some(batch) = self.sealed.pop_front() else {
                return;
            };
            self.sent = self.sent.saturating_sub(1);
            for done in batch.results {
                let Some(entry) = self.executors.get_mut(&done.executor_id) else {
                    continue;
                };
                let attempt = attempt_of(&done);
                entry.unacknowledged.retain(|held| *held != attempt);
                if entry.is_settled() {
                    self.executors.remove(&done.executor_id);
                }
            }
        }
    }

    /// There is a new link: what Hello says; everything unheard is sent again after it.
    pub(super) fn reconnected(&mut self) -> Vec<RunningExecutor> {
        self.sent = 0;
        self.returned.clear();
        self.stopping = self.stopping.map(|_| false);
        let ends = self.executors.values().filter_map(|entry| entry.end.as_ref());
        self.updates = ends.map(|(end, _)| end.clone()).collect();
        let running = |(id, entry): (&String, &Entry)| RunningExecutor {
            executor_id: id.clone(),
            session_id: entry.order.session_id.clone(),
            application: entry.order.application.clone(),
            resreq: entry.order.resreq,
            session_number: entry.order.session_number,
            bound: entry.bound,
            tasks: entry
                .unacknowledged
                .iter()
                .chain(&entry.in_hand)
                .copied()
                .collect(),
        };
        self.executors.iter().map(running).collect()
    }

    /// What to send next on the present link. Results go before updates.
    pub(super) fn next_message(&mut self) -> Option<Message> {
        if self.stopping == Some(false) {
            self.stopping = Some(true);
            let reason = "the node agent is stopping".to_owned();
            return Some(Message::Draining(Draining { reason }));
        }
        if self.sent == self.sealed.len() && !self.open.is_empty() {
            self.sequence += 1;
            self.sealed.push_back(ResultBatch {
                sequence: self.sequence,
                results: std::mem::take(&mut self.open),
            });
        }
        if let Some(batch) = self.sealed.get(self.sent) {
            self.sent += 1;
            return Some(Message::Results(batch.clone()));
        }
        if let Some(returned) = self.returned.pop_front() {
            return Some(Message::Returned(returned));
        }
        let update = self.updates.pop_front()?;
        if let Some(entry) = self.executors.get_mut(&update.executor_id) {
            if let Some((_, told)) = &mut entry.end {
                *told = true;
            }
            if entry.is_settled() {
                self.executors.remove(&update.executor_id);
            }
        }
        Some(Message::Executor(update))
    }
}

impl Ledger {
    /// Whether nothing is in the books.
    pub(super) fn is_empty(&self) -> bool {
        self.executors.is_empty() && self.is_settled()
    }
}
