//! Starting what was installed, and making sure that it really runs.

use std::time::{Duration, Instant};

use flame_systemd::manager::UnitStatus;

use super::plan::drop_ins;
use super::step::Step;
use crate::failure::{Failure, Kind, Outcome};
use crate::host::{Found, Host, Units};
use crate::manifest::Manifest;
use crate::output::Output;
use crate::profile::{MORE_AGENTS, NODE_AGENT, Profile};
use crate::unit_files::TARGET;

/// How long a service must stay up after it said READY: a daemon that dies at once is no success.
const SETTLE: Duration = Duration::from_secs(1);
/// Longest wait for the node agent to register at the session manager of the same machine.
const REGISTER_LIMIT: Duration = Duration::from_secs(30);
/// How the node agent's status begins once it is registered.
const REGISTERED: &str = "registered";

/// Enables and starts the units of `manifest`; restarts services that ran before `changed` was done.
///
/// # Errors
/// A unit cannot be enabled (systemd), or does not start or stay up (start).
pub(super) fn run(
    host: &dyn Host,
    manifest: &Manifest,
    changed: &[&Step],
    output: &mut Output<'_>,
) -> Outcome<Vec<UnitStatus>> {
    if manifest.units.is_empty() {
        return Ok(Vec::new());
    }
    let systemd = host.systemd()?;
    let target = manifest.names().own(TARGET);
    let installable: Vec<&str> = manifest.installable().collect();
    systemd.enable(&installable)?;
    // Enabling made links that the running manager has not read.
    systemd.reload()?;
    for service in manifest.services() {
        let stale = changed.iter().any(|step| affects(host, manifest, step, service));
        let state = systemd.status(service)?.active_state;
        let done = match state.as_str() {
            "active" if !stale => Ok(()),
            "inactive" | "failed" => {
                output.progress(&format!("start of {service}"));
                systemd.reset_failed(service)?;
                systemd.start(service)
            }
            // Also between two failed starts: a plain start would wait for the next of them.
            _ => {
                output.progress(&format!("restart of {service}"));
                systemd.restart(service)
            }
        };
        done.map_err(|failure| explain(failure, service))?;
    }
    restart_further_agents(host, manifest, changed, output)?;
    systemd
        .start(&target)
        .map_err(|failure| explain(failure, &target))?;
    verify(systemd, manifest, output)?;
    manifest.loadable().map(|unit| systemd.status(unit)).collect()
}

/// Restarts the further agents of this host that run, if what they run with has changed. An administrator started
/// them, so those that do not run stay so.
fn restart_further_agents(
    host: &dyn Host,
    manifest: &Manifest,
    changed: &[&Step],
    output: &mut Output<'_>,
) -> Outcome<()> {
    let agents = agents(manifest);
    let stale = agents
        .iter()
        .any(|unit| changed.iter().any(|step| affects(host, manifest, step, unit)));
    if !stale || !manifest.units.contains(&agents[1]) {
        return Ok(());
    }
    let systemd = host.systemd()?;
    for agent in systemd.loaded(&agents[1].replace("@.", "@*."))? {
        if systemd.status(&agent)?.active_state == "active" {
            output.progress(&format!("restart of {agent}"));
            systemd
                .restart(&agent)
                .map_err(|failure| explain(failure, &agent))?;
        }
    }
    Ok(())
}

/// The units of the node agent and of further ones.
fn agents(manifest: &Manifest) -> [String; 2] {
    [NODE_AGENT, MORE_AGENTS].map(|unit| manifest.names().own(unit))
}

/// Whether `step` changed where executors may write.
pub(super) fn is_drop_in(host: &dyn Host, manifest: &Manifest, step: &Step) -> bool {
    let (Step::Text { path, .. } | Step::Remove { path, .. }) = step else {
        return false;
    };
    drop_ins(host, &manifest.names()).contains(path)
}

