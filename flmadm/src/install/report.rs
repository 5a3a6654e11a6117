//! What an installation, an upgrade or a rollback tells when it is done.

use std::path::PathBuf;

use flame_systemd::manager::UnitStatus;
use schemars::JsonSchema;
use serde::Serialize;

use crate::change::Done;
use crate::cli;
use crate::host::{Host, Probed};
use crate::manifest::Manifest;
use crate::node_config::AgentFile;
use crate::output::Output;
use crate::ports;
use crate::profile::Profile;

/// What is installed now, and what was done for it.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Report {
    /// Directory of the installation.
    pub(crate) prefix: PathBuf,
    /// Version of Flame.
    pub(crate) version: String,
    /// Name of the current release.
    pub(crate) release: String,
    /// Name of the release that was current before; `null` if there was none.
    pub(crate) previous: Option<String>,
    /// What this machine does.
    pub(crate) profiles: Vec<Profile>,
    /// Whether there are systemd units.
    pub(crate) systemd: bool,
    /// Ids of the steps that had something to do; empty if nothing had to be changed.
    pub(crate) changed: Vec<String>,
    /// State of each unit, if any was started.
    pub(crate) units: Vec<UnitStatus>,
    /// What the task found that proves it all; `null` if none was run.
    pub(crate) probe: Option<Probed>,
    /// Address of the session manager, if this run has chosen it.
    pub(crate) endpoint: Option<String>,
    /// What the agents of this machine use.
    pub(crate) agents: Vec<serde_json::Value>,
    /// What else there is to know or to do.
    pub(crate) notes: Vec<String>,
    /// Commands that come next, for people.
    #[serde(skip)]
    next: Vec<String>,
}

impl Report {
    pub(crate) fn new(
        manifest: &Manifest,
        old: Option<&Manifest>,
        done: Done,
        agents: &[AgentFile],
        mut notes: Vec<String>,
        is_started: bool,
    ) -> Self {
        let was_installed = old.is_some_and(Manifest::is_installed);
        if was_installed && !is_started {
            if done.has_new_work_directories {
                notes.push(
                    "agents that run already keep their old work directories until they are restarted"
                        .to_owned(),
                );
            }
            if done.has_new_programs {
                notes.push(
                    "services that run already keep their old programs until they are restarted".to_owned(),
                );
            }
        }
        notes.extend(done.left.notes);
        notes.extend(
            done.left
                .kept
                .iter()
                .map(|path| format!("{} stays: there is something of yours in it", path.display())),
        );
        let mut report = Self {
            prefix: manifest.prefix.clone(),
            version: manifest.version.clone(),
            release: manifest.release.clone(),
            previous: old
                .map(|old| old.release.clone())
                .filter(|id| !id.is_empty() && *id != manifest.release),
            profiles: manifest.profiles.clone(),
            systemd: manifest.systemd,
            changed: done.changed,
            units: done.units,
            probe: done.probe,
            endpoint: None,
            agents: agents.iter().map(AgentFile::json).collect(),
            notes,
            next: Vec::new(),
        };
        report.next = report.next_steps(manifest, is_started);
        report
    }

    /// With the address that was chosen for the session manager.
    pub(crate) fn with_endpoint(mut self, endpoint: Option<String>) -> Self {
        self.endpoint = endpoint;
        self
    }

    fn next_steps(&self, manifest: &Manifest, is_started: bool) -> Vec<String> {
        let bin = self.prefix.join("bin");
        let program = |name: &str| bin.join(name).display().to_string();
        let which = cli::which(manifest);
        let mut next = Vec::new();
        if self.systemd && !manifest.units.is_empty() && !is_started && self.previous.is_none() {
            next.push(format!(
                "{} enable{which} --now   starts the services now and at every boot",
                program("flmadm")
            ));
        }
        if !self.changed.is_empty() && self.previous.is_none() {
            if !self.systemd && self.profiles.contains(&Profile::ControlPlane) {
                next.push(format!(
                    "{} dev up --prefix {}   runs the services until Ctrl-C",
                    program("flmadm"),
                    self.prefix.display()
                ));
            }
            if self.profiles.contains(&Profile::Client) && (is_started || !self.systemd) {
                next.push(format!("{}   runs some tasks", program("flmping")));
            }
            next.push(format!("{} status{which}   shows what runs", program("flmadm")));
            next.push(format!("export PATH=\"{}:$PATH\"", bin.display()));
        }
        next
    }
}

/// The address that was chosen, in words.
fn addresses(endpoint: &str) -> String {
    let ports: Vec<String> = ports::ports(endpoint).iter().map(u16::to_string).collect();
    format!(
        "The session manager's address is {endpoint} (ports {}); for clients: export FLAME_ENDPOINT={endpoint}",
        ports.join(", ")
    )
}

/// Prints it.
pub(crate) fn say(_: &dyn Host, report: &Report, output: &mut Output<'_>) {
    output.json(report);
    if report.changed.is_empty() {
        output.line("Nothing had to be changed.");
    }
    let before = report
        .previous
        .as_ref()
        .map(|id| format!(" (before: {id})"))
        .unwrap_or_default();
    output.line(&format!(
        "Flame {} is installed in {}{before}.",
        report.release,
        report.prefix.display()
    ));
    if let Some(endpoint) = &report.endpoint {
        output.line(&addresses(endpoint));
    }
    for note in &report.notes {
        output.line(&format!("Note: {note}"));
    }
    if !report.next.is_empty() {
        output.line("Next:");
        report.next.iter().for_each(|step| output.progress(step));
    }
}
