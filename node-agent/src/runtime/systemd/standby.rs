//! Units that stand by: started before anybody wants them, so that an executor need not wait for systemd to make a
//! sandbox, which takes longer than all else. The launcher in it waits for its spec at a socket beside that of the
//! service to come. A unit is for one executor all the same: nobody was in its sandbox before.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use flame_core::Resources;
use flame_systemd::manager::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::inside::standing::{ACCEPTED, SOCKET};
use super::unit::{Handle, Unit};
use super::{Claim, Shared, lock};
use crate::runtime::{StartError, Stop};
use crate::spec::Service;

/// After a unit was taken, its executor has the machine for that long before the next one is made.
pub(super) const PAUSE: Duration = Duration::from_millis(50);
/// After a unit could not be started.
const AFTER_FAILURE: Duration = Duration::from_secs(30);
/// How long a launcher may take to accept its spec.
const ACCEPT_LIMIT: Duration = Duration::from_secs(2);
/// How long a killed unit may take to be gone.
const END_LIMIT: Duration = Duration::from_secs(5);
/// What a unit is made with that will hear later what it may use. Nobody stands by with GPUs: each would
/// be one that nobody else has.
const NOTHING_YET: Resources = Resources {
    gpu: 0,
    ..Resources::DEFAULT
};