/// Whether `step` changed what `service` runs with.
fn affects(host: &dyn Host, manifest: &Manifest, step: &Step, service: &str) -> bool {
    let own =
        |(unit, program): (&str, &'static str)| (manifest.names().own(unit) == service).then_some(program);
    let program = crate::profile::daemons().find_map(own);
    match step {
        Step::Program { path, .. } => path
            .file_name()
            .is_some_and(|name| program.is_some_and(|program| name == program)),
        // The agents have to learn of it, too.
        step if is_drop_in(host, manifest, step) => agents(manifest).iter().any(|agent| agent == service),
        Step::Text { path, .. } => {
            *path == manifest.prefix.join("conf/flame-cluster.yaml")
                || *path == host.unit_directory().join(service)
        }
        _ => false,
    }
}

/// Whether `step` changed a unit file.
pub(super) fn is_unit(host: &dyn Host, step: &Step) -> bool {
    let (Step::Text { path, .. } | Step::Remove { path, .. }) = step else {
        return false;
    };
    path.starts_with(host.unit_directory())
}

fn verify(systemd: &dyn Units, manifest: &Manifest, output: &mut Output<'_>) -> Outcome<()> {
    let mut started = Vec::new();
    for service in manifest.services() {
        started.push((service, systemd.status(service)?.main_pid));
    }
    let settled = Instant::now() + SETTLE;
    for (service, pid) in started {
        let look = |status: &UnitStatus| stays_up(status, pid);
        let rest = settled.saturating_duration_since(Instant::now());
        if let Some(Err(why)) = systemd.watch(service, rest, &look)? {
            return Err(explain(
                Failure::new(Kind::Start, format!("{service} started, but {why}")),
                service,
            ));
        }
    }
    let target = systemd.status(&manifest.names().own(TARGET))?;
    if !target.is_active() {
        return Err(Failure::new(
            Kind::Start,
            format!("{} is {} after its start", target.name, target.active_state),
        ));
    }
    if manifest.profiles.contains(&Profile::ControlPlane) && manifest.profiles.contains(&Profile::Worker) {
        output.progress("registration of this node");
        registered(systemd, &manifest.names().own(NODE_AGENT))?;
    }
    Ok(())
}

fn stays_up(status: &UnitStatus, pid: Option<u32>) -> Found {
    if !status.is_active() {
        let how = status.result.as_deref().filter(|result| *result != "success");
        let how = how.map(|result| format!(" ({result})")).unwrap_or_default();
        return Some(Err(format!("then became {}{how}", status.active_state)));
    }
    (status.main_pid != pid).then(|| Err("then ended, and systemd had to start it again".to_owned()))
}

fn registered(systemd: &dyn Units, agent: &str) -> Outcome<()> {
    let look = |status: &UnitStatus| {
        if !status.is_active() {
            return Some(Err(format!("{agent} became {}", status.active_state)));
        }
        status
            .status_text
            .as_deref()
            .is_some_and(|text| text.starts_with(REGISTERED))
            .then_some(Ok(()))
    };
    let problem = match systemd.watch(agent, REGISTER_LIMIT, &look)? {
        Some(Ok(())) => return Ok(()),
        Some(Err(why)) => why,
        None => {
            let status = systemd.status(agent)?;
            let says = status.status_text.unwrap_or_else(|| "nothing".to_owned());
            format!(
                "the node has not registered within {} s; it says: {says}",
                REGISTER_LIMIT.as_secs()
            )
        }
    };
    Err(explain(Failure::new(Kind::Start, problem), agent))
}

fn explain(failure: Failure, unit: &str) -> Failure {
    failure.hint(format!(
        "the installation is complete, only the start failed; see why: journalctl -u {unit} -n 50; then: flmadm \
         install again, or systemctl restart {unit}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_ends_or_is_started_again_does_not_stay_up() {
        let mut status = UnitStatus {
            main_pid: Some(7),
            ..UnitStatus::named(NODE_AGENT)
        };
        status.result = Some("exit-code".to_owned());
        assert!(
            matches!(stays_up(&status, Some(7)), Some(Err(why)) if why == "then became inactive (exit-code)")
        );
        status.active_state = "active".to_owned();
        assert_eq!(stays_up(&status, Some(7)), None);
        assert!(matches!(stays_up(&status, Some(6)), Some(Err(_))));
    }
}
