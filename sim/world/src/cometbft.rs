//! What every CometBFT chain does: headers that link, hashes over their parts, and signed commits.
//!
//! Two things are not CometBFT's own: a block's part-set hash stands for the block's content without being made of its
//! parts, and the application and its results are pretended. Nobody outside a node can check either.

use downbeat_core::{Timestamp, merkle};
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use tendermint::{
    AppHash, Hash, Signature, Time,
    block::{self, Commit, CommitSig, Header, Id as BlockId, header::Version, parts, signed_header::SignedHeader},
    chain, vote,
};

use crate::validators::{Keyring, Member, ValidatorSet};

/// No leaves.
const NOTHING: [[u8; 0]; 0] = [];

/// How one validator votes for one block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Vote {
    #[default]
    Commit,
    Nil,
    Absent,
}

/// What differs from block to block.
#[derive(Debug)]
pub struct Proposal<'a> {
    pub chain_id: &'a chain::Id,
    pub app_version: u64,
    pub height: u64,
    pub time: Timestamp,
    pub last: Option<&'a SignedHeader>,
    pub data_hash: merkle::Hash,
    /// Number of transactions of the block before.
    pub last_results: usize,
    pub validators: &'a ValidatorSet,
    pub next_validators: &'a ValidatorSet,
}

impl Proposal<'_> {
    /// The header that this proposal leads to.
    pub fn header(&self) -> Header {
        let last_app = self.last.map_or(Hash::None, |last| last.header.hash());
        Header {
            version: Version { block: 11, app: self.app_version },
            chain_id: self.chain_id.clone(),
            height: height(self.height),
            time: time(self.time),
            last_block_id: self.last.map(|last| last.commit.block_id),
            last_commit_hash: Some(sha256(
                self.last.map_or_else(|| merkle::root_of(NOTHING), |last| commit_hash(&last.commit)),
            )),
            data_hash: Some(sha256(self.data_hash)),
            validators_hash: self.validators.hash(),
            next_validators_hash: self.next_validators.hash(),
            consensus_hash: sha256(consensus_hash()),
            app_hash: AppHash::try_from(Sha256::digest(last_app.as_bytes()).to_vec()).unwrap_or_default(),
            // A successful result without payload encodes to nothing.
            last_results_hash: Some(sha256(merkle::root_of(vec![[0_u8; 0]; self.last_results]))),
            evidence_hash: Some(sha256(merkle::root_of(NOTHING))),
            proposer_address: self.validators.proposer(),
        }
    }
}

/// Has the validators vote on `header` in `round`. `vote_of` says how and when each one votes.
pub fn commit(
    header: &Header,
    round: u16,
    validators: &ValidatorSet,
    keyring: Keyring,
    mut vote_of: impl FnMut(&Member) -> (Vote, Timestamp),
) -> Commit {
    let block_id = block_id(header);
    let mut signatures = Vec::with_capacity(validators.members().len());
    for member in validators.members() {
        let (vote, at) = vote_of(member);
        let timestamp = time(at);
        let validator_address = member.address;
        let sign = |block_id: Option<BlockId>| {
            let bytes = sign_bytes(header, round, block_id, at);
            Signature::new(keyring.sign(member.number, &bytes)).ok().flatten()
        };
        signatures.push(match vote {
            Vote::Absent => CommitSig::BlockIdFlagAbsent,
            Vote::Nil => CommitSig::BlockIdFlagNil { validator_address, timestamp, signature: sign(None) },
            Vote::Commit => {
                CommitSig::BlockIdFlagCommit { validator_address, timestamp, signature: sign(Some(block_id)) }
            }
        });
    }
    Commit { height: header.height, round: round.into(), block_id, signatures }
}

