//! The installation that a command is about.

use crate::cli::PrefixArg;
use crate::failure::{Failure, Kind, Outcome};
use crate::host::{Host, Units};
use crate::manifest::Manifest;
use crate::prefix::Prefix;
use crate::profile::{self, MORE_AGENTS, NODE_AGENT};
use crate::unit_files;

/// An installation with programs.
#[derive(Debug)]
pub(crate) struct Installed {
    pub(crate) prefix: Prefix,
    pub(crate) manifest: Manifest,
}

/// What is installed where `at` says.
///
/// # Errors
/// Nothing is, or its manifest cannot be read.
pub(crate) fn find(at: &PrefixArg) -> Outcome<Installed> {
    let (prefix, found) = at.find()?;
    match found.filter(Manifest::is_installed) {
        Some(manifest) => Ok(Installed { prefix, manifest }),
        None => Err(
            Failure::installation(format!("nothing is installed in {}", prefix.path().display()))
                .hint("flmadm install installs it; --prefix or --instance names another one"),
        ),
    }
}

impl Installed {
    /// Its service manager.
    ///
    /// # Errors
    /// It has no units, or D-Bus cannot be reached.
    pub(crate) fn systemd<'a>(&self, host: &'a dyn Host) -> Outcome<&'a dyn Units> {
        if self.manifest.units.is_empty() {
            let what = match self.manifest.systemd {
                true => "has no service, so there is nothing to start or stop",
                false => "was made with --no-systemd, so it has no units",
            };
            return Err(Failure::new(
                Kind::Systemd,
                format!("the installation in {} {what}", self.prefix.path().display()),
            )
            .hint(format!(
                "flmadm dev up --prefix {} runs its services without systemd",
                self.prefix.path().display()
            )));
        }
        host.systemd()
    }

    /// What it calls that which the installation without a name calls `unit`.
    pub(crate) fn own(&self, unit: &str) -> String {
        self.manifest.names().own(unit)
    }

    /// The unit of its node agent.
    pub(crate) fn node_agent(&self) -> String {
        self.own(NODE_AGENT)
    }

    /// The unit of the further agent called `agent`, or the pattern of all with `*`.
    pub(crate) fn further_agent(&self, agent: &str) -> String {
        unit_files::instance(&self.own(MORE_AGENTS), agent)
    }

    /// Whether it can have further agents beside the first.
    pub(crate) fn has_further_agents(&self) -> bool {
        self.manifest.units.contains(&self.own(MORE_AGENTS))
    }

    /// Whether `unit` is an executor of it, or the template of some.
    pub(crate) fn is_executor(&self, unit: &str) -> bool {
        unit.starts_with(&self.own("flame-executor")) && unit.contains('@') && unit.ends_with(".service")
    }

    /// The templates of its executors.
    pub(crate) fn executor_templates(&self) -> impl Iterator<Item = &String> {
        self.manifest.units.iter().filter(|unit| self.is_executor(unit))
    }

    /// The program that a service of it runs.
    pub(crate) fn program(&self, service: &str) -> Option<&'static str> {
        let (template, _) = service.split_once('@').unwrap_or((service, ""));
        let runs = |(unit, program): (&'static str, &'static str)| {
            let own = self.own(unit);
            let (own, _) = own.split_once('@').unwrap_or((&own, ""));
            (own == template).then_some(program)
        };
        profile::daemons().find_map(runs)
    }

    /// Units of further agents that systemd has loaded.
    pub(crate) fn further_agents(&self, systemd: &dyn Units) -> Outcome<Vec<String>> {
        match self.has_further_agents() {
            true => systemd.loaded(&self.further_agent("*")),
            false => Ok(Vec::new()),
        }
    }

    /// Units of executors that systemd has loaded.
    pub(crate) fn executors(&self, systemd: &dyn Units) -> Outcome<Vec<String>> {
        let mut found = Vec::new();
        for template in self.executor_templates() {
            found.extend(systemd.loaded(&unit_files::instances(template))?);
        }
        Ok(found)
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Installations on the fake machine, without the installer.

    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};

    use flame_core::HostNames;

    use crate::host::fake::FakeHost;
    use crate::manifest::{DirectoryRecord, FileKind, FileRecord, UserRecord, sha256};
    use crate::profile::{ALL, FLMADM};

    use super::*;

    /// An installation of everything, with or without units, in `opt/flame`.
    pub(crate) fn everything(host: &FakeHost, systemd: bool) -> Installed {
        let prefix = Prefix::new(&host.path("opt/flame")).expect("a prefix");
        let units = if systemd {
            crate::unit_files::render(
                &prefix,
                &HostNames::default(),
                crate::scope::Scope::System,
                Path::new("/place"),
                &ALL,
            )
        } else {
            Vec::new()
        };
        let mut manifest = Manifest {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            prefix: prefix.path().to_owned(),
            systemd,
            profiles: ALL.to_vec(),
            units: units.iter().map(|unit| unit.name.clone()).collect(),
            user: systemd.then(|| UserRecord {
                name: "flame".to_owned(),
                created: None,
            }),
            ..Manifest::default()
        };
        for below in ["bin", "sbin", "conf", "data", "work", "logs"] {
            let path = prefix.join(below);
            std::fs::create_dir_all(&path).expect("made");
            let contents = !["bin", "sbin"].contains(&below);
            manifest.directories.push(DirectoryRecord { path, contents });
        }
        let mut file = |path: PathBuf, kind, text: &str, mode| {
            write(&path, text, mode);
            manifest.files.push(FileRecord {
                path,
                kind,
                sha256: sha256(text.as_bytes()),
            });
        };
        for program in ALL.iter().flat_map(|profile| profile.programs()) {
            let text = format!("program {program}");
            file(prefix.bin().join(program), FileKind::Program, &text, 0o755);
        }
        file(prefix.join("sbin").join(FLMADM), FileKind::Program, FLMADM, 0o755);
        let config = "# The cluster.\ncluster:\n  name: flame\n  # Where it is.\n  endpoint: \"http://127.0.0.1:8080\"\n";
        file(prefix.config(), FileKind::Config, config, 0o644);
        let agent = "# The node.\n[node]\n#labels = [\"zone=a\"]\n";
        file(
            prefix.join("conf/node-agent.toml"),
            FileKind::Config,
            agent,
            0o644,
        );
        for unit in units {
            file(
                host.path("etc/systemd/system").join(&unit.name),
                FileKind::Unit,
                &unit.text,
                0o644,
            );
        }
        write(&prefix.manifest(), &manifest.text().expect("text"), 0o644);
        Installed { prefix, manifest }
    }

    /// What a command line says of the machine's installation.
    pub(crate) fn at(host: &FakeHost) -> PrefixArg {
        use clap::Parser;
        let prefix = host.path("opt/flame").display().to_string();
        let words = ["flmadm", "verify", "--prefix", &prefix];
        match crate::cli::Cli::try_parse_from(words).expect("parsed").command {
            crate::cli::Command::Verify(args) => args.at,
            other => panic!("{other:?}"),
        }
    }

    /// Writes a file with its mode.
    pub(crate) fn write(path: &Path, text: &str, mode: u32) {
        std::fs::write(path, text).expect("written");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("set");
    }

    /// Runs a command line on the machine's installation: its exit code and what it printed.
    pub(crate) fn run(host: &FakeHost, line: &str) -> (u8, String, String) {
        let prefix = host.path("opt/flame").display().to_string();
        let words = std::iter::once("flmadm")
            .chain(line.split_whitespace())
            .chain(["--prefix", &prefix])
            .map(Into::into);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = crate::run(host, words, &mut out, &mut err);
        // The directory has another name each time.
        let text = |bytes| {
            let text = String::from_utf8(bytes).expect("text");
            text.replace(&host.path("").display().to_string(), "/")
        };
        (code, text(out), text(err))
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        let host = FakeHost::new();
        let at = at(&host);
        let report = find(&at).expect_err("nothing").report();
        assert!(
            report.contains("nothing is installed") && report.contains("flmadm install"),
            "{report}"
        );
        everything(&host, false);
        let report = find(&at)
            .expect("found")
            .systemd(&host)
            .err()
            .expect("no units")
            .report();
        assert!(
            report.contains("--no-systemd") && report.contains("flmadm dev up"),
            "{report}"
        );
    }
}
