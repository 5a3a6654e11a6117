//! Installations and upgrades from bundles on a machine that is a temporary directory.

use std::panic::{AssertUnwindSafe, catch_unwind};

use clap::Parser;

use super::tests::uninstall;
use crate::bundle::fixture::{Fixture, Shelf};
use crate::bundle::fixture_programs;
use crate::cli::{Cli, Command};
use crate::failure::{Kind, Outcome};
use crate::host::Host;
use crate::host::fake::{FakeHost, Killed};
use crate::output::Output;

const WHEEL: &str = "sdk/flamepy-1.2.3-py3-none-any.whl";

/// A bundle with every program, a wheel and an example.
fn fixture(version: &str) -> Fixture {
    let mut files: Vec<(String, Vec<u8>)> = fixture_programs()
        .into_iter()
        .map(|path| (path.clone(), format!("{path} of {version}").into_bytes()))
        .collect();
    files.push((WHEEL.to_owned(), b"PK\x03\x04".to_vec()));
    files.push(("share/examples/one/main.py".to_owned(), b"print()".to_vec()));
    files.sort();
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(path, contents)| (path.as_str(), contents.as_slice()))
        .collect();
    let mut fixture = Fixture::new(version, &files);
    fixture.manifest.architecture = rustix::system::uname().machine().to_string_lossy().into_owned();
    fixture
}

/// Runs `line` with the bundle `bytes`, which `shelf` signs.
fn command(host: &FakeHost, line: &str, shelf: &Shelf, bytes: &[u8]) -> Outcome<String> {
    let bundle = shelf.signed(bytes).bundle;
    let prefix = host.path("opt/flame");
    let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    for (option, value) in [
        ("--prefix", prefix.display().to_string()),
        ("--bundle", bundle.display().to_string()),
        ("--public-key", shelf.public_key()),
    ] {
        words.extend([option.to_owned(), value]);
    }
    let cli = Cli::try_parse_from(std::iter::once("flmadm".to_owned()).chain(words)).expect(line);
    let mut out = Vec::new();
    match cli.command {
        Command::Install(args) => super::run(host, &args, &mut Output::new(args.output, &mut out))?,
        Command::Upgrade(args) => crate::upgrade::run(host, &args, &mut Output::new(args.output, &mut out))?,
        other => panic!("{other:?}"),
    }
    Ok(String::from_utf8(out).expect("text"))
}

fn text(host: &FakeHost, below: &str) -> String {
    std::fs::read_to_string(host.path("opt/flame").join(below)).expect(below)
}

/// What lies beside the prefix.
fn beside(host: &FakeHost) -> Vec<String> {
    let entries = host.path("opt").read_dir().expect("read");
    let names = entries.map(|entry| entry.expect("read").file_name().to_string_lossy().into_owned());
    names.filter(|name| name != "flame").collect()
}

#[test]
fn what_is_in_a_bundle_is_installed_and_upgraded_to() {
    let (host, shelf) = (FakeHost::new(), Shelf::new());
    std::fs::create_dir(host.path("opt")).expect("made");
    let line = "install --client --worker --no-systemd --with-examples";
    let said = command(&host, line, &shelf, &fixture("1.2.3").bytes()).expect("installed");
    assert!(
        said.starts_with("  bundle of Flame 1.2.3, signed with the key "),
        "{said}"
    );
    assert_eq!(text(&host, "bin/flmctl"), "bin/flmctl of 1.2.3");
    assert_eq!(text(&host, "sbin/flmadm"), "sbin/flmadm of 1.2.3");
    assert!(
        !host.path("opt/flame/bin/flame-session-manager").exists(),
        "not asked for"
    );
    assert!(host.path("opt/flame").join(WHEEL).is_file());
    assert!(host.path("opt/flame/share/examples/one/main.py").is_file());
    assert!(host.path("opt/flame/share/doc/bundles.md").is_file());
    assert!(text(&host, "manifest.toml").contains("version = \"1.2.3\""));
    assert_eq!(beside(&host), [""; 0]);
    let before = host.listing();
    let said = command(&host, line, &shelf, &fixture("1.2.3").bytes()).expect("again");
    assert!(said.contains("Nothing had to be changed."), "{said}");
    assert_eq!(host.listing(), before);
    command(&host, "upgrade", &shelf, &fixture("1.3.0").bytes()).expect("upgraded");
    assert_eq!(text(&host, "bin/flmctl"), "bin/flmctl of 1.3.0");
    assert!(host.path("opt/flame/releases/1.2.3").is_dir());
    // Going back by mistake is refused, and possible.
    let before = host.listing();
    for line in ["upgrade", line] {
        let failure = command(&host, line, &shelf, &fixture("1.2.3").bytes()).expect_err(line);
        assert_eq!(failure.kind, Kind::Arguments, "{line}");
        assert!(
            failure.report().contains("--allow-downgrade"),
            "{}",
            failure.report()
        );
    }
    assert_eq!(host.listing(), before);
    command(
        &host,
        "upgrade --allow-downgrade",
        &shelf,
        &fixture("1.2.3").bytes(),
    )
    .expect("allowed");
    assert_eq!(text(&host, "bin/flmctl"), "bin/flmctl of 1.2.3");
    uninstall(&host);
    assert_eq!(beside(&host), [""; 0]);
}

