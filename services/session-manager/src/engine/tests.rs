//! What may leave the engine, and when: with a store that can be held up and made to fail.

mod silence;

use std::sync::{Mutex, mpsc};
use std::time::Duration;

use flame_core::state::TaskState;
use flame_core::{ApplicationName, SessionId};
use flame_rpc::v1::{ApplicationSpec, SessionSpec};

use super::*;
use crate::core::{CoreConfig, SessionKey, TaskRow};
use crate::store::{Record, Snapshot, StoreError, TaskReader, Upkeep};

/// What the store does with the next commits.
enum Order {
    Succeed,
    Fail,
}

/// Waits for an order before each commit, and remembers what it stored.
struct PlayedStore {
    orders: mpsc::Receiver<Order>,
    /// Told when a commit begins.
    began: tokio::sync::mpsc::UnboundedSender<()>,
    stored: Arc<Mutex<Vec<Record>>>,
}

impl Store for PlayedStore {
    fn load(&mut self) -> Result<Snapshot, StoreError> {
        Ok(Snapshot::default())
    }

    fn commit(&mut self, records: &[Record]) -> Result<(), StoreError> {
        let _test_is_over = self.began.send(());
        match self.orders.recv() {
            Ok(Order::Succeed) | Err(_) => {
                self.stored
                    .lock()
                    .expect("not poisoned")
                    .extend_from_slice(records);
                Ok(())
            }
            Ok(Order::Fail) => Err(StoreError::Damaged("played".to_owned())),
        }
    }

    fn reader(&self) -> Result<Arc<dyn TaskReader>, StoreError> {
        Err(StoreError::Damaged("never read".to_owned()))
    }

    fn upkeep(&self) -> Result<Arc<dyn Upkeep>, StoreError> {
        Err(StoreError::Damaged("never looked after".to_owned()))
    }
}

struct Bed {
    engine: Engine,
    run: EngineRun,
    orders: mpsc::Sender<Order>,
    began: tokio::sync::mpsc::UnboundedReceiver<()>,
    stored: Arc<Mutex<Vec<Record>>>,
}

impl Bed {
    /// An engine with an application and an open session "s".
    async fn new() -> Self {
        Self::with_clock(Clock::new(LOOK_EVERY)).await
    }

    /// The same with a clock of the test's own.
    async fn with_clock(clock: Arc<Clock>) -> Self {
        let config = flame_core::config::ClusterConfig::parse(
            "cluster: {name: test, endpoint: \"http://127.0.0.1:1\", storage: none}",
        )
        .expect("valid");
        let config = CoreConfig {
            default_resources: config.default_resources,
            policies: config.policies,
            placement: config.placement,
            limits: config.limits,
            retention: config.retention,
            bind_retries: config.bind_retries,
            task_retries: config.task_retries,
        };
        let (orders, order_queue) = mpsc::channel();
        let (began_sender, began) = tokio::sync::mpsc::unbounded_channel();
        let stored = Arc::new(Mutex::new(Vec::new()));
        let store = PlayedStore {
            orders: order_queue,
            began: began_sender,
            stored: Arc::clone(&stored),
        };
        let core = Core::new(config, Snapshot::default());
        let (engine, run) = Engine::start_with(core, Box::new(store), clock).expect("starts");
        let mut bed = Self {
            engine,
            run,
            orders,
            began,
            stored,
        };
        bed.order(Order::Succeed);
        let spec = SessionSpec {
            application: "app".to_owned(),
            ..SessionSpec::default()
        };
        let made = bed.engine.write(move |core, now, fx| {
            let app = ApplicationName::new("app").expect("valid");
            core.register_application(&app, ApplicationSpec::default(), now, fx)?;
            core.create_session(&SessionId::new("s").expect("valid"), spec, now, fx)
        });
        made.await.expect("made");
        bed.commit_began().await;
        bed
    }

    fn order(&self, order: Order) {
        self.orders.send(order).expect("the store listens");
    }

    async fn commit_began(&mut self) {
        self.began.recv().await.expect("the store works");
    }

    /// Creates a task; the reply comes when the task's handle completes.
    fn create_task(&self) -> tokio::task::JoinHandle<Result<TaskRow, CoreError>> {
        let engine = self.engine.clone();
        tokio::spawn(async move {
            engine
                .write(|core, now, fx| core.create_task("s", None, now, fx))
                .await
        })
    }

    fn stored_tasks(&self) -> usize {
        let stored = self.stored.lock().expect("not poisoned");
        stored
            .iter()
            .filter(|record| matches!(record, Record::TaskCreated(_)))
            .count()
    }
}

