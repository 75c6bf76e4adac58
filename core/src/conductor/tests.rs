//! Stories of a conductor among honest peers, some of whose answers a test takes into its own hands.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;

use super::*;
use crate::{
    celestia::Namespace,
    cell::Mode,
    command::{Call, Chain, Exit, Level, Report},
    event::{Answer, Blob, CelestiaHead},
    fault::FaultClass,
    ids::{CelestiaHeight, CommandId, RollupId, RollupNumber, SequencerHeight},
    job::Job,
    testing::{CHAIN, Made, ROLLUP, block, block_after, metadata_blob, rollup_blob},
    view::{Phase, Wait},
    wire::proto::astria::{execution::v2 as proto, primitive::v1 as primitive},
};

const CELESTIA: &str = "celestia-1";
const CELL: CellId = CellId(0);

/// Rollup block `n` is made of the sequencer block of height `n + 1`, which lies at Celestia height `10 + n`.
struct Desk {
    conductor: Conductor,
    seq: u64,
    now: Timestamp,
    calls: BTreeMap<CommandId, (Timestamp, Call)>,
    jobs: Vec<(CommandId, Job)>,
    reports: Vec<Report>,
    exit: Option<Exit>,
    chain: Vec<Made>,
    celestia: u64,
    node: Node,
}

/// A rollup node.
#[derive(Clone, Debug)]
struct Node {
    soft: u64,
    firm: u64,
    lowest: u64,
    sessions: u64,
    /// Last block of its sessions; 0 for none.
    end: u64,
    /// Tells its blocks of one branch from those of another.
    branch: &'static str,
    log: Vec<String>,
}

