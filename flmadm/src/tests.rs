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
        "man nothing",
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
        ("man", ".TH FLMADM 8"),
        ("man install", ".TH FLMADM-INSTALL 8"),
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

/// The one document on the standard output.
fn document(out: &str) -> serde_json::Value {
    serde_json::from_str(out).unwrap_or_else(|error| panic!("{error}: {out}"))
}

#[test]
fn failures_are_documents_for_programs() {
    let host = FakeHost::new();
    let prefix = host.path("flame").display().to_string();
    let status = format!("status --prefix {prefix}");
    for (line, code, kind) in [
        (format!("{status} -o json"), 3, "installation"),
        (
            format!("install -o json --prefix {prefix} --no-systemd"),
            1,
            "arguments",
        ),
        (
            format!("install --client --no-systemd --output json --prefix {prefix} --bin-dir /nonexistent"),
            2,
            "build",
        ),
        ("status -ojson --nonsense".to_owned(), 1, "arguments"),
        ("statuss --output=json".to_owned(), 1, "arguments"),
    ] {
        let (exit, out, err) = run(&host, &line);
        let document = document(&out);
        assert_eq!(exit, code, "{line}");
        assert_eq!(document["error"]["code"], code, "{line}");
        assert_eq!(document["error"]["kind"], kind, "{line}");
        let message = document["error"]["message"].as_str().expect("a message");
        assert!(
            err.contains(message) && !message.contains("error:"),
            "{line}: {err}"
        );
        assert!(document["error"]["hint"].is_string(), "{line}: {document}");
    }
    let (_, out, err) = run(&host, &status);
    assert!(
        out.is_empty() && err.starts_with("error: nothing is installed"),
        "{out}{err}"
    );
}

#[test]
fn a_result_that_tells_of_a_failure_stays_the_only_document() {
    let host = FakeHost::new();
    let prefix = host.path("flame").display().to_string();
    let built = host.path("built").display().to_string();
    let line = format!("install --all --prefix {prefix} --no-systemd --bin-dir {built}");
    assert_eq!(run(&host, &line).0, 0);
    let (code, out, err) = run(&host, &format!("status --prefix {prefix} -o json"));
    assert_eq!(code, 5);
    assert_eq!(document(&out)["active"], false);
    assert!(err.contains("not active"), "{err}");
}

#[test]
fn texts_for_people_are_the_documented_ones() {
    let host = FakeHost::new();
    let prefix = host.path("flame").display().to_string();
    for (name, line) in [
        ("help-exit-codes", "help exit-codes".to_owned()),
        (
            "error-arguments",
            "install --all --no-systemd --enable".to_owned(),
        ),
        ("error-unknown-command", "instal".to_owned()),
        ("error-no-profile", format!("install --prefix {prefix}")),
        (
            "error-no-program",
            format!("install --client --no-systemd --prefix {prefix} --bin-dir /nonexistent"),
        ),
        ("error-system-path", "install --all --prefix /usr".to_owned()),
        ("error-not-installed", format!("status --prefix {prefix}")),
        (
            "uninstall-nothing",
            format!("uninstall --force --prefix {prefix}"),
        ),
    ] {
        let (code, out, err) = run(&host, &line);
        let text = format!("exit code {code}\n{out}{err}").replace(&prefix, "PREFIX");
        crate::golden::check(&format!("text/{name}.txt"), &text);
    }
}

#[test]
fn a_dev_cluster_that_is_not_there_is_said_so() {
    let host = FakeHost::new();
    let prefix = host.path("dev").display().to_string();
    for (line, code, part) in [
        ("up --no-install", 3, "nothing is installed in"),
        ("restart", 3, "nothing is installed in"),
        ("status", 3, "nothing is installed in"),
        ("down", 0, "Nothing runs in"),
        ("down --clean", 0, "Nothing runs in"),
        ("logs", 0, "No logs in"),
        ("logs nobody", 1, "there is no daemon \"nobody\""),
        ("logs -f -o json", 1, "cannot be one JSON document"),
        ("up --bin-dir /nonexistent", 2, "/nonexistent has no"),
        ("up --nodes 0", 1, "--nodes"),
        ("up --resources cpu=x", 1, "--resources"),
        ("up --endpoint nowhere", 1, "--endpoint"),
        ("up --no-install --skip-build", 1, "--skip-build"),
    ] {
        let (found, out, err) = run(&host, &format!("dev {line} --prefix {prefix}"));
        assert_eq!(found, code, "{line}: {out}{err}");
        assert!(format!("{out}{err}").contains(part), "{line}: {out}{err}");
        assert!(!host.path("dev").exists(), "{line} has made something");
    }
}
