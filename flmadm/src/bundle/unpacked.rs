//! The files of a bundle while a command installs them: unpacked beside the prefix, and removed at the end.
//!
//! Whoever uses the directory holds a shared lock on it, so that the next command can tell what a killed one has left
//! from what another one is using.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;
use rustix::fs::FlockOperation;
use semver::Version;

use super::args::BundleArgs;
use super::fetch_shown;
use super::limits::Limits;
use super::manifest::{BundleManifest, NAME};
use super::open::{VerifiedBundle, open};
use super::verify::origin;
use crate::failure::{Failure, Kind, Outcome};
use crate::files;
use crate::host::Host;
use crate::interrupts::Watch;
use crate::manifest::Manifest;
use crate::output::Output;
use crate::prefix::Prefix;
use crate::profile::FLMADM;
use crate::programs;

/// Where the files are, below the directory that is made for the bundle.
const FILES: &str = "release";
/// The option that tells a bundle's flmadm where its files are. Each later release has to understand it.
const HAND_OVER: &str = "--unpacked";

/// A release that comes from a bundle; part of every command that installs one.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct SourceArgs {
    /// Install the release in this bundle; all of it is checked before anything is changed, see flmadm bundle verify
    #[arg(
        long,
        value_name = "FILE|URL",
        help_heading = "Bundles",
        conflicts_with_all = ["skip_build", "bin_dir", "src_dir", "verbose"]
    )]
    pub(crate) bundle: Option<String>,
    /// Where the flmadm that has checked the bundle has unpacked it
    #[arg(long, value_name = "DIR", hide = true, requires = "bundle")]
    pub(crate) unpacked: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) bundles: BundleArgs,
}

impl SourceArgs {
    /// Brings the bundle here and checks all of it; nothing without one, or if another flmadm did it.
    ///
    /// # Errors
    /// It cannot be downloaded, or is refused.
    pub(crate) fn open(
        &self,
        host: &dyn Host,
        prefix: &Prefix,
        old: Option<&Manifest>,
        output: &mut Output<'_>,
    ) -> Outcome<Option<VerifiedBundle>> {
        let (Some(name), None) = (&self.bundle, &self.unpacked) else {
            return Ok(None);
        };
        let installed = old
            .filter(|old| old.is_installed())
            .map(|old| old.version.as_str());
        let policy = self.bundles.policy(prefix.path(), installed)?;
        let fetched = fetch_shown(host, name, &self.bundles.download)?;
        output.doing("the bundle is checked");
        let bundle = open(&fetched.located, &policy);
        // It is open, so its contents stay as long as they are needed; a refused download is of no use.
        fetched.discard()?;
        let bundle = bundle?;
        output.progress(&format!(
            "bundle of Flame {}, {}",
            bundle.version(),
            origin(bundle.trust())
        ));
        Ok(Some(bundle))
    }
}

/// The files of a verified bundle.
#[derive(Debug)]
pub(crate) struct Unpacked {
    top: PathBuf,
    files: PathBuf,
    manifest: BundleManifest,
    /// Says that the directory is in use.
    _used: File,
    /// Whether it is removed here, and not by the flmadm that made it.
    removes: bool,
}

impl Unpacked {
    /// Unpacks `bundle` into `top`, which must not be there; for a dry run into a place for temporary files.
    ///
    /// # Errors
    /// It cannot be written, or another flmadm is installing a bundle.
    pub(crate) fn make(bundle: &VerifiedBundle, top: &Path, dry_run: bool) -> Outcome<Self> {
        let top = match dry_run {
            true => std::env::temp_dir().join(format!("flmadm-{}.bundle", std::process::id())),
            false => top.to_path_buf(),
        };
        if let Err(error) =
            std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(&top)
        {
            return Err(match error.kind() {
                std::io::ErrorKind::AlreadyExists => Failure::installation(format!(
                    "another flmadm is installing a bundle: {}",
                    top.display()
                ))
                .hint("wait until it is done, then try again"),
                _ => Failure::path("make", &top, error),
            });
        }
        let made = || -> Outcome<Self> {
            let used = use_shared(&top)?;
            let files = top.join(FILES);
            bundle.unpack_into(&files)?;
            let manifest = top.join(NAME);
            std::fs::write(&manifest, bundle.text())
                .map_err(|error| Failure::path("write", &manifest, error))?;
            Ok(Self {
                files,
                manifest: bundle.manifest().clone(),
                _used: used,
                removes: true,
                top: top.clone(),
            })
        };
        made().inspect_err(|_| {
            let _the_next_command_removes_it = files::remove_tree(&top);
        })
    }

    /// What the flmadm that called this one has unpacked into `top`.
    ///
    /// # Errors
    /// It is gone, or never was one.
    pub(crate) fn take_over(top: &Path) -> Outcome<Self> {
        let used = use_shared(top)?;
        let path = top.join(NAME);
        let text = std::fs::read(&path).map_err(|error| Failure::path("read", &path, error))?;
        let manifest = BundleManifest::parse(&text, &Limits::default())?;
        Ok(Self {
            top: top.to_path_buf(),
            files: top.join(FILES),
            manifest,
            _used: used,
            removes: false,
        })
    }

    /// Version of Flame.
    pub(crate) fn version(&self) -> &Version {
        &self.manifest.version
    }

    /// Where the files are.
    pub(crate) fn directory(&self) -> &Path {
        &self.files
    }

    /// Paths of the files below [`Self::directory`].
    pub(crate) fn files(&self) -> impl Iterator<Item = &str> {
        self.manifest.files.iter().map(|file| file.path.as_str())
    }

    /// Lets the flmadm of the bundle carry out this command line, to its end.
    ///
    /// # Errors
    /// It cannot be run, or failed and has said why.
    pub(crate) fn hand_over(self) -> Outcome<()> {
        let program = self.files.join(programs::place(FLMADM));
        // Signals of a terminal go to both, and what was unpacked is removed when the other one has ended.
        let _watch = Watch::begin()?;
        let words = std::env::args_os().skip(1);
        let mut command = Command::new(&program);
        command.args(words).arg(HAND_OVER).arg(&self.top);
        let status = command.status().map_err(|error| {
            Failure::installation(format!("cannot run the bundle's {}", program.display()))
                .because(error)
                .hint("a file system that is mounted with noexec does not do")
        })?;
        match (status.success(), status.code()) {
            (true, _) => Ok(()),
            (false, Some(code)) => Err(Failure::told(Kind::of_code(code))),
            (false, None) => Err(Failure::installation(format!(
                "the flmadm of the bundle was ended from outside ({status})"
            ))
            .hint("flmadm repair puts in order what it has begun")),
        }
    }
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        // A test's kill leaves what a kill leaves.
        #[cfg(test)]
        if std::thread::panicking() {
            return;
        }
        if self.removes {
            // What cannot be removed now is in nobody's use, and the next command tries again.
            let _ = files::remove_tree(&self.top);
        }
    }
}

/// Says that somebody uses `top`.
fn use_shared(top: &Path) -> Outcome<File> {
    let failed = |error| Failure::path("use", top, error);
    let directory = File::open(top).map_err(failed)?;
    rustix::fs::flock(&directory, FlockOperation::NonBlockingLockShared)
        .map_err(|error| failed(error.into()))?;
    Ok(directory)
}

/// Removes what a killed command has left in `top`, unless somebody uses it.
///
/// # Errors
/// It cannot be removed.
pub(crate) fn clean(top: &Path) -> Outcome<()> {
    let Ok(directory) = File::open(top) else {
        return Ok(());
    };
    match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => files::remove_tree(top),
        Err(_used) => Ok(()),
    }
}
