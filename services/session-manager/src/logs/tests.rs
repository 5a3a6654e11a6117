//! Clients that read logs, and nodes that the test plays.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use flame_core::config::ClusterConfig;
use flame_core::{ApplicationName, SessionId};
use flame_rpc::node::log_order::Order;
use flame_rpc::node::node_link_client::NodeLinkClient;
use flame_rpc::node::node_link_server::NodeLinkServer;
use flame_rpc::node::{
    FromAgent, Hello, LogChunk, LogEnd, LogPosition, ToAgent, from_agent, open_log, to_agent,
};
use flame_rpc::v1::control_client::ControlClient;
use flame_rpc::v1::control_server::ControlServer;
use flame_rpc::v1::{LogLine, LogLines, ReadLogsRequest};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Streaming};

use super::*;
use crate::control::ControlService;
use crate::engine::EngineRun;
use crate::nodelink::NodeLinkService;
use crate::server::start_engine;

/// Longer than anything takes on a loaded machine; only a failing test waits for it.
const LIMIT: Duration = Duration::from_secs(30);

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(LIMIT, future).await.expect("in time")
}

/// A session manager with session `s`, which has as many tasks as it shall have nodes.
struct Bed {
    address: SocketAddr,
    engine: Engine,
    _run: EngineRun,
}

/// An agent with room for one executor.
struct Agent {
    to_manager: mpsc::Sender<FromAgent>,
    from_manager: Streaming<ToAgent>,
}

impl Bed {
    async fn new(tasks: usize) -> Self {
        let text = "cluster: {name: t, endpoint: \"http://127.0.0.1:1\", storage: none}";
        let config = ClusterConfig::parse(text).expect("valid");
        let (engine, run, readers) = start_engine(&config).expect("starts");
        let made = engine.write(move |core, now, fx| {
            let app = ApplicationName::new("app").expect("valid");
            let spec = v1::SessionSpec {
                application: "app".to_owned(),
                resreq: Some(room()),
                ..v1::SessionSpec::default()
            };
            core.register_application(&app, v1::ApplicationSpec::default(), now, fx)?;
            core.create_session(&SessionId::new("s").expect("valid"), spec, now, fx)?;
            core.create_tasks("s", vec![None; tasks], now, fx)
        });
        made.await.expect("made");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let link = NodeLinkService::new(engine.clone(), "t".to_owned());
        let control = ControlService::new(engine.clone(), readers.tasks);
        let server = tonic::transport::Server::builder()
            .add_service(NodeLinkServer::new(link))
            .add_service(ControlServer::new(control));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Self {
            address,
            engine,
            _run: run,
        }
    }

    async fn connect(&self, name: &str) -> Agent {
        let mut client = NodeLinkClient::connect(format!("http://{}", self.address))
            .await
            .expect("connected");
        let (to_manager, messages) = mpsc::channel(16);
        let hello = Hello {
            node: name.to_owned(),
            node_id: format!("id-{name}"),
            capacity: Some(room()),
            shims: vec![v1::Shim::Host.into()],
            ..Hello::default()
        };
        let hello = FromAgent {
            message: Some(from_agent::Message::Hello(hello)),
        };
        to_manager.send(hello).await.expect("room");
        let link = client.link(ReceiverStream::new(messages)).await.expect("taken");
        Agent {
            to_manager,
            from_manager: link.into_inner(),
        }
    }

    /// A node that has an executor of the session.
    async fn node(&self, name: &str) -> Agent {
        let mut agent = self.connect(name).await;
        while !matches!(agent.next().await, to_agent::Message::Start(_)) {}
        agent
    }

    async fn read(&self, request: ReadLogsRequest) -> Result<Reader, Status> {
        let mut client = ControlClient::connect(format!("http://{}", self.address))
            .await
            .expect("connected");
        let stream = client.read_logs(request).await?.into_inner();
        Ok(Reader {
            stream,
            _client: client,
        })
    }
}

/// A client, and the connection that its stream needs.
struct Reader {
    stream: Streaming<LogLines>,
    _client: ControlClient<tonic::transport::Channel>,
}

impl Reader {
    async fn next(&mut self) -> Option<LogLines> {
        within(self.stream.message()).await.expect("no failure")
    }

    /// All that comes until `enough` is seen, or the end.
    async fn until(&mut self, enough: impl Fn(&LogLines) -> bool) -> LogLines {
        let mut all = LogLines::default();
        while !enough(&all)
            && let Some(next) = self.next().await
        {
            all.lines.extend(next.lines);
            all.notes.extend(next.notes);
            all.caught_up |= next.caught_up;
            all.places.extend(next.places);
            all.goes_on = next.goes_on;
        }
        all
    }

