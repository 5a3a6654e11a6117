//! Links between agents and the session manager. Each direction is a queue: messages of one link
//! never overtake each other, those of different links do. When a link breaks, what was under way
//! arrives up to some message, and each side hears of the end when it does.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use flame_rpc::node::{RunningExecutor, from_agent, to_agent};

use super::agent::AgentEvent;
use super::manager::Job;
use super::scenario::Time;
use super::world::{Checked, Event, World};
use crate::core::{LinkId, NodeHello};

/// What an agent sends.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "few are there at a time, and each is moved once"
)]
pub(super) enum Up {
    Hello(Box<NodeHello>, Vec<RunningExecutor>),
    Message(from_agent::Message),
    End,
}

/// What the manager sends.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "few are there at a time, and each is moved once"
)]
pub(super) enum Down {
    Message(to_agent::Message),
    End,
}

#[derive(Debug)]
pub(super) enum NetworkEvent {
    ArrivesUp(LinkId),
    ArrivesDown(LinkId),
}

#[derive(Debug)]
struct Direction<T> {
    /// With the times at which they arrive.
    messages: VecDeque<(Time, T)>,
    /// When the last one arrives.
    last_at: Time,
    /// Nothing that is sent now arrives.
    cut: bool,
}

impl<T> Default for Direction<T> {
    fn default() -> Self {
        Self {
            messages: VecDeque::new(),
            last_at: Time::ZERO,
            cut: false,
        }
    }
}

#[derive(Debug)]
struct Link {
    node: usize,
    instance: u64,
    incarnation: u32,
    up: Direction<Up>,
    down: Direction<Down>,
    stalls_until: Time,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Network {
    links: BTreeMap<LinkId, Link>,
    last: LinkId,
}

impl<T> Direction<T> {
    /// When a message that is sent now arrives, if it does.
    fn send(&mut self, message: T, at: Time) -> Option<Time> {
        if self.cut {
            return None;
        }
        self.last_at = self.last_at.max(at);
        self.messages.push_back((self.last_at, message));
        Some(self.last_at)
    }

    /// What has arrived, if it has.
    fn receive(&mut self, now: Time) -> Option<T> {
        let (_, message) = self.messages.pop_front_if(|(at, _)| *at <= now)?;
        Some(message)
    }

    /// Breaks: the first part of what is under way arrives, and the end is noticed `at` some time
    /// which is returned.
    fn cut(&mut self, kept: f64, end: T, at: Time) -> Option<Time> {
        if self.cut {
            return None;
        }
        self.messages
            .truncate((self.messages.len() as f64 * kept) as usize);
        self.cut = true;
        let at = self.last_at.max(at);
        self.messages.push_back((at, end));
        Some(at)
    }

    fn is_over(&self) -> bool {
        self.cut && self.messages.is_empty()
    }
}

impl World {
    /// Mostly fast, now and then not.
    fn delay(&mut self) -> Duration {
        match self.rng.u32(0..100) {
            _ if !self.scenario.slow_messages => Duration::from_micros(self.rng.u64(20..500)),
            0 => self.millis(0, 3_000),
            1..5 => self.millis(0, 50),
            _ => Duration::from_micros(self.rng.u64(20..500)),
        }
    }

    /// A new link from a node to the manager that runs at the moment.
    pub(super) fn open_link(&mut self, node: usize) -> LinkId {
        self.network.last += 1;
        let id = self.network.last;
        let link = Link {
            node,
            instance: self.agents[node].instance,
            incarnation: self.manager.incarnation,
            up: Direction::default(),
            down: Direction::default(),
            stalls_until: Time::ZERO,
        };
        self.network.links.insert(id, link);
        id
    }

    pub(super) fn send_up(&mut self, id: LinkId, message: Up) {
        let at = self.now + self.delay();
        if let Some(link) = self.network.links.get_mut(&id)
            && let Some(at) = link.up.send(message, at)
        {
            self.at(at, Event::Network(NetworkEvent::ArrivesUp(id)));
        }
    }

