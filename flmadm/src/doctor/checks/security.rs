//! What else may forbid programs to run: SELinux and AppArmor.

use std::path::Path;

use crate::doctor::check::{Check, Look, Severity, When, good, wrong};
use crate::doctor::site::Site;

const ENFORCE: &str = "/sys/fs/selinux/enforce";
const PROFILES: &str = "/sys/kernel/security/apparmor/profiles";

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "selinux",
        title: "SELinux lets systemd run the programs",
        severity: Severity::Error,
        when: &[When::Installed, When::System, When::Service],
        preflight: None,
        look: selinux,
    },
    Check {
        id: "apparmor",
        title: "no profile of AppArmor is in the way",
        severity: Severity::Warning,
        when: &[When::Installed],
        preflight: None,
        look: apparmor,
    },
];

fn selinux(site: &Site<'_>) -> Look {
    match site.facts().text(Path::new(ENFORCE))?.as_deref() {
        None => return good("it is not there"),
        Some("1") => {}
        Some(_) => return good("it is permissive"),
    }
    let mut bad = Vec::new();
    for program in site.profiles.iter().flat_map(|profile| profile.programs()) {
        let path = site.prefix.bin().join(program);
        let label = site.facts().label(&path)?.unwrap_or_default();
        // user:role:type:level; systemd may run what has the type of programs.
        let kind = label.split(':').nth(2).unwrap_or("no label");
        if kind != "bin_t" && !kind.ends_with("_exec_t") {
            bad.push(format!("{} has {kind}", path.display()));
        }
    }
    let bin = site.prefix.bin();
    match bad.is_empty() {
        true => good("it is enforcing, and the programs have the type bin_t"),
        false => wrong(
            format!("it is enforcing, and {}", bad.join(", ")),
            format!(
                "semanage fcontext -a -t bin_t '{0}(/.*)?' && restorecon -RF {0}/",
                bin.display()
            ),
        ),
    }
}

fn apparmor(site: &Site<'_>) -> Look {
    let Some(profiles) = site.facts().text(Path::new(PROFILES))? else {
        return good("it is not there");
    };
    let prefix = site.prefix.text();
    let ours: Vec<&str> = profiles
        .lines()
        .filter(|line| line.starts_with(&prefix) && line.ends_with("(enforce)"))
        .collect();
    match ours.is_empty() {
        true => good("no profile is for programs of this installation"),
        false => wrong(
            format!("profiles for programs of this installation: {}", ours.join(", ")),
            "look for DENIED in the kernel's log (journalctl -k); aa-complain PROGRAM lets it work meanwhile",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Found, Machine, expect, expect_facts};
    use super::*;

    fn label(machine: &mut Machine, label: &str) {
        let bin = machine.prefix.bin();
        let programs = crate::profile::ALL.iter().flat_map(|profile| profile.programs());
        machine.facts().labels = programs
            .map(|program| (bin.join(program), label.to_owned()))
            .collect();
    }

    #[test]
    fn labels_count_where_selinux_enforces() {
        for (enforce, kind, expected) in [
            (Some("1"), Some("system_u:object_r:bin_t:s0"), Found::Good),
            (Some("1"), Some("system_u:object_r:flame_exec_t:s0"), Found::Good),
            (
                Some("1"),
                Some("unconfined_u:object_r:default_t:s0"),
                Found::Wrong("flame-node-agent has default_t"),
            ),
            (Some("1"), None, Found::Wrong("no label")),
            (Some("0"), None, Found::Good),
            (None, None, Found::Good),
        ] {
            expect("selinux", &expected, |machine| {
                if let Some(enforce) = enforce {
                    machine.facts().say(ENFORCE, enforce);
                }
                if let Some(kind) = kind {
                    label(machine, kind);
                }
            });
        }
        expect_facts("selinux", &Found::Unknown("cannot read"), |facts| {
            facts.closed.insert(ENFORCE.into());
        });
    }

    #[test]
    fn profiles_for_our_programs_are_told() {
        for (of_prefix, mode, expected) in [
            (true, "enforce", Found::Wrong("bin/flame-node-agent (enforce)")),
            (true, "complain", Found::Good),
            (false, "enforce", Found::Good),
        ] {
            expect("apparmor", &expected, |machine| {
                let prefix = if of_prefix {
                    machine.prefix.text()
                } else {
                    "/usr/bin/man".to_owned()
                };
                let text = format!("lsb_release (enforce)\n{prefix}/bin/flame-node-agent ({mode})");
                machine.facts().say(PROFILES, &text);
            });
        }
        expect_facts("apparmor", &Found::Good, |_| {});
        expect_facts("apparmor", &Found::Unknown("cannot read"), |facts| {
            facts.closed.insert(PROFILES.into());
        });
    }
}
