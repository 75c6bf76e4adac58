//! Genuine sequencer blocks for tests: each with all that the sequencer and Celestia say about it.

use std::sync::Arc;

use bytes::Bytes;
use ed25519_consensus::SigningKey;
use prost::Message as _;
use tendermint::{
    Hash, Signature, Time, account, block, block::signed_header::SignedHeader, public_key::PublicKey, validator, vote,
};

use crate::{
    celestia::Namespace,
    event::Blob,
    gossip::{MakeGossip, Message},
    ids::{RollupId, SequencerHeight},
    job::{Job, JobOutcome},
    light::{self, Check, LightBlock, Options, SignedBlock},
    limits::Limits,
    merkle::{self, Tree},
    sequencer::{
        self, BoundMetadata, ContentDigest, RollupRecord, TrustedHeader, UnverifiedFilteredBlock, UnverifiedMetadata,
        ValidatorSet, item_digest, rollup_leaf,
    },
    time::Timestamp,
    verified::Verified,
    wire::proto::astria::{
        primitive::v1 as primitive,
        sequencerblock::v1::{
            DataItem, FilteredSequencerBlock, RollupData, RollupTransactions, SequencerBlockHeader, SubmittedMetadata,
            SubmittedMetadataList, SubmittedRollupData, SubmittedRollupDataList, data_item, rollup_data,
        },
    },
};

pub(crate) const CHAIN: &str = "sequencer-1";
pub(crate) const ROLLUP: RollupId = RollupId([7; 32]);

/// A block, its commit, and what is published of it.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) signed: SignedHeader,
    pub(crate) validators: Vec<validator::Info>,
    pub(crate) items: Vec<Bytes>,
    pub(crate) metadata: SubmittedMetadata,
    pub(crate) records: Vec<SubmittedRollupData>,
    pub(crate) filtered: FilteredSequencerBlock,
}

fn wire_id(id: &RollupId) -> primitive::RollupId {
    primitive::RollupId { inner: Bytes::copy_from_slice(&id.0) }
}

/// A block with one transaction for each of `rollups`, in the older format, about which the metadata alone can tell.
pub(crate) fn block(height: u64, rollups: &[RollupId]) -> Made {
    made(height, rollups, &[], None)
}

/// A block that follows another one.
pub(crate) fn block_after(parent: &Made, rollups: &[RollupId]) -> Made {
    made(parent.signed.header.height.value() + 1, rollups, &[], Some(parent.signed.commit.block_id))
}

/// The same with other data: what it would be on another branch.
pub(crate) fn block_after_with(parent: &Made, rollups: &[RollupId], content: &str) -> Made {
    let height = parent.signed.header.height.value() + 1;
    made_of(height, rollups, &[], Some(parent.signed.commit.block_id), content)
}

/// A block with a user's item, about which only its data items can tell.
pub(crate) fn block_with_items(height: u64, rollups: &[RollupId]) -> Made {
    made(height, rollups, &[Bytes::from_static(b"an item with several fields")], None)
}

/// The same that follows another one.
pub(crate) fn block_after_with_items(parent: &Made, rollups: &[RollupId]) -> Made {
    let height = parent.signed.header.height.value() + 1;
    made(height, rollups, &[Bytes::from_static(b"an item with several fields")], Some(parent.signed.commit.block_id))
}

fn made(height: u64, rollups: &[RollupId], users: &[Bytes], last_block_id: Option<block::Id>) -> Made {
    made_of(height, rollups, users, last_block_id, &format!("data of height {height}"))
}

