//! Filtered blocks against a plain reading of the protocol, and soft against firm for blocks made from the input.

use std::collections::BTreeSet;

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use downbeat_core::{
    BlockHash, Limits, RollupId, SequencerHeight, Timestamp, Verified,
    sequencer::{
        BoundMetadata, RollupRecord, SoftBlock, SoftBlockRequest, TrustedHeader, UnverifiedFilteredBlock,
        UnverifiedMetadata, ValidatorSet, price_feed, verify_filtered_block, verify_signed_header,
    },
};
use downbeat_world::{
    BlockInput, SequencerChain, SequencerConfig,
    forge::{Forgery, sequenced},
    published::PublishedBlock,
    sequencer::Block,
};
use prost::Message as _;

use super::{genuine::BLOCKS, naive, tiny_limits};

/// The first byte says what the others are: an encoded block, or the contents of one to be made.
pub fn filtered_block(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let limits = if kind & 2 == 0 { Limits::default() } else { tiny_limits() };
    if kind & 1 == 0 {
        let bytes = Bytes::copy_from_slice(rest);
        judge(&bytes, &request_for(&bytes, &limits), &limits);
    } else if let Ok(contents) = Contents::arbitrary_take_rest(Unstructured::new(rest)) {
        made(contents, &limits);
    }
}

/// A request that the block answers, as far as one can.
fn request_for(bytes: &Bytes, limits: &Limits) -> SoftBlockRequest {
    let rollup_ids = vec![BLOCKS[0].rollup, RollupId([7; 32]), BLOCKS[0].rollup];
    match UnverifiedFilteredBlock::decode(bytes, limits) {
        Ok(block) => SoftBlockRequest { height: block.height(), chain_id: block.chain_id().to_owned(), rollup_ids },
        Err(_) => SoftBlockRequest { height: SequencerHeight(4), chain_id: BLOCKS[0].chain_id.clone(), rollup_ids },
    }
}

/// Accepted exactly if the plain reading accepts, with the same elements.
fn judge(bytes: &Bytes, request: &SoftBlockRequest, limits: &Limits) -> Option<SoftBlock> {
    let expected = naive::filtered(bytes, request, limits);
    let (block, (message, elements)) = match (verify_filtered_block(bytes, request, limits), expected) {
        (Ok(block), Some(expected)) => (block, expected),
        (Err(_), None) => return None,
        (actual, expected) => panic!("{actual:?}, and the model says {expected:?}"),
    };
    let header = message.header.expect("a header");
    let feed = message.extended_commit_info_with_proof.map(|info| info.extended_commit_info);
    let feed = feed.and_then(|info| price_feed::first_transaction(&info, limits).expect("accepted before"));
    assert_eq!((block.height(), block.block_hash().0.as_slice()), (request.height, message.block_hash.as_ref()));
    assert!(block.blocks().keys().eq(elements.keys()));
    for (id, elements) in elements {
        let block = &block.blocks()[&id];
        let expected: Vec<_> = feed.iter().cloned().chain(elements).collect();
        assert_eq!(block.transactions(), expected);
        assert_eq!((block.height(), Some(block.time())), (request.height, header.time));
        assert_eq!(block.size(), expected.iter().map(prost::Message::encoded_len).sum::<usize>());
    }
    Some(block)
}

/// A block to be made, and how it is lied about.
#[derive(Debug, Arbitrary)]
struct Contents {
    rollups: Vec<(u8, Vec<Vec<u8>>)>,
    /// Elements are taken as they are instead of being wrapped.
    bare_elements: bool,
    users: Vec<Vec<u8>>,
    commit_info: Option<Vec<u8>>,
    upgrade: Vec<[u8; 32]>,
    raw_roots: bool,
    nanos: u32,
    forgery: Lie,
    /// Places in the encoded block and bytes that are put there.
    changes: Vec<(u16, u8)>,
}

#[derive(Debug, Arbitrary)]
enum Lie {
    Transactions(Vec<u8>),
    WithoutRollup(u8),
    ExtraRollup(u8, Vec<u8>),
    BlockHash([u8; 32]),
    ChainId(String),
    Height(u64),
    Later(u32),
    Proposer([u8; 20]),
    WithoutInfo,
    Info(Vec<u8>),
    Upgrade(Vec<[u8; 32]>),
}

fn id(number: u8) -> RollupId {
    RollupId([number % 5; 32])
}

