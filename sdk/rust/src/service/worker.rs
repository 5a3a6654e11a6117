//! Runs the tasks of a stream, one at a time, and decides when their outcomes are sent.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use flame_rpc::v1::{StreamedTask, TaskOutcome};
use tokio::sync::watch;

use super::desk::{Desk, Next, RESPONSE_BYTES, outcome_bytes};
use super::unary::caught;
use super::{Service, TaskContext, TaskError};

/// A task that takes no longer is quick: sending its outcome alone would cost as much.
const QUICK: Duration = Duration::from_micros(100);
/// So many quick tasks in a row make it likely that the next one is quick. Until then each
/// outcome is sent before the next task begins, so that a process which dies early, time and again,
/// still gets on.
const PROVEN: u32 = 16;
/// Bounds of what is held back while quick tasks follow each other; also what is at most lost,
/// and done again, if the process dies. Beyond this there is nothing left to save.
const HELD_RESULTS: u32 = 64;
const HELD_FOR: Duration = Duration::from_micros(500);

/// A poll that takes longer has kept its thread: nothing sent ahead could be recalled meanwhile.
const BLOCKED: Duration = Duration::from_millis(5);
/// Tasks without that, after which sending ahead is worth another try.
const FORGIVEN_AFTER: u32 = 64;

/// Runs what comes to the desk until nothing more will, or the program is to stop. A task under
/// way is brought to its end.
pub(super) async fn work<S: Service>(
    service: Arc<S>,
    session: Arc<str>,
    desk: Arc<Desk>,
    mut stop: watch::Receiver<bool>,
) {
    let _finish = Finish(desk.clone());
    // With other threads the connection goes on while a task keeps this one.
    let alone = tokio::runtime::Handle::current().metrics().num_workers() == 1;
    let mut pace = Pace::default();
    loop {
        if *stop.borrow() {
            return;
        }
        let task = match desk.next() {
            Next::Task(task) => task,
            Next::Over => return,
            Next::Nothing => tokio::select! {
                biased;
                // Without a sender there is nobody left to stop for.
                _ = stop.wait_for(|stop| *stop) => return,
                next = std::future::poll_fn(|cx| desk.poll_next(cx)) => match next {
                    Next::Task(task) => task,
                    Next::Nothing | Next::Over => return,
                },
            },
        };
        let (outcome, took, longest) = run(&*service, &session, task, || {
            if pace.held() {
                pace.shown();
                desk.show();
            }
        })
        .await;
        let bytes = outcome_bytes(&outcome);
        let more = desk.put(outcome, alone && pace.blocks(longest));
        if pace.finished(took, bytes, more) {
            desk.show();
            if more {
                // The connection writes before a task that may keep the thread begins.
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Runs one task. Returns its outcome, the time it took, and its longest poll.
async fn run<S: Service>(
    service: &S,
    session: &Arc<str>,
    task: StreamedTask,
    mut on_waiting: impl FnMut(),
) -> (TaskOutcome, Duration, Duration) {
    let task_id = task.task_id;
    let context = TaskContext {
        task_id: task_id.to_string(),
        session_id: session.to_string(),
        input: task.input,
    };
    let begin = Instant::now();
    let mut longest = Duration::ZERO;
    let mut work = pin!(caught(async { service.on_task_invoke(context).await }));
    let mut polled_at = begin;
    let mut waited = false;
    let result = std::future::poll_fn(|cx| {
        if waited {
            polled_at = Instant::now();
        }
        let polled = work.as_mut().poll(cx);
        if polled.is_pending() {
            longest = longest.max(polled_at.elapsed());
            if !std::mem::replace(&mut waited, true) {
                on_waiting();
            }
            return Poll::Pending;
        }
        polled
    })
    .await;
    let end = Instant::now();
    longest = longest.max(end.duration_since(polled_at));
    let took = end.duration_since(begin);
    let (return_code, output, message) = match result {
        Ok(output) => (0, output, None),
        Err(TaskError(message)) => (-1, None, Some(message)),
    };
    let outcome = TaskOutcome {
        task_id,
        return_code,
        output,
        message,
        duration_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
    };
    (outcome, took, longest)
}

/// Tells the stream, whatever ends the worker.
struct Finish(Arc<Desk>);

impl Drop for Finish {
    fn drop(&mut self) {
        self.0.finish();
    }
}

/// How the tasks have gone lately.
#[derive(Debug, Default)]
struct Pace {
    quick_in_a_row: u32,
    held: u32,
    held_bytes: usize,
    held_for: Duration,
    /// Tasks to go until sending ahead is allowed again.
    probation: u32,
}

impl Pace {
    /// A task has ended; whether its outcome and those held back are to be sent now.
    fn finished(&mut self, took: Duration, bytes: usize, more: bool) -> bool {
        self.quick_in_a_row = match took <= QUICK {
            true => self.quick_in_a_row.saturating_add(1),
            false => 0,
        };
        if self.held > 0 {
            self.held_for += took;
        }
        self.held += 1;
        self.held_bytes += bytes;
        let send = !more
            || self.quick_in_a_row < PROVEN
            || self.held >= HELD_RESULTS
            || self.held_for >= HELD_FOR
            || self.held_bytes >= RESPONSE_BYTES;
        if send {
            self.shown();
        }
        send
    }

    fn held(&self) -> bool {
        self.held > 0
    }

    fn shown(&mut self) {
        self.held = 0;
        self.held_bytes = 0;
        self.held_for = Duration::ZERO;
    }

    /// Whether tasks tend to keep their thread, after one whose longest poll took so long.
    fn blocks(&mut self, longest: Duration) -> bool {
        self.probation = match longest >= BLOCKED {
            true => FORGIVEN_AFTER,
            false => self.probation.saturating_sub(1),
        };
        self.probation > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);

    fn proven() -> Pace {
        let mut pace = Pace::default();
        for _ in 1..PROVEN {
            assert!(pace.finished(US, 1, true), "not proven yet");
        }
        pace
    }

    #[test]
    fn results_of_proven_quick_tasks_are_held_up_to_a_number() {
        let mut pace = proven();
        for _ in 1..HELD_RESULTS {
            assert!(!pace.finished(US, 1, true));
        }
        assert!(pace.finished(US, 1, true));
        assert!(!pace.held());
    }

    #[test]
    fn nothing_is_held_without_a_task_that_follows_nor_for_long_nor_large() {
        assert!(proven().finished(US, 1, false), "none follows");
        assert!(proven().finished(US, RESPONSE_BYTES, true), "large");
        let mut pace = proven();
        let tasks = (0..).take_while(|_| !pace.finished(QUICK, 1, true)).count();
        assert_eq!(tasks, 5, "half a millisecond after the first");
    }

    #[test]
    fn a_slow_task_has_everything_sent_until_quick_ones_are_proven_anew() {
        let mut pace = proven();
        assert!(pace.finished(QUICK + US, 1, true));
        for _ in 1..PROVEN {
            assert!(pace.finished(US, 1, true));
        }
        assert!(!pace.finished(US, 1, true));
    }

    #[test]
    fn a_task_that_keeps_the_thread_is_remembered_for_a_while() {
        let mut pace = Pace::default();
        assert!(!pace.blocks(BLOCKED - US));
        assert!(pace.blocks(BLOCKED));
        for _ in 1..FORGIVEN_AFTER {
            assert!(pace.blocks(US));
        }
        assert!(!pace.blocks(US));
    }
}
