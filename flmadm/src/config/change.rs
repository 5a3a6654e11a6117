//! Changing settings: checked before it is written, and written in one go.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use flame_core::config::node::Key;
use flame_core::fsutil::Draft;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::effective;
use super::file::Which;
use crate::failure::{Failure, Outcome};
use crate::host::Host;
use crate::installed::Installed;
use crate::profile::{Profile, SESSION_MANAGER};

/// What agents read of the cluster's file; the session manager reads all of it.
const READ_BY_AGENTS: [&str; 4] = [
    "cluster.endpoint",
    "cluster.tls",
    "cluster.limits.max_message_size",
    "cache",
];
/// Mode of a file that is made.
const NEW_FILE: u32 = 0o644;

/// A setting and its new value; without one it is removed.
pub(super) type Wanted<'a> = (&'a str, Option<&'a str>);

/// What became of settings.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Changed {
    /// The file.
    pub(crate) file: PathBuf,
    /// The settings, in the order in which they were named.
    pub(crate) settings: Vec<ChangedSetting>,
    /// Whether the file was written.
    pub(crate) changed: bool,
    /// Units that run with the settings from before, until they are restarted.
    pub(crate) restart: Vec<String>,
    /// Whether they were restarted.
    pub(crate) restarted: bool,
    /// What else there is to know.
    pub(crate) notes: Vec<String>,
}

/// What became of a setting.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ChangedSetting {
    /// The setting.
    pub(crate) key: String,
    /// What the file said before; null if nothing.
    pub(crate) before: Value,
    /// What it says now; null if nothing.
    pub(crate) now: Value,
}

/// Makes all of `wanted` so, or nothing: settings may need each other.
///
/// # Errors
/// A key is none, services could not use the new file (arguments), or it cannot be written (installation).
pub(super) fn change(
    host: &dyn Host,
    installed: &Installed,
    which: &Which,
    wanted: &[Wanted<'_>],
) -> Outcome<Changed> {
    check_keys(which, wanted)?;
    let path = which.path(installed);
    let text = which.text(installed)?;
    let refused = |problems: &[String]| {
        Failure::arguments(format!(
            "{} was not changed: {}",
            path.display(),
            problems.join("\n  ")
        ))
    };
    let mut new = text.clone();
    for (key, value) in wanted {
        new = which.edit(&new, key, *value).map_err(|words| refused(&[words]))?;
    }
    let problems = which.problems(&new, &path);
    if !problems.is_empty() {
        let broken_before = !which.problems(&text, &path).is_empty();
        let failure = refused(&problems);
        return Err(match broken_before {
            true => failure.hint(
                "it cannot be used as it is now, either: flmadm config check, then mend it with an editor",
            ),
            false => failure,
        });
    }
    let changed = new != text;
    if changed {
        write(&path, &new)?;
    }
    let restart = match changed {
        true => readers(host, installed, which, wanted)?,
        false => Vec::new(),
    };
    let settings = wanted.iter().map(|(key, _)| ChangedSetting {
        key: (*key).to_owned(),
        before: which.said(&text, key).unwrap_or_default(),
        now: which.said(&new, key).unwrap_or_default(),
    });
    Ok(Changed {
        settings: settings.collect(),
        file: path,
        changed,
        notes: notes(host, installed, which, wanted, changed),
        restart,
        restarted: false,
    })
}

/// Makes sure that all keys are keys of the file, each named once.
fn check_keys(which: &Which, wanted: &[Wanted<'_>]) -> Outcome<()> {
    let mut known = BTreeSet::new();
    for (key, _) in wanted {
        which.check_key(key)?;
        if !known.insert(key) {
            return Err(Failure::arguments(format!("{key} is named twice")).hint("say one value for it"));
        }
    }
    Ok(())
}

/// Puts `text` in the place of the file, with its mode and owner; where it is a link, of what it leads to.
fn write(path: &Path, text: &str) -> Outcome<()> {
    let path = &path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let mut draft = Draft::of(path)?;
    draft.fill(|file| file.write_all(text.as_bytes()))?;
    let mode = match path.metadata() {
        Ok(metadata) => {
            draft.set_owner(metadata.uid(), metadata.gid())?;
            metadata.permissions().mode() & 0o7777
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => NEW_FILE,
        Err(error) => return Err(Failure::path("look at", path, error)),
    };
    Ok(draft.replace(mode)?)
}

/// Services that run and have read one of the settings.
fn readers(
    host: &dyn Host,
    installed: &Installed,
    which: &Which,
    wanted: &[Wanted<'_>],
) -> Outcome<Vec<String>> {
    let Ok(systemd) = installed.systemd(host) else {
        return Ok(Vec::new());
    };
    let mut units = Vec::new();
    let mut agents = vec![installed.node_agent()];
    agents.extend(installed.further_agents(systemd)?);
    match which {
        Which::Cluster => {
            if installed.manifest.profiles.contains(&Profile::ControlPlane) {
                units.push(installed.own(SESSION_MANAGER));
            }
            let is_read = |(key, _): &Wanted<'_>| {
                READ_BY_AGENTS.iter().any(|table| {
                    let rest = key.strip_prefix(table);
                    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
                })
            };
            if wanted.iter().any(is_read) {
                units.extend(agents);
            }
        }
        Which::Agent(None) => units.push(installed.node_agent()),
        Which::Agent(Some(agent)) => units.push(installed.further_agent(agent)),
    }
    let mut running = Vec::new();
    for unit in units {
        // One that does not run reads it when it is started.
        if !["inactive", "failed"].contains(&systemd.status(&unit)?.active_state.as_str()) {
            running.push(unit);
        }
    }
    Ok(running)
}

fn notes(
    host: &dyn Host,
    installed: &Installed,
    which: &Which,
    wanted: &[Wanted<'_>],
    changed: bool,
) -> Vec<String> {
    let mut notes = Vec::new();
    let Which::Agent(agent) = which else {
        if changed && installed.manifest.units.is_empty() {
            notes.push("services that run without systemd read it when they are started anew".to_owned());
        }
        return notes;
    };
    let has = |name: &str| wanted.iter().any(|(key, _)| *key == name);
    if has(Key::WorkDirectories.name()) && changed {
        notes.push("flmadm install lets executors write there; restart the agent after that".to_owned());
    }
    let known: Vec<&str> = Key::ALL
        .iter()
        .filter(|known| has(known.name()))
        .map(|known| known.variable())
        .collect();
    let above = effective::variables(host, installed, agent.as_deref())
        .into_iter()
        .filter(|variable| {
            variable
                .split('=')
                .next()
                .is_some_and(|name| known.contains(&name))
        });
    notes.extend(above.map(|variable| format!("{variable} in the unit of the agent is above the file")));
    notes
}
