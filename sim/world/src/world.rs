//! The whole model world: one sequencer, one Celestia, a relayer between them, and rollup nodes, moved on by time.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use downbeat_core::{CelestiaHeight, RollupId, RollupNumber, SequencerHeight, Timestamp};

use crate::{
    celestia::{CelestiaChain, CelestiaConfig},
    generate::{Contents, rollup_id},
    memo::{self, History, Memo},
    random::Random,
    relayer::{Relayer, RelayerConfig},
    rollup::{RollupConfig, RollupNode, SessionPlan},
    sequencer::{SequencerChain, SequencerConfig},
};

/// What a world is made of. The default suits a devnet on a laptop.
#[derive(Clone, Debug)]
pub struct WorldConfig {
    /// Stands for every seed of the parts.
    pub seed: u64,
    /// Of the sequencer.
    pub block_time: Duration,
    pub celestia_block_time: Duration,
    /// From a sequencer block until it may be in a Celestia block; stands for the relayer's own.
    pub da_delay: Duration,
    /// Number of rollup nodes, named `rollup-0` and so on.
    pub rollups: u32,
    /// Number of further rollups that have data in blocks, and no node here; their names go on counting, so that the
    /// chain does not depend on which of all rollups have a node.
    pub foreign_rollups: u32,
    pub contents: Contents,
    /// Chance in percent that a block changes the power of one of the first validators. Powers stay between 1 and 20.
    pub validator_change_percent: u8,
    pub sequencer: SequencerConfig,
    pub celestia: CelestiaConfig,
    pub relayer: RelayerConfig,
    /// Session of each node; chain ids are filled in from the chains.
    pub session: SessionPlan,
    /// What else the nodes are; rollup id, sessions and genesis are filled in.
    pub node: RollupConfig,
    /// Blocks that each chain keeps; all if unset.
    pub keep_blocks: Option<usize>,
    /// Shared with other worlds, some of which are equal to this one. Only for worlds whose sequencer nobody but
    /// [`World::step`] lets make blocks.
    pub memo: Option<Arc<Memo>>,
}

impl Default for WorldConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            block_time: Duration::from_millis(500),
            celestia_block_time: Duration::from_secs(1),
            da_delay: Duration::from_secs(2),
            rollups: 1,
            foreign_rollups: 2,
            contents: Contents::default(),
            validator_change_percent: 0,
            sequencer: SequencerConfig::default(),
            celestia: CelestiaConfig::default(),
            relayer: RelayerConfig::default(),
            session: SessionPlan::default(),
            node: RollupConfig::new(RollupId([0; 32])),
            keep_blocks: None,
            memo: None,
        }
    }
}

/// The model world. Everything in it may be changed from outside between steps.
#[derive(Debug)]
pub struct World {
    config: WorldConfig,
    pub sequencer: SequencerChain,
    pub celestia: CelestiaChain,
    pub relayer: Relayer,
    pub rollups: BTreeMap<RollupId, RollupNode>,
    node_ids: Vec<RollupId>,
    all_ids: Vec<RollupId>,
    random: Random,
    now: Timestamp,
    next_sequencer_block: Timestamp,
    next_celestia_block: Timestamp,
    /// Everything that the next sequencer block depends on.
    history: History,
    /// While set, the chain makes no blocks.
    pub sequencer_stalled: bool,
    /// While set, the chain makes no blocks.
    pub celestia_stalled: bool,
}

impl World {
    /// A world at its genesis time, with no blocks yet.
    ///
    /// # Panics
    /// If a chain id does not have 1 to 50 characters, or no validator has power.
    pub fn new(mut config: WorldConfig) -> Self {
        config.sequencer.seed = config.seed;
        config.celestia.seed = config.seed;
        config.relayer.seed = config.seed;
        config.relayer.delay = config.da_delay;
        config.session.sequencer_chain_id.clone_from(&config.sequencer.chain_id);
        config.session.celestia_chain_id.clone_from(&config.celestia.chain_id);
        let all = config.rollups.saturating_add(config.foreign_rollups);
        let all_ids: Vec<_> = (0..all).map(|index| rollup_id(&format!("rollup-{index}"))).collect();
        let node_ids: Vec<_> = (0..config.rollups).zip(&all_ids).map(|(_, id)| *id).collect();
        let genesis = config.sequencer.genesis_time;
        let node = |id: &RollupId| {
            let config = RollupConfig {
                rollup_id: *id,
                sessions: vec![config.session.clone()],
                genesis_time: crate::cometbft::wire_time(genesis),
                lowest_celestia_search_height: config.celestia.initial_height.0,
                ..config.node.clone()
            };
            (*id, RollupNode::new(config))
        };
        Self {
            sequencer: SequencerChain::new(config.sequencer.clone()),
            celestia: CelestiaChain::new(&config.celestia).remembering(config.memo.clone()),
            relayer: Relayer::new(config.relayer.clone(), config.sequencer.initial_height, config.memo.clone()),
            history: memo::after(
                &[0; 32],
                format!("{:?} {:?} {} {all_ids:?}", config.sequencer, config.contents, config.validator_change_percent)
                    .as_bytes(),
            ),
            rollups: node_ids.iter().map(node).collect(),
            all_ids,
            node_ids,
            random: Random::new(config.seed, "contents"),
            now: genesis,
            next_sequencer_block: genesis,
            next_celestia_block: genesis.after(config.celestia_block_time),
            sequencer_stalled: false,
            celestia_stalled: false,
            config,
        }
    }

    pub fn config(&self) -> &WorldConfig {
        &self.config
    }

