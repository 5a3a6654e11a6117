//! The tools that build: found, asked for their version, and run as the right user.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::trouble;
use crate::failure::{Failure, Kind, Outcome};
use crate::host::Ids;

/// What the environment says about tools and about who called.
#[derive(Debug, Clone, Default)]
pub(super) struct Surroundings {
    /// Where programs are looked for.
    pub(super) path: OsString,
    /// Whether we may act as another user.
    pub(super) root: bool,
    /// Who called sudo.
    pub(super) caller: Option<Caller>,
}

/// The user who called sudo.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) ids: Ids,
    pub(super) name: String,
    pub(super) home: PathBuf,
}

impl Surroundings {
    /// Those of this process.
    pub(super) fn look() -> Self {
        let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
        let user = number("SUDO_UID")
            .filter(|uid| *uid != 0)
            .and_then(|uid| nix::unistd::User::from_uid(uid.into()).ok().flatten());
        Self {
            path: std::env::var_os("PATH").unwrap_or_default(),
            root: nix::unistd::geteuid().is_root(),
            caller: user.map(|user| Caller {
                ids: Ids {
                    uid: user.uid.as_raw(),
                    gid: number("SUDO_GID").unwrap_or(user.gid.as_raw()),
                },
                name: user.name,
                home: user.dir,
            }),
        }
    }
}

/// cargo and rustc, ready to be run.
#[derive(Debug)]
pub(super) struct Tools {
    cargo: PathBuf,
    rustc: PathBuf,
    path: OsString,
    acting: Option<Caller>,
}

/// What rustc says of itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Compiler {
    /// Its version, as `1.89.0`.
    pub(super) version: String,
    /// The platform that it builds for.
    pub(super) platform: String,
}

impl Tools {
    /// Finds them. Who called sudo in a source tree of his own gets a target directory of his own: as him they run.
    ///
    /// # Errors
    /// One is missing.
    pub(super) fn find(around: &Surroundings, source: &Path, target: &Path) -> Outcome<Self> {
        let belongs = |path: &Path, ids: Ids| path.metadata().map(|metadata| metadata.uid() == ids.uid);
        let acting = around.caller.as_ref().filter(|caller| {
            around.root
                && belongs(source, caller.ids).unwrap_or(false)
                && belongs(target, caller.ids).unwrap_or(true)
        });
        // Where rustup puts them, which sudo's own PATH leaves out.
        let personal = around
            .caller
            .as_ref()
            .map(|caller| caller.home.join(".cargo/bin"));
        let mut path = around.path.clone();
        if let (Some(_), Some(personal)) = (acting, &personal) {
            let places = std::env::split_paths(&around.path).chain([personal.clone()]);
            path = std::env::join_paths(places).unwrap_or(path);
        }
        let find = |program: &str| {
            look_for(program, &path).ok_or_else(|| {
                let elsewhere = personal
                    .as_ref()
                    .is_some_and(|place| place.join(program).is_file());
                missing(program, elsewhere)
            })
        };
        Ok(Self {
            cargo: find("cargo")?,
            rustc: find("rustc")?,
            path,
            acting: acting.cloned(),
        })
    }

    /// As whom they run, if not as ourselves.
    pub(super) fn acting(&self) -> Option<&Caller> {
        self.acting.as_ref()
    }

    /// A call of cargo in `source`.
    pub(super) fn cargo(&self, source: &Path) -> Command {
        self.command(&self.cargo, source)
    }

    fn command(&self, program: &Path, source: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(source)
            .env("PATH", &self.path)
            .stdin(Stdio::null());
        if let Some(Caller { ids, name, home }) = &self.acting {
            // The standard library drops root's other groups with the user.
            command.uid(ids.uid).gid(ids.gid);
            command.env("HOME", home).env("USER", name).env("LOGNAME", name);
        }
        command
    }

    /// Asks the compiler that builds in `source` what it is, and checks that it is new enough.
    ///
    /// # Errors
    /// It does not answer, or is too old.
    pub(super) fn compiler(&self, source: &Path) -> Outcome<Compiler> {
        let output = self
            .command(&self.rustc, source)
            .arg("-vV")
            .output()
            .map_err(|error| {
                Failure::new(Kind::Build, format!("cannot run {}", self.rustc.display())).because(error)
            })?;
        let said = String::from_utf8_lossy(&output.stdout);
        let field = |name: &str| {
            let mut lines = said.lines();
            lines
                .find_map(|line| line.strip_prefix(name))
                .map(|value| value.trim().to_owned())
        };
        let (Some(version), Some(platform), true) =
            (field("release:"), field("host:"), output.status.success())
        else {
            let words = String::from_utf8_lossy(&output.stderr);
            let words = words.trim();
            let failure = Failure::new(
                Kind::Build,
                format!(
                    "{} does not work ({}): {words}",
                    self.rustc.display(),
                    output.status
                ),
            );
            return Err(match trouble::remedy(words) {
                Some(remedy) => failure.hint(remedy),
                None => failure,
            });
        };
        if let Some(needed) = needed_version(source)
            && numbers(&version) < numbers(&needed)
        {
            return Err(Failure::new(
                Kind::Build,
                format!(
                    "these sources need Rust {needed}, and {} is Rust {version}",
                    self.rustc.display()
                ),
            )
            .hint("rustup update brings the newest; or install prebuilt programs with --bin-dir"));
        }
        Ok(Compiler { version, platform })
    }
}

