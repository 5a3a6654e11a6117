//! Upgrades and rollbacks on a machine that is a temporary directory.

use super::*;
use crate::cli::{Cli, Command};
use crate::failure::Kind;
use crate::host::fake::FakeHost;
use clap::Parser;

fn install(host: &FakeHost, line: &str) -> Outcome<()> {
    crate::install::tests::install_services(host, line)
}

/// A newer session manager is built.
fn build(host: &FakeHost, program: &str, text: &str) {
    std::fs::write(host.path("built").join(program), text).expect("written");
}

fn command(host: &FakeHost, line: &str) -> Outcome<String> {
    let prefix = host.path("opt/flame").display().to_string();
    let words = ["flmadm"].into_iter().chain(line.split_whitespace());
    let words = words.chain(["--prefix", &prefix]).map(str::to_owned);
    let built = host.path("built").display().to_string();
    let source = match line.starts_with("upgrade") {
        true => vec!["--bin-dir".to_owned(), built],
        false => Vec::new(),
    };
    let cli = Cli::try_parse_from(words.chain(source)).expect(line);
    let mut out = Vec::new();
    match cli.command {
        Command::Upgrade(args) => run(host, &args, &mut Output::new(args.output, &mut out))?,
        Command::Rollback(args) => run_rollback(host, &args, &mut Output::new(args.output, &mut out))?,
        Command::Releases(args) => {
            crate::releases::run(host, &args, &mut Output::new(args.output, &mut out))?
        }
        other => panic!("{other:?}"),
    }
    Ok(String::from_utf8(out).expect("text"))
}

fn current(host: &FakeHost) -> String {
    let link = host.path("opt/flame/current").read_link().expect("a link");
    link.file_name().expect("a name").to_string_lossy().into_owned()
}

#[test]
fn a_release_lies_beside_the_one_before_and_is_switched_to() {
    let host = FakeHost::new();
    install(&host, "--all --enable").expect("installed");
    let first = current(&host);
    host.calls();
    build(&host, "flame-session-manager", "a newer one");
    let text = command(&host, "upgrade").expect("upgraded");
    let second = current(&host);
    assert_ne!(first, second);
    assert!(text.contains(&format!("(before: {first})")), "{text}");
    let calls = host.calls();
    assert_eq!(
        calls,
        [
            "launch flame-recovery.service",
            "restart flame-session-manager.service"
        ],
        "only what changed is restarted"
    );
    let program = host.path("opt/flame/bin/flame-session-manager");
    assert_eq!(std::fs::read_to_string(&program).expect("there"), "a newer one");
    assert!(
        host.path("opt/flame/releases")
            .join(&first)
            .join("bin/flame-session-manager")
            .exists()
    );
    // Nothing to do: nothing is touched, nothing is restarted.
    let before = (host.listing(), host.services());
    assert!(
        command(&host, "upgrade")
            .expect("nothing to do")
            .contains("Nothing had to be changed.")
    );
    assert_eq!((host.listing(), host.services()), before);
    assert_eq!(host.calls(), [""; 0]);
    let text = command(&host, "rollback").expect("rolled back");
    assert_eq!(current(&host), first);
    assert!(text.contains(&format!("(before: {second})")), "{text}");
    command(&host, "rollback").expect("and forth");
    assert_eq!(current(&host), second);
}

#[test]
fn a_release_that_does_not_work_is_taken_back() {
    for fault in ["start", "dies", "probe"] {
        let mut host = FakeHost::new();
        install(&host, "--all --enable").expect("installed");
        let running = host.services();
        let before = host.listing();
        build(&host, "flame-session-manager", "a broken one");
        match fault {
            "start" => drop(host.broken.insert("flame-session-manager.service".to_owned())),
            "dies" => drop(
                host.short_lived
                    .insert("flame-session-manager.service".to_owned()),
            ),
            _ => host.probed = None,
        }
        let failure = command(&host, "upgrade").expect_err(fault);
        assert_eq!(failure.kind, Kind::Start, "{fault}");
        let text = failure.report();
        assert!(text.contains("were undone"), "{fault}: {text}");
        let mut after = host.listing();
        after.retain(|path, _| !path.starts_with(host.path("built")));
        let mut before = before;
        before.retain(|path, _| !path.starts_with(host.path("built")));
        assert_eq!(after, before, "{fault}");
        host.broken.clear();
        host.short_lived.clear();
        if fault == "probe" {
            assert_eq!(host.services(), running, "{fault}");
        }
    }
}

