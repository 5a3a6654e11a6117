//! Environments made by Pythons that are scripts.

use super::fixture::Pythons;
use super::*;

fn environment(pythons: &Pythons, top: &Path, wheels: &[&str]) -> Environment {
    let version: Version = "3.12".parse().expect("a version");
    Environment {
        directory: Environment::place(top, version),
        interpreter: find(&pythons.search(), version).expect("found"),
        wheels: wheels
            .iter()
            .map(|name| Wheel {
                path: top.join("sdk").join(name),
                sha256: format!("hash of {name}"),
            })
            .collect(),
    }
}

#[test]
fn an_environment_is_made_once() {
    let (pythons, home) = (Pythons::new(), tempfile::tempdir().expect("temporary directory"));
    pythons.add("3.12", "3.12.4");
    let made = environment(&pythons, home.path(), &[]);
    assert_eq!(made.directory, home.path().join("python/3.12"));
    assert!(!made.is_current());
    made.make().expect("made");
    assert!(made.is_current());
    assert!(!made.directory.join("pip").exists(), "no wheels, no pip");
}

#[test]
fn another_interpreter_or_wheel_makes_it_stale() {
    let (pythons, home) = (Pythons::new(), tempfile::tempdir().expect("temporary directory"));
    pythons.add("3.12", "3.12.4");
    let made = environment(&pythons, home.path(), &["a.whl", "b.whl"]);
    made.make().expect("made");
    assert!(environment(&pythons, home.path(), &["b.whl", "a.whl"]).is_current());
    assert!(!environment(&pythons, home.path(), &["a.whl"]).is_current());
    pythons.add("3.12", "3.12.5");
    assert!(!environment(&pythons, home.path(), &["a.whl", "b.whl"]).is_current());
}

#[test]
fn wheels_are_installed_without_the_network() {
    let (pythons, home) = (Pythons::new(), tempfile::tempdir().expect("temporary directory"));
    pythons.add("3.12", "3.12.4");
    let made = environment(&pythons, home.path(), &["a.whl", "b.whl"]);
    made.make().expect("made");
    let call = std::fs::read_to_string(made.directory.join("pip")).expect("called");
    let sdk = home.path().join("sdk");
    for part in [
        "--no-index",
        &format!("--find-links {0} {0}/a.whl {0}/b.whl", sdk.display()),
    ] {
        assert!(call.contains(part), "{part}: {call}");
    }
}

#[test]
fn a_failure_says_what_pip_said_and_leaves_no_stamp() {
    let (pythons, home) = (Pythons::new(), tempfile::tempdir().expect("temporary directory"));
    pythons.add("3.12", "3.12.4");
    let made = environment(&pythons, home.path(), &["broken.whl"]);
    let report = made.make().expect_err("failed").report();
    assert!(
        report.contains("grpcio") && report.contains("sdk directory"),
        "{report}"
    );
    assert!(!made.is_current());
}

#[test]
fn everybody_may_read_it() {
    let home = tempfile::tempdir().expect("temporary directory");
    let top = home.path().join("python");
    std::fs::create_dir(&top).expect("made");
    for (name, before) in [("module.py", 0o600), ("tool", 0o700)] {
        std::fs::write(top.join(name), "").expect("written");
        std::fs::set_permissions(top.join(name), PermissionsExt::from_mode(before)).expect("set");
    }
    std::fs::set_permissions(&top, PermissionsExt::from_mode(0o700)).expect("set");
    for_everybody(&top).expect("opened");
    for (name, after) in [("", 0o755), ("module.py", 0o644), ("tool", 0o755)] {
        let mode = top.join(name).metadata().expect(name).permissions().mode();
        assert_eq!(mode & 0o777, after, "{name}");
    }
}
