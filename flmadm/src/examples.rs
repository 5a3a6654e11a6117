//! The examples of Flame's sources or of a release, for `PREFIX/share/examples`.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use crate::failure::{Failure, Outcome};
use crate::manifest::sha256_of;

/// Name of the directory, in the sources and below share/.
pub(crate) const DIRECTORY: &str = "examples";
/// What tools leave beside sources.
const LEFTOVERS: [&str; 4] = ["target", "__pycache__", "node_modules", "venv"];

/// A file of an example.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Example {
    pub(crate) from: PathBuf,
    /// Its place below share/examples.
    pub(crate) below: PathBuf,
    pub(crate) mode: u32,
    pub(crate) sha256: String,
}

/// The files of the examples in the first of `places` that has any: sources, or the share directory of a release.
///
/// # Errors
/// There are none, or they cannot be read.
pub(crate) fn find(places: &[PathBuf]) -> Outcome<Vec<Example>> {
    let found = places
        .iter()
        .map(|place| place.join(DIRECTORY))
        .find(|top| top.is_dir());
    let Some(top) = found else {
        let names: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
        return Err(
            Failure::arguments(format!("there are no examples in {}", names.join(" or ")))
                .hint("name Flame's sources with --src-dir, or leave --with-examples out"),
        );
    };
    let mut examples = Vec::new();
    for entry in WalkDir::new(&top)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(is_source)
    {
        let entry = entry.map_err(|error| {
            Failure::installation(format!("cannot look at what is in {}", top.display())).because(error)
        })?;
        if entry.file_type().is_dir() {
            continue;
        }
        examples.push(example(&top, entry.path())?);
    }
    Ok(examples)
}

fn example(top: &Path, from: &Path) -> Outcome<Example> {
    let metadata = from
        .symlink_metadata()
        .map_err(|error| Failure::path("look at", from, error))?;
    if !metadata.is_file() {
        return Err(Failure::installation(format!("{} is no file", from.display()))
            .hint("examples are plain files; move it away, or leave --with-examples out"));
    }
    let sha256 = sha256_of(from)?
        .ok_or_else(|| Failure::installation(format!("{} was there and is gone", from.display())))?;
    let executable = metadata.permissions().mode() & 0o100 != 0;
    Ok(Example {
        below: from.strip_prefix(top).unwrap_or(from).to_path_buf(),
        from: from.to_path_buf(),
        mode: if executable { 0o755 } else { 0o644 },
        sha256,
    })
}

/// Whether somebody wrote it, and not a tool.
fn is_source(entry: &walkdir::DirEntry) -> bool {
    let name = entry.file_name().to_string_lossy();
    let left = entry.file_type().is_dir() && LEFTOVERS.contains(&name.as_ref());
    entry.depth() == 0 || !(left || name.starts_with('.') || name.ends_with('~') || name.ends_with(".pyc"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let home = tempfile::tempdir().expect("temporary directory");
        for file in files {
            let path = home.path().join("examples").join(file);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, format!("text of {file}")).expect("written");
        }
        home
    }

    fn names(examples: &[Example]) -> Vec<&str> {
        examples
            .iter()
            .filter_map(|example| example.below.to_str())
            .collect()
    }

    #[test]
    fn sources_are_taken_and_leftovers_are_not() {
        let home = tree(&[
            "README.md",
            "wordcount/run.sh",
            "wordcount/target/debug/wordcount",
            "wordcount/__pycache__/service.pyc",
            "wordcount/.venv/bin/python",
            "wordcount/.run.sh.swp",
            "wordcount/run.sh~",
        ]);
        let script = home.path().join("examples/wordcount/run.sh");
        std::fs::set_permissions(&script, PermissionsExt::from_mode(0o700)).expect("set");
        let found = find(&["/nonexistent".into(), home.path().to_path_buf()]).expect("found");
        assert_eq!(names(&found), ["README.md", "wordcount/run.sh"]);
        assert_eq!(
            found.iter().map(|example| example.mode).collect::<Vec<_>>(),
            [0o644, 0o755]
        );
        assert_eq!(
            found[1].sha256,
            crate::manifest::sha256(b"text of wordcount/run.sh")
        );
    }

    #[test]
    fn those_of_this_repository_are_whole() {
        let found = find(&[concat!(env!("CARGO_MANIFEST_DIR"), "/..").into()]).expect("found");
        for name in [
            "README.md",
            "wordcount/Cargo.toml",
            "wordcount/wordcount_service.py",
        ] {
            assert!(names(&found).contains(&name), "{name}: {:?}", names(&found));
        }
    }

    #[test]
    fn missing_ones_and_links_are_refused() {
        let report = find(&["/nonexistent".into()]).expect_err("none").report();
        assert!(
            report.contains("no examples in /nonexistent") && report.contains("--src-dir"),
            "{report}"
        );
        let home = tree(&["README.md"]);
        std::os::unix::fs::symlink("/etc/passwd", home.path().join("examples/link")).expect("linked");
        assert!(find(&[home.path().to_path_buf()]).is_err());
    }
}
