//! Deliberate bugs, for proving that the simulator's net holds. Test-only: without the feature `canaries` every site is
//! the constant `false` and nothing of this is left in the code.
//!
//! A canary is switched on for one thread with [`activate`]; the ordinary simulation must then find it. Each is modelled
//! on real bugs of such nodes; `downbeat-sim` keeps the table of them, with what each one breaks.

/// A deliberate bug. The comment says what the core does wrongly when it is active.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(not(feature = "canaries"), allow(unreachable_pub, dead_code))]
pub enum Canary {
    /// The total is divided by three before it is multiplied by two.
    QuorumDividedFirst,
    /// Each signature counts, also a second one of the same validator.
    RepeatedSignerCounted,
    /// A signature that does not hold counts.
    SignatureNotChecked,
    /// The validator set is not compared with the one that the header names.
    ValidatorsNotBound,
    /// The set of the height before is asked for.
    ValidatorsOfHeightBefore,
    /// Metadata whose block hash is the committed one is believed in everything else.
    MetadataNotBound,
    /// Metadata is believed if there is a header for its height.
    MetadataMismatchIgnored,
    /// Headers are not compared with what their successor names.
    LinksNotFollowed,
    /// Firm confirms whatever was executed softly at its number.
    FirmConfirmsByNumber,
    /// Of the block that the rollup looked up only the number is compared.
    LookUpNotCompared,
    /// What the rollup says to a commitment is adopted as it is.
    EchoNotCompared,
    /// The parent of an executed block is not looked at.
    ReplyParentNotChecked,
    /// The number of an executed block is not looked at.
    ReplyNumberNotChecked,
    /// When a header cannot be fetched, the candidates for its height are forgotten.
    HeaderErrorFinal,
    /// The next search begins at the Celestia height of the last firm block.
    SearchFromLastFirm,
    /// The look-ahead window stays where the session began.
    WindowNeverMoves,
    /// Of several candidates for a height only the first is kept.
    FirstCandidateWins,
    /// Of several rollup records for a block only the first is kept.
    FirstRecordWins,
    /// One refused candidate takes the others of its height with it.
    RefusalClearsHeight,
    /// One malformed entry discards its whole list.
    OneBadEntryDropsList,
    /// More than one blob of the rollup at a Celestia height discards all of them.
    ManyBlobsDropHeight,
    /// A blob that cannot be unpacked parks the cell.
    BadBlobParks,
    /// What was given up at its deadline is still waited for, and its late answer taken in the next session.
    OldSessionAnswered,
    /// An answer that nobody waits for is taken for the execution in flight.
    AnswersByKind,
    /// A soft block is put on the firm one.
    SoftOnFirmParent,
    /// The session goes on for one block after its last.
    SessionEndOneLate,
    /// Soft reaching the end finishes the session although firm decides.
    SoftEndsSession,
    /// A firm block that is not remembered is executed again.
    FirmExecutesAgain,
    /// Records of other rollups in the same namespace are taken for the cell's own.
    ForeignRollupTaken,
    /// The price feed element is left out of firm blocks.
    PriceFeedLeftOut,
    /// A block whose rollup data has not been found is taken for empty.
    MissingDataIsEmpty,
    /// A soft block that lacks the data of a listed rollup is taken for empty.
    SoftDataMissingIsEmpty,
    /// A failed call is made again at once.
    RetryAtOnce,
    /// No part of a back-off is random.
    NoJitter,
    /// Jitter comes from a counter of the process and not from the seed.
    JitterFromProcess,
    /// A call to a rollup that is never answered is waited for for ever.
    DeadlineForgotten,
    /// A stop does not wait for calls that have an effect.
    StopIgnoresInFlight,
    /// A passing fault of the rollup node parks the cell.
    TransientParks,
    /// An execution whose outcome is unknown is repeated in the same session.
    UnknownOutcomeRepeated,
    /// If the next soft block is not there, the one after it is executed in its place.
    SoftHeightSkipped,
    /// Confirming a firm block takes soft back to it.
    FirmPullsSoftBack,
    /// What was executed softly is remembered for a firm confirmation that never comes in this mode.
    PendingNeverRemoved,
    /// Soft runs ahead of firm without limit.
    SpreadIgnored,
    /// The permitted lead of soft is one block too small.
    SpreadOneTooSmall,
    /// Celestia's chain id is not waited for.
    CelestiaIdentitySkipped,
    /// The chain id of a soft block is not compared.
    SoftChainIdIgnored,
    /// Heights are counted from rollup block 1 and not from the session's start.
    MapFromBlockOne,
    /// The sequencer's chain id is asked for once.
    IdentityAskedOnce,
    /// The sequencer's head is asked for once.
    HeadAskedOnce,
    /// What was found on Celestia is carried over into the next session.
    JoinerSurvivesSession,
    /// No end is taken for the end 0.
    NoEndIsEndZero,
    /// When a header cannot be fetched, the first candidate of its height is believed.
    FailedCheckPasses,
    /// Row roots are believed although the Celestia header commits to others.
    DataHashNotChecked,
    /// Rows of a namespace that the node left out are not missed.
    MissingRowPassed,
    /// Shares are believed although their proof leads to another row root.
    RowRootNotChecked,
    /// Shares of a namespace that lie beside the proven ones are not missed.
    IncompleteRangePassed,
    /// A header further up is believed although nobody of the trusted set signed it.
    OverlapIgnored,
    /// The set that the trusted header names for the next height is not compared.
    NextValidatorsIgnored,
    /// A trusted header is trusted for ever.
    TrustingPeriodIgnored,
    /// A soft block is executed without being compared with its header.
    SoftNotBound,
    /// A header from any future is taken.
    FutureHeaderTaken,
    /// A third of the set that the header itself names may vouch for it.
    WrongSetForSkipping,
    /// The header at the root's height is not compared with the root of trust.
    RootHashNotCompared,
    /// A header and commit of another height than was asked for are taken.
    CommitOfOtherHeight,
    /// A header is believed while its commit is still being checked, and afterwards.
    RememberedBeforeVerified,
    /// A height of which one header was refused is never asked for again.
    RefusedHeightBarred,
    /// A trusted header is handed out to be kept when the process stops, and not before what it permits is done.
    ActedBeforePersisted,
    /// A new life begins as if an earlier one had trusted nothing.
    RecordIgnored,
    /// A witness's header that is just as well signed is passed over.
    WitnessConflictIgnored,
    /// A new life does not look at evidence.
    ConflictForgotten,
    /// A genuine block of another height than was asked for is shown to others as a lie.
    OtherBlockShown,
    /// The node that was asked first is asked for ever.
    PrimaryNeverReplaced,
    /// A Celestia header is believed whoever signed it.
    CelestiaCommitNotChecked,
    /// A Celestia header is believed if it has the height of a trusted one.
    CelestiaHeaderByHeight,
    /// What a Celestia block holds is decoded while its header is not trusted yet.
    CelestiaReadTooEarly,
    /// The header in a peer's message is believed whoever signed it.
    GossipCommitNotChecked,
    /// A rollup's data from a peer are believed if they name the right block.
    GossipDataNotBound,
    /// A message counts as known as soon as it comes, so that a genuine one after a forged one is passed over.
    GossipSeenBeforeVerified,
    /// A message is accepted, and forwarded, before it is verified.
    GossipJudgedBeforeVerified,
    /// Messages about heights that are passed are taken like others.
    GossipStaleTaken,
    /// Once a peer was heard, no server is asked for its head any more.
    GossipSilenceTrusted,
    /// When all cells are parked, messages stay without a verdict.
    GossipUndecidedAtExit,
}