/// Bytes that a validator signs (reference §4.5), with the length in front.
fn sign_bytes(header: &Header, round: u16, block_id: Option<BlockId>, at: Timestamp) -> Vec<u8> {
    let block_id = block_id.map(|id| CanonicalBlockId {
        hash: id.hash.as_bytes().to_vec(),
        parts: Some(PartSetHeader {
            total: id.part_set_header.total,
            hash: id.part_set_header.hash.as_bytes().to_vec(),
        }),
    });
    CanonicalVote {
        kind: i32::from(vote::Type::Precommit),
        height: i64::try_from(header.height.value()).unwrap_or(i64::MAX),
        round: round.into(),
        block_id,
        timestamp: Some(wire_time(at)),
        chain_id: header.chain_id.to_string(),
    }
    .encode_length_delimited_to_vec()
}

/// Bytes that a validator signs for its vote extension.
pub fn extension_sign_bytes(chain_id: &chain::Id, height: u64, round: u16, extension: &[u8]) -> Vec<u8> {
    CanonicalVoteExtension {
        extension: extension.to_vec(),
        height: i64::try_from(height).unwrap_or(i64::MAX),
        round: round.into(),
        chain_id: chain_id.to_string(),
    }
    .encode_length_delimited_to_vec()
}

/// Id of the block that `header` stands for.
pub fn block_id(header: &Header) -> BlockId {
    let hash = header.hash();
    let parts = sha256(Sha256::new().chain_update(b"parts").chain_update(hash.as_bytes()).finalize().into());
    BlockId { hash, part_set_header: parts::Header::new(1, parts).unwrap_or_default() }
}

/// CometBFT's `last_commit_hash`: the root over the encoded signatures.
pub fn commit_hash(commit: &Commit) -> merkle::Hash {
    let leaf = |signature: &CommitSig| {
        let (flag, voted) = match signature {
            CommitSig::BlockIdFlagAbsent => (1, None),
            CommitSig::BlockIdFlagCommit { validator_address, timestamp, signature } => {
                (2, Some((validator_address, timestamp, signature)))
            }
            CommitSig::BlockIdFlagNil { validator_address, timestamp, signature } => {
                (3, Some((validator_address, timestamp, signature)))
            }
        };
        let Some((address, timestamp, signature)) = voted else {
            // Nobody voted in the year 1, which is how an absent vote looks.
            let timestamp = Some(prost_types::Timestamp { seconds: -62_135_596_800, nanos: 0 });
            return WireCommitSig { flag, address: Vec::new(), timestamp, signature: Vec::new() }.encode_to_vec();
        };
        WireCommitSig {
            flag,
            address: address.as_bytes().to_vec(),
            timestamp: Some(proto_time(*timestamp)),
            signature: signature.as_ref().map_or_else(Vec::new, |signature| signature.as_bytes().to_vec()),
        }
        .encode_to_vec()
    };
    merkle::root_of(commit.signatures.iter().map(leaf))
}

/// CometBFT's `data_hash`: each leaf is the hash of a transaction.
pub fn data_hash<T: AsRef<[u8]>>(transactions: &[T]) -> merkle::Hash {
    merkle::root_of(transactions.iter().map(Sha256::digest))
}

/// Hash over the two limits that CometBFT includes.
fn consensus_hash() -> merkle::Hash {
    Sha256::digest(HashedParams { block_max_bytes: 1_048_576, block_max_gas: -1 }.encode_to_vec()).into()
}

pub(crate) fn sha256(hash: merkle::Hash) -> Hash {
    Hash::Sha256(hash)
}

pub(crate) fn height(height: u64) -> block::Height {
    block::Height::try_from(height).unwrap_or_default()
}

pub(crate) fn chain_id(id: &str) -> chain::Id {
    chain::Id::try_from(id).expect("the configured chain id has 1 to 50 characters")
}

pub(crate) fn time(at: Timestamp) -> Time {
    let wire = wire_time(at);
    Time::from_unix_timestamp(wire.seconds, u32::try_from(wire.nanos).unwrap_or(0))
        .unwrap_or_else(|_| Time::unix_epoch())
}

