//! What a bundle must be like to be taken, and which of it the administrator overrules.

use std::path::{Path, PathBuf};

use semver::Version;

use super::glibc;
use super::limits::Limits;
use super::manifest::BundleManifest;
use super::refusal::Refusal;
use super::signature::{Trust, TrustedKeys};

/// What is overruled; each is a flag of the same name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Allow {
    /// A bundle without a signature.
    pub(crate) unsigned: bool,
    /// A signature that cannot be checked because its key is not known.
    pub(crate) unknown_key: bool,
    /// A version below the one that is installed.
    pub(crate) downgrade: bool,
    /// Programs for another kind of machine.
    pub(crate) foreign_architecture: bool,
}

/// The machine that a bundle shall be used on.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    /// As `uname -m` names it.
    pub(crate) architecture: String,
    /// Where its file system begins.
    pub(crate) root: PathBuf,
}

impl Machine {
    /// This machine.
    pub(crate) fn this() -> Self {
        Self {
            architecture: rustix::system::uname().machine().to_string_lossy().into_owned(),
            root: PathBuf::from("/"),
        }
    }
}

/// What a bundle must be like.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    pub(crate) trusted: TrustedKeys,
    pub(crate) allow: Allow,
    pub(crate) machine: Machine,
    /// Version that the bundle would replace.
    pub(crate) installed: Option<Version>,
    pub(crate) limits: Limits,
}

impl Policy {
    /// Whether a bundle of this origin is taken.
    ///
    /// # Errors
    /// It is not.
    pub(super) fn accept_origin(&self, trust: &Trust) -> Result<(), Refusal> {
        match trust {
            Trust::Unsigned if !self.allow.unsigned => Err(Refusal::Unsigned),
            Trust::UnknownKey { key_id } if !self.allow.unknown_key => {
                Err(Refusal::UnknownKey(key_id.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Whether what the bundle is for is this machine with what is installed.
    ///
    /// # Errors
    /// It is not.
    pub(super) fn accept_purpose(&self, manifest: &BundleManifest) -> Result<(), Refusal> {
        if !self.allow.foreign_architecture {
            self.fits_machine(manifest)?;
        }
        let Some(installed) = &self.installed else {
            return Ok(());
        };
        let (found, minimum) = (&manifest.version, &manifest.minimum_version);
        if found.cmp_precedence(installed).is_lt() && !self.allow.downgrade {
            return Err(Refusal::Older {
                found: found.clone(),
                installed: installed.clone(),
            });
        }
        if installed.cmp_precedence(minimum).is_lt() {
            return Err(Refusal::TooFar {
                found: found.clone(),
                installed: installed.clone(),
                minimum: minimum.clone(),
            });
        }
        Ok(())
    }

    fn fits_machine(&self, manifest: &BundleManifest) -> Result<(), Refusal> {
        if manifest.architecture != self.machine.architecture {
            return Err(Refusal::ForeignArchitecture {
                found: manifest.architecture.clone(),
                here: self.machine.architecture.clone(),
            });
        }
        let Some(interpreter) = &manifest.interpreter else {
            return Ok(());
        };
        // Each C library has a loader of its own, so its presence says that the programs can start.
        let below = Path::new(interpreter).strip_prefix("/");
        if !below.is_ok_and(|below| self.machine.root.join(below).exists()) {
            return Err(Refusal::ForeignSystem {
                needs: interpreter.clone(),
            });
        }
        let Some(needed) = &manifest.glibc else {
            return Ok(());
        };
        match glibc::provided(&self.machine.root, interpreter) {
            Some(provided) if provided < *needed => Err(Refusal::ForeignSystem {
                needs: format!("glibc {needed}"),
            }),
            _ => Ok(()),
        }
    }
}
