//! What was found, as it is printed.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Serialize;

use super::check::{Check, Mode, Severity};
use super::checks;
use super::site::Site;
use crate::profile::Profile;

/// What doctor has found.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Report {
    /// Directory of the installation.
    pub(crate) prefix: PathBuf,
    /// Version of Flame there; null if nothing is installed.
    pub(crate) version: Option<String>,
    /// What this machine does, or, if nothing is installed, could do.
    pub(crate) profiles: Vec<Profile>,
    /// How the services are run.
    pub(crate) mode: Mode,
    /// Whether no check of severity error has failed.
    pub(crate) healthy: bool,
    /// What each check has found, in the order in which they were made.
    pub(crate) checks: Vec<Finding>,
    /// Ids of checks that were left out on demand.
    pub(crate) ignored: Vec<String>,
}

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// Looked, and it is well.
    Ok,
    /// Looked, and it is wrong.
    Failed,
    /// Could not look.
    Unknown,
}

/// What one check has found.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Finding {
    /// Name of the check.
    pub(crate) id: &'static str,
    /// What holds if all is well.
    pub(crate) title: &'static str,
    /// What it means if it does not.
    pub(crate) severity: Severity,
    /// What came of it.
    pub(crate) state: State,
    /// What was found, or why it could not be looked at.
    pub(crate) evidence: String,
    /// What mends it.
    pub(crate) remedy: Option<String>,
}

/// All checks.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct List {
    /// In the order in which they are made.
    pub(crate) checks: Vec<Entry>,
}

/// A check.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Entry {
    /// Name of the check.
    pub(crate) id: &'static str,
    /// What it means if it fails.
    pub(crate) severity: Severity,
    /// Whether install looks with it first.
    pub(crate) preflight: bool,
    /// What holds if all is well.
    pub(crate) title: &'static str,
}

/// What doctor prints: a report, or with --list the checks.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "only its schema is of use: a value is one or the other")]
pub(crate) enum Printed {
    /// What was found.
    Report(Report),
    /// With --list.
    List(List),
}

impl Report {
    /// Looks with those of `checks` that make sense here.
    pub(super) fn of(
        site: &Site<'_>,
        checks: impl Iterator<Item = &'static Check>,
        ignored: &[String],
    ) -> Self {
        let checks: Vec<Finding> = checks
            .filter(|check| check.when.iter().all(|when| site.is(*when)))
            .map(|check| Finding::of(site, check))
            .collect();
        let mut report = Self {
            prefix: site.prefix.path().to_path_buf(),
            version: site.manifest.map(|manifest| manifest.version.clone()),
            profiles: site.profiles.clone(),
            mode: site.mode,
            healthy: true,
            checks,
            ignored: ignored.to_vec(),
        };
        report.healthy = report.errors().is_empty();
        report
    }

    /// What has failed with this severity.
    pub(super) fn failed(&self, severity: Severity) -> impl Iterator<Item = &Finding> {
        let failed = self.checks.iter().filter(|found| found.state == State::Failed);
        failed.filter(move |found| found.severity == severity)
    }

    /// Ids of the checks of severity error that have failed.
    pub(super) fn errors(&self) -> Vec<&'static str> {
        self.failed(Severity::Error).map(|found| found.id).collect()
    }
}

impl Finding {
    fn of(site: &Site<'_>, check: &Check) -> Self {
        let (state, evidence, remedy) = match (check.look)(site) {
            Ok(Ok(evidence)) => (State::Ok, evidence, None),
            Ok(Err(wrong)) => (State::Failed, wrong.evidence, Some(wrong.remedy)),
            Err(failure) => (State::Unknown, failure.chain(), None),
        };
        Self {
            id: check.id,
            title: check.title,
            severity: check.severity,
            state,
            evidence,
            remedy,
        }
    }
}

impl List {
    pub(super) fn new() -> Self {
        let entry = |check: &Check| Entry {
            id: check.id,
            severity: check.severity,
            preflight: check.preflight.is_some(),
            title: check.title,
        };
        Self {
            checks: checks::all().map(entry).collect(),
        }
    }
}
