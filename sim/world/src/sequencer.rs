//! The shared sequencer: a CometBFT chain of real headers and commits, with the data of several rollups in its blocks.

use std::{
    borrow::Cow,
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use downbeat_core::{
    BlockHash, RollupId, SequencerHeight, Timestamp,
    light::Genesis,
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
    block::{Commit, Header, signed_header::SignedHeader},
    chain,
};

use crate::{
    cometbft::{self, Proposal, Vote},
    forge::Forgery,
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
    /// Whether vote extensions carry signatures or noise of the same length. Only validators among themselves check
    /// those: to sign them is half of the work for a block.
    pub signs_extensions: bool,
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
            signs_extensions: true,
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
    blocks: VecDeque<Arc<Block>>,
    /// What is served of some heights instead of the truth.
    lies: BTreeMap<SequencerHeight, Forgery>,
    genesis_validators: Arc<ValidatorSet>,
    state: State,
}

/// What the next block depends on.
#[derive(Clone, Debug)]
struct State {
    keyring: Keyring,
    random: Random,
    /// Prices that the oracle's validators see, by id.
    prices: [u64; PAIRS.len()],
    /// Height of the next block.
    next_height: u64,
    /// The newest block, which outlives pruning.
    last: Option<Arc<Block>>,
    last_transactions: usize,
    validators: Arc<ValidatorSet>,
    next_validators: Arc<ValidatorSet>,
}

/// A block, and the chain after it: see [`crate::memo`].
#[derive(Clone, Debug)]
pub(crate) struct Made {
    block: Arc<Block>,
    state: State,
}

/// What the oracle quotes: base, quote, decimals.
const PAIRS: [(&str, &str, u64); 2] = [("BTC", "USD", 5), ("ETH", "USD", 6)];

impl SequencerChain {
    /// # Panics
    /// If the chain id does not have 1 to 50 characters, or no validator has power.
    pub fn new(config: SequencerConfig) -> Self {
        let keyring = Keyring::new(config.seed);
        let powers: Vec<_> = (0..).zip(config.validators.iter().copied()).collect();
        let validators = Arc::new(ValidatorSet::genesis(keyring, &powers));
        Self {
            chain_id: cometbft::chain_id(&config.chain_id),
            blocks: VecDeque::new(),
            lies: BTreeMap::new(),
            genesis_validators: validators.clone(),
            state: State {
                random: Random::new(config.seed, "sequencer"),
                prices: [9_500_000_000, 3_200_000_000],
                next_height: config.initial_height.0.max(1),
                last: None,
                last_transactions: 0,
                next_validators: Arc::new(validators.next(keyring, &[])),
                validators,
                keyring,
            },
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

    /// What the chain began with, as its genesis file says.
    pub fn genesis(&self) -> Genesis {
        Genesis {
            chain_id: self.chain_id.to_string(),
            time: cometbft::time(self.config.genesis_time),
            initial_height: self.config.initial_height.0.max(1),
            validators: self.genesis_validators.infos(),
        }
    }

    /// Height of the newest block; one below the initial height while there is none.
    pub fn head(&self) -> SequencerHeight {
        SequencerHeight(self.state.next_height - 1)
    }

    /// Height of the oldest block that is kept; above the head if none is.
    pub fn tail(&self) -> SequencerHeight {
        SequencerHeight(self.state.next_height - self.blocks.len() as u64)
    }

    /// The newest block with everything that the next one depends on.
    pub(crate) fn newest(&self) -> Option<Made> {
        self.blocks.back().map(|block| Made { block: Arc::clone(block), state: self.state.clone() })
    }

    /// Appends a block that an equal chain has made.
    pub(crate) fn adopt(&mut self, made: &Made) -> SequencerHeight {
        self.blocks.push_back(Arc::clone(&made.block));
        self.state.clone_from(&made.state);
        self.head()
    }

    /// Appends a block whose header has `time`, committed by votes cast shortly afterwards.
    pub fn make_block(&mut self, time: Timestamp, input: BlockInput) -> SequencerHeight {
        let height = self.state.next_height;
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
                proposer_address: Bytes::copy_from_slice(self.state.validators.proposer().as_bytes()),
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
            last: self.state.last.as_ref().map(|last| &last.signed_header),
            data_hash: cometbft::data_hash(&transactions),
            last_results: self.state.last_transactions,
            validators: &self.state.validators,
            next_validators: &self.state.next_validators,
        }
        .header();
        if let tendermint::Hash::Sha256(hash) = header.hash() {
            published.block_hash = BlockHash(hash);
        }
        let State { random, validators, keyring, .. } = &mut self.state;
        let commit = cometbft::commit(&header, input.round, validators, *keyring, |member| {
            let delay = Duration::from_micros(random.within(1_000, 400_000));
            (input.votes.get(&member.number).copied().unwrap_or_default(), time.after(delay))
        });
        let signed_header = SignedHeader::new(header, commit).expect("header and commit have one height");

        let state = &mut self.state;
        let last_commit = state.last.as_ref().map(|last| last.signed_header.commit.clone());
        state.last_transactions = transactions.len();
        let validators = state.validators.clone();
        let block = Arc::new(Block { published, signed_header, validators, last_commit, time });
        state.last = Some(Arc::clone(&block));
        self.blocks.push_back(block);
        let after_next = Arc::new(state.next_validators.next(state.keyring, &input.validator_updates));
        state.validators = std::mem::replace(&mut state.next_validators, after_next);
        state.next_height += 1;
        at
    }

    /// Forgets all but the newest `keep` blocks.
    pub fn prune(&mut self, keep: usize) {
        self.blocks.drain(..self.blocks.len().saturating_sub(keep));
    }

    /// Nothing for heights above the head and for those that were pruned.
    pub fn block(&self, height: SequencerHeight) -> Option<&Block> {
        let index = height.0.checked_sub(self.tail().0)?;
        self.blocks.get(usize::try_from(index).ok()?).map(|block| &**block)
    }

    /// All that are kept, ascending.
    pub fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.blocks.iter().map(|block| &**block)
    }

    pub fn signed_header(&self, height: SequencerHeight) -> Option<&SignedHeader> {
        self.block(height).map(|block| &block.signed_header)
    }

    /// Has the validators of its height commit to a header that somebody else made: they sign a second time.
    pub fn sign_again(&self, header: Header, at: Timestamp) -> Option<SignedHeader> {
        let validators = self.validators(SequencerHeight(header.height.value()))?;
        let commit = cometbft::commit(&header, 0, validators, self.state.keyring, |_| (Vote::Commit, at));
        SignedHeader::new(header, commit).ok()
    }

    /// Known one height further than blocks are.
    pub fn validators(&self, height: SequencerHeight) -> Option<&ValidatorSet> {
        if height.0 == self.state.next_height {
            return Some(&self.state.validators);
        }
        self.block(height).map(|block| &*block.validators)
    }

    /// The data items as CometBFT holds them.
    pub fn transactions(&self, height: SequencerHeight) -> Option<Vec<Bytes>> {
        self.block(height).map(|block| block.published.data().transactions())
    }

    /// From now on the sequencer's own service answers with a forged block at `height`, or with the genuine one again.
    /// The chain, and what is published of it, stay as they are.
    pub fn lie_about(&mut self, height: SequencerHeight, forgery: Option<Forgery>) {
        match forgery {
            Some(forgery) => drop(self.lies.insert(height, forgery)),
            None => drop(self.lies.remove(&height)),
        }
    }

    /// What the sequencer's own service shows of a height.
    pub fn served(&self, height: SequencerHeight) -> Option<Cow<'_, PublishedBlock>> {
        let block = &self.block(height)?.published;
        Some(match self.lies.get(&height) {
            Some(forgery) => Cow::Owned(block.forged(forgery.clone())),
            None => Cow::Borrowed(block),
        })
    }

    /// `GetFilteredSequencerBlock`, lies included.
    pub fn filtered_block(&self, height: SequencerHeight, rollup_ids: &[RollupId]) -> Option<FilteredSequencerBlock> {
        self.served(height).map(|block| block.filtered(rollup_ids))
    }

    /// `GetSequencerBlock`, lies included.
    pub fn sequencer_block(&self, height: SequencerHeight) -> Option<SequencerBlock> {
        self.served(height).map(|block| block.sequencer_block())
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
        let State { prices, random, .. } = &mut self.state;
        for price in prices {
            // A random walk of at most half a percent per block, which never leaves the positive numbers.
            let step = *price / 200;
            *price = (*price - step).saturating_add(random.below(2 * step + 1));
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

        let State { last, random, prices, keyring, .. } = &mut self.state;
        let Some(block) = last else { return ExtendedCommitInfo::default() };
        let last = &block.signed_header;
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
                    let prices = (0..).zip(prices.map(|price| quote(price, random))).collect();
                    let extension = OracleVoteExtension { prices }.encode_to_vec();
                    let bytes =
                        cometbft::extension_sign_bytes(&self.chain_id, last.header.height.value(), round, &extension);
                    let signature =
                        if self.config.signs_extensions { keyring.sign(member.number, &bytes) } else { random.array() };
                    vote.extension_signature = Bytes::copy_from_slice(&signature);
                    vote.vote_extension = extension.into();
                }
            }
            votes.push(vote);
        }
        ExtendedCommitInfo { round: round.into(), votes }
    }
}