    pub(super) fn send_down(&mut self, id: LinkId, message: Down) {
        let at = self.now + self.delay();
        if let Some(link) = self.network.links.get_mut(&id)
            && let Some(at) = link.down.send(message, at)
        {
            self.at(at, Event::Network(NetworkEvent::ArrivesDown(id)));
        }
    }

    /// Breaks the link that the agent of `node` has. Some of what is under way is lost.
    pub(super) fn cut_link(&mut self, node: usize, manager_notices: Duration, agent_notices: Duration) {
        if let Some(id) = self.agents[node].link {
            self.break_link(id, manager_notices, agent_notices);
        }
    }

    pub(super) fn break_link(&mut self, id: LinkId, manager_notices: Duration, agent_notices: Duration) {
        let now = self.now;
        let (up, down) = (self.rng.f64(), self.rng.f64());
        let Some(link) = self.network.links.get_mut(&id) else {
            return;
        };
        link.stalls_until = Time::ZERO;
        let up = link.up.cut(up, Up::End, now + manager_notices);
        let down = link.down.cut(down, Down::End, now + agent_notices);
        if let Some(at) = up {
            self.at(at, Event::Network(NetworkEvent::ArrivesUp(id)));
        }
        if let Some(at) = down {
            self.at(at, Event::Network(NetworkEvent::ArrivesDown(id)));
        }
    }

    /// The manager's process is gone: nothing from it or to it arrives any more.
    pub(super) fn break_all_links(&mut self) {
        let ids: Vec<_> = self.network.links.keys().copied().collect();
        for id in ids {
            let notices = self.millis(0, 20);
            self.break_link(id, Duration::ZERO, notices);
        }
    }

    pub(super) fn stall_link(&mut self, node: usize, until: Time) {
        let id = self.agents[node].link;
        if let Some(link) = id
            .and_then(|id| self.network.links.get_mut(&id))
            .filter(|link| !link.up.cut)
        {
            link.stalls_until = until;
        }
    }

    pub(super) fn on_network(&mut self, event: NetworkEvent) -> Checked {
        let (NetworkEvent::ArrivesUp(id) | NetworkEvent::ArrivesDown(id)) = event;
        let now = self.now;
        let Some(link) = self.network.links.get_mut(&id) else {
            return Ok(());
        };
        if link.stalls_until > now {
            let until = link.stalls_until;
            self.at(until, Event::Network(event));
            return Ok(());
        }
        let (node, instance, incarnation) = (link.node, link.instance, link.incarnation);
        match event {
            NetworkEvent::ArrivesUp(_) => {
                let Some(message) = link.up.receive(now) else {
                    return Ok(());
                };
                self.forget_link_if_over(id);
                if incarnation == self.manager.incarnation && self.manager.process.is_some() {
                    self.post(match message {
                        Up::Hello(hello, running) => Job::Hello(id, node, hello, running),
                        Up::Message(message) => Job::Message(id, node, message),
                        Up::End => Job::LinkEnded(id, node),
                    });
                }
                Ok(())
            }
            NetworkEvent::ArrivesDown(_) => {
                let Some(message) = link.down.receive(now) else {
                    return Ok(());
                };
                let agent = &self.agents[node];
                let hears = agent.up && agent.instance == instance;
                let present = hears && agent.link == Some(id);
                match message {
                    Down::Message(message) if present => self.on_order(node, message)?,
                    Down::Message(_) => {}
                    Down::End => {
                        // The other side hears of it, too.
                        self.send_up(id, Up::End);
                        if let Some(link) = self.network.links.get_mut(&id) {
                            link.up.cut = true;
                        }
                        if present {
                            self.on_agent(node, AgentEvent::LinkLost)?;
                        }
                    }
                }
                self.forget_link_if_over(id);
                Ok(())
            }
        }
    }

    fn forget_link_if_over(&mut self, id: LinkId) {
        let over = |link: &Link| link.up.is_over() && link.down.is_over();
        if self.network.links.get(&id).is_some_and(over) {
            self.network.links.remove(&id);
        }
    }

    /// The manager ends a link after what it has sent.
    pub(super) fn hang_up(&mut self, id: LinkId) {
        self.send_down(id, Down::End);
        if let Some(link) = self.network.links.get_mut(&id) {
            link.down.cut = true;
        }
    }
}
