//! Who takes how much of this node. Knows no I/O.

use std::collections::HashMap;

use flame_core::Resources;

/// What a service process takes its room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// It serves a session, or is about to. The session manager counts these.
    Serving,
    /// It waits for another session.
    Parked,
    /// It is being ended.
    Leaving,
}

/// The books of all room that is taken.
#[derive(Debug)]
pub(super) struct Occupancy {
    capacity: Resources,
    max_executors: usize,
    taken: HashMap<u64, (Resources, Use)>,
    last: u64,
}

impl Occupancy {
    /// A node without processes.
    pub(super) fn new(capacity: Resources) -> Self {
        Self {
            capacity,
            max_executors: usize::MAX,
            taken: HashMap::new(),
            last: 0,
        }
    }

    /// The node has at most `count` executors.
    pub(super) fn limit_executors(&mut self, count: usize) {
        self.max_executors = count;
    }

    /// Takes `request` for an executor, whether or not there is room, and returns its number.
    pub(super) fn take(&mut self, request: Resources) -> u64 {
        self.last += 1;
        self.taken.insert(self.last, (request, Use::Serving));
        self.last
    }

    /// What `number` is taken for from now on.
    pub(super) fn set(&mut self, number: u64, now: Use) {
        if let Some((_, used_for)) = self.taken.get_mut(&number) {
            *used_for = now;
        }
    }

    /// `number` is free again.
    pub(super) fn free(&mut self, number: u64) {
        self.taken.remove(&number);
    }

    /// Whether more is taken than there is.
    pub(super) fn is_exceeded(&self) -> bool {
        self.exceeds(|_| true)
    }

    /// Whether that will be so when all that is being ended is gone.
    pub(super) fn stays_exceeded(&self) -> bool {
        self.exceeds(|used_for| used_for != Use::Leaving)
    }

    /// Whether something is taken for `wanted`.
    pub(super) fn has(&self, wanted: Use) -> bool {
        self.taken.values().any(|(_, used_for)| *used_for == wanted)
    }

    fn exceeds(&self, counts: impl Fn(Use) -> bool) -> bool {
        let counted = self.taken.values().filter(|(_, used_for)| counts(*used_for));
        let (count, sum) = counted.fold((0, Resources::default()), |(count, sum), (request, _)| {
            (count + 1, sum.plus(request))
        });
        count > self.max_executors || !self.capacity.covers(&sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpus(cpu: u64) -> Resources {
        Resources {
            cpu,
            ..Resources::default()
        }
    }

    #[test]
    fn what_is_being_ended_takes_room_until_it_is_gone() {
        let mut books = Occupancy::new(cpus(3));
        let first = books.take(cpus(2));
        books.set(first, Use::Parked);
        books.take(cpus(1));
        assert!(!books.is_exceeded(), "just full");
        books.take(cpus(1));
        assert!(books.is_exceeded() && books.stays_exceeded());
        books.set(first, Use::Leaving);
        assert!(books.is_exceeded() && !books.stays_exceeded());
        assert!(books.has(Use::Leaving) && !books.has(Use::Parked));
        books.free(first);
        assert!(!books.is_exceeded() && !books.has(Use::Leaving));
    }

    #[test]
    fn the_number_of_executors_and_every_resource_counts() {
        let roomy = Resources {
            cpu: 9,
            memory: 9,
            gpu: 9,
        };
        for request in [
            Resources { memory: 5, ..cpus(0) },
            Resources { gpu: 5, ..cpus(0) },
            cpus(5),
        ] {
            let mut books = Occupancy::new(roomy);
            books.take(request);
            assert!(!books.is_exceeded(), "{request}");
            books.take(request);
            assert!(books.is_exceeded(), "{request}");
        }
        let mut books = Occupancy::new(roomy);
        books.take(cpus(0));
        books.take(cpus(0));
        assert!(!books.is_exceeded());
        books.limit_executors(1);
        assert!(books.is_exceeded());
    }
}
