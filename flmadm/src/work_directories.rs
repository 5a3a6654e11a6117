//! Directories of `runtime.work_directories`: which of them executors may be let write to, and the drop-in of their
//! templates that does it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use flame_core::HostNames;
use flame_core::fsutil::resolve;

use crate::failure::{Failure, Outcome};
use crate::host::Host;
use crate::node_config::AgentFile;
use crate::prefix::Prefix;
use crate::unit_files;

/// The templates whose system is read-only; the third has no sandbox.
pub(crate) const TEMPLATES: [&str; 2] = ["flame-executor@.service", "flame-executor-strict@.service"];
/// Name of the drop-in.
pub(crate) const DROP_IN: &str = "50-flame-work.conf";
/// The group that every executor has.
pub(crate) const GROUP: &str = "flame-work";

/// Nothing in these is for applications.
const SYSTEM: [&str; 15] = [
    "/bin", "/boot", "/dev", "/efi", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/run", "/sbin",
    "/sys", "/usr", "/var/log",
];
/// Each unit has its own instead of these.
const PRIVATE: [&str; 2] = ["/tmp", "/var/tmp"];
/// What lies directly in these belongs to many, though a directory in them may be one of applications.
const SHARED: [&str; 6] = ["/", "/home", "/var", "/var/lib", "/var/cache", "/var/spool"];
/// Write and search for the group.
const GROUP_MAY: u32 = 0o030;
/// Write and search for everybody.
const ALL_MAY: u32 = 0o003;

/// The directories of all `agents`, sorted, without those that are below another one.
///
/// # Errors
/// One cannot be given to applications: all of these are listed.
pub(crate) fn checked(prefix: &Prefix, agents: &[AgentFile]) -> Outcome<Vec<PathBuf>> {
    let (mut good, mut problems) = (Vec::new(), Vec::new());
    for (path, place) in agents.iter().flat_map(AgentFile::work_directories) {
        match refusal(prefix, path) {
            None => good.push(path.components().collect::<PathBuf>()),
            Some(why) => problems.push(format!("{place}: {} {why}", path.display())),
        }
    }
    if !problems.is_empty() {
        return Err(Failure::installation(format!(
            "executors cannot work in every directory of runtime.work_directories:\n  {}",
            problems.join("\n  ")
        ))
        .hint("list directories of their own, as /srv/work"));
    }
    good.sort_by_cached_key(|path| resolve(path));
    // The right is for all that is below. What lies in a directory that applications may write to must not be
    // looked up by its name: they could have put a link to elsewhere in its place.
    good.dedup_by(|below, above| resolve(below).starts_with(resolve(above)));
    Ok(good)
}

/// Why executors cannot be let write to `path`, as listed or where its links lead to.
fn refusal(prefix: &Prefix, path: &Path) -> Option<String> {
    if path
        .to_str()
        .is_none_or(|text| text.chars().any(char::is_control))
    {
        return Some("has characters that cannot stand in a unit file".to_owned());
    }
    // What its end will be is not known yet.
    if path.ancestors().any(|path| path.is_symlink() && !path.exists()) {
        return Some("has a link in it that leads nowhere".to_owned());
    }
    let real = resolve(path);
    match of_others(prefix, &real) {
        Some(why) if real != path => return Some(format!("leads to {}, which {why}", real.display())),
        Some(why) => return Some(why.to_owned()),
        None => {}
    }
    if let Some(why) = of_others(prefix, path) {
        return Some(why.to_owned());
    }
    (real.exists() && !real.is_dir()).then(|| "is not a directory".to_owned())
}

fn of_others(prefix: &Prefix, path: &Path) -> Option<&'static str> {
    let in_one = |trees: &[&str]| trees.iter().any(|tree| path.starts_with(tree));
    let own = [prefix.path().to_path_buf(), resolve(prefix.path())];
    if own.iter().any(|own| path.starts_with(own)) {
        Some("belongs to Flame itself")
    } else if in_one(&SYSTEM) {
        Some("belongs to the system")
    } else if in_one(&PRIVATE) {
        Some("is not seen by executors: each has a directory of its own there")
    } else if in_one(&unit_files::HOMES) && unit_files::hides_homes(prefix) {
        Some("is not seen by executors: homes are hidden from them")
    } else if path.parent() == Some(Path::new("/home")) || path == Path::new("/root") {
        Some("is a home directory")
    } else if SHARED.iter().any(|shared| path == Path::new(shared))
        || own.iter().any(|own| own.starts_with(path))
    {
        Some("has much in it that is not for applications")
    } else {
        None
    }
}

/// The text of the drop-in that lets executors write to `directories`.
pub(crate) fn drop_in(prefix: &Prefix, directories: &[PathBuf]) -> String {
    let rights: String = directories.iter().map(|path| right(path)).collect();
    format!(
        "# Made by flmadm install from runtime.work_directories of {}/conf/node-agent*.toml.\n[Service]\n{rights}\n{}",
        prefix.text(),
        unit_files::mark(prefix)
    )
}

/// A directory that is not there does not keep executors from starting, hence the dash.
fn right(path: &Path) -> String {
    let text = path.display().to_string();
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
    format!("ReadWritePaths=\"-{escaped}\"\n")
}

