//! Python interpreters: named on the command line, found, and asked what they are and can do.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Outcome};

/// Says its release and its own path: not that of a shim, nor of an environment that it runs in.
const QUESTION: &str = "import sys, venv, ensurepip\n\
                        print('.'.join(map(str, sys.version_info[:3])))\n\
                        print(getattr(sys, '_base_executable', None) or sys.executable)\n";
/// Where services see nothing.
const PERSONAL: [&str; 5] = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"];

/// The two numbers by which Pythons are told apart, as `3.12`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Version {
    major: u16,
    minor: u16,
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no version of Python as 3.12");
        let (major, minor) = text.split_once('.').ok_or_else(wrong)?;
        let number = |part: &str| {
            let plain =
                part.bytes().all(|byte| byte.is_ascii_digit()) && (part == "0" || !part.starts_with('0'));
            part.parse().ok().filter(|_| plain).ok_or_else(wrong)
        };
        let version = Self {
            major: number(major)?,
            minor: number(minor)?,
        };
        match version.major {
            3 => Ok(version),
            _ => Err(format!("{text} is no version of Python 3")),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// An interpreter that was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Interpreter {
    /// The program itself.
    pub(crate) path: PathBuf,
    /// Its whole version, as `3.12.4`.
    pub(crate) release: String,
}

/// Where interpreters are looked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Search {
    /// Directories of programs.
    pub(crate) path: OsString,
    /// What the environment says about single versions.
    pub(crate) named: Vec<(Version, PathBuf)>,
    /// Whether services have to be able to run it.
    pub(crate) for_services: bool,
    /// The text of os-release(5), for the name of the package.
    pub(crate) system: String,
}

impl Search {
    /// In the directories of `path`, and as the environment of this process says.
    pub(crate) fn look(path: OsString, for_services: bool, versions: &[Version]) -> Self {
        let named = versions.iter().filter_map(|version| {
            let value = std::env::var_os(variable(*version)).filter(|value| !value.is_empty())?;
            Some((*version, value.into()))
        });
        let release = ["/etc/os-release", "/usr/lib/os-release"]
            .into_iter()
            .find_map(|path| std::fs::read_to_string(path).ok());
        Self {
            path,
            named: named.collect(),
            for_services,
            system: release.unwrap_or_default(),
        }
    }
}

/// Environment variable that names the interpreter of a version.
fn variable(version: Version) -> String {
    format!("FLMADM_PYTHON_{}_{}", version.major, version.minor)
}

/// Finds the interpreter of `version`, and makes sure that it can make environments.
///
/// # Errors
/// There is none, or the one that there is cannot be used.
pub(crate) fn find(search: &Search, version: Version) -> Outcome<Interpreter> {
    let named = search.named.iter().find(|(of, _)| *of == version);
    let candidates: Vec<PathBuf> = match named {
        Some((_, path)) => vec![path.clone()],
        None => std::env::split_paths(&search.path)
            .map(|directory| directory.join(format!("python{version}")))
            .filter(|path| path.is_file())
            .collect(),
    };
    let hint = format!(
        "{}; or name an interpreter with {}=PATH",
        package(&search.system, version),
        variable(version)
    );
    // The shim of a version manager may come first and know nothing; a later one may be good.
    let mut first = None;
    for path in &candidates {
        match ask(path, version).and_then(|found| reachable(search, found)) {
            Ok(interpreter) => return Ok(interpreter),
            Err(why) => {
                first.get_or_insert_with(|| format!("{}: {why}", path.display()));
            }
        }
    }
    let failure = match first {
        Some(why) => Failure::arguments(format!("Python {version} cannot be used")).because(why),
        None => Failure::arguments(format!(
            "there is no Python {version}: python{version} is not in the PATH"
        )),
    };
    Err(failure.hint(hint))
}

