//! Protocol definitions (generated from `protos/`) and the channels that carry them.

/// The generated modules, nested as the packages are so that their references resolve.
#[allow(missing_docs, clippy::all, clippy::large_futures, unreachable_pub)]
mod generated {
    pub mod flame {
        pub mod v1 {
            tonic::include_proto!("flame.v1");
        }
        pub mod node {
            pub mod v1 {
                tonic::include_proto!("flame.node.v1");
            }
        }
    }
}

/// The link between the session manager and the node agents.
pub use generated::flame::node::v1 as node;
/// Frontend and Instance services: the contract with published clients and applications.
pub use generated::flame::v1;

pub mod channel;
mod convert;
pub mod log_place;
pub mod oversize;
