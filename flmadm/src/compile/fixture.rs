//! Sources and tools for tests: cargo and rustc are scripts.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::tools::{Surroundings, Tools};
use crate::failure::Outcome;

/// Flame's sources as far as the driver of the build looks at them, and tools.
pub(super) struct Sources(tempfile::TempDir);

impl Sources {
    /// Sources with a compiler that is new enough; `build` is what `cargo build` does, in the language of the shell.
    pub(super) fn new(build: &str) -> Self {
        let sources = Self(tempfile::tempdir().expect("temporary directory"));
        std::fs::create_dir_all(sources.path().join("flmadm")).expect("made");
        std::fs::create_dir_all(sources.tools_directory()).expect("made");
        std::fs::write(
            sources.path().join("Cargo.toml"),
            "[workspace.package]\nrust-version = \"1.89\"\n",
        )
        .expect("written");
        let metadata = sources.path().join("metadata.json");
        std::fs::write(&metadata, super::count::tests::metadata()).expect("written");
        sources.tool(
            "rustc",
            "printf 'rustc 1.90.0 (x)\\nrelease: 1.90.0\\nhost: x86_64-unknown-linux-gnu\\n'",
        );
        sources.tool(
            "cargo",
            &format!(
                "if [ \"$1\" = metadata ]; then cat '{}'; exit; fi\n{build}",
                metadata.display()
            ),
        );
        sources
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn target(&self) -> PathBuf {
        self.path().join("target")
    }

    fn tools_directory(&self) -> PathBuf {
        self.path().join("tools")
    }

    /// Makes a program of `script`.
    pub(super) fn tool(&self, name: &str, script: &str) {
        let path = self.tools_directory().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("executable");
    }

    /// With our tools before those of the machine.
    pub(super) fn surroundings(&self) -> Surroundings {
        Surroundings {
            path: format!("{}:/usr/bin:/bin", self.tools_directory().display()).into(),
            ..Surroundings::default()
        }
    }

    pub(super) fn tools(&self) -> Outcome<Tools> {
        Tools::find(&self.surroundings(), self.path(), &self.target())
    }
}
