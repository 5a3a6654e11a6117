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

/// Longest name of a user that systemd makes for a unit.
const MAX_USER_NAME: usize = 31;
/// A slot with a number as long as they may become.
const HIGH_SLOT: u32 = 9_999;

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
        "polkit does not let this user start {unit}: the rule 50-{stem}.rules is missing in /etc/polkit-1/rules.d or \
         is for another user (flmadm install makes it; polkit before 0.106 knows no such rules); {OTHERWISE}"
    )]
    NotAllowed {
        /// The unit that was tried.
        unit: String,
        /// What the names of the installation begin with.
        stem: String,
    },
    /// Users of slots could not be called so.
    #[error(
        "the name {agent:?} of the agent is too long for units: the user of a slot would be called {user}, and names of \
         users have up to {MAX_USER_NAME} characters; give it a shorter one, {OTHERWISE}"
    )]
    LongName {
        /// Name of the agent.
        agent: String,
        /// Such a user.
        user: String,
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
    fits(settings)?;
    let systemd = Systemd::system().await?;
    if !systemd.has_polkit().await? && !rustix::process::geteuid().is_root() {
        return Err(Unusable::NoPolkit);
    }
    let instance = match &settings.agent {
        Some(agent) => format!("{agent}-{PROBE}"),
        None => PROBE.to_owned(),
    };
    for profile in Profile::ALL {
        let unit = profile.unit(&settings.names, &instance);
        if !systemd.status(&unit).await?.exists() {
            return Err(Unusable::NoTemplate { unit });
        }
        // The same permission as for a start, and without an effect: this instance never runs. (systemd asks nobody about a
        // unit that is not loaded, and only the verbs of jobs load it.)
        match systemd.begin_stop(&unit).await {
            Ok(_) => {}
            Err(SystemdError::Denied { .. }) => {
                let stem = settings.names.stem();
                return Err(Unusable::NotAllowed { unit, stem });
            }
            Err(error) => return Err(error.into()),
        }
    }
    work::warn(&systemd, &settings.names, &instance, &settings.work_directories).await?;
    Ok(systemd)
}

/// Whether the users of slots can be called as the templates say.
fn fits(settings: &Settings) -> Result<(), Unusable> {
    let Some(agent) = &settings.agent else {
        return Ok(());
    };
    let user = format!("{}-{agent}-{HIGH_SLOT}", settings.names.undivided());
    match user.len() > MAX_USER_NAME {
        true => Err(Unusable::LongName {
            agent: agent.clone(),
            user,
        }),
        false => Ok(()),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_of_slots_have_names_that_are_not_too_long() {
        for (stem, agent, good) in [
            ("flame", "aaaaaaaaaaaaaaaaaaaa", true),
            ("flame", "aaaaaaaaaaaaaaaaaaaaa", false),
            ("flame-production", "aaaaaaaaa", true),
            ("flame-production", "aaaaaaaaaa", false),
        ] {
            let names = stem.parse().expect("a stem");
            let settings = Settings::new(names, Some(agent.to_owned()), Profile::default());
            assert_eq!(fits(&settings).is_ok(), good, "{stem} {agent}");
        }
    }
}
