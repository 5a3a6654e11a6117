//! What becomes of tasks, whether the service takes them as a stream or call by call.

use std::time::{Duration, Instant};

use flame_rpc::node::{ExecutorPhase, TaskDone, from_agent};
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Agent, Link, Manager, order, variable};

/// Behaviours, and how such a service says that it gets tasks.
const WAYS: [(&str, &str); 2] = [("ok", "call"), ("stream", "stream")];

/// The results of so many tasks, and how many messages brought them. All are acknowledged.
pub(crate) async fn results(link: &mut Link, tasks: usize) -> (Vec<TaskDone>, usize) {
    let (mut results, mut messages) = (Vec::new(), 0);
    while results.len() < tasks {
        let batch = link.batch().await;
        link.ack(batch.sequence).await;
        results.extend(batch.results);
        messages += 1;
    }
    assert_eq!(results.len(), tasks);
    (results, messages)
}

pub(crate) fn output(done: &TaskDone) -> &str {
    let output = done.output.as_deref().unwrap_or_default();
    std::str::from_utf8(output).expect("text")
}

/// Waits until executor e1, whose release was asked for, begins none of the tasks that it has.
pub(crate) async fn no_task_begins(agent: &Agent, link: &mut Link, behaviour: &str) {
    if behaviour == "stream" {
        agent.made("work/executors/node-1/e1/recalled").await;
    } else {
        // Its answer says that the release before it has arrived.
        link.release("never").await;
        assert_eq!(link.update().await.executor_id, "never");
    }
}

#[tokio::test]
async fn a_service_that_dies_in_a_task_loses_it_and_those_behind_it() {
    for (behaviour, how) in WAYS {
        let mut manager = Manager::start().await;
        let _agent = Agent::start(manager.address);
        let (mut link, _) = manager.welcome().await;
        link.bind(order("e1", behaviour)).await;
        // Ahead of the death is more than one read of the socket.
        let ready = "x".repeat(10_000);
        let mut inputs = vec![ready.as_str(); 40];
        inputs.extend(["fine", "die", "never", "never"]);
        link.tasks("e1", 1, &inputs[..41]).await;
        let (first, _) = results(&mut link, 41).await;
        assert_eq!(first.last().map(|done| done.task_id), Some(41));
        link.tasks("e1", 42, &inputs[41..]).await;
        let update = link.update().await;
        assert_eq!(
            (update.phase(), update.running),
            (ExecutorPhase::Died, true),
            "{how}"
        );
        let lost: Vec<u64> = update.lost.iter().map(|task| task.task_id).collect();
        assert_eq!(lost, [42, 43, 44], "{how}");
        for part in ["exited with status 3", "dying as asked"] {
            assert!(update.message.contains(part), "{how}: {}", update.message);
        }
        link.bind(order("e2", behaviour)).await;
        assert_eq!(link.run("e2", 42, "again").await, (0, "again".to_owned()));
    }
}

/// Of a stream the service decides when it sends a result.
#[tokio::test]
async fn a_task_whose_call_has_ended_is_not_lost_with_the_one_behind_it() {
    let mut manager = Manager::start().await;
    let _agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    link.bind(order("e1", "ok")).await;
    link.tasks("e1", 1, &["fine", "die", "never"]).await;
    let (done, _) = results(&mut link, 1).await;
    assert_eq!(done[0].task_id, 1);
    let update = link.update().await;
    let lost: Vec<u64> = update.lost.iter().map(|task| task.task_id).collect();
    assert_eq!((update.phase(), lost), (ExecutorPhase::Died, vec![2, 3]));
}

#[tokio::test]
async fn a_service_that_hangs_up_fails_its_task_and_no_other() {
    for (behaviour, how) in WAYS {
        let mut manager = Manager::start().await;
        let _agent = Agent::start(manager.address);
        let (mut link, _) = manager.welcome().await;
        link.bind(order("e1", behaviour)).await;
        let service = link.process("e1").await;
        link.tasks("e1", 2, &["hang-up", "behind"]).await;
        let (done, _) = results(&mut link, 1).await;
        assert_eq!((done[0].task_id, done[0].return_code), (2, -1), "{how}");
        let update = link.update().await;
        assert_eq!((update.phase(), update.running), (ExecutorPhase::Died, false));
        assert_eq!((update.lost.len(), update.lost[0].task_id), (1, 3), "{how}");
        assert!(update.message.contains("no longer answers"), "{}", update.message);
        service.gone().await;
    }
}

#[tokio::test]
async fn a_service_that_lives_and_listens_has_a_new_connection_at_once() {
    for (behaviour, how) in [("call-listening", "call"), ("stream-listening", "stream")] {
        let mut manager = Manager::start().await;
        let _agent = Agent::start(manager.address);
        let (mut link, _) = manager.welcome().await;
        link.bind(order("e1", behaviour)).await;
        let (_, pid) = link.run("e1", 1, "pid").await;
        let began = Instant::now();
        assert_eq!(link.run("e1", 2, "hang-up").await.0, -1, "{how}");
        assert_eq!(link.run("e1", 3, "pid").await, (0, pid), "{how}");
        let took = began.elapsed();
        assert!(
            took < Duration::from_secs(3),
            "nobody waits for its death: {took:?}"
        );
    }
}

