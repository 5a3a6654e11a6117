//! The store without durability: ended tasks and common data stay in memory until their session
//! is removed.

use std::collections::{BTreeMap, HashMap};
use std::mem::size_of;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use flame_core::TaskId;

use super::{Backup, Record, Snapshot, StateSize, Store, StoreError, TaskReader, Upkeep};
use crate::core::{SessionKey, TaskRow};

/// Tasks of removed sessions that are dropped in one go: a million at a time would hold up those
/// that wait for the lock.
const TIDIED_AT_ONCE: usize = 5_000;

/// What is kept of a session.
#[derive(Debug, Default)]
struct Stored {
    common_data: Option<Bytes>,
    by_id: BTreeMap<TaskId, Arc<TaskRow>>,
    by_sequence: BTreeMap<u64, Arc<TaskRow>>,
    /// Of all its tasks.
    bytes: u64,
}

#[derive(Debug, Default)]
struct Contents {
    sessions: HashMap<SessionKey, Stored>,
    /// Sessions that are gone for everybody but the allocator.
    removed: Vec<Stored>,
    /// Of all sessions, also of the removed ones.
    bytes: u64,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct MemoryStore {
    contents: Arc<RwLock<Contents>>,
}

#[derive(Debug)]
struct MemoryReader {
    contents: Arc<RwLock<Contents>>,
}

/// Bytes that a task takes: its payload, itself, and its places in two maps.
fn size(row: &TaskRow) -> u64 {
    let payload = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    let message = row.message.as_ref().map_or(0, String::len);
    (payload(&row.input) + payload(&row.output) + message + 2 * size_of::<TaskRow>()) as u64
}

impl Contents {
    fn end(&mut self, row: &Arc<TaskRow>) {
        let stored = self.sessions.entry(row.session).or_default();
        stored.by_id.insert(row.id, Arc::clone(row));
        stored
            .by_sequence
            .extend(row.sequence.map(|sequence| (sequence, Arc::clone(row))));
        stored.bytes += size(row);
        self.bytes += size(row);
    }

    fn tidy(&mut self) {
        for _ in 0..TIDIED_AT_ONCE {
            let Some(stored) = self.removed.last_mut() else {
                return;
            };
            match stored.by_id.pop_first() {
                Some((_, row)) => {
                    if let Some(sequence) = row.sequence {
                        stored.by_sequence.remove(&sequence);
                    }
                    self.bytes = self.bytes.saturating_sub(size(&row));
                }
                None => {
                    self.removed.pop();
                }
            }
        }
    }
}

impl Store for MemoryStore {
    fn waits(&self) -> bool {
        false
    }

    fn load(&mut self) -> Result<Snapshot, StoreError> {
        // Nothing tells how often this cluster was started, but agents may still have attempts
        // of an earlier process: seconds since 1970, in as many bits as a generation has in an
        // attempt (half a year until they come again), tell the processes apart.
        let seconds = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map(|since| since.as_secs())
            .unwrap_or_default();
        Ok(Snapshot {
            generation: (seconds & 0xff_ffff) as u32,
            ..Snapshot::default()
        })
    }

    fn commit(&mut self, records: &[Record]) -> Result<(), StoreError> {
        let mut contents = self.contents.write().unwrap_or_else(PoisonError::into_inner);
        for record in records {
            match record {
                Record::SessionCreated(row) => {
                    contents.sessions.entry(row.key).or_default().common_data = row.common_data.clone();
                }
                Record::TaskFinished(row) => contents.end(row),
                Record::SessionRemoved(key) => {
                    let removed = contents.sessions.remove(key);
                    contents.removed.extend(removed);
                }
                Record::Tidied => contents.tidy(),
                // The core itself remembers the rest for as long as the process lives.
                _ => {}
            }
        }
        Ok(())
    }

    fn reader(&self) -> Result<Arc<dyn TaskReader>, StoreError> {
        Ok(Arc::new(self.second()))
    }

    fn upkeep(&self) -> Result<Arc<dyn Upkeep>, StoreError> {
        Ok(Arc::new(self.second()))
    }
}

impl MemoryStore {
    fn second(&self) -> MemoryReader {
        MemoryReader {
            contents: Arc::clone(&self.contents),
        }
    }
}

impl Upkeep for MemoryReader {
    fn size(&self) -> Result<StateSize, StoreError> {
        let contents = self.read();
        Ok(StateSize {
            used: contents.bytes,
            untidy: !contents.removed.is_empty(),
        })
    }

    fn session_size(&self, session: SessionKey) -> Result<u64, StoreError> {
        Ok(self
            .read()
            .sessions
            .get(&session)
            .map_or(0, |stored| stored.bytes))
    }

    fn backup(&self) -> Result<Backup, StoreError> {
        Err(StoreError::NotDurable)
    }
}

impl TaskReader for MemoryReader {
    fn task(&self, session: SessionKey, id: TaskId) -> Result<Option<TaskRow>, StoreError> {
        Ok(self
            .read()
            .sessions
            .get(&session)
            .and_then(|stored| stored.by_id.get(&id))
            .map(|row| row.as_ref().clone()))
    }

    fn common_data(&self, session: SessionKey) -> Result<Option<Bytes>, StoreError> {
        Ok(self
            .read()
            .sessions
            .get(&session)
            .and_then(|stored| stored.common_data.clone()))
    }

    fn ends(&self, session: SessionKey, after: u64, limit: usize) -> Result<Vec<TaskRow>, StoreError> {
        Ok(self.page(session, after, limit, |stored| &stored.by_sequence))
    }

    fn tasks(&self, session: SessionKey, after: TaskId, limit: usize) -> Result<Vec<TaskRow>, StoreError> {
        Ok(self.page(session, after, limit, |stored| &stored.by_id))
    }
}

impl MemoryReader {
    fn read(&self) -> RwLockReadGuard<'_, Contents> {
        self.contents.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn page(
        &self,
        session: SessionKey,
        after: u64,
        limit: usize,
        order: impl Fn(&Stored) -> &BTreeMap<u64, Arc<TaskRow>>,
    ) -> Vec<TaskRow> {
        let contents = self.read();
        let Some(stored) = contents.sessions.get(&session) else {
            return Vec::new();
        };
        let rows = order(stored).range(after.saturating_add(1)..).take(limit);
        rows.map(|(_, row)| row.as_ref().clone()).collect()
    }
}
