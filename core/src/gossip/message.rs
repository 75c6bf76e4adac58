//! Messages as they travel, and their canonical form.
//!
//! On the wire a message is a head and a brotli stream. The head says in the clear what the cheap checks need (version,
//! height, block hash); the stream holds the body, which exists in one form only: what is not encoded as we would encode
//! it is refused. So the id, a digest of head and body, names the content, however it was compressed.
//!
//! ```text
//! version (1) ‖ height (8, big-endian) ‖ block hash (32) ‖ brotli(body)
//! ```

use bytes::Bytes;
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use tendermint::{
    block::{CommitSig, Header, signed_header::SignedHeader},
    validator::{self, SimpleValidator},
};
use tendermint_proto::{Protobuf, v0_37::types as raw};

use super::{Topic, VERSION};
use crate::{
    celestia::{self, BlobError},
    ids::{BlockHash, RollupId, SequencerHeight},
    light::LightBlock,
    limits::Limits,
    merkle::{Hash, Proof},
    sequencer::{Claim, DataItems, DataTree, DataTreeFields, header_hash},
    verified::Verified,
    wire::{
        field::{self, FieldError},
        proto::astria::{
            primitive::v1 as primitive,
            sequencerblock::v1::{ExtendedCommitInfoWithProof, SequencerBlockHeader},
        },
        scan,
    },
};

/// Bytes in front of the stream.
const HEAD: usize = 1 + 8 + 32;

/// One message: what its head says, and its body in the only form there is.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    pub topic: Topic,
    pub height: SequencerHeight,
    pub block_hash: BlockHash,
    /// Canonical protobuf, not compressed.
    pub body: Bytes,
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { topic, height, block_hash, body } = self;
        write!(f, "Message({topic}, {height}, {block_hash}, {} bytes)", body.len())
    }
}

/// Names a message by its content: SHA-256 over topic, head and body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub [u8; 32]);

/// What the head of a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) height: SequencerHeight,
    pub(crate) block_hash: BlockHash,
}

