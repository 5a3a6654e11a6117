//! The states of the wire by name.

use flame_rpc::v1;

/// The enums of the wire by name, without the prefix that protobuf asked for.
pub(crate) trait WireState: TryFrom<i32> {
    /// All names, for messages about wrong ones.
    const NAMES: &'static [&'static str];
    /// Name of the state.
    fn wire_name(&self) -> &'static str;
}

macro_rules! wire_states {
    ($($kind:ident, $prefix:literal, [$($name:literal),*];)*) => { $(
        impl WireState for v1::$kind {
            const NAMES: &'static [&'static str] = &[$($name),*];
            fn wire_name(&self) -> &'static str {
                let name = self.as_str_name();
                name.strip_prefix($prefix).unwrap_or(name)
            }
        }
    )* };
}

wire_states! {
    ApplicationState, "", ["Enabled", "Disabled"];
    SessionState, "", ["Open", "Closed"];
    TaskState, "", ["Pending", "Running", "Succeed", "Failed", "Cancelled"];
    NodeState, "", ["Unknown", "Ready", "NotReady"];
    NodePhase, "NodePhase", ["Unspecified", "Ready", "Suspect", "Lost", "Left"];
    ExecutorState, "Executor", [
        "Unknown", "Void", "Idle", "Binding", "Bound", "Unbinding", "Releasing", "Released"
    ];
    Shim, "", ["Host", "Wasm"];
}

/// Name of a state's number; a newer server may know more than we do.
pub(super) fn state<S: WireState>(number: i32) -> String {
    S::try_from(number).map_or_else(
        |_| format!("Unknown({number})"),
        |state| state.wire_name().to_owned(),
    )
}
