//! Heavy pure work, run outside the loop: on a worker pool in production, at a chosen moment in simulations.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    sync::Arc,
};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tendermint::{
    block::{Header, signed_header::SignedHeader},
    validator,
};

use crate::{
    canary::{Canary, canary},
    celestia::{self, BlobError, DecodedList, ExpectedBlock, FalseNamespaces, Namespace},
    command::Subject,
    event::{Blob, CelestiaBlock},
    gossip::{JudgedGossip, MakeGossip, Message, VerifyGossip},
    ids::{BlockHash, CelestiaHeight, RollupId, SequencerHeight},
    light::{self, Check, HeaderId, LightBlock, LinkError, Refusal, SignedBlock, Witnessed},
    limits::Limits,
    merkle,
    sequencer::{
        self, BlockFalsehood, BoundMetadata, CommitError, Committed, Content, DataItems, FalseBlock, RollupRecord,
        SequencedBlock, SoftBlock, SoftBlockRequest, TrustedHeader, UnverifiedMetadata, ValidatorSet, ValidatorsError,
    },
    time::Timestamp,
    verified::Verified,
};

/// Work whose result depends on nothing but its fields.
#[derive(Clone, Debug)]
pub enum Job {
    /// Checks everything about a filtered block that can be checked without its commit.
    VerifySoftBlock { block: Bytes, request: SoftBlockRequest, limits: Arc<Limits> },
    /// Checks a header's commit against a validator set.
    VerifyHeader {
        height: SequencerHeight,
        chain_id: String,
        signed_header: Box<SignedHeader>,
        validators: Validators,
        proof: Proof,
        limits: Arc<Limits>,
    },
    /// Compares a trusted header with what a witness has.
    CompareWitness {
        trusted: Box<Verified<LightBlock>>,
        check: Box<Check>,
        signed_header: Box<SignedHeader>,
        validators: Vec<validator::Info>,
        at: Timestamp,
        limits: Arc<Limits>,
    },
    /// Checks that headers lead down from a trusted one by their hashes.
    VerifyLinks { anchor: Box<Verified<TrustedHeader>>, first: SequencerHeight, headers: Vec<Header> },
    /// Checks that Celestia headers lead down from one that its validators committed to, or that is trusted already.
    VerifyCelestiaHeaders(Box<VerifyCelestiaHeaders>),
    /// Checks that data items are those of a header.
    VerifyTransactions { header: Box<Verified<TrustedHeader>>, transactions: Vec<Bytes> },
    /// Unpacks, decodes and sorts the blobs of one Celestia height; proves first that they are all, where that is asked.
    DecodeBlobs(Box<DecodeBlobs>),
    /// Whether a refused block contradicts its header, and what shows it to others.
    ProveFalseBlock(Box<ProveFalseBlock>),
    /// Checks messages from peers.
    VerifyGossip(Box<VerifyGossip>),
    /// Makes messages for peers of a block that was verified.
    MakeGossip(Box<MakeGossip>),
}

/// What makes a header trusted.
#[derive(Clone, Debug)]
pub enum Proof {
    /// A commit of the set that the node names.
    Commit,
    /// What is trusted already, at this moment.
    Light { check: Box<Check>, at: Timestamp },
}

/// Input of [`Job::VerifyCelestiaHeaders`].
#[derive(Clone, Debug)]
pub struct VerifyCelestiaHeaders {
    pub top: CelestiaTop,
    /// What follows down from there, highest first.
    pub headers: Vec<Header>,
    pub limits: Arc<Limits>,
}

/// Where Celestia headers lead down from.
#[derive(Clone, Debug)]
pub enum CelestiaTop {
    /// The header of this height, which has to follow from what is trusted; it is above the others.
    Signed { height: CelestiaHeight, block: Box<SignedBlock>, check: Box<Check>, at: Timestamp },
    /// The hash that the first of the others has.
    Known(Verified<HeaderId>),
}

/// Celestia headers that are trusted.
#[derive(Clone, Debug)]
pub struct LinkedHeaders {
    /// Where a commit was checked: what it followed from, and all that proves it.
    pub light: Option<Box<(Check, Verified<LightBlock>)>>,
    /// Highest first.
    pub ids: Vec<Verified<HeaderId>>,
    /// Why the first header that is not linked is not.
    pub broken: Option<LinkError>,
}

