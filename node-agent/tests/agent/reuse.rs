//! A process of a reusable application serves one session after the other, and no other process does.

use flame_rpc::node::{ExecutorPhase, StartExecutor, from_agent};
use flame_rpc::v1::{ApplicationSpec, ResourceRequirement};

use rustix::process::Signal;

use crate::harness::{Agent, Link, Manager, Watched, order, variable};
use crate::tasks::no_task_begins;

/// An order of session `session` for a process that takes one CPU and is kept for a minute.
pub(crate) fn reusable(executor: &str, session: &str, behaviour: &str) -> StartExecutor {
    changed(order(executor, behaviour), |order, spec| {
        order.session_id = session.to_owned();
        order.application_revision = "1-1".to_owned();
        order.resreq = Some(ResourceRequirement {
            cpu: 1,
            ..ResourceRequirement::default()
        });
        spec.reusable = true;
        spec.delay_release = Some(60);
    })
}

pub(crate) fn changed(
    mut order: StartExecutor,
    change: impl FnOnce(&mut StartExecutor, &mut ApplicationSpec),
) -> StartExecutor {
    let mut spec = order.spec.take().expect("a spec");
    change(&mut order, &mut spec);
    order.spec = Some(spec);
    order
}

/// Binds, asks for the process, and releases.
pub(crate) async fn served(link: &mut Link, order: StartExecutor) -> (String, Watched) {
    let executor = order.executor_id.clone();
    link.bind(order).await;
    let (_, pid) = link.run(&executor, 1, "pid").await;
    let process = Watched::new(pid.parse().expect("a pid")).expect("it lives");
    link.released(&executor).await;
    (pid, process)
}

#[tokio::test]
async fn a_reusable_process_serves_one_session_after_the_other() {
    for behaviour in ["ok", "stream"] {
        let mut manager = Manager::start().await;
        let mut agent = Agent::start(manager.address);
        let (mut link, _) = manager.welcome().await;
        let left = agent.path("left");
        let wanted = |executor: &str, session: &str| {
            changed(reusable(executor, session, behaviour), |_, spec| {
                let path = left.display().to_string();
                spec.environments.push(variable("LEAVE_FILE", &path));
            })
        };
        let (pid, _) = served(&mut link, wanted("e1", "session-1")).await;
        assert!(left.exists(), "OnSessionLeave came first");
        std::fs::remove_file(&left).expect("there");

        link.bind(wanted("e2", "session-2")).await;
        // The same number as before, in another session.
        link.tasks("e2", 1, &["pid"]).await;
        let batch = link.batch().await;
        link.ack(batch.sequence).await;
        let done = &batch.results[0];
        assert_eq!(
            (done.executor_id.as_str(), done.session_id.as_str(), done.task_id),
            ("e2", "session-2", 1)
        );
        assert_eq!(done.output.as_deref(), Some(pid.as_bytes()), "{behaviour}");
        let sessions = link.run("e2", 2, "sessions").await;
        assert_eq!(sessions, (0, "session-1,session-2".to_owned()));
        let failed = link.run("e2", 3, "fail").await;
        assert_eq!(failed.0, 7);
        link.released("e2").await;
        assert!(left.exists(), "OnSessionLeave of the second session");

        let (third, _) = served(&mut link, wanted("e3", "session-3")).await;
        assert_eq!(
            third, pid,
            "a task that failed as the service says is no failure of the service"
        );
        agent.signal(Signal::TERM);
        assert!(matches!(link.next_news().await, from_agent::Message::Draining(_)));
        assert!(matches!(link.next_news().await, from_agent::Message::Leave(_)));
        drop(link);
        assert_eq!(agent.exit().await.code(), Some(0));
        assert!(agent.log().contains("reused=2"), "{}", agent.log());
    }
}

#[tokio::test]
async fn other_applications_get_a_new_process_for_each_session() {
    let mut manager = Manager::start().await;
    let _agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    let wanted = |executor: &str, session: &str| {
        changed(reusable(executor, session, "ok"), |_, spec| spec.reusable = false)
    };
    let (first, process) = served(&mut link, wanted("e1", "session-1")).await;
    assert!(process.is_gone(), "it ended before the release was told");
    let (second, _) = served(&mut link, wanted("e2", "session-2")).await;
    assert_ne!(first, second);
}

#[tokio::test]
async fn a_process_serves_one_session_at_a_time() {
    let mut manager = Manager::start().await;
    let _agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    let (first, _) = served(&mut link, reusable("e1", "session-1", "ok")).await;
    link.bind(reusable("e2", "session-2", "ok")).await;
    link.bind(reusable("e3", "session-2", "ok")).await;
    let (_, second) = link.run("e2", 1, "pid").await;
    let (_, third) = link.run("e3", 2, "pid").await;
    assert_eq!(first, second);
    assert_ne!(second, third);
}

