//! What the nodes have to offer in one pass of the scheduler, ordered so that a place for an
//! executor is found without a look at every node.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use flame_core::config::cluster::Placement;
use flame_core::state::Shim;
use flame_core::{NodeName, Resources};

use crate::core::Node;
use crate::core::planted::{Bug, planted};

/// What an executor asks of its node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Needs {
    pub(super) unit: Resources,
    pub(super) shim: Shim,
    /// Labels that the node has to have, as `key=value`.
    pub(super) labels: Arc<[String]>,
    /// Nodes that it shall not be on.
    pub(super) avoids: Vec<NodeName>,
}

/// One node's room.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) name: NodeName,
    /// A bit for each shim: a pass has no time for a list on every node.
    shims: u8,
    labels: Arc<BTreeSet<String>>,
    allocatable: Resources,
    free: Resources,
    slots: usize,
    /// It will be kept for the session that gets the first executor, so this pass gives it to one only.
    pub(super) single: bool,
    /// What will be free when the executors that are on their way out are gone, less what this
    /// pass has already promised of it.
    pub(super) coming: Resources,
    pub(super) coming_slots: usize,
}

/// Nodes by what is free on them: processors, memory, and their place in the list.
type ByFree = BTreeSet<(u64, u64, usize)>;

/// All nodes that take work.
#[derive(Debug)]
pub(super) struct Rooms {
    placement: Placement,
    /// By name.
    rooms: Vec<Room>,
    /// Those that have a slot; made when somebody looks for one who could find it.
    free: Option<ByFree>,
    /// At least what is free on any of those.
    most_free: Resources,
    /// Those from which executors are leaving.
    leaving: BTreeSet<usize>,
}

fn bit(shim: Shim) -> u8 {
    match shim {
        Shim::Host => 1,
        Shim::Wasm => 2,
    }
}

impl Room {
    /// The room on `node`, which may have as many executors as it wants, up to `max_executors`.
    pub(super) fn new(node: &Node, max_executors: u32) -> Self {
        let slots = (node.slots(max_executors) as usize).saturating_sub(node.executors.len());
        Self {
            name: node.hello.name.clone(),
            shims: node.hello.shims.iter().fold(0, |bits, shim| bits | bit(*shim)),
            labels: Arc::clone(&node.hello.labels),
            allocatable: node.hello.allocatable,
            free: node.free(),
            slots,
            single: node.hello.ephemeral && node.reserved_for.is_none(),
            coming: node.free(),
            coming_slots: slots,
        }
    }

    fn suits(&self, needs: &Needs) -> bool {
        self.has_shim(needs) && self.has_labels(needs) && !self.is_avoided(needs)
    }

    pub(super) fn has_shim(&self, needs: &Needs) -> bool {
        self.shims & bit(needs.shim) != 0
    }

    pub(super) fn has_labels(&self, needs: &Needs) -> bool {
        needs.labels.iter().all(|label| self.labels.contains(label))
    }

    pub(super) fn is_avoided(&self, needs: &Needs) -> bool {
        needs.avoids.contains(&self.name)
    }

    /// Whether it has the resources for such an executor now, if not a slot.
    pub(super) fn has_resources(&self, needs: &Needs) -> bool {
        self.free.covers(&needs.unit) || planted(Bug::Overcommit)
    }

    /// Whether there is room for such an executor now, which has not been promised to another.
    pub(super) fn fits(&self, needs: &Needs) -> bool {
        self.slots > 0 && self.has_resources(needs) && self.is_unpromised(&needs.unit) && self.suits(needs)
    }

    /// What is free may have been promised to an executor that is larger and waits for the rest of
    /// its room: without this it would wait for ever while small ones come and go.
    fn is_unpromised(&self, unit: &Resources) -> bool {
        self.will_fit(unit) || planted(Bug::Overcommit)
    }

    /// Whether the node could have such an executor if it had no other.
    pub(super) fn could_fit(&self, needs: &Needs) -> bool {
        self.suits(needs) && self.allocatable.covers(&needs.unit)
    }

    /// An executor of that size leaves.
    fn leaves(&mut self, resources: &Resources) {
        self.coming = self.coming.plus(resources);
        self.coming_slots += 1;
    }

