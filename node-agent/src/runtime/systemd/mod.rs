//! Executors as units of systemd: instances of the templates `flame-executor@.service` and its like,
//! one per slot, started and watched over D-Bus by an agent without privileges.

mod check;
mod errors;
mod gpus;
pub mod inside;
mod leftovers;
mod life;
mod limits;
mod line;
mod profile;
mod record;
mod slots;
mod standby;
mod unit;
mod watch;
mod work;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flame_core::{HostNames, Resources};
use flame_systemd::manager::{Limits, SystemdError};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use super::{Launch, Owner, Running, Runtime, Site, StartError, Stop, Survivor};
use crate::spec::{Service, UnitSpec};
use gpus::{Gpu, Gpus};
use life::{Facts, Life, News};
use line::Line;
use record::Records;
use slots::Slots;
use standby::{Standbys, Taken};
use unit::{Handle, Unit};

pub use check::Unusable;
pub use leftovers::end_leftovers;
pub use profile::{Profile, ProfileError};
pub use record::Record;

/// Name of a service's socket in its directory.
const SOCKET: &str = "instance.sock";
/// Where executors may write, each its own: the unit has a private /tmp and /var/tmp.
const TEMPORARY: &str = "/tmp";
/// Working directory of an executor whose application wants no other.
const WORK: &str = "/var/tmp/work";
/// What systemd calls the job of a unit that it stops in order to start it again.
const RESTART: &str = "restart";
/// How long systemd may take to say which job that is: a stop must not hang because of it.
const JOB_LIMIT: Duration = Duration::from_secs(2);
/// How long the last act of the agent waits for systemd.
const KILL_LIMIT: Duration = Duration::from_secs(2);
/// How long a start waits for D-Bus, which is started again within seconds; after that it is somebody else's turn.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// How many units are started at a time, for each CPU. Making a sandbox is work for the kernel and for systemd, which
/// reads all mounts of the machine for it: a hundred at a time keep each other from ever being ready.
const STARTS_PER_CPU: usize = 2;

/// Where the runtime finds and leaves things.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of the agent if there are several on the host.
    pub agent: Option<String>,
    /// What units, users and directories of the installation are called.
    pub names: HostNames,
    /// Where units find their specs: as in the templates, `/run/flame/executors`.
    pub specs: PathBuf,
    /// Where the agent remembers what runs, `/run/flame/records`.
    pub records: PathBuf,
    /// Below it each unit has a directory for its socket: `/run/flame-executor`.
    pub sockets: PathBuf,
    /// Sandbox of executors, unless their application asks for a stricter one.
    pub profile: Profile,
    /// Where applications may work besides their own directories.
    pub work_directories: Vec<PathBuf>,
    /// `CUDA_VISIBLE_DEVICES` of the agent.
    pub visible_gpus: Option<String>,
    /// How many units stand by, see [`SystemdRuntime::stand_by`].
    pub standby: usize,
}

impl Settings {
    /// Those of an installation with these `names`, for the agent with this name if there are several, with this
    /// default sandbox.
    #[must_use]
    pub fn new(names: HostNames, agent: Option<String>, profile: Profile) -> Self {
        let runtime = names.runtime_directory();
        Self {
            agent,
            profile,
            specs: runtime.join("executors"),
            records: runtime.join("records"),
            sockets: names.executor_directory(),
            names,
            work_directories: Vec::new(),
            visible_gpus: std::env::var("CUDA_VISIBLE_DEVICES").ok(),
            standby: 0,
        }
    }

    /// What the names of all units of executors begin with.
    fn templates(&self) -> String {
        Profile::Standard.template(&self.names)
    }
}

/// Runs executors as units.
#[derive(Debug)]
pub struct SystemdRuntime(Arc<Shared>);

/// A slot that was taken for an executor. It is free again when neither this nor its unit is left.
#[derive(Debug)]
pub struct Claim {
    shared: Arc<Shared>,
    slot: u32,
    profile: Profile,
    gpus: Vec<Gpu>,
}

