//! `flmctl cordon`, `drain`, `uncordon` and `forget`: nodes in and out of service.

use std::time::{Duration, Instant};

use crate::cli::{NodeCommand, NodeOut};
use crate::client::Client;
use crate::error::CtlError;
use crate::model::Node;
use crate::printer::Printer;

/// How often a node that drains is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Does it to the nodes in order and stops at the first that refuses.
pub(crate) async fn run(client: &Client, printer: &Printer, command: NodeCommand) -> Result<(), CtlError> {
    match command {
        NodeCommand::Cordon(out) => take_out(client, printer, out, false).await.map(drop),
        NodeCommand::Drain { out, wait, timeout } => {
            let names = take_out(client, printer, out, true).await?;
            if wait {
                until_empty(client, printer, &names, timeout).await?;
            }
            Ok(())
        }
        NodeCommand::Uncordon(nodes) => {
            for name in &nodes.names {
                client.uncordon_node(name).await?;
                said(printer, name, "in service again")?;
            }
            Ok(())
        }
        NodeCommand::Forget(nodes) => {
            for name in &nodes.names {
                client.forget_node(name).await?;
                said(printer, name, "forgotten")?;
            }
            Ok(())
        }
    }
}

/// One line, as a sentence or as JSON.
fn said(printer: &Printer, name: &str, done: &str) -> Result<(), CtlError> {
    if printer.is_json() {
        return printer.json_line(&serde_json::json!({"name": name, "done": done}));
    }
    printer.text(&format!("node {name} {done}\n"))
}

/// Cordons or drains; the names of the nodes.
async fn take_out(
    client: &Client,
    printer: &Printer,
    out: NodeOut,
    drain: bool,
) -> Result<Vec<String>, CtlError> {
    for name in &out.nodes.names {
        client.cordon_node(name, drain, out.reason.clone()).await?;
        said(printer, name, if drain { "draining" } else { "cordoned" })?;
    }
    Ok(out.nodes.names)
}

/// Waits until nothing runs on the nodes.
async fn until_empty(
    client: &Client,
    printer: &Printer,
    names: &[String],
    limit: Option<Duration>,
) -> Result<(), CtlError> {
    let began = Instant::now();
    for name in names {
        loop {
            let node = Node::from(client.node(name).await?);
            if node.executors == 0 {
                said(printer, name, "drained")?;
                break;
            }
            if limit.is_some_and(|limit| began.elapsed() >= limit) {
                return Err(CtlError::StillRuns {
                    node: name.clone(),
                    executors: node.executors,
                });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    Ok(())
}
