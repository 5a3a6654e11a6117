//! Whose name a node's name is.

use super::*;
use crate::core::identity::ALIVE_FOR;
use crate::core::model::{FORGET_AFTER, LOST_AFTER, SUSPECT_AFTER};

/// An agent of node "n" says Hello on that link: true if it has its place.
fn hello(bed: &mut Bed, link: LinkId, id: &str, instance: &str) -> bool {
    let hello = NodeHello {
        id: id.to_owned(),
        agent_instance: instance.to_owned(),
        hostname: format!("host-of-{id}"),
        ..Bed::hello("n", 2)
    };
    let refused = bed.refusals.len();
    bed.run(|core, now, fx| core.node_connected(link, "test", hello, Vec::new(), now, fx));
    bed.refusals.len() == refused
}

/// What was stored and holds.
fn stored(bed: &Bed) -> Vec<NodeIdentity> {
    let mut stored = Vec::new();
    for record in &bed.records {
        match record {
            Record::NodeIdentified(identity) => stored.push(identity.clone()),
            Record::NodeForgotten(node) => stored.retain(|identity| identity.node != *node),
            _ => {}
        }
    }
    stored
}

fn restarted(identities: Vec<NodeIdentity>) -> Bed {
    Bed::with(
        config(),
        Snapshot {
            generation: 2,
            identities,
            ..Snapshot::default()
        },
    )
}

