//! Room on the disk, and the directories that services write to.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::doctor::check::{Check, Look, Mode, Severity, When, good, wrong};
use crate::doctor::facts::FileSystem;
use crate::doctor::site::Site;
use crate::failure::{Failure, Kind, Outcome};
use crate::node_config;
use crate::profile::Profile::{ControlPlane, Worker};
use crate::work_directories;

/// A release, and a state that grows while the first sessions run.
const FREE_TO_INSTALL: u64 = 256 << 20;
/// Below it, a commit of some large tasks may fail.
const FREE_TO_RUN: u64 = 64 << 20;
/// Below it, it is time to do something.
const FREE_FOR_LONG: u64 = 1 << 30;
/// A release and the directories of some sessions.
const LEAST_FILES: u64 = 1_000;

/// What the services write to, with the permissions that nobody may have there.
const WRITTEN: [(&str, u32); 3] = [("data", 0o077), ("work", 0o027), ("logs", 0o027)];

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "disk-space",
        title: "there is room for programs, state and work",
        severity: Severity::Error,
        when: &[],
        preflight: Some(Kind::Installation),
        look: space,
    },
    Check {
        id: "disk-low",
        title: "there will be room for a while",
        severity: Severity::Warning,
        when: &[When::Service],
        preflight: Some(Kind::Installation),
        look: low,
    },
    Check {
        id: "inodes",
        title: "there is room for more files",
        severity: Severity::Error,
        when: &[],
        preflight: Some(Kind::Installation),
        look: inodes,
    },
    Check {
        id: "mount-options",
        title: "the prefix can be written to, and programs there can be run",
        severity: Severity::Error,
        when: &[],
        preflight: Some(Kind::Installation),
        look: mount_options,
    },
    Check {
        id: "directories",
        title: "the services can use data, work and logs, and nobody else can",
        severity: Severity::Error,
        when: &[When::Installed, When::Service],
        preflight: None,
        look: directories,
    },
    Check {
        id: "work-directories",
        title: "executors can use the directories of runtime.work_directories",
        severity: Severity::Warning,
        when: &[When::Installed, When::System, When::Has(Worker)],
        preflight: None,
        look: works,
    },
];

/// What is written to, each file system once, named by the first path on it.
fn file_systems(site: &Site<'_>) -> Outcome<Vec<(PathBuf, FileSystem)>> {
    let mut paths = vec![site.prefix.path().to_path_buf()];
    if site.is(When::Service) {
        paths.extend(WRITTEN.map(|(below, _)| site.prefix.join(below)));
    }
    if site.has(ControlPlane) {
        paths.extend(
            site.state_file()
                .and_then(|file| file.parent().map(Path::to_path_buf)),
        );
    }
    let mut found: Vec<(PathBuf, FileSystem)> = Vec::new();
    for path in paths {
        let file_system = site.facts().file_system(&path)?;
        if !found.iter().any(|(_, known)| known.id == file_system.id) {
            found.push((path, file_system));
        }
    }
    Ok(found)
}

fn free(found: &(PathBuf, FileSystem)) -> String {
    let size = bytesize::ByteSize::b(found.1.free_bytes)
        .display()
        .iec()
        .to_string();
    format!("{size} free in {}", found.0.display())
}

fn list(all: &[&(PathBuf, FileSystem)], words: fn(&(PathBuf, FileSystem)) -> String) -> String {
    all.iter()
        .map(|found| words(found))
        .collect::<Vec<_>>()
        .join(", ")
}

/// What must be free there; programs are made on the file system of the prefix.
fn needed(site: &Site<'_>, path: &Path) -> u64 {
    match site.manifest {
        Some(_) if path == site.prefix.path() => FREE_TO_RUN + site.growth,
        Some(_) => FREE_TO_RUN,
        None => FREE_TO_INSTALL,
    }
}

fn space(site: &Site<'_>) -> Look {
    let all = file_systems(site)?;
    let lacks = |(path, found): &&(PathBuf, FileSystem)| found.free_bytes < needed(site, path);
    let full: Vec<_> = all.iter().filter(lacks).collect();
    let least = full
        .iter()
        .map(|(path, _)| needed(site, path))
        .max()
        .unwrap_or_default();
    match full.is_empty() {
        true => good(list(&all.iter().collect::<Vec<_>>(), free)),
        false => wrong(
            list(&full, free),
            format!(
                "make room for {} there, or choose another --prefix",
                bytesize::ByteSize::b(least).display().iec()
            ),
        ),
    }
}

