//! What a run is made of, as data: drawn from a seed, kept in files, changed by hand and by the minimiser.

use std::{collections::BTreeMap, time::Duration};

use downbeat_core::{
    Limits,
    cell::Mode,
    gossip::GossipSettings,
    light::{RootSetting, SoftTrust, Trust, TrustSettings},
};
use downbeat_world::{SequencerChain, generate::Contents, random::Random};
use serde::{Deserialize, Serialize};

use crate::{
    Simulation, Violation,
    fault::{Firing, Kind},
};

/// A simulation in a form that survives in files. Fields that a file leaves out have their defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scenario {
    /// Why it is kept.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub about: String,
    /// The invariant that it once broke.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub found: String,
    /// Feeds every decision about faults.
    pub seed: u64,
    /// Feeds the contents of the chains. Few different ones, for what worlds are made of is made once for each.
    pub world: u64,
    /// How much is in the sequencer's blocks.
    #[serde(skip_serializing_if = "is_default")]
    pub filling: Filling,
    pub mode: Mode,
    #[serde(skip_serializing_if = "is_default")]
    pub pace: Pace,
    pub rollups: u32,
    /// Powers of the sequencer's validators.
    pub validators: Vec<u64>,
    /// Blocks that every rollup must reach: firm, or soft in soft-only mode.
    pub blocks: u64,
    /// Seconds during which faults happen.
    pub faulty_for_s: u64,
    /// Seconds within which the healed world must arrive.
    pub healthy_for_s: u64,
    /// What the conductor believes of Celestia.
    #[serde(skip_serializing_if = "Trust::is_endpoint")]
    pub celestia_trust: Trust,
    /// Celestia's validators, and where trust in them begins.
    #[serde(skip_serializing_if = "is_default")]
    pub celestia_chain: CelestiaValidators,
    /// Celestia heights.
    pub look_ahead: u64,
    /// Lengths of the first sessions, in blocks; an endless one follows.
    pub sessions: Vec<u64>,
    /// Longest ordinary time that a request or a reply takes, in milliseconds: this is what reorders.
    pub latency_ms: u64,
    /// The same for those that [`Kind::Slow`] hits.
    pub delay_ms: u64,
    /// Which limits are tiny.
    pub tiny: Tiny,
    /// What the conductor believes, and whom it asks.
    #[serde(skip_serializing_if = "Believes::is_ordinary")]
    pub trust: Believes,
    /// Whether there are other conductors, and what comes from them.
    #[serde(skip_serializing_if = "is_default")]
    pub gossip: Gossiping,
    /// Chances of the faults, in percent per passage of their sites; a kind that is not there never happens.
    pub faults: BTreeMap<Kind, u8>,
    /// If given, exactly these faults happen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Vec<Firing>>,
}

/// Whose word is believed about the sequencer's headers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Believes {
    pub level: Trust,
    pub soft: SoftTrust,
    /// CometBFT nodes, at least one.
    pub nodes: u32,
    /// Whether trust begins with the genesis, and not with the first header that comes.
    pub genesis: bool,
    /// Otherwise: whether it begins with the hash of the first header, and not with the first header that comes.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub first_header: bool,
}

impl Default for Believes {
    /// Scenarios that are older than trust in consensus say nothing about it.
    fn default() -> Self {
        Self { level: Trust::Endpoint, soft: SoftTrust::Sequencer, nodes: 1, genesis: false, first_header: false }
    }
}

/// Blocks from other conductors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gossiping {
    pub enabled: bool,
    pub publish: bool,
    /// There is no sequencer server, nor a CometBFT node.
    pub alone: bool,
    /// Messages that wait for a verdict, of all peers; a third of it of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undecided: Option<usize>,
    /// Heights past the next one that are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ahead: Option<u64>,
}

