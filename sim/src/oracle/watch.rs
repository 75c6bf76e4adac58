//! Judges what passes through the ports while a run goes on: every event that the conductor was given and every command
//! that it gave, against the model world. Asks the conductor itself for nothing but sizes (L8) and a digest (S14).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use downbeat_core::{
    Answer, Call, CelestiaHeight, CellId, Command, CommandId, Conductor, Event, FaultClass, Limits, Outbox, Record,
    Report, RollupId, RollupNumber, Seq, SequencerHeight, Stamped, Timestamp,
    celestia::FalseNamespaces,
    cell::{CellSpec, Mode},
    event::CelestiaHead,
    light::{ConflictingHeaders, RootSetting, SoftTrust, Trust},
    sequencer::{BlockFalsehood, FalseBlock},
    view::{Phase, Wait},
    wire::proto::astria::{
        execution::v2::{CommitmentState, ExecutedBlockMetadata, ExecutionSession},
        sequencerblock::v1::FilteredSequencerBlock,
    },
};
use downbeat_world::{World, validators::ValidatorSet};
use prost::Message as _;
use tendermint::{
    Time,
    block::{CommitSig, Header, signed_header::SignedHeader},
};

use crate::{Violation, oracle::Published};

/// Retries in a row that come too soon before that counts as hammering.
const HASTY_MAX: u32 = 6;

/// Retries after exactly the full back-off before that counts as missing jitter.
const EXACT_MAX: u32 = 6;

/// Time without faults after which soft must have led at least once, as a multiple of a fetch's deadline.
const SOFT_LEADS_WITHIN: u32 = 4;

/// Steps between two looks at what is held.
const GAUGE_EVERY: u64 = 128;

/// A call that was made.
#[derive(Clone, Debug)]
struct Open {
    deadline: Timestamp,
    call: Call,
}

/// Calls that share a limit, and what tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    Identity,
    Head,
    Soft,
    Header,
    Links,
    Validators,
    BlockData,
    CelestiaHead,
    Blobs,
    CelestiaHeader,
    CelestiaLinks,
    Peers,
    Rollup(CellId),
}

/// What a rollup has said about its session.
#[derive(Clone, Debug)]
struct Session {
    id: String,
    end: u64,
    soft: ExecutedBlockMetadata,
    firm: ExecutedBlockMetadata,
    /// A reply in it was wrong: nothing may be built on it.
    wrong: Option<String>,
    /// A call in it may or may not have taken effect.
    unknown: Option<String>,
}

impl Session {
    fn of(session: &ExecutionSession) -> Option<Self> {
        let state = session.commitment_state.as_ref()?;
        Some(Self {
            id: session.session_id.clone(),
            end: session.execution_session_parameters.as_ref()?.rollup_end_block_number,
            soft: state.soft_executed_block_metadata.clone()?,
            firm: state.firm_executed_block_metadata.clone()?,
            wrong: None,
            unknown: None,
        })
    }
}

/// Sees one run from its beginning to its end, through all lives of the conductor.
#[derive(Debug)]
pub struct Watch {
    limits: Limits,
    mode: Mode,
    open: BTreeMap<CommandId, Open>,
    /// Jobs whose outcome was not delivered yet.
    working: BTreeSet<CommandId>,
    counts: BTreeMap<Group, usize>,
    answered: BTreeSet<CommandId>,
    /// Heights whose genuine header this life was shown with a commit that proves it, directly or by links.
    proven: BTreeSet<SequencerHeight>,
    /// Headers that validators signed besides those of the chain, by hash.
    twins: BTreeSet<tendermint::Hash>,
    /// What follows by its hash from such a one that this life was shown.
    below_twins: BTreeSet<tendermint::Hash>,
    /// The header that is durable.
    kept: Option<Box<Header>>,
    /// This life has handed out, or began with, a header to go on from.
    has_record: bool,
    /// The same for evidence: nothing is executed any more. And whether some is durable.
    has_evidence: bool,
    keeps_evidence: bool,
    /// Until then something that was shown to this life is in its trusting period.
    trusts_until: Option<Timestamp>,
    /// With trust on first use: it has not begun.
    is_first: bool,
    sessions: BTreeMap<CellId, Session>,
    /// Cells that have a reason to open a session.
    may_open: BTreeSet<CellId>,
    sequencer_id: Option<String>,
    celestia_head: Option<CelestiaHead>,
    /// Soft blocks were served that are not the genuine ones.
    lied: bool,
    /// By group and number: when it failed, if it was not made again since, and how often in a row that was too soon.
    failed: BTreeMap<(Group, u64), (Option<Timestamp>, u32)>,
    exact: u32,
    steps: u64,
    /// This life has ended: it takes everything and does nothing.
    over: bool,
    soft_moves: BTreeMap<CellId, u64>,
    /// What Celestia holds.
    published: Published,
    /// What servers answered as the block of each height, and of what falsehoods evidence is durable or was handed out.
    soft_answers: BTreeMap<u64, BTreeSet<Bytes>>,
    false_blocks: (BTreeSet<BlockFalsehood>, BTreeSet<BlockFalsehood>),
    /// When a call to a rollup node failed last.
    disturbed: BTreeMap<CellId, Timestamp>,
    broken: Option<Violation>,
}

impl Watch {
    pub fn new(limits: Limits, mode: Mode) -> Self {
        Self {
            limits,
            mode,
            open: BTreeMap::new(),
            working: BTreeSet::new(),
            counts: BTreeMap::new(),
            answered: BTreeSet::new(),
            proven: BTreeSet::new(),
            twins: BTreeSet::new(),
            below_twins: BTreeSet::new(),
            kept: None,
            has_record: false,
            has_evidence: false,
            keeps_evidence: false,
            trusts_until: None,
            is_first: false,
            sessions: BTreeMap::new(),
            may_open: BTreeSet::new(),
            sequencer_id: None,
            celestia_head: None,
            lied: false,
            failed: BTreeMap::new(),
            exact: 0,
            steps: 0,
            over: false,
            soft_moves: BTreeMap::new(),
            published: Published::default(),
            soft_answers: BTreeMap::new(),
            false_blocks: Default::default(),
            disturbed: BTreeMap::new(),
            broken: None,
        }
    }