fn low(site: &Site<'_>) -> Look {
    let all = file_systems(site)?;
    // What is full already is told by the check of that.
    let is_low = |(path, found): &&(PathBuf, FileSystem)| {
        (needed(site, path)..FREE_FOR_LONG).contains(&found.free_bytes)
    };
    let low: Vec<_> = all.iter().filter(is_low).collect();
    match low.is_empty() {
        true => good(list(&all.iter().collect::<Vec<_>>(), free)),
        false => wrong(
            list(&low, free),
            "make room, or lower cluster.retention.max_size so that closed sessions are removed earlier",
        ),
    }
}

fn inodes(site: &Site<'_>) -> Look {
    let all = file_systems(site)?;
    let words = |(path, found): &(PathBuf, FileSystem)| match found.free_files {
        Some(files) => format!("{files} more files in {}", path.display()),
        None => format!("no limit in {}", path.display()),
    };
    let is_full = |found: &FileSystem| found.free_files.is_some_and(|files| files < LEAST_FILES);
    let full: Vec<_> = all.iter().filter(|(_, found)| is_full(found)).collect();
    match full.is_empty() {
        true => good(list(&all.iter().collect::<Vec<_>>(), words)),
        false => wrong(
            list(&full, words),
            format!("remove small files there (df -i; du --inodes -x); {LEAST_FILES} must be free"),
        ),
    }
}

fn mount_options(site: &Site<'_>) -> Look {
    let prefix = site.prefix.path().display();
    let programs = site.facts().file_system(&site.prefix.bin())?;
    let mut problems = Vec::new();
    if programs.no_programs {
        problems.push(format!("{prefix} is mounted with noexec"));
    }
    for (path, _) in file_systems(site)?.iter().filter(|(_, found)| found.read_only) {
        problems.push(format!("{} is mounted read-only", path.display()));
    }
    match problems.is_empty() {
        true => good(format!(
            "programs in {prefix} can be run, and what services need can be written"
        )),
        false => wrong(
            problems.join(", "),
            "mount -o remount,rw,exec it (and in /etc/fstab), or choose another --prefix",
        ),
    }
}

fn directories(site: &Site<'_>) -> Look {
    let user = match &site.installed()?.user {
        Some(user) if site.mode == Mode::System => site.host.user(&user.name)?.map(|ids| (&user.name, ids)),
        _ => None,
    };
    let mut problems = Vec::new();
    let mut remedies = Vec::new();
    for (below, forbidden) in WRITTEN {
        let path = site.prefix.join(below);
        let shown = path.display();
        let found = match path.symlink_metadata() {
            Ok(found) if found.is_dir() => found,
            Ok(_) => {
                problems.push(format!("{shown} is no directory"));
                remedies.push(format!("mv {shown} {shown}.old"));
                continue;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                problems.push(format!("{shown} is missing"));
                remedies.push("flmadm install again makes it".to_owned());
                continue;
            }
            Err(error) => return Err(Failure::path("look at", &path, error)),
        };
        if found.mode() & forbidden != 0 {
            problems.push(format!("{shown} has the mode {:04o}", found.mode() & 0o7777));
            remedies.push(format!("chmod {:04o} {shown}", 0o777 & !forbidden));
        }
        match &user {
            Some((name, ids)) if found.uid() != ids.uid => {
                problems.push(format!(
                    "{shown} belongs to user {} and not to {name}",
                    found.uid()
                ));
                remedies.push(format!("chown -R {name}: {shown}"));
            }
            Some(_) => {}
            None if rustix::fs::access(&path, rustix::fs::Access::WRITE_OK).is_err() => {
                problems.push(format!("you may not write to {shown}"));
                remedies.push(format!("run Flame as the user {}, who owns it", found.uid()));
            }
            None => {}
        }
    }
    match problems.is_empty() {
        true => good("data, work and logs are there, with the right owner and mode"),
        false => wrong(problems.join(", "), remedies.join(" && ")),
    }
}