/// Why bytes are no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    #[error("{actual} bytes are more than the {max} permitted")]
    TooLong { actual: usize, max: usize },
    #[error("{0} bytes are too few for a message")]
    TooShort(usize),
    #[error("version {0} is not known")]
    Version(u8),
    #[error("the body cannot be unpacked: {0}")]
    Packed(#[from] BlobError),
    #[error(transparent)]
    Field(#[from] FieldError),
    #[error("the {what} cannot be read: {detail}")]
    Unreadable { what: &'static str, detail: String },
    #[error("the {0} is not in its canonical form")]
    NotCanonical(&'static str),
    #[error("its head says height {head}, its content {content}")]
    Height { head: SequencerHeight, content: SequencerHeight },
    #[error("its head says block {head}, its header hashes to {content}")]
    BlockHash { head: BlockHash, content: BlockHash },
}

impl Message {
    /// The content's name.
    pub fn id(&self) -> MessageId {
        let mut digest = Sha256::new();
        digest.update([VERSION]);
        match &self.topic {
            Topic::Blocks => digest.update([0]),
            Topic::Rollup(id) => {
                digest.update([1]);
                digest.update(id.0);
            }
        }
        digest.update(self.height.0.to_be_bytes());
        digest.update(self.block_hash.0);
        digest.update(&self.body);
        MessageId(digest.finalize().into())
    }

    /// The message as it travels. `packed` is [`Message::body`] as a brotli stream: compressing is the adapter's business.
    pub fn seal(&self, packed: &[u8]) -> Vec<u8> {
        let mut wire = Vec::with_capacity(HEAD + packed.len());
        wire.push(VERSION);
        wire.extend(self.height.0.to_be_bytes());
        wire.extend(self.block_hash.0);
        wire.extend(packed);
        wire
    }

    /// Takes a message out of its wrapping; what is in the body is not looked at. Costs bounded time and memory.
    pub fn open(topic: Topic, wire: &[u8], limits: &Limits) -> Result<Self, MessageError> {
        let Head { height, block_hash } = Head::read(wire, limits)?;
        let body = celestia::unpack_at_most(wire.get(HEAD..).unwrap_or_default(), limits.gossip.body_bytes, limits)?;
        Ok(Self { topic, height, block_hash, body })
    }
}

/// What an adapter may call a message before anything of it is verified: equal ids, equal messages. None if it cannot be
/// unpacked; the verdict will then be to refuse it.
pub fn identify(topic: Topic, wire: &[u8], limits: &Limits) -> Option<MessageId> {
    Message::open(topic, wire, limits).ok().map(|message| message.id())
}

impl Head {
    /// All that can be said without unpacking anything.
    pub(crate) fn read(wire: &[u8], limits: &Limits) -> Result<Self, MessageError> {
        let (actual, max) = (wire.len(), limits.gossip.message_bytes);
        if actual > max {
            return Err(MessageError::TooLong { actual, max });
        }
        match wire.first() {
            Some(&VERSION) => {}
            Some(version) => return Err(MessageError::Version(*version)),
            None => return Err(MessageError::TooShort(0)),
        }
        let short = MessageError::TooShort(actual);
        let height: [u8; 8] = wire.get(1..9).and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| short.clone())?;
        let block_hash = wire.get(9..HEAD).and_then(|bytes| bytes.try_into().ok()).ok_or(short)?;
        Ok(Self { height: SequencerHeight(u64::from_be_bytes(height)), block_hash: BlockHash(block_hash) })
    }
}

/// Body of a message about a block.
#[derive(Clone, PartialEq, prost::Message)]
struct BlockWire {
    /// `tendermint.types.SignedHeader`.
    #[prost(bytes = "bytes", tag = "1")]
    signed_header: Bytes,
    /// `tendermint.types.SimpleValidator` each, in the order in which they are hashed.
    #[prost(bytes = "bytes", repeated, tag = "3")]
    validators: Vec<Bytes>,
    /// What the sequencer's own header says besides: the rest of it stands in the header above.
    #[prost(bytes = "bytes", tag = "4")]
    data_hash: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    rollup_transactions_root: Bytes,
    #[prost(message, optional, tag = "6")]
    rollup_transactions_proof: Option<primitive::Proof>,
    #[prost(message, repeated, tag = "7")]
    rollup_ids: Vec<primitive::RollupId>,
    #[prost(message, optional, tag = "8")]
    rollup_ids_proof: Option<primitive::Proof>,
    #[prost(bytes = "bytes", repeated, tag = "9")]
    upgrade_change_hashes: Vec<Bytes>,
    #[prost(message, optional, tag = "10")]
    commit_info: Option<ExtendedCommitInfoWithProof>,
    #[prost(message, optional, tag = "11")]
    items: Option<ItemsWire>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ItemsWire {
    /// 32 bytes for each data item.
    #[prost(bytes = "bytes", tag = "1")]
    digests: Bytes,
    #[prost(bytes = "bytes", optional, tag = "2")]
    next: Option<Bytes>,
}

/// Body of a message about a rollup's data in a block.
#[derive(Clone, PartialEq, prost::Message)]
struct RollupWire {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    transactions: Vec<Bytes>,
    #[prost(message, optional, tag = "2")]
    proof: Option<primitive::Proof>,
}

/// A header, who signed it, and what binds a block's data to it. Well formed, nothing of it proven.
///
/// Votes for nil count as absent: nobody checks them, and what nobody checks anybody could change.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockMessage {
    pub(crate) signed: SignedHeader,
    pub(crate) validators: Vec<validator::Info>,
    pub(crate) claim: Claim,
    /// Where the claim alone cannot tell.
    pub(crate) items: Option<DataItems>,
}

/// What one rollup has in a block. Well formed, nothing of it proven.
#[derive(Clone, Debug, PartialEq)]
pub struct RollupMessage {
    pub(crate) transactions: Vec<Bytes>,
    pub(crate) proof: Proof,
}

impl BlockMessage {
    /// About a block that is trusted. `items` are needed where the claim alone cannot be bound.
    pub(crate) fn of(light: &Verified<LightBlock>, claim: Claim, items: Option<DataItems>) -> Self {
        let mut signed = light.signed_header().clone();
        for vote in &mut signed.commit.signatures {
            if matches!(vote, CommitSig::BlockIdFlagNil { .. }) {
                *vote = CommitSig::BlockIdFlagAbsent;
            }
        }
        Self { signed, validators: light.validators().infos().to_vec(), claim, items }
    }

    pub fn height(&self) -> SequencerHeight {
        SequencerHeight(self.signed.header.height.value())
    }

    /// Reads the body of a message on [`Topic::Blocks`].
    pub fn decode(message: &Message, limits: &Limits) -> Result<Self, MessageError> {
        let body = &message.body;
        let lists = [(3, limits.validators, "validators"), (7, limits.list_entries, "rollup ids")];
        let lists = lists.into_iter().chain([(9, limits.list_entries, "upgrade changes")]);
        for (number, max, what) in lists {
            scan::at_most(body, &[number], max, what).map_err(FieldError::from)?;
        }
        scan::at_most(body, &[1, 2, 4], limits.validators, "votes").map_err(FieldError::from)?;
        let wire = canonical::<BlockWire>(body)?;
        let signed = inner(
            &wire.signed_header,
            "signed header",
            <SignedHeader as Protobuf<raw::SignedHeader>>::decode_vec,
            Protobuf::<raw::SignedHeader>::encode_vec,
        )?;
        let header = &signed.header;
        let content = SequencerHeight(header.height.value());
        if content != message.height {
            return Err(MessageError::Height { head: message.height, content });
        }
        let hash = header_hash(header);
        if hash != message.block_hash {
            return Err(MessageError::BlockHash { head: message.block_hash, content: hash });
        }
        if signed.commit.signatures.iter().any(|vote| matches!(vote, CommitSig::BlockIdFlagNil { .. })) {
            return Err(MessageError::NotCanonical("commit"));
        }
        let validators = wire.validators.iter().map(|bytes| {
            let validator = inner(
                bytes,
                "validator",
                <SimpleValidator as Protobuf<raw::SimpleValidator>>::decode_vec,
                Protobuf::<raw::SimpleValidator>::encode_vec,
            )?;
            Ok(validator::Info::new(validator.pub_key, validator.voting_power))
        });
        let validators = validators.collect::<Result<_, MessageError>>()?;
        let own = own_header(header, wire.data_hash, wire.rollup_transactions_root);
        let tree = DataTree::from_wire(
            &DataTreeFields {
                header: Some(&own),
                rollup_transactions_proof: wire.rollup_transactions_proof.as_ref(),
                rollup_ids: &wire.rollup_ids,
                rollup_ids_proof: wire.rollup_ids_proof.as_ref(),
                upgrade_change_hashes: &wire.upgrade_change_hashes,
                commit_info: wire.commit_info.as_ref(),
            },
            limits,
        )?;
        let items = wire.items.map(ItemsWire::read).transpose()?;
        Ok(Self { signed, validators, claim: Claim { block_hash: hash, tree }, items })
    }

    /// The message in its canonical form.
    pub fn encode(&self) -> Message {
        let tree = &self.claim.tree;
        let hashes = |hashes: &[Hash]| hashes.iter().map(|hash| Bytes::copy_from_slice(hash)).collect();
        let id = |id: &RollupId| primitive::RollupId { inner: Bytes::copy_from_slice(&id.0) };
        let wire = BlockWire {
            signed_header: Protobuf::<raw::SignedHeader>::encode_vec(self.signed.clone()).into(),
            validators: self.validators.iter().map(|info| info.hash_bytes().into()).collect(),
            data_hash: Bytes::copy_from_slice(&tree.header.data_hash),
            rollup_transactions_root: Bytes::copy_from_slice(&tree.header.rollup_transactions_root),
            rollup_transactions_proof: Some(tree.rollup_transactions_proof.to_wire()),
            rollup_ids: tree.rollup_ids.iter().map(id).collect(),
            rollup_ids_proof: Some(tree.rollup_ids_proof.to_wire()),
            upgrade_change_hashes: hashes(&tree.upgrade_change_hashes),
            commit_info: tree.commit_info.as_ref().map(|info| ExtendedCommitInfoWithProof {
                extended_commit_info: info.bytes.clone(),
                proof: Some(info.proof.to_wire()),
            }),
            items: self
                .items
                .as_ref()
                .map(|items| ItemsWire { digests: items.digests.concat().into(), next: items.next.clone() }),
        };
        Message {
            topic: Topic::Blocks,
            height: self.height(),
            block_hash: self.claim.block_hash,
            body: wire.encode_to_vec().into(),
        }
    }
}

impl RollupMessage {
    /// Reads the body of a message on [`Topic::Rollup`].
    pub fn decode(message: &Message, limits: &Limits) -> Result<Self, MessageError> {
        scan::at_most(&message.body, &[1], limits.transactions, "transactions").map_err(FieldError::from)?;
        let RollupWire { transactions, proof } = canonical(&message.body)?;
        Ok(Self { transactions, proof: field::proof(proof.as_ref(), "proof of the rollup's transactions")? })
    }

    /// The message in its canonical form.
    pub fn encode(&self, rollup: RollupId, height: SequencerHeight, block_hash: BlockHash) -> Message {
        let wire = RollupWire { transactions: self.transactions.clone(), proof: Some(self.proof.to_wire()) };
        Message { topic: Topic::Rollup(rollup), height, block_hash, body: wire.encode_to_vec().into() }
    }
}

impl ItemsWire {
    fn read(self) -> Result<DataItems, FieldError> {
        let (digests, rest) = self.digests.as_chunks::<32>();
        if !rest.is_empty() {
            return Err(FieldError::Length { what: "digest of a data item", expected: 32, actual: rest.len() });
        }
        Ok(DataItems { digests: digests.to_vec(), next: self.next })
    }
}

/// The sequencer's own header, of which all but two hashes stand in the block's.
fn own_header(header: &Header, data_hash: Bytes, rollup_transactions_root: Bytes) -> SequencerBlockHeader {
    let seconds = header.time.unix_timestamp();
    let nanos = header.time.unix_timestamp_nanos() - i128::from(seconds) * 1_000_000_000;
    SequencerBlockHeader {
        chain_id: header.chain_id.to_string(),
        height: header.height.value(),
        time: Some(prost_types::Timestamp { seconds, nanos: i32::try_from(nanos).unwrap_or(-1) }),
        data_hash,
        rollup_transactions_root,
        proposer_address: Bytes::copy_from_slice(header.proposer_address.as_bytes()),
    }
}

/// Decodes a body that is encoded as we would encode it.
fn canonical<T: prost::Message + Default>(body: &Bytes) -> Result<T, MessageError> {
    let decoded = T::decode(body.clone()).map_err(FieldError::from)?;
    if decoded.encode_to_vec() == *body { Ok(decoded) } else { Err(MessageError::NotCanonical("body")) }
}

/// The same of what CometBFT defines.
fn inner<T: Clone>(
    bytes: &Bytes,
    what: &'static str,
    decode: impl Fn(&[u8]) -> Result<T, tendermint_proto::Error>,
    encode: impl Fn(T) -> Vec<u8>,
) -> Result<T, MessageError> {
    let decoded = decode(bytes).map_err(|error| MessageError::Unreadable { what, detail: error.to_string() })?;
    if encode(decoded.clone()) == *bytes { Ok(decoded) } else { Err(MessageError::NotCanonical(what)) }
}
