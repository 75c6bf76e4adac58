use prost::Message as _;

use super::*;
use crate::{
    inspect::{InspectError, Proven, inspect_evidence},
    record::Record,
    sequencer::check_commit,
    testing::{CHAIN, Made, ROLLUP, block, block_with_items},
    wire::proto::astria::sequencerblock::v1::{FilteredSequencerBlock, SequencerBlockHeader},
};

type Change = fn(&mut FilteredSequencerBlock);

fn header(block: &mut FilteredSequencerBlock) -> &mut SequencerBlockHeader {
    block.header.as_mut().expect("a header")
}

/// Each way to be false, with what the refusal says.
const LIES: [(BlockFalsehood, &str, Change); 7] = [
    (BlockFalsehood::OtherHash, "is not the committed", |block| block.block_hash = vec![9; 32].into()),
    (BlockFalsehood::OtherHeader, "time", |block| header(block).time = Some(prost_types::Timestamp::default())),
    (BlockFalsehood::OtherHeader, "height 5 is not", |block| header(block).height = 5),
    (BlockFalsehood::OtherHeader, "chain id \"x\"", |block| header(block).chain_id = "x".to_owned()),
    (BlockFalsehood::FalseProof, "not covered by the rollup transactions root", |block| {
        block.rollup_transactions[0].transactions.clear();
    }),
    (BlockFalsehood::FalseProof, "list of rollup ids is not covered", |block| block.all_rollup_ids.clear()),
    (BlockFalsehood::OtherData, "the committed header's is", |answer| of_another(answer, block(4, &[]))),
];

/// All of another block but the hash, and what else stands in the committed header.
fn of_another(answer: &mut FilteredSequencerBlock, other: Made) {
    let (hash, genuine) = (answer.block_hash.clone(), header(answer).clone());
    *answer = FilteredSequencerBlock { block_hash: hash, ..other.filtered };
    header(answer).time = genuine.time;
}

fn lie(made: &Made, change: impl FnOnce(&mut FilteredSequencerBlock)) -> Bytes {
    let mut wire = made.filtered.clone();
    change(&mut wire);
    wire.encode_to_vec().into()
}

/// What a refused answer becomes, with the block's data items at hand.
fn shown(made: &Made, block: &Bytes) -> Option<FalseBlock> {
    let set = ValidatorSet::new(made.validators.clone(), 10).expect("a set");
    let claim = UnverifiedFilteredBlock::decode(block, &Limits::default()).ok().map(|block| block.into_parts().0);
    let items = claim.map(|claim| claim.items_of(&made.items));
    let commit = |signed: &SignedHeader, set: &ValidatorSet| check_commit(signed, set, CHAIN, made.height().0);
    let (trusted, limits) = (made.trusted(), Limits::default());
    false_block(&trusted, &made.signed, &set, block, items.as_ref(), &limits, commit).expect("a genuine commit")
}

