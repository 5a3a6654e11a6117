//! Rules of the books: what Hello lists, what is sent again, when an executor is forgotten.

use flame_rpc::node::ResultBatch;

use super::*;

fn id(name: &str) -> ExecutorId {
    ExecutorId::new(name).expect("valid")
}

fn order(name: &str) -> StartExecutor {
    StartExecutor {
        executor_id: name.to_owned(),
        session_id: "s".to_owned(),
        application: "app".to_owned(),
        ..StartExecutor::default()
    }
}

fn items(tasks: &[u64]) -> Vec<TaskItem> {
    tasks
        .iter()
        .map(|task| TaskItem {
            task_id: *task,
            attempt: 1,
            input: None,
        })
        .collect()
}

fn done(executor: &str, task: u64) -> TaskDone {
    TaskDone {
        executor_id: executor.to_owned(),
        task_id: task,
        attempt: 1,
        ..TaskDone::default()
    }
}

fn tasks(attempts: &[TaskAttempt]) -> Vec<u64> {
    attempts.iter().map(|attempt| attempt.task_id).collect()
}

/// Everything there is to send, as short words.
fn sent(ledger: &mut Ledger) -> Vec<String> {
    let word = |message| match message {
        from_agent::Message::Results(ResultBatch { sequence, results }) => {
            let ids: Vec<String> = results.iter().map(|done| done.task_id.to_string()).collect();
            format!("results {sequence}: {}", ids.join(" "))
        }
        from_agent::Message::Executor(update) => format!(
            "{} {:?} lost {:?}{}",
            update.executor_id,
            update.phase(),
            tasks(&update.lost),
            if update.running { " running" } else { "" }
        ),
        from_agent::Message::Returned(returned) => format!("{} returned", returned.executor_id),
        other => panic!("{other:?}"),
    };
    std::iter::from_fn(|| ledger.next_message()).map(word).collect()
}

/// With executor `e`, bound and told of, and tasks 1, 2 and 3 in hand.
fn busy() -> Ledger {
    let mut ledger = Ledger::new(1 << 20);
    ledger.started(id("e"), &order("e"));
    ledger.bound("e");
    assert_eq!(sent(&mut ledger), ["e Bound lost []"]);
    assert!(ledger.handed_out("e", &items(&[1, 2, 3])));
    ledger
}

#[test]
fn hello_lists_what_is_in_hand_and_what_is_not_acknowledged() {
    let mut ledger = busy();
    ledger.done("e", vec![done("e", 1)]);
    assert_eq!(sent(&mut ledger), ["results 1: 1"]);
    ledger.done("e", vec![done("e", 2)]);
    assert_eq!(sent(&mut ledger), ["results 2: 2"]);
    ledger.acknowledged(1);
    let hello = ledger.reconnected();
    assert_eq!(hello.len(), 1);
    assert!(hello[0].bound && hello[0].session_id == "s" && hello[0].application == "app");
    assert_eq!(tasks(&hello[0].tasks), [2, 3]);
    assert_eq!(
        sent(&mut ledger),
        ["results 2: 2"],
        "sent again, and nothing else"
    );
}

#[test]
fn nothing_of_an_old_link_is_mixed_into_the_new_one() {
    let mut ledger = busy();
    ledger.started(id("f"), &order("f"));
    ledger.bound("f");
    ledger.repeat("unknown");
    let hello = ledger.reconnected();
    assert!(hello.iter().all(|executor| executor.bound), "told by Hello");
    assert_eq!(sent(&mut ledger), [""; 0]);
}

#[test]
fn an_end_comes_after_the_results_and_names_what_is_lost() {
    let mut ledger = busy();
    ledger.done("e", vec![done("e", 1)]);
    ledger.ended(
        "e",
        &Ended::Died {
            message: "gone".to_owned(),
            running: true,
        },
    );
    assert_eq!(ledger.live(), 0);
    assert_eq!(sent(&mut ledger), ["results 1: 1", "e Died lost [2, 3] running"]);
    assert!(ledger.knows("e"), "its result may have to be sent again");
    ledger.acknowledged(1);
    assert!(!ledger.knows("e") && ledger.is_settled());
}

#[test]
fn an_end_without_a_link_is_told_on_the_next_one() {
    let mut ledger = busy();
    ledger.done("e", vec![done("e", 1)]);
    ledger.ended("e", &Ended::Released { running: false });
    let hello = ledger.reconnected();
    assert_eq!(tasks(&hello[0].tasks), [1, 2, 3]);
    assert_eq!(sent(&mut ledger), ["results 1: 1", "e Released lost [2, 3]"]);
    // The link broke before the acknowledgement came.
    assert_eq!(tasks(&ledger.reconnected()[0].tasks), [1, 2, 3]);
    assert_eq!(sent(&mut ledger), ["results 1: 1", "e Released lost [2, 3]"]);
    ledger.acknowledged(1);
    assert!(ledger.reconnected().is_empty());
}

