//! Whole reports, and what install does with them.

use serde_json::Value;

use super::checks::testing::Machine;
use crate::failure::Kind;
use crate::host::Host;

/// Runs `flmadm LINE` on the machine: exit code, standard output, standard error.
fn run(machine: &Machine, line: &str) -> (u8, String, String) {
    let prefix = machine.prefix.text();
    let words = ["flmadm"]
        .into_iter()
        .chain(line.split_whitespace())
        .map(Into::into);
    let at = ["--prefix", &prefix]
        .into_iter()
        .filter(|_| !line.contains("--list"))
        .map(Into::into);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = crate::run(&machine.host, words.chain(at), &mut out, &mut err);
    // The directory of the test has another name each time, and so have its user and its program.
    let plain = |bytes: Vec<u8>| {
        let text = String::from_utf8(bytes).expect("text");
        text.replace(&machine.host.path("").display().to_string(), "/")
            .replace(env!("CARGO_PKG_VERSION"), "VERSION")
    };
    (code, plain(out), plain(err))
}

/// A machine on which everything is well.
fn healthy() -> Machine {
    let mut machine = Machine::new();
    machine.start();
    let data = machine.prefix.join("data").metadata().expect("there");
    machine.host.uid = std::os::unix::fs::MetadataExt::uid(&data);
    machine.facts().say("/var/log/journal/0123/system.journal", "");
    machine
}

/// A machine on which much is wrong.
fn broken() -> Machine {
    let mut machine = healthy();
    let uid = machine.host.uid;
    machine.facts().listeners.push(super::facts::Listener {
        address: "127.0.0.1:8080".parse().expect("an address"),
        uid,
        process: Some(super::facts::Running {
            pid: 42,
            program: "/usr/bin/python3".into(),
            replaced: false,
        }),
    });
    std::fs::write(machine.prefix.join("bin/flmctl"), "another").expect("written");
    machine.facts().synchronized = false;
    machine
        .facts()
        .texts
        .remove(std::path::Path::new("/var/log/journal/0123/system.journal"));
    machine.facts().closed.insert("/proc/loadavg".into());
    machine
}

#[test]
fn a_healthy_machine_has_nothing_to_tell() {
    let machine = healthy();
    let (code, out, err) = run(&machine, "doctor");
    assert_eq!(code, 0, "{out}{err}");
    crate::golden::check("doctor/healthy.txt", &out);
}

#[test]
fn what_is_wrong_is_told_by_severity_and_with_what_mends_it() {
    let machine = broken();
    let (code, out, err) = run(&machine, "doctor");
    assert_eq!(code, Kind::Start as u8, "{err}");
    assert!(err.contains("ports, file-drift"), "{err}");
    crate::golden::check("doctor/broken.txt", &out);
    let (_, out, _) = run(&machine, "doctor -o json");
    let report: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(report["healthy"], false);
    let state = |id: &str| {
        let checks = report["checks"].as_array().expect("a list");
        let found = checks.iter().find(|found| found["id"] == id);
        found.expect(id)["state"].clone()
    };
    for (id, expected) in [("ports", "failed"), ("tasks", "unknown"), ("memory", "ok")] {
        assert_eq!(state(id), expected, "{id}");
    }
}

#[test]
fn checks_are_chosen_and_left_out() {
    let machine = broken();
    let (code, out, _) = run(&machine, "doctor --ignore ports --ignore file-drift");
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("ignored: ports file-drift"), "{out}");
    let (code, out, _) = run(&machine, "doctor --check memory --check clock");
    assert_eq!(code, 0, "{out}");
    assert!(
        out.contains("2 checks: 1 well, 1 warning") && out.contains("memory: 5859 MiB"),
        "{out}"
    );
    let (code, _, err) = run(&machine, "doctor --ignore port");
    assert_eq!(code, Kind::Arguments as u8);
    assert!(
        err.contains("there is no check \"port\"; the nearest is ports"),
        "{err}"
    );
}

#[test]
fn the_checks_are_listed() {
    let machine = Machine::bare();
    let (code, out, _) = run(&machine, "doctor --list");
    assert_eq!(code, 0);
    crate::golden::check("doctor/list.txt", &out);
    let (_, out, _) = run(&machine, "doctor --list -o json");
    let listed: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(
        listed["checks"].as_array().map(Vec::len),
        Some(super::checks::all().count())
    );
}

#[test]
fn a_machine_without_flame_is_looked_at_too() {
    let mut machine = Machine::bare();
    let (code, out, _) = run(&machine, "doctor");
    assert_eq!(code, 0, "{out}");
    assert!(out.starts_with("Nothing is installed in /opt/flame"), "{out}");
    machine.facts().systemd = "245".to_owned();
    assert_eq!(run(&machine, "doctor").0, Kind::Start as u8);
}

