//! Celestia: blobs in namespaces, block by block, in real squares under real headers and commitments.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use celestia_types::{Commitment, consts::appconsts};
use downbeat_core::{CelestiaHeight, Timestamp, celestia::Namespace, light::Genesis, merkle::Hash};
use tendermint::{
    block::{Header, signed_header::SignedHeader},
    chain,
};

use crate::{
    Memo,
    cometbft::{self, Proposal, Vote},
    square::{self, Parity, Square, WIDTH_MAX},
    validators::{Keyring, Member, ValidatorSet},
};

/// What a chain is from its genesis on.
#[derive(Clone, Debug)]
pub struct CelestiaConfig {
    /// 1 to 50 characters.
    pub chain_id: String,
    pub seed: u64,
    pub initial_height: CelestiaHeight,
    /// Powers of the validators that the chain begins with.
    pub powers: Vec<u64>,
    /// Each time so many blocks were made, the next one of the validators gives way to a new one; 0 is never.
    pub change_every: u64,
    /// Whether headers are signed. Where nobody looks at signatures they only take time.
    pub signs: bool,
    /// The squares that blobs are laid out in. Where nobody looks at proofs they only take time: without, every header
    /// commits to the empty square.
    pub squares: Option<Parity>,
}

impl Default for CelestiaConfig {
    fn default() -> Self {
        Self {
            chain_id: "downbeat-celestia".to_owned(),
            seed: 0,
            initial_height: CelestiaHeight(1),
            powers: vec![5_000],
            change_every: 0,
            signs: true,
            squares: Some(Parity::Coded),
        }
    }
}

/// A blob in a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostedBlob {
    pub namespace: Namespace,
    pub data: Bytes,
    commitment: OnceLock<Hash>,
    /// Index of the first share.
    pub index: u64,
}

impl PostedBlob {
    /// Share commitment, for share version 0; computed when it is first asked for.
    pub fn commitment(&self) -> Hash {
        // A blob that was posted has data, and therefore a commitment.
        *self.commitment.get_or_init(|| share_commitment(&self.namespace, &self.data).unwrap_or_default())
    }
}

/// One block.
#[derive(Clone, Debug)]
pub struct Block {
    pub signed_header: SignedHeader,
    /// By namespace, then in the order of submission.
    blobs: Vec<PostedBlob>,
    time: Timestamp,
    validators: Arc<ValidatorSet>,
    /// Kept for the newest blocks.
    square: Option<Arc<Square>>,
}

/// Blocks whose squares are kept; those of others are made again.
const SQUARES_KEPT: usize = 32;

impl Block {
    pub fn time(&self) -> Timestamp {
        self.time
    }

    pub fn blobs(&self) -> &[PostedBlob] {
        &self.blobs
    }

    /// Those who signed it.
    pub fn validators(&self) -> &Arc<ValidatorSet> {
        &self.validators
    }
}

/// Shares in the largest block.
const SHARES_MAX: usize = WIDTH_MAX * WIDTH_MAX;

/// Why a blob cannot be posted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no share commitment for a blob of {size} bytes in namespace {namespace}: {reason}")]
pub struct NotPostable {
    pub namespace: Namespace,
    pub size: usize,
    pub reason: String,
}

/// A Celestia chain. Anyone may post anything in any namespace.
#[derive(Debug)]
pub struct CelestiaChain {
    chain_id: chain::Id,
    keyring: Keyring,
    genesis_validators: Arc<ValidatorSet>,
    /// Of the next block.
    validators: Arc<ValidatorSet>,
    change_every: u64,
    blocks: VecDeque<Block>,
    next_height: u64,
    last: Option<SignedHeader>,
    pending: Vec<PostedBlob>,
    signs: bool,
    squares: Option<Parity>,
    memo: Option<Arc<Memo>>,
}

