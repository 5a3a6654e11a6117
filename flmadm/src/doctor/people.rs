//! What was found, for people: by severity, each with the line that mends it.

use comfy_table::{Table, presets};

use super::check::Severity;
use super::report::{Finding, List, Report, State};
use crate::output::Output;

/// What has failed, by what it means.
const GROUPS: [(Severity, &str); 3] = [
    (Severity::Error, "Errors"),
    (Severity::Warning, "Warnings"),
    (Severity::Info, "For information"),
];

/// Prints a report; what is well only if `all` is wanted.
pub(super) fn report(report: &Report, all: bool, output: &mut Output<'_>) {
    let prefix = report.prefix.display();
    let profiles: Vec<&str> = report.profiles.iter().map(|profile| profile.name()).collect();
    output.line(&match &report.version {
        Some(version) => format!("Flame {version} in {prefix}: {}", profiles.join(", ")),
        None => format!(
            "Nothing is installed in {prefix}; this is what {} would meet:",
            profiles.join(", ")
        ),
    });
    for (severity, title) in GROUPS {
        group(title, report.failed(severity), output);
    }
    let unknown = report.checks.iter().filter(|found| found.state == State::Unknown);
    group("Could not look", unknown, output);
    let well = report.checks.iter().filter(|found| found.state == State::Ok);
    if all {
        group("Well", well.clone(), output);
    }
    output.line(&format!("\n{}", summary(report, well.count())));
}

fn group<'a>(title: &str, findings: impl Iterator<Item = &'a Finding>, output: &mut Output<'_>) {
    let mut findings = findings.peekable();
    if findings.peek().is_none() {
        return;
    }
    output.line(&format!("\n{title}"));
    for found in findings {
        output.line(&format!(
            "  {}: {}",
            found.id,
            found.evidence.replace('\n', "\n    ")
        ));
        if let Some(remedy) = &found.remedy {
            output.line(&format!("    to mend it: {remedy}"));
        }
    }
}

fn summary(report: &Report, well: usize) -> String {
    let unknown = report
        .checks
        .iter()
        .filter(|found| found.state == State::Unknown)
        .count();
    let mut parts = vec![format!("{} checks: {well} well", report.checks.len())];
    for (severity, one, more) in [
        (Severity::Error, "error", "errors"),
        (Severity::Warning, "warning", "warnings"),
        (Severity::Info, "for information", "for information"),
    ] {
        match report.failed(severity).count() {
            0 => {}
            1 => parts.push(format!("1 {one}")),
            count => parts.push(format!("{count} {more}")),
        }
    }
    if unknown > 0 {
        parts.push(format!("{unknown} could not be made (root sees more)"));
    }
    if !report.ignored.is_empty() {
        parts.push(format!("ignored: {}", report.ignored.join(" ")));
    }
    parts.join(", ")
}

/// Prints the checks that there are.
pub(super) fn list(list: &List, output: &mut Output<'_>) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["ID", "SEVERITY", "INSTALL", "WHAT IS WELL"]);
    for check in &list.checks {
        let first = if check.preflight { "first" } else { "-" };
        table.add_row([check.id, check.severity.name(), first, check.title]);
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    output.line(&lines.join("\n"));
}
