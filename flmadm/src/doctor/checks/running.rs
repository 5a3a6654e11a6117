//! Whether the services run, and run what is installed.

use std::path::Path;
use std::time::{Duration, SystemTime};

use flame_systemd::manager::UnitStatus;

use crate::doctor::check::{Check, Look, Severity, When, good, wrong};
use crate::doctor::facts::Running;
use crate::doctor::site::Site;
use crate::failure::Outcome;
use crate::node_config;
use crate::profile::Profile::Worker;
use crate::unit_files::{RECOVERY, instances};

/// So many restarts by systemd are no accident.
const RESTARTS: u32 = 3;
/// After that long without another one, they are over.
const CALM: Duration = Duration::from_secs(10 * 60);
/// Units and processes that are listed; of more, the number is told.
const LISTED: usize = 5;

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "services",
        title: "every service that is enabled is active, and none has failed",
        severity: Severity::Error,
        when: &[When::Installed, When::Units, When::Service],
        preflight: None,
        look: services,
    },
    Check {
        id: "restart-loop",
        title: "no service is restarted again and again",
        severity: Severity::Error,
        when: &[When::Installed, When::Units, When::Service],
        preflight: None,
        look: restart_loop,
    },
    Check {
        id: "executors",
        title: "no executor has failed or is without an agent",
        severity: Severity::Warning,
        when: &[When::Installed, When::System, When::Has(Worker)],
        preflight: None,
        look: executors,
    },
    Check {
        id: "old-processes",
        title: "all processes run the programs that are installed",
        severity: Severity::Warning,
        when: &[When::Installed],
        preflight: None,
        look: old_processes,
    },
];

fn statuses(site: &Site<'_>) -> Outcome<Vec<UnitStatus>> {
    let systemd = site.systemd()?;
    let manifest = site.installed()?;
    let recovery = manifest.names().own(RECOVERY);
    manifest
        .installable()
        // It runs only when something has gone wrong.
        .filter(|unit| *unit != recovery)
        .map(|unit| systemd.status(unit))
        .collect()
}

fn services(site: &Site<'_>) -> Look {
    // An agent may have ended as it was told to.
    let ends_itself = node_config::read(site.prefix)?
        .iter()
        .any(|agent| agent.ends_itself());
    let mut problems = Vec::new();
    let mut states = Vec::new();
    for status in statuses(site)? {
        let may_end = ends_itself && site.agent() == Some(&status.name);
        match problem(&status, may_end) {
            Some(what) => problems.push(format!("{} {what}", status.name)),
            None => states.push(format!("{} is {}", status.name, status.active_state)),
        }
    }
    match problems.is_empty() {
        true => good(states.join(", ")),
        false => wrong(
            problems.join(", "),
            format!(
                "{} UNIT says why; flmadm install --enable again starts what is stopped",
                site.host.scope().journalctl()
            ),
        ),
    }
}

fn problem(status: &UnitStatus, may_end: bool) -> Option<String> {
    if !status.exists() {
        return Some("has no unit file".to_owned());
    }
    if status.load_state != "loaded" {
        return Some(format!("is {}", status.load_state));
    }
    let enabled = status.unit_file_state == "enabled";
    match status.active_state.as_str() {
        "failed" => Some(format!(
            "has failed ({})",
            status.result.as_deref().unwrap_or("unknown")
        )),
        "inactive" if enabled && !may_end => Some("is enabled, but stopped".to_owned()),
        _ => None,
    }
}

fn restart_loop(site: &Site<'_>) -> Look {
    let now = SystemTime::now();
    let loops: Vec<String> = statuses(site)?
        .iter()
        .filter(|status| is_looping(status, now))
        .map(|status| {
            format!(
                "{} was restarted {} times",
                status.name,
                status.restarts.unwrap_or_default()
            )
        })
        .collect();
    match loops.is_empty() {
        true => good(format!(
            "none has been restarted more than {} times of late",
            RESTARTS - 1
        )),
        false => wrong(
            loops.join(", "),
            format!(
                "{} UNIT -p warning says why it ends",
                site.host.scope().journalctl()
            ),
        ),
    }
}

fn is_looping(status: &UnitStatus, now: SystemTime) -> bool {
    let often = status.restarts.is_some_and(|restarts| restarts >= RESTARTS);
    often && status.active_for(now).is_none_or(|active| active < CALM)
}

fn executors(site: &Site<'_>) -> Look {
    let systemd = site.systemd()?;
    let agent_lives = agent_lives(site)?;
    let (mut failed, mut orphans, mut count) = (Vec::new(), Vec::new(), 0);
    for template in site.executor_templates() {
        for unit in systemd.loaded(&instances(template))? {
            count += 1;
            match systemd.status(&unit)?.active_state.as_str() {
                "failed" => failed.push(unit),
                "active" if !agent_lives => orphans.push(unit),
                _ => {}
            }
        }
    }
    match (failed.is_empty(), orphans.is_empty()) {
        (true, true) => good(format!("{count} loaded, none failed")),
        (false, _) => wrong(
            format!("{} failed", listed(&failed)),
            format!(
                "journalctl -u {} says why; systemctl reset-failed 'flame-executor*' forgets it",
                failed.join(" -u ")
            ),
        ),
        (true, false) => wrong(
            format!(
                "{} without an agent, which serve nobody until one is started",
                listed(&orphans)
            ),
            format!("systemctl start {}", site.agent().unwrap_or_default()),
        ),
    }
}