#[tokio::test]
async fn a_changed_application_gets_new_processes_and_the_old_ones_end() {
    let mut manager = Manager::start().await;
    let _agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    let (mut old, mut process) = served(&mut link, reusable("e1", "session-1", "ok")).await;
    type Change = fn(&mut StartExecutor, &mut ApplicationSpec);
    let changes: [(&str, Change); 3] = [
        ("e2", |order, _| order.application_revision = "1-2".to_owned()),
        ("e3", |_, spec| spec.environments.push(variable("NEW", "1"))),
        ("e4", |_, spec| spec.reusable = false),
    ];
    for (executor, change) in changes {
        let order = changed(reusable(executor, "session-2", "ok"), change);
        let (new, next) = served(&mut link, order).await;
        assert_ne!(new, old, "{executor}");
        process.gone().await;
        (old, process) = (new, next);
    }
}

#[tokio::test]
async fn another_amount_of_resources_gets_a_new_process_and_the_old_one_stays() {
    let mut manager = Manager::start().await;
    let _agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    let (first, _) = served(&mut link, reusable("e1", "session-1", "ok")).await;
    let larger = changed(reusable("e2", "session-2", "ok"), |order, _| {
        order.resreq = Some(ResourceRequirement {
            cpu: 2,
            ..ResourceRequirement::default()
        });
    });
    let (second, _) = served(&mut link, larger).await;
    assert_ne!(first, second);
    let (third, _) = served(&mut link, reusable("e3", "session-3", "ok")).await;
    assert_eq!(first, third);
}

#[tokio::test]
async fn a_process_in_which_anything_failed_is_not_used_again() {
    for (behaviour, task) in [
        ("ok", "status"),
        ("stream", "break-stream"),
        ("stream", "end-stream"),
        ("leave-fails", "fine"),
        // What it says late, and a stream that it does not end, could be taken for the next session's.
        ("stream-repeats", "fine"),
        ("stream-lingers", "fine"),
    ] {
        let mut manager = Manager::start().await;
        let _agent = Agent::start(manager.address);
        let (mut link, _) = manager.welcome().await;
        link.bind(reusable("e1", "session-1", behaviour)).await;
        let process = link.process("e1").await;
        link.run("e1", 2, task).await;
        link.released("e1").await;
        assert!(process.is_gone(), "{behaviour} {task}");
        link.bind(reusable("e2", "session-2", behaviour)).await;
        // Under the numbers of tasks of the old session.
        for (number, input) in [(1, "one"), (2, "two")] {
            assert_eq!(
                link.run("e2", number, input).await,
                (0, input.to_owned()),
                "{behaviour}"
            );
        }
    }
}

#[tokio::test]
async fn a_process_whose_task_was_given_up_is_not_used_again() {
    for behaviour in ["ok", "stream"] {
        let mut manager = Manager::start().await;
        let _agent = Agent::start(manager.address);
        let (mut link, _) = manager.welcome().await;
        link.bind(reusable("e1", "session-1", behaviour)).await;
        let process = link.process("e1").await;
        link.tasks("e1", 2, &["for-ever"]).await;
        link.give_up("e1").await;
        let update = link.update().await;
        assert_eq!((update.phase(), update.running), (ExecutorPhase::Released, true));
        assert!(process.is_gone(), "{behaviour}");
    }
}

/// Tasks that were sent in advance and taken back leave nothing behind in a process that is used again.
#[tokio::test]
async fn a_process_is_used_again_after_a_release_with_tasks_in_advance() {
    for behaviour in ["ok", "stream"] {
        let mut manager = Manager::start().await;
        let agent = Agent::start(manager.address);
        let (mut link, _) = manager.welcome().await;
        link.bind(reusable("e1", "session-1", behaviour)).await;
        let (_, pid) = link.run("e1", 1, "pid").await;
        let flag = agent.path("flag");
        link.tasks("e1", 2, &[&format!("until:{}", flag.display()), "old", "old"])
            .await;
        agent.made("flag.begun").await;
        link.release("e1").await;
        no_task_begins(&agent, &mut link, behaviour).await;
        std::fs::write(&flag, "").expect("writable");
        let batch = link.batch().await;
        assert_eq!((batch.results.len(), batch.results[0].task_id), (1, 2));
        link.ack(batch.sequence).await;
        let update = link.update().await;
        assert_eq!((update.phase(), update.lost.len()), (ExecutorPhase::Released, 2));
        link.bind(reusable("e2", "session-2", behaviour)).await;
        for (number, input) in [(3, "three"), (4, "four")] {
            assert_eq!(
                link.run("e2", number, input).await,
                (0, input.to_owned()),
                "{behaviour}"
            );
        }
        assert_eq!(link.run("e2", 5, "pid").await.1, pid, "{behaviour}");
    }
}

