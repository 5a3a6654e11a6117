//! `flmadm status`: what is installed and whether it runs.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use comfy_table::{Table, presets};
use flame_systemd::manager::UnitStatus;
use schemars::JsonSchema;
use serde::Serialize;

use crate::cli::StatusArgs;
use crate::failure::{Failure, Kind, Outcome};
use crate::host::Host;
use crate::manifest::Manifest;
use crate::output::Output;
use crate::prefix::Prefix;
use crate::processes::Process;
use crate::profile::Profile;

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
    /// State of each unit, in the order in which they are started.
    units: Vec<UnitStatus>,
    /// Daemons that run without systemd.
    processes: Vec<Process>,
}

/// Shows the installation.
///
/// # Errors
/// Nothing is installed (installation), or something that is installed is not active (start).
pub(crate) fn run(host: &dyn Host, args: &StatusArgs, output: &mut Output<'_>) -> Outcome<()> {
    let (prefix, found) = args.at.find()?;
    let Some(manifest) = found.filter(Manifest::is_installed) else {
        return Err(
            Failure::installation(format!("nothing is installed in {}", prefix.path().display()))
                .hint("flmadm install installs it; --prefix names another directory"),
        );
    };
    let units = if manifest.units.is_empty() {
        Vec::new()
    } else {
        units(host, &manifest)?
    };
    let processes = if manifest.units.is_empty() {
        daemons(host, &prefix)
    } else {
        Vec::new()
    };
    let inactive = inactive(&manifest, &units, &processes);
    let report = Report {
        active: inactive.is_empty(),
        prefix: manifest.prefix,
        version: manifest.version,
        profiles: manifest.profiles,
        systemd: manifest.systemd,
        units,
        processes,
    };
    output.json(&report);
    if output.is_for_people() {
        table(&report, output);
    }
    if inactive.is_empty() {
        return Ok(());
    }
    let hint = if report.systemd {
        "systemctl start flame.target starts what is enabled"
    } else {
        "each is started with --config PREFIX/conf/flame-cluster.yaml and FLAME_HOME=PREFIX"
    };
    Err(Failure::new(Kind::Start, format!("not active: {}", inactive.join(", "))).hint(hint))
}

fn units(host: &dyn Host, manifest: &Manifest) -> Outcome<Vec<UnitStatus>> {
    let systemd = host.systemd()?;
    manifest.loadable().map(|unit| systemd.status(unit)).collect()
}

fn daemons(host: &dyn Host, prefix: &Prefix) -> Vec<Process> {
    let names: Vec<&str> = crate::profile::ALL
        .into_iter()
        .filter_map(Profile::service)
        .map(program)
        .collect();
    let mut running = host.running_from(&prefix.bin());
    running.retain(|process| names.contains(&process.program.as_str()));
    running
}

fn program(service: &str) -> &str {
    service.trim_end_matches(".service")
}

/// Names of what should run and does not. A slice is active only while something is in it.
fn inactive(manifest: &Manifest, units: &[UnitStatus], processes: &[Process]) -> Vec<String> {
    if manifest.units.is_empty() {
        let wanted = manifest
            .profiles
            .iter()
            .filter_map(|profile| profile.service())
            .map(program);
        let down = wanted.filter(|name| !processes.iter().any(|process| process.program == *name));
        return down.map(str::to_owned).collect();
    }
    let counts = |unit: &&UnitStatus| !unit.name.ends_with(".slice");
    units
        .iter()
        .filter(counts)
        .filter(|unit| !unit.is_active())
        .map(|unit| unit.name.clone())
        .collect()
}

fn table(report: &Report, output: &mut Output<'_>) {
    let profiles: Vec<&str> = report.profiles.iter().map(|profile| profile.name()).collect();
    output.line(&format!(
        "Flame {} in {}: {}",
        report.version,
        report.prefix.display(),
        profiles.join(", ")
    ));
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if report.units.is_empty() {
        table.set_header(["PROGRAM", "STATE", "PID"]);
        for name in report
            .profiles
            .iter()
            .filter_map(|profile| profile.service())
            .map(program)
        {
            let found: Vec<&Process> = report
                .processes
                .iter()
                .filter(|process| process.program == name)
                .collect();
            match found.as_slice() {
                [] => drop(table.add_row([name, "not running", "-"])),
                found => found.iter().for_each(|process| {
                    table.add_row([name.to_owned(), "running".to_owned(), process.pid.to_string()]);
                }),
            }
        }
    } else {
        table.set_header(["UNIT", "STATE", "SINCE", "PID", "MEMORY", "RESTARTS", "STATUS"]);
        let now = SystemTime::now();
        for unit in &report.units {
            table.add_row(row(unit, now));
        }
    }
    if table.row_count() > 0 {
        let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
        output.line(&lines.join("\n"));
    }
}

fn row(unit: &UnitStatus, now: SystemTime) -> [String; 7] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let state = if unit.exists() {
        format!("{} ({})", unit.active_state, unit.sub_state)
    } else {
        "not installed".to_owned()
    };
    [
        unit.name.clone(),
        state,
        or_dash(unit.active_for(now).map(span)),
        or_dash(unit.main_pid.map(|pid| pid.to_string())),
        or_dash(
            unit.memory_bytes
                .map(|bytes| bytesize::ByteSize::b(bytes).display().iec().to_string()),
        ),
        or_dash(unit.restarts.map(|count| count.to_string())),
        or_dash(unit.status_text.clone()),
    ]
}

/// A span of time in its two largest units.
fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_short() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (61, "1m 1s"),
            (3_661, "1h 1m"),
            (90_000, "1d 1h"),
        ] {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn a_row_says_all_that_is_known() {
        let unit = UnitStatus {
            load_state: "loaded".to_owned(),
            active_state: "active".to_owned(),
            sub_state: "running".to_owned(),
            active_since_us: Some(1_000_000),
            main_pid: Some(7),
            restarts: Some(0),
            memory_bytes: Some(3 << 20),
            status_text: Some("serving".to_owned()),
            ..UnitStatus::named("a.service")
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(61);
        assert_eq!(
            row(&unit, now),
            [
                "a.service",
                "active (running)",
                "1m 0s",
                "7",
                "3.0 MiB",
                "0",
                "serving"
            ]
        );
        let gone = row(&UnitStatus::named("b.service"), now);
        assert_eq!(gone, ["b.service", "not installed", "-", "-", "-", "-", "-"]);
    }
}
