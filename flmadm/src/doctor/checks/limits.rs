//! Limits of the kernel that units or many executors reach.

use std::path::Path;

use crate::doctor::check::{Check, Look, Mode, Severity, When, good, wrong};
use crate::doctor::site::Site;
use crate::failure::{Failure, Kind, Outcome};
use crate::profile::Profile::Worker;

const NAMESPACES: &str = "/proc/sys/user/max_user_namespaces";
const NR_OPEN: &str = "/proc/sys/fs/nr_open";
const OWN_LIMITS: &str = "/proc/self/limits";
const INSTANCES: &str = "/proc/sys/fs/inotify/max_user_instances";
const TASK_LIMITS: [&str; 2] = ["/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"];
const LOAD: &str = "/proc/loadavg";

/// One for each daemon, and as many again when they are restarted.
const NAMESPACES_NEEDED: u64 = 8;
/// `LimitNOFILE=` of the daemons.
const UNIT_FILES: u64 = 262_144;
/// A session manager with a thousand clients, or an agent with a hundred executors.
const SHELL_FILES: u64 = 4_096;
/// One for each agent, and one for its settings; others of the same user need some, too.
const INSTANCES_NEEDED: u64 = 16;
/// Above this part of the limit, in percent, a burst of executors may not be started.
const FULL_PERCENT: u64 = 80;

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "user-namespaces",
        title: "daemons can have user namespaces (PrivateUsers=)",
        severity: Severity::Error,
        when: &[When::System, When::Service],
        preflight: Some(Kind::Systemd),
        look: namespaces,
    },
    Check {
        id: "open-files",
        title: "daemons can have enough open files",
        severity: Severity::Warning,
        when: &[When::Service],
        preflight: Some(Kind::Installation),
        look: open_files,
    },
    Check {
        id: "tasks",
        title: "the machine can run more processes and threads",
        severity: Severity::Warning,
        when: &[When::Has(Worker)],
        preflight: None,
        look: tasks,
    },
    Check {
        id: "inotify",
        title: "agents can wait for sockets (inotify)",
        severity: Severity::Warning,
        when: &[When::Has(Worker)],
        preflight: None,
        look: inotify,
    },
];

fn number(site: &Site<'_>, path: &str) -> Outcome<u64> {
    let text = site.facts().text(Path::new(path))?;
    text.as_deref()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Failure::installation(format!("{path} says no number")))
}

fn namespaces(site: &Site<'_>) -> Look {
    match number(site, NAMESPACES)? {
        most if most < NAMESPACES_NEEDED => wrong(
            format!("user.max_user_namespaces is {most}: services with PrivateUsers= end with 217/USER"),
            "sysctl -w user.max_user_namespaces=16384, and the same in /etc/sysctl.d/90-flame.conf",
        ),
        most => good(format!("user.max_user_namespaces is {most}")),
    }
}

fn open_files(site: &Site<'_>) -> Look {
    // The first number is the limit in effect, the second the one up to which a process may raise its own.
    let (column, remedy) = match site.mode {
        Mode::System => return nr_open(site),
        // A user's service manager raises it for units as far as it may itself.
        Mode::User => (
            1,
            format!(
                "an administrator raises it: nofile in /etc/security/limits.conf, and LimitNOFILE= of user@.service, to \
                 {SHELL_FILES} or more"
            ),
        ),
        Mode::NoSystemd => (
            0,
            format!("ulimit -n {SHELL_FILES} before the daemons are started"),
        ),
    };
    let text = site.facts().text(Path::new(OWN_LIMITS))?.unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"));
    let most = line.and_then(|line| line.split_whitespace().nth(column));
    match most.map(str::parse::<u64>) {
        Some(Ok(most)) if most < SHELL_FILES => {
            wrong(format!("processes of this shell may open {most} files"), remedy)
        }
        Some(_) => good(format!(
            "{} for processes of this shell",
            most.unwrap_or_default()
        )),
        None => Err(Failure::installation(format!(
            "{OWN_LIMITS} does not say how many files may be open"
        ))),
    }
}

