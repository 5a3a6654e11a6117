//! What the core wants administrators to read, as log lines. Their fields have the names that the
//! journal is to show them under, see `flame_systemd::logging`.

use flame_core::lifecycle::LifecycleEvent;
use tracing::field::display;

use crate::core::{Notice, NoticeLevel};

/// Writes `notice` to the log.
pub(crate) fn log(notice: &Notice) {
    let message_id = notice.event.map(|event| display(event.message_id()));
    let flame_session = notice.session.as_ref().map(display);
    let flame_task = notice.task.map(display);
    let flame_node = notice.node.as_ref().map(display);
    let flame_executor = notice.executor.as_ref().map(display);
    let text = notice.text.as_str();
    match notice.level {
        NoticeLevel::Debug => tracing::debug!(
            message_id,
            flame_session,
            flame_task,
            flame_node,
            flame_executor,
            "{text}"
        ),
        NoticeLevel::Info => tracing::info!(
            message_id,
            flame_session,
            flame_task,
            flame_node,
            flame_executor,
            "{text}"
        ),
        NoticeLevel::Warn => tracing::warn!(
            message_id,
            flame_session,
            flame_task,
            flame_node,
            flame_executor,
            "{text}"
        ),
    }
}

/// The daemon serves.
pub(crate) fn ready(text: &str) {
    tracing::info!(message_id = %LifecycleEvent::DaemonReady.message_id(), "{text}");
}

/// The daemon was asked to stop.
pub(crate) fn stopping(text: &str) {
    tracing::info!(message_id = %LifecycleEvent::DaemonStopping.message_id(), "{text}");
}

/// The process did not run for a while.
pub(crate) fn stalled(time: std::time::Duration) {
    tracing::warn!(
        message_id = %LifecycleEvent::DaemonStalled.message_id(),
        "the session manager did not run for {:.1} s: stopped, starved, or its machine was; for nodes and tasks \
         that time does not count",
        time.as_secs_f64()
    );
}

/// State cannot be stored, and could be before.
pub(crate) fn store_failed(error: &crate::store::StoreError) {
    tracing::error!(
        message_id = %LifecycleEvent::StoreFailed.message_id(),
        flame_error = %error,
        "state cannot be stored; nothing new is taken, and storing is tried again"
    );
}

/// State can be stored again.
pub(crate) fn store_recovered() {
    tracing::info!(
        message_id = %LifecycleEvent::StoreRecovered.message_id(),
        "state can be stored again"
    );
}
