//! What services write is sent to whoever reads it, and holds up nothing else.

use std::time::{Duration, Instant};

use flame_rpc::node::log_order::Order;
use flame_rpc::node::{
    AgentLog, CloseLog, FinishLog, LogChunk, LogEnd, LogOrder, LogPosition, OpenLog, SessionLog, from_agent,
    open_log, to_agent,
};
use flame_rpc::v1::{LogLine, LogOutput};

use crate::harness::{Agent, Link, Manager, order};
use crate::reuse::reusable;

/// More chunks than any of these logs has.
const PLENTY: u32 = 4;

/// What session-1 has written, or while `task` ran.
fn session(task: u64) -> OpenLog {
    OpenLog {
        source: Some(open_log::Source::Session(SessionLog {
            session_id: "session-1".to_owned(),
            session_number: 0,
            task_id: task,
        })),
        credit: PLENTY,
        ..OpenLog::default()
    }
}

/// As [`session`], and what is written from then on.
fn follow() -> OpenLog {
    OpenLog {
        follow: true,
        ..session(0)
    }
}

async fn tell(link: &Link, log: u64, order: Order) {
    let order = Some(order);
    link.send(to_agent::Message::Log(LogOrder { log, order })).await;
}

/// The next chunk of any log; results and the like are passed over.
async fn chunk(link: &mut Link) -> LogChunk {
    loop {
        if let from_agent::Message::Log(chunk) = link.next().await {
            return chunk;
        }
    }
}

/// All of a log that ends.
async fn all(link: &mut Link, log: u64, open: OpenLog) -> (Vec<LogLine>, Vec<String>, LogEnd) {
    tell(link, log, Order::Open(open)).await;
    let (mut lines, mut notes) = (Vec::new(), Vec::new());
    loop {
        let chunk = chunk(link).await;
        assert_eq!(chunk.log, log);
        lines.extend(chunk.lines);
        notes.extend(chunk.notes);
        if let Some(end) = chunk.end {
            return (lines, notes, end);
        }
        tell(link, log, Order::Credit(1)).await;
    }
}

fn texts(lines: &[LogLine]) -> Vec<String> {
    let text = |line: &LogLine| String::from_utf8_lossy(&line.text).into_owned();
    // The test harness in the service has lines of its own.
    lines
        .iter()
        .map(text)
        .filter(|text| text.contains(": "))
        .collect()
}

#[tokio::test]
async fn lines_have_their_time_executor_and_output_and_outlive_the_agent() {
    let mut manager = Manager::start().await;
    let mut agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    link.bind(order("e1", "ok")).await;
    link.run("e1", 1, "say:one").await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    link.run("e1", 2, "say:two").await;
    link.released("e1").await;
    let mut other = order("e2", "ok");
    other.session_number = 9;
    link.bind(other).await;
    link.run("e2", 1, "say:other").await;
    let expected = ["out: one", "err: one", "out: two", "err: two"];
    for restarted in [false, true] {
        if restarted {
            agent.signal(rustix::process::Signal::KILL);
            agent.exit().await;
            agent.restart(manager.address);
            (link, _) = manager.welcome().await;
        }
        let (lines, notes, end) = all(&mut link, 1, session(0)).await;
        let mut found = texts(&lines);
        found.sort_by_key(|text| expected.iter().position(|line| line == text));
        assert_eq!(found, expected, "restarted: {restarted}");
        assert!(notes.is_empty() && end.error.is_none(), "{notes:?} {end:?}");
        assert_eq!(end.executors, 1);
        assert!(lines.iter().all(|line| line.executor == "e1"));
        assert!(lines.is_sorted_by_key(|line| line.time_us));
        for line in &lines {
            if line.text.starts_with(b"err") {
                assert_eq!(line.output(), LogOutput::Err);
            }
        }
        let (lines, ..) = all(&mut link, 2, session(2)).await;
        let mut of_task = texts(&lines);
        of_task.sort();
        assert_eq!(of_task, ["err: two", "out: two"]);
        let (lines, ..) = all(&mut link, 3, session(7)).await;
        assert!(lines.is_empty(), "a task that did not run here");
        let last = OpenLog {
            lines: Some(1),
            ..session(0)
        };
        let (lines, ..) = all(&mut link, 4, last).await;
        assert_eq!(texts(&lines).len(), 1);
        assert!(lines[0].text.ends_with(b"two"), "{lines:?}");
    }
    let nobody = OpenLog {
        source: Some(open_log::Source::Session(SessionLog {
            session_id: "nobody".to_owned(),
            ..SessionLog::default()
        })),
        ..session(0)
    };
    let (_, _, end) = all(&mut link, 9, nobody).await;
    assert_eq!((end.executors, end.error), (0, None));
}

