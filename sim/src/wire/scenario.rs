//! A run on the simulated network as data: a schedule of explicit faults, and how it is drawn from a seed.

use std::{fmt, time::Duration};

use downbeat_core::{Limits, cell::Mode, light::Trust};
use downbeat_world::{RelayerConfig, WorldConfig, random::Random};
use serde::{Deserialize, Serialize};

use crate::{adversary, fault::Kind};

/// Everything that a run depends on, besides the code. Items may be taken out one by one: none changes what another does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WireScenario {
    /// What the run shows, for people.
    #[serde(default)]
    pub about: String,
    pub seed: u64,
    pub mode: Mode,
    pub rollups: u32,
    /// Resolution of the network's time, in milliseconds.
    pub tick_ms: u64,
    /// Which host runs first changes from tick to tick.
    pub random_order: bool,
    /// Longest way of a message when nothing is wrong, in milliseconds.
    pub latency_ms: u64,
    /// Everything is healed after this time, in seconds.
    pub faulty_for_s: u64,
    /// How many blocks every rollup must get beyond those that the sequencer has made by then.
    pub blocks_after: u64,
    /// Time within which it must have got them, from the healing on, in seconds.
    pub arrive_within_s: u64,
    /// In Celestia heights.
    pub look_ahead: u64,
    #[serde(default)]
    pub relayer: Relaying,
    pub limits: Limits,
    #[serde(default)]
    pub items: Vec<Item>,
}

/// A fault, when it begins and how long it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    pub at_ms: u64,
    /// Without meaning where nothing lasts.
    #[serde(default)]
    pub for_ms: u64,
    pub fault: Fault,
}

/// A host other than the conductor's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Peer {
    /// The sequencer node's gRPC and its CometBFT.
    Sequencer,
    Celestia,
    /// The node of the rollup with this index.
    Rollup(u32),
}

/// A host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Node {
    Conductor,
    Peer(Peer),
}

/// What a lost message is on its way to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Direction {
    Both,
    ToPeer,
    ToConductor,
}

/// What goes wrong. All links lie between the conductor and a peer: peers do not talk to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// Messages are lost.
    Cut { peer: Peer, direction: Direction },
    /// Messages wait, and arrive all at once.
    Hold { peer: Peer },
    /// Messages take up to this long.
    Latency { peer: Peer, max_ms: u64 },
    /// The process is killed, its connections are closed, and it is started again at the end.
    Crash { node: Node },
    /// As a crash, but nobody is told that connections are gone.
    PowerLoss { node: Node },
    /// The conductor is asked to stop, and started again at the end.
    Stop,
    /// Answers come this much later.
    Slow { peer: Peer, delay_ms: u64 },
    /// The peer answers this many requests with its protocol's way to say "unavailable".
    Refuse { peer: Peer, requests: u32 },
    /// The peer answers this many requests with something that its protocol does not know.
    Garbage { peer: Peer, replies: u32 },
    /// No sequencer blocks.
    SequencerStalls,
    /// No Celestia blocks.
    CelestiaStalls,
    /// Nothing is published on Celestia: data comes late, and much at once.
    RelayerPauses,
    /// The rollup node forgets the session.
    Revoke { rollup: u32 },
    /// A stranger posts to the namespaces.
    HostilePost { kind: Kind },
}

/// How untidily blocks reach Celestia.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Relaying {
    /// Up to this many Celestia blocks late, each blob on its own.
    pub late_blocks: u64,
    pub shuffle: bool,
    pub duplicate_percent: u8,
}

impl Fault {
    /// The kind, for counting.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Cut { direction: Direction::Both, .. } => "cut",
            Self::Cut { direction: Direction::ToPeer, .. } => "cut requests",
            Self::Cut { direction: Direction::ToConductor, .. } => "cut answers",
            Self::Hold { .. } => "hold",
            Self::Latency { .. } => "latency",
            Self::Crash { node: Node::Conductor } => "crash conductor",
            Self::Crash { node: Node::Peer(_) } => "crash peer",
            Self::PowerLoss { node: Node::Conductor } => "power loss conductor",
            Self::PowerLoss { node: Node::Peer(_) } => "power loss peer",
            Self::Stop => "stop conductor",
            Self::Slow { .. } => "slow peer",
            Self::Refuse { .. } => "refuse",
            Self::Garbage { .. } => "garbage",
            Self::SequencerStalls => "sequencer stalls",
            Self::CelestiaStalls => "celestia stalls",
            Self::RelayerPauses => "relayer pauses",
            Self::Revoke { .. } => "revoke session",
            Self::HostilePost { .. } => "hostile post",
        }
    }
}