#[cfg(test)]
mod tests {
    use ed25519_consensus::{Signature, VerificationKey};
    use tendermint::{Hash, block::CommitSig, validator, vote};

    use super::*;
    use crate::{forge::sequenced, generate::Contents};

    fn ids() -> Vec<RollupId> {
        vec![RollupId([1; 32]), RollupId([2; 32]), RollupId([3; 32])]
    }

    fn chain(config: SequencerConfig, blocks: u64) -> SequencerChain {
        let (genesis, mut random) = (config.genesis_time, Random::new(7, "test"));
        let mut chain = SequencerChain::new(config);
        for number in 0..blocks {
            let mut input = Contents::default().draw(&mut random, &ids());
            match number {
                3 => input.validator_updates = vec![(1, 13), (3, 0), (9, 40)],
                4 => input.votes = BTreeMap::from([(0, Vote::Absent)]),
                7 => input.votes = BTreeMap::from([(1, Vote::Nil)]),
                8 => input.round = 2,
                _ => {}
            }
            chain.make_block(genesis.after(Duration::from_secs(number)), input);
        }
        chain
    }

    /// Voting power behind a commit, each signature checked over tendermint's own sign bytes.
    fn power_behind(signed: &SignedHeader, set: &ValidatorSet) -> u64 {
        let mut power = 0;
        for (member, signature) in set.members().iter().zip(&signed.commit.signatures) {
            let (block_id, address, timestamp, signature) = match signature {
                CommitSig::BlockIdFlagAbsent => continue,
                CommitSig::BlockIdFlagCommit { validator_address, timestamp, signature } => {
                    (Some(signed.commit.block_id), validator_address, timestamp, signature)
                }
                CommitSig::BlockIdFlagNil { validator_address, timestamp, signature } => {
                    (None, validator_address, timestamp, signature)
                }
            };
            let signature = signature.clone().expect("a vote is signed");
            let vote = vote::Vote {
                vote_type: vote::Type::Precommit,
                height: signed.header.height,
                round: signed.commit.round,
                block_id,
                timestamp: Some(*timestamp),
                validator_address: *address,
                validator_index: 0_u32.try_into().expect("an index"),
                signature: Some(signature.clone()),
                extension: Vec::new(),
                extension_signature: None,
            };
            let vote = vote::SignedVote::from_vote(vote, signed.header.chain_id.clone()).expect("a signed vote");
            let key = VerificationKey::try_from(member.public.to_bytes().as_slice()).expect("a key");
            let signature = Signature::try_from(signature.as_bytes()).expect("a signature");
            key.verify(&signature, &vote.sign_bytes()).expect("a valid signature");
            assert_eq!(*address, member.address);
            power += if block_id.is_some() { member.power } else { 0 };
        }
        power
    }

