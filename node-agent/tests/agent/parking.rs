//! When parked processes end: with their time, for the room of others, with the agent, by themselves.

use flame_rpc::node::{StartExecutor, from_agent};
use flame_rpc::v1::ResourceRequirement;
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Agent, Link, Manager, Watched, order, within};
use crate::reuse::{changed, reusable, served};

/// Three parked processes, in the order in which they were parked.
async fn three(link: &mut Link, behaviour: &str) -> [(String, Watched); 3] {
    let names = ["e1", "e2", "e3"];
    let mut pids = Vec::new();
    for name in names {
        link.bind(reusable(name, "session-1", behaviour)).await;
        pids.push(link.run(name, 1, "pid").await.1);
    }
    for name in names {
        link.released(name).await;
    }
    let watched = |pid: String| {
        let process = Watched::new(pid.parse().expect("a pid")).expect("it lives");
        (pid, process)
    };
    let parked: Vec<_> = pids.into_iter().map(watched).collect();
    parked.try_into().unwrap_or_else(|_| panic!("three"))
}

/// An order of another application that takes so many CPUs.
fn other(executor: &str, cpu: u64) -> StartExecutor {
    StartExecutor {
        application: "other".to_owned(),
        resreq: Some(ResourceRequirement {
            cpu,
            ..ResourceRequirement::default()
        }),
        ..order(executor, "ok")
    }
}

/// The agent has three CPUs, and all are taken by parked processes.
#[tokio::test]
async fn who_needs_room_has_those_ended_that_have_waited_longest_and_begins_after_their_end() {
    let mut manager = Manager::start().await;
    let agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    let [(_, first), (_, second), (pid, third)] = three(&mut link, "slow-exit").await;
    link.bind(other("e4", 2)).await;
    assert!(first.is_gone() && second.is_gone() && !third.is_gone());
    assert_eq!(agent.list("work/sockets"), ["e3.sock", "e4.sock"]);
    let (warm, _) = served(&mut link, reusable("e5", "session-3", "slow-exit")).await;
    assert_eq!(warm, pid, "there was no need to end this one");
}

#[tokio::test]
async fn two_that_need_room_at_the_same_time_both_get_it() {
    let mut manager = Manager::start().await;
    let _agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    let parked = three(&mut link, "slow-exit").await;
    link.start(other("e4", 1)).await;
    link.start(other("e5", 2)).await;
    for _ in 0..2 {
        let update = link.update().await;
        assert_eq!(
            update.phase(),
            flame_rpc::node::ExecutorPhase::Bound,
            "{}",
            update.message
        );
    }
    assert!(parked.iter().all(|(_, process)| process.is_gone()));
}

#[tokio::test]
async fn a_parked_process_counts_as_an_executor_where_their_number_is_limited() {
    let mut manager = Manager::start().await;
    let _agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome_with(2).await;
    let (_, first) = served(&mut link, reusable("e1", "session-1", "ok")).await;
    link.bind(other("e2", 0)).await;
    assert!(!first.is_gone(), "there is room for two");
    link.bind(other("e3", 0)).await;
    assert!(first.is_gone());
}

#[tokio::test]
async fn an_executor_that_waits_for_room_can_be_released() {
    let mut manager = Manager::start().await;
    let agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    let parked = three(&mut link, "slow-exit").await;
    link.start(other("e4", 3)).await;
    agent.made("work/executors/node-1/e1/ending").await;
    link.released("e4").await;
    for (_, process) in &parked {
        process.gone().await;
    }
    link.bind(other("e5", 3)).await;
    assert_eq!(agent.list("work/sockets"), ["e5.sock"]);
}

#[tokio::test]
async fn a_process_is_parked_for_as_long_as_an_executor_without_work_is_kept() {
    let mut manager = Manager::start().await;
    let agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    let wanted = |executor: &str, seconds: i64| {
        changed(reusable(executor, "session-1", "ok"), |_, spec| {
            spec.delay_release = Some(seconds);
        })
    };
    let (_, process) = served(&mut link, wanted("e1", 0)).await;
    assert!(process.is_gone(), "it was not parked at all");
    let begin = std::time::Instant::now();
    let (_, process) = served(&mut link, wanted("e2", 1)).await;
    assert!(!process.is_gone());
    process.gone().await;
    assert!(begin.elapsed() >= std::time::Duration::from_secs(1));
    // Its files go right after it.
    within(async {
        while !agent.list("work/sockets").is_empty() || !agent.list("work/executors/node-1").is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_time_counts_anew_each_time_that_it_is_parked() {
    let mut manager = Manager::start().await;
    let _agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    let wanted = |executor: &str| {
        changed(reusable(executor, "session-1", "ok"), |_, spec| {
            spec.delay_release = Some(1);
        })
    };
    let (pid, process) = served(&mut link, wanted("e1")).await;
    // Serves longer than it may be parked.
    link.bind(wanted("e2")).await;
    let until = std::time::Instant::now() + std::time::Duration::from_millis(1500);
    let mut task = 1;
    while std::time::Instant::now() < until {
        assert_eq!(link.run("e2", task, "pid").await.1, pid);
        task += 1;
    }
    assert!(!process.is_gone());
    link.released("e2").await;
    process.gone().await;
}

#[tokio::test]
async fn a_parked_process_that_dies_is_cleared_away_at_once() {
    let mut manager = Manager::start().await;
    let agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    let (pid, process) = served(&mut link, reusable("e1", "session-1", "ok")).await;
    let raw = Pid::from_raw(pid.parse().expect("a pid")).expect("not 0");
    kill_process(raw, Signal::KILL).expect("it lives");
    process.gone().await;
    agent
        .logged("a parked service process was killed by signal 9")
        .await;
    assert_eq!(agent.list("work/sockets"), [""; 0]);
    assert!(!std::path::Path::new("/proc").join(&pid).exists(), "no zombie");
    let (next, _) = served(&mut link, reusable("e2", "session-2", "ok")).await;
    assert_ne!(pid, next);
}

#[tokio::test]
async fn an_agent_that_stops_ends_parked_processes_and_parks_none() {
    let mut manager = Manager::start().await;
    let mut agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    link.bind(reusable("e1", "session-1", "slow-exit")).await;
    link.bind(reusable("e2", "session-1", "slow-exit")).await;
    let parked = link.process("e1").await;
    let serving = link.process("e2").await;
    link.released("e1").await;
    assert!(!parked.is_gone());
    agent.signal(Signal::TERM);
    assert!(matches!(link.next_news().await, from_agent::Message::Draining(_)));
    assert_eq!(link.update().await.executor_id, "e2");
    assert!(matches!(link.next_news().await, from_agent::Message::Leave(_)));
    drop(link);
    assert_eq!(agent.exit().await.code(), Some(0), "{}", agent.log());
    assert!(parked.is_gone() && serving.is_gone());
    assert_eq!(agent.list("work/sockets"), [""; 0]);
    assert_eq!(agent.list("work/executors/node-1"), [""; 0]);
}

#[tokio::test]
async fn a_parked_process_that_does_not_end_by_itself_is_killed() {
    let mut manager = Manager::start().await;
    let mut agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    let (_, parked) = served(&mut link, reusable("e1", "session-1", "stubborn")).await;
    agent.signal(Signal::TERM);
    assert!(matches!(link.next_news().await, from_agent::Message::Draining(_)));
    assert!(matches!(link.next_news().await, from_agent::Message::Leave(_)));
    drop(link);
    assert_eq!(agent.exit().await.code(), Some(0), "{}", agent.log());
    assert!(parked.is_gone());
}
