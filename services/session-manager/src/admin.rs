//! The Admin service: what administrators need of a running session manager.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use flame_rpc::v1::admin_server::Admin;
use flame_rpc::v1::backup_part::Part;
use flame_rpc::v1::{BackupHeader, BackupPart, BackupRequest, BackupTrailer};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::store::{Backup, StoreError, Upkeep};

/// Bytes of one message: every client takes as much.
const PART_SIZE: usize = 256 << 10;
/// Parts that are read before the client has taken them.
const PARTS_AHEAD: usize = 8;

/// The Admin service on top of a store.
pub struct AdminService {
    upkeep: Arc<dyn Upkeep>,
    busy: Arc<AtomicBool>,
}

/// The right to make a backup; one at a time.
struct Turn(Arc<AtomicBool>);

impl Turn {
    fn take(busy: &Arc<AtomicBool>) -> Result<Self, Status> {
        if busy.swap(true, Ordering::AcqRel) {
            return Err(Status::resource_exhausted(
                "another backup is being made; try again when it is done",
            ));
        }
        Ok(Self(Arc::clone(busy)))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl AdminService {
    /// Serves copies of what `upkeep` looks after.
    #[must_use]
    pub fn new(upkeep: Arc<dyn Upkeep>) -> Self {
        Self {
            upkeep,
            busy: Arc::default(),
        }
    }
}

#[tonic::async_trait]
impl Admin for AdminService {
    type BackupStream = ReceiverStream<Result<BackupPart, Status>>;

    async fn backup(&self, _: Request<BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        let turn = Turn::take(&self.busy)?;
        let upkeep = Arc::clone(&self.upkeep);
        let copied = tokio::task::spawn_blocking(move || (upkeep.backup(), turn)).await;
        let (copied, turn) = copied.map_err(|_| Status::unavailable("the session manager is stopping"))?;
        let backup = copied.map_err(refusal)?;
        let (sender, receiver) = mpsc::channel(PARTS_AHEAD);
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            if let Err(error) = send(backup, &sender) {
                let status = Status::internal(format!("the session manager cannot read the backup: {error}"));
                // The client may have gone.
                let _gone = sender.blocking_send(Err(status));
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

fn refusal(error: StoreError) -> Status {
    match &error {
        StoreError::NotDurable | StoreError::NoRoom { .. } => {
            Status::failed_precondition(format!("the session manager {error}"))
        }
        _ => {
            tracing::warn!(%error, "a backup could not be made");
            Status::internal(format!("the session manager {error}"))
        }
    }
}

/// Sends the copy. Blocks while the client is slow.
fn send(mut backup: Backup, sender: &mpsc::Sender<Result<BackupPart, Status>>) -> std::io::Result<()> {
    let part = |part| sender.blocking_send(Ok(BackupPart { part: Some(part) }));
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let header = BackupHeader {
        size: backup.size,
        time: i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        format: backup.format,
    };
    let mut sent = part(Part::Header(header));
    let mut digest = Sha256::new();
    while sent.is_ok() {
        let mut bytes = vec![0; PART_SIZE];
        let read = fill(&mut backup.file, &mut bytes)?;
        if read == 0 {
            let sha256 = Bytes::copy_from_slice(&digest.finalize());
            tracing::info!(bytes = backup.size, "sent a backup");
            // If the client has gone meanwhile, it does not matter any more.
            let _gone = part(Part::Trailer(BackupTrailer { sha256 }));
            return Ok(());
        }
        bytes.truncate(read);
        digest.update(&bytes);
        sent = part(Part::Data(Bytes::from(bytes)));
    }
    tracing::info!("a backup was given up by its client");
    Ok(())
}

/// Reads until `bytes` is full or the file ends.
fn fill(file: &mut impl Read, bytes: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read(&mut bytes[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}
