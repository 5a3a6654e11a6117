//! `conf/node-agent.toml` and its siblings for further agents: made once with every setting commented out, never
//! changed, and checked before anything else is.

use std::path::{Path, PathBuf};

use flame_core::HostNames;
use flame_core::config::node::{self, Key, NodeConfig, Origin, RuntimeKind, Said, Setting};
use serde_json::{Value, json};

use crate::failure::{Failure, Outcome};
use crate::prefix::Prefix;

/// The file of a new installation. Uncommented, it is valid, and says every key.
pub(crate) const NEW: &str = include_str!("../../units/conf/node-agent.toml");
/// Name of the file of the agent that is alone on its host.
pub(crate) const FILE: &str = "node-agent.toml";
/// What the names of the files of further agents begin and end with.
const FURTHER: (&str, &str) = ("node-agent@", ".toml");

/// What the file of one agent says.
#[derive(Debug)]
pub(crate) struct AgentFile {
    /// Where it is.
    pub(crate) path: PathBuf,
    said: Said,
    config: NodeConfig,
}

/// Name of the file of the further agent called `agent`.
pub(crate) fn further_file(agent: &str) -> String {
    format!("{}{agent}{}", FURTHER.0, FURTHER.1)
}

/// Names of the further agents of the installation that have a file, in their order.
///
/// # Errors
/// The directory of settings cannot be read.
pub(crate) fn further_agents(prefix: &Prefix) -> Outcome<Vec<String>> {
    further_in(&prefix.join("conf"))
}

fn further_in(conf: &Path) -> Outcome<Vec<String>> {
    let failed = |error| Failure::path("read", conf, error);
    let entries = match conf.read_dir() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        found.extend(name.to_str().and_then(further_agent).map(str::to_owned));
    }
    found.sort();
    Ok(found)
}

/// The further agent whose file is called `name`.
fn further_agent(name: &str) -> Option<&str> {
    name.strip_prefix(FURTHER.0)?.strip_suffix(FURTHER.1)
}

/// The text of the file of a new installation with these `names`.
pub(crate) fn new_text(names: &HostNames) -> String {
    NEW.replace("@NAME@", &names.stem())
}

/// Reads the files of all agents of the installation, that of the agent without a name first.
///
/// # Errors
/// A file cannot be read, or settings cannot be used: all of them are listed.
pub(crate) fn read(prefix: &Prefix) -> Outcome<Vec<AgentFile>> {
    read_in(&prefix.join("conf"))
}

/// As [`read`], of the files in the directory `conf`.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_in(conf: &Path) -> Outcome<Vec<AgentFile>> {
    let (mut files, mut problems) = (Vec::new(), Vec::new());
    for path in paths(conf)? {
        let text = std::fs::read_to_string(&path).map_err(|error| Failure::path("read", &path, error))?;
        match parse(path, &text) {
            Ok(file) => files.push(file),
            Err(wrong) => problems.extend(wrong),
        }
    }
    match problems.is_empty() {
        true => Ok(files),
        false => Err(Failure::installation(format!(
            "the node agent could not use its settings:\n  {}",
            problems.join("\n  ")
        ))
        .hint("mend them; the file is never overwritten, not even with --force")),
    }
}

fn parse(path: PathBuf, text: &str) -> Result<AgentFile, Vec<String>> {
    let said = node::parse(text, &path).map_err(|problems| problems.0)?;
    match said.check() {
        Ok(config) => Ok(AgentFile { path, said, config }),
        Err(problems) => Err(problems.iter().map(ToString::to_string).collect()),
    }
}

fn paths(conf: &Path) -> Outcome<Vec<PathBuf>> {
    let further = further_in(conf)?;
    let first = Some(conf.join(FILE)).filter(|path| path.symlink_metadata().is_ok());
    let further = further.iter().map(|agent| conf.join(further_file(agent)));
    Ok(first.into_iter().chain(further).collect())
}

impl AgentFile {
    /// Where its applications may work in units, each with the place where that is said.
    pub(crate) fn work_directories(&self) -> Vec<(&Path, String)> {
        // Children of an agent write to what the agent may write to.
        if self.config.runtime == RuntimeKind::Process && self.said.get(Key::Runtime).is_some() {
            return Vec::new();
        }
        let origin = self.said.get(Key::WorkDirectories).map(|setting| &setting.origin);
        let place = origin.map(ToString::to_string).unwrap_or_default();
        let all = self.config.work_directories.iter();
        all.map(|path| (path.as_path(), place.clone())).collect()
    }

    /// What the file says of `key`.
    pub(crate) fn said(&self, key: Key) -> Option<&Setting> {
        self.said.get(key)
    }

    /// Name of the agent, if it is a further one.
    pub(crate) fn agent(&self) -> Option<&str> {
        further_agent(self.path.file_name()?.to_str()?)
    }

    /// What the node is called, if the file says so.
    pub(crate) fn name(&self) -> Option<&str> {
        self.config.name.as_ref().map(|name| name.as_str())
    }

