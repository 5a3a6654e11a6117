//! The rules of supervision, one by one.

use std::time::{Duration, Instant};

use super::core::{Core, Effect, Exit, Role, STOP_LIMIT, State};

const MANAGER: usize = 0;
const AGENT: usize = 1;

/// A session manager (pid 10) and two agents (11, 12) that run.
fn up(now: Instant) -> Core {
    let mut core = Core::new(
        [
            ("manager".to_owned(), Role::SessionManager),
            ("a".to_owned(), Role::NodeAgent),
            ("b".to_owned(), Role::NodeAgent),
        ],
        now,
    );
    let all = [Effect::Start(0), Effect::Start(1), Effect::Start(2)];
    assert_eq!(core.tick(now), all);
    assert_eq!(core.tick(now), [], "they are being started");
    for index in 0..3 {
        core.started(index, 10 + u32::try_from(index).expect("small"));
    }
    core
}

fn ready(now: Instant) -> Core {
    let mut core = up(now);
    core.ready();
    core
}

fn said(effects: &[Effect], part: &str) -> bool {
    effects
        .iter()
        .any(|effect| matches!(effect, Effect::Say(text) if text.contains(part)))
}

const KILLED: Exit = Exit::Signal(9);

#[test]
fn a_daemon_that_died_is_started_again_after_a_pause() {
    let now = Instant::now();
    let mut core = ready(now);
    assert_eq!(core.next_due(), None);
    assert_eq!(core.with_pid(11), Some(AGENT));
    let effects = core.exited(AGENT, KILLED, now);
    assert_eq!(effects.len(), 1);
    assert!(
        said(&effects, "a ended (signal 9) and is started again in 0.2 s"),
        "{effects:?}"
    );
    assert_eq!(core.with_pid(11), None);
    let due = core.next_due().expect("due");
    assert_eq!(core.tick(due - Duration::from_millis(1)), []);
    assert_eq!(core.tick(due), [Effect::Start(AGENT)]);
    core.started(AGENT, 20);
    assert_eq!(
        (core.daemons[AGENT].restarts, core.daemons[MANAGER].restarts),
        (1, 0)
    );
    assert_eq!(core.daemons[AGENT].last_exit, Some(KILLED));
}

/// Lets the daemon fail at once after every start; the pauses, and the effects of the last failure.
fn fail_until_given_up(core: &mut Core, index: usize, mut now: Instant) -> (Vec<u128>, Vec<Effect>) {
    let mut pauses = Vec::new();
    loop {
        let effects = core.exited(index, Exit::Status(1), now);
        if core.daemons[index].state == State::GivenUp {
            return (pauses, effects);
        }
        let due = core.next_due().expect("due");
        pauses.push((due - now).as_millis());
        now = due;
        assert_eq!(core.tick(now), [Effect::Start(index)]);
        core.started(index, 99);
    }
}

#[test]
fn pauses_grow_until_an_agent_is_given_up_and_the_others_go_on() {
    let now = Instant::now();
    let mut core = ready(now);
    let (pauses, effects) = fail_until_given_up(&mut core, AGENT, now);
    assert_eq!(pauses, [200, 400, 800, 1600, 3200]);
    assert!(
        said(
            &effects,
            "a ended 6 times within 60 s, at last with exit status 1: given up"
        ),
        "{effects:?}"
    );
    assert_eq!(effects[1..], [Effect::ShowLog(AGENT)]);
    assert!(!core.is_ending());
    assert_eq!(core.next_due(), None);
}

#[test]
fn failures_of_long_ago_do_not_count() {
    let mut now = Instant::now();
    let mut core = ready(now);
    for _ in 0..20 {
        now += Duration::from_secs(61);
        let effects = core.exited(AGENT, KILLED, now);
        assert!(said(&effects, "0.2 s"), "{effects:?}");
        let due = core.next_due().expect("due");
        core.tick(due);
        core.started(AGENT, 99);
    }
    assert_eq!(core.daemons[AGENT].restarts, 20);
}

