use super::*;

fn state(active: &str) -> UnitChange {
    UnitChange {
        active_state: Some(active.to_owned()),
        ..UnitChange::default()
    }
}

fn ended(result: &str, code: i32, status: i32) -> UnitChange {
    UnitChange {
        result: Some(result.to_owned()),
        exit_code: Some(code),
        exit_status: Some(status),
        main_pid: Some(0),
        ..UnitChange::default()
    }
}

fn begun() -> UnitChange {
    UnitChange {
        invocation_id: Some("ab".to_owned()),
        main_pid: Some(7),
        ..UnitChange::default()
    }
}

fn job(number: u32) -> JobId {
    JobId::new(&format!("/org/freedesktop/systemd1/job/{number}"))
}

const DONE: JobResult = JobResult::Done;
const FAILED: JobResult = JobResult::Failed;

/// A unit whose application runs.
fn running() -> Life {
    let mut life = Life::new();
    assert_eq!(life.on_job_made(job(1)), None);
    assert_eq!(life.on_change(begun()), None);
    assert_eq!(life.on_change(state("active")), None);
    let news = life.on_job_over(&job(1), &DONE);
    assert!(
        matches!(&news, Some(News::Started(facts)) if facts.pid == 7 && facts.invocation == "ab"),
        "{news:?}"
    );
    life
}

#[test]
fn the_end_is_told_once_with_how_it_came() {
    for (change, exit) in [
        (ended("exit-code", 1, 3), Exit::Status(3)),
        (ended("success", 1, 0), Exit::Status(0)),
        (ended("signal", 2, 9), Exit::Signal(9)),
        (ended("core-dump", 3, 11), Exit::Signal(11)),
        (ended("oom-kill", 2, 9), Exit::OutOfMemory),
        (ended("timeout", 2, 9), Exit::Timeout),
        (ended("watchdog", 2, 6), Exit::Watchdog),
        (UnitChange::default(), Exit::Unknown),
    ] {
        let mut life = running();
        assert_eq!(life.on_change(change), None);
        assert_eq!(life.on_change(state("deactivating")), None);
        let Some(News::Ended(facts)) = life.on_change(state("failed")) else {
            panic!("no end: {life:?}");
        };
        assert_eq!((facts.exit(), facts.pid), (exit, 7));
        assert_eq!(life.on_change(state("inactive")), None);
        assert_eq!(life.on_vanished(), None);
    }
}

#[test]
fn what_is_said_late_about_the_run_before_is_no_end() {
    let mut life = Life::new();
    assert_eq!(life.on_change(state("inactive")), None);
    assert_eq!(life.on_job_over(&job(1), &DONE), None, "the end of a stop");
    assert_eq!(life.on_job_made(job(2)), None);
    assert_eq!(life.on_change(state("failed")), None);
    assert_eq!(life.on_job_over(&job(1), &DONE), None);
    life.on_change(begun());
    life.on_change(state("active"));
    assert!(matches!(life.on_job_over(&job(2), &DONE), Some(News::Started(_))));
}

#[test]
fn a_job_that_is_over_before_its_number_is_known_counts() {
    let mut life = Life::new();
    life.on_change(begun());
    life.on_change(state("active"));
    assert_eq!(life.on_job_over(&job(1), &DONE), None);
    assert!(matches!(life.on_job_made(job(1)), Some(News::Started(_))));
}

#[test]
fn a_failed_start_is_told_when_nothing_is_left() {
    let mut life = Life::new();
    life.on_job_made(job(1));
    life.on_change(begun());
    life.on_change(ended("timeout", 2, 15));
    life.on_change(state("deactivating"));
    assert_eq!(life.on_job_over(&job(1), &FAILED), None);
    assert!(matches!(
        life.on_change(state("failed")),
        Some(News::NotStarted(_))
    ));
}

#[test]
fn a_start_that_never_became_a_process_is_told_at_once() {
    for (result, reason) in [
        (JobResult::Dependency, "its start ended with \"dependency\""),
        (JobResult::Canceled, "it was stopped meanwhile"),
    ] {
        let mut life = Life::new();
        life.on_job_made(job(1));
        let Some(News::NotStarted(facts)) = life.on_job_over(&job(1), &result) else {
            panic!("not told: {life:?}");
        };
        assert_eq!(facts.reason(), reason);
    }
}