    /// Ids of the rollups that have a node, in the order of their names.
    pub fn node_ids(&self) -> &[RollupId] {
        &self.node_ids
    }

    /// Moment up to which the world has been stepped.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// When the next block of either chain is due.
    pub fn next_event(&self) -> Timestamp {
        self.next_sequencer_block.min(self.next_celestia_block)
    }

    /// Makes every block that is due up to and including `to`, in order of time. Going back in time does nothing.
    pub fn step(&mut self, to: Timestamp) {
        while self.next_event() <= to {
            if self.next_sequencer_block <= self.next_celestia_block {
                let at = self.next_sequencer_block;
                self.next_sequencer_block = later(at, self.config.block_time);
                if !self.sequencer_stalled {
                    self.make_sequencer_block(at);
                }
            } else {
                let at = self.next_celestia_block;
                self.next_celestia_block = later(at, self.config.celestia_block_time);
                if !self.celestia_stalled {
                    self.make_celestia_block(at);
                }
            }
        }
        self.now = self.now.max(to);
    }

    /// Makes a sequencer block with contents drawn from the seed, ahead of schedule.
    pub fn make_sequencer_block(&mut self, at: Timestamp) -> SequencerHeight {
        let memo = self.config.memo.clone();
        self.history = memo::after(&self.history, &at.0.to_be_bytes());
        let height = if let Some(known) = memo.as_ref().and_then(|memo| memo.block(&self.history)) {
            self.random.clone_from(&known.1);
            self.sequencer.adopt(&known.0)
        } else {
            let mut input = self.config.contents.draw(&mut self.random, &self.all_ids);
            if self.config.validator_change_percent > 0 && self.random.chance(self.config.validator_change_percent) {
                let validators = self.config.sequencer.validators.len() as u64;
                let number = u32::try_from(self.random.below(validators)).unwrap_or(0);
                input.validator_updates.push((number, self.random.within(1, 20)));
            }
            let height = self.sequencer.make_block(at, input);
            if let (Some(memo), Some(made)) = (memo, self.sequencer.newest()) {
                memo.keep_block(self.history, made, self.random.clone());
            }
            height
        };
        if let Some(keep) = self.config.keep_blocks {
            // What is not published yet must stay.
            let unpublished = height.next().0.saturating_sub(self.relayer.next().0);
            self.sequencer.prune(keep.max(usize::try_from(unpublished).unwrap_or(usize::MAX)));
        }
        height
    }

    /// Lets the relayer post, then makes a Celestia block, ahead of schedule.
    pub fn make_celestia_block(&mut self, at: Timestamp) -> CelestiaHeight {
        let height = self.celestia.head().next();
        for (namespace, data) in self.relayer.blobs_for(height, at, &self.sequencer) {
            // The namespaces are of version 0 and the data has a length, hence every blob has a commitment.
            self.celestia.submit(namespace, data).expect("the relayer's blobs can be posted");
        }
        let height = self.celestia.make_block(at);
        if let Some(keep) = self.config.keep_blocks {
            self.celestia.prune(keep);
        }
        height
    }

    /// Sequencer height of a rollup block, by the session of [`WorldConfig`].
    pub fn sequencer_height(&self, number: RollupNumber) -> SequencerHeight {
        let session = &self.config.session;
        session.sequencer_start.plus(number.0).minus(session.rollup_start.0)
    }
}

/// The next multiple; never the same moment again, so that a step ends.
fn later(at: Timestamp, interval: Duration) -> Timestamp {
    at.after(interval.max(Duration::from_nanos(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(world: &World, seconds: u64) -> Timestamp {
        world.config().sequencer.genesis_time.after(Duration::from_secs(seconds))
    }

    #[test]
    fn time_makes_blocks_and_blobs_follow_after_the_delay() {
        let mut world = World::new(WorldConfig::default());
        world.step(seconds(&world, 10));
        assert_eq!(world.sequencer.head(), SequencerHeight(21));
        assert_eq!(world.celestia.head(), CelestiaHeight(10));
        assert_eq!(world.relayer.next(), SequencerHeight(18), "blocks up to second 8 are published");
        assert_eq!(world.now(), seconds(&world, 10));
        world.sequencer_stalled = true;
        world.step(seconds(&world, 20));
        assert_eq!(world.sequencer.head(), SequencerHeight(21));
        assert_eq!(world.celestia.head(), CelestiaHeight(20));
        assert_eq!(world.relayer.next(), SequencerHeight(22));
    }

    #[test]
    fn small_steps_and_large_ones_lead_to_the_same_world() {
        let config = WorldConfig { seed: 3, rollups: 2, ..WorldConfig::default() };
        let (mut small, mut large) = (World::new(config.clone()), World::new(config));
        for second in 0..=30 {
            small.step(seconds(&small, second));
        }
        large.step(seconds(&large, 30));
        let heads = |world: &World| {
            let sequencer = world.sequencer.signed_header(world.sequencer.head()).cloned();
            let celestia = world.celestia.block(world.celestia.head()).cloned();
            (sequencer, celestia.map(|block| (block.signed_header.clone(), block.blobs().to_vec())))
        };
        assert_eq!(heads(&small), heads(&large));
    }

    #[test]
    fn a_world_that_prunes_goes_on_publishing() {
        let config = WorldConfig { keep_blocks: Some(20), ..WorldConfig::default() };
        let mut world = World::new(config);
        world.step(seconds(&world, 60));
        assert_eq!(world.sequencer.blocks().count(), 20);
        assert_eq!(world.relayer.next(), SequencerHeight(118));
    }
}
