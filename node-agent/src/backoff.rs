//! How long to wait before the next attempt to reach the session manager.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// Wait after the first failure: a restarting manager is back within this time.
const FIRST: Duration = Duration::from_millis(100);
/// Longest wait: a fleet notices a manager that came back within a few seconds.
const LONGEST: Duration = Duration::from_secs(5);

/// Doubles the wait with each failure and spreads it, so that a fleet does not come back in step.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after one more failure. `spread` from 0 to 1 picks a place between half of the
    /// full wait and all of it.
    pub fn after_failure(&mut self, spread: f64) -> Duration {
        let full = FIRST
            .saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX))
            .min(LONGEST);
        self.failures = self.failures.saturating_add(1).min(31);
        full.mul_f64(0.5 + 0.5 * spread.clamp(0.0, 1.0))
    }

    /// The next failure counts as the first again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A number from 0 to 1 that differs from call to call and from process to process.
#[must_use]
pub fn spread() -> f64 {
    // The standard library seeds each of these from the kernel's randomness.
    let random = RandomState::new().build_hasher().finish();
    f64::from(u32::try_from(random >> 32).unwrap_or(u32::MAX)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_start_over_after_a_success() {
        let mut backoff = Backoff::default();
        let waits: Vec<u128> = (0..8).map(|_| backoff.after_failure(1.0).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        for _ in 0..100 {
            assert_eq!(backoff.after_failure(1.0), LONGEST, "no overflow");
        }
        backoff.reset();
        assert_eq!(backoff.after_failure(1.0), FIRST);
    }

    #[test]
    fn the_spread_keeps_at_least_half_of_the_wait() {
        for (spread, millis) in [(0.0, 50), (0.5, 75), (1.0, 100), (-3.0, 50), (7.0, 100)] {
            assert_eq!(Backoff::default().after_failure(spread).as_millis(), millis);
        }
        let drawn: Vec<f64> = (0..20).map(|_| spread()).collect();
        assert!(drawn.iter().all(|value| (0.0..=1.0).contains(value)), "{drawn:?}");
        assert!(drawn.iter().any(|value| *value != drawn[0]), "{drawn:?}");
    }
}
