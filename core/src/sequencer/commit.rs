//! Validator sets, and whether a commit of theirs makes a header trusted (reference §4.5).

use std::collections::{BTreeMap, BTreeSet};

use ed25519_zebra::{Signature, VerificationKey, VerificationKeyBytes, batch};
use rand_core_for_batches::{Infallible, TryCryptoRng, TryRng};
use sha2::{Digest as _, Sha256};
use tendermint::{
    Time, account,
    block::{Commit, CommitSig, signed_header::SignedHeader},
    validator,
};

use crate::{
    canary::{Canary, canary},
    ids::{BlockHash, SequencerHeight},
    merkle::{self, Hash},
    sequencer::{
        encode,
        header::{TrustedHeader, header_hash},
    },
    verified::Verified,
};

/// Type of a precommit vote.
const PRECOMMIT: u64 = 2;

/// The validators of one height, with their keys ready for use.
#[derive(Clone, Debug)]
pub struct ValidatorSet {
    /// Keys and powers, in order, with nothing else that was sent along.
    infos: Vec<validator::Info>,
    validators: Vec<Validator>,
    by_address: BTreeMap<account::Id, usize>,
    total: u128,
    hash: Hash,
}

#[derive(Clone, Debug)]
struct Validator {
    power: u64,
    /// Absent for keys of another kind and for bytes that are no key: such a validator cannot sign, but its power
    /// counts for the total.
    key: Option<VerificationKey>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValidatorsError {
    #[error("the validator set is empty")]
    Empty,
    #[error("{count} validators are more than the {max} permitted")]
    TooMany { count: usize, max: usize },
    #[error("validator {0} is listed twice")]
    Repeated(account::Id),
}

impl ValidatorSet {
    /// Takes at most `max` validators in the order in which the sequencer hashes them. Addresses follow from the keys;
    /// those in the input are not looked at.
    pub fn new(infos: Vec<validator::Info>, max: usize) -> Result<Self, ValidatorsError> {
        if infos.is_empty() {
            return Err(ValidatorsError::Empty);
        }
        if infos.len() > max {
            return Err(ValidatorsError::TooMany { count: infos.len(), max });
        }
        let mut by_address = BTreeMap::new();
        for (index, info) in infos.iter().enumerate() {
            let address = account::Id::from(info.pub_key);
            if by_address.insert(address, index).is_some() {
                return Err(ValidatorsError::Repeated(address));
            }
        }
        let infos: Vec<_> = infos.into_iter().map(|info| validator::Info::new(info.pub_key, info.power)).collect();
        let hash = merkle::root_of(infos.iter().map(validator::Info::hash_bytes));
        let validators: Vec<_> = infos
            .iter()
            .map(|info| Validator {
                power: info.power(),
                key: info.pub_key.ed25519().and_then(|key| VerificationKey::try_from(key.as_bytes()).ok()),
            })
            .collect();
        let total = validators.iter().map(|validator| u128::from(validator.power)).sum();
        Ok(Self { infos, validators, by_address, total, hash })
    }

    /// Keys and powers in the order in which they are hashed.
    pub fn infos(&self) -> &[validator::Info] {
        &self.infos
    }

    /// What a header's `validators_hash` has to be.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// Number of validators; at least one.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.validators.len()
    }

    pub fn total_power(&self) -> u128 {
        self.total
    }

    /// Power that those of `signers` have who belong to this set.
    pub fn power_of(&self, signers: &BTreeSet<account::Id>) -> u128 {
        let members = signers.iter().filter_map(|address| self.by_address.get(address));
        members.filter_map(|index| self.validators.get(*index)).map(|validator| u128::from(validator.power)).sum()
    }
}

/// Whether `counted` of `total` voting power is more than two thirds.
pub fn quorum(counted: u128, total: u128) -> bool {
    if canary(Canary::QuorumDividedFirst) {
        return counted > total / 3 * 2;
    }
    // 3 * counted > 2 * total, without products that might not fit.
    counted > total - total.div_ceil(3)
}