/// Where an executor will be.
#[derive(Debug)]
pub struct Place {
    claim: Arc<Claim>,
    /// A unit that stands by there.
    taken: Option<Taken>,
}

/// An executor that an earlier run of the agent has started.
#[derive(Debug)]
pub struct Adoptable {
    /// What was written down about it.
    pub record: Record,
    unit: Arc<Unit>,
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    records: Records,
    /// User id of the agent.
    user: u32,
    line: Line,
    pool: Mutex<Pool>,
    lives: Mutex<HashMap<String, Entry>>,
    /// Turns to start a unit.
    turns: Semaphore,
    /// Limits that were set last, by unit: systemd keeps them, so most starts need not set them.
    limited: Mutex<HashMap<String, Limits>>,
    standbys: Standbys,
}

/// What executors are given one of.
#[derive(Debug)]
struct Pool {
    slots: Slots,
    gpus: Gpus,
}

/// A unit that was asked for or runs.
#[derive(Debug)]
struct Entry {
    life: Life,
    unit: Arc<Unit>,
    /// Who waits for the start.
    starting: Option<oneshot::Sender<Started>>,
}

/// What came of a start.
type Started = Result<News, SystemdError>;

/// Nothing is done under these locks but what the books need, so no thread can leave them half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SystemdRuntime {
    /// Connects to systemd and checks that everything is there that it takes to run executors.
    ///
    /// # Errors
    /// [`Unusable`] says what is missing and how to get it.
    pub async fn connect(settings: Settings) -> Result<Self, Unusable> {
        let systemd = check::usable(&settings).await?;
        for directory in [&settings.specs, &settings.records] {
            check::make_private(directory)?;
        }
        let signals = systemd.unit_signals(&settings.templates()).await?;
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let shared = Arc::new(Shared {
            records: Records::new(settings.records.clone()),
            user: rustix::process::geteuid().as_raw(),
            line: Line::new(systemd),
            pool: Mutex::new(Pool {
                slots: Slots::new(settings.agent.clone()),
                gpus: Gpus::detect(Path::new(gpus::DRIVER), settings.visible_gpus.as_deref()),
            }),
            lives: Mutex::default(),
            turns: Semaphore::new(STARTS_PER_CPU * cpus),
            limited: Mutex::default(),
            standbys: Standbys::default(),
            settings,
        });
        tokio::spawn(watch::watch(Arc::downgrade(&shared), signals));
        Ok(Self(shared))
    }

    /// Where an executor with these `resources` will be: in a unit that stands by, if there is one of its kind.
    fn place(&self, profile: Profile, resources: &Resources) -> Result<Place, StartError> {
        let usual = profile == self.0.settings.profile && resources.gpu == 0;
        let taken = usual.then(|| self.0.standbys.take()).flatten();
        // Also if there was none: it may have been ended by somebody.
        self.0.stand_by_after(standby::PAUSE);
        let claim = match &taken {
            Some(taken) => taken.claim(),
            None => Arc::new(Claim::new(self.0.clone(), profile, resources)?),
        };
        Ok(Place { claim, taken })
    }

    async fn start_unit(&self, launch: Launch) -> Result<Box<dyn Running>, StartError> {
        let shared = &self.0;
        let Launch { owner, spec, site } = launch;
        let Place { claim, taken } = site.place.ok_or(StartError::NoUnit)?;
        let limits = limits::of(&owner.resources, gpus::devices(&claim.gpus));
        let record = Record {
            slot: claim.slot,
            profile: claim.profile,
            gpus: gpus::names(&claim.gpus),
            owner,
            invocation: String::new(),
        };
        let service = Service {
            process: spec,
            identifier: record.owner.application.clone(),
        };
        let instance = claim.instance();
        shared.write_record(&instance, &record)?;
        let started = match taken {
            Some(taken) => shared.hand_over(taken, &limits, &service).await,
            None => Ok(None),
        };
        let started = match started {
            Ok(None) => shared.start(claim, Some(service), Some(&limits)).await,
            Ok(Some(unit)) => Ok(unit),
            Err(error) => Err(error),
        };
        match started {
            Ok(unit) => {
                let record = Record {
                    invocation: unit.invocation(),
                    ..record
                };
                Ok(Box::new(Handle::new(unit, record)))
            }
            Err(error) => {
                shared.records.remove(&instance);
                Err(error)
            }
        }
    }

    /// From now on has units that wait for executors, as many as the settings say. Where one can be had, an executor
    /// starts in a few milliseconds.
    pub fn stand_by(&self) {
        self.0.stand_by_after(Duration::ZERO);
    }

    /// The executors that earlier runs of this agent have started and that can be gone on with. All other units of
    /// this agent are stopped, and all other records are removed.
    ///
    /// # Errors
    /// systemd does not answer, or the records cannot be listed.
    pub async fn running(&self) -> Result<Vec<Adoptable>, Unusable> {
        let shared = &self.0;
        let systemd = shared.line.now();
        let mut records: HashMap<String, Record> = shared.own_records()?.into_iter().collect();
        let mut found = Vec::new();
        for loaded in systemd.list(&format!("{}*", shared.settings.templates())).await? {
            let Some((profile, instance)) = Profile::of_unit(&shared.settings.names, &loaded.name) else {
                continue;
            };
            let Some(slot) = lock(&shared.pool).slots.of_instance(instance) else {
                continue;
            };
            if ["inactive", "failed"].contains(&loaded.active_state.as_str()) {
                continue;
            }
            let status = systemd.status(&loaded.name).await?;
            let invocation = status.invocation_id.unwrap_or_default();
            let known = records.remove(instance).filter(|record| {
                record.profile == profile && [invocation.as_str(), ""].contains(&record.invocation.as_str())
            });
            // Also of one that is not gone on with: it has them until it has ended.
            let gpus = known
                .as_ref()
                .map(|record| record.gpus.as_slice())
                .unwrap_or_default();
            let Some(claim) = shared.reclaim(slot, profile, gpus) else {
                continue;
            };
            let unit = Arc::new(Unit::new(Arc::new(claim)));
            unit.has_started(invocation.clone(), status.main_pid.unwrap_or_default());
            let life = Life::adopted(invocation, status.main_pid.unwrap_or_default());
            shared.enter(&unit, life, None);
            let why = match known {
                Some(record) if record.invocation.is_empty() => "its session had not begun",
                Some(record) if loaded.active_state == "active" => {
                    found.push(Adoptable { record, unit });
                    continue;
                }
                Some(_) => "it is ending",
                None => "for no executor that is known",
            };
            match status.status_text.as_deref() {
                Some(inside::standing::STATUS) => {
                    tracing::debug!("{} stands by for an agent that is gone", loaded.name)
                }
                _ => tracing::warn!("{} runs, but {why}; it is stopped", loaded.name),
            }
            Handle::ask_for_the_end(unit, Stop::Terminate).await;
        }
        for (instance, _) in records {
            shared.records.remove(&instance);
        }
        // What ended between the list and the entry in the books was not heard of.
        let alive = systemd.list(&format!("{}*", shared.settings.templates())).await?;
        found.retain(|executor| {
            let name = executor.unit.name();
            let alive = alive
                .iter()
                .any(|unit| unit.name == name && unit.active_state == "active");
            if !alive {
                shared.tell(name, Life::on_vanished);
            }
            alive
        });
        Ok(found)
    }

    /// Goes on with an executor; the counterpart of a start.
    #[must_use]
    pub fn adopt(&self, executor: Adoptable) -> Box<dyn Running> {
        Box::new(Handle::new(executor.unit, executor.record))
    }

    /// As [`Self::running`], with all that it takes to go on with them.
    ///
    /// # Errors
    /// As [`Self::running`].
    pub async fn survivors(&self) -> Result<Vec<Survivor>, Unusable> {
        let found = self.running().await?;
        Ok(found
            .into_iter()
            .map(|found| Survivor {
                owner: found.record.owner.clone(),
                socket: found.socket(),
                process: self.adopt(found),
            })
            .collect())
    }

    async fn restarts(&self) -> bool {
        match timeout(JOB_LIMIT, self.0.line.now().own_job()).await {
            Ok(Ok(job)) => job.as_deref() == Some(RESTART),
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot tell a restart of the agent from its end; executors are released");
                false
            }
            Err(_) => {
                tracing::warn!(
                    "systemd does not say whether the agent is started again; executors are released"
                );
                false
            }
        }
    }

    async fn kill_units(&self) {
        let units = self.0.units();
        let killed = units.into_iter().map(|unit| async move {
            let instance = unit.instance().to_owned();
            if timeout(KILL_LIMIT, Handle::ask_for_the_end(unit, Stop::Kill))
                .await
                .is_err()
            {
                tracing::error!(
                    instance,
                    "systemd cannot be asked to kill the executor; the next agent ends it"
                );
            }
            // Without it nobody goes on with the unit.
            self.0.records.remove(&instance);
        });
        futures::future::join_all(killed).await;
    }
}

