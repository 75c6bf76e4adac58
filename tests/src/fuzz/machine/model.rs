//! The world of the state machine's runs: a short chain, made once, with strangers' posts among the genuine ones.

use std::{collections::BTreeMap, time::Duration};

use downbeat_core::{
    Answer, Call, CelestiaHeight, CellId, Fault, FaultClass, RollupId, SequencerHeight, Timestamp,
    celestia::Namespace,
    cell::Mode,
    event::{Blob, CelestiaBlock, CelestiaHead},
    fault,
    gossip::Message,
    light::SignedBlock,
    wire::proto::astria::{
        execution::v2::{
            ExecutedBlockIdentifier, GetExecutedBlockMetadataRequest, executed_block_identifier::Identifier,
        },
        sequencerblock::v1::RollupData,
    },
};
use downbeat_world::{
    RollupNode, SequencerConfig, World, WorldConfig,
    forge::Forgery,
    relayer::{metadata_blob, rollup_data_blob},
    rollup::{SessionEnd, Status},
};
use prost::Message as _;

use super::peers;

/// The sequencer's chain id.
pub(super) const SEQUENCER: &str = "downbeat-sequencer";

/// What one rollup has to execute for one sequencer block.
#[derive(Debug, PartialEq)]
pub(super) struct Genuine {
    pub(super) height: SequencerHeight,
    pub(super) time: prost_types::Timestamp,
    pub(super) transactions: Vec<RollupData>,
}

pub(super) struct Model {
    pub(super) world: World,
    /// By rollup and the sequencer block's hash.
    pub(super) genuine: BTreeMap<(RollupId, String), Genuine>,
    /// What honest peers have of each block.
    pub(super) messages: BTreeMap<SequencerHeight, Vec<Message>>,
}

impl Model {
    /// Runs `act` with the one model of this thread.
    pub(super) fn with(act: impl FnOnce(&Self)) {
        thread_local!(static MODEL: Model = Model::new());
        MODEL.with(act);
    }

    fn new() -> Self {
        let mut config = WorldConfig {
            seed: 11,
            block_time: Duration::from_millis(700),
            celestia_block_time: Duration::from_millis(1_900),
            da_delay: Duration::from_secs(2),
            rollups: 2,
            sequencer: SequencerConfig {
                // Heights whose metadata can only be bound with the block's data items.
                upgrades: [(SequencerHeight(5), vec![[5; 32]])].into(),
                vote_extensions_from: Some(SequencerHeight(3)),
                ..SequencerConfig::default()
            },
            ..WorldConfig::default()
        };
        config.session.look_ahead = 8;
        let mut world = World::new(config);
        let start = world.now();
        for tenth in 1..=200 {
            let head = world.celestia.head();
            world.step(start.after(Duration::from_millis(tenth * 100)));
            if world.celestia.head() > head {
                post(&mut world);
            }
        }
        let mut genuine = BTreeMap::new();
        for block in world.sequencer.blocks() {
            for rollup in world.node_ids() {
                genuine.insert(
                    (*rollup, block.hash().to_string()),
                    Self::genuine(&world, block.published.height(), *rollup),
                );
            }
        }
        let messages = peers::messages(&world);
        Self { world, genuine, messages }
    }

    /// What the sequencer's node says of a block, which is the truth in this world.
    fn genuine(world: &World, height: SequencerHeight, rollup: RollupId) -> Genuine {
        let request = downbeat_core::sequencer::SoftBlockRequest {
            height,
            chain_id: SEQUENCER.to_owned(),
            rollup_ids: vec![rollup],
        };
        let block = world.sequencer.filtered_block(height, &[rollup]).expect("the block exists").encode_to_vec();
        let block =
            downbeat_core::sequencer::verify_filtered_block(&block.into(), &request, &downbeat_core::Limits::default())
                .expect("a genuine block");
        let block = &block.blocks()[&rollup];
        Genuine { height, time: block.time(), transactions: block.transactions().to_vec() }
    }

    pub(super) fn start(&self) -> Timestamp {
        self.world.now()
    }

    pub(super) fn rollup(&self, cell: CellId) -> RollupId {
        let ids = self.world.node_ids();
        ids[usize::try_from(cell.0).expect("a small number") % ids.len()]
    }

    /// A fresh node for a cell.
    pub(super) fn node(&self, cell: CellId, mode: Mode) -> RollupNode {
        let mut config = self.world.rollups[&self.rollup(cell)].config().clone();
        config.session_end = if mode.follows_firm() { SessionEnd::Firm } else { SessionEnd::Soft };
        RollupNode::new(config)
    }

