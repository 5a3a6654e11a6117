//! Versions of the GNU C library: what programs need, and what a machine has. A program that was built on a newer
//! system does not start on an older one, and only its loader would say so.

use std::fmt;
use std::fs::File;
use std::path::Path;

use object::elf::FileHeader64;
use object::read::ReadCache;
use object::read::elf::FileHeader;
use object::{Endianness, ReadRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The library's file, which lies beside the loader.
const LIBRARY: &str = "libc.so.6";
/// What the names of its versions begin with.
const PREFIX: &str = "GLIBC_";

/// A version, as 2.34.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub(crate) struct Glibc(Vec<u32>);

impl fmt::Display for Glibc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.0.iter().map(u32::to_string).collect();
        f.write_str(&parts.join("."))
    }
}

impl From<Glibc> for String {
    fn from(version: Glibc) -> Self {
        version.to_string()
    }
}

impl TryFrom<String> for Glibc {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let parts: Result<Vec<u32>, _> = text.split('.').map(str::parse).collect();
        parts
            .map(Self)
            .map_err(|_| format!("{text:?} is no version of a library"))
    }
}

impl Glibc {
    /// The version with this name in a table of symbols. There are names that are none, as GLIBC_PRIVATE.
    fn named(name: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(name).ok()?.strip_prefix(PREFIX)?;
        Self::try_from(text.to_owned()).ok()
    }
}

/// The version that the program `data` needs, if it needs one.
pub(super) fn needed<'data, R: ReadRef<'data>>(data: R) -> object::Result<Option<Glibc>> {
    let header = FileHeader64::<Endianness>::parse(data)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, data)?;
    let Some((mut libraries, strings)) = sections.gnu_verneed(endian, data)? else {
        return Ok(None);
    };
    let strings = sections.strings(endian, data, strings)?;
    let mut highest = None;
    while let Some((_, mut names)) = libraries.next()? {
        while let Some(name) = names.next()? {
            highest = highest.max(Glibc::named(name.name(endian, strings)?));
        }
    }
    Ok(highest)
}

/// The version that the machine whose file system begins at `root` has beside the loader; `None` if it cannot be found
/// out, which is no reason to think that there is none.
pub(super) fn provided(root: &Path, loader: &str) -> Option<Glibc> {
    let loader = root.join(loader.trim_start_matches('/')).canonicalize().ok()?;
    let cache = ReadCache::new(File::open(loader.parent()?.join(LIBRARY)).ok()?);
    defined(&cache).ok().flatten()
}

fn defined<'data, R: ReadRef<'data>>(data: R) -> object::Result<Option<Glibc>> {
    let header = FileHeader64::<Endianness>::parse(data)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, data)?;
    let Some((mut versions, strings)) = sections.gnu_verdef(endian, data)? else {
        return Ok(None);
    };
    let strings = sections.strings(endian, data, strings)?;
    let mut highest = None;
    while let Some((_, mut names)) = versions.next()? {
        // The others are the versions that this one follows on.
        if let Some(name) = names.next()? {
            highest = highest.max(Glibc::named(name.name(endian, strings)?));
        }
    }
    Ok(highest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Glibc {
        Glibc::try_from(text.to_owned()).expect(text)
    }

    #[test]
    fn versions_are_numbers() {
        assert!(version("2.9") < version("2.34"));
        assert!(version("2.2.5") < version("2.3"));
        assert_eq!(version("2.34").to_string(), "2.34");
        assert_eq!(Glibc::named(b"GLIBC_2.34"), Some(version("2.34")));
        for name in [
            "GLIBC_PRIVATE",
            "GLIBC_ABI_DT_RELR",
            "GCC_3.0",
            "GLIBC_",
            "GLIBC_2.",
            "2.34",
        ] {
            assert_eq!(Glibc::named(name.as_bytes()), None, "{name}");
        }
    }

    #[test]
    fn this_machine_has_what_this_program_needs() {
        let here = std::env::current_exe().expect("a path");
        let needs = super::super::elf::needs(&here).expect("a program");
        let (Some(loader), Some(needed)) = (needs.interpreter, needs.glibc) else {
            return;
        };
        let provided = provided(Path::new("/"), &loader).expect("found");
        assert!(
            needed >= version("2.2.5") && needed <= provided,
            "{needed} {provided}"
        );
    }

    #[test]
    fn a_machine_without_the_library_is_not_judged() {
        let root = tempfile::tempdir().expect("temporary directory");
        assert_eq!(provided(root.path(), "/lib64/ld.so"), None);
        std::fs::create_dir(root.path().join("lib64")).expect("made");
        for name in ["ld.so", LIBRARY] {
            std::fs::write(root.path().join("lib64").join(name), "x").expect("written");
        }
        assert_eq!(provided(root.path(), "/lib64/ld.so"), None);
    }
}
