//! Validators with real keys, and CometBFT's rotation of the proposer among them.

use std::collections::BTreeMap;

use ed25519_zebra::{SigningKey, VerificationKeyBytes};
use sha2::{Digest as _, Sha256};
use tendermint::{PublicKey, account, hash::Hash, validator, vote};

/// Derives validator keys from a seed, so that a validator is named by a number.
#[derive(Clone, Debug)]
pub struct Keyring {
    seed: u64,
    keys: BTreeMap<u32, Key>,
}

#[derive(Clone, Debug)]
struct Key {
    signing: SigningKey,
    public: PublicKey,
    address: account::Id,
}

impl Keyring {
    pub fn new(seed: u64) -> Self {
        Self { seed, keys: BTreeMap::new() }
    }

    fn key(&mut self, number: u32) -> &Key {
        let seed = self.seed;
        self.keys.entry(number).or_insert_with(|| {
            let secret = Sha256::new()
                .chain_update(b"validator")
                .chain_update(seed.to_be_bytes())
                .chain_update(number.to_be_bytes())
                .finalize();
            let signing = SigningKey::from(<[u8; 32]>::from(secret));
            let public = VerificationKeyBytes::from(signing.verification_key());
            let public = PublicKey::from_raw_ed25519(public.as_ref()).expect("a key of 32 bytes");
            Key { signing, public, address: account::Id::from(public) }
        })
    }

    /// Signature of validator `number` over `message`.
    pub fn sign(&mut self, number: u32, message: &[u8]) -> [u8; 64] {
        self.key(number).signing.sign(message).to_bytes()
    }

    fn member(&mut self, number: u32, power: u64, priority: i64) -> Member {
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
    pub fn genesis(keyring: &mut Keyring, powers: &[(u32, u64)]) -> Self {
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
    pub fn next(&self, keyring: &mut Keyring, updates: &[(u32, u64)]) -> Self {
        let mut next = self.clone();
        if !updates.is_empty() {
            next.update(keyring, updates);
        }
        next.rotate();
        next
    }

    fn update(&mut self, keyring: &mut Keyring, updates: &[(u32, u64)]) {
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
