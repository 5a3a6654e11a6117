//! Makes a scenario that fails as small as it can be and still fail.

use std::time::{Duration, Instant};

use super::scenario::Scenario;
use super::{Failure, from_environment, run};

/// For how long a reader is ready to wait, in seconds, unless `FLAME_SIM_SHRINK` says otherwise.
const MAX_SECONDS: u64 = 60;

/// One way to make a scenario smaller.
type Cut = Box<dyn Fn(&mut Scenario)>;

/// The smallest scenario that was found to fail, and how it does.
pub(super) fn shrink(scenario: Scenario, failure: Failure) -> (Scenario, Failure) {
    let mut best = (scenario, failure);
    let seconds = from_environment("FLAME_SIM_SHRINK").unwrap_or(MAX_SECONDS);
    let until = Instant::now() + Duration::from_secs(seconds);
    loop {
        let mut smaller = None;
        for cut in cuts(&best.0) {
            if Instant::now() >= until {
                return best;
            }
            let mut candidate = best.0.clone();
            cut(&mut candidate);
            if let Err(failure) = run(candidate.clone(), false) {
                smaller = Some((candidate, failure));
                break;
            }
        }
        match smaller {
            Some(found) => best = found,
            None => return best,
        }
    }
}

/// All ways to make it smaller, the boldest first.
fn cuts(scenario: &Scenario) -> Vec<Cut> {
    let mut cuts: Vec<Cut> = Vec::new();
    let faults = scenario.faults.len();
    if faults > 1 {
        cuts.push(Box::new(move |s| {
            s.faults.drain(..faults / 2);
        }));
        cuts.push(Box::new(move |s| s.faults.truncate(faults / 2)));
    }
    for at in 0..faults {
        cuts.push(Box::new(move |s| {
            s.faults.remove(at);
        }));
    }
    if scenario.chores.len() > 1 {
        cuts.push(Box::new(|s| s.chores.clear()));
    }
    for at in 0..scenario.chores.len() {
        cuts.push(Box::new(move |s| {
            s.chores.remove(at);
        }));
    }
    // Clients and nodes are numbered, so only the last ones can go; others can become idle.
    if scenario.clients.len() > 1
        && !scenario
            .faults
            .iter()
            .any(|(_, fault)| fault.needs_client(scenario.clients.len() - 1))
    {
        cuts.push(Box::new(|s| drop(s.clients.pop())));
    }
    let last = scenario.nodes.len() - 1;
    let faulty = scenario.faults.iter().filter_map(|(_, fault)| fault.node());
    let mut needed = faulty.chain(scenario.chores.iter().filter_map(|(_, chore)| chore.node()));
    if last > 0 && !needed.any(|node| node == last) {
        cuts.push(Box::new(|s| drop(s.nodes.pop())));
    }
    for (at, client) in scenario.clients.iter().enumerate() {
        if client.waves.len() > 1 {
            cuts.push(Box::new(move |s| s.clients[at].waves.truncate(1)));
        }
        if client.lives > 1 {
            cuts.push(Box::new(move |s| s.clients[at].lives = 1));
        }
        if client.task_timeout.is_some() && !client.waves.iter().any(|wave| wave.hangs) {
            cuts.push(Box::new(move |s| s.clients[at].task_timeout = None));
        }
        for (number, wave) in client.waves.iter().enumerate() {
            if wave.hangs {
                cuts.push(Box::new(move |s| s.clients[at].waves[number].hangs = false));
            } else if wave.cancelled > 0 {
                cuts.push(Box::new(move |s| s.clients[at].waves[number].cancelled = 0));
            }
            if wave.tasks > 1 {
                cuts.push(Box::new(move |s| {
                    let wave = &mut s.clients[at].waves[number];
                    wave.tasks /= 2;
                }));
            }
            if wave.length > Duration::from_millis(2) {
                cuts.push(Box::new(move |s| s.clients[at].waves[number].length /= 2));
            }
        }
    }
    cuts
}
