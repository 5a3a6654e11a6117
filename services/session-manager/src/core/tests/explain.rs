//! Why a session does not run, in words that are stable.

use flame_rpc::v1::{ApplicationSpec, ExplainSessionResponse, Reason};

use super::*;

impl Bed {
    fn explain(&mut self, session: &str) -> ExplainSessionResponse {
        self.run(|core, now, _| core.explain_session(session, now))
            .expect("there")
    }

    pub(super) fn codes(&mut self, session: &str) -> Vec<String> {
        let reasons = self.explain(session).reasons;
        reasons.into_iter().map(|reason| reason.code).collect()
    }

    /// The only reason, which has this code.
    fn only(&mut self, session: &str, code: &str) -> Reason {
        let reasons = self.explain(session).reasons;
        let [reason] = reasons.as_slice() else {
            panic!("{reasons:?}")
        };
        assert_eq!(reason.code, code, "{}", reason.text);
        reason.clone()
    }

    /// A session with that many tasks.
    fn work(&mut self, session: &str, tasks: usize, spec: SessionSpec) {
        self.session(session, spec);
        self.tasks(session, tasks);
    }
}

fn large(cpu: u64, gpu: u32) -> SessionSpec {
    let resreq = Resources { cpu, memory: 1, gpu };
    SessionSpec {
        resreq: Some(resreq.into()),
        ..spec("app")
    }
}

#[test]
fn nothing_to_do_no_nodes_closed() {
    let mut bed = Bed::new();
    bed.session("s", spec("app"));
    bed.only("s", "nothing_to_do");
    bed.tasks("s", 3);
    bed.only("s", "no_nodes");
    let explained = bed.explain("s");
    assert_eq!(
        (explained.pending, explained.executors, explained.wanted),
        (3, 0, 3)
    );
    bed.run(|core, now, fx| core.close_session("s", now, fx))
        .expect("closed");
    bed.only("s", "closed");
    let missing = bed.run(|core, now, _| core.explain_session("x", now));
    assert!(matches!(missing, Err(CoreError::NotFound(_))));
}

#[test]
fn a_session_that_runs_well_says_so() {
    let mut bed = Bed::new();
    let link = bed.node("n", 4);
    bed.work("s", 2, spec("app"));
    bed.only("s", "starting");
    bed.bind_all(link);
    let running = bed.only("s", "running");
    assert!(running.text.contains("2 of 2"), "{}", running.text);
}

#[test]
fn no_node_fits() {
    let mut bed = Bed::new();
    bed.node("n", 4);
    bed.work("large", 1, large(5, 0));
    bed.work("gpu", 1, large(1, 1));
    let selecting = SessionSpec {
        node_selector: [("zone".to_owned(), "a".to_owned())].into(),
        ..spec("app")
    };
    bed.work("zone", 1, selecting);
    let wasm = ApplicationSpec {
        shim: flame_rpc::v1::Shim::Wasm.into(),
        ..ApplicationSpec::default()
    };
    bed.application("wasm", wasm);
    bed.work("shim", 1, spec("wasm"));
    for session in ["large", "gpu"] {
        let small = bed.only(session, "no_node_is_large_enough");
        assert!(small.text.contains("n has cpu=4"), "{}", small.text);
    }
    let labels = bed.only("zone", "no_node_has_the_labels");
    assert_eq!(labels.data["labels"], "zone=a");
    bed.only("shim", "no_node_has_the_shim");
}

