//! What a node says of itself, and when its silence counts.

use super::*;

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
