//! What the agent is to do: said on the command line, in the environment, in `node-agent.toml`, and
//! otherwise found out.

use std::path::{Path, PathBuf};

use flame_core::config::NodeConfig;
use flame_core::config::node::{self, Key, Origin, Problems, Said};
use flame_core::{NodeName, Resources};
use serde_json::{Map, Value, json};

use crate::capacity;

/// Longest name of an agent: the names of its units are made of it.
const MAX_AGENT_NAME: usize = 32;

/// What the command line says.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Which of several agents on the host this is.
    pub agent: Option<String>,
    /// The file that was named.
    pub file: Option<PathBuf>,
    /// `--name`.
    pub name: Option<String>,
    /// `--resources`.
    pub resources: Option<String>,
    /// `--label`, each.
    pub labels: Vec<String>,
    /// `--runtime`.
    pub runtime: Option<String>,
    /// `--sandbox`.
    pub sandbox: Option<String>,
}

/// What was said, and what comes of it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The file that was read, if there is one.
    pub file: Option<PathBuf>,
    /// Which of several agents on the host this is.
    pub agent: Option<String>,
    /// Everything that was said.
    pub said: Said,
    /// All of it, checked.
    pub config: NodeConfig,
    /// Name in the cluster.
    pub node: NodeName,
    /// What the node has.
    pub capacity: Resources,
    /// What executors may use.
    pub allocatable: Resources,
}

impl Settings {
    /// The settings of an agent that was asked for so, installed in `home`, with these variables.
    ///
    /// # Errors
    /// All that is wrong, each with its place.
    pub fn new(
        asked: &Asked,
        home: &Path,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Problems> {
        let agent = asked.agent.clone().filter(|name| !name.is_empty());
        if let Some(agent) = &agent {
            check_agent(agent).map_err(|reason| Problems(vec![format!("--agent: {reason}")]))?;
        }
        let file = file(asked.file.as_deref(), home, agent.as_deref());
        let mut said = match &file {
            Some(path) => read(path)?,
            None => Said::default(),
        };
        said.environment(variable);
        asked.say(&mut said);
        let config = said
            .check()
            .map_err(|problems| Problems(problems.iter().map(ToString::to_string).collect()))?;
        let capacity = config.capacity(capacity::detect());
        let allocatable = config
            .allocatable(capacity)
            .map_err(|problem| Problems(vec![problem.to_string()]))?;
        let node = match &config.name {
            Some(name) => name.clone(),
            None => default_name(agent.as_deref())?,
        };
        Ok(Self {
            file,
            agent,
            said,
            config,
            node,
            capacity,
            allocatable,
        })
    }

    /// Where the node can be reached.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        match self.config.addresses.as_slice() {
            [] => capacity::addresses(),
            said => said.to_vec(),
        }
    }

    /// Every setting as it is in effect: its key, its value, and where it is from.
    #[must_use]
    pub fn effective(&self) -> Vec<(Key, Value, String)> {
        let value = |key| match key {
            Key::Name => json!(self.node.as_str()),
            Key::Addresses => json!(self.addresses()),
            Key::Cpu => json!(self.capacity.cpu),
            Key::Memory => json!(self.capacity.memory),
            Key::Gpu => json!(self.capacity.gpu),
            key => json!(self.config.value(key)),
        };
        let origin = |key| match (self.said.get(key), key) {
            (Some(setting), _) => setting.origin.to_string(),
            (None, key) if NodeConfig::is_detected(key) => "detected".to_owned(),
            (None, _) => "default".to_owned(),
        };
        let all = Key::ALL.iter();
        all.map(|key| (*key, value(*key), origin(*key))).collect()
    }

    /// The effective settings as one document.
    #[must_use]
    pub fn document(&self) -> Value {
        let settings: Map<String, Value> = self
            .effective()
            .into_iter()
            .map(|(key, value, origin)| (key.name().to_owned(), json!({"value": value, "from": origin})))
            .collect();
        json!({
            "file": self.file,
            "agent": self.agent,
            "settings": settings,
        })
    }
}

impl Asked {
    fn say(&self, said: &mut Said) {
        let text = |text: &str| toml::Value::String(text.to_owned());
        if let Some(resources) = self.resources.as_deref().filter(|text| !text.trim().is_empty()) {
            said.resources(resources, &Origin::Flag("--resources"));
        }
        for (key, flag, value) in [
            (Key::Name, "--name", &self.name),
            (Key::Runtime, "--runtime", &self.runtime),
            (Key::Sandbox, "--sandbox", &self.sandbox),
        ] {
            if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
                said.say(key, text(value), Origin::Flag(flag));
            }
        }
        if !self.labels.is_empty() {
            said.say(Key::Labels, text(&self.labels.join(",")), Origin::Flag("--label"));
        }
    }
}

/// The file that was asked for, else the one of this agent if it exists.
fn file(asked: Option<&Path>, home: &Path, agent: Option<&str>) -> Option<PathBuf> {
    if let Some(asked) = asked {
        return Some(asked.to_path_buf());
    }
    let name = match agent {
        Some(agent) => format!("conf/node-agent@{agent}.toml"),
        None => "conf/node-agent.toml".to_owned(),
    };
    Some(home.join(name)).filter(|path| path.exists())
}

fn read(path: &Path) -> Result<Said, Problems> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Problems(vec![format!("cannot read {}: {error}", path.display())]))?;
    node::parse(&text, path)
}