impl Gossiping {
    pub(crate) fn settings(&self) -> GossipSettings {
        let ordinary = GossipSettings::default();
        let undecided = self.undecided.unwrap_or(ordinary.undecided);
        GossipSettings {
            enabled: self.enabled,
            publish: self.publish,
            undecided,
            undecided_per_peer: self.undecided.map_or(ordinary.undecided_per_peer, |all| (all / 3).max(1)),
            ahead: self.ahead.unwrap_or(ordinary.ahead),
            answer_within: Duration::from_secs(2),
            ..ordinary
        }
    }
}

/// Who signs Celestia's headers, and whether trust begins with the genesis, with the hash of a header, or with the first
/// header that comes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CelestiaValidators {
    pub powers: Vec<u64>,
    /// A validator is replaced each time so many blocks were made; 0 is never.
    pub change_every: u64,
    pub genesis: bool,
    /// Without the genesis: trust begins with the header of this height, to which the chain has come when the run begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<u64>,
}

impl Default for CelestiaValidators {
    fn default() -> Self {
        Self { powers: vec![5_000], change_every: 0, genesis: false, root: None }
    }
}

impl CelestiaValidators {
    fn drawn(seed: u64) -> Self {
        let mut random = Random::new(seed, "celestia validators");
        let powers: [&[u64]; 4] = [&[5_000], &[10; 4], &[1; 3], &[3, 1, 1]];
        Self {
            powers: powers[usize::try_from(random.below(4)).unwrap_or(0)].to_vec(),
            change_every: if random.chance(50) { random.within(1, 4) } else { 0 },
            genesis: random.chance(50),
            root: None,
        }
        .with_root(&mut random)
    }

    fn with_root(self, random: &mut Random) -> Self {
        let root = (!self.genesis && random.chance(60)).then(|| random.within(1, 15));
        Self { root, ..self }
    }

    /// Whether trust begins with something that was configured.
    pub(crate) fn has_root(&self) -> bool {
        self.genesis || self.root.is_some()
    }
}

impl Believes {
    fn is_ordinary(&self) -> bool {
        *self == Self::default()
    }

    /// Half of the runs trust in consensus.
    fn drawn(seed: u64) -> Self {
        let mut random = Random::new(seed, "trust");
        if random.chance(50) {
            return Self::default();
        }
        Self {
            level: Trust::Consensus,
            soft: if random.chance(70) { SoftTrust::Consensus } else { SoftTrust::Sequencer },
            nodes: u32::try_from(random.within(1, 3)).unwrap_or(1),
            genesis: random.chance(60),
            first_header: random.chance(55),
        }
    }

    /// Whether trust begins with something that was configured: whoever is asked first may be a liar.
    pub(crate) fn has_root(&self) -> bool {
        self.genesis || self.first_header
    }

    /// `sequencer` has made its first block.
    pub(crate) fn settings(&self, sequencer: &SequencerChain) -> TrustSettings {
        let first = sequencer.block(sequencer.tail()).filter(|_| self.first_header);
        let root = match first {
            _ if self.genesis => RootSetting::Genesis(Box::new(sequencer.genesis())),
            Some(first) => RootSetting::Header { height: sequencer.tail().0, hash: first.hash() },
            None => RootSetting::FirstUse,
        };
        let (level, soft, nodes) = (self.level, self.soft, self.nodes.max(1));
        // Clocks here are wrong by seconds.
        let clock_drift = Duration::from_secs(3);
        TrustSettings { level, soft, root, nodes, clock_drift, ..TrustSettings::default() }
    }
}

/// How much is in the sequencer's blocks. What depends on numbers of blocks is found with little as well, and much faster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Filling {
    /// Data of five rollups, half a kilobyte of each: what Celestia gets of a few blocks takes up rows of a square.
    #[default]
    Full,
    /// Data of four rollups, a few bytes of each: it takes up single shares.
    Lean,
}

impl Filling {
    /// Rollups with data in every chain, at least: how many of them have a node makes no other chain.
    pub(crate) fn rollups(self) -> u32 {
        if self == Self::Full { 5 } else { 4 }
    }

