//! The store alone: what it costs to make a batch of records durable. The files are below `TMPDIR`:
//! put that on the disk in question.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use flame_core::config::cluster::{Storage, StorageSync};
use flame_session_manager::store::{self, Record, Store};

use crate::bed::{Bed, NODE_CPUS};

/// Records of one commit: a single call, some calls, as many as the engine takes at once.
const BATCHES: [usize; 3] = [1, 100, 4_096];

/// Commits of several sizes, with and without waiting for the disk.
pub(crate) fn commit(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("commit");
    group.sample_size(20);
    for (name, sync) in [
        ("full sync", StorageSync::Full),
        ("normal sync", StorageSync::Normal),
    ] {
        for size in BATCHES {
            group.throughput(Throughput::Elements(size as u64));
            group.bench_function(BenchmarkId::new(name, size), |bencher| {
                let directory = tempfile::tempdir().expect("temporary directory");
                let path = directory.path().join("bench.db");
                let mut store = store::open(&Storage::Sqlite(path), sync).expect("opens");
                let mut source = Source::new(store.as_mut());
                bencher.iter_batched(
                    || source.next(size),
                    |records| store.commit(&records).expect("stores"),
                    BatchSize::PerIteration,
                );
            });
        }
    }
    group.finish();
}

/// Records as a busy cluster makes them: tasks that are created, and tasks that end.
struct Source {
    bed: Bed,
    session: String,
    made: Vec<Record>,
}

impl Source {
    /// The records of the session and its application are stored at once.
    fn new(store: &mut dyn Store) -> Self {
        store.load().expect("loads");
        let mut bed = Bed::new();
        let session = bed.session(1);
        bed.nodes(NODE_CPUS);
        bed.tasks(&session, 1);
        bed.warm_up();
        store.commit(&bed.take_records()).expect("stores");
        Self {
            bed,
            session,
            made: Vec::new(),
        }
    }

    /// The next `size` records, each batch half creations and half ends.
    fn next(&mut self, size: usize) -> Vec<Record> {
        while self.made.len() < size {
            self.bed.tasks(&self.session, size.div_ceil(2));
            self.bed.settle();
            self.bed.finish();
            self.made.extend(self.bed.take_records());
        }
        self.made.drain(..size).collect()
    }
}
