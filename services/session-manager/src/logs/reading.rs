//! One client's reading of a log: asks the nodes, follows those that come and go, and sends what comes as fast as
//! the client takes it.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use flame_core::NodeName;
use flame_rpc::node::LogChunk;
use flame_rpc::v1::{LogLines, LogNote, LogPlace as ReadTo};
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tonic::Status;

use super::merge::{self, Lane};
use super::{Wanted, Whose};
use crate::core::{LogPlace, LogPlaces};
use crate::engine::{Engine, LogReader};

/// How often it is looked whether nodes came or went, and whether the session has ended.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a node may take to send lines that it has. Then the others are not held up any longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of lines that are sent together.
const MESSAGE_BYTES: usize = 64 << 10;
/// What a line costs beside its text.
const LINE_COST: usize = 64;

/// See the module's text.
pub(super) struct Reading {
    engine: Engine,
    wanted: Wanted,
    session: u64,
    nodes: Vec<Node>,
    client: Sender<Result<LogLines, Status>>,
    /// Lines and notes that the client gets next.
    next: LogLines,
    bytes: usize,
    /// The client knows that it has all that was there.
    caught_up: bool,
    finishing: bool,
    lines: u64,
    /// Executors of which nodes have something.
    executors: u32,
}

/// A node that is asked.
struct Node {
    name: NodeName,
    /// As many of the last lines are wanted; all of a node that came later.
    lines: Option<u32>,
    reader: Option<LogReader>,
    lane: Lane,
    /// It has sent its last line.
    over: bool,
    /// The client knows that it is away.
    away: bool,
    /// Since when something of it is waited for.
    since: Instant,
}

/// The client does not want any more.
struct Gone;

impl Reading {
    pub(super) fn new(
        engine: Engine,
        wanted: Wanted,
        places: LogPlaces,
        client: Sender<Result<LogLines, Status>>,
    ) -> Self {
        let mut reading = Self {
            engine,
            wanted,
            session: places.session,
            nodes: Vec::new(),
            client,
            next: LogLines::default(),
            bytes: 0,
            caught_up: false,
            finishing: false,
            lines: 0,
            executors: 0,
        };
        reading.look(places);
        reading
    }

    /// Sends lines until there are no more or the client goes away. With this value every node stops sending.
    pub(super) async fn run(mut self) {
        // Whether the client is there is looked at wherever something is waited for.
        let client = self.client.clone();
        tokio::select! {
            _ = self.send_all() => {}
            () = client.closed() => {}
        }
    }

