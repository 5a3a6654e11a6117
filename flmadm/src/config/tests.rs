//! Settings of the fake machine.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::host::Units;
use crate::host::fake::FakeHost;
use crate::installed::testing::{everything, run, write};

const MANAGER: &str = "flame-session-manager.service";
const AGENT: &str = "flame-node-agent.service";
const CLUSTER: &str = "opt/flame/conf/flame-cluster.yaml";
const NODE: &str = "opt/flame/conf/node-agent.toml";

/// Everything is installed and runs.
fn host() -> FakeHost {
    let mut host = FakeHost::new();
    everything(&host, true);
    host.sight.variables = vec!["FLAME_NODE_RUNTIME=systemd".to_owned(), "HOME=/x".to_owned()];
    for unit in [MANAGER, AGENT] {
        Units::start(&host, unit).expect("started");
    }
    host.calls();
    host
}

fn read(host: &FakeHost, path: &str) -> String {
    std::fs::read_to_string(host.path(path)).expect("read")
}

/// Like `run`, for values with spaces.
fn set(host: &FakeHost, key: &str, value: &str) -> (u8, String) {
    let prefix = host.path("opt/flame").display().to_string();
    let words = ["flmadm", "config", "set", key, value, "--prefix", &prefix].map(Into::into);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = crate::run(host, words, &mut out, &mut err);
    out.extend(err);
    (code, String::from_utf8(out).expect("text"))
}

#[test]
fn settings_in_effect_are_shown_with_their_places() {
    let mut host = host();
    host.root = false;
    write(&host.path(NODE), "[node]\nlabels = [\"zone=a\"]\n", 0o644);
    let (code, out, err) = run(&host, "config show");
    assert_eq!(code, 0, "{err}");
    crate::golden::check("config-show.txt", &out);
    for (line, value) in [
        ("config get cluster.endpoint", "http://127.0.0.1:8080"),
        ("config get cluster.policies", "[\"priority\",\"drf\"]"),
        ("config get node.labels", "[\"zone=a\"]"),
        ("config get runtime.kind", "systemd"),
        ("config get runtime.kind --file agent@b", "systemd"),
        ("config get resources.cpu", "-"),
    ] {
        let (code, out, err) = run(&host, line);
        assert_eq!((code, out.trim_end()), (0, value), "{line}: {err}");
    }
    let (_, out, _) = run(&host, "config get runtime.kind -o json");
    let setting: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(
        setting,
        json!({"key": "runtime.kind", "value": "systemd", "from": "FLAME_NODE_RUNTIME of the unit"})
    );
    for (line, part) in [
        ("config get cluster.nam", "did you mean \"cluster.name\"?"),
        ("config get cache.endpoint", "is not set"),
        ("config get node.name --file cluster", "unknown key"),
        ("config get x --file y", "there are cluster, agent"),
    ] {
        let (code, _, err) = run(&host, line);
        // clap prints what it refuses by itself.
        assert!(
            code == 1 && (err.contains(part) || err.is_empty()),
            "{line}: {err}"
        );
    }
}

#[test]
fn a_change_is_written_in_place_and_says_what_to_restart() {
    let host = host();
    let path = host.path(CLUSTER);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("set");
    let (code, out, err) = run(&host, "config set cluster.limits.max_sessions 50");
    assert_eq!(code, 0, "{err}");
    crate::golden::check("config-set.txt", &out);
    let text = read(&host, CLUSTER);
    assert!(
        text.contains("# Where it is.") && text.contains("max_sessions: 50"),
        "{text}"
    );
    assert_eq!(
        path.metadata().expect("there").permissions().mode() & 0o777,
        0o640
    );
    let (_, out, _) = run(&host, "config set cluster.limits.max_sessions 50");
    assert!(out.contains("nothing was changed"), "{out}");
    assert_eq!(host.calls(), [""; 0]);
    let (_, out, _) = run(
        &host,
        "config set cluster.endpoint http://127.0.0.1:9000 --restart -o json",
    );
    let report: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(report["restart"], json!([MANAGER, AGENT]));
    assert_eq!(
        (&report["restarted"], &report["settings"]),
        (
            &json!(true),
            &json!([{
                "key": "cluster.endpoint",
                "before": "http://127.0.0.1:8080",
                "now": "http://127.0.0.1:9000"
            }])
        )
    );
    assert_eq!(
        host.calls(),
        [MANAGER, AGENT].map(|unit| format!("restart {unit}"))
    );
    let (_, out, _) = run(&host, "config unset cluster.limits.max_sessions");
    assert!(out.contains("is removed from"), "{out}");
    assert!(!read(&host, CLUSTER).contains("limits"));
    Units::stop(&host, MANAGER).expect("stopped");
    let (_, out, _) = run(&host, "config set cluster.name lab");
    assert!(
        !out.contains("In effect after"),
        "nothing runs that has read it: {out}"
    );
}

