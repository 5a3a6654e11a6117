//! Where an installation may lie, and what is where below it.

use std::path::{Component, Path, PathBuf};

use flame_core::fsutil::resolve;

use crate::failure::{Failure, Outcome};

/// Directories that are never a prefix, though something below them may be one.
const SHARED: [&str; 22] = [
    "/",
    "/usr",
    "/usr/local",
    "/usr/local/bin",
    "/usr/local/sbin",
    "/usr/local/lib",
    "/usr/share",
    "/home",
    "/root",
    "/opt",
    "/srv",
    "/var",
    "/var/lib",
    "/var/log",
    "/var/cache",
    "/var/spool",
    "/var/tmp",
    "/tmp",
    "/mnt",
    "/media",
    "/usr/local/share",
    "/usr/local/etc",
];
/// Directories in which nothing of an installation has its place.
const SYSTEM: [&str; 15] = [
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/usr/bin",
    "/usr/sbin",
    "/usr/lib",
    "/usr/include",
    "/boot",
    "/dev",
    "/proc",
    "/sys",
    "/etc",
];
/// Directories that services do not see or that do not outlive a boot.
const FLEETING: [&str; 4] = ["/tmp", "/var/tmp", "/run", MEMORY];
/// Of the directories of the system, everybody may use this one.
const MEMORY: &str = "/dev/shm";

/// The directory of an installation, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Prefix(PathBuf);

impl Prefix {
    /// Checks `path`, also where its symbolic links lead to.
    ///
    /// # Errors
    /// It cannot be an installation's directory.
    pub(crate) fn new(path: &Path) -> Outcome<Self> {
        let normal = lexical(path)?;
        refuse_system(&normal, &normal)?;
        refuse_system(&resolve(&normal), &normal)?;
        if normal.exists() && !normal.is_dir() {
            return Err(Failure::arguments(format!(
                "the prefix {} is not a directory",
                normal.display()
            )));
        }
        Ok(Self(normal))
    }

