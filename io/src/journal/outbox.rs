//! What is recorded of an outbox: a hash over all of it, and the kind of each command.
//!
//! The hash is over a plain encoding of every field, texts and lists with their length first. Of what a job is given
//! only the identity goes into it (heights, hashes, sizes), not the bytes: they came with an event, which is recorded.

use std::fmt;

use downbeat_core::{
    Call, Command, CommandId, Job, Outbox, Report,
    command::Exit,
    gossip::BlockPart,
    job::{CelestiaTop, Found, Proof, Validators},
    light::{Check, HeaderId, SignedBlock},
    sequencer::{Content, DataItems},
    wire::proto::astria::{
        execution::v2::ExecuteBlockRequest,
        sequencerblock::v1::{RollupData, rollup_data},
    },
};
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint},
};
use sha2::{Digest as _, Sha256};
use twox_hash::xxhash3_128;

/// What is recorded of an outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxDigest {
    pub hash: OutboxHash,
    /// One for each command, see [`kind_name`].
    pub kinds: Vec<u8>,
}

/// A hash over all commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutboxHash {
    /// First 16 bytes of the SHA-256, in journals of version 1.
    Sha256([u8; 16]),
    /// XXH3 with 128 bits. Enough to notice a conductor that decides otherwise; nobody is to be kept from making a
    /// recording that fits.
    Xxh3(u128),
}

/// Makes digests one after the other in the same memory.
#[derive(Default)]
pub struct Digester {
    /// The encoding of one outbox, or what `stream` has not taken of it.
    buffer: Vec<u8>,
    /// Of an outbox with long transactions: they are hashed where they lie.
    stream: Option<Stream>,
}

/// A hash over bytes that come one after the other.
enum Stream {
    Sha256(Sha256),
    Xxh3(Box<xxhash3_128::Hasher>),
}

/// Transactions of so many bytes are not copied to be hashed.
const UNCOPIED_MIN: usize = 512;

/// Bytes of memory that are kept for the next outbox: more than those of ordinary blocks.
const BUFFER_KEPT: usize = 1 << 20;

impl OutboxDigest {
    pub fn of(outbox: &Outbox) -> Self {
        Digester::default().digest(outbox.iter())
    }
}

impl Digester {
    pub fn digest<'a>(&mut self, commands: impl Iterator<Item = &'a Command>) -> OutboxDigest {
        let kinds = commands.map(|command| self.command(command)).collect();
        let hash = match self.stream.take() {
            None => OutboxHash::Xxh3(xxhash3_128::Hasher::oneshot(&self.buffer)),
            Some(mut stream) => {
                stream.write(&self.buffer);
                stream.finish()
            }
        };
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_KEPT);
        OutboxDigest { hash, kinds }
    }

    /// With the hash that `other` has, to be compared with it.
    pub fn digest_like<'a>(
        &mut self,
        other: &OutboxDigest,
        commands: impl Iterator<Item = &'a Command>,
    ) -> OutboxDigest {
        if let OutboxHash::Sha256(_) = other.hash {
            self.stream = Some(Stream::Sha256(Sha256::new()));
        }
        self.digest(commands)
    }
}

impl Stream {
    fn write(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Xxh3(hash) => hash.write(bytes),
        }
    }

    fn finish(self) -> OutboxHash {
        match self {
            Self::Sha256(hash) => {
                let mut first = [0; 16];
                first.copy_from_slice(&hash.finalize()[..16]);
                OutboxHash::Sha256(first)
            }
            Self::Xxh3(hash) => OutboxHash::Xxh3(hash.finish_128()),
        }
    }
}

impl fmt::Debug for Digester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Digester").finish_non_exhaustive()
    }
}

impl fmt::Display for OutboxHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(bytes) => write!(f, "{:032x}", u128::from_be_bytes(*bytes)),
            Self::Xxh3(hash) => write!(f, "{hash:032x}"),
        }
    }
}

/// The hash, and what kinds of commands there were.
impl fmt::Display for OutboxDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [", self.hash)?;
        for (index, kind) in self.kinds.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{}", kind_name(*kind))?;
        }
        f.write_str("]")
    }
}

/// Name of a kind of command as the journal numbers it.
pub fn kind_name(kind: u8) -> &'static str {
    KINDS.iter().find(|(number, _)| *number == kind).map_or("a command of another version", |(_, name)| name)
}