/// Makes a block, takes it both ways, then lies about it.
fn made(contents: Contents, limits: &Limits) {
    let height = SequencerHeight(1);
    let mut chain = SequencerChain::new(SequencerConfig {
        validators: vec![1],
        data_items_from: SequencerHeight(if contents.raw_roots { 2 } else { 1 }),
        vote_extensions_from: None,
        upgrades: [(height, contents.upgrade.iter().take(4).copied().collect())].into(),
        ..SequencerConfig::default()
    });
    let wrap = |element: Vec<u8>| if contents.bare_elements { element.into() } else { sequenced(element) };
    let rollups = contents.rollups.into_iter().take(8);
    let input = BlockInput {
        rollup_data: rollups
            .map(|(number, elements)| (id(number), elements.into_iter().take(8).map(wrap).collect()))
            .collect(),
        // Signed transactions have several fields, which tells them from the sequencer's own items.
        sequencer_transactions: contents
            .users
            .into_iter()
            .take(8)
            .map(|user| [b"\x0a\0\x12\0", &user[..]].concat().into())
            .collect(),
        extended_commit_info: contents.commit_info.map(Bytes::from),
        ..BlockInput::default()
    };
    let at = Timestamp(chain.config().genesis_time.0 + u64::from(contents.nanos));
    chain.make_block(at, input);
    let block = chain.block(height).expect("the block was made");
    let header = verified(block, chain.chain_id());
    let request =
        SoftBlockRequest { height, chain_id: chain.chain_id().to_owned(), rollup_ids: (0..5).map(id).collect() };

    let encoded = block.published.filtered(&request.rollup_ids).encode_to_vec();
    let soft = judge(&encoded.clone().into(), &request, limits);
    let items = block.published.data().transactions();
    let firm = bind(&block.published, &header, &items, limits);
    let data = block.published.data();
    let is_readable = !contents.bare_elements
        && data.extended_commit_info.as_ref().is_none_or(|info| price_feed::check(info, limits).is_ok());
    if is_readable && *limits == Limits::default() {
        assert!(soft.is_some() && firm.is_some(), "a genuine block is refused");
    }
    if let (Some(soft), Some(firm)) = (&soft, &firm) {
        agree(soft, firm, block, limits);
    }

    let forged = block.published.forged(lie(contents.forgery));
    if let (Some(bound), Some(genuine)) = (bind(&forged, &header, &items, limits), firm) {
        assert_eq!(bound, genuine, "what is bound to a committed header is what was committed (S2)");
    }
    judge(&forged.filtered(&request.rollup_ids).encode_to_vec().into(), &request, limits);

    let mut changed = encoded;
    for (at, to) in contents.changes.into_iter().take(4) {
        let length = changed.len();
        changed[usize::from(at) % length] = to;
    }
    judge(&changed.into(), &request, limits);
}

fn verified(block: &Block, chain_id: &str) -> Verified<TrustedHeader> {
    let set = ValidatorSet::new(block.validators.infos(), 1).expect("a set of one");
    verify_signed_header(&block.signed_header, &set, chain_id, SequencerHeight(1)).expect("a committed header")
}

/// As a node binds it: with the block's data items only if there is no other way.
fn bind(
    block: &PublishedBlock,
    header: &Verified<TrustedHeader>,
    items: &[Bytes],
    limits: &Limits,
) -> Option<Verified<BoundMetadata>> {
    let bytes = block.metadata().encode_to_vec();
    let metadata = UnverifiedMetadata::decode(&bytes.clone().into(), limits);
    assert_eq!(metadata.is_ok(), naive::metadata(&bytes, limits).is_some(), "{metadata:?}");
    let metadata = metadata.ok()?;
    match metadata.bind(header, None) {
        Err(refusal) if refusal.needs_transactions() => metadata.bind(header, Some(items)).ok(),
        bound => bound.ok(),
    }
}

/// S9: soft and firm have the same content.
fn agree(soft: &SoftBlock, bound: &Verified<BoundMetadata>, block: &Block, limits: &Limits) {
    let mut seen = BTreeSet::new();
    for (id, soft) in soft.blocks() {
        let firm = match block.published.rollup_data(id) {
            Some(data) => {
                seen.insert(*id);
                let record = RollupRecord::decode(&data.encode_to_vec().into(), limits).expect("read softly as well");
                bound.block_with(&record)
            }
            None => bound.empty_block(id),
        };
        assert_eq!(firm.as_ref(), Ok(soft));
    }
    assert!(block.published.rollup_ids().eq(seen), "every rollup was asked for");
}

fn lie(lie: Lie) -> Forgery {
    match lie {
        Lie::Transactions(content) => Forgery::Transactions(content.into()),
        Lie::WithoutRollup(number) => Forgery::WithoutRollup(id(number)),
        Lie::ExtraRollup(number, content) => Forgery::ExtraRollup(id(number), content.into()),
        Lie::BlockHash(hash) => Forgery::BlockHash(BlockHash(hash)),
        Lie::ChainId(id) => Forgery::ChainId(id),
        Lie::Height(height) => Forgery::Height(height),
        Lie::Later(seconds) => Forgery::Later(seconds),
        Lie::Proposer(address) => Forgery::Proposer(address),
        Lie::WithoutInfo => Forgery::WithoutExtendedCommitInfo,
        Lie::Info(info) => Forgery::ExtendedCommitInfo(info.into()),
        Lie::Upgrade(hashes) => Forgery::UpgradeChangeHashes(hashes),
    }
}