#[test]
fn what_does_not_work_stays_if_that_is_asked_for() {
    let mut host = FakeHost::new();
    install(&host, "--all --enable").expect("installed");
    let first = current(&host);
    build(&host, "flame-session-manager", "a broken one");
    host.probed = None;
    let failure = command(&host, "upgrade --keep-failed").expect_err("broken");
    assert!(failure.report().contains("--keep-failed"), "{}", failure.report());
    assert_ne!(current(&host), first);
    host.probed = Some(crate::host::Probed::Done);
    command(&host, "rollback").expect("the first has worked");
    assert_eq!(current(&host), first);
}

/// Where a unit file is, and whether the unit is enabled or runs.
fn unit(host: &FakeHost, name: &str) -> (bool, bool, bool) {
    let (active, enabled) = host.services();
    let there = host.path("etc/systemd/system").join(name).exists();
    (
        there,
        enabled.contains(&name.to_owned()),
        active.contains(&name.to_owned()),
    )
}

const AGENT: &str = "flame-node-agent.service";

#[test]
fn units_that_a_release_does_not_have_are_ended_first() {
    let host = FakeHost::new();
    install(&host, "--control-plane --enable").expect("installed");
    install(&host, "--all --enable").expect("with a worker");
    let more = ["flame-node-agent@gpu.service", "flame-executor@3.service"];
    let start = || {
        for instance in more {
            crate::host::Units::start(&host, instance).expect("started");
            host.instances.borrow_mut().push(instance.to_owned());
        }
    };
    start();
    assert_eq!(unit(&host, AGENT), (true, true, true));
    let before = (host.listing(), host.services());
    // It fails when they have gone: everything is as it was.
    host.reload_fails.set(true);
    let failure = command(&host, "rollback").expect_err("systemd does not read its files");
    assert!(failure.report().contains("were undone"), "{}", failure.report());
    let (files, (active, enabled)) = (host.listing(), host.services());
    assert_eq!((files, enabled), (before.0, before.1.1));
    let gone: Vec<&String> = before.1.0.iter().filter(|unit| !active.contains(unit)).collect();
    assert_eq!(gone, [more[1]], "only an agent starts an executor");
    start();
    host.calls();
    command(&host, "rollback").expect("rolled back");
    let calls = host.calls();
    let at = |call: &str| {
        calls
            .iter()
            .position(|other| other.starts_with(call))
            .unwrap_or_else(|| panic!("{call}: {calls:?}"))
    };
    assert!(
        at(&format!("stop {}", more[0])) < at(&format!("stop {AGENT}")),
        "{calls:?}"
    );
    assert!(
        at(&format!("stop {AGENT}")) < at(&format!("disable {AGENT}")),
        "{calls:?}"
    );
    assert!(at(&format!("disable {AGENT}")) < at("reload"), "{calls:?}");
    assert!(
        !calls
            .iter()
            .any(|call| call.contains("session-manager") && call.starts_with("stop")),
        "{calls:?}"
    );
    assert_eq!(unit(&host, AGENT), (false, false, false));
    assert_eq!(unit(&host, "flame-executor@.service"), (false, false, false));
    assert_eq!(unit(&host, "flame-session-manager.service"), (true, true, true));
    assert!(!host.path("etc/polkit-1/rules.d/50-flame.rules").exists());
    let manifest = std::fs::read_to_string(host.path("opt/flame/manifest.toml")).expect("read");
    assert!(
        !manifest.contains("system/flame-node-agent.service"),
        "{manifest}"
    );
    command(&host, "rollback").expect("and forth");
    assert!(unit(&host, AGENT).0);
}