/// Kind of `command` as the journal numbers it. Numbers are part of the schema.
pub fn kind_of(command: &Command) -> u8 {
    match command {
        Command::Call { call, .. } => match call {
            Call::IdentifySequencer => 1,
            Call::FetchSequencerHead => 2,
            Call::FetchSoftBlock { .. } => 3,
            Call::FetchSignedHeader { .. } => 4,
            Call::FetchHeaders { .. } => 5,
            Call::FetchValidators { .. } => 6,
            Call::FetchBlockTransactions { .. } => 7,
            Call::FetchCelestiaHead => 8,
            Call::FetchBlobs { .. } => 9,
            Call::OpenSession { .. } => 10,
            Call::ExecuteBlock { .. } => 11,
            Call::UpdateCommitment { .. } => 12,
            Call::FetchExecutedBlock { .. } => 13,
            Call::FetchNamespaces { .. } => 14,
            Call::FetchCelestiaHeader { .. } => 15,
            Call::FetchCelestiaHeaders { .. } => 16,
            Call::FetchFromPeers { .. } => 17,
        },
        Command::Verify { job, .. } => match job {
            Job::VerifySoftBlock { .. } => 32,
            Job::VerifyHeader { .. } => 33,
            Job::VerifyLinks { .. } => 34,
            Job::VerifyTransactions { .. } => 35,
            Job::DecodeBlobs(_) => 36,
            Job::CompareWitness { .. } => 37,
            Job::VerifyCelestiaHeaders(_) => 38,
            Job::VerifyGossip(_) => 39,
            Job::MakeGossip(_) => 40,
            Job::ProveFalseBlock(_) => 41,
        },
        Command::Cancel { .. } => 48,
        Command::Report(report) => match report {
            Report::ChainIdentified { .. } => 64,
            Report::SessionOpened { .. } => 65,
            Report::SessionLost { .. } => 66,
            Report::SessionFinished { .. } => 67,
            Report::HeadMoved { .. } => 68,
            Report::Dropped { .. } => 69,
            Report::CallFailed { .. } => 70,
            Report::Gap { .. } => 71,
            Report::Parked { .. } => 72,
            Report::TrustedOnFirstUse { .. } => 73,
            Report::Conflict { .. } => 74,
            Report::CelestiaTrustedOnFirstUse { .. } => 75,
            Report::FalseNamespaces { .. } => 79,
            Report::FalseBlock { .. } => 80,
        },
        Command::Persist { .. } => 49,
        Command::JudgeGossip { .. } => 50,
        Command::PublishGossip { .. } => 51,
        Command::PenalizePeer { .. } => 52,
        Command::Exit(_) => 96,
    }
}

const KINDS: [(u8, &str); 47] = [
    (1, "IdentifySequencer"),
    (2, "FetchSequencerHead"),
    (3, "FetchSoftBlock"),
    (4, "FetchSignedHeader"),
    (5, "FetchHeaders"),
    (6, "FetchValidators"),
    (7, "FetchBlockTransactions"),
    (8, "FetchCelestiaHead"),
    (9, "FetchBlobs"),
    (10, "OpenSession"),
    (11, "ExecuteBlock"),
    (12, "UpdateCommitment"),
    (13, "FetchExecutedBlock"),
    (14, "FetchNamespaces"),
    (15, "FetchCelestiaHeader"),
    (16, "FetchCelestiaHeaders"),
    (17, "FetchFromPeers"),
    (32, "VerifySoftBlock"),
    (33, "VerifyHeader"),
    (34, "VerifyLinks"),
    (35, "VerifyTransactions"),
    (36, "DecodeBlobs"),
    (37, "CompareWitness"),
    (38, "VerifyCelestiaHeaders"),
    (39, "VerifyGossip"),
    (40, "MakeGossip"),
    (41, "ProveFalseBlock"),
    (48, "Cancel"),
    (49, "Persist"),
    (50, "JudgeGossip"),
    (51, "PublishGossip"),
    (52, "PenalizePeer"),
    (64, "ChainIdentified"),
    (65, "SessionOpened"),
    (66, "SessionLost"),
    (67, "SessionFinished"),
    (68, "HeadMoved"),
    (69, "Dropped"),
    (70, "CallFailed"),
    (71, "Gap"),
    (72, "Parked"),
    (73, "TrustedOnFirstUse"),
    (74, "Conflict"),
    (75, "CelestiaTrustedOnFirstUse"),
    (79, "FalseNamespaces"),
    (80, "FalseBlock"),
    (96, "Exit"),
];

