//! Whether executors in units may write to the work directories that an administrator has listed: not before
//! `flmadm install` has written that into a drop-in of their templates.

use std::path::{Path, PathBuf};

use flame_core::HostNames;
use flame_core::fsutil::resolve;
use flame_systemd::Systemd;
use flame_systemd::manager::SystemdError;

use super::profile::Profile;

/// What systemd shows in front of a path: that it may be missing, or is below the root of the unit.
const MARKS: [char; 2] = ['-', '+'];

/// Says in the log which of `directories` executors may not write to. `instance` is one of the templates that is no
/// slot.
///
/// # Errors
/// systemd cannot be asked.
pub(super) async fn warn(
    systemd: &Systemd,
    names: &HostNames,
    instance: &str,
    directories: &[PathBuf],
) -> Result<(), SystemdError> {
    if directories.is_empty() {
        return Ok(());
    }
    for profile in Profile::ALL.into_iter().filter(|profile| is_read_only(*profile)) {
        let writable = systemd.writable_paths(&profile.unit(names, instance)).await?;
        let missing = directories
            .iter()
            .filter(|directory| !is_writable(directory, &writable));
        for directory in missing {
            tracing::warn!(
                flame_sandbox = %profile,
                "executors cannot write to {}, which runtime.work_directories lists: no drop-in of {}@.service lets \
                 them; run flmadm install to make it",
                directory.display(),
                profile.template(names)
            );
        }
    }
    Ok(())
}

/// Whether the system is read-only for executors of `profile`.
fn is_read_only(profile: Profile) -> bool {
    profile != Profile::None
}

/// Whether `directory` is one of the paths of `ReadWritePaths=`, or below one.
fn is_writable(directory: &Path, writable: &[String]) -> bool {
    writable.iter().any(|path| {
        let path = Path::new(path.trim_start_matches(MARKS));
        directory.starts_with(path) || resolve(directory).starts_with(resolve(path))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_a_writable_path_is_writable() {
        let writable = [
            "-/srv/work".to_owned(),
            "+/srv/other".to_owned(),
            "/srv/ä b".to_owned(),
        ];
        for (directory, expected) in [
            ("/srv/work", true),
            ("/srv/work/deep", true),
            ("/srv/other", true),
            ("/srv/ä b", true),
            ("/srv/workshop", false),
            ("/srv", false),
        ] {
            assert_eq!(
                is_writable(Path::new(directory), &writable),
                expected,
                "{directory}"
            );
        }
        assert!(!is_writable(Path::new("/srv/work"), &[]));
    }

    #[test]
    fn a_link_is_where_it_leads_to() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (real, link) = (directory.path().join("real"), directory.path().join("link"));
        std::fs::create_dir(&real).expect("made");
        std::os::unix::fs::symlink(&real, &link).expect("linked");
        let writable = [format!("-{}", real.display())];
        assert!(is_writable(&link, &writable));
        assert!(!is_writable(&directory.path().join("missing"), &writable));
    }
}
