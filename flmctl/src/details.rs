//! Everything about one thing as "key: value" lines for people.

use std::fmt::Write as _;

use flame_core::event;
use flame_rpc::v1;

use crate::format::{Clock, duration, payload, printable, size};
use crate::model::{
    Application, Event, Executor, Explanation, Node, Resources, SessionDetails, Task, WireState,
};

pub(crate) fn application(app: &Application, clock: &Clock) -> String {
    let mut page = Page::default();
    page.line("Name", &app.name);
    page.line("State", &app.state);
    page.line("Created", &clock.moment(app.creation_time.0));
    page.optional("Description", app.description.as_deref());
    page.line("Shim", &app.shim);
    page.optional("Image", app.image.as_deref());
    page.optional("Command", app.command.as_deref());
    page.list("Arguments", &app.arguments);
    let environments: Vec<String> = app.environments.iter().map(|(k, v)| format!("{k}={v}")).collect();
    page.list("Environments", &environments);
    page.optional("Working directory", app.working_directory.as_deref());
    page.list("Labels", &app.labels);
    page.optional(
        "Max instances",
        app.max_instances.map(|max| max.to_string()).as_deref(),
    );
    let delay = app
        .delay_release_seconds
        .map(|seconds| duration(0, seconds.saturating_mul(1000)));
    page.optional("Delay release", delay.as_deref());
    page.optional("Reusable", app.reusable.then_some("yes"));
    page.optional("URL", app.url.as_deref());
    page.optional("Installer", app.installer.as_deref());
    page.optional("Input schema", app.schema.input.as_deref());
    page.optional("Output schema", app.schema.output.as_deref());
    page.optional("Common data schema", app.schema.common_data.as_deref());
    page.render()
}

pub(crate) fn session(details: &SessionDetails, clock: &Clock) -> String {
    let session = &details.session;
    let tasks = session.tasks;
    let mut page = Page::default();
    page.line("Id", &session.id);
    page.line("Application", &session.application);
    page.line("State", &session.state);
    page.line("Created", &clock.moment(session.creation_time.0));
    page.optional(
        "Closed",
        session
            .completion_time
            .map(|time| clock.moment(time.0))
            .as_deref(),
    );
    page.line("Priority", &session.priority.to_string());
    page.line("Min instances", &session.min_instances.to_string());
    page.optional(
        "Max instances",
        session.max_instances.map(|max| max.to_string()).as_deref(),
    );
    page.optional("Resources", session.resreq.as_ref().map(resources).as_deref());
    let labels: Vec<_> = session
        .node_selector
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    page.optional(
        "Nodes with",
        (!labels.is_empty()).then(|| labels.join(", ")).as_deref(),
    );
    page.optional(
        "Task timeout",
        session
            .task_timeout_ms
            .map(|limit| crate::format::duration(0, i64::try_from(limit).unwrap_or(i64::MAX)))
            .as_deref(),
    );
    page.line(
        "Tasks",
        &format!(
            "{} pending, {} running, {} succeeded, {} failed, {} cancelled",
            tasks.pending, tasks.running, tasks.succeed, tasks.failed, tasks.cancelled
        ),
    );
    page.payload("Common data", details.common_data.as_deref());
    page.events(&session.events, clock);
    page.render()
}

pub(crate) fn task(task: &Task, clock: &Clock) -> String {
    let mut page = Page::default();
    page.line("Id", &task.id);
    page.line("Session", &task.session_id);
    page.line("State", &task.state);
    page.line("Created", &clock.moment(task.creation_time.0));
    if let Some(end) = task.completion_time {
        page.line("Ended", &clock.moment(end.0));
        page.line("Duration", &duration(task.creation_time.0, end.0));
    }
    page.optional("Reason", task.failure());
    page.payload("Input", task.input.as_deref());
    page.payload("Output", task.output.as_deref());
    page.events(&task.events, clock);
    page.render()
}

pub(crate) fn node(node: &Node, clock: &Clock) -> String {
    let mut page = Page::default();
    page.line("Name", &node.name);
    page.line("Host name", &node.hostname);
    page.line("State", &node.state);
    page.optional("Condition", node.condition().as_deref());
    page.optional("Out of service", node.cordon_reason.as_deref());
    page.optional(
        "Held until",
        node.held_until.map(|time| clock.local(time.0)).as_deref(),
    );
    page.line("Executors", &node.executors.to_string());
    page.line("Last heartbeat", &clock.moment(node.last_heartbeat_time.0));
    page.line("Capacity", &resources(&node.capacity));
    page.line("Allocatable", &resources(&node.allocatable));
    page.line("Architecture", &node.arch);
    page.line("OS", &node.os);
    let addresses: Vec<String> = node
        .addresses
        .iter()
        .map(|a| format!("{} {}", a.kind, a.address))
        .collect();
    page.list("Addresses", &addresses);
    page.list("Labels", &node.labels);
    page.render()
}

