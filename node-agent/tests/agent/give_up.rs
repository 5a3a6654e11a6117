//! Tasks that nobody waits for any more: their service process is ended at once.

use std::time::Instant;

use flame_node_agent::executor::FINISH_LIMIT;
use flame_rpc::node::ExecutorPhase;

use crate::harness::{Agent, Link, Manager, Watched, order};

/// An executor of that behaviour with a task that never ends and one behind it.
async fn endless(link: &mut Link, behaviour: &str) -> Watched {
    link.bind(order("e1", behaviour)).await;
    let (_, pid) = link.run("e1", 1, "pid").await;
    let service = Watched::new(pid.parse().expect("a pid")).expect("it lives");
    link.tasks("e1", 2, &["for-ever", "behind"]).await;
    service
}

#[tokio::test]
async fn a_task_that_is_given_up_is_not_waited_for() {
    for behaviour in ["ok", "stream"] {
        let mut manager = Manager::start().await;
        let _agent = Agent::start(manager.address);
        let (mut link, _) = manager.welcome().await;
        let service = endless(&mut link, behaviour).await;
        let asked = Instant::now();
        link.give_up("e1").await;
        let update = link.update().await;
        assert_eq!(update.phase(), ExecutorPhase::Released, "{behaviour}");
        assert!(update.running, "{behaviour}");
        let lost: Vec<u64> = update.lost.iter().map(|task| task.task_id).collect();
        assert_eq!(lost, [2, 3], "{behaviour}");
        assert!(
            asked.elapsed() < FINISH_LIMIT,
            "{behaviour}: {:?}",
            asked.elapsed()
        );
        service.gone().await;
    }
}

#[tokio::test]
async fn a_release_may_be_followed_by_one_that_does_not_wait() {
    for behaviour in ["ok", "stream"] {
        let mut manager = Manager::start().await;
        let _agent = Agent::start(manager.address);
        let (mut link, _) = manager.welcome().await;
        let service = endless(&mut link, behaviour).await;
        let asked = Instant::now();
        link.release("e1").await;
        // Its answer says that the release before it has arrived.
        link.release("never").await;
        assert_eq!(link.update().await.executor_id, "never");
        link.give_up("e1").await;
        let update = link.update().await;
        assert_eq!((update.phase(), update.running), (ExecutorPhase::Released, true));
        assert!(
            asked.elapsed() < FINISH_LIMIT,
            "{behaviour}: {:?}",
            asked.elapsed()
        );
        service.gone().await;
    }
}
