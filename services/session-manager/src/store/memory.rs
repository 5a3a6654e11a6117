//! The store without durability: ended tasks stay in memory until their session is removed.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use flame_core::TaskId;

use super::{Record, Snapshot, Store, StoreError, TaskReader};
use crate::core::{SessionKey, TaskRow};

type Tasks = HashMap<SessionKey, Ended>;

/// The ended tasks of a session, by id and by sequence number.
#[derive(Debug, Default)]
struct Ended {
    by_id: BTreeMap<TaskId, Arc<TaskRow>>,
    by_sequence: BTreeMap<u64, Arc<TaskRow>>,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct MemoryStore {
    tasks: Arc<RwLock<Tasks>>,
}

#[derive(Debug)]
struct MemoryReader {
    tasks: Arc<RwLock<Tasks>>,
}

impl Store for MemoryStore {
    fn load(&mut self) -> Result<Snapshot, StoreError> {
        // Nothing tells how often this cluster was started, but agents may still have attempts
        // of an earlier process: seconds since 1970 tell the processes apart.
        let seconds = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map(|since| since.as_secs())
            .unwrap_or_default();
        Ok(Snapshot {
            generation: seconds as u32,
            ..Snapshot::default()
        })
    }

    fn commit(&mut self, records: &[Record]) -> Result<(), StoreError> {
        let mut tasks = self.tasks.write().unwrap_or_else(PoisonError::into_inner);
        for record in records {
            match record {
                Record::TaskFinished(row) => {
                    let ended = tasks.entry(row.session).or_default();
                    ended.by_id.insert(row.id, Arc::clone(row));
                    ended
                        .by_sequence
                        .extend(row.sequence.map(|sequence| (sequence, Arc::clone(row))));
                }
                Record::SessionRemoved(key) => {
                    tasks.remove(key);
                }
                // The core itself remembers the rest for as long as the process lives.
                _ => {}
            }
        }
        Ok(())
    }

    fn reader(&self) -> Result<Arc<dyn TaskReader>, StoreError> {
        Ok(Arc::new(MemoryReader {
            tasks: Arc::clone(&self.tasks),
        }))
    }
}

impl TaskReader for MemoryReader {
    fn task(&self, session: SessionKey, id: TaskId) -> Result<Option<TaskRow>, StoreError> {
        let tasks = self.tasks.read().unwrap_or_else(PoisonError::into_inner);
        Ok(tasks
            .get(&session)
            .and_then(|tasks| tasks.by_id.get(&id))
            .map(|row| row.as_ref().clone()))
    }

    fn ends(&self, session: SessionKey, after: u64, limit: usize) -> Result<Vec<TaskRow>, StoreError> {
        Ok(self.page(session, after, limit, |ended| &ended.by_sequence))
    }

    fn tasks(&self, session: SessionKey, after: TaskId, limit: usize) -> Result<Vec<TaskRow>, StoreError> {
        Ok(self.page(session, after, limit, |ended| &ended.by_id))
    }
}

impl MemoryReader {
    fn page(
        &self,
        session: SessionKey,
        after: u64,
        limit: usize,
        order: impl Fn(&Ended) -> &BTreeMap<u64, Arc<TaskRow>>,
    ) -> Vec<TaskRow> {
        let tasks = self.tasks.read().unwrap_or_else(PoisonError::into_inner);
        let Some(ended) = tasks.get(&session) else {
            return Vec::new();
        };
        let rows = order(ended).range(after.saturating_add(1)..).take(limit);
        rows.map(|(_, row)| row.as_ref().clone()).collect()
    }
}
