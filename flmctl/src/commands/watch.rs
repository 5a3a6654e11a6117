//! `flmctl watch`, and waiting for a task in general.

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
    let ended = until_end(client, session, id, |task| print_change(printer, task)).await?;
    succeeded(&ended)
}

/// Follows a task until it ends; `changed` is called with every state it reaches, starting with the
/// present one. Returns the task with its events.
pub(crate) async fn until_end(
    client: &Client,
    session: &str,
    id: &str,
    mut changed: impl FnMut(&Task) -> Result<(), CtlError>,
) -> Result<Task, CtlError> {
    // First of all the watch, so that no change is missed between the two calls. It says nothing
    // about a task that does not exist; the second call does.
    let mut stream = client.watch_task(session, id).await?;
    let mut last = Task::from(client.task(session, id).await?);
    changed(&last)?;
    while !last.is_terminal() {
        let action = || format!("watch task {id:?} of session {session:?}");
        let update = stream
            .message()
            .await
            .map_err(|status| client.failed(action(), &status))?;
        let ended = update.is_none();
        let task = match update {
            Some(task) if !Task::from(task.clone()).is_terminal() => Task::from(task),
            // Updates carry no events, and the reason of a failure is in one.
            _ => Task::from(client.task(session, id).await?),
        };
        if task.wire_state != last.wire_state {
            changed(&task)?;
        }
        last = task;
        if ended && !last.is_terminal() {
            let (task, session) = (id.to_owned(), session.to_owned());
            return Err(CtlError::WatchEnded {
                task,
                session,
                state: last.state,
            });
        }
    }
    Ok(last)
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
