//! Starts executors as units, one after the other or at once, as the agent does, and says how long it took. For measuring
//! and for tests on machines with systemd; run it as the user flame.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use flame_core::{ExecutorId, HostNames, Resources};
use flame_node_agent::runtime::systemd::{Profile, Settings, SystemdRuntime};
use flame_node_agent::runtime::{Launch, Owner, Running, Runtime, Stop};
use flame_node_agent::socket::SocketWatch;
use flame_node_agent::spec::Spec;

/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(60);
/// A service that listens where it is told to, and does nothing else.
const LISTEN: &str = "import os, socket, time\n\
    s = socket.socket(socket.AF_UNIX)\n\
    s.bind(os.environ['FLAME_INSTANCE_ENDPOINT'])\n\
    s.listen()\n\
    time.sleep(1000)\n";

#[derive(Debug, Parser)]
struct Arguments {
    /// How many are started in all
    #[arg(long, default_value_t = 1)]
    starts: u32,
    /// How many run at the same time
    #[arg(long, default_value_t = 1)]
    at_once: usize,
    /// Sandbox profile
    #[arg(long, default_value = "standard")]
    profile: Profile,
    /// What each asks for
    #[arg(long, default_value = "cpu=1,mem=64m")]
    resources: Resources,
    /// Run this command instead of a service, wait for its end, and tell how it ended
    #[arg(long)]
    run: Option<String>,
    /// Leave what runs, as an agent that is killed
    #[arg(long)]
    leave: bool,
    /// Tell what an earlier run has left, and stop it
    #[arg(long)]
    adopt: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime
        .map_err(|error| error.to_string())
        .and_then(|runtime| runtime.block_on(run(&arguments)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let runtime = SystemdRuntime::connect(Settings::new(HostNames::default(), None, arguments.profile))
        .await
        .map_err(|error| text(&error))?;
    if arguments.adopt {
        for found in runtime.running().await.map_err(|error| text(&error))? {
            let (record, socket) = (found.record.clone(), found.socket());
            let process = runtime.adopt(found);
            println!(
                "{} pid {} {}",
                record.owner.executor,
                process.pid(),
                connectable(&socket)
            );
            end(process.as_ref()).await?;
        }
        return Ok(());
    }
    // As an agent does: what runs keeps its slots.
    let _others = runtime.running().await.map_err(|error| text(&error))?;
    let mut running = Vec::new();
    let mut times = Vec::new();
    for number in 0..arguments.starts {
        if running.len() == arguments.at_once {
            let oldest: Box<dyn Running> = running.remove(0);
            end(oldest.as_ref()).await?;
        }
        let begin = Instant::now();
        let (process, socket) = start(&runtime, arguments, number).await?;
        if arguments.run.is_some() {
            let exit = tokio::time::timeout(LIMIT, process.exited())
                .await
                .map_err(|error| text(&error))?;
            println!("{exit} after {:.1} ms", milliseconds(begin));
            println!("{}", process.last_errors().await);
            continue;
        }
        tokio::time::timeout(LIMIT, listening(&socket))
            .await
            .map_err(|_| format!("{} does not appear", socket.display()))?;
        times.push(milliseconds(begin));
        running.push(process);
    }
    report(&mut times);
    for process in &running {
        match arguments.leave {
            true => process.remember(),
            false => end(process.as_ref()).await?,
        }
    }
    Ok(())
}

async fn start(
    runtime: &SystemdRuntime,
    arguments: &Arguments,
    number: u32,
) -> Result<(Box<dyn Running>, PathBuf), String> {
    let owner = Owner {
        executor: ExecutorId::new(&format!("e{number}")).map_err(|error| error.to_string())?,
        session: "s".to_owned(),
        session_number: 1,
        application: "units".to_owned(),
        resources: arguments.resources,
    };
    let site = runtime.site(&owner, &[]).map_err(|error| error.to_string())?;
    let socket = site.socket.clone();
    let mut environment: BTreeMap<String, String> = site.variables.iter().cloned().collect();
    for (name, value) in [
        ("PATH", "/usr/local/bin:/usr/bin:/bin".to_owned()),
        ("FLAME_INSTANCE_ENDPOINT", socket.display().to_string()),
    ] {
        environment.insert(name.to_owned(), value);
    }
    let (command, arguments_of) = match &arguments.run {
        Some(command) => ("/bin/sh", vec!["-c".to_owned(), command.clone()]),
        None => ("/usr/bin/python3", vec!["-c".to_owned(), LISTEN.to_owned()]),
    };
    let spec = Spec {
        command: command.to_owned(),
        arguments: arguments_of,
        environment,
        working_directory: site.work.clone().unwrap_or_else(|| "/".into()),
        parent: None,
    };
    let started = runtime.start(Launch { owner, spec, site }).await;
    let process = started.map_err(|error| error.to_string())?;
    Ok((process, socket))
}

async fn listening(socket: &std::path::Path) {
    let Some(directory) = socket.parent() else { return };
    let Ok(watch) = SocketWatch::start(directory) else {
        return;
    };
    watch.appeared(socket).await;
    while !connectable(socket) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn connectable(socket: &std::path::Path) -> bool {
    std::os::unix::net::UnixStream::connect(socket).is_ok()
}

async fn end(process: &dyn Running) -> Result<(), String> {
    process.stop(Stop::Terminate);
    match tokio::time::timeout(LIMIT, process.exited()).await {
        Ok(_) => Ok(()),
        Err(_) => Err(format!("process {} does not end", process.pid())),
    }
}

fn milliseconds(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64() * 1000.0
}

fn report(times: &mut [f64]) {
    times.sort_by(f64::total_cmp);
    if let (Some(best), Some(middle), Some(worst)) = (times.first(), times.get(times.len() / 2), times.last())
    {
        println!(
            "{} starts: best {best:.1} ms, median {middle:.1} ms, worst {worst:.1} ms",
            times.len()
        );
    }
}
