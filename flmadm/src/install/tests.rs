//! Whole installations on a machine that is a temporary directory.

use flame_core::HostNames;

use crate::cli::{InstallArgs, parse_install};
use crate::failure::{Kind, Outcome};
use crate::host::fake::FakeHost;
use crate::output::Output;
use crate::programs::Programs;

use super::*;

/// Arguments for the machine; its prefix is below a temporary directory, so `services` skips that check.
pub(crate) fn args(host: &FakeHost, line: &str) -> InstallArgs {
    let instance = line.split_once("--instance ").map(|(_, name)| format!("-{name}"));
    let prefix = host.path(&format!("opt/flame{}", instance.unwrap_or_default()));
    let built = host.path("built");
    parse_install(&format!(
        "{line} --prefix {} --bin-dir {}",
        prefix.display(),
        built.display()
    ))
    .expect(line)
}

pub(crate) fn install(host: &FakeHost, line: &str) -> Outcome<String> {
    let args = args(host, line);
    let mut out = Vec::new();
    run(host, &args, &mut Output::new(args.output, &mut out))?;
    Ok(String::from_utf8(out).expect("text"))
}

/// Removes everything, and gives what it says.
pub(crate) fn uninstall(host: &FakeHost) -> String {
    let line = format!(
        "--prefix {} --force --no-backup --remove-user",
        host.path("opt/flame").display()
    );
    let args = crate::cli::parse_uninstall(&line).expect("parsed");
    let mut out = Vec::new();
    crate::uninstall::run(host, &args, &mut Output::new(args.output, &mut out)).expect("removed");
    String::from_utf8(out).expect("text")
}

#[test]
fn an_installation_lays_out_its_prefix() {
    let host = FakeHost::new();
    install(&host, "--all --no-systemd").expect("installed");
    for (path, mode) in [
        ("bin/flame-session-manager", 0o755),
        ("bin/flame-node-agent", 0o755),
        ("bin/flmctl", 0o755),
        ("sbin/flmadm", 0o755),
        ("conf/flame-cluster.yaml", 0o644),
        ("conf/node-agent.toml", 0o644),
        ("manifest.toml", 0o644),
        ("data", 0o700),
        ("work", 0o750),
        ("logs", 0o750),
    ] {
        let metadata = host.path("opt/flame").join(path).metadata().expect(path);
        assert_eq!(
            std::os::unix::fs::MetadataExt::mode(&metadata) & 0o7777,
            mode,
            "{path}"
        );
    }
    assert!(host.calls().is_empty(), "systemd is not touched");
    assert!(!host.path("etc/systemd/system/flame.target").exists());
}

#[test]
fn the_second_run_changes_nothing() {
    let host = FakeHost::new();
    install(&host, "--all --no-systemd").expect("installed");
    let before = host.listing();
    let out = install(&host, "--all --no-systemd").expect("installed");
    assert!(out.starts_with("Nothing had to be changed."), "{out}");
    assert_eq!(host.listing(), before);
}

#[test]
fn a_dry_run_changes_nothing() {
    let host = FakeHost::new();
    let before = host.listing();
    let out = install(&host, "--all --no-systemd --dry-run").expect("planned");
    assert!(out.contains("would make  release"), "{out}");
    assert_eq!(host.listing(), before);
}

#[test]
fn profiles_add_up() {
    let host = FakeHost::new();
    install(&host, "--client --no-systemd").expect("installed");
    assert!(!host.path("opt/flame/bin/flame-node-agent").exists());
    install(&host, "--worker --no-systemd").expect("installed");
    assert!(host.path("opt/flame/bin/flame-node-agent").exists());
    assert!(host.path("opt/flame/bin/flmctl").exists());
}

#[test]
fn a_broken_configuration_stops_before_the_first_change() {
    let host = FakeHost::new();
    let conf = host.path("opt/flame/conf");
    std::fs::create_dir_all(&conf).expect("made");
    std::fs::write(conf.join("flame-cluster.yaml"), "cluster: [").expect("written");
    let before = host.listing();
    let failure = install(&host, "--all --no-systemd").expect_err("refused");
    assert_eq!(failure.kind, Kind::Installation);
    assert_eq!(host.listing(), before);
    install(&host, "--all --no-systemd --force").expect("replaced");
    assert_eq!(
        std::fs::read_to_string(conf.join("flame-cluster.yaml.bak")).expect("kept"),
        "cluster: ["
    );
}

