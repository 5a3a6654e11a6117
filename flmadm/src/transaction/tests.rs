//! The crash matrix: each command is ended at every checkpoint, before and after every effect, and what is left is
//! put in order.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::host::fake::{FakeHost, Killed};
use crate::host::fake_state::State;

/// Says how two states differ, and no more: they are long.
fn assert_same(one: &State, other: &State, when: &str) {
    let [more, less] = one.differences(other);
    assert!(one == other, "{when}: more {more:#?}, less {less:#?}");
}

fn command(host: &FakeHost, line: &str) {
    let (code, said) = tried(host, line);
    assert_eq!(code, 0, "{line}: {said}");
}

/// The exit code of a command line, and what it says.
fn tried(host: &FakeHost, line: &str) -> (u8, String) {
    let prefix = host.path("opt/flame").display().to_string();
    let mut words: Vec<String> = ["flmadm"]
        .into_iter()
        .chain(line.split_whitespace())
        .map(str::to_owned)
        .collect();
    words.extend(["--prefix".to_owned(), prefix]);
    if line.starts_with("upgrade") {
        words.extend(["--bin-dir".to_owned(), host.path("built").display().to_string()]);
    }
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = crate::run(host, words.into_iter().map(Into::into), &mut out, &mut err);
    let said = [out, err].concat();
    (code, String::from_utf8_lossy(&said).into_owned())
}

/// A change of the machine that can be ended anywhere.
#[derive(Clone, Copy)]
enum Case {
    Install,
    Upgrade,
    /// An upgrade that does not work, so that it undoes itself.
    Failing,
    Rollback,
    /// A rollback to a release that had no agent.
    Fewer,
    Uninstall,
}

impl Case {
    fn prepare(self) -> FakeHost {
        let mut host = FakeHost::new();
        std::fs::create_dir_all(host.path("run/systemd")).expect("made");
        if matches!(self, Self::Install) {
            return host;
        }
        if matches!(self, Self::Fewer) {
            crate::install::tests::install_services(&host, "--control-plane --enable").expect("installed");
        }
        crate::install::tests::install_services(&host, "--all --enable").expect("installed");
        std::fs::write(host.path("opt/flame/data/flame.db"), "state").expect("written");
        let built = host.path("built/flame-session-manager");
        std::fs::write(built, "a newer one").expect("written");
        if matches!(self, Self::Rollback) {
            command(&host, "upgrade");
        }
        if matches!(self, Self::Failing) {
            host.probed = None;
        }
        host
    }

    /// Runs it.
    fn run(self, host: &FakeHost) {
        match self {
            Self::Install => {
                crate::install::tests::install_services(host, "--all --enable").expect("installed");
            }
            Self::Upgrade => command(host, "upgrade"),
            Self::Failing => {
                let (code, said) = tried(host, "upgrade");
                assert_eq!(code, 5, "{said}");
            }
            Self::Rollback | Self::Fewer => command(host, "rollback"),
            Self::Uninstall => command(host, "uninstall --no-backup --remove-user --force"),
        }
    }
}

/// Gives what `run` gives unless it is killed.
fn quietly<T>(run: impl FnOnce() -> T) -> std::thread::Result<T> {
    catch_unwind(AssertUnwindSafe(run))
}

fn repair(host: &FakeHost) {
    command(host, "repair");
    assert_eq!(
        Place::left(&Prefix::new(&host.path("opt/flame")).expect("a prefix")),
        None
    );
}

/// Kills `case` at every checkpoint. Gives how many there were.
fn matrix(case: Case) -> usize {
    let host = case.prepare();
    let start = host.state();
    host.passed();
    case.run(&host);
    let count = host.passed();
    let end = host.state();
    let mut now = end.clone();
    // How often it was undone, and finished.
    let mut outcomes = [0, 0];
    for at in 1..=count {
        host.put_back(&start, &now);
        host.passed();
        host.kill_at.set(Some(at));
        let result = quietly(|| case.run(&host));
        assert!(
            result.is_err_and(|payload| payload.is::<Killed>()),
            "not killed at {at}"
        );
        repair(&host);
        now = host.state();
        let after_is_end = now != start;
        if after_is_end {
            assert_same(&now, &end, &format!("killed at {at} of {count}"));
        }
        let outcome = &mut outcomes[usize::from(after_is_end)];
        *outcome += 1;
        // The machine is the same each time, so once is enough for what comes then.
        if *outcome > 1 {
            continue;
        }
        repair(&host);
        assert_same(&host.state(), &now, "repaired twice");
        let would_differ = match case {
            Case::Failing | Case::Fewer => true,
            Case::Rollback => after_is_end,
            _ => false,
        };
        if !would_differ {
            case.run(&host);
            now = host.state();
            assert_same(&now, &end, &format!("again after {at}"));
        }
    }
    assert!(outcomes[0] > 0, "never undone: {outcomes:?}");
    count
}

#[test]
fn an_install_can_be_killed_anywhere() {
    assert!(matrix(Case::Install) > 60);
}

#[test]
fn an_upgrade_can_be_killed_anywhere() {
    assert!(matrix(Case::Upgrade) > 15);
}

#[test]
fn an_upgrade_that_fails_can_be_killed_anywhere() {
    assert!(matrix(Case::Failing) > 15);
}

#[test]
fn a_rollback_can_be_killed_anywhere() {
    assert!(matrix(Case::Rollback) > 10);
}

#[test]
fn a_rollback_to_fewer_units_can_be_killed_anywhere() {
    assert!(matrix(Case::Fewer) > 40);
}

#[test]
fn an_uninstall_can_be_killed_anywhere() {
    assert!(matrix(Case::Uninstall) > 40);
}

#[test]
fn a_repair_can_be_killed_anywhere_too() {
    for case in [Case::Install, Case::Upgrade, Case::Uninstall] {
        let host = case.prepare();
        let start = host.state();
        host.passed();
        case.run(&host);
        let count = host.passed();
        let end = host.state();
        let mut now = end.clone();
        let mut undone = Vec::new();
        // The first is before the point of no return, the last after it.
        for at in [count / 4, count / 2, count] {
            host.put_back(&start, &now);
            host.passed();
            host.kill_at.set(Some(at));
            assert!(quietly(|| case.run(&host)).is_err());
            for next in 1.. {
                host.passed();
                host.kill_at.set(Some(next));
                if quietly(|| command(&host, "repair")).is_ok() {
                    break;
                }
            }
            host.kill_at.set(None);
            repair(&host);
            now = host.state();
            undone.push(now == start);
            if now != start {
                assert_same(&now, &end, &format!("killed at {at} of {count}"));
            }
        }
        assert!(undone[0] && !undone[2], "{undone:?}");
    }
}

#[test]
fn the_next_command_says_what_it_found() {
    let host = Case::Upgrade.prepare();
    host.passed();
    host.kill_at.set(Some(12));
    assert!(quietly(|| Case::Upgrade.run(&host)).is_err());
    let prefix = host.path("opt/flame").display().to_string();
    let words = ["flmadm", "status", "--prefix", &prefix];
    let (mut out, mut err) = (Vec::new(), Vec::new());
    crate::run(&host, words.map(Into::into), &mut out, &mut err);
    let said = String::from_utf8_lossy(&err);
    assert!(
        said.contains("flmadm repair") && said.contains("upgrade"),
        "{said}"
    );
}