    #[test]
    fn headers_link_and_commits_hold() {
        let chain = chain(SequencerConfig::default(), 12);
        let mut last: Option<&Block> = None;
        for block in chain.blocks() {
            let SignedHeader { header, commit, .. } = &block.signed_header;
            assert_eq!(header.hash(), Hash::Sha256(block.hash().0));
            assert_eq!(commit.block_id.hash, header.hash());
            assert_eq!(header.validators_hash, validator::Set::without_proposer(block.validators.infos()).hash());
            let next = chain.validators(block.published.height().next()).expect("known one height further");
            assert_eq!(header.next_validators_hash, next.hash());
            assert_eq!(header.proposer_address, block.validators.proposer());
            let items = block.published.data().transactions();
            assert_eq!(header.data_hash, Some(Hash::Sha256(cometbft::data_hash(&items))));
            assert_eq!(header.last_block_id, last.map(|last| last.signed_header.commit.block_id));
            if let Some(last) = last {
                assert_eq!(
                    header.last_commit_hash,
                    Some(Hash::Sha256(cometbft::commit_hash(&last.signed_header.commit)))
                );
            }
            let total: u64 = block.validators.members().iter().map(|member| member.power).sum();
            let power = power_behind(&block.signed_header, &block.validators);
            assert!(3 * power > 2 * total, "height {}: {power} of {total}", header.height);
            last = Some(block);
        }
        let powers = |height| {
            let set = chain.validators(SequencerHeight(height)).expect("a set");
            set.members().iter().map(|member| (member.number, member.power)).collect::<Vec<_>>()
        };
        assert_eq!(powers(5).len(), 4, "the update of block 4 is not in effect yet");
        assert_eq!(powers(6)[..2], [(9, 40), (1, 13)]);
        assert_eq!(powers(6).len(), 4);
        assert_eq!(chain.signed_header(SequencerHeight(9)).map(|signed| signed.commit.round.value()), Some(2));
    }