#[test]
fn a_failure_half_way_is_undone() {
    let host = FakeHost::new();
    std::fs::create_dir_all(host.path("opt/flame")).expect("made");
    // In the way of the last of the directories.
    std::fs::write(host.path("opt/flame/logs"), "a file").expect("written");
    let before = host.listing();
    let failure = install(&host, "--all --no-systemd").expect_err("in the way");
    assert!(failure.report().contains("were undone"), "{}", failure.report());
    assert_eq!(host.listing(), before);
}

/// As [`install`] with systemd, past the check that the prefix is not in a temporary directory.
pub(crate) fn install_services(host: &FakeHost, line: &str) -> Outcome<()> {
    install_services_said(host, line).map(drop)
}

/// As [`install_services`]; gives what it says.
pub(crate) fn install_services_said(host: &FakeHost, line: &str) -> Outcome<String> {
    let args = args(host, line);
    let mut out = Vec::new();
    let mut output = Output::new(args.output, &mut out);
    let prefix = args.at.prefix()?;
    let _locks = change::enter(host, &prefix, true, &mut output)?;
    let (prefix, old) = args.at.find()?;
    let programs = Programs::Built(host.path("built"));
    let request = Request {
        prefix: &prefix,
        old: old.as_ref(),
        instance: args.at.instance.clone(),
        has_units: !args.no_systemd,
        profiles: plan::profiles(old.as_ref(), &selected(&args)?),
        programs: &programs,
        endpoint: args.endpoint.as_deref(),
        force: args.force,
        is_tried: args.enable,
        restore: args.restore.as_deref(),
        extras: Extras::default(),
    };
    let plan = make(host, &request)?;
    let report = carry_out(host, &args, &prefix, old.as_ref(), plan, &mut output)?;
    say(host, &report, &mut output);
    drop(output);
    Ok(String::from_utf8(out).expect("text"))
}

#[test]
fn services_are_enabled_started_and_restarted_only_if_changed() {
    let host = FakeHost::new();
    install_services(&host, "--all --enable").expect("installed");
    assert_eq!(
        host.calls(),
        [
            "reload",
            "enable flame.target flame-session-manager.service flame-recovery.service flame-node-agent.service",
            "reload",
            "start flame-session-manager.service",
            "start flame-node-agent.service",
            "start flame.target",
        ]
    );
    let before = host.listing();
    install_services(&host, "--all --enable").expect("installed");
    assert_eq!(host.listing(), before);
    assert!(!host.calls().iter().any(|call| call.starts_with("restart")));
    std::fs::write(host.path("built/flame-node-agent"), "a newer agent").expect("written");
    // An administrator has started two more agents, and stopped one of them.
    let more = ["a", "b"].map(|name| format!("flame-node-agent@{name}.service"));
    host.instances.borrow_mut().extend(more.clone());
    crate::host::Units::start(&host, &more[0]).expect("started");
    install_services(&host, "--all --enable").expect("installed");
    let calls = host.calls();
    assert!(calls.contains(&format!("restart {}", more[0])), "{calls:?}");
    assert!(!calls.contains(&format!("restart {}", more[1])), "{calls:?}");
    assert!(
        calls.contains(&"restart flame-node-agent.service".to_owned()),
        "{calls:?}"
    );
    assert!(
        !calls.contains(&"restart flame-session-manager.service".to_owned()),
        "{calls:?}"
    );
}

#[test]
fn a_service_that_does_not_start_is_said_so_and_nothing_stays() {
    let mut host = FakeHost::new();
    let before = host.listing();
    host.broken.insert("flame-session-manager.service".to_owned());
    host.sight.journal = Some(vec![
        r#"{"__REALTIME_TIMESTAMP":"0","_SYSTEMD_UNIT":"x.service","MESSAGE":"its last words"}"#.to_owned(),
    ]);
    let failure = install_services(&host, "--all --enable").expect_err("broken");
    assert_eq!(failure.kind, Kind::Start);
    for part in [
        "its last words",
        "journalctl -u flame-session-manager.service",
        "--keep-failed",
        "were undone",
    ] {
        assert!(failure.report().contains(part), "{part}: {}", failure.report());
    }
    assert_eq!(host.listing(), before);
    install_services(&host, "--all --enable --keep-failed").expect_err("broken");
    assert!(
        host.path("etc/systemd/system/flame-session-manager.service")
            .exists()
    );
}

#[test]
fn a_failed_reload_leaves_the_machine_as_it_was() {
    let host = FakeHost::new();
    host.reload_fails.set(true);
    let before = host.listing();
    let failure = install_services(&host, "--all").expect_err("no reload");
    assert_eq!(failure.kind, Kind::Systemd);
    assert_eq!(host.listing(), before);
}

