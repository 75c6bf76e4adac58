//! Which faults exist, and the decision whether one happens here and now.
//!
//! Every decision is a pure function of the seed, the kind, the site and how often the site was passed. So a run
//! without one kind, or with some of its faults left out, decides everything else as before: runs can be compared and
//! failures minimised.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use serde::{Deserialize, Serialize};

macro_rules! kinds {
    ($($group:ident { $($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+ })+) => {
        /// A kind of fault. The documentation of each says what happens once when it fires.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Kind {
            $($($(#[doc = $doc])+ #[serde(rename = $text)] $name,)+)+
        }

        impl Kind {
            /// All of them.
            pub const ALL: &'static [Self] = &[$($(Self::$name,)+)+];

            /// As in scenario files.
            pub fn name(self) -> &'static str {
                match self { $($(Self::$name => $text,)+)+ }
            }

            /// What goes wrong.
            pub fn group(self) -> Group {
                match self { $($(Self::$name => Group::$group,)+)+ }
            }
        }
    };
}

/// Where a fault lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    Network,
    Sequencer,
    Celestia,
    Strangers,
    Relayer,
    Node,
    Process,
    Clock,
    Peers,
}

kinds! {
    Network {
        /// The request and its reply take up to `delay_ms` each.
        Slow = "slow",
        /// The call has no effect and fails.
        Refused = "refused",
        /// The request disappears: neither effect nor answer.
        Lost = "lost",
        /// The call takes effect and the answer is a failure.
        ReplyFailed = "reply_failed",
        /// The call takes effect and no answer comes.
        ReplyLost = "reply_lost",
        /// The answer comes twice.
        Repeated = "repeated",
        /// The answer comes after the deadline of its call.
        Late = "late",
        /// The answer goes to another call to the sequencer that is in flight.
        Misdirected = "misdirected",
        /// For some seconds nothing reaches one peer.
        Partition = "partition",
        /// For some seconds one peer's answers are held, then all come at once.
        Held = "held",
        /// For some seconds one of several CometBFT nodes answers nothing.
        FallenNode = "fallen_node",
    }
    Sequencer {
        /// Its head is some heights behind what it was.
        StaleHead = "stale_head",
        /// It claims a head that does not exist yet.
        FutureHead = "future_head",
        /// It says that a height does not exist yet.
        WithheldHeight = "withheld_height",
        /// It says that a height is no longer kept.
        PrunedHeight = "pruned_height",
        /// It answers with the block of another height.
        OtherHeight = "other_height",
        /// It leaves a rollup out of a soft block, of the list of ids too.
        OmittedRollup = "omitted_rollup",
        /// It leaves a rollup's data out and names the rollup.
        OmittedData = "omitted_data",
        /// It serves another block in place of the genuine one, consistent in itself.
        Equivocation = "equivocation",
        /// It serves bytes that are no block.
        GarbledBlock = "garbled_block",
        /// A commit lacks the signatures that make the quorum.
        WeakCommit = "weak_commit",
        /// The same, and votes that are there are repeated in their place.
        RepeatedSigner = "repeated_signer",
        /// So many signatures in a commit are not valid that the others are no quorum.
        ForgedSignature = "forged_signature",
        /// The header under a commit is altered.
        ForgedHeader = "forged_header",
        /// An altered header comes with a commit by strangers, and they with the next validator set.
        ForeignCommit = "foreign_commit",
        /// It serves a soft block of another chain.
        OtherChain = "other_chain",
        /// All run long, with trust in consensus: one of several CometBFT nodes shows a chain that strangers signed.
        LyingNode = "lying_node",
        /// All run long, with trust in consensus: one of several CometBFT nodes never answers.
        SilentNode = "silent_node",
        /// All run long, with trust in consensus: from some height on one of several CometBFT nodes shows another chain, which
        /// the validators signed as well. The cells may park.
        DoubleSigned = "double_signed",
        /// As long as faults happen, with trust in consensus: one of several CometBFT nodes is some heights behind.
        LaggingNode = "lagging_node",
        /// All run long, with trust in consensus: one CometBFT node does not serve several headers at once.
        NoBlockchain = "no_blockchain",
        /// It answers with the header and the commit of another height.
        OtherHeader = "other_header",
        /// The header under a commit is of a time far ahead.
        FutureHeader = "future_header",
        /// Of several headers one in the middle is missing.
        GappedLinks = "gapped_links",
        /// All run long: validators change their powers.
        ValidatorChanges = "validator_changes",
        /// A validator set has other powers, or a validator twice.
        ForgedValidators = "forged_validators",
        /// One of several headers is altered.
        BrokenLink = "broken_link",
        /// Some of several headers are missing.
        MissingLinks = "missing_links",
        /// A block's data items are altered.
        ForgedTransactions = "forged_transactions",
    }
    Celestia {
        /// Its head is some heights behind what it was.
        StaleCelestiaHead = "stale_celestia_head",
        /// It claims a head that does not exist yet.
        FutureCelestiaHead = "future_celestia_head",
        /// Its head is that of another chain.
        OtherCelestia = "other_celestia",
        /// It says that a height does not exist yet.
        WithheldBlobs = "withheld_blobs",
        /// It says that a height is no longer kept.
        PrunedBlobs = "pruned_blobs",
        /// The blobs of a height come in another order.
        ShuffledBlobs = "shuffled_blobs",
        /// Every blob of a height comes twice.
        DoubledBlobs = "doubled_blobs",
        /// Elements that are no blobs come with a height.
        UnreadableBlobs = "unreadable_blobs",
        /// With proofs: a share is altered.
        ForgedShares = "forged_shares",
        /// With proofs: it makes a square of its own, without one blob.
        ForgedRoots = "forged_roots",
        /// With proofs: it leaves rows of a namespace out.
        WithheldRows = "withheld_rows",
        /// With proofs: of the shares in a row some are left out, under a genuine proof of the others.
        NarrowedRows = "narrowed_rows",
        /// With proofs: it claims that a namespace has nothing in a row where it has something.
        FalseAbsence = "false_absence",
        /// With proofs: a proof is of another place, or incomplete.
        WrongProof = "wrong_proof",
        /// With proofs: it answers with the block of another height.
        OtherCelestiaBlock = "other_celestia_block",
        /// With proofs: a header and a square of its own, without one blob, and strangers signed the header.
        CelestiaStrangers = "celestia_strangers",
        /// With proofs: the same, and too few of the validators signed it.
        CelestiaNoQuorum = "celestia_no_quorum",
        /// With proofs: a header and a square of its own, with what is not on Celestia yet, and strangers signed the
        /// header: a branch that Celestia does not go on from.
        CelestiaBranch = "celestia_branch",
    }
    Strangers {
        /// A blob of noise.
        PostedGarbage = "posted_garbage",
        /// A small blob that unpacks to a large one.
        PostedBomb = "posted_bomb",
        /// Metadata that is consistent in itself and not the validators'.
        PostedForgery = "posted_forgery",
        /// Rollup data with another content under a genuine block's hash.
        PostedForgedData = "posted_forged_data",
        /// Genuine data of another rollup.
        PostedForeign = "posted_foreign",
        /// Genuine metadata once more.
        PostedCopy = "posted_copy",
        /// Metadata of a height far ahead.
        PostedAhead = "posted_ahead",
        /// Many forgeries for one height.
        PostedFlood = "posted_flood",
    }
    Relayer {
        /// All run long: blobs come late, each on its own, and so in another order.
        LateRelaying = "late_relaying",
        /// All run long: entries and blobs are shuffled.
        ShuffledRelaying = "shuffled_relaying",
        /// All run long: some blobs are posted twice.
        RepeatedRelaying = "repeated_relaying",
        /// All run long: some lists have an entry in them that cannot be decoded.
        MalformedEntry = "malformed_entry",
        /// For some seconds nothing is taken up.
        RelayerPause = "relayer_pause",
        /// The relayer goes back some blocks and posts them again.
        RelayerAmnesia = "relayer_amnesia",
        /// For some seconds Celestia makes no blocks.
        CelestiaStall = "celestia_stall",
        /// For some seconds the sequencer makes no blocks.
        SequencerStall = "sequencer_stall",
    }
    Node {
        /// The rollup node is killed and started; what was committed stays.
        NodeRestart = "node_restart",
        /// The rollup node is killed and started, and its soft blocks above firm are gone.
        NodeAmnesia = "node_amnesia",
        /// The session ends.
        Revoked = "revoked",
        /// One call is refused with PERMISSION_DENIED.
        Denied = "denied",
        /// One call is refused with RESOURCE_EXHAUSTED.
        Busy = "busy",
        /// One call is refused with INTERNAL: the cell may park.
        Broken = "broken",
        /// A reply names another number: the cell may park.
        WrongNumber = "wrong_number",
        /// A reply names another parent: the cell may park.
        WrongParent = "wrong_parent",
        /// A block that is looked up has another parent, or was made from another block: the cell may park.
        WrongLookUp = "wrong_look_up",
        /// The echo of an update differs from what was sent: the cell may park.
        WrongEcho = "wrong_echo",
        /// A reply without content: the cell may park.
        EmptyReply = "empty_reply",
    }
    Process {
        /// The conductor is killed and started.
        Crash = "crash",
        /// The conductor is killed before a call to a rollup is sent, and started.
        CrashBefore = "crash_before",
        /// The conductor is killed after a call to a rollup took effect and before its reply, and started.
        CrashBetween = "crash_between",
        /// The conductor is killed right after it took a reply of a rollup in, and started.
        CrashAfter = "crash_after",
        /// The conductor stands still for some seconds; then everything comes at once.
        Pause = "pause",
        /// The conductor is asked to stop, and started again once it has.
        Stop = "stop",
        /// Records take long to become durable.
        SlowDisk = "slow_disk",
        /// Records cannot be written: the conductor ends, and is started again.
        DiskFailed = "disk_failed",
    }
    Clock {
        /// All run long, with trust in consensus: a header is trusted for some seconds only. The cells may park.
        ShortTrust = "short_trust",
        /// The clock jumps ahead by up to a minute.
        ClockAhead = "clock_ahead",
        /// The clock jumps back by up to ten seconds.
        ClockBack = "clock_back",
    }
    Peers {
        /// A message does not arrive.
        LostGossip = "lost_gossip",
        /// A message is up to four seconds late.
        LateGossip = "late_gossip",
        /// A message comes twice, as if the adapter had forgotten it.
        RepeatedGossip = "repeated_gossip",
        /// A peer sends what looks like a message about the new block: other data under its hash, a commit without quorum, a
        /// header that strangers signed, another chain's, or what is damaged.
        ForgedGossip = "forged_gossip",
        /// A peer sends dozens of messages that are noise.
        GossipFlood = "gossip_flood",
        /// A peer sends what was true once.
        StaleGossip = "stale_gossip",
        /// For some seconds nobody sends or answers anything.
        PeersSilent = "peers_silent",
        /// All run long: from some moment on nobody is there any more.
        PeersGone = "peers_gone",
        /// A peer that is asked says that it has no such block.
        PeerBehind = "peer_behind",
        /// A peer that is asked answers with a forgery.
        PeerLies = "peer_lies",
        /// A peer that is asked answers with noise, or with part of it only.
        PeerGarbage = "peer_garbage",
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Kind {
    /// Whether it can only happen where Celestia's node has to prove what it says.
    pub fn is_of_proofs(self) -> bool {
        matches!(
            self,
            Self::ForgedShares
                | Self::ForgedRoots
                | Self::WithheldRows
                | Self::NarrowedRows
                | Self::FalseAbsence
                | Self::WrongProof
                | Self::OtherCelestiaBlock
                | Self::CelestiaStrangers
                | Self::CelestiaNoQuorum
                | Self::CelestiaBranch
        )
    }

    /// Whether it can only happen with trust in consensus: what signed headers, CometBFT nodes and records do.
    pub fn is_of_light(self) -> bool {
        matches!(
            self,
            Self::FallenNode
                | Self::DoubleSigned
                | Self::LaggingNode
                | Self::NoBlockchain
                | Self::OtherHeader
                | Self::FutureHeader
                | Self::GappedLinks
                | Self::SlowDisk
                | Self::DiskFailed
        )
    }

    /// Whether it can only happen where there are other conductors.
    pub fn is_of_gossip(self) -> bool {
        self.group() == Group::Peers
    }

    /// Whether it may end a cell for good, by design.
    pub fn may_park(self) -> bool {
        matches!(
            self,
            Self::Broken
                | Self::WrongNumber
                | Self::WrongParent
                | Self::WrongLookUp
                | Self::WrongEcho
                | Self::EmptyReply
                | Self::Equivocation
                | Self::OmittedRollup
                | Self::ShortTrust
                | Self::DoubleSigned
        )
    }
}

/// A place that a run passes again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Site {
    Identity,
    Head,
    SoftBlock,
    Header,
    Headers,
    Validators,
    BlockData,
    CelestiaHead,
    Blobs,
    /// Calls to the rollup of a cell.
    Session(u32),
    Execute(u32),
    Commit(u32),
    LookUp(u32),
    /// The end of a second of virtual time; counted from the start.
    Second,
    /// The same, for one rollup node.
    Node(u32),
    /// A new Celestia block.
    CelestiaBlock,
    /// Calls for Celestia headers alone.
    CelestiaHeader,
    /// An event on its way into the core.
    Event,
    /// Questions to other conductors.
    Peers,
    /// What they send by themselves; passed once for each block and once for each message.
    Gossip,
    /// Records on their way to the disk.
    Disk,
    /// The whole run; passed once.
    Run,
}

impl Site {
    fn parts(self) -> (&'static str, Option<u32>) {
        match self {
            Self::Identity => ("identity", None),
            Self::Head => ("head", None),
            Self::SoftBlock => ("soft block", None),
            Self::Header => ("header", None),
            Self::Headers => ("headers", None),
            Self::Validators => ("validators", None),
            Self::BlockData => ("block data", None),
            Self::CelestiaHead => ("celestia head", None),
            Self::Blobs => ("blobs", None),
            Self::Session(cell) => ("session", Some(cell)),
            Self::Execute(cell) => ("execute", Some(cell)),
            Self::Commit(cell) => ("commit", Some(cell)),
            Self::LookUp(cell) => ("look up", Some(cell)),
            Self::Second => ("second", None),
            Self::Node(cell) => ("node", Some(cell)),
            Self::CelestiaBlock => ("celestia block", None),
            Self::CelestiaHeader => ("celestia header", None),
            Self::Event => ("event", None),
            Self::Peers => ("peers", None),
            Self::Gossip => ("gossip", None),
            Self::Disk => ("disk", None),
            Self::Run => ("run", None),
        }
    }

    /// Whether it is a call to a rollup, and to which.
    pub fn cell(self) -> Option<u32> {
        match self {
            Self::Session(cell) | Self::Execute(cell) | Self::Commit(cell) | Self::LookUp(cell) => Some(cell),
            _ => None,
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parts() {
            (name, None) => f.write_str(name),
            (name, Some(cell)) => write!(f, "{name} of rollup {cell}"),
        }
    }
}

impl FromStr for Site {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, cell) = match text.split_once(" of rollup ") {
            Some((name, cell)) => (name, cell.parse().map_err(|_| format!("{cell:?} is not a rollup's number"))?),
            None => (text, 0),
        };
        [
            Self::Identity,
            Self::Head,
            Self::SoftBlock,
            Self::Header,
            Self::Headers,
            Self::Validators,
            Self::BlockData,
            Self::CelestiaHead,
            Self::Blobs,
            Self::Session(cell),
            Self::Execute(cell),
            Self::Commit(cell),
            Self::LookUp(cell),
            Self::Second,
            Self::Node(cell),
            Self::CelestiaBlock,
            Self::CelestiaHeader,
            Self::Event,
            Self::Peers,
            Self::Gossip,
            Self::Disk,
            Self::Run,
        ]
        .into_iter()
        .find(|site| site.parts().0 == name)
        .ok_or_else(|| format!("there is no site {text:?}"))
    }
}

impl Serialize for Site {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Site {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// One passage of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spot {
    pub site: Site,
    pub nth: u64,
}

/// One fault: which, and where it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Firing {
    pub kind: Kind,
    pub at: Site,
    /// How often the site had been passed before.
    pub nth: u64,
}

impl fmt::Display for Firing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {} {}", self.kind, self.at, self.nth)
    }
}