    /// A new process begins: what the old one knew is gone.
    pub fn started(&mut self, mode: Mode) {
        self.mode = mode;
        self.open.clear();
        self.working.clear();
        self.counts.clear();
        self.answered.clear();
        let is_twin = |header: &Header| self.twins.contains(&header.hash());
        let kept = self.kept.as_deref();
        self.proven = kept.filter(|header| !is_twin(header)).map(height_of).into_iter().collect();
        self.below_twins = kept.filter(|header| is_twin(header)).and_then(parent_of).into_iter().collect();
        (self.has_record, self.has_evidence) = (self.kept.is_some(), self.keeps_evidence);
        let trust = &self.limits.trust;
        let genesis = match &trust.root {
            RootSetting::Genesis(genesis) => Some(timestamp(genesis.time)),
            RootSetting::Header { .. } | RootSetting::FirstUse => None,
        };
        let begins = self.kept.as_ref().map(|header| timestamp(header.time)).or(genesis);
        self.trusts_until = begins.map(|begins| begins.after(trust.trusting_period));
        self.is_first = begins.is_none();
        self.sessions.clear();
        self.may_open.clear();
        (self.sequencer_id, self.celestia_head, self.over) = (None, None, false);
        self.failed.clear();
        self.false_blocks.1.clone_from(&self.false_blocks.0);
    }

    /// A peer has shown the chain's header of a height, with its commit.
    pub fn shown_by_peer(&mut self, signed: &SignedHeader, now: Timestamp, world: &World) {
        let height = SequencerHeight(signed.header.height.value());
        if has_quorum(signed, height, world) && self.is_in_time(&signed.header, now) {
            self.proven.insert(height);
        }
        self.follows_by_hash(&signed.header, world);
    }

    /// Validators signed this header besides the one of the chain.
    pub fn signed_twice(&mut self, header: &Header) {
        self.twins.insert(header.hash());
    }

    /// Records are durable.
    pub fn keeps(&mut self, records: &[Record]) {
        for record in records {
            match record {
                Record::SequencerHeader(record) => self.kept = Some(Box::new(record.header().clone())),
                Record::SequencerConflict(_) => self.keeps_evidence = true,
                Record::FalseBlock(evidence) => drop(self.false_blocks.0.insert(evidence.reason)),
                Record::CelestiaHeader(_) | Record::FalseNamespaces(_) => {}
            }
        }
    }

    /// Evidence was handed out.
    pub fn has_evidence(&self) -> bool {
        self.has_evidence
    }

    /// The first promise that was broken, once.
    pub fn take(&mut self) -> Option<Violation> {
        self.broken.take()
    }

    fn broken(&mut self, invariant: &'static str, detail: impl Into<String>) {
        self.broken.get_or_insert_with(|| Violation::new(invariant, detail));
    }

    /// The conductor has taken `input`, or refused it, and wishes for `commands`.
    pub fn step(&mut self, input: &Stamped, refused: bool, commands: &[Command], conductor: &Conductor, world: &World) {
        let asked = self.event(input, refused, world);
        for command in commands {
            match command {
                Command::Call { id, deadline, call, .. } => self.call(*id, *deadline, call, input.at, world),
                Command::Cancel { id } => {
                    self.working.remove(id);
                    if let Some(open) = self.close(*id)
                        && let Some(cell) = rollup_of(&open.call)
                    {
                        self.may_open.insert(cell);
                        self.disturbed.insert(cell, input.at);
                        if input.at >= open.deadline {
                            self.outcome_unknown(cell, &open.call);
                        }
                    }
                }
                Command::Report(report) => self.report(report, input, asked.as_ref(), world),
                Command::Exit(_) => self.over = true,
                Command::Persist { records } => self.persists(records, input.at, world),
                Command::JudgeGossip { .. } | Command::PublishGossip { .. } | Command::PenalizePeer { .. } => {}
                Command::Verify { id, .. } => drop(self.working.insert(*id)),
            }
        }
        self.looks_at_waiting(conductor);
        if let (Event::Answered { answer: Answer::SessionOpened { session }, .. }, Some(Call::OpenSession { cell })) =
            (&input.event, &asked)
            && !self.over
            // With blocks from peers the first one may be at hand, in a cache that all cells share; or nothing can be
            // trusted any more.
            && !commands.iter().any(|command| executes(command, *cell) || parks(command, *cell))
        {
            self.begins_fresh(*cell, session, input.at, conductor);
        }
        self.steps += 1;
        if self.steps.is_multiple_of(GAUGE_EVERY) {
            self.looks_at_spread(conductor, input.at);
            for gauge in conductor.gauges() {
                if gauge.held > gauge.bound {
                    self.broken("L8", format!("{}: {} of at most {}", gauge.name, gauge.held, gauge.bound));
                }
            }
        }
    }

    /// L3: everything that was asked for is waited for, and every call at most until its deadline.
    fn looks_at_waiting(&mut self, conductor: &Conductor) {
        if self.over {
            return;
        }
        let (waits, asked) = (conductor.in_flight(), self.open.len() + self.working.len());
        if waits != asked {
            self.broken("L3", format!("{asked} commands have no answer yet, {waits} are waited for"));
        }
        let next = conductor.next_deadline().map(|(at, _)| at);
        let first = self.open.values().map(|open| open.deadline).min();
        if first.is_some_and(|first| next.is_none_or(|next| next > first)) {
            self.broken("L3", format!("a call has until {first:?}, the next deadline is {next:?}"));
        }
    }

