//! Installations of a user, who is not root and whose service manager runs the units.

use crate::failure::Kind;
use crate::host::fake::FakeHost;

use super::tests::install;
use crate::output::Output;

const UNITS: &str = "home/.config/systemd/user";

/// Removes everything.
fn remove(host: &FakeHost) {
    let prefix = host.path("opt/flame");
    let line = format!("--user --prefix {} --force --no-backup", prefix.display());
    let args = crate::cli::parse_uninstall(&line).expect("parsed");
    crate::uninstall::run(host, &args, &mut Output::new(args.output, &mut Vec::new())).expect("removed");
}

#[test]
fn a_user_needs_nobody_else_and_nothing_of_it_is_left() {
    let host = FakeHost::of_user();
    let before = host.listing();
    install(&host, "--all --enable --user").expect("installed");
    for unit in [
        "flame.target",
        "flame-node-agent@.service",
        "flame.slice",
        "flame-recovery.service",
    ] {
        assert!(host.path(UNITS).join(unit).exists(), "{unit}");
    }
    for other in [
        "etc/polkit-1",
        "opt/flame/.accounts",
        "etc/systemd/system/flame.target",
        "home/.config/systemd/user/flame-executor@.service",
    ] {
        assert!(!host.path(other).exists(), "{other}");
    }
    let passwd = std::fs::read_to_string(host.path("etc/passwd")).expect("read");
    assert!(!passwd.contains("flame"), "{passwd}");
    let after = host.listing();
    install(&host, "--all --enable --user").expect("again");
    assert_eq!(host.listing(), after);
    remove(&host);
    assert_eq!(host.listing(), before);
}

#[test]
fn ports_that_others_use_are_not_taken() {
    let mut host = FakeHost::of_user();
    host.listening = [8080].into();
    install(&host, "--all --user").expect("installed");
    let config = std::fs::read_to_string(host.path("opt/flame/conf/flame-cluster.yaml")).expect("read");
    assert!(config.contains("http://127.0.0.1:8090"), "{config}");
}

#[test]
fn units_of_the_user_stay() {
    let host = FakeHost::of_user();
    std::fs::create_dir_all(host.path(UNITS)).expect("made");
    std::fs::write(host.path(UNITS).join("mine.service"), "[Unit]\n").expect("written");
    let before = host.listing();
    install(&host, "--all --user").expect("installed");
    remove(&host);
    assert_eq!(host.listing(), before);
}

#[test]
fn a_user_is_told_when_the_services_end() {
    let mut host = FakeHost::of_user();
    let out = install(&host, "--all --enable --user").expect("installed");
    assert!(out.contains("loginctl enable-linger"), "{out}");
    host.linger = Some(true);
    let out = install(&host, "--all --enable --user").expect("installed");
    assert!(!out.contains("loginctl"), "{out}");
}

#[test]
fn the_installation_of_a_user_and_that_of_the_machine_are_not_mixed_up() {
    let host = FakeHost::of_user();
    install(&host, "--all --user").expect("installed");
    let line = format!("flmadm status --prefix {}", host.path("opt/flame").display());
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let words = line.split_whitespace().map(Into::into);
    assert_eq!(
        crate::run(&host, words, &mut out, &mut err),
        Kind::Arguments as u8
    );
    let said = String::from_utf8(err).expect("text");
    assert!(said.contains("--user"), "{said}");
}

#[test]
fn root_has_no_use_for_it() {
    let mut host = FakeHost::of_user();
    host.root = true;
    let run = |line: &str| {
        let prefix = host.path("opt/flame");
        let line = format!(
            "flmadm install --all --user {line} --prefix {} --bin-dir {}",
            prefix.display(),
            host.path("built").display()
        );
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = crate::run(&host, line.split_whitespace().map(Into::into), &mut out, &mut err);
        (code, String::from_utf8(err).expect("text"))
    };
    let (code, said) = run("");
    assert_eq!(code, Kind::Arguments as u8);
    assert!(said.contains("--force"), "{said}");
    assert_eq!(run("--force").0, 0);
}