    /// Whether there will be room for such an executor.
    fn will_fit(&self, unit: &Resources) -> bool {
        self.coming_slots > 0 && self.coming.covers(unit)
    }

    /// Whether there will be room for an executor that it suits.
    fn will_have_room(&self, needs: &Needs) -> bool {
        self.will_fit(&needs.unit) && self.suits(needs)
    }

    fn promise(&mut self, unit: &Resources) {
        self.coming = self.coming.minus(unit);
        self.coming_slots = self.coming_slots.saturating_sub(1);
    }
}

impl Rooms {
    pub(super) fn new(placement: Placement) -> Self {
        Self {
            placement,
            rooms: Vec::new(),
            free: None,
            most_free: Resources::default(),
            leaving: BTreeSet::new(),
        }
    }

    /// Adds a node, in the order of the names; what leaves it comes after with [`Rooms::leaves`].
    pub(super) fn add(&mut self, room: Room) {
        if room.slots > 0 {
            self.most_free = largest(&self.most_free, &room.free);
        }
        self.rooms.push(room);
    }

    /// An executor of that size is on its way out of a node.
    pub(super) fn leaves(&mut self, node: &NodeName, resources: &Resources) {
        if let Some(at) = self.place(node) {
            self.rooms[at].leaves(resources);
            self.leaving.insert(at);
        }
    }

    /// The place of a node in the list.
    pub(super) fn place(&self, node: &NodeName) -> Option<usize> {
        self.rooms.binary_search_by(|room| room.name.cmp(node)).ok()
    }

    pub(super) fn at(&self, place: usize) -> &Room {
        &self.rooms[place]
    }

    /// Takes room for an executor now: on the fullest node where it fits, so that large executors
    /// find room elsewhere, or on the emptiest if executors are to be spread.
    pub(super) fn take(&mut self, needs: &Needs) -> Option<NodeName> {
        if !self.most_free.covers(&needs.unit) && !planted(Bug::Overcommit) {
            return None;
        }
        let rooms = &self.rooms;
        let free = self.free.get_or_insert_with(|| by_free(rooms));
        let fits = |&&(_, _, at): &&(u64, u64, usize)| rooms[at].fits(needs);
        let large_enough = free.range((Bound::Included((needs.unit.cpu, 0, 0)), Bound::Unbounded));
        let found = match self.placement {
            Placement::Pack => large_enough.into_iter().find(fits),
            Placement::Spread => large_enough.into_iter().rev().find(fits),
        };
        let (cpu, memory, at) = *found?;
        free.remove(&(cpu, memory, at));
        let room = &mut self.rooms[at];
        room.free = room.free.minus(&needs.unit);
        room.slots = room.slots.saturating_sub(1);
        room.promise(&needs.unit);
        if room.single {
            (room.slots, room.coming_slots) = (0, 0);
        }
        if room.slots > 0 {
            free.insert((room.free.cpu, room.free.memory, at));
        }
        Some(room.name.clone())
    }

    /// Promises room that will be there when executors have left. False if there will be none.
    pub(super) fn promise(&mut self, needs: &Needs) -> bool {
        let fits = |at: &&usize| self.rooms[**at].will_have_room(needs);
        let Some(at) = self.leaving.iter().find(fits).copied() else {
            return false;
        };
        self.rooms[at].promise(&needs.unit);
        true
    }

    /// Promises room on one node, where it will be.
    pub(super) fn promise_at(&mut self, place: usize, unit: &Resources) {
        self.rooms[place].promise(unit);
    }

    /// Whether there is room for such an executor on some node, or will be.
    pub(super) fn have_room(&self, needs: &Needs) -> bool {
        self.rooms.iter().any(|room| room.will_have_room(needs))
    }
}

/// The more of each resource.
fn largest(a: &Resources, b: &Resources) -> Resources {
    Resources {
        cpu: a.cpu.max(b.cpu),
        memory: a.memory.max(b.memory),
        gpu: a.gpu.max(b.gpu),
    }
}

fn by_free(rooms: &[Room]) -> ByFree {
    let with_slots = rooms.iter().enumerate().filter(|(_, room)| room.slots > 0);
    with_slots
        .map(|(at, room)| (room.free.cpu, room.free.memory, at))
        .collect()
}