    pub(crate) fn contents(self) -> Contents {
        match self {
            Self::Full => Contents::default(),
            Self::Lean => Contents {
                elements: (1, 2),
                element_size: (8, 48),
                sequencer_transactions: (0, 2),
                ..Contents::default()
            },
        }
    }
}

/// How fast the chains are, and how patient the conductor is with its peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pace {
    /// A block every 0.7 seconds, and every 1.9 on Celestia; deadlines and waits of seconds: much happens in little time.
    #[default]
    Brisk,
    /// As on public networks: every 2 and 6 seconds, with the ordinary deadlines and waits. Outages are longer, and rarer.
    Real,
    /// The same with a Celestia that makes a block every 12 seconds.
    Slow,
}

impl Pace {
    pub(crate) fn block_time(self) -> Duration {
        Duration::from_millis(if self == Self::Brisk { 700 } else { 2_000 })
    }

    pub(crate) fn celestia_block_time(self) -> Duration {
        Duration::from_millis(match self {
            Self::Brisk => 1_900,
            Self::Real => 6_000,
            Self::Slow => 12_000,
        })
    }

    pub(crate) fn da_delay(self) -> Duration {
        Duration::from_secs(if self == Self::Brisk { 3 } else { 10 })
    }

    /// How much longer outages last, and how much rarer they are.
    pub(crate) fn stretch(self) -> u64 {
        if self == Self::Brisk { 1 } else { 4 }
    }

    /// Blocks that a world which is faulty for so many seconds has to reach: some of them are made afterwards.
    pub(crate) fn blocks(self, faulty_for_s: u64) -> u64 {
        faulty_for_s / if self == Self::Brisk { 1 } else { 2 } + 15
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Limits that differ from the ordinary ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tiny {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soft_firm_spread: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soft_ahead: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soft_in_flight: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soft_buffer_bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub celestia_in_flight: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firm_ahead: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firm_buffer_bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub candidates_per_height: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers_in_flight: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers_ahead: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trusted_headers: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validator_sets: Option<usize>,
    /// At a brisk pace two seconds unless given: as long as a simulated world is faulty, sessions must come back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_delay_last_s: Option<u64>,
}

impl Tiny {
    /// Limits for simulated worlds: a blob that unpacks to more than a quarter of a megabyte is a bomb, and at a brisk
    /// pace waits are short.
    pub fn limits(&self, pace: Pace) -> Limits {
        let mut ordinary = Limits::default();
        if pace == Pace::Brisk {
            ordinary = Limits {
                fetch_deadline: Duration::from_secs(3),
                execution_deadline: Duration::from_secs(4),
                backoff_last: Duration::from_secs(1),
                session_delay_last: Duration::from_secs(2),
                ..ordinary
            };
        }
        Limits {
            session_delay_last: self.session_delay_last_s.map_or(ordinary.session_delay_last, Duration::from_secs),
            blob_unpacked_bytes: 256 << 10,
            blob_ratio_floor_bytes: 64 << 10,
            soft_firm_spread: self.soft_firm_spread.unwrap_or(ordinary.soft_firm_spread),
            soft_ahead: self.soft_ahead.unwrap_or(ordinary.soft_ahead),
            soft_in_flight: self.soft_in_flight.unwrap_or(ordinary.soft_in_flight),
            soft_buffer_bytes: self.soft_buffer_bytes.unwrap_or(ordinary.soft_buffer_bytes),
            celestia_in_flight: self.celestia_in_flight.unwrap_or(ordinary.celestia_in_flight),
            firm_ahead: self.firm_ahead.unwrap_or(ordinary.firm_ahead),
            firm_buffer_bytes: self.firm_buffer_bytes.unwrap_or(ordinary.firm_buffer_bytes),
            candidates_per_height: self.candidates_per_height.unwrap_or(ordinary.candidates_per_height),
            headers_in_flight: self.headers_in_flight.unwrap_or(ordinary.headers_in_flight),
            headers_ahead: self.headers_ahead.unwrap_or(ordinary.headers_ahead),
            trusted_headers: self.trusted_headers.unwrap_or(ordinary.trusted_headers),
            validator_sets: self.validator_sets.unwrap_or(ordinary.validator_sets),
            ..ordinary
        }
    }

    fn drawn(random: &mut Random) -> Self {
        let mut tiny = Self::default();
        if random.chance(50) {
            tiny.soft_firm_spread = Some(random.within(1, 20));
        }
        if random.chance(60) {
            return tiny;
        }
        let mut maybe = |low, high| random.chance(60).then(|| random.within(low, high));
        let size = |number: Option<u64>| number.map(|number| usize::try_from(number).unwrap_or(usize::MAX));
        tiny.soft_ahead = maybe(1, 20);
        tiny.soft_in_flight = size(maybe(1, 3));
        tiny.soft_buffer_bytes = size(maybe(1, 5_000));
        tiny.celestia_in_flight = size(maybe(1, 3));
        tiny.firm_ahead = maybe(1, 60);
        tiny.firm_buffer_bytes = size(maybe(1, 20_000));
        tiny.candidates_per_height = size(maybe(1, 3));
        tiny.headers_in_flight = size(maybe(1, 3));
        tiny.headers_ahead = maybe(1, 60);
        tiny.trusted_headers = size(maybe(1, 10));
        tiny.validator_sets = size(maybe(1, 2));
        tiny
    }
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            about: String::new(),
            found: String::new(),
            seed: 0,
            world: 0,
            filling: Filling::Full,
            mode: Mode::SoftAndFirm,
            pace: Pace::Brisk,
            rollups: 1,
            validators: vec![10; 4],
            blocks: 30,
            faulty_for_s: 0,
            healthy_for_s: 180,
            celestia_trust: Trust::Endpoint,
            celestia_chain: CelestiaValidators::default(),
            look_ahead: 40,
            sessions: Vec::new(),
            latency_ms: 5,
            delay_ms: 0,
            tiny: Tiny::default(),
            trust: Believes::default(),
            gossip: Gossiping::default(),
            faults: BTreeMap::new(),
            schedule: None,
        }
    }
}