/// Whether any agent of the installation runs or is about to.
fn agent_lives(site: &Site<'_>) -> Outcome<bool> {
    let systemd = site.systemd()?;
    let mut units: Vec<String> = site.agent().map(str::to_owned).into_iter().collect();
    if let Some(template) = site.agent_template() {
        units.extend(systemd.loaded(&instances(template))?);
    }
    for unit in units {
        if !["inactive", "failed"].contains(&systemd.status(&unit)?.active_state.as_str()) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn old_processes(site: &Site<'_>) -> Look {
    let all = site.facts().running_below(site.prefix.path());
    let old: Vec<String> = all
        .iter()
        .filter(|process| is_old(&site.prefix.bin(), process))
        .map(|process| format!("{} ({})", process.pid, process.program.display()))
        .collect();
    match old.is_empty() {
        true => good(format!("{} processes", all.len())),
        false => wrong(
            format!("processes run programs that were replaced: {}", listed(&old)),
            "flmadm install --enable again restarts services; executors end with their sessions (or flmctl close)",
        ),
    }
}

/// Whether the program is not the one that is installed now under its name.
fn is_old(bin: &Path, process: &Running) -> bool {
    let current = process
        .program
        .file_name()
        .and_then(|name| bin.join(name).canonicalize().ok());
    process.replaced || current.is_some_and(|current| current != process.program)
}

fn listed(all: &[String]) -> String {
    let mut text = all.iter().take(LISTED).cloned().collect::<Vec<_>>().join(", ");
    if all.len() > LISTED {
        text.push_str(&format!(" and {} more", all.len() - LISTED));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Found, Machine, expect, expect_facts};
    use super::*;

    fn status(load: &str, active: &str, file: &str) -> UnitStatus {
        UnitStatus {
            load_state: load.to_owned(),
            active_state: active.to_owned(),
            unit_file_state: file.to_owned(),
            result: Some("exit-code".to_owned()),
            ..UnitStatus::named("a.service")
        }
    }

    #[test]
    fn a_service_that_should_run_and_does_not() {
        for (load, active, file, may_end, expected) in [
            ("loaded", "active", "enabled", false, None),
            ("loaded", "activating", "enabled", false, None),
            ("loaded", "inactive", "disabled", false, None),
            ("loaded", "inactive", "enabled", true, None),
            (
                "loaded",
                "inactive",
                "enabled",
                false,
                Some("is enabled, but stopped"),
            ),
            (
                "loaded",
                "failed",
                "disabled",
                true,
                Some("has failed (exit-code)"),
            ),
            ("masked", "inactive", "masked", false, Some("is masked")),
            ("not-found", "inactive", "", false, Some("has no unit file")),
        ] {
            let found = problem(&status(load, active, file), may_end);
            assert_eq!(found.as_deref(), expected, "{load} {active} {file} {may_end}");
        }
        expect("services", &Found::Good, Machine::start);
        expect(
            "services",
            &Found::Wrong("flame-node-agent.service has no unit file"),
            |machine| {
                std::fs::remove_file(machine.host.path("etc/systemd/system/flame-node-agent.service"))
                    .expect("removed");
            },
        );
        for id in ["services", "restart-loop", "executors"] {
            expect(id, &Found::Unknown("D-Bus"), |machine| {
                machine.host.has_bus = false
            });
        }
    }

    #[test]
    fn restarts_count_while_they_are_young() {
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(1_000 + seconds);
        for (restarts, active, after, expected) in [
            (0, "active", 1, false),
            (RESTARTS - 1, "activating", 1, false),
            (RESTARTS, "activating", 1, true),
            (RESTARTS, "active", 1, true),
            (RESTARTS, "active", 600, false),
        ] {
            let status = UnitStatus {
                restarts: Some(restarts),
                active_since_us: Some(1_000_000_000),
                ..status("loaded", active, "enabled")
            };
            assert_eq!(
                is_looping(&status, at(after)),
                expected,
                "{restarts} {active} {after}"
            );
        }
        expect("restart-loop", &Found::Good, Machine::start);
    }

    #[test]
    fn executors_need_an_agent() {
        expect_facts("executors", &Found::Good, |_| {});
        let instance = |machine: &mut Machine| {
            let unit = "flame-executor@7.service".to_owned();
            crate::host::Units::start(&machine.host, &unit).expect("started");
            machine.host.instances.borrow_mut().push(unit);
        };
        expect(
            "executors",
            &Found::Wrong("flame-executor@7.service without an agent"),
            instance,
        );
        expect("executors", &Found::Good, |machine| {
            machine.start();
            instance(machine);
        });
    }

    #[test]
    fn a_process_of_a_replaced_program_is_old() {
        let id = "old-processes";
        expect_facts(id, &Found::Good, |_| {});
        for (replaced, below, expected) in [
            (false, "bin/flame-node-agent", Found::Good),
            (true, "bin/flame-node-agent", Found::Wrong("42 (")),
            (
                false,
                "releases/0.0.9/bin/flame-node-agent",
                Found::Wrong("releases/0.0.9"),
            ),
            (false, "work/a-program-of-an-application", Found::Good),
        ] {
            expect(id, &expected, |machine| {
                let program = machine.prefix.path().join(below);
                // As /proc shows it: links are followed.
                let program = program.canonicalize().unwrap_or(program);
                machine.facts().running.push(Running {
                    pid: 42,
                    program,
                    replaced,
                });
            });
        }
    }
}
