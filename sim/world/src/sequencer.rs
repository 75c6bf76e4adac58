//! The shared sequencer: a CometBFT chain of real headers and commits, with the data of several rollups in its blocks.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use downbeat_core::{
    BlockHash, RollupId, SequencerHeight, Timestamp,
    merkle::Hash,
    wire::proto::{
        astria::{
            protocol::price_feed::v1::{ExtendedCommitInfoWithCurrencyPairMapping, IdWithCurrencyPair},
            sequencerblock::v1::{
                FilteredSequencerBlock, SequencerBlock, SequencerBlockHeader, SubmittedMetadata, SubmittedRollupData,
            },
        },
        astria_vendored::tendermint::abci::{BlockIdFlag, ExtendedCommitInfo, ExtendedVoteInfo, Validator},
        connect::{abci::v2::OracleVoteExtension, types::v2::CurrencyPair},
    },
};
use prost::Message as _;
use tendermint::{
    block::{Commit, signed_header::SignedHeader},
    chain,
};

use crate::{
    cometbft::{self, Proposal, Vote},
    published::{BlockData, Format, PublishedBlock},
    random::Random,
    validators::{Keyring, ValidatorSet},
};

/// What a chain is from its genesis on.
#[derive(Clone, Debug)]
pub struct SequencerConfig {
    /// 1 to 50 characters.
    pub chain_id: String,
    pub seed: u64,
    /// Powers of the first validators, which are numbered from 0.
    pub validators: Vec<u64>,
    pub genesis_time: Timestamp,
    pub initial_height: SequencerHeight,
    /// Blocks before this height have [`Format::RawRoots`].
    pub data_items_from: SequencerHeight,
    /// Blocks **above** this height carry extended commit info, as CometBFT's parameter has it; none do if unset.
    pub vote_extensions_from: Option<SequencerHeight>,
    /// Hashes of the changes that an upgrade brings, at the heights where it activates.
    pub upgrades: BTreeMap<SequencerHeight, Vec<Hash>>,
}

impl Default for SequencerConfig {
    fn default() -> Self {
        Self {
            chain_id: "downbeat-sequencer".to_owned(),
            seed: 0,
            validators: vec![10; 4],
            // 2026-01-01T00:00:00Z
            genesis_time: Timestamp(1_767_225_600_000_000_000),
            initial_height: SequencerHeight(1),
            data_items_from: SequencerHeight(1),
            vote_extensions_from: Some(SequencerHeight(1)),
            upgrades: BTreeMap::new(),
        }
    }
}

/// What goes into one block, and how the validators treat it.
#[derive(Clone, Debug, Default)]
pub struct BlockInput {
    /// Encoded `RollupData` per rollup. A repeated id adds to the earlier one.
    pub rollup_data: Vec<(RollupId, Vec<Bytes>)>,
    pub sequencer_transactions: Vec<Bytes>,
    /// Validator numbers and new powers, 0 to remove. In effect two heights later.
    pub validator_updates: Vec<(u32, u64)>,
    /// By validator number; the others commit.
    pub votes: BTreeMap<u32, Vote>,
    pub round: u16,
    /// Stands in for the extended commit info that the last votes give, whatever it is made of.
    pub extended_commit_info: Option<Bytes>,
}

/// A committed block.
#[derive(Clone, Debug)]
pub struct Block {
    pub published: PublishedBlock,
    pub signed_header: SignedHeader,
    pub validators: Arc<ValidatorSet>,
    /// Commit of the block before; none for the first.
    pub last_commit: Option<Commit>,
    time: Timestamp,
}

impl Block {
    pub fn hash(&self) -> BlockHash {
        self.published.block_hash()
    }

    /// Time of the header.
    pub fn time(&self) -> Timestamp {
        self.time
    }
}

/// A sequencer chain. Grows by [`make_block`](Self::make_block) and forgets only when told to.
#[derive(Debug)]
pub struct SequencerChain {
    config: SequencerConfig,
    chain_id: chain::Id,
    keyring: Keyring,
    random: Random,
    /// Prices that the oracle's validators see, by id.
    prices: [u64; PAIRS.len()],
    blocks: VecDeque<Block>,
    /// Height of the next block.
    next_height: u64,
    /// The newest block's signed header, which outlives pruning.
    last: Option<SignedHeader>,
    last_transactions: usize,
    genesis_validators: Arc<ValidatorSet>,
    validators: Arc<ValidatorSet>,
    next_validators: Arc<ValidatorSet>,
}

