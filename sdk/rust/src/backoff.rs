//! Waiting between attempts: doubling, with jitter, up to a limit of time.

use std::time::{Duration, Instant};

/// First wait. A session manager that restarts is back within a fraction of a second.
const FIRST: Duration = Duration::from_millis(50);

/// Longest wait: what a person does not notice much after an outage.
const LONGEST: Duration = Duration::from_secs(2);

/// Waits between the attempts of one operation.
#[derive(Debug)]
pub(crate) struct Backoff {
    limit: Duration,
    since: Option<Instant>,
    attempt: u32,
}

impl Backoff {
    /// Gives up once attempts have failed for `limit` without a success between them.
    pub(crate) fn new(limit: Duration) -> Self {
        Self {
            limit,
            since: None,
            attempt: 0,
        }
    }

    /// The next attempt is the first one again.
    pub(crate) fn reset(&mut self) {
        self.since = None;
        self.attempt = 0;
    }

    /// How long to wait before the next attempt; `None` if the limit is reached.
    pub(crate) fn next_wait(&mut self, now: Instant) -> Option<Duration> {
        let since = *self.since.get_or_insert(now);
        if now.duration_since(since) >= self.limit {
            return None;
        }
        let doubled = FIRST.saturating_mul(1 << self.attempt.min(16)).min(LONGEST);
        self.attempt = self.attempt.saturating_add(1);
        // Half of it is random: clients of one manager must not come back in step.
        Some(doubled.mul_f64(0.5 + fastrand::f64() / 2.0))
    }

    /// Waits; `false` if the limit is reached.
    pub(crate) async fn wait(&mut self) -> bool {
        match self.next_wait(Instant::now()) {
            Some(wait) => {
                tokio::time::sleep(wait).await;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_longest_one_and_end_at_the_limit() {
        let mut backoff = Backoff::new(Duration::from_secs(60));
        let start = Instant::now();
        let mut waits = Vec::new();
        for second in 0..60 {
            waits.push(
                backoff
                    .next_wait(start + Duration::from_secs(second))
                    .expect("within"),
            );
        }
        assert!(waits[0] >= FIRST / 2 && waits[0] <= FIRST, "{:?}", waits[0]);
        assert!(waits.iter().all(|wait| *wait <= LONGEST));
        assert!(waits[59] >= LONGEST / 2);
        assert_eq!(backoff.next_wait(start + Duration::from_secs(60)), None);
        backoff.reset();
        assert!(backoff.next_wait(start + Duration::from_secs(61)).is_some());
    }
}