/// Where the validators for a header come from.
#[derive(Clone, Debug)]
pub enum Validators {
    /// A set that signed an earlier header with the same `validators_hash`.
    Known(Arc<ValidatorSet>),
    /// As the node sent it.
    Fetched(Vec<validator::Info>),
}

/// What a node answered about a Celestia height.
#[derive(Clone, Debug)]
pub enum Found {
    /// Blobs, which are taken as they are.
    Blobs(Vec<Blob>),
    /// Whole namespaces, which have to be proven.
    Block { block: Box<CelestiaBlock>, expected: ExpectedBlock },
}

/// Input of [`Job::DecodeBlobs`].
#[derive(Clone, Debug)]
pub struct DecodeBlobs {
    pub found: Found,
    /// Namespace of the metadata.
    pub sequencer: Namespace,
    pub rollups: BTreeSet<RollupId>,
    /// Metadata for heights outside is of no use to anybody: first and last height.
    pub wanted: (SequencerHeight, SequencerHeight),
    /// Headers that are trusted already: metadata at these heights is bound or dropped at once.
    pub headers: BTreeMap<SequencerHeight, Verified<TrustedHeader>>,
    /// Verified content of blocks with trusted headers, where it was fetched.
    pub contents: BTreeMap<SequencerHeight, Content>,
    /// Blocks whose metadata is bound already and which still lack their rollup data.
    pub bound: Vec<Arc<Verified<BoundMetadata>>>,
    pub limits: Arc<Limits>,
}

/// Input of [`Job::ProveFalseBlock`].
#[derive(Clone, Debug)]
pub struct ProveFalseBlock {
    /// The encoded `FilteredSequencerBlock`.
    pub block: Bytes,
    /// Of the header's block, where it may take them.
    pub items: Option<DataItems>,
    pub header: Verified<TrustedHeader>,
    /// The header with its commit, and the set that is said to have signed it. Without, nothing is proven.
    pub commit: Option<(Box<SignedHeader>, Validators)>,
    pub limits: Arc<Limits>,
}

/// What a refused block shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockVerdict {
    /// Nothing, or more than fits.
    Unknown(String),
    /// It contradicts the header, whatever was asked for.
    False(BlockFalsehood),
    /// The same, for others to see.
    Proven(Box<FalseBlock>),
    /// There was a commit, and it is not that of the header.
    NotCommitted(String),
}

/// What became of the blobs of one Celestia height.
#[derive(Clone, Debug, Default)]
pub struct DecodedBlobs {
    /// Of the blobs, as they lie on Celestia.
    pub bytes: usize,
    /// Consistent in itself; its header is not known yet.
    pub candidates: Vec<Arc<UnverifiedMetadata>>,
    pub bound: Vec<Arc<Verified<BoundMetadata>>>,
    /// Blocks that are complete.
    pub blocks: Vec<(RollupId, Verified<SequencedBlock>)>,
    /// Rollup data whose metadata is not bound yet.
    pub records: Vec<Arc<RollupRecord>>,
    /// Something was left out for lack of room: to be read again once more is known.
    pub overflow: bool,
    /// The lowest height above the wanted ones whose metadata was left out.
    pub ahead: Option<SequencerHeight>,
    /// The highest of the heights whose metadata is not that of the trusted header.
    pub refused: Option<SequencerHeight>,
    /// What was refused, with a reason; bounded, see `dropped_more`.
    pub dropped: Vec<(Subject, String)>,
    /// The header below, where the one of this height was proven to be the trusted one.
    pub below: Option<Verified<HeaderId>>,
    /// Refusals beyond those listed.
    pub dropped_more: u64,
}

/// What a job found. Failures are results: they say that the input is not what it claims to be.
#[derive(Clone, Debug)]
pub enum JobOutcome {
    SoftBlock(Result<SoftBlock, String>),
    Header(Result<Box<SignedBy>, HeaderRefusal>),
    Links(Result<Vec<Verified<TrustedHeader>>, String>),
    CelestiaHeaders(Result<Box<LinkedHeaders>, HeaderRefusal>),
    Transactions(Result<Vec<Bytes>, String>),
    Witness(Witnessed),
    Blobs(Result<Box<DecodedBlobs>, BlobsRefusal>),
    FalseBlock(BlockVerdict),
    Gossip(Box<JudgedGossip>),
    Messages(Vec<Message>),
}