impl CelestiaChain {
    /// # Panics
    /// If the chain id does not have 1 to 50 characters.
    pub fn new(config: &CelestiaConfig) -> Self {
        let keyring = Keyring::new(config.seed ^ 0xce1e_571a);
        let powers: Vec<_> = (0..).zip(config.powers.iter().copied()).collect();
        let validators = Arc::new(ValidatorSet::genesis(keyring, &powers));
        Self {
            chain_id: cometbft::chain_id(&config.chain_id),
            genesis_validators: Arc::clone(&validators),
            validators,
            change_every: config.change_every,
            keyring,
            blocks: VecDeque::new(),
            next_height: config.initial_height.0.max(1),
            last: None,
            pending: Vec::new(),
            signs: config.signs,
            squares: config.squares,
            memo: None,
        }
    }

    /// The same chain, which takes squares that equal chains have made from `memo`.
    pub fn remembering(mut self, memo: Option<Arc<Memo>>) -> Self {
        self.memo = memo;
        self
    }

    pub fn chain_id(&self) -> &str {
        self.chain_id.as_str()
    }

    /// Height of the newest block; one below the initial height while there is none.
    pub fn head(&self) -> CelestiaHeight {
        CelestiaHeight(self.next_height - 1)
    }

    /// Height of the oldest block that is kept; above the head if none is.
    pub fn tail(&self) -> CelestiaHeight {
        CelestiaHeight(self.next_height - self.blocks.len() as u64)
    }

    /// What the chain began with, as its genesis file says, at a moment before its first block.
    pub fn genesis(&self, time: Timestamp) -> Genesis {
        Genesis {
            chain_id: self.chain_id.to_string(),
            time: cometbft::time(time),
            initial_height: self.tail().0,
            validators: self.genesis_validators.infos(),
        }
    }

    /// `header` with a commit by those of `validators` for whom `signs` holds, of the moment `at`.
    pub fn sign(
        &mut self,
        header: Header,
        validators: &ValidatorSet,
        at: Timestamp,
        signs: impl Fn(&Member) -> bool,
    ) -> SignedHeader {
        let vote = |member: &Member| if signs(member) { Vote::Commit } else { Vote::Absent };
        let commit = cometbft::commit(&header, 0, validators, self.keyring, |member| (vote(member), at));
        SignedHeader::new(header, commit).expect("header and commit have one height")
    }

    /// The set of the height after `height`, which is the next.
    fn next_validators(&mut self, height: u64) -> Arc<ValidatorSet> {
        let changes = height.checked_div(self.change_every).filter(|_| height.is_multiple_of(self.change_every));
        let Some(change) = changes else { return Arc::clone(&self.validators) };
        // The one that has been there for longest leaves, and a newcomer takes its power over.
        let Some(oldest) = self.validators.members().iter().min_by_key(|member| member.number) else {
            return Arc::clone(&self.validators);
        };
        let newcomer = 1_000 + u32::try_from(change).unwrap_or_default();
        let updates = [(newcomer, oldest.power), (oldest.number, 0)];
        Arc::new(self.validators.next(self.keyring, &updates))
    }

    /// Posts a blob into the next block.
    pub fn submit(&mut self, namespace: Namespace, data: Bytes) -> Result<(), NotPostable> {
        let refused = |reason: &str| Err(NotPostable { namespace, size: data.len(), reason: reason.to_owned() });
        if data.is_empty() {
            return refused("it has no data");
        }
        let known = celestia_types::nmt::Namespace::from_raw(namespace.as_bytes());
        if self.squares.is_some() && known.map_or(true, |known| known.is_reserved()) {
            return refused("the namespace is the protocol's own");
        }
        if self.squares.is_some() && 1 + square::shares_at_most(data.len()) > SHARES_MAX {
            return refused("it does not fit into a block");
        }
        self.pending.push(PostedBlob { namespace, data, commitment: OnceLock::new(), index: 0 });
        Ok(())
    }