pub(crate) fn executor(executor: &Executor) -> String {
    let mut page = Page::default();
    page.line("Id", &executor.id);
    page.line("Node", &executor.node);
    page.line("State", &executor.state);
    page.optional("Session", executor.session_id.as_deref());
    page.line("Resources", &resources(&executor.resreq));
    page.line("Shim", &executor.shim);
    page.render()
}

pub(crate) fn explanation(explanation: &Explanation) -> String {
    let mut page = Page::default();
    page.line("Session", &explanation.session_id);
    page.line("State", &explanation.state);
    let tasks = format!("{} pending, {} running", explanation.pending, explanation.running);
    page.line("Tasks", &tasks);
    let executors = format!(
        "{} of {} that it has use for",
        explanation.executors, explanation.wanted
    );
    page.line("Executors", &executors);
    let texts: Vec<String> = explanation.reasons.iter().map(|r| r.text.clone()).collect();
    page.list("Why", &texts);
    page.render()
}

/// What an event's code stands for.
fn event_name(code: i32) -> String {
    match code {
        event::BIND_FAILED => "BindFailed".to_owned(),
        event::BIND_RETRIES_EXHAUSTED => "BindRetriesExhausted".to_owned(),
        _ => v1::TaskState::try_from(code)
            .map_or_else(|_| format!("Event({code})"), |state| state.wire_name().to_owned()),
    }
}

fn resources(resources: &Resources) -> String {
    format!(
        "{} CPU, {} memory, {} GPU",
        resources.cpu,
        size(resources.memory),
        resources.gpu
    )
}

/// Most of a text payload that a page shows, in bytes: a screen or two.
const TEXT_PREVIEW: usize = 4096;

/// The start of a payload; more of it would bury the rest of the page.
fn preview(data: &[u8]) -> String {
    match std::str::from_utf8(data) {
        Ok(text) if text.len() > TEXT_PREVIEW => {
            let end = (0..=TEXT_PREVIEW)
                .rev()
                .find(|at| text.is_char_boundary(*at))
                .unwrap_or_default();
            let shown = text.get(..end).unwrap_or_default();
            let left = size((text.len() - shown.len()) as u64);
            format!(
                "{}\n... {left} more, see --raw or -o json",
                payload(shown.as_bytes())
            )
        }
        _ => payload(data).trim_end_matches('\n').to_owned(),
    }
}

/// Lines that are aligned when all are known.
#[derive(Debug, Default)]
struct Page {
    lines: Vec<(String, String)>,
}

impl Page {
    fn line(&mut self, key: &str, value: &str) {
        let value = if value.is_empty() { "-" } else { value };
        self.lines.push((key.to_owned(), printable(value)));
    }

    /// A line only if there is a value.
    fn optional(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.line(key, value);
        }
    }

    /// One line per item.
    fn list(&mut self, key: &str, items: &[String]) {
        if !items.is_empty() {
            self.line(key, &items.join("\n"));
        }
    }

    fn payload(&mut self, key: &str, data: Option<&[u8]>) {
        let Some(data) = data else {
            return;
        };
        let kind = if std::str::from_utf8(data).is_ok() {
            "text"
        } else {
            "binary"
        };
        let mut value = format!("{}, {kind}", size(data.len() as u64));
        if !data.is_empty() {
            value.push('\n');
            value.push_str(&preview(data));
        }
        self.lines.push((key.to_owned(), value));
    }

    fn events(&mut self, events: &[Event], clock: &Clock) {
        let lines: Vec<String> = events
            .iter()
            .map(|event| {
                let (time, name) = (clock.local(event.creation_time.0), event_name(event.code));
                let message = event.message.as_deref().unwrap_or_default();
                format!("{time}  {name}  {message}").trim_end().to_owned()
            })
            .collect();
        self.list("Events", &lines);
    }

    /// Values in one column; further lines of a value below its first.
    fn render(&self) -> String {
        let width = self
            .lines
            .iter()
            .map(|(key, _)| key.len() + 3)
            .max()
            .unwrap_or_default();
        let mut page = String::new();
        for (key, value) in &self.lines {
            let mut label = format!("{key}:");
            for line in value.split('\n') {
                let shown = format!("{label:<width$}{line}");
                // Writing to a String does not fail.
                let _ = writeln!(page, "{}", shown.trim_end());
                label.clear();
            }
        }
        page
    }
}