fn ask(path: &Path, version: Version) -> Result<Interpreter, String> {
    let output = Command::new(path)
        .args(["-I", "-c", QUESTION])
        .stdin(Stdio::null())
        .env("LC_ALL", "C.UTF-8")
        .output()
        .map_err(|error| format!("cannot be run: {error}"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        // Of a traceback the last line says what is wrong; a shim begins with that.
        let line = match words.contains("Traceback") {
            true => words.trim().lines().last(),
            false => words.trim().lines().next(),
        };
        return Err(line.map_or_else(|| output.status.to_string(), str::to_owned));
    }
    let answer = String::from_utf8_lossy(&output.stdout);
    let mut lines = answer.lines();
    let (Some(release), Some(path)) = (lines.next(), lines.next()) else {
        return Err(format!("it answers {answer:?}, and not as Python does"));
    };
    if !release.starts_with(&format!("{version}.")) {
        return Err(format!("it is Python {release}"));
    }
    Ok(Interpreter {
        path: path.into(),
        release: release.to_owned(),
    })
}

/// Refuses an interpreter that services do not see.
fn reachable(search: &Search, interpreter: Interpreter) -> Result<Interpreter, String> {
    let real = flame_core::fsutil::resolve(&interpreter.path);
    let hidden = PERSONAL.into_iter().find(|place| real.starts_with(place));
    match hidden.filter(|_| search.for_services) {
        Some(place) => Err(format!(
            "services do not see {}, because they do not see {place}",
            real.display()
        )),
        None => Ok(interpreter),
    }
}

/// How the interpreter of a version gets onto a machine with this os-release(5).
fn package(system: &str, version: Version) -> String {
    let value = |key: &str| {
        let line = system.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap_or_default().trim_matches('"').to_owned()
    };
    let names = format!("{} {}", value("ID="), value("ID_LIKE="));
    let is = |name: &str| names.split_whitespace().any(|found| found == name);
    if is("debian") || is("ubuntu") {
        format!("install it with: apt install python{version} python{version}-venv")
    } else if is("fedora") || is("rhel") {
        format!("install it with: dnf install python{version}")
    } else if is("suse") || is("opensuse") {
        format!(
            "install it with: zypper install python{}{}",
            version.major, version.minor
        )
    } else {
        format!("install Python {version} with its venv module")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::fixture::Pythons;

    fn version(text: &str) -> Version {
        text.parse().expect(text)
    }

    #[test]
    fn versions_are_two_numbers() {
        assert_eq!(version("3.12").to_string(), "3.12");
        assert!(version("3.9") < version("3.12"));
        for text in [
            "", "3", "3.", "3.12.1", "2.7", "3.x", "03.1", "3.01", "+3.1", "3.12 ",
        ] {
            assert!(text.parse::<Version>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_interpreter_is_found_and_asked() {
        let pythons = Pythons::new();
        let path = pythons.add("3.12", "3.12.4");
        let found = find(&pythons.search(), version("3.12")).expect("found");
        assert_eq!(
            found,
            Interpreter {
                path,
                release: "3.12.4".to_owned()
            }
        );
    }

    #[test]
    fn a_missing_one_says_which_package_has_it() {
        let pythons = Pythons::new();
        for (system, part) in [
            (
                "ID=ubuntu\nID_LIKE=debian\n",
                "apt install python3.12 python3.12-venv",
            ),
            (
                "ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n",
                "dnf install python3.12",
            ),
            (
                "ID=\"opensuse-leap\"\nID_LIKE=\"suse opensuse\"\n",
                "zypper install python312",
            ),
            ("ID=arch\n", "install Python 3.12"),
            ("", "install Python 3.12"),
        ] {
            let search = Search {
                system: system.to_owned(),
                ..pythons.search()
            };
            let report = find(&search, version("3.12")).expect_err("none").report();
            assert!(
                report.contains(part) && report.contains("FLMADM_PYTHON_3_12=PATH"),
                "{report}"
            );
        }
    }

    #[test]
    fn one_that_cannot_be_used_is_quoted() {
        let pythons = Pythons::new();
        for (script, part) in [
            (
                "echo 'pyenv: python3.12: command not found' >&2; exit 127",
                "pyenv: python3.12: command not found",
            ),
            (
                "printf 'Traceback (most recent call last):\\nModuleNotFoundError: No module named ensurepip\\n' >&2; exit 1",
                "No module named ensurepip",
            ),
            ("echo 3.11.7; echo /usr/bin/python3", "it is Python 3.11.7"),
            ("echo hello", "not as Python does"),
        ] {
            pythons.script("python3.12", script);
            let report = find(&pythons.search(), version("3.12"))
                .expect_err(script)
                .report();
            assert!(report.contains(part) && report.contains("python3.12"), "{report}");
        }
    }

    #[test]
    fn a_bad_shim_does_not_hide_a_good_one() {
        let (shims, pythons) = (Pythons::new(), Pythons::new());
        shims.script("python3.12", "exit 127");
        let path = pythons.add("3.12", "3.12.4");
        let places = [shims.search().path, pythons.search().path];
        let search = Search {
            path: std::env::join_paths(places).expect("joined"),
            ..Search::default()
        };
        assert_eq!(find(&search, version("3.12")).expect("found").path, path);
    }

    #[test]
    fn one_that_is_named_is_taken() {
        let pythons = Pythons::new();
        let path = pythons.add("special", "3.12.9");
        let search = Search {
            named: vec![(version("3.12"), path.clone())],
            ..Search::default()
        };
        assert_eq!(find(&search, version("3.12")).expect("found").path, path);
        assert!(find(&search, version("3.13")).is_err());
    }

    #[test]
    fn services_need_one_that_they_see() {
        let pythons = Pythons::new();
        pythons.script(
            "python3.12",
            "echo 3.12.4; echo /root/.pyenv/versions/3.12.4/bin/python3.12",
        );
        let mut search = pythons.search();
        assert!(find(&search, version("3.12")).is_ok());
        search.for_services = true;
        let report = find(&search, version("3.12")).expect_err("hidden").report();
        assert!(report.contains("do not see /root"), "{report}");
    }
}