/// Why a header is not trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    #[error("header of height {header} with a commit of height {commit}, asked for {expected}")]
    Height { expected: u64, header: u64, commit: u64 },
    #[error("header of chain {actual:?}, expected {expected:?}")]
    ChainId { expected: String, actual: String },
    #[error("the header hashes to {header}, the commit is for {commit}")]
    BlockHash { header: BlockHash, commit: String },
    #[error("the validators hash to {validators}, the header names {header}")]
    Validators { header: String, validators: String },
    #[error("{signatures} votes, absent ones included, of {validators} validators")]
    SignatureCount { signatures: usize, validators: usize },
    #[error("signer {0} is not in the validator set")]
    Stranger(account::Id),
    #[error("validator {0} signed twice")]
    Repeated(account::Id),
    #[error("the signature of validator {0} does not verify")]
    Signature(account::Id),
    #[error("{counted} of {total} voting power is no quorum")]
    NoQuorum { counted: u128, total: u128 },
}

/// What a commit proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Of the header that was committed to.
    pub hash: BlockHash,
    /// The distinct validators that signed for it.
    pub signers: BTreeSet<account::Id>,
}

/// Checks that more than two thirds of `validators` committed to the header at `height` of chain `chain_id`.
///
/// Absent votes and votes for nil count for nothing. Whoever signs for the block must belong to the set and sign once,
/// and its signature must hold: otherwise the commit was not made by this chain, whatever else it holds.
pub fn verify_signed_header(
    signed: &SignedHeader,
    validators: &ValidatorSet,
    chain_id: &str,
    height: SequencerHeight,
) -> Result<Verified<TrustedHeader>, CommitError> {
    Ok(committed_header(signed, &check_commit(signed, validators, chain_id, height.0)?))
}

/// The header that `committed` was said of.
pub(crate) fn committed_header(signed: &SignedHeader, committed: &Committed) -> Verified<TrustedHeader> {
    Verified::new(TrustedHeader::new(committed.hash, signed.header.clone()))
}

/// The same, of any chain.
pub(crate) fn check_commit(
    signed: &SignedHeader,
    validators: &ValidatorSet,
    chain_id: &str,
    height: u64,
) -> Result<Committed, CommitError> {
    let SignedHeader { header, commit, .. } = signed;
    let (of_header, of_commit) = (header.height.value(), commit.height.value());
    if (of_header != height || of_commit != height) && !canary(Canary::CommitOfOtherHeight) {
        return Err(CommitError::Height { expected: height, header: of_header, commit: of_commit });
    }
    if header.chain_id.as_str() != chain_id {
        return Err(CommitError::ChainId { expected: chain_id.to_owned(), actual: header.chain_id.to_string() });
    }
    let hash = header_hash(header);
    if commit.block_id.hash.as_bytes() != hash.0 {
        return Err(CommitError::BlockHash { header: hash, commit: commit.block_id.hash.to_string() });
    }
    if header.validators_hash.as_bytes() != validators.hash && !canary(Canary::ValidatorsNotBound) {
        let validators = hex::encode_upper(validators.hash);
        return Err(CommitError::Validators { header: header.validators_hash.to_string(), validators });
    }
    let (signers, counted) = check_votes(commit, validators, chain_id)?;
    if !quorum(counted, validators.total) {
        return Err(CommitError::NoQuorum { counted, total: validators.total });
    }
    Ok(Committed { hash, signers })
}

/// The distinct validators that signed for the block, and their power.
fn check_votes(
    commit: &Commit,
    validators: &ValidatorSet,
    chain_id: &str,
) -> Result<(BTreeSet<account::Id>, u128), CommitError> {
    // An absent vote has its place in the commit, too.
    if commit.signatures.len() != validators.len() {
        return Err(CommitError::SignatureCount { signatures: commit.signatures.len(), validators: validators.len() });
    }
    let votes = VoteBytes::new(commit, chain_id);
    let mut signers = BTreeSet::new();
    let mut counted = 0;
    let mut signatures = Vec::with_capacity(commit.signatures.len());
    for vote in &commit.signatures {
        let CommitSig::BlockIdFlagCommit { validator_address: address, timestamp, signature } = vote else { continue };
        let index = *validators.by_address.get(address).ok_or(CommitError::Stranger(*address))?;
        let Validator { power, key } = &validators.validators[index];
        if !signers.insert(*address) && !canary(Canary::RepeatedSignerCounted) {
            return Err(CommitError::Repeated(*address));
        }
        counted += u128::from(*power);
        let signature = signature.as_ref().and_then(|signature| Signature::try_from(signature.as_bytes()).ok());
        match signature.zip(key.as_ref()) {
            Some((signature, key)) => {
                signatures.push(Signed { address: *address, key, signature, message: votes.at(*timestamp) });
            }
            None if canary(Canary::SignatureNotChecked) => {}
            None => return Err(CommitError::Signature(*address)),
        }
    }
    if !canary(Canary::SignatureNotChecked) {
        check_signatures(&signatures)?;
    }
    Ok((signers, counted))
}

