//! The machine itself: kernel, memory, clock, name.

use std::path::Path;
use std::time::Duration;

use flame_core::NodeName;

use crate::doctor::check::{Check, Look, Severity, When, good, wrong};
use crate::doctor::site::Site;
use crate::failure::{Failure, Kind};
use crate::node_config;
use crate::profile::Profile::Worker;

const RELEASE: &str = "/proc/sys/kernel/osrelease";
const HOST_NAME: &str = "/proc/sys/kernel/hostname";
const MEMORY: &str = "/proc/meminfo";
/// Agents hold processes by descriptors that do not block, which came with it.
const OLDEST_KERNEL: (u32, u32) = (5, 10);
/// A session manager with its caches, an agent, and a small application.
const LEAST_MEMORY: u64 = 512 << 20;
/// What is free must be enough for a daemon that is restarted.
const LEAST_AVAILABLE: u64 = 128 << 20;
/// File systems and clocks do not agree on parts of a second, machines that share one by some.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "kernel-version",
        title: "the kernel is new enough for agents",
        severity: Severity::Error,
        when: &[When::Has(Worker)],
        preflight: Some(Kind::Installation),
        look: kernel,
    },
    Check {
        id: "memory",
        title: "there is memory for the services",
        severity: Severity::Warning,
        when: &[When::Service],
        preflight: Some(Kind::Installation),
        look: memory,
    },
    Check {
        id: "clock",
        title: "the clock is kept right",
        severity: Severity::Warning,
        when: &[When::Service],
        preflight: None,
        look: clock,
    },
    Check {
        id: "host-name",
        title: "the node has a name of its own",
        severity: Severity::Warning,
        when: &[When::Has(Worker)],
        preflight: None,
        look: host_name,
    },
];

fn kernel(site: &Site<'_>) -> Look {
    let release = site.facts().text(Path::new(RELEASE))?.unwrap_or_default();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return Err(Failure::installation(format!(
            "{release:?} is no version of Linux"
        )));
    };
    match (major, minor) < OLDEST_KERNEL {
        true => wrong(
            format!(
                "Linux {release}; agents need {}.{}",
                OLDEST_KERNEL.0, OLDEST_KERNEL.1
            ),
            "upgrade the kernel (Debian 11, RHEL 9, Ubuntu 22.04 or later have it)",
        ),
        false => good(format!("Linux {release}")),
    }
}

fn memory(site: &Site<'_>) -> Look {
    let text = site.facts().text(Path::new(MEMORY))?.unwrap_or_default();
    let bytes = |key: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        line.trim()
            .strip_suffix("kB")?
            .trim()
            .parse::<u64>()
            .ok()?
            .checked_mul(1024)
    };
    let (Some(total), Some(available)) = (bytes("MemTotal"), bytes("MemAvailable")) else {
        return Err(Failure::installation(format!(
            "{MEMORY} does not say how much memory there is"
        )));
    };
    let evidence = format!("{} of {} available", mebibytes(available), mebibytes(total));
    if total < LEAST_MEMORY {
        return wrong(
            evidence,
            format!("give the machine at least {}", mebibytes(LEAST_MEMORY)),
        );
    }
    if available < LEAST_AVAILABLE {
        return wrong(
            evidence,
            "end what takes it (ps --sort=-rss -eo rss,pid,comm | head), or add memory",
        );
    }
    good(evidence)
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

fn clock(site: &Site<'_>) -> Look {
    let now = site.facts().now();
    if site.manifest.is_some() {
        let path = site.prefix.manifest();
        let written = path.metadata().and_then(|found| found.modified());
        let written = written.map_err(|error| Failure::path("look at", &path, error))?;
        if let Ok(behind) = written.duration_since(now)
            && behind > CLOCK_TOLERANCE
        {
            return wrong(
                format!(
                    "the installation is {} s younger than now: the clock was set back",
                    behind.as_secs()
                ),
                "timedatectl set-ntp true, or set the time: certificates and times of sessions rest on it",
            );
        }
    }
    match site.facts().clock_is_synchronized()? {
        true => good("it is synchronized"),
        false => wrong(
            "nobody keeps it right: times of nodes differ in time, and certificates may not be valid yet or any more",
            "timedatectl set-ntp true (needs systemd-timesyncd or chrony)",
        ),
    }
}

