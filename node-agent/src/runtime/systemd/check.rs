//! Whether this machine can run executors as units, and what is missing if not.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use flame_systemd::Systemd;
use flame_systemd::manager::SystemdError;

use super::profile::Profile;
use super::{Settings, work};

/// An instance that is no slot, to try permissions on.
const PROBE: &str = "probe";

/// What to do instead of mending it.
const OTHERWISE: &str =
    "or run executors as child processes of the agent, without units: FLAME_NODE_RUNTIME=process";

/// Why executors cannot run as units.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// systemd cannot be reached, or a call failed.
    #[error("{source}; {OTHERWISE}")]
    Systemd {
        /// Why.
        #[from]
        source: SystemdError,
    },
    /// Nobody decides what the agent may do.
    #[error("polkit is not installed (apt install polkitd, dnf install polkit); {OTHERWISE}")]
    NoPolkit,
    /// It may not.
    #[error(
        "polkit does not let this user start {unit}: the rule 50-flame.rules is missing in /etc/polkit-1/rules.d or \
         is for another user (flmadm install makes it; polkit before 0.106 knows no such rules); {OTHERWISE}"
    )]
    NotAllowed {
        /// The unit that was tried.
        unit: String,
    },
    /// There is no template.
    #[error("there is no unit file for {unit}; install Flame with flmadm install; {OTHERWISE}")]
    NoTemplate {
        /// A unit of the template.
        unit: String,
    },
    /// A directory cannot be used.
    #[error("cannot use {directory}: {source}", directory = directory.display())]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What an earlier run wrote down cannot be read.
    #[error("cannot list the records of executors: {0}")]
    Records(#[from] io::Error),
}

/// Connects to systemd and tries what running executors takes.
pub(super) async fn usable(settings: &Settings) -> Result<Systemd, Unusable> {
    let systemd = Systemd::system().await?;
    if !systemd.has_polkit().await? && !rustix::process::geteuid().is_root() {
        return Err(Unusable::NoPolkit);
    }
    let instance = match &settings.agent {
        Some(agent) => format!("{agent}-{PROBE}"),
        None => PROBE.to_owned(),
    };
    for profile in Profile::ALL {
        let unit = profile.unit(&instance);
        if !systemd.status(&unit).await?.exists() {
            return Err(Unusable::NoTemplate { unit });
        }
        // The same permission as for a start, and without an effect: this instance never runs. (systemd asks nobody about a
        // unit that is not loaded, and only the verbs of jobs load it.)
        match systemd.begin_stop(&unit).await {
            Ok(_) => {}
            Err(SystemdError::Denied { .. }) => return Err(Unusable::NotAllowed { unit }),
            Err(error) => return Err(error.into()),
        }
    }
    work::warn(&systemd, &instance, &settings.work_directories).await?;
    Ok(systemd)
}

/// Makes a directory for the agent alone, if it is not there.
pub(super) fn make_private(directory: &Path) -> Result<(), Unusable> {
    std::fs::DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(directory)
        .map_err(|source| Unusable::Directory {
            directory: directory.to_path_buf(),
            source,
        })
}
