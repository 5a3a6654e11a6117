//! What waits for the store, and the rule by which it leaves: a reply, an acknowledgement or news
//! may show everything that was decided up to then, so it leaves when all of that is durable. The
//! next batch is applied while one is stored.
//!
//! It has no I/O and no clock, so the simulation of the core (`core/tests/sim`) plays this very rule.

use std::sync::Arc;

use flame_rpc::node::ToAgent;

use crate::core::{Effects, LinkId, SessionKey, TaskRow};
use crate::core::{PlantedBug, planted};
use crate::store::Record;

/// A reply that waits.
#[derive(Debug)]
pub(crate) struct Reply<R> {
    pub(crate) reply: R,
    /// Whether it promises something that has to be durable.
    pub(crate) promises: bool,
}

/// What is left to do when a batch is durable.
#[derive(Debug)]
pub(crate) struct Held<R> {
    pub(crate) replies: Vec<Reply<R>>,
    pub(crate) answers: Vec<(LinkId, ToAgent)>,
    pub(crate) updates: Vec<Arc<TaskRow>>,
    pub(crate) closed: Vec<SessionKey>,
    pub(crate) hang_up: Vec<LinkId>,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Outbox<R> {
    /// Not given to the store yet, in the order of the commands, with what waits for them.
    records: Vec<Record>,
    waiting: Held<R>,
    /// Waits for the commit that is under way, if one is.
    storing: Option<Held<R>>,
}

impl<R> Default for Held<R> {
    fn default() -> Self {
        Self {
            replies: Vec::new(),
            answers: Vec::new(),
            updates: Vec::new(),
            closed: Vec::new(),
            hang_up: Vec::new(),
        }
    }
}

impl<R> Held<R> {
    fn merge(&mut self, later: Self) {
        self.replies.extend(later.replies);
        self.answers.extend(later.answers);
        self.updates.extend(later.updates);
        self.closed.extend(later.closed);
        self.hang_up.extend(later.hang_up);
    }
}

impl<R> Default for Outbox<R> {
    fn default() -> Self {
        Self {
            records: Vec::new(),
            waiting: Held::default(),
            storing: None,
        }
    }
}

impl<R> Outbox<R> {
    /// Records that wait, for effects that go on with them: what comes next is stored after them.
    pub(crate) fn take_records(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.records)
    }

    /// A command was applied; its reply waits.
    pub(crate) fn reply(&mut self, reply: R, promises: bool) {
        self.waiting.replies.push(Reply { reply, promises });
    }

    /// News beside those of the effects.
    pub(crate) fn news(&mut self, rows: impl Iterator<Item = Arc<TaskRow>>) {
        self.waiting.updates.extend(rows);
    }

    /// The end of a batch whose effects began with [`Outbox::take_records`].
    pub(crate) fn applied(&mut self, fx: Effects) {
        self.records = fx.records;
        self.waiting.answers.extend(fx.answers);
        self.waiting.updates.extend(fx.updates);
        self.waiting.closed.extend(fx.closed);
        self.waiting.hang_up.extend(fx.hang_up);
    }

    /// Records that the store does not have yet, other than those that it is storing.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether a commit is under way.
    pub(crate) fn is_storing(&self) -> bool {
        self.storing.is_some()
    }

    /// Whether everything that was decided is durable.
    pub(crate) fn is_settled(&self) -> bool {
        self.storing.is_none() && self.records.is_empty()
    }

    /// What may leave although no commit has ended: what waits for nothing.
    pub(crate) fn release(&mut self) -> Option<Held<R>> {
        let free = self.is_settled() || planted(PlantedBug::ReplyBeforeCommit);
        free.then(|| std::mem::take(&mut self.waiting))
    }

    /// Begins a commit of all that waits, unless one is under way or there is nothing to store.
    pub(crate) fn begin_commit(&mut self) -> Option<Vec<Record>> {
        if self.storing.is_some() || self.records.is_empty() {
            return None;
        }
        self.storing = Some(std::mem::take(&mut self.waiting));
        Some(std::mem::take(&mut self.records))
    }