/// The units that stand by.
#[derive(Debug, Default)]
pub(super) struct Standbys {
    books: Mutex<Books>,
    /// There shall be none any more.
    closed: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Books {
    units: Vec<Arc<Unit>>,
    /// Makes new ones, until there are enough.
    filler: Option<JoinHandle<()>>,
}

impl Books {
    /// Those that are alive.
    fn alive(&mut self) -> &mut Vec<Arc<Unit>> {
        self.units.retain(|unit| !unit.has_gone());
        &mut self.units
    }
}

/// A unit that was taken for an executor. It is ended if it does not become one.
#[derive(Debug)]
pub(super) struct Taken {
    unit: Arc<Unit>,
    is_used: bool,
}

/// Why the launcher of a unit cannot be used.
#[derive(Debug, thiserror::Error)]
enum Unused {
    #[error("the spec cannot be written as JSON: {0}")]
    Spec(#[from] serde_json::Error),
    #[error("its launcher cannot be reached: {0}")]
    Socket(#[from] io::Error),
    #[error("its launcher does not accept the spec")]
    NotAccepted,
}

impl Taken {
    fn new(unit: Arc<Unit>) -> Self {
        let is_used = false;
        Self { unit, is_used }
    }

    pub(super) fn claim(&self) -> Arc<Claim> {
        self.unit.claim().clone()
    }

    /// The unit, whose end is somebody else's business from now on.
    fn into_unit(mut self) -> Arc<Unit> {
        self.is_used = true;
        self.unit.clone()
    }

    /// Ends it. Whether nothing is left of it within a few seconds; if not, it ends as soon as systemd can be asked.
    async fn discard(self) -> bool {
        let unit = self.into_unit();
        Handle::stop_unit(&unit, Stop::Kill);
        let gone = timeout(END_LIMIT, unit.gone()).await.is_ok();
        if !gone {
            tracing::error!("{} stood by and does not end", unit.name());
        }
        gone
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if !self.is_used {
            Handle::stop_unit(&self.unit, Stop::Kill);
        }
    }
}

impl Standbys {
    /// Takes one that is alive.
    pub(super) fn take(&self) -> Option<Taken> {
        let mut books = lock(&self.books);
        let alive = books.alive();
        (!alive.is_empty()).then(|| Taken::new(alive.remove(0)))
    }

    /// Puts a new one in, and says whether more are `wanted`. If not, whoever asks has ended to fill.
    fn wants_more(&self, new: Option<Arc<Unit>>, wanted: usize) -> bool {
        let mut books = lock(&self.books);
        books.units.extend(new);
        let more = books.alive().len() < wanted && !*self.closed.borrow();
        if !more {
            books.filler = None;
        }
        more
    }
}

impl Shared {
    /// Makes units that stand by, as many as the settings say, after `pause`. Returns at once.
    pub(super) fn stand_by_after(self: &Arc<Self>, pause: Duration) {
        let mut books = lock(&self.standbys.books);
        let enough = books.alive().len() >= self.settings.standby;
        if enough || books.filler.is_some() || *self.standbys.closed.borrow() {
            return;
        }
        books.filler = Some(tokio::spawn(fill(Arc::downgrade(self), pause)));
    }

    /// Ends those that stand by, and makes no new ones.
    pub(super) async fn stand_down(&self) {
        self.standbys.closed.send_replace(true);
        let filler = lock(&self.standbys.books).filler.take();
        if let Some(filler) = filler
            && timeout(END_LIMIT, filler).await.is_err()
        {
            tracing::error!("a unit that would stand by is still being made; the next agent ends it");
        }
        let units = std::mem::take(&mut lock(&self.standbys.books).units);
        for unit in units {
            Taken::new(unit).discard().await;
        }
    }

    async fn start_standby(self: &Arc<Self>) -> Result<Arc<Unit>, StartError> {
        let claim = Claim::new(self.clone(), self.settings.profile, &NOTHING_YET)?;
        self.start(Arc::new(claim), None, None).await
    }

    /// Makes the unit an executor's: it gets these limits, and its launcher the `service`. `None` if it cannot be used
    /// and nothing is left of it.
    ///
    /// # Errors
    /// systemd cannot be asked, or the unit can neither be used nor ended.
    pub(super) async fn hand_over(
        &self,
        taken: Taken,
        limits: &Limits,
        service: &Service,
    ) -> Result<Option<Arc<Unit>>, StartError> {
        let name = taken.unit.name().to_owned();
        self.limit(self.systemd(), &name, limits).await?;
        let error = match tell(&taken.unit, service).await {
            Ok(()) => return Ok(Some(taken.into_unit())),
            Err(error) => error,
        };
        tracing::warn!("{name} stood by and cannot be used: {error}");
        match taken.discard().await {
            true => Ok(None),
            false => Err(StartError::Unit {
                unit: name,
                reason: format!("it stood by, cannot be used and does not end: {error}"),
            }),
        }
    }
}

/// Tells the launcher of `unit` what to run.
async fn tell(unit: &Unit, service: &Service) -> Result<(), Unused> {
    let socket = unit.claim().directory().join(SOCKET);
    let text = serde_json::to_vec(service)?;
    match timeout(ACCEPT_LIMIT, say(&socket, &text)).await {
        Ok(accepted) => accepted?.then_some(()).ok_or(Unused::NotAccepted),
        Err(_) => Err(Unused::NotAccepted),
    }
}

/// Sends the spec; whether it was accepted.
async fn say(socket: &Path, text: &[u8]) -> io::Result<bool> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(text).await?;
    stream.shutdown().await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer == ACCEPTED)
}

/// Makes units until there are enough.
async fn fill(shared: Weak<Shared>, mut pause: Duration) {
    loop {
        let Some(closed) = shared.upgrade().map(|shared| shared.standbys.closed.subscribe()) else {
            return;
        };
        rest(pause, closed).await;
        let Some(shared) = shared.upgrade() else { return };
        let wanted = shared.settings.standby;
        if !shared.standbys.wants_more(None, wanted) {
            return;
        }
        pause = match shared.start_standby().await {
            Ok(unit) => {
                if !shared.standbys.wants_more(Some(unit), wanted) {
                    return;
                }
                Duration::ZERO
            }
            Err(error) => {
                tracing::warn!("no unit stands by, so the next executor starts later: {error}");
                AFTER_FAILURE
            }
        };
    }
}

/// Waits for `pause`, or until nobody wants units any more.
async fn rest(pause: Duration, mut closed: watch::Receiver<bool>) {
    tokio::select! {
        () = sleep(pause) => {}
        _ = closed.wait_for(|closed| *closed) => {}
    }
}