impl Runtime for SystemdRuntime {
    fn site(&self, owner: &Owner, labels: &[String]) -> Result<Site, StartError> {
        let profile = self.0.settings.profile.tightened(labels)?;
        let place = self.place(profile, &owner.resources)?;
        Ok(Site {
            socket: place.claim.socket(),
            temporary: Some(TEMPORARY.into()),
            work: Some(WORK.into()),
            // The agent's is closed to it.
            home: Some(WORK.into()),
            variables: gpus::variables(&place.claim.gpus),
            place: Some(place),
        })
    }

    fn start(&self, launch: Launch) -> BoxFuture<'_, Result<Box<dyn Running>, StartError>> {
        self.start_unit(launch).boxed()
    }

    fn is_restarting(&self) -> BoxFuture<'_, bool> {
        self.restarts().boxed()
    }

    fn kill_all(&self) -> BoxFuture<'_, ()> {
        self.kill_units().boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.0.stand_down().boxed()
    }
}

impl Adoptable {
    /// Where its service listens.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.unit.claim().socket()
    }
}

impl Shared {
    /// systemd, also if it can be reached again in a moment only.
    fn systemd(&self) -> &Line {
        &self.line
    }

    /// All units in the books.
    fn units(&self) -> Vec<Arc<Unit>> {
        lock(&self.lives)
            .values()
            .map(|entry| entry.unit.clone())
            .collect()
    }

