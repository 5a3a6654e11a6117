//! The soak test's service: answers every input with what follows from it.

use std::num::ParseIntError;
use std::process::ExitCode;
use std::time::Duration;

use flame_rs::Bytes;
use flame_rs::error::report;
use flame_rs::service::{Service, TaskContext, TaskError, run};

struct SoakService {
    /// How long each task takes.
    work: Duration,
}

impl Service for SoakService {
    async fn on_task_invoke(&self, task: TaskContext) -> Result<Option<Bytes>, TaskError> {
        let input = task
            .input
            .ok_or_else(|| TaskError::new("the task has no input"))?;
        if !self.work.is_zero() {
            tokio::time::sleep(self.work).await;
        }
        Ok(Some(flame_soak::output(&input)))
    }
}

/// How long each task takes, as the application's environment says; no time without it.
fn work() -> Result<Duration, ParseIntError> {
    std::env::var(flame_soak::WORK_VARIABLE)
        .map_or(Ok(Duration::ZERO), |text| text.parse().map(Duration::from_millis))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let work = match work() {
        Ok(work) => work,
        Err(error) => {
            eprintln!("flame-soak-service: {}: {error}", flame_soak::WORK_VARIABLE);
            return ExitCode::FAILURE;
        }
    };
    match run(SoakService { work }).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flame-soak-service: {}", report(&error));
            ExitCode::FAILURE
        }
    }
}
