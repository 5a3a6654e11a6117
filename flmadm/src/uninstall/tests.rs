//! Removals on a machine that is a temporary directory.

use crate::cli::{parse_install, parse_uninstall};
use crate::failure::Kind;
use crate::host::fake::FakeHost;
use crate::output::Output;
use crate::processes::Process;

use super::*;

fn installed() -> FakeHost {
    let host = FakeHost::new();
    install(&host);
    std::fs::write(host.path("opt/flame/data/flame.db"), "state").expect("written");
    host
}

fn install(host: &FakeHost) {
    let (prefix, built) = (host.path("opt/flame"), host.path("built"));
    let line = format!(
        "--all --no-systemd --prefix {} --bin-dir {}",
        prefix.display(),
        built.display()
    );
    let args = parse_install(&line).expect("parsed");
    crate::install::run(host, &args, &mut Output::new(args.output, &mut Vec::new())).expect("installed");
}

fn uninstall(host: &FakeHost, line: &str) -> Outcome<String> {
    let line = format!("{line} --force --prefix {}", host.path("opt/flame").display());
    let args = parse_uninstall(&line).expect("parsed");
    let mut out = Vec::new();
    run(host, &args, &mut Output::new(args.output, &mut out))?;
    Ok(String::from_utf8(out).expect("text"))
}

#[test]
fn a_backup_of_state_and_configuration_stays() {
    let host = installed();
    uninstall(&host, "").expect("removed");
    assert!(!host.path("opt/flame").exists());
    let backup = std::fs::read_dir(host.path("opt"))
        .expect("read")
        .next()
        .expect("a backup")
        .expect("read")
        .path();
    assert_eq!(
        std::fs::read_to_string(backup.join("data/flame.db")).expect("kept"),
        "state"
    );
    assert!(backup.join("conf/flame-cluster.yaml").exists());
}

#[test]
fn what_is_preserved_stays_until_it_is_not() {
    let host = installed();
    let before = FakeHost::new().listing().len();
    // The id of a node belongs to the state.
    for below in ["nodes/n", "session"] {
        std::fs::create_dir_all(host.path("opt/flame/work").join(below)).expect("made");
    }
    std::fs::write(host.path("opt/flame/work/nodes/n/node-id"), "id").expect("written");
    uninstall(&host, "--preserve-data --preserve-config --no-backup").expect("removed");
    assert!(host.path("opt/flame/work/nodes/n/node-id").exists());
    assert!(!host.path("opt/flame/work/session").exists());
    assert!(host.path("opt/flame/data/flame.db").exists());
    assert!(host.path("opt/flame/conf/flame-cluster.yaml").exists());
    assert!(!host.path("opt/flame/bin").exists() && !host.path("opt/flame/logs").exists());
    // A new installation takes it up, and the next removal takes all.
    install(&host);
    assert_eq!(
        std::fs::read_to_string(host.path("opt/flame/data/flame.db")).expect("kept"),
        "state"
    );
    uninstall(&host, "--no-backup").expect("removed");
    assert_eq!(host.listing().len(), before);
}

#[test]
fn files_of_the_user_stay() {
    let host = installed();
    std::fs::write(host.path("opt/flame/bin/mine"), "mine").expect("written");
    let out = uninstall(&host, "--no-backup").expect("removed");
    let kept = host
        .path("opt/flame/releases")
        .join(env!("CARGO_PKG_VERSION"))
        .join("bin/mine");
    assert_eq!(std::fs::read_to_string(kept).expect("kept"), "mine");
    assert!(out.contains("Kept:"), "{out}");
    assert!(!host.path("opt/flame/bin/flmctl").exists());
}

#[test]
fn what_is_gone_already_need_not_be_removed() {
    let host = installed();
    std::fs::remove_file(host.path("opt/flame/bin/flmping")).expect("removed");
    std::fs::remove_dir_all(host.path("opt/flame/logs")).expect("removed");
    uninstall(&host, "--no-backup").expect("removed");
    assert!(!host.path("opt/flame").exists());
}

#[test]
fn units_that_are_masked_or_gone_are_stopped_and_leave_no_links() {
    let before = FakeHost::new().listing().len();
    for is_masked in [true, false] {
        let host = FakeHost::new();
        crate::install::install_on_fake(&host, "--all --enable").expect("installed");
        let units = host.path("etc/systemd/system");
        let agent = units.join("flame-node-agent.service");
        std::fs::remove_file(&agent).expect("removed");
        if is_masked {
            std::os::unix::fs::symlink("/dev/null", &agent).expect("masked");
        }
        let wants = units.join("flame.target.wants");
        std::fs::create_dir(&wants).expect("made");
        for link in [
            wants.join("flame-node-agent.service"),
            units.join("flame-executor-manager.service"),
        ] {
            std::os::unix::fs::symlink(&agent, link).expect("linked");
        }
        host.calls();
        uninstall(&host, "--no-backup --remove-user").expect("removed");
        assert!(
            host.calls().contains(&"stop flame-node-agent.service".to_owned()),
            "it may run nevertheless"
        );
        assert!(!wants.exists());
        let left: Vec<_> = host.listing().into_keys().collect();
        // The account tools have kept a copy, and polkit's directory is gone again.
        assert_eq!(left.len(), before, "{left:?}");
    }
}

#[test]
fn a_running_cluster_is_not_pulled_away() {
    let mut host = installed();
    host.processes = vec![Process {
        pid: 4711,
        program: "flame-node-agent".to_owned(),
    }];
    let before = host.listing();
    let failure = uninstall(&host, "--no-backup").expect_err("refused");
    assert_eq!(failure.kind, Kind::Installation);
    assert!(
        failure.report().contains("flame-node-agent (4711)"),
        "{}",
        failure.report()
    );
    assert_eq!(host.listing(), before);
}

#[test]
fn nothing_to_remove_is_no_error() {
    let host = FakeHost::new();
    assert!(
        uninstall(&host, "")
            .expect("nothing to do")
            .contains("Nothing is installed")
    );
}
