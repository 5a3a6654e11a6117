//! What interrupted or removed installations have left, and what of this one is gone.

use std::path::{Path, PathBuf};

use crate::doctor::check::{Check, Look, Severity, When, good, wrong};
use crate::doctor::site::Site;
use crate::failure::{Failure, Outcome};
use crate::install::all_accounts;
use crate::transaction::{self, Interrupted, Place};
use crate::unit_files::{self, Owner};

/// How files begin that are written before they are given their name.
const DRAFT: &str = ".flame-";
/// Where such files may be left, below the prefix.
const WRITTEN: [&str; 4] = ["", "bin", "sbin", "conf"];

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "interrupted",
        title: "no change of the installation was interrupted",
        severity: Severity::Error,
        when: &[],
        preflight: None,
        look: interrupted,
    },
    Check {
        id: "leftovers",
        title: "there are no remains of other installations",
        severity: Severity::Warning,
        when: &[],
        preflight: None,
        look: leftovers,
    },
    Check {
        id: "accounts",
        title: "the users and groups of the installation are there",
        severity: Severity::Error,
        when: &[When::Installed, When::System, When::Service],
        preflight: None,
        look: accounts,
    },
];

/// What is in a directory; nothing if there is none.
fn names(directory: &Path) -> Outcome<Vec<PathBuf>> {
    let failed = |error| Failure::path("read", directory, error);
    let entries = match directory.read_dir() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut found = entries
        .map(|entry| entry.map(|entry| entry.path()).map_err(failed))
        .collect::<Outcome<Vec<_>>>()?;
    found.sort();
    Ok(found)
}

fn begins(path: &Path, start: &str) -> bool {
    path.file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(start.as_bytes()))
}

