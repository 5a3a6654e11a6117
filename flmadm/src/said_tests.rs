//! What verbs that change something say to people, word for word.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::host::fake::FakeHost;
use crate::install::tests::install_services_said;

/// Runs a command line that succeeds, and gives what it says.
fn said(host: &FakeHost, line: &str) -> String {
    let mut words: Vec<String> = std::iter::once("flmadm")
        .chain(line.split_whitespace())
        .map(str::to_owned)
        .collect();
    words.extend([
        "--prefix".to_owned(),
        host.path("opt/flame").display().to_string(),
    ]);
    if line.starts_with("install") || line.starts_with("upgrade") {
        words.extend(["--bin-dir".to_owned(), host.path("built").display().to_string()]);
    }
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = crate::run(host, words.into_iter().map(Into::into), &mut out, &mut err);
    let text = String::from_utf8([out, err].concat()).expect("text");
    assert_eq!(code, 0, "{line}: {text}");
    masked(host, &text)
}

/// The text without what differs from run to run, or with every release: places, versions, hashes, times and counts.
fn masked(host: &FakeHost, text: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let text = text
        .replace(&host.path("").display().to_string(), "/")
        .replace(version, "VERSION");
    let text = without(&text, "VERSION-", 8, "HASH");
    let text = without(&text, ".backup.", "20260131T120000Z".len(), "TIME");
    // Each new page of the manual is one more file.
    let count = |line: &str| match line.split_once(" files") {
        Some((begin, end)) => {
            let begin = begin.trim_end_matches(|c: char| c.is_ascii_digit());
            format!("{begin}N files{end}\n")
        }
        None => format!("{line}\n"),
    };
    text.lines().map(count).collect()
}

/// Replaces the `length` letters and digits behind each `mark` by `name`.
fn without(text: &str, mark: &str, length: usize, name: &str) -> String {
    let mut pieces = text.split(mark);
    let mut result = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (varying, rest) = piece.split_at(length.min(piece.len()));
        assert!(
            varying.chars().all(|c| c.is_ascii_alphanumeric()),
            "{mark}{piece}"
        );
        result.push_str(&format!("{mark}{name}{rest}"));
    }
    result
}

fn check(name: &str, text: &str) {
    crate::golden::check(&format!("said/{name}.txt"), text);
}

/// A machine with services that run, and a newer session manager that is built.
fn with_services() -> FakeHost {
    let host = FakeHost::new();
    install_services_said(&host, "--all --enable").expect("installed");
    let built = host.path("built/flame-session-manager");
    std::fs::write(built, "a newer one").expect("written");
    host
}

#[test]
fn an_installation_of_files() {
    let host = FakeHost::new();
    let line = "install --all --no-systemd";
    check("install-dry-run", &said(&host, &format!("{line} --dry-run")));
    check("install", &said(&host, line));
    check("install-again", &said(&host, line));
    check(
        "uninstall-preserved",
        &said(&host, "uninstall --force --preserve-data"),
    );
}

#[test]
fn what_the_machine_lacks_is_told_before_and_after() {
    let mut host = FakeHost::new();
    let memory = "MemTotal: 16000000 kB\nMemAvailable: 1000 kB\n";
    host.facts.say("/proc/meminfo", memory);
    for line in [
        "install --all --no-systemd --dry-run",
        "install --all --no-systemd",
    ] {
        let text = said(&host, line);
        let mut notes = text
            .lines()
            .filter(|line| line.trim_start().to_lowercase().starts_with("note"));
        assert!(notes.any(|note| note.contains("memory: ")), "{line}: {text}");
    }
}

#[test]
fn an_installation_of_services() {
    let host = FakeHost::new();
    let text = install_services_said(&host, "--all --enable").expect("installed");
    check("install-enable", &masked(&host, &text));
    let text = install_services_said(&host, "--all --enable").expect("installed");
    check("install-enable-again", &masked(&host, &text));
    check("uninstall", &said(&host, "uninstall --force --remove-user"));
    check("uninstall-again", &said(&host, "uninstall --force"));
}

#[test]
fn a_change_of_releases() {
    let host = with_services();
    check("upgrade", &said(&host, "upgrade"));
    check("upgrade-again", &said(&host, "upgrade"));
    check("rollback", &said(&host, "rollback"));
}

#[test]
fn the_verbs_of_services() {
    let host = with_services();
    check("stop", &said(&host, "stop"));
    check("stop-again", &said(&host, "stop"));
    check("restart", &said(&host, "restart"));
    check("disable-now", &said(&host, "disable --now node-agent"));
    check("enable", &said(&host, "enable"));
    check("enable-again", &said(&host, "enable"));
}

#[test]
fn a_repair() {
    let host = with_services();
    check("repair-nothing", &said(&host, "repair"));
    host.passed();
    host.kill_at.set(Some(12));
    let killed = catch_unwind(AssertUnwindSafe(|| said(&host, "upgrade")));
    assert!(killed.is_err());
    check("repair", &said(&host, "repair"));
}