fn made_of(
    height: u64,
    rollups: &[RollupId],
    users: &[Bytes],
    last_block_id: Option<block::Id>,
    content: &str,
) -> Made {
    let payload = rollup_data::Value::SequencedData(Bytes::from(content.to_owned()));
    let transactions = vec![Bytes::from(RollupData { value: Some(payload) }.encode_to_vec())];
    let root = merkle::root_of(&transactions);
    let tree = Tree::new(rollups.iter().map(|id| rollup_leaf(id, &root)));
    let ids_root = merkle::root_of(rollups.iter().map(|id| id.0));
    let roots = [tree.root(), ids_root].map(|root| Bytes::copy_from_slice(&root));
    let own: Vec<Bytes> = roots.iter().chain(users).cloned().collect();
    let own = Tree::new(own.iter().map(|item| item_digest(item)));
    let wrap = |value| Bytes::from(DataItem { value: Some(value) }.encode_to_vec());
    let items: Vec<Bytes> = if users.is_empty() {
        roots.to_vec()
    } else {
        let wrapped = [
            wrap(data_item::Value::RollupTransactionsRoot(roots[0].clone())),
            wrap(data_item::Value::RollupIdsRoot(roots[1].clone())),
        ];
        wrapped.into_iter().chain(users.iter().cloned()).collect()
    };
    let signed = sign(CHAIN, height, merkle::root_of(items.iter().map(|item| item_digest(item))), last_block_id);
    let block_hash = Bytes::copy_from_slice(signed.0.commit.block_id.hash.as_bytes());
    let header = SequencerBlockHeader {
        chain_id: CHAIN.to_owned(),
        height,
        time: Some(prost_types::Timestamp { seconds: signed.0.header.time.unix_timestamp(), nanos: 0 }),
        data_hash: Bytes::copy_from_slice(&own.root()),
        proposer_address: Bytes::copy_from_slice(signed.0.header.proposer_address.as_bytes()),
        rollup_transactions_root: roots[0].clone(),
    };
    let proof = |tree: &Tree, index| tree.proof(index).map(|proof| proof.to_wire());
    let ids: Vec<_> = rollups.iter().map(wire_id).collect();
    let records = rollups.iter().enumerate().map(|(index, id)| SubmittedRollupData {
        sequencer_block_hash: block_hash.clone(),
        rollup_id: Some(wire_id(id)),
        transactions: transactions.clone(),
        proof: proof(&tree, index),
    });
    let records: Vec<_> = records.collect();
    let parts = records.iter().map(|record| RollupTransactions {
        rollup_id: record.rollup_id.clone(),
        transactions: record.transactions.clone(),
        proof: record.proof.clone(),
    });
    Made {
        filtered: FilteredSequencerBlock {
            block_hash: block_hash.clone(),
            header: Some(header.clone()),
            rollup_transactions: parts.collect(),
            rollup_transactions_proof: proof(&own, 0),
            all_rollup_ids: ids.clone(),
            rollup_ids_proof: proof(&own, 1),
            ..FilteredSequencerBlock::default()
        },
        metadata: SubmittedMetadata {
            block_hash,
            header: Some(header),
            rollup_ids: ids,
            rollup_transactions_proof: proof(&own, 0),
            rollup_ids_proof: proof(&own, 1),
            ..SubmittedMetadata::default()
        },
        records,
        items,
        signed: signed.0,
        validators: signed.1,
    }
}

/// Blocks of another chain from height 1 on, one above the other, all with this data hash.
pub(crate) fn headers(chain_id: &str, count: u64, data_hash: merkle::Hash) -> Vec<SignedBlock> {
    let mut blocks: Vec<SignedBlock> = Vec::new();
    for height in 1..=count {
        let last = blocks.last().map(|block| block.signed_header.commit.block_id);
        let (signed_header, validators) = sign(chain_id, height, data_hash, last);
        blocks.push(SignedBlock { signed_header, validators });
    }
    blocks
}

/// A header with this data hash, and the commit of its only validator.
fn sign(
    chain_id: &str,
    height: u64,
    data_hash: merkle::Hash,
    last_block_id: Option<block::Id>,
) -> (SignedHeader, Vec<validator::Info>) {
    let key = SigningKey::from([1; 32]);
    let public = PublicKey::from(key.verification_key());
    let validators = vec![validator::Info::new(public, 10_u32.into())];
    let set = ValidatorSet::new(validators.clone(), 1).expect("one validator");
    let time = Time::from_unix_timestamp(1_700_000_000 + i64::try_from(height).expect("small"), 0).expect("in range");
    let header = block::Header {
        version: block::header::Version { block: 11, app: 0 },
        chain_id: chain_id.try_into().expect("a chain id"),
        height: height.try_into().expect("small"),
        time,
        last_block_id,
        last_commit_hash: None,
        data_hash: Some(Hash::Sha256(data_hash)),
        validators_hash: Hash::Sha256(set.hash()),
        next_validators_hash: Hash::Sha256(set.hash()),
        consensus_hash: Hash::None,
        app_hash: Vec::new().try_into().expect("any bytes"),
        last_results_hash: None,
        evidence_hash: None,
        proposer_address: account::Id::from(public),
    };
    let id = block::Id {
        hash: Hash::Sha256(sequencer::header_hash(&header).0),
        part_set_header: block::parts::Header::new(1, Hash::Sha256([2; 32])).expect("not zero"),
    };
    let vote = vote::Vote {
        vote_type: vote::Type::Precommit,
        height: header.height,
        round: block::Round::default(),
        block_id: Some(id),
        timestamp: Some(time),
        validator_address: account::Id::from(public),
        validator_index: 0_u32.try_into().expect("an index"),
        signature: None,
        extension: Vec::new(),
        extension_signature: None,
    };
    let bytes = vote::SignVoteRequest { vote, chain_id: header.chain_id.clone() }.into_signable_vec();
    let signature = Signature::new(key.sign(&bytes).to_bytes()).expect("64 bytes");
    let vote = block::CommitSig::BlockIdFlagCommit {
        validator_address: account::Id::from(public),
        timestamp: time,
        signature,
    };
    let commit =
        block::Commit { height: header.height, round: block::Round::default(), block_id: id, signatures: vec![vote] };
    (SignedHeader::new(header, commit).expect("one height"), validators)
}