/// Highest weight of a kind in drawn scenarios, in percent.
fn most(kind: Kind) -> u8 {
    match kind {
        Kind::Slow | Kind::Repeated | Kind::ShuffledBlobs | Kind::DoubledBlobs => 50,
        Kind::Refused | Kind::ReplyFailed => 30,
        Kind::FallenNode | Kind::PeersSilent => 8,
        Kind::Lost
        | Kind::ReplyLost
        | Kind::Late
        | Kind::NodeRestart
        | Kind::Revoked
        | Kind::Crash
        | Kind::DiskFailed => 10,
        Kind::Partition
        | Kind::Held
        | Kind::RelayerPause
        | Kind::RelayerAmnesia
        | Kind::CelestiaStall
        | Kind::SequencerStall
        | Kind::Pause
        | Kind::Stop
        | Kind::ClockAhead
        | Kind::ClockBack
        | Kind::NodeAmnesia => 6,
        Kind::CrashBefore | Kind::CrashBetween | Kind::CrashAfter | Kind::Busy | Kind::Denied => 5,
        Kind::Broken | Kind::WrongNumber | Kind::WrongParent | Kind::WrongEcho | Kind::EmptyReply => 2,
        Kind::Equivocation | Kind::PeersGone => 3,
        Kind::LateRelaying
        | Kind::ShuffledRelaying
        | Kind::RepeatedRelaying
        | Kind::MalformedEntry
        | Kind::LyingNode
        | Kind::SilentNode
        | Kind::ShortTrust
        | Kind::LaggingNode
        | Kind::NoBlockchain
        | Kind::ValidatorChanges => 100,
        Kind::PostedGarbage
        | Kind::PostedForgery
        | Kind::PostedForgedData
        | Kind::PostedForeign
        | Kind::PostedCopy
        | Kind::PostedAhead => 60,
        Kind::PostedBomb | Kind::PostedFlood => 20,
        _ => 25,
    }
}

