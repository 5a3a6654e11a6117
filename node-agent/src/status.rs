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

/// What is told about the agent.
pub struct StatusLine {
    notifier: Notifier,
    url: String,
    link: LinkStatus,
    executors: usize,
    tasks: u64,
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
            executors: 0,
            tasks: 0,
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

    /// There is no link. Returns whether that is news.
    pub fn waiting(&mut self, reason: &str) -> bool {
        self.set(LinkStatus::Waiting(reason.to_owned()))
    }

    /// The manager does not want this node. Returns whether that is news.
    pub fn refused(&mut self, reason: &str) -> bool {
        self.set(LinkStatus::Refused(reason.to_owned()))
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

    fn set(&mut self, link: LinkStatus) -> bool {
        let news = self.link != link;
        if news {
            self.link = link;
            self.changed();
        }
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
    async fn the_same_failure_is_news_once() {
        let mut line = StatusLine::new(Notifier::from_env(), URL);
        assert!(line.waiting("connection refused"));
        assert!(!line.waiting("connection refused"));
        assert!(line.waiting("no route to host"));
        assert!(line.refused("name taken"));
        assert_eq!(
            line.text(),
            "refused by session manager at http://manager:8081: name taken (0 executors, 0 tasks done)"
        );
        line.registered();
        assert!(line.waiting("no route to host"));
    }
}
