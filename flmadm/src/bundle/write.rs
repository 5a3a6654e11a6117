//! Writes bundles, byte for byte the same for the same contents: everything is in order, nothing tells who made the
//! bundle or when, and there is one compression with one thread.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use flame_core::fsutil::replace_atomic;

use super::archive::BLOCK;
use super::contents::{Contents, Item};
use super::hashed::Hashed;
use super::manifest::{self, BundleFile, BundleManifest, FILE_MODE};
use crate::failure::{Failure, Outcome};

/// Level of zstd: for 90 MiB of programs 15 takes five times as long and saves 2 %.
const LEVEL: i32 = 9;

/// Size and hash of every item, for the manifest.
///
/// # Errors
/// A file cannot be read.
pub(super) fn measure(items: &[Item]) -> Outcome<Vec<BundleFile>> {
    items
        .iter()
        .map(|item| {
            let (size, sha256) = match &item.contents {
                Contents::Text(text) => (text.len() as u64, crate::manifest::sha256(text)),
                Contents::File(path) => File::open(path)
                    .and_then(digest)
                    .map_err(|error| Failure::path("read", path, error))?,
            };
            Ok(BundleFile {
                path: item.path.clone(),
                mode: item.mode,
                size,
                sha256,
            })
        })
        .collect()
}

fn digest(from: impl Read) -> io::Result<(u64, String)> {
    let mut hashed = Hashed::new(from);
    let size = io::copy(&mut hashed, &mut io::sink())?;
    Ok((size, hashed.finish()))
}

/// Writes the bundle of `manifest` with the contents of `items` to `out`; every entry has the time `epoch` in
/// seconds.
///
/// # Errors
/// A file cannot be read or written, or is not as it was when it was measured.
pub(super) fn write(out: &Path, manifest: &BundleManifest, items: &[Item], epoch: u64) -> Outcome<()> {
    replace_atomic(out, 0o644, |file| archive(file, manifest, items, epoch)).map_err(Failure::from)
}

fn archive(file: &mut File, manifest: &BundleManifest, items: &[Item], epoch: u64) -> io::Result<()> {
    let mut encoder = zstd::Encoder::new(io::BufWriter::new(file), LEVEL)?;
    encoder.include_checksum(true)?;
    let text = manifest.text()?;
    // Known in advance, it lets small archives be made with little memory.
    encoder.set_pledged_src_size(Some(archive_size(manifest, text.len() as u64)))?;
    let mut archive = tar::Builder::new(encoder);
    let head = header(manifest::NAME, text.len() as u64, FILE_MODE, epoch)?;
    archive.append(&head, text.as_slice())?;
    for (item, file) in items.iter().zip(&manifest.files) {
        let head = header(&file.path, file.size, file.mode, epoch)?;
        let sha256 = match &item.contents {
            Contents::Text(text) => append(&mut archive, &head, file, text.as_slice()),
            Contents::File(path) => append(&mut archive, &head, file, File::open(path)?),
        }?;
        if sha256 != file.sha256 {
            return Err(changed(file));
        }
    }
    archive.into_inner()?.finish()?.flush()
}

/// Bytes of the archive: every file with its header, in whole blocks, and two blocks at the end.
fn archive_size(manifest: &BundleManifest, text: u64) -> u64 {
    let files = manifest.files.iter().map(|file| file.size);
    let entries = files
        .chain([text])
        .map(|size| BLOCK + size.next_multiple_of(BLOCK));
    entries.sum::<u64>() + 2 * BLOCK
}

fn append(
    archive: &mut tar::Builder<impl Write>,
    head: &tar::Header,
    file: &BundleFile,
    from: impl Read,
) -> io::Result<String> {
    let mut hashed = Hashed::new(from.take(file.size));
    archive.append(head, &mut hashed)?;
    Ok(hashed.finish())
}

fn changed(file: &BundleFile) -> io::Error {
    io::Error::other(format!("{} was changed while the bundle was made", file.path))
}

fn header(path: &str, size: u64, mode: u32, epoch: u64) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_ustar();
    header.set_path(path)?;
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(epoch);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    Ok(header)
}

#[cfg(test)]
mod tests {
    use semver::Version;

    use super::*;
    use crate::bundle::manifest::{FORMAT, PROGRAM_MODE, SYSTEM};

    #[test]
    fn a_program_that_changes_meanwhile_makes_no_bundle() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (program, out) = (
            directory.path().join("flmctl"),
            directory.path().join("flame.tar.zst"),
        );
        std::fs::write(&program, "before").expect("written");
        let items = [Item {
            path: "bin/flmctl".to_owned(),
            mode: PROGRAM_MODE,
            contents: Contents::File(program.clone()),
        }];
        let manifest = BundleManifest {
            format: FORMAT,
            version: Version::new(1, 0, 0),
            minimum_version: Version::new(1, 0, 0),
            system: SYSTEM.to_owned(),
            architecture: "x86_64".to_owned(),
            interpreter: None,
            glibc: None,
            files: measure(&items).expect("measured"),
        };
        for contents in ["behind", "longer than before", "less"] {
            std::fs::write(&program, contents).expect("written");
            write(&out, &manifest, &items, 0).expect_err(contents);
            assert!(!out.exists(), "{contents}");
        }
        // With the contents that were measured it is made.
        std::fs::write(&program, "before").expect("written");
        write(&out, &manifest, &items, 0).expect("made");
    }
}