fn host_name(site: &Site<'_>) -> Look {
    let agents = node_config::read(site.prefix)?;
    if let Some(name) = agents.first().and_then(|agent| agent.name()) {
        return good(format!("node.name is {name}"));
    }
    let name = site.facts().text(Path::new(HOST_NAME))?.unwrap_or_default();
    let remedy = "hostnamectl hostname NAME, or node.name in conf/node-agent.toml";
    if name == "(none)" || name.starts_with("localhost") {
        return wrong(
            format!("the host is called {name:?}, as others are: a second node of that name is refused"),
            remedy,
        );
    }
    match NodeName::new(&name) {
        Ok(_) => good(format!("the host is called {name}")),
        Err(error) => wrong(format!("the host name cannot be that of a node: {error}"), remedy),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Found, Machine, expect_facts, expect_of};
    use super::*;

    #[test]
    fn kernels_are_compared_as_numbers() {
        for (release, expected) in [
            ("5.10.0-28-amd64", Found::Good),
            ("6.1.0", Found::Good),
            ("10.0-rc1", Found::Good),
            ("5.9.16", Found::Wrong("need 5.10")),
            ("4.18.0-553.el8.x86_64", Found::Wrong("4.18.0")),
            ("", Found::Unknown("no version")),
        ] {
            expect_facts("kernel-version", &expected, |facts| facts.say(RELEASE, release));
        }
    }

    #[test]
    fn memory_is_counted() {
        for (total, available, expected) in [
            (524_288, 131_072, Found::Good),
            (524_287, 400_000, Found::Wrong("390 MiB of 511 MiB")),
            (8_000_000, 131_071, Found::Wrong("127 MiB of 7812 MiB")),
        ] {
            let text = format!("MemTotal: {total} kB\nMemAvailable:  {available} kB\nX: 1\n");
            expect_facts("memory", &expected, |facts| facts.say(MEMORY, &text));
        }
        expect_facts("memory", &Found::Unknown("does not say"), |facts| {
            facts.say(MEMORY, "MemTotal: 1 kB")
        });
    }

    #[test]
    fn a_clock_is_synchronized_and_not_behind_the_installation() {
        expect_facts("clock", &Found::Good, |_| {});
        expect_facts("clock", &Found::Wrong("nobody"), |facts| {
            facts.synchronized = false
        });
        expect_facts("clock", &Found::Wrong("set back"), |facts| {
            facts.now -= Duration::from_secs(3_600);
        });
        expect_facts("clock", &Found::Unknown("D-Bus"), |facts| facts.bus = false);
    }

    #[test]
    fn a_node_needs_a_name_that_others_do_not_have() {
        for (name, expected) in [
            ("node1", Found::Good),
            ("node-1.example.com", Found::Good),
            ("localhost", Found::Wrong("as others are")),
            ("localhost.localdomain", Found::Wrong("as others are")),
            ("(none)", Found::Wrong("as others are")),
            ("-x", Found::Wrong("cannot be that of a node")),
        ] {
            expect_facts("host-name", &expected, |facts| facts.say(HOST_NAME, name));
        }
        let mut machine = Machine::new();
        machine.facts().say(HOST_NAME, "localhost");
        let file = machine.prefix.join("conf/node-agent.toml");
        std::fs::write(&file, "[node]\nname = \"mine\"\n").expect("written");
        expect_of(&machine, "host-name", &Found::Good);
        std::fs::write(&file, "[node]\nnam = 1\n").expect("written");
        expect_of(
            &machine,
            "host-name",
            &Found::Unknown("could not use its settings"),
        );
    }
}
