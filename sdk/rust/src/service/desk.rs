//! What lies between a stream of tasks and the worker that runs them: tasks that have not begun,
//! and outcomes that are not sent.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use flame_rpc::v1::{GivenBack, StreamedTask, TaskOutcome, TaskStreamRequest, TaskStreamResponse};
use prost::Message;

/// Bytes from which on the outcomes of a response are enough; a larger one goes alone.
pub(super) const RESPONSE_BYTES: usize = 64 << 10;
/// Bytes of unsent outcomes with which no further task begins.
const UNSENT_BYTES: usize = 4 << 20;
/// Bytes and number of waiting tasks with which no further ones are taken in. The node agent
/// sends far fewer ahead.
const WAITING_BYTES: usize = 16 << 20;
const WAITING_TASKS: usize = 4096;
/// What surrounds one outcome in a response, in bytes.
const ENVELOPE: usize = 64;

/// The desk, shared by the stream that takes requests in and sends responses, and the worker.
#[derive(Default)]
pub(super) struct Desk(Mutex<State>);

#[derive(Default)]
struct State {
    waiting: VecDeque<StreamedTask>,
    waiting_bytes: usize,
    /// What has happened and is not told.
    news: VecDeque<News>,
    outcome_bytes: usize,
    /// The other side takes no larger response; 0 until it has said so.
    max_response_size: usize,
    one_by_one: bool,
    /// No further task will come.
    closed: bool,
    /// The worker has ended.
    finished: bool,
    /// Who is waiting; the stream only for what [`Desk::show`] shows.
    stream: Option<Waker>,
    worker: Option<Waker>,
}

/// What the other side is to be told, in the order in which it happened: it counts on that.
enum News {
    Outcome(TaskOutcome),
    /// The answer to a recall.
    GivenBack(GivenBack),
}

/// What the worker finds.
pub(super) enum Next {
    /// The next task.
    Task(StreamedTask),
    /// Nothing now.
    Nothing,
    /// Nothing, and nothing will come.
    Over,
}

impl Desk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what the other side sent.
    pub(super) fn take_in(&self, request: TaskStreamRequest) {
        let mut state = self.state();
        if let Ok(limit @ 1..) = usize::try_from(request.max_response_size) {
            state.max_response_size = limit;
        }
        state.waiting_bytes += request.tasks.iter().map(input_bytes).sum::<usize>();
        state.waiting.extend(request.tasks);
        if request.recall {
            state.waiting_bytes = 0;
            let task_ids = state.waiting.drain(..).map(|task| task.task_id).collect();
            state.news.push_back(News::GivenBack(GivenBack { task_ids }));
        }
        let worker = state.worker.take();
        drop(state);
        wake(worker);
    }

    /// Whether no more can be taken in for now; the stream is woken when that changes.
    pub(super) fn is_full(&self, cx: &Context<'_>) -> bool {
        let mut state = self.state();
        let full = state.is_full();
        if full {
            state.stream = Some(cx.waker().clone());
        }
        full
    }

    /// No further task will come.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        let worker = state.worker.take();
        drop(state);
        wake(worker);
    }

    /// The next response: everything that is there. None at the end of it all.
    pub(super) fn poll_response(&self, cx: &Context<'_>) -> Poll<Option<TaskStreamResponse>> {
        let mut state = self.state();
        let outcomes = state.take_outcomes();
        let given_back = state.take_given_back();
        if outcomes.is_empty() && given_back.is_none() {
            if state.finished {
                return Poll::Ready(None);
            }
            if !state
                .stream
                .as_ref()
                .is_some_and(|known| known.will_wake(cx.waker()))
            {
                state.stream = Some(cx.waker().clone());
            }
            return Poll::Pending;
        }
        let one_by_one = state.one_by_one;
        let worker = state.worker.take();
        drop(state);
        wake(worker);
        Poll::Ready(Some(TaskStreamResponse {
            outcomes,
            given_back,
            one_by_one,
        }))
    }

    /// What the worker is to do next.
    pub(super) fn next(&self) -> Next {
        self.state().next()
    }

    /// As [`Desk::next`], for a worker that waits; nothing is never the answer.
    pub(super) fn poll_next(&self, cx: &Context<'_>) -> Poll<Next> {
        let mut state = self.state();
        match state.next() {
            Next::Nothing => {
                state.worker = Some(cx.waker().clone());
                Poll::Pending
            }
            next => Poll::Ready(next),
        }
    }

    /// Lays down an outcome and says whether another task waits. An output that the other side
    /// does not take fails its task.
    pub(super) fn put(&self, mut outcome: TaskOutcome, one_by_one: bool) -> bool {
        let mut state = self.state();
        let limit = state.max_response_size;
        if limit > 0 && outcome.encoded_len().saturating_add(ENVELOPE) > limit {
            outcome.return_code = -1;
            outcome.message = Some(match outcome.output.take() {
                Some(output) => format!(
                    "the task's output has {} bytes, but a message may have at most {limit}; \
                     make it smaller, put it in the object cache, or raise cluster.limits.max_message_size",
                    output.len()
                ),
                None => format!("the task failed with a text that is larger than a message ({limit} bytes)"),
            });
        }
        state.outcome_bytes += outcome_bytes(&outcome);
        state.news.push_back(News::Outcome(outcome));
        state.one_by_one = one_by_one;
        !state.waiting.is_empty()
    }

    /// Has the stream send what is there.
    pub(super) fn show(&self) {
        let stream = self.state().stream.take();
        wake(stream);
    }

    /// The worker has ended; what is there is the rest.
    pub(super) fn finish(&self) {
        let mut state = self.state();
        state.finished = true;
        let stream = state.stream.take();
        drop(state);
        wake(stream);
    }
}

