//! What an executor is told: commands as they come, and the tasks among them that wait.

use std::collections::VecDeque;
use std::time::Duration;

use flame_core::ExecutorId;
use flame_rpc::node::{TaskAttempt, TaskDone, TaskItem};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use super::{Command, Event, FINISH_LIMIT, Happened};

/// Commands in, events out.
pub(super) struct Inbox {
    id: ExecutorId,
    events: UnboundedSender<Event>,
    /// Unbounded so that the agent's loop never waits for one executor; the session manager's
    /// credits bound what is in it.
    commands: UnboundedReceiver<Command>,
    /// Tasks that nobody has begun or sent to the service.
    pub(super) queue: VecDeque<TaskItem>,
    /// Recalls that are not answered.
    pub(super) recalls: u32,
    /// The executor shall end.
    pub(super) released: bool,
    /// Without waiting for the task that runs.
    pub(super) given_up: bool,
    /// How long the task that runs may go on from the release on.
    pub(super) finish: Duration,
}

impl Inbox {
    pub(super) fn new(
        id: ExecutorId,
        commands: UnboundedReceiver<Command>,
        events: UnboundedSender<Event>,
    ) -> Self {
        Self {
            id,
            events,
            commands,
            queue: VecDeque::new(),
            recalls: 0,
            released: false,
            given_up: false,
            finish: FINISH_LIMIT,
        }
    }

    /// Takes in one command. Nothing is lost if it is dropped before it completes.
    pub(super) async fn take(&mut self) {
        match self.commands.recv().await {
            Some(Command::Tasks(tasks)) => self.queue.extend(tasks),
            Some(Command::Recall) => self.recalls += 1,
            Some(Command::Release { give_up, finish }) => {
                if !self.released {
                    self.finish = finish;
                }
                self.released = true;
                self.given_up |= give_up;
            }
            // The agent is gone, so nobody waits for anything.
            None => (self.released, self.given_up) = (true, true),
        }
    }

    /// Completes when nobody waits for the task that runs.
    pub(super) async fn given_up(&mut self) {
        while !self.given_up {
            self.take().await;
        }
    }

    /// Completes when the executor shall end; until then collects tasks and gives them back when
    /// they are recalled.
    pub(super) async fn released(&mut self) {
        while !self.released {
            self.give_back();
            self.take().await;
        }
    }

    /// Answers recalls with all tasks of the queue.
    pub(super) fn give_back(&mut self) {
        for _ in 0..std::mem::take(&mut self.recalls) {
            let tasks = self.drain();
            self.tell(Happened::Returned(tasks));
        }
    }

    /// Takes all tasks of the queue.
    pub(super) fn drain(&mut self) -> Vec<TaskAttempt> {
        self.queue.drain(..).map(|task| attempt_of(&task)).collect()
    }

    /// Tells the agent's loop. It is gone only when the whole agent is.
    pub(super) fn tell(&mut self, happened: Happened) {
        self.released |= self.events.send((self.id.clone(), happened)).is_err();
    }

    /// Tells that tasks have ended.
    pub(super) fn tell_done(&mut self, done: Vec<TaskDone>) {
        if !done.is_empty() {
            self.tell(Happened::Done(done));
        }
    }
}

pub(super) fn attempt_of(task: &TaskItem) -> TaskAttempt {
    TaskAttempt {
        task_id: task.task_id,
        attempt: task.attempt,
    }
}