/// What the oracle quotes: base, quote, decimals.
const PAIRS: [(&str, &str, u64); 2] = [("BTC", "USD", 5), ("ETH", "USD", 6)];

impl SequencerChain {
    /// # Panics
    /// If the chain id does not have 1 to 50 characters, or no validator has power.
    pub fn new(config: SequencerConfig) -> Self {
        let mut keyring = Keyring::new(config.seed);
        let powers: Vec<_> = (0..).zip(config.validators.iter().copied()).collect();
        let validators = Arc::new(ValidatorSet::genesis(&mut keyring, &powers));
        Self {
            chain_id: cometbft::chain_id(&config.chain_id),
            random: Random::new(config.seed, "sequencer"),
            prices: [9_500_000_000, 3_200_000_000],
            blocks: VecDeque::new(),
            next_height: config.initial_height.0.max(1),
            last: None,
            last_transactions: 0,
            next_validators: Arc::new(validators.next(&mut keyring, &[])),
            genesis_validators: validators.clone(),
            validators,
            keyring,
            config,
        }
    }

    pub fn config(&self) -> &SequencerConfig {
        &self.config
    }

    pub fn chain_id(&self) -> &str {
        self.chain_id.as_str()
    }

    /// Validators of the first height.
    pub fn genesis_validators(&self) -> &ValidatorSet {
        &self.genesis_validators
    }

    /// Height of the newest block; one below the initial height while there is none.
    pub fn head(&self) -> SequencerHeight {
        SequencerHeight(self.next_height - 1)
    }

    /// Height of the oldest block that is kept; above the head if none is.
    pub fn tail(&self) -> SequencerHeight {
        SequencerHeight(self.next_height - self.blocks.len() as u64)
    }

    /// Appends a block whose header has `time`, committed by votes cast shortly afterwards.
    pub fn make_block(&mut self, time: Timestamp, input: BlockInput) -> SequencerHeight {
        let height = self.next_height;
        let at = SequencerHeight(height);
        let mut data = BlockData {
            format: if at < self.config.data_items_from { Format::RawRoots } else { Format::DataItems },
            upgrade_change_hashes: self.config.upgrades.get(&at).cloned().unwrap_or_default(),
            extended_commit_info: input.extended_commit_info.or_else(|| self.extended_commit_info(at)),
            sequencer_transactions: input.sequencer_transactions,
            ..BlockData::default()
        };
        for (id, transactions) in input.rollup_data {
            data.rollups.entry(id).or_default().extend(transactions);
        }
        let mut published = PublishedBlock::new(
            BlockHash([0; 32]),
            SequencerBlockHeader {
                chain_id: self.config.chain_id.clone(),
                height,
                time: Some(cometbft::wire_time(time)),
                proposer_address: Bytes::copy_from_slice(self.validators.proposer().as_bytes()),
                ..SequencerBlockHeader::default()
            },
            data,
        );
        let transactions = published.data().transactions();
        let header = Proposal {
            chain_id: &self.chain_id,
            app_version: 3,
            height,
            time,
            last: self.last.as_ref(),
            data_hash: cometbft::data_hash(&transactions),
            last_results: self.last_transactions,
            validators: &self.validators,
            next_validators: &self.next_validators,
        }
        .header();
        if let tendermint::Hash::Sha256(hash) = header.hash() {
            published.block_hash = BlockHash(hash);
        }
        let random = &mut self.random;
        let commit = cometbft::commit(&header, input.round, &self.validators, &mut self.keyring, |member| {
            let delay = Duration::from_micros(random.within(1_000, 400_000));
            (input.votes.get(&member.number).copied().unwrap_or_default(), time.after(delay))
        });
        let signed_header = SignedHeader::new(header, commit).expect("header and commit have one height");

        let last_commit = self.last.replace(signed_header.clone()).map(|last| last.commit);
        self.last_transactions = transactions.len();
        self.blocks.push_back(Block {
            published,
            signed_header,
            validators: self.validators.clone(),
            last_commit,
            time,
        });
        let after_next = Arc::new(self.next_validators.next(&mut self.keyring, &input.validator_updates));
        self.validators = std::mem::replace(&mut self.next_validators, after_next);
        self.next_height += 1;
        at
    }

    /// Forgets all but the newest `keep` blocks.
    pub fn prune(&mut self, keep: usize) {
        self.blocks.drain(..self.blocks.len().saturating_sub(keep));
    }

    /// Nothing for heights above the head and for those that were pruned.
    pub fn block(&self, height: SequencerHeight) -> Option<&Block> {
        let index = height.0.checked_sub(self.tail().0)?;
        self.blocks.get(usize::try_from(index).ok()?)
    }

