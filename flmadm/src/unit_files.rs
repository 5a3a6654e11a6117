//! The unit files of `units/`, filled in for one installation.

use std::path::{Path, PathBuf};

use flame_core::HostNames;

use crate::failure::{Failure, Outcome};
use crate::prefix::Prefix;
use crate::profile::{MORE_AGENTS, NODE_AGENT, Profile, SESSION_MANAGER};
use crate::scope::Scope;

/// The unit that stands for the whole installation.
pub(crate) const TARGET: &str = "flame.target";
const SLICE: &str = "flame.slice";

/// Undoes an interrupted change, see its file.
pub(crate) const RECOVERY: &str = "flame-recovery.service";

/// The templates of executors.
pub(crate) const EXECUTORS: [&str; 3] = [
    "flame-executor@.service",
    "flame-executor-strict@.service",
    "flame-executor-open@.service",
];

/// Every template with the unit's name. The files are the one source of the units.
const TEMPLATES: [(&str, &str); 10] = [
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
    (RECOVERY, include_str!("../../units/flame-recovery.service")),
    (NODE_AGENT, include_str!("../../units/flame-node-agent.service")),
    (MORE_AGENTS, include_str!("../../units/flame-node-agent@.service")),
];
/// Those of an installation of a user, by their paths below `units/`; its agent runs applications as its children. The
/// slice is the same.
const USER_TEMPLATES: [(&str, &str); 5] = [
    ("user/flame.target", include_str!("../../units/user/flame.target")),
    (
        "user/flame-session-manager.service",
        include_str!("../../units/user/flame-session-manager.service"),
    ),
    (
        "user/flame-recovery.service",
        include_str!("../../units/user/flame-recovery.service"),
    ),
    (
        "user/flame-node-agent.service",
        include_str!("../../units/user/flame-node-agent.service"),
    ),
    (
        "user/flame-node-agent@.service",
        include_str!("../../units/user/flame-node-agent@.service"),
    ),
];
/// Lets the agent start and stop executors.
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
    pub(crate) name: String,
    /// Contents of the file.
    pub(crate) text: String,
}

/// The units of `profiles` in an installation with these `names`, in the order in which they are started. Changes of it
/// have their journal in `place`.
pub(crate) fn render(
    prefix: &Prefix,
    names: &HostNames,
    scope: Scope,
    place: &Path,
    profiles: &[Profile],
) -> Vec<UnitFile> {
    let units: Vec<&str> = profiles
        .iter()
        .flat_map(|profile| profile.units())
        .copied()
        .collect();
    if units.is_empty() {
        return Vec::new();
    }
    templates(scope)
        .iter()
        .filter(|(name, _)| [SLICE, TARGET, RECOVERY].contains(name) || units.contains(name))
        .map(|(name, template)| UnitFile {
            name: names.own(name),
            text: fill(template, prefix, names).replace("@PLACE@", &place.display().to_string()),
        })
        .collect()
}

/// Every unit of an installation of this kind, by its name.
fn templates(scope: Scope) -> Vec<(&'static str, &'static str)> {
    match scope {
        Scope::System => TEMPLATES.to_vec(),
        Scope::User => {
            let slice = TEMPLATES.into_iter().filter(|(name, _)| *name == SLICE);
            let own = USER_TEMPLATES.map(|(path, text)| (path.trim_start_matches("user/"), text));
            slice.chain(own).collect()
        }
    }
}

/// Whether `unit` is the file of a template, of which only instances can be started.
pub(crate) fn is_template(unit: &str) -> bool {
    unit.contains("@.")
}

/// The unit of `template` that is called `name`.
pub(crate) fn instance(template: &str, name: &str) -> String {
    template.replace("@.", &format!("@{name}."))
}

/// The pattern of all units of `template`.
pub(crate) fn instances(template: &str) -> String {
    instance(template, "*")
}

/// Name of the file with the rule for polkit.
pub(crate) fn rule_name(names: &HostNames) -> String {
    format!("50-{}.rules", names.stem())
}

/// The rule for polkit.
pub(crate) fn rule(prefix: &Prefix, names: &HostNames) -> String {
    fill(RULE_TEXT, prefix, names)
}

