//! The session manager that the test plays, and the agent process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use flame_rpc::node::node_link_server::{NodeLink, NodeLinkServer};
use flame_rpc::node::{
    ExecutorPhase, ExecutorUpdate, FromAgent, Hello, Recall, ReleaseExecutor, ResultAck, ResultBatch,
    StartExecutor, TaskBatch, TaskItem, ToAgent, Welcome, from_agent, to_agent,
};
use flame_rpc::v1::{ApplicationSpec, Environment};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// Longer than anything takes on a loaded machine; only a failing test waits for it.
pub(crate) const LIMIT: Duration = Duration::from_secs(40);

/// The session manager's side of one link.
pub(crate) struct Link {
    inbound: Streaming<FromAgent>,
    outbound: mpsc::Sender<Result<ToAgent, Status>>,
}

/// A session manager that accepts links and leaves the rest to the test.
pub(crate) struct Manager {
    pub(crate) address: SocketAddr,
    links: mpsc::Receiver<Link>,
}

struct Acceptor(mpsc::Sender<Link>);

#[tonic::async_trait]
impl NodeLink for Acceptor {
    type LinkStream = ReceiverStream<Result<ToAgent, Status>>;

    async fn link(
        &self,
        request: Request<Streaming<FromAgent>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        let (outbound, messages) = mpsc::channel(1024);
        let link = Link {
            inbound: request.into_inner(),
            outbound,
        };
        self.0.send(link).await.map_err(|_| Status::unavailable("over"))?;
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

impl Manager {
    pub(crate) async fn start() -> Self {
        Self::start_at("127.0.0.1:0").await
    }

    pub(crate) async fn start_at(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (sender, links) = mpsc::channel(8);
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(NodeLinkServer::new(Acceptor(sender)))
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        Self { address, links }
    }

    /// The next link, after its Hello.
    pub(crate) async fn hello(&mut self) -> (Link, Hello) {
        let mut link = within(self.links.recv()).await.expect("a link");
        let hello = match link.next().await {
            from_agent::Message::Hello(hello) => hello,
            other => panic!("not Hello: {other:?}"),
        };
        (link, hello)
    }

    /// The next link, after its Hello and our Welcome.
    pub(crate) async fn welcome(&mut self) -> (Link, Hello) {
        self.welcome_with(0).await
    }

    /// As [`Manager::welcome`], with at most so many executors on the node (0 is no limit).
    pub(crate) async fn welcome_with(&mut self, max_executors: u32) -> (Link, Hello) {
        let (link, hello) = self.hello().await;
        link.say_welcome_with(max_executors).await;
        (link, hello)
    }
}

impl Link {
    pub(crate) async fn send(&self, message: to_agent::Message) {
        let message = ToAgent {
            message: Some(message),
        };
        self.outbound.send(Ok(message)).await.expect("the agent listens");
    }

    /// Our answer to Hello.
    pub(crate) async fn say_welcome(&self) {
        self.say_welcome_with(0).await;
    }

    async fn say_welcome_with(&self, max_executors: u32) {
        self.send(to_agent::Message::Welcome(Welcome {
            cluster: "test".to_owned(),
            link_epoch: 1,
            heartbeat_interval_ms: 100,
            max_executors,
            ..Welcome::default()
        }))
        .await;
    }

    /// Whether the agent says nothing for that long, and the link lives.
    pub(crate) async fn nothing_for(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.inbound.message()).await.is_err()
    }

    /// The next message, heartbeats included.
    pub(crate) async fn next(&mut self) -> from_agent::Message {
        let message = within(self.inbound.message()).await.expect("the link lives");
        message
            .expect("the agent goes on")
            .message
            .expect("a known message")
    }

    /// The next message that is no heartbeat.
    pub(crate) async fn next_news(&mut self) -> from_agent::Message {
        within(async {
            loop {
                match self.next().await {
                    from_agent::Message::Heartbeat(_) => {}
                    other => return other,
                }
            }
        })
        .await
    }

    pub(crate) async fn update(&mut self) -> ExecutorUpdate {
        match self.next_news().await {
            from_agent::Message::Executor(update) => update,
            other => panic!("not an update: {other:?}"),
        }
    }

    pub(crate) async fn batch(&mut self) -> ResultBatch {
        match self.next_news().await {
            from_agent::Message::Results(batch) => batch,
            other => panic!("not results: {other:?}"),
        }
    }

    pub(crate) async fn start(&self, order: StartExecutor) {
        self.send(to_agent::Message::Start(order)).await;
    }

    /// Starts an executor and waits until it is bound.
    pub(crate) async fn bind(&mut self, order: StartExecutor) {
        let id = order.executor_id.clone();
        self.start(order).await;
        let update = self.update().await;
        assert_eq!(
            (update.executor_id.as_str(), update.phase()),
            (id.as_str(), ExecutorPhase::Bound),
            "{}",
            update.message
        );
    }

    pub(crate) async fn release(&self, executor: &str) {
        self.order_release(executor, false).await;
    }

    /// Releases an executor without waiting for the task that it runs.
    pub(crate) async fn give_up(&self, executor: &str) {
        self.order_release(executor, true).await;
    }

    async fn order_release(&self, executor: &str, give_up: bool) {
        self.send(to_agent::Message::Release(ReleaseExecutor {
            executor_id: executor.to_owned(),
            reason: "test".to_owned(),
            give_up,
        }))
        .await;
    }

    /// The process that serves an executor, by its first task.
    pub(crate) async fn process(&mut self, executor: &str) -> Watched {
        let (code, pid) = self.run(executor, 1, "pid").await;
        assert_eq!(code, 0, "{pid}");
        Watched::new(pid.parse().expect("a pid")).expect("it lives")
    }

    /// Releases an executor and waits until it is told as released in order.
    pub(crate) async fn released(&mut self, executor: &str) {
        self.release(executor).await;
        let update = self.update().await;
        assert_eq!(
            (update.executor_id.as_str(), update.phase(), update.running),
            (executor, ExecutorPhase::Released, false),
            "{}",
            update.message
        );
    }

    /// Hands out tasks, numbered from `first`.
    pub(crate) async fn tasks(&self, executor: &str, first: u64, inputs: &[&str]) {
        let tasks = inputs.iter().zip(first..).map(|(input, task_id)| TaskItem {
            task_id,
            attempt: 1,
            input: Some((*input).to_owned().into()),
        });
        self.send(to_agent::Message::Tasks(TaskBatch {
            executor_id: executor.to_owned(),
            tasks: tasks.collect(),
        }))
        .await;
    }

    /// Asks for the tasks that have not begun.
    pub(crate) async fn recall(&self, executor: &str) {
        let executor_id = executor.to_owned();
        self.send(to_agent::Message::Recall(Recall { executor_id })).await;
    }

    pub(crate) async fn ack(&self, sequence: u64) {
        self.send(to_agent::Message::Ack(ResultAck { sequence })).await;
    }

    /// Runs one task and returns its code and its output or message.
    pub(crate) async fn run(&mut self, executor: &str, task: u64, input: &str) -> (i32, String) {
        self.tasks(executor, task, &[input]).await;
        let batch = self.batch().await;
        self.ack(batch.sequence).await;
        assert_eq!((batch.results.len(), batch.results[0].task_id), (1, task));
        let done = batch.results.into_iter().next().expect("one");
        let text = match done.output {
            Some(output) => String::from_utf8_lossy(&output).into_owned(),
            None => done.message.unwrap_or_default(),
        };
        (done.return_code, text)
    }
}

/// An order for this program as the service.
pub(crate) fn order(executor: &str, behaviour: &str) -> StartExecutor {
    let own = std::env::current_exe().expect("own path");
    StartExecutor {
        executor_id: executor.to_owned(),
        session_id: "session-1".to_owned(),
        application: "app".to_owned(),
        spec: Some(ApplicationSpec {
            command: Some(own.display().to_string()),
            arguments: super::service::ARGUMENTS.map(str::to_owned).to_vec(),
            environments: vec![variable("BEHAVIOUR", behaviour)],
            ..ApplicationSpec::default()
        }),
        ..StartExecutor::default()
    }
}

pub(crate) fn variable(name: &str, value: &str) -> Environment {
    Environment {
        name: name.to_owned(),
        value: value.to_owned(),
    }
}

/// The agent process, with an installation directory of its own.
pub(crate) struct Agent {
    pub(crate) home: tempfile::TempDir,
    child: Child,
}

impl Agent {
    pub(crate) fn start(manager: SocketAddr) -> Self {
        let home = tempfile::Builder::new().prefix("fna").tempdir_in("/tmp");
        let home = home.expect("temporary directory");
        let child = spawn(home.path(), manager);
        Self { home, child }
    }

