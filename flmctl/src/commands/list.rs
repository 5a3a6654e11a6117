//! `flmctl list`.

use flame_rpc::v1;

use crate::cli::{Kind, ListArgs};
use crate::client::Client;
use crate::error::CtlError;
use crate::model::{Application, Executor, Node, Session, SessionDetails, Task, WireState};
use crate::printer::Printer;
use crate::table;

/// What to list, after the two styles of the command line have been brought together.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Query {
    kind: Kind,
    application: Option<String>,
    session: Option<String>,
    states: Vec<&'static str>,
}

impl Query {
    /// Brings `list sessions -a NAME` and `list --session` together, and refuses what makes no sense.
    pub(crate) fn new(args: ListArgs) -> Result<Self, CtlError> {
        let kind = kind(&args)?;
        let application = args.application.flatten();
        let session = args.session.flatten();
        if application.is_some() && !matches!(kind, Kind::Sessions | Kind::Applications) {
            return Err(usage("--application NAME filters sessions and applications only"));
        }
        match (kind, &session) {
            (Kind::Tasks, None) => {
                return Err(usage("tasks belong to a session: flmctl list tasks --session ID"));
            }
            (Kind::Applications | Kind::Nodes, Some(_)) => {
                return Err(usage("--session ID filters sessions, tasks and executors only"));
            }
            _ => {}
        }
        let states = states(kind, &args.state)?;
        Ok(Self {
            kind,
            application,
            session,
            states,
        })
    }

    fn wants_state(&self, state: &str) -> bool {
        self.states.is_empty() || self.states.contains(&state)
    }
}

/// Asks, filters, sorts and prints.
pub(crate) async fn run(client: &Client, printer: &Printer, query: &Query) -> Result<(), CtlError> {
    match query.kind {
        Kind::Applications => {
            let items = applications(client.applications().await?, query);
            printer.list(&items, "applications", |p| table::applications(&items, p))
        }
        Kind::Sessions => {
            let items = sessions(client.sessions().await?, query);
            printer.list(&items, "sessions", |p| table::sessions(&items, p))
        }
        Kind::Tasks => {
            let session = query.session.as_deref().unwrap_or_default();
            let items = tasks(client.tasks(session).await?, query);
            printer.list(&items, "tasks", |p| table::tasks(&items, p))
        }
        Kind::Nodes => {
            let items = nodes(client.nodes().await?, query);
            printer.list(&items, "nodes", |p| table::nodes(&items, p))
        }
        Kind::Executors => {
            let items = executors(client.executors().await?, query);
            printer.list(&items, "executors", |p| table::executors(&items, p))
        }
    }
}

fn applications(wire: Vec<v1::Application>, query: &Query) -> Vec<Application> {
    let mut items: Vec<Application> = wire.into_iter().map(Application::from).collect();
    items.retain(|app| {
        query.wants_state(&app.state) && query.application.as_ref().is_none_or(|name| *name == app.name)
    });
    items.sort_by(|a, b| a.name.cmp(&b.name));
    items
}

fn sessions(wire: Vec<v1::Session>, query: &Query) -> Vec<Session> {
    let mut items: Vec<Session> = wire
        .into_iter()
        .map(|wire| SessionDetails::from(wire).session)
        .collect();
    items.retain(|session| {
        query.wants_state(&session.state)
            && query
                .application
                .as_ref()
                .is_none_or(|name| *name == session.application)
            && query.session.as_ref().is_none_or(|id| *id == session.id)
    });
    items.sort_by(|a, b| (a.creation_time, &a.id).cmp(&(b.creation_time, &b.id)));
    items
}

fn tasks(wire: Vec<v1::Task>, query: &Query) -> Vec<Task> {
    let mut items: Vec<Task> = wire.into_iter().map(Task::from).collect();
    items.retain(|task| query.wants_state(&task.state));
    // Ids are numbers, "10" comes after "9"; a server with other ids still gets a stable order.
    items.sort_by_cached_key(|task| (task.id.parse::<u64>().unwrap_or(u64::MAX), task.id.clone()));
    items
}

fn nodes(wire: Vec<v1::Node>, query: &Query) -> Vec<Node> {
    let mut items: Vec<Node> = wire.into_iter().map(Node::from).collect();
    items.retain(|node| query.wants_state(&node.state));
    items.sort_by(|a, b| a.name.cmp(&b.name));
    items
}

fn executors(wire: Vec<v1::Executor>, query: &Query) -> Vec<Executor> {
    let mut items: Vec<Executor> = wire.into_iter().map(Executor::from).collect();
    items.retain(|executor| {
        query.wants_state(&executor.state)
            && (query.session.is_none() || query.session == executor.session_id)
    });
    items.sort_by(|a, b| (&a.node, &a.id).cmp(&(&b.node, &b.id)));
    items
}