    fn close(&mut self, id: CommandId) -> Option<Open> {
        let open = self.open.remove(&id)?;
        if let Some(count) = self.counts.get_mut(&group_of(&open.call)) {
            *count = count.saturating_sub(1);
        }
        Some(open)
    }

    /// Takes in what the conductor was told. Returns the call that it answers.
    fn event(&mut self, input: &Stamped, refused: bool, world: &World) -> Option<Call> {
        let (id, answer, fault) = match &input.event {
            Event::Answered { id, answer } => (*id, Some(answer), None),
            Event::Failed { id, fault } => (*id, None, Some(fault)),
            Event::CellInstalled { cell, .. } => {
                self.may_open.insert(*cell);
                return None;
            }
            Event::JobFinished { id, .. } => {
                if !refused {
                    self.working.remove(id);
                }
                return None;
            }
            _ => return None,
        };
        let fits = self.open.get(&id).is_some_and(|open| answer.is_none_or(|answer| open.call.is_answered_by(answer)));
        if !fits {
            // S10, S18: repeated, late, foreign and misdirected answers are refused. Commands may follow nevertheless,
            // since time has passed.
            if !refused && !self.over {
                let invariant = if self.answered.contains(&id) { "S10" } else { "S18" };
                let event: String = format!("{:?}", input.event).chars().take(80).collect();
                self.broken(invariant, format!("an answer that nobody waited for was taken: {event}"));
            }
            return None;
        }
        let Open { call, .. } = self.close(id)?;
        self.answered.insert(id);
        if let Some(fault) = fault {
            if let Some(cell) = rollup_of(&call) {
                self.may_open.insert(cell);
                self.disturbed.insert(cell, input.at);
                if fault.class == FaultClass::Transient {
                    self.outcome_unknown(cell, &call);
                }
            }
            let key = (group_of(&call), number_of(&call));
            self.failed.entry(key).or_default().0 = Some(input.at);
        }
        if let Some(answer) = answer {
            self.answer(&call, answer, input.at, world);
        }
        Some(call)
    }

    fn answer(&mut self, call: &Call, answer: &Answer, now: Timestamp, world: &World) {
        if let (Call::FetchSoftBlock { height, .. }, Answer::SoftBlockFetched { block }) = (call, answer) {
            self.soft_answers.entry(height.0).or_default().insert(block.clone());
        }
        match (call, answer) {
            (_, Answer::SequencerIdentified { chain_id }) => self.sequencer_id = Some(chain_id.clone()),
            (_, Answer::CelestiaHeadFetched { head }) => {
                self.celestia_head.get_or_insert_with(|| head.clone());
            }
            (Call::FetchSoftBlock { height, rollup_ids }, Answer::SoftBlockFetched { block })
                if !self.lied && self.limits.trust.soft == SoftTrust::Sequencer =>
            {
                let genuine = world.sequencer.block(*height).map(|block| block.published.filtered(rollup_ids));
                self.lied = genuine.is_none_or(|genuine| genuine.encode_to_vec() != *block);
            }
            (_, Answer::SignedHeaderFetched { signed_header }) => {
                let height = SequencerHeight(signed_header.header.height.value());
                let is_genuine = has_quorum(signed_header, height, world);
                let is_signed = is_genuine || self.twins.contains(&signed_header.header.hash());
                // S12: nothing follows from what is too old, whoever signed it.
                if is_signed && self.is_in_time(&signed_header.header, now) {
                    if is_genuine {
                        self.proven.insert(height);
                    } else {
                        self.below_twins.extend(parent_of(&signed_header.header));
                    }
                }
                self.follows_by_hash(&signed_header.header, world);
            }
            (_, Answer::HeadersFetched { headers }) => {
                let mut headers: Vec<_> = headers.iter().collect();
                headers.sort_by_key(|header| std::cmp::Reverse(header.height));
                for header in headers {
                    self.follows_by_hash(header, world);
                }
            }
            (Call::OpenSession { cell }, Answer::SessionOpened { session }) => {
                match Session::of(session) {
                    Some(session) => drop(self.sessions.insert(*cell, session)),
                    None => drop(self.sessions.remove(cell)),
                }
                self.may_open.remove(cell);
            }
            (Call::ExecuteBlock { cell, request }, Answer::BlockExecuted { response }) => {
                let Some(session) = self.sessions.get_mut(cell).filter(|session| session.id == request.session_id)
                else {
                    return;
                };
                let (next, parent) = (session.soft.number + 1, &request.parent_hash);
                session.wrong = match &response.executed_block_metadata {
                    None => Some("a reply without a block".to_owned()),
                    Some(block) => contradiction(block, next, Some(parent), &request.sequencer_block_hash),
                };
            }
            (Call::UpdateCommitment { cell, request }, Answer::CommitmentUpdated { commitment }) => {
                let Some(session) = self.sessions.get_mut(cell).filter(|session| session.id == request.session_id)
                else {
                    return;
                };
                let Some((told, echo)) = request.commitment_state.as_ref().map(names).zip(Some(names(commitment)))
                else {
                    return;
                };
                if told != echo {
                    session.wrong = Some(format!("told {told:?} it repeats {echo:?}"));
                    return;
                }
                session.soft = commitment.soft_executed_block_metadata.clone().unwrap_or_default();
                session.firm = commitment.firm_executed_block_metadata.clone().unwrap_or_default();
                let head = if self.mode.follows_firm() { &session.firm } else { &session.soft };
                if session.end > 0 && head.number >= session.end {
                    self.may_open.insert(*cell);
                }
            }
            (Call::FetchExecutedBlock { cell, number }, Answer::ExecutedBlockFetched { metadata }) => {
                let Some(session) = self.sessions.get_mut(cell) else { return };
                // What it was made from is compared with the block that the validators committed to.
                let genuine =
                    world.sequencer.block(world.sequencer_height(*number)).map(|block| block.hash().to_string());
                let firm = session.firm.hash.clone();
                session.wrong = contradiction(metadata, number.0, Some(&firm), &genuine.unwrap_or_default());
                if number.0 == session.soft.number && metadata.hash != session.soft.hash {
                    session.wrong = Some("another hash than that of its soft block".to_owned());
                }
            }
            _ => {}
        }
    }

