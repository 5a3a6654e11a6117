//! What an installation makes of the settings of node agents.

use std::path::PathBuf;

use flame_core::HostNames;

use crate::failure::Kind;
use crate::host::fake::FakeHost;

use super::tests::{install, install_services, uninstall};
use super::*;

const AGENT: &str = "flame-node-agent.service";

fn conf(host: &FakeHost, name: &str, text: &str) {
    let conf = host.path("opt/flame/conf");
    std::fs::create_dir_all(&conf).expect("made");
    std::fs::write(conf.join(name), text).expect("written");
}

fn listing(directories: &str) -> String {
    format!("[runtime]\nwork_directories = {directories}\n")
}

/// The drop-ins that are there.
fn written(host: &FakeHost) -> Vec<PathBuf> {
    let all = drop_ins(host, &HostNames::default());
    all.into_iter().filter(|path| path.exists()).collect()
}

/// The rights in all drop-ins, which are the same.
fn rights(host: &FakeHost) -> Vec<String> {
    let mut texts: Vec<String> = written(host)
        .iter()
        .map(|path| std::fs::read_to_string(path).expect("read"))
        .collect();
    assert_eq!(texts.len(), 2);
    texts.dedup();
    assert_eq!(texts.len(), 1);
    let lines = texts[0]
        .lines()
        .filter_map(|line| line.strip_prefix("ReadWritePaths="));
    lines.map(str::to_owned).collect()
}

#[test]
fn a_change_of_work_directories_is_applied_by_the_next_installation_and_only_then() {
    let host = FakeHost::new();
    install_services(&host, "--all --enable").expect("installed");
    assert_eq!(written(&host), Vec::<PathBuf>::new());
    conf(&host, "node-agent.toml", &listing("[\"/srv/b c\", \"/srv/a\"]"));
    host.calls();
    install_services(&host, "--all --enable").expect("installed");
    assert_eq!(rights(&host), ["\"-/srv/a\"", "\"-/srv/b c\""]);
    let calls = host.calls();
    assert_eq!(calls[..2], ["launch flame-recovery.service", "reload"]);
    assert!(calls.contains(&format!("restart {AGENT}")), "{calls:?}");
    assert!(
        !calls.contains(&"restart flame-session-manager.service".to_owned()),
        "{calls:?}"
    );

    let before = host.listing();
    install_services(&host, "--all").expect("installed");
    assert_eq!(host.listing(), before);
    assert_eq!(host.calls(), [""; 0]);

    conf(&host, "node-agent.toml", &listing("[\"/srv/d\"]"));
    install_services(&host, "--all").expect("installed");
    assert_eq!(rights(&host), ["\"-/srv/d\""]);
    assert_eq!(host.calls(), ["reload"]);

    conf(&host, "node-agent.toml", &listing("[]"));
    install_services(&host, "--all").expect("installed");
    assert_eq!(host.calls(), ["reload"]);
    for path in drop_ins(&host, &HostNames::default()) {
        assert!(
            !path.parent().is_some_and(std::path::Path::exists),
            "{}",
            path.display()
        );
    }
    install_services(&host, "--all").expect("installed");
    assert_eq!(host.calls(), [""; 0]);
}

#[test]
fn the_directories_of_all_agents_are_united() {
    let host = FakeHost::new();
    conf(
        &host,
        "node-agent.toml",
        &listing("[\"/srv/a/deep\", \"/srv/b\"]"),
    );
    conf(
        &host,
        "node-agent@gpu.toml",
        &listing("[\"/srv/a\", \"/srv/b/\"]"),
    );
    install_services(&host, "--worker").expect("installed");
    assert_eq!(rights(&host), ["\"-/srv/a\"", "\"-/srv/b\""]);
}

#[test]
fn an_installation_with_work_directories_leaves_no_trace() {
    let host = FakeHost::new();
    let before = host.listing();
    install_services(&host, "--all --enable").expect("installed");
    conf(&host, "node-agent.toml", &listing("[\"/srv/a\"]"));
    install_services(&host, "--all --enable").expect("installed");
    assert_eq!(written(&host).len(), 2);
    uninstall(&host);
    assert_eq!(host.listing(), before);
}

#[test]
fn an_administrators_own_drop_in_stays() {
    let host = FakeHost::new();
    install_services(&host, "--worker").expect("installed");
    conf(&host, "node-agent.toml", &listing("[\"/srv/a\"]"));
    install_services(&host, "--worker").expect("installed");
    let own = written(&host)[0].with_file_name("override.conf");
    std::fs::write(&own, "[Service]\nNice=5\n").expect("written");
    let out = uninstall(&host);
    assert!(own.exists() && out.contains("Kept: "), "{out}");
    assert_eq!(written(&host), Vec::<PathBuf>::new());
}