/// Values drawn for one fault; a stream of its own.
#[derive(Clone, Copy, Debug)]
pub struct Draw(u64);

impl Draw {
    /// A stream that depends on nothing but what is given.
    pub fn new(seed: u64, kind: u64, spot: Spot) -> Self {
        let (site, cell) = spot.site.parts();
        // Names, not positions in the enumeration: a new site changes no run.
        let site = site
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        let mut draw = Self(seed);
        for part in [kind, site, u64::from(cell.unwrap_or(u32::MAX)), spot.nth] {
            draw.0 = draw.draw() ^ part.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
        draw
    }

    /// The next value (`SplitMix64`).
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    /// Mixes a value into the state.
    pub fn fold(&mut self, value: u64) {
        self.0 ^= value;
        self.0 = self.draw();
    }

    /// The state.
    pub fn value(&self) -> u64 {
        self.0
    }

    /// A number in `0..bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        let product = u128::from(self.draw()) * u128::from(bound);
        u64::try_from(product >> 64).unwrap_or(0)
    }

    /// A number in `low..=high`; `low` if the range is empty.
    pub fn within(&mut self, low: u64, high: u64) -> u64 {
        low.saturating_add(self.below(high.saturating_sub(low).saturating_add(1)))
    }

    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or(0)
    }

    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.draw().to_be_bytes()[0])
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.index(last + 1));
        }
    }
}