/// The program with this name in the directories of `path`.
fn look_for(program: &str, path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(path)
        .map(|directory| directory.join(program))
        .find(|path| {
            path.metadata()
                .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
        })
}

fn missing(program: &str, elsewhere: bool) -> Failure {
    let failure = Failure::new(
        Kind::Build,
        format!("{program} is not in the PATH, so nothing can be built"),
    );
    failure.hint(if elsewhere {
        "sudo has a PATH of its own: sudo env \"PATH=$PATH\" flmadm ..., or build as yourself first \
         (cargo build --release) and then use --skip-build"
    } else {
        "install Rust with rustup or your distribution's packages, or install prebuilt programs with --bin-dir"
    })
}

/// The oldest compiler that the sources can be built with, as their Cargo.toml says.
fn needed_version(source: &Path) -> Option<String> {
    let text = std::fs::read_to_string(source.join("Cargo.toml")).ok()?;
    let manifest: toml::Table = text.parse().ok()?;
    let version = manifest.get("workspace")?.get("package")?.get("rust-version")?;
    version.as_str().map(str::to_owned)
}

/// The numbers of a version, for comparison: a nightly compiler counts as its release.
fn numbers(version: &str) -> [u64; 3] {
    let plain = version.split(['-', '+']).next().unwrap_or_default();
    let mut parts = plain.split('.').map(|part| part.parse().unwrap_or(0));
    [(); 3].map(|()| parts.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::fixture::Sources;

    #[test]
    fn versions_are_compared_by_number() {
        for (one, other) in [
            ("1.9.0", "1.89"),
            ("1.88.1", "1.89"),
            ("1.89.0-nightly", "1.90.0"),
        ] {
            assert!(numbers(one) < numbers(other), "{one} {other}");
        }
        assert_eq!(numbers("1.89"), numbers("1.89.0-beta.3"));
    }

    #[test]
    fn an_old_compiler_is_refused_before_anything_is_built() {
        let sources = Sources::new("exit 0");
        sources.tool(
            "rustc",
            "printf 'rustc 1.80.0 (x)\\nrelease: 1.80.0\\nhost: x86_64-unknown-linux-gnu\\n'",
        );
        let tools = sources.tools().expect("found");
        let report = tools.compiler(sources.path()).expect_err("too old").report();
        assert!(
            report.contains("need Rust 1.89") && report.contains("is Rust 1.80.0"),
            "{report}"
        );
        assert!(report.contains("rustup update"), "{report}");
    }

    #[test]
    fn a_compiler_that_does_not_work_is_quoted() {
        let sources = Sources::new("exit 0");
        sources.tool(
            "rustc",
            "echo 'error: rustup could not choose a version of rustc to run' >&2; exit 1",
        );
        let tools = sources.tools().expect("found");
        let report = tools.compiler(sources.path()).expect_err("broken").report();
        assert!(
            report.contains("could not choose") && report.contains("rustup default stable"),
            "{report}"
        );
    }

    #[test]
    fn a_missing_cargo_says_what_to_do() {
        let sources = Sources::new("exit 0");
        let target = sources.path().join("target");
        let mut around = Surroundings {
            path: "/nonexistent".into(),
            ..Surroundings::default()
        };
        let report = Tools::find(&around, sources.path(), &target)
            .expect_err("missing")
            .report();
        assert!(
            report.contains("cargo is not in the PATH") && report.contains("rustup"),
            "{report}"
        );
        // The caller of sudo has one, but the sources are not his.
        let home = sources.path().join("home");
        std::fs::create_dir_all(home.join(".cargo/bin")).expect("made");
        std::fs::write(home.join(".cargo/bin/cargo"), "").expect("written");
        around.root = true;
        around.caller = Some(Caller {
            ids: Ids {
                uid: 4_000_000,
                gid: 4_000_000,
            },
            name: "somebody".to_owned(),
            home,
        });
        let report = Tools::find(&around, sources.path(), &target)
            .expect_err("missing")
            .report();
        assert!(report.contains("sudo env \"PATH=$PATH\""), "{report}");
    }

    #[test]
    fn the_owner_of_the_sources_who_called_sudo_builds() {
        let sources = Sources::new("exit 0");
        let metadata = sources.path().metadata().expect("there");
        let owner = Ids {
            uid: metadata.uid(),
            gid: metadata.gid(),
        };
        let caller = |ids| {
            Some(Caller {
                ids,
                name: "somebody".to_owned(),
                home: "/home/somebody".into(),
            })
        };
        let other = Ids {
            uid: owner.uid + 1,
            gid: owner.gid,
        };
        for (root, ids, acts) in [(true, owner, true), (false, owner, false), (true, other, false)] {
            let around = Surroundings {
                root,
                caller: caller(ids),
                ..sources.surroundings()
            };
            let tools = Tools::find(&around, sources.path(), &sources.path().join("target")).expect("found");
            assert_eq!(tools.acting().is_some(), acts, "{root} {ids:?}");
            assert_eq!(
                tools
                    .path
                    .to_string_lossy()
                    .ends_with("/home/somebody/.cargo/bin"),
                acts
            );
        }
    }
}
