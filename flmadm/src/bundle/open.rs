//! Opens a bundle: all of it is checked before anything of it can be used.
//!
//! The file is opened once and read three times: for the signature, for everything that the archive says, and to
//! unpack. Somebody who can write to the file could change it in between, so the second reading must have the hash
//! of the first, and the third must have every file as the second did.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use semver::Version;

use super::archive::{self, Sink};
use super::hashed::{Hashed, Positioned};
use super::limits;
use super::manifest::BundleManifest;
use super::policy::Policy;
use super::refusal::Refusal;
use super::signature::{Claim, Trust};
use super::unpack::Unpacker;

/// A bundle's file and its signature's, as they lie on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Located {
    pub(crate) bundle: PathBuf,
    /// `None` if there is none.
    pub(crate) signature: Option<PathBuf>,
}

/// A bundle that has passed every check.
#[derive(Debug)]
pub(crate) struct VerifiedBundle {
    file: File,
    manifest: BundleManifest,
    text: Vec<u8>,
    trust: Trust,
    sha256: String,
    size: u64,
    policy: Policy,
}

/// Checks the bundle: signature, manifest, and every byte of the archive.
///
/// # Errors
/// Something is not as `policy` wants it. Nothing has been written then.
pub(crate) fn open(located: &Located, policy: &Policy) -> Result<VerifiedBundle, Refusal> {
    let file = open_regular(&located.bundle)?;
    let (trust, sha256, size) = check_origin(&file, located, policy)?;
    policy.accept_origin(&trust)?;
    let mut looked = Look {
        policy,
        manifest: None,
    };
    let mut raw = Hashed::new(Positioned::new(&file));
    archive::read(&mut raw, &policy.limits, &mut looked)?;
    if raw.finish() != sha256 {
        return Err(Refusal::Changed);
    }
    let (manifest, text) = looked.manifest.ok_or(Refusal::Truncated)?;
    Ok(VerifiedBundle {
        file,
        manifest,
        text,
        trust,
        sha256,
        size,
        policy: policy.clone(),
    })
}

/// The manifest of a bundle, of which nothing is checked but that it can be read.
///
/// # Errors
/// It cannot.
pub(crate) fn peek(located: &Located, limits: &limits::Limits) -> Result<(BundleManifest, Trust), Refusal> {
    /// Stops behind the manifest.
    struct Peek(Option<BundleManifest>);
    impl Sink for Peek {
        fn manifest(&mut self, manifest: &BundleManifest, _: &[u8]) -> Result<(), Refusal> {
            self.0 = Some(manifest.clone());
            Err(Refusal::Truncated)
        }
    }
    let file = open_regular(&located.bundle)?;
    let mut peek = Peek(None);
    let stopped = archive::read(Positioned::new(&file), limits, &mut peek);
    let manifest = match (peek.0, stopped) {
        (Some(manifest), _) => manifest,
        (None, stopped) => return Err(stopped.err().unwrap_or(Refusal::Truncated)),
    };
    let trust = match &located.signature {
        Some(path) => Trust::UnknownKey {
            key_id: Claim::parse(&signature_text(path)?)?.key_id().to_owned(),
        },
        None => Trust::Unsigned,
    };
    Ok((manifest, trust))
}

/// Opens a file without waiting for the other end of a pipe.
fn open_regular(path: &Path) -> Result<File, Refusal> {
    let unreadable = |source| Refusal::Unreadable {
        path: path.to_path_buf(),
        source,
    };
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map_err(unreadable)?;
    if file.metadata().map_err(unreadable)?.is_file() {
        Ok(file)
    } else {
        Err(Refusal::NotRegular(path.to_path_buf()))
    }
}

fn signature_text(path: &Path) -> Result<String, Refusal> {
    let file = open_regular(path)?;
    let mut text = String::new();
    file.take(limits::SIGNATURE)
        .read_to_string(&mut text)
        .map_err(|source| Refusal::Unreadable {
            path: path.to_path_buf(),
            source,
        })?;
    Ok(text)
}

/// Whose the file is, its hash, and its size.
fn check_origin(file: &File, located: &Located, policy: &Policy) -> Result<(Trust, String, u64), Refusal> {
    let text = located.signature.as_deref().map(signature_text).transpose()?;
    let claim = text.as_deref().map(Claim::parse).transpose()?;
    let mut check = claim
        .as_ref()
        .map(|claim| claim.check(&policy.trusted))
        .transpose()?;
    let mut raw = Hashed::new(Positioned::new(file));
    let mut buffer = vec![0; 64 << 10];
    let mut size = 0;
    loop {
        let length = raw.read(&mut buffer).map_err(|source| Refusal::Unreadable {
            path: located.bundle.clone(),
            source,
        })?;
        if length == 0 {
            break;
        }
        size += length as u64;
        if size > policy.limits.bundle {
            return Err(Refusal::TooLarge {
                what: "the bundle".to_owned(),
                limit: policy.limits.bundle,
            });
        }
        if let Some(check) = &mut check {
            check.update(&buffer[..length]);
        }
    }
    let trust = match check {
        Some(check) => check.finish()?,
        None => Trust::Unsigned,
    };
    Ok((trust, raw.finish(), size))
}

/// Takes the manifest, if it is acceptable, and only looks at the rest.
struct Look<'a> {
    policy: &'a Policy,
    manifest: Option<(BundleManifest, Vec<u8>)>,
}

impl Sink for Look<'_> {
    fn manifest(&mut self, manifest: &BundleManifest, text: &[u8]) -> Result<(), Refusal> {
        self.policy.accept_purpose(manifest)?;
        self.manifest = Some((manifest.clone(), text.to_vec()));
        Ok(())
    }
}

impl VerifiedBundle {
    /// Version of Flame in it.
    pub(crate) fn version(&self) -> &Version {
        &self.manifest.version
    }

    /// What it is for, and every file with its hash.
    pub(crate) fn manifest(&self) -> &BundleManifest {
        &self.manifest
    }

    /// The text of that.
    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }

    /// Who made it.
    pub(crate) fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Hash of the bundle's file in hexadecimal.
    pub(crate) fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Bytes of the bundle's file.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Writes every file below `directory`, which is made and must not be there, and syncs all of it.
    ///
    /// # Errors
    /// A file cannot be written, or the bundle was changed since it was checked. The directory is removed then.
    pub(crate) fn unpack_into(&self, directory: &Path) -> Result<(), Refusal> {
        let mut unpacker = Unpacker::new(directory, &self.text)?;
        archive::read(Positioned::new(&self.file), &self.policy.limits, &mut unpacker).map_err(
            |refusal| {
                match refusal {
                    Refusal::Unpack { .. } => refusal,
                    // It has been complete and right before.
                    _ => Refusal::Changed,
                }
            },
        )?;
        unpacker.finish()
    }
}
