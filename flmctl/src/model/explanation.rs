//! Why a session does not run, or not faster.

use std::collections::BTreeMap;

use flame_rpc::v1;
use serde::Serialize;

use super::state::state;

/// The answer to `flmctl explain`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Explanation {
    pub(crate) session_id: String,
    pub(crate) state: String,
    pub(crate) pending: u64,
    pub(crate) running: u64,
    pub(crate) executors: u32,
    pub(crate) wanted: u32,
    pub(crate) reasons: Vec<Reason>,
}

/// One thing that holds it up, or that it is fine.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Reason {
    pub(crate) code: String,
    pub(crate) text: String,
    pub(crate) nodes: Vec<String>,
    pub(crate) holders: Vec<Holder>,
    pub(crate) data: BTreeMap<String, String>,
}

/// A session that holds executors.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Holder {
    pub(crate) session_id: String,
    pub(crate) priority: u32,
    pub(crate) executors: u32,
    pub(crate) busy: u32,
}

impl From<v1::ExplainSessionResponse> for Explanation {
    fn from(wire: v1::ExplainSessionResponse) -> Self {
        Self {
            session_id: wire.session_id,
            state: state::<v1::SessionState>(wire.state),
            pending: wire.pending,
            running: wire.running,
            executors: wire.executors,
            wanted: wire.wanted,
            reasons: wire.reasons.into_iter().map(Reason::from).collect(),
        }
    }
}

impl From<v1::Reason> for Reason {
    fn from(wire: v1::Reason) -> Self {
        let holder = |wire: v1::Holder| Holder {
            session_id: wire.session_id,
            priority: wire.priority,
            executors: wire.executors,
            busy: wire.busy,
        };
        Self {
            code: wire.code,
            text: wire.text,
            nodes: wire.nodes,
            holders: wire.holders.into_iter().map(holder).collect(),
            data: wire.data.into_iter().collect(),
        }
    }
}
