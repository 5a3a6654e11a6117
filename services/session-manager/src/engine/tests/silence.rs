//! When the silence of a node counts: not while its messages wait in our own queue, and not while
//! this process did not run. The clock shows what the test says.

use std::collections::BTreeSet;
use std::convert::Infallible;

use flame_core::Resources;
use flame_core::state::Shim;
use flame_rpc::node::{Heartbeat, from_agent};
use flame_rpc::v1::NodePhase;
use futures::stream;
use http_body_util::BodyExt;
use tonic::body::Body;
use tonic::codegen::http::Request;
use tower::{Layer, ServiceExt, service_fn};

use super::*;
use crate::core::NodeHello;
use crate::engine::clock::Clock;
use crate::nodelink;

/// How often the driver looks in these tests.
const LOOK: Duration = Duration::from_millis(1);
/// A step of the clock: short enough to be no stall.
const STEP: Duration = Duration::from_secs(1);
/// So many looks of the driver are more than one round of its loop: what was due is done.
const LOOKS: u64 = 6;
/// Together more records than the driver takes before it waits for the store.
const MANY: [usize; 2] = [40_000, 40_000];

impl Bed {
    /// The node "n", and the ear that hears what it sends.
    async fn node(&self) -> (LinkId, Arc<Ear>) {
        let (link, _orders) = self.engine.open_link();
        let capacity = Resources::DEFAULT;
        let hello = NodeHello {
            name: NodeName::new("n").expect("valid"),
            agent_instance: String::new(),
            hostname: String::new(),
            capacity,
            allocatable: capacity,
            arch: String::new(),
            os: String::new(),
            shims: vec![Shim::Host],
            labels: Arc::new(BTreeSet::new()),
            addresses: Vec::new(),
            id: String::new(),
            slots: None,
            ephemeral: false,
        };
        let ear = self.engine.ear();
        self.engine.listen(link, hello.name.clone(), Arc::clone(&ear));
        self.engine
            .tell(move |core, now, fx| core.node_connected(link, "test", hello, Vec::new(), now, fx));
        assert_eq!(self.phase().await, NodePhase::Ready);
        (link, ear)
    }

    async fn phase(&self) -> NodePhase {
        let found = self.engine.peek(|core, _| core.get_node("n")).await;
        let node = found.expect("the engine works").expect("it is known");
        node.status.expect("set").phase()
    }

    /// How often nodes became suspect, and lost.
    async fn silences(&self) -> (u64, u64) {
        let census = self.engine.peek(|core, now| core.census(now)).await;
        let counters = census.expect("the engine works").counters;
        (counters.nodes_suspect, counters.nodes_lost)
    }

    /// Time passes, and the driver looks at the clock.
    async fn pass(&self, time: Duration) {
        let clock = &self.engine.clock;
        clock.advance(time);
        let until = clock.looks() + LOOKS;
        while clock.looks() < until {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The same, so slowly that the driver misses nothing.
    async fn pass_slowly(&self, time: Duration) {
        for _ in 0..time.as_secs() {
            self.pass(STEP).await;
        }
    }
}

fn heartbeat() -> from_agent::Message {
    from_agent::Message::Heartbeat(Heartbeat::default())
}

#[tokio::test]
async fn a_node_that_sends_nothing_is_lost() {
    let bed = Bed::with_clock(Clock::by_hand(LOOK)).await;
    bed.node().await;
    bed.pass_slowly(14 * STEP).await;
    assert_eq!(bed.phase().await, NodePhase::Ready);
    bed.pass_slowly(2 * STEP).await;
    assert_eq!(bed.phase().await, NodePhase::Suspect);
    bed.pass_slowly(30 * STEP).await;
    assert_eq!(bed.phase().await, NodePhase::Lost);
}

/// Defect 41.
#[tokio::test]
async fn a_node_is_not_silent_while_its_messages_wait_in_our_queue() {
    let mut bed = Bed::with_clock(Clock::by_hand(LOOK)).await;
    let (link, ear) = bed.node().await;
    // The store takes its time, and there is so much to store that nothing else is taken.
    bed.engine.tell(|core, now, fx| {
        core.create_task("s", None, now, fx).expect("created");
    });
    bed.commit_began().await;
    for tasks in MANY {
        bed.engine.tell(move |core, now, fx| {
            core.create_tasks("s", vec![None; tasks], now, fx)
                .expect("created");
        });
    }
    while bed.engine.metrics().waiting_records.get() < MANY.iter().sum::<usize>() as u64 {
        tokio::task::yield_now().await;
    }
    let engine = bed.engine.clone();
    let waits = tokio::spawn(async move { engine.peek(|core, _| core.summary().pending).await });
    for _ in 0..30 {
        ear.hear();
        bed.engine
            .tell(move |core, now, fx| core.node_message(link, heartbeat(), now, fx));
        bed.pass_slowly(5 * STEP).await;
    }
    assert!(!waits.is_finished(), "the queue was held up all the time");
    for _ in 0..8 {
        bed.order(Order::Succeed);
    }
    waits.await.expect("ends").expect("answered");
    assert_eq!(bed.silences().await, (0, 0));
    assert_eq!(bed.phase().await, NodePhase::Ready);
}

/// Defect 41.
#[tokio::test]
async fn time_in_which_the_manager_did_not_run_is_not_silence() {
    let bed = Bed::with_clock(Clock::by_hand(LOOK)).await;
    bed.node().await;
    bed.pass_slowly(10 * STEP).await;
    for _ in 0..5 {
        bed.pass(600 * STEP).await;
        assert_eq!(bed.phase().await, NodePhase::Ready);
    }
    assert_eq!(bed.silences().await, (0, 0));
    // A manager that stalls again and again notices nevertheless that a node is gone.
    for _ in 0..36 {
        bed.pass(60 * STEP).await;
        bed.pass(STEP).await;
    }
    assert_eq!(bed.phase().await, NodePhase::Lost);
}

/// A result of 64 MB on a slow line, and the heartbeat behind it, take longer than a node may be silent.
#[tokio::test]
async fn each_piece_of_a_message_is_heard() {
    let bed = Bed::new().await;
    let reader = service_fn(|request: Request<Body>| async {
        let ear = request.extensions().get::<Arc<Ear>>().cloned();
        let ear = ear.expect("each connection has an ear");
        let mut pieces = request.into_body();
        assert_eq!(ear.take(), None, "nothing has arrived yet");
        let mut heard = Vec::new();
        while let Some(piece) = pieces.frame().await {
            piece.expect("it arrives");
            heard.push(ear.take().is_some());
        }
        Ok::<_, Infallible>(heard)
    });
    let pieces = ["a", "large", "message"].map(Ok::<_, Infallible>);
    let request = Request::new(Body::new(axum::body::Body::from_stream(stream::iter(pieces))));
    let server = nodelink::listening(bed.engine.clone()).layer(reader);
    let heard = server.oneshot(request).await.expect("answered");
    assert_eq!(heard, [true; 3]);
}