    fn outcome_unknown(&mut self, cell: CellId, call: &Call) {
        let of = match call {
            Call::ExecuteBlock { request, .. } => &request.session_id,
            Call::UpdateCommitment { request, .. } => &request.session_id,
            _ => return,
        };
        if let Some(session) = self.sessions.get_mut(&cell).filter(|session| session.id == *of) {
            session.unknown = Some(beginning(call, 60));
        }
    }

    fn call(&mut self, id: CommandId, deadline: Timestamp, call: &Call, now: Timestamp, world: &World) {
        let group = group_of(call);
        self.open.insert(id, Open { deadline, call: call.clone() });
        let count = self.counts.entry(group).or_default();
        *count += 1;
        let (count, cells) = (*count, world.node_ids().len());
        // Of what peers show each node is a witness, else each but the one that showed it.
        let nodes = usize::try_from(self.limits.trust.nodes).unwrap_or(usize::MAX);
        let witnesses = nodes.saturating_sub(usize::from(!self.limits.gossip.enabled)).max(1);
        let most = match group {
            Group::Identity | Group::Head | Group::CelestiaHead | Group::Rollup(_) => 1,
            Group::Soft => self.limits.soft_in_flight,
            Group::Peers => self.limits.gossip.asked_at_once,
            Group::Blobs | Group::CelestiaHeader | Group::CelestiaLinks => self.limits.celestia_in_flight.max(1),
            Group::Links | Group::BlockData => self.limits.headers_in_flight,
            // What soft and firm need next always has a place and so has the head, witnesses are asked beside, and a node
            // that does not serve several headers at once is asked for each of those that are to be linked.
            // One more is asked for to show others that a soft block was false.
            Group::Header => 2 * self.limits.headers_in_flight + 2 * cells + 1 + witnesses + 1,
            Group::Validators => self.limits.headers_in_flight + 2 * cells + 1 + witnesses + 1,
        };
        if count > most {
            self.broken("L8", format!("{count} calls of the kind {group:?} in flight, {most} are permitted"));
        }
        self.paces(group, number_of(call), now);
        match call {
            Call::OpenSession { cell } => self.opens(*cell),
            Call::ExecuteBlock { cell, request } => {
                self.acts_on_record(call);
                let next = self.sessions.get(cell).map_or(0, |session| session.soft.number + 1);
                self.uses(*cell, &request.session_id, next, call);
            }
            Call::UpdateCommitment { cell, request } => {
                if self.has_evidence {
                    self.broken("S9", "a commitment after validators were found to have signed twice");
                }
                let number = request.commitment_state.as_ref().map_or(0, |state| names(state).0.0);
                self.uses(*cell, &request.session_id, number, call);
                if let Some(state) = &request.commitment_state {
                    self.commits(*cell, state, world);
                }
            }
            _ => {}
        }
    }

    /// L8: a call that failed is made again only after a pause, of which a part is random.
    fn paces(&mut self, group: Group, number: u64, now: Timestamp) {
        let Some((failed, hasty)) = self.failed.get_mut(&(group, number)) else { return };
        let Some(at) = failed.take() else {
            *hasty = 0;
            return;
        };
        let (pause, first) = (now.since(at), self.limits.backoff_first);
        *hasty = if pause < first / 2 { *hasty + 1 } else { 0 };
        if *hasty >= HASTY_MAX {
            self.broken(
                "L8",
                format!("{group:?} {number} failed and was called again at once, {HASTY_MAX} times in a row"),
            );
        }
        if pause == first && !matches!(group, Group::Rollup(_)) {
            self.exact += 1;
            if self.exact >= EXACT_MAX {
                self.broken("L8", format!("{} retries came after exactly {first:?}: no jitter", self.exact));
            }
        }
    }

    /// L2: soft waits for firm only when it has the whole lead that it may have.
    fn looks_at_spread(&mut self, conductor: &Conductor, now: Timestamp) {
        if self.mode != Mode::SoftAndFirm {
            return;
        }
        for (cell, status) in conductor.status(now).cells {
            let lead = self.sessions.get(&cell).map(|session| session.soft.number.saturating_sub(session.firm.number));
            let waits = status.waiting_for.iter().any(|wait| matches!(wait, Wait::Spread { .. }));
            if let Some(lead) = lead.filter(|lead| waits && *lead < self.limits.soft_firm_spread.max(1)) {
                let most = self.limits.soft_firm_spread;
                self.broken("L2", format!("{cell} waits for firm with a lead of {lead} blocks, {most} are permitted"));
            }
        }
    }

    /// S19, S20: a session is opened for a reason.
    fn opens(&mut self, cell: CellId) {
        if self.may_open.contains(&cell) {
            return;
        }
        let Some(session) = self.sessions.get(&cell) else { return };
        let (invariant, end) =
            if session.end == 0 { ("S20", "no end".to_owned()) } else { ("S19", session.end.to_string()) };
        let (soft, firm) = (session.soft.number, session.firm.number);
        let detail = format!("{} with {end} was given up at soft {soft}, firm {firm}, for no reason", session.id);
        self.broken(invariant, detail);
    }