#[test]
fn nothing_is_written_of_a_bundle_that_is_refused() {
    let (host, shelf) = (FakeHost::new(), Shelf::new());
    let other = Shelf::new();
    let before = host.listing();
    let mut bytes = fixture("1.2.3").bytes();
    let located = shelf.signed(&bytes);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&located.bundle, &bytes).expect("written");
    let prefix = host.path("opt/flame").display().to_string();
    for (key, why) in [(shelf.public_key(), "signature"), (other.public_key(), "key")] {
        let line = format!(
            "--all --no-systemd --prefix {prefix} --bundle {} --public-key {key}",
            located.bundle.display()
        );
        let args = crate::cli::parse_install(&line).expect("parsed");
        let mut out = Vec::new();
        let failure = super::run(&host, &args, &mut Output::new(args.output, &mut out)).expect_err(why);
        assert_eq!(failure.kind, Kind::Arguments, "{why}");
        assert!(failure.report().contains(why), "{}", failure.report());
        assert_eq!(host.listing(), before, "{why}");
    }
}

#[test]
fn a_bundle_without_a_program_is_refused() {
    let (host, shelf) = (FakeHost::new(), Shelf::new());
    let mut fixture = Fixture::new("1.2.3", &[("sbin/flmadm", b"flmadm")]);
    fixture.manifest.architecture = rustix::system::uname().machine().to_string_lossy().into_owned();
    let before = host.listing();
    let failure = command(&host, "install --client --no-systemd", &shelf, &fixture.bytes())
        .expect_err("flmctl is missing");
    assert_eq!(failure.kind, Kind::Build);
    assert!(failure.report().contains("flmctl"), "{}", failure.report());
    assert_eq!(host.listing(), before);
}

#[test]
fn what_a_killed_command_has_unpacked_is_removed() {
    let (host, shelf) = (FakeHost::new(), Shelf::new());
    std::fs::create_dir(host.path("opt")).expect("made");
    let bytes = fixture("1.2.3").bytes();
    let line = "install --client --no-systemd";
    for at in 1..=4 {
        let before = host.listing();
        host.passed();
        host.kill_at.set(Some(at));
        let killed = catch_unwind(AssertUnwindSafe(|| command(&host, line, &shelf, &bytes)));
        assert!(
            killed.is_err_and(|payload| payload.is::<Killed>()),
            "killed at {at}"
        );
        assert_eq!(beside(&host).is_empty(), at == 1, "killed at {at}");
        let repaired = crate::run(
            &host as &dyn Host,
            [
                "flmadm",
                "repair",
                "--prefix",
                &host.path("opt/flame").display().to_string(),
            ]
            .map(Into::into),
            &mut Vec::new(),
            &mut Vec::new(),
        );
        assert_eq!(repaired, 0);
        assert_eq!(host.listing(), before, "killed at {at}");
    }
    command(&host, line, &shelf, &bytes).expect("installed after all");
}

#[test]
fn a_bundle_does_not_go_with_programs_that_are_built() {
    for line in [
        "--client --bundle x --skip-build",
        "--client --bundle x --bin-dir y",
        "--client --bundle x --src-dir y",
        "--client --unpacked y",
    ] {
        crate::cli::parse_install(line).expect_err(line);
    }
}