/// Why nothing of an answer about a Celestia height is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobsRefusal {
    pub reason: String,
    /// Where it can be shown to others: the header is signed, and the answer is not its content.
    pub evidence: Option<Box<FalseNamespaces>>,
}

/// A header and the set that signed it.
#[derive(Clone, Debug)]
pub struct SignedBy {
    pub header: Verified<TrustedHeader>,
    pub validators: Arc<ValidatorSet>,
    /// With trust in consensus: what it followed from, and all that proves it.
    pub light: Option<Box<(Check, Verified<LightBlock>)>>,
}

/// Why a header is not trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderRefusal {
    pub subject: Subject,
    pub reason: String,
    /// The rule of the light client that it breaks.
    pub light: Option<Refusal>,
}

impl Job {
    /// A pure function of the job. Never panics, whatever came from outside.
    pub fn run(self) -> JobOutcome {
        self.run_with(&Afresh)
    }

    /// The same with other hands for the steps that take long.
    pub fn run_with(self, steps: &impl Steps) -> JobOutcome {
        match self {
            Self::VerifySoftBlock { block, request, limits } => {
                JobOutcome::SoftBlock(steps.soft_block(&block, &request, &limits))
            }
            Self::VerifyHeader { height, chain_id, signed_header, validators, proof, limits } => {
                JobOutcome::Header(verify_header(height, &chain_id, &signed_header, validators, proof, &limits, steps))
            }
            Self::CompareWitness { trusted, check, signed_header, validators, at, limits } => {
                JobOutcome::Witness(match steps.validator_set(validators, limits.validators) {
                    Ok(set) => {
                        let (height, options) = (trusted.height(), limits.trust.options());
                        let commit =
                            |signed: &_, set: &_, chain_id: &_, height| steps.commit(signed, set, chain_id, height);
                        let other = light::verify_with(&check, height, &signed_header, &set, &options, at, commit);
                        light::compare(&trusted, other)
                    }
                    Err(error) => Witnessed::Unproven(error.to_string()),
                })
            }
            Self::VerifyLinks { anchor, first, headers } => {
                JobOutcome::Links(sequencer::verify_links(&anchor, first, headers).map_err(|error| error.to_string()))
            }
            Self::VerifyCelestiaHeaders(job) => JobOutcome::CelestiaHeaders(job.run(steps).map(Box::new)),
            Self::VerifyTransactions { header, transactions } => {
                JobOutcome::Transactions(verify_transactions(&header, transactions))
            }
            Self::DecodeBlobs(job) => JobOutcome::Blobs(job.run(steps).map(Box::new)),
            Self::ProveFalseBlock(job) => JobOutcome::FalseBlock(job.run(steps)),
            Self::VerifyGossip(job) => JobOutcome::Gossip(Box::new(job.run(steps))),
            Self::MakeGossip(job) => JobOutcome::Messages(job.run()),
        }
    }
}

/// The steps of jobs that take long, each a pure function of its arguments. Whoever sees the same blocks in thousands of
/// simulated runs may remember what they gave.
pub trait Steps {
    /// See [`sequencer::verify_filtered_block`].
    fn soft_block(&self, block: &Bytes, request: &SoftBlockRequest, limits: &Limits) -> Result<SoftBlock, String> {
        sequencer::verify_filtered_block(block, request, limits).map_err(|error| error.to_string())
    }

    /// See [`ValidatorSet::new`].
    fn validator_set(&self, infos: Vec<validator::Info>, max: usize) -> Result<Arc<ValidatorSet>, ValidatorsError> {
        ValidatorSet::new(infos, max).map(Arc::new)
    }

    /// See [`sequencer::verify_signed_header`].
    fn commit(
        &self,
        signed: &SignedHeader,
        validators: &ValidatorSet,
        chain_id: &str,
        height: u64,
    ) -> Result<Committed, CommitError> {
        sequencer::check_commit(signed, validators, chain_id, height)
    }

    /// See [`celestia::decode_metadata`].
    fn metadata(&self, blob: &Bytes, limits: &Limits) -> Result<DecodedList<UnverifiedMetadata>, BlobError> {
        celestia::decode_metadata(blob, limits)
    }

