//! The command line of `flmadm bundle`, and what other commands that take a bundle share with it.

use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use clap::{Args, Subcommand};
use semver::Version;

use super::limits::Limits;
use super::policy::{Allow, Machine, Policy};
use super::signature::TrustedKeys;
use crate::cli::{OutputArg, PrefixArg};
use crate::compile::BuildArgs;
use crate::failure::{Failure, Outcome};

/// Where root keeps downloads until they are complete.
const SYSTEM_CACHE: &str = "/var/cache/flmadm";

#[derive(Debug, Subcommand)]
pub(crate) enum BundleCommand {
    /// Make one file with everything that an installation needs
    Create(CreateArgs),
    /// Check a bundle as install and upgrade do, and change nothing
    Verify(VerifyArgs),
    /// Show what a bundle says that is in it; nothing is checked
    Show(ShowArgs),
    /// Make a pair of keys to sign bundles with
    Keygen(KeygenArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// The bundle, or the directory for flame-VERSION-ARCH.tar.zst
    #[arg(long, value_name = "FILE|DIR", default_value = ".")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) build: BuildArgs,
    /// A wheel of the SDK to put in; can be repeated
    #[arg(long = "wheel", value_name = "FILE")]
    pub(crate) wheels: Vec<PathBuf>,
    /// Secret key to sign with; the variable FLMADM_KEY_PASSWORD can have its password
    #[arg(long, value_name = "KEY")]
    pub(crate) sign: Option<PathBuf>,
    /// Version of the programs, if they are of another release than this flmadm
    #[arg(long, value_name = "VERSION", default_value = env!("CARGO_PKG_VERSION"))]
    pub(crate) release_version: Version,
    /// Lowest version of an installation that can be upgraded to this one
    #[arg(long, value_name = "VERSION", default_value = super::MINIMUM_VERSION)]
    pub(crate) minimum_version: Version,
    #[command(flatten)]
    pub(crate) output: OutputArg,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The bundle; its signature lies beside it with .minisig added
    #[arg(value_name = "FILE|URL")]
    pub(crate) bundle: String,
    #[command(flatten)]
    pub(crate) at: PrefixArg,
    #[command(flatten)]
    pub(crate) bundles: BundleArgs,
    #[command(flatten)]
    pub(crate) output: OutputArg,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The bundle
    #[arg(value_name = "FILE|URL")]
    pub(crate) bundle: String,
    #[command(flatten)]
    pub(crate) download: DownloadArgs,
    #[command(flatten)]
    pub(crate) output: OutputArg,
}

#[derive(Debug, Args)]
pub(crate) struct KeygenArgs {
    /// The secret key; the public key is beside it with .pub added
    #[arg(long, value_name = "FILE", default_value = "flame.key")]
    pub(crate) out: PathBuf,
    /// Make a secret key without a password, for machines that sign on their own
    #[arg(long)]
    pub(crate) no_password: bool,
    #[command(flatten)]
    pub(crate) output: OutputArg,
}

/// What a bundle must be like; part of every command that uses one.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct BundleArgs {
    /// File with a public key that may sign the bundle, besides those in PREFIX/conf/trusted-keys; can be repeated
    #[arg(long = "key", value_name = "FILE", help_heading = "Bundles")]
    pub(crate) keys: Vec<PathBuf>,
    /// The same as the line of text that bundle keygen prints; can be repeated
    #[arg(long = "public-key", value_name = "BASE64", help_heading = "Bundles")]
    pub(crate) public_keys: Vec<String>,
    /// Take a bundle without a signature
    #[arg(long, help_heading = "Bundles")]
    pub(crate) allow_unsigned: bool,
    /// Take a bundle whose signature cannot be checked because its key is not known
    #[arg(long, help_heading = "Bundles")]
    pub(crate) allow_unknown_key: bool,
    /// Take a version below the one that is installed
    #[arg(long, help_heading = "Bundles")]
    pub(crate) allow_downgrade: bool,
    /// Take programs for another kind of machine
    #[arg(long, help_heading = "Bundles")]
    pub(crate) allow_foreign_arch: bool,
    #[command(flatten)]
    pub(crate) download: DownloadArgs,
}

/// How a bundle gets here.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct DownloadArgs {
    /// Largest bundle that is taken [default: 1 GiB]
    #[arg(long, value_name = "SIZE", help_heading = "Bundles")]
    pub(crate) max_size: Option<ByteSize>,
    /// Where downloads lie until they are complete [default: /var/cache/flmadm; for users ~/.cache/flmadm]
    #[arg(long, value_name = "DIR", help_heading = "Bundles")]
    pub(crate) cache_dir: Option<PathBuf>,
}

impl DownloadArgs {
    /// How large a bundle may be.
    pub(crate) fn limits(&self) -> Limits {
        self.max_size
            .map_or_else(Limits::default, |size| Limits::of_bundle(size.as_u64()))
    }

    /// Where downloads go.
    ///
    /// # Errors
    /// A user without a home has to say it.
    pub(crate) fn cache(&self, is_root: bool) -> Outcome<PathBuf> {
        if let Some(directory) = &self.cache_dir {
            return Ok(directory.clone());
        }
        if is_root {
            return Ok(PathBuf::from(SYSTEM_CACHE));
        }
        let set = |name: &str| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
        cache.map(|cache| cache.join("flmadm")).ok_or_else(|| {
            Failure::arguments("there is no place for downloads: HOME is not set")
                .hint("say it with --cache-dir")
        })
    }
}

impl BundleArgs {
    /// What a bundle must be like on this machine for the installation in `prefix`, where `installed` is now.
    ///
    /// # Errors
    /// A key cannot be read, or what is installed has no version.
    pub(crate) fn policy(&self, prefix: &Path, installed: Option<&str>) -> Outcome<Policy> {
        let mut trusted = TrustedKeys::of(prefix)?;
        for path in &self.keys {
            trusted.add_file(path)?;
        }
        for text in &self.public_keys {
            trusted.add_text(text, "--public-key")?;
        }
        let installed = installed.map(Version::parse).transpose().map_err(|error| {
            Failure::installation("the manifest of the installation has no version").because(error)
        })?;
        Ok(Policy {
            trusted,
            allow: Allow {
                unsigned: self.allow_unsigned,
                unknown_key: self.allow_unknown_key,
                downgrade: self.allow_downgrade,
                foreign_architecture: self.allow_foreign_arch,
            },
            machine: Machine::this(),
            installed,
            limits: self.download.limits(),
        })
    }
}
