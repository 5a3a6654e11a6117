//! Exit codes and texts of whole command lines.

use crate::host::fake::FakeHost;

fn run(host: &FakeHost, line: &str) -> (u8, String, String) {
    let words = std::iter::once("flmadm")
        .chain(line.split_whitespace())
        .map(Into::into);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = super::run(host, words, &mut out, &mut err);
    (
        code,
        String::from_utf8(out).expect("text"),
        String::from_utf8(err).expect("text"),
    )
}

#[test]
fn bad_command_lines_end_with_1() {
    let host = FakeHost::new();
    for line in [
        "",
        "instal",
        "install",
        "install --all --worker",
        "install --all --nonsense",
        "install --cache",
        "install --all --prefix relative",
        "install --all --prefix /",
        "install --all --prefix /usr",
        "install --all --no-systemd --enable",
        "install --all --output yaml",
        "uninstall --backup-dir /x --no-backup",
        "completion cobol",
        "help nothing",
    ] {
        assert_eq!(run(&host, line).0, 1, "{line}");
    }
}

#[test]
fn help_and_its_kin_end_with_0() {
    let host = FakeHost::new();
    for (line, part) in [
        ("help", "Usage: flmadm"),
        ("help install", "--control-plane"),
        ("help exit-codes", "5  a service did not start"),
        ("man", ".TH flmadm 8"),
        ("completion bash", "complete -F _flmadm"),
    ] {
        let (code, out, _) = run(&host, line);
        assert_eq!(code, 0, "{line}");
        assert!(out.contains(part), "{line}: {out}");
    }
    for line in ["--help", "--version", "install --help"] {
        assert_eq!(run(&host, line).0, 0, "{line}");
    }
}

#[test]
fn other_failures_have_their_codes() {
    let mut host = FakeHost::new();
    let prefix = host.path("flame").display().to_string();
    let built = host.path("built").display().to_string();
    let base = format!("--prefix {prefix} --no-systemd");
    assert_eq!(
        run(&host, &format!("install --all {base} --bin-dir /nonexistent")).0,
        2
    );
    assert_eq!(run(&host, &format!("status --prefix {prefix}")).0, 3);
    host.root = false;
    // A temporary directory is nothing for services, so a prefix that is free on any machine.
    let elsewhere = "--prefix /opt/flame-that-nobody-has";
    let (code, _, err) = run(&host, &format!("install --all {elsewhere} --bin-dir {built}"));
    assert_eq!(code, 4, "{err}");
    assert!(err.contains("sudo") && err.contains("--no-systemd"), "{err}");
    host.root = true;
    host.has_bus = false;
    assert_eq!(
        run(&host, &format!("install --all {elsewhere} --bin-dir {built}")).0,
        4
    );
    assert_eq!(
        run(&host, &format!("install --all {base} --bin-dir {built}")).0,
        0
    );
    let (code, out, err) = run(&host, &format!("status --prefix {prefix}"));
    assert_eq!(code, 5);
    assert!(
        out.contains("not running") && err.contains("flame-session-manager"),
        "{out}{err}"
    );
    // Without a terminal nobody can be asked.
    if !std::io::IsTerminal::is_terminal(&std::io::stdin()) {
        assert_eq!(run(&host, &format!("uninstall --prefix {prefix}")).0, 1);
    }
    assert_eq!(
        run(&host, &format!("uninstall --prefix {prefix} --force --no-backup")).0,
        0
    );
    assert!(!host.path("flame").exists());
}
