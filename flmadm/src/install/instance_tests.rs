//! Several installations with units on one machine.

use crate::host::fake::FakeHost;
use crate::prefix::Prefix;

use std::path::Path;

use super::tests::install_services;
use super::*;

/// Removes the installation in `prefix` with everything.
fn remove(host: &FakeHost, prefix: &str) {
    let prefix = host.path(prefix);
    let line = format!("--prefix {} --force --no-backup --remove-user", prefix.display());
    let args = crate::cli::parse_uninstall(&line).expect("parsed");
    crate::uninstall::run(host, &args, &mut Output::new(args.output, &mut Vec::new())).expect("removed");
}

/// Makes what a running installation leaves outside of its prefix.
fn run_executors(host: &FakeHost, stem: &str) {
    for below in [
        format!("run/{stem}/executors"),
        format!("run/{stem}-executor/0"),
        format!("run/systemd/system.control/{stem}-executor@0.service.d"),
        format!("run/systemd/system.control/{stem}-executor-open@gpu-1.service.d"),
    ] {
        std::fs::create_dir_all(host.path(&below)).expect("made");
    }
    host.instances
        .borrow_mut()
        .push(format!("{stem}-executor@0.service"));
}

#[test]
fn the_removal_of_one_leaves_the_other_as_it_was() {
    for (first, second) in [("flame", "flame-prod"), ("flame-prod", "flame")] {
        let host = FakeHost::new();
        let install = |stem: &str| {
            let option = stem
                .strip_prefix("flame-")
                .map(|name| format!(" --instance {name}"));
            let line = format!("--all --enable{}", option.unwrap_or_default());
            install_services(&host, &line).expect("installed");
            run_executors(&host, stem);
        };
        install(first);
        let before = host.listing();
        install(second);
        host.calls();
        remove(&host, &format!("opt/{second}"));
        assert_eq!(host.listing(), before);
        assert_eq!(*host.instances.borrow(), [format!("{first}-executor@0.service")]);
        let names: flame_core::HostNames = first.parse().expect("a stem");
        let prefix = Prefix::new(&host.path("opt/flame")).expect("a prefix");
        let others: Vec<String> = crate::unit_files::render(
            &prefix,
            &names,
            crate::scope::Scope::System,
            Path::new("/place"),
            &profile::ALL,
        )
        .into_iter()
        .map(|unit| unit.name)
        .chain([format!("{first}-executor@0.service")])
        .collect();
        let calls = host.calls();
        assert!(
            calls.contains(&format!("stop {second}-node-agent.service")),
            "{calls:?}"
        );
        for call in calls {
            assert!(
                !call
                    .split_whitespace()
                    .any(|word| others.iter().any(|unit| unit == word)),
                "{call}"
            );
        }
    }
}

#[test]
fn each_instance_has_ports_of_its_own() {
    let mut host = FakeHost::new();
    let endpoint = |host: &FakeHost, prefix: &str| {
        let path = host.path(prefix).join("conf/flame-cluster.yaml");
        let config = flame_core::config::ClusterConfig::load(&path).expect("valid");
        config.endpoint.url()
    };
    install_services(&host, "--all").expect("installed");
    install_services(&host, "--all --instance a").expect("installed");
    host.listening = [8100].into();
    install_services(&host, "--all --instance b").expect("installed");
    // Its own service uses them by now.
    host.listening = [8080, 8090, 8100, 8110].into();
    install_services(&host, "--all --instance b").expect("installed");
    // Another machine's session manager.
    install_services(&host, "--worker --instance w").expect("installed");
    for (prefix, expected) in [
        ("opt/flame", "http://127.0.0.1:8080"),
        ("opt/flame-a", "http://127.0.0.1:8090"),
        ("opt/flame-b", "http://127.0.0.1:8110"),
        ("opt/flame-w", "http://127.0.0.1:8080"),
    ] {
        assert_eq!(endpoint(&host, prefix), expected, "{prefix}");
    }
}

#[test]
fn an_instance_has_units_users_and_a_rule_of_its_own() {
    let host = FakeHost::new();
    install_services(&host, "--all --enable --instance prod").expect("installed");
    for path in [
        "etc/systemd/system/flame-prod.target",
        "etc/systemd/system/flame_prod.slice",
        "etc/systemd/system/flame-prod-node-agent@.service",
        "etc/polkit-1/rules.d/50-flame-prod.rules",
    ] {
        assert!(host.path(path).exists(), "{path}");
    }
    let passwd = std::fs::read_to_string(host.path("etc/passwd")).expect("read");
    let users: Vec<&str> = passwd.lines().filter_map(|line| line.split(':').next()).collect();
    assert_eq!(users, ["root", "flame-prod", "flame-prod-exec"]);
    let calls = host.calls();
    for call in [
        "enable flame-prod.target flame-prod-session-manager.service flame-prod-recovery.service flame-prod-node-agent.service",
        "start flame-prod-node-agent.service",
        "start flame-prod.target",
    ] {
        assert!(calls.contains(&call.to_owned()), "{calls:?}");
    }
    // A new program restarts its own service, and the name need not be said again.
    std::fs::write(host.path("built/flame-node-agent"), "a newer agent").expect("written");
    install_services(&host, "--all --enable --instance prod").expect("installed");
    let restarts: Vec<String> = host.calls();
    let restarts: Vec<&String> = restarts
        .iter()
        .filter(|call| call.starts_with("restart"))
        .collect();
    assert_eq!(restarts, ["restart flame-prod-node-agent.service"]);
}
