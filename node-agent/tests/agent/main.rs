//! The real agent process against a session manager played by the test and real services.

mod bind;
mod harness;
mod life;
mod link;
mod service;
