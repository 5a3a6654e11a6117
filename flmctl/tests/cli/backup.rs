//! `backup`: what arrives is written as a whole or not at all.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use flame_rpc::v1::admin_server::{Admin, AdminServer};
use flame_rpc::v1::backup_part::Part;
use flame_rpc::v1::{BackupHeader, BackupPart, BackupRequest, BackupTrailer};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::support::{Fake, command, flmctl, json, serve, stderr, stdout};

/// Sends these parts, whatever they are.
struct Sender(Result<Vec<Part>, Status>);

#[tonic::async_trait]
impl Admin for Sender {
    type BackupStream = tokio_stream::Iter<std::vec::IntoIter<Result<BackupPart, Status>>>;

    async fn backup(&self, _: Request<BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        let parts: Vec<_> = self.0.clone()?;
        let parts: Vec<_> = parts
            .into_iter()
            .map(|part| Ok(BackupPart { part: Some(part) }))
            .collect();
        Ok(Response::new(tokio_stream::iter(parts)))
    }
}

async fn sending(parts: Result<Vec<Part>, Status>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tonic::transport::Server::builder().add_service(AdminServer::new(Sender(parts)));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    url
}

fn header(size: u64) -> Part {
    Part::Header(BackupHeader {
        size,
        time: 1_700_000_000_000,
        version: "0.1.0".to_owned(),
        format: 4,
    })
}

fn trailer(data: &[u8]) -> Part {
    let sha256 = Sha256::digest(data).to_vec().into();
    Part::Trailer(BackupTrailer { sha256 })
}

fn data(text: &'static str) -> Part {
    Part::Data(text.into())
}

fn whole() -> Vec<Part> {
    vec![header(10), data("01234"), data("56789"), trailer(b"0123456789")]
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let listed = std::fs::read_dir(directory).unwrap();
    listed.map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn a_backup_is_written_for_its_owner() {
    let url = sending(Ok(whole())).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("flame.backup");
    let name = file.to_str().unwrap();
    let output = flmctl(&url, &["backup", name]).await;
    let sum = "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882";
    assert_eq!(
        stdout(&output),
        format!("backup written to {name} (10 B, sha256 {sum})\n")
    );
    assert_eq!(stderr(&output), "", "no progress bar without a terminal");
    assert_eq!(std::fs::read(&file).unwrap(), b"0123456789");
    assert_eq!(
        std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(entries(dir.path()), std::slice::from_ref(&file));

    let again = flmctl(&url, &["backup", name]).await;
    assert_eq!(again.status.code(), Some(1));
    let message = format!("error: cannot back up the state: {name} exists; --force replaces it\n");
    assert_eq!(stderr(&again), message);
    std::fs::write(&file, "old").unwrap();
    let forced = flmctl(&url, &["backup", name, "--force", "-o", "json"]).await;
    let expected = serde_json::json!({
        "file": name, "size": 10, "sha256": sum, "creation_time": "2023-11-14T22:13:20.000Z",
        "version": "0.1.0", "format": 4,
    });
    assert_eq!(json(&forced), expected);
    assert_eq!(std::fs::read(&file).unwrap(), b"0123456789");
}

#[tokio::test]
async fn what_is_no_whole_backup_leaves_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("flame.backup");
    std::fs::write(&file, "old").unwrap();
    let refused = Status::failed_precondition("cannot make a backup: the state is kept in memory only");
    for (parts, reason) in [
        (Ok(vec![]), "ended the transfer early"),
        (Ok(whole()[..3].to_vec()), "ended the transfer early"),
        (Ok(vec![data("0")]), "sent something else"),
        (Ok(vec![header(1), header(1)]), "sent something else"),
        (Ok(vec![header(2), data("0"), trailer(b"0")]), "not what was sent"),
        (Ok(vec![header(1), data("0"), trailer(b"1")]), "not what was sent"),
        (Err(refused), "the state is kept in memory only"),
    ] {
        let url = sending(parts).await;
        let output = flmctl(&url, &["backup", file.to_str().unwrap(), "--force"]).await;
        assert_eq!(output.status.code(), Some(1), "{reason}");
        let text = stderr(&output);
        assert!(
            text.starts_with("error: cannot back up the state: ") && text.contains(reason),
            "{text}"
        );
        assert_eq!(std::fs::read(&file).unwrap(), b"old", "{reason}");
        assert_eq!(entries(dir.path()), std::slice::from_ref(&file), "{reason}");
    }
}

#[tokio::test]
async fn a_session_manager_without_backups_and_a_place_that_is_none_are_told_apart() {
    let url = serve(Fake::default()).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("flame.backup");
    let output = flmctl(&url, &["backup", file.to_str().unwrap()]).await;
    assert!(
        stderr(&output).contains("session manager of this version"),
        "{}",
        stderr(&output)
    );
    let output = flmctl(&url, &["backup", dir.path().to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(2), "a directory");
    let output = flmctl(&url, &["backup", "/nonexistent/backup"]).await;
    assert!(stderr(&output).contains("cannot create a file in /nonexistent"));
    // Nobody is asked for a backup that cannot be written.
    let output = command(&["-e", "http://127.0.0.1:1", "backup", "/nonexistent/backup"])
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(!file.exists());
}
