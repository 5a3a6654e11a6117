//! A service that is given its tasks as a stream, as the node agent does it.
#![allow(clippy::expect_used, clippy::panic)] // tests may, their helpers too

use std::path::{Path, PathBuf};
use std::time::Duration;

use flame_rpc::channel::connect_unix;
use flame_rs::service::{RunError, Service, TaskContext, TaskError, serve};
use flame_rs::{Bytes, v1};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};
use v1::instance_client::InstanceClient;
use v1::instance_stream_client::InstanceStreamClient;
use v1::{SessionContext, StreamedTask, TaskOutcome, TaskStreamRequest, TaskStreamResponse};

/// Longer than anything takes on a loaded machine; only a failing test waits for it.
const LIMIT: Duration = Duration::from_secs(30);

/// Does what the input says.
struct Sample;

impl Service for Sample {
    async fn on_task_invoke(&self, task: TaskContext) -> Result<Option<Bytes>, TaskError> {
        let input = task.input.clone().unwrap_or_default();
        let text = String::from_utf8_lossy(&input).into_owned();
        match text.split_once(':').unwrap_or((&text, "")) {
            ("until", path) => {
                std::fs::write(format!("{path}.begun"), "")?;
                while !Path::new(path).exists() {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                Ok(None)
            }
            // Keeps its thread, as a computation does.
            ("block-until", path) => {
                while !Path::new(path).exists() {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Ok(None)
            }
            ("append", path) => {
                use std::io::Write;
                let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path)?;
                writeln!(file, "{}", task.task_id)?;
                Ok(None)
            }
            ("large", bytes) => Ok(Some(vec![7; bytes.parse()?].into())),
            ("session", _) => Ok(Some(task.session_id.into())),
            ("panic", _) => panic!("on purpose"),
            ("fail", text) => Err(TaskError::new(text)),
            _ => Ok(task.input),
        }
    }
}

struct Running {
    channel: Channel,
    stop: oneshot::Sender<()>,
    served: std::thread::JoinHandle<Result<(), RunError>>,
    directory: tempfile::TempDir,
}

impl Running {
    /// The service on a runtime of its own with one thread, so that a task which keeps it does
    /// not keep the test.
    async fn start() -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("instance.sock");
        let (stop, stopped) = oneshot::channel();
        let socket = path.clone();
        let served = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let stopped = async { drop(stopped.await) };
            runtime
                .expect("runtime")
                .block_on(serve(Sample, &socket, stopped))
        });
        let channel = loop {
            match connect_unix(&path).await {
                Ok(channel) => break channel,
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        };
        Self {
            channel,
            stop,
            served,
            directory,
        }
    }

    async fn enter(&self) {
        let context = SessionContext {
            session_id: "s-1".to_owned(),
            ..SessionContext::default()
        };
        let mut client = InstanceClient::new(self.channel.clone());
        client.on_session_enter(context).await.expect("entered");
    }

    async fn stream(&self) -> Tasks {
        let (requests, outbound) = mpsc::unbounded_channel();
        let mut client = InstanceStreamClient::new(self.channel.clone()).max_decoding_message_size(64 << 20);
        let responses = within(client.on_task_stream(UnboundedReceiverStream::new(outbound))).await;
        Tasks {
            requests,
            responses: responses.expect("a stream").into_inner(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Input of a task that waits until [`Running::touch`].
    fn until(&self, how: &str, name: &str) -> String {
        format!("{how}:{}", self.path(name).display())
    }

    fn touch(&self, name: &str) {
        std::fs::write(self.path(name), "").expect("written");
    }
}

struct Tasks {
    requests: mpsc::UnboundedSender<TaskStreamRequest>,
    responses: Streaming<TaskStreamResponse>,
}

impl Tasks {
    fn request(&self, request: TaskStreamRequest) {
        self.requests.send(request).expect("the stream lives");
    }

    fn send(&self, first: u64, inputs: &[String]) {
        let task = |(task_id, input): (u64, &String)| StreamedTask {
            task_id,
            input: Some(input.clone().into()),
        };
        self.request(TaskStreamRequest {
            tasks: (first..).zip(inputs).map(task).collect(),
            ..TaskStreamRequest::default()
        });
    }

    fn recall(&self) {
        self.request(TaskStreamRequest {
            recall: true,
            ..TaskStreamRequest::default()
        });
    }

    async fn next(&mut self) -> TaskStreamResponse {
        within(self.responses.message())
            .await
            .expect("the stream lives")
            .expect("the stream goes on")
    }

    /// The outcomes of so many tasks, and how many responses brought them.
    async fn outcomes(&mut self, tasks: usize) -> (Vec<TaskOutcome>, usize) {
        let (mut outcomes, mut responses) = (Vec::new(), 0);
        while outcomes.len() < tasks {
            outcomes.extend(self.next().await.outcomes);
            responses += 1;
        }
        assert_eq!(outcomes.len(), tasks);
        (outcomes, responses)
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future)
        .await
        .expect("it happens in time")
}

fn ids(outcomes: &[TaskOutcome]) -> Vec<u64> {
    outcomes.iter().map(|outcome| outcome.task_id).collect()
}

fn texts(count: usize) -> Vec<String> {
    vec!["x".to_owned(); count]
}

#[tokio::test]
async fn outcomes_come_in_order_and_many_in_one_response() {
    let running = Running::start().await;
    running.enter().await;
    let mut tasks = running.stream().await;
    tasks.send(1, &texts(2000));
    let (outcomes, responses) = tasks.outcomes(2000).await;
    assert_eq!(ids(&outcomes), (1..=2000).collect::<Vec<u64>>());
    assert!(outcomes.iter().all(|done| done.output.as_deref() == Some(b"x")));
    assert!(responses < 500, "{responses} responses");
    tasks.send(2001, &["session".to_owned()]);
    assert_eq!(
        tasks.next().await.outcomes[0].output.as_deref(),
        Some(&b"s-1"[..])
    );
}

#[tokio::test]
async fn failures_and_panics_keep_their_words_and_cost_one_task() {
    let running = Running::start().await;
    running.enter().await;
    let mut tasks = running.stream().await;
    let inputs = ["fail:sorry", "panic", "fine"].map(str::to_owned);
    tasks.send(1, &inputs);
    let (outcomes, _) = tasks.outcomes(3).await;
    let told: Vec<_> = outcomes
        .iter()
        .map(|done| (done.return_code, done.message.as_deref()))
        .collect();
    assert_eq!(
        told,
        [
            (-1, Some("sorry")),
            (-1, Some("the service panicked: on purpose")),
            (0, None)
        ]
    );
}

#[tokio::test]
async fn a_result_does_not_wait_for_the_task_behind_it() {
    let running = Running::start().await;
    running.enter().await;
    let mut tasks = running.stream().await;
    // Quick tasks until results are put together, and behind them one that waits.
    let mut inputs = texts(300);
    inputs.push(running.until("until", "flag"));
    tasks.send(1, &inputs);
    let (outcomes, _) = tasks.outcomes(300).await;
    assert_eq!(outcomes.len(), 300);
    running.touch("flag");
    let (outcomes, _) = tasks.outcomes(1).await;
    assert_eq!(outcomes[0].task_id, 301);
    assert!(outcomes[0].duration_us > 0);
}

#[tokio::test]
async fn a_young_process_sends_each_result_before_a_task_that_keeps_the_thread() {
    let running = Running::start().await;
    running.enter().await;
    let mut tasks = running.stream().await;
    let mut inputs = texts(3);
    inputs.push(running.until("block-until", "flag"));
    inputs.push("x".to_owned());
    tasks.send(1, &inputs);
    let (outcomes, _) = tasks.outcomes(3).await;
    assert_eq!(ids(&outcomes), [1, 2, 3]);
    // Long enough to be noticed.
    tokio::time::sleep(Duration::from_millis(10)).await;
    running.touch("flag");
    let blocked = tasks.next().await;
    assert_eq!(ids(&blocked.outcomes), [4]);
    assert!(blocked.one_by_one, "nothing could have been recalled");
    tasks.send(6, &texts(200));
    let mut last = blocked;
    let mut count = 0;
    while count < 201 {
        last = tasks.next().await;
        count += last.outcomes.len();
    }
    assert!(!last.one_by_one, "it is forgiven");
}

#[tokio::test]
async fn a_recall_gives_back_what_has_not_begun() {
    let running = Running::start().await;
    running.enter().await;
    let mut tasks = running.stream().await;
    let log = format!("append:{}", running.path("log").display());
    tasks.send(
        1,
        &[
            log.clone(),
            running.until("until", "flag"),
            log.clone(),
            log.clone(),
        ],
    );
    assert_eq!(ids(&tasks.next().await.outcomes), [1]);
    tasks.recall();
    let answer = tasks.next().await;
    assert_eq!(answer.given_back.expect("the answer").task_ids, [3, 4]);
    tasks.recall();
    let answer = tasks.next().await;
    assert_eq!(answer.given_back.expect("the answer").task_ids, [0_u64; 0]);
    tasks.send(5, &[log]);
    running.touch("flag");
    let (outcomes, _) = tasks.outcomes(2).await;
    assert_eq!(ids(&outcomes), [2, 5]);
    let begun = std::fs::read_to_string(running.path("log")).expect("log");
    assert_eq!(begun, "1\n5\n");
}

#[tokio::test]
async fn large_payloads_go_one_by_one_and_too_large_ones_fail() {
    let running = Running::start().await;
    running.enter().await;
    let mut tasks = running.stream().await;
    tasks.request(TaskStreamRequest {
        max_response_size: 12 << 20,
        ..TaskStreamRequest::default()
    });
    let mut inputs = vec!["y".repeat(10 << 20); 3];
    inputs.push(format!("large:{}", 13 << 20));
    inputs.push("small".to_owned());
    tasks.send(1, &inputs);
    let mut outcomes = Vec::new();
    while outcomes.len() < 5 {
        let response = tasks.next().await;
        let bytes: usize = response
            .outcomes
            .iter()
            .filter_map(|done| done.output.as_ref())
            .map(Bytes::len)
            .sum();
        assert!(bytes <= 10 << 20, "{bytes}");
        outcomes.extend(response.outcomes);
    }
    assert_eq!(ids(&outcomes), [1, 2, 3, 4, 5]);
    assert!(
        outcomes[..3]
            .iter()
            .all(|done| done.output.as_deref() == Some(inputs[0].as_bytes()))
    );
    let failed = outcomes[3].message.as_deref().expect("a reason");
    assert!(
        failed.contains(&(13 << 20).to_string()) && failed.contains(&(12 << 20).to_string()),
        "{failed}"
    );
    assert_eq!((outcomes[3].return_code, outcomes[3].output.as_ref()), (-1, None));
    assert_eq!(outcomes[4].output.as_deref(), Some(&b"small"[..]));
}

#[tokio::test]
async fn outputs_do_not_pile_up_where_nobody_reads_them() {
    let running = Running::start().await;
    running.enter().await;
    let mut tasks = running.stream().await;
    let log = running.path("log");
    let inputs: Vec<String> = (0..50)
        .flat_map(|_| [format!("append:{}", log.display()), format!("large:{}", 4 << 20)])
        .collect();
    tasks.send(1, &inputs);
    let begun = || std::fs::read_to_string(&log).map_or(0, |text| text.lines().count());
    // It goes on as far as it goes without a reader.
    let mut seen = 0;
    within(async {
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let now = begun();
            if now > 0 && now == seen {
                break;
            }
            seen = now;
        }
    })
    .await;
    assert!(seen < 20, "{seen} outputs of 4 MiB");
    tasks.outcomes(100).await;
    assert_eq!(begun(), 50);
}

#[tokio::test]
async fn the_stream_ends_in_order_when_the_other_side_ends_its_own() {
    let running = Running::start().await;
    running.enter().await;
    let tasks = running.stream().await;
    tasks.send(1, &texts(20));
    let Tasks {
        requests,
        mut responses,
    } = tasks;
    drop(requests);
    let mut count = 0;
    while let Some(response) = within(responses.message()).await.expect("in order") {
        count += response.outcomes.len();
    }
    assert_eq!(count, 20);
}

#[tokio::test]
async fn a_stop_lets_the_task_finish_and_begins_no_other() {
    let running = Running::start().await;
    running.enter().await;
    let mut tasks = running.stream().await;
    tasks.send(
        1,
        &[String::new(), running.until("until", "flag"), "never".to_owned()],
    );
    assert_eq!(ids(&tasks.next().await.outcomes), [1]);
    let begun = running.path("flag.begun");
    while !begun.exists() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (
        flag,
        Running {
            stop,
            served,
            directory,
            ..
        },
    ) = (running.path("flag"), running);
    stop.send(()).expect("it serves");
    std::fs::write(flag, "").expect("written");
    let mut ended = Vec::new();
    while let Some(response) = within(tasks.responses.message()).await.expect("in order") {
        ended.extend(ids(&response.outcomes));
    }
    assert_eq!(ended, [2]);
    tokio::task::spawn_blocking(move || served.join())
        .await
        .expect("joined")
        .expect("no panic")
        .expect("in order");
    drop(directory);
}

#[tokio::test]
async fn a_task_is_given_up_with_its_stream() {
    let running = Running::start().await;
    running.enter().await;
    let mut tasks = running.stream().await;
    tasks.send(1, &[String::new(), running.until("until", "never")]);
    tasks.next().await;
    drop(tasks);
    let mut again = running.stream().await;
    again.send(2, &texts(1));
    assert_eq!(ids(&again.next().await.outcomes), [2]);
}

#[tokio::test]
async fn a_stream_without_a_session_is_refused() {
    let running = Running::start().await;
    let mut client = InstanceStreamClient::new(running.channel.clone());
    let refused = within(client.on_task_stream(tokio_stream::pending())).await;
    assert_eq!(refused.expect_err("no session").code(), Code::FailedPrecondition);
}
