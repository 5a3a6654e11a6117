//! Services of the fake machine.

use crate::host::Units;
use crate::host::fake::FakeHost;
use crate::installed::testing::{everything, run};

const ENTRY: &str = r#"{"__REALTIME_TIMESTAMP":"0","_SYSTEMD_UNIT":"flame-session-manager.service","MESSAGE":"cannot open the disk"}"#;
const MANAGER: &str = "flame-session-manager.service";
const AGENT: &str = "flame-node-agent.service";

fn host() -> FakeHost {
    let host = FakeHost::new();
    everything(&host, true);
    host
}

/// An instance that systemd has loaded, and that runs.
fn run_instance(host: &FakeHost, unit: &str) {
    host.instances.borrow_mut().push(unit.to_owned());
    Units::start(host, unit).expect("started");
    host.calls();
}

#[test]
fn everything_starts_in_order_and_stops_in_reverse() {
    let host = host();
    let (code, out, err) = run(&host, "start");
    assert_eq!(code, 0, "{err}");
    crate::golden::check("start.txt", &out);
    assert_eq!(
        host.calls(),
        [MANAGER, AGENT, "flame.target"].map(|unit| format!("start {unit}"))
    );
    let (code, out, _) = run(&host, "start");
    assert!(
        code == 0 && out.contains("flame.target is already active"),
        "{out}"
    );
    assert_eq!(host.calls(), [""; 0], "what runs is left alone");
    // Executors go when no agent is left that could serve them, and only then.
    run_instance(&host, "flame-executor@1.service");
    assert_eq!(run(&host, "stop session-manager").0, 0);
    assert_eq!(host.calls(), [format!("stop {MANAGER}")]);
    assert_eq!(run(&host, "stop").0, 0);
    assert_eq!(
        host.calls(),
        [AGENT, "flame.target", "flame-executor@1.service"].map(|unit| format!("stop {unit}"))
    );
    assert_eq!(run(&host, "stop").0, 0);
    assert_eq!(host.calls(), [""; 0]);
}

#[test]
fn further_agents_are_stopped_and_restarted_but_started_only_if_they_are_enabled() {
    let mut host = host();
    let further = "flame-node-agent@gpu.service".to_owned();
    run_instance(&host, &further);
    assert_eq!(run(&host, "restart").0, 0);
    assert_eq!(
        host.calls(),
        [
            format!("start {MANAGER}"),
            format!("start {AGENT}"),
            format!("restart {further}"),
            "start flame.target".to_owned(),
        ]
    );
    run_instance(&host, "flame-executor@1.service");
    assert_eq!(run(&host, "stop node-agent").0, 0);
    assert_eq!(
        host.calls(),
        [format!("stop {AGENT}")],
        "the executor may be the other's"
    );
    assert_eq!(run(&host, "stop node-agent@gpu").0, 0);
    let last = [
        format!("stop {further}"),
        "stop flame-executor@1.service".to_owned(),
    ];
    assert_eq!(host.calls(), last);
    let conf = host.path("opt/flame/conf/node-agent@gpu.toml");
    std::fs::write(conf, "").expect("written");
    host.sight
        .change(&further, |status| status.unit_file_state = "disabled".to_owned());
    assert_eq!(run(&host, "start").0, 0);
    assert!(!host.calls().contains(&format!("start {further}")));
    host.sight
        .change(&further, |status| status.unit_file_state = "enabled".to_owned());
    assert_eq!(run(&host, "start").0, 0);
    assert_eq!(host.calls(), [format!("start {further}")]);
}

#[test]
fn a_unit_that_does_not_start_shows_its_log_and_the_others_start() {
    let mut host = host();
    host.broken.insert(MANAGER.to_owned());
    host.sight.journal = Some(vec![ENTRY.to_owned()]);
    let (code, out, err) = run(&host, "start");
    assert_eq!(code, 5);
    crate::golden::check("start-failed.txt", &(out + &err));
    let (code, out, _) = run(&host, "start -o json");
    let report: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(code, 5);
    assert_eq!(report["units"][0]["log"][0], "cannot open the disk");
    assert_eq!(report["units"][1]["active_state"], "active");
    // Without a journal the failure itself is still told.
    host.sight.journal = None;
    assert!(run(&host, "start").2.contains(&format!("cannot start {MANAGER}")));
    host.sight
        .change(MANAGER, |status| status.load_state = "masked".to_owned());
    let err = run(&host, "start session-manager").2;
    assert!(
        err.contains("systemctl unmask flame-session-manager.service"),
        "{err}"
    );
}

#[test]
fn units_are_enabled_and_disabled_once() {
    let host = host();
    let all = format!("{MANAGER} flame-recovery.service {AGENT} flame.target");
    let sorted = |calls: Vec<String>| {
        let mut words: Vec<String> = calls.join(" ").split(' ').map(str::to_owned).collect();
        words.sort();
        words
    };
    let (code, out, err) = run(&host, "enable");
    assert_eq!(code, 0, "{err}");
    assert!(out.contains(&format!("{MANAGER} is enabled, inactive")), "{out}");
    assert_eq!(sorted(host.calls()), sorted(vec![format!("enable {all} reload")]));
    assert_eq!(run(&host, "enable").0, 0);
    assert_eq!(host.calls(), [""; 0]);
    assert_eq!(run(&host, "enable --now node-agent").0, 0);
    assert_eq!(host.calls(), [format!("start {AGENT}")]);
    let (code, out, _) = run(&host, "disable --now node-agent -o json");
    assert_eq!(code, 0);
    assert_eq!(
        host.calls(),
        [
            format!("disable {AGENT}"),
            "reload".to_owned(),
            format!("stop {AGENT}")
        ]
    );
    let report: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(report["units"].as_array().map(Vec::len), Some(1));
    assert_eq!(report["units"][0]["unit_file_state"], "disabled");
    assert_eq!(report["units"][0]["active_state"], "inactive");
}

#[test]
fn who_may_not_or_has_no_units_is_told_so() {
    let mut host = host();
    for verb in ["start", "stop", "restart", "enable", "disable"] {
        assert_eq!(run(&host, &format!("{verb} sshd")).0, 1, "{verb}");
    }
    host.root = false;
    for verb in ["start", "stop", "restart", "enable", "disable"] {
        let (code, _, err) = run(&host, verb);
        assert!(
            code == 4 && err.contains(&format!("only root may {verb}")) && err.contains("sudo"),
            "{err}"
        );
    }
    let plain = FakeHost::new();
    everything(&plain, false);
    let (code, _, err) = run(&plain, "start");
    assert!(
        code == 4 && err.contains("flmadm dev up --prefix /opt/flame"),
        "{err}"
    );
    assert_eq!(run(&FakeHost::new(), "start").0, 3);
}
