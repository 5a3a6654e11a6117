//! What is looked at before an installation is made or changed: the fast checks, within some milliseconds.

use flame_core::config::ClusterConfig;

use super::check::{Check, Mode, Severity};
use super::checks;
use super::known;
use super::site::Site;
use crate::failure::{Failure, Kind, Outcome, chain};
use crate::files;
use crate::host::Host;
use crate::manifest::Manifest;
use crate::prefix::Prefix;
use crate::profile::Profile;

/// What an upgrade does without: services that run hold their ports already, and others are not started.
const NOT_FOR_UPGRADES: [&str; 1] = ["ports"];

/// What is about to be installed.
pub(crate) struct Planned<'a> {
    pub(crate) prefix: &'a Prefix,
    /// What is there already.
    pub(crate) old: Option<&'a Manifest>,
    /// Parts of the installation afterwards.
    pub(crate) profiles: &'a [Profile],
    pub(crate) mode: Mode,
    /// Its configuration afterwards.
    pub(crate) config: ClusterConfig,
}

/// What an upgrade meets; see [`look`].
///
/// # Errors
/// As [`look`]; the configuration cannot be used.
pub(crate) fn of_upgrade(
    host: &dyn Host,
    prefix: &Prefix,
    old: &Manifest,
    ignored: &[String],
) -> Outcome<Vec<String>> {
    let config = ClusterConfig::load(&prefix.config()).map_err(|error| {
        Failure::installation("the configuration is broken")
            .because(chain(&error))
            .hint("services could not start with it: flmadm config check says all that is wrong")
    })?;
    let site = Site::new(host, prefix, Some(old));
    let mode = site.mode;
    let mut site = site.planned(&old.profiles, mode, config);
    // The next release is about as large as this one.
    site.growth = files::size(&prefix.release(&old.release))?;
    look_at(&site, &NOT_FOR_UPGRADES, ignored, "upgrade")
}

/// Looks; gives a line for each warning.
///
/// # Errors
/// There is no check of a name in `ignored`, or a check of severity error found something: all of them are told.
pub(crate) fn look(host: &dyn Host, planned: Planned<'_>, ignored: &[String]) -> Outcome<Vec<String>> {
    let Planned {
        prefix,
        old,
        profiles,
        mode,
        config,
    } = planned;
    let site = Site::new(host, prefix, old).planned(profiles, mode, config);
    look_at(&site, &[], ignored, "install")
}

fn look_at(site: &Site<'_>, without: &[&str], ignored: &[String], verb: &str) -> Outcome<Vec<String>> {
    known(ignored)?;
    let mut notes = Vec::new();
    let mut errors: Vec<(Kind, &'static str, String)> = Vec::new();
    let wanted = |check: &&Check| {
        check.when.iter().all(|when| site.is(*when))
            && !without.contains(&check.id)
            && !ignored.iter().any(|id| id == check.id)
    };
    for check in checks::all().filter(wanted) {
        let Some(kind) = check.preflight else {
            continue;
        };
        // What could not be looked at may well be good, and what is needed of it will fail with its own words.
        let Ok(Err(wrong)) = (check.look)(site) else {
            continue;
        };
        let line = format!("{}: {} (to mend it: {})", check.id, wrong.evidence, wrong.remedy);
        match check.severity {
            Severity::Error => errors.push((kind, check.id, line)),
            Severity::Warning | Severity::Info => notes.push(line),
        }
    }
    let Some((kind, id, _)) = errors.first() else {
        return Ok(notes);
    };
    let lines: Vec<&str> = errors.iter().map(|(_, _, line)| line.as_str()).collect();
    Err(Failure::new(
        *kind,
        format!("this machine is not ready:\n  {}", lines.join("\n  ")),
    )
    .hint(format!(
        "mend that, or use --ignore-check {id} (repeatable) to {verb} in spite of it"
    )))
}
