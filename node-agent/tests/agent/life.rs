//! Ends: of a service in a task, of an idle one, of the agent.

use flame_rpc::node::{ExecutorPhase, from_agent};
use rustix::process::Signal;

use crate::harness::{Agent, Manager, Watched, order, within};

#[tokio::test]
async fn a_service_that_dies_in_a_task_loses_it_and_those_behind_it() {
    let mut manager = Manager::start().await;
    let _agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    link.bind(order("e1", "ok")).await;
    link.tasks("e1", 1, &["fine", "die", "never", "never"]).await;
    let batch = link.batch().await;
    assert_eq!((batch.results.len(), batch.results[0].task_id), (1, 1));
    let update = link.update().await;
    assert_eq!((update.phase(), update.running), (ExecutorPhase::Died, true));
    let lost: Vec<u64> = update.lost.iter().map(|task| task.task_id).collect();
    assert_eq!(lost, [2, 3, 4]);
    for part in ["exited with status 3", "dying as asked"] {
        assert!(update.message.contains(part), "{}", update.message);
    }
    link.bind(order("e2", "ok")).await;
    assert_eq!(link.run("e2", 2, "again").await, (0, "again".to_owned()));
}

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
async fn a_service_that_hangs_up_fails_its_task_and_no_other() {
    let mut manager = Manager::start().await;
    let _agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    link.bind(order("e1", "ok")).await;
    let (_, pid) = link.run("e1", 1, "pid").await;
    let service = Watched::new(pid.parse().expect("a pid")).expect("it lives");
    link.tasks("e1", 2, &["hang-up", "behind"]).await;
    let batch = link.batch().await;
    let done = &batch.results[0];
    assert_eq!((done.task_id, done.return_code), (2, -1));
    let update = link.update().await;
    assert_eq!((update.phase(), update.running), (ExecutorPhase::Died, false));
    assert_eq!((update.lost.len(), update.lost[0].task_id), (1, 3));
    assert!(update.message.contains("no longer answers"), "{}", update.message);
    service.gone().await;
}

#[tokio::test]
async fn a_release_lets_the_running_task_finish() {
    let mut manager = Manager::start().await;
    let agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    link.bind(order("e1", "ok")).await;
    let flag = agent.path("flag");
    link.tasks("e1", 1, &[&format!("until:{}", flag.display()), "behind"])
        .await;
    link.release("e1").await;
    // Its answer says that the release before it has arrived.
    link.release("never").await;
    assert_eq!(link.update().await.executor_id, "never");
    std::fs::write(&flag, "").expect("writable");
    assert_eq!(
        link.batch().await.results[0].output.as_deref(),
        Some(&b"seen"[..])
    );
    let update = link.update().await;
    assert_eq!((update.phase(), update.running), (ExecutorPhase::Released, false));
    assert_eq!((update.lost.len(), update.lost[0].task_id), (1, 2));
}

#[tokio::test]
async fn recalled_tasks_are_given_back_and_the_running_one_goes_on() {
    let mut manager = Manager::start().await;
    let agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    link.bind(order("e1", "ok")).await;
    let flag = agent.path("flag");
    link.tasks("e1", 1, &[&format!("until:{}", flag.display()), "behind", "last"])
        .await;
    link.recall("e1").await;
    let returned = match link.next_news().await {
        from_agent::Message::Returned(returned) => returned,
        other => panic!("{other:?}"),
    };
    let tasks: Vec<u64> = returned.tasks.iter().map(|task| task.task_id).collect();
    assert_eq!((returned.executor_id.as_str(), tasks), ("e1", vec![2, 3]));
    std::fs::write(&flag, "").expect("writable");
    let batch = link.batch().await;
    assert_eq!((batch.results.len(), batch.results[0].task_id), (1, 1));
    link.ack(batch.sequence).await;
    assert_eq!(link.run("e1", 2, "again").await, (0, "again".to_owned()));
}

#[tokio::test]
async fn a_release_ends_a_task_and_a_process_that_do_not_end_by_themselves() {
    let mut manager = Manager::start().await;
    let _agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    link.bind(order("e1", "stubborn")).await;
    let (_, pid) = link.run("e1", 1, "pid").await;
    let service = Watched::new(pid.parse().expect("a pid")).expect("it lives");
    link.tasks("e1", 2, &["for-ever"]).await;
    link.release("e1").await;
    let update = link.update().await;
    assert_eq!((update.phase(), update.running), (ExecutorPhase::Released, true));
    assert_eq!((update.lost.len(), update.lost[0].task_id), (1, 2));
    service.gone().await;
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