    /// See [`celestia::decode_rollup_data`].
    fn rollup_data(
        &self,
        blob: &Bytes,
        wanted: &[RollupId],
        limits: &Limits,
    ) -> Result<DecodedList<RollupRecord>, BlobError> {
        celestia::decode_rollup_data(blob, wanted, limits)
    }
}

/// Every step is done, each time: this is what production uses.
#[derive(Clone, Copy, Debug)]
pub struct Afresh;

impl Steps for Afresh {}

fn verify_header(
    height: SequencerHeight,
    chain_id: &str,
    signed_header: &SignedHeader,
    validators: Validators,
    proof: Proof,
    limits: &Limits,
    steps: &impl Steps,
) -> Result<Box<SignedBy>, HeaderRefusal> {
    let refused = |subject, error: &dyn Display| HeaderRefusal { subject, reason: error.to_string(), light: None };
    let set = match validators {
        Validators::Known(set) => set,
        Validators::Fetched(validators) => {
            steps.validator_set(validators, limits.validators).map_err(|error| refused(Subject::Validators, &error))?
        }
    };
    let commit = |signed: &_, set: &_, chain_id: &_, height| steps.commit(signed, set, chain_id, height);
    match proof {
        Proof::Commit => {
            let committed = commit(signed_header, &*set, chain_id, height.0)
                .map_err(|error| refused(Subject::SignedHeader, &error))?;
            let header = sequencer::committed_header(signed_header, &committed);
            Ok(Box::new(SignedBy { header, validators: set, light: None }))
        }
        Proof::Light { check, at } => {
            let options = limits.trust.options();
            let block =
                light::verify_with(&check, height.0, signed_header, &set, &options, at, commit).map_err(|error| {
                    HeaderRefusal { light: Some(error.clone()), ..refused(Subject::SignedHeader, &error) }
                })?;
            let header = block.trusted_header();
            Ok(Box::new(SignedBy { header, validators: set, light: Some(Box::new((*check, block))) }))
        }
    }
}

impl VerifyCelestiaHeaders {
    fn run(self, steps: &impl Steps) -> Result<LinkedHeaders, HeaderRefusal> {
        let (light, mut ids, top) = match self.top {
            CelestiaTop::Known(id) => (None, Vec::new(), Some(id)),
            CelestiaTop::Signed { height, block, check, at } => {
                let block = verify_celestia_header(height, *block, &check, at, &self.limits, steps)?;
                let ids: Vec<_> = block.ids().collect();
                let below = ids.get(1).cloned();
                (Some(Box::new((*check, block))), ids, below)
            }
        };
        let (linked, broken) = top.map_or_else(Default::default, |top| top.follow_down(&self.headers));
        ids.extend(linked);
        Ok(LinkedHeaders { light, ids, broken })
    }
}

fn verify_celestia_header(
    height: CelestiaHeight,
    block: SignedBlock,
    check: &Check,
    at: Timestamp,
    limits: &Limits,
    steps: &impl Steps,
) -> Result<Verified<LightBlock>, HeaderRefusal> {
    let refused = |subject, error: &dyn Display| HeaderRefusal { subject, reason: error.to_string(), light: None };
    let SignedBlock { signed_header, validators } = block;
    let named = signed_header.header.validators_hash.as_bytes();
    let set = match check {
        // Mostly the set is the one that is trusted, whose keys are ready for use.
        Check::From(state) if state.validators().hash() == named => Arc::clone(state.validators()),
        _ => steps
            .validator_set(validators, limits.validators)
            .map_err(|error| refused(Subject::CelestiaBlock, &error))?,
    };
    if canary(Canary::CelestiaCommitNotChecked) {
        return Ok(LightBlock::unchecked(signed_header, set));
    }
    let commit = |signed: &_, set: &_, chain_id: &_, height| steps.commit(signed, set, chain_id, height);
    light::verify_with(check, height.0, &signed_header, &set, &limits.celestia.options(), at, commit)
        .map_err(|error| HeaderRefusal { light: Some(error.clone()), ..refused(Subject::CelestiaBlock, &error) })
}