#[test]
fn an_acknowledged_executor_goes_when_its_end_is_told() {
    let mut ledger = busy();
    for task in 1..=3 {
        ledger.done("e", vec![done("e", task)]);
    }
    assert_eq!(sent(&mut ledger), ["results 1: 1 2 3"]);
    ledger.acknowledged(1);
    assert!(ledger.knows("e"), "it lives");
    ledger.ended("e", &Ended::Released { running: false });
    assert!(ledger.knows("e"), "nobody was told");
    assert_eq!(sent(&mut ledger), ["e Released lost []"]);
    assert!(!ledger.knows("e"));
    assert_eq!(ledger.tasks_done(), 3);
}

#[test]
fn tasks_for_an_executor_that_is_gone_are_lost_and_not_silent() {
    let mut ledger = busy();
    ledger.ended(
        "e",
        &Ended::Died {
            message: "gone".to_owned(),
            running: true,
        },
    );
    assert!(!ledger.handed_out("e", &items(&[4])));
    assert!(!ledger.handed_out("never", &items(&[5, 6])));
    assert_eq!(
        sent(&mut ledger),
        [
            "e Died lost [1, 2, 3] running",
            "e Died lost [4]",
            "never Released lost [5, 6]",
        ]
    );
}

#[test]
fn a_repeated_order_repeats_the_answer() {
    let mut ledger = busy();
    ledger.repeat("e");
    ledger.started(id("starting"), &order("starting"));
    ledger.repeat("starting");
    ledger.repeat("unknown");
    ledger.refused("../x", "bad");
    assert_eq!(
        sent(&mut ledger),
        [
            "e Bound lost []",
            "unknown Released lost []",
            "../x BindFailed lost []",
        ]
    );
}

#[test]
fn a_failed_bind_carries_its_code() {
    let mut ledger = Ledger::new(1 << 20);
    ledger.started(id("e"), &order("e"));
    ledger.ended(
        "e",
        &Ended::BindFailed {
            code: 12,
            message: "no".to_owned(),
        },
    );
    match ledger.next_message() {
        Some(from_agent::Message::Executor(update)) => {
            assert_eq!((update.code, update.message.as_str()), (12, "no"));
        }
        other => panic!("{other:?}"),
    }
    assert!(!ledger.knows("e"));
}

#[test]
fn results_may_wait_only_while_their_executors_have_enough_to_do() {
    let mut ledger = Ledger::new(1 << 20);
    ledger.started(id("e"), &order("e"));
    assert!(ledger.handed_out("e", &items(&[1, 2, 3, 4])));
    ledger.done("e", vec![done("e", 1)]);
    assert!(ledger.has_unsent() && !ledger.is_urgent(), "three are left");
    ledger.done("e", vec![done("e", 2)]);
    assert!(ledger.is_urgent(), "two are left");
    assert_eq!(sent(&mut ledger), ["results 1: 1 2"]);
    assert!(!ledger.is_urgent());
    ledger.returned("e", Vec::new());
    assert!(ledger.is_urgent(), "other news never wait");
}

#[test]
fn an_executor_of_the_last_run_is_listed_as_bound_and_without_tasks() {
    let mut ledger = Ledger::new(1 << 20);
    ledger.adopted(id("e1"), &order("e1"));
    assert_eq!(ledger.live(), 1);
    // Nobody has asked, so there is nothing to tell but Hello.
    assert_eq!(sent(&mut ledger), [""; 0]);
    let listed = ledger.reconnected();
    let of_one: Vec<_> = listed
        .iter()
        .map(|running| (running.executor_id.as_str(), running.bound, running.tasks.len()))
        .collect();
    assert_eq!(of_one, [("e1", true, 0)]);
    // From here on it is as any other.
    assert!(ledger.handed_out("e1", &items(&[3])) && ledger.has_tasks_in_hand());
    ledger.done("e1", vec![done("e1", 3)]);
    assert!(!ledger.has_tasks_in_hand());
    ledger.ended("e1", &Ended::Released { running: false });
    assert_eq!(sent(&mut ledger), ["results 1: 3", "e1 Released lost []"]);
    assert_eq!(ledger.live(), 0);
}

#[test]
fn what_an_executor_took_with_it_is_in_no_hands() {
    let mut ledger = Ledger::new(1 << 20);
    ledger.started(id("e1"), &order("e1"));
    assert!(ledger.handed_out("e1", &items(&[1])));
    assert!(ledger.has_tasks_in_hand());
    ledger.ended("e1", &Ended::Released { running: true });
    assert!(!ledger.has_tasks_in_hand());
}
