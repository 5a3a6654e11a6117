//! Those who watch tasks. News reaches them after it is durable.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use crate::core::{TaskKey, TaskRow};

type Sender = mpsc::UnboundedSender<Arc<TaskRow>>;

/// Registry of watchers. A task sends few messages (one per hand-out and one at the end), so
/// the channels need no bound.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    tasks: Mutex<HashMap<TaskKey, Vec<(u64, Sender)>>>,
    next: std::sync::atomic::AtomicU64,
}

/// One watcher's place in the registry; dropping it ends the watch.
#[derive(Debug)]
pub(crate) struct Watch {
    watchers: Arc<Watchers>,
    task: TaskKey,
    number: u64,
    receiver: mpsc::UnboundedReceiver<Arc<TaskRow>>,
}

impl Watchers {
    /// Starts to watch `task`.
    pub(crate) fn watch(self: &Arc<Self>, task: TaskKey) -> Watch {
        let (sender, receiver) = mpsc::unbounded_channel();
        let number = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.entry(task).or_default().push((number, sender));
        Watch {
            watchers: Arc::clone(self),
            task,
            number,
            receiver,
        }
    }

    /// Tells the watchers of each task; those of ended tasks are done.
    pub(crate) fn publish(&self, updates: Vec<Arc<TaskRow>>) {
        if updates.is_empty() {
            return;
        }
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        for row in updates {
            let key = (row.session, row.id);
            let senders = if row.state.is_terminal() {
                tasks.remove(&key)
            } else {
                tasks.get(&key).cloned()
            };
            for (_, sender) in senders.into_iter().flatten() {
                // A watcher that has gone removes itself.
                let _gone = sender.send(Arc::clone(&row));
            }
        }
    }

    #[cfg(test)]
    fn watched(&self) -> usize {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Watch {
    /// The next news; `None` after the last.
    pub(crate) async fn next(&mut self) -> Option<Arc<TaskRow>> {
        self.receiver.recv().await
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut tasks = self.watchers.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(senders) = tasks.get_mut(&self.task) {
            senders.retain(|(number, _)| *number != self.number);
            if senders.is_empty() {
                tasks.remove(&self.task);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flame_core::state::TaskState;

    fn row(id: u64, state: TaskState) -> Arc<TaskRow> {
        Arc::new(TaskRow {
            session: 1,
            id,
            state,
            created: 0,
            started: None,
            finished: None,
            input: None,
            output: None,
            message: None,
        })
    }

    #[tokio::test]
    async fn a_watch_ends_with_its_task() {
        let watchers = Arc::new(Watchers::default());
        let mut watch = watchers.watch((1, 1));
        watchers.publish(vec![
            row(2, TaskState::Succeed),
            row(1, TaskState::Running),
            row(1, TaskState::Failed),
        ]);
        let mut seen = Vec::new();
        while let Some(row) = watch.next().await {
            seen.push((row.id, row.state));
        }
        assert_eq!(seen, [(1, TaskState::Running), (1, TaskState::Failed)]);
        assert_eq!(watchers.watched(), 0);
    }

    #[test]
    fn nothing_is_left_of_a_watcher_that_went_away() {
        let watchers = Arc::new(Watchers::default());
        let (first, second) = (watchers.watch((1, 1)), watchers.watch((1, 1)));
        drop(first);
        assert_eq!(watchers.watched(), 1);
        drop(second);
        assert_eq!(watchers.watched(), 0);
    }
}
