//! The agent ends: after a while without work, after its one session, at the end of its time, and how
//! long tasks may go on then.

use std::time::{Duration, Instant};

use flame_rpc::node::{ExecutorPhase, LeaveAnswer, from_agent, to_agent};
use rustix::process::Signal;

use crate::harness::{Agent, Link, Manager, order};

async fn asked(link: &mut Link) -> String {
    match link.next_news().await {
        from_agent::Message::LeaveRequest(request) => request.reason,
        other => panic!("not a question: {other:?}"),
    }
}

async fn answer(link: &Link, granted: bool) {
    link.send(to_agent::Message::LeaveAnswer(LeaveAnswer {
        granted,
        reason: "as the test wants it".to_owned(),
    }))
    .await;
}

/// The agent says that it takes no more work, and leaves; the reason that it gives.
async fn leaves(link: &mut Link) -> String {
    let from_agent::Message::Draining(draining) = link.next_news().await else {
        panic!("it drains first");
    };
    assert!(matches!(link.next_news().await, from_agent::Message::Leave(_)));
    draining.reason
}

/// The agent has left and ends in order.
async fn ends(agent: &mut Agent, link: Link) {
    drop(link);
    assert_eq!(agent.exit().await.code(), Some(0), "{}", agent.log());
}

/// An agent at the end of its time, with a task that runs until the file is there.
async fn drains() -> (Agent, Link, String) {
    let mut manager = Manager::start().await;
    let agent = Agent::start_with(manager.address, "[life]\nmax_lifetime = \"2s\"\n");
    let (mut link, _) = manager.welcome().await;
    link.bind(order("e1", "ok")).await;
    let told = agent.path("told").display().to_string();
    link.tasks("e1", 1, &[format!("until:{told}").as_str()]).await;
    let from_agent::Message::Draining(draining) = link.next_news().await else {
        panic!("it drains");
    };
    assert!(draining.reason.contains("max_lifetime"), "{}", draining.reason);
    (agent, link, told)
}

#[tokio::test]
async fn an_idle_agent_leaves_only_when_the_manager_agrees() {
    let mut manager = Manager::start().await;
    let mut agent = Agent::start_with(manager.address, "[life]\nidle_timeout = \"1s\"\n");
    let (mut link, _) = manager.welcome().await;
    let reason = asked(&mut link).await;
    assert!(reason.contains("idle_timeout"), "{reason}");
    // Work is on its way.
    answer(&link, false).await;
    link.bind(order("e1", "ok")).await;
    assert_eq!(link.run("e1", 1, "a").await.0, 0);
    link.released("e1").await;
    asked(&mut link).await;
    answer(&link, true).await;
    leaves(&mut link).await;
    ends(&mut agent, link).await;
}

#[tokio::test]
async fn an_agent_that_cannot_ask_is_not_idle() {
    let mut manager = Manager::start().await;
    let mut agent = Agent::start_with(manager.address, "[life]\nidle_timeout = \"1s\"\n");
    let (mut link, _) = manager.welcome().await;
    asked(&mut link).await;
    // The answer is lost with the link, and the manager takes its time.
    drop(link);
    let (mut link, _) = manager.hello().await;
    let told = link.nothing_for(Duration::from_secs(3)).await;
    assert!(told && agent.is_running(), "{}", agent.log());
    link.say_welcome().await;
    asked(&mut link).await;
    answer(&link, true).await;
    leaves(&mut link).await;
    ends(&mut agent, link).await;
}

#[tokio::test]
async fn an_agent_with_an_executor_is_not_idle_and_one_with_a_parked_process_is() {
    let mut manager = Manager::start().await;
    let _agent = Agent::start_with(manager.address, "[life]\nidle_timeout = \"1s\"\n");
    let (mut link, _) = manager.welcome().await;
    link.bind(order("e1", "ok")).await;
    // Heartbeats are 100 ms apart.
    for _ in 0..15 {
        let message = link.next().await;
        assert!(
            matches!(message, from_agent::Message::Heartbeat(_)),
            "{message:?}"
        );
    }
    link.released("e1").await;
    asked(&mut link).await;
}

#[tokio::test]
async fn an_ephemeral_agent_leaves_after_the_work_of_its_session() {
    let mut manager = Manager::start().await;
    let mut agent = Agent::start_with(manager.address, "[life]\nephemeral = true\n");
    let (mut link, hello) = manager.welcome().await;
    assert!(hello.ephemeral);
    // A failure to bind is no work.
    link.start(order("e1", "refuse")).await;
    assert_eq!(link.update().await.phase(), ExecutorPhase::BindFailed);
    link.bind(order("e2", "ok")).await;
    assert_eq!(link.run("e2", 1, "a").await.0, 0);
    link.released("e2").await;
    let reason = asked(&mut link).await;
    assert!(reason.contains("ephemeral"), "{reason}");
    answer(&link, true).await;
    leaves(&mut link).await;
    ends(&mut agent, link).await;
}

#[tokio::test]
async fn an_agent_drains_at_the_end_of_its_time_and_lets_the_task_finish_whatever_a_signal_says() {
    let (mut agent, mut link, told) = drains().await;
    agent.signal(Signal::TERM);
    agent.logged("asked to stop, which it does already").await;
    std::fs::write(told, "").expect("writable");
    let batch = link.batch().await;
    assert_eq!(batch.results[0].return_code, 0);
    link.ack(batch.sequence).await;
    assert_eq!(link.update().await.phase(), ExecutorPhase::Released);
    assert!(matches!(link.next_news().await, from_agent::Message::Leave(_)));
    ends(&mut agent, link).await;
}

#[tokio::test]
async fn a_second_signal_ends_an_agent_that_drains_at_once() {
    let (mut agent, _link, _) = drains().await;
    agent.signal(Signal::TERM);
    agent.logged("asked to stop, which it does already").await;
    agent.signal(Signal::TERM);
    assert_eq!(agent.exit().await.code(), Some(143), "{}", agent.log());
}

#[tokio::test]
async fn a_task_has_the_time_to_finish_that_the_administrator_gives_it() {
    let mut manager = Manager::start().await;
    let mut agent = Agent::start_with(manager.address, "[life]\ndrain_timeout = \"1s\"\n");
    let (mut link, _) = manager.welcome().await;
    link.bind(order("e1", "ok")).await;
    let never = agent.path("never").display().to_string();
    link.tasks("e1", 1, &[format!("until:{never}").as_str()]).await;
    agent.made("never.begun").await;
    let began = Instant::now();
    agent.signal(Signal::TERM);
    assert!(matches!(link.next_news().await, from_agent::Message::Draining(_)));
    let update = link.update().await;
    let took = began.elapsed();
    assert_eq!((update.phase(), update.lost.len()), (ExecutorPhase::Released, 1));
    assert!(took >= Duration::from_secs(1), "{took:?}");
    assert!(
        took < Duration::from_secs(5),
        "not the time of a release: {took:?}"
    );
    assert!(matches!(link.next_news().await, from_agent::Message::Leave(_)));
    ends(&mut agent, link).await;
}
