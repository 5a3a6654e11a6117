//! The counting application's service.

use std::process::ExitCode;

use flame_rs::Bytes;
use flame_rs::error::report;
use flame_rs::service::{Service, TaskContext, TaskError, run};
use wordcount::count_input;

struct WordCount;

impl Service for WordCount {
    async fn on_task_invoke(&self, task: TaskContext) -> Result<Option<Bytes>, TaskError> {
        let counts = count_input(task.input.as_deref()).map_err(TaskError::new)?;
        Ok(Some(serde_json::to_vec(&counts)?.into()))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(WordCount).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wordcount-service: {}", report(&error));
            ExitCode::FAILURE
        }
    }
}