/// Decides and counts.
#[derive(Clone, Debug)]
pub struct Injector {
    seed: u64,
    weights: BTreeMap<Kind, u8>,
    only: Option<BTreeSet<Firing>>,
    passed: BTreeMap<Site, u64>,
    fired: Vec<Firing>,
}

impl Injector {
    /// `weights` are chances in percent per passage. With `only`, exactly those faults happen.
    pub fn new(seed: u64, weights: BTreeMap<Kind, u8>, only: Option<impl IntoIterator<Item = Firing>>) -> Self {
        let only = only.map(|only| only.into_iter().collect());
        Self { seed, weights, only, passed: BTreeMap::new(), fired: Vec::new() }
    }

    /// Passes a site once more.
    pub fn pass(&mut self, site: Site) -> Spot {
        let passed = self.passed.entry(site).or_default();
        let nth = *passed;
        *passed += 1;
        Spot { site, nth }
    }

    /// Whether a fault happens here; with it a stream for what it needs.
    pub fn fires(&mut self, kind: Kind, spot: Spot) -> Option<Draw> {
        let firing = Firing { kind, at: spot.site, nth: spot.nth };
        // Most sites are passed by kinds that are not in the run: nothing is drawn for those.
        let weight = match &self.only {
            Some(only) => only.contains(&firing).then_some(u64::MAX)?,
            None => u64::from(*self.weights.get(&kind)?),
        };
        let mut draw = Draw::new(self.seed, kind_number(kind), spot);
        let roll = draw.below(100);
        (roll < weight).then(|| {
            self.fired.push(firing);
            draw
        })
    }

