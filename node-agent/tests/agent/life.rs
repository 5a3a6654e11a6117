//! Ends: of an idle service, of the agent.

use flame_rpc::node::{ExecutorPhase, from_agent};
use rustix::process::Signal;

use crate::harness::{Agent, Manager, Watched, order, within};

#[tokio::test]
async fn a_service_that_dies_while_idle_is_noticed_at_once() {
    let mut manager = Manager::start().await;
    let _agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    link.bind(order("e1", "ok")).await;
    let (_, pid) = link.run("e1", 1, "pid").await;
    let pid = rustix::process::Pid::from_raw(pid.parse().expect("a pid")).expect("not 0");
    rustix::process::kill_process(pid, Signal::ABORT).expect("it lives");
    let update = link.update().await;
    assert_eq!(
        (update.phase(), update.running, update.lost.len()),
        (ExecutorPhase::Died, false, 0)
    );
    assert!(update.message.contains("SIGABRT"), "{}", update.message);
}

#[tokio::test]
async fn an_orderly_stop_leaves_no_process_and_says_so() {
    let mut manager = Manager::start().await;
    let mut agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    link.bind(order("e1", "with-child")).await;
    let (_, pid) = link.run("e1", 1, "pid").await;
    let child = std::fs::read_to_string(agent.path("work/executors/node-1/e1/child")).expect("written");
    let processes = [&pid, &child].map(|pid| Watched::new(pid.parse().expect("a pid")).expect("it lives"));
    agent.signal(Signal::TERM);
    assert!(matches!(link.next_news().await, from_agent::Message::Draining(_)));
    assert_eq!(link.update().await.phase(), ExecutorPhase::Released);
    assert!(matches!(link.next_news().await, from_agent::Message::Leave(_)));
    drop(link);
    assert_eq!(agent.exit().await.code(), Some(0), "{}", agent.log());
    for process in &processes {
        process.gone().await;
    }
    assert_eq!(agent.list("work/executors/node-1"), [""; 0]);
}

#[tokio::test]
async fn a_second_signal_ends_the_agent_and_its_services_at_once() {
    let mut manager = Manager::start().await;
    let mut agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    link.bind(order("e1", "stubborn")).await;
    let (_, pid) = link.run("e1", 1, "pid").await;
    let service = Watched::new(pid.parse().expect("a pid")).expect("it lives");
    link.tasks("e1", 2, &["for-ever"]).await;
    agent.signal(Signal::TERM);
    assert!(matches!(link.next_news().await, from_agent::Message::Draining(_)));
    link.start(order("e2", "ok")).await;
    let answer = link.update().await;
    assert_eq!(answer.phase(), ExecutorPhase::BindFailed);
    assert!(answer.message.contains("stopping"), "{}", answer.message);
    agent.signal(Signal::INT);
    assert_eq!(agent.exit().await.code(), Some(143), "{}", agent.log());
    service.gone().await;
}

#[tokio::test]
async fn services_do_not_outlive_a_killed_agent_and_a_new_one_clears_up() {
    let mut manager = Manager::start().await;
    let mut agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    link.bind(order("e1", "with-child")).await;
    let (_, pid) = link.run("e1", 1, "pid").await;
    let service = Watched::new(pid.parse().expect("a pid")).expect("it lives");
    let child = std::fs::read_to_string(agent.path("work/executors/node-1/e1/child")).expect("written");
    let child = Watched::new(child.parse().expect("a pid")).expect("it lives");
    agent.signal(Signal::KILL);
    agent.exit().await;
    service.gone().await;
    assert_eq!(agent.list("work/sockets"), ["e1.sock"]);
    drop(link);

    let mut again = crate::harness::command(agent.home.path(), manager.address)
        .spawn()
        .expect("the agent starts");
    let (mut link, hello) = manager.welcome().await;
    assert!(hello.executors.is_empty());
    child.gone().await;
    assert_eq!(agent.list("work/sockets"), [""; 0]);
    assert_eq!(agent.list("work/executors/node-1"), [""; 0]);
    within(link.bind(order("e1", "ok"))).await;
    again.kill().expect("it lives");
    again.wait().expect("it has ended");
}