#[test]
fn the_reason_of_a_failed_start_is_in_words() {
    for (change, reason) in [
        (
            ended("exit-code", 1, 243),
            "systemd could not hand the spec over as a credential",
        ),
        (
            ended("exit-code", 1, 226),
            "systemd could not make its mount namespace",
        ),
        (ended("exit-code", 1, 125), "the launcher exited with status 125"),
        (
            ended("signal", 2, 11),
            "the launcher was killed by signal 11 (SIGSEGV)",
        ),
        (ended("protocol", 1, 0), "the launcher ended before it was ready"),
        (
            ended("resources", 0, 0),
            "systemd could not make what the unit needs",
        ),
    ] {
        let mut life = Life::new();
        life.on_job_made(job(1));
        life.on_change(change);
        life.on_change(state("failed"));
        let Some(News::NotStarted(facts)) = life.on_job_over(&job(1), &FAILED) else {
            panic!("not told: {life:?}");
        };
        assert_eq!(facts.reason(), reason);
    }
}

#[test]
fn a_unit_that_vanished_unseen_has_ended() {
    assert!(matches!(running().on_vanished(), Some(News::Ended(facts)) if facts.exit() == Exit::Unknown));
    let mut starting = Life::new();
    starting.on_job_made(job(1));
    assert!(matches!(starting.on_vanished(), Some(News::NotStarted(_))));
    let mut adopted = Life::adopted("cd".to_owned(), 9);
    let Some(News::Ended(facts)) = adopted.on_change(state("inactive")) else {
        panic!("not told: {adopted:?}");
    };
    assert_eq!((facts.invocation.as_str(), facts.pid), ("cd", 9));
}

fn seen(active: &str, job: Option<JobId>) -> Option<UnitSight> {
    let change = UnitChange {
        active_state: Some(active.to_owned()),
        ..begun()
    };
    Some(UnitSight { change, job })
}

fn starting() -> Life {
    let mut life = Life::new();
    assert_eq!(life.on_job_made(job(1)), None);
    life
}

#[test]
fn a_start_whose_signals_were_lost_is_told_from_what_is_seen() {
    let mut life = starting();
    let Some(News::Started(facts)) = life.on_seen(seen("active", None)) else {
        panic!("not told: {life:?}");
    };
    assert_eq!((facts.invocation.as_str(), facts.pid), ("ab", 7));
    assert_eq!(life.on_job_over(&job(1), &DONE), None, "told twice");
    assert!(matches!(life.on_change(state("failed")), Some(News::Ended(_))));
}

#[test]
fn a_start_that_goes_on_is_told_by_its_job() {
    for active in ["inactive", "activating", "active", "deactivating"] {
        let mut life = starting();
        assert_eq!(life.on_seen(seen(active, Some(job(1)))), None, "{active}");
        assert_eq!(life.on_change(state("active")), None);
        assert!(matches!(life.on_job_over(&job(1), &DONE), Some(News::Started(_))));
    }
}

#[test]
fn a_start_that_failed_unheard_is_told_when_nothing_is_left() {
    for left in [None, Some(job(2))] {
        let mut life = starting();
        assert!(matches!(
            life.on_seen(seen("failed", left.clone())),
            Some(News::NotStarted(_))
        ));
        let mut life = starting();
        assert_eq!(life.on_seen(seen("deactivating", left)), None);
        assert!(matches!(
            life.on_change(state("inactive")),
            Some(News::NotStarted(_))
        ));
    }
    let Some(News::NotStarted(facts)) = starting().on_seen(None) else {
        panic!("not told");
    };
    assert!(facts.reason().contains("D-Bus was lost"), "{}", facts.reason());
}

#[test]
fn an_end_that_is_seen_afterwards_has_its_real_result() {
    let mut life = running();
    assert_eq!(life.on_seen(seen("active", None)), None);
    let change = UnitChange {
        active_state: Some("failed".to_owned()),
        ..ended("oom-kill", 2, 9)
    };
    let Some(News::Ended(facts)) = life.on_seen(Some(UnitSight { change, job: None })) else {
        panic!("not told: {life:?}");
    };
    assert_eq!((facts.exit(), facts.pid), (Exit::OutOfMemory, 7));
    assert_eq!(life.on_seen(None), None);
}

#[test]
fn what_is_not_asked_for_yet_has_not_vanished() {
    let mut life = Life::new();
    assert_eq!(life.on_seen(None), None);
    // The request got through, but its answer was lost: it is asked for again.
    assert_eq!(life.on_seen(seen("active", None)), None);
    assert_eq!(life.on_job_made(job(2)), None);
    let Some(News::Started(facts)) = life.on_job_over(&job(2), &DONE) else {
        panic!("not told: {life:?}");
    };
    assert_eq!((facts.invocation.as_str(), facts.pid), ("ab", 7));
}
