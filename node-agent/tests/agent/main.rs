//! The real agent process against a session manager played by the test and real services.

// clippy's exemption covers test functions, but not their helpers.
#![allow(clippy::expect_used, clippy::panic)]

mod bind;
mod departure;
mod give_up;
mod harness;
mod identity;
mod life;
mod link;
mod logs;
mod node;
mod parking;
mod reuse;
mod service;
mod stream;
mod tasks;
