//! Where the programs of an installation come from: the directory they were built in, or an unpacked bundle.

use std::path::PathBuf;

use crate::bundle::{SourceArgs, Unpacked, VerifiedBundle};
use crate::compile::{self, BuildArgs};
use crate::failure::{Failure, Kind, Outcome};
use crate::host::Host;
use crate::manifest::sha256_of;
use crate::output::Output;
use crate::profile::FLMADM;
use crate::release::{ReleaseFile, TEXT};
use crate::transaction::{Lock, Place};

/// The programs of one release.
#[derive(Debug)]
pub(crate) enum Programs {
    /// All in this directory; they are of flmadm's own version.
    Built(PathBuf),
    /// Of a bundle, in the order of a release's directory.
    Unpacked(Box<Unpacked>),
}

impl Programs {
    /// Version of Flame.
    pub(crate) fn version(&self) -> String {
        match self {
            Self::Built(_) => env!("CARGO_PKG_VERSION").to_owned(),
            Self::Unpacked(bundle) => bundle.version().to_string(),
        }
    }

    /// Path of `program`.
    pub(crate) fn path(&self, program: &str) -> PathBuf {
        match self {
            Self::Built(directory) => directory.join(program),
            Self::Unpacked(bundle) => bundle.directory().join(place(program)),
        }
    }

    /// The wheels of the SDK, as files of a release.
    ///
    /// # Errors
    /// One cannot be read.
    pub(crate) fn wheels(&self) -> Outcome<Vec<ReleaseFile>> {
        let Self::Unpacked(bundle) = self else {
            return Ok(Vec::new());
        };
        let wheels = bundle.files().filter(|path| path.starts_with("sdk/"));
        wheels
            .map(|path| ReleaseFile::copy(path.to_owned(), bundle.directory().join(path), TEXT))
            .collect()
    }

    /// Directory that has examples, if it is known.
    pub(crate) fn share(&self) -> Option<PathBuf> {
        match self {
            Self::Built(_) => None,
            Self::Unpacked(bundle) => Some(bundle.directory().join("share")),
        }
    }

    fn complete(self, programs: &[&str]) -> Outcome<Self> {
        let missing: Vec<&str> = programs
            .iter()
            .copied()
            .filter(|program| !self.path(program).is_file())
            .collect();
        match missing.is_empty() {
            true => Ok(self),
            false => Err(
                Failure::new(Kind::Build, format!("the bundle has no {}", missing.join(", ")))
                    .hint("it was made without them; take another bundle, or choose other profiles"),
            ),
        }
    }
}

/// Path of `program` below the directory of a release.
pub(crate) fn place(program: &str) -> String {
    let folder = if program == FLMADM { "sbin" } else { "bin" };
    format!("{folder}/{program}")
}

/// What a command was told about the programs to install.
pub(crate) struct Wanted<'a> {
    pub(crate) build: &'a BuildArgs,
    pub(crate) source: &'a SourceArgs,
    /// The bundle, if it is not unpacked yet.
    pub(crate) bundle: Option<VerifiedBundle>,
    /// Names of the programs.
    pub(crate) programs: &'a [&'static str],
    /// Whether nothing will be installed.
    pub(crate) dry_run: bool,
}

/// Finds the programs, after they were built or unpacked at `place` if that is asked for. The locks are held for it.
///
/// A bundle has the flmadm that knows how its release is installed. If that is another program than this one, it does
/// the whole work, and there is nothing left to find.
///
/// # Errors
/// The build fails, something is missing or cannot be unpacked; or the other flmadm failed.
pub(crate) fn find(
    host: &dyn Host,
    wanted: Wanted<'_>,
    place: &Place,
    locks: &mut Vec<Lock>,
    output: &mut Output<'_>,
) -> Outcome<Option<Programs>> {
    let unpacked = match (&wanted.bundle, &wanted.source.unpacked) {
        (Some(bundle), _) => {
            host.checkpoint();
            output.doing("the bundle is unpacked");
            let unpacked = Unpacked::make(bundle, &place.bundle(), wanted.dry_run)?;
            host.checkpoint();
            if is_other(host, &unpacked)? {
                // It takes them itself.
                locks.clear();
                unpacked.hand_over()?;
                return Ok(None);
            }
            unpacked
        }
        (None, Some(directory)) => Unpacked::take_over(directory)?,
        (None, None) => {
            let built = compile::directory(wanted.build, wanted.programs, wanted.dry_run, output)?;
            return Ok(Some(Programs::Built(built)));
        }
    };
    Programs::Unpacked(Box::new(unpacked))
        .complete(wanted.programs)
        .map(Some)
}

/// Whether the bundle's flmadm is another program than this.
fn is_other(host: &dyn Host, unpacked: &Unpacked) -> Outcome<bool> {
    let Some(own) = host.own_program() else {
        return Ok(false);
    };
    Ok(sha256_of(own)? != sha256_of(&unpacked.directory().join(place(FLMADM)))?)
}