    /// Whether the agent may end of its own accord.
    pub(crate) fn ends_itself(&self) -> bool {
        let life = &self.config.life;
        life.ephemeral || life.idle_timeout.is_some() || life.max_lifetime.is_some()
    }

    /// Each setting that the file says.
    fn settings(&self) -> impl Iterator<Item = (&Key, &Setting)> {
        let all = Key::ALL.iter();
        all.filter_map(|key| Some((key, self.said.get(*key)?)))
    }

    /// The same in words.
    pub(crate) fn lines(&self) -> Vec<String> {
        let name = self.path.file_name().unwrap_or_default().display();
        let lines: Vec<String> = self
            .settings()
            .map(|(key, setting)| {
                let place = match &setting.origin {
                    Origin::File { line, .. } => format!("{name}, line {line}"),
                    other => other.to_string(),
                };
                format!("{} = {} ({place})", key.name(), setting.value)
            })
            .collect();
        match lines.is_empty() {
            true => vec![format!("nothing but defaults ({name})")],
            false => lines,
        }
    }

    /// The same for programs.
    pub(crate) fn json(&self) -> Value {
        let settings: serde_json::Map<String, Value> = self
            .settings()
            .map(|(key, setting)| (key.name().to_owned(), json!(setting.value)))
            .collect();
        json!({"file": self.path, "settings": settings})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(texts: &[(&str, &str)]) -> (tempfile::TempDir, Outcome<Vec<AgentFile>>) {
        let directory = tempfile::tempdir().expect("temporary directory");
        let prefix = Prefix::new(&directory.path().join("flame")).expect("a prefix");
        std::fs::create_dir_all(prefix.join("conf")).expect("made");
        for (name, text) in texts {
            std::fs::write(prefix.join("conf").join(name), text).expect("written");
        }
        let read = read(&prefix);
        (directory, read)
    }

    #[test]
    fn the_new_file_says_nothing_and_uncommented_everything() {
        let text = new_text(&HostNames::default());
        assert!(
            text.contains("chgrp flame-work DIR") && !text.contains("@NAME@"),
            "{text}"
        );
        let new = parse("node-agent.toml".into(), &text).expect("valid");
        assert_eq!(new.said, Said::default());
        assert_eq!(new.lines(), ["nothing but defaults (node-agent.toml)"]);
        // A comment has a space behind its mark, a setting none.
        let uncommented: String = text
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(setting) if setting.starts_with(|c: char| c.is_ascii_lowercase()) => {
                    format!("{setting}\n")
                }
                _ => format!("{line}\n"),
            })
            .collect();
        let full = parse("node-agent.toml".into(), &uncommented).expect("valid");
        for key in Key::ALL {
            assert!(full.said.get(*key).is_some(), "{} is not explained", key.name());
        }
        assert_eq!(full.lines().len(), Key::ALL.len());
    }

    #[test]
    fn every_problem_of_every_agent_is_told() {
        let (_directory, read) = files(&[
            ("node-agent.toml", "[node]\nnam = 1\n"),
            (
                "node-agent@b.toml",
                "[runtime]\nsandbox = \"lax\"\nwork_directories = [\"data\"]\n",
            ),
            ("node-agent.toml.bak", "["),
            ("node-agents.toml", "["),
        ]);
        let report = read.expect_err("broken").report();
        for part in [
            "node-agent.toml, line 2: unknown key \"node.nam\"",
            "node-agent@b.toml, line 2: runtime.sandbox: there is no \"lax\"",
            "node-agent@b.toml, line 3: runtime.work_directories: \"data\"",
        ] {
            assert!(report.contains(part), "{report}");
        }
    }

    #[test]
    fn what_is_said_is_shown_with_its_place() {
        let (_directory, read) = files(&[
            ("node-agent@a.toml", "[resources]\ncpu = 2\n"),
            (
                "node-agent.toml",
                "[node]\nlabels = [\"zone=a\"]\n[runtime]\nwork_directories = [\"/srv/a\", \"/srv/b\"]\n",
            ),
        ]);
        let read = read.expect("valid");
        assert_eq!(
            read[0].lines(),
            [
                "node.labels = [\"zone=a\"] (node-agent.toml, line 2)",
                "runtime.work_directories = [\"/srv/a\", \"/srv/b\"] (node-agent.toml, line 4)",
            ]
        );
        assert_eq!(
            read[1].json()["settings"],
            json!({"resources.cpu": 2}),
            "{:?}",
            read[1].json()
        );
        let directories: Vec<&Path> = read[0].work_directories().iter().map(|(path, _)| *path).collect();
        assert_eq!(directories, [Path::new("/srv/a"), Path::new("/srv/b")]);
    }

    #[test]
    fn children_of_an_agent_need_no_right_of_a_unit() {
        let listed = "[runtime]\nwork_directories = [\"/home/me\"]\n";
        for (kind, count) in [("", 1), ("kind = \"systemd\"", 1), ("kind = \"process\"", 0)] {
            let (_directory, read) = files(&[("node-agent.toml", &format!("{listed}{kind}\n"))]);
            assert_eq!(read.expect("valid")[0].work_directories().len(), count, "{kind}");
        }
    }
}