#[tokio::test]
async fn a_death_is_told_within_a_tenth_of_a_second() {
    let mut manager = Manager::start().await;
    let agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    // The best of some: others may use the machine.
    let mut best = Duration::MAX;
    for round in 0..5 {
        for (behaviour, task) in [("ok", false), ("stream", false), ("ok", true), ("stream", true)] {
            let id = format!("{behaviour}-{task}-{round}");
            link.bind(order(&id, behaviour)).await;
            let (_, pid) = link.run(&id, 1, "pid").await;
            let begun = agent.path(&id).display().to_string();
            if task {
                link.tasks(&id, 2, &[format!("until:{begun}").as_str()]).await;
                agent.made(&format!("{id}.begun")).await;
            }
            let pid = Pid::from_raw(pid.parse().expect("a pid")).expect("not 0");
            let died = Instant::now();
            kill_process(pid, Signal::KILL).expect("it lives");
            let update = link.update().await;
            best = best.min(died.elapsed());
            assert_eq!(
                (update.phase(), update.running),
                (ExecutorPhase::Died, task),
                "{id}"
            );
            assert!(update.message.contains("signal 9 (SIGKILL"), "{}", update.message);
        }
    }
    assert!(best < Duration::from_millis(100), "{best:?}");
    assert_eq!(agent.children(), [""; 0]);
}

#[tokio::test]
async fn recalled_tasks_are_given_back_and_the_running_one_goes_on() {
    for (behaviour, how) in WAYS {
        let mut manager = Manager::start().await;
        let agent = Agent::start(manager.address);
        let (mut link, _) = manager.welcome().await;
        link.bind(order("e1", behaviour)).await;
        let flag = agent.path("flag");
        // The last of them is behind what is sent ahead.
        let large = "x".repeat(900_000);
        let until = format!("until:{}", flag.display());
        link.tasks("e1", 1, &[&until, &large]).await;
        link.tasks("e1", 3, &[&large]).await;
        link.tasks("e1", 4, &["unsent"]).await;
        agent.made("flag.begun").await;
        link.recall("e1").await;
        link.recall("e1").await;
        for expected in [vec![2, 3, 4], vec![]] {
            let returned = match link.next_news().await {
                from_agent::Message::Returned(returned) => returned,
                other => panic!("{other:?}"),
            };
            let tasks: Vec<u64> = returned.tasks.iter().map(|task| task.task_id).collect();
            assert_eq!((returned.executor_id.as_str(), tasks), ("e1", expected), "{how}");
        }
        link.tasks("e1", 5, &["how"]).await;
        std::fs::write(&flag, "").expect("writable");
        let (results, _) = results(&mut link, 2).await;
        assert_eq!([results[0].task_id, results[1].task_id], [1, 5]);
        assert_eq!([output(&results[0]), output(&results[1])], ["seen", how]);
    }
}

#[tokio::test]
async fn a_release_lets_the_running_task_finish_and_no_other_begin() {
    for (behaviour, how) in WAYS {
        let mut manager = Manager::start().await;
        let agent = Agent::start(manager.address);
        let (mut link, _) = manager.welcome().await;
        let left = agent.path("left");
        let mut with_leave = order("e1", behaviour);
        let leave_file = variable("LEAVE_FILE", &left.display().to_string());
        with_leave
            .spec
            .as_mut()
            .expect("a spec")
            .environments
            .push(leave_file);
        link.bind(with_leave).await;
        let flag = agent.path("flag");
        let until = format!("until:{}", flag.display());
        link.tasks("e1", 1, &[&until, "behind", "last"]).await;
        agent.made("flag.begun").await;
        link.release("e1").await;
        no_task_begins(&agent, &mut link, behaviour).await;
        std::fs::write(&flag, "").expect("writable");
        let (results, _) = results(&mut link, 1).await;
        assert_eq!(output(&results[0]), "seen");
        let update = link.update().await;
        assert_eq!((update.phase(), update.running), (ExecutorPhase::Released, false));
        let lost: Vec<u64> = update.lost.iter().map(|task| task.task_id).collect();
        assert_eq!(lost, [2, 3], "{how}");
        assert!(left.exists(), "{how}: OnSessionLeave");
    }
}

#[tokio::test]
async fn a_release_ends_a_task_and_a_process_that_do_not_end_by_themselves() {
    // The first one does not end at SIGTERM either.
    for behaviour in ["stubborn", "stream"] {
        let mut manager = Manager::start().await;
        let _agent = Agent::start(manager.address);
        let (mut link, _) = manager.welcome().await;
        link.bind(order("e1", behaviour)).await;
        let service = link.process("e1").await;
        link.tasks("e1", 2, &["for-ever", "behind"]).await;
        link.release("e1").await;
        let update = link.update().await;
        assert_eq!((update.phase(), update.running), (ExecutorPhase::Released, true));
        let lost: Vec<u64> = update.lost.iter().map(|task| task.task_id).collect();
        assert_eq!(lost, [2, 3], "{behaviour}");
        service.gone().await;
    }
}