fn refused(result: &Result<TaskRow, CoreError>) -> &str {
    match result {
        Err(CoreError::Unavailable(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_reply_leaves_only_after_its_record_is_durable() {
    let mut bed = Bed::new().await;
    let reply = bed.create_task();
    bed.commit_began().await;
    // A read that came later shows what is not durable yet, so it waits, too.
    let engine = bed.engine.clone();
    let read = tokio::spawn(async move { engine.read(|core, _, _| core.list_tasks("s")).await });
    tokio::task::yield_now().await;
    assert!(!reply.is_finished() && !read.is_finished() && bed.stored_tasks() == 0);
    bed.order(Order::Succeed);
    assert_eq!(reply.await.expect("ends").expect("created").id, 1);
    assert_eq!(read.await.expect("ends").expect("read").tasks.len(), 1);
    assert_eq!(bed.stored_tasks(), 1);
}

#[tokio::test]
async fn what_comes_while_the_store_works_shares_the_next_commit() {
    let mut bed = Bed::new().await;
    let first = bed.create_task();
    bed.commit_began().await;
    let more: Vec<_> = (0..100).map(|_| bed.create_task()).collect();
    // All are in the queue before the first commit ends.
    // (One turn of this single-threaded runtime polls each of them once.)
    tokio::task::yield_now().await;
    for _ in 0..4 {
        bed.order(Order::Succeed);
    }
    first.await.expect("ends").expect("created");
    for reply in more {
        reply.await.expect("ends").expect("created");
    }
    bed.began.close();
    let mut commits = 1;
    while bed.began.recv().await.is_some() {
        commits += 1;
    }
    assert!(commits <= 4, "{commits} commits for 101 tasks");
}

#[tokio::test]
async fn while_the_store_fails_new_work_is_refused_reads_go_on_and_nothing_is_lost() {
    let mut bed = Bed::new().await;
    let unknown = bed.create_task();
    bed.commit_began().await;
    bed.order(Order::Fail);
    let unknown = unknown.await.expect("ends");
    assert!(refused(&unknown).contains("not known yet"), "{unknown:?}");
    let told = bed.create_task().await.expect("ends");
    assert!(refused(&told).contains("nothing new is taken"), "{told:?}");
    let read = bed
        .engine
        .read(|core, _, _| core.list_tasks("s"))
        .await
        .expect("reads go on");
    assert_eq!(read.tasks.len(), 1);
    assert!(
        bed.engine
            .store_failure()
            .is_some_and(|text| text.contains("played"))
    );
    // It is tried again without being asked, and what was applied is stored.
    bed.commit_began().await;
    bed.order(Order::Succeed);
    while bed.engine.store_failure().is_some() {
        tokio::task::yield_now().await;
    }
    assert_eq!(bed.stored_tasks(), 1);
    bed.order(Order::Succeed);
    assert_eq!(bed.create_task().await.expect("ends").expect("created").id, 2);
}

/// A repeated call finds that there is nothing left to change, but what the first one changed is
/// not durable.
#[tokio::test]
async fn while_the_store_fails_a_repeated_call_is_refused_like_the_first() {
    let mut bed = Bed::new().await;
    let close = |engine: &Engine| {
        let engine = engine.clone();
        tokio::spawn(async move {
            let closed = engine.write(|core, now, fx| core.close_session("s", now, fx));
            closed.await
        })
    };
    let first = close(&bed.engine);
    bed.commit_began().await;
    let again = close(&bed.engine);
    tokio::task::yield_now().await;
    bed.order(Order::Fail);
    for reply in [first, again] {
        let reply = reply.await.expect("ends");
        assert!(matches!(reply, Err(CoreError::Unavailable(_))), "{reply:?}");
    }
}

#[tokio::test]
async fn news_for_watchers_wait_for_the_record() {
    let mut bed = Bed::new().await;
    let key: SessionKey = 1;
    bed.order(Order::Succeed);
    bed.create_task().await.expect("ends").expect("created");
    bed.commit_began().await;
    let mut watch = bed.engine.watch((key, 1));
    let engine = bed.engine.clone();
    let close = tokio::spawn(async move {
        engine
            .write(|core, now, fx| core.close_session("s", now, fx))
            .await
    });
    bed.commit_began().await;
    tokio::select! {
        biased;
        news = watch.next() => panic!("{news:?} before it is durable"),
        () = tokio::task::yield_now() => {}
    }
    bed.order(Order::Succeed);
    assert_eq!(
        watch.next().await.map(|row| row.state),
        Some(TaskState::Cancelled)
    );
    close.await.expect("ends").expect("closed");
}

#[tokio::test]
async fn the_end_waits_for_what_was_posted() {
    let bed = Bed::new().await;
    bed.engine.tell(|core, now, fx| {
        let _created = core.create_task("s", None, now, fx);
    });
    bed.order(Order::Succeed);
    bed.run.stop().await;
    let late = bed.engine.read(|core, _, _| Ok(core.summary())).await;
    assert!(matches!(late, Err(CoreError::Unavailable(_))), "{late:?}");
    assert_eq!(bed.stored.lock().expect("not poisoned").len(), 3);
}
