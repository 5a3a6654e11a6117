//! `flmctl close` and `flmctl delete`.

use crate::cli::{EndArgs, EndNoun};
use crate::client::Client;
use crate::error::CtlError;
use crate::model::{Session, SessionDetails};
use crate::printer::Printer;

/// What to do with the sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Take no more tasks.
    Close,
    /// Take no more tasks, and cancel those that run.
    CancelAndClose,
    /// Remove from the record.
    Delete,
}

/// The ids, from both styles of the command line.
pub(crate) fn ids(args: EndArgs) -> Result<Vec<String>, CtlError> {
    let mut ids = args.sessions;
    if let Some(EndNoun::Session { ids: named }) = args.noun {
        ids.extend(named);
    }
    if ids.is_empty() {
        return Err(CtlError::Usage("say which session: session ID...".to_owned()));
    }
    Ok(ids)
}

/// Ends the sessions in order and stops at the first that cannot be ended.
pub(crate) async fn run(
    client: &Client,
    printer: &Printer,
    end: End,
    ids: &[String],
) -> Result<(), CtlError> {
    let mut ended: Vec<Session> = Vec::new();
    let mut failure = None;
    for id in ids {
        let answer = match end {
            End::Close => client.close_session(id).await,
            End::CancelAndClose => client.cancel_session(id).await,
            End::Delete => client.delete_session(id).await,
        };
        match answer {
            Ok(wire) => {
                if !printer.is_json() {
                    let done = if end == End::Delete { "deleted" } else { "closed" };
                    printer.text(&format!("session {id} {done}\n"))?;
                }
                ended.push(SessionDetails::from(wire).session);
            }
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    // What was done is said even if the rest failed.
    if printer.is_json() {
        printer.json(&ended)?;
    }
    failure.map_or(Ok(()), Err)
}
