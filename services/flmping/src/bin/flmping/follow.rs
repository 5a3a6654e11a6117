//! Counts tasks as they end, for as long as the user wants to wait.

use std::time::Duration;

use flame_rs::stop::StopRequest;
use indicatif::ProgressBar;
use tokio::time::Instant;

use crate::run::Running;
use crate::tally::Tally;

/// Why the tasks were not followed to the last one.
#[derive(Debug)]
pub(crate) enum Cut {
    Interrupted,
    TimedOut(Duration),
}

/// What may end the wait; the time counts from the start of the program.
pub(crate) struct Limits {
    stop: StopRequest,
    time: Option<(Instant, Duration)>,
}

impl Limits {
    pub(crate) fn new(stop: StopRequest, limit: Option<Duration>) -> Self {
        let time = limit.and_then(|limit| Some((Instant::now().checked_add(limit)?, limit)));
        Self { stop, time }
    }

    /// Returns when the user has enough or the time is over.
    pub(crate) async fn over(&mut self) -> Cut {
        let time = self.time;
        let late = async {
            match time {
                Some((at, limit)) => {
                    tokio::time::sleep_until(at).await;
                    limit
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.stop.requested() => Cut::Interrupted,
            limit = late => Cut::TimedOut(limit),
        }
    }
}

/// Counts until the last task has ended or a limit is reached.
pub(crate) async fn follow(
    mut running: Running,
    tally: &mut Tally,
    bar: &ProgressBar,
    limits: &mut Limits,
) -> Option<Cut> {
    let over = limits.over();
    tokio::pin!(over);
    let cut = loop {
        if tally.all_ended() {
            break None;
        }
        tokio::select! {
            biased;
            cut = &mut over => break Some(cut),
            next = running.next() => match next {
                Some(task) => {
                    tally.add(task);
                    bar.inc(1);
                }
                None => break None,
            },
        }
    };
    running.stop().await;
    cut
}