#[tokio::test]
async fn a_parked_process_that_cannot_be_reached_is_replaced_without_a_word() {
    let mut manager = Manager::start().await;
    let agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    let ask = agent.path("hang-up");
    let wanted = |executor: &str, session: &str| {
        changed(reusable(executor, session, "ok"), |_, spec| {
            let path = ask.display().to_string();
            spec.environments.push(variable("HANG_UP_FILE", &path));
        })
    };
    let (first, process) = served(&mut link, wanted("e1", "session-1")).await;
    std::fs::write(&ask, "").expect("writable");
    agent.made("work/executors/node-1/e1/hung-up").await;
    std::fs::remove_file(&ask).expect("there");
    assert!(!process.is_gone());
    let (second, _) = served(&mut link, wanted("e2", "session-2")).await;
    assert_ne!(first, second);
    process.gone().await;
}

#[tokio::test]
async fn a_session_that_kills_two_processes_in_a_row_has_failed_to_bind() {
    let mut manager = Manager::start().await;
    let agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    let (_, process) = served(&mut link, reusable("e1", "session-1", "ok")).await;
    let deadly = changed(reusable("e2", "session-2", "ok"), |order, _| {
        order.common_data = Some("die".into());
    });
    link.start(deadly).await;
    let update = link.update().await;
    assert_eq!((update.phase(), update.code), (ExecutorPhase::BindFailed, 12));
    assert!(update.message.contains("status 4"), "{}", update.message);
    process.gone().await;
    agent.logged("a new service process is started").await;
}

#[tokio::test]
async fn a_session_that_is_refused_by_a_parked_process_has_failed_to_bind() {
    let mut manager = Manager::start().await;
    let _agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    let (_, process) = served(&mut link, reusable("e1", "session-1", "ok")).await;
    let refused = changed(reusable("e2", "session-2", "ok"), |order, _| {
        order.common_data = Some("refuse".into());
    });
    link.start(refused).await;
    let update = link.update().await;
    assert_eq!((update.phase(), update.code), (ExecutorPhase::BindFailed, 12));
    assert_eq!(update.message, "I refuse this one");
    assert!(process.is_gone());
}

#[tokio::test]
async fn an_executor_can_be_released_while_it_enters_a_parked_process() {
    let mut manager = Manager::start().await;
    let agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    let (_, process) = served(&mut link, reusable("e1", "session-1", "ok")).await;
    let endless = changed(reusable("e2", "session-2", "ok"), |order, _| {
        order.common_data = Some("hang".into());
    });
    link.start(endless).await;
    agent.made("work/executors/node-1/e1/hanging").await;
    link.released("e2").await;
    assert!(process.is_gone());
    assert_eq!(agent.list("work/sockets"), [""; 0]);
}

#[tokio::test]
async fn what_a_process_prints_belongs_to_the_session_that_it_serves() {
    let mut manager = Manager::start().await;
    let agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    link.bind(reusable("e1", "session-1", "ok")).await;
    link.run("e1", 1, "say:secret").await;
    link.released("e1").await;
    link.bind(reusable("e2", "session-2", "ok")).await;
    link.run("e2", 1, "say:hello").await;
    link.tasks("e2", 2, &["die"]).await;
    let update = link.update().await;
    assert_eq!(update.phase(), ExecutorPhase::Died);
    assert!(update.message.contains("err: hello"), "{}", update.message);
    assert!(!update.message.contains("secret"), "{}", update.message);
    for (file, own, other) in [
        ("e1.out", "out: secret", "hello"),
        ("e1.err", "err: secret", "hello"),
        ("e2.out", "out: hello", "secret"),
        ("e2.err", "err: hello", "secret"),
    ] {
        let text = std::fs::read_to_string(agent.path("logs/executors").join(file)).expect(file);
        assert!(text.contains(own) && !text.contains(other), "{file}: {text}");
    }
}

#[tokio::test]
async fn a_parked_process_is_no_executor_for_the_session_manager() {
    let mut manager = Manager::start().await;
    let agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    let (first, _) = served(&mut link, reusable("e1", "session-1", "ok")).await;
    drop(link);
    agent.logged("no link to the session manager").await;
    let (mut link, hello) = manager.welcome().await;
    assert!(hello.executors.is_empty());
    let (second, _) = served(&mut link, reusable("e2", "session-2", "ok")).await;
    assert_eq!(first, second);
}
