//! Celestia's headers: one commit proves a run of them, and what is no part of the chain is refused by name.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use downbeat_core::{
    CelestiaHeight, Job, JobOutcome, Limits, Timestamp, Verified,
    job::{CelestiaTop, HeaderRefusal, LinkedHeaders, VerifyCelestiaHeaders},
    light::{Check, HeaderId, LinkError, Refusal, RootedTrust, SignedBlock, TrustedState, verify},
    sequencer::{CommitError, header_hash},
};
use tendermint::block::Header;

use crate::chain::{Block, CHAIN, Chain, Members, moment, sign};

fn equal(keys: std::ops::Range<u16>) -> Members {
    keys.map(|key| (key, 10)).collect()
}

/// Three validators of the same power; nobody of them is left from height 8 on.
fn story() -> Chain {
    let sets = (1..=11_u16).map(|height| if height < 8 { equal(0..3) } else { equal(10..13) });
    Chain::new(sets.collect(), &BTreeSet::new())
}

fn limits() -> Arc<Limits> {
    let celestia = RootedTrust { trusting_period: Duration::from_hours(1), ..RootedTrust::default() };
    Arc::new(Limits { celestia, ..Limits::default() })
}

fn signed(block: &Block) -> SignedBlock {
    SignedBlock { signed_header: block.signed.clone(), validators: block.validators.clone() }
}

/// Trust in height 1.
fn from_first() -> Check {
    let (chain, first) = (story(), Check::FirstUse { chain_id: CHAIN.to_owned() });
    let block = chain.block(1);
    let options = limits().celestia.options();
    let trusted = verify(&first, 1, &block.signed, &block.set(), &options, moment(2)).expect("genuine");
    Check::From(Box::new(TrustedState::of_block(&trusted)))
}

fn run(top: CelestiaTop, headers: Vec<Header>) -> Result<Box<LinkedHeaders>, HeaderRefusal> {
    let job = Job::VerifyCelestiaHeaders(Box::new(VerifyCelestiaHeaders { top, headers, limits: limits() }));
    let JobOutcome::CelestiaHeaders(result) = job.run() else { panic!("an outcome of Celestia headers") };
    result
}

fn check_at(height: u64, block: &Block, check: Check, at: Timestamp) -> Result<Box<LinkedHeaders>, HeaderRefusal> {
    run(
        CelestiaTop::Signed {
            height: CelestiaHeight(height),
            block: Box::new(signed(block)),
            check: Box::new(check),
            at,
        },
        Vec::new(),
    )
}

/// Why `block` is refused as the header of `height` by a node that trusts height 1.
fn refused(height: u64, block: &Block) -> Refusal {
    let refusal = check_at(height, block, from_first(), moment(11)).expect_err("bad input");
    let light = refusal.light.expect("a rule of the light client");
    assert_eq!(refusal.reason, light.to_string(), "the reason is said");
    light
}

fn heights(ids: &[Verified<HeaderId>]) -> Vec<u64> {
    ids.iter().map(|id| id.height()).collect()
}

fn header(height: u64) -> Header {
    story().block(height).signed.header.clone()
}

#[test]
fn one_commit_proves_the_blocks_below_it_and_names_the_next_one() {
    let chain = story();
    let top = CelestiaTop::Signed {
        height: CelestiaHeight(6),
        block: Box::new(signed(chain.block(6))),
        check: Box::new(from_first()),
        at: moment(11),
    };
    let linked = run(top, vec![header(5), header(4), header(3)]).expect("genuine");
    assert_eq!((heights(&linked.ids), &linked.broken), (vec![6, 5, 4, 3, 2], &None));
    assert!(linked.ids.iter().all(|id| id.hash() == header_hash(&header(id.height()))));
    assert!(linked.light.is_some(), "and others may follow from it");
}

#[test]
fn a_block_that_is_not_the_one_that_its_successor_names_ends_the_run() {
    let (chain, mut other) = (story(), header(4));
    other.data_hash = None;
    let expected = header_hash(&header(4));
    let table = [
        (other.clone(), LinkError::OtherHash { height: 4, expected, actual: header_hash(&other) }),
        (header(3), LinkError::Height { expected: 4, actual: 3 }),
    ];
    for (second, error) in table {
        let (block, at) = (Box::new(signed(chain.block(6))), moment(11));
        let top = CelestiaTop::Signed { height: CelestiaHeight(6), block, check: Box::new(from_first()), at };
        let linked = run(top, vec![header(5), second, header(3)]).expect("the top is genuine");
        assert_eq!((heights(&linked.ids), &linked.broken), (vec![6, 5, 4], &Some(error)));
    }
}

