//! What is looked at: an installation, or one that is about to be made.

use std::cell::OnceCell;
use std::path::PathBuf;

use flame_core::config::ClusterConfig;
use flame_core::config::cluster::Storage;

use super::check::{Mode, When};
use super::facts::Facts;
use crate::failure::{Failure, Outcome, chain};
use crate::host::{Host, Units};
use crate::manifest::Manifest;
use crate::prefix::Prefix;
use crate::profile::{ALL, MORE_AGENTS, NODE_AGENT, Profile, SESSION_MANAGER};
use crate::unit_files::EXECUTORS;

/// An installation and the machine that it is on.
pub(crate) struct Site<'a> {
    pub(crate) host: &'a dyn Host,
    pub(crate) prefix: &'a Prefix,
    /// What is installed, if something is.
    pub(crate) manifest: Option<&'a Manifest>,
    pub(crate) profiles: Vec<Profile>,
    pub(crate) mode: Mode,
    /// Bytes that the change about to be made needs below the prefix, besides what services need to run.
    pub(crate) growth: u64,
    /// Configuration of the cluster, from its file if nobody says otherwise.
    config: OnceCell<Result<ClusterConfig, String>>,
}

impl<'a> Site<'a> {
    /// The installation in `prefix`; if there is none, one of everything that could be made there.
    pub(crate) fn new(host: &'a dyn Host, prefix: &'a Prefix, manifest: Option<&'a Manifest>) -> Self {
        let manifest = manifest.filter(|manifest| manifest.is_installed());
        let mode = match manifest {
            Some(manifest) if !manifest.systemd => Mode::NoSystemd,
            _ => Mode::of(host.scope()),
        };
        Self {
            host,
            prefix,
            manifest,
            profiles: manifest.map_or_else(|| ALL.to_vec(), |manifest| manifest.profiles.clone()),
            mode,
            growth: 0,
            config: OnceCell::new(),
        }
    }

    /// The same with other parts, another way to run them and another configuration: what an installation will make.
    pub(crate) fn planned(mut self, profiles: &[Profile], mode: Mode, config: ClusterConfig) -> Self {
        self.profiles = profiles.to_vec();
        self.mode = mode;
        self.config = OnceCell::from(Ok(config));
        self
    }

    /// The machine below the installation.
    pub(crate) fn facts(&self) -> &dyn Facts {
        self.host.facts()
    }

    /// The service manager.
    ///
    /// # Errors
    /// It cannot be reached.
    pub(crate) fn systemd(&self) -> Outcome<&dyn Units> {
        self.host.systemd()
    }

    pub(crate) fn has(&self, profile: Profile) -> bool {
        self.profiles.contains(&profile)
    }

    /// Whether `when` holds.
    pub(crate) fn is(&self, when: When) -> bool {
        match when {
            When::Installed => self.manifest.is_some(),
            When::Units => self.mode != Mode::NoSystemd,
            When::System => self.mode == Mode::System,
            When::User => self.mode == Mode::User,
            When::Has(profile) => self.has(profile),
            When::Service => self.has(Profile::ControlPlane) || self.has(Profile::Worker),
        }
    }

    /// The installation.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn installed(&self) -> Outcome<&Manifest> {
        self.manifest.ok_or_else(|| {
            Failure::installation(format!(
                "nothing is installed in {}",
                self.prefix.path().display()
            ))
        })
    }

    /// The unit that the installation without a name calls `unit`, if it is installed.
    fn own(&self, unit: &str) -> Option<&str> {
        let manifest = self.manifest?;
        let name = manifest.names().own(unit);
        manifest.units.iter().map(String::as_str).find(|own| *own == name)
    }

    /// The unit of the session manager.
    pub(crate) fn manager(&self) -> Option<&str> {
        self.own(SESSION_MANAGER)
    }

    /// The unit of the agent that has no name.
    pub(crate) fn agent(&self) -> Option<&str> {
        self.own(NODE_AGENT)
    }

    /// The template of further agents.
    pub(crate) fn agent_template(&self) -> Option<&str> {
        self.own(MORE_AGENTS)
    }

    /// The templates of executors.
    pub(crate) fn executor_templates(&self) -> impl Iterator<Item = &str> {
        EXECUTORS.iter().filter_map(|unit| self.own(unit))
    }

    /// Configuration of the cluster.
    ///
    /// # Errors
    /// There is none that can be used.
    pub(crate) fn config(&self) -> Outcome<&ClusterConfig> {
        let read = || ClusterConfig::load(&self.prefix.config()).map_err(|error| chain(&error));
        self.config
            .get_or_init(read)
            .as_ref()
            .map_err(|error| Failure::installation("there is no valid configuration").because(error.clone()))
    }

    /// The file of the state, if there is one.
    pub(crate) fn state_file(&self) -> Option<PathBuf> {
        match &self.config().ok()?.storage {
            Storage::Sqlite(path) => Some(self.prefix.join("data").join(path)),
            Storage::None => None,
        }
    }
}