    async fn all(&mut self) -> LogLines {
        self.until(|_| false).await
    }
}

impl Agent {
    async fn next(&mut self) -> to_agent::Message {
        let message = within(self.from_manager.message()).await.expect("the link lives");
        message.expect("the link goes on").message.expect("known")
    }

    async fn order(&mut self) -> (u64, Order) {
        loop {
            if let to_agent::Message::Log(order) = self.next().await {
                return (order.log, order.order.expect("known"));
            }
        }
    }

    /// The next log that is opened; orders about earlier ones are passed over.
    async fn opened(&mut self) -> (u64, OpenLog) {
        loop {
            if let (log, Order::Open(open)) = self.order().await {
                return (log, open);
            }
        }
    }

    async fn send(&self, chunk: LogChunk) {
        let message = FromAgent {
            message: Some(from_agent::Message::Log(chunk)),
        };
        self.to_manager.send(message).await.expect("the manager listens");
    }

    /// Tells where a log begins.
    async fn begins(&self, log: u64, begin_us: i64) {
        let place = v1::LogPlace {
            begin_us,
            ..v1::LogPlace::default()
        };
        self.send(LogChunk {
            log,
            place: Some(place),
            caught_up: true,
            ..LogChunk::default()
        })
        .await;
    }

    /// Sends lines of these times, which are the last ones if `over`.
    async fn lines(&self, log: u64, times: &[i64], over: bool) {
        let line = |time: &i64| LogLine {
            time_us: *time,
            executor: "e1".to_owned(),
            text: format!("at {time}").into(),
            ..LogLine::default()
        };
        self.send(LogChunk {
            log,
            lines: times.iter().map(line).collect(),
            caught_up: true,
            end: over.then_some(LogEnd {
                error: None,
                executors: 1,
            }),
            ..LogChunk::default()
        })
        .await;
    }
}

fn room() -> v1::ResourceRequirement {
    v1::ResourceRequirement {
        cpu: 1,
        memory: 1 << 20,
        gpu: 0,
    }
}

fn session(follow: bool) -> ReadLogsRequest {
    ReadLogsRequest {
        session_id: Some("s".to_owned()),
        follow,
        ..ReadLogsRequest::default()
    }
}

fn seen(lines: &LogLines) -> Vec<(&str, i64)> {
    lines
        .lines
        .iter()
        .map(|line| (line.node.as_str(), line.time_us))
        .collect()
}

fn codes(lines: &LogLines) -> Vec<(&str, &str)> {
    lines
        .notes
        .iter()
        .map(|note| (note.code.as_str(), note.node.as_str()))
        .collect()
}

#[tokio::test]
async fn lines_of_all_nodes_are_one_log_by_their_times() {
    let bed = Bed::new(2).await;
    let (mut first, mut second) = (bed.node("n1").await, bed.node("n2").await);
    let _stranger = bed.connect("n3").await;
    let request = ReadLogsRequest {
        lines: Some(7),
        task_id: Some("2".to_owned()),
        ..session(false)
    };
    let mut reader = bed.read(request).await.expect("there");
    let (log, open) = first.opened().await;
    let open_log::Source::Session(wanted) = open.source.expect("set") else {
        panic!("of a session");
    };
    assert_eq!(
        (wanted.session_id.as_str(), wanted.session_number, wanted.task_id),
        ("s", 1, 2)
    );
    assert_eq!((open.lines, open.follow, open.after), (Some(7), false, None));
    first.lines(log, &[1, 4, 6], true).await;
    let (log, _) = second.opened().await;
    second.lines(log, &[2, 5], false).await;
    second.lines(log, &[7], true).await;
    let all = reader.all().await;
    assert_eq!(
        seen(&all),
        [("n1", 1), ("n2", 2), ("n1", 4), ("n2", 5), ("n1", 6), ("n2", 7)]
    );
    assert!(all.caught_up && !all.goes_on, "the last message says so");
    assert_eq!(codes(&all), [], "a node that did not run it is not asked");
}