#[test]
fn what_services_could_not_use_is_not_written() {
    let host = host();
    let before = (read(&host, CLUSTER), read(&host, NODE));
    for (key, value, part) in [
        ("cluster.endpoint", "ftp://x", "cluster.endpoint"),
        ("cluster.limits.max_executors", "0", "at least 1"),
        (
            "cluster.limits.max_executors",
            "{a: 1}",
            "neither a value nor a list",
        ),
        ("cluster.policies", "[fifo]", "there are priority and drf"),
        ("cluster.tls.cert_file", "/c", "missing field `key_file`"),
        ("cluster.storag", "none", "did you mean \"cluster.storage\"?"),
        ("resources.cpu", "many", "resources.cpu"),
        ("life.ephemeral", "perhaps", "true or false"),
        ("node.label", "a=b", "did you mean \"node.labels\"?"),
    ] {
        let (code, said) = set(&host, key, value);
        assert!(code == 1 && said.contains(part), "{key} {value}: {said}");
    }
    assert_eq!((read(&host, CLUSTER), read(&host, NODE)), before);
    assert_eq!(run(&host, "config unset cluster.name").0, 1, "it is needed");
    std::fs::write(host.path(CLUSTER), "cluster: {name: a}\n").expect("written");
    let (code, said) = set(&host, "cluster.name", "b");
    assert!(
        code == 1 && said.contains("cannot be used as it is now, either"),
        "{said}"
    );
}

#[test]
fn settings_that_need_each_other_are_changed_together() {
    let host = host();
    let before = read(&host, CLUSTER);
    let tls = "cluster.tls.cert_file /c.pem cluster.tls.key_file /k.pem";
    // Without https in the endpoint they have no meaning, and alone none of them.
    for line in ["cluster.tls.cert_file /c.pem", "cluster.tls.key_file /k.pem"] {
        assert_eq!(run(&host, &format!("config set {line}")).0, 1, "{line}");
    }
    let line = format!("config set cluster.endpoint https://127.0.0.1:8080 {tls} --restart -o json");
    let (code, out, err) = run(&host, &line);
    assert_eq!(code, 0, "{err}");
    let report: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    let keys: Vec<&serde_json::Value> = report["settings"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|setting| &setting["key"])
        .collect();
    assert_eq!(
        keys,
        [
            "cluster.endpoint",
            "cluster.tls.cert_file",
            "cluster.tls.key_file"
        ]
    );
    // Each service once, however many of its settings changed.
    assert_eq!(
        host.calls(),
        [MANAGER, AGENT].map(|unit| format!("restart {unit}"))
    );
    let text = read(&host, CLUSTER);
    assert!(
        text.contains("cert_file: /c.pem")
            && text.contains("key_file: /k.pem")
            && text.contains("# Where it is."),
        "{text}"
    );
    let (_, out, _) = run(&host, &format!("config set {tls}"));
    assert!(out.contains("nothing was changed"), "{out}");
    assert_eq!(
        run(&host, "config unset cluster.tls.cert_file cluster.tls.key_file").0,
        1,
        "https needs them"
    );
    let line = "config set cluster.endpoint http://127.0.0.1:8080 --unset cluster.tls.cert_file --unset";
    assert_eq!(run(&host, &format!("{line} cluster.name")).0, 1, "it is needed");
    let (code, out, err) = run(&host, &format!("{line} cluster.tls.key_file"));
    assert_eq!(code, 0, "{err}");
    assert_eq!(out.matches("is removed from").count(), 2, "{out}");
    assert!(!read(&host, CLUSTER).contains("tls"));
    assert_eq!(read(&host, CLUSTER).replace('"', ""), before.replace('"', ""));
}

