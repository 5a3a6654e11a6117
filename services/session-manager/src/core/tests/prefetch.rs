//! Tasks in advance: given when tasks are short, evenly, and taken back when one is not.

use flame_rpc::node::Returned;

use super::*;

/// A session with two executors that has learned how long its tasks take.
fn warm(tasks: usize, task_time: Duration) -> (Bed, LinkId) {
    let (mut bed, link) = bound(2, 2);
    for (executor, task) in std::mem::take(&mut bed.handed) {
        let micros = u64::try_from(task_time.as_micros()).expect("short");
        bed.results(
            link,
            vec![TaskDone {
                duration_us: micros,
                ..Bed::done(&executor, &task, 0)
            }],
        );
    }
    bed.tasks("s", tasks);
    (bed, link)
}

fn quick(executor: &str, task: &TaskItem) -> TaskDone {
    TaskDone {
        duration_us: 10,
        ..Bed::done(executor, task, 0)
    }
}

fn in_hand(bed: &Bed) -> Vec<usize> {
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    for (executor, _) in &bed.handed {
        *count.entry(executor).or_default() += 1;
    }
    count.into_values().collect()
}

#[test]
fn long_tasks_are_never_given_in_advance() {
    let (bed, _) = warm(10, Duration::from_millis(30));
    assert_eq!(in_hand(&bed), [1, 1]);
}

#[test]
fn short_tasks_are_divided_evenly_and_refilled_in_batches() {
    let (mut bed, link) = warm(20, Duration::from_millis(1));
    assert_eq!(in_hand(&bed), [5, 5]);
    let (executor, task) = bed.handed.remove(0);
    bed.results(
        link,
        vec![TaskDone {
            duration_us: 1_000,
            ..Bed::done(&executor, &task, 0)
        }],
    );
    assert_eq!(
        in_hand(&bed).iter().sum::<usize>(),
        9,
        "not before half of them are done"
    );
    let (bed, _) = warm(4, Duration::from_micros(1));
    assert_eq!(in_hand(&bed), [2, 2], "few tasks are not piled up on one");
}

#[test]
fn tasks_behind_a_long_one_are_taken_back_and_run_elsewhere() {
    let (mut bed, link) = warm(4, Duration::from_micros(10));
    let (slow, _) = bed.handed[0].clone();
    let others: Vec<_> = bed
        .handed
        .extract_if(.., |(executor, _)| *executor != slow)
        .collect();
    for (executor, task) in others {
        bed.results(link, vec![quick(&executor, &task)]);
    }
    assert!(bed.recalled.is_empty());
    bed.wait(Duration::from_millis(60));
    assert_eq!(bed.recalled, std::slice::from_ref(&slow));
    bed.wait(Duration::from_millis(60));
    assert_eq!(bed.recalled.len(), 1, "asked once");
    let (_, behind) = bed.handed.remove(1);
    let returned = Returned {
        executor_id: slow.clone(),
        tasks: vec![attempt(&behind)],
    };
    bed.say(link, from_agent::Message::Returned(returned));
    let (executor, again) = bed.handed.last().expect("handed out again").clone();
    assert!(executor != slow && again.task_id == behind.task_id && again.attempt > behind.attempt);
    // The first hand-out does not count any more.
    bed.results(link, vec![quick(&slow, &behind)]);
    let before = bed.ended.len();
    bed.results(link, vec![quick(&executor, &again)]);
    assert_eq!(bed.ended.len(), before + 1);
}

#[test]
fn an_executor_that_has_to_go_keeps_only_the_task_it_runs() {
    let (mut bed, link) = warm(40, Duration::from_millis(1));
    bed.session(
        "high",
        SessionSpec {
            priority: 9,
            ..spec("app")
        },
    );
    bed.tasks("high", 2);
    assert_eq!(bed.recalled.len(), 2);
    for executor in bed.recalled.clone() {
        let own: Vec<_> = bed
            .handed
            .extract_if(.., |(id, _)| *id == executor)
            .map(|(_, task)| task)
            .collect();
        let tasks = own[1..].iter().map(attempt).collect();
        bed.say(
            link,
            from_agent::Message::Returned(Returned {
                executor_id: executor.clone(),
                tasks,
            }),
        );
        bed.results(link, vec![Bed::done(&executor, &own[0], 0)]);
    }
    assert_eq!(bed.releasing.len(), 2);
    bed.release_all(link);
    assert_eq!(bed.sessions_of_executors().get("high"), Some(&2));
}

/// An executor that works through its tasks is not stalled, and is filled up before it is empty.
#[test]
fn an_executor_that_makes_progress_keeps_its_tasks_and_gets_more() {
    let (mut bed, link) = warm(40, Duration::from_millis(1));
    for _ in 0..3 {
        bed.wait(Duration::from_millis(30));
        let (executor, task) = bed.handed.remove(0);
        let other = bed
            .handed
            .iter()
            .position(|(id, _)| *id != executor)
            .expect("two of them");
        let (second, behind) = bed.handed.remove(other);
        bed.results(
            link,
            vec![
                TaskDone {
                    duration_us: 1_000,
                    ..Bed::done(&executor, &task, 0)
                },
                TaskDone {
                    duration_us: 1_000,
                    ..Bed::done(&second, &behind, 0)
                },
            ],
        );
    }
    assert!(bed.recalled.is_empty(), "{:?}", bed.recalled);
    assert_eq!(
        in_hand(&bed),
        [5, 5],
        "three of five were done, and they were filled up"
    );
}