#[tokio::test]
async fn a_node_that_is_away_is_named_and_goes_on_when_it_is_back() {
    let bed = Bed::new(2).await;
    let (mut first, mut second) = (bed.node("n1").await, bed.node("n2").await);
    let mut reader = bed.read(session(true)).await.expect("there");
    let (log, _) = first.opened().await;
    first.lines(log, &[1], false).await;
    let (log, _) = second.opened().await;
    second.lines(log, &[2, 3, 3], false).await;
    let all = reader.until(|all| all.lines.len() == 4).await;
    assert_eq!(seen(&all), [("n1", 1), ("n2", 2), ("n2", 3), ("n2", 3)]);
    drop(second);
    let gone = reader.until(|all| !all.notes.is_empty()).await;
    assert_eq!(codes(&gone), [("node_away", "n2")]);
    let mut others = bed.read(session(false)).await.expect("there");
    let (log, _) = first.opened().await;
    first.lines(log, &[1], true).await;
    let all = others.all().await;
    assert_eq!(
        (seen(&all), codes(&all)),
        (vec![("n1", 1)], vec![("node_away", "n2")])
    );
    let mut second = bed.connect("n2").await;
    let (log, open) = second.opened().await;
    assert_eq!(open.after, Some(LogPosition { time_us: 3, seen: 2 }));
    second.lines(log, &[9], false).await;
    let back = reader.until(|all| !all.lines.is_empty()).await;
    assert_eq!(
        (seen(&back), codes(&back)),
        (vec![("n2", 9)], vec![("node_back", "n2")])
    );
}

/// As after a restart of the session manager: it knows nothing, and the client says where it was.
#[tokio::test]
async fn a_client_that_was_cut_off_goes_on_where_it_was() {
    let bed = Bed::new(3).await;
    let (mut first, mut second) = (bed.node("n1").await, bed.node("n2").await);
    let last = |places| ReadLogsRequest {
        lines: Some(2),
        places,
        ..session(true)
    };
    let mut reader = bed.read(last(Vec::new())).await.expect("there");
    let (log, open) = first.opened().await;
    assert_eq!((open.lines, open.place), (Some(2), None));
    first.begins(log, 5).await;
    let (log, _) = second.opened().await;
    second.begins(log, 0).await;
    second.lines(log, &[6, 7, 7], false).await;
    let all = reader
        .until(|all| all.lines.len() == 3 && all.places.len() == 2 && all.caught_up)
        .await;
    assert!(all.goes_on);
    let mut places: BTreeMap<String, ReadPlace> = all
        .places
        .into_iter()
        .map(|place| (place.node.clone(), place.into()))
        .collect();
    for line in &all.lines {
        places.get_mut(&line.node).expect("begun").took(line);
    }
    drop(reader);

    let places = places.iter().map(|(node, place)| place.message(node)).collect();
    let mut reader = bed.read(last(places)).await.expect("there");
    let (log, open) = first.opened().await;
    let begin = v1::LogPlace {
        begin_us: 5,
        ..v1::LogPlace::default()
    };
    assert_eq!(
        (open.place.as_ref(), open.lines, open.after),
        (Some(&begin), None, None)
    );
    first.lines(log, &[8], false).await;
    let (log, open) = second.opened().await;
    let read = v1::OutputPlace {
        executor: "e1".to_owned(),
        output: v1::LogOutput::Out.into(),
        time_us: 7,
        seen: 2,
    };
    assert_eq!(open.place.expect("known").outputs, [read]);
    assert_eq!(open.after, Some(LogPosition { time_us: 7, seen: 2 }));
    second.begins(log, 3).await;
    second.lines(log, &[9], false).await;
    let all = reader.until(|all| all.lines.len() == 2).await;
    assert_eq!(seen(&all), [("n1", 8), ("n2", 9)]);
    assert_eq!(all.places, [], "it knows where they began");

    // What came from a node that is new is all new.
    let mut third = bed.node("n3").await;
    let (log, open) = third.opened().await;
    assert_eq!((open.lines, open.place), (None, None));
    third.begins(log, 0).await;
    // A link that is lost is no other case than a client that was.
    drop(first);
    let mut first = bed.connect("n1").await;
    let (_, open) = first.opened().await;
    let place = ReadPlace::from(open.place.expect("known"));
    assert_eq!((place.latest(), place.message("").begin_us), (8, 5));
}

