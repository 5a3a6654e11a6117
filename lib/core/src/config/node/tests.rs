use std::path::Path;

use super::*;
use toml::Value;

const FILE: &str = r#"
[node]
name = "n1"
labels = ["zone=b", "gpu="]
addresses = ["10.0.0.5", "fd00::7"]

[resources]
cpu = 8
mem = "16g"
gpu = 0
reserved_cpu = 1
reserved_memory = "1g"
slots = 16

[runtime]
kind = "systemd"
sandbox = "strict"
work_directories = ["/srv/data"]
standby = 3
start_timeout = "5s"
enter_timeout = "1h"

[life]
drain_timeout = "2m"
idle_timeout = "10m"
max_lifetime = "12h"
ephemeral = true
"#;

fn path() -> &'static Path {
    Path::new("/c/node-agent.toml")
}

fn check(text: &str) -> Result<NodeConfig, Vec<String>> {
    let said = parse(text, path()).map_err(|problems| problems.0)?;
    said.check()
        .map_err(|problems| problems.iter().map(Problem::to_string).collect())
}

#[test]
fn everything_can_be_said_in_the_file() {
    let config = check(FILE).expect("valid");
    let expected = NodeConfig {
        name: Some(NodeName::new("n1").expect("valid")),
        labels: vec!["gpu=".to_owned(), "zone=b".to_owned()],
        addresses: vec!["10.0.0.5".to_owned(), "fd00::7".to_owned()],
        cpu: Some(8),
        memory: Some(16 << 30),
        gpu: Some(0),
        reserved: Resources {
            cpu: 1,
            memory: 1 << 30,
            gpu: 0,
        },
        slots: Some(16),
        runtime: RuntimeKind::Systemd,
        sandbox: Sandbox::Strict,
        work_directories: vec!["/srv/data".into()],
        standby: 3,
        patience: Patience {
            start: Duration::from_secs(5),
            enter: Some(Duration::from_secs(3600)),
        },
        life: LifeConfig {
            drain_timeout: Duration::from_secs(120),
            idle_timeout: Some(Duration::from_secs(600)),
            max_lifetime: Some(Duration::from_secs(12 * 3600)),
            ephemeral: true,
        },
    };
    assert_eq!(config, expected);
    for key in Key::ALL {
        let name = key.name().rsplit('.').next().expect("a name");
        assert!(FILE.contains(&format!("\n{name} = ")), "{name} is tried");
    }
}

#[test]
fn nothing_has_to_be_said() {
    let config = check("").expect("valid");
    assert_eq!((config.name, config.slots, config.cpu), (None, None, None));
    assert_eq!(config.runtime, RuntimeKind::Process);
    assert_eq!(config.sandbox, Sandbox::Standard);
    assert_eq!(config.life.drain_timeout, DEFAULT_DRAIN_TIMEOUT);
    assert_eq!((config.life.idle_timeout, config.life.max_lifetime), (None, None));
    assert!(!config.life.ephemeral);
    assert_eq!(config.standby, 1);
    let (start, enter) = (Duration::from_secs(60), Some(Duration::from_secs(600)));
    assert_eq!(config.patience, Patience { start, enter });
    let without = check("[runtime]\nenter_timeout = \"off\"")
        .expect("valid")
        .patience;
    assert_eq!(without, Patience { start, enter: None });
    assert_eq!(
        check("[life]\nidle_timeout = \"off\"")
            .expect("valid")
            .life
            .idle_timeout,
        None
    );
}

#[test]
fn all_unknown_keys_are_named_with_their_lines() {
    let text = "[node]\nnmae = \"x\"\n[lief]\nephemeral = true\n[life]\nidle = \"1s\"\n";
    assert_eq!(
        check(text).expect_err("unknown"),
        [
            "/c/node-agent.toml, line 2: unknown key \"node.nmae\"; did you mean \"node.name\"?",
            "/c/node-agent.toml, line 3: unknown key \"lief\"; did you mean \"life\"?",
            "/c/node-agent.toml, line 6: unknown key \"life.idle\"; known here: drain_timeout, ephemeral, \
             idle_timeout, max_lifetime",
        ]
    );
    let error = check("[node]\nname = \n").expect_err("no value");
    assert!(error[0].starts_with("/c/node-agent.toml, line 2: "), "{error:?}");
}

