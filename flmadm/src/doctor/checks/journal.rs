//! Whether logs are kept, and for how long.

use std::path::{Path, PathBuf};

use crate::doctor::check::{Check, Look, Severity, When, good, wrong};
use crate::doctor::site::Site;
use crate::failure::Outcome;

const MAIN: &str = "/etc/systemd/journald.conf";
/// Later ones win; of the same name, the last.
const DROP_INS: [&str; 3] = [
    "/usr/lib/systemd/journald.conf.d",
    "/run/systemd/journald.conf.d",
    "/etc/systemd/journald.conf.d",
];
const PERSISTENT: &str = "/var/log/journal";
/// What a busy session manager and a few executors write in a day.
const LEAST_SIZE: u64 = 64 << 20;

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "journal-storage",
        title: "logs outlive a boot",
        severity: Severity::Info,
        when: &[When::Units, When::Service],
        preflight: None,
        look: storage,
    },
    Check {
        id: "journal-size",
        title: "logs are kept for a while",
        severity: Severity::Info,
        when: &[When::System, When::Service],
        preflight: None,
        look: size,
    },
];

/// What journald's settings say of `key`.
fn setting(site: &Site<'_>, key: &str) -> Outcome<Option<String>> {
    let facts = site.facts();
    let mut files = vec![PathBuf::from(MAIN)];
    let mut drop_ins = Vec::new();
    for directory in DROP_INS {
        for path in facts.entries(Path::new(directory))? {
            drop_ins.retain(|known: &PathBuf| known.file_name() != path.file_name());
            drop_ins.push(path);
        }
    }
    drop_ins.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
    files.extend(drop_ins);
    let mut said = None;
    for path in files {
        let text = facts.text(&path)?.unwrap_or_default();
        let mut values = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix(key)?.trim_start().strip_prefix('='));
        said = values.next_back().map(|value| value.trim().to_owned()).or(said);
    }
    Ok(said.filter(|value| !value.is_empty()))
}

fn storage(site: &Site<'_>) -> Look {
    let said = setting(site, "Storage")?.unwrap_or_else(|| "auto".to_owned());
    let is_there = !site.facts().entries(Path::new(PERSISTENT))?.is_empty();
    match said.as_str() {
        "none" => wrong(
            "Storage=none: nothing is kept",
            "set Storage=persistent in /etc/systemd/journald.conf.d/flame.conf",
        ),
        "volatile" => wrong(
            "Storage=volatile: logs are gone after a boot",
            "set Storage=persistent in /etc/systemd/journald.conf.d/flame.conf",
        ),
        "auto" if !is_there => wrong(
            format!("there is no {PERSISTENT}: logs are gone after a boot"),
            format!("mkdir -p {PERSISTENT} && systemctl restart systemd-journald"),
        ),
        _ => good(format!("Storage={said}")),
    }
}

fn size(site: &Site<'_>) -> Look {
    let mut low = Vec::new();
    for key in ["SystemMaxUse", "RuntimeMaxUse"] {
        if let Some(value) = setting(site, key)?
            && let Ok(bytes) = flame_core::size::parse(&value)
            && bytes < LEAST_SIZE
        {
            low.push(format!("{key}={value}"));
        }
    }
    match low.is_empty() {
        true => good("no small limit is set"),
        false => wrong(
            format!("{}: logs of a busy day do not fit", low.join(", ")),
            "raise it in /etc/systemd/journald.conf.d/flame.conf, and systemctl restart systemd-journald",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Found, Machine, expect, expect_facts};
    use super::*;

    fn persistent(machine: &mut Machine) {
        machine.facts().say("/var/log/journal/0123/system.journal", "");
    }

    #[test]
    fn logs_are_kept_if_there_is_a_place() {
        let id = "journal-storage";
        expect_facts(id, &Found::Wrong("no /var/log/journal"), |_| {});
        expect(id, &Found::Good, persistent);
        expect_facts(id, &Found::Good, |facts| {
            facts.say(MAIN, "[Journal]\nStorage=persistent")
        });
        expect(id, &Found::Wrong("volatile"), |machine| {
            persistent(machine);
            machine
                .facts()
                .say(MAIN, "[Journal]\n#Storage=auto\nStorage = volatile");
        });
        // The later file wins, and of two with one name that of the administrator.
        expect(id, &Found::Wrong("Storage=none"), |machine| {
            persistent(machine);
            machine.facts().say(MAIN, "Storage=persistent");
            machine
                .facts()
                .say("/usr/lib/systemd/journald.conf.d/20-a.conf", "Storage=volatile");
            machine
                .facts()
                .say("/etc/systemd/journald.conf.d/20-a.conf", "Storage=none");
            machine
                .facts()
                .say("/etc/systemd/journald.conf.d/10-b.conf", "Storage=persistent");
        });
        expect_facts(id, &Found::Unknown("cannot read"), |facts| {
            facts.closed.insert(PERSISTENT.into());
        });
    }

    #[test]
    fn small_limits_are_told() {
        let id = "journal-size";
        expect_facts(id, &Found::Good, |_| {});
        for (text, expected) in [
            ("SystemMaxUse=1G\nRuntimeMaxUse=64M", Found::Good),
            ("SystemMaxUse=", Found::Good),
            ("SystemMaxUse=8M", Found::Wrong("SystemMaxUse=8M")),
            ("RuntimeMaxUse=1048576", Found::Wrong("RuntimeMaxUse=1048576")),
        ] {
            expect_facts(id, &expected, |facts| facts.say(MAIN, text));
        }
        expect_facts(id, &Found::Unknown("cannot read"), |facts| {
            facts.closed.insert(MAIN.into());
        });
    }
}