    /// Whether a kind can fire at all: to leave out what only serves it.
    pub fn has(&self, kind: Kind) -> bool {
        match &self.only {
            Some(only) => only.iter().any(|firing| firing.kind == kind),
            None => self.weights.contains_key(&kind),
        }
    }

    /// Whether firings are named one by one, which may name any event.
    pub fn is_explicit(&self) -> bool {
        self.only.is_some()
    }

    /// How often each site was passed.
    pub fn sites(&self) -> impl Iterator<Item = (Site, u64)> + '_ {
        self.passed.iter().map(|(site, passed)| (*site, *passed))
    }

    /// What happened, in order.
    pub fn fired(&self) -> &[Firing] {
        &self.fired
    }
}

/// By name: a new kind changes no run.
fn kind_number(kind: Kind) -> u64 {
    kind.name().bytes().fold(0, |number, byte| number.wrapping_mul(31).wrapping_add(u64::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sites_and_kinds_survive_their_texts() {
        for site in [Site::SoftBlock, Site::Execute(2), Site::Event, Site::LookUp(0)] {
            assert_eq!(site.to_string().parse(), Ok(site));
        }
        let mut names: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Kind::ALL.len(), "no two kinds share a name");
        assert!("nowhere".parse::<Site>().is_err());
    }

    #[test]
    fn leaving_one_kind_out_changes_no_decision_about_the_others() {
        let weights = BTreeMap::from([(Kind::Lost, 30), (Kind::Repeated, 30)]);
        let decide = |weights: &BTreeMap<Kind, u8>| {
            let mut injector = Injector::new(7, weights.clone(), None::<Vec<Firing>>);
            for _ in 0..200 {
                let spot = injector.pass(Site::SoftBlock);
                let _ = injector.fires(Kind::Lost, spot);
                let _ = injector.fires(Kind::Repeated, spot);
            }
            let repeated = injector.fired().iter().filter(|firing| firing.kind == Kind::Repeated);
            repeated.copied().collect::<Vec<_>>()
        };
        let (both, one) = (decide(&weights), decide(&BTreeMap::from([(Kind::Repeated, 30)])));
        assert_eq!(both, one);
        assert!((30..90).contains(&one.len()), "about 30 of 100: {}", one.len());
    }

    #[test]
    fn explicit_faults_happen_and_no_others() {
        let firing = Firing { kind: Kind::Lost, at: Site::Head, nth: 2 };
        let mut injector = Injector::new(7, BTreeMap::from([(Kind::Refused, 100)]), Some([firing]));
        for _ in 0..5 {
            let spot = injector.pass(Site::Head);
            let _ = injector.fires(Kind::Refused, spot);
            let _ = injector.fires(Kind::Lost, spot);
        }
        assert_eq!(injector.fired(), [firing]);
    }
}
