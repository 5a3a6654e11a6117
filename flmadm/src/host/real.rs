//! The machine that flmadm runs on.

use std::cell::OnceCell;
use std::ffi::OsString;
use std::future::Future;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use flame_core::HostNames;
use flame_core::config::ClusterConfig;
use flame_systemd::Systemd;
use flame_systemd::manager::{SystemdError, UnitStatus};

use super::sight::{RealSight, Sight};
use super::{Account, Found, Host, Ids, Probed, Units, probe};
use crate::doctor::facts::{Facts, RealFacts};
use crate::failure::{Failure, Kind, Outcome};
use crate::processes::{self, Process};
use crate::scope::{Home, Places, Scope};

/// Longest wait for a start: more than the units' TimeoutStartSec, so that systemd's verdict comes first.
const START_LIMIT: Duration = Duration::from_secs(150);
/// Longest wait for a stop: more than the units' TimeoutStopSec.
const STOP_LIMIT: Duration = Duration::from_secs(90);

/// This machine.
pub(crate) struct RealHost {
    scope: Scope,
    places: Places,
    facts: RealFacts,
    systemd: OnceCell<SystemBus>,
    #[cfg(debug_assertions)]
    checkpoints: std::cell::Cell<usize>,
}

impl RealHost {
    /// As the machine's service manager sees it, or the user's.
    pub(crate) fn new(scope: Scope) -> Self {
        Self {
            scope,
            places: match scope {
                Scope::System => Places::of_system(),
                Scope::User => Places::of_user(&Home::of_this_process()),
            },
            facts: RealFacts::default(),
            systemd: OnceCell::new(),
            #[cfg(debug_assertions)]
            checkpoints: std::cell::Cell::new(0),
        }
    }
}

/// In a debug build: the number of the checkpoint at which the program kills itself, for tests of what is left then.
#[cfg(debug_assertions)]
const KILL_AT: &str = "FLMADM_TEST_KILL_AT";
/// In a debug build: a file that gets a dot at each checkpoint, so that tests know how many there are.
#[cfg(debug_assertions)]
const COUNT_IN: &str = "FLMADM_TEST_COUNT_IN";

#[cfg(debug_assertions)]
impl RealHost {
    fn count_checkpoint(&self) {
        let number = self.checkpoints.get() + 1;
        self.checkpoints.set(number);
        if let Some(path) = std::env::var_os(COUNT_IN)
            && let Ok(mut file) = std::fs::OpenOptions::new().append(true).create(true).open(path)
        {
            let _only_a_test = file.write_all(b".");
        }
        if std::env::var(KILL_AT).is_ok_and(|at| at == number.to_string()) {
            let _dead =
                rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    }
}

impl Host for RealHost {
    fn scope(&self) -> Scope {
        self.scope
    }

    fn lingers(&self) -> Option<bool> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let uid = nix::unistd::geteuid().as_raw();
        runtime.ok()?.block_on(flame_systemd::login::lingers(uid))
    }

    fn is_root(&self) -> bool {
        nix::unistd::geteuid().is_root()
    }

    fn unit_directory(&self) -> &Path {
        &self.places.units
    }

    fn package_unit_directories(&self) -> &[PathBuf] {
        &self.places.package_units
    }

    fn account_directory(&self) -> &Path {
        Path::new("/etc")
    }

    fn rules_directory(&self) -> &Path {
        Path::new("/etc/polkit-1/rules.d")
    }

    fn runtime_directories(&self, names: &HostNames) -> [PathBuf; 2] {
        let run = &self.places.run;
        [run.join(names.stem()), run.join(names.own("flame-executor"))]
    }

    fn control_directory(&self) -> &Path {
        &self.places.control
    }

    fn user(&self, name: &str) -> Outcome<Option<Ids>> {
        let user = nix::unistd::User::from_name(name).map_err(|error| {
            Failure::installation(format!("cannot look up the user {name}")).because(error)
        })?;
        Ok(user.map(|user| Ids {
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
        }))
    }

    fn group(&self, name: &str) -> Outcome<Option<u32>> {
        let group = nix::unistd::Group::from_name(name).map_err(|error| {
            Failure::installation(format!("cannot look up the group {name}")).because(error)
        })?;
        Ok(group.map(|group| group.gid.as_raw()))
    }

    fn create_accounts(&self, accounts: &[Account], sysusers: &str) -> Outcome<()> {
        // The tool of systemd's own; older or smaller systems have only the shadow tools.
        let tried = run("systemd-sysusers", &["-"], Some(sysusers)).map_err(|error| match error {
            Tried::Missing => accounts.iter().try_for_each(|account| match account {
                Account::User(name) => run("useradd", &useradd(name, sysusers), None),
                Account::Group(name) => run("groupadd", &["--system", name], None),
            }),
            Tried::Failed(failure) => Err(Tried::Failed(failure)),
        });
        match tried {
            Ok(()) | Err(Ok(())) => Ok(()),
            Err(Err(Tried::Failed(failure))) => Err(failure),
            Err(Err(Tried::Missing)) => Err(Failure::installation(format!(
                "cannot make {}: neither systemd-sysusers nor useradd is there",
                accounts.iter().map(Account::to_string).collect::<Vec<_>>().join(" and ")
            ))
            .hint(
                "make them yourself (useradd --system --user-group USER, groupadd --system GROUP), or use --no-systemd",
            )),
        }
    }