fn shown(paths: &[PathBuf]) -> String {
    paths
        .iter()
        .map(|path| path.display().to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

fn interrupted(site: &Site<'_>) -> Look {
    let Some(place) = Place::left(site.prefix) else {
        return good("no journal of a change is there");
    };
    if transaction::is_at_work(site.host, site.prefix) {
        return good("a change is being made at this moment");
    }
    let what = match Interrupted::find(site.prefix, false) {
        Ok(Some(interrupted)) => interrupted.describe(),
        // Without a journal nothing was begun; one of root's, or of another version, cannot be read.
        Ok(None) | Err(_) => "a change was not finished".to_owned(),
    };
    wrong(
        format!("{what} ({})", place.path().display()),
        "flmadm repair finishes it, or takes it back",
    )
}

fn leftovers(site: &Site<'_>) -> Look {
    let mut drafts = Vec::new();
    for below in WRITTEN {
        drafts.extend(names(&site.prefix.join(below))?);
    }
    drafts.extend(names(site.host.unit_directory())?);
    drafts.retain(|path| begins(path, DRAFT) && path.is_file());
    let mut units = Vec::new();
    for path in names(site.host.unit_directory())? {
        if path.is_file() && is_orphan(site, &path)? {
            units.push(path);
        }
    }
    let mut problems = Vec::new();
    if !drafts.is_empty() {
        problems.push(format!("unfinished files {}", shown(&drafts)));
    }
    if !units.is_empty() {
        problems.push(format!("units without an installation {}", shown(&units)));
    }
    drafts.extend(units);
    match problems.is_empty() {
        true => good("no unfinished files, and no units without an installation"),
        false => wrong(
            problems.join("; "),
            format!(
                "stop these units, rm {}, {} daemon-reload",
                shown(&drafts).replace(',', ""),
                site.host.scope().systemctl()
            ),
        ),
    }
}

/// Whether the unit file is of an installation that is not there, or not any more.
fn is_orphan(site: &Site<'_>, path: &Path) -> Outcome<bool> {
    let Owner::Prefix(owner) = unit_files::owner(path)? else {
        return Ok(false);
    };
    if owner != site.prefix.path() {
        return Ok(!owner.join("manifest.toml").exists());
    }
    let name = path.file_name().unwrap_or_default();
    Ok(!site
        .manifest
        .is_some_and(|manifest| manifest.units.iter().any(|unit| name == unit.as_str())))
}

fn accounts(site: &Site<'_>) -> Look {
    let mut missing = Vec::new();
    let all = all_accounts(&site.installed()?.names());
    for account in &all {
        if account.look_up(site.host)?.is_none() {
            missing.push(account.to_string());
        }
    }
    match missing.is_empty() {
        true => good(all.map(|account| account.to_string()).join(", ")),
        false => wrong(
            format!(
                "{} missing: units of it end with 217/USER or 216/GROUP",
                missing.join(", ")
            ),
            "flmadm install again makes them",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Found, Machine, expect, expect_facts, expect_of};
    use crate::host::{Account, Host};
    use crate::transaction::{Patience, Place, Transaction, lock};

    #[test]
    fn a_journal_that_is_left_is_an_interrupted_change() {
        expect_facts("interrupted", &Found::Good, |_| {});
        let begin = |machine: &Machine, made: &dyn Fn(&std::path::Path) -> bool| {
            let place = Place::of(&machine.prefix, made);
            drop(Transaction::begin(&machine.host, place, "upgrade", &machine.prefix).expect("begun"));
        };
        let words = Found::Wrong("the upgrade by flmadm");
        expect("interrupted", &words, |machine| begin(machine, &|_| false));
        expect("interrupted", &words, |machine| begin(machine, &|_| true));
        expect(
            "interrupted",
            &Found::Wrong("a change was not finished"),
            |machine| Place::of(&machine.prefix, &|_| false).make().expect("made"),
        );
        expect("interrupted", &Found::Good, |machine| {
            std::fs::create_dir(machine.host.path("opt/.flmadm-of-another")).expect("made");
        });
        let bare = Machine::bare();
        expect_of(&bare, "interrupted", &Found::Good);
        begin(&bare, &|_| false);
        let locks = lock(&bare.host, &bare.prefix, false, Patience::None).expect("free");
        expect_of(&bare, "interrupted", &Found::Good);
        drop(locks);
        expect_of(&bare, "interrupted", &words);
    }

    #[test]
    fn remains_are_told_from_what_is_in_use() {
        let id = "leftovers";
        expect_facts(id, &Found::Good, |_| {});
        expect(id, &Found::Wrong("unfinished files"), |machine| {
            std::fs::write(machine.prefix.join("bin/.flame-x1"), "").expect("written");
        });
        let unit = |machine: &Machine, name: &str, prefix: &str| {
            let text = format!("[Unit]\n[X-Flame]\nPrefix={prefix}\n");
            std::fs::write(machine.host.unit_directory().join(name), text).expect("written");
        };
        expect(id, &Found::Wrong("flame-old.service"), |machine| {
            unit(machine, "flame-old.service", "/opt/gone")
        });
        expect(id, &Found::Wrong("flame-cache.service"), |machine| {
            unit(machine, "flame-cache.service", &machine.prefix.text());
        });
        expect(id, &Found::Good, |machine| {
            let other = machine.host.path("opt/other");
            std::fs::create_dir(&other).expect("made");
            std::fs::write(other.join("manifest.toml"), "").expect("written");
            unit(machine, "flame-other.service", &other.display().to_string());
            std::fs::write(machine.host.unit_directory().join("ssh.service"), "[Unit]\n").expect("written");
        });
        let bare = Machine::bare();
        expect_of(&bare, id, &Found::Good);
        unit(&bare, "flame.target", &bare.prefix.text());
        expect_of(&bare, id, &Found::Wrong("flame.target"));
        std::fs::remove_dir_all(bare.host.unit_directory()).expect("removed");
        std::fs::write(bare.host.unit_directory(), "").expect("written");
        expect_of(&bare, id, &Found::Unknown("cannot read"));
    }

    #[test]
    fn a_user_that_is_gone_is_missed() {
        expect_facts("accounts", &Found::Good, |_| {});
        for (account, words) in [
            (Account::User("flame-exec".to_owned()), "user flame-exec missing"),
            (
                Account::Group("flame-work".to_owned()),
                "group flame-work missing",
            ),
        ] {
            let mut machine = Machine::new();
            machine.host.remove_account(&account).expect("removed");
            machine.facts().bus = true;
            let found = machine.look("accounts").expect("looked").expect_err("missing");
            assert!(found.evidence.starts_with(words), "{found:?}");
        }
    }
}
