//! Situations that runs must reach: a simulator that never gets there proves nothing about them.

use std::fmt;

macro_rules! probes {
    ($($name:ident = $text:literal,)+) => {
        /// A situation worth reaching.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Probe { $(#[doc = $text] $name,)+ }

        impl Probe {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// What happened.
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

probes! {
    FirmAndSoftTogether = "one update moved soft and firm to the same new block",
    FirmOvertookSoft = "in soft-and-firm mode a firm block was executed before its soft one",
    FirmOvertookSoftAtSpread = "a firm block overtook a soft one while a spread limit was configured",
    FirmConfirmedSoft = "firm confirmed a block that soft had executed",
    SoftFarAhead = "soft was ten blocks or more ahead of firm",
    SpreadLimitHeldSoft = "a cell waited for the spread limit",
    EmptyBlockExecuted = "a block without transactions was executed",
    FullBlockExecuted = "a block with five elements or more was executed",
    PriceFeedExecuted = "a block that begins with a price feed element was executed",
    ExecutedBlockLookedUp = "a new session with soft ahead of firm looked the executed block up",
    SessionFinished = "a session reached its last block",
    SessionOfOneBlock = "a session of one block was finished",
    SessionLostInExecution = "a session was lost while a block was being executed",
    SessionLostInCommit = "a session was lost while a commitment was being updated",
    SessionsOfTwoCellsLost = "the sessions of two cells were lost within a second",
    ExecutedAndNotCommitted = "a block was executed and the session was gone before it was committed",
    ExecutedAgainInNewSession = "a block that an earlier session had executed was executed again in a new one",
    CrashInExecution = "the conductor was killed while a block was being executed",
    CrashInCommit = "the conductor was killed while a commitment was being updated",
    CrashInOpening = "the conductor was killed while a session was being opened",
    CrashTwiceInASecond = "the conductor was killed twice within a second",
    RestartedWithSoftAhead = "a new life began with soft ahead of firm",
    LateAnswerRefused = "an answer came after its call was given up, and was refused",
    ForeignAnswerRefused = "an answer of another life or to another call was refused",
    RepeatedAnswerRefused = "an answer came twice, and the second was refused",
    CallOverdue = "a call was given up at its deadline",
    DeepBackOff = "a call failed five times in a row",
    SoftBlockRefused = "a soft block was refused",
    CommitRefused = "a signed header was refused",
    ValidatorsRefused = "a validator set was refused",
    MetadataRefused = "metadata was refused",
    RollupDataRefused = "rollup data was refused",
    BlobRefused = "a blob was refused",
    TrustedOnFirstUse = "trust began with the first header that came",
    TrustExpired = "the newest trusted header was too old to go on from",
    WitnessRefused = "a witness showed a header that nobody signed",
    GossipAccepted = "a message from a peer was accepted",
    GossipDataFirst = "a rollup's data came before their block and were accepted then",
    GossipForgeryRefused = "a forged message was refused",
    GossipBusy = "a message was passed over for want of room",
    GossipUndecided = "a message was given up because its block did not come",
    GossipStale = "a message about a height that is passed was ignored",
    GossipKnown = "a message was ignored because the same was accepted before",
    GossipPublished = "a message was published",
    GossipWon = "a soft block came from messages of peers first",
    PeerWon = "a soft block came from the answer of a peer first",
    ServerWonAsWell = "in one run peers were first with some blocks and a server with others",
    PeersFailedServerAsked = "peers did not have what they had shown, and the server was asked",
    PeersFellSilent = "peers that were heard before fell silent",
    PeerPenalized = "a peer was blamed for its answer",
    PeersOnlyArrived = "a run without a server arrived",
    GossipRefused = "a message from a peer was refused",
    ConflictProven = "validators were proven to have signed two headers of one height",
    ParkedByEvidence = "a new life stayed parked because of evidence that an earlier one kept",
    ContinuedFromRecord = "a new life went on from the header that an earlier one had trusted",
    TooFarTwice = "two headers in a row were too far from the trusted one, and the way was halved again",
    SetChangedByThird = "between two trusted headers a third of the voting power had changed",
    LinkedFurtherDown = "a way led down by links from headers that had been linked themselves",
    PrimaryReplaced = "another CometBFT node was asked than before",
    SoftWaitedForHeader = "a soft block was there before the header that it needs",
    HeadRefreshed = "a header followed from one that had used up a third of its trusting period",
    ActedAfterDisk = "a block was executed that had waited for records to become durable",
    DataItemsFetched = "the data items of a block were fetched",
    DataItemsRefused = "data items were refused",
    HeadersLinked = "headers were asked for by hash links",
    ManyHeadersLinked = "ten headers or more were asked for at once",
    HeightReadAgain = "a Celestia height was read again by the same life",
    GapReported = "a gap was reported",
    GapClosed = "after a gap was reported, firm went on",
    SearchHeightHeldBack = "the search height stayed below the Celestia height of the firm block",
    SearchHeightMovedFar = "one block moved the search height by five or more",
    ManyBlocksInOneHeight = "one Celestia height held metadata of eight blocks or more",
    EmptyCelestiaHeight = "a Celestia height held nothing",
    NamespaceOutsideOfEveryRow = "a Celestia height that had to be proven covered none of the namespaces",
    AbsenceProven = "a row held nothing of a namespace that its root covers",
    ManyRowsProven = "a namespace lay in several rows",
    CelestiaTrustedOnFirstUse = "trust in Celestia began with the first header that came",
    CelestiaRootAbove = "trust in Celestia was to begin with a header above all that was read",
    CelestiaHeadersLinked = "Celestia headers were asked for by hash links",
    CelestiaHeaderOnTheWay = "a Celestia header was asked for that lies on the way to others",
    CelestiaBlocksLinked = "one commit proved three Celestia blocks or more",
    CelestiaBlockRefused = "what was said of a Celestia height was refused for want of a proof",
    FalseAnswerProven = "an answer about a Celestia height was proven to be false",
    FalseBlockProven = "a soft block that proves its server wrong was kept as evidence",
    SoftOnlyArrived = "a run in soft-only mode arrived",
    FirmOnlyArrived = "a run in firm-only mode arrived",
    ThreeCellsArrived = "three cells arrived",
    CellsFarApart = "two cells of one process were twenty blocks apart",
    Parked = "a cell was parked",
    ParkedByConflict = "a cell was parked because soft and firm differ",
    StoppedGracefully = "a requested stop ended the conductor",
    StopWaitedForCall = "a requested stop waited for a call that has an effect",
    OverdueAfterPause = "after standing still the conductor found calls overdue",
    ClockHeld = "the clock had jumped back and was held",
    SequencerHeadWentBack = "the sequencer's head that was shown went back",
    CelestiaHeadWentBack = "Celestia's head that was shown went back",
    NodeForgotSoft = "a rollup node lost soft blocks",
    ManyCallsInFlight = "twenty calls or more were in flight",
    NothingButDeadlines = "nothing was in flight and the next deadline was a second or more away",
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}
