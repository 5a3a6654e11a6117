//! `flmctl create`.

use std::io::IsTerminal;

use flame_rpc::v1;
use uuid::Uuid;

use super::{read_input, watch};
use crate::cli::{CreateSession, CreateTask};
use crate::client::Client;
use crate::error::CtlError;
use crate::format;
use crate::model::{SessionDetails, Task};
use crate::printer::Printer;

/// Checks the arguments of a session, before anybody is asked, and reads its data.
pub(crate) async fn session_request(args: CreateSession) -> Result<v1::CreateSessionRequest, CtlError> {
    let id = args.session.unwrap_or_else(|| random_id(&args.application));
    flame_core::SessionId::new(&id).map_err(|error| CtlError::Usage(error.to_string()))?;
    if let Some(max) = args.max_instances.filter(|max| *max < args.min_instances) {
        let min = args.min_instances;
        return Err(CtlError::Usage(format!(
            "--max-instances {max} is less than --min-instances {min}"
        )));
    }
    let common_data = match &args.common_data {
        Some(path) => Some(read_input("read the common data", path).await?),
        None => None,
    };
    let spec = v1::SessionSpec {
        application: args.application,
        common_data,
        min_instances: args.min_instances,
        max_instances: args.max_instances,
        batch_size: 1,
        priority: args.priority,
        resreq: args.resreq.map(v1::ResourceRequirement::from),
        node_selector: args.node_selector.into_iter().collect(),
        task_timeout_ms: args.task_timeout.map(format::millis),
    };
    Ok(v1::CreateSessionRequest {
        session_id: id,
        session: Some(spec),
    })
}

/// Creates a session and prints its id.
pub(crate) async fn session(
    client: &Client,
    printer: &Printer,
    request: v1::CreateSessionRequest,
) -> Result<(), CtlError> {
    let created = SessionDetails::from(client.create_session(request).await?);
    printer.show(&created, |_| format!("{}\n", created.session.id))
}

/// Reads the input of a task.
pub(crate) async fn task_spec(args: &CreateTask) -> Result<v1::TaskSpec, CtlError> {
    let input = match (&args.input, &args.text) {
        (Some(path), _) => Some(read_input("read the input", path).await?),
        (None, text) => text.clone().map(bytes::Bytes::from),
    };
    Ok(v1::TaskSpec {
        session_id: args.session.clone(),
        input,
        output: None,
    })
}

/// Creates a task and prints its id, or waits and prints its output.
pub(crate) async fn task(
    client: &Client,
    printer: &Printer,
    spec: v1::TaskSpec,
    wait: bool,
) -> Result<(), CtlError> {
    let session = spec.session_id.clone();
    let created = Task::from(client.create_task(spec).await?);
    if !wait {
        return printer.show(&created, |_| format!("{}\n", created.id));
    }
    printer.note(&format!("task {}", created.id));
    let ended = watch::until_end(client, printer, (&session, &created.id), |_| Ok(())).await?;
    if printer.is_json() {
        printer.json(&ended)?;
    } else if let Some(output) = ended.output.as_deref() {
        print_output(printer, output)?;
    }
    watch::succeeded(&ended)
}

/// The bytes as they are for a program; readable for a person.
fn print_output(printer: &Printer, output: &[u8]) -> Result<(), CtlError> {
    if !std::io::stdout().is_terminal() {
        return printer.bytes(output);
    }
    let mut text = format::payload(output);
    if !text.ends_with('\n') {
        text.push('\n');
    }
    printer.text(&text)
}

/// The application's name and six random characters, as other clients name their sessions.
fn random_id(application: &str) -> String {
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut random = Uuid::new_v4().as_u128() >> 64;
    let mut id = format!("{application}-");
    for _ in 0..6 {
        let letter = ALPHABET.get((random % 36) as usize).copied().unwrap_or(b'x');
        id.push(char::from(letter));
        random /= 36;
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_ids_are_valid_and_differ() {
        let (one, other) = (random_id("flmping"), random_id("flmping"));
        assert_ne!(one, other);
        for id in [one, other] {
            assert!(id.starts_with("flmping-") && id.len() == 14, "{id}");
            flame_core::SessionId::new(&id).expect("valid");
        }
    }
}