#[test]
fn headers_lead_down_from_a_trusted_hash_and_nothing_else_does() {
    let linked = check_at(6, story().block(6), from_first(), moment(11)).expect("genuine");
    let id = linked.ids[1].clone();
    let down = run(CelestiaTop::Known(id.clone()), vec![header(5), header(4)]).expect("no commit is needed");
    assert_eq!((heights(&down.ids), down.light.is_none()), (vec![4, 3], true));
    let down = run(CelestiaTop::Known(id), vec![header(4), header(3)]).expect("no commit is needed");
    assert_eq!((heights(&down.ids), down.broken), (vec![], Some(LinkError::Height { expected: 5, actual: 4 })));
}

#[test]
fn the_first_height_has_none_below() {
    let first = Check::FirstUse { chain_id: CHAIN.to_owned() };
    let linked = check_at(1, story().block(1), first, moment(2)).expect("genuine");
    assert_eq!(heights(&linked.ids), [1]);
}

#[test]
fn what_strangers_signed_is_no_header_of_the_chain() {
    let strangers = equal(100..103);
    let foreign = Chain::new(vec![strangers; 7], &BTreeSet::new());
    assert!(matches!(refused(2, foreign.block(2)), Refusal::NextValidators { height: 2, .. }));
    // Further up nobody can tell yet: the way leads through what is in between, where it is found out.
    assert!(matches!(refused(5, foreign.block(5)), Refusal::TooFar { trusted: 1, counted: 0, total: 30 }));
    // A genuine set that did not sign it.
    let mut claimed = foreign.block(2).clone();
    claimed.validators = story().block(2).validators.clone();
    claimed.signed.header.validators_hash = story().block(2).signed.header.validators_hash;
    assert!(matches!(refused(2, &claimed), Refusal::Commit(CommitError::BlockHash { .. })));
}

#[test]
fn two_thirds_are_no_quorum() {
    let mut block = story().block(2).clone();
    block.signed = sign(header(2), &equal(0..3), 0, |key| *key < 2);
    assert_eq!(refused(2, &block), Refusal::Commit(CommitError::NoQuorum { counted: 20, total: 30 }));
}

#[test]
fn a_header_of_another_height_chain_or_content_is_refused() {
    let block = |change: fn(&mut Header)| {
        let mut header = header(3);
        change(&mut header);
        let mut block = story().block(3).clone();
        block.signed = sign(header, &equal(0..3), 0, |_| true);
        block
    };
    assert!(matches!(refused(4, story().block(3)), Refusal::Commit(CommitError::Height { expected: 4, .. })));
    let other = block(|header| header.chain_id = "other".parse().expect("an id"));
    assert!(matches!(refused(3, &other), Refusal::Commit(CommitError::ChainId { .. })));
    let mut unsigned = story().block(3).clone();
    unsigned.signed.header.data_hash = None;
    assert!(matches!(refused(3, &unsigned), Refusal::Commit(CommitError::BlockHash { .. })));
    let mut set = story().block(9).clone();
    set.validators.pop();
    assert!(matches!(refused(9, &set), Refusal::Commit(CommitError::Validators { .. })));
    set.validators.clear();
    let refusal = check_at(9, &set, from_first(), moment(11)).expect_err("no set");
    assert_eq!((refusal.reason.as_str(), refusal.light), ("the validator set is empty", None));
}

#[test]
fn time_counts_for_celestia_as_for_any_chain() {
    let at = |now: Timestamp| check_at(3, story().block(3), from_first(), now).expect_err("bad time").light;
    assert!(matches!(at(moment(1).after(Duration::from_hours(1))), Some(Refusal::Expired { height: 1, .. })));
    assert!(matches!(at(Timestamp(moment(1).0 - 1)), Some(Refusal::FromFuture { height: 3, .. })));
}

#[test]
fn a_root_that_is_not_the_header_of_its_height_is_refused() {
    let genuine = header_hash(&header(3));
    let root = |hash| Check::Root { chain_id: CHAIN.to_owned(), hash };
    check_at(3, story().block(3), root(genuine), moment(4)).expect("the root");
    let other = header_hash(&header(4));
    let refusal = check_at(3, story().block(3), root(other), moment(4)).expect_err("another root").light;
    assert_eq!(refusal, Some(Refusal::Root { height: 3, expected: other, actual: genuine }));
}
