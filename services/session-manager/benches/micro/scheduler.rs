//! A pass of the scheduler: what `Core::settle` takes after a change.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion};

use crate::bed::Bed;

/// Half of the tasks that a session has at least.
const MIN_TASKS: usize = 25;

/// Something that happens to a cluster, and how it ends, so that it can happen again.
struct Change {
    name: &'static str,
    happens: fn(&mut Bed),
    ends: fn(&mut Bed),
}

const VISITOR: &str = "s18446744073709551615";

/// One change each, in a cluster where every place is taken and everybody wants more.
const CHANGES: [Change; 3] = [
    // Nobody gets anything.
    Change {
        name: "a session comes",
        happens: |bed| drop(bed.session(usize::MAX)),
        ends: |bed| bed.close(VISITOR),
    },
    // One of the others gets its place.
    Change {
        name: "an executor ends",
        happens: Bed::lose_executor,
        ends: Bed::settle,
    },
    // It gets its share of what the others hold.
    Change {
        name: "a session with work comes",
        happens: |bed| {
            let session = bed.session(usize::MAX);
            bed.tasks(&session, 2 * MIN_TASKS);
        },
        ends: |bed| {
            // Before there is room for it.
            bed.close(VISITOR);
            bed.let_go();
        },
    },
];

/// Sessions that want more executors than there are, with all places free and with all places taken.
pub(crate) fn scheduler(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scheduler");
    group.sample_size(20);
    for sessions in [10, 1_000] {
        for executors in [16, 1_000, 10_000] {
            let case = format!("{sessions} sessions, {executors} executors");
            // Every place is free: the pass that starts the executors.
            group.bench_function(BenchmarkId::new("everything starts", &case), |bencher| {
                bencher.iter_custom(|count| {
                    (0..count)
                        .map(|_| crowded(sessions, executors).timed_settle())
                        .sum()
                });
            });
            for Change { name, happens, ends } in CHANGES {
                group.bench_function(BenchmarkId::new(name, &case), |bencher| {
                    let mut bed = crowded(sessions, executors);
                    bed.settle(); // starts
                    bed.settle(); // hands out
                    bencher.iter_custom(|count| {
                        let mut time = Duration::ZERO;
                        for _ in 0..count {
                            happens(&mut bed);
                            time += bed.timed_settle();
                            ends(&mut bed);
                            bed.settle();
                        }
                        time
                    });
                });
            }
        }
    }
    group.finish();
}

/// Sessions that together have more work than there are executors, and nodes that are still empty.
fn crowded(sessions: usize, executors: u64) -> Bed {
    let share = usize::try_from(executors).unwrap_or_default() / sessions;
    let mut bed = Bed::of_long_tasks();
    for number in 0..sessions {
        let session = bed.session(number);
        bed.tasks(&session, 2 * share.max(MIN_TASKS));
    }
    bed.nodes(executors);
    bed
}