/// Protobuf's form of a moment.
pub fn wire_time(at: Timestamp) -> prost_types::Timestamp {
    let whole = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    prost_types::Timestamp {
        seconds: whole(at.0 / 1_000_000_000),
        nanos: i32::try_from(at.0 % 1_000_000_000).unwrap_or(0),
    }
}

/// Protobuf's form of a header's time.
pub(crate) fn proto_time(time: Time) -> prost_types::Timestamp {
    let nanos = time.unix_timestamp_nanos().rem_euclid(1_000_000_000);
    prost_types::Timestamp { seconds: time.unix_timestamp(), nanos: i32::try_from(nanos).unwrap_or(0) }
}

#[derive(Clone, PartialEq, prost::Message)]
struct PartSetHeader {
    #[prost(uint32, tag = "1")]
    total: u32,
    #[prost(bytes = "vec", tag = "2")]
    hash: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CanonicalBlockId {
    #[prost(bytes = "vec", tag = "1")]
    hash: Vec<u8>,
    #[prost(message, optional, tag = "2")]
    parts: Option<PartSetHeader>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CanonicalVote {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(sfixed64, tag = "2")]
    height: i64,
    #[prost(sfixed64, tag = "3")]
    round: i64,
    #[prost(message, optional, tag = "4")]
    block_id: Option<CanonicalBlockId>,
    #[prost(message, optional, tag = "5")]
    timestamp: Option<prost_types::Timestamp>,
    #[prost(string, tag = "6")]
    chain_id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CanonicalVoteExtension {
    #[prost(bytes = "vec", tag = "1")]
    extension: Vec<u8>,
    #[prost(sfixed64, tag = "2")]
    height: i64,
    #[prost(sfixed64, tag = "3")]
    round: i64,
    #[prost(string, tag = "4")]
    chain_id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireCommitSig {
    #[prost(int32, tag = "1")]
    flag: i32,
    #[prost(bytes = "vec", tag = "2")]
    address: Vec<u8>,
    #[prost(message, optional, tag = "3")]
    timestamp: Option<prost_types::Timestamp>,
    #[prost(bytes = "vec", tag = "4")]
    signature: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HashedParams {
    #[prost(int64, tag = "1")]
    block_max_bytes: i64,
    #[prost(int64, tag = "2")]
    block_max_gas: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sign_bytes_are_those_of_the_reference() {
        let id = |hex: &str| Hash::from_hex_upper(tendermint::hash::Algorithm::Sha256, hex).expect("a hash");
        let block_id = BlockId {
            hash: id("74BD4E7F7EF902A84D55589F2AA60B332F1C2F34DDE7652C80BFEB8E7471B1DA"),
            part_set_header: parts::Header::new(
                1,
                id("7632FFB5D84C3A64279BC9EA86992418ED23832C66E0C3504B7025A9AF42C8C4"),
            )
            .expect("a part-set header"),
        };
        let keyring = Keyring::new(0);
        let set = ValidatorSet::genesis(keyring, &[(0, 1)]);
        let header = Proposal {
            chain_id: &chain_id("test-chain-g3ejvw"),
            app_version: 1,
            height: 79,
            time: Timestamp::ZERO,
            last: None,
            data_hash: [0; 32],
            last_results: 0,
            validators: &set,
            next_validators: &set,
        }
        .header();
        let at = Timestamp(1_688_583_775_206_600_022);
        assert_eq!(
            hex::encode(sign_bytes(&header, 0, Some(block_id), at)),
            "750802114f0000000000000022480a2074bd4e7f7ef902a84d55589f2aa60b332f1c2f34dde7652c80bfeb8e7471b1da\
             1224080112207632ffb5d84c3a64279bc9ea86992418ed23832c66e0c3504b7025a9af42c8c4\
             2a0b08dffc96a50610d6eec1623211746573742d636861696e2d6733656a7677"
        );
    }
}
