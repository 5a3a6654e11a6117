//! Whether what was installed is still as it was installed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::doctor::check::{Check, Look, Severity, When, good, wrong};
use crate::doctor::site::Site;
use crate::failure::{Failure, Outcome};
use crate::manifest::FileKind;
use crate::verify::{self, Finding, Kind};

/// Names that are listed; of more, the number is told.
const LISTED: usize = 5;

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "file-drift",
        title: "programs and links are as they were installed",
        severity: Severity::Error,
        when: &[When::Installed],
        preflight: None,
        look: files,
    },
    Check {
        id: "unit-drift",
        title: "unit files and the rule of polkit are as they were installed",
        severity: Severity::Error,
        when: &[When::Installed, When::Units],
        preflight: None,
        look: units,
    },
    Check {
        id: "units-read",
        title: "systemd has read the unit files as they are",
        severity: Severity::Warning,
        when: &[When::Installed, When::Units, When::Service],
        preflight: None,
        look: read,
    },
    Check {
        id: "drop-ins",
        title: "no administrator has changed units by drop-ins",
        severity: Severity::Info,
        when: &[When::Installed, When::Units, When::Service],
        preflight: None,
        look: drop_ins,
    },
];

fn files(site: &Site<'_>) -> Look {
    look_at(site, |kind| !is_unit(kind))
}

fn units(site: &Site<'_>) -> Look {
    look_at(site, is_unit)
}

fn is_unit(kind: FileKind) -> bool {
    matches!(kind, FileKind::Unit | FileKind::Rule | FileKind::DropIn)
}

fn look_at(site: &Site<'_>, wanted: fn(FileKind) -> bool) -> Look {
    let (count, findings) = verify::files(site.host, site.prefix, site.installed()?, wanted)?;
    let drift = findings.iter().filter(|finding| finding.kind.is_drift());
    let problems: Vec<String> = drift.map(words).collect();
    if !problems.is_empty() {
        return wrong(
            listed(&problems),
            format!(
                "flmadm install again writes them; for changes of your own to units, use {} edit UNIT",
                site.host.scope().systemctl()
            ),
        );
    }
    match findings.iter().find(|finding| finding.kind == Kind::Unreadable) {
        Some(hidden) => {
            Err(Failure::installation(format!("cannot read {}", hidden.what))
                .because(hidden.difference.clone()))
        }
        None => good(format!("{count} files as in the manifest")),
    }
}

fn listed(all: &[String]) -> String {
    let mut text = all.iter().take(LISTED).cloned().collect::<Vec<_>>().join(", ");
    if all.len() > LISTED {
        text.push_str(&format!(" and {} more", all.len() - LISTED));
    }
    text
}

fn words(finding: &Finding) -> String {
    let how = match finding.kind {
        Kind::Missing => " is missing",
        Kind::Changed => " was changed",
        _ => return format!("{}: {}", finding.what, finding.difference),
    };
    format!("{}{how}", finding.what)
}

fn read(site: &Site<'_>) -> Look {
    let systemd = site.systemd()?;
    let mut stale = Vec::new();
    for unit in site.installed()?.loadable() {
        if systemd.status(unit)?.needs_reload {
            stale.push(unit);
        }
    }
    match stale.is_empty() {
        true => good("it knows all of them"),
        false => wrong(
            format!(
                "files of {} were changed since systemd read them",
                stale.join(", ")
            ),
            format!("{} daemon-reload", site.host.scope().systemctl()),
        ),
    }
}

fn drop_ins(site: &Site<'_>) -> Look {
    let (manifest, systemd) = (site.installed()?, site.systemd()?);
    let mut found: BTreeSet<PathBuf> = BTreeSet::new();
    for unit in manifest.loadable() {
        found.extend(systemd.status(unit)?.drop_ins.into_iter().map(PathBuf::from));
    }
    // systemd does not load templates, so it does not tell.
    for unit in &manifest.units {
        found.extend(confs(&site.host.unit_directory().join(format!("{unit}.d")))?);
    }
    found.retain(|path| !manifest.files.iter().any(|file| file.path == *path));
    let all: Vec<String> = found.iter().map(|path| path.display().to_string()).collect();
    match all.is_empty() {
        true => good("there are none but our own"),
        false => wrong(
            listed(&all),
            format!(
                "{0} cat UNIT shows what they change; {0} revert UNIT removes them",
                site.host.scope().systemctl()
            ),
        ),
    }
}

