//! Builds by a cargo that is a script.

use std::cell::Cell;
use std::os::unix::fs::{MetadataExt, chown};
use std::time::Duration;

use super::*;
use crate::compile::count::tests::artifact;
use crate::compile::fixture::Sources;
use crate::compile::tools::Caller;
use crate::host::Ids;

/// The outcome, and what was shown.
fn build(sources: &Sources, around: &Surroundings, interrupted: &dyn Fn() -> bool) -> (Outcome<()>, String) {
    let target = sources.target();
    let task = Task {
        source: sources.path(),
        target: &target,
        programs: &["flmctl"],
    };
    let mut shown = Vec::new();
    let outcome = task.run(
        around,
        &mut Display::seldom(&mut shown, Duration::ZERO),
        interrupted,
    );
    (outcome, String::from_utf8(shown).expect("text"))
}

fn log(sources: &Sources) -> String {
    std::fs::read_to_string(sources.target().join(LOG)).expect("a log")
}

#[test]
fn packages_are_counted_and_everything_is_logged() {
    let script = format!(
        "echo \"   Compiling lib v1.0.0\" >&2\necho '{}'\necho '{}'\necho '{}'\necho \"args $*\" >&2\n\
         echo \"target $CARGO_TARGET_DIR\" >&2",
        artifact("tool", "lib", true),
        artifact("lib", "lib", false),
        artifact("flmctl", "bin", false)
    );
    let sources = Sources::new(&script);
    let (outcome, shown) = build(&sources, &sources.surroundings(), &|| false);
    outcome.expect("built");
    let lines: Vec<&str> = shown.lines().collect();
    assert!(
        lines[0].starts_with("Building 1 programs with Rust 1.90.0; the log is "),
        "{shown}"
    );
    assert_eq!(
        lines[1..4],
        ["  1 of 3 packages", "  2 of 3 packages", "  3 of 3 packages"]
    );
    assert_eq!(lines[4], "Built 2 packages in 0 s; 1 had been built before");
    let log = log(&sources);
    for part in [
        "$ cargo metadata --locked",
        "   Compiling lib v1.0.0",
        "args build --release --locked --message-format=json-render-diagnostics --bin flmctl",
        &format!("target {}", sources.target().display()),
    ] {
        assert!(log.contains(part), "{part}: {log}");
    }
}

#[test]
fn a_failure_shows_the_end_of_the_log_and_the_remedy() {
    let sources = Sources::new(
        "i=0; while [ $i -lt 40 ]; do echo \"line $i\" >&2; i=$((i+1)); done\n\
         echo 'error: linker `cc` not found' >&2; exit 101",
    );
    let (outcome, _) = build(&sources, &sources.surroundings(), &|| false);
    let failure = outcome.expect_err("failed");
    assert_eq!(failure.kind, Kind::Build);
    let report = failure.report();
    assert!(report.contains("the build failed (exit status: 101)"), "{report}");
    assert!(
        !report.contains("line 20\n") && report.contains("line 21\n"),
        "{report}"
    );
    assert!(
        report.contains("build-essential") && report.contains(LOG),
        "{report}"
    );
    assert!(log(&sources).contains("line 0\n"));
}

#[test]
fn a_graph_that_cannot_be_had_is_a_failure_of_the_build() {
    let sources = Sources::new("exit 0");
    sources.tool(
        "cargo",
        "echo 'error: failed to parse manifest at Cargo.toml' >&2; exit 101",
    );
    let report = build(&sources, &sources.surroundings(), &|| false)
        .0
        .expect_err("failed")
        .report();
    assert!(report.contains("failed to parse manifest"), "{report}");
}

#[test]
fn an_interruption_ends_cargo_and_its_compilers() {
    // A compiler that would take a minute.
    let sources = Sources::new("sh -c 'echo $$ > compiler; exec sleep 60'");
    let marker = sources.path().join("compiler");
    let pid = Cell::new(0);
    let (outcome, _) = build(&sources, &sources.surroundings(), &|| {
        let text = std::fs::read_to_string(&marker).unwrap_or_default();
        pid.set(text.trim().parse().unwrap_or(0));
        pid.get() != 0
    });
    let failure = outcome.expect_err("interrupted");
    assert!(failure.report().contains("interrupted"), "{}", failure.report());
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.get())).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
}

#[test]
fn only_sources_are_built() {
    let sources = Sources::new("exit 0");
    std::fs::remove_dir(sources.path().join("flmadm")).expect("removed");
    let failure = build(&sources, &sources.surroundings(), &|| false)
        .0
        .expect_err("no sources");
    assert_eq!(failure.kind, Kind::Build);
    assert!(failure.report().contains("does not hold Flame's sources"));
}

/// Needs root, as the thing itself does.
#[test]
fn what_is_built_belongs_to_the_owner_of_the_sources() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let ids = Ids {
        uid: 4_000_001,
        gid: 4_000_002,
    };
    let sources = Sources::new("echo \"home $HOME user $USER\" >&2; mkdir \"$CARGO_TARGET_DIR/release\"");
    chown(sources.path(), Some(ids.uid), Some(ids.gid)).expect("given away");
    let around = Surroundings {
        root: true,
        caller: Some(Caller {
            ids,
            name: "somebody".to_owned(),
            home: sources.path().to_path_buf(),
        }),
        ..sources.surroundings()
    };
    let (outcome, shown) = build(&sources, &around, &|| false);
    outcome.expect("built");
    assert!(shown.contains("as the user somebody;"), "{shown}");
    for path in ["target", "target/release", "target/flmadm-build.log"] {
        let metadata = sources.path().join(path).metadata().expect(path);
        assert_eq!((metadata.uid(), metadata.gid()), (ids.uid, ids.gid), "{path}");
    }
    assert!(log(&sources).contains(&format!("home {} user somebody", sources.path().display())));
}
