//! The units that may be named on the command line.

use crate::failure::{Failure, Outcome};
use crate::host::Units;
use crate::installed::Installed;
use crate::node_config;

/// Longest name of an agent, see its `--agent`.
const MAX_AGENT_NAME: usize = 32;
/// Similarity (0 to 1) from which on a name is worth suggesting.
const WORTH_SUGGESTING: f64 = 0.6;

/// The units of an installation, in the order in which they are started.
#[derive(Debug)]
pub(crate) struct Names<'a> {
    installed: &'a Installed,
    /// Those of the manifest, without slices and templates.
    units: Vec<String>,
    /// Further agents: that systemd has loaded, or that have a file of settings.
    further: Vec<String>,
}

/// Units that were chosen.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    /// In the order in which they are started, the target last.
    pub(crate) units: Vec<String>,
    /// Nobody named any.
    pub(crate) all: bool,
}

impl<'a> Names<'a> {
    /// Those of `installed`.
    ///
    /// # Errors
    /// systemd does not answer.
    pub(crate) fn of(installed: &'a Installed, systemd: &dyn Units) -> Outcome<Self> {
        let loaded = installed.further_agents(systemd)?;
        Ok(Self::new(installed, loaded))
    }

    /// Those of `installed` when systemd has loaded these further agents.
    pub(crate) fn new(installed: &'a Installed, loaded: Vec<String>) -> Self {
        let services = installed.manifest.services();
        let targets = installed
            .manifest
            .installable()
            .filter(|unit| unit.ends_with(".target"));
        let mut further = loaded;
        if installed.has_further_agents() {
            further.extend(with_settings(installed));
        }
        further.sort();
        further.dedup();
        Self {
            units: services.chain(targets).map(str::to_owned).collect(),
            further,
            installed,
        }
    }

    /// The units that `words` name; without any, all of the installation and the further agents that are known.
    ///
    /// # Errors
    /// A word names none.
    pub(crate) fn choose(&self, words: &[String]) -> Outcome<Chosen> {
        let mut units = Vec::new();
        for word in words {
            units.push(self.one(word)?);
        }
        let is_target = |unit: &String| unit.ends_with(".target");
        // The target stands for everything, so what is done to it is done to all.
        let all = words.is_empty() || units.iter().any(is_target);
        let mut ordered: Vec<String> = self
            .units
            .iter()
            .filter(|unit| !is_target(unit))
            .cloned()
            .collect();
        ordered.extend(self.further.iter().cloned());
        if !all {
            ordered.retain(|unit| units.contains(unit));
            let new: Vec<String> = units
                .iter()
                .filter(|unit| !ordered.contains(unit))
                .cloned()
                .collect();
            ordered.extend(new);
            let mut seen = std::collections::BTreeSet::new();
            ordered.retain(|unit| seen.insert(unit.clone()));
        } else {
            ordered.extend(self.units.iter().filter(|unit| is_target(unit)).cloned());
        }
        Ok(Chosen { units: ordered, all })
    }

    /// The unit that `word` names.
    fn one(&self, word: &str) -> Outcome<String> {
        for name in spellings(&self.family(), word) {
            if self.known().any(|unit| *unit == name) {
                return Ok(name);
            }
            if is_further_agent(self.installed, &name) {
                return Ok(name);
            }
            if self.installed.is_executor(&name) {
                return Err(Failure::arguments(format!(
                    "{name} is an executor: its node agent starts and stops it"
                ))
                .hint("flmctl close session ends a session's executors; flmadm stop node-agent ends all of a node"));
            }
        }
        let unknown = Failure::arguments(format!("this installation has no unit {word:?}"));
        Err(match self.nearest(word) {
            Some(unit) => unknown.hint(format!("did you mean {unit}?")),
            None => unknown.hint(format!(
                "there are: {}",
                self.known().map(String::as_str).collect::<Vec<_>>().join(", ")
            )),
        })
    }

    fn known(&self) -> impl Iterator<Item = &String> {
        self.units.iter().chain(&self.further)
    }

    /// What the names of its units begin with.
    fn family(&self) -> String {
        format!("{}-", self.installed.manifest.names().stem())
    }

    fn nearest(&self, word: &str) -> Option<&str> {
        let family = self.family();
        let score = |unit: &str| {
            let short = unit
                .trim_start_matches(family.as_str())
                .trim_end_matches(".service");
            let plain = strsim::normalized_damerau_levenshtein(word, unit);
            plain.max(strsim::normalized_damerau_levenshtein(word, short))
        };
        let scored = self.known().map(|unit| (score(unit), unit.as_str()));
        let best = scored.max_by(|a, b| a.0.total_cmp(&b.0));
        best.filter(|(score, _)| *score >= WORTH_SUGGESTING)
            .map(|(_, unit)| unit)
    }
}