impl Scenario {
    /// A world without faults.
    pub fn healthy(seed: u64, mode: Mode) -> Self {
        Self { seed, world: seed % 4, mode, ..Self::default() }
    }

    /// A world with these faults, for twenty seconds.
    pub fn with(seed: u64, mode: Mode, faults: impl IntoIterator<Item = (Kind, u8)>) -> Self {
        Self { faulty_for_s: 20, blocks: 40, faults: faults.into_iter().collect(), ..Self::healthy(seed, mode) }
    }

    /// Any mix of faults, limits and sessions. Each kind is left out of most runs, so that rare combinations are dense
    /// in some.
    pub fn swarm(seed: u64) -> Self {
        let mut random = Random::new(seed, "swarm");
        let mode = match random.below(5) {
            0 => Mode::SoftOnly,
            1 => Mode::FirmOnly,
            _ => Mode::SoftAndFirm,
        };
        let mut scenario = Self::healthy(seed, mode);
        // Three worlds: what a run is about is what happens to its blocks, and not what is in them.
        (scenario.world, scenario.filling) = match seed % 8 {
            0 => (0, Filling::Full),
            rest => (1 + rest % 2, Filling::Lean),
        };
        // Few kinds, or many; what ends a cell only now and then, for nothing is learnt from it any more.
        let share = if random.chance(50) { 12 } else { 35 };
        let may_park = random.chance(15);
        for kind in Kind::ALL.iter().filter(|kind| !kind.is_of_proofs() && !kind.is_of_light() && !kind.is_of_gossip())
        {
            let weight = random.within(1, u64::from(most(*kind)));
            let is_in = random.chance(share) && (may_park || !kind.may_park());
            if is_in {
                scenario.faults.insert(*kind, u8::try_from(weight).unwrap_or(u8::MAX));
            }
        }
        // A stream of its own: what was drawn before there were proofs stays as it was.
        let mut proofs = Random::new(seed, "proofs");
        if proofs.chance(25) {
            scenario.celestia_trust = Trust::Consensus;
            scenario.celestia_chain = CelestiaValidators::drawn(seed);
            for kind in Kind::ALL.iter().filter(|kind| kind.is_of_proofs()) {
                let weight = proofs.within(1, u64::from(most(*kind)));
                if proofs.chance(share) {
                    scenario.faults.insert(*kind, u8::try_from(weight).unwrap_or(u8::MAX));
                }
            }
        }
        scenario.latency_ms = if random.chance(50) { 5 } else { random.within(1, 400) };
        scenario.delay_ms = random.within(10, 2_000);
        scenario.pace = match Random::new(seed, "pace").below(12) {
            0 => Pace::Slow,
            1 | 2 => Pace::Real,
            _ => Pace::Brisk,
        };
        scenario.faulty_for_s = random.within(5, 45) * scenario.pace.stretch();
        scenario.healthy_for_s *= scenario.pace.stretch();
        scenario.blocks = scenario.pace.blocks(scenario.faulty_for_s);
        scenario.rollups = u32::try_from(random.within(1, 3)).unwrap_or(1);
        if random.chance(40) {
            scenario.sessions = (0..random.within(1, 5)).map(|_| random.within(1, 8)).collect();
        }
        scenario.tiny = Tiny::drawn(&mut random);
        scenario.trust = Believes::drawn(seed);
        scenario.draw_of_light(share);
        scenario.draw_of_gossip(share);
        // Where exactly two thirds lie matters most with totals that three does not divide.
        let powers: [&[u64]; 7] = [&[10; 4], &[1], &[1; 4], &[1; 5], &[1; 8], &[3, 1, 1], &[7, 5, 3, 2, 2]];
        scenario.validators = powers[usize::try_from(random.below(7)).unwrap_or(0)].to_vec();
        // A window that a run outgrows; not where whole stretches of Celestia stay without blocks of the sequencer.
        let gaps = [Kind::RelayerPause, Kind::SequencerStall, Kind::LateRelaying];
        if random.chance(40) && !gaps.iter().any(|kind| scenario.faults.contains_key(kind)) {
            scenario.look_ahead = random.within(8, 20);
        }
        scenario
    }

