//! Rust SDK of Flame: clients that run tasks, and the services that carry them out.
//!
//! A client connects, opens a session of an application and invokes tasks:
//!
//! ```no_run
//! use flame_rs::{Client, SessionOptions};
//!
//! # async fn example() -> Result<(), flame_rs::Error> {
//! let client = Client::connect_default().await?;
//! let session = client.create_session(SessionOptions::new("flmping")).await?;
//!
//! // One after the other ...
//! let output = session.invoke(None).await?;
//! println!("{}", String::from_utf8_lossy(&output.unwrap_or_default()));
//!
//! // ... or many at a time.
//! let tasks: Vec<_> = (0..10).map(|_| session.submit(None)).collect();
//! for task in tasks {
//!     task.await?;
//! }
//! session.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! A service is a program that Flame's node agent starts; see [`service`].

pub mod batch;
#[cfg(feature = "cli")]
pub mod cli;
pub mod client;
pub mod error;
pub mod service;
pub mod session;
pub mod stop;
pub mod task;

mod backoff;

pub use bytes::Bytes;
pub use client::{Client, ClientOptions};
pub use error::Error;
pub use flame_core::config::ClientConfig;
/// The messages of the wire contract: what `get` and `list` answer.
pub use flame_rpc::v1;
pub use session::{Session, SessionOptions};
pub use task::{TaskFuture, TaskStream};

/// Largest message that services of this SDK send, in bytes: the largest
/// `cluster.limits.max_message_size` that can be configured. Clients send what they are given, so
/// that the session manager's error is the one that is seen.
pub const MAX_MESSAGE_SIZE: usize = flame_rpc::oversize::MAX_CONFIGURABLE;

/// The examples of the documentation are compiled like those of the crate.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/applications.md")]
struct Applications;
