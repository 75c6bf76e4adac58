//! Each kind of bad input has its own name, and none is remembered.

use std::{collections::BTreeSet, time::Duration};

use downbeat_core::{
    SequencerHeight, Timestamp,
    light::{Check, Client, Genesis, Options, Refusal, Root, TrustedState, Wish, Witnessed, compare, verify},
    sequencer::{CommitError, LinkError, header_hash, verify_links, verify_signed_header},
};
use tendermint::block::{CommitSig, Round};

use crate::chain::{self, Block, CHAIN, Chain, Members, address, infos, moment, sign, signature};

/// Three validators of the same power at every height; the set is another one from height 6 on.
fn story() -> Chain {
    let sets = (1..=11_u16).map(|height| if height < 6 { equal(0..3) } else { equal(2..5) });
    Chain::new(sets.collect(), &BTreeSet::new())
}

fn equal(keys: std::ops::Range<u16>) -> Members {
    keys.map(|key| (key, 10)).collect()
}

fn options() -> Options {
    Options { trusting_period: Duration::from_hours(1), clock_drift: Duration::from_secs(10) }
}

/// What `block` is refused for, as the header of `height`, from a client that trusts height 1. Whatever it is, the
/// genuine header is taken afterwards.
fn refused(height: u64, block: &Block) -> Refusal {
    let chain = story();
    let mut client = client(&chain);
    let before = client.wish(height, NOW);
    let check = client.check(height, CHAIN, NOW);
    let refusal = verify(&check, height, &block.signed, &block.set(), &options(), NOW).expect_err("bad input");
    assert!(!client.refuse(height, &refusal), "there is no other way: {refusal}");
    assert_eq!(client.wish(height, NOW), before, "S4: {refusal}");
    let genuine = chain.block(height);
    let check = client.check(height, CHAIN, NOW);
    verify(&check, height, &genuine.signed, &genuine.set(), &options(), NOW).expect("S4: the genuine header");
    refusal
}

const NOW: Timestamp = Timestamp(1_700_000_100_000_000_000);

fn client(chain: &Chain) -> Client {
    Client::new(options(), Root::Header { height: 1, hash: header_hash(&chain.block(1).signed.header) })
        .led_to(chain, 1)
}

trait LedTo {
    fn led_to(self, chain: &Chain, height: u64) -> Self;
}

impl LedTo for Client {
    fn led_to(mut self, chain: &Chain, height: u64) -> Self {
        let check = self.check(height, CHAIN, NOW);
        let block = chain.block(height);
        let verified = verify(&check, height, &block.signed, &block.set(), &options(), NOW).expect("genuine");
        self.accept(&verified);
        self
    }
}

#[test]
fn a_forged_header_is_not_the_one_that_was_signed() {
    let mut forged = story().block(3).clone();
    forged.signed.header.data_hash = None;
    let refusal = refused(3, &forged);
    assert!(matches!(refusal, Refusal::Commit(CommitError::BlockHash { .. })), "{refusal}");
    // Nor if the commit is said to be for it.
    forged.signed.commit.block_id.hash = tendermint::Hash::Sha256(header_hash(&forged.signed.header).0);
    let refusal = refused(3, &forged);
    assert!(matches!(refusal, Refusal::Commit(CommitError::Signature(_))), "{refusal}");
}

#[test]
fn a_forged_validator_set_is_not_the_one_that_the_trusted_header_names() {
    let strangers = equal(100..103);
    let header = chain::header(2, &strangers, &strangers, Some(story().block(1).id()));
    let forged = Block { signed: sign(header, &strangers, 0, |_| true), validators: infos(&strangers) };
    let refusal = refused(2, &forged);
    assert!(matches!(refusal, Refusal::NextValidators { height: 2, .. }), "{refusal}");
}

