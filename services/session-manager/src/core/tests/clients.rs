//! What clients may do with applications, sessions and tasks, and what they are told.

use super::*;

fn invalid(result: Result<impl std::fmt::Debug, CoreError>) -> String {
    match result.expect_err("refused") {
        CoreError::Invalid(text) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn sessions_are_refused_as_the_contract_says() {
    let mut bed = Bed::new();
    bed.session("s", spec("app"));
    let again = bed.run(|core, now, fx| core.create_session(&sid("s"), spec("app"), now, fx));
    assert_eq!(
        again,
        Err(CoreError::AlreadyExists("session s already exists".to_owned()))
    );
    let unknown = bed.run(|core, now, fx| core.create_session(&sid("t"), spec("nope"), now, fx));
    assert_eq!(
        unknown,
        Err(CoreError::NotFound("application nope not found".to_owned()))
    );
    let less = SessionSpec {
        min_instances: 3,
        max_instances: Some(2),
        ..spec("app")
    };
    assert!(
        invalid(bed.run(|core, now, fx| core.create_session(&sid("t"), less, now, fx)))
            .contains("at least 3")
    );
    let missing = bed.run(|core, now, fx| core.open_session(&sid("t"), None, now, fx));
    assert_eq!(
        missing,
        Err(CoreError::NotFound("session t not found".to_owned()))
    );
}

#[test]
fn open_session_returns_creates_or_names_the_difference() {
    let mut bed = Bed::new();
    let mut open = |id: &str, spec| bed.run(|core, now, fx| core.open_session(&sid(id), spec, now, fx));
    open("s", Some(spec("app"))).expect("created");
    open("s", Some(spec("app"))).expect("equal");
    open("s", None).expect("there");
    let other = SessionSpec {
        common_data: Some("other".into()),
        ..spec("app")
    };
    open("s", Some(other)).expect("common data is not compared");
    for (field, other) in [
        (
            "priority",
            SessionSpec {
                priority: 3,
                ..spec("app")
            },
        ),
        (
            "min_instances",
            SessionSpec {
                min_instances: 1,
                ..spec("app")
            },
        ),
        (
            "max_instances",
            SessionSpec {
                max_instances: Some(9),
                ..spec("app")
            },
        ),
        (
            "resreq",
            SessionSpec {
                resreq: Some(Resources::DEFAULT.into()),
                ..spec("app")
            },
        ),
        ("application", spec("other")),
    ] {
        let text = invalid(open("s", Some(other)));
        assert!(
            text.contains(&format!("spec mismatch: {field} differs")),
            "{text}"
        );
    }
}

#[test]
fn a_closed_session_is_not_open() {
    let mut bed = Bed::new();
    bed.session("s", spec("app"));
    bed.tasks("s", 2);
    let closed = bed
        .run(|core, now, fx| core.close_session("s", now, fx))
        .expect("closed");
    assert_eq!(closed.status.expect("set").cancelled, 2);
    let cancelled = Some("the session was closed".to_owned());
    assert_eq!(
        bed.ended,
        [
            (1, TaskState::Cancelled, cancelled.clone()),
            (2, TaskState::Cancelled, cancelled)
        ]
    );
    bed.run(|core, now, fx| core.close_session("s", now, fx))
        .expect("closing twice is fine");
    assert!(
        invalid(bed.run(|core, now, fx| core.open_session(&sid("s"), None, now, fx))).contains("is not open")
    );
    assert!(invalid(bed.run(|core, now, fx| core.create_task("s", None, now, fx))).contains("is not open"));
    bed.run(|core, _, fx| core.delete_session("s", fx))
        .expect("deleted");
    assert!(bed.core.get_session("s").is_err());
}

#[test]
fn a_session_with_running_tasks_is_not_closed() {
    let (mut bed, link) = bound(1, 2);
    let refused = bed
        .run(|core, now, fx| core.close_session("s", now, fx))
        .expect_err("a task runs");
    assert!(
        matches!(&refused, CoreError::Busy(text) if text.starts_with("Cannot close session with running tasks"))
    );
    assert!(invalid(bed.run(|core, _, fx| core.delete_session("s", fx))).contains("is open"));
    bed.finish_handed(link);
    bed.finish_handed(link);
    bed.run(|core, now, fx| core.close_session("s", now, fx))
        .expect("closed");
    assert_eq!(bed.releasing.len(), 1, "its executor ends with it");
}

#[test]
fn tasks_are_numbered_from_one_and_counted() {
    let (mut bed, link) = bound(1, 3);
    let (executor, task) = bed.handed.remove(0);
    bed.results(link, vec![Bed::done(&executor, &task, 3)]);
    assert_eq!(bed.acks, [7]);
    assert_eq!(bed.ended, [(1, TaskState::Failed, Some("it broke".to_owned()))]);
    let status = bed.core.get_session("s").expect("there").status.expect("set");
    assert_eq!(
        (status.pending, status.running, status.succeed, status.failed),
        (1, 1, 0, 1)
    );
    assert!(matches!(bed.core.get_task("s", 1), Ok(Found::AtHand(row)) if row.state == TaskState::Failed));
    assert!(matches!(bed.core.get_task("s", 9), Ok(Found::InStore(1))));
    assert!(matches!(bed.core.get_task("s", 2), Ok(Found::AtHand(row)) if row.state == TaskState::Running));
    let live: Vec<_> = bed
        .core
        .list_tasks("s")
        .expect("there")
        .tasks
        .iter()
        .map(|task| task.id)
        .collect();
    assert_eq!(live, [2, 3]);
}

#[test]
fn an_application_with_open_sessions_stays_as_it_is() {
    let mut bed = Bed::new();
    let app = ApplicationName::new("app").expect("valid");
    bed.session("s", spec("app"));
    let update = |bed: &mut Bed| {
        let spec = ApplicationSpec {
            delay_release: Some(5),
            ..ApplicationSpec::default()
        };
        bed.run(|core, _, fx| core.update_application(&app, spec, fx))
    };
    assert!(invalid(update(&mut bed)).contains("1 open session;"));
    assert!(
        invalid(bed.run(|core, _, fx| core.unregister_application(&app, fx))).contains("1 open session;")
    );
    bed.run(|core, now, fx| core.close_session("s", now, fx))
        .expect("closed");
    update(&mut bed).expect("updated");
    let seen = bed.core.get_application("app").expect("there").spec.expect("set");
    assert_eq!(
        (seen.delay_release, seen.max_instances),
        (Some(5), Some(1_000_000))
    );
    bed.run(|core, _, fx| core.unregister_application(&app, fx))
        .expect("unregistered");
    assert!(bed.core.get_session("s").is_err(), "its sessions go with it");
    assert!(bed.core.get_application("app").is_err());
}

#[test]
fn application_specifications_are_checked_and_completed() {
    let mut bed = Bed::new();
    let app = ApplicationName::new("other").expect("valid");
    for (wrong, part) in [
        (
            ApplicationSpec {
                working_directory: Some("rel".to_owned()),
                ..Default::default()
            },
            "absolute",
        ),
        (
            ApplicationSpec {
                max_instances: Some(0),
                ..Default::default()
            },
            "at least 1",
        ),
        (
            ApplicationSpec {
                delay_release: Some(-1),
                ..Default::default()
            },
            "negative",
        ),
        (
            ApplicationSpec {
                shim: 9,
                ..Default::default()
            },
            "no shim",
        ),
    ] {
        let text = invalid(bed.run(|core, now, fx| core.register_application(&app, wrong, now, fx)));
        assert!(text.contains(part), "{text}");
    }
    let empty = ApplicationSpec {
        working_directory: Some(String::new()),
        ..Default::default()
    };
    bed.application("other", empty);
    let seen = bed
        .core
        .get_application("other")
        .expect("there")
        .spec
        .expect("set");
    assert_eq!((seen.working_directory, seen.delay_release), (None, Some(60)));
    let again = bed.run(|core, now, fx| core.register_application(&app, ApplicationSpec::default(), now, fx));
    assert!(matches!(again, Err(CoreError::AlreadyExists(_))));
}

#[test]
fn a_new_version_updates_built_in_applications_but_not_those_that_users_changed() {
    let mut bed = Bed::new();
    let ping = ApplicationName::new("ping").expect("valid");
    let built = |command: &str| ApplicationSpec {
        command: Some(command.to_owned()),
        ..Default::default()
    };
    let ensure = |bed: &mut Bed, command: &str| {
        let list = vec![(ping.clone(), built(command))];
        bed.run(|core, now, fx| core.ensure_builtins(list, now, fx))
            .expect("valid");
        bed.core
            .get_application("ping")
            .expect("there")
            .spec
            .expect("set")
            .command
    };
    assert_eq!(ensure(&mut bed, "one").as_deref(), Some("one"));
    let records = bed.records.len();
    assert_eq!(ensure(&mut bed, "one").as_deref(), Some("one"));
    assert_eq!(bed.records.len(), records, "an unchanged one is not stored again");
    assert_eq!(ensure(&mut bed, "two").as_deref(), Some("two"));
    bed.run(|core, _, fx| core.update_application(&ping, built("mine"), fx))
        .expect("updated");
    assert_eq!(ensure(&mut bed, "three").as_deref(), Some("mine"));
}

#[test]
fn agents_hear_whether_an_application_is_reusable_and_of_each_change() {
    let mut bed = Bed::new();
    let app = ApplicationName::new("again").expect("valid");
    let reusable = || ApplicationSpec {
        reusable: true,
        ..ApplicationSpec::default()
    };
    bed.application("again", reusable());
    let link = bed.node("n", 4);
    let mut revisions = Vec::new();
    for change in 0..3 {
        match change {
            0 => {}
            1 => bed
                .run(|core, _, fx| core.update_application(&app, reusable(), fx))
                .expect("updated"),
            _ => {
                bed.run(|core, _, fx| core.unregister_application(&app, fx))
                    .expect("unregistered");
                bed.wait(Duration::from_secs(1));
                bed.application("again", reusable());
            }
        }
        bed.session("s", spec("again"));
        bed.tasks("s", 1);
        let order = bed.started.values().next().expect("started").clone();
        assert!(order.spec.expect("set").reusable);
        revisions.push(order.application_revision);
        bed.run(|core, now, fx| core.close_session("s", now, fx))
            .expect("closed");
        bed.bind_all(link);
        bed.release_all(link);
        bed.run(|core, _, fx| core.delete_session("s", fx))
            .expect("deleted");
    }
    revisions.sort();
    revisions.dedup();
    assert_eq!(revisions.len(), 3, "{revisions:?}");
}

#[test]
fn closed_sessions_beyond_the_limit_are_forgotten_oldest_first() {
    let mut limited = config();
    limited.limits.max_sessions = Some(2);
    let mut bed = Bed::with(limited, Snapshot::default());
    for id in ["a", "b", "c", "d"] {
        bed.session(id, spec("app"));
        bed.wait(Duration::from_millis(5));
    }
    assert_eq!(
        bed.core.list_sessions().sessions.len(),
        4,
        "open ones are never forgotten"
    );
    for id in ["b", "a", "d"] {
        bed.wait(Duration::from_millis(5));
        bed.run(|core, now, fx| core.close_session(id, now, fx))
            .expect("closed");
    }
    let ids: Vec<_> = bed
        .core
        .list_sessions()
        .sessions
        .iter()
        .map(|s| s.metadata.clone().expect("set").id)
        .collect();
    assert_eq!(ids, ["a", "c", "d"]);
    assert!(
        bed.records
            .iter()
            .any(|record| matches!(record, Record::SessionRemoved(2)))
    );
}
