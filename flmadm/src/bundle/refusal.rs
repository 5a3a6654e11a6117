//! Why a bundle is not taken. Each reason that can be overruled names the flag that does it.

use std::io;
use std::path::PathBuf;

use bytesize::ByteSize;
use semver::Version;
use thiserror::Error;

use super::manifest::FORMAT;
use crate::failure::{Failure, Kind};

/// Why a bundle is refused.
#[derive(Debug, Error)]
pub(crate) enum Refusal {
    #[error("cannot read {}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{} is not a file", .0.display())]
    NotRegular(PathBuf),
    #[error("it has no signature")]
    Unsigned,
    #[error("its signature is of the key {0}, which is not trusted here")]
    UnknownKey(String),
    #[error("its signature is not one of minisign: {0}")]
    SignatureFormat(String),
    #[error("its signature does not fit: the bundle or the signature was changed, or it is of another file")]
    Signature,
    #[error("it is broken or not a bundle of Flame")]
    Broken(#[source] io::Error),
    #[error("it is not complete: it ends in the middle")]
    Truncated,
    #[error("there is something behind its end")]
    Trailing,
    #[error("its manifest is wrong: {0}")]
    Manifest(String),
    #[error("its format is {found}, and this flmadm reads {FORMAT}")]
    Format { found: u32 },
    #[error("it contains a file with the path {0:?}")]
    Path(String),
    #[error("{path} is not a file but {kind}")]
    Kind { path: String, kind: &'static str },
    #[error("it has {0} twice")]
    Duplicate(String),
    #[error("{0} is in it and not in its manifest")]
    Extra(String),
    #[error("{0} is in its manifest and not in it")]
    Missing(String),
    #[error("{path} is not as its manifest says: {what} differs")]
    Differs { path: String, what: &'static str },
    #[error("{what} would be larger than {}", ByteSize::b(*limit).display().iec())]
    TooLarge { what: String, limit: u64 },
    #[error("it is for {found} machines, and this one is {here}")]
    ForeignArchitecture { found: String, here: String },
    #[error("its programs need {needs}, which this machine does not have")]
    ForeignSystem { needs: String },
    #[error("its version is {found}, and {installed} is installed")]
    Older { found: Version, installed: Version },
    #[error("{found} cannot replace {installed} directly, only {minimum} or later")]
    TooFar {
        found: Version,
        installed: Version,
        minimum: Version,
    },
    #[error("it was changed while it was read")]
    Changed,
    #[error("cannot write {}", path.display())]
    Unpack { path: PathBuf, source: io::Error },
}

impl Refusal {
    /// What an administrator can do.
    fn hint(&self) -> String {
        match self {
            Self::Unreadable { .. } | Self::NotRegular(_) => {
                "the argument is the path or the https address of a file made by flmadm bundle create".to_owned()
            }
            Self::Unsigned => {
                "the signature lies beside the bundle with .minisig added; --allow-unsigned takes it without".to_owned()
            }
            Self::UnknownKey(_) => "give the publisher's key with --key or --public-key, or put it into \
                 PREFIX/conf/trusted-keys; --allow-unknown-key takes the bundle without a check of who made it"
                .to_owned(),
            Self::ForeignArchitecture { .. } | Self::ForeignSystem { .. } => {
                "get the bundle for this machine; --allow-foreign-arch takes this one".to_owned()
            }
            Self::Older { .. } => "--allow-downgrade takes it, but it may not read the newer one's data".to_owned(),
            Self::TooFar { minimum, .. } => format!("upgrade to {minimum} first"),
            Self::TooLarge { .. } => "--max-size lets the bundle be larger".to_owned(),
            Self::Format { .. } => "use the flmadm of that release".to_owned(),
            Self::Unpack { .. } => "see that there is room, and that you may write there".to_owned(),
            _ => "get the bundle again from where it is published; nothing of it was used".to_owned(),
        }
    }

    /// Decides the exit code.
    fn kind(&self) -> Kind {
        match self {
            Self::Unpack { .. } => Kind::Installation,
            _ => Kind::Arguments,
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let (kind, hint) = (refusal.kind(), refusal.hint());
        Self::new(kind, "the bundle is refused")
            .because(refusal)
            .hint(hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_overruled_names_its_flag() {
        let version = Version::new(1, 0, 0);
        for (refusal, flag) in [
            (Refusal::Unsigned, "--allow-unsigned"),
            (Refusal::UnknownKey("1".to_owned()), "--allow-unknown-key"),
            (
                Refusal::ForeignArchitecture {
                    found: "a".to_owned(),
                    here: "b".to_owned(),
                },
                "--allow-foreign-arch",
            ),
            (
                Refusal::ForeignSystem {
                    needs: "/lib/x".to_owned(),
                },
                "--allow-foreign-arch",
            ),
            (
                Refusal::Older {
                    found: version.clone(),
                    installed: version,
                },
                "--allow-downgrade",
            ),
        ] {
            let failure = Failure::from(refusal);
            assert_eq!(failure.kind, Kind::Arguments);
            assert!(failure.report().contains(flag), "{}", failure.report());
        }
        // A wrong signature cannot be overruled.
        assert!(!Failure::from(Refusal::Signature).report().contains("--allow"));
    }
}