    fn write_record(&self, instance: &str, record: &Record) -> Result<(), StartError> {
        self.records
            .write(instance, record)
            .map_err(|source| StartError::Record {
                directory: self.settings.records.clone(),
                source,
            })
    }

    /// The records of this agent: others on the host have theirs in the same place.
    fn own_records(&self) -> io::Result<Vec<(String, Record)>> {
        let mut records = self.records.all()?;
        let pool = lock(&self.pool);
        records.retain(|(instance, record)| pool.slots.of_instance(instance) == Some(record.slot));
        Ok(records)
    }

    /// Takes the slot and GPUs of a unit that runs; `None` if it is in the books.
    fn reclaim(self: &Arc<Self>, slot: u32, profile: Profile, gpus: &[String]) -> Option<Claim> {
        let mut pool = lock(&self.pool);
        pool.slots.take_this(slot).then(|| Claim {
            shared: self.clone(),
            slot,
            profile,
            gpus: pool.gpus.take_these(gpus),
        })
    }

    fn enter(&self, unit: &Arc<Unit>, life: Life, starting: Option<oneshot::Sender<Started>>) {
        let entry = Entry {
            life,
            unit: unit.clone(),
            starting,
        };
        lock(&self.lives).insert(unit.name().to_owned(), entry);
    }

