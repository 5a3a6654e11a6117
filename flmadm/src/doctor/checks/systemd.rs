//! What units and executors need of systemd and of those who work with it.

use std::path::Path;

use crate::doctor::check::{Check, Look, Severity, When, good, wrong};
use crate::doctor::site::Site;
use crate::failure::{Failure, Kind};
use crate::profile::Profile::Worker;
use crate::unit_files::instance;

/// `LoadCredential=`, `ProtectProc=` and `ProcSubset=` of our units came with it.
const OLDEST_SYSTEMD: u32 = 247;
/// The first with rules in JavaScript, which ours is.
const OLDEST_POLKIT: (u32, u32) = (0, 106);
/// Since 121 polkit has no leading zero any more.
const POLKIT_WITHOUT_ZERO: u32 = 121;
/// Lists controllers on a machine with cgroups of version 2 alone.
pub(super) const CONTROLLERS: &str = "/sys/fs/cgroup/cgroup.controllers";
/// What limits of executors are made with.
const NEEDED_CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "systemd",
        title: "systemd runs this machine and answers over D-Bus",
        severity: Severity::Error,
        when: &[When::System, When::Service],
        preflight: Some(Kind::Systemd),
        look: systemd,
    },
    Check {
        id: "systemd-version",
        title: "systemd understands the units",
        severity: Severity::Error,
        when: &[When::Units, When::Service],
        preflight: Some(Kind::Systemd),
        look: version,
    },
    Check {
        id: "cgroup-version",
        title: "executors can be limited (cgroup version 2)",
        severity: Severity::Warning,
        when: &[When::System, When::Has(Worker)],
        preflight: Some(Kind::Systemd),
        look: cgroup,
    },
    Check {
        id: "polkit",
        title: "polkit is there, which lets the agent start executors",
        severity: Severity::Error,
        when: &[When::System, When::Has(Worker)],
        preflight: Some(Kind::Systemd),
        look: polkit,
    },
    Check {
        id: "polkit-permission",
        title: "polkit answers, and lets the agent start executors",
        severity: Severity::Error,
        when: &[When::Installed, When::System, When::Has(Worker)],
        preflight: None,
        look: permission,
    },
    Check {
        id: "dynamic-users",
        title: "the users of executors have names (nss-systemd)",
        severity: Severity::Warning,
        when: &[When::System, When::Has(Worker)],
        preflight: None,
        look: dynamic_users,
    },
];

fn systemd(site: &Site<'_>) -> Look {
    let first = site.facts().text(Path::new("/proc/1/comm"))?.unwrap_or_default();
    match site.systemd() {
        Ok(_) => good(format!("process 1 is {first}")),
        Err(failure) => wrong(
            format!("process 1 is {first}; {}", failure.chain()),
            "boot the machine with systemd and D-Bus, or install with --no-systemd",
        ),
    }
}

fn version(site: &Site<'_>) -> Look {
    let version = site.facts().systemd_version()?;
    match leading_number(&version) {
        None => Err(Failure::new(
            Kind::Systemd,
            format!("{version:?} is no version of systemd"),
        )),
        Some(number) if number < OLDEST_SYSTEMD => wrong(
            format!(
                "systemd {version}; the units need {OLDEST_SYSTEMD}, which has LoadCredential= and ProtectProc="
            ),
            "upgrade the operating system (Debian 11, RHEL 9, Ubuntu 22.04 or later), or install with --no-systemd",
        ),
        Some(_) => good(format!("systemd {version}")),
    }
}

fn cgroup(site: &Site<'_>) -> Look {
    let Some(controllers) = site.facts().text(Path::new(CONTROLLERS))? else {
        return wrong(
            "cgroups of version 1: memory.high, the end of all processes of an executor at once and limits of devices \
             do not work",
            "boot with systemd.unified_cgroup_hierarchy=1",
        );
    };
    let has = |name: &&&str| controllers.split_whitespace().any(|found| found == **name);
    let missing: Vec<&str> = NEEDED_CONTROLLERS
        .iter()
        .filter(|name| !has(name))
        .copied()
        .collect();
    match missing.is_empty() {
        true => good(format!("version 2 with {controllers}")),
        false => wrong(
            format!(
                "version 2 without {}: executors are not limited by it",
                missing.join(", ")
            ),
            "remove cgroup_disable= from the kernel's command line; in a container, let its manager delegate them",
        ),
    }
}

fn polkit(site: &Site<'_>) -> Look {
    match site.facts().has_polkit()? {
        true => good("D-Bus knows org.freedesktop.PolicyKit1"),
        false => wrong(
            "D-Bus does not know org.freedesktop.PolicyKit1",
            "install polkit (package polkitd on Debian, policykit-1 on older ones, polkit on Fedora)",
        ),
    }
}

fn permission(site: &Site<'_>) -> Look {
    let version = match site.facts().polkit_version() {
        Ok(version) => version,
        Err(failure) => {
            return wrong(
                failure.chain(),
                "systemctl unmask polkit && systemctl restart polkit",
            );
        }
    };
    if !takes_rules(&version) {
        return wrong(
            format!("polkit {version} knows no rules in JavaScript"),
            "upgrade polkit to 0.106 or later, or run applications as children of the agent (process-runtime.conf)",
        );
    }
    let manifest = site.installed()?;
    let user = manifest
        .user
        .as_ref()
        .map(|user| site.host.user(&user.name))
        .transpose()?
        .flatten();
    let agent = site
        .agent()
        .map(|unit| site.systemd()?.status(unit))
        .transpose()?;
    let pid = agent.and_then(|status| status.main_pid);
    let (Some(user), Some(pid), Some(template)) = (user, pid, site.executor_templates().next()) else {
        return good(format!(
            "polkit {version}; the agent does not run, so nobody was asked about it"
        ));
    };
    let unit = instance(template, "0");
    match site.facts().may_start(pid, user.uid, &unit)? {
        true => good(format!("polkit {version} lets process {pid} start {unit}")),
        false => wrong(
            format!("polkit {version} does not let process {pid} of the agent start {unit}"),
            "flmadm install again restores the rule; then: systemctl restart polkit",
        ),
    }
}