#[test]
fn all_values_that_cannot_be_used_are_named_with_their_lines_and_what_is_wanted() {
    for (text, line, key, wanted) in [
        ("[node]\nname = \"a/b\"", 2, "node.name", "a/b"),
        ("[node]\nname = [1]", 2, "node.name", "one value"),
        ("[node]\nlabels = [\"zone\"]", 2, "node.labels", "key=value"),
        (
            "[node]\nlabels = [\"z=a\",\n\"z=b\"]",
            2,
            "node.labels",
            "same key",
        ),
        ("[node]\nlabels = [1]", 2, "node.labels", "list of texts"),
        (
            "[node]\naddresses = [\"host\"]",
            2,
            "node.addresses",
            "IP address",
        ),
        ("[resources]\ncpu = 1.5", 2, "resources.cpu", "whole number"),
        ("[resources]\ncpu = 0", 2, "resources.cpu", "detected"),
        ("[resources]\ngpu = -1", 2, "resources.gpu", "whole number"),
        ("[resources]\nmem = \"8 bananas\"", 2, "resources.mem", "bananas"),
        ("[resources]\nslots = 0", 2, "resources.slots", "from 1 to"),
        ("[runtime]\nstandby = 257", 2, "runtime.standby", "from 0 to 256"),
        ("[runtime]\nstandby = -1", 2, "runtime.standby", "whole number"),
        (
            "[runtime]\nkind = \"docker\"",
            2,
            "runtime.kind",
            "process, systemd",
        ),
        (
            "[runtime]\nsandbox = \"\"",
            2,
            "runtime.sandbox",
            "strict, standard, none",
        ),
        (
            "[runtime]\nwork_directories = [\"data\"]",
            2,
            "runtime.work_directories",
            "absolute",
        ),
        (
            "[runtime]\nwork_directories = [\"/a/../b\"]",
            2,
            "runtime.work_directories",
            "..",
        ),
        (
            "[runtime]\nstart_timeout = \"off\"",
            2,
            "runtime.start_timeout",
            "s, m, h or d",
        ),
        (
            "[runtime]\nenter_timeout = \"0s\"",
            2,
            "runtime.enter_timeout",
            "or off",
        ),
        (
            "[life]\ndrain_timeout = 30",
            2,
            "life.drain_timeout",
            "s, m, h or d",
        ),
        (
            "[life]\n\nidle_timeout = \"never\"",
            3,
            "life.idle_timeout",
            "or off",
        ),
        (
            "[life]\nephemeral = \"yes\"",
            2,
            "life.ephemeral",
            "true or false",
        ),
    ] {
        let problems = check(text).expect_err(text);
        let expected = format!("/c/node-agent.toml, line {line}: {key}: ");
        assert!(
            problems.len() == 1 && problems[0].starts_with(&expected) && problems[0].contains(wanted),
            "{text}: {problems:?}"
        );
    }
    let both = check("[node]\nname = \"a/b\"\n[life]\nephemeral = 1").expect_err("two");
    assert_eq!(both.len(), 2);
}

#[test]
fn the_environment_is_above_the_file_and_the_command_line_above_both() {
    let mut said = parse(FILE, path()).expect("valid");
    said.environment(|name| match name {
        "FLAME_NODE_NAME" => Some("of-the-environment".to_owned()),
        "FLAME_NODE_LABELS" => Some("zone=c,".to_owned()),
        "FLAME_NODE_RESOURCES" => Some("cpu=2,mem=4g".to_owned()),
        "FLAME_NODE_CPU" => Some("3".to_owned()),
        "FLAME_NODE_EPHEMERAL" => Some("false".to_owned()),
        "FLAME_NODE_SLOTS" => Some(" ".to_owned()),
        "FLAME_NODE_START_TIMEOUT" => Some("7s".to_owned()),
        "FLAME_NODE_ENTER_TIMEOUT" => Some("off".to_owned()),
        _ => None,
    });
    said.say(
        Key::Name,
        Value::String("of-the-line".to_owned()),
        Origin::Flag("--name"),
    );
    let config = said.check().expect("valid");
    assert_eq!(config.name.expect("said").as_str(), "of-the-line");
    assert_eq!(config.labels, ["zone=c"]);
    assert_eq!((config.cpu, config.memory), (Some(3), Some(4 << 30)));
    assert!(!config.life.ephemeral);
    let start = Duration::from_secs(7);
    assert_eq!(config.patience, Patience { start, enter: None });
    assert_eq!(config.slots, Some(16), "an empty variable says nothing");
    let origin = |key| said.get(key).map(|setting| setting.origin.to_string());
    assert_eq!(origin(Key::Memory).as_deref(), Some("FLAME_NODE_RESOURCES"));
    assert_eq!(origin(Key::Slots).as_deref(), Some("/c/node-agent.toml, line 13"));
    said.resources("cores=4", &Origin::Flag("--resources"));
    let problems = said.check().expect_err("no resource");
    assert!(
        problems[0]
            .to_string()
            .starts_with("--resources: resources.mem: "),
        "{problems:?}"
    );
    assert!(problems[0].to_string().contains("cores=4"), "{problems:?}");
}

#[test]
fn what_is_reserved_is_not_for_executors() {
    let config = check(FILE).expect("valid");
    let detected = Resources {
        cpu: 2,
        memory: 1 << 30,
        gpu: 1,
    };
    let capacity = config.capacity(detected);
    assert_eq!((capacity.cpu, capacity.memory, capacity.gpu), (8, 16 << 30, 0));
    let allocatable = config.allocatable(capacity).expect("something is left");
    assert_eq!((allocatable.cpu, allocatable.memory), (7, 15 << 30));
    let problem = config.allocatable(detected).expect_err("all memory").to_string();
    assert!(
        problem.starts_with("resources.reserved_memory: everything is reserved"),
        "{problem}"
    );
}
