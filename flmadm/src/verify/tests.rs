//! Damage to an installation on the fake machine, and whether it is found.

use std::os::unix::fs::PermissionsExt;

use crate::host::Ids;
use crate::host::fake::FakeHost;
use crate::installed::testing::{everything, run, write};

const FLAME: Ids = Ids { uid: 999, gid: 999 };

fn host() -> FakeHost {
    let host = FakeHost::new();
    everything(&host, true);
    let passwd = "root:x:0:0::/root:/bin/sh\nflame:x:999:999::/:/bin/false\n";
    std::fs::write(host.path("etc/passwd"), passwd).expect("written");
    for (below, mode) in [("data", 0o700), ("work", 0o750), ("logs", 0o750)] {
        let path = host.path("opt/flame").join(below);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("set");
        host.sight.owners.borrow_mut().insert(path, FLAME);
    }
    host
}

fn kinds(host: &FakeHost) -> (u8, Vec<String>) {
    let (code, out, _) = run(host, "verify -o json");
    let report: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(report["intact"], code == 0);
    let findings = report["findings"].as_array().expect("a list").iter();
    let what = |finding: &serde_json::Value| {
        let name = finding["what"].as_str().unwrap_or_default();
        let name = name.rsplit('/').next().unwrap_or_default();
        format!("{} {name}", finding["kind"].as_str().unwrap_or_default())
    };
    (code, findings.map(what).collect())
}

#[test]
fn a_whole_installation_is_intact() {
    let mut host = host();
    host.root = false;
    assert_eq!(kinds(&host), (0, Vec::new()));
    let (code, out, _) = run(&host, "verify");
    assert_eq!((code, out.lines().count()), (0, 1), "{out}");
}

#[test]
fn every_damage_is_found() {
    let mut host = host();
    let place = |below: &str| host.path(below);
    std::fs::remove_file(place("opt/flame/bin/flmctl")).expect("removed");
    std::fs::write(place("opt/flame/bin/flmping"), "evil").expect("written");
    write(&place("opt/flame/bin/flmexec"), "program flmexec", 0o777);
    write(&place("opt/flame/bin/mine"), "", 0o755);
    write(&place("opt/flame/conf/flame-cluster.yaml"), "cluster: {}", 0o600);
    write(&place("opt/flame/conf/node-agent.toml"), "", 0o666);
    write(&place("etc/systemd/system/flame.slice"), "[Slice]\n", 0o644);
    std::fs::remove_file(place("etc/systemd/system/flame-executors.slice")).expect("removed");
    let own = Ids { uid: 7, gid: 0 };
    host.sight
        .owners
        .borrow_mut()
        .insert(place("opt/flame/sbin/flmadm"), own);
    host.sight.owners.borrow_mut().remove(&place("opt/flame/data"));
    host.sight
        .change("flame.target", |status| status.needs_reload = true);
    host.sight.change("flame-node-agent.service", |status| {
        status.fragment_path = Some("/run/systemd/system/flame-node-agent.service".to_owned());
        status.drop_ins = vec!["/etc/systemd/system/flame-node-agent.service.d/mine.conf".to_owned()];
    });
    host.sight.change("flame-session-manager.service", |status| {
        status.load_state = "masked".to_owned()
    });
    let (code, mut found) = kinds(&host);
    let (people, out, err) = run(&host, "verify");
    assert_eq!((code, people), (3, 3));
    crate::golden::check("verify.txt", &(out + &err));
    let mut expected = [
        "missing flmctl",
        "changed flmping",
        "mode flmexec",
        "extra mine",
        "edited flame-cluster.yaml",
        "edited node-agent.toml",
        "mode node-agent.toml",
        "changed flame.slice",
        "missing flame-executors.slice",
        "owner flmadm",
        "owner data",
        "unit flame.target",
        "unit flame-node-agent.service",
        "extra flame-node-agent.service",
        "unit flame-session-manager.service",
    ];
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn edits_and_additions_alone_do_no_harm() {
    let mut host = host();
    host.has_bus = false;
    write(&host.path("opt/flame/conf/node-agent.toml"), "[node]\n", 0o640);
    std::fs::create_dir_all(host.path("opt/flame/releases/2/bin")).expect("made");
    write(&host.path("opt/flame/releases/2/bin/flmctl"), "", 0o755);
    let expected = ["edited node-agent.toml", "unreadable systemd", "extra flmctl"];
    assert_eq!(kinds(&host), (0, expected.map(str::to_owned).to_vec()));
}