#[tokio::test]
async fn a_followed_log_ends_with_its_session() {
    let bed = Bed::new(1).await;
    let mut agent = bed.node("n1").await;
    let mut reader = bed.read(session(true)).await.expect("there");
    let (log, _) = agent.opened().await;
    agent.lines(log, &[], false).await;
    assert!(reader.next().await.expect("goes on").caught_up);
    let closed = bed
        .engine
        .write(|core, now, fx| core.cancel_session("s", None, now, fx));
    closed.await.expect("closed");
    // The executor is gone with its link; until it is, it may write.
    drop(agent);
    let forgotten = async {
        loop {
            let forgotten = bed.engine.write(|core, now, fx| core.forget_node("n1", now, fx));
            if forgotten.await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(forgotten).await;
    let rest = reader.all().await;
    assert_eq!(codes(&rest).first(), Some(&("node_away", "n1")));
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_work_on_the_node() {
    let bed = Bed::new(1).await;
    let mut agent = bed.node("n1").await;
    let reader = bed.read(session(true)).await.expect("there");
    let (log, _) = agent.opened().await;
    agent.lines(log, &[], false).await;
    drop(reader);
    loop {
        match agent.order().await {
            (_, Order::Credit(_)) => {}
            (closed, Order::Close(_)) => {
                assert_eq!(closed, log);
                return;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_gets_the_node_to_stop() {
    const CHUNK: usize = 32 << 10;
    let bed = Bed::new(1).await;
    let mut agent = bed.node("n1").await;
    let mut reader = bed.read(session(true)).await.expect("there");
    let (log, open) = agent.opened().await;
    let mut credit = open.credit;
    let mut sent: u32 = 0;
    loop {
        while credit > 0 {
            let line = LogLine {
                time_us: i64::from(sent),
                text: vec![b'x'; CHUNK].into(),
                ..LogLine::default()
            };
            agent
                .send(LogChunk {
                    log,
                    lines: vec![line],
                    caught_up: true,
                    ..LogChunk::default()
                })
                .await;
            (credit, sent) = (credit - 1, sent + 1);
        }
        // Nothing comes any more when all that is between is full.
        match timeout(Duration::from_secs(1), agent.order()).await {
            Ok((_, Order::Credit(more))) => credit += more,
            Ok(other) => panic!("{other:?}"),
            Err(_) => break,
        }
        assert!(
            sent < 200,
            "the windows of the connection are a few megabytes at most"
        );
    }
    // It goes on where it was.
    let all = reader.until(|all| all.lines.len() == sent as usize).await;
    let times: Vec<i64> = all.lines.iter().map(|line| line.time_us).collect();
    assert!(times.is_sorted() && times.len() == sent as usize);
    assert!(matches!(agent.order().await, (_, Order::Credit(_))));
}

#[tokio::test]
async fn what_is_not_there_is_an_error_and_what_is_not_kept_is_said() {
    let bed = Bed::new(1).await;
    let mut agent = bed.node("n1").await;
    let _idle = bed.connect("n2").await;
    let none = ReadLogsRequest::default();
    let request = |session: &str, task: &str, node: &str| ReadLogsRequest {
        session_id: Some(session.to_owned()),
        task_id: Some(task.to_owned()),
        node: Some(node.to_owned()),
        ..ReadLogsRequest::default()
    };
    for (request, code, text) in [
        (none, Code::InvalidArgument, "neither a session nor a node"),
        (request("x", "", ""), Code::NotFound, "session x not found"),
        (
            request("s", "2", ""),
            Code::NotFound,
            "task 2 of session s not found",
        ),
        (request("s", "one", ""), Code::InvalidArgument, "is not a number"),
        (request("s", "", "n9"), Code::NotFound, "node n9 not found"),
        (request("", "", "n9"), Code::NotFound, "node n9 not found"),
        (
            request("", "1", "n1"),
            Code::InvalidArgument,
            "a task is one of a session",
        ),
    ] {
        let refused = bed.read(request).await.err().expect("refused");
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(text), "{refused}");
    }
    let mut reader = bed.read(session(false)).await.expect("there");
    let (log, _) = agent.opened().await;
    let end = Some(LogEnd::default());
    agent
        .send(LogChunk {
            log,
            end,
            ..LogChunk::default()
        })
        .await;
    assert_eq!(codes(&reader.all().await), [("nothing_kept", "")]);
    let mut reader = bed.read(request("", "", "n1")).await.expect("there");
    let (log, open) = agent.opened().await;
    assert!(matches!(open.source, Some(open_log::Source::Agent(_))));
    let end = Some(LogEnd {
        error: Some("it is elsewhere".to_owned()),
        executors: 0,
    });
    agent
        .send(LogChunk {
            log,
            end,
            ..LogChunk::default()
        })
        .await;
    assert_eq!(codes(&reader.all().await), [("node_failed", "n1")]);
}

#[tokio::test]
async fn one_address_reads_so_many_logs_and_those_that_end_make_room() {
    let bed = Bed::new(1).await;
    let mut agent = bed.node("n1").await;
    let mut readers = Vec::new();
    for _ in 0..MAX_LOGS_OF_ADDRESS {
        readers.push(bed.read(session(true)).await.expect("there is room"));
        agent.opened().await;
    }
    let refused = bed.read(session(true)).await.err().expect("refused");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    readers.pop();
    within(async {
        while bed.read(session(true)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
