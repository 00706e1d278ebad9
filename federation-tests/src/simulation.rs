//! The run: it takes what happens next, lets the node's machines decide, and sends what they say.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use aither_federation::{Session, Source, Standing, Verdict, Via};
use aither_protocol::{
    Ad, FederationId, RecordId, Signed, SkillHash, SubjectId, SubjectKind, UnixTime, Verified,
    ad::Offer,
};
use ed25519_dalek::SigningKey;

use crate::{
    mesh,
    network::{Event, Link, Network, Traffic},
    node::Node,
    random::Random,
};

/// When a run begins, in Unix seconds.
const BEGIN: UnixTime = UnixTime::from_seconds(1_800_000_000);
/// How often a node begins a reconciliation.
const RECONCILE_MS: u64 = 60 * 1000;
/// How often a node looks whether it has something to say again.
const REISSUE_MS: u64 = 60 * 1000;
/// How often the price of a subject changes, in the mean. With four ads that are said again that
/// makes six a day.
const CHANGE_MS: u64 = 12 * 3600 * 1000;
/// How old ads are, at most, where a run begins with all of them in place.
const AGE_MAX: Duration = Duration::from_secs(5 * 3600);

/// What is simulated.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How many nodes.
    pub nodes: usize,
    /// How many of them have an agent. Every `n / agents`-th one has.
    pub agents: usize,
    /// What everything random comes from.
    pub seed: u64,
    /// How long a message takes, in milliseconds.
    pub delay_ms: u64,
    /// How many of a thousand messages are lost.
    pub lost_per_mille: u64,
}

/// A run.
#[derive(Debug)]
pub struct Simulation {
    settings: Settings,
    now_ms: u64,
    nodes: Vec<Node>,
    network: Network,
    federation: FederationId,
    /// Every ad that was signed and still counts somewhere. Each is verified once in a run: what
    /// verifying costs is not what is simulated.
    verified: BTreeMap<RecordId, Arc<Verified<Ad>>>,
    /// What everybody is to have in the end.
    newest: BTreeMap<SubjectId, Arc<Verified<Ad>>>,
    /// When each node took the ads that are watched.
    watched: BTreeMap<RecordId, Vec<u64>>,
    /// Which nodes the others reach. The rest lie on the other side of a partition.
    apart: BTreeSet<usize>,
    exchanges: u64,
}

impl Settings {
    /// Links of 50 ms that lose a message of a hundred.
    pub fn new(nodes: usize, seed: u64) -> Self {
        Self {
            nodes,
            agents: nodes,
            seed,
            delay_ms: 50,
            lost_per_mille: 10,
        }
    }
}

impl Simulation {
    /// Begins with nodes that know nothing of each other.
    pub fn new(settings: Settings) -> Self {
        let mut random = Random::new(settings.seed);
        let mesh = mesh::random(settings.nodes, &mut random);
        let nodes = mesh.into_iter().enumerate();
        let nodes = nodes.map(|(number, neighbours)| Node::new(number, neighbours, BEGIN));
        let link = Link {
            delay_ms: settings.delay_ms,
            lost_per_mille: settings.lost_per_mille,
        };
        let root = SigningKey::from_bytes(&[255; 32]);
        let mut simulation = Self {
            settings,
            now_ms: 0,
            nodes: nodes.collect(),
            network: Network::new(link, random),
            federation: root.verifying_key().into(),
            verified: BTreeMap::new(),
            newest: BTreeMap::new(),
            watched: BTreeMap::new(),
            apart: BTreeSet::new(),
            exchanges: 0,
        };
        for node in 0..simulation.nodes.len() {
            simulation.start_timers(node);
        }
        simulation
    }

