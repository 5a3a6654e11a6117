//! What an installation of a user needs of his service manager, and of the machine that lets him have one.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::doctor::check::{Check, Look, Severity, When, good, wrong};
use crate::doctor::checks::systemd::CONTROLLERS;
use crate::doctor::site::Site;
use crate::failure::{Failure, Kind};

/// What limits and figures of units are made with; a user's service manager has what it was given.
const WANTED_CONTROLLERS: [&str; 2] = ["memory", "pids"];

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "runtime-directory",
        title: "XDG_RUNTIME_DIR is there and yours",
        severity: Severity::Error,
        when: &[When::User, When::Service],
        preflight: Some(Kind::Systemd),
        look: runtime_directory,
    },
    Check {
        id: "session-bus",
        title: "the service manager of your own answers over the session bus",
        severity: Severity::Error,
        when: &[When::User, When::Service],
        preflight: Some(Kind::Systemd),
        look: session_bus,
    },
    Check {
        id: "lingering",
        title: "the services start at boot and go on without a session of yours",
        severity: Severity::Warning,
        when: &[When::User, When::Service],
        preflight: None,
        look: lingering,
    },
    Check {
        id: "delegation",
        title: "limits of your units hold (the machine's service manager has delegated cgroup controllers)",
        severity: Severity::Info,
        when: &[When::User, When::Service],
        preflight: None,
        look: delegation,
    },
];

/// Where what lasts until the next boot is, for all programs of the user.
fn run(site: &Site<'_>) -> PathBuf {
    let names = site.manifest.map(|manifest| manifest.names()).unwrap_or_default();
    let [ours, _] = site.host.runtime_directories(&names);
    ours.parent().unwrap_or(&ours).to_path_buf()
}

fn runtime_directory(site: &Site<'_>) -> Look {
    let path = run(site);
    let shown = path.display();
    let remedy = "log in as this user (ssh, or machinectl shell USER@), not by su or sudo; for a user who lingers, set \
                  XDG_RUNTIME_DIR=/run/user/UID";
    let found = match path.metadata() {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return wrong(format!("{shown} is not there"), remedy);
        }
        Err(error) => return Err(Failure::path("look at", &path, error)),
    };
    if !found.is_dir() {
        return wrong(format!("{shown} is no directory"), remedy);
    }
    match found.uid() == uid() {
        true => good(format!("{shown}")),
        false => wrong(format!("{shown} belongs to user {}", found.uid()), remedy),
    }
}

fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn session_bus(site: &Site<'_>) -> Look {
    match site.systemd() {
        Ok(_) => good("it answers"),
        Err(failure) => wrong(
            failure.chain(),
            "log in as this user, or let an administrator run loginctl enable-linger USER and set \
             XDG_RUNTIME_DIR=/run/user/UID; the session bus is in the package dbus-user-session on Debian",
        ),
    }
}

fn lingering(site: &Site<'_>) -> Look {
    match site.host.lingers() {
        Some(true) => good("you linger"),
        Some(false) => wrong(
            "you do not linger: the services end with your last session and start with the next one",
            "loginctl enable-linger (an administrator: loginctl enable-linger USER)",
        ),
        None => Err(Failure::new(
            Kind::Systemd,
            "the login manager (systemd-logind) does not say whether you linger",
        )),
    }
}

/// The controllers that the service manager of a user has.
fn of_manager(uid: u32) -> PathBuf {
    format!("/sys/fs/cgroup/user.slice/user-{uid}.slice/user@{uid}.service/cgroup.controllers").into()
}

fn delegation(site: &Site<'_>) -> Look {
    if site.facts().text(Path::new(CONTROLLERS))?.is_none() {
        return wrong(
            "cgroups of version 1: nothing is delegated to users",
            "an administrator boots with systemd.unified_cgroup_hierarchy=1",
        );
    }
    let path = of_manager(uid());
    let Some(controllers) = site.facts().text(&path)? else {
        return Err(Failure::new(
            Kind::Systemd,
            format!(
                "there is no {}: your service manager is elsewhere",
                path.display()
            ),
        ));
    };
    let has = |name: &&&str| controllers.split_whitespace().any(|found| found == **name);
    let missing = WANTED_CONTROLLERS.iter().filter(|name| !has(name));
    let missing: Vec<&str> = missing.copied().collect();
    match missing.is_empty() {
        true => good(controllers),
        false => wrong(
            format!(
                "without {}: MemoryMax= and TasksMax= of your units do not hold, and status shows no memory",
                missing.join(" and ")
            ),
            "an administrator writes Delegate=cpu memory pids to the section [Service] of \
             /etc/systemd/system/user@.service.d/delegate.conf, and restarts the machine",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Found, Machine, expect_of};
    use super::*;

    fn machine() -> Machine {
        Machine::of_user("--all")
    }

    #[test]
    fn a_user_needs_a_directory_until_the_next_boot() {
        let id = "runtime-directory";
        let machine = machine();
        expect_of(&machine, id, &Found::Good);
        let run = machine.host.path("run");
        std::fs::remove_dir_all(&run).expect("removed");
        expect_of(&machine, id, &Found::Wrong("is not there"));
        std::fs::write(&run, "").expect("written");
        expect_of(&machine, id, &Found::Wrong("is no directory"));
        std::fs::remove_file(&run).expect("removed");
        std::os::unix::fs::symlink(&run, &run).expect("linked");
        expect_of(&machine, id, &Found::Unknown("cannot look at"));
        // Whoever runs the test, one of these is somebody else's.
        let own = machine.host.directory.path().metadata().expect("there").uid();
        std::fs::remove_file(&run).expect("removed");
        std::os::unix::fs::symlink("/proc/1", &run).expect("linked");
        let expected = match own {
            0 => Found::Good,
            _ => Found::Wrong("belongs to user 0"),
        };
        expect_of(&machine, id, &expected);
    }

    #[test]
    fn the_service_manager_of_a_user_answers_or_not() {
        let mut machine = machine();
        expect_of(&machine, "session-bus", &Found::Good);
        machine.host.has_bus = false;
        expect_of(&machine, "session-bus", &Found::Wrong("cannot reach D-Bus"));
    }

    #[test]
    fn a_user_lingers_or_not() {
        for (lingers, expected) in [
            (Some(true), Found::Good),
            (Some(false), Found::Wrong("with your last session")),
            (None, Found::Unknown("does not say")),
        ] {
            let mut machine = machine();
            machine.host.linger = lingers;
            expect_of(&machine, "lingering", &expected);
        }
    }

    #[test]
    fn controllers_are_delegated_or_not() {
        let path = of_manager(uid()).display().to_string();
        for (text, expected) in [
            (Some("cpu memory pids"), Found::Good),
            (Some("memory pids"), Found::Good),
            (Some("pids"), Found::Wrong("without memory")),
            (Some(""), Found::Wrong("without memory and pids")),
            (None, Found::Unknown("elsewhere")),
        ] {
            let mut machine = machine();
            if let Some(text) = text {
                machine.facts().say(&path, text);
            }
            expect_of(&machine, "delegation", &expected);
        }
        let mut machine = machine();
        machine.facts().texts.remove(Path::new(CONTROLLERS));
        expect_of(&machine, "delegation", &Found::Wrong("version 1"));
    }
}