impl Item {
    /// How many sessions of a rollup this may cost.
    pub(super) fn sessions_lost(&self, rollup: u32) -> u64 {
        let hits = |peer: Peer| peer == Peer::Rollup(rollup);
        // One at the beginning, one at the end, one by a call that arrives late, and those that are tried in between.
        let lasting = 3 + self.for_ms / 1_000;
        match self.fault {
            Fault::Cut { peer, .. }
            | Fault::Hold { peer }
            | Fault::Latency { peer, .. }
            | Fault::Slow { peer, .. }
            | Fault::Crash { node: Node::Peer(peer) }
            | Fault::PowerLoss { node: Node::Peer(peer) }
                if hits(peer) =>
            {
                lasting
            }
            Fault::Crash { node: Node::Conductor } | Fault::PowerLoss { node: Node::Conductor } | Fault::Stop => 1,
            Fault::Refuse { peer, requests } if hits(peer) => 1 + u64::from(requests),
            Fault::Revoke { rollup: revoked } if revoked == rollup => 1,
            _ => 0,
        }
    }
}

/// Time from a sequencer block until its data may be on Celestia.
const DA_DELAY: Duration = Duration::from_secs(3);

/// Kinds of faults that a seed chooses from.
const KINDS: u64 = 16;

impl WireScenario {
    /// A run in which nothing goes wrong.
    pub fn healthy(seed: u64, mode: Mode) -> Self {
        Self {
            about: String::new(),
            seed,
            mode,
            rollups: 1,
            tick_ms: 5,
            random_order: false,
            latency_ms: 10,
            faulty_for_s: 5,
            blocks_after: 10,
            arrive_within_s: 40,
            look_ahead: 60,
            relayer: Relaying::default(),
            limits: Limits {
                fetch_deadline: Duration::from_secs(3),
                execution_deadline: Duration::from_secs(4),
                backoff_last: Duration::from_secs(1),
                session_delay_last: Duration::from_secs(2),
                ..Limits::default()
            },
            items: Vec::new(),
        }
    }

    /// Any schedule. Each kind of fault is left out of half of the runs, so that rare combinations are dense in some.
    pub fn draw(seed: u64) -> Self {
        let mut random = Random::new(seed, "wire");
        let mode = match random.below(4) {
            0 => Mode::SoftOnly,
            1 => Mode::FirmOnly,
            _ => Mode::SoftAndFirm,
        };
        let mut scenario = Self::healthy(seed, mode);
        scenario.rollups = u32::try_from(random.within(1, 3)).unwrap_or(1);
        scenario.tick_ms = pick(&mut random, &[1, 2, 5, 10, 10]);
        scenario.random_order = random.chance(50);
        scenario.latency_ms = pick(&mut random, &[1, 5, 20, 100]);
        scenario.faulty_for_s = random.within(5, 40);
        if random.chance(50) {
            scenario.relayer =
                Relaying { late_blocks: random.within(1, 4), shuffle: random.chance(50), duplicate_percent: 20 };
        }
        let limits = &mut scenario.limits;
        if random.chance(50) {
            limits.soft_firm_spread = random.within(5, 30);
        }
        if random.chance(30) {
            limits.fetch_deadline = Duration::from_millis(random.within(800, 5_000));
            limits.execution_deadline = Duration::from_millis(random.within(800, 5_000));
        }
        if random.chance(50) {
            limits.sequencer_poll = Duration::from_millis(random.within(50, 700));
        }
        if random.chance(30) {
            let mut size = |high| usize::try_from(random.within(1, high)).unwrap_or(usize::MAX);
            limits.soft_in_flight = size(4);
            limits.celestia_in_flight = size(3);
            limits.headers_in_flight = size(3);
        }
        // A stream of its own: what was drawn before there were proofs stays as it was.
        if Random::new(seed, "proofs").chance(30) {
            limits.celestia_trust = Trust::Consensus;
        }
        let kinds: Vec<u64> = (0..KINDS).filter(|_| random.chance(50)).collect();
        for _ in 0..random.within(1, scenario.faulty_for_s) {
            if kinds.is_empty() {
                break;
            }
            let kind = pick(&mut random, &kinds);
            let fault = scenario.draw_fault(&mut random, kind);
            // Half of them where much is under way: just after a block was made.
            let at_ms = match random.below(4) {
                0 => random.within(1, scenario.faulty_for_s * 1_000 / 700) * 700 + random.within(0, 150),
                1 => random.within(1, scenario.faulty_for_s * 1_000 / 1_900 + 1) * 1_900 + random.within(0, 150),
                _ => random.within(0, scenario.faulty_for_s * 1_000),
            };
            let for_ms = match random.below(10) {
                0..4 => random.within(20, 1_000),
                4..9 => random.within(1_000, 8_000),
                _ => random.within(8_000, 20_000),
            };
            scenario.items.push(Item { at_ms, for_ms, fault });
        }
        scenario.items.sort_by_key(|item| item.at_ms);
        scenario
    }