fn nr_open(site: &Site<'_>) -> Look {
    match number(site, NR_OPEN)? {
        most if most < UNIT_FILES => wrong(
            format!("fs.nr_open is {most}, the units ask for {UNIT_FILES}"),
            format!(
                "sysctl -w fs.nr_open=1048576, and the same in /etc/sysctl.d/90-flame.conf; needed are {UNIT_FILES}"
            ),
        ),
        most => good(format!("fs.nr_open is {most}")),
    }
}

fn tasks(site: &Site<'_>) -> Look {
    let mut most = u64::MAX;
    for path in TASK_LIMITS {
        most = most.min(number(site, path)?);
    }
    let load = site.facts().text(Path::new(LOAD))?.unwrap_or_default();
    // The fourth word is RUNNING/ALL.
    let all = load
        .split_whitespace()
        .nth(3)
        .and_then(|word| word.split_once('/')?.1.parse::<u64>().ok());
    match all {
        None => Err(Failure::installation(format!(
            "{LOAD} does not say how many threads there are"
        ))),
        Some(all) if all.saturating_mul(100) >= most.saturating_mul(FULL_PERCENT) => wrong(
            format!("{all} processes and threads, at most {most} are possible"),
            format!(
                "sysctl -w kernel.pid_max=4194304 kernel.threads-max={}",
                most.saturating_mul(4)
            ),
        ),
        Some(all) => good(format!("{all} processes and threads of at most {most}")),
    }
}

fn inotify(site: &Site<'_>) -> Look {
    match number(site, INSTANCES)? {
        most if most < INSTANCES_NEEDED => wrong(
            format!("fs.inotify.max_user_instances is {most}, needed are {INSTANCES_NEEDED}"),
            "sysctl -w fs.inotify.max_user_instances=512, and the same in /etc/sysctl.d/90-flame.conf",
        ),
        most => good(format!("fs.inotify.max_user_instances is {most}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Found, Machine, expect_facts, expect_of};
    use super::*;

    #[test]
    fn numbers_of_the_kernel_are_compared() {
        for (id, path, least) in [
            ("user-namespaces", NAMESPACES, NAMESPACES_NEEDED),
            ("open-files", NR_OPEN, UNIT_FILES),
            ("inotify", INSTANCES, INSTANCES_NEEDED),
        ] {
            expect_facts(id, &Found::Good, |_| {});
            expect_facts(id, &Found::Good, |facts| facts.say(path, &least.to_string()));
            expect_facts(id, &Found::Wrong("is "), |facts| {
                facts.say(path, &(least - 1).to_string())
            });
            expect_facts(id, &Found::Unknown("no number"), |facts| facts.say(path, "many"));
            expect_facts(id, &Found::Unknown("no number"), |facts| {
                drop(facts.texts.remove(Path::new(path)))
            });
        }
    }

    #[test]
    fn a_machine_that_is_nearly_full_of_threads() {
        for (load, expected) in [
            ("0 0 0 2/50963 7", Found::Good),
            (
                "0 0 0 2/50964 7",
                Found::Wrong("50964 processes and threads, at most 63704"),
            ),
            ("?", Found::Unknown("does not say")),
        ] {
            expect_facts("tasks", &expected, |facts| facts.say(LOAD, load));
        }
    }

    #[test]
    fn without_units_the_limit_of_the_shell_counts() {
        for (soft, expected) in [
            ("4096", Found::Good),
            ("unlimited", Found::Good),
            ("1024", Found::Wrong("1024 files")),
        ] {
            let mut machine = Machine::with("--all --no-systemd");
            machine
                .facts()
                .say(OWN_LIMITS, &format!("Max open files   {soft}  x files"));
            expect_of(&machine, "open-files", &expected);
        }
        for (hard, expected) in [("4096", Found::Good), ("1024", Found::Wrong("1024 files"))] {
            let mut machine = Machine::of_user("--all");
            machine
                .facts()
                .say(OWN_LIMITS, &format!("Max open files   512  {hard}   files"));
            expect_of(&machine, "open-files", &expected);
        }
        let mut machine = Machine::with("--all --no-systemd");
        machine.facts().say(OWN_LIMITS, "");
        expect_of(&machine, "open-files", &Found::Unknown("does not say"));
    }
}