impl ProveFalseBlock {
    fn run(self, steps: &impl Steps) -> BlockVerdict {
        let Self { block, items, header, commit, limits } = self;
        let Some((signed, validators)) = commit else {
            return match sequencer::falsehood(&block, &header, items.as_ref(), &limits) {
                Ok((reason, _)) => BlockVerdict::False(reason),
                Err(error) => BlockVerdict::Unknown(error.to_string()),
            };
        };
        let set = match validators {
            Validators::Known(set) => set,
            Validators::Fetched(validators) => match steps.validator_set(validators, limits.validators) {
                Ok(set) => set,
                Err(error) => return BlockVerdict::NotCommitted(error.to_string()),
            },
        };
        let commit =
            |signed: &SignedHeader, set: &ValidatorSet| steps.commit(signed, set, header.chain_id(), header.height().0);
        match sequencer::false_block(&header, &signed, &set, &block, items.as_ref(), &limits, commit) {
            Ok(Some(evidence)) => BlockVerdict::Proven(Box::new(evidence)),
            Ok(None) => BlockVerdict::Unknown("there is nothing to show, or too much".to_owned()),
            Err(reason) => BlockVerdict::NotCommitted(reason),
        }
    }
}

fn verify_transactions(header: &Verified<TrustedHeader>, transactions: Vec<Bytes>) -> Result<Vec<Bytes>, String> {
    let root = merkle::root_of(transactions.iter().map(|item| <[u8; 32]>::from(Sha256::digest(item))));
    let expected = header.header().data_hash.unwrap_or_default();
    if expected.as_bytes() == root {
        Ok(transactions)
    } else {
        Err(format!("data items have the root {}, the header's is {expected}", hex::encode(root)))
    }
}

/// Most reasons that one job lists.
const REASONS_MAX: usize = 16;

impl DecodedBlobs {
    fn drop(&mut self, subject: Subject, reason: impl Into<String>) {
        if self.dropped.len() < REASONS_MAX {
            self.dropped.push((subject, reason.into()));
        } else {
            self.dropped_more = self.dropped_more.saturating_add(1);
        }
    }
}

impl DecodeBlobs {
    fn run(mut self, steps: &impl Steps) -> Result<DecodedBlobs, BlobsRefusal> {
        let mut decoded = DecodedBlobs::default();
        let blobs = self.take_blobs(steps, &mut decoded)?;
        decoded.bytes = blobs.iter().map(|blob| blob.data.len()).sum();
        let mut bound: BTreeMap<BlockHash, Arc<Verified<BoundMetadata>>> =
            self.bound.iter().map(|bound| (bound.block_hash(), Arc::clone(bound))).collect();
        // Metadata first, so that most rollup data meets its block at once.
        let (metadata, rollup_data): (Vec<_>, Vec<_>) = blobs.iter().partition(|blob| blob.namespace == self.sequencer);
        let mut room = self.limits.firm_buffer_bytes;
        let mut undecided = BTreeMap::new();
        for blob in metadata {
            self.take_metadata(steps, blob, &mut bound, &mut undecided, &mut room, &mut decoded);
        }
        let mut room = self.limits.firm_buffer_bytes;
        if canary(Canary::ManyBlobsDropHeight) && rollup_data.len() > 1 {
            return Ok(decoded);
        }
        let mut complete = BTreeSet::new();
        for blob in rollup_data {
            self.take_rollup_data(steps, blob, &bound, &mut complete, &mut room, &mut decoded);
        }
        Ok(decoded)
    }

    /// The blobs that were found, of namespaces that are proven if they have to be.
    fn take_blobs(&mut self, steps: &impl Steps, decoded: &mut DecodedBlobs) -> Result<Vec<Blob>, BlobsRefusal> {
        let (block, expected) = match &mut self.found {
            Found::Blobs(blobs) => return Ok(std::mem::take(blobs)),
            Found::Block { block, expected } => (block, expected),
        };
        let commit = |signed: &SignedBlock, set: &_| {
            let header = &signed.signed_header.header;
            steps.commit(&signed.signed_header, set, header.chain_id.as_str(), header.height.value())
        };
        let proven = celestia::prove_block(block, expected, &self.limits).map_err(|error| BlobsRefusal {
            reason: error.to_string(),
            evidence: celestia::false_namespaces(block, &error, &self.limits, commit).map(Box::new),
        })?;
        decoded.below = proven.below;
        let mut blobs = Vec::new();
        for namespace in proven.namespaces {
            for sequence in &namespace.unreadable {
                decoded.drop(Subject::Blob, sequence.to_string());
            }
            let of = namespace.namespace;
            blobs.extend(namespace.into_inner().blobs.into_iter().map(|data| Blob { namespace: of, data }));
        }
        Ok(blobs)
    }

