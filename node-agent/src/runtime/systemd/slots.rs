//! Slots: the instances that units are named after. They are few and used again and again, because
//! systemd keeps the limits of each name until the machine stops.

use std::collections::BTreeSet;

/// Which slots of an agent are in use.
#[derive(Debug)]
pub(super) struct Slots {
    /// Name of the agent if there are several on the host.
    agent: Option<String>,
    used: BTreeSet<u32>,
}

impl Slots {
    pub(super) fn new(agent: Option<String>) -> Self {
        Self {
            agent,
            used: BTreeSet::new(),
        }
    }

    /// Takes the lowest free slot.
    pub(super) fn take(&mut self) -> u32 {
        // Slots below the first gap are all in use.
        let slot = (0..).zip(&self.used).take_while(|(n, used)| n == *used).count();
        let slot = u32::try_from(slot).unwrap_or(u32::MAX);
        self.used.insert(slot);
        slot
    }

    /// Takes this slot; false if it is in use.
    pub(super) fn take_this(&mut self, slot: u32) -> bool {
        self.used.insert(slot)
    }

    pub(super) fn free(&mut self, slot: u32) {
        self.used.remove(&slot);
    }

    /// What units of `slot` are called behind the `@`.
    pub(super) fn instance(&self, slot: u32) -> String {
        match &self.agent {
            Some(agent) => format!("{agent}-{slot}"),
            None => slot.to_string(),
        }
    }

    /// The slot of `instance`, if it is one of this agent.
    pub(super) fn of_instance(&self, instance: &str) -> Option<u32> {
        let number = match &self.agent {
            Some(agent) => instance.strip_prefix(agent.as_str())?.strip_prefix('-')?,
            None => instance,
        };
        let slot = number.parse().ok()?;
        (self.instance(slot) == instance).then_some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_slot_is_taken() {
        let mut slots = Slots::new(None);
        assert_eq!([slots.take(), slots.take(), slots.take()], [0, 1, 2]);
        slots.free(1);
        slots.free(0);
        assert_eq!([slots.take(), slots.take(), slots.take()], [0, 1, 3]);
        assert!(slots.take_this(5) && !slots.take_this(5));
        assert_eq!([slots.take(), slots.take()], [4, 6]);
    }

    #[test]
    fn agents_know_their_own_instances() {
        let (only, named) = (Slots::new(None), Slots::new(Some("gpu-box".to_owned())));
        assert_eq!(
            (only.instance(3), named.instance(3)),
            ("3".to_owned(), "gpu-box-3".to_owned())
        );
        for (instance, of_only, of_named) in [
            ("3", Some(3), None),
            ("gpu-box-3", None, Some(3)),
            ("gpu-box-03", None, None),
            ("03", None, None),
            ("+3", None, None),
            ("gpu-3", None, None),
            ("", None, None),
        ] {
            assert_eq!(only.of_instance(instance), of_only, "{instance}");
            assert_eq!(named.of_instance(instance), of_named, "{instance}");
        }
    }
}