fn proven(evidence: &FalseBlock) -> Result<ProvenFalseBlock, InspectError> {
    let record = Record::FalseBlock(Box::new(evidence.clone()));
    assert_eq!(Record::decode(&record.key(), &record.encode()), Ok(record.clone()));
    match inspect_evidence(&record.encode(), &Limits::default())? {
        Proven::FalseBlock(proven) => Ok(proven),
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_way_to_be_false_becomes_evidence_that_proves_it_from_its_bytes() {
    let made = block(4, &[ROLLUP]);
    for (reason, says, change) in LIES {
        let evidence = shown(&made, &lie(&made, change)).expect(says);
        let proven = proven(&evidence).expect(says);
        assert_eq!((proven.reason, proven.height, proven.header.hash), (reason, 4, made.trusted().hash()), "{says}");
        assert!(proven.detail.contains(says), "{}", proven.detail);
        assert_eq!(evidence.items, None, "{says}: nothing is shown that it does not take");
    }
    let names: Vec<_> = BlockFalsehood::ALL.iter().map(|reason| reason.name()).collect();
    assert_eq!(serde_json::to_value(BlockFalsehood::ALL).expect("JSON"), serde_json::json!(names));
}

#[test]
fn where_the_block_alone_cannot_tell_its_data_items_do() {
    let made = block_with_items(4, &[ROLLUP]);
    let claims = lie(&made, |block| {
        of_another(block, block_with_items(4, &[]));
        block.upgrade_change_hashes = vec![vec![1; 32].into()];
    });
    let evidence = shown(&made, &claims).expect("evidence");
    let found = proven(&evidence).expect("it holds");
    assert_eq!(found.reason, BlockFalsehood::OtherData);
    assert!(
        found.detail.contains("data item 0 of the committed block is not the rollup transactions root"),
        "{}",
        found.detail
    );
    let refused = |change: &dyn Fn(&mut FalseBlock)| {
        let mut evidence = evidence.clone();
        change(&mut evidence);
        evidence.verify(&Limits::default())
    };
    assert_eq!(refused(&|evidence| evidence.items = None), Err(NoFalseBlock::NoItems));
    let other = |change: fn(&mut ItemsText)| refused(&|evidence| evidence.items.as_mut().map(change).expect("items"));
    assert_eq!(other(|items| drop(items.digests.pop())), Err(NoFalseBlock::OtherItems));
    assert_eq!(other(|items| items.digests[0] = "no digest".to_owned()), Err(NoFalseBlock::OtherItems));
    assert_eq!(other(|items| items.digests[0] = hex::encode([1; 32])), Err(NoFalseBlock::OtherItems));
}

#[test]
fn what_is_true_or_answers_another_question_is_no_evidence() {
    for made in [block(4, &[ROLLUP]), block_with_items(4, &[ROLLUP])] {
        let unchanged: Change = |_| {};
        let left_out: Change = |block| block.rollup_transactions.clear();
        for change in [unchanged, left_out] {
            assert_eq!(shown(&made, &lie(&made, change)), None, "all of it is in the block");
        }
    }
    let made = block(4, &[ROLLUP]);
    assert_eq!(shown(&made, &block(5, &[ROLLUP]).filtered.encode_to_vec().into()), None, "the block of another height");
    let foreign = lie(&made, |block| {
        header(block).chain_id = "x".to_owned();
        block.block_hash = vec![9; 32].into();
    });
    assert_eq!(shown(&made, &foreign), None, "a block of another chain");
    assert_eq!(shown(&made, &Bytes::from_static(b"garbage")), None);
    let large = lie(&made, |block| block.rollup_transactions[0].transactions = vec![vec![0; BLOCK_BYTES].into()]);
    assert_eq!(shown(&made, &large), None, "more than a file may have");
}

#[test]
fn what_is_changed_proves_nothing() {
    let made = block(4, &[ROLLUP]);
    let evidence = shown(&made, &lie(&made, LIES[6].2)).expect("evidence");
    let refused = |change: &dyn Fn(&mut FalseBlock)| {
        let mut evidence = evidence.clone();
        change(&mut evidence);
        proven(&evidence).expect_err("changed").to_string()
    };
    let genuine: Bytes = made.filtered.encode_to_vec().into();
    assert!(refused(&|evidence| evidence.block = genuine.clone()).contains("what was answered is true"));
    assert!(
        refused(&|evidence| evidence.reason = BlockFalsehood::OtherHash)
            .contains("by other_data and not by other_hash")
    );
    let other: Bytes = block(5, &[ROLLUP]).filtered.encode_to_vec().into();
    assert!(refused(&|evidence| evidence.block = other.clone()).contains("a block of another header"));
    assert!(refused(&|evidence| evidence.block = Bytes::from_static(b"x")).contains("no block that can be read"));
    let unsigned = |evidence: &mut FalseBlock| evidence.header.signed_header.header.data_hash = None;
    assert!(refused(&unsigned).contains("a header is not committed"));
    assert!(refused(&|evidence| evidence.header.validators.clear()).contains("make no set"));
    assert!(refused(&|evidence| evidence.height += 1).contains("a header is not committed"));
    assert!(refused(&|evidence| "x".clone_into(&mut evidence.chain_id)).contains("a header is not committed"));
}

#[test]
fn a_header_that_is_not_committed_or_not_the_trusted_one_shows_nothing() {
    let (made, other) = (block(4, &[ROLLUP]), block(4, &[]));
    let set = ValidatorSet::new(made.validators.clone(), 10).expect("a set");
    let (answer, limits) = (lie(&made, LIES[0].2), Limits::default());
    let commit = |signed: &SignedHeader, set: &ValidatorSet| check_commit(signed, set, CHAIN, 4);
    let refused = false_block(&made.trusted(), &other.signed, &set, &answer, None, &limits, commit);
    assert!(refused.expect_err("another header").contains("is trusted"));
    let mut unsigned = made.signed.clone();
    unsigned.commit.signatures.clear();
    false_block(&made.trusted(), &unsigned, &set, &answer, None, &limits, commit).expect_err("nobody signed");
}

#[test]
fn a_file_of_the_first_version_proves_what_it_always_did() {
    let bytes = include_bytes!("../../../../tests/fixtures/evidence-v1/false-block.json");
    let proven = inspect_evidence(bytes, &Limits::default()).expect("evidence");
    let Proven::FalseBlock(proven) = proven else { panic!("{proven:?}") };
    assert_eq!((proven.reason, proven.height, proven.header.power_signed), (BlockFalsehood::OtherData, 4, 10));
}
