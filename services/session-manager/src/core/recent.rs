//! Tasks that have ended lately. A client that sends many tasks asks for each one's end a moment
//! after it: those questions need not go to the store.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::planted::{Bug, planted};
use super::{TaskKey, TaskRow};

/// Tasks that are kept: a few seconds' worth of a busy cluster.
const MAX_TASKS: usize = 8192;
/// Bytes of input and output that are kept.
const MAX_BYTES: usize = 16 << 20;

/// The latest ends, bounded by number and bytes.
#[derive(Debug, Default)]
pub(super) struct Recent {
    rows: HashMap<TaskKey, Arc<TaskRow>>,
    order: VecDeque<TaskKey>,
    bytes: usize,
}

fn payload(row: &TaskRow) -> usize {
    let size = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(0, bytes::Bytes::len);
    size(&row.input) + size(&row.output)
}

impl Recent {
    pub(super) fn push(&mut self, row: Arc<TaskRow>) {
        let key = (row.session, row.id);
        self.bytes += payload(&row);
        self.order.push_back(key);
        self.rows.insert(key, row);
        while (self.order.len() > MAX_TASKS || self.bytes > MAX_BYTES) && !planted(Bug::Leak) {
            let Some(oldest) = self.order.pop_front() else {
                return;
            };
            if let Some(row) = self.rows.remove(&oldest) {
                self.bytes -= payload(&row);
            }
        }
    }

    pub(super) fn get(&self, key: TaskKey) -> Option<Arc<TaskRow>> {
        self.rows.get(&key).cloned()
    }

    /// What is kept beyond the bounds, in words.
    #[cfg(test)]
    pub(super) fn excess(&self) -> Option<String> {
        let (tasks, bytes) = (self.rows.len().max(self.order.len()), self.bytes);
        let over = tasks > MAX_TASKS || bytes > MAX_BYTES;
        over.then(|| format!("{tasks} tasks with {bytes} bytes are kept"))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use flame_core::state::TaskState;

    use super::*;

    fn row(id: u64, size: usize) -> Arc<TaskRow> {
        Arc::new(TaskRow {
            session: 1,
            id,
            state: TaskState::Succeed,
            created: 0,
            started: None,
            finished: None,
            sequence: None,
            input: Some(Bytes::from(vec![0; size])),
            output: None,
            message: None,
        })
    }

    #[test]
    fn the_latest_are_kept_within_both_bounds() {
        let mut recent = Recent::default();
        (1..=MAX_TASKS as u64 + 1).for_each(|id| recent.push(row(id, 0)));
        assert!(recent.get((1, 1)).is_none() && recent.get((1, 2)).is_some());
        (1..=5).for_each(|id| recent.push(row(100_000 + id, MAX_BYTES / 4)));
        assert!(recent.get((1, 100_001)).is_none() && recent.get((1, 100_002)).is_some());
        recent.push(row(200_000, MAX_BYTES + 1));
        assert!(recent.rows.is_empty() && recent.order.is_empty() && recent.bytes == 0);
    }
}