#[test]
fn a_drop_in_of_somebody_else_is_not_overwritten() {
    let host = FakeHost::new();
    conf(&host, "node-agent.toml", &listing("[\"/srv/a\"]"));
    let path = drop_ins(&host, &HostNames::default())[0].clone();
    std::fs::create_dir_all(path.parent().expect("a directory")).expect("made");
    std::fs::write(&path, "[Service]\n").expect("written");
    let failure = install_services(&host, "--worker").expect_err("refused");
    assert!(failure.report().contains("somebody else"), "{}", failure.report());
    install_services(&host, "--worker --force").expect("taken over");
    assert_eq!(rights(&host), ["\"-/srv/a\""]);
}

#[test]
fn a_failed_reload_puts_a_removed_drop_in_back() {
    let host = FakeHost::new();
    conf(&host, "node-agent.toml", &listing("[\"/srv/a\"]"));
    install_services(&host, "--worker").expect("installed");
    conf(&host, "node-agent.toml", &listing("[]"));
    let before = host.listing();
    host.reload_fails.set(true);
    install_services(&host, "--worker").expect_err("no reload");
    assert_eq!(host.listing(), before);
}

#[test]
fn settings_that_cannot_be_used_stop_before_the_first_change() {
    let host = FakeHost::new();
    for (text, line) in [
        (
            "[node]\nnam = \"x\"\n".to_owned(),
            "line 2: unknown key \"node.nam\"",
        ),
        (listing("[\"relative\"]"), "\"relative\" is no absolute path"),
        (listing("[\"/srv/../etc\"]"), "no absolute path without \"..\""),
        (listing("[\"/\"]"), "line 2: / has much in it"),
        (
            listing("[\"/etc/x\", \"/run/flame\"]"),
            "/run/flame belongs to the system",
        ),
        (listing("[\"/srv/a\\nb\"]"), "characters"),
        (
            listing(&format!("[\"{}\"]", host.path("opt/flame/data").display())),
            "Flame itself",
        ),
    ] {
        conf(&host, "node-agent.toml", &text);
        let before = host.listing();
        for force in ["", " --force"] {
            let failure = install_services(&host, &format!("--all{force}")).expect_err(&text);
            assert_eq!(failure.kind, Kind::Installation);
            assert!(failure.report().contains(line), "{}", failure.report());
            assert_eq!(host.listing(), before);
        }
    }
    // A machine that runs no agent has no use for the file.
    install_services(&host, "--control-plane").expect("installed");
}

#[test]
fn without_units_only_the_settings_themselves_are_checked() {
    let host = FakeHost::new();
    conf(&host, "node-agent.toml", &listing("[\"/home/me\"]"));
    install(&host, "--all --no-systemd").expect("installed");
    assert_eq!(written(&host), Vec::<PathBuf>::new());
    conf(&host, "node-agent.toml", &listing("[\"relative\"]"));
    install(&host, "--all --no-systemd").expect_err("broken");
}

#[test]
fn a_file_of_settings_is_made_once_and_never_changed() {
    let host = FakeHost::new();
    install(&host, "--all --no-systemd").expect("installed");
    let path = host.path("opt/flame/conf/node-agent.toml");
    assert_eq!(
        std::fs::read_to_string(&path).expect("there"),
        crate::node_config::new_text(&HostNames::default())
    );
    let mine = "[node]\nlabels = [\"zone=a\"]\n";
    std::fs::write(&path, mine).expect("written");
    install(&host, "--all --no-systemd --force").expect("installed");
    assert_eq!(std::fs::read_to_string(&path).expect("there"), mine);
    let out = install(&host, "--all --no-systemd --dry-run").expect("planned");
    assert!(
        out.contains("agent uses  node.labels = [\"zone=a\"] (node-agent.toml, line 2)"),
        "{out}"
    );
    let out = install(&host, "--all --no-systemd --dry-run --output json").expect("planned");
    let plan: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(plan["agents"][0]["settings"]["node.labels"][0], "zone=a");
    std::fs::write(host.path("opt/flame/conf/node-agent@b.toml"), "").expect("written");
    let out = install(&host, "--client --no-systemd --dry-run").expect("planned");
    assert!(out.contains("nothing but defaults (node-agent@b.toml)"), "{out}");
}

#[test]
fn a_group_of_people_does_not_become_that_of_executors() {
    let host = FakeHost::new();
    host.groups.borrow_mut().insert("flame-work".to_owned(), 1000);
    let failure = install_services(&host, "--worker").expect_err("refused");
    assert!(
        failure.report().contains("the group flame-work is there already"),
        "{}",
        failure.report()
    );
    install_services(&host, "--worker --force").expect("forced");
}
