//! A pass of the scheduler.

use criterion::{BatchSize, BenchmarkId, Criterion};

use crate::bed::Bed;

/// Half of the tasks that a session has at least.
const MIN_TASKS: usize = 25;

/// Sessions that want more executors than there are, with all places free and with all places taken.
pub(crate) fn scheduler(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scheduler");
    group.sample_size(20);
    for sessions in [10, 1_000] {
        for executors in [16, 1_000, 10_000] {
            let case = format!("{sessions} sessions, {executors} executors");
            let waiting = || crowded(sessions, executors);
            // Every place is free: the pass that starts the executors.
            group.bench_function(BenchmarkId::new("start", &case), |bencher| {
                bencher.iter_batched(
                    waiting,
                    |mut bed| {
                        bed.settle();
                        bed
                    },
                    BatchSize::PerIteration,
                );
            });
            // Every place is taken: two passes, because a session comes and goes.
            group.bench_function(BenchmarkId::new("look again, twice", &case), |bencher| {
                let mut bed = waiting();
                bed.settle();
                bencher.iter(|| {
                    let session = bed.session(usize::MAX);
                    bed.settle();
                    bed.close(&session);
                    bed.settle();
                });
            });
        }
    }
    group.finish();
}

/// Sessions that together have more work than there are executors, and nodes that are still empty.
fn crowded(sessions: usize, executors: u64) -> Bed {
    let share = usize::try_from(executors).unwrap_or_default() / sessions;
    let mut bed = Bed::new();
    for number in 0..sessions {
        let session = bed.session(number);
        bed.tasks(&session, 2 * share.max(MIN_TASKS));
    }
    bed.nodes(executors);
    bed
}
