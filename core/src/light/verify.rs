//! Whether one header follows from another by signatures: a pure function of what is trusted, what is claimed, and the
//! time.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tendermint::{
    Time, account,
    block::{Header, signed_header::SignedHeader},
};

use super::link::{self, HeaderId};
use crate::{
    canary::{Canary, canary},
    ids::BlockHash,
    merkle::Hash,
    sequencer::{CommitError, Committed, TrustedHeader, ValidatorSet, ValidatorsError, check_commit, header_hash},
    time::Timestamp,
    verified::Verified,
};

/// How far trust reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How long a validator set answers for what it signs: less than the time for which its stake stays bonded.
    pub trusting_period: Duration,
    /// How far the own clock may be behind that of the chain.
    pub clock_drift: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { trusting_period: Duration::from_hours(14 * 24), clock_drift: Duration::from_secs(10) }
    }
}

/// Where a chain begins, from its genesis file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Genesis {
    pub chain_id: String,
    pub time: Time,
    pub initial_height: u64,
    pub validators: Vec<tendermint::validator::Info>,
}

/// A header with the commit and the set that prove it. Proven when wrapped in [`Verified`].
#[derive(Clone, Debug)]
pub struct LightBlock {
    hash: BlockHash,
    signed_header: SignedHeader,
    validators: Arc<ValidatorSet>,
}

impl LightBlock {
    pub fn height(&self) -> u64 {
        self.signed_header.header.height.value()
    }

    pub fn hash(&self) -> BlockHash {
        self.hash
    }

    pub fn header(&self) -> &Header {
        &self.signed_header.header
    }

    /// What nobody has checked: for a deliberate bug.
    pub(crate) fn unchecked(signed_header: SignedHeader, validators: Arc<ValidatorSet>) -> Verified<Self> {
        Verified::new(Self { hash: header_hash(&signed_header.header), signed_header, validators })
    }

    /// The header as everything else takes it.
    pub(crate) fn trusted_header(&self) -> Verified<TrustedHeader> {
        Verified::new(TrustedHeader::new(self.hash, self.header().clone()))
    }

    /// The header with its commit.
    pub fn signed_header(&self) -> &SignedHeader {
        &self.signed_header
    }

    /// The set that signed it.
    pub fn validators(&self) -> &Arc<ValidatorSet> {
        &self.validators
    }
}

impl Verified<LightBlock> {
    /// Its id, and that of the header below it.
    pub fn ids(&self) -> impl Iterator<Item = Verified<HeaderId>> + use<> {
        std::iter::once(HeaderId::trusted(self.height(), self.hash())).chain(link::below(self.header()))
    }
}

/// What later headers are verified from.
#[derive(Clone, Debug)]
pub struct TrustedState {
    chain_id: String,
    height: u64,
    time: Time,
    /// The set that has to sign the next height.
    next_validators_hash: Hash,
    /// The set of this height, a third of which vouches for headers further up.
    validators: Arc<ValidatorSet>,
    /// None of a genesis, below which there is nothing.
    header: Option<Verified<TrustedHeader>>,
}

impl TrustedState {
    /// The genesis counts as the height below the first.
    ///
    /// # Errors
    /// If it has no validators (the application names them then, and a genesis is no root), or too many.
    pub fn of_genesis(genesis: Genesis, validators_max: usize) -> Result<Self, ValidatorsError> {
        let validators = Arc::new(ValidatorSet::new(genesis.validators, validators_max)?);
        Ok(Self {
            chain_id: genesis.chain_id,
            height: genesis.initial_height.saturating_sub(1),
            time: genesis.time,
            next_validators_hash: validators.hash(),
            validators,
            header: None,
        })
    }

    pub fn of_block(block: &Verified<LightBlock>) -> Self {
        Self::of_parts(block.header(), Arc::clone(&block.validators))
    }

    /// `validators` are those that `header` names, and both are trusted.
    pub(super) fn of_parts(header: &Header, validators: Arc<ValidatorSet>) -> Self {
        Self {
            chain_id: header.chain_id.to_string(),
            height: header.height.value(),
            time: header.time,
            // A hash that is none fits no set.
            next_validators_hash: Hash::try_from(header.next_validators_hash.as_bytes()).unwrap_or_default(),
            validators,
            header: Some(Verified::new(TrustedHeader::new(header_hash(header), header.clone()))),
        }
    }

