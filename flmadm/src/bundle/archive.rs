//! Reads a bundle's archive strictly: only what [`super::write`] makes is taken, and every byte is accounted for.
//!
//! The order of entries is that of the manifest, so each entry is known before it is looked at. Contents are handed
//! on in pieces while they are hashed, and never more than the manifest says.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Read};

use sha2::{Digest, Sha256};
use tar::EntryType;

use super::hashed::hex;
use super::limits::{self, Limits};
use super::manifest::{self, BundleFile, BundleManifest, FILE_MODE};
use super::refusal::Refusal;

/// Size of a block of a tar archive.
pub(super) const BLOCK: u64 = 512;
/// Bytes that are handed on at once.
const PIECE: usize = 64 << 10;

/// What is done with an archive while it is read.
pub(super) trait Sink {
    /// The manifest, before any file.
    fn manifest(&mut self, manifest: &BundleManifest, text: &[u8]) -> Result<(), Refusal>;
    /// A file begins.
    fn begin(&mut self, _: &BundleFile) -> Result<(), Refusal> {
        Ok(())
    }
    /// More of its contents.
    fn piece(&mut self, _: &[u8]) -> Result<(), Refusal> {
        Ok(())
    }
    /// It is complete, and as the manifest says.
    fn end(&mut self) -> Result<(), Refusal> {
        Ok(())
    }
}

/// Reads the bundle `raw` up to its end and hands what is in it to `sink`.
///
/// # Errors
/// It is not exactly a bundle, or `sink` refuses it.
pub(super) fn read(raw: impl Read, limits: &Limits, sink: &mut dyn Sink) -> Result<(), Refusal> {
    let mut raw = BufReader::with_capacity(PIECE, raw);
    let mut decoder = zstd::Decoder::with_buffer(&mut raw)
        .map_err(broken)?
        .single_frame();
    decoder.window_log_max(limits::WINDOW_LOG).map_err(broken)?;
    // The entries are bounded one by one; this is for what is around them.
    let blocks = (limits.files as u64 + 4) * 2 * BLOCK;
    let most = limits
        .unpacked
        .saturating_add(limits::MANIFEST)
        .saturating_add(blocks);
    let mut archive = tar::Archive::new((&mut decoder).take(most));
    entries(&mut archive, limits, sink)?;
    end_of_archive(archive.into_inner())?;
    drop(decoder);
    match raw.fill_buf().map_err(broken)? {
        [] => Ok(()),
        _ => Err(Refusal::Trailing),
    }
}

fn broken(error: io::Error) -> Refusal {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Refusal::Truncated,
        _ => Refusal::Broken(error),
    }
}

/// Behind the last entry there are two blocks of zeros, of which the first has been read, and then nothing.
fn end_of_archive(mut rest: impl Read) -> Result<(), Refusal> {
    let mut block = [0; BLOCK as usize];
    rest.read_exact(&mut block).map_err(broken)?;
    let more = rest.read(&mut [0]).map_err(broken)?;
    if more > 0 || block.iter().any(|byte| *byte != 0) {
        return Err(Refusal::Trailing);
    }
    Ok(())
}

fn entries<R: Read>(
    archive: &mut tar::Archive<R>,
    limits: &Limits,
    sink: &mut dyn Sink,
) -> Result<(), Refusal> {
    // Raw: what other archives use for long names and the like is an entry of its own here, and refused as such.
    let mut entries = archive.entries().map_err(broken)?.raw(true);
    let first = entries.next().ok_or(Refusal::Truncated)?;
    let manifest = read_manifest(first.map_err(broken)?, limits, sink)?;
    let mut expected = manifest.files.iter();
    let mut seen = BTreeSet::from([manifest::NAME.to_owned()]);
    for entry in entries {
        let mut entry = entry.map_err(broken)?;
        let head = Head::of(entry.header())?;
        if !seen.insert(head.path.clone()) {
            return Err(Refusal::Duplicate(head.path));
        }
        let file = match expected.next() {
            Some(file) if file.path == head.path => file,
            Some(other) if manifest.files.iter().any(|file| file.path == head.path) => {
                return Err(Refusal::Missing(other.path.clone()));
            }
            _ => return Err(Refusal::Extra(head.path)),
        };
        head.check(file)?;
        contents(&mut entry, file, sink)?;
    }
    match expected.next() {
        Some(file) => Err(Refusal::Missing(file.path.clone())),
        None => Ok(()),
    }
}

fn read_manifest(
    mut entry: tar::Entry<'_, impl Read>,
    limits: &Limits,
    sink: &mut dyn Sink,
) -> Result<BundleManifest, Refusal> {
    let head = Head::of(entry.header())?;
    if head.path != manifest::NAME || head.mode != FILE_MODE {
        return Err(Refusal::Missing(manifest::NAME.to_owned()));
    }
    if head.size > limits::MANIFEST {
        return Err(Refusal::TooLarge {
            what: "its manifest".to_owned(),
            limit: limits::MANIFEST,
        });
    }
    let mut text = Vec::new();
    entry.read_to_end(&mut text).map_err(broken)?;
    if text.len() as u64 != head.size {
        return Err(Refusal::Truncated);
    }
    let manifest = BundleManifest::parse(&text, limits)?;
    sink.manifest(&manifest, &text)?;
    Ok(manifest)
}

fn contents(entry: &mut impl Read, file: &BundleFile, sink: &mut dyn Sink) -> Result<(), Refusal> {
    sink.begin(file)?;
    let mut hasher = Sha256::new();
    let mut left = file.size;
    let mut buffer = vec![0; PIECE];
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        let length = entry.read(&mut buffer[..most]).map_err(broken)?;
        if length == 0 {
            return Err(Refusal::Truncated);
        }
        hasher.update(&buffer[..length]);
        sink.piece(&buffer[..length])?;
        left -= length as u64;
    }
    if hex(&hasher.finalize()) != file.sha256 {
        return Err(Refusal::Differs {
            path: file.path.clone(),
            what: "the hash",
        });
    }
    sink.end()
}

/// What the header of an entry says.
struct Head {
    path: String,
    mode: u32,
    size: u64,
}

impl Head {
    /// # Errors
    /// It is not that of a plain file with a plain path.
    fn of(header: &tar::Header) -> Result<Self, Refusal> {
        let path = String::from_utf8_lossy(&header.path_bytes()).into_owned();
        let kind = match header.entry_type() {
            EntryType::Regular if header.as_ustar().is_some() => None,
            EntryType::Link => Some("a hard link"),
            EntryType::Symlink => Some("a symbolic link"),
            EntryType::Char | EntryType::Block => Some("a device"),
            EntryType::Fifo => Some("a named pipe"),
            EntryType::Directory => Some("a directory"),
            _ => Some("something else"),
        };
        if let Some(kind) = kind {
            return Err(Refusal::Kind { path, kind });
        }
        manifest::check_path(&path)?;
        Ok(Self {
            path,
            mode: header.mode().map_err(broken)?,
            size: header.size().map_err(broken)?,
        })
    }

    fn check(&self, file: &BundleFile) -> Result<(), Refusal> {
        let differs = |what| {
            Err(Refusal::Differs {
                path: file.path.clone(),
                what,
            })
        };
        if self.size != file.size {
            return differs("the size");
        }
        if self.mode != file.mode {
            return differs("the mode");
        }
        Ok(())
    }
}
