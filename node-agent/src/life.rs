//! When the agent ends by itself: it was idle for too long, it has served its one session, or it has
//! run for as long as it may. Being idle is for the session manager to confirm, because work may be on
//! its way; where it cannot be asked, nobody is idle.

use std::time::Duration;

use flame_core::config::node::LifeConfig;
use tokio::time::Instant;

/// How long an ephemeral node has no executor until its work counts as done: the session manager may
/// release an executor and start another one for the same session.
const SERVED_PAUSE: Duration = Duration::from_secs(1);

/// Something that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    /// The session manager is to be asked whether the agent may leave, for this reason.
    Ask(String),
    /// It is to drain and end, for this reason.
    Drain(String),
}

/// See the module.
#[derive(Debug)]
pub struct Life {
    config: LifeConfig,
    /// When it has run for long enough.
    end: Option<Instant>,
    /// Since when nothing runs here, as the session manager can confirm.
    idle_since: Option<Instant>,
    /// It was asked, and has not answered.
    asked: bool,
    /// An executor was bound.
    worked: bool,
}

impl Life {
    /// Of an agent that begins now.
    #[must_use]
    pub fn new(config: LifeConfig, now: Instant) -> Self {
        Self {
            config,
            end: config.max_lifetime.map(|limit| now + limit),
            idle_since: None,
            asked: false,
            worked: false,
        }
    }

    /// Whether there is a link to the session manager, and how many executors there are.
    pub fn observe(&mut self, now: Instant, registered: bool, executors: usize) {
        if registered && executors == 0 {
            self.idle_since.get_or_insert(now);
        } else {
            (self.idle_since, self.asked) = (None, false);
        }
    }

    /// An executor was bound: there was work.
    pub fn worked(&mut self) {
        self.worked = true;
    }

    /// The session manager has more for this node, or could not be asked. Time begins anew.
    pub fn stays(&mut self, now: Instant) {
        self.asked = false;
        self.idle_since = self.idle_since.and(Some(now));
    }

    /// When [`Life::due`] has something to say, if nothing happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.ask_at().into_iter().chain(self.end).min()
    }

    /// What is due now. Each thing is said once.
    pub fn due(&mut self, now: Instant) -> Option<Due> {
        if self.end.is_some_and(|end| end <= now) {
            self.end = None;
            let limit = self.config.max_lifetime.unwrap_or_default();
            return Some(Due::Drain(format!(
                "it has run for its max_lifetime of {} s",
                limit.as_secs()
            )));
        }
        if self.ask_at().is_none_or(|at| at > now) {
            return None;
        }
        self.asked = true;
        Some(Due::Ask(match self.has_served() {
            true => "it is ephemeral, and the work of its session is done".to_owned(),
            false => {
                let limit = self.config.idle_timeout.unwrap_or_default();
                format!("it was idle for its idle_timeout of {} s", limit.as_secs())
            }
        }))
    }

    fn has_served(&self) -> bool {
        self.config.ephemeral && self.worked
    }

    fn ask_at(&self) -> Option<Instant> {
        let patience = match self.has_served() {
            true => Some(SERVED_PAUSE),
            false => self.config.idle_timeout,
        };
        let idle_since = self.idle_since.filter(|_| !self.asked)?;
        patience.map(|patience| idle_since + patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn config() -> LifeConfig {
        LifeConfig {
            drain_timeout: SECOND,
            idle_timeout: None,
            max_lifetime: None,
            ephemeral: false,
        }
    }

    fn idle(timeout: u64) -> LifeConfig {
        LifeConfig {
            idle_timeout: Some(SECOND * u32::try_from(timeout).expect("small")),
            ..config()
        }
    }

    #[test]
    fn without_a_limit_it_lives_on() {
        let now = Instant::now();
        let mut life = Life::new(config(), now);
        life.worked();
        life.observe(now, true, 0);
        assert_eq!((life.deadline(), life.due(now + 1000 * SECOND)), (None, None));
    }

    #[test]
    fn it_asks_once_when_it_was_idle_for_long_enough() {
        let now = Instant::now();
        let mut life = Life::new(idle(10), now);
        assert_eq!(life.deadline(), None, "not registered yet");
        life.observe(now + SECOND, true, 0);
        life.observe(now + 5 * SECOND, true, 0);
        assert_eq!(life.deadline(), Some(now + 11 * SECOND));
        assert_eq!(life.due(now + 10 * SECOND), None);
        let Some(Due::Ask(reason)) = life.due(now + 11 * SECOND) else {
            panic!("due");
        };
        assert!(reason.contains("10 s"), "{reason}");
        life.observe(now + 12 * SECOND, true, 0);
        assert_eq!(life.due(now + 12 * SECOND), None, "it waits for the answer");
        life.stays(now + 12 * SECOND);
        assert_eq!(life.deadline(), Some(now + 22 * SECOND));
    }

    #[test]
    fn executors_and_a_lost_link_begin_the_time_anew() {
        let now = Instant::now();
        let mut life = Life::new(idle(10), now);
        for (registered, executors) in [(true, 1), (false, 0), (false, 3)] {
            life.observe(now, true, 0);
            life.observe(now + SECOND, registered, executors);
            assert_eq!(life.deadline(), None, "{registered} {executors}");
            life.observe(now + 2 * SECOND, true, 0);
            assert_eq!(life.deadline(), Some(now + 12 * SECOND));
            assert!(life.due(now + 12 * SECOND).is_some());
            // The answer is lost with the link.
            life.observe(now + 13 * SECOND, registered, executors);
        }
    }

    #[test]
    fn an_ephemeral_one_leaves_after_its_work_and_not_before() {
        let now = Instant::now();
        let mut life = Life::new(
            LifeConfig {
                ephemeral: true,
                ..config()
            },
            now,
        );
        life.observe(now, true, 0);
        assert_eq!(life.deadline(), None, "there was no work yet");
        life.observe(now, true, 1);
        life.worked();
        assert_eq!(life.deadline(), None);
        life.observe(now + SECOND, true, 0);
        let due = life.due(now + SECOND + SERVED_PAUSE);
        assert!(
            matches!(&due, Some(Due::Ask(reason)) if reason.contains("ephemeral")),
            "{due:?}"
        );
    }

    #[test]
    fn it_drains_at_the_end_of_its_life_whatever_runs() {
        let now = Instant::now();
        let mut life = Life::new(
            LifeConfig {
                max_lifetime: Some(60 * SECOND),
                ..config()
            },
            now,
        );
        life.observe(now, false, 7);
        assert_eq!(life.deadline(), Some(now + 60 * SECOND));
        assert_eq!(life.due(now + 59 * SECOND), None);
        assert!(matches!(life.due(now + 60 * SECOND), Some(Due::Drain(_))));
        assert_eq!(life.due(now + 61 * SECOND), None, "once");
    }
}