    async fn send_all(&mut self) -> Result<(), Gone> {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.merge();
            if self.is_over() {
                self.say_if_nothing_is_kept();
                return self.send_last().await;
            }
            if self.has_something() {
                self.send().await?;
                continue;
            }
            tokio::select! {
                (number, chunk) = next_chunk(&mut self.nodes) => self.arrived(number, chunk)?,
                _ = looks.tick() => self.look_again().await?,
            }
        }
    }

    /// Takes lines as far as their order is known.
    fn merge(&mut self) {
        while self.bytes < MESSAGE_BYTES
            && let Some((number, mut line)) = merge::next(self.nodes.iter_mut().map(|node| &mut node.lane))
        {
            let node = &mut self.nodes[number];
            line.node = node.name.to_string();
            self.bytes += line.text.len() + LINE_COST;
            self.lines += 1;
            self.next.lines.push(line);
            if node.lane.is_empty() {
                node.since = Instant::now();
                if let Some(reader) = &node.reader {
                    reader.used();
                }
            }
        }
        if !self.caught_up
            && self
                .nodes
                .iter()
                .all(|node| node.lane.caught_up && node.lane.is_empty())
        {
            self.caught_up = true;
            self.next.caught_up = true;
        }
    }

    fn has_something(&self) -> bool {
        let LogLines {
            lines,
            notes,
            places,
            caught_up,
            ..
        } = &self.next;
        !lines.is_empty() || !notes.is_empty() || !places.is_empty() || *caught_up
    }

    /// Sends the last message, which a client waits for to know that there are no more.
    async fn send_last(&mut self) -> Result<(), Gone> {
        let last = std::mem::take(&mut self.next);
        self.client.send(Ok(last)).await.map_err(|_| Gone)
    }

    async fn send(&mut self) -> Result<(), Gone> {
        self.bytes = 0;
        let mut next = std::mem::take(&mut self.next);
        next.goes_on = true;
        let began = Instant::now();
        self.client.send(Ok(next)).await.map_err(|_| Gone)?;
        // While nobody looked, nobody was silent.
        for node in &mut self.nodes {
            node.since += began.elapsed();
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        let follows = self.wanted.follow && !self.finishing;
        let done = |node: &Node| node.over || (!follows && node.reader.is_none());
        !follows && self.nodes.iter().all(|node| node.lane.is_empty() && done(node))
            || (self.wanted.follow
                && matches!(self.wanted.source, Whose::Agent)
                && self.nodes.iter().all(|node| node.lane.is_empty() && node.over))
    }

    fn note(&mut self, code: &str, node: &str, text: String) {
        self.next.notes.push(LogNote {
            code: code.to_owned(),
            node: node.to_owned(),
            text,
        });
    }

    fn say_if_nothing_is_kept(&mut self) {
        let all_asked = self.nodes.iter().all(|node| node.over);
        if self.lines == 0
            && self.executors == 0
            && all_asked
            && matches!(self.wanted.source, Whose::Session { .. })
        {
            let whose = match &self.wanted.node {
                Some(node) => format!("node {node} has no lines of the session: it had no executors there"),
                None => "no node has lines of the session: it had no executors".to_owned(),
            };
            let text = format!("{whose}, or what they wrote was too old or too much to be kept");
            self.note("nothing_kept", "", text);
        }
    }

    /// A chunk of a node, or the end of the link to it.
    fn arrived(&mut self, number: usize, chunk: Option<LogChunk>) -> Result<(), Gone> {
        let follows = self.wanted.follow && !self.finishing;
        let node = &mut self.nodes[number];
        let name = node.name.to_string();
        node.since = Instant::now();
        let Some(chunk) = chunk else {
            node.reader = None;
            // What was not taken is sent again when it is back.
            node.lane.rewind();
            node.lane.caught_up = true;
            node.away = true;
            let rest = match follows {
                true => "its lines go on when it is back",
                false => "the rest of its lines is missing",
            };
            self.note(
                "node_away",
                &name,
                format!("the link to node {name} ended; {rest}"),
            );
            return Ok(());
        };
        node.lane.caught_up |= chunk.caught_up || chunk.end.is_some();
        if let Some(begin_us) = chunk.place.map(|place| place.begin_us)
            && node.lane.begins(begin_us)
        {
            self.next.places.push(ReadTo {
                node: name.clone(),
                begin_us,
                outputs: Vec::new(),
            });
        }
        let error = chunk.end.and_then(|end| {
            node.over = true;
            node.reader = None;
            self.executors += end.executors;
            end.error
        });
        match (&node.reader, chunk.lines.is_empty()) {
            (Some(reader), true) => reader.used(),
            _ => node.lane.put(chunk.lines),
        }
        for text in chunk.notes {
            self.note("lines_missing", &name, format!("node {name}: {text}"));
        }
        if let Some(error) = error {
            self.note("node_failed", &name, format!("node {name}: {error}"));
        }
        Ok(())
    }

    /// Looks whether nodes came, went or are too slow, and whether there is more to follow.
    async fn look_again(&mut self) -> Result<(), Gone> {
        self.give_up_on_the_silent();
        if !self.wanted.follow || self.finishing {
            return Ok(());
        }
        match self.wanted.places(&self.engine).await {
            Ok(places) if places.session == self.session => self.look(places),
            // It is gone, or another one has its id.
            Ok(_) => self.finish(),
            Err(status) if status.code() == tonic::Code::NotFound => {
                if matches!(self.wanted.source, Whose::Session { .. }) {
                    self.finish();
                }
            }
            Err(status) => {
                // The session manager stops.
                let _gone = self.client.send(Err(status)).await;
                return Err(Gone);
            }
        }
        Ok(())
    }

    fn look(&mut self, places: LogPlaces) {
        let over = places.over && self.wanted.follow;
        for place in places.nodes {
            let known = self.nodes.iter().position(|node| node.name == place.node);
            let number = known.unwrap_or(self.nodes.len());
            if known.is_none() {
                let read = self.wanted.read.remove(place.node.as_str());
                self.nodes.push(Node {
                    name: place.node.clone(),
                    lines: self.wanted.lines.filter(|_| !self.caught_up),
                    reader: None,
                    lane: Lane::after(read),
                    over: false,
                    away: false,
                    since: Instant::now(),
                });
            }
            self.ask(number, &place);
        }
        if over {
            self.finish();
        }
    }

    /// Asks a node, or says why it cannot be asked.
    fn ask(&mut self, number: usize, place: &LogPlace) {
        let (session, follow) = (self.session, self.wanted.follow);
        let node = &mut self.nodes[number];
        let Some(link) = place.link else {
            node.lane.caught_up = true;
            if !std::mem::replace(&mut node.away, true) {
                let name = &place.node;
                let text = match (place.certain, follow) {
                    (true, true) => format!("node {name} is not connected; its lines come when it is back"),
                    (true, false) => format!("node {name} is not connected; its lines are missing"),
                    (false, _) => format!(
                        "node {name} is not connected; if it has lines of the session, they are missing"
                    ),
                };
                self.note("node_away", place.node.as_str(), text);
            }
            return;
        };
        // A reader of an older link hears of its end by itself.
        if node.over || node.reader.is_some() {
            return;
        }
        let mut order = self.wanted.order(session);
        order.lines = node.lines;
        if let Some(place) = node.lane.place() {
            (order.place, order.lines) = (Some(place.message("")), None);
            order.after = place.position();
        }
        node.reader = Some(self.engine.read_log(link, order));
        node.since = Instant::now();
        if std::mem::take(&mut node.away) {
            let name = place.node.to_string();
            self.note("node_back", &name, format!("node {name} is back"));
        }
    }

    /// Nothing more will be written.
    fn finish(&mut self) {
        self.finishing = true;
        for node in &self.nodes {
            if let Some(reader) = &node.reader {
                reader.finish();
            }
        }
    }

    fn give_up_on_the_silent(&mut self) {
        let waits = !self.wanted.follow || self.finishing;
        for number in 0..self.nodes.len() {
            let node = &mut self.nodes[number];
            let silent = node.reader.is_some() && node.lane.is_empty() && node.since.elapsed() > PATIENCE;
            if !silent || (node.lane.caught_up && !waits) {
                continue;
            }
            node.lane.caught_up = true;
            if waits {
                node.reader = None;
            }
            let name = node.name.to_string();
            let text = format!(
                "node {name} did not answer within {} s; lines of it are missing",
                PATIENCE.as_secs()
            );
            self.note("node_silent", &name, text);
        }
    }
}

/// The next chunk of a node whose last one was used up.
async fn next_chunk(nodes: &mut [Node]) -> (usize, Option<LogChunk>) {
    poll_fn(|context| {
        for (number, node) in nodes.iter_mut().enumerate() {
            if node.lane.is_empty()
                && let Some(reader) = &mut node.reader
                && let Poll::Ready(chunk) = reader.poll_next(context)
            {
                return Poll::Ready((number, chunk));
            }
        }
        Poll::Pending
    })
    .await
}
