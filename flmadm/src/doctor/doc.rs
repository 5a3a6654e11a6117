//! docs/doctor.md has a row for each check; a test compares them.

use super::check::{Check, Severity, When};
use super::checks;
use crate::failure::Kind;

const DOC: &str = include_str!("../../../docs/doctor.md");

/// The first three cells of a check's row.
fn row(check: &Check) -> String {
    let first = if check.preflight.is_some() { "yes" } else { "" };
    format!("| `{}` | {} | {first} |", check.id, check.severity.name())
}

#[test]
fn the_document_has_every_check_with_its_severity() {
    let rows: Vec<&str> = DOC.lines().filter(|line| line.starts_with("| `")).collect();
    let all: Vec<&Check> = checks::all().collect();
    for check in &all {
        let start = row(check);
        let found = rows.iter().find(|line| line.starts_with(&start));
        let line = found.unwrap_or_else(|| panic!("docs/doctor.md has no row that begins with {start}"));
        // What, and how to mend it.
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 5, "{line}");
        assert!(cells[3].len() > 10 && cells[4].len() > 5, "{line}");
    }
    assert_eq!(rows.len(), all.len(), "a row of docs/doctor.md is of no check");
}

#[test]
fn checks_are_named_as_others_can_rely_on() {
    let mut ids: Vec<&str> = checks::all().map(|check| check.id).collect();
    for id in &ids {
        assert!(
            id.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'),
            "{id}"
        );
    }
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "two checks have one id");
}

#[test]
fn what_stops_an_installation_does_not_need_one() {
    for check in checks::all().filter(|check| check.preflight.is_some()) {
        assert!(!check.when.contains(&When::Installed), "{}", check.id);
        assert!(
            [Some(Kind::Installation), Some(Kind::Systemd)].contains(&check.preflight),
            "{}",
            check.id
        );
        assert_ne!(check.severity, Severity::Info, "{}", check.id);
    }
}
