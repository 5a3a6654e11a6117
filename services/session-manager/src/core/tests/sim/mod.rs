//! The simulation: the real core, with agents, clients, a network, a disk and a clock that are
//! played, in one thread, from one seed. Whatever fails once fails again with the same seed.
//! See `docs/simulation.md`.

mod admin;
mod agent;
mod client;
mod early;
mod fairness;
mod judge;
mod ledger;
mod manager;
mod network;
mod payload;
mod running;
mod scenario;
mod shrink;
mod store;
mod world;

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use crate::core::planted::{Bug, plant};
use scenario::Scenario;
use world::World;

/// Seeds of a plain `cargo nextest run`, which is not optimised; `make sim` runs more.
const FEW_SEEDS: u64 = 40;
/// Seeds within which each planted bug has to be found.
const ENOUGH_SEEDS: u64 = 2_000;

/// How a simulation failed.
#[derive(Debug, Clone)]
struct Failure {
    text: String,
    trace: Vec<String>,
}

/// What a simulation that went well came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Outcome {
    steps: u64,
    fingerprint: u64,
}

thread_local! {
    static PANIC: std::cell::RefCell<Option<String>> = const { std::cell::RefCell::new(None) };
    static QUIET: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// A panic of the core is a failure like any other: it is kept, and not printed while the
/// scenario is made smaller.
fn keep_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if QUIET.get() {
                PANIC.set(Some(info.to_string()));
            } else {
                before(info);
            }
        }));
    });
}

/// Runs one scenario to its end.
fn run(scenario: Scenario, traced: bool) -> Result<Outcome, Failure> {
    keep_panics();
    let mut world = World::new(scenario, traced);
    QUIET.set(true);
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    QUIET.set(false);
    let text = match result {
        Ok(Ok(())) => {
            return Ok(Outcome {
                steps: world.steps,
                fingerprint: world.fingerprint,
            });
        }
        Ok(Err(text)) => text,
        Err(_) => PANIC.take().unwrap_or_else(|| "it panicked".to_owned()),
    };
    let text = format!("at {:.6} s: {text}", world.now.as_secs_f64());
    let trace = world.trace().cloned().collect();
    Err(Failure { text, trace })
}

/// What a person needs to understand and repeat a failure.
fn report(seed: u64, failure: Failure) -> String {
    let first = failure.text.clone();
    let (scenario, _) = shrink::shrink(Scenario::new(seed), failure);
    let Err(failure) = run(scenario.clone(), true) else {
        return format!("seed {seed} failed once and not again: {first}");
    };
    let mut text = format!("seed {seed} fails: {first}\n");
    let _ = writeln!(text, "made smaller, it fails so:\n{}", failure.text);
    let _ = writeln!(text, "the smaller scenario:\n{scenario:#?}");
    let _ = writeln!(text, "the end of its trace:\n{}", failure.trace.join("\n"));
    let _ = writeln!(text, "seed {seed}: {}", failure.text);
    let _ = write!(text, "to repeat: make sim SEED={seed}");
    text
}

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(
        text.parse()
            .unwrap_or_else(|error| panic!("{name}={text}: {error}")),
    )
}

/// Runs seeds on all processors until one fails; returns the first that did, and all steps.
fn search(seeds: std::ops::Range<u64>, bug: Option<Bug>) -> (Option<(u64, Failure)>, u64) {
    let (next, steps, stop) = (
        AtomicU64::new(seeds.start),
        AtomicU64::new(0),
        AtomicBool::new(false),
    );
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut failures = std::thread::scope(|scope| {
        let work = || {
            plant(bug);
            let mut failed = None;
            while !stop.load(Ordering::Relaxed) {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds.end {
                    break;
                }
                match run(Scenario::new(seed), false) {
                    Ok(outcome) => {
                        steps.fetch_add(outcome.steps, Ordering::Relaxed);
                    }
                    Err(failure) => {
                        stop.store(true, Ordering::Relaxed);
                        failed = Some((seed, failure));
                        break;
                    }
                }
            }
            plant(None);
            failed
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let ended = workers.into_iter().map(|worker| worker.join().expect("caught"));
        ended.flatten().collect::<Vec<_>>()
    });
    failures.sort_by_key(|(seed, _)| *seed);
    (failures.into_iter().next(), steps.into_inner())
}

#[test]
fn seeds() {
    let seeds = match from_environment("FLAME_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            let first = from_environment("FLAME_SIM_FIRST").unwrap_or_default();
            first..first + from_environment("FLAME_SIM_SEEDS").unwrap_or(FEW_SEEDS)
        }
    };
    let (count, begun) = (seeds.end - seeds.start, Instant::now());
    let (failed, steps) = search(seeds, None);
    if let Some((seed, failure)) = failed {
        panic!("{}", report(seed, failure));
    }
    println!(
        "{count} seeds, {steps} steps, {:.1} s",
        begun.elapsed().as_secs_f64()
    );
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..5 {
        let runs = [(); 2].map(|()| run(Scenario::new(seed), false).map_err(|failure| failure.text));
        assert_eq!(runs[0], runs[1], "seed {seed}");
    }
}

/// Each of these bugs is found, and by the rule that is there for it.
fn is_found(bug: Bug, words: &[&str]) {
    let begun = Instant::now();
    let (found, _) = search(0..ENOUGH_SEEDS, Some(bug));
    let Some((seed, failure)) = found else {
        panic!("{bug:?} got past {ENOUGH_SEEDS} seeds");
    };
    let first = failure.text.lines().next().unwrap_or_default();
    println!(
        "{bug:?} is found with seed {seed} after {:.1} s: {first}",
        begun.elapsed().as_secs_f64()
    );
    let expected = words.iter().any(|word| failure.text.contains(word));
    assert!(expected, "{bug:?} was found by another rule: {}", failure.text);
}

#[test]
fn an_accepted_old_attempt_is_found() {
    is_found(Bug::OldAttempt, &["old attempt"]);
}

#[test]
fn a_forgotten_requeue_is_found() {
    is_found(
        Bug::ForgottenRequeue,
        &["not everything has ended", "tests/mod.rs"],
    );
}

#[test]
fn overcommitment_is_found() {
    is_found(Bug::Overcommit, &["is asked to run"]);
}

#[test]
fn inverted_priority_is_found() {
    is_found(
        Bug::InvertedPriority,
        &["behind one of lower priority", "no executor for"],
    );
}

#[test]
fn a_lost_wake_up_is_found() {
    is_found(
        Bug::LostWakeUp,
        &["not everything has ended", "no executor for", "behind one of"],
    );
}

#[test]
fn a_reply_before_the_commit_is_found() {
    is_found(
        Bug::ReplyBeforeCommit,
        &["lost", "acknowledged", "asked for", "end", "is stored as"],
    );
}

#[test]
fn a_leak_is_found() {
    is_found(Bug::Leak, &["memory grows with finished tasks"]);
}

#[test]
fn an_ignored_epoch_is_found() {
    is_found(
        Bug::IgnoredEpoch,
        &[
            "but a later one exists",
            "not everything has ended",
            "not ready",
            "is forgotten and is still there",
            "are sent",
        ],
    );
}
