//! What is checked before an installation is planned; nothing has been changed then.

use std::path::{Path, PathBuf};

use flame_core::HostNames;
use flame_core::config::ClusterConfig;

use super::plan::{Request, drop_ins, new_endpoint};
use crate::cli::InstallArgs;
use crate::cluster_config::{self, Decision};
use crate::doctor;
use crate::failure::{Failure, Kind, Outcome};
use crate::host::Host;
use crate::manifest::Manifest;
use crate::prefix::Prefix;
use crate::profile::Profile;
use crate::restore;
use crate::rights;
use crate::scope::Scope;
use crate::unit_files::{self, Owner, UnitFile};

/// What doctor finds on this machine with its fast checks: notes for the user.
///
/// # Errors
/// An error that `--ignore-check` does not name; or the configuration, see [`cluster_config::decide`].
pub(super) fn doctor(
    host: &dyn Host,
    args: &InstallArgs,
    prefix: &Prefix,
    old: Option<&Manifest>,
    profiles: &[Profile],
) -> Outcome<Vec<String>> {
    let instance = old.map_or_else(|| args.at.instance.clone(), |old| old.instance.clone());
    let new = Manifest {
        instance,
        scope: host.scope(),
        profiles: profiles.to_vec(),
        ..Manifest::default()
    };
    let otherwise = new_endpoint(host, prefix, args.force, &new)?;
    let config = match args.restore.as_deref().and_then(restore::config) {
        Some(path) => ClusterConfig::load(&path),
        None => match cluster_config::decide(prefix, args.endpoint.as_deref(), &otherwise, args.force)? {
            Decision::Keep => ClusterConfig::load(&prefix.config()),
            Decision::Create(text) | Decision::Replace(text) => ClusterConfig::parse(&text),
        },
    };
    let config =
        config.map_err(|error| Failure::installation("the configuration is broken").because(error))?;
    let mode = match args.no_systemd {
        true => doctor::Mode::NoSystemd,
        false => doctor::Mode::of(host.scope()),
    };
    let planned = doctor::preflight::Planned {
        prefix,
        old,
        profiles,
        mode,
        config,
    };
    doctor::preflight::look(host, planned, &args.ignore_check)
}

/// Whether what is asked for fits this machine and what is installed.
///
/// # Errors
/// It does not.
pub(super) fn machine(
    host: &dyn Host,
    args: &InstallArgs,
    prefix: &Prefix,
    old: Option<&Manifest>,
) -> Outcome<()> {
    if args.no_systemd {
        return match old {
            Some(old) if old.systemd && old.is_installed() => Err(Failure::arguments(format!(
                "the installation in {} has systemd units, so --no-systemd does not fit",
                prefix.path().display()
            ))
            .hint("uninstall it first, or leave --no-systemd out")),
            _ => Ok(()),
        };
    }
    if host.scope() == Scope::User {
        return host.systemd().map(drop);
    }
    prefix.check_for_services()?;
    let doing = "install systemd units and the user flame";
    let hint = "run it with sudo, or use --user for units of your own, or --no-systemd";
    rights::over_units(host, Kind::Systemd, doing).map_err(|failure| failure.hint(hint))?;
    host.systemd().map(drop)
}

/// Whether an installation of a user is for this one.
///
/// # Errors
/// It is root.
pub(super) fn user(host: &dyn Host, args: &InstallArgs) -> Outcome<()> {
    if host.scope() == Scope::User && host.is_root() && !args.force {
        return Err(Failure::arguments(
            "--user is for those who are not root: root's own service manager seldom runs",
        )
        .hint("leave --user out, or run it as another user without sudo; --force does it all the same"));
    }
    Ok(())
}

/// Units have one name on a machine, so a second installation would take over the first one's.
///
/// # Errors
/// A unit or a drop-in belongs to somebody else.
pub(super) fn units(
    host: &dyn Host,
    request: &Request<'_>,
    names: &HostNames,
    units: &[UnitFile],
) -> Outcome<()> {
    for unit in units {
        for directory in host.package_unit_directories() {
            let path = directory.join(&unit.name);
            if path.exists() {
                return Err(
                    Failure::installation(format!("{} belongs to a package", path.display()))
                        .hint("remove the package first, or use --no-systemd with another --prefix"),
                );
            }
        }
    }
    let own = units.iter().map(|unit| host.unit_directory().join(&unit.name));
    let all: Vec<PathBuf> = match units.is_empty() {
        true => Vec::new(),
        false => own.chain(drop_ins(host, names)).collect(),
    };
    for path in all {
        let whose = match unit_files::owner(&path)? {
            Owner::Nobody => continue,
            Owner::Prefix(other) if other == request.prefix.path() => continue,
            Owner::Mask if request.force => continue,
            Owner::Mask => return Err(masked(&path)),
            Owner::Prefix(other) => format!("the installation in {}", other.display()),
            Owner::Unknown => "somebody else".to_owned(),
        };
        if !request.force {
            return Err(
                Failure::installation(format!("{} belongs to {whose}", path.display()))
                    .hint("use --instance NAME to have both, uninstall that one first, or use --force to take the unit over"),
            );
        }
    }
    Ok(())
}

fn masked(path: &Path) -> Failure {
    let unit = path.file_name().unwrap_or_default().display();
    Failure::installation(format!("{unit} is masked: {} leads to /dev/null", path.display())).hint(format!(
        "systemctl unmask {unit} lets it start again; --force of flmadm install does so, too"
    ))
}

/// Whether the prefix can be made, or changed.
///
/// # Errors
/// It cannot.
pub(super) fn writable(prefix: &Prefix) -> Outcome<()> {
    // The nearest directory that exists is the one that something is made in.
    let Some(nearest) = prefix.path().ancestors().find(|path| path.exists()) else {
        return Ok(());
    };
    if !nearest.is_dir() {
        return Err(Failure::arguments(format!(
            "{} is not a directory",
            nearest.display()
        )));
    }
    let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    rustix::fs::access(nearest, access).map_err(|error| Failure::path("write to", nearest, error.into()))
}