fn works(site: &Site<'_>) -> Look {
    let agents = node_config::read(site.prefix)?;
    let listed = match work_directories::checked(site.prefix, &agents) {
        Ok(listed) => listed,
        Err(failure) => {
            return wrong(
                failure.chain(),
                "list directories of their own, and run flmadm install again",
            );
        }
    };
    let problems = work_directories::left_to_do(site.host, &site.installed()?.names(), &listed)?;
    match problems.is_empty() {
        true if listed.is_empty() => good("none is listed"),
        true => good(format!("{} of {} can be used", listed.len(), listed.len())),
        false => wrong(
            problems.join("; "),
            "make them, for the group flame-work with the mode 2770",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::testing::{Found, Machine, expect, expect_facts, expect_of};
    use super::*;
    use crate::host::Host;

    #[test]
    fn free_bytes_and_files_are_compared() {
        for (bytes, space, low) in [
            (2 << 30, Found::Good, Found::Good),
            (FREE_FOR_LONG, Found::Good, Found::Good),
            (FREE_FOR_LONG - 1, Found::Good, Found::Wrong("MiB free")),
            (FREE_TO_RUN, Found::Good, Found::Wrong("64.0 MiB free")),
            (FREE_TO_RUN - 1, Found::Wrong("MiB free in"), Found::Good),
        ] {
            expect_facts("disk-space", &space, |facts| facts.file_system.free_bytes = bytes);
            expect_facts("disk-low", &low, |facts| facts.file_system.free_bytes = bytes);
        }
        let mut machine = Machine::bare();
        machine.facts().file_system.free_bytes = FREE_TO_INSTALL - 1;
        expect_of(&machine, "disk-space", &Found::Wrong("MiB free in"));
        for (files, expected) in [
            (None, Found::Good),
            (Some(LEAST_FILES), Found::Good),
            (Some(LEAST_FILES - 1), Found::Wrong("999 more files")),
        ] {
            expect_facts("inodes", &expected, |facts| facts.file_system.free_files = files);
        }
    }

    #[test]
    fn a_file_system_of_its_own_counts() {
        let mounted = |machine: &mut Machine, below: &str, change: fn(&mut FileSystem)| {
            let mut other = FileSystem {
                id: 2,
                ..machine.facts().file_system
            };
            change(&mut other);
            let path = machine.prefix.join(below);
            machine.facts().mounted.insert(path, other);
        };
        expect("disk-space", &Found::Wrong("opt/flame/data"), |machine| {
            mounted(machine, "data", |other| other.free_bytes = 0);
        });
        expect(
            "mount-options",
            &Found::Wrong("data is mounted read-only"),
            |machine| {
                mounted(machine, "data", |other| other.read_only = true);
            },
        );
        expect("mount-options", &Found::Wrong("noexec"), |machine| {
            mounted(machine, "", |other| other.no_programs = true);
        });
        expect("mount-options", &Found::Good, |machine| {
            mounted(machine, "logs", |other| other.no_programs = true)
        });
        expect_facts("mount-options", &Found::Good, |_| {});
        for id in ["disk-space", "disk-low", "inodes", "mount-options"] {
            expect(id, &Found::Unknown("cannot read"), |machine| {
                let path = machine.prefix.path().to_path_buf();
                machine.facts().closed.extend([path.join("bin"), path]);
            });
        }
    }

    /// A machine whose user of services is the one of the test.
    fn owned() -> Machine {
        let mut machine = Machine::new();
        machine.host.uid = machine.prefix.join("data").metadata().expect("there").uid();
        machine
    }

    #[test]
    fn directories_belong_to_the_services_alone() {
        expect_of(&owned(), "directories", &Found::Good);
        let mut machine = owned();
        machine.host.uid += 1;
        expect_of(&machine, "directories", &Found::Wrong("belongs to user"));
        let data = owned();
        let path = data.prefix.join("data");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("set");
        expect_of(&data, "directories", &Found::Wrong("has the mode 0755"));
        std::fs::remove_dir(&path).expect("removed");
        expect_of(&data, "directories", &Found::Wrong("data is missing"));
        std::fs::write(&path, "").expect("written");
        expect_of(&data, "directories", &Found::Wrong("no directory"));
        expect_of(&Machine::with("--all --no-systemd"), "directories", &Found::Good);
        expect_of(
            &Machine::bare(),
            "directories",
            &Found::Unknown("nothing is installed"),
        );
    }

    #[test]
    fn work_directories_are_there_for_the_group() {
        expect_facts("work-directories", &Found::Good, |_| {});
        let set = |machine: &mut Machine, list: &str| {
            let text = format!("[runtime]\nwork_directories = [{list}]\n");
            std::fs::write(machine.prefix.join("conf/node-agent.toml"), text).expect("written");
        };
        expect("work-directories", &Found::Wrong("not there yet"), |machine| {
            set(machine, "\"/srv/flame-nowhere\"")
        });
        expect(
            "work-directories",
            &Found::Wrong("belongs to the system"),
            |machine| set(machine, "\"/etc\""),
        );
        expect("work-directories", &Found::Unknown("settings"), |machine| {
            set(machine, "1")
        });
        let group = Machine::new().host.group("flame-work").expect("looked");
        assert!(group.is_some());
    }
}