/// What an administrator has still to do so that executors can use `directories`.
///
/// # Errors
/// The group cannot be looked up.
pub(crate) fn left_to_do(
    host: &dyn Host,
    names: &HostNames,
    directories: &[PathBuf],
) -> Outcome<Vec<String>> {
    let name = names.own(GROUP);
    let group = host.group(&name)?;
    let mut notes = Vec::new();
    for path in directories {
        let shown = path.display();
        match path.metadata() {
            Err(_) => notes.push(format!(
                "{shown}, a work directory of applications, is not there yet"
            )),
            Ok(found) => {
                let mode = found.mode();
                let by_group = Some(found.gid()) == group && mode & GROUP_MAY == GROUP_MAY;
                if !by_group && mode & ALL_MAY != ALL_MAY {
                    notes.push(format!(
                        "executors may not write to {shown} unless an access list says so: chgrp {name} {shown} && \
                         chmod 2770 {shown}"
                    ));
                }
            }
        }
    }
    Ok(notes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    fn prefix() -> Prefix {
        Prefix::new(Path::new("/opt/flame")).expect("a prefix")
    }

    #[test]
    fn what_belongs_to_others_is_refused() {
        for (path, why) in [
            ("/", "much in it"),
            ("/var", "much in it"),
            ("/var/lib", "much in it"),
            ("/opt", "much in it"),
            ("/etc", "the system"),
            ("/etc/app", "the system"),
            ("/usr/local/share/app", "the system"),
            ("/run/flame", "the system"),
            ("/run/user/7", "the system"),
            ("/opt/flame", "Flame itself"),
            ("/opt/flame/work/x", "Flame itself"),
            ("/opt/flame/data", "Flame itself"),
            ("/tmp/x", "its own"),
            ("/var/tmp", "its own"),
            ("/home", "hidden"),
            ("/home/me/data", "hidden"),
            ("/root", "hidden"),
            ("/srv/a\nb", "characters"),
        ] {
            let refused = refusal(&prefix(), Path::new(path)).unwrap_or_else(|| panic!("{path} is taken"));
            let words = if why == "its own" {
                "directory of its own"
            } else {
                why
            };
            assert!(refused.contains(words), "{path}: {refused}");
        }
        for path in [
            "/srv",
            "/srv/work",
            "/mnt/disk",
            "/data",
            "/var/lib/app",
            "/optional",
            "/opt/flames",
        ] {
            assert_eq!(refusal(&prefix(), Path::new(path)), None, "{path}");
        }
    }

    #[test]
    fn homes_can_be_used_where_flame_itself_is_in_one() {
        let prefix = Prefix::new(Path::new("/home/me/flame")).expect("a prefix");
        for (path, good) in [
            ("/home/me/data", true),
            ("/home/me", false),
            ("/home/you", false),
            ("/root", false),
            ("/home/me/flame/data", false),
        ] {
            assert_eq!(refusal(&prefix, Path::new(path)).is_none(), good, "{path}");
        }
    }

    #[test]
    fn a_link_does_not_lead_to_what_belongs_to_others() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let at = Prefix::new(&directory.path().join("flame")).expect("a prefix");
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(directory.path().join("missing"), &link).expect("linked");
        for path in [link.clone(), link.join("below")] {
            let refused = refusal(&at, &path).expect("no end");
            assert!(refused.contains("leads nowhere"), "{refused}");
        }
        std::fs::remove_file(&link).expect("removed");
        for target in ["/etc", "/"] {
            std::os::unix::fs::symlink(target, &link).expect("linked");
            let refused = refusal(&at, &link).expect(target);
            assert!(
                refused.starts_with(&format!("leads to {target}, which ")),
                "{refused}"
            );
            std::fs::remove_file(&link).expect("removed");
        }
    }

    #[test]
    fn paths_are_escaped_as_unit_files_want_it() {
        for (path, line) in [
            ("/srv/work", "ReadWritePaths=\"-/srv/work\"\n"),
            ("/srv/my work", "ReadWritePaths=\"-/srv/my work\"\n"),
            ("/srv/100%i", "ReadWritePaths=\"-/srv/100%%i\"\n"),
            ("/srv/a\"b\\c", "ReadWritePaths=\"-/srv/a\\\"b\\\\c\"\n"),
            ("/srv/ä;#", "ReadWritePaths=\"-/srv/ä;#\"\n"),
        ] {
            assert_eq!(right(Path::new(path)), line);
        }
    }

    #[test]
    fn an_administrator_is_told_what_is_missing() {
        let host = FakeHost::new();
        let open = host.path("open");
        let closed = host.path("closed");
        for (path, mode) in [(&open, 0o777), (&closed, 0o770)] {
            std::fs::create_dir(path).expect("made");
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("set");
        }
        let all = [open, closed.clone(), host.path("missing")];
        let notes = left_to_do(&host, &HostNames::default(), &all).expect("looked");
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert!(
            notes[0].contains(&format!("chgrp flame-work {}", closed.display())),
            "{notes:?}"
        );
        assert!(notes[1].contains("not there yet"), "{notes:?}");
        // The group of the directory that a test makes is that of the test.
        let gid = closed.metadata().expect("there").gid();
        host.groups.borrow_mut().insert(GROUP.to_owned(), gid);
        assert_eq!(
            left_to_do(&host, &HostNames::default(), &all)
                .expect("looked")
                .len(),
            1
        );
    }
}