    fn take_metadata(
        &self,
        steps: &impl Steps,
        blob: &Blob,
        bound: &mut BTreeMap<BlockHash, Arc<Verified<BoundMetadata>>>,
        undecided: &mut BTreeMap<SequencerHeight, usize>,
        room: &mut usize,
        decoded: &mut DecodedBlobs,
    ) {
        let list = match steps.metadata(&blob.data, &self.limits) {
            Ok(list) => list,
            Err(error) => return decoded.drop(Subject::Blob, error.to_string()),
        };
        for (index, reason) in list.dropped {
            decoded.drop(Subject::Metadata, format!("entry {index}: {reason}"));
        }
        for metadata in list.entries {
            let height = metadata.height();
            if height < self.wanted.0 {
                continue;
            }
            if height > self.wanted.1 {
                decoded.ahead = Some(decoded.ahead.map_or(height, |ahead| ahead.min(height)));
                continue;
            }
            if let Some(known) = bound.get(&metadata.block_hash()) {
                // One cell has it, another one may have had to give it up.
                if !decoded.bound.iter().any(|other| Arc::ptr_eq(other, known)) {
                    decoded.bound.push(Arc::clone(known));
                }
                continue;
            }
            let content = self.contents.get(&height);
            match self.headers.get(&height).map(|header| metadata.bind_to(header, content)) {
                Some(Ok(metadata)) => {
                    let metadata = Arc::new(metadata);
                    bound.insert(metadata.block_hash(), Arc::clone(&metadata));
                    decoded.bound.push(metadata);
                }
                Some(Err(refusal)) if !refusal.needs_transactions() => {
                    decoded.refused = decoded.refused.max(Some(height));
                    decoded.drop(Subject::Metadata, format!("height {height}: {refusal}"));
                }
                Some(Err(_)) => {
                    // As far as its header tells it is genuine: it needs no room, but only so many are kept.
                    let count = undecided.entry(height).or_insert(0);
                    if *count < self.limits.candidates_per_height {
                        *count += 1;
                        decoded.candidates.push(Arc::new(metadata));
                    } else {
                        decoded.overflow = true;
                    }
                }
                None => match room.checked_sub(metadata.wire_size()) {
                    Some(left) => {
                        *room = left;
                        decoded.candidates.push(Arc::new(metadata));
                    }
                    None => decoded.overflow = true,
                },
            }
        }
    }

    fn take_rollup_data(
        &self,
        steps: &impl Steps,
        blob: &Blob,
        bound: &BTreeMap<BlockHash, Arc<Verified<BoundMetadata>>>,
        complete: &mut BTreeSet<(RollupId, SequencerHeight)>,
        room: &mut usize,
        decoded: &mut DecodedBlobs,
    ) {
        let wanted: Vec<RollupId> =
            self.rollups.iter().copied().filter(|id| Namespace::of_rollup(id) == blob.namespace).collect();
        if wanted.is_empty() {
            return;
        }
        let list = match steps.rollup_data(&blob.data, &wanted, &self.limits) {
            Ok(list) => list,
            Err(error) => return decoded.drop(Subject::Blob, error.to_string()),
        };
        for (index, reason) in list.dropped {
            decoded.drop(Subject::RollupData, format!("entry {index}: {reason}"));
        }
        for record in list.entries {
            let rollup_id = record.rollup_id();
            match bound.get(&record.block_hash()).map(|metadata| metadata.block_with(&record)) {
                Some(Ok(block)) => {
                    if complete.insert((rollup_id, block.height())) {
                        decoded.blocks.push((rollup_id, block));
                    }
                }
                Some(Err(error)) => {
                    decoded.drop(Subject::RollupData, format!("block {}: {error}", record.block_hash()));
                }
                None => match room.checked_sub(record.wire_size()) {
                    Some(left) => {
                        *room = left;
                        decoded.records.push(Arc::new(record));
                    }
                    None => decoded.overflow = true,
                },
            }
        }
    }
}

#[cfg(test)]
mod tests;
