//! The program against a Frontend: arguments in, requests out, output and exit status back.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod backup;
mod change;
mod control;
mod logs;
mod process;
mod read;
mod support;
mod values;
mod watch;
