//! The core alone: what its one thread does for tasks.

use criterion::{BatchSize, Criterion, Throughput};

use crate::bed::Bed;

/// Tasks of one measured step.
const TASKS: usize = 1_000;

/// Executors that share the tasks.
const EXECUTORS: u64 = 16;

/// Creating tasks, and everything that happens to them afterwards.
pub(crate) fn tasks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("core");
    group.throughput(Throughput::Elements(TASKS as u64));
    let waiting = || {
        let mut bed = Bed::new();
        let session = bed.session(1);
        (bed, session)
    };
    group.bench_function("create in a batch", |bencher| {
        bencher.iter_batched(
            waiting,
            |(mut bed, session)| {
                bed.tasks(&session, TASKS);
                bed
            },
            BatchSize::LargeInput,
        );
    });
    group.bench_function("create one by one", |bencher| {
        bencher.iter_batched(
            waiting,
            |(mut bed, session)| {
                bed.single_tasks(&session, TASKS);
                bed
            },
            BatchSize::LargeInput,
        );
    });
    group.bench_function("hand out and finish", |bencher| {
        bencher.iter_batched(
            || {
                let (mut bed, session) = waiting();
                bed.nodes(EXECUTORS);
                // Executors are there, and it is known that tasks are short.
                bed.tasks(&session, TASKS);
                bed.warm_up();
                bed.tasks(&session, TASKS);
                bed
            },
            |mut bed| {
                bed.settle();
                assert_eq!(bed.finish(), TASKS);
                bed
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}
