//! Runs one script: in a directory of its own, in a process group of its own, within limits.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use flame_core::size;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::process::{Child, Command};
use tokio::sync::Notify;

use crate::capture::{Capture, Keep};
use crate::interpreter::{self, Missing};
use crate::{Defaults, Language, Script};

/// Most that a script may print, in bytes: as JSON it becomes up to four times as much, and
/// messages end at 64 MiB.
pub const OUTPUT_LIMIT: usize = 8 << 20;

/// How much of the standard error a failure quotes, in bytes.
const QUOTED: usize = 4096;

/// Between SIGTERM and SIGKILL at the end of the time limit.
const GRACE: Duration = Duration::from_secs(1);

/// How long a process that left the group may hold the output open after the script's end.
const PIPE_LIMIT: Duration = Duration::from_millis(500);

/// Why a script has no output.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScriptError {
    /// Neither the script nor its session says.
    #[error("the script names no \"language\", and neither does its session; there are shell and python")]
    NoLanguage,
    /// The interpreter is not on this node.
    #[error(transparent)]
    Interpreter(#[from] Missing),
    /// The private directory cannot be made.
    #[error("cannot make a directory for the script below {path}", path = path.display())]
    Directory {
        /// The directory for temporary files.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The interpreter cannot be started or watched.
    #[error("cannot run {program}")]
    Run {
        /// The interpreter.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ran and failed.
    #[error("the script ended with {status}{}", quoted(stderr))]
    Failed {
        /// Exit status or signal.
        status: ExitStatus,
        /// The end of its standard error.
        stderr: String,
    },
    /// Its time was over.
    #[error("the script was ended after its time limit of {limit:?}{}", quoted(stderr))]
    TimedOut {
        /// The limit.
        limit: Duration,
        /// The end of its standard error.
        stderr: String,
    },
    /// It printed more than fits.
    #[error(
        "the script was ended, because it wrote more than {} to its standard output; \
         let it write large results to a file or to the object cache", size::format(OUTPUT_LIMIT as u64)
    )]
    TooMuch,
}

fn quoted(stderr: &str) -> String {
    let text = stderr.trim_end();
    if text.is_empty() {
        "; it wrote nothing to its standard error".to_owned()
    } else {
        format!("; its standard error ends with:\n{text}")
    }
}

/// Ends the group when the script is given up: the task's connection is gone, or the service stops.
struct Group {
    leader: Option<Pid>,
}

impl Group {
    fn of(child: &Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self {
            leader: id.and_then(Pid::from_raw),
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(leader) = self.leader {
            // An error means that nobody is left, which is what we want.
            let _ = kill_process_group(leader, signal);
        }
    }

    /// Waits for the leader's end but leaves it a zombie, so that its number, which is the
    /// group's too, is nobody else's yet.
    async fn leader_ended(&self) {
        let Some(leader) = self.leader else { return };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let wait = move || while matches!(waitid(WaitId::Pid(leader), options), Err(Errno::INTR)) {};
        // The closure does not panic, and the runtime outlives the script.
        let _ = tokio::task::spawn_blocking(wait).await;
    }

    /// The number may be somebody else's from now on.
    fn forget(&mut self) {
        self.leader = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Why the script is over.
enum End {
    Exited,
    TimedOut(Duration),
    TooMuch,
}

/// Runs `script` and returns what it wrote to its standard output.
///
/// # Errors
/// [`ScriptError`]; an exit status other than 0 is one of them.
pub async fn run(script: Script, defaults: &Defaults) -> Result<Vec<u8>, ScriptError> {
    let language = script
        .language
        .or(defaults.language)
        .ok_or(ScriptError::NoLanguage)?;
    let runtime = script.runtime.as_deref().or(defaults.runtime.as_deref());
    let version = std::env::var("FLAME_PYTHON_VERSION").ok();
    let program = interpreter::program(language, runtime, version.as_deref());
    let program = interpreter::find(&program, std::env::var_os("PATH").as_deref())?;
    let limit = script.timeout.or(defaults.timeout);

    let directory = private_directory()?;
    let named = |source| ScriptError::Directory {
        path: directory.path().to_owned(),
        source,
    };
    let prepared = prepare(directory.path(), language, &script).map_err(named)?;
    let failed = |source| ScriptError::Run {
        program: program.display().to_string(),
        source,
    };
    let mut child = Command::new(&program)
        .arg(&prepared.file)
        .current_dir(&prepared.work)
        .env("TMPDIR", &prepared.work)
        .env_remove(flame_rs::service::INSTANCE_ENDPOINT)
        .stdin(prepared.stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    let mut group = Group::of(&child);
    let full = std::sync::Arc::new(Notify::new());
    let notify = full.clone();
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(failed(io::Error::other("it has no output to read")));
    };
    let mut stdout = Capture::start(stdout, Keep::Head(OUTPUT_LIMIT), move || notify.notify_one());
    let mut stderr = Capture::start(stderr, Keep::Tail(QUOTED), || {});

    let end = tokio::select! {
        () = group.leader_ended() => End::Exited,
        () = full.notified() => End::TooMuch,
        limit = over(limit) => End::TimedOut(limit),
    };
    if let End::TimedOut(_) = end {
        group.signal(Signal::TERM);
        // Whoever does not end by itself is ended below.
        let _ = tokio::time::timeout(GRACE, group.leader_ended()).await;
    }
    // Also what the script left in the background: it would hold the output open.
    group.signal(Signal::KILL);
    let status = child.wait().await.map_err(failed)?;
    group.forget();
    let drained = async { tokio::join!(stdout.ended(), stderr.ended()) };
    // A daemon that left the group may keep the pipes; what it still writes is lost.
    let _ = tokio::time::timeout(PIPE_LIMIT, drained).await;

    let stderr = String::from_utf8_lossy(&stderr.take()).into_owned();
    let output = stdout.take();
    match end {
        End::TimedOut(limit) => Err(ScriptError::TimedOut { limit, stderr }),
        _ if output.len() > OUTPUT_LIMIT => Err(ScriptError::TooMuch),
        _ if !status.success() => Err(ScriptError::Failed { status, stderr }),
        _ => Ok(output),
    }
}

async fn over(limit: Option<Duration>) -> Duration {
    match limit {
        Some(limit) => {
            tokio::time::sleep(limit).await;
            limit
        }
        None => std::future::pending().await,
    }
}

/// A directory that only this user can enter and nobody can guess; removed when dropped.
fn private_directory() -> Result<tempfile::TempDir, ScriptError> {
    tempfile::Builder::new()
        .prefix("flmexec-")
        .rand_bytes(16)
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir()
        .map_err(|source| ScriptError::Directory {
            path: std::env::temp_dir(),
            source,
        })
}

struct Prepared {
    file: std::path::PathBuf,
    work: std::path::PathBuf,
    stdin: Stdio,
}

/// Writes the script and its input; both stay outside of its working directory.
fn prepare(directory: &Path, language: Language, script: &Script) -> io::Result<Prepared> {
    let name = match language {
        Language::Shell => "script.sh",
        Language::Python => "script.py",
    };
    let file = directory.join(name);
    fs::write(&file, &script.code)?;
    let work = directory.join("work");
    fs::create_dir(&work)?;
    let stdin = match &script.input {
        Some(input) => {
            let path = directory.join("input");
            fs::write(&path, input)?;
            Stdio::from(File::open(path)?)
        }
        None => Stdio::null(),
    };
    Ok(Prepared { file, work, stdin })
}
