//! What each profile of an installation consists of.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cli::InstallArgs;
use crate::failure::{Failure, Outcome};

/// A part that a machine can play.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Profile {
    /// Runs the session manager.
    ControlPlane,
    /// Runs tasks.
    Worker,
    /// Has the programs of users.
    Client,
}

/// Every profile.
pub(crate) const ALL: [Profile; 3] = [Profile::ControlPlane, Profile::Worker, Profile::Client];

/// The administrator's program, part of every installation.
pub(crate) const FLMADM: &str = "flmadm";
/// Unit of the session manager.
pub(crate) const SESSION_MANAGER: &str = "flame-session-manager.service";
/// Unit of the node agent.
pub(crate) const NODE_AGENT: &str = "flame-node-agent.service";
/// Template of the units of further node agents on the same host.
pub(crate) const MORE_AGENTS: &str = "flame-node-agent@.service";

impl Profile {
    /// Name as on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ControlPlane => "control-plane",
            Self::Worker => "worker",
            Self::Client => "client",
        }
    }

    /// Programs in `bin/`.
    pub(crate) fn programs(self) -> &'static [&'static str] {
        match self {
            Self::ControlPlane => &["flame-session-manager"],
            Self::Worker => &[
                "flame-node-agent",
                "flame-executor",
                "flmping-service",
                "flmexec-service",
            ],
            Self::Client => &["flmctl", "flmping", "flmexec"],
        }
    }

    /// Its unit files, in the order in which units are started.
    pub(crate) fn units(self) -> &'static [&'static str] {
        match self {
            Self::ControlPlane => &[SESSION_MANAGER],
            Self::Worker => &[
                "flame-executors.slice",
                "flame-executor@.service",
                "flame-executor-strict@.service",
                "flame-executor-open@.service",
                NODE_AGENT,
                MORE_AGENTS,
            ],
            Self::Client => &[],
        }
    }

    /// The daemon's unit, if it has one.
    pub(crate) fn service(self) -> Option<&'static str> {
        match self {
            Self::ControlPlane => Some(SESSION_MANAGER),
            Self::Worker => Some(NODE_AGENT),
            Self::Client => None,
        }
    }
}

/// The units that run a daemon, with its program; that of further agents is a template.
pub(crate) fn daemons() -> impl Iterator<Item = (&'static str, &'static str)> {
    [
        (SESSION_MANAGER, "flame-session-manager"),
        (NODE_AGENT, "flame-node-agent"),
        (MORE_AGENTS, "flame-node-agent"),
    ]
    .into_iter()
}

/// Whether the command line asks for any profile.
pub(crate) fn is_chosen(args: &InstallArgs) -> bool {
    args.all || args.cache || args.control_plane || args.worker || args.client
}

/// The profiles that the command line asks for.
///
/// # Errors
/// None is asked for, or only what this release does not have.
pub(crate) fn selected(args: &InstallArgs) -> Outcome<Vec<Profile>> {
    if args.all {
        return Ok(ALL.to_vec());
    }
    if args.cache {
        return Err(
            Failure::arguments("this release has no object cache, so --cache cannot be installed")
                .hint("leave --cache out; --all installs everything that there is"),
        );
    }
    let chosen = [
        (args.control_plane, Profile::ControlPlane),
        (args.worker, Profile::Worker),
        (args.client, Profile::Client),
    ];
    let profiles: Vec<Profile> = chosen
        .into_iter()
        .filter_map(|(on, profile)| on.then_some(profile))
        .collect();
    if profiles.is_empty() {
        return Err(
            Failure::arguments("no profile is chosen, so there is nothing to install")
                .hint("give one or more of --control-plane, --worker and --client, or --all"),
        );
    }
    Ok(profiles)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::parse_install;

    #[test]
    fn the_table_of_arguments() {
        use Profile::{Client, ControlPlane, Worker};
        for (line, expected) in [
            ("--all", Some(vec![ControlPlane, Worker, Client])),
            ("--control-plane", Some(vec![ControlPlane])),
            ("--worker --client", Some(vec![Worker, Client])),
            ("--client --control-plane", Some(vec![ControlPlane, Client])),
            ("--cache", None),
            ("--cache --worker", None),
            ("", None),
        ] {
            let args = parse_install(line).expect(line);
            assert_eq!(selected(&args).ok(), expected, "{line}");
        }
    }

    #[test]
    fn all_excludes_the_others() {
        for other in ["--worker", "--control-plane", "--client", "--cache"] {
            parse_install(&format!("--all {other}")).expect_err(other);
        }
    }
}