/// The kind that was named, or the one whose flag was given. `-a` and `-s` are also filters.
fn kind(args: &ListArgs) -> Result<Kind, CtlError> {
    if let Some(kind) = args.kind {
        let (task, node, executor) = (kind == Kind::Tasks, kind == Kind::Nodes, kind == Kind::Executors);
        if (args.task && !task) || (args.node && !node) || (args.executor && !executor) {
            return Err(usage("list one kind at a time"));
        }
        return Ok(kind);
    }
    let flags = [
        (args.task, Kind::Tasks),
        (args.node, Kind::Nodes),
        (args.executor, Kind::Executors),
    ];
    let mut given = flags.iter().filter(|(given, _)| *given).map(|(_, kind)| *kind);
    match (given.next(), given.next(), &args.session, &args.application) {
        (Some(_), Some(_), _, _) => Err(usage("list one kind at a time")),
        (Some(kind), None, _, _) => Ok(kind),
        (None, _, Some(_), _) => Ok(Kind::Sessions),
        (None, _, None, Some(_)) => Ok(Kind::Applications),
        (None, _, None, None) => Err(usage(
            "say what to list: applications, sessions, tasks, nodes or executors",
        )),
    }
}

fn states(kind: Kind, wanted: &[String]) -> Result<Vec<&'static str>, CtlError> {
    let known = match kind {
        Kind::Applications => v1::ApplicationState::NAMES,
        Kind::Sessions => v1::SessionState::NAMES,
        Kind::Tasks => v1::TaskState::NAMES,
        Kind::Nodes => v1::NodeState::NAMES,
        Kind::Executors => v1::ExecutorState::NAMES,
    };
    let find = |text: &String| {
        // "succeeded" is what people say.
        let text = if text.eq_ignore_ascii_case("succeeded") {
            "Succeed"
        } else {
            text
        };
        let unknown = || {
            usage(&format!(
                "--state {text} is unknown; want one of {}",
                known.join(", ").to_lowercase()
            ))
        };
        known
            .iter()
            .copied()
            .find(|name| name.eq_ignore_ascii_case(text))
            .ok_or_else(unknown)
    };
    wanted.iter().map(find).collect()
}

fn usage(message: &str) -> CtlError {
    CtlError::Usage(message.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn query(line: &str) -> Result<Query, String> {
        let cli = Cli::try_parse_from(line.split(' ')).map_err(|error| error.to_string())?;
        let Command::List(args) = cli.command else {
            panic!("not a list: {line}")
        };
        Query::new(args).map_err(|error| error.to_string())
    }

    #[test]
    fn both_styles_mean_the_same() {
        for (one, other) in [
            ("flmctl list applications", "flmctl list -a"),
            ("flmctl list app", "flmctl list --application"),
            ("flmctl list sessions", "flmctl list -s"),
            ("flmctl list ssn -a x", "flmctl list --session -a x"),
            ("flmctl list tasks -s x", "flmctl list -t -s x"),
            ("flmctl list task -s x", "flmctl list --task --session x"),
            ("flmctl list nodes", "flmctl list --node"),
            ("flmctl list node", "flmctl list -n"),
            ("flmctl list exec", "flmctl list --executor"),
            ("flmctl list executors", "flmctl list -x"),
        ] {
            assert_eq!(
                query(one).expect(one),
                query(other).expect(other),
                "{one} / {other}"
            );
        }
    }

    #[test]
    fn states_are_those_of_the_kind() {
        let states = |line: &str| query(line).map(|query| query.states);
        assert_eq!(states("flmctl list -s --state open"), Ok(vec!["Open"]));
        let two = states("flmctl list tasks -s x --state FAILED,succeeded");
        assert_eq!(two, Ok(vec!["Failed", "Succeed"]));
        assert_eq!(states("flmctl list exec --state bound"), Ok(vec!["Bound"]));
        let error = states("flmctl list sessions --state failed").expect_err("no such state");
        assert!(error.contains("open, closed"), "{error}");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (line, part) in [
            ("flmctl list", "say what to list"),
            ("flmctl list tasks", "--session ID"),
            ("flmctl list -t", "--session ID"),
            ("flmctl list -n -x", "one kind"),
            ("flmctl list nodes -x", "one kind"),
            ("flmctl list nodes -a x", "filters sessions"),
            ("flmctl list nodes -s x", "filters sessions"),
        ] {
            let error = query(line).expect_err(line);
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
