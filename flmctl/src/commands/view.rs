//! `flmctl view`.

use std::path::Path;

use tonic::Code;

use crate::cli::{Kind, ViewArgs};
use crate::client::Client;
use crate::details;
use crate::error::CtlError;
use crate::model::{Application, Executor, Node, SessionDetails, Task};
use crate::printer::Printer;

/// The thing to view, after the two styles of the command line have been brought together.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Application(String),
    Session(String),
    Task { session: String, id: String },
    Node(String),
    Executor(String),
}

impl Target {
    /// Reads `view task ID -s SESSION` and `view --task ID --session SESSION`.
    pub(crate) fn new(args: &ViewArgs) -> Result<Self, CtlError> {
        let usage = |message: &str| CtlError::Usage(message.to_owned());
        let mut targets = Vec::new();
        let named = args.kind.zip(args.id.clone());
        let flags = [
            (Kind::Applications, &args.application),
            (Kind::Tasks, &args.task),
            (Kind::Nodes, &args.node),
            (Kind::Executors, &args.executor),
        ];
        targets.extend(named);
        targets.extend(
            flags
                .into_iter()
                .filter_map(|(kind, id)| Some((kind, id.clone()?))),
        );
        let of_task = matches!(targets.as_slice(), [(Kind::Tasks, _)]);
        if let Some(session) = args.session.clone().filter(|_| !of_task) {
            targets.push((Kind::Sessions, session));
        }
        let Some((kind, id)) = targets.pop() else {
            return Err(usage("say what to view, e.g. flmctl view session ID"));
        };
        if !targets.is_empty() {
            return Err(usage("view one thing at a time"));
        }
        if (args.raw || args.output_file.is_some()) && kind != Kind::Tasks {
            return Err(usage("--raw and --output-file are for the output of a task"));
        }
        Ok(match kind {
            Kind::Applications => Self::Application(id),
            Kind::Sessions => Self::Session(id),
            Kind::Nodes => Self::Node(id),
            Kind::Executors => Self::Executor(id),
            Kind::Tasks => {
                let session = args.session.clone();
                let session = session.ok_or_else(|| usage("tasks belong to a session: add --session ID"))?;
                Self::Task { session, id }
            }
        })
    }
}

/// Asks for one thing and prints it.
pub(crate) async fn run(
    client: &Client,
    printer: &Printer,
    target: &Target,
    args: &ViewArgs,
) -> Result<(), CtlError> {
    match target {
        Target::Application(name) => {
            let app = Application::from(client.application(name).await?);
            printer.show(&app, |p| details::application(&app, &p.clock))
        }
        Target::Session(id) => {
            let session = SessionDetails::from(client.session(id).await?);
            printer.show(&session, |p| details::session(&session, &p.clock))
        }
        Target::Node(name) => {
            let node = Node::from(client.node(name).await?);
            printer.show(&node, |p| details::node(&node, &p.clock))
        }
        Target::Executor(id) => {
            let executor = executor(client, id).await?;
            printer.show(&executor, |_| details::executor(&executor))
        }
        Target::Task { session, id } => {
            let task = Task::from(client.task(session, id).await?);
            match &args.output_file {
                _ if args.raw => printer.bytes(output(&task)?),
                Some(file) => write(file, output(&task)?),
                None => printer.show(&task, |p| details::task(&task, &p.clock)),
            }
        }
    }
}

/// The Frontend has no call for one executor.
async fn executor(client: &Client, id: &str) -> Result<Executor, CtlError> {
    let all = client.executors().await?.into_iter().map(Executor::from);
    let mut matching = all.filter(|executor| executor.id == id);
    matching.next().ok_or_else(|| CtlError::Request {
        action: format!("get executor {id:?}"),
        code: Code::NotFound,
        message: "there is no such executor".to_owned(),
    })
}

/// A task without output has nothing to write; an empty file would say that it had an empty one.
fn output(task: &Task) -> Result<&[u8], CtlError> {
    task.output.as_deref().ok_or_else(|| CtlError::Request {
        action: format!(
            "get the output of task {} of session {}",
            task.id, task.session_id
        ),
        code: Code::FailedPrecondition,
        message: format!("it has none; its state is {}", task.state),
    })
}

fn write(path: &Path, data: &[u8]) -> Result<(), CtlError> {
    let failed = |source| CtlError::File {
        action: "write the output to",
        path: path.to_path_buf(),
        source,
    };
    std::fs::write(path, data).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn target(line: &str) -> Result<Target, String> {
        let cli = Cli::try_parse_from(line.split(' ')).map_err(|error| error.to_string())?;
        let Command::View(args) = cli.command else {
            panic!("not a view: {line}")
        };
        Target::new(&args).map_err(|error| error.to_string())
    }

    #[test]
    fn both_styles_mean_the_same() {
        for (one, other) in [
            ("flmctl view app x", "flmctl view -a x"),
            ("flmctl view session x", "flmctl view --session x"),
            ("flmctl view task 1 -s x", "flmctl view -t 1 -s x"),
            ("flmctl view node x", "flmctl view -n x"),
            ("flmctl view exec x", "flmctl view --executor x"),
        ] {
            assert_eq!(
                target(one).expect(one),
                target(other).expect(other),
                "{one} / {other}"
            );
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (line, part) in [
            ("flmctl view", "say what to view"),
            ("flmctl view task 1", "add --session"),
            ("flmctl view -t 1", "add --session"),
            ("flmctl view app x -s y", "one thing"),
            ("flmctl view -a x -n y", "one thing"),
            ("flmctl view -a x -n y -x z", "one thing"),
            ("flmctl view app x --raw", "output of a task"),
        ] {
            let error = target(line).expect_err(line);
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