#[test]
fn a_unit_of_an_older_version_goes_with_an_upgrade() {
    let host = FakeHost::new();
    install(&host, "--all --enable").expect("installed");
    let old = "flame-cache.service";
    let path = host.path("etc/systemd/system").join(old);
    let prefix = host.path("opt/flame");
    let text = format!("[Unit]\n[X-Flame]\nPrefix={}\n", prefix.display());
    std::fs::write(&path, &text).expect("written");
    let prefix = Prefix::new(&prefix).expect("a prefix");
    let mut manifest = Manifest::load(&prefix).expect("read").expect("there");
    manifest.units.push(old.to_owned());
    manifest.files.push(crate::manifest::FileRecord {
        path: path.clone(),
        kind: crate::manifest::FileKind::Unit,
        sha256: crate::manifest::sha256(text.as_bytes()),
    });
    std::fs::write(prefix.manifest(), manifest.text().expect("text")).expect("written");
    crate::host::Units::start(&host, old).expect("started");
    crate::host::Units::enable(&host, &[old]).expect("enabled");
    build(&host, "flame-session-manager", "a newer one");
    let before = (host.listing(), host.services());
    host.calls();
    host.reload_fails.set(true);
    command(&host, "upgrade").expect_err("systemd does not read its files");
    assert_eq!((host.listing(), host.services()), before);
    command(&host, "upgrade").expect("upgraded");
    assert_eq!(unit(&host, old), (false, false, false));
    let manifest = Manifest::load(&prefix).expect("read").expect("there");
    assert!(!manifest.files.iter().any(|file| file.path == path));
}

#[test]
fn only_so_many_releases_are_kept_and_fewer_on_demand() {
    let host = FakeHost::new();
    install(&host, "--all --enable").expect("installed");
    for number in 0..4 {
        build(&host, "flmctl", &format!("version {number}"));
        command(&host, "upgrade").expect("upgraded");
    }
    let count = |host: &FakeHost| host.path("opt/flame/releases").read_dir().expect("read").count();
    assert_eq!(count(&host), 3);
    let text = command(&host, "releases").expect("listed");
    assert_eq!(text.lines().count(), 4, "{text}");
    let text = command(&host, "releases --prune").expect("pruned");
    assert!(text.contains("Removed: "), "{text}");
    assert_eq!(count(&host), 2);
    command(&host, "rollback").expect("there is one left");
    let failure = command(&host, "rollback --to 9.9.9").expect_err("no such");
    assert_eq!(failure.kind, Kind::Arguments);
    crate::install::tests::uninstall(&host);
    assert!(!host.path("opt/flame").exists());
}

#[test]
fn an_older_version_is_refused_unless_allowed() {
    refuse_older("1.2.3", "1.2.3", false).expect("the same");
    refuse_older("1.3.0", "1.2.3", false).expect("newer");
    refuse_older("1.2.3", "1.10.0", false).expect_err("older");
    refuse_older("1.2.3", "1.10.0", true).expect("allowed");
}

#[test]
fn the_machine_is_looked_at_first() {
    let mut host = FakeHost::new();
    install(&host, "--all --enable").expect("installed");
    build(&host, "flame-session-manager", "a newer one");
    // A port that is taken is not the upgrade's problem: what runs has its own.
    host.facts.listeners.push(crate::doctor::facts::Listener {
        address: "127.0.0.1:8080".parse().expect("an address"),
        uid: 0,
        process: None,
    });
    // Enough to run, but not for one more release.
    host.facts.file_system.free_bytes = 64 << 20;
    // A warning is a note.
    host.facts
        .say("/proc/meminfo", "MemTotal: 400000 kB\nMemAvailable: 400000 kB");
    let before = host.listing();
    let failure = command(&host, "upgrade").expect_err("no room");
    assert_eq!(failure.kind, Kind::Installation);
    let text = failure.report();
    let parts = ["disk-space", "--ignore-check disk-space", "to upgrade in spite"];
    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    assert_eq!(host.listing(), before);
    let text = command(&host, "upgrade --ignore-check disk-space").expect("upgraded");
    assert!(text.contains("Note: memory: "), "{text}");
    let config = host.path("opt/flame/conf/flame-cluster.yaml");
    std::fs::write(config, "cluster: {}").expect("written");
    let text = command(&host, "upgrade").expect_err("no configuration").report();
    assert!(
        text.contains("the configuration is broken") && text.contains("config check"),
        "{text}"
    );
}

#[test]
fn there_must_be_something_to_upgrade() {
    let mut host = FakeHost::new();
    for line in ["upgrade", "rollback", "releases"] {
        let failure = command(&host, line).expect_err(line);
        assert_eq!(failure.kind, Kind::Installation, "{line}");
    }
    install(&host, "--all").expect("installed");
    assert_eq!(
        command(&host, "rollback").expect_err("no other").kind,
        Kind::Installation
    );
    host.root = false;
    for line in ["upgrade", "rollback"] {
        let failure = command(&host, line).expect_err(line);
        assert!(failure.report().contains("only root"), "{line}");
    }
}