    /// The id of its header, and of the one below it.
    pub(crate) fn ids(&self) -> impl Iterator<Item = Verified<HeaderId>> + use<> {
        let header = self.header.as_ref();
        let own = header.map(|header| HeaderId::trusted(self.height, header.hash()));
        own.into_iter().chain(header.and_then(|header| link::below(header.header())))
    }

    /// Headers below can be linked to it.
    pub(crate) fn header(&self) -> Option<&Verified<TrustedHeader>> {
        self.header.as_ref()
    }

    pub fn chain_id(&self) -> &str {
        &self.chain_id
    }

    pub fn height(&self) -> u64 {
        self.height
    }

    pub fn time(&self) -> Time {
        self.time
    }

    pub fn validators(&self) -> &Arc<ValidatorSet> {
        &self.validators
    }

    /// Whether nothing follows from it any more, see [`Options::trusting_period`].
    pub fn is_expired(&self, options: &Options, now: Timestamp) -> bool {
        is_expired(self.time, options, now)
    }
}

/// Why a header is not trusted. Names the first rule that it breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the trusting period is over: the trusted header {height} is of {time}, which is {age} days ago")]
    Expired { height: u64, time: String, age: u64 },
    #[error("header {height} is not above the trusted {trusted}")]
    NotAbove { trusted: u64, height: u64 },
    #[error("header {height} is of {time}, which is not after the trusted header's {trusted}")]
    TimeNotAfter { height: u64, time: String, trusted: String },
    #[error("header {height} is of {time}, more than the permitted {drift_ms} ms ahead of this node's clock")]
    FromFuture { height: u64, time: String, drift_ms: u64 },
    #[error("header {height} is signed by the set {actual}, header {} names the set {expected}", height - 1)]
    NextValidators { height: u64, expected: String, actual: String },
    #[error("header {height} hashes to {actual}, the root of trust is {expected}")]
    Root { height: u64, expected: BlockHash, actual: BlockHash },
    #[error("header {height} hashes to {actual}, what is trusted leads to {expected}")]
    OtherHash { height: u64, expected: BlockHash, actual: BlockHash },
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error("too far from the trusted header {trusted}: of its validators {counted} of {total} voting power signed")]
    TooFar { trusted: u64, counted: u128, total: u128 },
}

/// What a header is to follow from.
#[derive(Clone, Debug)]
pub enum Check {
    /// From what is trusted already.
    From(Box<TrustedState>),
    /// It is the root of trust itself.
    Root { chain_id: String, hash: BlockHash },
    /// Nothing is trusted yet, and it is the first that comes.
    FirstUse { chain_id: String },
    /// It is trusted already, however old: a trusted header leads down to this hash. What is left to see is its commit.
    Known { chain_id: String, hash: BlockHash },
}

/// Whether the header at `height` is to be trusted. `validators` are claimed to be those of this height.
pub fn verify(
    check: &Check,
    height: u64,
    signed: &SignedHeader,
    validators: &Arc<ValidatorSet>,
    options: &Options,
    now: Timestamp,
) -> Result<Verified<LightBlock>, Refusal> {
    verify_with(check, height, signed, validators, options, now, check_commit)
}

