//! The ping application's service: does nothing, or sleeps and fills memory for as long as asked.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use flame_core::size;
use flame_rs::Bytes;
use flame_rs::error::report;
use flame_rs::service::{Service, TaskContext, TaskError, run};
use flmping::{Ping, Pong, memory};

struct PingService {
    host: String,
}

impl Service for PingService {
    async fn on_task_invoke(&self, task: TaskContext) -> Result<Option<Bytes>, TaskError> {
        let started = Instant::now();
        let ping = Ping::from_input(task.input.as_deref()).map_err(TaskError::new)?;
        let filled = match ping.memory.filter(|bytes| *bytes > 0) {
            // Gigabytes take seconds, and the process still has to answer to its agent.
            Some(bytes) => tokio::task::spawn_blocking(move || memory::fill(bytes))
                .await?
                .map_err(TaskError::new)?,
            None => Vec::new(),
        };
        if let Some(duration) = ping.duration.filter(|duration| *duration > 0) {
            tokio::time::sleep(Duration::from_millis(duration)).await;
        }
        let message = format!(
            "Completed on {} in {} milliseconds with {} memory",
            self.host,
            started.elapsed().as_millis(),
            size::format(filled.len() as u64)
        );
        Ok(Some(serde_json::to_vec(&Pong { message })?.into()))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    match run(PingService { host }).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flmping-service: {}", report(&error));
            ExitCode::FAILURE
        }
    }
}