    /// Begins with all agents known to all nodes, of ages as they are in the middle of a day.
    pub fn settled(settings: Settings) -> Self {
        let mut simulation = Self::new(settings);
        let agents: Vec<_> = simulation.agents().collect();
        for node in agents {
            let age = simulation.network.random.below(AGE_MAX.as_secs());
            let issued = BEGIN.minus(Duration::from_secs(age));
            let price = simulation.network.random.below(1000);
            let Some(ad) = simulation.announce(node, price, issued) else {
                continue;
            };
            let source = Source {
                via: Via::Store,
                standing: Standing::Known,
            };
            for node in &mut simulation.nodes {
                node.directory.offer(&ad, source, BEGIN);
            }
        }
        simulation
    }

    /// Lets time pass.
    pub fn run(&mut self, duration: Duration) {
        let until_ms = self.now_ms + u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        while let Some((at_ms, node, event)) = self.network.next(until_ms) {
            self.now_ms = at_ms;
            self.on_event(node, event);
        }
        self.now_ms = until_ms;
    }

    /// Has every node that has an agent announce it.
    pub fn announce_all(&mut self) {
        let agents: Vec<_> = self.agents().collect();
        for node in agents {
            self.change(node);
        }
    }

    /// Changes the price of an agent, and watches how the ad spreads.
    pub fn watch_change(&mut self, agent: usize) -> RecordId {
        let node = self.agents().cycle().nth(agent).unwrap_or(0);
        let ad = loop {
            // A price that it had before is no change.
            let price = self.network.random.below(1_000_000);
            if let Some(ad) = self.announce(node, price, self.now()) {
                break ad;
            }
        };
        self.watched.insert(ad.id(), Vec::new());
        self.publish(node, &ad);
        ad.id()
    }

    /// Returns when a watched ad had reached a share of all nodes, in milliseconds since a time.
    pub fn reached(&self, ad: &RecordId, percent: usize, since_ms: u64) -> Option<u64> {
        let taken = self.watched.get(ad)?;
        let needed = (self.nodes.len() * percent).div_ceil(100);
        taken.get(needed - 1).map(|at| at - since_ms)
    }

    /// Restarts a share of the nodes at once. They have lost all that they had heard, announce
    /// what they have, and ask somebody what there is.
    pub fn restart(&mut self, percent: u64) {
        let now = self.now();
        for node in 0..self.nodes.len() {
            if self.network.random.below(100) >= percent {
                continue;
            }
            self.nodes[node].restart(now);
            let again = Event::Reconcile { again: false };
            self.network.schedule(self.now_ms, node, again);
            if self.has_agent(node) {
                self.change(node);
            }
        }
    }

    /// Cuts every second node off from the others, or heals that.
    pub fn part(&mut self, parted: bool) {
        let apart = (0..self.nodes.len()).filter(|node| parted && node % 2 == 1);
        self.apart = apart.collect();
    }

    /// Whether everybody has the newest ad of every agent.
    pub fn has_converged(&self) -> bool {
        let has_all = |node: &Node| {
            self.newest.iter().all(|(subject, newest)| {
                let held = node.directory.get(subject);
                held.is_some_and(|held| Arc::ptr_eq(held, newest))
            })
        };
        self.nodes.iter().all(has_all)
    }

    /// Lets time pass until everybody has everything, and returns how long that took.
    pub fn run_until_converged(&mut self, most: Duration) -> Option<Duration> {
        let mut passed = Duration::ZERO;
        let step = Duration::from_secs(1);
        while passed < most {
            self.run(step);
            passed += step;
            if self.has_converged() {
                return Some(passed);
            }
        }
        None
    }

    /// Returns what has arrived at all nodes together.
    pub fn traffic(&self) -> Traffic {
        self.network.traffic
    }

