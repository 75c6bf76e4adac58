//! The model's blocks against the verification that production uses.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use downbeat_core::{
    BlockHash, Limits, RollupId, SequencerHeight, Verified,
    celestia::{decode_metadata, decode_rollup_data},
    sequencer::{
        BoundMetadata, RollupRecord, SoftBlockRequest, TrustedHeader, UnverifiedMetadata, ValidatorSet,
        verify_filtered_block, verify_signed_header,
    },
};
use downbeat_world::{
    BlockInput, SequencerChain, SequencerConfig,
    cometbft::Vote,
    forge::{Forgery, sequenced},
    generate::Contents,
    published::PublishedBlock,
    random::Random,
    relayer::{metadata_blob, rollup_data_blob},
    sequencer::Block,
};

fn ids() -> [RollupId; 3] {
    [RollupId([1; 32]), RollupId([2; 32]), RollupId([3; 32])]
}

fn chain(config: SequencerConfig) -> SequencerChain {
    let (genesis, mut random) = (config.genesis_time, Random::new(5, "test"));
    let mut chain = SequencerChain::new(config);
    for number in 0..12 {
        let mut input = Contents::default().draw(&mut random, &ids());
        match number {
            2 => input.validator_updates = vec![(0, 30), (1, 0), (7, 20)],
            3 => input.round = 3,
            6 => input.votes = BTreeMap::from([(2, Vote::Nil)]),
            7 => input.votes = BTreeMap::from([(3, Vote::Absent)]),
            _ => {}
        }
        chain.make_block(genesis.after(Duration::from_secs(number)), input);
    }
    chain
}

/// Both formats, with and without extended commit info, upgrades in between.
fn chains() -> Vec<SequencerChain> {
    let upgrades = |height, hashes: usize| BTreeMap::from([(SequencerHeight(height), vec![[4; 32]; hashes])]);
    [
        SequencerConfig::default(),
        SequencerConfig { vote_extensions_from: None, ..SequencerConfig::default() },
        SequencerConfig { data_items_from: SequencerHeight(u64::MAX), ..SequencerConfig::default() },
        SequencerConfig {
            data_items_from: SequencerHeight(4),
            vote_extensions_from: Some(SequencerHeight(5)),
            upgrades: upgrades(4, 3),
            ..SequencerConfig::default()
        },
        SequencerConfig { upgrades: upgrades(9, 1), seed: 8, ..SequencerConfig::default() },
    ]
    .map(chain)
    .into()
}

fn trusted(chain: &SequencerChain, block: &Block) -> Verified<TrustedHeader> {
    let validators = ValidatorSet::new(block.validators.infos(), 1_000).expect("a validator set");
    verify_signed_header(&block.signed_header, &validators, chain.chain_id(), block.published.height())
        .expect("a committed header")
}

fn encoded(message: &impl prost::Message) -> Bytes {
    message.encode_to_vec().into()
}

/// Binds a block's metadata to what was committed, fetching the block's items only where the record demands them.
fn bind(
    chain: &SequencerChain,
    published: &PublishedBlock,
    header: &Verified<TrustedHeader>,
    fetched: &mut u32,
) -> Result<Verified<BoundMetadata>, String> {
    let metadata = UnverifiedMetadata::decode(&encoded(&published.metadata()), &Limits::default());
    let metadata = metadata.map_err(|error| error.to_string())?;
    match metadata.bind(header, None) {
        Err(refusal) if refusal.needs_transactions() => {
            *fetched += 1;
            let transactions = chain.transactions(header.height()).expect("a block");
            metadata.bind(header, Some(&transactions)).map_err(|error| error.to_string())
        }
        result => result.map_err(|error| error.to_string()),
    }
}

#[test]
fn every_block_of_every_kind_of_chain_is_verified() {
    let limits = Limits::default();
    for chain in chains() {
        let mut fetched = 0;
        for block in chain.blocks() {
            let (published, height) = (&block.published, block.published.height());
            let header = trusted(&chain, block);
            assert_eq!(header.hash(), block.hash());
            let bound = bind(&chain, published, &header, &mut fetched).expect("genuine metadata");

            let request =
                SoftBlockRequest { height, chain_id: chain.chain_id().to_owned(), rollup_ids: ids().to_vec() };
            let soft = verify_filtered_block(&encoded(&published.filtered(&ids())), &request, &limits)
                .expect("a genuine block");
            for id in ids() {
                let firm = match published.rollup_data(&id) {
                    Some(data) => {
                        let record = RollupRecord::decode(&encoded(&data), &limits).expect("a record");
                        bound.block_with(&record).expect("the block's data")
                    }
                    None => bound.empty_block(&id).expect("no data"),
                };
                assert_eq!(soft.blocks()[&id], firm, "height {height}");
            }
        }
    }
}

