//! `flmadm bundle create`.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Serialize;

use super::args::CreateArgs;
use super::contents::{self, Item};
use super::elf::Needs;
use super::keys::{Password, Signer};
use super::limits::Limits;
use super::manifest::{BundleManifest, FORMAT, SYSTEM};
use super::{size_text, write};
use crate::compile;
use crate::failure::{Failure, Outcome};
use crate::manifest::sha256_of;
use crate::output::Output;

/// Time of every file in seconds since 1970, as reproducible-builds.org has it.
const EPOCH_VARIABLE: &str = "SOURCE_DATE_EPOCH";

/// The bundle that was made.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Created {
    /// The bundle's file.
    pub(crate) bundle: PathBuf,
    /// Its signature, if it was signed.
    pub(crate) signature: Option<PathBuf>,
    /// Number of the key that it was signed with.
    pub(crate) key_id: Option<String>,
    /// Version of Flame in it.
    pub(crate) version: String,
    /// Machine that it is for.
    pub(crate) architecture: String,
    /// Number of its files.
    pub(crate) files: usize,
    /// Bytes of the bundle.
    pub(crate) size: u64,
    /// Bytes of all its files.
    pub(crate) unpacked_size: u64,
    /// SHA-256 hash of the bundle in hexadecimal.
    pub(crate) sha256: String,
}

/// Makes a bundle.
///
/// # Errors
/// The programs cannot be built or are not there; a key or a file cannot be used.
pub(super) fn run(args: &CreateArgs, output: &mut Output<'_>) -> Outcome<()> {
    let epoch = epoch(std::env::var(EPOCH_VARIABLE).ok().as_deref())?;
    // Before the build, which takes minutes: a password that is wrong or a key that is missing.
    let signer = match &args.sign {
        Some(key) => Some(Signer::load(key, Password::from_environment())?),
        None => None,
    };
    let built = compile::directory(&args.build, &contents::programs(), false, output)?;
    let (items, needs) = contents::collect(&built, &args.wheels, &args.build.src_dir)?;
    let created = create(args, &items, needs, epoch, signer.as_ref())?;
    output.json(&created);
    for line in lines(&created) {
        output.line(&line);
    }
    Ok(())
}

fn create(
    args: &CreateArgs,
    items: &[Item],
    needs: Needs,
    epoch: u64,
    signer: Option<&Signer>,
) -> Outcome<Created> {
    let manifest = BundleManifest {
        format: FORMAT,
        version: args.release_version.clone(),
        minimum_version: args.minimum_version.clone(),
        system: SYSTEM.to_owned(),
        architecture: needs.architecture.to_owned(),
        interpreter: needs.interpreter,
        glibc: needs.glibc,
        files: write::measure(items)?,
    };
    if manifest.minimum_version.cmp_precedence(&manifest.version).is_gt() {
        return Err(Failure::arguments(format!(
            "--minimum-version {} is above the version {} of the bundle",
            manifest.minimum_version, manifest.version
        )));
    }
    // What nobody could open is not made.
    manifest.check(&Limits::default())?;
    let bundle = place(&args.out, &manifest)?;
    write::write(&bundle, &manifest, items, epoch)?;
    let sha256 = sha256_of(&bundle)?.unwrap_or_default();
    let signature = match signer {
        Some(signer) => Some(signer.sign(&bundle, &comment(&bundle, &manifest))?),
        None => None,
    };
    let metadata = bundle
        .metadata()
        .map_err(|error| Failure::path("look at", &bundle, error))?;
    Ok(Created {
        signature,
        key_id: signer.map(Signer::key_id),
        version: manifest.version.to_string(),
        architecture: manifest.architecture.clone(),
        files: manifest.files.len(),
        size: metadata.len(),
        unpacked_size: manifest.unpacked_size(),
        sha256,
        bundle,
    })
}

fn place(out: &Path, manifest: &BundleManifest) -> Outcome<PathBuf> {
    if out.is_dir() {
        let name = format!("flame-{}-{}.tar.zst", manifest.version, manifest.architecture);
        // Without the dot, as people would write it.
        let directory = out.strip_prefix(".").unwrap_or(out);
        return Ok(directory.join(name));
    }
    match out.to_str() {
        Some(text) if text.ends_with(".tar.zst") => Ok(out.to_path_buf()),
        _ => Err(Failure::arguments(format!(
            "{} is no directory and no name of a bundle",
            out.display()
        ))
        .hint("--out takes a directory that is there, or a file with the ending .tar.zst")),
    }
}

/// What the signer says about the file, as minisign words it.
fn comment(bundle: &Path, manifest: &BundleManifest) -> String {
    let name = bundle.file_name().unwrap_or_default().to_string_lossy();
    format!(
        "file:{name}\tflame {} for {}",
        manifest.version, manifest.architecture
    )
}

fn epoch(variable: Option<&str>) -> Outcome<u64> {
    let text = variable.unwrap_or("0");
    // A tar header has eleven octal digits for it.
    text.parse::<u64>()
        .ok()
        .filter(|epoch| *epoch < 1 << 33)
        .ok_or_else(|| {
            Failure::arguments(format!(
                "{EPOCH_VARIABLE} is {text:?} and not a number of seconds since 1970"
            ))
            .hint("unset it, or set it to the time of the commit: git log -1 --format=%ct")
        })
}

/// The result for people.
pub(super) fn lines(created: &Created) -> Vec<String> {
    let mut lines = vec![
        format!(
            "Made {}: Flame {} for {}",
            created.bundle.display(),
            created.version,
            created.architecture
        ),
        format!(
            "  {} files, {}, unpacked {}",
            created.files,
            size_text(created.size),
            size_text(created.unpacked_size)
        ),
        format!("  SHA-256 {}", created.sha256),
    ];
    match (&created.signature, &created.key_id) {
        (Some(signature), Some(key_id)) => {
            lines.push(format!("  signed with the key {key_id}: {}", signature.display()));
        }
        _ => lines.push("  not signed; --sign KEY signs it, and bundle keygen makes a key".to_owned()),
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_that_a_header_can_hold() {
        assert_eq!(epoch(None).expect("default"), 0);
        assert_eq!(epoch(Some("1700000000")).expect("a time"), 1_700_000_000);
        for text in ["", "now", "-1", "8589934592"] {
            epoch(Some(text)).expect_err(text);
        }
    }
}