    /// S11, S13, S18, S19: a call names the current session, in which all is well, and a block inside of it.
    fn uses(&mut self, cell: CellId, id: &str, number: u64, call: &Call) {
        let Some(session) = self.sessions.get(&cell) else { return };
        // Written only when it is needed: a call can be long.
        let what = || beginning(call, 40);
        if session.id != id {
            let detail = format!("{} names {id:?}, the session is {:?}", what(), session.id);
            self.broken("S18", detail);
        } else if let Some(wrong) = &session.wrong {
            let detail = format!("{} builds upon a wrong reply in {id}: {wrong}", what());
            self.broken("S13", detail);
        } else if let Some(unknown) = &session.unknown {
            let detail = format!("{} in {id}, in which the outcome of a call is unknown: {unknown}", what());
            self.broken("S11", detail);
        } else if session.end > 0 && number > session.end {
            let detail = format!("{} for block {number}, {id} ends with {}", what(), session.end);
            self.broken("S19", detail);
        }
    }

    /// S16: with trust on first use, what it began with is handed out to be kept before anything follows from it, or a
    /// crash would leave an execution that the next life cannot account for. S9: and nothing follows from evidence.
    fn acts_on_record(&mut self, call: &Call) {
        let trust = &self.limits.trust;
        let relies = trust.soft == SoftTrust::Consensus || self.mode == Mode::FirmOnly;
        let began_somewhere = trust.level == Trust::Consensus && trust.root == RootSetting::FirstUse;
        if began_somewhere && relies && !self.has_record {
            let detail = format!("{} before what trust began with was persisted", beginning(call, 40));
            self.broken("S16", detail);
        }
        if self.has_evidence {
            self.broken("S9", "an execution after validators were found to have signed twice");
        }
    }

    /// S1: what the next life begins with is proven. S18: evidence only if validators did sign twice, and such that
    /// others can check it.
    fn persists(&mut self, records: &[Record], now: Timestamp, world: &World) {
        for record in records {
            match record {
                Record::SequencerHeader(record) => {
                    let height = SequencerHeight(record.height());
                    let genuine = world.sequencer.signed_header(height).map(|signed| &signed.header);
                    let is_proven = self.proven.contains(&height) && genuine == Some(record.header());
                    if !is_proven && !self.twins.contains(&record.header().hash()) {
                        self.broken(
                            "S1",
                            format!("header {height} was persisted and no commit for it was seen in time"),
                        );
                    }
                    if timestamp(record.header().time) > now.after(self.limits.trust.clock_drift) {
                        self.broken("S12", format!("header {height} was trusted before its time"));
                    }
                    self.has_record = true;
                }
                Record::CelestiaHeader(record) => {
                    let block = world.celestia.block(CelestiaHeight(record.height()));
                    if block.map(|block| &block.signed_header.header) != Some(record.header()) {
                        let height = record.height();
                        self.broken("S1", format!("a Celestia header {height} was persisted that is not the chain's"));
                    }
                }
                Record::SequencerConflict(conflict) => {
                    if let Err(reason) = self.is_evidence(conflict, world) {
                        self.broken("S18", format!("no evidence about height {}: {reason}", conflict.height));
                    }
                    self.has_evidence = true;
                }
                Record::FalseBlock(evidence) => {
                    if let Err(reason) = self.is_false_block(evidence, world) {
                        let FalseBlock { height, reason: claimed, .. } = evidence.as_ref();
                        self.broken("S18", format!("no evidence of {claimed} at sequencer height {height}: {reason}"));
                    }
                    if !self.false_blocks.1.insert(evidence.reason) {
                        self.broken("L8", format!("a second piece of evidence of {}", evidence.reason));
                    }
                }
                Record::FalseNamespaces(evidence) => {
                    if let Err(reason) = self.is_falsehood(evidence, world) {
                        let FalseNamespaces { height, reason: claimed, .. } = evidence.as_ref();
                        self.broken("S18", format!("no evidence of {claimed} at Celestia height {height}: {reason}"));
                    }
                }
            }
        }
    }

    /// Whether somebody who has only the bytes can tell that this is not the block that the validators signed; and whether
    /// a server did answer it, and answered falsely.
    fn is_false_block(&self, evidence: &FalseBlock, world: &World) -> Result<(), String> {
        let shown = FalseBlock::from_json(evidence.to_json().as_bytes()).map_err(|error| error.to_string())?;
        shown.verify(&self.limits).map_err(|error| error.to_string())?;
        if !self.soft_answers.get(&shown.height).is_some_and(|answers| answers.contains(&shown.block)) {
            return Err("no server answered this".to_owned());
        }
        let (header, height) = (&shown.header.signed_header.header, SequencerHeight(shown.height));
        // Of two signed headers the server may know the other one: then it was the validators who lied.
        if self.twins.contains(&header.hash()) && shown.reason == BlockFalsehood::OtherHash {
            return Ok(());
        }
        if world.sequencer.signed_header(height).map(|signed| &signed.header) != Some(header) {
            return Err("the header is not the chain's".to_owned());
        }
        let answer = FilteredSequencerBlock::decode(shown.block).map_err(|error| error.to_string())?;
        let ids = answer
            .rollup_transactions
            .iter()
            .filter_map(|part| part.rollup_id.as_ref()?.inner.as_ref().try_into().ok());
        let ids: Vec<RollupId> = ids.map(RollupId).collect();
        // Of whichever height: what is true there is no lie, however wrong as an answer.
        let own = SequencerHeight(answer.header.as_ref().map_or(0, |header| header.height));
        let genuine = world.sequencer.block(own).map(|block| block.published.filtered(&ids));
        if genuine == Some(answer) {
            return Err("the server told the truth".to_owned());
        }
        Ok(())
    }

    /// Whether somebody who has only the bytes can tell that this is not in the block that Celestia's validators signed.
    fn is_falsehood(&self, evidence: &FalseNamespaces, world: &World) -> Result<(), String> {
        let shown = FalseNamespaces::from_json(evidence.to_json().as_bytes()).map_err(|error| error.to_string())?;
        shown.verify(&self.limits).map_err(|error| error.to_string())?;
        let genuine = world.celestia.block(CelestiaHeight(shown.height)).map(|block| &block.signed_header.header);
        if genuine != Some(&shown.header.signed_header.header) {
            return Err("the header is not the chain's".to_owned());
        }
        Ok(())
    }

