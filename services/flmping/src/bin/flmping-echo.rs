//! A service that returns each task's input: what `flmping --payload` measures and checks.

use std::process::ExitCode;

use flame_rs::Bytes;
use flame_rs::error::report;
use flame_rs::service::{Service, TaskContext, TaskError, run};

struct Echo;

impl Service for Echo {
    async fn on_task_invoke(&self, task: TaskContext) -> Result<Option<Bytes>, TaskError> {
        Ok(task.input)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Echo).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flmping-echo: {}", report(&error));
            ExitCode::FAILURE
        }
    }
}
