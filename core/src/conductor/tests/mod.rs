//! Stories of a conductor among honest peers, some of whose answers a test takes into its own hands.

mod asks;
mod celestia_trust;
mod failures;
mod false_blocks;
mod firm_of_peers;
mod following;
mod gossip;
mod sessions;
mod verdicts;

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;

use super::*;
use crate::{
    celestia::Namespace,
    cell::Mode,
    command::{Call, Chain, Exit, Level, Report, Subject},
    event::{Answer, Blob, CelestiaHead},
    fault::FaultClass,
    gossip::{GossipPeer, Message, Topic, Verdict},
    ids::{CelestiaHeight, CommandId, RollupId, RollupNumber, SequencerHeight},
    job::Job,
    light::{SignedBlock, TrustSettings},
    record::Record,
    testing::{CHAIN, Made, ROLLUP, block, block_after, block_after_with, metadata_blob, rollup_blob, sealed},
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
    /// What the server says, where it is not the truth.
    server_head: Option<u64>,
    celestia: u64,
    node: Node,
    verdicts: BTreeMap<u64, Verdict>,
    published: Vec<Message>,
    /// Published, too, but only to whoever asks.
    kept: Vec<Message>,
    penalties: Vec<(u64, String)>,
    persisted: Vec<Record>,
    /// Where Celestia is proven: its blocks from height 1 on.
    celestia_chain: Vec<SignedBlock>,
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
    fn new(mode: Mode, blocks: u64, mut limits: Limits) -> Self {
        // Trust in consensus has tests of its own.
        limits.trust = TrustSettings::endpoint();
        Self::at(Timestamp(1_000_000_000), mode, blocks, limits)
    }

    /// The same with the trust that `limits` say, at a moment that is not before that of the blocks.
    fn at(now: Timestamp, mode: Mode, blocks: u64, limits: Limits) -> Self {
        let mut chain = vec![block(1, &[ROLLUP])];
        for _ in 0..blocks {
            chain.push(block_after(&chain[chain.len() - 1], &[ROLLUP]));
        }
        let mut desk = Self {
            conductor: Conductor::new(limits, [3; 32], &[]),
            seq: 0,
            now,
            server_head: None,
            calls: BTreeMap::new(),
            jobs: Vec::new(),
            reports: Vec::new(),
            exit: None,
            chain,
            celestia: 10 + blocks,
            node: Node { soft: 0, firm: 0, lowest: 11, sessions: 0, end: 0, branch: "b", log: Vec::new() },
            verdicts: BTreeMap::new(),
            published: Vec::new(),
            kept: Vec::new(),
            penalties: Vec::new(),
            persisted: Vec::new(),
            celestia_chain: Vec::new(),
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
                Command::Call { id, deadline, call, .. } => drop(self.calls.insert(id, (deadline, call))),
                Command::Persist { records } => self.persisted.extend(records),
                Command::Verify { id, job } => self.jobs.push((id, job)),
                Command::Cancel { id } => {
                    self.calls.remove(&id);
                    self.jobs.retain(|(job, _)| *job != id);
                }
                Command::Report(report) => self.reports.push(report),
                Command::Exit(exit) => self.exit = Some(exit),
                Command::JudgeGossip { handle, verdict } => {
                    assert!(self.verdicts.insert(handle.0, verdict).is_none(), "one verdict for {handle:?}");
                }
                Command::PublishGossip { message, is_old } if is_old => self.kept.push(message),
                Command::PublishGossip { message, .. } => self.published.push(message),
                Command::PenalizePeer { peer, reason } => self.penalties.push((peer.0, reason)),
            }
        }
        assert!(out.is_empty());
        result
    }

    fn made(&self, number: u64) -> &Made {
        &self.chain[usize::try_from(number).expect("few")]
    }

    fn celestia_block(&self, height: u64) -> &SignedBlock {
        &self.celestia_chain[usize::try_from(height).expect("few") - 1]
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
                let height = self.server_head.unwrap_or(self.chain.len() as u64);
                Answer::SequencerHeadFetched { height: SequencerHeight(height) }
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
            Call::FetchFromPeers { height, rollups } => {
                let messages = self.chain[at(*height)].messages();
                let of = |topic| messages.iter().find(|message| message.topic == topic).map(sealed);
                let rollups = rollups.iter().filter_map(|id| Some((*id, of(Topic::Rollup(*id))?)));
                Answer::FetchedFromPeers { peer: GossipPeer(9), block: of(Topic::Blocks), rollups: rollups.collect() }
            }
            Call::FetchNamespaces { height, namespaces } => celestia_trust::empty_block(self, *height, namespaces),
            Call::FetchCelestiaHeader { height } => {
                Answer::CelestiaHeaderFetched { header: Box::new(self.celestia_block(height.0).clone()) }
            }
            Call::FetchCelestiaHeaders { first, last } => {
                let headers = (first.0..=last.0).map(|height| self.celestia_block(height).signed_header.header.clone());
                Answer::CelestiaHeadersFetched { headers: headers.collect() }
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
                let made = self.made(parent + 1);
                assert_eq!(request.sequencer_block_hash, made.trusted().hash().to_string());
                assert_eq!(request.timestamp, made.metadata.header.as_ref().and_then(|header| header.time));
                let transactions: Vec<_> = request.transactions.iter().map(prost::Message::encode_to_vec).collect();
                assert_eq!(transactions, made.records[0].transactions);
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

fn held(desk: &Desk, name: &str) -> usize {
    let gauges = desk.conductor.gauges();
    gauges.iter().find(|gauge| gauge.name == name).map_or(0, |gauge| gauge.held)
}
