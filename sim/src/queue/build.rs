//! How a run begins: the world, its limits and the conductor that a scenario asks for.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, OnceLock},
    time::Duration,
};

use downbeat_core::{
    CelestiaHeight, CellId, Conductor, Limits, Timestamp,
    light::{RootSetting, Trust},
    sequencer::header_hash,
};
use downbeat_world::{
    CelestiaConfig, Memo, RollupNode, World, WorldConfig,
    relayer::{Packing, RelayerConfig},
    rollup::{SessionEnd, SessionPlan},
    sequencer::SequencerConfig,
    square::Parity,
};

use crate::{
    Scenario,
    fault::{Draw, Injector, Kind, Site},
    nodes::BadNodes,
    observe::Observations,
    oracle,
};

use super::{Observer, Simulation, gossip::PeerNet};

impl Simulation {
    pub fn new(scenario: Scenario) -> Self {
        Self::observed(scenario, None)
    }

    /// A run that somebody follows.
    pub fn observed(scenario: Scenario, observer: Option<Box<dyn Observer>>) -> Self {
        let mut injector = Injector::new(scenario.seed, scenario.faults.clone(), scenario.schedule.clone());
        let run = injector.pass(Site::Run);
        // In one run of 256, blobs are compressed as relayers do it, which takes megabytes of memory for each, and squares
        // are extended as Celestia does it.
        let is_thorough = scenario.seed.is_multiple_of(256);
        let packing = if is_thorough { Packing::Compressed } else { Packing::Stored };
        let parity = if is_thorough { Parity::Coded } else { Parity::Zeros };
        let mut relayer = RelayerConfig { packing, ..RelayerConfig::default() };
        if let Some(mut draw) = injector.fires(Kind::LateRelaying, run) {
            relayer.late_blocks = draw.within(1, 5);
        }
        relayer.shuffle = injector.fires(Kind::ShuffledRelaying, run).is_some();
        if let Some(mut draw) = injector.fires(Kind::RepeatedRelaying, run) {
            relayer.duplicate_percent = [10, 25, 40][draw.index(3)];
        }
        if let Some(mut draw) = injector.fires(Kind::MalformedEntry, run) {
            relayer.malformed_percent = [20, 60][draw.index(2)];
        }
        let changes = injector.fires(Kind::ValidatorChanges, run);
        let mut config = WorldConfig {
            memo: Some(Arc::clone(memo())),
            celestia: CelestiaConfig {
                powers: scenario.celestia_chain.powers.clone(),
                change_every: scenario.celestia_chain.change_every,
                signs: scenario.celestia_trust == Trust::Consensus,
                squares: (scenario.celestia_trust == Trust::Consensus).then_some(parity),
                ..CelestiaConfig::default()
            },
            // Few different ones: what worlds are made of is made once for each.
            validator_change_percent: changes.map_or(0, |mut draw| [15, 60][draw.index(2)]),
            sequencer: SequencerConfig {
                validators: scenario.validators.clone(),
                signs_extensions: false,
                ..SequencerConfig::default()
            },
            seed: scenario.world,
            block_time: scenario.pace.block_time(),
            celestia_block_time: scenario.pace.celestia_block_time(),
            da_delay: scenario.pace.da_delay(),
            rollups: scenario.rollups,
            foreign_rollups: scenario.filling.rollups().saturating_sub(scenario.rollups),
            contents: scenario.filling.contents(),
            relayer,
            ..WorldConfig::default()
        };
        config.session.look_ahead = scenario.look_ahead;
        let mut world = World::new(config);
        for node in world.rollups.values_mut() {
            split_sessions(node, &scenario);
        }
        if scenario.trust.first_header {
            world.step(world.now());
        }
        while scenario.celestia_chain.root.is_some_and(|root| world.celestia.head().0 < root) {
            world.step(world.next_event());
        }
        let now = world.now();
        let mut limits = Limits { trust: scenario.trust.settings(&world.sequencer), ..scenario.limits() };
        if scenario.celestia_chain.genesis {
            let genesis = world.celestia.genesis(Timestamp(world.now().0.saturating_sub(1)));
            limits.celestia.root = RootSetting::Genesis(Box::new(genesis));
        } else if let Some(root) = scenario.celestia_chain.root
            && let Some(block) = world.celestia.block(CelestiaHeight(root))
        {
            let hash = header_hash(&block.signed_header.header);
            limits.celestia.root = RootSetting::Header { height: root, hash };
        }
        // Clocks here are wrong by seconds.
        limits.celestia.clock_drift = limits.trust.clock_drift;
        if scenario.gossip.alone {
            limits.gossip.sole_source_of = Some(world.sequencer.chain_id().to_owned());
        }
        let bad_nodes = BadNodes::drawn(&mut injector, &scenario, run);
        if scenario.trust.level == Trust::Consensus
            && let Some(mut draw) = injector.fires(Kind::ShortTrust, run)
        {
            limits.trust.trusting_period = Duration::from_secs(draw.within(6, 30) * scenario.pace.stretch());
        }
        if limits.celestia_trust == Trust::Consensus && limits.trust.trusting_period < Duration::from_hours(1) {
            limits.celestia.trusting_period = limits.trust.trusting_period;
        }
        let mut simulation = Self {
            conductor: Conductor::new(limits.clone(), [0; 32], &[]),
            due: None,
            watch: oracle::Watch::new(limits.clone(), scenario.mode),
            limits,
            injector,
            scenario,
            world,
            seq: 0,
            lives: 0,
            now,
            shown: now,
            skew: 0,
            order: 0,
            queue: BTreeMap::new(),
            started: now,
            next_second: now.after(Duration::from_secs(1)),
            last_celestia: 0,
            paused_until: now,
            cut_off: BTreeMap::new(),
            held: BTreeMap::new(),
            relayer_until: now,
            celestia_until: now,
            sequencer_until: now,
            calls: 0,
            busiest_second: 0,
            causes: BTreeMap::new(),
            excused: BTreeSet::new(),
            lies: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            stop_asked: None,
            restart_at: None,
            healed_at: Timestamp::ZERO,
            steps_in_moment: 0,
            told_sequencer: false,
            told_celestia: false,
            broken: None,
            events: 0,
            course: Draw::new(0, 0, run),
            seen: Observations::default(),
            observer,
            reports: Vec::new(),
            exit: None,
            kept: BTreeMap::new(),
            is_persisting: false,
            waiting: VecDeque::new(),
            has_come_back: false,
            bad_nodes,
            fallen: None,
            net: PeerNet::default(),
            calls_at: BTreeMap::new(),
            busiest_site: None,
        };
        if simulation.bad_nodes.twin.is_some() || simulation.is_trust_short() {
            for cell in 0..simulation.scenario.rollups {
                simulation.excuse(CellId(cell));
            }
        }
        simulation.start_conductor();
        simulation
    }
}
/// Shared by all runs of the process: their worlds have few seeds.
fn memo() -> &'static Arc<Memo> {
    static MEMO: OnceLock<Arc<Memo>> = OnceLock::new();
    MEMO.get_or_init(Arc::default)
}

/// Cuts the node's one endless session into several.
fn split_sessions(node: &mut RollupNode, scenario: &Scenario) {
    let Some(endless) = node.config().sessions.first().cloned() else { return };
    let mut next = endless.clone();
    let mut sessions = Vec::new();
    for length in &scenario.sessions {
        let end = next.rollup_start.plus(length.saturating_sub(1));
        sessions.push(SessionPlan { rollup_end: Some(end), ..next.clone() });
        next.rollup_start = end.next();
        next.sequencer_start = next.sequencer_start.plus(*length);
    }
    sessions.push(next);
    let config = node.config_mut();
    config.sessions = sessions;
    config.session_end = if scenario.mode.follows_firm() { SessionEnd::Firm } else { SessionEnd::Soft };
}
