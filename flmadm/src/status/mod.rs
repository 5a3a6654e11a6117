//! `flmadm status`: what is installed and whether it runs.

mod nodes;
mod ports;
mod table;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use flame_core::config::ClusterConfig;
use flame_systemd::manager::UnitStatus;
use schemars::JsonSchema;
use serde::Serialize;

use crate::cli::StatusArgs;
use crate::failure::{Failure, Kind, Outcome};
use crate::host::Host;
use crate::host::sight::{JournalQuery, Program};
use crate::installed::{self, Installed};
use crate::logs::Entry;
use crate::manifest::Manifest;
use crate::output::Output;
use crate::profile::Profile;
use crate::unit_files::RECOVERY;

use nodes::NodeReport;
use ports::Port;

pub(crate) use table::span;

/// Errors in the journal that are older are no news, in microseconds.
const ERRORS_SINCE: i64 = 24 * 60 * 60 * 1_000_000;
/// Errors that are read to find the last one of each service.
const ERROR_LINES: u32 = 20;
/// Longest time for reading them: status has to be there within a second.
const JOURNAL_LIMIT: Duration = Duration::from_millis(250);

/// What is installed, and its state.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Report {
    /// Directory of the installation.
    prefix: PathBuf,
    /// Version of Flame.
    version: String,
    /// What this machine does.
    profiles: Vec<Profile>,
    /// Whether there are systemd units.
    systemd: bool,
    /// Whether everything that is installed is active.
    active: bool,
    /// State of each unit, in the order in which they are started; further agents are behind.
    units: Vec<UnitReport>,
    /// Daemons that run without systemd.
    processes: Vec<ProcessReport>,
    /// Where services of the cluster are reached.
    ports: Vec<Port>,
    /// Nodes of this machine as the session manager sees them; empty if it is elsewhere or does not answer.
    nodes: Vec<NodeReport>,
    /// Units of executors that systemd has loaded, also those that stand by.
    executor_units: Option<usize>,
    /// What could not be found out, or needs somebody's attention.
    notes: Vec<String>,
}

/// State of a unit.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct UnitReport {
    /// What systemd says of it.
    #[serde(flatten)]
    status: UnitStatus,
    /// Whether a service runs the installed program; `old` after an update without a restart.
    program: Option<Program>,
    /// The last error that it logged within a day.
    last_error: Option<ErrorLine>,
}

/// An error in the journal.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct ErrorLine {
    /// When, in microseconds since 1970.
    time_us: i64,
    /// What was written.
    message: String,
}

/// A daemon that runs without systemd.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ProcessReport {
    /// Process id.
    pid: u32,
    /// Name of the program.
    program: String,
    /// Whether it runs the installed program.
    state: Program,
}

/// Shows the installation.
///
/// # Errors
/// Nothing is installed (installation), or something that is installed is not active (start).
pub(crate) fn run(host: &dyn Host, args: &StatusArgs, output: &mut Output<'_>) -> Outcome<()> {
    let installed = installed::find(&args.at)?;
    let report = look(host, &installed)?;
    output.json(&report);
    if output.is_for_people() {
        table::lines(&report, SystemTime::now())
            .iter()
            .for_each(|line| output.line(line));
    }
    let inactive = inactive(&installed.manifest, &report.units, &report.processes);
    if inactive.is_empty() {
        return Ok(());
    }
    let hint = if report.systemd {
        "flmadm start starts them, and says why if one does not start; flmadm logs shows what they logged"
            .to_owned()
    } else {
        format!("flmadm dev up --prefix {} starts them", report.prefix.display())
    };
    Err(Failure::new(Kind::Start, format!("not active: {}", inactive.join(", "))).hint(hint))
}