fn takes_rules(version: &str) -> bool {
    let mut numbers = version.split('.').map(leading_number);
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(first), _) if first >= POLKIT_WITHOUT_ZERO => true,
        (Some(first), Some(second)) => (first, second) >= OLDEST_POLKIT,
        _ => false,
    }
}

fn leading_number(text: &str) -> Option<u32> {
    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn dynamic_users(site: &Site<'_>) -> Look {
    let text = site
        .facts()
        .text(Path::new("/etc/nsswitch.conf"))?
        .unwrap_or_default();
    let names = |database: &str| {
        text.lines()
            .filter_map(|line| {
                line.split('#')
                    .next()?
                    .trim()
                    .strip_prefix(database)?
                    .strip_prefix(':')
            })
            .any(|sources| sources.split_whitespace().any(|source| source == "systemd"))
    };
    let missing: Vec<&str> = ["passwd", "group"]
        .into_iter()
        .filter(|database| !names(database))
        .collect();
    match missing.is_empty() {
        true => good("passwd and group of /etc/nsswitch.conf ask systemd"),
        false => wrong(
            format!(
                "{} of /etc/nsswitch.conf does not ask systemd: applications that look up their own user fail",
                missing.join(" and ")
            ),
            "install libnss-systemd, or add systemd to these lines of /etc/nsswitch.conf",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Found, Machine, expect, expect_facts};
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        for (text, expected) in [
            ("247", Found::Good),
            ("252.39-1~deb12u1", Found::Good),
            ("257", Found::Good),
            ("246.6", Found::Wrong("LoadCredential=")),
            ("99", Found::Wrong("systemd 99")),
            ("devel", Found::Unknown("no version")),
        ] {
            expect_facts("systemd-version", &expected, |facts| {
                facts.systemd = text.to_owned()
            });
        }
        for (text, expected) in [
            ("0.105", false),
            ("0.106", true),
            ("0.119", true),
            ("121", true),
            ("127", true),
            ("x", false),
        ] {
            assert_eq!(takes_rules(text), expected, "{text}");
        }
    }

    #[test]
    fn systemd_is_reached_or_not() {
        expect_facts("systemd", &Found::Good, |_| {});
        expect(
            "systemd",
            &Found::Wrong("process 1 is sh; cannot reach D-Bus"),
            |machine| {
                machine.host.has_bus = false;
                machine.facts().say("/proc/1/comm", "sh");
            },
        );
        expect_facts(
            "systemd-version",
            &Found::Unknown("cannot reach D-Bus"),
            |facts| facts.bus = false,
        );
    }

    #[test]
    fn controllers_are_counted() {
        expect_facts("cgroup-version", &Found::Good, |_| {});
        expect_facts("cgroup-version", &Found::Wrong("version 1"), |facts| {
            facts.texts.remove(Path::new(CONTROLLERS));
        });
        expect_facts("cgroup-version", &Found::Wrong("without memory, pids"), |facts| {
            facts.say(CONTROLLERS, "cpuset cpu io");
        });
        expect_facts("cgroup-version", &Found::Unknown("cannot read"), |facts| {
            facts.closed.insert(CONTROLLERS.into());
        });
    }

    #[test]
    fn polkit_is_there_answers_and_agrees() {
        expect_facts("polkit", &Found::Good, |_| {});
        expect_facts("polkit", &Found::Wrong("does not know"), |facts| {
            facts.polkit = None
        });
        expect_facts("polkit", &Found::Unknown("D-Bus"), |facts| facts.bus = false);
        let id = "polkit-permission";
        expect_facts(id, &Found::Good, |_| {});
        expect(id, &Found::Good, Machine::start);
        expect_facts(id, &Found::Wrong("does not answer"), |facts| {
            facts.polkit_answers = false
        });
        expect_facts(id, &Found::Wrong("JavaScript"), |facts| {
            facts.polkit = Some("0.105".to_owned())
        });
        expect(id, &Found::Wrong("does not let process"), |machine| {
            machine.start();
            machine.facts().may_start = false;
        });
        expect(id, &Found::Unknown("D-Bus"), |machine| {
            machine.host.has_bus = false
        });
    }

    #[test]
    fn names_of_dynamic_users_are_looked_up() {
        let path = "/etc/nsswitch.conf";
        for (text, expected) in [
            ("passwd: files systemd\ngroup: files systemd", Found::Good),
            ("passwd:files systemd # x\n group:\tsystemd", Found::Good),
            ("passwd: files\ngroup: files systemd", Found::Wrong("passwd of")),
            (
                "#passwd: systemd\nshadow: systemd",
                Found::Wrong("passwd and group"),
            ),
        ] {
            expect_facts("dynamic-users", &expected, |facts| facts.say(path, text));
        }
        expect_facts("dynamic-users", &Found::Unknown("cannot read"), |facts| {
            facts.closed.insert(path.into());
        });
    }
}
