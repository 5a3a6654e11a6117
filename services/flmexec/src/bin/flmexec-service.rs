//! The script application's service.

use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use flame_rs::Bytes;
use flame_rs::error::report;
use flame_rs::service::{Service, SessionContext, TaskContext, TaskError, run};
use flmexec::{Defaults, Printed, Script, script};

#[derive(Default)]
struct ExecService {
    defaults: Mutex<Defaults>,
}

impl Service for ExecService {
    async fn on_session_enter(&self, session: SessionContext) -> Result<(), TaskError> {
        let defaults = Defaults::from_common_data(session.common_data.as_deref()).map_err(TaskError::new)?;
        *self.defaults.lock().unwrap_or_else(PoisonError::into_inner) = defaults;
        Ok(())
    }

    async fn on_task_invoke(&self, task: TaskContext) -> Result<Option<Bytes>, TaskError> {
        let script = Script::from_input(task.input.as_deref()).map_err(TaskError::new)?;
        let defaults = self
            .defaults
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let data = script::run(script, &defaults).await?;
        Ok(Some(serde_json::to_vec(&Printed { data })?.into()))
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(ExecService::default()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flmexec-service: {}", report(&error));
            ExitCode::FAILURE
        }
    }
}
