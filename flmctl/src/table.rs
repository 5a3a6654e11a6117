//! Lists as tables for people: no borders, one line per thing, states in colour on a terminal.

use comfy_table::{Cell, Color, ContentArrangement, Table, presets};

use crate::cli::Format;
use crate::format::{duration, one_line, size};
use crate::model::{Application, Executor, Node, Session, Task};
use crate::printer::Printer;

/// Longest free text in a column, in characters.
const TEXT_WIDTH: usize = 40;

pub(crate) fn applications(items: &[Application], printer: &Printer) -> String {
    let header = ["NAME", "STATE", "SHIM", "MAX-INSTANCES", "AGE", "LABELS"];
    let mut table = Rows::new(printer, &header, &["COMMAND", "URL", "DESCRIPTION"]);
    for app in items {
        let max = app.max_instances.map_or_else(dash, |max| max.to_string());
        table.add(
            vec![
                text(&app.name),
                state(&app.state),
                text(&app.shim),
                text(&max),
                text(&printer.clock.age(app.creation_time.0)),
                text(&list_or_dash(&app.labels)),
            ],
            vec![
                optional(app.command.as_deref()),
                optional(app.url.as_deref()),
                optional(app.description.as_deref()),
            ],
        );
    }
    table.render()
}

pub(crate) fn sessions(items: &[Session], printer: &Printer) -> String {
    let header = [
        "ID",
        "APPLICATION",
        "STATE",
        "PRIORITY",
        "PENDING",
        "RUNNING",
        "SUCCEED",
        "FAILED",
        "CANCELLED",
        "AGE",
    ];
    let mut table = Rows::new(printer, &header, &["INSTANCES", "RESOURCES", "DATA", "CLOSED"]);
    for session in items {
        let tasks = session.tasks;
        let max = session
            .max_instances
            .map_or_else(String::new, |max| max.to_string());
        let closed = session
            .completion_time
            .map_or_else(dash, |time| printer.clock.age(time.0));
        table.add(
            vec![
                text(&session.id),
                text(&session.application),
                state(&session.state),
                text(&session.priority.to_string()),
                text(&tasks.pending.to_string()),
                text(&tasks.running.to_string()),
                text(&tasks.succeed.to_string()),
                text(&tasks.failed.to_string()),
                text(&tasks.cancelled.to_string()),
                text(&printer.clock.age(session.creation_time.0)),
            ],
            vec![
                text(&format!("{}..{max}", session.min_instances)),
                text(&session.resreq.map_or_else(dash, |resreq| resreq.to_string())),
                text(&bytes(session.common_data_size)),
                text(&closed),
            ],
        );
    }
    table.render()
}

pub(crate) fn tasks(items: &[Task], printer: &Printer) -> String {
    let header = ["ID", "STATE", "AGE", "DURATION", "INPUT", "OUTPUT"];
    let mut table = Rows::new(printer, &header, &["INPUT-TEXT", "OUTPUT-TEXT"]);
    for task in items {
        let took = task
            .completion_time
            .map_or_else(dash, |end| duration(task.creation_time.0, end.0));
        table.add(
            vec![
                text(&task.id),
                state(&task.state),
                text(&printer.clock.age(task.creation_time.0)),
                text(&took),
                text(&bytes(task.input.as_ref().map(bytes::Bytes::len))),
                text(&bytes(task.output.as_ref().map(bytes::Bytes::len))),
            ],
            vec![preview(task.input.as_deref()), preview(task.output.as_deref())],
        );
    }
    table.render()
}

pub(crate) fn nodes(items: &[Node], printer: &Printer) -> String {
    let header = ["NAME", "STATE", "CONDITION", "CPU", "MEMORY", "GPU", "HEARTBEAT"];
    let mut table = Rows::new(
        printer,
        &header,
        &["EXECUTORS", "ALLOCATABLE", "ARCH", "OS", "ADDRESSES", "LABELS"],
    );
    for node in items {
        let addresses: Vec<String> = node.addresses.iter().map(|a| a.address.clone()).collect();
        table.add(
            vec![
                text(&node.name),
                state(&node.state),
                optional(node.condition().as_deref()),
                text(&node.capacity.cpu.to_string()),
                text(&size(node.capacity.memory)),
                text(&node.capacity.gpu.to_string()),
                text(&printer.clock.age(node.last_heartbeat_time.0)),
            ],
            vec![
                text(&node.executors.to_string()),
                text(&node.allocatable.to_string()),
                optional(Some(&node.arch)),
                optional(Some(&node.os)),
                text(&list_or_dash(&addresses)),
                text(&list_or_dash(&node.labels)),
            ],
        );
    }
    table.render()
}

pub(crate) fn executors(items: &[Executor], printer: &Printer) -> String {
    let mut table = Rows::new(
        printer,
        &["ID", "NODE", "STATE", "SESSION"],
        &["RESOURCES", "SHIM"],
    );
    for executor in items {
        table.add(
            vec![
                text(&executor.id),
                text(&executor.node),
                state(&executor.state),
                optional(executor.session_id.as_deref()),
            ],
            vec![text(&executor.resreq.to_string()), text(&executor.shim)],
        );
    }
    table.render()
}

/// A table that has some columns only when the user asked for a wide one.
struct Rows {
    table: Table,
    wide: bool,
}

impl Rows {
    fn new(printer: &Printer, header: &[&str], wide_header: &[&str]) -> Self {
        let wide = printer.format == Format::Wide;
        let mut table = Table::new();
        table
            .load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled);
        if printer.color {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        let shown: &[&str] = if wide { wide_header } else { &[] };
        table.set_header(header.iter().chain(shown));
        Self { table, wide }
    }

    fn add(&mut self, mut cells: Vec<Cell>, wide_cells: Vec<Cell>) {
        if self.wide {
            cells.extend(wide_cells);
        }
        self.table.add_row(cells);
    }

    /// Without blanks at the ends of lines, left aligned at the margin.
    fn render(mut self) -> String {
        for column in self.table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        self.table
            .lines()
            .map(|line| format!("{}\n", line.trim_end()))
            .collect()
    }
}

fn text(text: &str) -> Cell {
    // Whoever names things must not be able to steer the terminal or to break the columns.
    Cell::new(crate::format::printable(text).replace(['\n', '\t'], " "))
}

fn optional(value: Option<&str>) -> Cell {
    match value {
        Some(value) if !value.is_empty() => text(&one_line(value, TEXT_WIDTH)),
        _ => Cell::new("-"),
    }
}

fn preview(data: Option<&[u8]>) -> Cell {
    match data {
        Some(data) => text(&one_line(&crate::format::payload(data), TEXT_WIDTH)),
        None => Cell::new("-"),
    }
}

fn state(state: &str) -> Cell {
    let cell = text(state);
    match state {
        "Enabled" | "Open" | "Succeed" | "Ready" | "Bound" => cell.fg(Color::Green),
        "Failed" | "NotReady" => cell.fg(Color::Red),
        "Pending" | "Running" | "Binding" | "Unbinding" | "Releasing" => cell.fg(Color::Yellow),
        _ => cell,
    }
}

fn bytes(length: Option<usize>) -> String {
    length.map_or_else(dash, |length| size(length as u64))
}

fn list_or_dash(items: &[String]) -> String {
    if items.is_empty() { dash() } else { items.join(",") }
}

fn dash() -> String {
    "-".to_owned()
}
