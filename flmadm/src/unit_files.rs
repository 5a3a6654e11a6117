//! The unit files of `units/`, filled in for one installation.

use std::path::{Path, PathBuf};

use crate::failure::{Failure, Outcome};
use crate::prefix::Prefix;
use crate::profile::{MORE_AGENTS, NODE_AGENT, Profile, SESSION_MANAGER};

/// The unit that stands for the whole installation.
pub(crate) const TARGET: &str = "flame.target";
const SLICE: &str = "flame.slice";

/// Every template with the unit's name. The files are the one source of the units.
const TEMPLATES: [(&str, &str); 9] = [
    (SLICE, include_str!("../../units/flame.slice")),
    (TARGET, include_str!("../../units/flame.target")),
    (
        SESSION_MANAGER,
        include_str!("../../units/flame-session-manager.service"),
    ),
    (
        "flame-executors.slice",
        include_str!("../../units/flame-executors.slice"),
    ),
    (
        "flame-executor@.service",
        include_str!("../../units/flame-executor@.service"),
    ),
    (
        "flame-executor-strict@.service",
        include_str!("../../units/flame-executor-strict@.service"),
    ),
    (
        "flame-executor-open@.service",
        include_str!("../../units/flame-executor-open@.service"),
    ),
    (NODE_AGENT, include_str!("../../units/flame-node-agent.service")),
    (MORE_AGENTS, include_str!("../../units/flame-node-agent@.service")),
];
/// Lets the agent start and stop executors.
pub(crate) const RULE: &str = "50-flame.rules";
const RULE_TEXT: &str = include_str!("../../units/polkit-1/rules.d/50-flame.rules");
/// Drop-in for an agent whose applications are its children.
pub(crate) const PROCESS_RUNTIME: &str = "process-runtime.conf";
const PROCESS_RUNTIME_TEXT: &str = include_str!("../../units/flame-node-agent.process-runtime.conf");
const SYSUSERS: &str = include_str!("../../units/sysusers.d/flame.conf");

/// Directories whose programs a unit does not see with `ProtectHome=yes`.
pub(crate) const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];

/// A unit file as it is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnitFile {
    /// Name of the unit.
    pub(crate) name: &'static str,
    /// Contents of the file.
    pub(crate) text: String,
}

/// The units of `profiles`, in the order in which they are started.
pub(crate) fn render(prefix: &Prefix, profiles: &[Profile]) -> Vec<UnitFile> {
    let units: Vec<&str> = profiles
        .iter()
        .flat_map(|profile| profile.units())
        .copied()
        .collect();
    if units.is_empty() {
        return Vec::new();
    }
    TEMPLATES
        .iter()
        .filter(|(name, _)| [SLICE, TARGET].contains(name) || units.contains(name))
        .map(|(name, template)| UnitFile {
            name,
            text: fill(template, prefix),
        })
        .collect()
}

/// Whether `unit` is the file of a template, of which only instances can be started.
pub(crate) fn is_template(unit: &str) -> bool {
    unit.contains("@.")
}

/// The rule for polkit.
pub(crate) fn rule(prefix: &Prefix) -> String {
    fill(RULE_TEXT, prefix)
}

/// The drop-in [`PROCESS_RUNTIME`].
pub(crate) fn process_runtime(prefix: &Prefix) -> String {
    fill(PROCESS_RUNTIME_TEXT, prefix)
}

/// The description of the users, for systemd-sysusers.
pub(crate) fn sysusers(prefix: &Prefix) -> String {
    fill(SYSUSERS, prefix)
}

fn fill(template: &str, prefix: &Prefix) -> String {
    let homes = if hides_homes(prefix) { "yes" } else { "read-only" };
    template
        .replace("@PREFIX@", &prefix.text())
        .replace("@VERSION@", env!("CARGO_PKG_VERSION"))
        .replace("@PROTECT_HOME@", homes)
}