    /// The commit that was under way is durable: what may leave.
    pub(crate) fn committed(&mut self) -> Held<R> {
        let mut held = self.storing.take().unwrap_or_default();
        if self.records.is_empty() {
            held.merge(std::mem::take(&mut self.waiting));
        }
        held
    }

    /// The commit of `records` failed: all of it again, in the same order.
    pub(crate) fn failed(&mut self, mut records: Vec<Record>) {
        records.append(&mut self.records);
        self.records = records;
        let later = std::mem::take(&mut self.waiting);
        self.waiting = self.storing.take().unwrap_or_default();
        self.waiting.merge(later);
    }

    /// While the store fails nobody is kept waiting: replies leave at once, those that promise
    /// something as errors.
    pub(crate) fn take_replies(&mut self) -> Vec<Reply<R>> {
        std::mem::take(&mut self.waiting.replies)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A batch with one reply, and with a record if it changes something.
    fn apply(outbox: &mut Outbox<u32>, reply: u32, changes: bool) {
        let mut fx = Effects {
            records: outbox.take_records(),
            ..Effects::default()
        };
        fx.records
            .extend(changes.then_some(Record::SessionRemoved(u64::from(reply))));
        fx.closed.push(u64::from(reply));
        outbox.reply(reply, changes);
        outbox.applied(fx);
    }

    fn replies(held: &Held<u32>) -> Vec<u32> {
        let replies: Vec<_> = held.replies.iter().map(|reply| reply.reply).collect();
        let closed: Vec<_> = held.closed.iter().map(|key| *key as u32).collect();
        assert_eq!(replies, closed, "all of a batch leaves together");
        replies
    }

    fn removed(records: &[Record]) -> Vec<u64> {
        let key = |record: &Record| match record {
            Record::SessionRemoved(key) => *key,
            other => panic!("{other:?}"),
        };
        records.iter().map(key).collect()
    }

    #[test]
    fn what_changes_nothing_leaves_at_once_if_all_before_it_is_durable() {
        let mut outbox = Outbox::default();
        apply(&mut outbox, 1, false);
        assert_eq!(outbox.release().as_ref().map(replies), Some(vec![1]));
        apply(&mut outbox, 2, true);
        apply(&mut outbox, 3, false);
        assert!(outbox.release().is_none() && !outbox.is_settled());
        let records = outbox.begin_commit().expect("there is one");
        assert_eq!(removed(&records), [2]);
        apply(&mut outbox, 4, false);
        assert!(outbox.release().is_none(), "it shows what is being stored");
        assert!(outbox.begin_commit().is_none());
        assert_eq!(replies(&outbox.committed()), [2, 3, 4]);
        assert!(outbox.is_settled());
    }

    #[test]
    fn the_next_batch_waits_for_its_own_commit() {
        let mut outbox = Outbox::default();
        apply(&mut outbox, 1, true);
        outbox.begin_commit().expect("there is one");
        apply(&mut outbox, 2, true);
        apply(&mut outbox, 3, false);
        assert_eq!(replies(&outbox.committed()), [1]);
        assert!(outbox.release().is_none() && outbox.len() == 1);
        assert_eq!(outbox.begin_commit().map(|records| records.len()), Some(1));
        assert_eq!(replies(&outbox.committed()), [2, 3]);
    }

    #[test]
    fn what_could_not_be_stored_is_stored_first_and_its_news_stay() {
        let mut outbox = Outbox::default();
        apply(&mut outbox, 1, true);
        let records = outbox.begin_commit().expect("there is one");
        apply(&mut outbox, 2, true);
        outbox.failed(records);
        assert!(!outbox.is_storing());
        let refused: Vec<_> = outbox.take_replies().iter().map(|reply| reply.reply).collect();
        assert_eq!(refused, [1, 2]);
        assert!(outbox.release().is_none(), "the news are not durable");
        let records = outbox.begin_commit().expect("all of it again");
        assert_eq!(removed(&records), [1, 2]);
        let held = outbox.committed();
        assert_eq!((held.closed, held.replies.len()), (vec![1, 2], 0));
    }
}