    /// Starts the unit of `claim` and waits until its launcher has done its part. Without a `service`, it stands by.
    async fn start(
        self: &Arc<Self>,
        claim: Arc<Claim>,
        service: Option<Service>,
        limits: Option<&Limits>,
    ) -> Result<Arc<Unit>, StartError> {
        let unit = Arc::new(Unit::new(claim));
        let spec = UnitSpec {
            service,
            agent: self.user,
            own_directory: WORK.into(),
        };
        // Removed whatever happens: it holds the application's secrets.
        let file = SpecFile(self.settings.specs.join(unit.instance()));
        spec.write(&file.0)?;
        let started = self.run(&unit, limits).await;
        drop(file);
        match started? {
            News::Started(facts) => {
                unit.has_started(facts.invocation, facts.pid);
                Ok(unit)
            }
            News::NotStarted(facts) | News::Ended(facts) => Err(not_started(&unit, &facts).await),
        }
    }

    /// Starts the unit and waits until systemd says how that went.
    async fn run(self: &Arc<Self>, unit: &Arc<Unit>, limits: Option<&Limits>) -> Started {
        // Nobody closes it.
        let _turn = self.turns.acquire().await;
        if let Some(limits) = limits {
            self.limit(self.systemd(), unit.name(), limits).await?;
        }
        let (starting, started) = oneshot::channel();
        self.enter(unit, Life::new(), Some(starting));
        // Also if nobody waits for it any more: what was asked for has to be known, so that it can be ended.
        tokio::spawn(self.clone().ask_for_the_start(unit.clone()).boxed());
        // The sender is in the books until it is used.
        started.await.unwrap_or_else(|_| {
            Err(SystemdError::Disconnected {
                what: "the start".to_owned(),
                unit: unit.name().to_owned(),
            })
        })
    }

    async fn ask_for_the_start(self: Arc<Self>, unit: Arc<Unit>) {
        let (shared, name) = (&self, unit.name());
        let unit = &unit;
        let asked = self
            .systemd()
            .call(Some(START_PATIENCE), |systemd, failures| async move {
                // It may be there: then nothing will change that systemd could tell of. To start it again does nothing.
                if failures > 0
                    && let Some(sight) = systemd.look(name).await?
                {
                    shared.tell_of(unit, |life| life.on_seen(Some(sight)));
                }
                systemd.begin_start(name).await
            });
        match asked.await {
            Ok(job) => self.tell_of(unit, |life| life.on_job_made(job)),
            Err(error) => self.give_up(unit, error).await,
        }
    }

    /// A start that was asked for and of which nobody knows what came.
    async fn give_up(&self, unit: &Arc<Unit>, error: SystemdError) {
        let may_run = error.is_unreachable();
        let starting = match may_run {
            // In the books until it is known to be gone, so that nobody else gets its slot.
            true => lock(&self.lives).get_mut(unit.name()).and_then(|entry| {
                entry.life = Life::adopted(String::new(), 0);
                entry.starting.take()
            }),
            false => lock(&self.lives)
                .remove(unit.name())
                .and_then(|entry| entry.starting),
        };
        if let Some(waiting) = starting {
            // Nobody has to wait.
            let _ = waiting.send(Err(error));
        }
        if !may_run {
            return;
        }
        Handle::ask_for_the_end(unit.clone(), Stop::Terminate).await;
        let look = self
            .systemd()
            .call(None, |systemd, _| async move { systemd.look(unit.name()).await });
        if let Ok(sight) = look.await {
            self.tell_of(unit, |life| life.on_seen(sight));
        }
    }

