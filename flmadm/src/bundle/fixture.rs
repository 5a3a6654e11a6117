//! Bundles for tests: good ones, and those that nobody should take.

use std::path::{Path, PathBuf};

use minisign::KeyPair;
use semver::Version;

use super::keys::with_extension;
use super::limits::Limits;
use super::manifest::{BundleFile, BundleManifest, FILE_MODE, FORMAT, NAME, PROGRAM_MODE, SYSTEM};
use super::open::Located;
use super::policy::{Allow, Machine, Policy};
use super::signature::{EXTENSION, TrustedKeys};
use crate::manifest::sha256;

/// Machine of the bundles and of the policy.
pub(crate) const ARCHITECTURE: &str = "x86_64";

/// An entry of an archive, which need not be as entries should.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) path: String,
    pub(super) kind: u8,
    pub(super) mode: u32,
    /// What the header says, if it is not the truth.
    pub(super) size: Option<u64>,
    pub(super) contents: Vec<u8>,
}

impl Entry {
    pub(super) fn new(path: &str, mode: u32, contents: &[u8]) -> Self {
        Self {
            path: path.to_owned(),
            kind: b'0',
            mode,
            size: None,
            contents: contents.to_vec(),
        }
    }

    /// The header is made by hand: the crate refuses to make bad ones.
    fn write(&self, archive: &mut Vec<u8>) {
        let mut header = tar::Header::new_ustar();
        let size = self.size.unwrap_or(self.contents.len() as u64);
        header.set_mode(self.mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        header.as_mut_bytes()[..self.path.len()].copy_from_slice(self.path.as_bytes());
        header.as_mut_bytes()[156] = self.kind;
        if [b'1', b'2'].contains(&self.kind) {
            header.as_mut_bytes()[157..168].copy_from_slice(b"/etc/passwd");
        }
        header.set_cksum();
        archive.extend_from_slice(header.as_bytes());
        archive.extend_from_slice(&self.contents);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
}

/// A bundle that is being made up.
#[derive(Debug, Clone)]
pub(crate) struct Fixture {
    pub(crate) manifest: BundleManifest,
    pub(super) entries: Vec<Entry>,
    /// Blocks of zeros at the end of the archive.
    pub(super) end: usize,
    /// What is behind the end of the archive, inside of the compression.
    pub(super) inside: Vec<u8>,
    /// What is behind the compression.
    pub(super) outside: Vec<u8>,
}

impl Fixture {
    /// A good bundle with these files, of which those in `bin/` and `sbin/` are programs.
    pub(crate) fn new(version: &str, files: &[(&str, &[u8])]) -> Self {
        let mut fixture = Self {
            manifest: BundleManifest {
                format: FORMAT,
                version: version.parse().expect("a version"),
                minimum_version: Version::new(0, 1, 0),
                system: SYSTEM.to_owned(),
                architecture: ARCHITECTURE.to_owned(),
                interpreter: None,
                glibc: None,
                files: Vec::new(),
            },
            entries: Vec::new(),
            end: 2,
            inside: Vec::new(),
            outside: Vec::new(),
        };
        for (path, contents) in files {
            fixture.add(path, contents);
        }
        fixture
    }

    /// One with a program, a text, and an empty file.
    pub(crate) fn small() -> Self {
        let program: Vec<u8> = (0..3_000_u32).flat_map(u32::to_le_bytes).collect();
        Self::new(
            "1.2.3",
            &[
                ("bin/flmctl", &program),
                ("sbin/flmadm", b"program flmadm"),
                ("share/doc/empty", b""),
                ("units/flame.target", b"[Unit]\n"),
            ],
        )
    }

    fn add(&mut self, path: &str, contents: &[u8]) {
        let is_program = path.starts_with("bin/") || path.starts_with("sbin/");
        let mode = if is_program { PROGRAM_MODE } else { FILE_MODE };
        self.manifest.files.push(BundleFile {
            path: path.to_owned(),
            mode,
            size: contents.len() as u64,
            sha256: sha256(contents),
        });
        self.entries.push(Entry::new(path, mode, contents));
    }

    /// The bytes of the bundle.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.bytes_with(&self.manifest.text().expect("text"))
    }

    /// The same with this text as the manifest.
    pub(super) fn bytes_with(&self, manifest: &[u8]) -> Vec<u8> {
        let mut archive = Vec::new();
        Entry::new(NAME, FILE_MODE, manifest).write(&mut archive);
        for entry in &self.entries {
            entry.write(&mut archive);
        }
        archive.resize(archive.len() + self.end * 512, 0);
        archive.extend_from_slice(&self.inside);
        let mut bytes = zstd::encode_all(archive.as_slice(), 1).expect("compressed");
        bytes.extend_from_slice(&self.outside);
        bytes
    }
}

/// A directory with a bundle and a key that is trusted.
pub(crate) struct Shelf {
    pub(crate) directory: tempfile::TempDir,
    pub(super) keys: KeyPair,
}

impl Shelf {
    pub(crate) fn new() -> Self {
        Self {
            directory: tempfile::tempdir().expect("temporary directory"),
            keys: KeyPair::generate_unencrypted_keypair().expect("keys"),
        }
    }

    /// The public key as on a command line.
    pub(crate) fn public_key(&self) -> String {
        self.keys.pk.to_base64()
    }

    /// A place on it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a bundle without a signature.
    pub(super) fn unsigned(&self, bytes: &[u8]) -> Located {
        let bundle = self.path("flame.tar.zst");
        std::fs::write(&bundle, bytes).expect("written");
        Located {
            bundle,
            signature: None,
        }
    }

    /// Writes a bundle with its signature.
    pub(crate) fn signed(&self, bytes: &[u8]) -> Located {
        let signature = self.sign(&self.keys, bytes);
        let located = self.unsigned(bytes);
        let path = with_extension(&located.bundle, EXTENSION);
        std::fs::write(&path, signature).expect("written");
        Located {
            signature: Some(path),
            ..located
        }
    }

    /// The signature of `bytes`.
    pub(super) fn sign(&self, keys: &KeyPair, bytes: &[u8]) -> String {
        minisign::sign(None, &keys.sk, bytes, Some("test"), None)
            .expect("signed")
            .to_string()
    }

    /// A policy that trusts the key of the shelf and overrules nothing.
    pub(crate) fn policy(&self) -> Policy {
        let mut trusted = TrustedKeys::default();
        trusted.add_text(&self.public_key(), "the shelf").expect("a key");
        Policy {
            trusted,
            allow: Allow::default(),
            machine: Machine {
                architecture: ARCHITECTURE.to_owned(),
                root: PathBuf::from("/"),
            },
            installed: None,
            limits: Limits::default(),
        }
    }

    /// Everything that is on the shelf, to see that nothing was added.
    pub(super) fn listing(&self) -> Vec<PathBuf> {
        listing(self.directory.path())
    }
}

/// All paths below `directory`, in order.
pub(super) fn listing(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).expect("read") {
            let path = entry.expect("read").path();
            if path.is_dir() {
                open.push(path.clone());
            }
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A directory with everything that a bundle needs as a program: each has a header and its name.
pub(super) fn built(directory: &Path, machine: object::elf::Machine) {
    std::fs::create_dir_all(directory).expect("made");
    for program in super::contents::programs() {
        let mut bytes = vec![0; 64];
        bytes[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\x00");
        bytes[16] = 3;
        bytes[18..20].copy_from_slice(&machine.0.to_le_bytes());
        bytes[20] = 1;
        bytes.extend_from_slice(program.as_bytes());
        std::fs::write(directory.join(program), bytes).expect("written");
    }
}
