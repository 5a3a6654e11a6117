//! Signals that ask flmadm to end, noticed while something is done that has to be ended in order.
//!
//! Outside of a [`Watch`] they end flmadm at once, as if it did not know of them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

use crate::failure::{Failure, Outcome};

/// Ctrl-C, a service manager's or a script's wish, and a terminal that was closed.
const SIGNALS: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];

/// Whether nobody watches, so that a signal does what it does by default.
static IDLE: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);
/// Whether a signal came since the first watch began.
static SEEN: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);
/// Whether the handlers are there; they stay until the program ends.
static HANDLED: Mutex<bool> = Mutex::new(false);
static WATCHES: AtomicUsize = AtomicUsize::new(0);

/// While it lives, signals are noticed and do nothing else.
pub(crate) struct Watch(());

impl Watch {
    /// Begins to watch.
    ///
    /// # Errors
    /// The system takes no handler.
    pub(crate) fn begin() -> Outcome<Self> {
        let mut handled = HANDLED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if WATCHES.fetch_add(1, Ordering::SeqCst) == 0 {
            SEEN.store(false, Ordering::SeqCst);
            IDLE.store(false, Ordering::SeqCst);
        }
        let watch = Self(());
        if !*handled {
            for signal in SIGNALS {
                flag::register_conditional_default(signal, Arc::clone(&IDLE))
                    .and_then(|_| flag::register(signal, Arc::clone(&SEEN)))
                    .map_err(|error| Failure::installation("cannot watch for signals").because(error))?;
            }
            *handled = true;
        }
        Ok(watch)
    }

    /// Whether somebody wants flmadm to end.
    #[expect(
        clippy::unused_self,
        reason = "only while somebody watches the answer means something"
    )]
    pub(crate) fn is_interrupted(&self) -> bool {
        SEEN.load(Ordering::SeqCst)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if WATCHES.fetch_sub(1, Ordering::SeqCst) == 1 {
            IDLE.store(true, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_noticed_and_ends_nothing() {
        let watch = Watch::begin().expect("handlers");
        assert!(!watch.is_interrupted());
        signal_hook::low_level::raise(SIGHUP).expect("raised");
        assert!(watch.is_interrupted());
        drop(watch);
        assert!(!Watch::begin().expect("again").is_interrupted());
    }
}