    fn remove_account(&self, account: &Account) -> Outcome<()> {
        let failure = |tried| match tried {
            Tried::Missing => Failure::installation(format!(
                "cannot remove the {account}: userdel and groupdel are not there"
            )),
            Tried::Failed(failure) => failure,
        };
        let name = account.name();
        if let Account::User(_) = account {
            run("userdel", &[name], None).map_err(failure)?;
        }
        match self.group(name)? {
            Some(_) => run("groupdel", &[name], None).map_err(failure),
            None => Ok(()),
        }
    }

    fn set_owner(&self, path: &Path, ids: Ids) -> Outcome<()> {
        std::os::unix::fs::lchown(path, Some(ids.uid), Some(ids.gid))
            .map_err(|error| Failure::path("set the owner of", path, error))
    }

    fn is_free(&self, port: u16) -> bool {
        std::net::TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, port)).is_ok()
    }

    fn search_path(&self) -> OsString {
        std::env::var_os("PATH").unwrap_or_default()
    }

    fn running_from(&self, directory: &Path) -> Vec<Process> {
        processes::running_from(directory)
    }

    fn sight(&self) -> &dyn Sight {
        match self.scope {
            Scope::System => &RealSight(Scope::System),
            Scope::User => &RealSight(Scope::User),
        }
    }
    fn program_of(&self, pid: u32) -> Option<PathBuf> {
        std::fs::read_link(format!("/proc/{pid}/exe")).ok()
    }

    fn lock_directory(&self) -> PathBuf {
        match self.is_root() {
            true => "/run".into(),
            false => match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
                Some(directory) if directory.is_dir() => directory,
                _ => std::env::temp_dir(),
            },
        }
    }

    fn own_program(&self) -> Option<&Path> {
        // The running program, also if its file has another name or none any more.
        Some(Path::new("/proc/self/exe"))
    }

    fn probe(&self, config: &ClusterConfig, limit: Duration) -> Outcome<Probed> {
        probe::run(config, limit)
    }

    fn checkpoint(&self) {
        #[cfg(debug_assertions)]
        self.count_checkpoint();
    }

    fn facts(&self) -> &dyn Facts {
        &self.facts
    }

    fn systemd(&self) -> Outcome<&dyn Units> {
        if let Some(bus) = self.systemd.get() {
            return Ok(bus);
        }
        let bus = SystemBus::connect(self.scope)?;
        Ok(self.systemd.get_or_init(|| bus))
    }
}

/// Why a program did not do its work.
enum Tried {
    Missing,
    Failed(Failure),
}

fn run(program: &str, arguments: &[&str], input: Option<&str>) -> Result<(), Tried> {
    let failed = |error| Tried::Failed(Failure::installation(format!("cannot run {program}")).because(error));
    let stdin = if input.is_some() {
        Stdio::piped()
    } else {
        Stdio::null()
    };
    let spawned = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(Tried::Missing),
        Err(error) => return Err(failed(error)),
    };
    if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input) {
        pipe.write_all(input.as_bytes()).map_err(failed)?;
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Tried::Failed(Failure::installation(format!(
        "{program} {} failed ({}): {words}",
        arguments.join(" "),
        output.status
    ))))
}

/// The arguments of useradd for the user that a sysusers.d line describes.
fn useradd<'a>(name: &'a str, sysusers: &'a str) -> Vec<&'a str> {
    let home = sysusers
        .lines()
        .find(|line| line.split_whitespace().take(2).eq(["u", name]))
        .and_then(|line| line.split_whitespace().rev().nth(1))
        .unwrap_or("/");
    vec![
        "--system",
        "--user-group",
        "--no-create-home",
        "--home-dir",
        home,
        "--shell",
        "/usr/sbin/nologin",
        name,
    ]
}

/// systemd over D-Bus, with the runtime that the connection needs.
struct SystemBus {
    runtime: tokio::runtime::Runtime,
    systemd: Systemd,
}

impl SystemBus {
    fn connect(scope: Scope) -> Outcome<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|error| Failure::new(Kind::Systemd, "cannot start the D-Bus client").because(error))?;
        let systemd = match scope {
            Scope::System => runtime.block_on(Systemd::system()),
            Scope::User => runtime.block_on(Systemd::user()),
        };
        let systemd = systemd.map_err(|error| failure(error).hint(without(scope)))?;
        Ok(Self { runtime, systemd })
    }

    fn wait<T>(&self, future: impl Future<Output = Result<T, SystemdError>>) -> Outcome<T> {
        self.runtime.block_on(future).map_err(failure)
    }
}

