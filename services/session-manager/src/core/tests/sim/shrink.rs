//! Makes a scenario that fails as small as it can be and still fail.

use std::time::Duration;

use super::scenario::Scenario;
use super::{Failure, run};

/// Runs that a reader is ready to wait for.
const MAX_RUNS: usize = 400;

/// One way to make a scenario smaller.
type Cut = Box<dyn Fn(&mut Scenario)>;

/// The smallest scenario that was found to fail, and how it does.
pub(super) fn shrink(scenario: Scenario, failure: Failure) -> (Scenario, Failure) {
    let mut best = (scenario, failure);
    let mut runs = 0;
    loop {
        let mut smaller = None;
        for cut in cuts(&best.0) {
            runs += 1;
            if runs > MAX_RUNS {
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
    // Clients and nodes are numbered, so only the last ones can go; others can become idle.
    if scenario.clients.len() > 1
        && !scenario
            .faults
            .iter()
            .any(|(_, fault)| fault.needs_client(scenario.clients.len() - 1))
    {
        cuts.push(Box::new(|s| drop(s.clients.pop())));
    }
    if scenario.nodes.len() > 1
        && !scenario
            .faults
            .iter()
            .any(|(_, fault)| fault.needs_node(scenario.nodes.len() - 1))
    {
        cuts.push(Box::new(|s| drop(s.nodes.pop())));
    }
    for (at, client) in scenario.clients.iter().enumerate() {
        if client.waves.len() > 1 {
            cuts.push(Box::new(move |s| s.clients[at].waves.truncate(1)));
        }
        if client.lives > 1 {
            cuts.push(Box::new(move |s| s.clients[at].lives = 1));
        }
        for (number, wave) in client.waves.iter().enumerate() {
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
