//! Whose service manager runs the units of an installation: the machine's, or that of a user.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use flame_core::HostNames;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whose units they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Scope {
    /// The machine's, which root manages.
    #[default]
    System,
    /// The user's own, for which nobody else is needed.
    User,
}

impl Scope {
    /// Whether it is the one that need not be said.
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    pub(crate) fn is_system(&self) -> bool {
        *self == Self::System
    }

    /// What a person types to manage its units.
    pub(crate) fn systemctl(self) -> &'static str {
        match self {
            Self::System => "systemctl",
            Self::User => "systemctl --user",
        }
    }

    /// What a person types to read the log of one of its units, whose name follows.
    pub(crate) fn journalctl(self) -> &'static str {
        match self {
            Self::System => "journalctl -u",
            Self::User => "journalctl --user -u",
        }
    }
}

/// Whose installation a command line is about; every command that is about one has the flag.
pub(crate) fn asked(matches: &clap::ArgMatches) -> Scope {
    let here = matches.try_get_one::<bool>("user").ok().flatten();
    match (here, matches.subcommand()) {
        (Some(true), _) => Scope::User,
        (_, Some((_, below))) => asked(below),
        _ => Scope::System,
    }
}

/// Where a service manager has its things.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// Where an administrator's unit files lie, or a user's.
    pub(crate) units: PathBuf,
    /// Where packages put theirs.
    pub(crate) package_units: Vec<PathBuf>,
    /// What lasts until the next boot.
    pub(crate) run: PathBuf,
    /// Where systemd keeps properties that were set until the next boot.
    pub(crate) control: PathBuf,
}

/// The home directory and the variables that say where a user's files lie.
#[derive(Debug, Clone)]
pub(crate) struct Home {
    config: PathBuf,
    data: PathBuf,
    runtime: PathBuf,
}

impl Home {
    /// That of this process.
    pub(crate) fn of_this_process() -> Self {
        let home = std::env::home_dir().unwrap_or_default();
        Self::new(home, nix::unistd::geteuid().as_raw(), |name| {
            std::env::var_os(name)
        })
    }

    /// The XDG base directories; one that is not absolute counts as not set, as their specification says.
    fn new(home: PathBuf, uid: u32, variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let set = |name| {
            variable(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        Self {
            config: set("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config")),
            data: set("XDG_DATA_HOME").unwrap_or_else(|| home.join(".local/share")),
            runtime: set("XDG_RUNTIME_DIR").unwrap_or_else(|| format!("/run/user/{uid}").into()),
        }
    }

    /// Where an installation of the user lies unless he says otherwise.
    pub(crate) fn prefix(&self, names: &HostNames) -> PathBuf {
        self.data.join(names.stem())
    }
}

impl Places {
    /// Those of the machine.
    pub(crate) fn of_system() -> Self {
        Self {
            units: "/etc/systemd/system".into(),
            package_units: ["/usr/lib", "/lib", "/usr/local/lib"]
                .map(|lib| Path::new(lib).join("systemd/system"))
                .to_vec(),
            run: "/run".into(),
            control: "/run/systemd/system.control".into(),
        }
    }

    /// Those of a user.
    pub(crate) fn of_user(home: &Home) -> Self {
        let mut package_units: Vec<PathBuf> = ["/etc", "/usr/lib", "/lib", "/usr/local/lib"]
            .map(|lib| Path::new(lib).join("systemd/user"))
            .to_vec();
        package_units.push(home.data.join("systemd/user"));
        Self {
            units: home.config.join("systemd/user"),
            package_units,
            run: home.runtime.clone(),
            control: home.runtime.join("systemd/user.control"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_his_own_places() {
        let plain = Home::new("/home/me".into(), 1000, |_| None);
        let places = Places::of_user(&plain);
        assert_eq!(places.units, Path::new("/home/me/.config/systemd/user"));
        assert_eq!(places.run, Path::new("/run/user/1000"));
        let prod = "flame-prod".parse().expect("a stem");
        assert_eq!(plain.prefix(&prod), Path::new("/home/me/.local/share/flame-prod"));
        let moved = Home::new("/home/me".into(), 1000, |name| match name {
            "XDG_CONFIG_HOME" => Some("/srv/conf".into()),
            "XDG_DATA_HOME" => Some("relative".into()),
            "XDG_RUNTIME_DIR" => Some("/tmp/run".into()),
            _ => None,
        });
        let places = Places::of_user(&moved);
        assert_eq!(places.units, Path::new("/srv/conf/systemd/user"));
        assert_eq!(places.run, Path::new("/tmp/run"));
        assert_eq!(
            moved.prefix(&HostNames::default()),
            Path::new("/home/me/.local/share/flame")
        );
    }
}
