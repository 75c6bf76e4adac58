//! One event as a record and back.

use std::io::Write as _;

use bytes::Bytes;
use downbeat_core::{
    Answer, CelestiaHeight, CellId, CommandId, Event, Fault, FaultClass, JobOutcome, RollupId, Seq, SequencerHeight,
    Stamped, Timestamp,
    celestia::{
        Namespace,
        square::{DataAvailabilityHeader, NamespacedHash, RowProof, UnverifiedNamespace, UnverifiedRow},
    },
    cell::{CellSpec, Mode},
    event::{Blob, CelestiaBlock, CelestiaHead},
    gossip::{GossipHandle, GossipPeer, Topic},
    light::SignedBlock,
};
use prost::Message as _;
use tendermint::{
    block::{Commit, Header, signed_header::SignedHeader},
    validator,
};
use tendermint_proto::{Protobuf, v0_37::types as comet};

use super::{
    OutboxDigest, OutboxHash,
    proto::{self, answered, record},
};
use crate::lenient::Guarded;

/// An event as it was recorded, with what the conductor made of it.
#[derive(Clone, Debug)]
pub struct Entry {
    pub seq: Seq,
    pub at: Timestamp,
    pub event: Recorded,
    /// `None` when the conductor did not come back from this event.
    pub outbox: Option<OutboxDigest>,
}

/// What is kept of an event.
#[derive(Clone, Debug)]
pub enum Recorded {
    /// All of it. Never an [`Event::JobFinished`].
    Event(Event),
    /// The job's outcome is left out: it follows from the job.
    JobFinished(CommandId),
}

impl Entry {
    /// Takes over what is to be recorded of `input`.
    pub fn new(input: Stamped, outbox: Option<OutboxDigest>) -> Self {
        let event = match input.event {
            Event::JobFinished { id, .. } => Recorded::JobFinished(id),
            event => Recorded::Event(event),
        };
        Self { seq: input.seq, at: input.at, event, outbox }
    }

    /// The event, with the outcome of its job where it has one.
    pub fn into_stamped(self, outcome: impl FnOnce(CommandId) -> JobOutcome) -> Stamped {
        let event = match self.event {
            Recorded::Event(event) => event,
            Recorded::JobFinished(id) => Event::JobFinished { id, outcome: outcome(id) },
        };
        Stamped { seq: self.seq, at: self.at, event }
    }

    /// The event, where a job's outcome does not matter: an empty one stands in its place.
    pub fn into_stamped_without_outcome(self) -> Stamped {
        self.into_stamped(|_| JobOutcome::Blobs(Ok(Box::default())))
    }
}