    /// Whether the validators of the height did sign both headers, and whether somebody who has only the bytes can tell.
    fn is_evidence(&self, conflict: &ConflictingHeaders, world: &World) -> Result<(), String> {
        let height = SequencerHeight(conflict.height);
        let shown = ConflictingHeaders::from_json(conflict.to_json().as_bytes()).map_err(|error| error.to_string())?;
        shown.verify(self.limits.validators).map_err(|error| error.to_string())?;
        let genuine = world.sequencer.signed_header(height).map(|signed| &signed.header);
        let set = world.sequencer.validators(height).map(ValidatorSet::hash);
        for block in [&shown.trusted, &shown.other] {
            let header = &block.signed_header.header;
            if genuine != Some(header) && !self.twins.contains(&header.hash()) {
                return Err("a header that no validator signed".to_owned());
            }
            if set != Some(header.validators_hash) {
                return Err("signed by others than the validators of the height".to_owned());
            }
        }
        Ok(())
    }

    /// S12: whether trust may go on to a signed header that comes now, for all that this life was shown before.
    fn is_in_time(&mut self, header: &Header, now: Timestamp) -> bool {
        let trust = &self.limits.trust;
        let until = timestamp(header.time).after(trust.trusting_period);
        let is_root = match &trust.root {
            RootSetting::Header { height, .. } => *height == header.height.value(),
            RootSetting::FirstUse | RootSetting::Genesis(_) => true,
        };
        let begins = self.is_first && is_root && until > now;
        if trust.level == Trust::Consensus && !begins && self.trusts_until.is_none_or(|trusts| trusts <= now) {
            return false;
        }
        self.trusts_until = self.trusts_until.max(Some(until));
        true
    }

    /// A genuine header whose successor is proven is proven as well.
    fn follows_by_hash(&mut self, header: &Header, world: &World) {
        let height = SequencerHeight(header.height.value());
        let genuine = world.sequencer.signed_header(height).map(|signed| &signed.header);
        let is_below_twin = !self.below_twins.is_empty() && self.below_twins.contains(&header.hash());
        if genuine == Some(header) && (is_below_twin || self.proven.contains(&height.next())) {
            self.proven.insert(height);
        } else if is_below_twin {
            self.below_twins.extend(parent_of(header));
        }
    }

    fn commits(&mut self, cell: CellId, state: &CommitmentState, world: &World) {
        let Some(session) = self.sessions.get(&cell) else { return };
        let ((soft, _), (firm, _), _) = names(state);
        let (soft_moves, firm_moves) = (soft > session.soft.number, firm > session.firm.number);
        if firm_moves {
            // S1: with a quorum of the model's own validators, seen by this life.
            let height = world.sequencer_height(RollupNumber(firm));
            if !self.proven.contains(&height) {
                self.broken(
                    "S1",
                    format!("block {firm} of height {height} was made firm and no commit for it was seen"),
                );
            }
            // S15: not from a branch that was only shown.
            if self.limits.celestia_trust == Trust::Consensus {
                self.published.read_on(world);
                let rollup = usize::try_from(cell.0).ok().and_then(|index| world.node_ids().get(index));
                if rollup.is_some_and(|id| !self.published.is_whole(world, *id, height)) {
                    self.broken("S15", format!("block {firm} of height {height} became firm and is not on Celestia"));
                }
            }
        } else if soft_moves && self.limits.trust.soft == SoftTrust::Consensus {
            let height = world.sequencer_height(RollupNumber(soft));
            if !self.proven.contains(&height) {
                self.broken("S1", format!("block {soft} of height {height} became soft and no commit for it was seen"));
            }
        }
        if !firm_moves && soft_moves && self.mode.follows_firm() {
            *self.soft_moves.entry(cell).or_default() += 1;
            let lead = soft.saturating_sub(firm);
            if lead > self.limits.soft_firm_spread.max(1) {
                self.broken(
                    "L8",
                    format!("soft is {lead} blocks ahead of firm, {} are permitted", self.limits.soft_firm_spread),
                );
            }
        }
    }

    /// L4, L5: a cell is parked only by what cannot pass.
    fn report(&mut self, report: &Report, input: &Stamped, asked: Option<&Call>, world: &World) {
        if let Report::TrustedOnFirstUse { height, .. } = report {
            if self.kept.is_some() {
                self.broken("S16", format!("trust began anew with header {height}, and a record was kept"));
            }
            self.is_first = false;
        }
        let Report::Parked { cell, reason } = report else { return };
        let chains = (world.sequencer.chain_id(), world.celestia.chain_id());
        let is_explained = match &input.event {
            Event::Failed { fault, .. } => {
                asked.and_then(rollup_of) == Some(*cell)
                    && matches!(fault.class, FaultClass::Fatal | FaultClass::Invalid | FaultClass::Gone)
            }
            Event::Answered { answer: Answer::SessionOpened { session }, .. } => Session::of(session).is_none(),
            Event::Answered { answer: Answer::SequencerIdentified { chain_id }, .. } => chain_id != chains.0,
            Event::Answered { answer: Answer::CelestiaHeadFetched { head }, .. } => head.chain_id != chains.1,
            Event::Answered { .. } => {
                let wrong = self.sessions.get(cell).is_some_and(|session| session.wrong.is_some());
                asked.and_then(rollup_of) == Some(*cell) && wrong
            }
            _ => false,
        };
        let is_expired = reason.contains("the trusting period is over");
        let is_conflict = self.has_evidence && reason.contains("signed two headers");
        let is_explained =
            is_explained || is_conflict || is_expired && self.limits.trust.trusting_period < Duration::from_hours(1);
        // S9: once the soft source has lied, any event may be the one that shows the conflict.
        if !is_explained && !self.lied {
            let invariant = if matches!(input.event, Event::JobFinished { .. }) { "L4" } else { "L5" };
            self.broken(invariant, format!("{cell} was parked for what passes: {reason}"));
        }
    }

