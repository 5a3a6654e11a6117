//! How many packages a build has, and how many of them are done.

use std::collections::{BTreeSet, HashMap};

use cargo_metadata::{DependencyKind, Message, Metadata, MetadataCommand, PackageId, TargetKind};

/// Packages of a build that are done.
#[derive(Debug, Default)]
pub(super) struct Count {
    done: BTreeSet<PackageId>,
    /// Of these, how many had been built before.
    fresh: usize,
    total: Option<usize>,
}

impl Count {
    /// A count to what `metadata`, the output of `cargo metadata`, says of `programs`.
    pub(super) fn of(metadata: &str, programs: &[&str]) -> Self {
        let metadata = MetadataCommand::parse(metadata).ok();
        Self {
            total: metadata.and_then(|metadata| total(&metadata, programs)),
            ..Self::default()
        }
    }

    /// Takes a line of cargo's messages; gives the name of a package that is done now.
    pub(super) fn message(&mut self, line: &str) -> Option<String> {
        let Ok(Message::CompilerArtifact(artifact)) = serde_json::from_str(line) else {
            return None;
        };
        // A build script is only the beginning of its package.
        if artifact.target.kind.contains(&TargetKind::CustomBuild) {
            return None;
        }
        if !self.done.insert(artifact.package_id) {
            return None;
        }
        self.fresh += usize::from(artifact.fresh);
        Some(artifact.target.name)
    }

    pub(super) fn done(&self) -> usize {
        self.done.len()
    }

    pub(super) fn fresh(&self) -> usize {
        self.fresh
    }

    /// Never less than what is done: the graph of cargo metadata does not know which features a build script
    /// shares with the program.
    pub(super) fn total(&self) -> Option<usize> {
        self.total.map(|total| total.max(self.done.len()))
    }
}

