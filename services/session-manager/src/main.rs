//! flame-session-manager: the control plane of Flame.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use clap::Parser;
use flame_core::config::{ClusterConfig, ConfigError};
use flame_session_manager::{builtin, server};
use flame_systemd::notify::Notifier;

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

fn run(config: &ClusterConfig) -> anyhow::Result<()> {
    let notifier = Notifier::from_env();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    // Listeners first: a port in use is found before the state file is touched.
    let listeners = runtime.block_on(server::bind(config))?;
    let (engine, threads, reader) = server::start_engine(config)?;
    let served = runtime.block_on(async {
        let builtins = builtin::applications()?;
        engine
            .write(move |core, now, fx| core.ensure_builtins(builtins, now, fx))
            .await?;
        server::serve(config, &engine, reader, listeners, &notifier).await
    });
    // Open calls end with the runtime, and with them the last ways to the engine.
    drop(engine);
    runtime.shutdown_timeout(STOP_LIMIT);
    let (done, stored) = mpsc::channel();
    std::thread::spawn(move || {
        threads.join();
        // Nobody listens any more if that took too long.
        let _late = done.send(());
    });
    if stored.recv_timeout(STOP_LIMIT).is_err() {
        anyhow::bail!(
            "the last changes could not be stored within {} s",
            STOP_LIMIT.as_secs()
        );
    }
    served
}