    /// All that are kept, ascending.
    pub fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.blocks.iter()
    }

    pub fn signed_header(&self, height: SequencerHeight) -> Option<&SignedHeader> {
        self.block(height).map(|block| &block.signed_header)
    }

    /// Known one height further than blocks are.
    pub fn validators(&self, height: SequencerHeight) -> Option<&ValidatorSet> {
        if height.0 == self.next_height {
            return Some(&self.validators);
        }
        self.block(height).map(|block| &*block.validators)
    }

    /// The data items as CometBFT holds them.
    pub fn transactions(&self, height: SequencerHeight) -> Option<Vec<Bytes>> {
        self.block(height).map(|block| block.published.data().transactions())
    }

    pub fn filtered_block(&self, height: SequencerHeight, rollup_ids: &[RollupId]) -> Option<FilteredSequencerBlock> {
        self.block(height).map(|block| block.published.filtered(rollup_ids))
    }

    pub fn sequencer_block(&self, height: SequencerHeight) -> Option<SequencerBlock> {
        self.block(height).map(|block| block.published.sequencer_block())
    }

    pub fn metadata(&self, height: SequencerHeight) -> Option<SubmittedMetadata> {
        self.block(height).map(|block| block.published.metadata())
    }

    pub fn rollup_data(&self, height: SequencerHeight, rollup_id: &RollupId) -> Option<SubmittedRollupData> {
        self.block(height).and_then(|block| block.published.rollup_data(rollup_id))
    }

    /// What the votes on the last block carry, for the block at `height`.
    fn extended_commit_info(&mut self, height: SequencerHeight) -> Option<Bytes> {
        if height < self.config.data_items_from || self.config.vote_extensions_from.is_none_or(|from| height <= from) {
            return None;
        }
        for price in &mut self.prices {
            // A random walk of at most half a percent per block, which never leaves the positive numbers.
            let step = *price / 200;
            *price = (*price - step).saturating_add(self.random.below(2 * step + 1));
        }
        let info = ExtendedCommitInfoWithCurrencyPairMapping {
            extended_commit_info: Some(self.extended_votes()),
            id_to_currency_pair: (0..)
                .zip(PAIRS)
                .map(|(id, (base, quote, decimals))| IdWithCurrencyPair {
                    id,
                    currency_pair: Some(CurrencyPair { base: base.to_owned(), quote: quote.to_owned() }),
                    decimals,
                })
                .collect(),
        };
        Some(info.encode_to_vec().into())
    }

    fn extended_votes(&mut self) -> ExtendedCommitInfo {
        use tendermint::block::CommitSig::{BlockIdFlagAbsent, BlockIdFlagCommit, BlockIdFlagNil};

        let (Some(last), Some(block)) = (&self.last, self.blocks.back()) else { return ExtendedCommitInfo::default() };
        let round = u16::try_from(last.commit.round.value()).unwrap_or_default();
        let mut votes = Vec::new();
        for (member, signature) in block.validators.members().iter().zip(&last.commit.signatures) {
            let mut vote = ExtendedVoteInfo {
                validator: Some(Validator {
                    address: Bytes::copy_from_slice(member.address.as_bytes()),
                    power: i64::try_from(member.power).unwrap_or(i64::MAX),
                }),
                ..ExtendedVoteInfo::default()
            };
            match signature {
                BlockIdFlagAbsent => vote.set_block_id_flag(BlockIdFlag::Absent),
                BlockIdFlagNil { .. } => vote.set_block_id_flag(BlockIdFlag::Nil),
                BlockIdFlagCommit { .. } => {
                    vote.set_block_id_flag(BlockIdFlag::Commit);
                    let quote = |price: u64, random: &mut Random| {
                        let seen = i128::from(price) + i128::from(random.below(price / 1_000 + 1));
                        Bytes::copy_from_slice(&seen.to_be_bytes())
                    };
                    let prices = (0..).zip(self.prices.map(|price| quote(price, &mut self.random))).collect();
                    let extension = OracleVoteExtension { prices }.encode_to_vec();
                    let bytes =
                        cometbft::extension_sign_bytes(&self.chain_id, last.header.height.value(), round, &extension);
                    vote.extension_signature = Bytes::copy_from_slice(&self.keyring.sign(member.number, &bytes));
                    vote.vote_extension = extension.into();
                }
            }
            votes.push(vote);
        }
        ExtendedCommitInfo { round: round.into(), votes }
    }
}
