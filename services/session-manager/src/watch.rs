//! Those who watch tasks. News reaches them after it is durable.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use crate::core::{SessionKey, TaskKey, TaskRow};

type Sender = mpsc::UnboundedSender<Arc<TaskRow>>;

/// Ends that a watcher of a session may be behind. One that is slower loses its place, and
/// catches up from the store.
const SESSION_BACKLOG: usize = 16_384;

/// Registry of watchers. A task sends few messages (one per hand-out and one at the end), so
/// the channels need no bound.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    tasks: Mutex<HashMap<TaskKey, Vec<(u64, Sender)>>>,
    sessions: Mutex<HashMap<SessionKey, Vec<mpsc::Sender<Arc<TaskRow>>>>>,
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

    /// Starts to watch the ends of all tasks of `session`. The channel closes when no more will
    /// come, and when its reader is too slow.
    pub(crate) fn watch_session(&self, session: SessionKey) -> mpsc::Receiver<Arc<TaskRow>> {
        let (sender, receiver) = mpsc::channel(SESSION_BACKLOG);
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let senders = sessions.entry(session).or_default();
        // A client that connects again and again to a quiet session leaves nothing behind.
        senders.retain(|sender| !sender.is_closed());
        senders.push(sender);
        receiver
    }

    fn publish_ends(&self, updates: &[Arc<TaskRow>], closed: &[SessionKey]) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if sessions.is_empty() {
            return;
        }
        for row in updates.iter().filter(|row| row.state.is_terminal()) {
            if let Some(senders) = sessions.get_mut(&row.session) {
                senders.retain(|sender| sender.try_send(Arc::clone(row)).is_ok());
                if senders.is_empty() {
                    sessions.remove(&row.session);
                }
            }
        }
        for session in closed {
            sessions.remove(session);
        }
    }

    /// Tells the watchers of each task and of its session; those of ended tasks and of closed
    /// sessions are done.
    pub(crate) fn publish(&self, updates: Vec<Arc<TaskRow>>, closed: &[SessionKey]) {
        if updates.is_empty() && closed.is_empty() {
            return;
        }
        self.publish_ends(&updates, closed);
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
            sequence: None,
            input: None,
            output: None,
            message: None,
        })
    }

    #[tokio::test]
    async fn a_watch_ends_with_its_task() {
        let watchers = Arc::new(Watchers::default());
        let mut watch = watchers.watch((1, 1));
        watchers.publish(
            vec![
                row(2, TaskState::Succeed),
                row(1, TaskState::Running),
                row(1, TaskState::Failed),
            ],
            &[],
        );
        let mut seen = Vec::new();
        while let Some(row) = watch.next().await {
            seen.push((row.id, row.state));
        }
        assert_eq!(seen, [(1, TaskState::Running), (1, TaskState::Failed)]);
        assert_eq!(watchers.watched(), 0);
    }

    #[tokio::test]
    async fn a_watch_of_a_session_sees_ends_only_and_closes_with_it() {
        let watchers = Watchers::default();
        let mut watch = watchers.watch_session(1);
        watchers.publish(vec![row(1, TaskState::Running), row(1, TaskState::Succeed)], &[2]);
        watchers.publish(vec![row(2, TaskState::Cancelled)], &[1]);
        let mut seen = Vec::new();
        while let Some(row) = watch.recv().await {
            seen.push(row.id);
        }
        assert_eq!(seen, [1, 2]);
        assert!(watchers.sessions.lock().expect("not poisoned").is_empty());
    }

    #[test]
    fn a_watcher_of_a_session_that_is_gone_or_too_slow_loses_its_place() {
        let watchers = Watchers::default();
        drop(watchers.watch_session(1));
        drop(watchers.watch_session(1));
        assert_eq!(watchers.sessions.lock().expect("not poisoned")[&1].len(), 1);
        let slow = watchers.watch_session(2);
        let mut ends = vec![row(1, TaskState::Succeed)];
        ends.extend((0..=SESSION_BACKLOG as u64).map(|id| {
            let mut end = row(id, TaskState::Succeed).as_ref().clone();
            end.session = 2;
            Arc::new(end)
        }));
        watchers.publish(ends, &[]);
        assert!(watchers.sessions.lock().expect("not poisoned").is_empty());
        assert_eq!(slow.len(), SESSION_BACKLOG);
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
