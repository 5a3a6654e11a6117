//! What is done to the chosen units, in order, and what came of it.

use std::ops::ControlFlow;

use flame_systemd::manager::UnitStatus;

use super::names::Chosen;
use super::{UnitReport, Verb};
use crate::failure::Outcome;
use crate::host::sight::JournalQuery;
use crate::host::{Host, Units};
use crate::installed::Installed;
use crate::logs::Entry;
use crate::output::Output;

/// Lines of the journal that are shown of a unit that failed.
const LAST_LINES: u32 = 10;

/// Starts, stops or restarts; goes on after a unit that failed.
pub(super) fn on(
    host: &dyn Host,
    installed: &Installed,
    verb: Verb,
    chosen: &Chosen,
    output: &mut Output<'_>,
) -> Outcome<Vec<UnitReport>> {
    let systemd = installed.systemd(host)?;
    let mut done = Vec::new();
    let mut ordered = Vec::new();
    for unit in &chosen.units {
        // All of them before the first change: one may bring others with it.
        ordered.push((unit, systemd.status(unit)?));
    }
    if verb == Verb::Stop {
        // Agents before the manager, which they say goodbye to, and the target last: it stops nothing more then.
        ordered.reverse();
        ordered.sort_by_key(|(unit, _)| unit.ends_with(".target"));
    }
    for (unit, before) in ordered {
        if chosen.all && !concerns(verb, &before) {
            continue;
        }
        if is_needed(verb, &before) {
            output.progress(&format!("{} of {unit}", verb.name()));
            let tried = one(systemd, verb, unit, &before);
            done.push(report(
                host,
                unit,
                true,
                tried.err().map(|failure| failure.chain()),
            )?);
        } else {
            done.push(report(host, unit, false, None)?);
        }
    }
    let ends_agents = |unit: &String| *unit == installed.node_agent() || unit.contains('@');
    if verb == Verb::Stop && chosen.units.iter().any(ends_agents) {
        stop_executors(installed, systemd, output)?;
    }
    Ok(done)
}

fn one(systemd: &dyn Units, verb: Verb, unit: &str, before: &UnitStatus) -> Outcome<()> {
    match verb {
        Verb::Stop => systemd.stop(unit),
        Verb::Start | Verb::Enable | Verb::Disable => {
            systemd.reset_failed(unit)?;
            systemd.start(unit)
        }
        Verb::Restart => {
            systemd.reset_failed(unit)?;
            // A restart of the target would stop and start everything once more.
            match unit.ends_with(".target") || before.active_state == "inactive" {
                true => systemd.start(unit),
                false => systemd.restart(unit),
            }
        }
    }
}

/// Whether a unit that nobody named is meant: a further agent only if it runs, or is about to.
fn concerns(verb: Verb, before: &UnitStatus) -> bool {
    if !before.name.contains('@') {
        return true;
    }
    match verb {
        // It is started with the others if it is enabled, as at a boot.
        Verb::Start => before.unit_file_state == "enabled",
        _ => before.active_state != "inactive" && before.active_state != "failed",
    }
}

fn is_needed(verb: Verb, before: &UnitStatus) -> bool {
    match verb {
        Verb::Restart => true,
        Verb::Stop => !["inactive", "failed"].contains(&before.active_state.as_str()),
        _ => !before.is_active(),
    }
}

/// Ends executors that outlive their agent, and waits for those that are on their way out.
fn stop_executors(installed: &Installed, systemd: &dyn Units, output: &mut Output<'_>) -> Outcome<()> {
    let mut agents = installed.further_agents(systemd)?;
    agents.push(installed.node_agent());
    for agent in agents {
        // They may belong to it.
        if systemd.status(&agent)?.is_active() {
            return Ok(());
        }
    }
    for executor in installed.executors(systemd)? {
        if is_needed(Verb::Stop, &systemd.status(&executor)?) {
            output.progress(&format!("stop of {executor}"));
            systemd.stop(&executor)?;
        }
    }
    Ok(())
}

/// Enables or disables. What nobody named is all that the manifest lists; further agents stay as they are.
pub(super) fn set_enabled(
    systemd: &dyn Units,
    installed: &Installed,
    verb: Verb,
    chosen: &Chosen,
    output: &mut Output<'_>,
) -> Outcome<Vec<UnitReport>> {
    let units: Vec<&str> = match chosen.all {
        true => installed.manifest.installable().collect(),
        false => chosen.units.iter().map(String::as_str).collect(),
    };
    let wanted = match verb {
        Verb::Disable => "disabled",
        _ => "enabled",
    };
    let mut changed = Vec::new();
    for unit in &units {
        changed.push(systemd.status(unit)?.unit_file_state != wanted);
    }
    if changed.contains(&true) {
        output.progress(&format!("{} of {}", verb.name(), units.join(", ")));
        match verb {
            Verb::Disable => systemd.disable(&units)?,
            _ => systemd.enable(&units)?,
        }
        // The running manager has not read the links.
        systemd.reload()?;
    }
    let mut done = Vec::new();
    for (unit, changed) in units.iter().zip(changed) {
        done.push(state(&systemd.status(unit)?, changed));
    }
    Ok(done)
}

/// What was done to the same units later is added.
pub(super) fn merge(units: &mut Vec<UnitReport>, later: Vec<UnitReport>) {
    for mut report in later {
        match units.iter_mut().find(|unit| unit.name == report.name) {
            Some(unit) => {
                report.changed |= unit.changed;
                *unit = report;
            }
            None => units.push(report),
        }
    }
}

fn state(status: &UnitStatus, changed: bool) -> UnitReport {
    UnitReport {
        name: status.name.clone(),
        changed,
        active_state: status.active_state.clone(),
        unit_file_state: status.unit_file_state.clone(),
        error: None,
        log: Vec::new(),
    }
}

fn report(host: &dyn Host, unit: &str, changed: bool, error: Option<String>) -> Outcome<UnitReport> {
    let status = host.systemd()?.status(unit)?;
    let log = match &error {
        Some(_) => last_lines(host, unit),
        None => Vec::new(),
    };
    let masked = status.load_state == "masked";
    let error = error.map(|error| match masked {
        true => format!(
            "{error}; it is masked: {} unmask {unit}",
            host.scope().systemctl()
        ),
        false => error,
    });
    Ok(UnitReport {
        error,
        log,
        ..state(&status, changed)
    })
}

/// What a unit logged last; nothing if the journal cannot be read, because that is not what failed.
pub(crate) fn last_lines(host: &dyn Host, unit: &str) -> Vec<String> {
    let query = JournalQuery {
        units: vec![unit.to_owned()],
        lines: Some(LAST_LINES),
        ..JournalQuery::default()
    };
    let mut lines = Vec::new();
    let _ = host.sight().journal(&query, &mut |line| {
        if let Some(entry) = Entry::parse(line) {
            lines.push(entry.text());
        }
        ControlFlow::Continue(())
    });
    lines
}
