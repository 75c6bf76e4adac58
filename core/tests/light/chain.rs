//! A CometBFT chain with any history of validators, made for tests, and what can be done to one of its blocks.

use std::{
    collections::BTreeSet,
    sync::{Arc, LazyLock},
};

use downbeat_core::{Timestamp, sequencer::ValidatorSet};
use ed25519_consensus::SigningKey;
use tendermint::{
    Hash, PublicKey, Time, account,
    block::{self, Commit, CommitSig, Header, Round, signed_header::SignedHeader},
    chain, validator, vote,
};

pub(crate) const CHAIN: &str = "light-1";
/// Seconds between blocks.
pub(crate) const BLOCK: i64 = 5;
/// Time of height 0, in seconds.
pub(crate) const START: i64 = 1_700_000_000;

/// Members of a set: number of the key, and power.
pub(crate) type Members = Vec<(u16, u32)>;

#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) signed: SignedHeader,
    /// As CometBFT orders and serves them.
    pub(crate) validators: Vec<validator::Info>,
}

impl Block {
    pub(crate) fn set(&self) -> Arc<ValidatorSet> {
        Arc::new(ValidatorSet::new(self.validators.clone(), 1_000).expect("a set"))
    }

    pub(crate) fn id(&self) -> block::Id {
        block_id(&self.signed.header)
    }
}

/// The first block has height 1.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    pub(crate) blocks: Vec<Block>,
    members: Vec<Members>,
}

impl Chain {
    /// `members` are the sets of the heights from 1 on, and one more. Whoever is in `absent` (height and key) does not
    /// sign.
    pub(crate) fn new(members: Vec<Members>, absent: &BTreeSet<(u64, u16)>) -> Self {
        let mut blocks: Vec<Block> = Vec::new();
        for (height, pair) in (1_u64..).zip(members.windows(2)) {
            let last = blocks.last().map(Block::id);
            let header = header(height, &pair[0], &pair[1], last);
            let signs = |key: &u16| !absent.contains(&(height, *key));
            let signed = sign(header, &pair[0], 0, signs);
            blocks.push(Block { signed, validators: infos(&pair[0]) });
        }
        Self { blocks, members }
    }

    pub(crate) fn block(&self, height: u64) -> &Block {
        &self.blocks[usize::try_from(height).expect("small") - 1]
    }

    pub(crate) fn members(&self, height: u64) -> &Members {
        &self.members[usize::try_from(height).expect("small") - 1]
    }

    pub(crate) fn head(&self) -> u64 {
        self.blocks.len() as u64
    }
}

pub(crate) fn moment(height: u64) -> Timestamp {
    Timestamp(u64::try_from(START + BLOCK * i64::try_from(height).expect("small")).expect("positive") * 1_000_000_000)
}

pub(crate) fn header(height: u64, members: &Members, next: &Members, last: Option<block::Id>) -> Header {
    let set_hash = |members: &Members| validator::Set::without_proposer(infos(members)).hash();
    let any = Hash::Sha256([3; 32]);
    Header {
        version: block::header::Version { block: 11, app: 1 },
        chain_id: CHAIN.parse().expect("a chain id"),
        height: height.try_into().expect("small"),
        time: Time::from_unix_timestamp(START + BLOCK * i64::try_from(height).expect("small"), 0).expect("in range"),
        last_block_id: last,
        last_commit_hash: Some(any),
        data_hash: Some(any),
        validators_hash: set_hash(members),
        next_validators_hash: set_hash(next),
        consensus_hash: any,
        app_hash: vec![7; 32].try_into().expect("any bytes"),
        last_results_hash: Some(any),
        evidence_hash: Some(any),
        proposer_address: account::Id::new([1; 20]),
    }
}

/// Keys are made once.
static KEYS: LazyLock<Vec<(SigningKey, PublicKey, account::Id)>> = LazyLock::new(|| {
    let key = |number: u16| {
        let mut seed = [9; 32];
        seed[..2].copy_from_slice(&number.to_be_bytes());
        let key = SigningKey::from(seed);
        let public = PublicKey::from(key.verification_key());
        (key, public, account::Id::from(public))
    };
    (0..600).map(key).collect()
});

fn key(number: u16) -> &'static (SigningKey, PublicKey, account::Id) {
    &KEYS[usize::from(number)]
}

pub(crate) fn address(number: u16) -> account::Id {
    key(number).2
}

/// As CometBFT orders them: by power, then by address.
pub(crate) fn infos(members: &Members) -> Vec<validator::Info> {
    let mut infos: Vec<_> =
        members.iter().map(|(number, power)| validator::Info::new(public(*number), (*power).into())).collect();
    infos.sort_by_key(|info| (std::cmp::Reverse(info.power.value()), info.address));
    infos
}

fn public(number: u16) -> PublicKey {
    key(number).1
}

pub(crate) fn block_id(header: &Header) -> block::Id {
    let part_set_header = block::parts::Header::new(1, Hash::Sha256([5; 32])).expect("one part");
    block::Id { hash: header.hash(), part_set_header }
}

/// A commit of those members for whom `signs` holds.
pub(crate) fn sign(header: Header, members: &Members, round: u32, signs: impl Fn(&u16) -> bool) -> SignedHeader {
    let id = block_id(&header);
    let mut ordered: Vec<u16> = members.iter().map(|(number, _)| *number).collect();
    let power = |number: u16| members.iter().find(|(key, _)| *key == number).map_or(0, |(_, power)| *power);
    ordered.sort_by_key(|number| (std::cmp::Reverse(power(*number)), address(*number)));
    let signatures = ordered.iter().map(|number| {
        if signs(number) { signature(*number, &header, id, round) } else { CommitSig::BlockIdFlagAbsent }
    });
    let round = Round::try_from(round).expect("small");
    let commit = Commit { height: header.height, round, block_id: id, signatures: signatures.collect() };
    SignedHeader::new(header, commit).expect("one height")
}

pub(crate) fn signature(number: u16, header: &Header, id: block::Id, round: u32) -> CommitSig {
    let vote = vote::Vote {
        vote_type: vote::Type::Precommit,
        height: header.height,
        round: Round::try_from(round).expect("small"),
        block_id: Some(id),
        timestamp: Some(header.time),
        validator_address: address(number),
        validator_index: 0_u32.try_into().expect("an index"),
        signature: None,
        extension: Vec::new(),
        extension_signature: None,
    };
    let chain_id: chain::Id = header.chain_id.clone();
    let bytes = vote::SignVoteRequest { vote, chain_id }.into_signable_vec();
    let signature = tendermint::Signature::new(key(number).0.sign(&bytes).to_bytes()).expect("64 bytes");
    CommitSig::BlockIdFlagCommit { validator_address: address(number), timestamp: header.time, signature }
}
