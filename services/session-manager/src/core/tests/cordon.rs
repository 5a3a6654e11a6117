//! Nodes in and out of service, and nodes whose link comes and goes.

use flame_rpc::v1::{NodePhase, NodeStatus};

use super::*;

impl Bed {
    fn node_status(&self, name: &str) -> NodeStatus {
        let node = self.core.get_node(name).expect("there");
        node.status.expect("set")
    }

    fn cordon(&mut self, name: &str, drain: bool) {
        let reason = Some("a new kernel".to_owned());
        self.run(|core, now, fx| core.cordon_node(name, drain, reason, now, fx))
            .expect("there");
    }

    fn uncordon(&mut self, name: &str) -> Result<(), CoreError> {
        self.run(|core, _, fx| core.uncordon_node(name, fx))
    }

    fn forget(&mut self, name: &str) -> Result<(), CoreError> {
        self.run(|core, now, fx| core.forget_node(name, now, fx))
    }
}

#[test]
fn a_cordoned_node_goes_on_and_gets_no_new_executors() {
    let (mut bed, link) = bound(2, 1);
    bed.cordon("n", false);
    bed.tasks("s", 3);
    assert_eq!(bed.started.len(), 1);
    bed.finish_handed(link);
    assert_eq!(bed.handed.len(), 1, "the executor that it has goes on");
    let status = bed.node_status("n");
    assert_eq!(
        (status.cordoned, status.draining, status.executors),
        (true, false, 1)
    );
    assert_eq!(status.state(), flame_rpc::v1::NodeState::Ready);
    assert_eq!(status.cordon_reason.as_deref(), Some("a new kernel"));
    bed.uncordon("n").expect("there");
    bed.uncordon("n").expect("repeated");
    assert_eq!(bed.started.len(), 2);
    let records = bed
        .records
        .iter()
        .filter(|record| matches!(record, Record::NodeCordoned(_) | Record::NodeUncordoned(_)));
    assert_eq!(records.count(), 2);
}

#[test]
fn a_drained_node_ends_what_it_runs() {
    let (mut bed, link) = bound(3, 2);
    bed.session(
        "idle",
        SessionSpec {
            min_instances: 1,
            ..spec("app")
        },
    );
    bed.cordon("n", true);
    assert_eq!(bed.releasing.len(), 1, "the one without work at once");
    bed.tasks("s", 2);
    bed.finish_handed(link);
    assert_eq!(bed.releasing.len(), 3, "the others after their tasks");
    assert_eq!(bed.ended.len(), 2);
    assert_eq!(bed.node_status("n").executors, 3);
    bed.release_all(link);
    assert_eq!((bed.node_status("n").executors, bed.started.len()), (0, 0));
    // A cordon does not make less of it.
    bed.cordon("n", false);
    assert!(bed.node_status("n").draining);
    bed.uncordon("n").expect("there");
    assert_eq!(bed.started.len(), 3);
}

#[test]
fn a_cordon_outlives_agents_and_session_managers() {
    let (mut bed, _) = bound(2, 1);
    bed.cordon("n", true);
    bed.started.clear();
    bed.handed.clear();
    bed.connect("n", 2, Vec::new());
    assert!(bed.started.is_empty() && bed.node_status("n").draining);
    let cordons = bed.records.iter().filter_map(|record| match record {
        Record::NodeCordoned(cordon) => Some(cordon.clone()),
        _ => None,
    });
    let snapshot = Snapshot {
        generation: 2,
        applications: bed.core.applications.values().cloned().collect(),
        cordons: cordons.collect(),
        ..Snapshot::default()
    };
    let mut bed = Bed::with(config(), snapshot);
    bed.session("s", spec("app"));
    bed.tasks("s", 1);
    bed.node("n", 2);
    assert!(bed.started.is_empty() && bed.node_status("n").draining);
    bed.uncordon("n").expect("there");
    assert_eq!(bed.started.len(), 1);
}

#[test]
fn only_what_is_not_connected_is_forgotten() {
    let (mut bed, link) = bound(1, 1);
    assert!(matches!(bed.forget("n"), Err(CoreError::Precondition(_))));
    bed.cordon("n", false);
    bed.run(|core, _, fx| core.node_disconnected(link, fx));
    bed.forget("n").expect("not connected");
    assert!(matches!(bed.forget("n"), Err(CoreError::NotFound(_))));
    assert!(
        matches!(bed.uncordon("n"), Err(CoreError::NotFound(_))),
        "its cordon is gone, too"
    );
    assert_eq!(bed.core.summary().pending, 1, "its task is somebody else's");
    bed.started.clear();
    bed.node("other", 1);
    assert_eq!(bed.started.len(), 1);
}

#[test]
fn nodes_that_do_not_exist_are_not_found() {
    let mut bed = Bed::new();
    let cordoned = bed.run(|core, now, fx| core.cordon_node("x", true, None, now, fx));
    assert!(matches!(cordoned, Err(CoreError::NotFound(_))));
    assert!(matches!(bed.uncordon("x"), Err(CoreError::NotFound(_))));
    assert!(matches!(bed.forget("x"), Err(CoreError::NotFound(_))));
}

#[test]
fn a_node_whose_link_comes_and_goes_is_held_until_it_is_stable() {
    let mut bed = Bed::new();
    let mut link = bed.node("n", 1);
    bed.session("s", spec("app"));
    bed.tasks("s", 1);
    for _ in 0..3 {
        bed.run(|core, _, fx| core.node_disconnected(link, fx));
        bed.wait(Duration::from_secs(2));
        bed.started.clear();
        link = bed.node("n", 1);
    }
    assert!(bed.started.is_empty(), "what is started there is lost");
    let status = bed.node_status("n");
    assert_eq!(
        (status.phase(), status.held_until),
        (NodePhase::Ready, Some(bed.now.wall + 15_000))
    );
    let deadline = bed.core.next_deadline(bed.now).expect("set");
    assert!(deadline <= bed.now.mono + Duration::from_secs(15));
    bed.wait(Duration::from_secs(14));
    bed.say(link, from_agent::Message::Heartbeat(node::Heartbeat::default()));
    assert!(bed.started.is_empty());
    bed.wait(Duration::from_secs(1));
    assert_eq!(bed.started.len(), 1);
    assert_eq!(bed.node_status("n").held_until, None);
}

#[test]
fn an_agent_that_is_restarted_in_an_orderly_way_does_not_flap() {
    let mut bed = Bed::new();
    bed.session("s", spec("app"));
    bed.tasks("s", 1);
    let mut link = bed.node("n", 1);
    for _ in 0..5 {
        bed.say(link, from_agent::Message::Leave(node::Leave::default()));
        bed.started.clear();
        link = bed.node("n", 1);
    }
    assert_eq!(bed.started.len(), 1);
}
