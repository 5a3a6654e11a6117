//! Backups that are taken up, and others that are refused.

use std::path::PathBuf;

use crate::host::fake::FakeHost;
use crate::install::tests::{install, install_services};
use crate::output::Output;

use super::*;

/// By which a session manager knows the node again.
const ID: &str = "opt/flame/work/nodes/n/node-id";

/// A machine on which an installation was removed, and the backup that it has left.
fn removed() -> (FakeHost, PathBuf) {
    let host = FakeHost::new();
    install(&host, "--all --no-systemd").expect("installed");
    std::fs::write(host.path("opt/flame/data/flame.db"), "state").expect("written");
    std::fs::create_dir_all(host.path("opt/flame/work/nodes/n")).expect("made");
    std::fs::write(host.path(ID), "id").expect("written");
    std::fs::write(host.path("opt/flame/work/other"), "not kept").expect("written");
    let settings = host.path("opt/flame/conf/node-agent.toml");
    std::fs::write(settings, "[node]\nname = \"mine\"\n").expect("written");
    let line = format!("--force --prefix {}", host.path("opt/flame").display());
    let args = crate::cli::parse_uninstall(&line).expect("parsed");
    crate::uninstall::run(&host, &args, &mut Output::new(args.output, &mut Vec::new())).expect("removed");
    let mut found = std::fs::read_dir(host.path("opt")).expect("read");
    let backup = found.next().expect("a backup").expect("read").path();
    (host, backup)
}

fn restore(host: &FakeHost, backup: &Path, more: &str) -> Outcome<String> {
    install(
        host,
        &format!("--no-systemd --restore {} {more}", backup.display()),
    )
}

#[test]
fn everything_is_back_and_the_next_installation_changes_nothing() {
    let (host, backup) = removed();
    restore(&host, &backup, "").expect("restored");
    let read = |below: &str| std::fs::read_to_string(host.path("opt/flame").join(below)).expect("read");
    assert_eq!(read("data/flame.db"), "state");
    assert_eq!(std::fs::read_to_string(host.path(ID)).expect("read"), "id");
    assert!(!host.path("opt/flame/work/other").exists());
    assert_eq!(read("conf/node-agent.toml"), "[node]\nname = \"mine\"\n");
    assert!(
        host.path("opt/flame/bin/flame-node-agent").exists(),
        "its profiles"
    );
    let before = host.listing();
    install(&host, "--all --no-systemd").expect("nothing to do");
    assert_eq!(host.listing(), before);
}

#[test]
fn what_is_no_whole_backup_is_refused_before_anything_is_written() {
    type Damage = fn(&Path);
    let write = |path: PathBuf, text: &str| std::fs::write(path, text).expect("written");
    let damages: [(&str, Damage); 8] = [
        ("it has neither conf nor data", |at| {
            std::fs::remove_dir_all(at).expect("removed");
        }),
        ("manifest.toml is broken", |at| {
            std::fs::write(at.join("manifest.toml"), "profiles = 7").expect("written");
        }),
        ("has no manifest.toml", |at| {
            std::fs::remove_file(at.join("manifest.toml")).expect("removed");
        }),
        ("configuration in the backup is broken", |at| {
            std::fs::write(at.join("conf/flame-cluster.yaml"), "cluster: [").expect("written");
        }),
        ("could not use its settings", |at| {
            std::fs::write(at.join("conf/node-agent.toml"), "[nose]").expect("written");
        }),
        ("data/flame.db was changed", |at| {
            std::fs::write(at.join("data/flame.db"), "sta").expect("written");
        }),
        ("data/flame.db is missing", |at| {
            std::fs::remove_file(at.join("data/flame.db")).expect("removed");
        }),
        ("data/flame.db-wal was not in it", |at| {
            std::fs::write(at.join("data/flame.db-wal"), "more").expect("written");
        }),
    ];
    for (words, damage) in damages {
        let (host, backup) = removed();
        damage(&backup);
        let before = host.listing();
        let failure = restore(&host, &backup, "").expect_err(words);
        assert!(failure.report().contains(words), "{words}: {}", failure.report());
        assert_eq!(host.listing(), before, "{words}");
    }
    let (host, backup) = removed();
    let configuration = backup.join("conf/flame-cluster.yaml");
    let text = std::fs::read_to_string(&configuration).expect("read");
    write(configuration, &text.replace("8080", "9090"));
    std::fs::remove_file(backup.join("manifest.toml")).expect("removed");
    std::fs::write(backup.join("data/flame.db"), "sta").expect("written");
    std::fs::remove_file(backup.join(sums::FILE)).expect("removed");
    restore(&host, &backup, "--all").expect("configurations may be changed, and hashes be taken away");
}

#[test]
fn what_does_not_fit_is_refused() {
    let (host, backup) = removed();
    let failure = restore(&host, &backup, "--endpoint http://other:1234").expect_err("another endpoint");
    assert!(failure.report().contains("--endpoint"), "{}", failure.report());
    let elsewhere = Prefix::new(&host.path("srv/flame")).expect("a prefix");
    let failure = check(&backup, &elsewhere, None).expect_err("the state would be elsewhere");
    assert!(failure.report().contains("data/flame.db"), "{}", failure.report());
    install(&host, "--all --no-systemd").expect("installed");
    let before = host.listing();
    let failure = restore(&host, &backup, "").expect_err("there is one");
    assert!(
        failure.report().contains("is there already"),
        "{}",
        failure.report()
    );
    assert_eq!(host.listing(), before);
}

#[test]
fn executors_may_write_where_the_restored_settings_say() {
    let (host, backup) = removed();
    let settings = "[runtime]\nwork_directories = [\"/srv/work\"]\n";
    std::fs::write(backup.join("conf/node-agent.toml"), settings).expect("written");
    install_services(&host, &format!("--restore {}", backup.display())).expect("restored");
    for path in crate::install::drop_ins(&host, &flame_core::HostNames::default()) {
        let text = std::fs::read_to_string(path).expect("there");
        assert!(text.contains("/srv/work"), "{text}");
    }
}
