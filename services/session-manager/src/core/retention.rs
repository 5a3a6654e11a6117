//! For how long closed sessions are kept: bounded in number, age and bytes. Those that were closed
//! first go first. What is kept of a closed session in memory is small; the rest is in the store.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use super::{Core, Effects, NoticeLevel, Now, Session, SessionKey, SessionRow};
use crate::store::Record;

/// Common data up to this size stays in memory when its session is closed, in bytes.
const SMALL_COMMON_DATA: usize = 1024;
/// Events of a closed session that stay in memory: the latest tell how it ended.
pub(crate) const CLOSED_EVENTS: usize = 10;
/// Sessions that are removed in one go. More would hold up the batch that they are stored with.
const REMOVED_AT_ONCE: usize = 256;

/// Closed sessions, and what is not in memory of them.
#[derive(Debug, Default)]
pub(super) struct Closed {
    /// By the time at which they were closed, Unix milliseconds.
    order: BTreeSet<(i64, SessionKey)>,
    /// Those whose common data is only in the store.
    without_common_data: HashSet<SessionKey>,
}

/// Whether common data of a closed session stays in memory.
pub(crate) fn is_small(common_data: &[u8]) -> bool {
    common_data.len() <= SMALL_COMMON_DATA
}

fn closed_at(row: &SessionRow) -> i64 {
    row.completed.unwrap_or(row.created)
}

impl Closed {
    /// Takes in a session that is closed, and makes it small.
    pub(super) fn insert(&mut self, session: &mut Session, common_data_in_store: bool) {
        let key = session.row.key;
        self.order.insert((closed_at(&session.row), key));
        let large = session.row.common_data.take_if(|data| !is_small(data)).is_some();
        if large || common_data_in_store {
            self.without_common_data.insert(key);
        }
        let surplus = session.events.len().saturating_sub(CLOSED_EVENTS);
        session.events.drain(..surplus);
        session.events.shrink_to_fit();
        // A session that had a million tasks at a time still holds the room for them.
        session.live = Default::default();
        session.pending = Default::default();
        session.idle = Default::default();
    }

    pub(super) fn remove(&mut self, row: &SessionRow) {
        self.order.remove(&(closed_at(row), row.key));
        self.without_common_data.remove(&row.key);
    }
}

impl Core {
    /// Keeps the bounds on the number and the age of closed sessions.
    pub(super) fn forget_old_sessions(&mut self, now: Now, fx: &mut Effects) {
        for _ in 0..REMOVED_AT_ONCE {
            match self.closed.order.first() {
                Some((time, key)) if self.is_surplus() || self.remaining(*time, now).is_zero() => {
                    let key = *key;
                    self.forget_session(key, fx);
                }
                _ => return,
            }
        }
    }

    fn is_surplus(&self) -> bool {
        let limit = self.config.limits.max_sessions;
        limit.is_some_and(|limit| self.closed.order.len() > limit)
    }

    /// How long a session that was closed at `time` is kept from now on.
    fn remaining(&self, time: i64, now: Now) -> Duration {
        let Some(max_age) = self.config.retention.max_age else {
            return Duration::MAX;
        };
        // A clock that was set back makes sessions of the future: they are as new as can be.
        let age = u64::try_from(now.wall.saturating_sub(time)).unwrap_or_default();
        max_age.saturating_sub(Duration::from_millis(age))
    }

    /// When [`Core::forget_old_sessions`] has something to do, on the monotonic clock.
    pub(super) fn retention_deadline(&self, now: Now) -> Option<Duration> {
        let (time, _) = self.closed.order.first()?;
        if self.is_surplus() {
            return Some(now.mono);
        }
        self.config.retention.max_age?;
        Some(now.mono.saturating_add(self.remaining(*time, now)))
    }

    /// The sessions that go next if `used` bytes of state are more than there may be: at most
    /// `count`, the first to go first.
    #[must_use]
    pub fn sessions_to_free_space(&self, used: u64, count: usize) -> Vec<SessionKey> {
        if self.excess(used) == 0 {
            return Vec::new();
        }
        let order = self.closed.order.iter().take(count);
        order.map(|(_, key)| *key).collect()
    }

    /// How many of `used` bytes of state are more than there may be.
    #[must_use]
    pub fn excess(&self, used: u64) -> u64 {
        let limit = self.config.retention.max_size;
        limit.map_or(0, |limit| used.saturating_sub(limit))
    }

    /// Removes sessions until `used` bytes of state are no more than there may be. `sizes` has
    /// those of [`Core::sessions_to_free_space`] with their bytes.
    pub fn free_space(&mut self, used: u64, sizes: &[(SessionKey, u64)], fx: &mut Effects) {
        let excess = self.excess(used);
        let (mut freed, mut count) = (0, 0);
        for (key, bytes) in sizes {
            if freed >= excess {
                break;
            }
            // It may be gone in the meantime.
            let closed = self.sessions.get(key).is_some_and(|session| !session.is_open());
            if closed {
                self.forget_session(*key, fx);
                freed = freed.saturating_add(*bytes);
                count += 1;
            }
        }
        if count > 0 {
            let text = format!(
                "removed {count} closed sessions: the state had {} bytes more than cluster.retention.max_size",
                excess
            );
            fx.notice(NoticeLevel::Info, text);
        }
    }

    /// Where the common data of closed session `id` is, if it is only in the store.
    #[must_use]
    pub fn common_data_in_store(&self, id: &str) -> Option<SessionKey> {
        let key = self.session_key(id).ok()?;
        self.closed.without_common_data.contains(&key).then_some(key)
    }

    pub(super) fn forget_session(&mut self, key: SessionKey, fx: &mut Effects) {
        if let Some(session) = self.sessions.remove(&key) {
            self.counters.sessions_removed += 1;
            self.session_keys.remove(session.row.id.as_str());
            self.closed.remove(&session.row);
            fx.records.push(Record::SessionRemoved(key));
        }
    }
}