    #[test]
    fn every_validator_proposes_in_proportion_to_its_power() {
        let config = SequencerConfig { validators: vec![1, 2, 3, 4], ..SequencerConfig::default() };
        let mut chain = SequencerChain::new(config);
        let mut proposed = BTreeMap::<_, u64>::new();
        for second in 0..100 {
            chain.make_block(Timestamp(second * 1_000_000_000), BlockInput::default());
        }
        for block in chain.blocks() {
            let member = block.validators.members().iter().find(|member| member.address == block.validators.proposer());
            *proposed.entry(member.expect("the proposer is a member").power).or_default() += 1;
        }
        assert_eq!(proposed, BTreeMap::from([(1, 10), (2, 20), (3, 30), (4, 40)]));
    }

    #[test]
    fn formats_and_items_follow_the_heights() {
        let config = SequencerConfig {
            data_items_from: SequencerHeight(4),
            vote_extensions_from: Some(SequencerHeight(5)),
            upgrades: BTreeMap::from([
                (SequencerHeight(4), vec![[9; 32]]),
                (SequencerHeight(8), vec![[8; 32], [7; 32]]),
            ]),
            ..SequencerConfig::default()
        };
        let chain = chain(config, 9);
        for block in chain.blocks() {
            let (height, data) = (block.published.height().0, block.published.data());
            let header = &block.signed_header.header;
            let same = header.data_hash
                == Some(Hash::Sha256(block.published.header().data_hash[..].try_into().expect("32 bytes")));
            assert_eq!(same, height < 4, "height {height}");
            assert_eq!(data.format == Format::RawRoots, height < 4, "height {height}");
            assert_eq!(data.extended_commit_info.is_some(), height > 5, "height {height}");
            assert_eq!(
                data.upgrade_change_hashes.len(),
                match height {
                    4 => 1,
                    8 => 2,
                    _ => 0,
                },
                "height {height}"
            );
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        let bytes = |seed| {
            let chain = chain(SequencerConfig { seed, ..SequencerConfig::default() }, 6);
            chain
                .blocks()
                .map(|block| (block.hash(), block.published.sequencer_block().encode_to_vec()))
                .collect::<Vec<_>>()
        };
        assert_eq!(bytes(1), bytes(1));
        assert_ne!(bytes(1), bytes(2));
    }

    #[test]
    fn a_lie_is_served_and_not_published() {
        let mut chain = chain(SequencerConfig::default(), 3);
        let (height, forgery) = (SequencerHeight(2), Forgery::BlockHash(BlockHash([9; 32])));
        let genuine = chain.filtered_block(height, &ids());
        let metadata = chain.metadata(height);
        chain.lie_about(height, Some(forgery));
        assert_eq!(chain.filtered_block(height, &[]).map(|block| block.block_hash), Some(Bytes::from_static(&[9; 32])));
        assert_eq!(chain.metadata(height), metadata);
        chain.lie_about(height, None);
        assert_eq!(chain.filtered_block(height, &ids()), genuine);
    }

    #[test]
    fn pruning_keeps_the_newest_and_the_chain_goes_on() {
        let mut chain = chain(SequencerConfig::default(), 6);
        chain.prune(2);
        assert_eq!((chain.tail(), chain.head()), (SequencerHeight(5), SequencerHeight(6)));
        assert!(chain.block(SequencerHeight(4)).is_none());
        let last = chain.signed_header(SequencerHeight(6)).map(|signed| signed.commit.block_id);
        chain.prune(0);
        let height = chain.make_block(Timestamp(9), BlockInput::default());
        assert_eq!(chain.signed_header(height).and_then(|signed| signed.header.last_block_id), last);
    }

    #[test]
    fn one_rollup_with_one_element_has_the_reference_hashes() {
        let data = BlockData {
            rollups: BTreeMap::from([(RollupId([0x2a; 32]), vec![sequenced("hello_world")])]),
            extended_commit_info: Some(Bytes::from_static(&[0x0a, 0])),
            ..BlockData::default()
        };
        let cometbft = cometbft::data_hash(&data.transactions());
        assert_eq!(hex::encode(cometbft), "852df1638d946946adb35cdda3e04d96e480dfb1b34bb7f0889b914ec3f07e6b");
        let header = SequencerBlockHeader {
            chain_id: "test_sequencer-1000".to_owned(),
            height: 3,
            time: Some(prost_types::Timestamp { seconds: 1, nanos: 1 }),
            proposer_address: Bytes::from_static(&[7; 20]),
            ..SequencerBlockHeader::default()
        };
        let hash: Vec<u8> = [3, 0, 0, 0].repeat(8);
        let block = PublishedBlock::new(BlockHash(hash.try_into().expect("32 bytes")), header, data);
        let filtered = block.filtered(&[RollupId([0x2a; 32])]).encode_to_vec();
        assert_eq!(filtered.len(), 436, "reference, appendix A");
        let data_hash = &block.header().data_hash;
        assert_eq!(hex::encode(data_hash), "e06cb9b2aa0d6de0794047ef2a6837e950c76fbce4900a732b43715c31f3599c");
        assert_eq!(block.metadata().encoded_len() + 3, 382, "as the one entry of a list: appendix A");
    }
}