    /// Appends a block with what was submitted since the last one, in that order, as far as it fits.
    pub fn make_block(&mut self, time: Timestamp) -> CelestiaHeight {
        let mut blobs = self.fitting();
        blobs.sort_by_key(|blob| blob.namespace);
        let (indexes, _) = square::lay_out(blobs.iter().map(|blob| blob.data.len()));
        for (blob, index) in blobs.iter_mut().zip(indexes) {
            blob.index = index as u64;
        }
        let square = self.squares.map(|_| self.square_of(by_namespace(&blobs)));
        let (validators, next_validators) = (Arc::clone(&self.validators), self.next_validators(self.next_height));
        let header = Proposal {
            chain_id: &self.chain_id,
            app_version: 4,
            height: self.next_height,
            time,
            last: self.last.as_ref(),
            data_hash: square.as_ref().unwrap_or(empty_square()).header().hash(),
            last_results: 0,
            validators: &validators,
            next_validators: &next_validators,
        }
        .header();
        let signs = self.signs;
        let signed_header = self.sign(header, &validators, time.after(Duration::from_secs(1)), |_| signs);
        self.validators = next_validators;
        self.last = Some(signed_header.clone());
        self.blocks.push_back(Block { signed_header, blobs, time, validators, square });
        if let Some(old) = self.blocks.len().checked_sub(SQUARES_KEPT + 1) {
            self.blocks[old].square = None;
        }
        self.next_height += 1;
        self.head()
    }

    /// Takes as many of the pending blobs as a block can hold.
    fn fitting(&mut self) -> Vec<PostedBlob> {
        let mut shares = 1;
        let mut fits = |blob: &PostedBlob| {
            shares += square::shares_at_most(blob.data.len());
            shares <= SHARES_MAX
        };
        let count = if self.squares.is_some() {
            self.pending.iter().take_while(|blob| fits(blob)).count()
        } else {
            self.pending.len()
        };
        self.pending.drain(..count).collect()
    }

    /// The square of a block that holds blobs, which come by namespace.
    pub fn square_of<'a>(&self, blobs: impl Iterator<Item = (&'a Namespace, &'a [u8])> + Clone) -> Arc<Square> {
        let parity = self.squares.unwrap_or_default();
        match &self.memo {
            _ if blobs.clone().next().is_none() => Arc::clone(empty_square()),
            Some(memo) => memo.square(blobs, parity),
            None => Arc::new(Square::of_blobs(blobs, parity)),
        }
    }

    /// The square of a block, to which its header commits. The empty one, if the chain lays nothing out.
    pub fn square(&self, height: CelestiaHeight) -> Option<Arc<Square>> {
        let block = self.block(height)?;
        if self.squares.is_none() {
            return Some(Arc::clone(empty_square()));
        }
        Some(block.square.clone().unwrap_or_else(|| self.square_of(by_namespace(&block.blobs))))
    }

    /// Forgets all but the newest `keep` blocks.
    pub fn prune(&mut self, keep: usize) {
        self.blocks.drain(..self.blocks.len().saturating_sub(keep));
    }

    /// Nothing for heights above the head and for those that were pruned.
    pub fn block(&self, height: CelestiaHeight) -> Option<&Block> {
        let index = height.0.checked_sub(self.tail().0)?;
        self.blocks.get(usize::try_from(index).ok()?)
    }

    /// Blobs of a height in the given namespaces, namespace by namespace in the order asked for.
    pub fn blobs<'a>(
        &'a self,
        height: CelestiaHeight,
        namespaces: &'a [Namespace],
    ) -> Option<impl Iterator<Item = &'a PostedBlob>> {
        let block = self.block(height)?;
        Some(
            namespaces.iter().flat_map(|namespace| block.blobs.iter().filter(move |blob| blob.namespace == *namespace)),
        )
    }
}

/// Celestia's commitment to a blob of share version 0.
pub fn share_commitment(namespace: &Namespace, data: &[u8]) -> Result<Hash, NotPostable> {
    let refused = |error: celestia_types::Error| NotPostable {
        namespace: *namespace,
        size: data.len(),
        reason: error.to_string(),
    };
    let raw = celestia_types::nmt::Namespace::from_raw(namespace.as_bytes()).map_err(refused)?;
    Commitment::from_blob(raw, data, appconsts::SHARE_VERSION_ZERO, None).map(Into::into).map_err(refused)
}