impl Made {
    pub(crate) fn height(&self) -> SequencerHeight {
        SequencerHeight(self.signed.header.height.value())
    }

    pub(crate) fn trusted(&self) -> Verified<TrustedHeader> {
        let set = ValidatorSet::new(self.validators.clone(), 1).expect("one validator");
        sequencer::verify_signed_header(&self.signed, &set, CHAIN, self.height()).expect("a genuine commit")
    }

    /// All that proves the header, to whoever trusts its hash.
    pub(crate) fn light(&self) -> Verified<LightBlock> {
        let set = Arc::new(ValidatorSet::new(self.validators.clone(), 1).expect("one validator"));
        light::verify(&self.root(), self.height().0, &self.signed, &set, &Options::default(), self.moment())
            .expect("a genuine commit")
    }

    /// Trust in this very header.
    pub(crate) fn root(&self) -> Check {
        let hash = sequencer::header_hash(&self.signed.header);
        Check::Root { chain_id: CHAIN.to_owned(), hash }
    }

    /// The moment of the block.
    pub(crate) fn moment(&self) -> Timestamp {
        let seconds = u64::try_from(self.signed.header.time.unix_timestamp()).expect("after 1970");
        Timestamp(seconds * 1_000_000_000)
    }

    /// What a node that verified the block tells its peers: about the block, then about each rollup.
    pub(crate) fn messages(&self) -> Vec<Message> {
        let job = MakeGossip {
            block: self.filtered.encode_to_vec().into(),
            light: Box::new(self.light()),
            transactions: Some(self.items.clone()),
            limits: Arc::default(),
        };
        match Job::MakeGossip(Box::new(job)).run() {
            JobOutcome::Messages(messages) => messages,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn candidate(&self) -> UnverifiedMetadata {
        UnverifiedMetadata::decode(&self.metadata.encode_to_vec().into(), &Limits::default()).expect("metadata")
    }

    /// What tells other records of the block from forged ones.
    pub(crate) fn bound_content(&self) -> ContentDigest {
        let block = UnverifiedFilteredBlock::decode(&self.filtered.encode_to_vec().into(), &Limits::default());
        block.expect("a block").into_parts().0.content()
    }

    /// Names the genuine block, and describes it wrongly.
    pub(crate) fn forged(&self) -> UnverifiedMetadata {
        let mut forged = self.metadata.clone();
        if let Some(time) = forged.header.as_mut().and_then(|header| header.time.as_mut()) {
            time.nanos += 1;
        }
        UnverifiedMetadata::decode(&forged.encode_to_vec().into(), &Limits::default()).expect("metadata")
    }

    pub(crate) fn bound(&self) -> Verified<BoundMetadata> {
        self.candidate().bind(&self.trusted(), Some(&self.items)).expect("genuine metadata")
    }

    pub(crate) fn record(&self) -> RollupRecord {
        RollupRecord::decode(&self.records[0].encode_to_vec().into(), &Limits::default()).expect("a record")
    }
}

/// A message as it travels.
pub(crate) fn sealed(message: &Message) -> Bytes {
    message.seal(&stored(&message.body)).into()
}

/// Brotli's own form for bytes that are not compressed, in pieces that it can hold.
fn stored(bytes: &[u8]) -> Bytes {
    // A window of 16 bits; then pieces: not the last one, length in 16 bits, stored as it is.
    let mut out = Vec::new();
    let (mut bits, mut held) = (0_u32, 1_u32);
    for piece in bytes.chunks(1 << 16) {
        bits |= u32::try_from(piece.len() - 1).expect("at most 2^16") << (held + 3) | 1 << (held + 19);
        held += 20;
        while held > 0 {
            out.push(bits.to_le_bytes()[0]);
            bits >>= 8;
            held = held.saturating_sub(8);
        }
        out.extend(piece);
    }
    // The last piece, which is empty.
    bits |= 3 << held;
    out.push(bits.to_le_bytes()[0]);
    out.into()
}

pub(crate) fn metadata_blob(entries: impl IntoIterator<Item = SubmittedMetadata>) -> Blob {
    let list = SubmittedMetadataList { entries: entries.into_iter().collect() };
    Blob { namespace: Namespace::of_sequencer(CHAIN), data: stored(&list.encode_to_vec()) }
}

pub(crate) fn rollup_blob(id: &RollupId, entries: impl IntoIterator<Item = SubmittedRollupData>) -> Blob {
    let list = SubmittedRollupDataList { entries: entries.into_iter().collect() };
    Blob { namespace: Namespace::of_rollup(id), data: stored(&list.encode_to_vec()) }
}