    /// S14: a new session begins as that of a new process, which is started here and told the same.
    fn begins_fresh(&mut self, cell: CellId, session: &ExecutionSession, at: Timestamp, conductor: &Conductor) {
        let mut fresh = Conductor::new(self.limits.clone(), [0; 32], &[]);
        let spec = CellSpec { mode: self.mode, expected_sequencer_chain_id: None, expected_celestia_chain_id: None };
        let mut seq = 0;
        let mut tell = |fresh: &mut Conductor, event| {
            let mut out = Outbox::new();
            // A refusal shows in the digest.
            let _ = fresh.handle(&Stamped { seq: Seq(seq), at, event }, &mut out);
            seq += 1;
            out.drain().collect::<Vec<Command>>()
        };
        for command in tell(&mut fresh, Event::CellInstalled { cell, spec }) {
            let Command::Call { id, call, .. } = command else { continue };
            let answer = match call {
                Call::IdentifySequencer => {
                    self.sequencer_id.clone().map(|chain_id| Answer::SequencerIdentified { chain_id })
                }
                Call::FetchCelestiaHead => self.celestia_head.clone().map(|head| Answer::CelestiaHeadFetched { head }),
                Call::OpenSession { .. } => Some(Answer::SessionOpened { session: Box::new(session.clone()) }),
                _ => None,
            };
            if let Some(answer) = answer {
                tell(&mut fresh, Event::Answered { id, answer });
            }
        }
        // With the genesis alone, of which nothing follows any more, a process without a server would give up.
        let is_too_old = fresh.status(at).cells.get(&cell).is_some_and(|cell| cell.phase == Phase::Parked);
        if !is_too_old && fresh.session_digest(cell) != conductor.session_digest(cell) {
            let detail = format!("{} began in {cell} in another state than in a new process", session.session_id);
            self.broken("S14", detail);
        }
    }

    /// What explains that a run did not arrive: the invariant to name.
    pub fn stalled(&self, conductor: &Conductor, now: Timestamp, world: &World) -> &'static str {
        let status = conductor.status(now);
        let follows_firm = self.mode.follows_firm();
        let of_rollup = self.open.values().filter(|open| rollup_of(&open.call).is_some());
        let overdue = of_rollup.filter(|open| open.deadline < now).count();
        let sequencer = status.sequencer.head.is_none_or(|head| head.plus(10) < world.sequencer.head());
        let celestia = status.celestia.head.is_none_or(|head| head.plus(10) < world.celestia.head());
        if status.sequencer.chain_id.is_none() || (follows_firm && status.celestia.chain_id.is_none()) {
            "L10"
        } else if overdue > 0 {
            "L3"
        } else if sequencer || (follows_firm && celestia) {
            "L6"
        } else if follows_firm {
            "L1"
        } else {
            "L2"
        }
    }

    /// L2 where firm is followed as well: a rollup that follows new blocks without faults for so long has led with soft.
    /// What lies on Celestia by then may be caught up with before that. `healthy` is how long the world has had no faults,
    /// `now` what the conductor's clock shows.
    pub fn arrived(
        &self,
        healthy: Duration,
        now: Timestamp,
        world: &World,
        excused: impl Fn(CellId) -> bool,
    ) -> Result<(), Violation> {
        let long = self.limits.fetch_deadline * SOFT_LEADS_WITHIN;
        if self.mode != Mode::SoftAndFirm || healthy < long {
            return Ok(());
        }
        for (index, id) in (0..).zip(world.node_ids()) {
            let cell = CellId(index);
            let undisturbed = self.disturbed.get(&cell).is_none_or(|at| now.since(*at) >= long);
            if undisturbed && !self.soft_moves.contains_key(&cell) && !excused(cell) {
                return Err(Violation::new("L2", format!("rollup {id} never had a soft block before its firm one")));
            }
        }
        Ok(())
    }
}

fn height_of(header: &Header) -> SequencerHeight {
    SequencerHeight(header.height.value())
}

/// The hash of the header before.
fn parent_of(header: &Header) -> Option<tendermint::Hash> {
    header.last_block_id.map(|parent| parent.hash)
}

fn timestamp(time: Time) -> Timestamp {
    u64::try_from(time.unix_timestamp_nanos()).map_or(Timestamp::ZERO, Timestamp)
}

type Names<'a> = ((u64, &'a str), (u64, &'a str), u64);

/// Numbers and hashes of both heads, and the search height.
fn names(state: &CommitmentState) -> Names<'_> {
    fn name(block: Option<&ExecutedBlockMetadata>) -> (u64, &str) {
        block.map_or((0, ""), |block| (block.number, &block.hash))
    }
    let (soft, firm) = (state.soft_executed_block_metadata.as_ref(), state.firm_executed_block_metadata.as_ref());
    (name(soft), name(firm), state.lowest_celestia_search_height)
}

/// What a rollup says of a block against what it must be.
fn contradiction(block: &ExecutedBlockMetadata, number: u64, parent: Option<&str>, made_from: &str) -> Option<String> {
    let says = block.sequencer_block_hash.trim_start_matches("0x");
    if block.number != number {
        Some(format!("block {} instead of {number}", block.number))
    } else if block.timestamp.is_none() {
        Some("no time".to_owned())
    } else if parent.is_some_and(|parent| parent != block.parent_hash) {
        Some(format!("parent {:?} instead of {parent:?}", block.parent_hash))
    } else if !says.is_empty() && !says.eq_ignore_ascii_case(made_from) {
        Some(format!("made from {says}, not from {made_from}"))
    } else {
        None
    }
}