fn confs(directory: &Path) -> Outcome<Vec<PathBuf>> {
    let failed = |error| Failure::path("read", directory, error);
    let entries = match directory.read_dir() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "conf") {
            found.push(path);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Found, Machine, expect, expect_facts};
    use super::*;

    fn remove(path: PathBuf) {
        std::fs::remove_file(path).expect("removed");
    }

    #[test]
    fn changed_and_missing_files_are_found() {
        for id in ["file-drift", "unit-drift"] {
            expect_facts(id, &Found::Good, |_| {});
        }
        let id = "file-drift";
        expect(id, &Found::Wrong("flmctl was changed"), |machine| {
            std::fs::write(machine.prefix.join("bin/flmctl"), "other").expect("written");
        });
        expect(id, &Found::Wrong("flmctl is missing"), |machine| {
            remove(machine.prefix.join("bin/flmctl"))
        });
        expect(id, &Found::Good, |machine| {
            std::fs::write(
                machine.prefix.config(),
                "cluster:\n  name: a\n  endpoint: http://a\n",
            )
            .expect("written");
        });
        expect(id, &Found::Wrong("flame-cluster.yaml is missing"), |machine| {
            remove(machine.prefix.config())
        });
        expect(id, &Found::Wrong("flmctl was changed"), |machine| {
            remove(machine.prefix.join("bin/flmctl"));
            std::fs::create_dir(machine.prefix.join("bin/flmctl")).expect("made");
        });
        expect(id, &Found::Wrong("flmctl: it is 0777, and was 0755"), |machine| {
            let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
            std::fs::set_permissions(machine.prefix.join("bin/flmctl"), everybody).expect("set");
        });
        // Links in a circle lead nowhere, also for root.
        expect(id, &Found::Unknown("cannot read"), |machine| {
            let conf = machine.prefix.join("conf");
            std::fs::remove_dir_all(&conf).expect("removed");
            std::os::unix::fs::symlink(&conf, &conf).expect("linked");
        });
        let id = "unit-drift";
        let unit = |machine: &Machine| {
            machine
                .host
                .path("etc/systemd/system/flame-session-manager.service")
        };
        expect(
            id,
            &Found::Wrong("flame-session-manager.service was changed"),
            |machine| {
                std::fs::write(unit(machine), "[Unit]\n").expect("written");
            },
        );
        expect(
            id,
            &Found::Wrong("flame-session-manager.service is missing"),
            |machine| remove(unit(machine)),
        );
        expect(id, &Found::Wrong("50-flame.rules is missing"), |machine| {
            remove(machine.host.path("etc/polkit-1/rules.d/50-flame.rules"));
        });
    }

    #[test]
    fn a_link_is_compared_by_where_it_leads() {
        let links = |machine: &Machine| -> Vec<PathBuf> {
            let files = machine.manifest().expect("installed").files;
            let links = files.into_iter().filter(|file| file.kind == FileKind::Link);
            links.map(|file| file.path).collect()
        };
        expect("file-drift", &Found::Wrong("was changed"), |machine| {
            let link = links(machine).pop().expect("a link");
            std::fs::remove_file(&link).expect("removed");
            std::os::unix::fs::symlink("/elsewhere", &link).expect("linked");
        });
        expect("file-drift", &Found::Wrong("is missing"), |machine| {
            std::fs::remove_file(links(machine).pop().expect("a link")).expect("removed");
        });
    }

    #[test]
    fn units_that_systemd_has_not_read_again() {
        expect_facts("units-read", &Found::Good, |_| {});
        expect("units-read", &Found::Wrong("files of flame.target"), |machine| {
            let sight = &mut machine.host.sight;
            sight.change("flame.target", |status| status.needs_reload = true);
        });
        expect("units-read", &Found::Unknown("D-Bus"), |machine| {
            machine.host.has_bus = false
        });
    }

    #[test]
    fn drop_ins_of_others_are_told() {
        expect_facts("drop-ins", &Found::Good, |_| {});
        expect("drop-ins", &Found::Wrong("service.d/10-all.conf"), |machine| {
            machine.host.sight.change("flame-node-agent.service", |status| {
                status.drop_ins = vec!["/etc/systemd/system/service.d/10-all.conf".to_owned()];
            });
        });
        expect(
            "drop-ins",
            &Found::Wrong("flame-executor@.service.d/mine.conf"),
            |machine| {
                let directory = machine.host.path("etc/systemd/system/flame-executor@.service.d");
                std::fs::create_dir_all(&directory).expect("made");
                std::fs::write(directory.join("mine.conf"), "").expect("written");
                std::fs::write(directory.join("mine.txt"), "").expect("written");
            },
        );
        expect("drop-ins", &Found::Unknown("D-Bus"), |machine| {
            machine.host.has_bus = false
        });
    }
}