/// Whether units see nothing of homes: not if their own programs are in one.
pub(crate) fn hides_homes(prefix: &Prefix) -> bool {
    !HOMES.iter().any(|home| prefix.path().starts_with(home))
}

/// What says that a file of units belongs to the installation in `prefix`, see [`owner`].
pub(crate) fn mark(prefix: &Prefix) -> String {
    format!("[X-Flame]\nPrefix={}\n", prefix.text())
}

/// Installation that an existing unit file belongs to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// There is no such file.
    Nobody,
    /// An installation of flmadm with this prefix.
    Prefix(PathBuf),
    /// Somebody else.
    Unknown,
}

/// Whose unit file is at `path`.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn owner(path: &Path) -> Outcome<Owner> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(marked_prefix(&text).map_or(Owner::Unknown, |prefix| Owner::Prefix(prefix.into()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Owner::Nobody),
        Err(error) => Err(Failure::path("read", path, error)),
    }
}

/// Whether the unit file at `path` is there and belongs to the installation in `prefix`.
///
/// # Errors
/// As [`owner`].
pub(crate) fn is_of(path: &Path, prefix: &Path) -> Outcome<bool> {
    Ok(matches!(owner(path)?, Owner::Prefix(of) if of == prefix))
}

fn marked_prefix(text: &str) -> Option<&str> {
    text.lines()
        .skip_while(|line| line.trim() != "[X-Flame]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .find_map(|line| line.strip_prefix("Prefix="))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(path: &str) -> Prefix {
        Prefix::new(Path::new(path)).expect(path)
    }

    #[test]
    fn the_rendered_units_are_the_golden_ones() {
        for unit in render(&prefix("/opt/flame"), &crate::profile::ALL) {
            crate::golden::check(unit.name, &unit.text);
        }
    }

    #[test]
    fn nothing_is_left_to_fill_in() {
        for place in ["/opt/flame", "/home/me/flame"] {
            let prefix = prefix(place);
            let mut texts: Vec<String> = render(&prefix, &crate::profile::ALL)
                .into_iter()
                .map(|unit| unit.text)
                .collect();
            texts.push(sysusers(&prefix));
            for text in texts {
                let open = text
                    .split('@')
                    .skip(1)
                    .any(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase()));
                assert!(text.contains(place) && !open, "{text}");
            }
        }
    }

    #[test]
    fn each_profile_has_its_units() {
        let names = |profiles: &[Profile]| -> Vec<&str> {
            render(&prefix("/opt/flame"), profiles)
                .iter()
                .map(|unit| unit.name)
                .collect()
        };
        assert_eq!(names(&[Profile::Client]), [""; 0]);
        assert_eq!(
            names(&[Profile::Worker]),
            [
                SLICE,
                TARGET,
                "flame-executors.slice",
                "flame-executor@.service",
                "flame-executor-strict@.service",
                "flame-executor-open@.service",
                NODE_AGENT,
                MORE_AGENTS
            ]
        );
        assert_eq!(
            names(&[Profile::ControlPlane, Profile::Client]),
            [SLICE, TARGET, SESSION_MANAGER]
        );
    }

    #[test]
    fn a_worker_needs_no_session_manager_beside_it() {
        let units = render(&prefix("/opt/flame"), &[Profile::Worker]);
        for line in units.iter().flat_map(|unit| unit.text.lines()) {
            let hard = ["Requires=", "BindsTo=", "Requisite="]
                .iter()
                .any(|word| line.starts_with(word));
            assert!(!hard, "{line}");
        }
    }

    #[test]
    fn a_unit_knows_its_installation() {
        for unit in render(&prefix("/opt/flame"), &crate::profile::ALL) {
            assert_eq!(marked_prefix(&unit.text), Some("/opt/flame"));
        }
        assert_eq!(marked_prefix("[Unit]\nPrefix=/x\n"), None);
        assert_eq!(marked_prefix("[X-Flame]\n[Service]\nPrefix=/x\n"), None);
        assert_eq!(owner(Path::new("/nonexistent")).expect("looked"), Owner::Nobody);
    }
}