    /// Adds what can only happen with trust in consensus.
    fn draw_of_light(&mut self, share: u8) {
        // A stream of its own: what is drawn of the rest stays as it was.
        let mut random = Random::new(self.seed, "light");
        if self.trust.level != Trust::Consensus {
            return;
        }
        let weight = |weight: u64| u8::try_from(weight).unwrap_or(u8::MAX);
        for kind in Kind::ALL.iter().filter(|kind| kind.is_of_light() && !kind.may_park()) {
            let drawn = weight(random.within(1, u64::from(most(*kind))));
            if random.chance(share) {
                self.faults.insert(*kind, drawn);
            }
        }
        // What would be rare otherwise, and what ends cells by design: now and then, and then for certain.
        if self.trust.nodes > 1 && random.chance(12) {
            self.faults.insert(Kind::DoubleSigned, 100);
        }
        if self.trust.nodes > 1 && random.chance(12) {
            self.faults.insert(Kind::LyingNode, 100);
        }
        if random.chance(10) {
            self.faults.insert(Kind::ShortTrust, 100);
            if random.chance(60) {
                self.faults.insert(Kind::ClockAhead, weight(random.within(2, 8)));
            }
        }
    }

    /// Adds other conductors, where nothing that they say is believed.
    fn draw_of_gossip(&mut self, share: u8) {
        // A stream of its own: what is drawn of the rest stays as it was.
        let mut random = Random::new(self.seed, "gossip");
        let is_safe = self.trust.level == Trust::Consensus && self.trust.soft == SoftTrust::Consensus;
        if !is_safe || !random.chance(45) {
            return;
        }
        self.gossip = Gossiping { enabled: true, publish: random.chance(60), ..Gossiping::default() };
        self.gossip.alone = random.chance(50) && self.trust.has_root();
        if !self.mode.follows_soft() && !self.gossip.alone {
            // Peers have nothing for firm that a server does not have.
            self.gossip = Gossiping::default();
            return;
        }
        if random.chance(30) {
            self.gossip.undecided = usize::try_from(random.within(2, 12)).ok();
            self.gossip.ahead = Some(random.within(1, 8));
        }
        for kind in Kind::ALL.iter().filter(|kind| kind.is_of_gossip()) {
            let drawn = u8::try_from(random.within(1, u64::from(most(*kind)))).unwrap_or(u8::MAX);
            if random.chance(share) {
                self.faults.insert(*kind, drawn);
            }
        }
    }

    /// The same without one kind of fault.
    pub fn without(&self, kind: Kind) -> Self {
        let mut scenario = self.clone();
        scenario.faults.remove(&kind);
        if let Some(schedule) = &mut scenario.schedule {
            schedule.retain(|firing| firing.kind != kind);
        }
        scenario
    }

    /// The conductor's limits.
    pub fn limits(&self) -> Limits {
        Limits { celestia_trust: self.celestia_trust, gossip: self.gossip.settings(), ..self.tiny.limits(self.pace) }
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// The first violation of an invariant.
    pub fn run(&self) -> Result<Simulation, Violation> {
        let mut simulation = Simulation::new(self.clone());
        simulation.finish()?;
        Ok(simulation)
    }

    /// As a file.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_default()
    }

    /// From a file's text.
    ///
    /// # Errors
    /// What is wrong with it, with its place.
    pub fn from_toml(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Site;

    #[test]
    fn a_scenario_survives_its_file() {
        for seed in 0..50 {
            let mut scenario = Scenario::swarm(seed);
            scenario.schedule = Some(vec![Firing { kind: Kind::Crash, at: Site::Execute(1), nth: 3 }]);
            assert_eq!(Scenario::from_toml(&scenario.to_toml()), Ok(scenario));
        }
        assert!(Scenario::from_toml("sed = 3").is_err(), "what nobody knows is an error");
    }
}
