//! What machine a program is for, as its own header says.

use std::fs::File;
use std::path::Path;

use object::elf::{EM_AARCH64, EM_PPC64, EM_RISCV, EM_S390, EM_X86_64, FileHeader64};
use object::read::ReadCache;
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, ReadRef};

use super::glibc::{self, Glibc};
use crate::failure::{Failure, Kind, Outcome};

/// What a program needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Needs {
    /// Machine, as `uname -m` names it.
    pub(super) architecture: &'static str,
    /// Path of its loader; `None` if it is complete in itself.
    pub(super) interpreter: Option<String>,
    /// Lowest version of the GNU C library that it can use; `None` if it needs none.
    pub(super) glibc: Option<Glibc>,
}

impl Needs {
    /// What both need; `None` if no machine has that.
    pub(super) fn and(self, other: Self) -> Option<Self> {
        let fits = self.architecture == other.architecture && self.interpreter == other.interpreter;
        fits.then(|| Self {
            glibc: self.glibc.max(other.glibc),
            ..self
        })
    }
}

/// What the program at `path` needs.
///
/// # Errors
/// It is not a program, or for a machine that Flame does not know.
pub(super) fn needs(path: &Path) -> Outcome<Needs> {
    let file = File::open(path).map_err(|error| Failure::path("read", path, error))?;
    let wrong = |why: &str| {
        Failure::new(Kind::Build, format!("{} {why}", path.display()))
            .hint("--bin-dir names the directory with the programs as cargo has built them")
    };
    // Only the headers are read: programs with debug information are large.
    let cache = ReadCache::new(file);
    parse(&cache)
        .map_err(|error| wrong("is not a 64-bit program of Linux").because(error))?
        .ok_or_else(|| wrong("is for a machine that bundles cannot be made for"))
}

fn parse<'data, R: ReadRef<'data>>(data: R) -> object::Result<Option<Needs>> {
    let header = FileHeader64::<Endianness>::parse(data)?;
    let endian = header.endian()?;
    let architecture = match (header.e_machine(endian), endian) {
        (EM_X86_64, _) => "x86_64",
        (EM_AARCH64, Endianness::Little) => "aarch64",
        (EM_RISCV, _) => "riscv64",
        (EM_PPC64, Endianness::Little) => "ppc64le",
        (EM_S390, _) => "s390x",
        _ => return Ok(None),
    };
    let mut interpreter = None;
    for segment in header.program_headers(endian, data)? {
        if let Some(path) = segment.interpreter(endian, data)? {
            interpreter = Some(String::from_utf8_lossy(path).into_owned());
        }
    }
    Ok(Some(Needs {
        architecture,
        interpreter,
        glibc: glibc::needed(data)?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_is_for_this_machine() {
        let here = std::env::current_exe().expect("a path");
        let needs = needs(&here).expect("a program");
        assert_eq!(needs.architecture, std::env::consts::ARCH);
        if let Some(interpreter) = needs.interpreter {
            assert!(Path::new(&interpreter).is_file(), "{interpreter}");
        }
    }

    #[test]
    fn what_is_no_program_is_named() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("flmctl");
        for contents in [&b""[..], b"#!/bin/sh\n", b"\x7fELF\x01\x01\x01"] {
            std::fs::write(&path, contents).expect("written");
            let failure = needs(&path).expect_err("no program");
            assert_eq!(failure.kind, Kind::Build);
            assert!(failure.report().contains("flmctl"), "{}", failure.report());
        }
    }
}
