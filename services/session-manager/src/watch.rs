//! Those who watch tasks. News reaches them after it is durable.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    /// Number of entries in `tasks`, to be read without its lock.
    watched: AtomicUsize,
    sessions: Mutex<HashMap<SessionKey, Vec<SessionSender>>>,
    next: AtomicU64,
}

/// One watcher's place in the registry; dropping it ends the watch.
#[derive(Debug)]
pub(crate) struct Watch {
    watchers: Arc<Watchers>,
    task: TaskKey,
    number: u64,
    receiver: mpsc::UnboundedReceiver<Arc<TaskRow>>,
}

/// Ends that leave together.
type Ends = Vec<Arc<TaskRow>>;

#[derive(Debug)]
struct SessionSender {
    sender: mpsc::UnboundedSender<Ends>,
    /// Ends that were sent and not received.
    behind: Arc<AtomicUsize>,
}

/// What a watcher of a session receives.
#[derive(Debug)]
pub(crate) struct SessionWatch {
    receiver: mpsc::UnboundedReceiver<Ends>,
    behind: Arc<AtomicUsize>,
}

impl SessionSender {
    /// False if the watcher has gone or is too slow.
    fn send(&self, ends: &[Arc<TaskRow>]) -> bool {
        let behind = self.behind.fetch_add(ends.len(), Ordering::AcqRel);
        // One that has received everything before has its place, however many these are.
        (behind == 0 || behind + ends.len() <= SESSION_BACKLOG) && self.sender.send(ends.to_vec()).is_ok()
    }
}

impl SessionWatch {
    fn new() -> (SessionSender, Self) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let behind = Arc::new(AtomicUsize::new(0));
        let sender = SessionSender {
            sender,
            behind: Arc::clone(&behind),
        };
        (sender, Self { receiver, behind })
    }

    /// A watch to which nothing will come.
    pub(crate) fn closed() -> Self {
        Self::new().1
    }

    /// The next ends, in order; `None` if no more will come, and if its reader was too slow.
    /// Nothing is lost if the future is dropped.
    pub(crate) async fn next(&mut self) -> Option<Ends> {
        let ends = self.receiver.recv().await?;
        self.behind.fetch_sub(ends.len(), Ordering::AcqRel);
        Some(ends)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watchers {
    /// Starts to watch `task`.
    pub(crate) fn watch(self: &Arc<Self>, task: TaskKey) -> Watch {
        let (sender, receiver) = mpsc::unbounded_channel();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut tasks = lock(&self.tasks);
        tasks.entry(task).or_default().push((number, sender));
        self.watched.store(tasks.len(), Ordering::Release);
        Watch {
            watchers: Arc::clone(self),
            task,
            number,
            receiver,
        }
    }

    /// Whether somebody watches a task (and not a session).
    pub(crate) fn watches_tasks(&self) -> bool {
        self.watched.load(Ordering::Acquire) > 0
    }

    /// Those of `tasks` that somebody watches.
    pub(crate) fn watched_of(&self, tasks: &[TaskKey]) -> Vec<TaskKey> {
        let watched = lock(&self.tasks);
        let known = tasks.iter().filter(|task| watched.contains_key(task));
        known.copied().collect()
    }

    /// Starts to watch the ends of all tasks of `session`.
    pub(crate) fn watch_session(&self, session: SessionKey) -> SessionWatch {
        let (sender, watch) = SessionWatch::new();
        let mut sessions = lock(&self.sessions);
        let senders = sessions.entry(session).or_default();
        // A client that connects again and again to a quiet session leaves nothing behind.
        senders.retain(|known| !known.sender.is_closed());
        senders.push(sender);
        watch
    }

    fn publish_ends(&self, updates: &[Arc<TaskRow>], closed: &[SessionKey]) {
        let mut sessions = lock(&self.sessions);
        if sessions.is_empty() {
            return;
        }
        for news in updates.chunk_by(|a, b| a.session == b.session) {
            let Some(session) = news.first().map(|row| row.session) else {
                continue;
            };
            let Some(senders) = sessions.get_mut(&session) else {
                continue;
            };
            let ends: Ends = news
                .iter()
                .filter(|row| row.state.is_terminal())
                .cloned()
                .collect();
            if !ends.is_empty() {
                senders.retain(|sender| sender.send(&ends));
            }
            if senders.is_empty() {
                sessions.remove(&session);
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
        if !self.watches_tasks() {
            return;
        }
        let mut tasks = lock(&self.tasks);
        for row in updates {
            let key = (row.session, row.id);
            if row.state.is_terminal() {
                for (_, sender) in tasks.remove(&key).into_iter().flatten() {
                    // A watcher that has gone removes itself.
                    let _gone = sender.send(Arc::clone(&row));
                }
            } else {
                for (_, sender) in tasks.get(&key).into_iter().flatten() {
                    let _gone = sender.send(Arc::clone(&row));
                }
            }
        }
        self.watched.store(tasks.len(), Ordering::Release);
    }

    #[cfg(test)]
    fn watched(&self) -> usize {
        assert_eq!(lock(&self.tasks).len(), self.watched.load(Ordering::Acquire));
        lock(&self.tasks).len()
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
        let mut tasks = lock(&self.watchers.tasks);
        if let Some(senders) = tasks.get_mut(&self.task) {
            senders.retain(|(number, _)| *number != self.number);
            if senders.is_empty() {
                tasks.remove(&self.task);
            }
        }
        self.watchers.watched.store(tasks.len(), Ordering::Release);
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
        while let Some(ends) = watch.next().await {
            seen.extend(ends.iter().map(|row| row.id));
        }
        assert_eq!(seen, [1, 2]);
        assert!(watchers.sessions.lock().expect("not poisoned").is_empty());
    }

    #[tokio::test]
    async fn a_watcher_of_a_session_that_is_gone_or_too_slow_loses_its_place() {
        let watchers = Watchers::default();
        drop(watchers.watch_session(1));
        drop(watchers.watch_session(1));
        assert_eq!(watchers.sessions.lock().expect("not poisoned")[&1].len(), 1);
        let mut slow = watchers.watch_session(2);
        let end = |id: u64| {
            let mut end = row(id, TaskState::Succeed).as_ref().clone();
            end.session = 2;
            Arc::new(end)
        };
        let backlog = SESSION_BACKLOG as u64;
        let mut ends = vec![row(1, TaskState::Succeed)];
        ends.extend((1..=backlog).map(end));
        watchers.publish(ends, &[]);
        assert_eq!(watchers.sessions.lock().expect("not poisoned")[&2].len(), 1);
        watchers.publish(vec![end(backlog + 1)], &[]);
        assert!(watchers.sessions.lock().expect("not poisoned").is_empty());
        let received = slow.next().await.map_or(0, |ends| ends.len());
        assert!(received == SESSION_BACKLOG && slow.next().await.is_none());
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
