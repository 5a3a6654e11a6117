//! `flmctl logs`: lines as they come, in the order in which the session manager has them. With `-f` a connection that is
//! lost is made anew, and the log goes on where it was.

mod last;
mod show;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use flame_rpc::log_place::ReadPlace;
use flame_rpc::v1;
use tonic::{Code, Streaming};

use crate::cli::LogsArgs;
use crate::client::Client;
use crate::error::CtlError;
use crate::printer::Printer;
use last::Last;
use show::{say, show};

/// Notes about a node of which lines are missing.
const NO_LOG: [&str; 3] = ["node_failed", "node_away", "node_silent"];
/// First wait before a lost connection is tried again: a session manager restarts within a fraction of a second.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Longest wait, which nobody notices much after an outage.
const LONGEST_WAIT: Duration = Duration::from_secs(3);
/// A session manager that was started anew does not know a node before its agent has connected, which tries at least
/// every five seconds.
const NODES_CONNECT: Duration = Duration::from_secs(60);

/// Shows the log that was asked for.
pub(crate) async fn run(client: &Client, printer: &Printer, args: LogsArgs) -> Result<(), CtlError> {
    let mut reading = Reading::new(printer, args);
    let mut stream = client.read_logs(&reading.action, reading.request()).await?;
    loop {
        let Err(error) = reading.read(client, &mut stream).await else {
            return reading.end();
        };
        if !reading.args.follow || !is_loss(&error) {
            return Err(reading.broken_off(error));
        }
        stream = reading.connect_again(client, &error).await?;
    }
}

/// The connection is lost, or the session manager cannot answer for the moment.
fn is_loss(error: &CtlError) -> bool {
    match error {
        CtlError::Unreachable { .. } | CtlError::LogEnded { .. } => true,
        CtlError::Request { code, .. } => *code == Code::Unavailable,
        _ => false,
    }
}

/// What was read so far.
struct Reading<'a> {
    printer: &'a Printer,
    args: LogsArgs,
    /// For errors.
    action: String,
    /// Where it is in the logs of nodes.
    places: BTreeMap<String, ReadPlace>,
    /// All that was there at the begin has come.
    caught_up: bool,
    lines: Last,
    shown: usize,
    /// What is said before the first line, and the reason if there is none.
    missing: Vec<v1::LogNote>,
    /// Why there may be no lines.
    problem: Option<v1::LogNote>,
    is_terminal: bool,
    /// How long is waited before the lost connection is tried once more; nothing while there is one that works.
    outage: Option<Duration>,
}

impl<'a> Reading<'a> {
    fn new(printer: &'a Printer, args: LogsArgs) -> Self {
        let action = match (&args.session, &args.task, &args.node) {
            (Some(session), Some(task), _) => {
                format!("read the log of task {task} of session {session:?}")
            }
            (Some(session), None, _) => format!("read the log of session {session:?}"),
            (None, _, node) => format!("read the log of node {:?}", node.as_deref().unwrap_or_default()),
        };
        Self {
            printer,
            action,
            places: BTreeMap::new(),
            caught_up: false,
            lines: Last::new(args.lines),
            shown: 0,
            missing: Vec::new(),
            problem: None,
            is_terminal: std::io::stdout().is_terminal(),
            outage: None,
            args,
        }
    }

    /// What is wanted from now on.
    fn request(&self) -> v1::ReadLogsRequest {
        let places = self.places.iter();
        v1::ReadLogsRequest {
            session_id: self.args.session.clone(),
            task_id: self.args.task.map(|task| task.to_string()),
            node: self.args.node.clone(),
            // What a node that was not heard of yet has is all new then.
            lines: self.args.lines.filter(|_| !self.caught_up),
            follow: self.args.follow,
            places: places.map(|(node, place)| place.message(node)).collect(),
        }
    }

    /// Shows what comes, to the end of the log.
    async fn read(&mut self, client: &Client, stream: &mut Streaming<v1::LogLines>) -> Result<(), CtlError> {
        let mut goes_on = false;
        loop {
            let message = stream.message().await;
            let Some(message) = message.map_err(|status| client.failed(self.action.clone(), &status))? else {
                break;
            };
            if self.outage.take().is_some() {
                self.note("connection_back", "connected again".to_owned())?;
            }
            goes_on = message.goes_on;
            self.take(message)?;
        }
        match goes_on {
            true => Err(self.ended_early("the session manager ended it early".to_owned())),
            false => Ok(()),
        }
    }