#[test]
fn another_machine_under_the_name_is_refused_for_good_and_disturbs_nobody() {
    let mut bed = Bed::new();
    assert!(hello(&mut bed, 1, "a", "a1"));
    bed.session("s", spec("app"));
    bed.tasks("s", 1);
    bed.bind_all(1);
    let handed = bed.handed.clone();
    assert!(!hello(&mut bed, 2, "b", "b1"));
    let refusal = bed.refusals.pop().expect("told why");
    assert!(refusal.r#final);
    for word in ["name n ", "host-of-a", "host-of-b", "--name", "flmctl forget n"] {
        assert!(refusal.reason.contains(word), "{word}: {}", refusal.reason);
    }
    // The first one's link still counts, and what it says on it.
    assert_eq!(bed.handed, handed);
    bed.finish(1, 0);
    assert_eq!(bed.ended.len(), 1);
    // What the refused one says does not.
    bed.say(2, from_agent::Message::Leave(node::Leave::default()));
    assert!(bed.core.get_node("n").is_ok());
    // Also not when the first one is gone, lost or has left.
    bed.run(|core, _, fx| core.node_disconnected(1, fx));
    assert!(!hello(&mut bed, 3, "b", "b1"));
    bed.wait(SUSPECT_AFTER);
    bed.wait(LOST_AFTER);
    assert!(!hello(&mut bed, 4, "b", "b1"));
    assert!(hello(&mut bed, 5, "a", "a2"), "and it comes back");
}

#[test]
fn a_forgotten_name_is_free_and_a_forgotten_node_registers_again_by_itself() {
    let mut bed = Bed::new();
    assert!(hello(&mut bed, 1, "a", "a1"));
    bed.run(|core, _, fx| core.node_disconnected(1, fx));
    bed.run(|core, now, fx| core.forget_node("n", now, fx))
        .expect("forgotten");
    assert_eq!(stored(&bed), []);
    assert!(hello(&mut bed, 2, "a", "a1"), "registers again");
    bed.run(|core, _, fx| core.node_disconnected(2, fx));
    bed.run(|core, now, fx| core.forget_node("n", now, fx))
        .expect("forgotten");
    assert!(hello(&mut bed, 3, "b", "b1"), "the name was free");
    assert!(!hello(&mut bed, 4, "a", "a1"));
    assert_eq!(stored(&bed).len(), 1);
    assert_eq!(stored(&bed)[0].id, "b");
}

#[test]
fn a_name_is_free_when_its_node_was_gone_for_long() {
    let mut bed = Bed::new();
    assert!(hello(&mut bed, 1, "a", "a1"));
    bed.wait(SUSPECT_AFTER);
    bed.wait(LOST_AFTER);
    bed.wait(FORGET_AFTER);
    assert_eq!(stored(&bed), []);
    assert!(hello(&mut bed, 2, "b", "b1"));
}

#[test]
fn a_name_is_kept_over_a_restart_of_the_session_manager() {
    let mut bed = Bed::new();
    assert!(hello(&mut bed, 1, "a", "a1"));
    let mut bed = restarted(stored(&bed));
    assert!(!hello(&mut bed, 1, "b", "b1"), "before the first one is back");
    assert!(hello(&mut bed, 2, "a", "a1"));
    assert!(!hello(&mut bed, 3, "b", "b1"));
    assert_eq!(stored(&bed), [], "nothing new to store");

    let mut bed = restarted(vec![NodeIdentity {
        node: name("n"),
        id: "a".to_owned(),
        hostname: String::new(),
    }]);
    bed.wait(FORGET_AFTER - Duration::from_secs(1));
    assert!(!hello(&mut bed, 1, "b", "b1"), "it may still come back");
    bed.wait(Duration::from_secs(2));
    assert!(hello(&mut bed, 2, "b", "b1"));

    let mut bed = restarted(stored(&bed));
    bed.run(|core, now, fx| core.forget_node("n", now, fx))
        .expect("known by its identity alone");
    assert!(hello(&mut bed, 1, "c", "c1"));
}

#[test]
fn a_copy_of_a_machine_does_not_take_the_executors_of_the_first() {
    let mut bed = Bed::new();
    assert!(hello(&mut bed, 1, "a", "first"));
    bed.session("s", spec("app"));
    bed.tasks("s", 1);
    bed.bind_all(1);
    for second in 0..30 {
        bed.say(1, from_agent::Message::Heartbeat(node::Heartbeat::default()));
        assert!(!hello(&mut bed, 2 + second, "a", "copy"), "second {second}");
        bed.now.mono += Duration::from_secs(1);
    }
    let waits: Vec<_> = bed
        .refusals
        .iter()
        .map(|refusal| refusal.retry_after_ms)
        .collect();
    assert!(
        waits[0] > 0 && waits[1..].iter().all(|wait| *wait > waits[0]),
        "{waits:?}"
    );
    let refusal = bed.refusals.pop().expect("told why");
    assert!(!refusal.r#final);
    assert!(refusal.reason.contains("host-of-a"), "{}", refusal.reason);
    let lines = bed.notices.iter();
    let lines = lines.filter(|notice| notice.text.starts_with("an agent was refused"));
    assert_eq!(lines.count(), 1, "it asks every few seconds");
    bed.finish(1, 0);
    assert_eq!(bed.ended.len(), 1);
}

#[test]
fn an_agent_that_was_started_anew_takes_its_place_when_the_old_link_is_dead() {
    let mut bed = Bed::new();
    assert!(hello(&mut bed, 1, "a", "first"));
    // The same agent, whose link broke unnoticed, has its place at once.
    assert!(hello(&mut bed, 2, "a", "first"));
    // The machine lost its power. Nobody has ended the link, and what the new agent says is heard.
    bed.now.mono += ALIVE_FOR;
    let at = bed.now.mono;
    bed.run(|core, now, fx| core.node_heard(&name("n"), at, now, fx));
    assert!(hello(&mut bed, 3, "a", "second"));
    // One whose link has ended leaves its place at once.
    bed.run(|core, _, fx| core.node_disconnected(3, fx));
    assert!(hello(&mut bed, 4, "a", "third"));
}

#[test]
fn agents_without_an_id_have_their_names_as_before() {
    let mut bed = Bed::new();
    assert!(hello(&mut bed, 1, "", "one"));
    assert!(hello(&mut bed, 2, "", "two"));
    assert!(hello(&mut bed, 3, "a", "three"));
    assert!(hello(&mut bed, 4, "", "four"));
    assert!(!hello(&mut bed, 5, "b", "five"), "the name is still that of a");
}