/// What to do where the service manager cannot be reached.
fn without(scope: Scope) -> &'static str {
    match scope {
        Scope::System => "on a machine without systemd, install with --no-systemd",
        Scope::User => {
            "log in as this user (ssh, or machinectl shell USER@), not by su or sudo, or let an administrator run loginctl \
             enable-linger USER and set XDG_RUNTIME_DIR=/run/user/UID; the session bus is in the package \
             dbus-user-session on Debian; without a user manager, install with --no-systemd"
        }
    }
}

fn failure(error: SystemdError) -> Failure {
    let kind = match error {
        SystemdError::Job { .. } | SystemdError::Timeout { .. } => Kind::Start,
        _ => Kind::Systemd,
    };
    let message = error.to_string();
    let failure = Failure::new(kind, message);
    match std::error::Error::source(&error) {
        Some(source) => failure.because(source.to_string()),
        None => failure,
    }
}

impl Units for SystemBus {
    fn reload(&self) -> Outcome<()> {
        self.wait(self.systemd.reload())
    }

    fn enable(&self, units: &[&str]) -> Outcome<()> {
        self.wait(self.systemd.enable(units)).map(drop)
    }

    fn disable(&self, units: &[&str]) -> Outcome<()> {
        self.wait(self.systemd.disable(units)).map(drop)
    }

    fn start(&self, unit: &str) -> Outcome<()> {
        self.start_within(unit, START_LIMIT)
    }

    fn restart(&self, unit: &str) -> Outcome<()> {
        self.restart_within(unit, START_LIMIT + STOP_LIMIT)
    }

    fn start_within(&self, unit: &str, limit: Duration) -> Outcome<()> {
        self.wait(self.systemd.start(unit, limit)).map(drop)
    }

    fn restart_within(&self, unit: &str, limit: Duration) -> Outcome<()> {
        // One job and not two: an agent that is restarted keeps its executors, one that is stopped ends them.
        self.wait(self.systemd.restart(unit, limit)).map(drop)
    }

    fn launch(&self, unit: &str) -> Outcome<()> {
        self.wait(self.systemd.begin_start(unit)).map(drop)
    }

    fn kill(&self, unit: &str) {
        let sigkill = rustix::process::Signal::KILL.as_raw();
        // Without a process there is nothing to kill; what else can be wrong is told by the stop that follows.
        let _nothing_to_kill = self.runtime.block_on(self.systemd.kill(unit, sigkill));
    }

    fn stop(&self, unit: &str) -> Outcome<()> {
        match self.runtime.block_on(self.systemd.stop(unit, STOP_LIMIT)) {
            Ok(_) => Ok(()),
            Err(error) if error.is_no_such_unit() => Ok(()),
            Err(error) => Err(failure(error)),
        }
    }

    fn reset_failed(&self, unit: &str) -> Outcome<()> {
        self.wait(self.systemd.reset_failed(unit))
    }

    fn status(&self, unit: &str) -> Outcome<UnitStatus> {
        self.wait(self.systemd.status(unit))
    }

    fn environment(&self, unit: &str) -> Outcome<Vec<String>> {
        self.wait(self.systemd.environment(unit))
    }

    fn loaded(&self, pattern: &str) -> Outcome<Vec<String>> {
        self.wait(self.systemd.loaded(&[pattern]))
    }

    fn watch(
        &self,
        unit: &str,
        limit: Duration,
        look: &dyn Fn(&UnitStatus) -> Found,
    ) -> Outcome<Option<Result<(), String>>> {
        match self
            .runtime
            .block_on(self.systemd.wait_for(unit, "a change", limit, look))
        {
            Ok(found) => Ok(Some(found)),
            Err(SystemdError::Timeout { .. }) => Ok(None),
            Err(error) => Err(failure(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn useradd_makes_the_same_user_as_sysusers() {
        let prefix = crate::prefix::Prefix::new(Path::new("/opt/flame")).expect("a prefix");
        let text = crate::unit_files::sysusers(&prefix, &HostNames::default());
        for (name, home) in [("flame", "/opt/flame/work"), ("flame-exec", "/")] {
            assert_eq!(
                useradd(name, &text).join(" "),
                format!(
                    "--system --user-group --no-create-home --home-dir {home} --shell /usr/sbin/nologin {name}"
                )
            );
        }
    }

    #[test]
    fn a_program_that_fails_is_quoted() {
        let Err(Tried::Failed(failure)) = run("sh", &["-c", "cat >&2; exit 3"], Some("no room")) else {
            panic!("not failed")
        };
        assert!(
            failure.report().contains("exit status: 3): no room"),
            "{}",
            failure.report()
        );
        assert!(matches!(
            run("/nonexistent/program", &[], None),
            Err(Tried::Missing)
        ));
    }
}
