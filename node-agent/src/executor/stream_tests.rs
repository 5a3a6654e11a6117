//! Rules of the books of a stream: what may be sent ahead, what responses mean.

use flame_rpc::v1::GivenBack;

use super::*;

fn item(task: u64, input: usize) -> TaskItem {
    TaskItem {
        task_id: task,
        attempt: task + 100,
        input: Some(vec![7; input].into()),
    }
}

fn queue(tasks: impl IntoIterator<Item = u64>) -> VecDeque<TaskItem> {
    tasks.into_iter().map(|task| item(task, 1)).collect()
}

/// Books of tasks that were sent.
fn sent(tasks: impl IntoIterator<Item = u64>) -> Books {
    let mut books = Books::default();
    books.take(&mut queue(tasks));
    books
}

fn outcomes(tasks: impl IntoIterator<Item = u64>) -> TaskStreamResponse {
    let outcome = |task_id| TaskOutcome {
        task_id,
        ..TaskOutcome::default()
    };
    TaskStreamResponse {
        outcomes: tasks.into_iter().map(outcome).collect(),
        ..TaskStreamResponse::default()
    }
}

fn given_back(tasks: &[u64]) -> TaskStreamResponse {
    TaskStreamResponse {
        given_back: Some(GivenBack {
            task_ids: tasks.to_vec(),
        }),
        ..TaskStreamResponse::default()
    }
}

fn ids(tasks: impl IntoIterator<Item = TaskAttempt>) -> Vec<u64> {
    let id = |task: TaskAttempt| {
        assert_eq!(task.attempt, task.task_id + 100);
        task.task_id
    };
    tasks.into_iter().map(id).collect()
}

fn recall(books: &mut Books, unsent: &[u64]) {
    let unsent = queue(unsent.iter().copied());
    books.recalls.push_back(Recall {
        total: books.total,
        unsent: unsent.iter().map(attempt_of).collect(),
    });
}

#[test]
fn outcomes_come_in_order_and_anything_else_is_told() {
    let mut books = sent(1..=4);
    let news = books.apply(outcomes(1..=3)).expect("in order");
    assert_eq!(ids(news.ended.into_iter().map(|(task, _)| task)), [1, 2, 3]);
    assert!(news.returned.is_none());
    let wrong = books.apply(outcomes([5])).expect_err("4 is due");
    assert!(wrong.contains("task 5 where that of 4"), "{wrong}");
    assert_eq!(books.sent.len(), 1);
    books.apply(outcomes([4])).expect("in order");
    let wrong = books.apply(outcomes([4])).expect_err("twice");
    assert!(wrong.contains("none is due"), "{wrong}");
}

#[test]
fn large_inputs_wait_here_and_one_always_goes() {
    let mut books = Books::default();
    let mut queue: VecDeque<TaskItem> = (1..=3).map(|task| item(task, AHEAD_BYTES)).collect();
    assert_eq!(books.take(&mut queue).len(), 1);
    assert_eq!((books.take(&mut queue).len(), queue.len()), (0, 2));
    books.apply(outcomes([1])).expect("in order");
    assert_eq!(books.take(&mut queue).len(), 1);
    let mut small = Books::default();
    queue = (1..=100).map(|task| item(task, AHEAD_BYTES / 8)).collect();
    assert_eq!(small.take(&mut queue).len(), 8);
}

#[test]
fn a_service_that_cannot_answer_while_it_runs_a_task_gets_one() {
    let mut books = sent(1..=2);
    let mut more = queue(3..=5);
    let response = TaskStreamResponse {
        one_by_one: true,
        ..outcomes([1])
    };
    books.apply(response).expect("in order");
    assert!(books.take(&mut more).is_empty(), "one is there");
    let response = TaskStreamResponse {
        one_by_one: true,
        ..outcomes([2])
    };
    books.apply(response).expect("in order");
    assert_eq!(books.take(&mut more).len(), 1);
    books.apply(outcomes([3])).expect("in order");
    assert_eq!(books.take(&mut more).len(), 2, "no longer");
}

#[test]
fn a_recall_takes_the_last_of_those_before_it() {
    let mut books = sent(1..=4);
    recall(&mut books, &[8, 9]);
    // Sent again before the service has answered.
    books.take(&mut queue([5, 6]));
    books.apply(outcomes([1])).expect("in order");
    let news = books.apply(given_back(&[3, 4])).expect("fits");
    assert_eq!(ids(news.returned.expect("an answer")), [3, 4, 8, 9]);
    let news = books.apply(outcomes([2, 5, 6])).expect("in order");
    assert_eq!(news.ended.len(), 3);
    assert_eq!(books.sent_bytes, 0);
}

#[test]
fn recalls_are_answered_in_their_order() {
    let mut books = sent(1..=3);
    recall(&mut books, &[]);
    books.take(&mut queue([4, 5]));
    recall(&mut books, &[]);
    books.take(&mut queue([6]));
    let news = books.apply(given_back(&[2, 3])).expect("fits");
    assert_eq!(ids(news.returned.expect("an answer")), [2, 3]);
    let news = books.apply(given_back(&[4, 5])).expect("fits");
    assert_eq!(ids(news.returned.expect("an answer")), [4, 5]);
    books.apply(outcomes([1, 6])).expect("in order");
}

#[test]
fn the_same_task_may_be_there_in_two_attempts() {
    let mut books = sent([2, 2]);
    recall(&mut books, &[]);
    books.apply(given_back(&[2])).expect("the later one");
    assert_eq!(books.sent.len(), 1);
}

#[test]
fn what_was_not_sent_or_not_recalled_cannot_be_given_back() {
    assert!(sent(1..=2).apply(given_back(&[2])).is_err(), "no recall");
    for wrong in [&[1][..], &[3], &[1, 2, 3], &[2, 1]] {
        let mut books = sent(1..=2);
        recall(&mut books, &[]);
        assert!(books.apply(given_back(wrong)).is_err(), "{wrong:?}");
    }
}

/// What was recalled before it was sent must not be forgotten with a wrong answer.
#[test]
fn a_recall_with_a_wrong_answer_is_still_to_be_answered() {
    let mut books = sent(1..=2);
    recall(&mut books, &[9]);
    assert!(books.apply(given_back(&[7])).is_err());
    assert_eq!(books.recalls.len(), 1);
    assert_eq!(ids(books.recalls.remove(0).expect("one").unsent), [9]);
    // As after outcomes that overtook the answer.
    let mut books = sent(1..=1);
    recall(&mut books, &[9]);
    books.take(&mut queue([2]));
    books.apply(outcomes([1, 2])).expect("in order");
    assert!(books.apply(given_back(&[])).is_err());
    assert_eq!(books.recalls.len(), 1);
}