#[test]
fn parts_that_are_not_installed_are_not_looked_at() {
    for (line, there, absent) in [
        ("--all", "polkit", ""),
        ("--all --no-systemd", "ports", "polkit"),
        ("--control-plane", "ports", "polkit"),
        ("--worker", "polkit", "ports"),
        ("--client", "file-drift", "memory"),
    ] {
        let (_, out, _) = run(&Machine::with(line), "doctor -o json");
        let has = |id: &str| out.contains(&format!("\"id\": \"{id}\""));
        assert!(has(there) && !has(absent), "{line}: {out}");
    }
}

#[test]
fn a_user_is_told_of_what_is_his() {
    let mut machine = Machine::of_user("--all");
    machine.start();
    machine.facts().say("/var/log/journal/0123/system.journal", "");
    let delegated = format!(
        "/sys/fs/cgroup/user.slice/user-{0}.slice/user@{0}.service/cgroup.controllers",
        rustix::process::geteuid().as_raw()
    );
    machine.facts().say(&delegated, "cpu memory pids");
    machine.host.linger = Some(true);
    let (code, out, err) = run(&machine, "doctor --user");
    assert_eq!(code, 0, "{out}{err}");
    let well = out.lines().last().unwrap_or_default();
    assert!(well.ends_with(" well") && !well.starts_with("0 "), "{out}");
    let (_, out, _) = run(&machine, "doctor --user -o json");
    let report: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(report["mode"], "user");
    let checks = report["checks"].as_array().expect("a list");
    let has = |id: &str| checks.iter().any(|found| found["id"] == id);
    for id in [
        "session-bus",
        "runtime-directory",
        "lingering",
        "delegation",
        "ports",
        "disk-space",
        "inodes",
        "clock",
        "open-files",
        "services",
        "file-drift",
        "unit-drift",
        "units-read",
        "leftovers",
        "interrupted",
    ] {
        assert!(has(id), "{id} is left out");
    }
    for id in [
        "systemd",
        "cgroup-version",
        "polkit",
        "polkit-permission",
        "dynamic-users",
        "user-namespaces",
        "accounts",
        "selinux",
        "work-directories",
        "executors",
        "journal-size",
    ] {
        assert!(!has(id), "{id} is the machine's");
    }
    // His own units, and where his service manager has them.
    std::fs::write(machine.host.unit_directory().join("flame.target"), "[Unit]\n").expect("written");
    let (code, out, _) = run(&machine, "doctor --user");
    assert_eq!(code, Kind::Start as u8, "{out}");
    assert!(
        out.contains("home/.config/systemd/user/flame.target was changed")
            && out.contains("systemctl --user edit"),
        "{out}"
    );
    let (code, _, err) = run(&machine, "doctor");
    assert_eq!(code, Kind::Arguments as u8, "{err}");
    assert!(err.contains("say so with --user"), "{err}");
}

#[test]
fn an_installation_of_a_user_is_preceded_by_a_look_too() {
    let mut host = crate::host::fake::FakeHost::of_user();
    host.has_bus = false;
    // What the machine's own installation would need does not matter.
    host.facts.polkit = None;
    host.facts.say("/proc/sys/user/max_user_namespaces", "0");
    let built = host.path("built").display().to_string();
    let mut machine = Machine::on(host);
    let line = format!("install --user --all --bin-dir {built}");
    let (code, _, err) = run(&machine, &line);
    assert_eq!(code, Kind::Systemd as u8, "{err}");
    assert!(err.contains("session-bus: ") && !err.contains("polkit"), "{err}");
    machine.host.has_bus = true;
    let (code, _, err) = run(&machine, &line);
    assert_eq!(code, 0, "{err}");
}

#[test]
fn install_looks_first() {
    let built = |machine: &Machine| machine.host.path("built").display().to_string();
    let mut machine = Machine::bare();
    machine.facts().file_system.no_programs = true;
    machine
        .facts()
        .say("/proc/meminfo", "MemTotal: 400000 kB\nMemAvailable: 400000 kB");
    let line = format!("install --all --no-systemd --bin-dir {}", built(&machine));
    let before = machine.host.listing();
    let (code, _, err) = run(&machine, &line);
    assert_eq!(code, Kind::Installation as u8, "{err}");
    assert!(
        err.contains("mount-options: ") && err.contains("--ignore-check mount-options"),
        "{err}"
    );
    assert_eq!(machine.host.listing(), before);
    let (code, out, err) = run(&machine, &format!("{line} --ignore-check mount-options"));
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("Note: memory: "), "{out}");
    let (code, _, err) = run(&machine, &format!("{line} --ignore-check mount"));
    assert_eq!(code, Kind::Arguments as u8, "{err}");
    let mut machine = Machine::bare();
    machine.facts().polkit = None;
    let (code, _, err) = run(
        &machine,
        &format!("install --worker --bin-dir {}", built(&machine)),
    );
    assert_eq!(code, Kind::Systemd as u8, "{err}");
    assert!(err.contains("polkit: "), "{err}");
}
