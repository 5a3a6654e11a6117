//! The core's clock: the monotonic clock without the time in which this process did not run.
//!
//! A process that was stopped, or starved, or whose machine was paused finds everything overdue when
//! it goes on: nodes that it did not listen to, tasks whose results it has not read. None of that
//! is known to have happened, so for the core no time has passed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// How often the driver looks at the clock even if nothing happens. Cheap enough to be always on, and
/// short beside the time after which a silent node is suspect.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A longer time between two looks is one in which the process did not run: three looks were missed.
/// What is shorter counts as time, and is too short for anybody to be taken for lost.
const STALL: Duration = Duration::from_secs(3);

/// The clock, as everybody may read it.
#[derive(Debug)]
pub(super) struct Clock {
    started: Instant,
    look_every: Duration,
    /// Nanoseconds that do not count.
    stalled: AtomicU64,
    /// Nanoseconds by which a test is ahead of the machine's clock.
    #[cfg(test)]
    ahead: AtomicU64,
    /// The time is only what the test says, however slow the machine is.
    #[cfg(test)]
    by_hand: bool,
    /// How often the driver has looked.
    #[cfg(test)]
    looks: AtomicU64,
}

impl Clock {
    /// A clock that begins now, for a driver that looks at it so often.
    pub(super) fn new(look_every: Duration) -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            look_every,
            stalled: AtomicU64::new(0),
            #[cfg(test)]
            ahead: AtomicU64::new(0),
            #[cfg(test)]
            by_hand: false,
            #[cfg(test)]
            looks: AtomicU64::new(0),
        })
    }

    /// A clock that only a test moves.
    #[cfg(test)]
    pub(super) fn by_hand(look_every: Duration) -> Arc<Self> {
        let clock = Arc::into_inner(Self::new(look_every)).expect("nobody else has it");
        Arc::new(Self {
            by_hand: true,
            ..clock
        })
    }

    /// The core's time. It may be ahead of the driver's for a moment after a stall, until the driver
    /// notices it.
    pub(super) fn now(&self) -> Duration {
        self.of_the_machine()
            .saturating_sub(Duration::from_nanos(self.stalled.load(Ordering::Acquire)))
    }

    /// When the core's time will be `at`, unless there is another stall.
    pub(super) fn instant(&self, at: Duration) -> Instant {
        let stalled = Duration::from_nanos(self.stalled.load(Ordering::Acquire));
        self.started + at.saturating_add(stalled).saturating_sub(self.ahead())
    }

    /// When the driver has to look again at the latest.
    pub(super) fn next_look(&self) -> Instant {
        Instant::now() + self.look_every
    }

    #[cfg(not(test))]
    fn of_the_machine(&self) -> Duration {
        self.started.elapsed()
    }

    #[cfg(test)]
    fn of_the_machine(&self) -> Duration {
        let elapsed = self.started.elapsed();
        self.ahead() + if self.by_hand { Duration::ZERO } else { elapsed }
    }

    #[cfg(not(test))]
    #[allow(clippy::unused_self)]
    const fn ahead(&self) -> Duration {
        Duration::ZERO
    }

    #[cfg(test)]
    fn ahead(&self) -> Duration {
        Duration::from_nanos(self.ahead.load(Ordering::Acquire))
    }

    /// Time passes, for a test.
    #[cfg(test)]
    pub(super) fn advance(&self, by: Duration) {
        self.ahead.fetch_add(nanos(by), Ordering::AcqRel);
    }

    /// How often the driver has looked.
    #[cfg(test)]
    pub(super) fn looks(&self) -> u64 {
        self.looks.load(Ordering::Acquire)
    }
}

/// The driver's looks at the clock.
#[derive(Debug)]
pub(super) struct Looks {
    clock: Arc<Clock>,
    /// The machine's time of the last one.
    last: Duration,
}

impl Looks {
    pub(super) fn new(clock: Arc<Clock>) -> Self {
        let last = clock.of_the_machine();
        Self { clock, last }
    }

    /// The core's time, and for how long the process did not run since the last look, if it was long.
    pub(super) fn look(&mut self) -> (Duration, Option<Duration>) {
        #[cfg(test)]
        self.clock.looks.fetch_add(1, Ordering::AcqRel);
        let machine = self.clock.of_the_machine();
        let gap = machine.saturating_sub(std::mem::replace(&mut self.last, machine));
        let stall = (gap > STALL).then_some(gap);
        if let Some(stall) = stall {
            self.clock.stalled.fetch_add(nanos(stall), Ordering::AcqRel);
        }
        let stalled = Duration::from_nanos(self.clock.stalled.load(Ordering::Acquire));
        (machine.saturating_sub(stalled), stall)
    }
}

/// When something of an agent arrived last. Who reads from its connection writes it down here, so
/// that the core can know of it before it looks at what has arrived.
#[derive(Debug)]
pub(crate) struct Ear {
    clock: Arc<Clock>,
    /// Nanoseconds of the core's time; zero if there is nothing new.
    heard: AtomicU64,
}

impl Ear {
    pub(super) fn new(clock: Arc<Clock>) -> Arc<Self> {
        Arc::new(Self {
            clock,
            heard: AtomicU64::new(0),
        })
    }

    /// Something has arrived now.
    pub(crate) fn hear(&self) {
        self.heard
            .store(nanos(self.clock.now()).max(1), Ordering::Release);
    }

    /// When something arrived last, if the driver does not know it yet. Taken, because a time that was
    /// written down between a stall and its discovery lies in the future.
    pub(super) fn take(&self) -> Option<Duration> {
        let heard = self.heard.swap(0, Ordering::AcqRel);
        (heard > 0).then(|| Duration::from_nanos(heard))
    }
}

/// 584 years fit.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Whole seconds of the core's time, and of the stall.
    fn look(looks: &mut Looks) -> (u64, Option<u64>) {
        let (now, stall) = looks.look();
        (now.as_secs(), stall.map(|stall| stall.as_secs()))
    }

    #[test]
    fn time_in_which_nobody_looked_does_not_count() {
        let clock = Clock::new(LOOK_EVERY);
        let mut looks = Looks::new(Arc::clone(&clock));
        for second in 1..=20 {
            clock.advance(SECOND);
            assert_eq!(look(&mut looks), (second, None));
        }
        clock.advance(60 * SECOND);
        assert_eq!(look(&mut looks), (20, Some(60)));
        clock.advance(2 * SECOND);
        assert_eq!(look(&mut looks), (22, None), "time goes on from there");
        clock.advance(100 * SECOND);
        assert_eq!(look(&mut looks), (22, Some(100)), "and stands still each time");
        let wait = clock.instant(25 * SECOND) - Instant::now();
        assert!(wait > SECOND && wait <= 3 * SECOND, "{wait:?}");
    }

    #[test]
    fn what_is_heard_after_a_stall_is_told_once() {
        let clock = Clock::new(LOOK_EVERY);
        let mut looks = Looks::new(Arc::clone(&clock));
        let ear = Ear::new(Arc::clone(&clock));
        assert_eq!(ear.take(), None);
        clock.advance(60 * SECOND);
        ear.hear();
        assert_eq!(look(&mut looks), (0, Some(60)));
        let heard = ear.take().expect("it was heard");
        assert!(
            heard >= 60 * SECOND,
            "before the stall was noticed: the core takes it for now"
        );
        assert_eq!(
            ear.take(),
            None,
            "so that it is not heard in the future for a minute"
        );
    }
}