/// The names that `word` may be short for.
pub(crate) fn spellings(family: &str, word: &str) -> Vec<String> {
    let mut all = vec![word.to_owned(), format!("{family}{word}")];
    if !word.ends_with(".service") {
        let services: Vec<String> = all.iter().map(|name| format!("{name}.service")).collect();
        all.extend(services);
    }
    // The target of everything has no name behind that of the family.
    all.push(format!("{word}.target"));
    all
}

/// Whether `unit` is an instance of the template of further agents, with a name that an agent can have.
fn is_further_agent(installed: &Installed, unit: &str) -> bool {
    let Some((_, name)) = unit.trim_end_matches(".service").split_once('@') else {
        return false;
    };
    let name =
        Some(name).filter(|name| installed.has_further_agents() && unit == installed.further_agent(name));
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    name.is_some_and(|name| !name.is_empty() && name.len() <= MAX_AGENT_NAME && name.chars().all(plain))
}

/// Units of agents that have a file of settings.
fn with_settings(installed: &Installed) -> Vec<String> {
    // Whoever may not look there can still name the units that systemd knows.
    let agents = node_config::further_agents(&installed.prefix).unwrap_or_default();
    let units = agents.iter().map(|agent| installed.further_agent(agent));
    units.filter(|unit| is_further_agent(installed, unit)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;
    use crate::installed::testing;

    fn installed(host: &FakeHost) -> Installed {
        let installed = testing::everything(host, true);
        testing::write(&installed.prefix.join("conf/node-agent@gpu.toml"), "", 0o644);
        testing::write(&installed.prefix.join("conf/node-agent@b c.toml"), "", 0o644);
        installed
    }

    fn names(installed: &Installed) -> Names<'_> {
        Names::new(installed, vec!["flame-node-agent@b.service".to_owned()])
    }

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn short_names_are_understood_and_the_order_is_that_of_a_start() {
        let host = FakeHost::new();
        let installed = installed(&host);
        let names = names(&installed);
        for (line, expected) in [
            (
                "node-agent session-manager",
                "flame-session-manager.service flame-node-agent.service",
            ),
            ("flame-node-agent", "flame-node-agent.service"),
            ("flame-node-agent.service node-agent", "flame-node-agent.service"),
            ("node-agent@gpu", "flame-node-agent@gpu.service"),
            ("node-agent@new", "flame-node-agent@new.service"),
            (
                "node-agent@new node-agent",
                "flame-node-agent.service flame-node-agent@new.service",
            ),
        ] {
            let chosen = names.choose(&words(line)).expect(line);
            assert_eq!((chosen.units, chosen.all), (words(expected), false), "{line}");
        }
        for line in ["", "flame.target", "flame", "node-agent flame.target"] {
            let chosen = names.choose(&words(line)).expect(line);
            assert!(chosen.all, "{line}");
            assert_eq!(
                chosen.units,
                words(
                    "flame-session-manager.service flame-node-agent.service flame-node-agent@b.service \
                     flame-node-agent@gpu.service flame.target"
                )
            );
        }
    }

    #[test]
    fn the_units_of_an_instance_have_its_name() {
        let host = FakeHost::new();
        let mut installed = installed(&host);
        installed.manifest.instance = Some("prod".parse().expect("a name"));
        let names = installed.manifest.names();
        installed.manifest.units = installed
            .manifest
            .units
            .iter()
            .map(|unit| names.own(unit))
            .collect();
        let names = Names::new(&installed, Vec::new());
        for (line, expected) in [
            ("node-agent", "flame-prod-node-agent.service"),
            ("flame-prod-node-agent@b", "flame-prod-node-agent@b.service"),
        ] {
            assert_eq!(names.choose(&words(line)).expect(line).units, words(expected));
        }
        for line in ["flame-prod", "flame-prod.target"] {
            assert!(names.choose(&words(line)).expect(line).all, "{line}");
        }
        for line in ["flame-node-agent", "flame.target", "flame-node-agent@b"] {
            assert!(names.choose(&words(line)).is_err(), "{line}");
        }
        assert_eq!(
            installed.program("flame-prod-node-agent@b.service"),
            Some("flame-node-agent")
        );
        assert_eq!(installed.program("flame-node-agent.service"), None);
    }

    #[test]
    fn what_is_no_unit_names_the_nearest() {
        let host = FakeHost::new();
        let installed = installed(&host);
        let names = names(&installed);
        for (word, part) in [
            ("session-manger", "did you mean flame-session-manager.service?"),
            ("nodeagent", "did you mean flame-node-agent.service?"),
            ("sshd", "there are: flame-session-manager.service, "),
            ("flame.slice", "no unit"),
            ("node-agent@", "no unit"),
            ("node-agent@a b", "no unit"),
            ("node-agent@../x", "no unit"),
            ("executor@3", "its node agent starts and stops it"),
        ] {
            let report = names.choose(&[word.to_owned()]).expect_err(word).report();
            assert!(report.contains(part), "{word}: {report}");
        }
    }
}