#[test]
fn room_is_held_by_others() {
    let mut bed = Bed::new();
    let link = bed.node("n", 2);
    let urgent = SessionSpec {
        priority: 5,
        ..spec("app")
    };
    bed.work("urgent", 9, urgent);
    bed.bind_all(link);
    bed.work("s", 1, spec("app"));
    let held = bed.only("s", "room_is_held");
    assert_eq!(
        (held.nodes.as_slice(), held.data["highest_priority"].as_str()),
        (&["n".to_owned()][..], "5")
    );
    let [holder] = held.holders.as_slice() else {
        panic!("{held:?}")
    };
    assert_eq!(
        (holder.session_id.as_str(), holder.executors, holder.busy),
        ("urgent", 2, 2)
    );
    assert!(
        held.text.contains("session urgent (2 executors, priority 5)"),
        "{}",
        held.text
    );
    assert_eq!(bed.codes("urgent"), ["room_is_its_own", "running"]);
    assert!(bed.started.len() == 2, "to ask changes nothing");
}

#[test]
fn limits_are_named() {
    let mut config = config();
    config.limits.max_executors = 2;
    let mut bed = Bed::with(config, Snapshot::default());
    bed.application(
        "one",
        ApplicationSpec {
            max_instances: Some(1),
            ..ApplicationSpec::default()
        },
    );
    let link = bed.node("n", 9);
    let few = SessionSpec {
        max_instances: Some(1),
        ..spec("app")
    };
    bed.work("few", 3, few);
    bed.work("first", 1, spec("one"));
    bed.bind_all(link);
    bed.work("second", 1, spec("one"));
    assert_eq!(bed.codes("few"), ["session_at_max_instances", "running"]);
    let limit = bed.only("second", "application_at_max_instances");
    assert_eq!(limit.holders[0].session_id, "first");
    bed.work("third", 1, spec("app"));
    assert_eq!(bed.codes("third")[0], "node_slots");
}

#[test]
fn an_executor_on_its_way_out_counts_to_the_limit_of_its_session() {
    let mut bed = Bed::new();
    let link = bed.node("n", 1);
    let few = SessionSpec {
        max_instances: Some(1),
        ..spec("app")
    };
    bed.work("few", 3, few);
    bed.bind_all(link);
    let urgent = SessionSpec {
        priority: 5,
        ..spec("app")
    };
    bed.work("urgent", 1, urgent);
    bed.node("m", 1);
    let limit = bed.only("few", "session_at_max_instances");
    assert!(limit.text.contains("(1 on their way out)"), "{}", limit.text);
}

#[test]
fn failures_to_bind_have_a_reason_and_a_next_try() {
    let mut bed = Bed::new();
    let link = bed.node("n", 1);
    bed.work("s", 1, spec("app"));
    for code in ["bind_failed", "paused"] {
        let executor = bed.started.keys().next().expect("started").clone();
        bed.update(link, &executor, ExecutorPhase::BindFailed, "no such file");
        let reason = bed.only("s", code);
        assert!(reason.text.contains("no such file"), "{}", reason.text);
        if code == "bind_failed" {
            assert_eq!(reason.data["next_try_ms"], "100");
        }
        bed.wait(Duration::from_millis(100));
    }
}

#[test]
fn nodes_out_of_service_are_named_with_the_reason() {
    let mut bed = Bed::new();
    let link = bed.node("n", 1);
    bed.work("s", 1, large(1, 0));
    bed.bind_all(link);
    bed.node("m", 1);
    bed.run(|core, now, fx| core.cordon_node("m", false, None, now, fx))
        .expect("there");
    bed.tasks("s", 1);
    let codes = bed.codes("s");
    assert_eq!(codes, ["room_is_its_own", "node_cordoned", "running"]);
    bed.run(|core, now, fx| core.cordon_node("m", true, None, now, fx))
        .expect("there");
    assert!(bed.codes("s").contains(&"node_draining".to_owned()));
    bed.run(|core, _, fx| core.node_disconnected(link, fx));
    bed.run(|core, _, fx| core.uncordon_node("m", fx)).expect("there");
    assert_eq!(bed.codes("s"), ["starting", "running"], "the other node has room");
    bed.wait(Duration::from_secs(60));
    bed.wait(Duration::from_secs(60));
    let codes = bed.codes("s");
    assert_eq!(codes, ["node_lost"]);
}
