//! Micro-benchmarks of the session manager: `cargo bench -p flame-session-manager`, see docs/benchmarks.md.
#![allow(clippy::expect_used)] // a benchmark that cannot be set up has no result

mod bed;
mod commit;
mod scheduler;
mod tasks;

use criterion::{criterion_group, criterion_main};

criterion_group!(benches, tasks::tasks, scheduler::scheduler, commit::commit);
criterion_main!(benches);