impl State {
    fn is_full(&self) -> bool {
        self.waiting_bytes > WAITING_BYTES || self.waiting.len() > WAITING_TASKS
    }

    fn next(&mut self) -> Next {
        if self.outcome_bytes > UNSENT_BYTES {
            return Next::Nothing;
        }
        let was_full = self.is_full();
        let Some(task) = self.waiting.pop_front() else {
            return if self.closed { Next::Over } else { Next::Nothing };
        };
        self.waiting_bytes -= input_bytes(&task);
        if was_full
            && !self.is_full()
            && let Some(stream) = self.stream.take()
        {
            stream.wake();
        }
        Next::Task(task)
    }

    /// Outcomes for one response.
    fn take_outcomes(&mut self) -> Vec<TaskOutcome> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        while let Some(News::Outcome(outcome)) = self.news.front() {
            let more = outcome_bytes(outcome);
            if bytes + more > RESPONSE_BYTES && !taken.is_empty() {
                break;
            }
            bytes += more;
            if let Some(News::Outcome(outcome)) = self.news.pop_front() {
                taken.push(outcome);
            }
        }
        self.outcome_bytes -= bytes;
        taken
    }

    /// The answer to a recall, if everything before it has been told.
    fn take_given_back(&mut self) -> Option<GivenBack> {
        match self.news.pop_front() {
            Some(News::GivenBack(given_back)) => Some(given_back),
            Some(outcome) => {
                self.news.push_front(outcome);
                None
            }
            None => None,
        }
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn input_bytes(task: &StreamedTask) -> usize {
    task.input.as_ref().map_or(0, bytes::Bytes::len)
}

pub(super) fn outcome_bytes(outcome: &TaskOutcome) -> usize {
    outcome.output.as_ref().map_or(0, bytes::Bytes::len)
        + outcome.message.as_ref().map_or(0, String::len)
        + ENVELOPE
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn outcome(task_id: u64) -> TaskOutcome {
        TaskOutcome {
            task_id,
            output: Some(Bytes::from(vec![7; RESPONSE_BYTES])),
            ..TaskOutcome::default()
        }
    }

    /// The node agent counts back from what it sent last, so an outcome of a task that came after
    /// the recall must not overtake the answer, however large the outcomes before it are.
    #[test]
    fn the_answer_to_a_recall_keeps_its_place_among_large_outcomes() {
        let desk = Desk::default();
        desk.put(outcome(1), false);
        desk.put(outcome(2), false);
        desk.take_in(TaskStreamRequest {
            recall: true,
            ..TaskStreamRequest::default()
        });
        desk.put(outcome(3), false);
        let mut told = Vec::new();
        let cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(response)) = desk.poll_response(&cx) {
            told.extend(
                response
                    .outcomes
                    .iter()
                    .map(|outcome| outcome.task_id.to_string()),
            );
            told.extend(response.given_back.map(|_| "recall".to_owned()));
        }
        assert_eq!(told, ["1", "2", "recall", "3"]);
    }
}
