//! What goes into a bundle: programs, units, documents, and wheels of the SDK.

use std::path::{Path, PathBuf};

use super::elf::{self, Needs};
use super::manifest::{self, FILE_MODE, PROGRAM_MODE};
use crate::examples;
use crate::failure::{Failure, Kind, Outcome};
use crate::manual;
use crate::profile::{self, FLMADM, Profile};
use crate::unit_files;

/// How every zip archive that is not empty begins, and so every wheel.
const ZIP: &[u8] = b"PK\x03\x04";

/// A file to put into a bundle.
#[derive(Debug)]
pub(super) struct Item {
    /// Path below the directory of the release.
    pub(super) path: String,
    pub(super) mode: u32,
    pub(super) contents: Contents,
}

/// Where the contents of a file are.
#[derive(Debug)]
pub(super) enum Contents {
    /// In another file.
    File(PathBuf),
    /// Here.
    Text(Vec<u8>),
}

/// All programs that a release has.
pub(super) fn programs() -> Vec<&'static str> {
    let all = profile::ALL.into_iter().flat_map(Profile::programs);
    all.copied().chain([FLMADM]).collect()
}

/// Everything for a bundle with the programs in `built`, the wheels, and the examples of `sources`, by path; and what
/// the programs need.
///
/// # Errors
/// A file is not what it should be.
pub(super) fn collect(built: &Path, wheels: &[PathBuf], sources: &Path) -> Outcome<(Vec<Item>, Needs)> {
    let mut items = Vec::new();
    let needs = add_programs(built, &mut items)?;
    for (path, text) in unit_files::shipped() {
        items.push(Item {
            path: format!("units/{path}"),
            mode: FILE_MODE,
            contents: Contents::Text(text.as_bytes().to_vec()),
        });
    }
    add_shared(built, &mut items)?;
    add_examples(sources, &mut items)?;
    for wheel in wheels {
        items.push(wheel_item(wheel)?);
    }
    items.sort_by(|one, other| one.path.cmp(&other.path));
    if let Some(twice) = items.windows(2).find(|two| two[0].path == two[1].path) {
        return Err(Failure::arguments(format!("{} is given twice", twice[0].path)));
    }
    Ok((items, needs))
}

fn add_programs(built: &Path, items: &mut Vec<Item>) -> Outcome<Needs> {
    let mut all: Option<Needs> = None;
    for program in programs() {
        let path = built.join(program);
        let needs = elf::needs(&path)?;
        let together = match all.take() {
            None => Some(needs),
            Some(others) => others.and(needs),
        };
        all = Some(together.ok_or_else(|| {
            Failure::new(
                Kind::Build,
                format!("{program} is for another machine or C library than the programs before it"),
            )
            .hint("build all programs for the same target")
        })?);
        items.push(Item {
            path: crate::programs::place(program),
            mode: PROGRAM_MODE,
            contents: Contents::File(path),
        });
    }
    all.ok_or_else(|| Failure::new(Kind::Build, "a release has no programs"))
}

fn add_shared(built: &Path, items: &mut Vec<Item>) -> Outcome<()> {
    // Only a program that runs here can be asked for its own.
    let of_flmctl = manual::documents_of(&built.join("flmctl"));
    let all = manual::documents()?
        .into_iter()
        .chain(manual::texts())
        .chain(of_flmctl);
    for (path, text) in all {
        items.push(Item {
            path: path.display().to_string(),
            mode: FILE_MODE,
            contents: Contents::Text(text.into_bytes()),
        });
    }
    Ok(())
}

/// The examples, if the sources are there.
fn add_examples(sources: &Path, items: &mut Vec<Item>) -> Outcome<()> {
    if !sources.join(examples::DIRECTORY).is_dir() {
        return Ok(());
    }
    for example in examples::find(&[sources.to_path_buf()])? {
        let path = format!("share/{}/{}", examples::DIRECTORY, example.below.display());
        manifest::check_path(&path).map_err(|refusal| {
            Failure::arguments(format!("{} cannot be in a bundle", example.from.display())).because(refusal)
        })?;
        items.push(Item {
            path,
            mode: example.mode,
            contents: Contents::File(example.from),
        });
    }
    Ok(())
}

fn wheel_item(path: &Path) -> Outcome<Item> {
    let wrong = |why: &str| {
        Failure::arguments(format!("{} {why}", path.display()))
            .hint("--wheel takes files that `pip wheel` or a build backend has made, NAME-VERSION-TAGS.whl")
    };
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .filter(|name| name.ends_with(".whl"))
        .ok_or_else(|| wrong("is not named as a wheel"))?;
    let place = format!("sdk/{name}");
    manifest::check_path(&place).map_err(|refusal| wrong("cannot be in a bundle").because(refusal))?;
    let mut start = [0; ZIP.len()];
    std::fs::File::open(path)
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut start))
        .map_err(|error| wrong("cannot be read").because(error))?;
    if start != ZIP {
        return Err(wrong("is not a wheel, which is a zip archive"));
    }
    Ok(Item {
        path: place,
        mode: FILE_MODE,
        contents: Contents::File(path.to_path_buf()),
    })
}
