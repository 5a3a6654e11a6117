//! `flmctl cancel`.

use serde::Serialize;

use crate::cli::CancelArgs;
use crate::client::Client;
use crate::error::CtlError;
use crate::printer::Printer;

/// What was cancelled; field names are stable.
#[derive(Debug, Serialize)]
struct Cancelled {
    session_id: String,
    /// Ids of the tasks that were named; null if none was.
    tasks: Option<Vec<String>>,
    /// Tasks that have ended by this and not before.
    cancelled: u64,
}

/// Cancels the tasks in order and stops at the first that cannot be cancelled.
pub(crate) async fn run(client: &Client, printer: &Printer, args: CancelArgs) -> Result<(), CtlError> {
    let CancelArgs {
        session,
        tasks,
        reason,
    } = args;
    if tasks.is_empty() {
        let cancelled = client.cancel_tasks(&session, reason).await?;
        let done = Cancelled {
            session_id: session,
            tasks: None,
            cancelled,
        };
        return printer.show(&done, |_| {
            let tasks = if cancelled == 1 { "task" } else { "tasks" };
            format!("{cancelled} {tasks} of session {} cancelled\n", done.session_id)
        });
    }
    let (mut ended, mut cancelled, mut failure) = (Vec::new(), 0, None);
    for task in tasks {
        match client.cancel_task(&session, &task, reason.clone()).await {
            Ok(changed) => {
                if !printer.is_json() {
                    printer.text(&format!("task {task} of session {session} cancelled\n"))?;
                }
                cancelled += u64::from(changed);
                ended.push(task);
            }
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    // What was done is said even if the rest failed.
    if printer.is_json() {
        printer.json(&Cancelled {
            session_id: session,
            tasks: Some(ended),
            cancelled,
        })?;
    }
    failure.map_or(Ok(()), Err)
}