#[test]
fn every_forgery_is_refused_and_tells_nothing_by_itself() {
    let limits = Limits::default();
    for chain in chains().into_iter().take(2) {
        for block in chain.blocks() {
            let (genuine, header) = (&block.published, trusted(&chain, block));
            let mut forgeries = vec![
                Forgery::ExtraRollup(RollupId([9; 32]), Bytes::from_static(b"x")),
                Forgery::BlockHash(BlockHash([5; 32])),
                Forgery::ChainId("other".to_owned()),
                Forgery::Height(77),
                Forgery::Later(1),
                Forgery::Proposer([3; 20]),
                Forgery::ExtendedCommitInfo(Bytes::from_static(&[0x0a, 2, 8, 1])),
                Forgery::UpgradeChangeHashes(vec![[6; 32]]),
            ];
            forgeries.extend(genuine.rollup_ids().next().map(Forgery::WithoutRollup));
            if genuine.rollup_ids().next().is_some() {
                forgeries.push(Forgery::Transactions(Bytes::from_static(b"x")));
            }
            if genuine.data().extended_commit_info.is_some() {
                forgeries.push(Forgery::WithoutExtendedCommitInfo);
            }
            for forgery in forgeries {
                let forged = genuine.forged(forgery.clone());
                let bound = bind(&chain, &forged, &header, &mut 0);
                assert!(bound.is_err(), "height {}: {forgery:?}", genuine.height());
                let again = PublishedBlock::new(forged.block_hash(), forged.header().clone(), forged.data().clone());
                assert_eq!(again, forged, "a forgery fits itself");
                let request = SoftBlockRequest {
                    height: forged.height(),
                    chain_id: forged.header().chain_id.clone(),
                    rollup_ids: ids().to_vec(),
                };
                verify_filtered_block(&encoded(&forged.filtered(&ids())), &request, &limits)
                    .expect("without its commit nothing gives a forged block away");
            }
        }
    }
}

#[test]
fn a_commit_without_a_quorum_is_refused() {
    let mut chain = SequencerChain::new(SequencerConfig::default());
    let cases = [
        (vec![], true),
        (vec![(0, Vote::Absent)], true),
        (vec![(0, Vote::Nil)], true),
        (vec![(0, Vote::Absent), (1, Vote::Nil)], false),
        (vec![(0, Vote::Nil), (1, Vote::Nil), (2, Vote::Nil), (3, Vote::Nil)], false),
    ];
    for (votes, accepted) in cases {
        let input = BlockInput { votes: votes.iter().copied().collect(), ..BlockInput::default() };
        let height = chain.make_block(chain.config().genesis_time, input);
        let block = chain.block(height).expect("a block");
        let validators = ValidatorSet::new(block.validators.infos(), 100).expect("a validator set");
        let result = verify_signed_header(&block.signed_header, &validators, chain.chain_id(), height);
        assert_eq!(result.is_ok(), accepted, "{votes:?}");
    }
}

#[test]
fn blobs_decode_to_what_was_put_in() {
    let (mut chain, limits) = (SequencerChain::new(SequencerConfig::default()), Limits::default());
    for number in 0..5_u8 {
        let input =
            BlockInput { rollup_data: vec![(ids()[0], vec![sequenced(vec![number; 100])])], ..BlockInput::default() };
        chain.make_block(chain.config().genesis_time, input);
    }
    let metadata = chain.blocks().map(|block| block.published.metadata()).collect();
    let decoded = decode_metadata(&metadata_blob(metadata), &limits).expect("a blob of metadata");
    let heights: Vec<_> = decoded.entries.iter().map(UnverifiedMetadata::height).collect();
    assert_eq!(heights, (1..=5).map(SequencerHeight).collect::<Vec<_>>());
    let data = chain.blocks().filter_map(|block| block.published.rollup_data(&ids()[0])).collect();
    let decoded = decode_rollup_data(&rollup_data_blob(data), &ids(), &limits).expect("a blob of rollup data");
    assert_eq!(decoded.entries.len(), 5);
}