struct Signed<'a> {
    address: account::Id,
    key: &'a VerificationKey,
    signature: Signature,
    message: Vec<u8>,
}

/// Below this number one by one is faster.
const BATCH_MIN: usize = 4;

/// All at once, which takes half the time; one by one only to name the one that does not hold. Both have the same
/// verdict, for ZIP 215 defines it so that they do.
fn check_signatures(signatures: &[Signed<'_>]) -> Result<(), CommitError> {
    if signatures.len() >= BATCH_MIN {
        let mut batch = batch::Verifier::new();
        let mut seed = Sha256::new();
        for Signed { key, signature, message, .. } in signatures {
            let key = VerificationKeyBytes::from(**key);
            seed.update(key.as_ref());
            seed.update(signature.to_bytes());
            seed.update(message);
            batch.queue((key, *signature, message));
        }
        if batch.verify(Coefficients { seed: seed.finalize().into(), count: 0 }).is_ok() {
            return Ok(());
        }
    }
    let holds = |signed: &&Signed<'_>| signed.key.verify(&signed.signature, &signed.message).is_ok();
    match signatures.iter().find(|signed| !holds(signed)) {
        Some(signed) => Err(CommitError::Signature(signed.address)),
        None => Ok(()),
    }
}

/// What a batch is weighed with. Nobody can choose signatures to suit the weights, for these follow from everything that
/// is in the batch. So no entropy is needed, and the verdict depends on nothing else.
struct Coefficients {
    seed: [u8; 32],
    count: u64,
}

impl TryRng for Coefficients {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(32) {
            let block = Sha256::new().chain_update(self.seed).chain_update(self.count.to_be_bytes()).finalize();
            chunk.copy_from_slice(&block[..chunk.len()]);
            self.count = self.count.wrapping_add(1);
        }
        Ok(())
    }
}

impl TryCryptoRng for Coefficients {}

/// What the validators sign: the votes of one commit differ in nothing but their time.
struct VoteBytes {
    before_time: Vec<u8>,
    after_time: Vec<u8>,
}

impl VoteBytes {
    fn new(commit: &Commit, chain_id: &str) -> Self {
        let mut before_time = Vec::with_capacity(128);
        encode::varint(&mut before_time, 1, PRECOMMIT);
        encode::sfixed64(&mut before_time, 2, commit.height.value());
        encode::sfixed64(&mut before_time, 3, commit.round.value().into());
        if commit.block_id != tendermint::block::Id::default() {
            encode::message(&mut before_time, 4, &encode::block_id(&commit.block_id));
        }
        let mut after_time = Vec::with_capacity(64);
        encode::bytes(&mut after_time, 6, chain_id.as_bytes());
        Self { before_time, after_time }
    }

