//! `flmctl explain`.

use crate::client::Client;
use crate::details;
use crate::error::CtlError;
use crate::model::Explanation;
use crate::printer::Printer;

/// Asks why a session does not run, or not faster, and prints the answer.
pub(crate) async fn run(client: &Client, printer: &Printer, session: &str) -> Result<(), CtlError> {
    let explanation = Explanation::from(client.explain(session).await?);
    printer.show(&explanation, |_| details::explanation(&explanation))
}
