//! The files of settings: which there are, what they say, and what they are called.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use flame_core::config::node::{self, Key, Said};
use flame_core::config::{ClusterConfig, nearest};
use serde_json::Value;

use super::{toml, tree, yaml};
use crate::failure::{Failure, Outcome};
use crate::installed::Installed;
use crate::node_config;
use crate::profile::Profile;

/// A file of settings, as `--file` names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Which {
    /// `conf/flame-cluster.yaml`.
    Cluster,
    /// `conf/node-agent.toml`, or that of a further agent.
    Agent(Option<String>),
}

impl FromStr for Which {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        match text.strip_prefix("node-").unwrap_or(text) {
            "cluster" => Ok(Self::Cluster),
            "agent" => Ok(Self::Agent(None)),
            other => match other.strip_prefix("agent@") {
                Some(name) if !name.is_empty() && name.chars().all(plain) => {
                    Ok(Self::Agent(Some(name.to_owned())))
                }
                _ => Err("there are cluster, agent, and agent@NAME".to_owned()),
            },
        }
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => f.write_str("flame-cluster.yaml"),
            Self::Agent(None) => f.write_str(node_config::FILE),
            Self::Agent(Some(name)) => f.write_str(&node_config::further_file(name)),
        }
    }
}

impl Which {
    /// The file that has keys like `key`.
    pub(super) fn of(key: &str) -> Self {
        match key.split('.').next() {
            Some("cluster" | "cache") => Self::Cluster,
            _ => Self::Agent(None),
        }
    }

    /// The one file that has all of `keys`.
    ///
    /// # Errors
    /// They are of several: files are not changed together.
    pub(super) fn of_all<'a>(mut keys: impl Iterator<Item = &'a str>) -> Outcome<Self> {
        let first = keys.next().unwrap_or_default();
        let file = Self::of(first);
        match keys.find(|key| Self::of(key) != file) {
            None => Ok(file),
            Some(other) => Err(Failure::arguments(format!(
                "{first} is in {file} and {other} in {}: they cannot be changed together",
                Self::of(other)
            ))
            .hint("change the settings of one file, then those of the other")),
        }
    }

    /// The files that there are.
    pub(super) fn all(installed: &Installed) -> Vec<Self> {
        let mut all = vec![Self::Cluster];
        if !installed.manifest.profiles.contains(&Profile::Worker) {
            return all;
        }
        all.push(Self::Agent(None));
        // Whoever may not look there is told so when the file of the cluster is read.
        let further = node_config::further_agents(&installed.prefix).unwrap_or_default();
        all.extend(further.into_iter().map(|name| Self::Agent(Some(name))));
        all
    }

    /// Where the file is.
    pub(super) fn path(&self, installed: &Installed) -> PathBuf {
        installed.prefix.join("conf").join(self.to_string())
    }

    /// What is in the file; nothing if it need not be there.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn text(&self, installed: &Installed) -> Outcome<String> {
        let path = self.path(installed);
        match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && *self != Self::Cluster => {
                Ok(String::new())
            }
            text => text.map_err(|error| Failure::path("read", &path, error)),
        }
    }

    /// Every key that the file can have.
    fn keys(&self) -> Vec<&'static str> {
        match self {
            Self::Cluster => ClusterConfig::keys().collect(),
            Self::Agent(_) => Key::ALL.iter().map(|key| key.name()).collect(),
        }
    }

    /// Makes sure that `key` is one that the file can have.
    ///
    /// # Errors
    /// It is none: the nearest is named.
    pub(super) fn check_key(&self, key: &str) -> Outcome<()> {
        let keys = self.keys();
        if keys.contains(&key) {
            return Ok(());
        }
        let below: Vec<&str> = keys
            .iter()
            .copied()
            .filter(|known| known.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')))
            .collect();
        Err(match below.is_empty() {
            true => Failure::arguments(format!("{self}: unknown key \"{key}\"{}", nearest(key, &keys))),
            false => Failure::arguments(format!("{key} is no setting, but has some: {}", below.join(", "))),
        })
    }

    /// All that is wrong with `text` as the contents of the file; nothing if the services can use it.
    pub(super) fn problems(&self, text: &str, path: &Path) -> Vec<String> {
        match self {
            Self::Cluster => match ClusterConfig::parse(text) {
                Ok(_) => Vec::new(),
                Err(error) => vec![format!("{self}: {error}")],
            },
            Self::Agent(_) => match said(text, path).and_then(|said| match said.check() {
                Ok(_) => Ok(()),
                Err(problems) => Err(problems.iter().map(ToString::to_string).collect()),
            }) {
                Ok(()) => Vec::new(),
                Err(problems) => problems,
            },
        }
    }

    /// `text` with another value of `key`.
    ///
    /// # Errors
    /// It cannot be changed, in words.
    pub(super) fn edit(&self, text: &str, key: &str, value: Option<&str>) -> Result<String, String> {
        match self {
            Self::Cluster => yaml::edit(text, key, value),
            Self::Agent(_) => toml::edit(text, key, value),
        }
    }

    /// What `text` says of `key`.
    pub(super) fn said(&self, text: &str, key: &str) -> Option<Value> {
        match self {
            Self::Cluster => tree::get(&yaml::parse(text).ok()?, key).cloned(),
            Self::Agent(_) => {
                let said = said(text, &PathBuf::new()).ok()?;
                let key = Key::ALL.iter().find(|known| known.name() == key)?;
                serde_json::to_value(&said.get(*key)?.value).ok()
            }
        }
    }
}

/// What the text of an agent's file says.
pub(super) fn said(text: &str, path: &Path) -> Result<Said, Vec<String>> {
    node::parse(text, path).map_err(|problems| problems.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_and_found_by_their_keys() {
        for (text, name) in [
            ("cluster", "flame-cluster.yaml"),
            ("agent", "node-agent.toml"),
            ("node-agent", "node-agent.toml"),
            ("agent@gpu", "node-agent@gpu.toml"),
        ] {
            assert_eq!(text.parse::<Which>().expect(text).to_string(), name);
        }
        for text in ["", "agent@", "agent@../x", "flame", "cluster@a"] {
            assert!(text.parse::<Which>().is_err(), "{text}");
        }
        assert_eq!(Which::of("cluster.name"), Which::Cluster);
        assert_eq!(Which::of("cache.endpoint"), Which::Cluster);
        assert_eq!(Which::of("node.name"), Which::Agent(None));
    }

    #[test]
    fn keys_are_checked() {
        for (key, part) in [
            ("cluster.nam", "did you mean \"cluster.name\"?"),
            ("cluster.limits", "cluster.limits.max_sessions, "),
            ("cluster", "is no setting"),
        ] {
            let report = Which::Cluster.check_key(key).expect_err(key).report();
            assert!(report.contains(part), "{report}");
        }
        let report = Which::Agent(None)
            .check_key("node.label")
            .expect_err("unknown")
            .report();
        assert!(report.contains("did you mean \"node.labels\"?"), "{report}");
        Which::Cluster
            .check_key("cluster.limits.max_sessions")
            .expect("known");
        Which::Agent(None).check_key("life.ephemeral").expect("known");
    }
}