    async fn limit(&self, line: &Line, unit: &str, limits: &Limits) -> Result<(), SystemdError> {
        if lock(&self.limited).get(unit) == Some(limits) {
            return Ok(());
        }
        line.call(Some(START_PATIENCE), |systemd, _| async move {
            systemd.limit(unit, limits).await
        })
        .await?;
        lock(&self.limited).insert(unit.to_owned(), limits.clone());
        Ok(())
    }

    /// As [`Self::tell`], if this is the run that is in the books under its name.
    fn tell_of(&self, unit: &Arc<Unit>, tell: impl FnOnce(&mut Life) -> Option<News>) {
        let is_this = lock(&self.lives)
            .get(unit.name())
            .is_some_and(|entry| Arc::ptr_eq(&entry.unit, unit));
        // While somebody holds the unit, no other can have its slot and come in between.
        if is_this {
            self.tell(unit.name(), tell);
        }
    }

    /// Tells the life of `unit`, and everybody who waits for what comes of it.
    fn tell(&self, unit: &str, tell: impl FnOnce(&mut Life) -> Option<News>) {
        let mut lives = lock(&self.lives);
        let Some(entry) = lives.get_mut(unit) else { return };
        let Some(news) = tell(&mut entry.life) else { return };
        let starting = entry.starting.take();
        let is_over = !matches!(news, News::Started(_));
        let known = if is_over {
            lives.remove(unit).map(|entry| entry.unit)
        } else {
            Some(entry.unit.clone())
        };
        drop(lives);
        let Some(unit) = known else { return };
        match (starting, news) {
            (Some(waiting), news) => {
                // Whoever asked for it went away meanwhile: nobody wants it any more.
                if waiting.send(Ok(news)).is_err() && !is_over {
                    Handle::stop_unit(&unit, Stop::Terminate);
                }
            }
            (None, News::Ended(facts)) => {
                tokio::spawn(async move { unit.has_ended(&facts).await }.boxed());
            }
            (None, News::Started(_) | News::NotStarted(_)) => {}
        }
    }
}

async fn not_started(unit: &Unit, facts: &Facts) -> StartError {
    let said = errors::last_lines(&facts.invocation).await;
    StartError::Unit {
        unit: unit.name().to_owned(),
        reason: match said.is_empty() {
            true => facts.reason(),
            false => format!("{}: {said}", facts.reason()),
        },
    }
}

impl Claim {
    /// Takes the lowest free slot, and GPUs as `resources` say.
    ///
    /// # Errors
    /// [`StartError::Gpus`] if there are not enough, or `profile` allows none.
    fn new(shared: Arc<Shared>, profile: Profile, resources: &Resources) -> Result<Self, StartError> {
        if resources.gpu > 0 && !profile.has_devices() {
            return Err(StartError::Gpus {
                wanted: resources.gpu,
                why: format!("the sandbox profile {profile} allows no devices"),
            });
        }
        let (slot, gpus) = {
            let mut pool = lock(&shared.pool);
            let gpus = pool.gpus.take(resources.gpu).ok_or_else(|| StartError::Gpus {
                wanted: resources.gpu,
                why: "the driver has fewer that are free".to_owned(),
            })?;
            (pool.slots.take(), gpus)
        };
        Ok(Self {
            shared,
            slot,
            profile,
            gpus,
        })
    }

    fn instance(&self) -> String {
        lock(&self.shared.pool).slots.instance(self.slot)
    }

    /// Its unit's own directory for sockets.
    fn directory(&self) -> PathBuf {
        self.shared.settings.sockets.join(self.instance())
    }

    /// Where the service shall listen.
    fn socket(&self) -> PathBuf {
        self.directory().join(SOCKET)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut pool = lock(&self.shared.pool);
        pool.slots.free(self.slot);
        pool.gpus.free(&self.gpus);
    }
}

/// A spec on disk until its unit has read it.
struct SpecFile(PathBuf);

impl Drop for SpecFile {
    fn drop(&mut self) {
        record::remove(&self.0);
    }
}