/// Names of units are made of it, so it is short and plain.
fn check_agent(name: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let ends = |byte: Option<&u8>| byte.is_some_and(|byte| *byte != b'-');
    let bytes = name.as_bytes();
    if name.len() <= MAX_AGENT_NAME
        && bytes.iter().copied().all(plain)
        && ends(bytes.first())
        && ends(bytes.last())
        && !bytes.iter().all(u8::is_ascii_digit)
    {
        return Ok(());
    }
    Err(format!(
        "{name:?} cannot be the name of an agent; it has up to {MAX_AGENT_NAME} lower case letters, digits and \
         dashes inside, and is no number"
    ))
}

/// The host's name, and the agent's if there are several.
fn default_name(agent: Option<&str>) -> Result<NodeName, Problems> {
    let host = capacity::hostname();
    let name = match agent {
        Some(agent) => format!("{host}-{agent}"),
        None => host,
    };
    NodeName::new(&name).map_err(|error| {
        Problems(vec![format!(
            "the host name cannot be the node's name, so --name is needed: {error}"
        )])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(asked: &Asked, home: &Path) -> Result<Settings, Problems> {
        Settings::new(asked, home, |_| None)
    }

    #[test]
    fn nothing_has_to_be_said() {
        let home = tempfile::tempdir().expect("temporary directory");
        let found = settings(&Asked::default(), home.path()).expect("usable");
        assert_eq!(found.file, None);
        assert_eq!(found.node.as_str(), capacity::hostname());
        assert_eq!(found.allocatable, found.capacity);
        assert!(
            found
                .effective()
                .iter()
                .all(|(_, _, from)| from == "default" || from == "detected")
        );
    }

    #[test]
    fn each_agent_has_a_file_and_a_name_of_its_own() {
        let home = tempfile::tempdir().expect("temporary directory");
        let conf = home.path().join("conf");
        std::fs::create_dir(&conf).expect("made");
        std::fs::write(conf.join("node-agent.toml"), "[resources]\nslots = 1\n").expect("written");
        std::fs::write(conf.join("node-agent@b.toml"), "[resources]\nslots = 2\n").expect("written");
        for (agent, slots) in [(None, Some(1)), (Some("b"), Some(2)), (Some("c"), None)] {
            let asked = Asked {
                agent: agent.map(str::to_owned),
                ..Asked::default()
            };
            let found = settings(&asked, home.path()).expect("usable");
            assert_eq!(found.config.slots, slots);
            let host = capacity::hostname();
            let name = agent.map_or(host.clone(), |agent| format!("{host}-{agent}"));
            assert_eq!(found.node.as_str(), name);
        }
    }

    #[test]
    fn an_agent_has_a_name_that_units_can_have() {
        for (name, good) in [
            ("b", true),
            ("gpu-1", true),
            ("B", false),
            ("-b", false),
            ("b-", false),
            ("0", false),
            ("a/b", false),
            (&"a".repeat(33), false),
        ] {
            assert_eq!(check_agent(name).is_ok(), good, "{name}");
        }
    }

    #[test]
    fn the_command_line_is_above_all_and_what_is_wrong_is_named_with_its_place() {
        let home = tempfile::tempdir().expect("temporary directory");
        let path = home.path().join("own.toml");
        std::fs::write(
            &path,
            "[node]\nlabels = [\"zone=a\"]\n[life]\ndrain_timeout = \"1m\"\n[runtime]\nenter_timeout = \"off\"\n",
        )
        .expect("written");
        let asked = Asked {
            file: Some(path.clone()),
            name: Some("n1".to_owned()),
            resources: Some("cpu=3,mem=3g".to_owned()),
            labels: vec!["zone=b".to_owned(), "gpu=no".to_owned()],
            ..Asked::default()
        };
        let found = settings(&asked, home.path()).expect("usable");
        assert_eq!(found.node.as_str(), "n1");
        assert_eq!(found.config.labels, ["gpu=no", "zone=b"]);
        assert_eq!((found.capacity.cpu, found.capacity.memory), (3, 3 << 30));
        let document = found.document();
        let setting = |key: &str| document["settings"][key].clone();
        assert_eq!(
            setting("resources.cpu"),
            json!({"value": 3, "from": "--resources"})
        );
        assert_eq!(
            setting("life.idle_timeout"),
            json!({"value": "off", "from": "default"})
        );
        assert_eq!(
            setting("runtime.start_timeout"),
            json!({"value": "60s", "from": "default"})
        );
        assert_eq!(setting("runtime.enter_timeout")["value"], "off");
        let from = format!("{}, line 4", path.display());
        assert_eq!(
            setting("life.drain_timeout"),
            json!({"value": "60s", "from": from})
        );

        let wrong = Asked {
            file: None,
            name: Some("a/b".to_owned()),
            resources: Some("cpu=none".to_owned()),
            ..asked
        };
        let problems = settings(&wrong, home.path()).expect_err("two").0;
        assert_eq!(problems.len(), 2);
        assert!(problems[0].starts_with("--name: node.name: "), "{problems:?}");
        assert!(
            problems[1].starts_with("--resources: resources.cpu: "),
            "{problems:?}"
        );
        let missing = Asked {
            file: Some("/nonexistent".into()),
            ..Asked::default()
        };
        let problems = settings(&missing, home.path()).expect_err("no file").0;
        assert!(
            problems[0].starts_with("cannot read /nonexistent: "),
            "{problems:?}"
        );
    }
}