#[test]
fn without_the_session_manager_all_end() {
    let now = Instant::now();
    let mut core = ready(now);
    let (_, effects) = fail_until_given_up(&mut core, MANAGER, now);
    assert_eq!(
        effects[1..],
        [
            Effect::ShowLog(MANAGER),
            Effect::Terminate(11),
            Effect::Terminate(12)
        ]
    );
    core.exited(1, Exit::Status(0), now);
    let last = core.exited(2, Exit::Status(0), now);
    assert!(
        matches!(last.last(), Some(Effect::Over(Some(why))) if why.contains("manager ended 6 times")),
        "{last:?}"
    );
}

#[test]
fn before_the_cluster_is_ready_any_failure_for_good_ends_it() {
    let now = Instant::now();
    let mut core = up(now);
    let effects = core.exited(AGENT, Exit::Status(78), now);
    assert!(
        said(&effects, "a cannot use its configuration (exit status 78)"),
        "{effects:?}"
    );
    assert_eq!(effects[1..], [Effect::ShowLog(AGENT), Effect::Terminate(12)]);
}

#[test]
fn an_agent_may_end_in_order_but_the_session_manager_is_started_again() {
    let now = Instant::now();
    let mut core = ready(now);
    assert!(said(
        &core.exited(AGENT, Exit::Status(0), now),
        "a ended in order and stays down"
    ));
    assert_eq!(core.daemons[AGENT].state, State::Ended);
    assert!(said(&core.exited(MANAGER, Exit::Status(0), now), "started again"));
}

#[test]
fn what_cannot_be_started_counts_as_failed() {
    let now = Instant::now();
    let mut core = ready(now);
    core.exited(AGENT, KILLED, now);
    core.tick(core.next_due().expect("due"));
    let effects = core.exited(AGENT, Exit::Unstarted("no memory".to_owned()), now);
    assert!(
        said(&effects, "not started: no memory") && said(&effects, "0.4 s"),
        "{effects:?}"
    );
}

#[test]
fn agents_end_first() {
    let now = Instant::now();
    let mut core = ready(now);
    assert_eq!(
        core.end(None, now),
        [Effect::Terminate(11), Effect::Terminate(12)]
    );
    assert_eq!(
        core.exited(2, Exit::Status(0), now),
        [Effect::Say("stopped b".to_owned())]
    );
    let then = now + STOP_LIMIT / 2;
    assert_eq!(
        core.exited(1, KILLED, then),
        [Effect::Say("stopped a".to_owned()), Effect::Terminate(10)]
    );
    assert_eq!(
        core.next_due(),
        Some(then + STOP_LIMIT),
        "the session manager has its own time"
    );
    assert_eq!(
        core.exited(0, Exit::Status(0), then),
        [Effect::Say("stopped manager".to_owned()), Effect::Over(None)]
    );
    assert_eq!((core.next_due(), core.end(None, then)), (None, vec![]));
}

#[test]
fn what_does_not_end_is_killed_once() {
    let now = Instant::now();
    let mut core = ready(now);
    core.end(None, now);
    core.exited(2, Exit::Status(0), now);
    let late = core.next_due().expect("due");
    assert_eq!(late, now + STOP_LIMIT);
    assert_eq!(
        core.tick(late),
        [
            Effect::Say("a has not ended: killing it".to_owned()),
            Effect::Kill(11)
        ]
    );
    assert_eq!((core.next_due(), core.tick(late)), (None, vec![]));
}

#[test]
fn asked_again_nobody_waits() {
    let now = Instant::now();
    let mut core = ready(now);
    core.end(None, now);
    let effects = core.end(None, now);
    let kills: Vec<&Effect> = effects
        .iter()
        .filter(|effect| matches!(effect, Effect::Kill(_)))
        .collect();
    assert_eq!(kills, [&Effect::Kill(11), &Effect::Kill(12)]);
}

#[test]
fn a_daemon_that_waits_is_not_started_any_more() {
    let now = Instant::now();
    let mut core = ready(now);
    core.exited(AGENT, KILLED, now);
    let effects = core.end(None, now);
    assert_eq!(effects, [Effect::Terminate(12)]);
    assert_eq!(core.tick(now + Duration::from_secs(1)), []);
}

#[test]
fn when_nothing_runs_it_is_over_at_once() {
    let now = Instant::now();
    let mut core = Core::new([("manager".to_owned(), Role::SessionManager)], now);
    let why = Some("no memory".to_owned());
    assert_eq!(core.end(why.clone(), now), [Effect::Over(why)]);
}