/// The packages that `programs` need, with themselves.
fn total(metadata: &Metadata, programs: &[&str]) -> Option<usize> {
    let nodes: HashMap<&PackageId, _> = metadata
        .resolve
        .as_ref()?
        .nodes
        .iter()
        .map(|node| (&node.id, &node.deps))
        .collect();
    let mut open: Vec<&PackageId> = metadata
        .packages
        .iter()
        .filter(|package| {
            package.targets.iter().any(|target| {
                target.kind.contains(&TargetKind::Bin) && programs.contains(&target.name.as_str())
            })
        })
        .map(|package| &package.id)
        .collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        let needed = nodes
            .get(id)
            .into_iter()
            .flat_map(|deps| deps.iter())
            .filter(|dep| {
                dep.dep_kinds
                    .iter()
                    .any(|kind| kind.kind != DependencyKind::Development)
            });
        open.extend(needed.map(|dep| &dep.pkg));
    }
    (!seen.is_empty()).then_some(seen.len())
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn target(name: &str, kind: &str) -> Value {
        json!({"name": name, "kind": [kind], "crate_types": [kind], "src_path": "/s/x.rs", "edition": "2024",
               "doctest": false, "test": true, "doc": true})
    }

    fn package(name: &str, kind: &str) -> Value {
        json!({"name": name, "version": "1.0.0", "id": format!("path+file:///s/{name}#1.0.0"),
               "dependencies": [], "targets": [target(name, kind), target("build-script-build", "custom-build")],
               "features": {}, "manifest_path": format!("/s/{name}/Cargo.toml"), "edition": "2024"})
    }

    fn node(name: &str, needs: &[(&str, Option<&str>)]) -> Value {
        let id = |name: &str| format!("path+file:///s/{name}#1.0.0");
        let deps: Vec<Value> = needs
            .iter()
            .map(|(name, kind)| json!({"name": name, "pkg": id(name), "dep_kinds": [{"kind": kind, "target": null}]}))
            .collect();
        let names: Vec<String> = needs.iter().map(|(name, _)| id(name)).collect();
        json!({"id": id(name), "dependencies": names, "deps": deps, "features": []})
    }

    /// What `cargo metadata` prints of a program that needs a library and a build tool, and another that needs more.
    pub(in crate::compile) fn metadata() -> String {
        json!({
            "packages": [package("flmctl", "bin"), package("other", "bin"), package("lib", "lib"),
                         package("tool", "lib"), package("testing", "lib"), package("more", "lib")],
            "workspace_members": ["path+file:///s/flmctl#1.0.0", "path+file:///s/other#1.0.0"],
            "workspace_root": "/s", "target_directory": "/s/target", "version": 1, "metadata": null,
            "resolve": {"root": null, "nodes": [
                node("flmctl", &[("lib", None), ("tool", Some("build")), ("testing", Some("dev"))]),
                node("other", &[("more", None)]), node("lib", &[("tool", None)]),
                node("tool", &[]), node("testing", &[]), node("more", &[]),
            ]},
        })
        .to_string()
    }

    /// What cargo prints when a target is done.
    pub(in crate::compile) fn artifact(name: &str, kind: &str, fresh: bool) -> String {
        json!({"reason": "compiler-artifact", "package_id": format!("path+file:///s/{name}#1.0.0"),
               "manifest_path": "/s/Cargo.toml", "target": target(name, kind), "features": [], "filenames": [],
               "profile": {"opt_level": "3", "debuginfo": 0, "debug_assertions": false, "overflow_checks": false,
                           "test": false},
               "executable": null, "fresh": fresh})
        .to_string()
    }

    #[test]
    fn what_a_program_needs_is_counted() {
        for (programs, expected) in [
            (&["flmctl"] as &[&str], Some(3)),
            (&["other"], Some(2)),
            (&["flmctl", "other"], Some(5)),
            (&["nothing"], None),
        ] {
            assert_eq!(Count::of(&metadata(), programs).total(), expected, "{programs:?}");
        }
        assert_eq!(Count::of("no JSON", &["flmctl"]).total(), None);
    }

    #[test]
    fn a_package_counts_once_and_without_its_build_script() {
        let mut count = Count::of(&metadata(), &["other"]);
        assert_eq!(count.message(&artifact("more", "custom-build", false)), None);
        assert_eq!(
            count.message(&artifact("more", "lib", true)),
            Some("more".to_owned())
        );
        assert_eq!(count.message(&artifact("more", "lib", true)), None);
        assert_eq!(
            count.message("{\"reason\":\"build-finished\",\"success\":true}"),
            None
        );
        assert_eq!(count.message("not JSON"), None);
        assert_eq!((count.done(), count.fresh(), count.total()), (1, 1, Some(2)));
    }

    #[test]
    fn the_total_is_never_less_than_what_is_done() {
        let mut count = Count::of(&metadata(), &["other"]);
        for name in ["other", "more", "surprise"] {
            count.message(&artifact(name, "lib", false));
        }
        assert_eq!(count.total(), Some(3));
    }

    /// A workspace of a program and the library that it needs.
    fn workspace() -> tempfile::TempDir {
        let home = tempfile::tempdir().expect("temporary directory");
        for (path, text) in [
            (
                "Cargo.toml",
                "[workspace]\nmembers = [\"program\", \"library\"]\nresolver = \"3\"\n",
            ),
            (
                "program/Cargo.toml",
                "[package]\nname = \"program\"\nedition = \"2024\"\n[dependencies]\nlibrary.path = \"../library\"\n",
            ),
            ("program/src/main.rs", "fn main() {}\n"),
            (
                "library/Cargo.toml",
                "[package]\nname = \"library\"\nedition = \"2024\"\n",
            ),
            ("library/src/lib.rs", ""),
        ] {
            let path = home.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, text).expect("written");
        }
        home
    }

    #[test]
    fn cargo_speaks_as_expected() {
        let home = workspace();
        let cargo = |words: &[&str]| {
            let output = std::process::Command::new(env!("CARGO"))
                .args(words)
                .arg("--offline")
                .current_dir(home.path())
                .env("CARGO_TARGET_DIR", home.path().join("target"))
                .output()
                .expect("cargo runs");
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).expect("text")
        };
        let mut count = Count::of(&cargo(&["metadata", "--format-version", "1"]), &["program"]);
        assert_eq!(count.total(), Some(2));
        for fresh in [0, 2] {
            let said = cargo(&[
                "build",
                "--message-format=json-render-diagnostics",
                "--bin",
                "program",
            ]);
            let names: Vec<String> = said.lines().filter_map(|line| count.message(line)).collect();
            assert_eq!(names, ["library", "program"]);
            assert_eq!(count.fresh(), fresh);
            count = Count::default();
        }
    }
}
