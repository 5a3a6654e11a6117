//! The control plane of Flame: the Frontend API, durable state, the scheduler and the node
//! registry. `core` decides, `store` remembers, `engine` runs both; the servers only translate.

pub mod admin;
pub mod batch;
pub mod builtin;
pub mod control;
pub mod core;
pub mod engine;
pub mod frontend;
mod health;
pub mod logs;
pub mod long_work;
mod metrics;
pub mod nodelink;
mod notices;
mod retention;
pub mod server;
pub mod store;
mod stored;
mod wall;
mod watch;
