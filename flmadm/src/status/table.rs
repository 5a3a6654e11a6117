//! The status for people.

use std::time::{Duration, SystemTime};

use comfy_table::{Table, presets};

use super::{Report, UnitReport, program};
use crate::host::sight::Program;
use crate::profile::Profile;

/// Longest line of an error that is shown, in characters.
const ERROR_CHARS: usize = 160;

/// The lines for people, at the time `now`.
pub(super) fn lines(report: &Report, now: SystemTime) -> Vec<String> {
    let profiles: Vec<&str> = report.profiles.iter().map(|profile| profile.name()).collect();
    let mut lines = vec![format!(
        "Flame {} in {}: {}",
        report.version,
        report.prefix.display(),
        profiles.join(", ")
    )];
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if report.units.is_empty() {
        processes(report, &mut table);
    } else {
        table.set_header([
            "UNIT", "STATE", "AT BOOT", "SINCE", "PID", "MEMORY", "RESTARTS", "PROGRAM", "STATUS",
        ]);
        for unit in &report.units {
            table.add_row(row(unit, &report.version, now));
        }
    }
    if table.row_count() > 0 {
        lines.extend(table.lines().map(|line| line.trim_end().to_owned()));
    }
    lines.extend(surroundings(report));
    lines.extend(report.units.iter().filter_map(|unit| error(unit, now)));
    lines.extend(report.notes.iter().map(|note| format!("Note: {note}")));
    lines
}

fn processes(report: &Report, table: &mut Table) {
    let services: Vec<&str> = report
        .profiles
        .iter()
        .filter_map(|profile| Profile::service(*profile))
        .map(program)
        .collect();
    if services.is_empty() {
        return;
    }
    table.set_header(["PROGRAM", "STATE", "PID"]);
    for name in services {
        let mut found = report
            .processes
            .iter()
            .filter(|process| process.program == name)
            .peekable();
        if found.peek().is_none() {
            table.add_row([name, "not running", "-"]);
        }
        for process in found {
            let state = match process.state {
                Program::Old => "running, old: restart",
                _ => "running",
            };
            table.add_row([name.to_owned(), state.to_owned(), process.pid.to_string()]);
        }
    }
}

fn row(unit: &UnitReport, version: &str, now: SystemTime) -> [String; 9] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let status = &unit.status;
    let state = if status.exists() {
        format!("{} ({})", status.active_state, status.sub_state)
    } else {
        "not installed".to_owned()
    };
    let runs = unit.program.and_then(|program| match program {
        Program::Current => Some(version.to_owned()),
        Program::Old => Some("old, restart".to_owned()),
        Program::Unknown => None,
    });
    [
        status.name.clone(),
        state,
        or_dash(Some(status.unit_file_state.clone()).filter(|state| !state.is_empty())),
        or_dash(status.active_for(now).map(span)),
        or_dash(status.main_pid.map(|pid| pid.to_string())),
        or_dash(
            status
                .memory_bytes
                .map(|bytes| bytesize::ByteSize::b(bytes).display().iec().to_string()),
        ),
        or_dash(status.restarts.map(|count| count.to_string())),
        or_dash(runs),
        or_dash(status.status_text.clone()),
    ]
}

/// Ports, nodes and executors.
fn surroundings(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    for port in &report.ports {
        let answers = if port.answers {
            "answers"
        } else {
            "does not answer"
        };
        lines.push(format!("Port {} {}: {answers}", port.name, port.address));
    }
    for node in &report.nodes {
        let mut words = vec![node.state.clone()];
        words.extend(node.cordoned.then(|| "cordoned".to_owned()));
        words.extend(node.draining.then(|| "draining".to_owned()));
        let executors = match node.executors {
            1 => "1 executor".to_owned(),
            count => format!("{count} executors"),
        };
        lines.push(format!("Node {}: {}, {executors}", node.name, words.join(", ")));
    }
    if let Some(units) = report.executor_units.filter(|units| *units > 0) {
        lines.push(format!("Units of executors, with those that stand by: {units}"));
    }
    lines
}

fn error(unit: &UnitReport, now: SystemTime) -> Option<String> {
    let error = unit.last_error.as_ref()?;
    let time = SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(error.time_us).ok()?);
    let ago = now.duration_since(time).unwrap_or_default();
    let first = error.message.lines().next().unwrap_or_default();
    let text: String = first.chars().take(ERROR_CHARS).collect();
    let name = unit.status.name.trim_end_matches(".service");
    Some(format!("Last error of {name}, {} ago: {text}", span(ago)))
}

/// A span of time in its two largest units.
pub(crate) fn span(time: Duration) -> String {
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
}