    fn take(&mut self, message: v1::LogLines) -> Result<(), CtlError> {
        for place in message.places {
            self.places
                .entry(place.node.clone())
                .or_insert_with(|| place.into());
        }
        for note in message.notes {
            self.take_note(note)?;
        }
        for line in message.lines {
            self.places.entry(line.node.clone()).or_default().took(&line);
            if let Some(line) = self.lines.put(line) {
                self.show(line)?;
            }
        }
        if message.caught_up {
            self.caught_up = true;
            self.show_last()?;
        }
        Ok(())
    }

    fn take_note(&mut self, note: v1::LogNote) -> Result<(), CtlError> {
        let of_agent = self.args.session.is_none();
        let code = note.code.as_str();
        if code == "nothing_kept" || (of_agent && code == "node_failed") {
            self.problem = Some(note);
            return Ok(());
        }
        if !self.args.follow && self.shown == 0 && NO_LOG.contains(&code) {
            self.missing.push(note);
            return Ok(());
        }
        say(self.printer, note)
    }

    fn show(&mut self, line: v1::LogLine) -> Result<(), CtlError> {
        self.say_missing()?;
        self.shown += 1;
        show(self.printer, line, self.is_terminal)
    }

    fn say_missing(&mut self) -> Result<(), CtlError> {
        let mut missing = self.missing.drain(..);
        missing.try_for_each(|note| say(self.printer, note))
    }

    fn show_last(&mut self) -> Result<(), CtlError> {
        let lines = self.lines.caught_up();
        lines.into_iter().try_for_each(|line| self.show(line))
    }

    /// The log is at its end.
    fn end(mut self) -> Result<(), CtlError> {
        self.show_last()?;
        if self.problem.is_none() {
            self.problem = self.missing.pop();
        }
        self.say_missing()?;
        match self.problem {
            Some(note) if self.shown == 0 => Err(CtlError::NoLogs {
                action: self.action,
                code: note.code,
                reason: note.text,
            }),
            Some(note) => say(self.printer, note),
            None => Ok(()),
        }
    }

    fn ended_early(&self, reason: String) -> CtlError {
        CtlError::LogEnded {
            action: self.action.clone(),
            shown: self.shown,
            reason,
        }
    }

    /// What `error` means for a log of which there was something already.
    fn broken_off(&self, error: CtlError) -> CtlError {
        match error {
            CtlError::Unreachable { reason, .. } => self.ended_early(reason),
            CtlError::Request {
                code: Code::Unavailable,
                message,
                ..
            } => self.ended_early(message),
            other => other,
        }
    }

    /// Tries until there is a stream that goes on where the last one was.
    async fn connect_again(
        &mut self,
        client: &Client,
        error: &CtlError,
    ) -> Result<Streaming<v1::LogLines>, CtlError> {
        let reason = match error {
            CtlError::Unreachable { reason, .. } | CtlError::LogEnded { reason, .. } => reason,
            CtlError::Request { message, .. } => message,
            _ => "",
        };
        if self.outage.is_none() {
            let text = format!("connection lost ({reason}), trying again");
            self.note("connection_lost", text)?;
        }
        let mut answered = None;
        loop {
            let wait = self.outage.unwrap_or(FIRST_WAIT);
            self.outage = Some((wait * 2).min(LONGEST_WAIT));
            tokio::time::sleep(wait).await;
            let error = match client.read_logs(&self.action, self.request()).await {
                Ok(stream) => return Ok(stream),
                Err(error) => error,
            };
            let since = *answered.get_or_insert_with(Instant::now);
            match &error {
                _ if is_loss(&error) => answered = None,
                // The session manager may not have noticed yet that nobody reads the former stream, ...
                CtlError::Request {
                    code: Code::ResourceExhausted,
                    ..
                } => {}
                // ... and not have heard of the node yet.
                CtlError::Request {
                    code: Code::NotFound,
                    message,
                    ..
                } if message.starts_with("node ") && since.elapsed() < NODES_CONNECT => {}
                _ => return Err(error),
            }
        }
    }

    fn note(&self, code: &str, text: String) -> Result<(), CtlError> {
        let note = v1::LogNote {
            code: code.to_owned(),
            node: String::new(),
            text,
        };
        say(self.printer, note)
    }
}