/// The square of a block without data.
fn empty_square() -> &'static Arc<Square> {
    static EMPTY: OnceLock<Arc<Square>> = OnceLock::new();
    EMPTY.get_or_init(|| Arc::new(Square::of_blobs(std::iter::empty(), Parity::Coded)))
}

fn by_namespace(blobs: &[PostedBlob]) -> impl Iterator<Item = (&Namespace, &[u8])> + Clone {
    blobs.iter().map(|blob| (&blob.namespace, blob.data.as_ref()))
}

#[cfg(test)]
mod tests {
    use downbeat_core::{Limits, celestia::square::prove_namespace};

    use super::*;

    fn namespace(byte: u8) -> Namespace {
        Namespace::of_rollup(&downbeat_core::RollupId([byte; 32]))
    }

    #[test]
    fn a_commitment_is_the_one_that_celestia_computes() {
        let commitment = share_commitment(&namespace(1), &vec![0xab; 70_000]).expect("a commitment");
        assert_eq!(hex::encode(commitment), "23f383cf8fb3d8dd9cc8a81aff95d51d1e8363981fc76b163882d39eb756de0c");
    }

    #[test]
    fn blobs_come_by_namespace_in_the_order_asked_for() {
        let mut chain = CelestiaChain::new(&CelestiaConfig::default());
        for (byte, data) in [(2, "b"), (1, "a"), (2, "c"), (3, "d")] {
            chain.submit(namespace(byte), Bytes::from(data)).expect("postable");
        }
        let height = chain.make_block(Timestamp(5));
        let asked = [namespace(3), namespace(2)];
        let found: Vec<_> = chain.blobs(height, &asked).expect("a block").map(|blob| blob.data.clone()).collect();
        assert_eq!(found, ["d", "b", "c"]);
        let indexes: Vec<_> = chain.block(height).expect("a block").blobs().iter().map(|blob| blob.index).collect();
        assert_eq!(indexes, [1, 2, 3, 4]);
        assert!(chain.blobs(height.next(), &asked).is_none());
    }

    #[test]
    fn headers_commit_to_squares_in_which_the_blobs_are() {
        let mut chain = CelestiaChain::new(&CelestiaConfig::default());
        for count in 0..40_u8 {
            for number in 1..=count % 5 {
                chain.submit(namespace(number), vec![count; usize::from(count) * 40].into()).expect("postable");
            }
            chain.make_block(Timestamp(5));
        }
        let limits = Limits::default();
        for height in 1..=40 {
            let block = chain.block(CelestiaHeight(height)).expect("a block");
            let square = chain.square(CelestiaHeight(height)).expect("a block");
            let data_hash = block.signed_header.header.data_hash.expect("it has one");
            let data_hash = data_hash.as_bytes().try_into().expect("a digest");
            let header = square.header().clone().verify(data_hash, &limits).expect("the block's square");
            for number in 1..=5 {
                let found = prove_namespace(&square.namespace(namespace(number)), &header, &limits).expect("all of it");
                let asked = [namespace(number)];
                let expected = chain.blobs(CelestiaHeight(height), &asked).expect("a block");
                assert!(found.blobs.iter().eq(expected.map(|blob| &blob.data)));
            }
        }
    }

    #[test]
    fn what_does_not_fit_into_a_block_comes_in_the_next_or_is_refused() {
        let mut chain = CelestiaChain::new(&CelestiaConfig::default());
        for _ in 0..3 {
            chain.submit(namespace(1), vec![1; 3 << 20].into()).expect("postable");
        }
        let heights = [chain.make_block(Timestamp(5)), chain.make_block(Timestamp(6)), chain.make_block(Timestamp(7))];
        assert_eq!(heights.map(|height| chain.block(height).expect("a block").blobs().len()), [2, 1, 0]);
        assert!(chain.submit(namespace(1), vec![1; 9 << 20].into()).is_err());
        assert!(chain.submit(namespace(0), vec![1].into()).is_err(), "a namespace of the protocol's own");
    }
}