/// Whether distinct validators of the model's own set at `height` have really signed this, with more than two thirds of
/// the power. What they sign is compared with what they signed, which is known here.
fn has_quorum(signed: &SignedHeader, height: SequencerHeight, world: &World) -> bool {
    let Some(block) = world.sequencer.block(height) else { return false };
    if block.signed_header.header != signed.header || block.signed_header.commit.block_id != signed.commit.block_id {
        return false;
    }
    let votes = |vote: &CommitSig| match vote {
        CommitSig::BlockIdFlagCommit { validator_address, .. } => Some(*validator_address),
        _ => None,
    };
    let genuine = &block.signed_header.commit.signatures;
    let shown = signed.commit.signatures.iter().filter(|vote| genuine.contains(vote));
    let signers: BTreeSet<_> = shown.filter_map(votes).collect();
    let members = block.validators.members();
    let total: u128 = members.iter().map(|member| u128::from(member.power)).sum();
    let counted =
        members.iter().filter(|member| signers.contains(&member.address)).map(|member| u128::from(member.power));
    3 * counted.sum::<u128>() > 2 * total
}

fn parks(command: &Command, of: CellId) -> bool {
    matches!(command, Command::Report(Report::Parked { cell, .. }) if *cell == of)
}

fn executes(command: &Command, of: CellId) -> bool {
    matches!(command, Command::Call { call: Call::ExecuteBlock { cell, .. }, .. } if *cell == of)
}

/// The first characters of what a call looks like.
fn beginning(call: &Call, length: usize) -> String {
    format!("{call:?}").chars().take(length).collect()
}

fn rollup_of(call: &Call) -> Option<CellId> {
    match group_of(call) {
        Group::Rollup(cell) => Some(cell),
        _ => None,
    }
}

fn group_of(call: &Call) -> Group {
    match call {
        Call::IdentifySequencer => Group::Identity,
        Call::FetchSequencerHead => Group::Head,
        Call::FetchSoftBlock { .. } => Group::Soft,
        Call::FetchSignedHeader { .. } => Group::Header,
        Call::FetchHeaders { .. } => Group::Links,
        Call::FetchValidators { .. } => Group::Validators,
        Call::FetchBlockTransactions { .. } => Group::BlockData,
        Call::FetchCelestiaHead => Group::CelestiaHead,
        Call::FetchBlobs { .. } | Call::FetchNamespaces { .. } => Group::Blobs,
        Call::FetchCelestiaHeader { .. } => Group::CelestiaHeader,
        Call::FetchCelestiaHeaders { .. } => Group::CelestiaLinks,
        Call::FetchFromPeers { .. } => Group::Peers,
        Call::OpenSession { cell }
        | Call::ExecuteBlock { cell, .. }
        | Call::UpdateCommitment { cell, .. }
        | Call::FetchExecutedBlock { cell, .. } => Group::Rollup(*cell),
    }
}

/// The height or number that a call names.
fn number_of(call: &Call) -> u64 {
    match call {
        Call::FetchSoftBlock { height, .. }
        | Call::FetchSignedHeader { height }
        | Call::FetchValidators { height }
        | Call::FetchBlockTransactions { height }
        | Call::FetchFromPeers { height, .. }
        | Call::FetchHeaders { last: height, .. } => height.0,
        Call::FetchBlobs { height, .. }
        | Call::FetchNamespaces { height, .. }
        | Call::FetchCelestiaHeader { height }
        | Call::FetchCelestiaHeaders { last: height, .. } => height.0,
        Call::FetchExecutedBlock { number, .. } => number.0,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use downbeat_world::{SequencerConfig, WorldConfig};

    use super::*;

    #[test]
    fn three_of_five_are_no_quorum_and_nobody_counts_twice() {
        let sequencer = SequencerConfig { validators: vec![1; 5], ..SequencerConfig::default() };
        let mut world = World::new(WorldConfig { sequencer, ..WorldConfig::default() });
        world.step(world.now().after(Duration::from_secs(5)));
        let height = SequencerHeight(4);
        let signed = world.sequencer.signed_header(height).expect("a block").clone();
        let without = |count: usize| {
            let mut signed = signed.clone();
            signed.commit.signatures[..count].fill(CommitSig::BlockIdFlagAbsent);
            signed
        };
        assert!(has_quorum(&signed, height, &world) && has_quorum(&without(1), height, &world));
        assert!(!has_quorum(&without(2), height, &world));
        let mut repeated = without(2);
        repeated.commit.signatures[0] = repeated.commit.signatures[4].clone();
        assert!(!has_quorum(&repeated, height, &world));
        let mut other = signed.clone();
        other.header.data_hash = None;
        assert!(!has_quorum(&other, height, &world), "another header");
        assert!(!has_quorum(&signed, height.next(), &world), "another height");
    }

    #[test]
    fn a_reply_is_held_against_what_was_asked() {
        let block = ExecutedBlockMetadata {
            number: 7,
            parent_hash: "p".to_owned(),
            timestamp: Some(downbeat_world::cometbft::wire_time(Timestamp(1))),
            sequencer_block_hash: "0xAB".to_owned(),
            ..ExecutedBlockMetadata::default()
        };
        assert_eq!(contradiction(&block, 7, Some("p"), "ab"), None);
        assert!(contradiction(&block, 8, Some("p"), "ab").is_some());
        assert!(contradiction(&block, 7, Some("q"), "ab").is_some());
        assert!(contradiction(&block, 7, Some("p"), "ac").is_some());
        let silent = ExecutedBlockMetadata { sequencer_block_hash: String::new(), ..block };
        assert_eq!(contradiction(&silent, 7, None, "ac"), None, "a node need not keep the sequencer's hash");
    }
}
