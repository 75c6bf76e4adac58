//! Validators with real keys, and CometBFT's rotation of the proposer among them.

use std::sync::{Arc, Mutex, PoisonError};

use ed25519_zebra::{SigningKey, VerificationKeyBytes};
use sha2::{Digest as _, Sha256};
use tendermint::{PublicKey, account, hash::Hash, validator, vote};

use crate::memo::Generations;

/// Derives validator keys from a seed, so that a validator is named by a number.
#[derive(Clone, Copy, Debug)]
pub struct Keyring {
    seed: u64,
}

#[derive(Clone, Debug)]
struct Key {
    signing: SigningKey,
    public: PublicKey,
    address: account::Id,
}

/// Keys that are kept, by seed and number: to derive one takes as long as to sign with it.
const KEYS_KEPT: usize = 1_024;

impl Keyring {
    pub const fn new(seed: u64) -> Self {
        Self { seed }
    }

    fn key(self, number: u32) -> Arc<Key> {
        static KEPT: Mutex<Generations<(u64, u32), Arc<Key>>> = Mutex::new(Generations::new(KEYS_KEPT));
        let kept = || KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        let name = (self.seed, number);
        if let Some(known) = kept().get(&name) {
            return known;
        }
        let secret = Sha256::new()
            .chain_update(b"validator")
            .chain_update(self.seed.to_be_bytes())
            .chain_update(number.to_be_bytes())
            .finalize();
        let signing = SigningKey::from(<[u8; 32]>::from(secret));
        let public = VerificationKeyBytes::from(signing.verification_key());
        let public = PublicKey::from_raw_ed25519(public.as_ref()).expect("a key of 32 bytes");
        let key = Arc::new(Key { signing, public, address: account::Id::from(public) });
        kept().insert(name, Arc::clone(&key));
        key
    }

    /// Signature of validator `number` over `message`.
    pub fn sign(self, number: u32, message: &[u8]) -> [u8; 64] {
        self.key(number).signing.sign(message).to_bytes()
    }

    fn member(self, number: u32, power: u64, priority: i64) -> Member {
        let key = self.key(number);
        Member { number, power, priority, address: key.address, public: key.public }
    }
}

/// One validator of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub number: u32,
    pub power: u64,
    pub priority: i64,
    pub address: account::Id,
    pub public: PublicKey,
}

/// The validators of one height, by descending power, then by address, as CometBFT keeps and serves them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatorSet {
    members: Vec<Member>,
    proposer: account::Id,
}

impl ValidatorSet {
    /// The set that a chain starts with. Validators without power are left out.
    ///
    /// # Panics
    /// If no validator has power: such a chain cannot exist.
    pub fn genesis(keyring: Keyring, powers: &[(u32, u64)]) -> Self {
        let members = powers.iter().filter(|(_, power)| *power > 0);
        let members: Vec<_> = members.map(|(number, power)| keyring.member(*number, *power, 0)).collect();
        assert!(!members.is_empty(), "a chain needs a validator with power");
        let mut set = Self { proposer: members[0].address, members };
        set.sort();
        set.rotate();
        set
    }

    /// The set one height further, after `updates` (number and new power; 0 removes). An update that would leave no
    /// validator is ignored.
    pub fn next(&self, keyring: Keyring, updates: &[(u32, u64)]) -> Self {
        let mut next = self.clone();
        if !updates.is_empty() {
            next.update(keyring, updates);
        }
        next.rotate();
        next
    }

    fn update(&mut self, keyring: Keyring, updates: &[(u32, u64)]) {
        let before = self.members.clone();
        for (number, power) in updates {
            match self.members.iter_mut().find(|member| member.number == *number) {
                Some(member) => member.power = *power,
                None => self.members.push(keyring.member(*number, *power, i64::MIN)),
            }
        }
        self.members.retain(|member| member.power > 0);
        if self.members.is_empty() {
            self.members = before;
            return;
        }
        // A newcomer starts behind everybody, so that leaving and coming back gains nothing.
        let total = self.total();
        for member in self.members.iter_mut().filter(|member| member.priority == i64::MIN) {
            member.priority = -(total + (total >> 3));
        }
        self.sort();
    }

    /// One step of CometBFT's weighted round-robin.
    fn rotate(&mut self) {
        let total = self.total();
        let spread = |members: &[Member]| {
            let priorities = || members.iter().map(|member| member.priority);
            priorities().max().unwrap_or(0) - priorities().min().unwrap_or(0)
        };
        let spread = spread(&self.members);
        if spread > 2 * total {
            let ratio = (spread + 2 * total - 1) / (2 * total);
            self.members.iter_mut().for_each(|member| member.priority /= ratio);
        }
        let count = i64::try_from(self.members.len()).unwrap_or(i64::MAX);
        let average = self.members.iter().map(|member| member.priority).sum::<i64>().div_euclid(count);
        for member in &mut self.members {
            member.priority += i64::try_from(member.power).unwrap_or(i64::MAX) - average;
        }
        let next = self.members.iter_mut().max_by_key(|member| (member.priority, std::cmp::Reverse(member.address)));
        if let Some(proposer) = next {
            proposer.priority -= total;
            self.proposer = proposer.address;
        }
    }

    fn sort(&mut self) {
        self.members.sort_by_key(|member| (std::cmp::Reverse(member.power), member.address));
    }

    fn total(&self) -> i64 {
        i64::try_from(self.members.iter().map(|member| member.power).sum::<u64>()).unwrap_or(i64::MAX)
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Who proposes the block of this set's height.
    pub fn proposer(&self) -> account::Id {
        self.proposer
    }

    /// CometBFT's `validators_hash`.
    pub fn hash(&self) -> Hash {
        validator::Set::without_proposer(self.infos()).hash()
    }

    /// As the core and tendermint's own checks take them.
    pub fn infos(&self) -> Vec<validator::Info> {
        let info = |member: &Member| validator::Info {
            proposer_priority: member.priority.into(),
            ..validator::Info::new(member.public, vote::Power::try_from(member.power).unwrap_or_default())
        };
        self.members.iter().map(info).collect()
    }
}
