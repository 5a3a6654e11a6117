//! Which program runs a script.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::Language;

/// The interpreter is not on this node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{wanted:?} is not on node {host} (looked in PATH={path}); install it there, or name another \"runtime\""
)]
pub struct Missing {
    /// The program that was looked for.
    pub wanted: String,
    /// This node.
    pub host: String,
    /// Where it was looked for.
    pub path: String,
}

/// The program for `language`: what `runtime` names, else for Python what `python_version` (of
/// `FLAME_PYTHON_VERSION`) names, else the system's own.
///
/// A runtime is a program (`bash`, `/opt/python/bin/python3`) or a version of Python (`3.12`).
#[must_use]
pub fn program(language: Language, runtime: Option<&str>, python_version: Option<&str>) -> String {
    let given = |text: Option<&str>| {
        text.map(str::trim)
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    };
    match language {
        Language::Shell => given(runtime).unwrap_or_else(|| "/bin/sh".to_owned()),
        Language::Python => match given(runtime).or_else(|| given(python_version)) {
            Some(version) if version.starts_with(|c: char| c.is_ascii_digit()) => format!("python{version}"),
            Some(program) => program,
            None => "python3".to_owned(),
        },
    }
}

/// The file of `program`: itself if it has a slash, else the first match in `path`.
///
/// # Errors
/// [`Missing`], with where was looked.
pub fn find(program: &str, path: Option<&OsStr>) -> Result<PathBuf, Missing> {
    let found = if program.contains('/') {
        Some(PathBuf::from(program)).filter(|file| is_program(file))
    } else {
        path.and_then(|path| {
            std::env::split_paths(path)
                .map(|directory| directory.join(program))
                .find(|file| is_program(file))
        })
    };
    found.ok_or_else(|| Missing {
        wanted: program.to_owned(),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        path: path
            .map(|path| path.to_string_lossy().into_owned())
            .unwrap_or_default(),
    })
}

fn is_program(file: &Path) -> bool {
    file.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtime_comes_before_the_nodes_version_and_the_systems() {
        for (language, runtime, version, expected) in [
            (Language::Shell, None, Some("3.12"), "/bin/sh"),
            (Language::Shell, Some("bash"), None, "bash"),
            (Language::Python, None, None, "python3"),
            (Language::Python, None, Some("3.12"), "python3.12"),
            (Language::Python, Some("3.11"), Some("3.12"), "python3.11"),
            (
                Language::Python,
                Some("/opt/py/bin/python"),
                Some("3.12"),
                "/opt/py/bin/python",
            ),
            (Language::Python, Some("pypy3"), None, "pypy3"),
            (Language::Python, Some(" "), Some(""), "python3"),
        ] {
            assert_eq!(program(language, runtime, version), expected);
        }
    }

    #[test]
    fn a_missing_interpreter_is_named_with_the_node_and_the_path() {
        let path = OsStr::new("/nonexistent:/bin");
        assert_eq!(find("sh", Some(path)), Ok("/bin/sh".into()));
        assert_eq!(find("/bin/sh", None), Ok("/bin/sh".into()));
        let error = find("python9.9", Some(path))
            .expect_err("no such Python")
            .to_string();
        assert!(
            error.contains("python9.9") && error.contains("/nonexistent:/bin"),
            "{error}"
        );
        assert!(find("/etc/passwd", None).is_err(), "not executable");
    }
}