    /// An agent with this `node-agent.toml`.
    pub(crate) fn start_with(manager: SocketAddr, settings: &str) -> Self {
        let home = tempfile::Builder::new().prefix("fna").tempdir_in("/tmp");
        let home = home.expect("temporary directory");
        std::fs::create_dir(home.path().join("conf")).expect("writable");
        std::fs::write(home.path().join("conf/node-agent.toml"), settings).expect("writable");
        let child = spawn(home.path(), manager);
        Self { home, child }
    }

    /// Starts one in the same place after it has ended.
    pub(crate) fn start_again(&mut self, manager: SocketAddr) {
        self.child = spawn(self.home.path(), manager);
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("own child").is_none()
    }

    /// Starts it again, after its end.
    pub(crate) fn restart(&mut self, manager: SocketAddr) {
        let log = std::fs::OpenOptions::new()
            .append(true)
            .open(self.home.path().join("log"));
        self.child = command(self.home.path(), manager)
            .stderr(log.expect("log"))
            .spawn()
            .expect("the agent starts");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().expect("a pid")).expect("not 0");
        kill_process(pid, signal).expect("it lives");
    }

    pub(crate) async fn exit(&mut self) -> ExitStatus {
        Watched::new(self.child.id()).expect("own child").gone().await;
        self.child.wait().expect("it has ended")
    }