/// The drop-in [`PROCESS_RUNTIME`].
pub(crate) fn process_runtime(prefix: &Prefix, names: &HostNames) -> String {
    fill(PROCESS_RUNTIME_TEXT, prefix, names)
}

/// The description of the users, for systemd-sysusers.
pub(crate) fn sysusers(prefix: &Prefix, names: &HostNames) -> String {
    fill(SYSUSERS, prefix, names)
}

/// Every file of `units/` as it is in the sources, with its path there: for packages, and for people to read.
pub(crate) fn shipped() -> impl Iterator<Item = (&'static str, &'static str)> {
    TEMPLATES.into_iter().chain(USER_TEMPLATES).chain([
        ("conf/node-agent.toml", crate::node_config::NEW),
        ("flame-node-agent.process-runtime.conf", PROCESS_RUNTIME_TEXT),
        ("polkit-1/rules.d/50-flame.rules", RULE_TEXT),
        ("sysusers.d/flame.conf", SYSUSERS),
    ])
}

fn fill(template: &str, prefix: &Prefix, names: &HostNames) -> String {
    let which = names
        .instance()
        .map(|name| format!(" ({name})"))
        .unwrap_or_default();
    let homes = if hides_homes(prefix) { "yes" } else { "read-only" };
    template
        .replace("@NAME@", &names.stem())
        .replace("@SLICE@", &names.undivided())
        .replace("@SLOT_USER@", &names.undivided())
        .replace("@WHICH@", &which)
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

/// Where the unit file of a masked unit leads to.
const MASK: &str = "/dev/null";

/// Installation that an existing unit file belongs to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// There is no such file.
    Nobody,
    /// An installation of flmadm with this prefix.
    Prefix(PathBuf),
    /// Nobody: an administrator does not want a unit of this name to be loaded.
    Mask,
    /// Somebody else.
    Unknown,
}