#[test]
fn a_forged_chain_further_up_is_unmasked_on_the_way_there() {
    // Given a forgery at height 5 that is consistent in itself,
    let chain = story();
    let strangers = equal(100..103);
    let header = chain::header(5, &strangers, &strangers, None);
    let forged = Block { signed: sign(header, &strangers, 0, |_| true), validators: infos(&strangers) };
    let mut client = client(&chain);
    let mut seen = Vec::new();
    // when the client follows it, then it asks for what lies between, until the forgery has to be the very next header.
    let refusal = loop {
        let Wish::Block(height) = client.wish(5, NOW) else { panic!("the root is fresh") };
        seen.push(height);
        let block = if height == 5 { &forged } else { chain.block(height) };
        let check = client.check(height, CHAIN, NOW);
        match verify(&check, height, &block.signed, &block.set(), &options(), NOW) {
            Ok(block) => client.accept(&block),
            Err(refusal) if client.refuse(height, &refusal) => {}
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(seen, [5, 3, 5, 4, 5]);
    assert!(matches!(refusal, Refusal::NextValidators { height: 5, .. }), "{refusal}");
    client.led_to(&chain, 5);
}

#[test]
fn exactly_two_thirds_are_no_quorum() {
    let mut block = story().block(3).clone();
    block.signed.commit.signatures[1] = CommitSig::BlockIdFlagAbsent;
    let refusal = refused(3, &block);
    assert_eq!(refusal, Refusal::Commit(CommitError::NoQuorum { counted: 20, total: 30 }));
}

#[test]
fn exactly_a_third_of_the_trusted_set_does_not_vouch() {
    // Given heights 1 and 6, whose sets share one of three,
    let chain = story();
    let mut client = client(&chain);
    let check = client.check(6, CHAIN, NOW);
    let block = chain.block(6);
    let refusal = verify(&check, 6, &block.signed, &block.set(), &options(), NOW).expect_err("a third");
    assert_eq!(refusal, Refusal::TooFar { trusted: 1, counted: 10, total: 30 });
    // then the way leads through a height between.
    assert!(client.refuse(6, &refusal));
    assert_eq!(client.wish(6, NOW), Wish::Block(3));
}

#[test]
fn a_signer_that_is_there_twice_is_refused() {
    let mut block = story().block(3).clone();
    block.signed.commit.signatures[1] = block.signed.commit.signatures[0].clone();
    let refusal = refused(3, &block);
    assert!(matches!(refusal, Refusal::Commit(CommitError::Repeated(_))), "{refusal}");
}

#[test]
fn a_signer_from_outside_the_set_is_refused() {
    let mut block = story().block(3).clone();
    let (header, id) = (block.signed.header.clone(), block.id());
    block.signed.commit.signatures[1] = signature(100, &header, id, 0);
    let refusal = refused(3, &block);
    assert_eq!(refusal, Refusal::Commit(CommitError::Stranger(address(100))));
}

#[test]
fn a_commit_of_another_height_round_or_chain_is_refused() {
    let chain = story();
    let mut height = chain.block(3).clone();
    height.signed.commit.height = 4_u32.into();
    let refusal = refused(3, &height);
    assert_eq!(refusal, Refusal::Commit(CommitError::Height { expected: 3, header: 3, commit: 4 }));

    let mut round = chain.block(3).clone();
    round.signed.commit.round = Round::from(1_u8);
    let refusal = refused(3, &round);
    assert!(matches!(refusal, Refusal::Commit(CommitError::Signature(_))), "{refusal}");

    let mut other = chain.block(3).clone();
    other.signed.header.chain_id = "light-2".parse().expect("a chain id");
    other.signed = sign(other.signed.header, &equal(0..3), 0, |_| true);
    let refusal = refused(3, &other);
    assert!(matches!(refusal, Refusal::Commit(CommitError::ChainId { .. })), "{refusal}");

    // Votes for the same header on another chain.
    let mut votes = chain.block(3).clone();
    votes.signed.commit.signatures.clone_from(&other.signed.commit.signatures);
    let refusal = refused(3, &votes);
    assert!(matches!(refusal, Refusal::Commit(CommitError::Signature(_))), "{refusal}");
}

#[test]
fn one_wrong_signature_among_many_is_named() {
    let members = equal(0..40);
    let chain = Chain::new(vec![members; 3], &BTreeSet::new());
    let mut block = chain.block(2).clone();
    let CommitSig::BlockIdFlagCommit { validator_address, timestamp, .. } = &mut block.signed.commit.signatures[17]
    else {
        panic!("everybody signs")
    };
    *timestamp = (*timestamp + Duration::from_nanos(1)).expect("in range");
    let named = *validator_address;
    let set = block.set();
    let refusal = verify_signed_header(&block.signed, &set, CHAIN, SequencerHeight(2)).expect_err("a wrong signature");
    assert_eq!(refusal, CommitError::Signature(named));
    verify_signed_header(&chain.block(2).signed, &set, CHAIN, SequencerHeight(2)).expect("all hold");
}

#[test]
fn a_header_from_the_future_is_refused_until_its_time_has_come() {
    let chain = story();
    let (before, block) = (chain.block(8), chain.block(9));
    let trusted = verify(&first(), 8, &before.signed, &before.set(), &options(), NOW).expect("genuine");
    let check = Check::From(Box::new(TrustedState::of_block(&trusted)));
    let at = |now| verify(&check, 9, &block.signed, &block.set(), &options(), now);
    let drift = options().clock_drift;
    let exactly = Timestamp(moment(9).0 - u64::try_from(drift.as_nanos()).expect("small"));
    let refusal = at(exactly).expect_err("the edge belongs to the future");
    assert!(matches!(refusal, Refusal::FromFuture { height: 9, drift_ms: 10_000, .. }), "{refusal}");
    at(Timestamp(exactly.0 + 1)).expect("within the drift");
}

fn first() -> Check {
    Check::FirstUse { chain_id: CHAIN.to_owned() }
}

#[test]
fn a_header_that_is_not_later_than_the_trusted_one_is_refused() {
    let mut block = story().block(3).clone();
    block.signed.header.time = story().block(1).signed.header.time;
    block.signed = sign(block.signed.header, &equal(0..3), 0, |_| true);
    let refusal = refused(3, &block);
    assert!(matches!(refusal, Refusal::TimeNotAfter { height: 3, .. }), "{refusal}");
}

#[test]
fn nothing_follows_from_a_header_whose_trusting_period_is_over() {
    let chain = story();
    let client = client(&chain);
    let block = chain.block(3);
    let over = moment(1).after(options().trusting_period);
    let just_before = Timestamp(over.0 - 1);
    let check = client.check(3, CHAIN, just_before);
    verify(&check, 3, &block.signed, &block.set(), &options(), just_before).expect("still trusted");
    assert!(matches!(client.wish(3, over), Wish::Expired(Refusal::Expired { height: 1, .. })));
    let refusal = verify(&check, 3, &block.signed, &block.set(), &options(), over).expect_err("over");
    assert!(matches!(refusal, Refusal::Expired { height: 1, .. }), "{refusal}");
    // What lies below a fresh header needs none of it.
    let mut fresh = Client::new(options(), Root::FirstUse);
    let block = chain.block(9);
    let late = verify(&fresh.check(9, CHAIN, over), 9, &block.signed, &block.set(), &options(), over);
    fresh.accept(&late.expect("fresh"));
    assert_eq!(fresh.wish(3, over), Wish::Links { below: 9 });
}

#[test]
fn validators_that_do_not_hash_to_what_the_header_names_are_refused() {
    for other in [equal(0..2), equal(2..5), vec![(0, 10), (1, 10), (2, 11)]] {
        let block = Block { validators: infos(&other), ..story().block(3).clone() };
        let refusal = refused(3, &block);
        assert!(matches!(refusal, Refusal::Commit(CommitError::Validators { .. })), "{refusal}");
    }
}

#[test]
fn another_header_than_the_configured_root_is_refused() {
    let chain = story();
    let client = Client::new(options(), Root::Header { height: 2, hash: header_hash(&chain.block(1).signed.header) });
    assert_eq!(client.wish(7, NOW), Wish::Block(2), "the root comes first");
    let block = chain.block(2);
    let refusal = verify(&client.check(2, CHAIN, NOW), 2, &block.signed, &block.set(), &options(), NOW);
    let refusal = refusal.expect_err("another hash");
    assert!(matches!(refusal, Refusal::Root { height: 2, .. }), "{refusal}");
}

#[test]
fn a_gap_between_linked_headers_is_named() {
    let chain = story();
    let top = verify_signed_header(&chain.block(9).signed, &chain.block(9).set(), CHAIN, SequencerHeight(9));
    let mut below: Vec<_> = chain.blocks[..8].iter().map(|block| block.signed.header.clone()).collect();
    below.remove(4);
    let refusal = verify_links(&top.expect("genuine"), SequencerHeight(1), below).expect_err("a gap");
    assert_eq!(refusal, LinkError::Missing(SequencerHeight(5)));
}

#[test]
fn the_genesis_names_who_signs_the_first_header() {
    let chain = story();
    let genesis = |members: &Members| {
        let genesis = Genesis {
            chain_id: CHAIN.to_owned(),
            // The first block has exactly this time.
            time: chain.block(1).signed.header.time,
            initial_height: 1,
            validators: infos(members),
        };
        let state = TrustedState::of_genesis(genesis, 10).expect("a set");
        Client::new(options(), Root::State(Box::new(state)))
    };
    let block = chain.block(1);
    let client = genesis(&equal(0..3));
    assert_eq!(client.wish(1, NOW), Wish::Block(1));
    verify(&client.check(1, CHAIN, NOW), 1, &block.signed, &block.set(), &options(), NOW).expect("the first header");
    let refusal = verify(&genesis(&equal(0..2)).check(1, CHAIN, NOW), 1, &block.signed, &block.set(), &options(), NOW);
    assert!(matches!(refusal, Err(Refusal::NextValidators { height: 1, .. })));
}

#[test]
fn a_witness_agrees_lies_or_proves_that_validators_signed_twice() {
    let chain = story();
    let client = client(&chain);
    let check = client.check(3, CHAIN, NOW);
    let block = chain.block(3);
    let trusted = verify(&check, 3, &block.signed, &block.set(), &options(), NOW).expect("genuine");
    let shown = |block: &Block| {
        let other = verify(&check, trusted.height(), &block.signed, &block.set(), &options(), NOW);
        compare(&trusted, other)
    };
    assert!(matches!(shown(block), Witnessed::Same));

    let mut header = block.signed.header.clone();
    header.app_hash = vec![1; 32].try_into().expect("any bytes");
    let few = Block { signed: sign(header.clone(), &equal(0..3), 0, |key| *key < 2), ..block.clone() };
    assert!(matches!(shown(&few), Witnessed::Unproven(reason) if reason.contains("no quorum")));

    let all = Block { signed: sign(header.clone(), &equal(0..3), 1, |_| true), ..block.clone() };
    let Witnessed::Conflict(evidence) = shown(&all) else { panic!("a conflict") };
    // Whoever gets the evidence can check it without any trust.
    let text = serde_json::to_string(&evidence).expect("JSON");
    let evidence: downbeat_core::light::ConflictingHeaders = serde_json::from_str(&text).expect("JSON");
    let proven = evidence.verify(10).expect("evidence");
    assert_eq!((proven.trusted.hash, proven.other.hash), (trusted.hash(), header_hash(&header)));
    let mut both = [0, 1, 2].map(|key| address(key).to_string());
    both.sort();
    assert_eq!((proven.signed_both, proven.power_signed_both), (both.to_vec(), proven.trusted.power_total));
    let mut weak = evidence.clone();
    weak.other.signed_header.commit.signatures[0] = CommitSig::BlockIdFlagAbsent;
    weak.verify(10).expect_err("no quorum, no evidence");
    let same = downbeat_core::light::ConflictingHeaders { other: evidence.trusted.clone(), ..evidence };
    same.verify(10).expect_err("one header is no conflict");
}