    /// The canonical vote with its length in front.
    fn at(&self, time: Time) -> Vec<u8> {
        let mut vote = self.before_time.clone();
        encode::message(&mut vote, 5, &encode::time(time));
        vote.extend(&self.after_time);
        let mut out = Vec::with_capacity(vote.len() + 2);
        encode::prefixed(&mut out, &vote);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reference §4.5.
    fn commit() -> Commit {
        serde_json::from_str(
            r#"{"height":"79","round":0,"block_id":{
                "hash":"74BD4E7F7EF902A84D55589F2AA60B332F1C2F34DDE7652C80BFEB8E7471B1DA",
                "parts":{"total":1,"hash":"7632FFB5D84C3A64279BC9EA86992418ED23832C66E0C3504B7025A9AF42C8C4"}},
                "signatures":[{"block_id_flag":2,"validator_address":"D223B03AE01B4A0296053E01A41AE1E2F9CDEBC9",
                "timestamp":"2023-07-05T19:02:55.206600022Z","signature":
                "qy9vEjqSrF+8sD0K0IAXA398xN1s3QI2rBBDbBMWf0rw0L+B9Z92DZEptf6bPYWuKUFdEc0QFKhUMQA8HjBaAw=="}]}"#,
        )
        .expect("a commit")
    }

    fn validators() -> ValidatorSet {
        let info = serde_json::from_str(
            r#"{"address":"D223B03AE01B4A0296053E01A41AE1E2F9CDEBC9","pub_key":{"type":"tendermint/PubKeyEd25519",
                "value":"tyPnz5GGblrx3PBjQRxZOHbzsPEI1E8lOh62QoPSWLw="},"voting_power":"10","name":null}"#,
        )
        .expect("a validator");
        ValidatorSet::new(vec![info], 1).expect("a set")
    }

    #[test]
    fn sign_bytes_are_those_of_the_reference() {
        let commit = commit();
        let CommitSig::BlockIdFlagCommit { timestamp, .. } = commit.signatures[0] else { panic!("not a commit") };
        assert_eq!(
            hex::encode(VoteBytes::new(&commit, "test-chain-g3ejvw").at(timestamp)),
            "750802114f0000000000000022480a2074bd4e7f7ef902a84d55589f2aa60b332f1c2f34dde7652c80bfeb8e7471b1da\
             1224080112207632ffb5d84c3a64279bc9ea86992418ed23832c66e0c3504b7025a9af42c8c4\
             2a0b08dffc96a50610d6eec1623211746573742d636861696e2d6733656a7677"
        );
        assert_eq!(check_votes(&commit, &validators(), "test-chain-g3ejvw").map(|(_, power)| power), Ok(10));
        assert!(matches!(check_votes(&commit, &validators(), "other"), Err(CommitError::Signature(_))));
    }

    #[test]
    fn nobody_counts_without_a_signature() {
        let unsigned = Commit { signatures: vec![CommitSig::BlockIdFlagAbsent], ..commit() };
        assert_eq!(check_votes(&unsigned, &validators(), "test-chain-g3ejvw"), Ok((BTreeSet::new(), 0)));
        let mut missing = commit();
        if let CommitSig::BlockIdFlagCommit { signature, .. } = &mut missing.signatures[0] {
            *signature = None;
        }
        assert!(check_votes(&missing, &validators(), "test-chain-g3ejvw").is_err());
    }

    #[test]
    fn another_number_of_signatures_than_of_validators_is_refused_unread() {
        let mut commit = commit();
        commit.signatures.push(commit.signatures[0].clone());
        assert_eq!(
            check_votes(&commit, &validators(), "test-chain-g3ejvw"),
            Err(CommitError::SignatureCount { signatures: 2, validators: 1 })
        );
    }

    #[test]
    fn more_than_two_thirds_is_exact() {
        let max = u128::from(u64::MAX);
        for (counted, total, expected) in [
            (0, 0, false),
            (0, 1, false),
            (1, 1, true),
            (1, 2, false),
            (2, 3, false),
            (3, 4, true),
            (3, 5, false),
            (4, 5, true),
            (5, 8, false),
            (6, 8, true),
            (100, 150, false),
            (101, 150, true),
            (max / 3 * 2, max, false),
            (max / 3 * 2 + 1, max, true),
            (max, max, true),
        ] {
            assert_eq!(quorum(counted, total), expected, "{counted} of {total}");
        }
    }

    #[test]
    fn a_set_has_distinct_members_within_its_bound() {
        let info: validator::Info = serde_json::from_str(
            r#"{"address":"0000000000000000000000000000000000000000","pub_key":{"type":"tendermint/PubKeyEd25519",
                "value":"tyPnz5GGblrx3PBjQRxZOHbzsPEI1E8lOh62QoPSWLw="},"voting_power":"10","name":null}"#,
        )
        .expect("a validator");
        assert!(matches!(ValidatorSet::new(vec![], 9), Err(ValidatorsError::Empty)));
        assert!(matches!(ValidatorSet::new(vec![info.clone(); 2], 1), Err(ValidatorsError::TooMany { .. })));
        assert!(matches!(ValidatorSet::new(vec![info.clone(); 2], 2), Err(ValidatorsError::Repeated(_))));
        // The address follows from the key, whatever the input says.
        let set = ValidatorSet::new(vec![info], 2).expect("a set");
        assert_eq!(check_votes(&commit(), &set, "test-chain-g3ejvw").map(|(_, power)| power), Ok(10));
        assert_eq!((set.len(), set.total_power()), (1, 10));
    }
}