    /// Checks that systemd's services can live there: they have a private /tmp, and must find
    /// their files after a boot.
    ///
    /// # Errors
    /// They cannot.
    pub(crate) fn check_for_services(&self) -> Outcome<()> {
        let real = resolve(&self.0);
        if let Some(fleeting) = FLEETING.iter().find(|fleeting| real.starts_with(fleeting)) {
            return Err(Failure::arguments(format!(
                "services cannot be installed in {}: they do not see {fleeting}, or it is empty after a boot",
                self.0.display()
            ))
            .hint("choose another --prefix, or --no-systemd"));
        }
        // The user flame must be able to walk to its files.
        for ancestor in real.ancestors().skip(1).filter(|ancestor| ancestor.exists()) {
            use std::os::unix::fs::PermissionsExt;
            let metadata = ancestor
                .metadata()
                .map_err(|error| Failure::path("look at", ancestor, error))?;
            if metadata.permissions().mode() & 0o001 == 0 {
                return Err(Failure::arguments(format!(
                    "services cannot be installed in {}: the user flame may not pass {}",
                    self.0.display(),
                    ancestor.display()
                ))
                .hint("choose another --prefix, as /opt/flame"));
            }
        }
        Ok(())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn join(&self, below: &str) -> PathBuf {
        self.0.join(below)
    }

    /// The prefix as text; the check has made sure that it is plain ASCII.
    pub(crate) fn text(&self) -> String {
        self.0.display().to_string()
    }

    pub(crate) fn bin(&self) -> PathBuf {
        self.join("bin")
    }

    /// Where releases lie.
    pub(crate) fn releases(&self) -> PathBuf {
        self.join("releases")
    }

    /// Directory of a release.
    pub(crate) fn release(&self, id: &str) -> PathBuf {
        self.releases().join(id)
    }

    /// Link to the current release, through which everything is found.
    pub(crate) fn current(&self) -> PathBuf {
        self.join("current")
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.join("conf/flame-cluster.yaml")
    }

    pub(crate) fn manifest(&self) -> PathBuf {
        self.join("manifest.toml")
    }
}

fn lexical(path: &Path) -> Outcome<PathBuf> {
    let shown = path.display();
    let bad = |why: &str| {
        Err(Failure::arguments(format!(
            "the prefix {shown:?} cannot be used: {why}"
        )))
    };
    let Some(text) = path.to_str() else {
        return bad("it is not UTF-8");
    };
    if !path.is_absolute() {
        return bad("it must be an absolute path, as /opt/flame");
    }
    // So that it can stand in unit files, YAML and shell scripts as it is.
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._+=-".contains(c);
    if let Some(odd) = text.chars().find(|c| !plain(*c)) {
        return bad(&format!(
            "it contains {odd:?}; letters, digits and . _ + = - are possible"
        ));
    }
    if path.components().any(|part| matches!(part, Component::ParentDir)) {
        return bad("it must not contain ..");
    }
    // Drops doubled and final slashes and single dots.
    Ok(path.components().collect())
}

fn refuse_system(path: &Path, given: &Path) -> Outcome<()> {
    let shared = SHARED.iter().any(|shared| path == Path::new(shared));
    let is_memory = path.starts_with(MEMORY) && path != Path::new(MEMORY);
    let system = !is_memory && SYSTEM.iter().any(|system| path.starts_with(system));
    let home = path.parent() == Some(Path::new("/home"));
    if !(shared || system || home) {
        return Ok(());
    }
    let leads = if path == given {
        String::new()
    } else {
        format!(" (it leads to {})", path.display())
    };
    let what = if home {
        "a home directory"
    } else {
        "a directory of the system"
    };
    Err(
        Failure::arguments(format!("the prefix {}{leads} is {what}", given.display()))
            .hint("choose a directory of its own, as /opt/flame"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_directories_are_refused() {
        for path in [
            "/",
            "//",
            "/usr",
            "/usr/",
            "/usr/.",
            "/etc",
            "/etc/flame",
            "/home",
            "/home/me",
            "/usr/bin",
            "/usr/lib/flame",
            "/bin",
            "/proc/1",
            "/dev/shm",
            "/dev/flame",
            "/var",
            "/var/lib",
            "/opt",
            "/tmp",
            "/root",
            "flame",
            "./flame",
            "",
            "/opt/../etc",
            "/opt/my flame",
            "/opt/%h",
            "/opt/flame\n",
            "/opt/\"flame\"",
        ] {
            assert!(Prefix::new(Path::new(path)).is_err(), "{path:?}");
        }
    }

    #[test]
    fn directories_of_their_own_are_taken() {
        for (path, expected) in [
            ("/usr/local/flame", "/usr/local/flame"),
            ("/opt//flame-2.1/", "/opt/flame-2.1"),
            ("/home/me/flame", "/home/me/flame"),
            ("/tmp/flame-dev", "/tmp/flame-dev"),
            ("/usrlocal", "/usrlocal"),
            ("/dev/shm/flame", "/dev/shm/flame"),
        ] {
            assert_eq!(
                Prefix::new(Path::new(path)).expect(path).path(),
                Path::new(expected)
            );
        }
    }

    #[test]
    fn a_link_does_not_hide_a_system_directory() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("/usr", &link).expect("linked");
        for below in ["", "bin", "lib/flame"] {
            let failure = Prefix::new(&link.join(below)).expect_err(below);
            assert!(failure.report().contains("leads to /usr"), "{}", failure.report());
        }
    }

    #[test]
    fn a_file_is_no_prefix() {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        assert!(Prefix::new(file.path()).is_err());
    }

    #[test]
    fn services_need_a_directory_that_they_see() {
        let closed = tempfile::tempdir().expect("temporary directory");
        assert!(Prefix(closed.path().join("flame")).check_for_services().is_err());
        assert!(Prefix("/usr/local/flame".into()).check_for_services().is_ok());
    }
}
