//! Ids, states, resources, sizes and configuration files: what every part of Flame agrees on.

pub mod config;
pub mod duration;
pub mod event;
pub mod fsutil;
pub mod id;
pub mod instance;
pub mod label;
pub mod lifecycle;
pub mod resources;
pub mod size;
pub mod state;

pub use id::{ApplicationName, ExecutorId, NodeName, SessionId, TaskId};
pub use instance::{HostNames, InstanceName};
pub use resources::Resources;
