//! The line that `systemctl status` shows, sent when it has changed, at most once a second.

use std::pin::Pin;
use std::time::Duration;

use flame_systemd::notify::Notifier;
use tokio::time::{Instant, Sleep, sleep_until};

/// Shortest time between two lines.
const AT_MOST_EVERY: Duration = Duration::from_secs(1);

/// How the link is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
enum LinkStatus {
    Waiting(String),
    Refused(String),
    Registered,
}

/// What a report about the link changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// Nothing: the same was said before.
    Nothing,
    /// The same state for another reason.
    Reason,
    /// Another state.
    State,
}

/// What is told about the agent.
pub struct StatusLine {
    notifier: Notifier,
    url: String,
    link: LinkStatus,
    /// The link was heard of.
    reported: bool,
    executors: usize,
    tasks: u64,
    /// Why the agent stops, if it does.
    stopping: Option<String>,
    published: String,
    /// When a changed line may go out; unset if nothing has changed.
    timer: Option<Pin<Box<Sleep>>>,
    last: Option<Instant>,
}

impl StatusLine {
    /// A line about the link to `url`.
    #[must_use]
    pub fn new(notifier: Notifier, url: &str) -> Self {
        let mut line = Self {
            notifier,
            url: url.to_owned(),
            link: LinkStatus::Waiting("connecting".to_owned()),
            reported: false,
            executors: 0,
            tasks: 0,
            stopping: None,
            published: String::new(),
            timer: None,
            last: None,
        };
        line.changed();
        line
    }

    /// The link is up.
    pub fn registered(&mut self) {
        self.set(LinkStatus::Registered);
    }

    /// There is no link.
    pub fn waiting(&mut self, reason: &str) -> News {
        self.set(LinkStatus::Waiting(reason.to_owned()))
    }

    /// The manager does not want this node.
    pub fn refused(&mut self, reason: &str) -> News {
        self.set(LinkStatus::Refused(reason.to_owned()))
    }

    /// The agent stops.
    pub fn stopping(&mut self, reason: &str) {
        self.stopping = Some(reason.to_owned());
        self.changed();
    }

    /// Executors there are and tasks that have ended.
    pub fn set_counts(&mut self, executors: usize, tasks: u64) {
        if (self.executors, self.tasks) != (executors, tasks) {
            (self.executors, self.tasks) = (executors, tasks);
            self.changed();
        }
    }

    /// Completes when a changed line may be published.
    pub async fn due(&mut self) {
        match &mut self.timer {
            Some(timer) => timer.as_mut().await,
            None => std::future::pending().await,
        }
    }

    /// Sends the line if it is another than before.
    pub fn publish(&mut self) {
        self.timer = None;
        let text = self.text();
        if text != self.published {
            self.notifier.status(&text);
            self.published = text;
            self.last = Some(Instant::now());
        }
    }

    fn set(&mut self, link: LinkStatus) -> News {
        if self.link == link {
            return News::Nothing;
        }
        let same_state = std::mem::discriminant(&self.link) == std::mem::discriminant(&link);
        // Waiting is also how it begins, but the first failure is news.
        let news = match same_state && self.reported {
            true => News::Reason,
            false => News::State,
        };
        self.link = link;
        self.reported = true;
        self.changed();
        news
    }

    fn changed(&mut self) {
        if self.timer.is_none() {
            let at = self.last.map_or_else(Instant::now, |last| last + AT_MOST_EVERY);
            self.timer = Some(Box::pin(sleep_until(at)));
        }
    }

    fn text(&self) -> String {
        let Self {
            url,
            executors,
            tasks,
            ..
        } = self;
        let work = format!(
            "{executors} executor{}, {tasks} task{} done",
            if *executors == 1 { "" } else { "s" },
            if *tasks == 1 { "" } else { "s" },
        );
        if let Some(reason) = &self.stopping {
            return format!("stopping, because {reason}: {work}");
        }
        match &self.link {
            LinkStatus::Registered => format!("registered with {url}: {work}"),
            LinkStatus::Waiting(reason) => format!("waiting for session manager at {url}: {reason} ({work})"),
            LinkStatus::Refused(reason) => format!("refused by session manager at {url}: {reason} ({work})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "http://manager:8081";

    #[tokio::test]
    async fn changes_within_a_second_are_one_line() {
        let mut line = StatusLine::new(Notifier::from_env(), URL);
        line.due().await;
        line.publish();
        let first = line.last.expect("published");
        line.registered();
        line.set_counts(1, 2);
        let timer = line.timer.as_ref().expect("something has changed");
        assert_eq!(timer.deadline(), first + AT_MOST_EVERY);
        line.publish();
        assert_eq!(
            line.published,
            "registered with http://manager:8081: 1 executor, 2 tasks done"
        );
        line.set_counts(1, 2);
        assert!(line.timer.is_none(), "nothing has changed");
    }

    #[tokio::test]
    async fn a_failure_is_news_once_and_another_reason_is_less() {
        let mut line = StatusLine::new(Notifier::from_env(), URL);
        assert_eq!(line.waiting("connection refused"), News::State);
        assert_eq!(line.waiting("connection refused"), News::Nothing);
        assert_eq!(line.waiting("no route to host"), News::Reason);
        assert_eq!(line.refused("name taken"), News::State);
        assert_eq!(
            line.text(),
            "refused by session manager at http://manager:8081: name taken (0 executors, 0 tasks done)"
        );
        line.registered();
        assert_eq!(line.waiting("no route to host"), News::State);
        line.stopping("it was asked to stop");
        assert_eq!(
            line.text(),
            "stopping, because it was asked to stop: 0 executors, 0 tasks done"
        );
    }
}