/// Why a record cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("not a record: {0}")]
    Protobuf(#[from] prost::DecodeError),
    #[error("it has no {0}")]
    Missing(&'static str),
    #[error("its {0} is not one that this version knows")]
    Unknown(&'static str),
    #[error("its {what} cannot be read: {detail}")]
    Unreadable { what: &'static str, detail: String },
}

/// A record of one event. `outbox` is absent when the conductor did not come back from it.
pub fn encode(input: &Stamped, outbox: Option<&OutboxDigest>) -> Vec<u8> {
    let event = match &input.event {
        Event::JobFinished { id, .. } => record::Event::JobFinished(id_to_proto(*id)),
        event => event_to_proto(event.clone()),
    };
    let outbox = outbox.cloned().map(outbox_to_proto);
    proto::Record { seq: input.seq.0, at: input.at.0, event: Some(event), outbox }.encode_to_vec()
}

/// What [`encode`] has made.
///
/// # Errors
/// When the bytes are no record, or hold something that this version does not know.
pub fn decode(bytes: &[u8]) -> Result<Entry, DecodeError> {
    from_proto(proto::Record::decode(bytes)?)
}

pub(super) fn into_proto(entry: Entry) -> proto::Record {
    let event = match entry.event {
        Recorded::JobFinished(id) => record::Event::JobFinished(id_to_proto(id)),
        Recorded::Event(event) => event_to_proto(event),
    };
    let outbox = entry.outbox.map(outbox_to_proto);
    proto::Record { seq: entry.seq.0, at: entry.at.0, event: Some(event), outbox }
}

pub(super) fn from_proto(record: proto::Record) -> Result<Entry, DecodeError> {
    let event = match record.event.ok_or(DecodeError::Missing("event"))? {
        record::Event::CellInstalled(cell) => Recorded::Event(Event::CellInstalled {
            cell: CellId(cell.cell),
            spec: CellSpec {
                mode: mode_from_proto(cell.mode())?,
                expected_sequencer_chain_id: cell.expected_sequencer_chain_id,
                expected_celestia_chain_id: cell.expected_celestia_chain_id,
            },
        }),
        record::Event::DeadlineReached(proto::DeadlineReached {}) => Recorded::Event(Event::DeadlineReached),
        record::Event::Answered(answered) => Recorded::Event(Event::Answered {
            id: id_from_proto(answered.id)?,
            answer: answer_from_proto(answered.answer.ok_or(DecodeError::Missing("answer"))?)?,
        }),
        record::Event::Failed(failed) => Recorded::Event(Event::Failed {
            id: id_from_proto(failed.id)?,
            fault: Fault::new(class_from_proto(failed.class())?, failed.detail),
        }),
        record::Event::JobFinished(id) => Recorded::JobFinished(id_from_proto(Some(id))?),
        record::Event::StopRequested(proto::StopRequested {}) => Recorded::Event(Event::StopRequested),
        record::Event::Gossiped(gossiped) => Recorded::Event(Event::Gossiped {
            handle: GossipHandle(gossiped.handle),
            peer: GossipPeer(gossiped.peer),
            topic: match gossiped.rollup_id {
                Some(id) => Topic::Rollup(rollup_id_from_proto(&id)?),
                None => Topic::Blocks,
            },
            bytes: gossiped.message,
        }),
    };
    let outbox = record.outbox.as_ref().map(outbox_from_proto).transpose()?;
    Ok(Entry { seq: Seq(record.seq), at: Timestamp(record.at), event, outbox })
}

fn outbox_to_proto(outbox: OutboxDigest) -> proto::Outbox {
    let kinds = outbox.kinds.into();
    match outbox.hash {
        OutboxHash::Sha256(hash) => {
            proto::Outbox { sha256: Bytes::copy_from_slice(&hash), kinds, ..proto::Outbox::default() }
        }
        OutboxHash::Xxh3(hash) => {
            let half = |half: u128| Some(u64::try_from(half & u128::from(u64::MAX)).unwrap_or_default());
            proto::Outbox { xxh3_low: half(hash), xxh3_high: half(hash >> 64), kinds, ..proto::Outbox::default() }
        }
    }
}

fn outbox_from_proto(outbox: &proto::Outbox) -> Result<OutboxDigest, DecodeError> {
    let hash = match (outbox.sha256.as_ref(), outbox.xxh3_low, outbox.xxh3_high) {
        ([], Some(low), Some(high)) => OutboxHash::Xxh3(u128::from(high) << 64 | u128::from(low)),
        (bytes, None, None) => OutboxHash::Sha256(bytes.try_into().map_err(|_| DecodeError::Unknown("outbox hash"))?),
        _ => return Err(DecodeError::Unknown("outbox hash")),
    };
    Ok(OutboxDigest { hash, kinds: outbox.kinds.to_vec() })
}

fn id_to_proto(id: CommandId) -> proto::CommandId {
    proto::CommandId { incarnation: id.incarnation, ordinal: id.ordinal }
}

fn id_from_proto(id: Option<proto::CommandId>) -> Result<CommandId, DecodeError> {
    let id = id.ok_or(DecodeError::Missing("command id"))?;
    Ok(CommandId { incarnation: id.incarnation, ordinal: id.ordinal })
}

fn mode_to_proto(mode: Mode) -> proto::Mode {
    match mode {
        Mode::SoftOnly => proto::Mode::SoftOnly,
        Mode::FirmOnly => proto::Mode::FirmOnly,
        Mode::SoftAndFirm => proto::Mode::SoftAndFirm,
    }
}

fn mode_from_proto(mode: proto::Mode) -> Result<Mode, DecodeError> {
    match mode {
        proto::Mode::SoftOnly => Ok(Mode::SoftOnly),
        proto::Mode::FirmOnly => Ok(Mode::FirmOnly),
        proto::Mode::SoftAndFirm => Ok(Mode::SoftAndFirm),
        proto::Mode::Unspecified => Err(DecodeError::Unknown("mode")),
    }
}

fn class_to_proto(class: FaultClass) -> proto::FaultClass {
    match class {
        FaultClass::Transient => proto::FaultClass::Transient,
        FaultClass::NotYet => proto::FaultClass::NotYet,
        FaultClass::Gone => proto::FaultClass::Gone,
        FaultClass::Invalid => proto::FaultClass::Invalid,
        FaultClass::SessionLost => proto::FaultClass::SessionLost,
        FaultClass::Fatal => proto::FaultClass::Fatal,
    }
}

fn class_from_proto(class: proto::FaultClass) -> Result<FaultClass, DecodeError> {
    match class {
        proto::FaultClass::Transient => Ok(FaultClass::Transient),
        proto::FaultClass::NotYet => Ok(FaultClass::NotYet),
        proto::FaultClass::Gone => Ok(FaultClass::Gone),
        proto::FaultClass::Invalid => Ok(FaultClass::Invalid),
        proto::FaultClass::SessionLost => Ok(FaultClass::SessionLost),
        proto::FaultClass::Fatal => Ok(FaultClass::Fatal),
        proto::FaultClass::Unspecified => Err(DecodeError::Unknown("fault class")),
    }
}

fn event_to_proto(event: Event) -> record::Event {
    match event {
        Event::CellInstalled { cell, spec } => record::Event::CellInstalled(proto::CellInstalled {
            cell: cell.0,
            mode: mode_to_proto(spec.mode).into(),
            expected_sequencer_chain_id: spec.expected_sequencer_chain_id,
            expected_celestia_chain_id: spec.expected_celestia_chain_id,
        }),
        Event::DeadlineReached => record::Event::DeadlineReached(proto::DeadlineReached {}),
        Event::Answered { id, answer } => record::Event::Answered(proto::Answered {
            id: Some(id_to_proto(id)),
            answer: Some(answer_to_proto(answer)),
        }),
        Event::Failed { id, fault } => record::Event::Failed(proto::Failed {
            id: Some(id_to_proto(id)),
            class: class_to_proto(fault.class).into(),
            detail: fault.detail,
        }),
        Event::JobFinished { id, .. } => record::Event::JobFinished(id_to_proto(id)),
        Event::StopRequested => record::Event::StopRequested(proto::StopRequested {}),
        Event::Gossiped { handle, peer, topic, bytes } => record::Event::Gossiped(proto::Gossiped {
            handle: handle.0,
            peer: peer.0,
            rollup_id: match topic {
                Topic::Blocks => None,
                Topic::Rollup(id) => Some(Bytes::copy_from_slice(&id.0)),
            },
            message: bytes,
        }),
    }
}

fn rollup_id_from_proto(id: &Bytes) -> Result<RollupId, DecodeError> {
    id.as_ref().try_into().map(RollupId).map_err(|_| DecodeError::Unknown("rollup id"))
}

fn answer_to_proto(answer: Answer) -> answered::Answer {
    use answered::Answer as Out;
    match answer {
        Answer::SequencerIdentified { chain_id } => Out::SequencerIdentified(chain_id),
        Answer::SequencerHeadFetched { height } => Out::SequencerHeadFetched(height.0),
        Answer::SoftBlockFetched { block } => Out::SoftBlockFetched(block),
        Answer::SignedHeaderFetched { signed_header } => {
            Out::SignedHeaderFetched(Protobuf::<comet::SignedHeader>::encode_vec(*signed_header).into())
        }
        Answer::HeadersFetched { headers } => Out::HeadersFetched(headers_to_proto(headers)),
        Answer::ValidatorsFetched { validators } => Out::ValidatorsFetched(validators_to_json(&validators)),
        Answer::BlockTransactionsFetched { transactions } => {
            Out::BlockTransactionsFetched(proto::Transactions { transactions })
        }
        Answer::CelestiaHeadFetched { head } => Out::CelestiaHeadFetched(proto::CelestiaHead {
            chain_id: head.chain_id,
            height: head.height.0,
            time: head.time.0,
        }),
        Answer::BlobsFetched { blobs, unreadable } => {
            let blobs = blobs.into_iter().map(|blob| proto::Blob {
                namespace: Bytes::copy_from_slice(blob.namespace.as_bytes()),
                data: blob.data,
            });
            Out::BlobsFetched(proto::Blobs { blobs: blobs.collect(), unreadable })
        }
        Answer::NamespacesFetched { block } => Out::NamespacesFetched(celestia_block_to_proto(*block)),
        Answer::CelestiaHeaderFetched { header } => Out::CelestiaHeaderFetched(signed_to_proto(*header)),
        Answer::CelestiaHeadersFetched { headers } => Out::CelestiaHeadersFetched(headers_to_proto(headers)),
        Answer::SessionOpened { session } => Out::SessionOpened(*session),
        Answer::BlockExecuted { response } => Out::BlockExecuted(*response),
        Answer::CommitmentUpdated { commitment } => Out::CommitmentUpdated(*commitment),
        Answer::ExecutedBlockFetched { metadata } => Out::ExecutedBlockFetched(*metadata),
        Answer::FetchedFromPeers { peer, block, rollups } => {
            let rollups = rollups
                .into_iter()
                .map(|(id, message)| proto::RollupMessage { rollup_id: Bytes::copy_from_slice(&id.0), message });
            Out::FetchedFromPeers(proto::PeerMessages { peer: peer.0, block, rollups: rollups.collect() })
        }
    }
}

fn answer_from_proto(answer: answered::Answer) -> Result<Answer, DecodeError> {
    use answered::Answer as In;
    Ok(match answer {
        In::SequencerIdentified(chain_id) => Answer::SequencerIdentified { chain_id },
        In::SequencerHeadFetched(height) => Answer::SequencerHeadFetched { height: SequencerHeight(height) },
        In::SoftBlockFetched(block) => Answer::SoftBlockFetched { block },
        In::SignedHeaderFetched(bytes) => {
            Answer::SignedHeaderFetched { signed_header: Box::new(signed_header_from_proto(bytes)?) }
        }
        In::HeadersFetched(list) => Answer::HeadersFetched { headers: headers_from_proto(list)? },
        In::ValidatorsFetched(json) => Answer::ValidatorsFetched { validators: validators_from_json(&json)? },
        In::CelestiaHeaderFetched(block) => {
            Answer::CelestiaHeaderFetched { header: Box::new(signed_from_proto(block)?) }
        }
        In::CelestiaHeadersFetched(list) => Answer::CelestiaHeadersFetched { headers: headers_from_proto(list)? },
        In::BlockTransactionsFetched(list) => Answer::BlockTransactionsFetched { transactions: list.transactions },
        In::CelestiaHeadFetched(head) => Answer::CelestiaHeadFetched {
            head: CelestiaHead {
                chain_id: head.chain_id,
                height: CelestiaHeight(head.height),
                time: Timestamp(head.time),
            },
        },
        In::BlobsFetched(list) => {
            let read = |blob: proto::Blob| {
                let namespace = blob.namespace.as_ref().try_into().map_err(|_| DecodeError::Unknown("namespace"))?;
                Ok(Blob { namespace: Namespace::from_bytes(namespace), data: blob.data })
            };
            let blobs = list.blobs.into_iter().map(read).collect::<Result<_, DecodeError>>()?;
            Answer::BlobsFetched { blobs, unreadable: list.unreadable }
        }
        In::NamespacesFetched(block) => {
            Answer::NamespacesFetched { block: Box::new(celestia_block_from_proto(block)?) }
        }
        In::SessionOpened(session) => Answer::SessionOpened { session: Box::new(session) },
        In::BlockExecuted(response) => Answer::BlockExecuted { response: Box::new(response) },
        In::CommitmentUpdated(commitment) => Answer::CommitmentUpdated { commitment: Box::new(commitment) },
        In::ExecutedBlockFetched(metadata) => Answer::ExecutedBlockFetched { metadata: Box::new(metadata) },
        In::FetchedFromPeers(messages) => {
            let read = |rollup: proto::RollupMessage| Ok((rollup_id_from_proto(&rollup.rollup_id)?, rollup.message));
            Answer::FetchedFromPeers {
                peer: GossipPeer(messages.peer),
                block: messages.block,
                rollups: messages.rollups.into_iter().map(read).collect::<Result<_, DecodeError>>()?,
            }
        }
    })
}

fn unreadable(what: &'static str, detail: &dyn std::fmt::Display) -> DecodeError {
    DecodeError::Unreadable { what, detail: detail.to_string() }
}

fn headers_to_proto(headers: Vec<Header>) -> proto::Headers {
    let headers = headers.into_iter().map(|header| Protobuf::<comet::Header>::encode_vec(header).into());
    proto::Headers { headers: headers.collect() }
}

fn headers_from_proto(list: proto::Headers) -> Result<Vec<Header>, DecodeError> {
    list.headers.into_iter().map(header_from_proto).collect()
}

fn header_from_proto(bytes: Bytes) -> Result<Header, DecodeError> {
    <Header as Protobuf<comet::Header>>::decode(bytes).map_err(|error| unreadable("header", &error))
}

fn signed_header_from_proto(bytes: Bytes) -> Result<SignedHeader, DecodeError> {
    <SignedHeader as Protobuf<comet::SignedHeader>>::decode(bytes).map_err(|error| unreadable("signed header", &error))
}

fn signed_to_proto(block: SignedBlock) -> proto::SignedBlock {
    proto::SignedBlock {
        signed_header: Protobuf::<comet::SignedHeader>::encode_vec(block.signed_header).into(),
        validators: validators_to_json(&block.validators),
    }
}

fn signed_from_proto(block: proto::SignedBlock) -> Result<SignedBlock, DecodeError> {
    let signed_header = signed_header_from_proto(block.signed_header)?;
    Ok(SignedBlock { signed_header, validators: validators_from_json(&block.validators)? })
}

/// A header from a journal in which nobody asked for signatures.
fn unsigned(header: Header) -> Result<SignedBlock, DecodeError> {
    let commit = Commit { height: header.height, ..Commit::default() };
    let signed_header = SignedHeader::new(header, commit).map_err(|error| unreadable("Celestia header", &error))?;
    Ok(SignedBlock { signed_header, validators: Vec::new() })
}

fn validators_to_json(validators: &[validator::Info]) -> Bytes {
    let mut json = Vec::new();
    // Plain structs into memory: neither can fail. What could not be written would not be read again either.
    if let Err(error) = serde_json::to_writer(&mut json, validators) {
        let _ = write!(json, "{error}");
    }
    json.into()
}

fn validators_from_json(json: &[u8]) -> Result<Vec<validator::Info>, DecodeError> {
    let validators: Vec<Guarded<_>> =
        serde_json::from_slice(json).map_err(|error| unreadable("validator set", &error))?;
    Ok(validators.into_iter().map(|Guarded(one)| one).collect())
}

fn celestia_block_to_proto(block: CelestiaBlock) -> proto::CelestiaBlock {
    let nodes = |nodes: &[NamespacedHash]| nodes.iter().flat_map(|node| *node.as_bytes()).collect::<Vec<u8>>().into();
    let row = |row: UnverifiedRow| proto::NamespaceRow {
        shares: row.shares,
        start: row.proof.start,
        end: row.proof.end,
        nodes: nodes(&row.proof.nodes),
        absence: nodes(row.proof.absence.as_slice()),
    };
    let namespace = |namespace: UnverifiedNamespace| proto::NamespaceData {
        namespace: Bytes::copy_from_slice(namespace.namespace.as_bytes()),
        rows: namespace.rows.into_iter().map(row).collect(),
    };
    proto::CelestiaBlock {
        header: Bytes::new(),
        signed: Some(signed_to_proto(block.signed)),
        row_roots: nodes(&block.availability.row_roots),
        column_roots: nodes(&block.availability.column_roots),
        namespaces: block.namespaces.into_iter().map(namespace).collect(),
    }
}

fn celestia_block_from_proto(block: proto::CelestiaBlock) -> Result<CelestiaBlock, DecodeError> {
    let nodes = |bytes: &Bytes| match bytes.as_chunks() {
        (nodes, []) => Ok(nodes.iter().map(|node| NamespacedHash::from_bytes(*node)).collect::<Vec<_>>()),
        _ => Err(DecodeError::Unknown("tree node")),
    };
    let row = |row: proto::NamespaceRow| {
        let absence = nodes(&row.absence)?.first().copied();
        let proof = RowProof { start: row.start, end: row.end, nodes: nodes(&row.nodes)?, absence };
        Ok(UnverifiedRow { shares: row.shares, proof })
    };
    let namespace = |namespace: proto::NamespaceData| {
        let bytes = namespace.namespace.as_ref().try_into().map_err(|_| DecodeError::Unknown("namespace"))?;
        let rows = namespace.rows.into_iter().map(row).collect::<Result<_, DecodeError>>()?;
        Ok(UnverifiedNamespace { namespace: Namespace::from_bytes(bytes), rows })
    };
    let signed = match block.signed {
        Some(signed) => signed_from_proto(signed)?,
        None => unsigned(header_from_proto(block.header)?)?,
    };
    Ok(CelestiaBlock {
        signed,
        availability: DataAvailabilityHeader {
            row_roots: nodes(&block.row_roots)?,
            column_roots: nodes(&block.column_roots)?,
        },
        namespaces: block.namespaces.into_iter().map(namespace).collect::<Result<_, DecodeError>>()?,
    })
}
