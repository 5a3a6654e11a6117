//! Interpreters for tests: scripts that answer as Python does, and make directories for environments.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::Search;

/// A directory of programs with Pythons in it.
pub(crate) struct Pythons {
    directory: PathBuf,
    _own: Option<tempfile::TempDir>,
}

impl Pythons {
    pub(crate) fn new() -> Self {
        let own = tempfile::tempdir().expect("temporary directory");
        Self {
            directory: own.path().to_path_buf(),
            _own: Some(own),
        }
    }

    /// In a directory of somebody else's.
    pub(crate) fn at(directory: PathBuf) -> Self {
        std::fs::create_dir_all(&directory).expect("made");
        Self {
            directory,
            _own: None,
        }
    }

    /// Makes `pythonVERSION`, which says that it is `release`. Its environments have a python that writes down for
    /// what it is called; it fails for wheels whose name has the word `broken`.
    pub(crate) fn add(&self, version: &str, release: &str) -> PathBuf {
        let path = self.directory.join(format!("python{version}"));
        let script = format!(
            r#"case "$*" in
*"-c "*) echo {release}; echo "$0" ;;
*"-m venv "*)
    for directory; do :; done
    mkdir -p "$directory/bin" && cp "$0" "$directory/bin/python" ;;
*broken*) echo "ERROR: Could not find a version that satisfies the requirement grpcio" >&2; exit 1 ;;
*"-m pip "*) echo "$*" > "$(dirname "$0")/../pip" ;;
esac"#
        );
        self.script(&format!("python{version}"), &script);
        path
    }

    /// Makes a program of `script`.
    pub(crate) fn script(&self, name: &str, script: &str) {
        let path = self.directory.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("executable");
    }

    pub(crate) fn search(&self) -> Search {
        Search {
            path: self.directory.clone().into(),
            ..Search::default()
        }
    }
}