fn spec(mode: Mode) -> CellSpec {
    CellSpec { mode, expected_sequencer_chain_id: None, expected_celestia_chain_id: None }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

impl Desk {
    /// `blocks` rollup blocks exist, and all of them are on Celestia.
    fn new(mode: Mode, blocks: u64, limits: Limits) -> Self {
        let mut chain = vec![block(1, &[ROLLUP])];
        for _ in 0..blocks {
            chain.push(block_after(&chain[chain.len() - 1], &[ROLLUP]));
        }
        let mut desk = Self {
            conductor: Conductor::new(limits, [3; 32]),
            seq: 0,
            now: Timestamp(1_000_000_000),
            calls: BTreeMap::new(),
            jobs: Vec::new(),
            reports: Vec::new(),
            exit: None,
            chain,
            celestia: 10 + blocks,
            node: Node { soft: 0, firm: 0, lowest: 11, sessions: 0, end: 0, branch: "b", log: Vec::new() },
        };
        desk.tell(Event::CellInstalled { cell: CELL, spec: spec(mode) }).expect("a first cell");
        desk
    }

    fn tell(&mut self, event: Event) -> Result<(), Refusal> {
        let mut out = Outbox::new();
        let result = self.conductor.handle(&Stamped { seq: Seq(self.seq), at: self.now, event }, &mut out);
        self.seq += 1;
        assert_eq!(out.len(), out.iter().count());
        for command in out.drain() {
            match command {
                Command::Call { id, deadline, call } => drop(self.calls.insert(id, (deadline, call))),
                Command::Verify { id, job } => self.jobs.push((id, job)),
                Command::Cancel { id } => {
                    self.calls.remove(&id);
                    self.jobs.retain(|(job, _)| *job != id);
                }
                Command::Report(report) => self.reports.push(report),
                Command::Exit(exit) => self.exit = Some(exit),
            }
        }
        assert!(out.is_empty());
        result
    }

    fn made(&self, number: u64) -> &Made {
        &self.chain[usize::try_from(number).expect("few")]
    }

    fn executed(&self, number: u64) -> proto::ExecutedBlockMetadata {
        proto::ExecutedBlockMetadata {
            number,
            hash: format!("{}{number}", self.node.branch),
            parent_hash: format!("{}{}", self.node.branch, number.saturating_sub(1)),
            timestamp: Some(prost_types::Timestamp::default()),
            sequencer_block_hash: String::new(),
        }
    }

    fn commitment(&self) -> proto::CommitmentState {
        proto::CommitmentState {
            soft_executed_block_metadata: Some(self.executed(self.node.soft)),
            firm_executed_block_metadata: Some(self.executed(self.node.firm)),
            lowest_celestia_search_height: self.node.lowest,
        }
    }

    fn session(&mut self) -> proto::ExecutionSession {
        self.node.sessions += 1;
        proto::ExecutionSession {
            session_id: format!("session-{}", self.node.sessions),
            execution_session_parameters: Some(proto::ExecutionSessionParameters {
                rollup_id: Some(primitive::RollupId { inner: Bytes::copy_from_slice(&ROLLUP.0) }),
                rollup_start_block_number: 1,
                rollup_end_block_number: self.node.end,
                sequencer_chain_id: CHAIN.to_owned(),
                sequencer_start_block_height: 2,
                celestia_chain_id: CELESTIA.to_owned(),
                celestia_search_height_max_look_ahead: 12,
            }),
            commitment_state: Some(self.commitment()),
        }
    }

    /// What an honest peer says.
    fn honest(&mut self, call: &Call) -> Answer {
        let at = |height: SequencerHeight| usize::try_from(height.0 - 1).expect("few");
        match call {
            Call::IdentifySequencer => Answer::SequencerIdentified { chain_id: CHAIN.to_owned() },
            Call::FetchSequencerHead => {
                Answer::SequencerHeadFetched { height: SequencerHeight(self.chain.len() as u64) }
            }
            Call::FetchSoftBlock { height, .. } => {
                Answer::SoftBlockFetched { block: self.chain[at(*height)].filtered.encode_to_vec().into() }
            }
            Call::FetchSignedHeader { height } => {
                Answer::SignedHeaderFetched { signed_header: Box::new(self.chain[at(*height)].signed.clone()) }
            }
            Call::FetchHeaders { first, last } => {
                let headers = self.chain[at(*first)..=at(*last)].iter().map(|made| made.signed.header.clone());
                Answer::HeadersFetched { headers: headers.collect() }
            }
            Call::FetchValidators { height } => {
                Answer::ValidatorsFetched { validators: self.chain[at(*height)].validators.clone() }
            }
            Call::FetchBlockTransactions { height } => {
                Answer::BlockTransactionsFetched { transactions: self.chain[at(*height)].items.clone() }
            }
            Call::FetchCelestiaHead => {
                let (height, time) = (CelestiaHeight(self.celestia), Timestamp(self.celestia * 6_000_000_000));
                Answer::CelestiaHeadFetched { head: CelestiaHead { chain_id: CELESTIA.to_owned(), height, time } }
            }
            Call::FetchBlobs { height, namespaces } => {
                let made = height.0.checked_sub(10).filter(|number| *number > 0).map(|number| self.made(number));
                let blobs = made.map_or_else(Vec::new, |made| {
                    vec![metadata_blob([made.metadata.clone()]), rollup_blob(&ROLLUP, made.records.clone())]
                });
                let blobs = blobs.into_iter().filter(|blob| namespaces.contains(&blob.namespace));
                Answer::BlobsFetched { blobs: blobs.collect(), unreadable: 0 }
            }
            Call::OpenSession { .. } => Answer::SessionOpened { session: Box::new(self.session()) },
            Call::ExecuteBlock { request, .. } => {
                self.node.log.push(format!("execute on {}", request.parent_hash));
                let parent: u64 = request.parent_hash[1..].parse().expect("a hash of this node");
                let executed_block_metadata = Some(self.executed(parent + 1));
                Answer::BlockExecuted { response: Box::new(proto::ExecuteBlockResponse { executed_block_metadata }) }
            }
            Call::UpdateCommitment { request, .. } => {
                let state = request.commitment_state.clone().expect("a state");
                let number =
                    |block: &Option<proto::ExecutedBlockMetadata>| block.as_ref().map_or(0, |block| block.number);
                self.node.soft = number(&state.soft_executed_block_metadata);
                self.node.firm = number(&state.firm_executed_block_metadata);
                self.node.lowest = state.lowest_celestia_search_height;
                self.node.log.push(format!("commit {} {}", self.node.soft, self.node.firm));
                Answer::CommitmentUpdated { commitment: Box::new(state) }
            }
            Call::FetchExecutedBlock { number, .. } => {
                self.node.log.push(format!("look up {number}"));
                Answer::ExecutedBlockFetched { metadata: Box::new(self.executed(number.0)) }
            }
        }
    }

    /// Does all work and answers all calls but those that are `held`, until nothing is left in this moment.
    fn settle(&mut self, held: impl Fn(&Call) -> bool) {
        for _ in 0..1_000 {
            if let Some((id, job)) = self.jobs.pop() {
                let outcome = job.run();
                self.tell(Event::JobFinished { id, outcome }).expect("it was asked for");
                continue;
            }
            let next = self.calls.iter().find(|(_, (_, call))| !held(call)).map(|(id, (_, call))| (*id, call.clone()));
            let Some((id, call)) = next else { return };
            self.calls.remove(&id);
            let answer = self.honest(&call);
            assert!(call.is_answered_by(&answer));
            self.tell(Event::Answered { id, answer }).expect("it was asked for");
        }
        panic!("no end of calls in one moment");
    }

    /// Lets time pass from one deadline to the next.
    fn wait(&mut self, duration: Duration, held: impl Fn(&Call) -> bool) {
        let until = self.now.after(duration);
        for _ in 0..1_000 {
            let next = self.conductor.next_deadline();
            let Some((at, _)) = next.filter(|(at, _)| *at <= until) else {
                self.now = until;
                return;
            };
            self.now = self.now.max(at);
            self.tell(Event::DeadlineReached).expect("never refused");
            self.settle(&held);
        }
        panic!("too many deadlines");
    }

    /// The only call of a kind that waits for an answer.
    fn only(&self, kind: impl Fn(&Call) -> bool) -> (CommandId, Call) {
        let mut found = self.calls.iter().filter(|(_, (_, call))| kind(call));
        let Some((id, (_, call))) = found.next() else { panic!("such a call is not in flight: {:?}", self.waits()) };
        assert!(found.next().is_none(), "one of its kind");
        (*id, call.clone())
    }

    fn answer(&mut self, kind: impl Fn(&Call) -> bool, answer: impl FnOnce(&mut Self, &Call) -> Answer) {
        let (id, call) = self.only(kind);
        self.calls.remove(&id);
        let answer = answer(self, &call);
        self.tell(Event::Answered { id, answer }).expect("it was asked for");
    }

    fn fail(&mut self, kind: impl Fn(&Call) -> bool, class: FaultClass) {
        let (id, _) = self.only(kind);
        self.calls.remove(&id);
        self.tell(Event::Failed { id, fault: Fault::new(class, "as the test wants") }).expect("it was asked for");
    }

    /// Name, try and delay of the calls that were reported as failed since this was asked last.
    fn failures(&mut self) -> Vec<(&'static str, u32, u64)> {
        let reports = std::mem::take(&mut self.reports).into_iter().filter_map(|report| match report {
            Report::CallFailed { what, attempt, retry_in_ms, .. } => Some((what, attempt, retry_in_ms)),
            _ => None,
        });
        reports.collect()
    }

    fn heads(&self) -> (u64, u64) {
        (self.node.soft, self.node.firm)
    }

    fn waits(&self) -> Vec<Wait> {
        self.conductor.status(self.now).cells[&CELL].waiting_for.clone()
    }

    fn phase(&self) -> Phase {
        self.conductor.status(self.now).cells[&CELL].phase
    }
}

fn nothing(_: &Call) -> bool {
    false
}

fn is_blobs(call: &Call) -> bool {
    matches!(call, Call::FetchBlobs { .. })
}

fn is_soft(call: &Call) -> bool {
    matches!(call, Call::FetchSoftBlock { .. })
}

fn is_session(call: &Call) -> bool {
    matches!(call, Call::OpenSession { .. })
}

fn is_look_up(call: &Call) -> bool {
    matches!(call, Call::FetchExecutedBlock { .. })
}

fn is_execution(call: &Call) -> bool {
    matches!(call, Call::ExecuteBlock { .. })
}

#[test]
fn every_mode_arrives_at_the_heads_of_honest_peers() {
    for (mode, heads) in [(Mode::SoftOnly, (5, 0)), (Mode::FirmOnly, (5, 5)), (Mode::SoftAndFirm, (5, 5))] {
        let mut desk = Desk::new(mode, 5, Limits::default());
        desk.settle(nothing);
        desk.wait(seconds(60), nothing);
        assert_eq!(desk.heads(), heads, "{mode:?}");
        let status = desk.conductor.status(desk.now);
        let cell = &status.cells[&CELL];
        assert_eq!((cell.executed, cell.sessions, cell.phase), (5, 1, Phase::Running));
        assert_eq!(cell.soft.as_ref().map(|head| (head.number.0, head.height)), Some((5, Some(SequencerHeight(6)))));
        let moved = desk.reports.iter().filter(|report| matches!(report, Report::HeadMoved { .. })).count();
        let commits = desk.node.log.iter().filter(|line| line.starts_with("commit")).count();
        assert_eq!(moved, commits, "each move is reported");
        assert!(
            !desk.reports.iter().any(|report| matches!(report, Report::CallFailed { .. } | Report::Dropped { .. }))
        );
    }
}

#[test]
fn soft_leads_and_firm_confirms_what_was_executed() {
    let mut desk = Desk::new(Mode::SoftAndFirm, 2, Limits::default());
    desk.settle(is_blobs);
    assert_eq!(desk.heads(), (2, 0));
    desk.settle(nothing);
    let log = ["execute on b0", "commit 1 0", "execute on b1", "commit 2 0", "commit 2 1", "commit 2 2"];
    assert_eq!(desk.node.log, log, "nothing is executed twice or looked up");
    let levels = desk.reports.iter().filter_map(|report| match report {
        Report::HeadMoved { level, number, height, .. } => Some((*level, number.0, height.0)),
        _ => None,
    });
    let (soft, firm) = (Level::Soft, Level::Firm);
    assert_eq!(levels.collect::<Vec<_>>(), [(soft, 1, 2), (soft, 2, 3), (firm, 1, 2), (firm, 2, 3)]);
    let chains = desk.reports.iter().filter_map(|report| match report {
        Report::ChainIdentified { chain, chain_id } => Some((*chain, chain_id.as_str())),
        _ => None,
    });
    let chains: Vec<_> = chains.collect();
    assert!(chains.contains(&(Chain::Sequencer, CHAIN)) && chains.contains(&(Chain::Celestia, CELESTIA)));
}

#[test]
fn each_failure_is_reported_by_name_and_number_and_tried_again_after_a_growing_delay() {
    type Kind = fn(&Call) -> bool;
    let kinds: [(Kind, &str); 9] = [
        (|call| matches!(call, Call::IdentifySequencer), "sequencer genesis"),
        (|call| matches!(call, Call::FetchSequencerHead), "sequencer head"),
        (|call| matches!(call, Call::FetchCelestiaHead), "celestia head"),
        (is_session, "execution session"),
        (is_soft, "soft block"),
        (is_blobs, "celestia blobs"),
        (|call| matches!(call, Call::FetchSignedHeader { .. }), "sequencer header"),
        (|call| matches!(call, Call::FetchValidators { .. }), "validator set"),
        (is_look_up, "executed block"),
    ];
    for (kind, name) in kinds {
        // With firm beside it, soft is not needed to get on.
        let mode = if name == "soft block" { Mode::SoftOnly } else { Mode::SoftAndFirm };
        let mut desk = Desk::new(mode, 1, Limits::default());
        if name == "executed block" {
            // A new process, before which soft was executed.
            desk.node.soft = 1;
        }
        desk.settle(kind);
        desk.failures();
        let mut full = 100;
        for attempt in 1..=9 {
            desk.fail(kind, FaultClass::Transient);
            let failures = desk.failures();
            let [(what, number, delay)] = failures[..] else { panic!("{name}: {failures:?}") };
            assert_eq!((what, number), (name, attempt));
            assert!((full / 2..=full).contains(&delay), "{name}, try {attempt}: {delay} ms of {full}");
            full = (full * 2).min(10_000);
            // A header is fetched anew before its validators are.
            desk.wait(Duration::from_millis(delay), kind);
            assert!(!desk.calls.values().any(|(_, call)| kind(call)), "{name} too early");
            desk.wait(Duration::from_millis(2), kind);
        }
        desk.settle(nothing);
        desk.wait(seconds(20), nothing);
        assert_eq!(desk.node.soft, 1, "{name}");
    }
}

#[test]
fn what_does_not_exist_yet_is_worth_a_line_only_when_that_goes_on() {
    let mut desk = Desk::new(Mode::SoftOnly, 1, Limits::default());
    desk.settle(is_soft);
    let mut reported = Vec::new();
    for _ in 0..6 {
        desk.fail(is_soft, FaultClass::NotYet);
        reported.extend(desk.failures().into_iter().map(|(_, attempt, _)| attempt));
        desk.wait(seconds(11), is_soft);
    }
    assert_eq!(reported, [5, 6]);
}

#[test]
fn an_endpoint_of_another_chain_parks_the_cell_and_names_both() {
    for (mode, is_sequencer) in [(Mode::SoftOnly, true), (Mode::FirmOnly, true), (Mode::FirmOnly, false)] {
        let mut desk = Desk::new(mode, 1, Limits::default());
        let is_head = |call: &Call| matches!(call, Call::FetchCelestiaHead);
        let is_genesis = |call: &Call| matches!(call, Call::IdentifySequencer);
        if is_sequencer {
            desk.settle(is_genesis);
            desk.answer(is_genesis, |_, _| Answer::SequencerIdentified { chain_id: "other-1".to_owned() });
        } else {
            desk.settle(is_head);
            desk.answer(is_head, |_, _| {
                let head =
                    CelestiaHead { chain_id: "other-1".to_owned(), height: CelestiaHeight(9), time: Timestamp(1) };
                Answer::CelestiaHeadFetched { head }
            });
        }
        let Some(Exit::AllCellsParked { reason }) = &desk.exit else { panic!("{mode:?} goes on") };
        let expected = if is_sequencer { CHAIN } else { CELESTIA };
        assert!(reason.contains("other-1") && reason.contains(expected), "{reason}");
        assert_eq!((desk.phase(), desk.node.log.len(), desk.conductor.next_deadline()), (Phase::Parked, 0, None));
        assert!(desk.calls.is_empty(), "nothing is waited for any more");
    }
}

#[test]
fn a_celestia_node_that_changes_its_chain_is_not_believed_and_reported() {
    let mut desk = Desk::new(Mode::FirmOnly, 1, Limits::default());
    desk.settle(nothing);
    let is_head = |call: &Call| matches!(call, Call::FetchCelestiaHead);
    desk.wait(seconds(3), is_head);
    desk.failures();
    desk.answer(is_head, |_, _| {
        let head = CelestiaHead { chain_id: "other-1".to_owned(), height: CelestiaHeight(99), time: Timestamp(1) };
        Answer::CelestiaHeadFetched { head }
    });
    assert_eq!(desk.failures(), [("celestia head", 1, 0)]);
    assert_eq!(desk.conductor.status(desk.now).celestia.head, Some(CelestiaHeight(11)));
    assert_eq!(desk.phase(), Phase::Running);
}

#[test]
fn a_chain_id_that_cannot_be_one_is_asked_for_again() {
    let is_genesis = |call: &Call| matches!(call, Call::IdentifySequencer);
    let limits = Limits { text_bytes: CHAIN.len().max(CELESTIA.len()), ..Limits::default() };
    for (chain_id, is_taken) in [("", false), ("sequencer-1+", false), (CHAIN, true)] {
        let mut desk = Desk::new(Mode::SoftOnly, 1, limits.clone());
        desk.settle(is_genesis);
        desk.answer(is_genesis, |_, _| Answer::SequencerIdentified { chain_id: chain_id.to_owned() });
        assert_eq!(desk.conductor.status(desk.now).sequencer.chain_id.is_some(), is_taken, "{chain_id:?}");
        assert_eq!(desk.failures().len(), usize::from(!is_taken));
    }
}

#[test]
fn a_new_process_asks_the_rollup_what_it_has_executed_before_it_confirms_it() {
    let mut desk = Desk::new(Mode::SoftAndFirm, 3, Limits::default());
    desk.node.soft = 2;
    desk.settle(nothing);
    let confirmed = desk.node.log.iter().filter(|line| line.starts_with("look up")).cloned().collect::<Vec<_>>();
    assert_eq!((confirmed, desk.heads()), (vec!["look up 1".to_owned(), "look up 2".to_owned()], (3, 3)));
}

#[test]
fn a_rollup_that_does_not_know_its_own_block_five_times_loses_its_session() {
    for class in [FaultClass::NotYet, FaultClass::Transient] {
        let mut desk = Desk::new(Mode::SoftAndFirm, 1, Limits::default());
        desk.node.soft = 1;
        desk.settle(is_look_up);
        for _ in 0..4 {
            desk.fail(is_look_up, class);
            desk.wait(seconds(5), |call| is_look_up(call) || is_session(call));
        }
        assert_eq!((desk.phase(), desk.node.sessions), (Phase::Running, 1));
        desk.fail(is_look_up, class);
        desk.wait(seconds(20), is_look_up);
        let is_denied = class == FaultClass::NotYet;
        assert_eq!(desk.node.sessions, if is_denied { 2 } else { 1 }, "an unreachable node denies nothing");
    }
}

#[test]
fn what_this_process_executed_is_remembered_across_sessions_and_not_looked_up() {
    let mut desk = Desk::new(Mode::SoftAndFirm, 4, Limits::default());
    desk.settle(|call| is_blobs(call) || is_execution(call));
    for _ in 0..3 {
        desk.answer(is_execution, Desk::honest);
        desk.settle(|call| is_blobs(call) || is_execution(call));
    }
    assert_eq!(desk.heads(), (3, 0));
    desk.fail(is_execution, FaultClass::SessionLost);
    desk.wait(seconds(1), |call| is_blobs(call) || is_execution(call));
    assert_eq!((desk.node.sessions, desk.waits()[0].clone()), (2, Wait::Execution { number: RollupNumber(4) }));
    assert_eq!(held(&desk, "remembered soft blocks"), 3);
    desk.settle(nothing);
    assert_eq!(desk.heads(), (4, 4));
    assert!(!desk.node.log.iter().any(|line| line.starts_with("look up")), "{:?}", desk.node.log);
}

#[test]
fn what_the_rollup_has_replaced_or_lost_meanwhile_is_not_remembered() {
    // The rollup lost its last block; it was put on another branch; firm has passed.
    for (soft, firm, branch, kept) in [(2, 0, "b", 2), (3, 0, "c", 0), (3, 2, "b", 1), (3, 3, "b", 0), (0, 0, "b", 0)] {
        let mut desk = Desk::new(Mode::SoftAndFirm, 4, Limits::default());
        desk.settle(|call| is_blobs(call) || is_execution(call));
        for _ in 0..3 {
            desk.answer(is_execution, Desk::honest);
            desk.settle(|call| is_blobs(call) || is_execution(call));
        }
        desk.fail(is_execution, FaultClass::SessionLost);
        desk.node = Node { soft, firm, branch, ..desk.node };
        desk.wait(seconds(1), |call| is_blobs(call) || is_execution(call));
        assert_eq!(desk.node.sessions, 2);
        assert_eq!(held(&desk, "remembered soft blocks"), kept, "soft {soft} firm {firm} on {branch}");
    }
}

fn held(desk: &Desk, name: &str) -> usize {
    let gauges = desk.conductor.gauges();
    gauges.iter().find(|gauge| gauge.name == name).map_or(0, |gauge| gauge.held)
}

#[test]
fn sessions_that_are_lost_one_after_the_other_are_opened_ever_later_until_it_has_been_quiet() {
    let limits = Limits::default();
    let mut desk = Desk::new(Mode::SoftOnly, 1, limits.clone());
    let lose = |desk: &mut Desk| -> u64 {
        desk.reports.clear();
        desk.fail(is_execution, FaultClass::SessionLost);
        let delay = desk.reports.iter().find_map(|report| match report {
            Report::SessionLost { delay_ms, reason, .. } => {
                assert_eq!(reason, "as the test wants");
                Some(*delay_ms)
            }
            _ => None,
        });
        delay.expect("it is reported")
    };
    desk.settle(is_execution);
    let mut full = 200;
    for losses in 1..=3 {
        let delay = lose(&mut desk);
        assert!((full / 2..=full).contains(&delay), "loss {losses}: {delay} ms");
        assert!(matches!(desk.waits()[..], [Wait::SessionDelay { left_ms }] if left_ms.abs_diff(delay) <= 1));
        full *= 2;
        desk.wait(Duration::from_millis(delay), is_execution);
        desk.wait(Duration::from_millis(2), is_execution);
        assert_eq!(desk.node.sessions, losses + 1);
    }
    // Twice the longest delay without a loss: it begins anew.
    desk.answer(is_execution, Desk::honest);
    desk.settle(nothing);
    desk.wait(seconds(61), nothing);
    desk.chain.push(block_after(&desk.chain[1], &[ROLLUP]));
    desk.wait(seconds(2), is_execution);
    let delay = lose(&mut desk);
    assert!((100..=200).contains(&delay), "{delay} ms");
}

#[test]
fn a_session_that_ends_is_followed_by_the_next_at_once_unless_it_was_finished_when_it_came() {
    let mut desk = Desk::new(Mode::SoftOnly, 3, Limits::default());
    desk.node.end = 2;
    desk.settle(is_session);
    desk.answer(is_session, Desk::honest);
    desk.settle(is_session);
    assert_eq!(desk.heads(), (2, 0), "no block beyond the end");
    assert!(desk.reports.contains(&Report::SessionFinished { cell: CELL, last: RollupNumber(2) }));
    desk.tell(Event::DeadlineReached).expect("never refused");
    // The rollup hands the same one out again and again.
    for sessions in 2..5 {
        desk.answer(is_session, Desk::honest);
        assert_eq!((desk.node.sessions, desk.phase()), (sessions, Phase::Opening));
        let Wait::SessionDelay { left_ms } = desk.waits()[0] else { panic!("it waits") };
        assert!(left_ms >= 90 << (sessions - 2), "{left_ms} ms after {sessions} sessions");
        desk.wait(Duration::from_millis(left_ms + 2), is_session);
    }
    desk.node.end = 0;
    desk.settle(nothing);
    assert_eq!(desk.heads(), (3, 0));
}

#[test]
fn a_block_that_is_nowhere_in_the_window_is_reported_as_a_gap_once() {
    let mut desk = Desk::new(Mode::FirmOnly, 1, Limits::default());
    desk.chain[1].metadata = desk.chain[0].metadata.clone();
    desk.celestia = 11;
    desk.settle(nothing);
    desk.wait(seconds(20), nothing);
    let gaps = |desk: &Desk| -> Vec<(u64, u64, u64)> {
        let gaps = desk.reports.iter().filter_map(|report| match report {
            Report::Gap { missing, from, to, .. } => Some((missing.0, from.0, to.0)),
            _ => None,
        });
        gaps.collect()
    };
    assert_eq!(gaps(&desk), [], "Celestia may still bring it");
    desk.chain.truncate(2);
    // From 11 the window reaches to 23, and half of that farther when nothing was found.
    desk.celestia = 29;
    for number in 2..=19 {
        desk.chain.push(Made { metadata: desk.chain[0].metadata.clone(), records: vec![], ..block(number + 1, &[]) });
    }
    desk.wait(seconds(60), nothing);
    assert_eq!(gaps(&desk), [], "the head is not beyond the window");
    desk.celestia = 30;
    desk.wait(seconds(60), |call| matches!(call, Call::FetchBlobs { height, .. } if height.0 == 30));
    assert_eq!(gaps(&desk), [(2, 11, 29)]);
    assert!(desk.waits().contains(&Wait::Gap { height: SequencerHeight(2), window_end: CelestiaHeight(29) }));
}

#[test]
fn rollup_data_that_stays_away_is_reported_when_all_was_read() {
    let mut desk = Desk::new(Mode::FirmOnly, 1, Limits::default());
    desk.chain[1].records.clear();
    desk.settle(nothing);
    desk.wait(seconds(20), nothing);
    let gaps: Vec<_> = desk.reports.iter().filter(|report| matches!(report, Report::Gap { .. })).collect();
    assert!(matches!(gaps[..], [Report::Gap { missing: SequencerHeight(2), reason, .. }] if reason.contains("data")));
    assert!(desk.waits().contains(&Wait::RollupData { height: SequencerHeight(2) }));
}

#[test]
fn input_that_is_refused_is_reported_counted_and_fetched_again() {
    let mut desk = Desk::new(Mode::SoftAndFirm, 1, Limits::default());
    desk.settle(|call| is_soft(call) || is_blobs(call));
    let spoilt = |desk: &mut Desk, call: &Call| match desk.honest(call) {
        Answer::SoftBlockFetched { .. } => {
            Answer::SoftBlockFetched { block: desk.made(0).filtered.encode_to_vec().into() }
        }
        Answer::BlobsFetched { mut blobs, .. } => {
            blobs.push(Blob { namespace: Namespace::of_sequencer(CHAIN), data: Bytes::from_static(b"no blob") });
            Answer::BlobsFetched { blobs, unreadable: 2 }
        }
        other => other,
    };
    desk.answer(is_soft, spoilt);
    desk.answer(is_blobs, spoilt);
    desk.settle(is_soft);
    let mut counted = desk.conductor.status(desk.now).dropped;
    counted.retain(|_, count| *count > 0);
    assert_eq!(counted, BTreeMap::from([(Subject::Blob, 3), (Subject::SoftBlock, 1)]));
    let dropped = desk.reports.iter().filter_map(|report| match report {
        Report::Dropped { what, at, reason } => Some((*what, at.as_str(), reason.is_empty())),
        _ => None,
    });
    let mut dropped: Vec<_> = dropped.collect();
    dropped.sort_unstable();
    assert_eq!(
        dropped,
        [(Subject::Blob, "Celestia height 11", false), (Subject::SoftBlock, "sequencer height 2", false)]
    );
    desk.wait(seconds(5), nothing);
    assert_eq!(desk.heads(), (1, 1));
}

#[test]
fn the_next_deadline_is_the_earliest_of_all_and_says_why() {
    let mut desk = Desk::new(Mode::SoftOnly, 1, Limits::default());
    let first = desk.conductor.next_deadline();
    let after = |from: Timestamp, count| from.after(seconds(count));
    assert_eq!(first.map(|(at, _)| at), Some(after(desk.now, 30)), "the session has a minute, the others half of one");
    desk.settle(is_session);
    assert_eq!(desk.conductor.next_deadline(), Some((after(desk.now, 1), Timer::CallDue("sequencer head"))));
    desk.calls.retain(|_, (_, call)| is_session(call));
    let opened = desk.now;
    desk.now = after(desk.now, 1);
    desk.tell(Event::DeadlineReached).expect("never refused");
    assert_eq!(desk.conductor.next_deadline(), Some((after(desk.now, 30), Timer::CallOverdue("sequencer head"))));
    desk.settle(is_session);
    desk.tell(Event::StopRequested).expect("never refused");
    assert_eq!((desk.exit.clone(), desk.conductor.next_deadline()), (Some(Exit::Stopped), None), "opened at {opened}");
}

#[test]
fn a_stop_waits_for_what_has_an_effect_but_not_for_ever() {
    let stop = |answers: bool| {
        let mut desk = Desk::new(Mode::SoftOnly, 1, Limits::default());
        desk.settle(is_execution);
        desk.tell(Event::StopRequested).expect("never refused");
        let grace = desk.now.after(seconds(5));
        assert_eq!(desk.exit, None);
        desk.now = Timestamp(grace.0 - 1);
        desk.tell(Event::DeadlineReached).expect("never refused");
        assert_eq!((desk.exit.clone(), desk.conductor.next_deadline()), (None, Some((grace, Timer::StopGrace))));
        if answers {
            desk.answer(is_execution, Desk::honest);
            assert_eq!(desk.exit, None, "what was executed is committed first");
            desk.settle(nothing);
        } else {
            desk.now = grace;
            desk.tell(Event::DeadlineReached).expect("never refused");
        }
        assert_eq!(
            (desk.exit.clone(), desk.conductor.in_flight(), desk.phase()),
            (Some(Exit::Stopped), 0, Phase::Stopped)
        );
        desk.node.soft
    };
    assert_eq!((stop(true), stop(false)), (1, 0));
}

#[test]
fn only_as_many_cells_are_installed_as_permitted_and_each_once() {
    let mut desk = Desk::new(Mode::SoftOnly, 1, Limits { cells: 2, ..Limits::default() });
    let install = |cell| Event::CellInstalled { cell: CellId(cell), spec: spec(Mode::SoftOnly) };
    assert_eq!(desk.tell(install(0)), Err(Refusal::CellExists(CELL)));
    assert_eq!((desk.tell(install(1)), desk.tell(install(2))), (Ok(()), Err(Refusal::TooManyCells(2))));
}

#[test]
fn equal_states_have_equal_digests_and_others_have_others() {
    let run = |blocks| {
        let mut desk = Desk::new(Mode::SoftOnly, blocks, Limits::default());
        desk.settle(nothing);
        desk.conductor.state_hash()
    };
    assert_eq!(run(2), run(2));
    assert_ne!(run(2), run(3));
}

#[test]
fn what_falls_due_with_a_refused_event_is_done_all_the_same() {
    let mut desk = Desk::new(Mode::SoftOnly, 1, Limits::default());
    let asked: Vec<CommandId> = desk.calls.keys().copied().collect();
    assert!(!asked.is_empty(), "sessions and heads are asked for");
    for id in &asked {
        desk.tell(Event::Failed { id: *id, fault: Fault::transient("down") }).expect("they were asked for");
    }
    assert_eq!(desk.conductor.in_flight(), 0, "everything waits to be tried again");
    desk.calls.clear();
    desk.now = desk.now.after(Duration::from_hours(1));
    let answer = Answer::SequencerIdentified { chain_id: "late".to_owned() };
    let result = desk.tell(Event::Answered { id: asked[0], answer });
    assert_eq!(result, Err(Refusal::UnknownCommand(asked[0])));
    assert_eq!(desk.calls.len(), asked.len(), "and is tried again, although the event itself was refused");
}

#[test]
fn two_cells_of_one_conductor_do_not_wait_for_each_other() {
    let mut desk = Desk::new(Mode::SoftOnly, 2, Limits::default());
    let other = CellId(1);
    desk.tell(Event::CellInstalled { cell: other, spec: spec(Mode::SoftOnly) }).expect("a second cell");
    let of_other = move |call: &Call| matches!(call, Call::OpenSession { cell } if *cell == other);
    desk.settle(of_other);
    assert_eq!(desk.heads(), (2, 0), "the first cell arrives while the other has no session");
    desk.fail(of_other, FaultClass::Fatal);
    assert_eq!((desk.exit.clone(), desk.phase()), (None, Phase::Running), "one is parked, the other goes on");
    desk.chain.push(block_after(&desk.chain[2], &[ROLLUP, RollupId([8; 32])]));
    desk.wait(seconds(5), nothing);
    assert_eq!(desk.heads(), (3, 0));
}

#[test]
fn a_rollup_that_repeats_another_commitment_is_left_with_both_in_the_report() {
    let is_commitment = |call: &Call| matches!(call, Call::UpdateCommitment { .. });
    let mut desk = Desk::new(Mode::SoftOnly, 1, Limits::default());
    desk.settle(is_commitment);
    desk.answer(is_commitment, |desk, _| Answer::CommitmentUpdated { commitment: Box::new(desk.commitment()) });
    let parked = desk.reports.iter().find_map(|report| match report {
        Report::Parked { reason, .. } => Some(reason.as_str()),
        _ => None,
    });
    let reason = parked.expect("it is parked");
    assert!(reason.contains("told soft 1 (\"b1\")") && reason.contains("reports soft 0 (\"b0\")"), "{reason}");
    assert_eq!((desk.phase(), desk.exit.is_some(), held(&desk, "remembered soft blocks")), (Phase::Parked, true, 0));
}

#[test]
fn a_stop_gives_up_at_once_what_has_no_effect() {
    let mut desk = Desk::new(Mode::SoftAndFirm, 1, Limits::default());
    desk.node.soft = 1;
    desk.settle(is_look_up);
    desk.tell(Event::StopRequested).expect("never refused");
    assert_eq!((desk.exit.clone(), desk.calls.len(), desk.conductor.in_flight()), (Some(Exit::Stopped), 0, 0));
}

#[test]
fn a_lost_session_takes_its_calls_with_it() {
    let mut desk = Desk::new(Mode::SoftAndFirm, 1, Limits::default());
    desk.settle(|call| is_execution(call) || is_blobs(call));
    let (id, _) = desk.only(is_execution);
    desk.now = desk.now.after(seconds(60));
    desk.tell(Event::DeadlineReached).expect("never refused");
    assert!(!desk.calls.contains_key(&id), "it is given up at its deadline");
    let lost = desk.reports.iter().filter(|report| {
        matches!(report, Report::SessionLost { reason, .. }
        if reason.contains("block execution is unknown") && reason.contains("deadline"))
    });
    assert_eq!(lost.count(), 1);
    // S11: it may have been executed. The next session tells.
    desk.node.soft = 0;
    desk.settle(nothing);
    desk.wait(seconds(5), nothing);
    assert_eq!((desk.heads(), desk.node.sessions), ((1, 1), 2));
    let late = Answer::BlockExecuted { response: Box::default() };
    assert_eq!(desk.tell(Event::Answered { id, answer: late }), Err(Refusal::UnknownCommand(id)));
}

#[test]
fn a_parked_cell_is_left_alone_while_others_go_on() {
    let mut desk = Desk::new(Mode::SoftOnly, 1, Limits::default());
    let other = CellId(1);
    desk.tell(Event::CellInstalled { cell: other, spec: spec(Mode::SoftOnly) }).expect("a second cell");
    let of_other = move |call: &Call| matches!(call, Call::OpenSession { cell } if *cell == other);
    desk.settle(|call| is_execution(call) || of_other(call));
    desk.fail(is_execution, FaultClass::Fatal);
    desk.reports.clear();
    desk.chain.push(block_after(&desk.chain[1], &[ROLLUP]));
    desk.wait(seconds(10), of_other);
    assert_eq!((desk.phase(), desk.heads(), desk.node.sessions), (Phase::Parked, (0, 0), 1));
    assert!(!desk.reports.iter().any(|report| matches!(report, Report::Parked { .. })), "it is said once");
    // The last one that goes on is parked as well: now there is nothing left to do.
    assert_eq!(desk.exit, None);
    desk.fail(of_other, FaultClass::Fatal);
    let Some(Exit::AllCellsParked { reason }) = &desk.exit else { panic!("it goes on") };
    assert!(reason.starts_with("cell-0: ") && reason.contains("; cell-1: "), "{reason}");
}
