//! What a node says of itself, and when its silence counts.

use flame_rpc::v1::NodePhase;

use super::*;

impl Bed {
    /// The shell says that something of `node` arrived then, although it was not looked at.
    fn heard(&mut self, node: &str, at: Duration) {
        let node = name(node);
        self.run(|core, now, fx| core.node_heard(&node, at, now, fx));
    }

    fn phase(&self, node: &str) -> NodePhase {
        let node = self.core.get_node(node).expect("there");
        node.status.expect("set").phase()
    }
}

/// An agent connects with these labels; the first link of its name, or a later one.
fn connect(bed: &mut Bed, link: LinkId, name: &str, labels: &[&str]) {
    let hello = NodeHello {
        labels: Arc::new(labels.iter().map(|label| (*label).to_owned()).collect()),
        ..Bed::hello(name, 2)
    };
    bed.run(|core, now, fx| core.node_connected(link, "test", hello, Vec::new(), now, fx));
}

fn selecting(key: &str, value: &str) -> SessionSpec {
    SessionSpec {
        node_selector: [(key.to_owned(), value.to_owned())].into(),
        ..spec("app")
    }
}

#[test]
fn a_session_that_waits_for_a_label_runs_when_a_node_registers_with_it() {
    let mut bed = Bed::new();
    connect(&mut bed, 1, "n", &["gpu=no"]);
    bed.session("s", selecting("gpu", "yes"));
    bed.tasks("s", 1);
    assert!(bed.started.is_empty());
    connect(&mut bed, 2, "n", &["gpu=yes", "zone=a"]);
    assert_eq!(bed.started.len(), 1, "at once");
    let node = bed.core.get_node("n").expect("there");
    assert_eq!(node.status.expect("set").labels, ["gpu=yes", "zone=a"]);
}

/// Defect 41. Nothing is handled for two minutes, and heartbeats come all the time.
#[test]
fn a_node_whose_heartbeats_wait_to_be_handled_is_not_silent() {
    let (mut bed, _) = bound(1, 1);
    let handed = bed.handed.clone();
    for _ in 0..24 {
        bed.now.mono += Duration::from_secs(5);
        bed.now.wall += 5_000;
        let arrived = bed.now.mono - Duration::from_secs(1);
        bed.heard("n", arrived);
        assert_eq!(bed.phase("n"), NodePhase::Ready);
    }
    let status = bed.core.get_node("n").expect("there").status.expect("set");
    assert_eq!(
        status.last_heartbeat_time,
        bed.now.wall - 1_000,
        "and people see when it was"
    );
    assert_eq!(bed.handed, handed, "nothing was given to others");
    // Silence counts from the last of them, also if an older one is told later.
    bed.heard("n", bed.now.mono - Duration::from_secs(10));
    bed.wait(model::SUSPECT_AFTER - Duration::from_secs(2));
    assert_eq!(bed.phase("n"), NodePhase::Ready);
    bed.wait(Duration::from_secs(1));
    assert_eq!(bed.phase("n"), NodePhase::Suspect);
    // What arrived long ago is no news of today.
    bed.heard("n", bed.now.mono - model::SUSPECT_AFTER + Duration::from_secs(1));
    assert_eq!(bed.phase("n"), NodePhase::Ready);
    bed.wait(Duration::from_secs(1));
    assert_eq!(bed.phase("n"), NodePhase::Suspect);
}

#[test]
fn what_is_heard_of_a_lost_node_is_not_its_hello() {
    let mut bed = Bed::new();
    bed.node("n", 1);
    bed.wait(model::SUSPECT_AFTER);
    bed.wait(model::LOST_AFTER);
    bed.heard("n", bed.now.mono);
    bed.heard("nobody", bed.now.mono);
    assert_eq!(bed.phase("n"), NodePhase::Lost);
}

/// The shell's clock may be a little ahead of the core's.
#[test]
fn nothing_is_heard_in_the_future() {
    let mut bed = Bed::new();
    bed.node("n", 1);
    bed.heard("n", bed.now.mono + Duration::from_secs(600));
    bed.wait(model::SUSPECT_AFTER);
    assert_eq!(bed.phase("n"), NodePhase::Suspect);
}
