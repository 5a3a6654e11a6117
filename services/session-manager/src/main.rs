//! flame-session-manager: the control plane of Flame.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use flame_core::config::{ClusterConfig, ConfigError};
use flame_session_manager::long_work::LongWork;
use flame_session_manager::store::restore;
use flame_session_manager::{builtin, server};
use flame_systemd::notify::Notifier;

/// Every request is a few dozen small allocations on one thread that are freed on another, which the
/// C library's allocator does at a fifth of all time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// EX_CONFIG of sysexits.h: starting again will not help, so systemd does not try.
const EXIT_CONFIG: u8 = 78;
/// How long open calls and the last commit may take when the daemon stops.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Control plane of a Flame cluster: serves clients, keeps the state, schedules tasks on nodes.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Configuration file [default: $FLAME_HOME/conf/flame-cluster.yaml, else ~/.flame/flame-cluster.yaml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the configuration, say what is wrong with it, and exit
    #[arg(long)]
    check: bool,
    /// Put this backup (made by flmctl backup) in the place of the state, and exit. The session
    /// manager must not run; the present state is kept under another name
    #[arg(long, value_name = "BACKUP", conflicts_with = "check")]
    restore: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(error) = flame_systemd::logging::init("info") {
        eprintln!("flame-session-manager: {error}");
        return ExitCode::FAILURE;
    }
    let path = arguments.config.unwrap_or_else(server::default_config_path);
    let outcome = ClusterConfig::load(&path)
        .map_err(anyhow::Error::from)
        .and_then(|config| {
            if arguments.check {
                println!("{} is valid", path.display());
                return Ok(());
            }
            if let Some(backup) = &arguments.restore {
                return restore(&config, backup);
            }
            tracing::info!(
                "starting version {} with {}",
                env!("CARGO_PKG_VERSION"),
                path.display()
            );
            run(&config)
        });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            let configuration = error.downcast_ref::<ConfigError>().is_some();
            if configuration {
                ExitCode::from(EXIT_CONFIG)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

/// Restores `backup` and says what that means.
fn restore(config: &ClusterConfig, backup: &Path) -> anyhow::Result<()> {
    let suffix = jiff::Timestamp::now().strftime(".before-restore-%Y%m%dT%H%M%SZ");
    let restored = restore::restore(&config.storage, backup, &suffix.to_string())?;
    println!(
        "restored {} sessions with {} tasks to {}",
        restored.sessions,
        restored.tasks,
        restored.path.display()
    );
    match restored.kept {
        Some(kept) => println!("the state that was there is now {}", kept.display()),
        None => println!("there was no state before"),
    }
    Ok(())
}

fn run(config: &ClusterConfig) -> anyhow::Result<()> {
    let notifier = Notifier::from_env();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers())
        .enable_all()
        .build()?;
    // Listeners first: a port in use is found before the state file is touched.
    let listeners = runtime.block_on(server::bind(config))?;
    let (engine, run, reader) = {
        let _runtime = runtime.enter();
        // A new format of the file, or millions of tasks in it, take their time.
        let _loading = LongWork::begin(notifier, server::loading(&config.storage));
        server::start_engine(config)?
    };
    let served = runtime.block_on(async {
        let builtins = builtin::applications()?;
        engine
            .write(move |core, now, fx| core.ensure_builtins(builtins, now, fx))
            .await?;
        server::serve(config, &engine, reader, listeners, &notifier).await
    });
    notifier.stopping();
    let _stopping = LongWork::begin(notifier, "stopping: storing the last changes".to_owned());
    let stored = runtime.block_on(async { tokio::time::timeout(STOP_LIMIT, run.stop()).await });
    // Open calls end with the runtime.
    runtime.shutdown_timeout(STOP_LIMIT);
    if stored.is_err() {
        anyhow::bail!(
            "the last changes could not be stored within {} s",
            STOP_LIMIT.as_secs()
        );
    }
    served
}

/// Threads for the servers and the core: the store has one more, which mostly waits. On a small
/// machine one is best, because nothing has to be handed from thread to thread.
fn workers() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (cores / 2).max(1)
}