    fn draw_fault(&self, random: &mut Random, kind: u64) -> Fault {
        let peers: Vec<Peer> = self.peers().collect();
        let rollup = u32::try_from(random.below(self.rollups.into())).unwrap_or(0);
        let peer = pick(random, &peers);
        match kind {
            0 | 1 => Fault::Cut { peer, direction: Direction::Both },
            2 => Fault::Cut { peer, direction: Direction::ToPeer },
            3 => Fault::Cut { peer, direction: Direction::ToConductor },
            4 => Fault::Hold { peer },
            5 => Fault::Latency { peer, max_ms: random.within(50, 2_000) },
            6 => Fault::Crash { node: Node::Conductor },
            7 => Fault::Crash { node: Node::Peer(peer) },
            8 if random.chance(30) => Fault::PowerLoss { node: Node::Conductor },
            8 => Fault::PowerLoss { node: Node::Peer(peer) },
            9 => Fault::Stop,
            10 => Fault::Slow { peer, delay_ms: random.within(50, 4_000) },
            11 => Fault::Refuse { peer, requests: u32::try_from(random.within(1, 20)).unwrap_or(1) },
            12 => Fault::Revoke { rollup },
            13 => Fault::HostilePost { kind: pick(random, adversary::KINDS) },
            14 => {
                // Not from a rollup node: one that answers what cannot be read is parked, as it should be.
                let peer = pick(random, &[Peer::Sequencer, Peer::Celestia]);
                Fault::Garbage { peer, replies: u32::try_from(random.within(1, 5)).unwrap_or(1) }
            }
            _ => pick(random, &[Fault::SequencerStalls, Fault::CelestiaStalls, Fault::RelayerPauses]),
        }
    }

    /// As a file.
    pub fn to_toml(&self) -> String {
        // Plain data, which has a form as TOML.
        toml::to_string(self).unwrap_or_default()
    }

    /// All hosts but the conductor's.
    pub fn peers(&self) -> impl Iterator<Item = Peer> + use<> {
        [Peer::Sequencer, Peer::Celestia].into_iter().chain((0..self.rollups).map(Peer::Rollup))
    }

    /// The model world of the run.
    pub fn world(&self) -> WorldConfig {
        let mut world = WorldConfig {
            seed: self.seed,
            block_time: Duration::from_millis(700),
            celestia_block_time: Duration::from_millis(1_900),
            da_delay: DA_DELAY,
            rollups: self.rollups,
            relayer: RelayerConfig {
                late_blocks: self.relayer.late_blocks,
                shuffle: self.relayer.shuffle,
                duplicate_percent: self.relayer.duplicate_percent,
                ..RelayerConfig::default()
            },
            ..WorldConfig::default()
        };
        world.session.look_ahead = self.look_ahead;
        world
    }
}

fn pick<T: Copy>(random: &mut Random, from: &[T]) -> T {
    let index = random.below(u64::try_from(from.len()).unwrap_or(u64::MAX));
    from[usize::try_from(index).unwrap_or(0)]
}

impl fmt::Display for Peer {
    /// The host's name on the simulated network.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sequencer => f.write_str("sequencer"),
            Self::Celestia => f.write_str("celestia"),
            Self::Rollup(index) => write!(f, "rollup-{index}"),
        }
    }
}