#[cfg(feature = "canaries")]
mod active {
    use std::cell::Cell;

    use super::Canary;

    // In no production build: this module exists with the feature only. A hunt plants one bug per thread, and a state that
    // the conductor carried would change the digests that are compared.
    std::thread_local! {
        static ACTIVE: Cell<Option<Canary>> = const { Cell::new(None) };
        static COUNTER: Cell<u64> = const { Cell::new(0) };
    }

    /// Switches one bug on, and any other off, for this thread.
    pub fn activate(canary: Option<Canary>) {
        ACTIVE.set(canary);
    }

    /// The bug that is switched on in this thread.
    pub fn planted() -> Option<Canary> {
        ACTIVE.get()
    }

    /// Whether this bug is to happen.
    pub(crate) fn canary(canary: Canary) -> bool {
        ACTIVE.get() == Some(canary)
    }

    /// A number that depends on what the process did before.
    pub(crate) fn process_counter() -> u64 {
        COUNTER.set(COUNTER.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        COUNTER.get()
    }
}

#[cfg(feature = "canaries")]
pub use active::{activate, planted};
#[cfg(feature = "canaries")]
pub(crate) use active::{canary, process_counter};

/// Whether this bug is to happen: never.
#[cfg(not(feature = "canaries"))]
pub(crate) const fn canary(_: Canary) -> bool {
    false
}

#[cfg(not(feature = "canaries"))]
pub(crate) const fn process_counter() -> u64 {
    0
}
