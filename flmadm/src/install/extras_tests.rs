//! Manual pages, the environment of shells, examples and Python in whole installations.

use std::path::Path;

use super::tests::{install, uninstall};
use crate::failure::Kind;
use crate::host::fake::FakeHost;
use crate::python::fixture::Pythons;

/// A machine with Python 3.12 and 3.13.
fn machine() -> (FakeHost, Pythons) {
    let host = FakeHost::new();
    let pythons = Pythons::at(host.path("usr/bin"));
    for (version, release) in [("3.12", "3.12.4"), ("3.13", "3.13.0")] {
        pythons.add(version, release);
    }
    (host, pythons)
}

/// Sources with an example.
fn sources(host: &FakeHost) -> String {
    let source = host.path("source");
    std::fs::create_dir_all(source.join("examples/one")).expect("made");
    std::fs::write(source.join("examples/one/main.py"), "print()").expect("written");
    format!("--src-dir {}", source.display())
}

#[test]
fn every_installation_has_a_manual_and_an_environment_for_shells() {
    let host = FakeHost::new();
    install(&host, "--client --no-systemd").expect("installed");
    for path in [
        "sbin/flmenv.sh",
        "sbin/flmenv.fish",
        "share/man/man8/flmadm.8",
        "share/man/man8/flmadm-install.8",
        "share/bash-completion/completions/flmadm",
        "share/zsh/site-functions/_flmadm",
    ] {
        assert!(host.path("opt/flame").join(path).is_file(), "{path}");
    }
    let text = std::fs::read_to_string(host.path("opt/flame/sbin/flmenv.sh")).expect("there");
    assert!(
        text.contains(&format!("FLAME_HOME='{}'", host.path("opt/flame").display())),
        "{text}"
    );
}

#[test]
fn examples_are_installed_if_wanted_and_stay() {
    let host = FakeHost::new();
    let source = sources(&host);
    let place = host.path("opt/flame/share/examples/one/main.py");
    install(&host, "--client --no-systemd").expect("installed");
    assert!(!place.exists());
    install(&host, &format!("--client --no-systemd --with-examples {source}")).expect("installed");
    assert!(place.is_file());
    let before = host.listing();
    // Not in the working directory of the tests, but of the release that is there.
    std::fs::remove_dir_all(host.path("source")).expect("removed");
    install(&host, &format!("--client --no-systemd {source}")).expect("installed");
    assert!(place.is_file());
    let left: Vec<_> = host
        .listing()
        .into_keys()
        .filter(|path| !before.contains_key(path))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let failure = install(
        &FakeHost::new(),
        "--client --no-systemd --with-examples --src-dir /nonexistent",
    )
    .expect_err("there are none");
    assert_eq!(failure.kind, Kind::Arguments);
}

#[test]
fn environments_of_python_come_and_go_with_the_installation() {
    let (host, _pythons) = machine();
    let before = host.listing();
    let line = "--client --no-systemd --python-version 3.12 --python-version 3.13 --python-version 3.12";
    let out = install(&host, line).expect("installed");
    assert_eq!(out.matches("Python environment").count(), 2, "{out}");
    for version in ["3.12", "3.13"] {
        assert!(
            host.path("opt/flame/python")
                .join(version)
                .join("bin/python")
                .is_file()
        );
    }
    let installed = host.listing();
    let out = install(&host, line).expect("installed");
    assert!(out.contains("Nothing had to be changed"), "{out}");
    // They stay although they are not asked for again.
    install(&host, "--client --no-systemd").expect("installed");
    assert_eq!(host.listing(), installed);
    uninstall(&host);
    assert_eq!(host.listing(), before);
}

#[test]
fn a_missing_python_stops_before_the_first_change() {
    let (host, pythons) = machine();
    pythons.script("python3.11", "echo 'No module named venv' >&2; exit 1");
    let before = host.listing();
    for version in ["3.10", "3.11"] {
        let line = format!("--client --no-systemd --python-version 3.12 --python-version {version}");
        let failure = install(&host, &line).expect_err("cannot be used");
        assert_eq!(failure.kind, Kind::Arguments);
        assert!(
            failure.report().contains(&format!("Python {version}")),
            "{}",
            failure.report()
        );
        assert_eq!(host.listing(), before);
    }
}

#[test]
fn a_dry_run_makes_none() {
    let (host, _pythons) = machine();
    let before = host.listing();
    let out = install(&host, "--client --no-systemd --python-version 3.12 --dry-run").expect("planned");
    assert!(out.contains("would make  Python environment"), "{out}");
    assert_eq!(host.listing(), before);
}

#[test]
fn one_of_an_older_python_is_replaced_whole_or_not_at_all() {
    let (host, pythons) = machine();
    let line = "--client --no-systemd --python-version 3.12";
    install(&host, line).expect("installed");
    let added = host.path("opt/flame/python/3.12/added");
    std::fs::write(&added, "of the administrator").expect("written");
    let before = host.listing();
    // The new one says what it is, and then fails.
    pythons.script(
        "python3.12",
        "case \"$*\" in *\"-c \"*) echo 3.12.5; echo \"$0\";; *) mkdir -p \"$4/bin\"; echo 'no room' >&2; exit 1;; esac",
    );
    let unlike = |path: &Path| path == host.path("usr/bin/python3.12");
    let failure = install(&host, line).expect_err("failed");
    assert!(failure.report().contains("no room"), "{}", failure.report());
    let after = host.listing();
    assert!(
        before
            .iter()
            .all(|(path, text)| unlike(path) || after.get(path) == Some(text))
    );
    assert_eq!(after.len(), before.len());
    pythons.add("3.12", "3.12.5");
    install(&host, line).expect("replaced");
    assert!(!added.exists());
    assert!(!host.path("opt/flame/python/.replaced").exists());
}

#[test]
fn somebody_elses_directory_is_not_replaced() {
    let (host, _pythons) = machine();
    std::fs::create_dir_all(host.path("opt/flame/python/3.12")).expect("made");
    let before = host.listing();
    let failure = install(&host, "--client --no-systemd --python-version 3.12").expect_err("in the way");
    assert!(failure.report().contains("is in the way"), "{}", failure.report());
    assert_eq!(host.listing(), before);
}