    /// Returns the time of the run, in milliseconds since its beginning.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    fn now(&self) -> UnixTime {
        BEGIN.plus(Duration::from_millis(self.now_ms))
    }

    fn agents(&self) -> impl Iterator<Item = usize> + Clone + use<> {
        let (nodes, agents) = (self.settings.nodes, self.settings.agents);
        (0..agents).map(move |agent| agent * nodes / agents)
    }

    fn has_agent(&self, node: usize) -> bool {
        let (nodes, agents) = (self.settings.nodes, self.settings.agents);
        (node * agents).div_ceil(nodes) * nodes / agents == node
    }

    fn start_timers(&mut self, node: usize) {
        let at = self.network.random.below(RECONCILE_MS);
        let event = Event::Reconcile { again: true };
        self.network.schedule(at, node, event);
        if self.has_agent(node) {
            let at = self.network.random.below(REISSUE_MS);
            self.network.schedule(at, node, Event::Reissue);
            let at = self.network.random.below(2 * CHANGE_MS);
            self.network.schedule(at, node, Event::Change);
        }
    }

    fn on_event(&mut self, node: usize, event: Event) {
        match event {
            Event::Gossip { from, ad } => self.on_gossip(node, from, &ad),
            Event::Exchange {
                from,
                number,
                begun_here,
                message,
            } => self.on_exchange(node, from, (number, begun_here), &message),
            Event::Reconcile { again } => {
                self.begin_exchange(node);
                if again {
                    let at = self.now_ms + RECONCILE_MS;
                    self.network.schedule(at, node, Event::Reconcile { again });
                }
            }
            Event::Reissue => {
                self.on_reissue(node);
                let at = self.now_ms + REISSUE_MS;
                self.network.schedule(at, node, Event::Reissue);
            }
            Event::Change => {
                self.change(node);
                let at = self.now_ms + self.network.random.below(2 * CHANGE_MS);
                self.network.schedule(at, node, Event::Change);
            }
        }
    }

    fn on_gossip(&mut self, node: usize, from: usize, ad: &Arc<Verified<Ad>>) {
        self.network.traffic.gossip_bytes += ad.as_bytes().len() as u64;
        self.network.traffic.gossip_messages += 1;
        let now = self.now();
        if !self.nodes[node].sees(ad.id(), self.now_ms) {
            return;
        }
        let source = Source {
            via: Via::Gossip(self.nodes[from].id),
            standing: Standing::Known,
        };
        if self.nodes[node].directory.offer(ad, source, now) == Verdict::Accept {
            self.note_taken(ad);
            self.push(node, Some(from), ad);
        }
    }

    /// Pushes an ad to all neighbours but the one that it came from.
    fn push(&mut self, node: usize, from: Option<usize>, ad: &Arc<Verified<Ad>>) {
        for to in self.nodes[node].neighbours.clone() {
            if Some(to) != from && self.reach(node, to) {
                let ad = Arc::clone(ad);
                let event = Event::Gossip { from: node, ad };
                self.network.send_lossy(self.now_ms, to, event);
            }
        }
    }

    fn begin_exchange(&mut self, node: usize) {
        let now = self.now();
        let expired = self.nodes[node].directory.next_expiry();
        if expired.is_some_and(|at| at <= now) {
            self.nodes[node].directory.expire(now);
        }
        let with = self.network.random.index(self.nodes.len());
        if with == node || !self.reach(node, with) {
            return;
        }
        self.exchanges += 1;
        self.network.traffic.exchanges += 1;
        let number = self.exchanges;
        let directory = &mut self.nodes[node].directory;
        let takes_new = directory.takes_new();
        let (session, message) = Session::begin(directory.snapshot(now), takes_new);
        self.nodes[node].sessions.insert((number, true), session);
        self.send_exchange(node, with, (number, true), message);
    }

    fn on_exchange(&mut self, node: usize, from: usize, session: (u64, bool), message: &[u8]) {
        self.network.traffic.exchange_bytes += message.len() as u64;
        let (number, begun_here) = session;
        let now = self.now();
        let target = &mut self.nodes[node];
        if !begun_here && !target.sessions.contains_key(&session) {
            let takes_new = target.directory.takes_new();
            let answering = Session::answer(target.directory.snapshot(now), takes_new);
            target.sessions.insert(session, answering);
        }
        // A node that has restarted does not know its old sessions; their streams are gone.
        let Some(running) = target.sessions.get_mut(&session) else {
            return;
        };
        let turn = running
            .on_message(message)
            .expect("nobody misbehaves in this simulation");
        for record in &turn.records {
            self.on_record(node, from, record);
        }
        match turn.reply {
            Some(reply) if self.reach(node, from) => {
                self.send_exchange(node, from, session, reply);
            }
            _ => {
                self.nodes[node].sessions.remove(&session);
                // The stream is closed.
                self.nodes[from].sessions.remove(&(number, !begun_here));
            }
        }
    }

    fn send_exchange(&mut self, from: usize, to: usize, session: (u64, bool), message: Vec<u8>) {
        let event = Event::Exchange {
            from,
            number: session.0,
            begun_here: !session.1,
            message,
        };
        self.network.send_reliably(self.now_ms, to, event);
    }

    fn on_record(&mut self, node: usize, from: usize, record: &[u8]) {
        let id = RecordId::of(record);
        let ad = self.verified.entry(id).or_insert_with(|| {
            let ad = Signed::parse(record).and_then(|ad| ad.verify(&self.federation));
            Arc::new(ad.expect("nobody forges in this simulation"))
        });
        let ad = Arc::clone(ad);
        let source = Source {
            via: Via::Exchange(self.nodes[from].id),
            standing: Standing::Known,
        };
        let now = self.now();
        if self.nodes[node].directory.offer(&ad, source, now) == Verdict::Accept {
            self.note_taken(&ad);
        }
    }

    fn on_reissue(&mut self, node: usize) {
        let now = self.now();
        for ad in self.nodes[node].own.due(now) {
            let ad = self.sign(node, &ad);
            self.publish(node, &ad);
        }
    }

    fn change(&mut self, node: usize) {
        let price = self.network.random.below(1_000_000);
        if let Some(ad) = self.announce(node, price, self.now()) {
            self.publish(node, &ad);
        }
    }

    /// Has a node say what its agent costs, if that is news.
    fn announce(&mut self, node: usize, price: u64, now: UnixTime) -> Option<Arc<Verified<Ad>>> {
        let mut skills =
            ["summarize", "translate", "review", "answer", "search"].map(SkillHash::of);
        skills.sort();
        let offer = Offer {
            card_hash: Some([7; 32]),
            skills: skills.into(),
            price_micros: 1_000_000 + price,
            ..Offer::default()
        };
        let name = format!("research-assistant-{node}");
        let own = &mut self.nodes[node].own;
        let announced = own.announce(SubjectKind::Agent, &name, offer, now);
        let ad = announced.expect("a node has one agent here")?;
        Some(self.sign(node, &ad))
    }

    fn sign(&mut self, node: usize, ad: &Ad) -> Arc<Verified<Ad>> {
        let signed = ad.sign(&self.nodes[node].key, &self.federation);
        let signed = Arc::new(signed.expect("a node's own ad is as it must be"));
        if let Some(old) = self.newest.insert(signed.subject(), Arc::clone(&signed)) {
            self.verified.remove(&old.id());
        }
        self.verified.insert(signed.id(), Arc::clone(&signed));
        signed
    }

    fn publish(&mut self, node: usize, ad: &Arc<Verified<Ad>>) {
        let source = Source {
            via: Via::Own,
            standing: Standing::Known,
        };
        let now = self.now();
        self.nodes[node].directory.offer(ad, source, now);
        self.nodes[node].sees(ad.id(), self.now_ms);
        self.note_taken(ad);
        self.push(node, None, ad);
    }

    fn note_taken(&mut self, ad: &Verified<Ad>) {
        if self.watched.is_empty() {
            return;
        }
        if let Some(taken) = self.watched.get_mut(&ad.id()) {
            taken.push(self.now_ms);
        }
    }

    fn reach(&self, one: usize, other: usize) -> bool {
        self.apart.contains(&one) == self.apart.contains(&other)
    }
}