#[tokio::test]
async fn a_log_is_followed_until_nothing_more_will_be_written() {
    let mut manager = Manager::start().await;
    let _agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    tell(&link, 1, Order::Open(follow())).await;
    assert!(chunk(&mut link).await.caught_up, "nothing is there yet");
    link.bind(reusable("e1", "session-1", "ok")).await;
    link.tasks("e1", 1, &["say:one"]).await;
    let mut lines: Vec<LogLine> = Vec::new();
    while texts(&lines).len() < 2 {
        lines.extend(chunk(&mut link).await.lines);
        tell(&link, 1, Order::Credit(1)).await;
    }
    // The process goes on for another session.
    link.released("e1").await;
    link.bind(reusable("e2", "session-2", "ok")).await;
    link.run("e2", 1, "say:secret").await;
    let seen = lines.last().expect("there").time_us;
    tell(&link, 1, Order::Finish(FinishLog {})).await;
    loop {
        let chunk = chunk(&mut link).await;
        lines.extend(chunk.lines);
        if let Some(end) = chunk.end {
            assert_eq!((end.error, end.executors), (None, 1));
            break;
        }
    }
    assert!(
        lines.iter().all(|line| !line.text.ends_with(b"secret")),
        "{lines:?}"
    );
    // As after a link that was lost.
    let after = OpenLog {
        after: Some(LogPosition {
            time_us: seen,
            seen: u32::try_from(lines.iter().filter(|line| line.time_us == seen).count()).expect("few"),
        }),
        ..session(0)
    };
    let (lines, ..) = all(&mut link, 2, after).await;
    assert!(texts(&lines).is_empty(), "{lines:?}");
}

#[tokio::test]
async fn a_flood_that_nobody_reads_delays_no_result_and_no_heartbeat() {
    const MEGABYTES: usize = 100;
    let mut manager = Manager::start().await;
    let agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    link.bind(order("e1", "ok")).await;
    let follow = OpenLog {
        credit: 2,
        ..follow()
    };
    tell(&link, 1, Order::Open(follow)).await;
    link.tasks("e1", 1, &[&format!("flood:{MEGABYTES}")]).await;
    let (mut chunks, mut heartbeats, mut results, mut slowest) = (0, 0, 0, Duration::ZERO);
    let begin = Instant::now();
    let mut asked = Instant::now();
    // Until all of it is written: the files before the last two are deleted.
    let last = agent.path(&format!("logs/executors/e1.out.{}", MEGABYTES / 8));
    while !last.exists() || results < 50 {
        assert!(begin.elapsed() < crate::harness::LIMIT, "{results} results");
        match link.next().await {
            from_agent::Message::Log(chunk) => {
                chunks += 1;
                let bytes: usize = chunk.lines.iter().map(|line| line.text.len()).sum();
                assert!(bytes <= 64 << 10, "{bytes}");
            }
            from_agent::Message::Heartbeat(_) => heartbeats += 1,
            from_agent::Message::Results(batch) => {
                slowest = slowest.max(asked.elapsed());
                link.ack(batch.sequence).await;
                results += 1;
                asked = Instant::now();
                link.tasks("e1", results + 1, &["x"]).await;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(chunks, 2, "no more than there was credit for");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    let expected = begin.elapsed().as_millis() / 500;
    assert!(
        heartbeats >= expected.max(1),
        "{heartbeats} in {:?}",
        begin.elapsed()
    );
    // Whoever reads on is told that something is missing.
    let mut notes = Vec::new();
    while notes.is_empty() {
        tell(&link, 1, Order::Credit(1)).await;
        notes.extend(chunk(&mut link).await.notes);
    }
    assert!(notes[0].contains("missing"), "{notes:?}");
    tell(&link, 1, Order::Close(CloseLog {})).await;
}

#[tokio::test]
async fn the_number_of_logs_is_bounded_and_a_reader_that_goes_makes_room() {
    let mut manager = Manager::start().await;
    let _agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    for log in 1..=16 {
        tell(&link, log, Order::Open(follow())).await;
        assert!(chunk(&mut link).await.caught_up);
    }
    let (_, _, end) = all(&mut link, 17, follow()).await;
    assert!(end.error.expect("refused").contains("16 logs"));
    tell(&link, 3, Order::Close(CloseLog {})).await;
    tell(&link, 18, Order::Open(follow())).await;
    let next = chunk(&mut link).await;
    assert_eq!((next.log, next.end), (18, None));
    // A new link begins with none.
    drop(link);
    let (mut link, _) = manager.welcome().await;
    tell(&link, 1, Order::Open(follow())).await;
    assert_eq!(chunk(&mut link).await.end, None);
}

#[tokio::test]
async fn the_log_of_an_agent_that_systemd_did_not_start_is_elsewhere() {
    let mut manager = Manager::start().await;
    let _agent = Agent::start(manager.address);
    let (mut link, _) = manager.welcome().await;
    let own = OpenLog {
        source: Some(open_log::Source::Agent(AgentLog {})),
        credit: 1,
        ..OpenLog::default()
    };
    let (lines, _, end) = all(&mut link, 1, own).await;
    assert!(lines.is_empty());
    assert!(end.error.expect("none").contains("standard error"));
}
