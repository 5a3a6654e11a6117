//! The proof that an installation works: services stay up, the node is registered, and a task goes through.

use std::time::{Duration, Instant};

use flame_core::config::ClusterConfig;
use flame_systemd::manager::UnitStatus;

use crate::failure::{Failure, Kind, Outcome};
use crate::host::{Found, Host, Probed, Units};
use crate::manifest::Manifest;
use crate::output::Output;
use crate::prefix::Prefix;
use crate::profile::{NODE_AGENT, Profile};
use crate::services;
use crate::unit_files::TARGET;

/// Longest wait for a service to be ready, and for a task to go through, unless somebody says otherwise. Twice this
/// and the way back is less than half a minute.
pub(crate) const LIMIT: Duration = Duration::from_secs(12);
/// How long a service must stay up after it was ready: a daemon that dies at once, or after its first second, is no
/// success.
const SETTLE: Duration = Duration::from_millis(1_500);
/// How the node agent's status begins once it is registered.
const REGISTERED: &str = "registered";

/// What was seen.
#[derive(Debug)]
pub(crate) struct Proof {
    pub(crate) units: Vec<UnitStatus>,
    /// `None` if this machine cannot run a task by itself.
    pub(crate) probe: Option<Probed>,
}

/// Waits until all services of `manifest`, which is in `prefix`, have proved that they work, each part at most for `limit`.
///
/// # Errors
/// One of them does not (start).
pub(crate) fn prove(
    host: &dyn Host,
    prefix: &Prefix,
    manifest: &Manifest,
    limit: Duration,
    output: &mut Output<'_>,
) -> Outcome<Proof> {
    let systemd = host.systemd()?;
    let started_at = Instant::now();
    let mut started = Vec::new();
    for service in manifest.services() {
        let status = systemd.status(service)?;
        // One that was not asked to run proves nothing.
        if status.active_state != "inactive" {
            started.push((service, status.main_pid));
        }
    }
    let agent = manifest.names().own(NODE_AGENT);
    let runs = |unit: &str| started.iter().any(|(service, _)| *service == unit);
    let manages = manifest.profiles.contains(&Profile::ControlPlane);
    let mut probe = None;
    if manages && runs(&agent) {
        output.doing("registration of this node");
        registered(systemd, &agent, limit).map_err(|failure| explain(host, failure, &agent))?;
        output.doing("a task through the session manager and an executor");
        let config = ClusterConfig::load(&prefix.config())
            .map_err(|error| Failure::installation("the configuration is broken").because(error))?;
        let probed = host.probe(&config, limit);
        probe = Some(probed.map_err(|failure| explain(host, failure, &agent))?);
        output.progress(match probe {
            Some(Probed::Done) => "a task went through",
            _ => "the session manager answers; no task was tried, because no node takes new work now",
        });
    }
    for (service, pid) in started {
        let rest = SETTLE.saturating_sub(started_at.elapsed());
        let look = |status: &UnitStatus| stays_up(status, pid);
        if let Some(Err(why)) = systemd.watch(service, rest, &look)? {
            let failure = Failure::new(Kind::Start, format!("{service} started, but {why}"));
            return Err(explain(host, failure, service));
        }
    }
    let target = systemd.status(&manifest.names().own(TARGET))?;
    if target.unit_file_state == "enabled" && !target.is_active() {
        return Err(Failure::new(
            Kind::Start,
            format!("{} is {} after its start", target.name, target.active_state),
        ));
    }
    let units = manifest.loadable().map(|unit| systemd.status(unit));
    Ok(Proof {
        units: units.collect::<Outcome<_>>()?,
        probe,
    })
}

fn stays_up(status: &UnitStatus, pid: Option<u32>) -> Found {
    if !status.is_active() {
        let how = status.result.as_deref().filter(|result| *result != "success");
        let how = how.map(|result| format!(" ({result})")).unwrap_or_default();
        return Some(Err(format!("then became {}{how}", status.active_state)));
    }
    (status.main_pid != pid).then(|| Err("then ended, and systemd had to start it again".to_owned()))
}

fn registered(systemd: &dyn Units, agent: &str, limit: Duration) -> Outcome<()> {
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
    let problem = match systemd.watch(agent, limit, &look)? {
        Some(Ok(())) => return Ok(()),
        Some(Err(why)) => why,
        None => {
            let status = systemd.status(agent)?;
            let says = status.status_text.unwrap_or_else(|| "nothing".to_owned());
            format!(
                "the node has not registered within {} s; it says: {says}",
                limit.as_secs()
            )
        }
    };
    Err(Failure::new(Kind::Start, problem))
}

/// Adds what `unit` said last, which may be gone from the screen but not from the journal when all is undone.
pub(crate) fn explain(host: &dyn Host, failure: Failure, unit: &str) -> Failure {
    let said = services::last_lines(host, unit);
    let failure = match said.is_empty() {
        true => failure,
        false => failure.also(format!("{unit} said last:\n  {}", said.join("\n  "))),
    };
    failure.hint(format!(
        "see why: {} {unit} -n 50; --keep-failed leaves what was installed for a closer look",
        host.scope().journalctl()
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
