//! The node agent: registers a node with the session manager and runs its executors.

pub mod agent;
pub mod backoff;
pub mod capacity;
pub mod capture;
pub mod directories;
pub mod environment;
pub mod executor;
pub mod expand;
pub mod ledger;
pub mod leftovers;
pub mod life;
pub mod link;
pub mod logs;
pub mod node_id;
pub mod results;
pub mod runtime;
pub mod settings;
pub mod socket;
pub mod spec;
pub mod status;
