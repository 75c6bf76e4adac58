//! Properties over random histories of validators.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use downbeat_core::{
    SequencerHeight, Timestamp,
    light::{Check, Client, LightBlock, Options, Refusal, Root, TrustedRecord, TrustedState, Wish, verify},
    sequencer::{TrustedHeader, verify_links, verify_signed_header},
    verified::Verified,
};
use proptest::{collection::vec, prelude::*, sample::Index};
use tendermint::{Hash, Time, block::CommitSig, validator};
use tendermint_light_client_verifier::{
    ProdVerifier, Verdict, Verifier as _, options,
    types::{TrustThreshold, TrustedBlockState, UntrustedBlockState},
};

use crate::chain::{self, Block, CHAIN, Chain, Members, moment, sign};

/// Keys of honest validators are below this number.
const POOL: u16 = 12;

/// What is done to a block before it is shown.
#[derive(Clone, Debug)]
enum Mutation {
    None,
    /// A field of the header, with the old commit.
    Field(u8),
    /// The same, with a commit that those sign who have at most a third of the power.
    FewSign(u8),
    /// Votes are taken away, from the front, until this share (in percent) of the validators is left.
    Absent(u8),
    Repeated(Index, Index),
    Spoilt(Index),
    Round,
    Chain,
    /// Everybody signs a header that is so many seconds later.
    Later(u16),
    /// Another height's set is said to be this one's.
    SetOf(Index),
    Power(Index),
    /// A set of strangers, who sign all that they invent.
    Strangers(u8),
    /// The block of another height.
    Other(Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let index = any::<Index>;
    prop_oneof![
        3 => Just(Mutation::None),
        1 => (0..8_u8).prop_map(Mutation::Field),
        1 => (0..8_u8).prop_map(Mutation::FewSign),
        3 => (0..100_u8).prop_map(Mutation::Absent),
        1 => (index(), index()).prop_map(|(a, b)| Mutation::Repeated(a, b)),
        1 => index().prop_map(Mutation::Spoilt),
        1 => Just(Mutation::Round),
        1 => Just(Mutation::Chain),
        1 => (0..200_u16).prop_map(Mutation::Later),
        1 => index().prop_map(Mutation::SetOf),
        1 => index().prop_map(Mutation::Power),
        1 => (1..4_u8).prop_map(Mutation::Strangers),
        1 => index().prop_map(Mutation::Other),
    ]
}

/// Sets that change a little or altogether from height to height; not everybody signs.
fn history() -> impl Strategy<Value = Chain> {
    let start = vec((0..POOL, 1..6_u32), 1..6);
    let change = prop_oneof![
        3 => Just(None),
        3 => (any::<Index>(), 0..POOL, 0..6_u32).prop_map(|one| Some(vec![one])),
        1 => vec((any::<Index>(), 0..POOL, 0..6_u32), 2..6).prop_map(Some),
    ];
    (start, vec(change, 2..20), vec((any::<Index>(), any::<Index>()), 0..8)).prop_map(|(start, changes, absent)| {
        let mut members: Members = Vec::new();
        for (key, power) in start {
            if members.iter().all(|(other, _)| *other != key) {
                members.push((key, power));
            }
        }
        let mut sets = vec![members];
        for change in changes {
            let mut next = sets.last().expect("the first").clone();
            for (at, key, power) in change.into_iter().flatten() {
                let at = at.index(next.len());
                if next.iter().enumerate().any(|(index, (other, _))| *other == key && index != at) {
                    continue;
                }
                match power {
                    0 if next.len() > 1 => drop(next.remove(at)),
                    power => next[at] = (key, power.max(1)),
                }
            }
            sets.push(next);
        }
        // A chain goes on only where more than two thirds sign.
        let mut left_out = BTreeSet::new();
        for (height, member) in absent {
            let height = height.index(sets.len() - 1);
            let members = &sets[height];
            let (key, power) = members[member.index(members.len())];
            let total: u32 = members.iter().map(|(_, power)| power).sum();
            let height = height as u64 + 1;
            if 3 * (total - power) > 2 * total && !left_out.iter().any(|(other, _)| *other == height) {
                left_out.insert((height, key));
            }
        }
        Chain::new(sets, &left_out)
    })
}

fn mutated(chain: &Chain, height: u64, mutation: &Mutation) -> Block {
    let mut block = chain.block(height).clone();
    let members = chain.members(height);
    let votes = block.signed.commit.signatures.len();
    match mutation {
        Mutation::None => {}
        Mutation::Field(field) => change_field(&mut block, *field),
        Mutation::FewSign(field) => {
            change_field(&mut block, *field);
            let total: u32 = members.iter().map(|(_, power)| power).sum();
            let mut left = total / 3;
            let mut few = BTreeSet::new();
            for (key, power) in members {
                if *power <= left {
                    left -= power;
                    few.insert(*key);
                }
            }
            block.signed = sign(block.signed.header.clone(), members, 0, |key| few.contains(key));
        }
        Mutation::Absent(percent) => {
            let gone = votes - votes * usize::from(*percent) / 100;
            block.signed.commit.signatures[..gone].fill(CommitSig::BlockIdFlagAbsent);
        }
        Mutation::Repeated(from, to) => {
            let copy = block.signed.commit.signatures[from.index(votes)].clone();
            block.signed.commit.signatures[to.index(votes)] = copy;
        }
        Mutation::Spoilt(at) => {
            if let CommitSig::BlockIdFlagCommit { timestamp, .. } = at.get_mut(&mut block.signed.commit.signatures) {
                *timestamp = Time::from_unix_timestamp(1, 0).expect("in range");
            }
        }
        Mutation::Round => block.signed.commit.round = tendermint::block::Round::from(1_u8),
        Mutation::Chain => {
            block.signed.header.chain_id = "other-1".parse().expect("a chain id");
            block.signed = sign(block.signed.header.clone(), members, 0, |_| true);
        }
        Mutation::Later(seconds) => {
            let later = block.signed.header.time + Duration::from_secs((*seconds).into());
            block.signed.header.time = later.expect("in range");
            block.signed = sign(block.signed.header.clone(), members, 0, |_| true);
        }
        Mutation::SetOf(other) => {
            let other = other.index(chain.blocks.len());
            block.validators.clone_from(&chain.blocks[other].validators);
        }
        Mutation::Power(at) => {
            let info = at.get_mut(&mut block.validators);
            info.power = (info.power.value() + 1).try_into().expect("small");
        }
        Mutation::Strangers(count) => {
            let strangers: Members = (0..u16::from(*count)).map(|number| (POOL + number, 10)).collect();
            let next = strangers.clone();
            let header = chain::header(height, &strangers, &next, block.signed.header.last_block_id);
            block.signed = sign(header, &strangers, 0, |_| true);
            block.validators = chain::infos(&strangers);
        }
        Mutation::Other(other) => block = other.get(&chain.blocks).clone(),
    }
    block
}

fn change_field(block: &mut Block, field: u8) {
    let header = &mut block.signed.header;
    let other = Hash::Sha256([field; 32]);
    match field {
        0 => header.app_hash = vec![0; 32].try_into().expect("any bytes"),
        1 => header.data_hash = None,
        2 => header.validators_hash = other,
        3 => header.next_validators_hash = other,
        4 => header.last_block_id = None,
        5 => header.version.app += 1,
        6 => header.evidence_hash = Some(other),
        _ => header.proposer_address = chain::address(3),
    }
    // A header that names another id for the block before has no such place at the first height.
    if field == 4 && header.height.value() == 1 {
        header.app_hash = vec![0; 32].try_into().expect("any bytes");
    }
}

/// Follows every height from the root on: sets by `next_validators_hash`, and a commit for each.
fn plainly_verified(chain: &Chain, height: u64, shown: &Block, options: &Options, now: Timestamp) -> bool {
    let mut next = chain.block(1).signed.header.next_validators_hash;
    let mut time = chain.block(1).signed.header.time;
    for at in 2..=height {
        let block = if at == height { shown } else { chain.block(at) };
        let header = &block.signed.header;
        let Ok(set) = downbeat_core::sequencer::ValidatorSet::new(block.validators.clone(), 1_000) else {
            return false;
        };
        if verify_signed_header(&block.signed, &set, CHAIN, SequencerHeight(at)).is_err()
            || header.validators_hash != next
            || header.time <= time
        {
            return false;
        }
        (next, time) = (header.next_validators_hash, header.time);
    }
    let latest = i128::from(now.0) + i128::try_from(options.clock_drift.as_nanos()).expect("small");
    time.unix_timestamp_nanos() < latest
}

fn root(chain: &Chain) -> Root {
    Root::State(Box::new(trusted(chain, 1)))
}

fn trusted(chain: &Chain, height: u64) -> TrustedState {
    let block = chain.block(height);
    let check = Check::FirstUse { chain_id: CHAIN.to_owned() };
    let options = Options { clock_drift: Duration::from_hours(1), ..Options::default() };
    let block = verify(&check, height, &block.signed, &block.set(), &options, moment(height)).expect("genuine");
    TrustedState::of_block(&block)
}

/// Grants the client's wishes until `target` is trusted or refused, showing `shown` in its place.
fn follow(
    client: &mut Client,
    chain: &Chain,
    target: u64,
    shown: &Block,
    now: Timestamp,
) -> Result<(Verified<LightBlock>, usize), Refusal> {
    for checks in 1..200 {
        let height = match client.wish(target, now) {
            Wish::Block(height) => height,
            Wish::Links { below } => panic!("{target} lies below {below}"),
            Wish::Known => panic!("{target} is trusted already"),
            Wish::Expired(refusal) => return Err(refusal),
        };
        let block = if height == target { shown } else { chain.block(height) };
        let check = client.check(height, CHAIN, now);
        let Ok(set) = downbeat_core::sequencer::ValidatorSet::new(block.validators.clone(), 1_000) else {
            panic!("the mutations leave every set a set");
        };
        match verify(&check, height, &block.signed, &Arc::new(set), client.options(), now) {
            Ok(block) => {
                client.accept(&block);
                if height == target {
                    return Ok((block, checks));
                }
            }
            Err(refusal) => {
                if !client.refuse(height, &refusal) {
                    return Err(refusal);
                }
            }
        }
    }
    panic!("no end");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn one_step_has_the_verdict_of_the_library(
        chain in history(),
        from in any::<Index>(),
        to in any::<Index>(),
        mutation in mutation(),
        period in 1..300_u64,
        ahead in 0..40_u64,
    ) {
        let head = chain.blocks.len();
        let (from, to) = (from.index(head) as u64 + 1, to.index(head) as u64 + 1);
        let shown = mutated(&chain, to, &mutation);
        let options = Options { trusting_period: Duration::from_secs(period), clock_drift: Duration::from_secs(3) };
        let now = Timestamp(moment(from).0 + ahead * 5_000_000_000);
        let own = verify(&Check::From(Box::new(trusted(&chain, from))), shown.signed.header.height.value(), &shown.signed, &shown.set(), &options, now);

        let (trusted, set) = (chain.block(from), |block: &Block| validator::Set::without_proposer(block.validators.clone()));
        let header = &trusted.signed.header;
        let state = TrustedBlockState {
            chain_id: &header.chain_id,
            header_time: header.time,
            height: header.height,
            next_validators: &set(trusted),
            next_validators_hash: header.next_validators_hash,
        };
        let library = ProdVerifier::default().verify_update_header(
            UntrustedBlockState { signed_header: &shown.signed, validators: &set(&shown), next_validators: None },
            state,
            &options::Options {
                trust_threshold: TrustThreshold::ONE_THIRD,
                trusting_period: options.trusting_period,
                clock_drift: options.clock_drift,
            },
            Time::from_unix_timestamp(i64::try_from(now.0 / 1_000_000_000).expect("small"), 0).expect("in range"),
        );
        match (&own, &library) {
            // Ours looks at every vote, the library stops when it has seen enough; and without a quorum of the header's
            // own set ours does not ask how far away it is.
            (Ok(_), Verdict::Success)
            | (Err(Refusal::TooFar { .. }), Verdict::NotEnoughTrust(_))
            | (Err(Refusal::Commit(_)), _) => {}
            (Err(refusal), Verdict::Invalid(_)) => {
                let is_too_far = matches!(refusal, Refusal::TooFar { .. });
                prop_assert!(!is_too_far, "{:?}", mutation);
            }
            _ => prop_assert!(false, "{:?}: own {:?}, library {:?}", mutation, own, library),
        }
        if matches!(mutation, Mutation::None | Mutation::Absent(_) | Mutation::Later(_)) {
            // Here no vote is wrong: there is no such difference.
            prop_assert_eq!(own.is_ok(), library == Verdict::Success);
        }
    }

    #[test]
    fn any_height_has_the_verdict_of_who_checks_every_height(
        chain in history(),
        to in any::<Index>(),
        mutation in mutation(),
        ahead in 0..3_u64,
    ) {
        let target = to.index(chain.blocks.len() - 1) as u64 + 2;
        let mutation = match mutation {
            // A quorum that lies breaks the assumption of both; how they notice differs.
            Mutation::Later(_) => Mutation::None,
            other => other,
        };
        let shown = mutated(&chain, target, &mutation);
        let options = Options { trusting_period: Duration::from_hours(1), clock_drift: Duration::from_secs(3) };
        let now = Timestamp(moment(chain.head()).0 + ahead * 1_000_000_000);
        let mut client = Client::new(options, root(&chain));
        let own = follow(&mut client, &chain, target, &shown, now);
        prop_assert_eq!(own.is_ok(), plainly_verified(&chain, target, &shown, &options, now), "{:?}: {:?}", mutation, own.err());

        // What was refused is not remembered: the genuine header is taken afterwards.
        let (block, _) = match own {
            Ok(verified) => verified,
            Err(_) => follow(&mut client, &chain, target, chain.block(target), now).expect("genuine"),
        };
        prop_assert_eq!(block.header(), &chain.block(target).signed.header);

        // And everything below follows from it by hashes alone.
        let header = verify_signed_header(block.signed_header(), block.validators(), CHAIN, SequencerHeight(target));
        let below = chain.blocks[..usize::try_from(target).expect("small") - 1].iter();
        let headers: Vec<_> = below.map(|block| block.signed.header.clone()).collect();
        let header: Verified<TrustedHeader> = header.expect("verified");
        let linked = verify_links(&header, SequencerHeight(1), headers.clone()).expect("links");
        prop_assert!(linked.iter().map(|header| header.header()).eq(&headers));
    }

    #[test]
    fn a_record_gives_back_what_was_trusted_and_no_damage_goes_unnoticed(
        chain in history(),
        at in any::<Index>(),
        damage in any::<Index>(),
        byte in 1..=255_u8,
    ) {
        let height = at.index(chain.blocks.len()) as u64 + 1;
        let block = chain.block(height);
        let check = Check::FirstUse { chain_id: CHAIN.to_owned() };
        let verified = verify(&check, height, &block.signed, &block.set(), &Options::default(), moment(height)).expect("genuine");
        let record = TrustedRecord::new(&verified);
        let bytes = record.encode();
        prop_assert_eq!(TrustedRecord::decode(&bytes), Ok(record.clone()));
        let state = record.state().expect("whole");
        prop_assert_eq!((state.height(), state.chain_id(), state.time()), (height, CHAIN, block.signed.header.time));
        let mut damaged = bytes.clone();
        damaged[damage.index(bytes.len())] ^= byte;
        prop_assert_ne!(TrustedRecord::decode(&damaged), Ok(record));
        prop_assert!(TrustedRecord::decode(&bytes[..damage.index(bytes.len())]).is_err());
    }
}

#[test]
fn three_hundred_heights_with_the_same_validators_take_one_check() {
    let members: Members = (0..100).map(|key| (key, 10)).collect();
    let chain = Chain::new(vec![members; 302], &BTreeSet::new());
    let mut client = Client::new(Options::default(), root(&chain));
    let (_, checks) = follow(&mut client, &chain, 300, chain.block(300), moment(301)).expect("genuine");
    assert_eq!(checks, 1);
}

#[test]
fn two_hundred_validators_of_whom_one_changes_at_every_height_are_followed_in_a_few_checks() {
    let set = |height: u16| -> Members { (height..height + 200).map(|key| (key, 10)).collect() };
    let chain = Chain::new((0..302).map(set).collect(), &BTreeSet::new());
    let mut client = Client::new(Options::default(), root(&chain));
    let (_, checks) = follow(&mut client, &chain, 300, chain.block(300), moment(301)).expect("genuine");
    // More than a third of a set is left after 133 heights: two steps in between at most, each with its failed leap.
    assert!(checks <= 7, "{checks} checks");
}

#[test]
fn a_set_that_is_new_at_every_height_is_followed_height_by_height() {
    let set = |height: u16| -> Members { vec![(height, 1)] };
    let chain = Chain::new((0..34).map(set).collect(), &BTreeSet::new());
    let mut client = Client::new(Options::default(), root(&chain));
    let (block, checks) = follow(&mut client, &chain, 32, chain.block(32), moment(33)).expect("genuine");
    assert_eq!(block.height(), 32);
    assert!(checks >= 31, "{checks} checks");
}
