//! What the policies promise, measured in the simulation where nothing goes wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use flame_core::Resources;
use flame_core::config::cluster::Placement;

use super::scenario::{ApplicationPlan, ClientPlan, Ending, NodePlan, Scenario, Time, Wave};
use super::world::World;

const GIB: u64 = 1 << 30;
/// A process starts and binds within this time, and ends within it.
const CHANGE_OVER: Duration = Duration::from_millis(350);

fn resources(cpu: u64, gib: u64, gpu: u32) -> Resources {
    Resources {
        cpu,
        memory: gib * GIB,
        gpu,
    }
}

/// A session with more work than there is time for.
fn endless(priority: u32, resources: Resources, begins: Time, length: Duration) -> ClientPlan {
    ClientPlan {
        application: 0,
        priority,
        resources,
        min_instances: 0,
        max_instances: None,
        labels: Vec::new(),
        task_timeout: None,
        begins,
        waves: vec![Wave {
            pause: Duration::ZERO,
            tasks: 5_000,
            calls: 1,
            single: false,
            length,
            output: 16,
            failing: 0,
            poison: false,
            cancelled: 0,
            cancelled_after: Duration::ZERO,
            hangs: false,
        }],
        ending: Ending::Waits,
        lives: 1,
    }
}

fn world(nodes: &[Resources], clients: Vec<ClientPlan>) -> World {
    let node = |resources: &Resources| NodePlan {
        resources: *resources,
        labels: Vec::new(),
    };
    let scenario = Scenario {
        seed: 1,
        placement: Placement::Pack,
        max_executors: 128,
        applications: vec![ApplicationPlan {
            max_instances: None,
            delay_release: 60,
        }],
        nodes: nodes.iter().map(node).collect(),
        clients,
        slow_messages: false,
        faults: Vec::new(),
        chores: Vec::new(),
    };
    World::new(scenario, false)
}

/// Tasks that have ended, by client.
fn ended(world: &World) -> Vec<usize> {
    world.clients.iter().map(|client| client.ended.len()).collect()
}

/// Executors that are bound or about to be, by session.
fn executors(world: &World) -> BTreeMap<String, usize> {
    let process = world.manager.process.as_ref().expect("it runs");
    let mut counts = BTreeMap::new();
    for executor in process
        .core
        .executors
        .values()
        .filter(|executor| !executor.is_leaving())
    {
        *counts.entry(executor.session_id.to_string()).or_default() += 1;
    }
    counts
}

fn counts<const N: usize>(expected: [(&str, usize); N]) -> BTreeMap<String, usize> {
    expected
        .into_iter()
        .map(|(id, count)| (id.to_owned(), count))
        .collect()
}

#[test]
fn two_sessions_of_equal_priority_get_half_each() {
    for (places, length) in [(4, 100), (2, 10), (1, 50), (8, 700)] {
        let length = Duration::from_millis(length);
        let unit = resources(1, 1, 0);
        let clients = vec![
            endless(0, unit, Time::ZERO, length),
            endless(0, unit, Duration::from_secs(5), length),
        ];
        let mut world = world(&[resources(places, 64, 0)], clients);
        world
            .run_until(Duration::from_secs(10))
            .expect("nothing is wrong");
        let before = ended(&world);
        world
            .run_until(Duration::from_secs(130))
            .expect("nothing is wrong");
        let done: Vec<_> = ended(&world)
            .iter()
            .zip(before)
            .map(|(after, before)| after - before)
            .collect();
        let share = done[0] as f64 / (done[0] + done[1]) as f64;
        println!(
            "{places} places, tasks of {length:?}: {done:?}, the first has {:.1} %",
            share * 100.0
        );
        assert!(
            (0.45..=0.55).contains(&share),
            "{places} places, tasks of {length:?}: {done:?}"
        );
    }
}

#[test]
fn a_high_priority_gets_everything_within_a_task() {
    let length = Duration::from_secs(2);
    let unit = resources(1, 1, 0);
    let begins = Duration::from_secs(10);
    let clients = vec![
        endless(0, unit, Time::ZERO, length),
        endless(1, unit, Time::ZERO, length),
        endless(5, unit, begins, length),
    ];
    let mut world = world(&[resources(4, 64, 0), resources(3, 64, 0)], clients);
    world.run_until(begins).expect("nothing is wrong");
    assert_eq!(
        executors(&world),
        counts([("s1", 7)]),
        "priority 1 has everything before"
    );
    // A task takes up to half as long again as it should.
    world
        .run_until(begins + length.mul_f64(1.5) + CHANGE_OVER)
        .expect("nothing is wrong");
    assert_eq!(executors(&world), counts([("s2", 7)]));
}

/// Shares that were computed by hand, as in Ghodsi et al., NSDI 2011.
#[test]
fn dominant_shares_are_as_computed_by_hand() {
    let length = Duration::from_millis(200);
    let cases: [(&str, Resources, &[Resources], &[usize]); 4] = [
        // 3 x 4/18 = 12/18 of the memory; 2 x 3/9 = 6/9 of the processors.
        (
            "the example of the paper",
            resources(9, 18, 0),
            &[resources(1, 4, 0), resources(3, 1, 0)],
            &[3, 2],
        ),
        // 9/12 of the processors; 3/4 of the gpus.
        (
            "processors and gpus",
            resources(12, 100, 4),
            &[resources(1, 1, 0), resources(1, 1, 1)],
            &[9, 3],
        ),
        // Three dominate in three resources, a third each.
        (
            "one resource each",
            resources(12, 12, 12),
            &[resources(2, 1, 1), resources(1, 2, 1), resources(1, 1, 2)],
            &[3, 3, 3],
        ),
        // The same size: as equal as whole executors can be.
        (
            "equals",
            resources(6, 60, 0),
            &[resources(1, 1, 0), resources(1, 1, 0), resources(1, 1, 0)],
            &[2, 2, 2],
        ),
    ];
    for (name, cluster, units, expected) in cases {
        let clients = units
            .iter()
            .map(|unit| endless(0, *unit, Time::ZERO, length))
            .collect();
        let mut world = world(&[cluster], clients);
        world
            .run_until(Duration::from_secs(20))
            .expect("nothing is wrong");
        let found = executors(&world);
        let found: Vec<_> = (0..units.len())
            .map(|at| found.get(&format!("s{at}")).copied().unwrap_or(0))
            .collect();
        assert_eq!(found, expected, "{name}");
    }
}