/// Looks at everything.
fn look(host: &dyn Host, installed: &Installed) -> Outcome<Report> {
    let manifest = &installed.manifest;
    let has_units = !manifest.units.is_empty();
    let (mut notes, mut executor_units) = (Vec::new(), None);
    let (mut units, mut processes) = (Vec::new(), Vec::new());
    if has_units {
        units = look_at_units(host, installed)?;
        executor_units = Some(installed.executors(host.systemd()?)?.len());
    } else {
        processes = daemons(host, installed);
    }
    let config = match ClusterConfig::load(&installed.prefix.config()) {
        Ok(config) => Some(config),
        Err(error) => {
            notes.push(format!("the ports are not known: {error}"));
            None
        }
    };
    let ports = config
        .as_ref()
        .map(|config| ports::look(host, manifest, config))
        .unwrap_or_default();
    let mut nodes = Vec::new();
    if let Some(config) = &config
        && manifest.profiles.contains(&Profile::ControlPlane)
        && ports.first().is_some_and(|frontend| frontend.answers)
    {
        match nodes::look(host, installed, config) {
            Ok(found) => nodes = found,
            Err(words) => notes.push(format!(
                "the session manager does not say which nodes there are: {words}"
            )),
        }
    }
    let reload = |unit: &&UnitReport| unit.status.needs_reload;
    notes.extend(units.iter().filter(reload).map(|unit| {
        let name = &unit.status.name;
        let systemctl = host.scope().systemctl();
        format!("systemd has read older files of {name}: {systemctl} daemon-reload, then flmadm restart")
    }));
    Ok(Report {
        active: inactive(manifest, &units, &processes).is_empty(),
        prefix: manifest.prefix.clone(),
        version: manifest.version.clone(),
        profiles: manifest.profiles.clone(),
        systemd: manifest.systemd,
        units,
        processes,
        ports,
        nodes,
        executor_units,
        notes,
    })
}

fn look_at_units(host: &dyn Host, installed: &Installed) -> Outcome<Vec<UnitReport>> {
    let systemd = host.systemd()?;
    let mut statuses = Vec::new();
    // It runs only when something has gone wrong.
    let recovery = installed.manifest.names().own(RECOVERY);
    for unit in installed.manifest.loadable().filter(|unit| *unit != recovery) {
        statuses.push(systemd.status(unit)?);
    }
    for agent in installed.further_agents(systemd)? {
        statuses.push(systemd.status(&agent)?);
    }
    let services: Vec<String> = statuses
        .iter()
        .map(|status| status.name.clone())
        .filter(|name| name.ends_with(".service"))
        .collect();
    let mut errors = last_errors(host, services);
    let report = |status: UnitStatus| {
        let path = installed
            .program(&status.name)
            .map(|program| installed.prefix.bin().join(program));
        let runs = status.main_pid.zip(path);
        UnitReport {
            program: runs.map(|(pid, path)| host.sight().program(pid, &path, status.main_since_us)),
            last_error: errors.remove(&status.name),
            status,
        }
    };
    Ok(statuses.into_iter().map(report).collect())
}

/// The last error of each service; none if the journal cannot be read, e.g. by whoever may not.
fn last_errors(host: &dyn Host, units: Vec<String>) -> BTreeMap<String, ErrorLine> {
    let since = jiff::Timestamp::now().as_microsecond() - ERRORS_SINCE;
    let query = JournalQuery {
        units,
        lines: Some(ERROR_LINES),
        errors: true,
        limit: Some(JOURNAL_LIMIT),
        ..JournalQuery::default()
    };
    let mut found = BTreeMap::new();
    let _ = host.sight().journal(&query, &mut |line| {
        if let Some(entry) = Entry::parse(line)
            && let Some(time_us) = entry.time_us.filter(|time| *time >= since)
        {
            let message = entry.text();
            found.insert(entry.unit, ErrorLine { time_us, message });
        }
        ControlFlow::Continue(())
    });
    found
}

fn daemons(host: &dyn Host, installed: &Installed) -> Vec<ProcessReport> {
    let names: Vec<&str> = crate::profile::ALL
        .into_iter()
        .filter_map(Profile::service)
        .map(program)
        .collect();
    let bin = installed.prefix.bin();
    let mut running = host.running_from(&bin);
    running.retain(|process| names.contains(&process.program.as_str()));
    let report = |process: crate::processes::Process| ProcessReport {
        state: host
            .sight()
            .program(process.pid, &bin.join(&process.program), None),
        pid: process.pid,
        program: process.program,
    };
    running.into_iter().map(report).collect()
}

/// The program of a service of an installation without units.
fn program(service: &str) -> &str {
    service.trim_end_matches(".service")
}

/// Names of what should run and does not. A slice is active only while something is in it, and a further agent is
/// its administrator's affair.
fn inactive(manifest: &Manifest, units: &[UnitReport], processes: &[ProcessReport]) -> Vec<String> {
    if manifest.units.is_empty() {
        let wanted = manifest
            .profiles
            .iter()
            .filter_map(|profile| profile.service())
            .map(program);
        let down = wanted.filter(|name| !processes.iter().any(|process| process.program == *name));
        return down.map(str::to_owned).collect();
    }
    let counts = |status: &&UnitStatus| !status.name.ends_with(".slice") && !status.name.contains('@');
    units
        .iter()
        .map(|unit| &unit.status)
        .filter(counts)
        .filter(|status| !status.is_active())
        .map(|status| status.name.clone())
        .collect()
}

#[cfg(test)]
mod tests;
