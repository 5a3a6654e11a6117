//! Hold-down against flapping: a node whose link comes and goes gets no new executors until it has
//! been stable for a while, because what is started there is likely to be lost.

use std::collections::VecDeque;
use std::time::Duration;

use super::Now;

/// Losses of the link within [`WINDOW`] that make a node a flapping one. A restart in an orderly
/// way is none; a link that breaks three times within a minute has broken more often than any
/// network that works.
const MAX_LOSSES: usize = 3;
/// Time in which losses are counted together.
const WINDOW: Duration = Duration::from_secs(60);
/// For how long the link of a flapping node has to hold.
const HOLD_DOWN: Duration = Duration::from_secs(15);

/// How stable the link of a node is.
#[derive(Debug, Default)]
pub(crate) struct Stability {
    /// The latest losses, oldest first.
    losses: VecDeque<Duration>,
    /// When the present link came.
    since: Duration,
    /// On the clock that waits and on the wall.
    held_until: Option<(Duration, i64)>,
}

impl Stability {
    /// A link was lost.
    pub(super) fn lost(&mut self, now: Duration) {
        self.losses.push_back(now);
        if self.losses.len() > MAX_LOSSES {
            self.losses.pop_front();
        }
    }

    /// A link came. True if the node is held from now on and was not before.
    pub(super) fn came(&mut self, now: Now) -> bool {
        self.since = now.mono;
        let was_held = self.is_held();
        let recent = self.losses.iter().filter(|at| **at + WINDOW > now.mono).count();
        let wall = now.wall.saturating_add(HOLD_DOWN.as_millis() as i64);
        self.held_until = (recent >= MAX_LOSSES).then_some((now.mono + HOLD_DOWN, wall));
        self.is_held() && !was_held
    }

    /// Ends the hold when its time is over. True if it ended.
    pub(super) fn release(&mut self, now: Duration) -> bool {
        self.held_until.take_if(|(until, _)| *until <= now).is_some()
    }

    /// Whether the node gets no new executors.
    pub(crate) fn is_held(&self) -> bool {
        self.held_until.is_some()
    }

    /// When the hold ends if the link holds.
    pub(crate) fn held_until(&self) -> Option<Duration> {
        self.held_until.map(|(until, _)| until)
    }

    /// The same in Unix milliseconds.
    pub(crate) fn held_until_wall(&self) -> Option<i64> {
        self.held_until.map(|(_, wall)| wall)
    }

    /// When the present link came.
    pub(crate) fn since(&self) -> Duration {
        self.since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const fn now(seconds: u64) -> Now {
        Now {
            wall: 7_000,
            mono: at(seconds),
        }
    }

    #[test]
    fn three_losses_within_a_minute_hold_a_node_until_its_link_held() {
        let mut node = Stability::default();
        for second in [0, 10] {
            node.lost(at(second));
            assert!(!node.came(now(second + 1)));
        }
        node.lost(at(20));
        assert!(node.came(now(21)) && node.held_until() == Some(at(36)));
        assert_eq!(node.held_until_wall(), Some(22_000));
        assert!(!node.release(at(35)));
        node.lost(at(35));
        assert!(!node.came(now(36)), "it was held before, and still is");
        assert!(!node.release(at(36)) && node.release(at(51)) && !node.is_held());
        assert!(!node.release(at(52)));
    }

    #[test]
    fn losses_that_are_far_apart_are_no_flapping() {
        let mut node = Stability::default();
        for second in [0, 40, 80, 120] {
            node.lost(at(second));
            assert!(!node.came(now(second + 1)), "{second}");
        }
    }
}