/// The same with another hand for the commit.
pub(crate) fn verify_with(
    check: &Check,
    height: u64,
    signed: &SignedHeader,
    validators: &Arc<ValidatorSet>,
    options: &Options,
    now: Timestamp,
    commit: impl FnOnce(&SignedHeader, &ValidatorSet, &str, u64) -> Result<Committed, CommitError>,
) -> Result<Verified<LightBlock>, Refusal> {
    let header = &signed.header;
    let chain_id = match check {
        Check::From(trusted) => {
            follows(trusted, header, options, now)?;
            &trusted.chain_id
        }
        Check::Root { chain_id, hash: expected } => {
            if is_expired(header.time, options, now) {
                // What is not the root must not pass for one that is too old.
                let actual = header_hash(header);
                return Err(if actual == *expected || canary(Canary::RootHashNotCompared) {
                    expired(header.height.value(), header.time, now)
                } else {
                    Refusal::Root { height, expected: *expected, actual }
                });
            }
            chain_id
        }
        Check::FirstUse { chain_id } => {
            if is_expired(header.time, options, now) {
                return Err(expired(header.height.value(), header.time, now));
            }
            chain_id
        }
        Check::Known { chain_id, .. } => chain_id,
    };
    let latest = i128::from(now.0) + nanos(options.clock_drift);
    if header.time.unix_timestamp_nanos() >= latest && !canary(Canary::FutureHeaderTaken) {
        let drift_ms = u64::try_from(options.clock_drift.as_millis()).unwrap_or(u64::MAX);
        return Err(Refusal::FromFuture { height, time: header.time.to_rfc3339(), drift_ms });
    }
    let Committed { hash, signers } = commit(signed, validators, chain_id, height)?;
    match check {
        Check::From(trusted) => vouched_for(trusted, height, validators, &signers)?,
        Check::Root { hash: expected, .. } if *expected != hash && !canary(Canary::RootHashNotCompared) => {
            return Err(Refusal::Root { height, expected: *expected, actual: hash });
        }
        Check::Known { hash: expected, .. } if *expected != hash => {
            return Err(Refusal::OtherHash { height, expected: *expected, actual: hash });
        }
        Check::Root { .. } | Check::FirstUse { .. } | Check::Known { .. } => {}
    }
    Ok(Verified::new(LightBlock { hash, signed_header: signed.clone(), validators: Arc::clone(validators) }))
}

/// The rules that need no signature.
fn follows(trusted: &TrustedState, header: &Header, options: &Options, now: Timestamp) -> Result<(), Refusal> {
    if trusted.is_expired(options, now) {
        return Err(expired(trusted.height, trusted.time, now));
    }
    let height = header.height.value();
    if height <= trusted.height {
        return Err(Refusal::NotAbove { trusted: trusted.height, height });
    }
    // The first block has the time of the genesis itself.
    let is_first = trusted.header.is_none() && header.time == trusted.time;
    if header.time <= trusted.time && !is_first {
        let (time, trusted) = (header.time.to_rfc3339(), trusted.time.to_rfc3339());
        return Err(Refusal::TimeNotAfter { height, time, trusted });
    }
    let named = trusted.next_validators_hash;
    let signed_by = header.validators_hash.as_bytes();
    if height - 1 == trusted.height && signed_by != named && !canary(Canary::NextValidatorsIgnored) {
        let (expected, actual) = (hex::encode_upper(named), hex::encode_upper(signed_by));
        return Err(Refusal::NextValidators { height, expected, actual });
    }
    Ok(())
}

/// A third of the trusted set must have signed what is further away than the next height: at least one of those who
/// did is honest, if more than two thirds are.
fn vouched_for(
    trusted: &TrustedState,
    height: u64,
    named: &ValidatorSet,
    signers: &BTreeSet<account::Id>,
) -> Result<(), Refusal> {
    if height - 1 == trusted.height || canary(Canary::OverlapIgnored) {
        return Ok(());
    }
    let set = if canary(Canary::WrongSetForSkipping) { named } else { &*trusted.validators };
    let (counted, total) = (set.power_of(signers), set.total_power());
    // 3 * counted > total, without a product that might not fit.
    if counted > total / 3 { Ok(()) } else { Err(Refusal::TooFar { trusted: trusted.height, counted, total }) }
}

fn is_expired(time: Time, options: &Options, now: Timestamp) -> bool {
    let expires_at = time.unix_timestamp_nanos() + nanos(options.trusting_period);
    expires_at <= i128::from(now.0) && !canary(Canary::TrustingPeriodIgnored)
}

fn expired(height: u64, time: Time, now: Timestamp) -> Refusal {
    let age = i128::from(now.0) - time.unix_timestamp_nanos();
    let age = u64::try_from(age / nanos(Duration::from_hours(24))).unwrap_or_default();
    Refusal::Expired { height, time: time.to_rfc3339(), age }
}

fn nanos(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX / 2)
}