    /// The truth, or why there is none.
    pub(super) fn answer(&self, call: Call, nodes: &mut BTreeMap<CellId, RollupNode>) -> Result<Answer, Fault> {
        let not_yet = || Fault::new(FaultClass::NotYet, "no such height yet");
        let (sequencer, celestia) = (&self.world.sequencer, &self.world.celestia);
        let no_node = || Fault::transient("no such node");
        Ok(match call {
            Call::IdentifySequencer => Answer::SequencerIdentified { chain_id: sequencer.chain_id().to_owned() },
            Call::FetchSequencerHead => Answer::SequencerHeadFetched { height: sequencer.head() },
            Call::FetchSoftBlock { height, rollup_ids } => {
                let block = sequencer.filtered_block(height, &rollup_ids).ok_or_else(not_yet)?;
                Answer::SoftBlockFetched { block: block.encode_to_vec().into() }
            }
            Call::FetchSignedHeader { height } => {
                let signed_header = sequencer.signed_header(height).ok_or_else(not_yet)?;
                Answer::SignedHeaderFetched { signed_header: Box::new(signed_header.clone()) }
            }
            Call::FetchHeaders { first, last } => {
                let known = sequencer.blocks().map(|block| &block.signed_header.header);
                let headers = known.filter(|header| (first.0..=last.0).contains(&header.height.value()));
                Answer::HeadersFetched { headers: headers.cloned().collect() }
            }
            Call::FetchValidators { height } => {
                Answer::ValidatorsFetched { validators: sequencer.validators(height).ok_or_else(not_yet)?.infos() }
            }
            Call::FetchBlockTransactions { height } => {
                Answer::BlockTransactionsFetched { transactions: sequencer.transactions(height).ok_or_else(not_yet)? }
            }
            Call::FetchCelestiaHead => {
                let time = celestia.block(celestia.head()).ok_or_else(not_yet)?.time();
                let chain_id = celestia.chain_id().to_owned();
                Answer::CelestiaHeadFetched { head: CelestiaHead { chain_id, height: celestia.head(), time } }
            }
            Call::FetchBlobs { height, namespaces } => {
                let block = celestia.block(height).ok_or_else(not_yet)?;
                let wanted = block.blobs().iter().filter(|blob| namespaces.contains(&blob.namespace));
                let blobs = wanted.map(|blob| Blob { namespace: blob.namespace, data: blob.data.clone() }).collect();
                Answer::BlobsFetched { blobs, unreadable: 0 }
            }
            Call::FetchNamespaces { height, namespaces } => {
                let block = celestia.block(height).ok_or_else(not_yet)?;
                let square = celestia.square(height).ok_or_else(not_yet)?;
                let namespaces = namespaces.iter().map(|namespace| square.namespace(*namespace)).collect();
                let (signed, availability) = (signed_block(block), square.header().clone());
                Answer::NamespacesFetched { block: Box::new(CelestiaBlock { signed, availability, namespaces }) }
            }
            Call::FetchCelestiaHeader { height } => {
                let block = celestia.block(height).ok_or_else(not_yet)?;
                Answer::CelestiaHeaderFetched { header: Box::new(signed_block(block)) }
            }
            Call::FetchCelestiaHeaders { first, last } => {
                let blocks = (first.0..=last.0).filter_map(|height| celestia.block(CelestiaHeight(height)));
                let headers = blocks.map(|block| block.signed_header.header.clone()).collect();
                Answer::CelestiaHeadersFetched { headers }
            }
            Call::OpenSession { cell } => {
                let session = nodes
                    .get_mut(&cell)
                    .ok_or_else(no_node)?
                    .create_execution_session()
                    .map_err(|status| rollup_fault(&status))?;
                Answer::SessionOpened { session: Box::new(session) }
            }
            Call::ExecuteBlock { cell, request } => {
                let response = nodes
                    .get_mut(&cell)
                    .ok_or_else(no_node)?
                    .execute_block(request)
                    .map_err(|status| rollup_fault(&status))?;
                Answer::BlockExecuted { response: Box::new(response) }
            }
            Call::UpdateCommitment { cell, request } => {
                let commitment = nodes
                    .get_mut(&cell)
                    .ok_or_else(no_node)?
                    .update_commitment_state(request)
                    .map_err(|status| rollup_fault(&status))?;
                Answer::CommitmentUpdated { commitment: Box::new(commitment) }
            }
            Call::FetchFromPeers { height, rollups } => peers::answer(&self.messages, height, &rollups)?,
            Call::FetchExecutedBlock { cell, number } => {
                let identifier = ExecutedBlockIdentifier { identifier: Some(Identifier::Number(number.0)) };
                let request = GetExecutedBlockMetadataRequest { identifier: Some(identifier) };
                let metadata = nodes
                    .get_mut(&cell)
                    .ok_or_else(no_node)?
                    .get_executed_block_metadata(request)
                    .map_err(|status| rollup_fault(&status))?;
                Answer::ExecutedBlockFetched { metadata: Box::new(metadata) }
            }
        })
    }
}

fn rollup_fault(status: &Status) -> Fault {
    Fault::new(fault::execution_status(status.code as i32), status.to_string())
}

/// What strangers post into each Celestia block: junk, forgeries of several kinds, another rollup's data, a copy.
fn post(world: &mut World) {
    let (sequencer, ids) = (Namespace::of_sequencer(SEQUENCER), world.node_ids().to_vec());
    let rollup = Namespace::of_rollup(&ids[0]);
    let Some(block) = world.sequencer.block(world.sequencer.head()).map(|block| block.published.clone()) else {
        return;
    };
    let lies = [
        Forgery::WithoutRollup(ids[0]),
        Forgery::Proposer([9; 20]),
        Forgery::Height(block.height().0 + 3),
        Forgery::WithoutExtendedCommitInfo,
        Forgery::UpgradeChangeHashes(vec![[9; 32]]),
        Forgery::Transactions("forged".into()),
    ];
    let forged = lies.map(|lie| block.forged(lie));
    let mut blobs = vec![(sequencer, "junk".into()), (rollup, "junk".into())];
    blobs.extend(forged.iter().map(|block| (sequencer, metadata_blob(vec![block.metadata()]))));
    blobs.push((sequencer, metadata_blob(vec![block.metadata()])));
    blobs.extend(forged[5].rollup_data(&ids[0]).map(|data| (rollup, rollup_data_blob(vec![data]))));
    blobs.extend(block.rollup_data(&ids[1]).map(|data| (rollup, rollup_data_blob(vec![data]))));
    for (namespace, data) in blobs {
        world.celestia.submit(namespace, data).expect("it has a length");
    }
}

fn signed_block(block: &downbeat_world::celestia::Block) -> SignedBlock {
    SignedBlock { signed_header: block.signed_header.clone(), validators: block.validators().infos() }
}
