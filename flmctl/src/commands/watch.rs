//! `flmctl watch`, and waiting for a task in general.

use std::time::{Duration, Instant};

use tonic::Code;

use crate::client::Client;
use crate::error::CtlError;
use crate::format::payload;
use crate::model::Task;
use crate::printer::Printer;

/// Prints every state the task goes through; fails if the task did.
pub(crate) async fn task(
    client: &Client,
    printer: &Printer,
    session: &str,
    id: &str,
) -> Result<(), CtlError> {
    let ended = until_end(client, printer, (session, id), |task| print_change(printer, task)).await?;
    succeeded(&ended)
}

/// A session manager that was lost sight of is tried again after this time ...
const RETRY_EVERY: Duration = Duration::from_millis(500);
/// ... this often: 30 seconds, in which it restarts even on a slow machine.
const MAX_RETRIES: u32 = 60;
/// A watch that held this long was good: the next loss starts counting anew.
const GOOD_AFTER: Duration = Duration::from_secs(30);

/// Follows a task until it ends; `changed` is called with every state it reaches, starting with the
/// present one. A restart of the session manager is waited for. Returns the task with its events.
pub(crate) async fn until_end(
    client: &Client,
    printer: &Printer,
    (session, id): (&str, &str),
    mut changed: impl FnMut(&Task) -> Result<(), CtlError>,
) -> Result<Task, CtlError> {
    let mut last = None;
    let mut retries = 0;
    loop {
        let began = Instant::now();
        let outcome = follow(client, (session, id), &mut last, &mut changed).await;
        let reason = match &outcome {
            Err(CtlError::Unreachable { reason, .. }) => reason,
            Err(CtlError::Request {
                code: Code::Unavailable,
                message,
                ..
            }) => message,
            _ => return outcome,
        };
        // A task that was never seen is a cluster that is down, which is said at once.
        let Some(task) = &last else {
            return outcome;
        };
        if began.elapsed() > GOOD_AFTER {
            retries = 0;
        }
        if retries == 0 {
            printer.note(&format!("lost the session manager ({reason}), trying again"));
        }
        retries += 1;
        if retries > MAX_RETRIES {
            return Err(lost(task, reason));
        }
        tokio::time::sleep(RETRY_EVERY).await;
    }
}

/// One watch, until the task ends or the connection does. `last` is what we know of the task.
async fn follow(
    client: &Client,
    (session, id): (&str, &str),
    last: &mut Option<Task>,
    changed: &mut impl FnMut(&Task) -> Result<(), CtlError>,
) -> Result<Task, CtlError> {
    // First of all the watch, so that no change is missed between the two calls. It says nothing
    // about a task that does not exist; the second call does.
    let mut stream = client.watch_task(session, id).await?;
    let mut task = Task::from(client.task(session, id).await?);
    let mut over = false;
    loop {
        if last
            .as_ref()
            .is_none_or(|last| last.wire_state != task.wire_state)
        {
            changed(&task)?;
        }
        *last = Some(task.clone());
        if task.is_terminal() {
            return Ok(task);
        }
        if over {
            return Err(lost(&task, "the session manager ended the watch"));
        }
        let action = || format!("watch task {id:?} of session {session:?}");
        let update = stream
            .message()
            .await
            .map_err(|status| client.failed(action(), &status))?;
        over = update.is_none();
        task = match update.map(Task::from) {
            Some(task) if !task.is_terminal() => task,
            // Updates carry no events, and the reason of a failure is in one.
            _ => Task::from(client.task(session, id).await?),
        };
    }
}

fn lost(task: &Task, reason: &str) -> CtlError {
    CtlError::WatchEnded {
        task: task.id.clone(),
        session: task.session_id.clone(),
        state: task.state.clone(),
        reason: reason.to_owned(),
    }
}

/// An error unless the task did its work.
pub(crate) fn succeeded(task: &Task) -> Result<(), CtlError> {
    if task.wire_state == flame_rpc::v1::TaskState::Succeed {
        return Ok(());
    }
    Err(CtlError::TaskEnded {
        task: task.id.clone(),
        session: task.session_id.clone(),
        state: task.state.clone(),
        reason: task.failure().unwrap_or("no reason was given").to_owned(),
    })
}

fn print_change(printer: &Printer, task: &Task) -> Result<(), CtlError> {
    if printer.is_json() {
        return printer.json_line(task);
    }
    let time = task.completion_time.unwrap_or(task.creation_time);
    let at = match task.wire_state {
        // When it began to run is only known from the events.
        flame_rpc::v1::TaskState::Running => {
            started(task).unwrap_or_else(|| jiff::Timestamp::now().as_millisecond())
        }
        _ => time.0,
    };
    let mut line = format!("{}  task {}  {}", printer.clock.local(at), task.id, task.state);
    if let Some(output) = task.output.as_deref() {
        line.push_str(&format!("  {}", crate::format::one_line(&payload(output), 60)));
    }
    line.push('\n');
    printer.text(&line)
}

fn started(task: &Task) -> Option<i64> {
    let running = |event: &&crate::model::Event| event.code == flame_rpc::v1::TaskState::Running as i32;
    task.events
        .iter()
        .rev()
        .find(running)
        .map(|event| event.creation_time.0)
}
