//! Situations that a search is expected to reach: one that reaches none of them shows nothing.

macro_rules! probes {
    ($($name:ident: $text:literal,)*) => {
        /// A situation worth reaching.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Probe { $(#[doc = $text] $name,)* }

        /// All of them, in words.
        pub const PROBES: &[&str] = &[$($text,)*];
    };
}

probes! {
    FirmExecutes: "a firm block is executed before soft has it",
    FirmConfirms: "a firm block confirms a soft one that this process remembers",
    FirmLooksUp: "a firm block needs to be looked up in the rollup",
    FirmCatchesUp: "firm reaches soft",
    CrashAfterExecute: "the conductor crashes between executing a block and committing it",
    CrashWithCommit: "the conductor crashes with a commitment that took effect and was not answered",
    CrashWithRequest: "the conductor crashes with a call on its way to the rollup",
    CrashTwiceOpened: "a dead conductor's request opens a session and fences the living one off",
    LostInFlight: "the session is revoked with a call on its way to the rollup",
    FencedExecute: "an execution of an old session is refused",
    FencedCommit: "a commitment of an old session is refused",
    LateExecute: "an execution takes effect after the conductor gave it up",
    LateCommit: "a commitment takes effect after the conductor gave it up",
    StaleAnswer: "an answer comes that nobody waits for",
    RestartAfterExecute: "the rollup node restarts with a block that is executed and not committed",
    HostileDropped: "a stranger's record is refused by the committed header",
    HeaderFirst: "blobs are decoded with their header trusted already",
    BlobsFirst: "blobs are decoded before their header is trusted",
    WorkOverdue: "time passes while work is being done",
    SpreadLimit: "soft waits because it is at its permitted lead",
    SessionEnds: "a session ends at its last block",
    Linked: "a header is trusted by its link to a later one",
    Arrived: "everything is soft and firm",
}

/// A set of probes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Probes(u64);

impl Probes {
    pub(super) fn hit(&mut self, probe: Probe) {
        self.0 |= 1 << probe as u32;
    }

    /// Places in [`PROBES`] of those that are not in `other`.
    pub(super) fn beyond(self, other: Self) -> impl Iterator<Item = usize> {
        (0..PROBES.len()).filter(move |index| (self.0 & !other.0) & (1 << index) != 0)
    }
}