    /// Its children and their states, as `ps` says; zombies have Z.
    pub(crate) fn children(&self) -> Vec<String> {
        let pid = self.child.id().to_string();
        let listed = Command::new("ps")
            .args(["-o", "pid=,stat=,args=", "--ppid", &pid])
            .output()
            .expect("ps");
        let listed = String::from_utf8(listed.stdout).expect("UTF-8");
        listed.lines().map(str::to_owned).collect()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("log")).expect("log")
    }

    /// Waits for `text` in the log.
    pub(crate) async fn logged(&self, text: &str) {
        within(async {
            while !self.log().contains(text) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// Waits for a file below the installation directory.
    pub(crate) async fn made(&self, below: &str) {
        let path = self.path(below);
        within(async {
            while !path.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.home.path().join(below)
    }

    /// Names in a directory below the installation directory, without the lock.
    pub(crate) fn list(&self, below: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(below)).expect(below);
        let names = entries.map(|entry| entry.expect("entry").file_name().into_string().expect("UTF-8"));
        let mut names: Vec<String> = names.filter(|name| name != ".lock").collect();
        names.sort();
        names
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the agent's log\n{}", self.log());
        }
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(home: &Path, manager: SocketAddr) -> Child {
    command(home, manager)
        .stderr(std::fs::File::create(home.join("log")).expect("log"))
        .spawn()
        .expect("the agent starts")
}

/// The agent for a session manager whose node link is at `manager`.
pub(crate) fn command(home: &Path, manager: SocketAddr) -> Command {
    let config = home.join("flame-cluster.yaml");
    let text = format!(
        "cluster: {{name: test, endpoint: 'http://{}:{}', limits: {{max_message_size: 1M}}}}\n",
        manager.ip(),
        manager.port() - 1
    );
    std::fs::write(&config, text).expect("writable");
    let mut command = Command::new(env!("CARGO_BIN_EXE_flame-node-agent"));
    command
        .args(["--config", &config.display().to_string(), "--name", "node-1"])
        .args(["--resources", "cpu=3,mem=5g"])
        .env("FLAME_HOME", home)
        .env("NOTIFY_SOCKET", "@nobody")
        .env_remove("RUST_LOG")
        .env_remove("FLAME_SOCKET_DIR")
        .env_remove("RUNTIME_DIRECTORY")
        .stdin(Stdio::null());
    command
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future)
        .await
        .expect("it happens in time")
}

/// A process whose end can be awaited, whoever its parent is.
pub(crate) struct Watched {
    pid: Pid,
    end: tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>,
}

impl Watched {
    /// None if there is no such process.
    pub(crate) fn new(pid: u32) -> Option<Self> {
        let pid = Pid::from_raw(pid.try_into().expect("a pid")).expect("not 0");
        let fd = pidfd_open(pid, PidfdFlags::NONBLOCK).ok()?;
        // OwnedFd keeps its descriptor, which is what the newer function wants to be promised.
        #[allow(deprecated)]
        let end = tokio::io::unix::AsyncFd::new(fd).expect("a runtime");
        Some(Self { pid, end })
    }

    pub(crate) async fn gone(&self) {
        let _ready = within(self.end.readable()).await.expect("watched");
    }

    /// Whether it has ended by now, and its parent knows.
    pub(crate) fn is_gone(&self) -> bool {
        rustix::process::test_kill_process(self.pid) == Err(rustix::io::Errno::SRCH)
    }
}