/// The encoding.
impl Digester {
    fn number(&mut self, number: impl Into<u64>) {
        self.buffer.extend_from_slice(&number.into().to_le_bytes());
    }

    fn count(&mut self, count: usize) {
        self.number(u64::try_from(count).unwrap_or(u64::MAX));
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.buffer.extend_from_slice(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn message(&mut self, message: &impl Message) {
        self.count(message.encoded_len());
        // Writing to a growing buffer cannot fail.
        let _ = message.encode(&mut self.buffer);
    }

    /// As [`Digester::message`], without copies of transactions: they are most of it.
    fn execution(&mut self, request: &ExecuteBlockRequest) {
        self.count(request.encoded_len());
        // Fields are encoded in the order of their numbers; the transactions are the third.
        let ExecuteBlockRequest { session_id, parent_hash, transactions, timestamp, sequencer_block_hash } = request;
        let (session_id, parent_hash) = (session_id.clone(), parent_hash.clone());
        let before = ExecuteBlockRequest { session_id, parent_hash, ..ExecuteBlockRequest::default() };
        before.encode_raw(&mut self.buffer);
        for transaction in transactions {
            self.field(3, transaction.encoded_len());
            match transaction {
                RollupData { value: Some(rollup_data::Value::SequencedData(data)) } => {
                    self.field(1, data.len());
                    self.uncopied(data);
                }
                transaction => transaction.encode_raw(&mut self.buffer),
            }
        }
        let (timestamp, sequencer_block_hash) = (*timestamp, sequencer_block_hash.clone());
        let after = ExecuteBlockRequest { timestamp, sequencer_block_hash, ..ExecuteBlockRequest::default() };
        after.encode_raw(&mut self.buffer);
    }

    /// The beginning of a protobuf field that has so many bytes.
    fn field(&mut self, number: u32, length: usize) {
        encode_key(number, WireType::LengthDelimited, &mut self.buffer);
        encode_varint(u64::try_from(length).unwrap_or(u64::MAX), &mut self.buffer);
    }

    fn uncopied(&mut self, bytes: &[u8]) {
        if bytes.len() < UNCOPIED_MIN {
            self.buffer.extend_from_slice(bytes);
            return;
        }
        let stream = self.stream.get_or_insert_with(|| Stream::Xxh3(Box::default()));
        stream.write(&self.buffer);
        stream.write(bytes);
        self.buffer.clear();
    }

    fn id(&mut self, id: CommandId) {
        self.number(id.incarnation);
        self.number(id.ordinal);
    }

    fn command(&mut self, command: &Command) -> u8 {
        let kind = kind_of(command);
        self.buffer.push(kind);
        match command {
            Command::Call { id, deadline, call, node } => {
                self.id(*id);
                self.number(deadline.0);
                self.number(node.0);
                self.call(call);
            }
            Command::Verify { id, job } => {
                self.id(*id);
                self.job(job);
            }
            Command::Persist { records } => {
                self.count(records.len());
                for record in records {
                    self.text(&record.key());
                    self.bytes(&record.encode());
                }
            }
            Command::Cancel { id } => self.id(*id),
            Command::Report(report) => self.report(report),
            Command::JudgeGossip { handle, verdict } => {
                self.number(handle.0);
                self.text(&verdict.to_string());
            }
            Command::PublishGossip { message, is_old } => {
                self.bytes(&message.id().0);
                self.number(*is_old);
            }
            Command::PenalizePeer { peer, reason } => {
                self.number(peer.0);
                self.text(reason);
            }
            Command::Exit(Exit::Stopped) => self.buffer.push(0),
            Command::Exit(Exit::AllCellsParked { reason }) => {
                self.buffer.push(1);
                self.text(reason);
            }
        }
        kind
    }

    fn call(&mut self, call: &Call) {
        match call {
            Call::IdentifySequencer | Call::FetchSequencerHead | Call::FetchCelestiaHead => {}
            Call::FetchSoftBlock { height, rollup_ids } => {
                self.number(height.0);
                self.count(rollup_ids.len());
                for id in rollup_ids {
                    self.bytes(&id.0);
                }
            }
            Call::FetchSignedHeader { height }
            | Call::FetchValidators { height }
            | Call::FetchBlockTransactions { height } => self.number(height.0),
            Call::FetchCelestiaHeader { height } => self.number(height.0),
            Call::FetchCelestiaHeaders { first, last } => {
                self.number(first.0);
                self.number(last.0);
            }
            Call::FetchHeaders { first, last } => {
                self.number(first.0);
                self.number(last.0);
            }
            Call::FetchBlobs { height, namespaces } | Call::FetchNamespaces { height, namespaces } => {
                self.number(height.0);
                self.count(namespaces.len());
                for namespace in namespaces {
                    self.bytes(namespace.as_bytes());
                }
            }
            Call::FetchFromPeers { height, rollups } => {
                self.number(height.0);
                self.count(rollups.len());
                for id in rollups {
                    self.bytes(&id.0);
                }
            }
            Call::OpenSession { cell } => self.number(cell.0),
            Call::ExecuteBlock { cell, request } => {
                self.number(cell.0);
                self.execution(request);
            }
            Call::UpdateCommitment { cell, request } => {
                self.number(cell.0);
                self.message(request.as_ref());
            }
            Call::FetchExecutedBlock { cell, number } => {
                self.number(cell.0);
                self.number(number.0);
            }
        }
    }

    fn job(&mut self, job: &Job) {
        match job {
            Job::VerifySoftBlock { block, request, limits: _ } => {
                self.count(block.len());
                self.number(request.height.0);
                self.text(&request.chain_id);
                for id in &request.rollup_ids {
                    self.bytes(&id.0);
                }
            }
            Job::VerifyHeader { height, chain_id, signed_header, validators, proof, limits: _ } => {
                self.number(height.0);
                self.text(chain_id);
                match proof {
                    Proof::Commit => self.buffer.push(0),
                    Proof::Light { check, at } => {
                        self.check(check);
                        self.number(at.0);
                    }
                }
                self.number(signed_header.header.height.value());
                self.count(signed_header.commit.signatures.len());
                self.validators(validators);
            }
            Job::CompareWitness { trusted, check, signed_header, validators, at, limits: _ } => {
                self.bytes(&trusted.hash().0);
                self.check(check);
                self.number(signed_header.header.height.value());
                self.count(signed_header.commit.signatures.len());
                self.count(validators.len());
                self.number(at.0);
            }
            Job::VerifyLinks { anchor, first, headers } => {
                self.bytes(&anchor.hash().0);
                self.number(first.0);
                self.count(headers.len());
            }
            Job::VerifyCelestiaHeaders(job) => {
                match &job.top {
                    CelestiaTop::Known(id) => self.header_id(id),
                    CelestiaTop::Signed { height, block, check, at } => {
                        self.number(height.0);
                        self.check(check);
                        self.number(at.0);
                        self.signed_block(block);
                    }
                }
                self.count(job.headers.len());
            }
            Job::VerifyTransactions { header, transactions } => {
                self.bytes(&header.hash().0);
                self.count(transactions.len());
            }
            Job::VerifyGossip(job) => {
                self.number(job.height.0);
                match &job.block {
                    BlockPart::Known(block) => self.bytes(&block.block_hash().0),
                    BlockPart::Message { bytes, check, at } => {
                        self.count(bytes.len());
                        self.check(check);
                        self.number(at.0);
                    }
                }
                self.count(job.rollups.len());
                for (id, bytes) in &job.rollups {
                    self.bytes(&id.0);
                    self.count(bytes.len());
                }
            }
            Job::MakeGossip(job) => {
                self.bytes(&job.light.hash().0);
                self.count(job.block.len());
                self.count(job.transactions.as_ref().map_or(0, Vec::len));
            }
            Job::ProveFalseBlock(job) => {
                self.bytes(&job.header.hash().0);
                self.count(job.block.len());
                self.count(job.items.as_ref().map_or(0, DataItems::len));
                if let Some((signed_header, validators)) = &job.commit {
                    self.count(signed_header.commit.signatures.len());
                    self.validators(validators);
                }
            }
            Job::DecodeBlobs(job) => {
                match &job.found {
                    Found::Blobs(blobs) => {
                        self.count(blobs.len());
                        for blob in blobs {
                            self.bytes(blob.namespace.as_bytes());
                            self.count(blob.data.len());
                        }
                    }
                    Found::Block { block, expected } => {
                        self.header_id(&expected.header);
                        for namespace in &expected.namespaces {
                            self.bytes(namespace.as_bytes());
                        }
                        self.signed_block(&block.signed);
                        self.count(block.availability.width());
                        self.count(block.share_count());
                    }
                }
                self.bytes(job.sequencer.as_bytes());
                for id in &job.rollups {
                    self.bytes(&id.0);
                }
                self.number(job.wanted.0.0);
                self.number(job.wanted.1.0);
                self.count(job.headers.len());
                for header in job.headers.values() {
                    self.bytes(&header.hash().0);
                }
                self.count(job.contents.len());
                for (height, content) in &job.contents {
                    self.number(height.0);
                    match content {
                        Content::Items(items) => self.count(items.len()),
                        Content::Bound(digest) => self.bytes(digest.as_bytes()),
                    }
                }
                self.count(job.bound.len());
                for bound in &job.bound {
                    self.bytes(&bound.block_hash().0);
                }
            }
        }
    }

    fn check(&mut self, check: &Check) {
        match check {
            Check::From(state) => {
                self.buffer.push(1);
                self.number(state.height());
            }
            Check::Root { chain_id, hash } => {
                self.buffer.push(2);
                self.text(chain_id);
                self.bytes(&hash.0);
            }
            Check::FirstUse { chain_id } => {
                self.buffer.push(3);
                self.text(chain_id);
            }
            Check::Known { chain_id, hash } => {
                self.buffer.push(4);
                self.text(chain_id);
                self.bytes(&hash.0);
            }
        }
    }

    fn header_id(&mut self, id: &HeaderId) {
        self.number(id.height());
        self.bytes(&id.hash().0);
    }

    fn signed_block(&mut self, block: &SignedBlock) {
        self.number(block.signed_header.header.height.value());
        self.count(block.signed_header.commit.signatures.len());
        self.count(block.validators.len());
    }

    fn validators(&mut self, validators: &Validators) {
        match validators {
            Validators::Known(set) => self.bytes(&set.hash()),
            Validators::Fetched(list) => self.count(list.len()),
        }
    }

    fn report(&mut self, report: &Report) {
        match report {
            Report::TrustedOnFirstUse { height, hash, node } => {
                self.number(height.0);
                self.bytes(&hash.0);
                self.number(node.0);
            }
            Report::CelestiaTrustedOnFirstUse { height, hash } => {
                self.number(height.0);
                self.bytes(&hash.0);
            }
            Report::Conflict { evidence, node } => {
                self.text(&evidence.to_json());
                self.number(node.0);
            }
            Report::FalseNamespaces { evidence } => self.text(&evidence.to_json()),
            Report::FalseBlock { evidence } => self.text(&evidence.to_json()),
            Report::ChainIdentified { chain, chain_id } => {
                self.text(&format!("{chain:?}"));
                self.text(chain_id);
            }
            Report::SessionOpened { cell, session_id, rollup_id, soft, firm } => {
                self.number(cell.0);
                self.text(session_id);
                self.bytes(&rollup_id.0);
                self.number(soft.0);
                self.number(firm.0);
            }
            Report::SessionLost { cell, reason, delay_ms } => {
                self.number(cell.0);
                self.text(reason);
                self.number(*delay_ms);
            }
            Report::SessionFinished { cell, last } => {
                self.number(cell.0);
                self.number(last.0);
            }
            Report::HeadMoved { cell, level, number, hash, block_hash, height } => {
                self.number(cell.0);
                self.buffer.push(u8::from(matches!(level, downbeat_core::command::Level::Firm)));
                self.number(number.0);
                self.text(hash);
                self.bytes(&block_hash.0);
                self.number(height.0);
            }
            Report::Dropped { what, at, reason } => {
                self.text(what.name());
                self.text(at);
                self.text(reason);
            }
            Report::CallFailed { what, attempt, retry_in_ms, reason } => {
                self.text(what);
                self.number(*attempt);
                self.number(*retry_in_ms);
                self.text(reason);
            }
            Report::Gap { cell, missing, from, to, reason } => {
                self.number(cell.0);
                self.number(missing.0);
                self.number(from.0);
                self.number(to.0);
                self.text(reason);
            }
            Report::Parked { cell, reason } => {
                self.number(cell.0);
                self.text(reason);
            }
        }
    }
}