#[test]
fn what_is_not_a_list_of_settings_is_refused() {
    let host = host();
    let before = (read(&host, CLUSTER), read(&host, NODE));
    for (line, part) in [
        (
            "cluster.name a cluster.endpoint",
            "there is no value for cluster.endpoint",
        ),
        ("cluster.name a cluster.name b", "cluster.name is named twice"),
        ("cluster.name a node.name b", "node.name in node-agent.toml"),
        ("cluster.name a cluster.nam b", "did you mean \"cluster.name\"?"),
        // The first would do by itself.
        ("cluster.name lab cluster.limits.max_executors 0", "at least 1"),
    ] {
        let (code, _, err) = run(&host, &format!("config set {line}"));
        assert!(code == 1 && err.contains(part), "{line}: {err}");
    }
    assert_eq!((read(&host, CLUSTER), read(&host, NODE)), before);
    // A value may look like a flag.
    let prefix = host.path("opt/flame").display().to_string();
    let line = format!("flmadm config set --prefix {prefix} node.name a -- runtime.kind -1");
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let words = line.split_whitespace().map(Into::into);
    assert_eq!(crate::run(&host, words, &mut out, &mut err), 1);
    let err = String::from_utf8(err).expect("text");
    assert!(err.contains("runtime.kind") && err.contains("-1"), "{err}");
}

#[test]
fn agents_have_files_of_their_own() {
    let host = host();
    let (code, said) = set(&host, "node.labels", "[\"zone=b\"]");
    assert_eq!(code, 0, "{said}");
    assert!(said.contains(&format!("flmadm restart {AGENT}")), "{said}");
    assert_eq!(
        read(&host, NODE),
        "# The node.\n[node]\nlabels = [\"zone=b\"]\n#labels = [\"zone=a\"]\n"
    );
    let (_, said) = set(&host, "runtime.work_directories", "[\"/srv\"]");
    assert!(
        said.contains("flmadm install lets executors write there"),
        "{said}"
    );
    let (_, said) = set(&host, "runtime.kind", "process");
    assert!(
        said.contains("FLAME_NODE_RUNTIME=systemd in the unit of the agent is above the file"),
        "{said}"
    );
    let (code, out, _) = run(&host, "config set life.ephemeral true --file agent@b");
    assert!(code == 0 && !out.contains("In effect after"), "{out}");
    assert_eq!(
        read(&host, "opt/flame/conf/node-agent@b.toml"),
        "[life]\nephemeral = true\n"
    );
}

#[test]
fn everything_that_is_wrong_is_told() {
    let host = host();
    let (code, out, _) = run(&host, "config check");
    assert!(code == 0 && out.lines().count() == 2, "{out}");
    write(
        &host.path(NODE),
        "[node]\nnam = 1\n[life]\nephemeral = 3\n",
        0o644,
    );
    write(&host.path("opt/flame/conf/node-agent@b.toml"), "[", 0o644);
    let (code, out, err) = run(&host, "config check");
    assert_eq!(code, 3);
    crate::golden::check("config-check.txt", &(out + &err));
    assert_eq!(run(&host, "config check --file cluster").0, 0);
    assert_eq!(run(&host, "config show").0, 3);
    let (_, out, _) = run(&host, "config check -o json");
    let report: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(
        (&report["valid"], report["files"].as_array().map(Vec::len)),
        (&json!(false), Some(3))
    );
    std::fs::remove_file(host.path(CLUSTER)).expect("removed");
    assert_eq!(run(&host, "config check --file cluster").0, 3);
}

#[test]
fn without_systemd_nothing_can_be_restarted() {
    let host = FakeHost::new();
    everything(&host, false);
    let (code, out, _) = run(&host, "config set cluster.name lab --restart");
    assert!(code == 0 && out.contains("when they are started anew"), "{out}");
}