/// Whose unit file is at `path`.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn owner(path: &Path) -> Outcome<Owner> {
    if path.read_link().is_ok_and(|target| target == Path::new(MASK)) {
        return Ok(Owner::Mask);
    }
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

    fn place() -> &'static Path {
        Path::new("/opt/.flmadm-0123456789ab")
    }

    fn prefix(path: &str) -> Prefix {
        Prefix::new(Path::new(path)).expect(path)
    }

    fn names(stem: &str) -> HostNames {
        stem.parse().expect(stem)
    }

    #[test]
    fn the_rendered_units_are_the_golden_ones() {
        let (opt, names) = (prefix("/opt/flame"), names("flame"));
        for unit in render(&opt, &names, Scope::System, place(), &crate::profile::ALL) {
            crate::golden::check(&unit.name, &unit.text);
        }
    }

    #[test]
    fn those_of_a_user_are_golden_and_need_no_rights() {
        let (home, names) = (prefix("/home/me/.local/share/flame"), names("flame"));
        let units = render(&home, &names, Scope::User, place(), &crate::profile::ALL);
        let all: Vec<&str> = units.iter().map(|unit| unit.name.as_str()).collect();
        assert_eq!(all.len(), USER_TEMPLATES.len() + 1);
        for unit in &units {
            crate::golden::check(&format!("user/{}", unit.name), &unit.text);
            // A user manager cannot do these, or does nothing and says nothing.
            let beyond = [
                "User=",
                "Group=",
                "SupplementaryGroups=",
                "DynamicUser=",
                "CapabilityBoundingSet=",
                "PrivateDevices=",
                "ProtectSystem=",
                "ProtectHome=",
                "PrivateTmp=",
                "ReadWritePaths=",
                "multi-user.target",
                "network-online.target",
            ];
            for word in beyond {
                let used = unit
                    .text
                    .lines()
                    .find(|line| !line.starts_with('#') && line.contains(word));
                assert_eq!(used, None, "{}", unit.name);
            }
        }
    }

    #[test]
    fn those_of_an_instance_are_golden_too() {
        let (opt, names) = (prefix("/opt/flame-prod"), names("flame-prod"));
        for unit in render(&opt, &names, Scope::System, place(), &crate::profile::ALL) {
            crate::golden::check(&format!("instance/{}", unit.name), &unit.text);
        }
        for (name, text) in [
            (rule_name(&names), rule(&opt, &names)),
            (PROCESS_RUNTIME.to_owned(), process_runtime(&opt, &names)),
            ("sysusers".to_owned(), sysusers(&opt, &names)),
        ] {
            crate::golden::check(&format!("instance/{name}"), &text);
        }
    }

    #[test]
    fn an_instance_shares_no_name_with_the_installation_without_one() {
        let opt = prefix("/opt/other");
        let texts = |stem: &str| -> Vec<UnitFile> {
            let names = names(stem);
            let mut units = render(&opt, &names, Scope::System, place(), &crate::profile::ALL);
            units.push(UnitFile {
                name: rule_name(&names),
                text: rule(&opt, &names),
            });
            units
        };
        let (plain, prod) = (texts("flame"), texts("flame-prod"));
        // Programs are found by their paths, the rest is words.
        let own = |line: &str| line.contains("/bin/") || line.starts_with("SyslogIdentifier=");
        for unit in &prod {
            assert!(
                !plain.iter().any(|other| other.name == unit.name),
                "{}",
                unit.name
            );
            for line in unit.text.lines().filter(|line| !own(line)) {
                let shared = line.split("flame").skip(1).any(|rest| {
                    !rest.starts_with("-prod")
                        && !rest.starts_with("_prod")
                        && !rest.starts_with("-cluster.yaml")
                });
                assert!(!shared, "{}: {line}", unit.name);
            }
        }
    }

    #[test]
    fn every_file_of_units_is_shipped() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../units");
        let mut open = vec![root.clone()];
        let mut count = 0;
        while let Some(path) = open.pop() {
            if path.is_dir() {
                open.extend(
                    std::fs::read_dir(path)
                        .expect("read")
                        .map(|entry| entry.expect("read").path()),
                );
                continue;
            }
            count += 1;
            let text = std::fs::read_to_string(&path).expect("read");
            let below = path.strip_prefix(&root).expect("below").to_str().expect("text");
            assert!(
                shipped().any(|shipped| shipped == (below, text.as_str())),
                "{below}"
            );
        }
        assert_eq!(count, shipped().count());
    }

    #[test]
    fn nothing_is_left_to_fill_in() {
        for at in ["/opt/flame", "/home/me/flame"] {
            let (prefix, names) = (prefix(at), names("flame-prod"));
            let mut texts: Vec<String> =
                render(&prefix, &names, Scope::System, place(), &crate::profile::ALL)
                    .into_iter()
                    .map(|unit| unit.text)
                    .collect();
            texts.push(sysusers(&prefix, &names));
            texts.push(rule(&prefix, &names));
            for text in texts {
                let open = text
                    .split('@')
                    .skip(1)
                    .any(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase()));
                assert!(text.contains(at) && !open, "{text}");
            }
        }
    }

    #[test]
    fn each_profile_has_its_units() {
        let names = |profiles: &[Profile]| -> Vec<String> {
            render(
                &prefix("/opt/flame"),
                &names("flame"),
                Scope::System,
                place(),
                profiles,
            )
            .into_iter()
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
                RECOVERY,
                NODE_AGENT,
                MORE_AGENTS
            ]
        );
        assert_eq!(
            names(&[Profile::ControlPlane, Profile::Client]),
            [SLICE, TARGET, SESSION_MANAGER, RECOVERY]
        );
    }

    #[test]
    fn a_worker_needs_no_session_manager_beside_it() {
        let units = render(
            &prefix("/opt/flame"),
            &names("flame"),
            Scope::System,
            place(),
            &[Profile::Worker],
        );
        for line in units.iter().flat_map(|unit| unit.text.lines()) {
            let hard = ["Requires=", "BindsTo=", "Requisite="]
                .iter()
                .any(|word| line.starts_with(word));
            assert!(!hard, "{line}");
        }
    }

    #[test]
    fn a_unit_knows_its_installation() {
        for unit in render(
            &prefix("/opt/flame"),
            &names("flame"),
            Scope::System,
            place(),
            &crate::profile::ALL,
        ) {
            assert_eq!(marked_prefix(&unit.text), Some("/opt/flame"));
        }
        assert_eq!(marked_prefix("[Unit]\nPrefix=/x\n"), None);
        assert_eq!(marked_prefix("[X-Flame]\n[Service]\nPrefix=/x\n"), None);
        assert_eq!(owner(Path::new("/nonexistent")).expect("looked"), Owner::Nobody);
    }
}
