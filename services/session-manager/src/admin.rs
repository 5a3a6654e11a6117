//! The Admin service: what administrators need of a running session manager.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use flame_rpc::v1::admin_server::Admin;
use flame_rpc::v1::backup_part::Part;
use flame_rpc::v1::{BackupHeader, BackupPart, BackupRequest, BackupTrailer};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::store::{Backup, StoreError, Upkeep};
use crate::wall::unix_millis;

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
    let header = BackupHeader {
        size: backup.size,
        time: unix_millis(),
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

#[cfg(test)]
mod tests {
    use flame_core::config::ClusterConfig;
    use flame_core::{ApplicationName, SessionId};
    use flame_rpc::v1::{ApplicationSpec, SessionSpec};
    use futures::StreamExt;
    use tonic::Code;

    use super::*;
    use crate::engine::{Engine, EngineRun};
    use crate::server::start_engine;

    async fn on(storage: &str) -> (Engine, EngineRun, AdminService) {
        let text = format!("cluster: {{name: t, endpoint: \"http://127.0.0.1:1\", storage: \"{storage}\"}}");
        let config = ClusterConfig::parse(&text).expect("valid");
        let (engine, run, readers) = start_engine(&config).expect("starts");
        (engine, run, AdminService::new(readers.upkeep))
    }

    /// Stores more than fits into the parts that are read ahead.
    async fn fill_store(engine: &Engine) {
        let spec = SessionSpec {
            application: "app".to_owned(),
            common_data: Some(Bytes::from(vec![7; 2 * PARTS_AHEAD * PART_SIZE])),
            ..SessionSpec::default()
        };
        let filled = engine.write(move |core, now, fx| {
            let app = ApplicationName::new("app").expect("valid");
            core.register_application(&app, ApplicationSpec::default(), now, fx)?;
            core.create_session(&SessionId::new("s").expect("valid"), spec, now, fx)
        });
        filled.await.expect("stored");
    }

    async fn backup(service: &AdminService) -> Result<ReceiverStream<Result<BackupPart, Status>>, Status> {
        let answer = service.backup(Request::new(BackupRequest {})).await;
        answer.map(Response::into_inner)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_backup_at_a_time_is_sent_in_parts_with_its_sum() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (engine, _run, service) = on(&format!("sqlite://{}/flame.db", directory.path().display())).await;
        fill_store(&engine).await;
        let slow = backup(&service).await.expect("begins");
        let refused = backup(&service).await.expect_err("another is on its way");
        assert_eq!(refused.code(), Code::ResourceExhausted);
        // A client that goes away makes room for the next.
        drop(slow);
        let mut next = loop {
            match backup(&service).await {
                Ok(stream) => break stream,
                Err(status) => assert_eq!(status.code(), Code::ResourceExhausted),
            }
            tokio::task::yield_now().await;
        };
        let mut parts = Vec::new();
        while let Some(part) = next.next().await {
            parts.extend(part.expect("sent").part);
        }
        let (Some(Part::Header(header)), Some(Part::Trailer(trailer))) = (parts.first(), parts.last()) else {
            panic!("a header and a trailer")
        };
        let mut contents = Vec::new();
        for part in &parts[1..parts.len() - 1] {
            let Part::Data(data) = part else {
                panic!("data in between")
            };
            assert!((1..=PART_SIZE).contains(&data.len()));
            contents.extend_from_slice(data);
        }
        assert_eq!(contents.len() as u64, header.size);
        assert_eq!(trailer.sha256, Sha256::digest(&contents).to_vec());
        assert!(contents.starts_with(b"SQLite format 3\0"));
    }

    #[tokio::test]
    async fn without_a_file_a_backup_is_refused() {
        let (_engine, _run, service) = on("none").await;
        for _ in 0..2 {
            let refused = backup(&service).await.expect_err("refused");
            assert_eq!(refused.code(), Code::FailedPrecondition);
            assert!(
                refused.message().contains("in memory only"),
                "{}",
                refused.message()
            );
        }
    }
}