#[test]
fn units_of_another_installation_are_not_overwritten() {
    let host = FakeHost::new();
    let unit = host.path("etc/systemd/system/flame.target");
    for (text, whose) in [
        ("[X-Flame]\nPrefix=/opt/other\n", "/opt/other"),
        ("[Unit]\n", "somebody else"),
    ] {
        std::fs::write(&unit, text).expect("written");
        let failure = install_services(&host, "--worker").expect_err("refused");
        assert!(failure.report().contains(whose), "{}", failure.report());
    }
    install_services(&host, "--worker --force").expect("taken over");
    let packaged = host.path("usr/lib/systemd/system/flame.target");
    std::fs::write(packaged, "").expect("written");
    let failure = install_services(&host, "--worker --force").expect_err("refused");
    assert!(
        failure.report().contains("belongs to a package"),
        "{}",
        failure.report()
    );
}

#[test]
fn a_masked_unit_stays_masked_unless_it_is_said_otherwise() {
    let host = FakeHost::new();
    let unit = host.path("etc/systemd/system/flame-node-agent.service");
    std::os::unix::fs::symlink("/dev/null", &unit).expect("masked");
    let before = host.listing();
    let failure = install_services(&host, "--all").expect_err("masked");
    let report = failure.report();
    assert!(
        report.contains("is masked") && report.contains("systemctl unmask"),
        "{report}"
    );
    assert_eq!(host.listing(), before);
    install_services(&host, "--all --force").expect("installed");
    assert!(!unit.is_symlink());
}

#[test]
fn a_worker_may_run_executors() {
    let host = FakeHost::new();
    install_services(&host, "--control-plane").expect("installed");
    assert!(!host.path("etc/polkit-1").exists());
    install_services(&host, "--worker --enable").expect("installed");
    let rule = std::fs::read_to_string(host.path("etc/polkit-1/rules.d/50-flame.rules")).expect("there");
    assert!(
        rule.contains(&host.path("opt/flame").display().to_string()),
        "{rule}"
    );
    assert!(host.path("etc/systemd/system/flame-executor@.service").exists());
    assert!(host.path("opt/flame/share/process-runtime.conf").exists());
    let calls = host.calls();
    assert!(
        !calls.iter().any(|call| call.contains("@.")),
        "a template is started: {calls:?}"
    );
    for account in all_accounts(&HostNames::default()) {
        assert!(account.look_up(&host).expect("looked").is_some(), "{account}");
    }
}

#[test]
fn one_more_user_than_the_release_before_is_made() {
    let host = FakeHost::new();
    install_services(&host, "--control-plane").expect("installed");
    let before = host.listing();
    let account = crate::host::Account::User("flame-exec".to_owned());
    crate::host::Host::remove_account(&host, &account).expect("removed");
    install_services(&host, "--control-plane").expect("installed again");
    let accounts = host.path("etc/passwd");
    assert_eq!(host.listing().get(&accounts), before.get(&accounts));
    let manifest = host.path("opt/flame/manifest.toml");
    assert_eq!(host.listing().get(&manifest), before.get(&manifest));
}

#[test]
fn a_removed_installation_leaves_no_trace() {
    let host = FakeHost::new();
    std::fs::create_dir_all(host.path("run/systemd")).expect("made");
    let before = host.listing();
    install_services(&host, "--all --enable").expect("installed");
    // What executors leave, one of them without an agent that could end it.
    for below in [
        "run/flame/executors",
        "run/flame-executor/0",
        "run/systemd/system.control/flame-executor@0.service.d",
        "run/systemd/system.control/flame-executor-strict@gpu-1.service.d",
    ] {
        std::fs::create_dir_all(host.path(below)).expect("made");
    }
    host.instances
        .borrow_mut()
        .push("flame-executor@0.service".to_owned());
    std::fs::write(host.path("opt/flame/data/flame.db"), "state").expect("written");
    for _ in 0..2 {
        uninstall(&host);
        assert_eq!(host.listing(), before);
    }
    for account in all_accounts(&HostNames::default()) {
        assert_eq!(account.look_up(&host).expect("looked"), None, "{account}");
    }
}

#[test]
fn a_person_called_flame_does_not_run_services() {
    let mut host = FakeHost::new();
    host.uid = 1000;
    std::fs::write(
        host.path("etc/passwd"),
        "flame:x:1000:1000::/home/flame:/bin/sh\n",
    )
    .expect("written");
    let failure = install_services(&host, "--all").expect_err("refused");
    assert!(
        failure.report().contains("a person's account"),
        "{}",
        failure.report()
    );
    install_services(&host, "--all --force").expect("forced");
    uninstall(&host);
    assert!(crate::host::Host::user(&host, "flame").expect("looked").is_some());
}
