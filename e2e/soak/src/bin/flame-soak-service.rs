//! The soak test's service: answers every input with what follows from it.

use std::process::ExitCode;

use flame_rs::Bytes;
use flame_rs::error::report;
use flame_rs::service::{Service, TaskContext, TaskError, run};

struct SoakService;

impl Service for SoakService {
    async fn on_task_invoke(&self, task: TaskContext) -> Result<Option<Bytes>, TaskError> {
        let input = task
            .input
            .ok_or_else(|| TaskError::new("the task has no input"))?;
        Ok(Some(flame_soak::output(&input)))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(SoakService).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flame-soak-service: {}", report(&error));
            ExitCode::FAILURE
        }
    }
}
