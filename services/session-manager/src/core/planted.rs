//! Bugs that tests plant on purpose: each is one that must not get past the simulation
//! (`tests/sim`), and a test proves that it does not. Outside of tests there are none.

/// A bug that can be planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// A result counts whatever hand-out it is of.
    OldAttempt,
    /// What an executor that is gone had in hand stays with it.
    ForgottenRequeue,
    /// A node is given more than it has.
    Overcommit,
    /// The lower priority comes first.
    InvertedPriority,
    /// Nobody looks for an executor for new tasks.
    LostWakeUp,
    /// Replies do not wait for the store.
    ReplyBeforeCommit,
    /// Ends of tasks that were kept for questions stay for ever.
    Leak,
    /// Messages of a link count although the node has a later one.
    IgnoredEpoch,
}

#[cfg(test)]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Whether `bug` is there.
#[cfg(not(test))]
pub(crate) const fn planted(_bug: Bug) -> bool {
    false
}

/// Whether `bug` is there, on this thread.
#[cfg(test)]
pub(crate) fn planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Plants a bug for everything that this thread does from now on.
#[cfg(test)]
pub(crate) fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}
