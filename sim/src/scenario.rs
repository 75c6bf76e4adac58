//! A run as data: readable, writable, and independent of how it was drawn.

use std::time::Duration;

use downbeat_core::{Limits, cell::Mode};
use downbeat_world::{RelayerConfig, WorldConfig, random::Random};
use serde::{Deserialize, Serialize};

use crate::{Faults, Plan, Simulation, Violation};

/// Everything that a run depends on, besides the code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What the run shows, for people.
    #[serde(default)]
    pub about: String,
    pub seed: u64,
    pub mode: Mode,
    pub rollups: u32,
    /// Head that every rollup must reach: firm, or soft in `SoftOnly`.
    pub blocks: u64,
    /// Time with faults and time without, in seconds.
    pub faulty_for_s: u64,
    pub healthy_for_s: u64,
    /// In Celestia heights.
    pub look_ahead: u64,
    /// Lengths of the first sessions, in blocks.
    #[serde(default)]
    pub sessions: Vec<u64>,
    #[serde(default)]
    pub faults: Faults,
    #[serde(default)]
    pub relayer: Relaying,
    pub limits: Limits,
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

impl Scenario {
    /// A healthy run, fast in virtual time.
    pub fn healthy(seed: u64, mode: Mode) -> Self {
        Self {
            about: String::new(),
            seed,
            mode,
            rollups: 1,
            blocks: 40,
            faulty_for_s: 0,
            healthy_for_s: 120,
            look_ahead: 30,
            sessions: Vec::new(),
            faults: Faults::default(),
            relayer: Relaying::default(),
            limits: Limits {
                fetch_deadline: Duration::from_secs(3),
                execution_deadline: Duration::from_secs(4),
                backoff_last: Duration::from_secs(1),
                session_delay_last: Duration::from_secs(2),
                ..Limits::default()
            },
        }
    }

    /// Any mix of faults, limits and sessions. Each kind is left out of half of the runs, so that rare combinations are
    /// dense in some.
    pub fn swarm(seed: u64) -> Self {
        let mut random = Random::new(seed, "swarm");
        let mode = match random.below(4) {
            0 => Mode::SoftOnly,
            1 => Mode::FirmOnly,
            _ => Mode::SoftAndFirm,
        };
        let mut scenario = Self::healthy(seed, mode);
        let mut pick = |most: u64| if random.chance(50) { 0 } else { random.within(1, most) };
        let mut percent = |most: u64| u8::try_from(pick(most)).unwrap_or(u8::MAX);
        scenario.faults = Faults {
            delay_ms: u64::from(percent(200)) * 10 + 1,
            refused: percent(30),
            lost: percent(10),
            reply_lost: percent(30),
            repeated: percent(50),
            conductor_restarts: percent(20),
            node_restarts: percent(20),
            revocations: percent(20),
            hostile_posts: percent(100),
        };
        scenario.faulty_for_s = random.within(5, 60);
        scenario.blocks = scenario.faulty_for_s + 20;
        scenario.rollups = u32::try_from(random.within(1, 3)).unwrap_or(1);
        if random.chance(50) {
            scenario.relayer =
                Relaying { late_blocks: random.within(1, 5), shuffle: random.chance(50), duplicate_percent: 20 };
        }
        let limits = &mut scenario.limits;
        if random.chance(50) {
            limits.soft_firm_spread = random.within(1, 20);
        }
        if random.chance(40) {
            scenario.sessions = (0..random.within(1, 5)).map(|_| random.within(1, 8)).collect();
        }
        if random.chance(30) {
            let mut size = |low, high| usize::try_from(random.within(low, high)).unwrap_or(usize::MAX);
            limits.candidates_per_height = size(1, 3);
            limits.firm_buffer_bytes = size(1, 20_000);
            limits.soft_buffer_bytes = size(1, 5_000);
            limits.headers_in_flight = size(1, 3);
            limits.trusted_headers = size(1, 10);
            limits.celestia_in_flight = size(1, 3);
            if random.chance(50) {
                limits.firm_ahead = random.within(1, 60);
                limits.headers_ahead = random.within(1, 60);
            }
        }
        scenario
    }

    /// What the simulation needs.
    pub fn plan(&self) -> Plan {
        let mut world = WorldConfig {
            seed: self.seed,
            block_time: Duration::from_millis(700),
            celestia_block_time: Duration::from_millis(1_900),
            da_delay: Duration::from_secs(3),
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
        Plan {
            seed: self.seed,
            world,
            limits: self.limits.clone(),
            mode: self.mode,
            sessions: self.sessions.clone(),
            faults: self.faults,
            faulty_for: Duration::from_secs(self.faulty_for_s),
            healthy_for: Duration::from_secs(self.healthy_for_s),
        }
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// The first violation of an invariant.
    pub fn run(&self) -> Result<Simulation, Violation> {
        let mut simulation = Simulation::new(self.plan());
        simulation.run(|simulation| self.has_arrived(simulation))?;
        Ok(simulation)
    }

    fn has_arrived(&self, simulation: &Simulation) -> bool {
        simulation.world.rollups.values().all(|node| {
            let head = if self.mode.follows_firm() { node.firm() } else { node.soft() };
            head.0 >= self.blocks
        })
    }
}
