//! Files on the disk, compared with those that were installed.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;

use super::expected::{Expected, What};
use crate::failure::Outcome;
use crate::host::{Host, Ids};
use crate::manifest::sha256_of;

/// Something that is not as it was installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Finding {
    /// What kind of difference it is.
    pub(crate) kind: Kind,
    /// The file, directory or unit.
    pub(crate) what: String,
    /// What is different, in words.
    pub(crate) difference: String,
}

/// Kind of a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// It is gone.
    Missing,
    /// Its contents are others.
    Changed,
    /// Its permission bits are others.
    Mode,
    /// It belongs to somebody else.
    Owner,
    /// systemd uses another file, or has not read this one.
    Unit,
    /// It is there, and nobody installed it. No harm by itself.
    Extra,
    /// A configuration that was edited. No harm by itself.
    Edited,
    /// It cannot be looked at, e.g. without root. No harm by itself.
    Unreadable,
}

impl Kind {
    /// Whether something has to be mended.
    pub(crate) fn is_drift(self) -> bool {
        !matches!(self, Self::Extra | Self::Edited | Self::Unreadable)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Changed => "changed",
            Self::Mode => "mode",
            Self::Owner => "owner",
            Self::Unit => "unit",
            Self::Extra => "extra",
            Self::Edited => "edited",
            Self::Unreadable => "unreadable",
        }
    }
}

/// How `expected` differs from what is there.
pub(super) fn compare(host: &dyn Host, expected: &Expected) -> Outcome<Vec<Finding>> {
    let path = &expected.path;
    let finding = |kind, difference: String| Finding {
        kind,
        what: path.display().to_string(),
        difference,
    };
    let metadata = match path.symlink_metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(vec![finding(Kind::Missing, "it is not there".to_owned())]);
        }
        Err(error) => return Ok(vec![finding(Kind::Unreadable, error.to_string())]),
    };
    let mut found = Vec::new();
    match contents(path, &metadata, &expected.what) {
        Ok(Some((kind, difference))) => found.push(finding(kind, difference)),
        Ok(None) => {}
        Err(words) => found.push(finding(Kind::Unreadable, words)),
    }
    if metadata.is_symlink() {
        return Ok(found);
    }
    let mode = metadata.permissions().mode() & 0o7777;
    // A configuration may be hidden from others, but not be open to more.
    let fits = match expected.what {
        What::Edited { .. } => mode & !expected.mode == 0,
        _ => mode == expected.mode,
    };
    if !fits {
        let difference = format!("it is {mode:04o}, and was {:04o}", expected.mode);
        found.push(finding(Kind::Mode, difference));
    }
    let owner = host.sight().owner(path)?;
    let fits = match expected.what {
        // It may have the group of those who may read it.
        What::Edited { .. } => owner.uid == expected.owner.uid,
        _ => owner == expected.owner,
    };
    if !fits {
        let words = |ids: Ids| format!("{}:{}", ids.uid, ids.gid);
        let difference = format!("it is {}'s, and was {}'s", words(owner), words(expected.owner));
        found.push(finding(Kind::Owner, difference));
    }
    Ok(found)
}

/// How the contents differ; an error in words if they cannot be read.
fn contents(
    path: &Path,
    metadata: &std::fs::Metadata,
    what: &What,
) -> Result<Option<(Kind, String)>, String> {
    let other = |kind: &str| Ok(Some((Kind::Changed, format!("it is no {kind} any more"))));
    match what {
        What::Directory if metadata.is_dir() => Ok(None),
        What::Directory => other("directory"),
        What::Link { target } if metadata.is_symlink() => {
            let leads = path.read_link().map_err(|error| error.to_string())?;
            let same = leads == Path::new(target);
            Ok((!same).then(|| (Kind::Changed, format!("it leads to {}", leads.display()))))
        }
        What::Link { .. } => other("link"),
        What::File { .. } | What::Edited { .. } if !metadata.is_file() => other("file"),
        What::File { sha256 } => Ok((hash(path)? != *sha256).then(|| {
            let difference = "its contents are not those that were installed";
            (Kind::Changed, difference.to_owned())
        })),
        What::Edited { sha256 } => Ok((hash(path)? != *sha256).then(|| {
            let difference = "it was edited after the installation; flmadm config check checks it";
            (Kind::Edited, difference.to_owned())
        })),
    }
}

fn hash(path: &Path) -> Result<String, String> {
    match sha256_of(path) {
        Ok(hash) => Ok(hash.unwrap_or_default()),
        Err(failure) => Err(failure.chain()),
    }
}
