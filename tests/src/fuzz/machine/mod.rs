//! The state machine: bytes become a sequence of events, and after each one the promises are looked at.
//!
//! The peers are the model world's, told by the input to fail, to lie, to answer late, twice or out of turn. A byte 0
//! means that the oldest wish is fulfilled as it should be, so that short inputs already get somewhere.

mod checks;
mod lies;
mod model;
mod peers;

use std::{collections::BTreeMap, time::Duration};

use arbitrary::Unstructured;
use downbeat_core::{
    Answer, Call, CellId, Command, CommandId, Conductor, Event, Fault, FaultClass, Job, JobOutcome, Limits, Outbox,
    Record, Report, RollupId, Seq, Stamped, Timestamp,
    cell::{CellSpec, Mode},
    wire::proto::astria::execution::v2::ExecuteBlockRequest,
};
use downbeat_world::RollupNode;

use self::{checks::Heads, model::Model};

/// Events of one run, so that no input takes long.
const EVENTS_MAX: usize = 400;

/// What the conductor wished for and waits for.
#[derive(Debug)]
enum Wish {
    Call { deadline: Timestamp, call: Call },
    Job(Job),
}

/// A conductor among its peers.
struct Run<'a> {
    model: &'a Model,
    limits: Limits,
    seed: [u8; 32],
    conductor: Conductor,
    nodes: BTreeMap<CellId, RollupNode>,
    specs: BTreeMap<CellId, CellSpec>,
    seq: u64,
    now: Timestamp,
    pending: BTreeMap<CommandId, Wish>,
    /// Commands that were answered or cancelled, the newest last.
    settled: Vec<CommandId>,
    /// All that was delivered, to be replayed.
    history: Vec<Stamped>,
    /// Command ids so far: incarnation and next ordinal.
    ids: Option<(u64, u64)>,
    told_sequencer: bool,
    told_celestia: bool,
    /// Of each cell's session.
    heads: BTreeMap<CellId, Heads>,
    sessions: BTreeMap<CellId, String>,
    /// The block that is being executed, and those that were, by hash.
    executing: BTreeMap<CellId, ExecuteBlockRequest>,
    executed: BTreeMap<(CellId, String), ExecuteBlockRequest>,
    has_exited: bool,
    /// A peer that is believed told a lie: what follows need not be the model's chain.
    is_misled: bool,
    /// A soft block was not the genuine one. Only its commit could tell.
    has_lied_softly: bool,
    /// Somebody answered something else than the truth.
    has_lied: bool,
    /// The limits refuse what is longer than a test's data, whoever sends it.
    is_narrow: bool,
    told: peers::Told,
}

/// The first bytes choose limits and cells; each further one is what happens next.
pub fn state_machine(data: &[u8]) {
    Model::with(|model| {
        let mut input = Unstructured::new(data);
        let Ok(setup) = input.arbitrary::<[u8; 3]>() else { return };
        let mut limits = lies::limits(setup[0], &mut input);
        if setup[1] & 0x80 != 0 {
            peers::switch_on(&mut limits, &model.world, setup[0] & 0x20 != 0);
        }
        let specs =
            (0..=u32::from(setup[1] >> 6 & 1)).map(|cell| (CellId(cell), spec(setup[1] >> (cell * 3)))).collect();
        let mut run = Run::new(model, limits, specs, [setup[2]; 32]);
        while !input.is_empty() && run.history.len() < EVENTS_MAX && !run.has_exited {
            run.happen(&mut input);
        }
        run.check_replay();
    });
}

/// Follows the model world for a while, with peers that do what they should.
pub(super) fn follows(limits: Limits, spec: CellSpec) {
    Model::with(|model| {
        let mut run = Run::new(model, limits, [(CellId(0), spec)].into(), [0; 32]);
        run.go_on(80);
    });
}

/// The events of such a run, the first of which installs a cell.
pub(super) fn history(seed: [u8; 32], steps: usize) -> Vec<Stamped> {
    let mut history = Vec::new();
    Model::with(|model| {
        let mut run = Run::new(model, Limits::default(), [(CellId(0), spec(0))].into(), seed);
        run.go_on(steps);
        history = run.history;
    });
    history
}

fn spec(choice: u8) -> CellSpec {
    let mode = [Mode::SoftAndFirm, Mode::SoftOnly, Mode::FirmOnly, Mode::SoftAndFirm][usize::from(choice & 3)];
    let expected = (choice & 4 != 0).then(|| model::SEQUENCER.to_owned());
    CellSpec { mode, expected_sequencer_chain_id: expected, expected_celestia_chain_id: None }
}

impl<'a> Run<'a> {
    fn new(model: &'a Model, limits: Limits, specs: BTreeMap<CellId, CellSpec>, seed: [u8; 32]) -> Self {
        let mut run = Self {
            conductor: Conductor::new(limits.clone(), seed, &[]),
            nodes: specs.iter().map(|(cell, spec)| (*cell, model.node(*cell, spec.mode))).collect(),
            model,
            // Without a server the operator has said which chain it is.
            told_sequencer: limits.gossip.sole_source_of.is_some(),
            is_narrow: limits.validators < Limits::default().validators,
            limits,
            seed,
            specs: specs.clone(),
            seq: 0,
            now: model.start(),
            pending: BTreeMap::new(),
            settled: Vec::new(),
            history: Vec::new(),
            ids: None,
            told_celestia: false,
            heads: BTreeMap::new(),
            sessions: BTreeMap::new(),
            executing: BTreeMap::new(),
            executed: BTreeMap::new(),
            has_exited: false,
            is_misled: false,
            has_lied_softly: false,
            has_lied: false,
            told: peers::Told::default(),
        };
        for (cell, spec) in specs {
            run.deliver(Event::CellInstalled { cell, spec });
        }
        run
    }

    /// What the next byte says.
    fn happen(&mut self, input: &mut Unstructured<'_>) {
        let choice: u8 = input.arbitrary().unwrap_or_default();
        let id = self.pick(choice >> 4);
        match choice & 15 {
            0 => self.fulfil(id),
            1 => self.wait(),
            2 => {
                // Any moment before or after the deadline.
                let millis: u16 = input.arbitrary().unwrap_or_default();
                self.now = self.now.after(Duration::from_millis(millis.into()));
                self.deliver(Event::DeadlineReached);
            }
            3 => self.fail(id, input),
            4 => {
                let answer = lies::any_answer(input);
                let id = id.or(self.settled.last().copied()).unwrap_or(CommandId { incarnation: 0, ordinal: 0 });
                // Where it happens to be of the right kind it is a lie.
                (self.is_misled, self.has_lied) = (true, true);
                self.deliver(Event::Answered { id, answer });
            }
            5 | 6 => self.lie(id, input),
            7 => self.speak_out_of_turn(choice >> 4, input),
            8 => {
                // The effect without its answer.
                if let Some(id) = id {
                    self.perform(id);
                    self.fail(Some(id), input);
                }
            }
            9 => {
                let node = self.nodes.values_mut().nth(usize::from(choice >> 5 & 1) % self.specs.len());
                match (node, choice & 16) {
                    (Some(node), 0) => node.restart(),
                    (Some(node), _) => node.revoke_session(),
                    (None, _) => {}
                }
            }
            10 => {
                let wrong = Stamped {
                    seq: Seq(self.seq.wrapping_add(u64::from(choice >> 4)).wrapping_add(1)),
                    at: self.now,
                    event: Event::StopRequested,
                };
                let (before, mut out) = (self.conductor.state_hash(), Outbox::new());
                assert!(self.conductor.handle(&wrong, &mut out).is_err() && out.is_empty());
                assert_eq!(self.conductor.state_hash(), before, "an event out of sequence had an effect");
            }
            11 => {
                let cell = CellId(u32::from(choice >> 4));
                let spec = spec(choice >> 4);
                if cell.0 < 3 {
                    self.deliver(Event::CellInstalled { cell, spec: spec.clone() });
                }
            }
            13 if self.limits.gossip.enabled => self.gossip(choice >> 4, input),
            12 if choice == 0xcc => self.deliver(Event::StopRequested),
            _ => self.go_on(usize::from(choice >> 4) + 1),
        }
    }

    fn pick(&self, place: u8) -> Option<CommandId> {
        let place = usize::from(place) % self.pending.len().max(1);
        self.pending.keys().nth(place).copied()
    }

    /// `steps` of a healthy world.
    fn go_on(&mut self, steps: usize) {
        for _ in 0..steps {
            if self.has_exited {
                return;
            }
            self.fulfil(self.pick(0));
        }
    }

    /// Does what the wish asks for, or waits where there is none.
    fn fulfil(&mut self, id: Option<CommandId>) {
        match id.and_then(|id| Some((id, self.perform(id)?))) {
            Some((_, event)) => self.deliver(event),
            None => self.wait(),
        }
    }

    /// The peer's side of a wish.
    fn perform(&mut self, id: CommandId) -> Option<Event> {
        Some(match self.pending.get(&id)? {
            Wish::Call { call, .. } => {
                let call = call.clone();
                match self.model.answer(call, &mut self.nodes) {
                    Ok(answer) => Event::Answered { id, answer },
                    Err(fault) => Event::Failed { id, fault },
                }
            }
            Wish::Job(job) => Event::JobFinished { id, outcome: job.clone().run() },
        })
    }

    /// Time passes until something falls due.
    fn wait(&mut self) {
        let call_in = self.conductor.next_deadline().map(|(at, _)| at);
        self.now = call_in.map_or(self.now.after(Duration::from_secs(1)), |at| at.max(self.now));
        self.deliver(Event::DeadlineReached);
    }

    fn fail(&mut self, id: Option<CommandId>, input: &mut Unstructured<'_>) {
        const CLASSES: [FaultClass; 6] = [
            FaultClass::Transient,
            FaultClass::NotYet,
            FaultClass::Gone,
            FaultClass::Invalid,
            FaultClass::SessionLost,
            FaultClass::Fatal,
        ];
        let class: u8 = input.arbitrary().unwrap_or_default();
        let Some(id) = id.or(self.settled.last().copied()) else { return };
        let fault = Fault::new(CLASSES[usize::from(class) % CLASSES.len()], "of the input");
        self.deliver(Event::Failed { id, fault });
    }

    /// Answers with something near the truth. Jobs are pure functions of ours and never lie.
    fn lie(&mut self, id: Option<CommandId>, input: &mut Unstructured<'_>) {
        let Some(id) = id else { return self.wait() };
        let Some(Wish::Call { call, .. }) = self.pending.get(&id) else { return self.fulfil(Some(id)) };
        let call = call.clone();
        let truth = self.model.answer(call.clone(), &mut self.nodes);
        let Ok(answer) = truth else { return self.fulfil(Some(id)) };
        self.is_misled |= lies::misleads(&call);
        self.has_lied = true;
        self.has_lied_softly |= matches!(call, Call::FetchSoftBlock { .. });
        let answer = lies::twist(answer, &call, self.model, input);
        self.deliver(Event::Answered { id, answer });
    }

    /// Answers to what nobody asked, or has been answered.
    fn speak_out_of_turn(&mut self, choice: u8, input: &mut Unstructured<'_>) {
        let settled = self.settled.iter().rev().nth(usize::from(choice >> 2)).copied();
        let id = settled.unwrap_or(CommandId { incarnation: 1, ordinal: u64::from(choice) });
        // Time passes meanwhile, past the deadline even.
        let millis: u16 = input.arbitrary().unwrap_or_default();
        self.now = self.now.after(Duration::from_millis(millis.into()));
        let event = match choice & 3 {
            0 => Event::Answered { id, answer: lies::any_answer(input) },
            1 => Event::Failed { id, fault: Fault::transient("late") },
            2 => Event::JobFinished { id, outcome: JobOutcome::SoftBlock(Err("late".to_owned())) },
            // A job's result for a call, or a result of another kind.
            _ => Event::JobFinished {
                id: self.pick(choice).unwrap_or(id),
                outcome: JobOutcome::Transactions(Err("of another kind".to_owned())),
            },
        };
        self.deliver(event);
    }

    /// Hands an event to the conductor and looks at everything that must hold.
    fn deliver(&mut self, event: Event) {
        let is_expected = self.is_expected(&event);
        if !is_expected && !matches!(event, Event::DeadlineReached) {
            // A refused event lets time pass as well. What follows from that is not to be mistaken for its effect.
            self.deliver(Event::DeadlineReached);
            if self.has_exited {
                return;
            }
        }
        let before = (!is_expected).then(|| checks::without_seq(&self.conductor, self.seq));
        let settled = match &event {
            Event::Answered { id, .. } | Event::Failed { id, .. } | Event::JobFinished { id, .. } if is_expected => {
                Some(*id)
            }
            _ => None,
        };
        self.learn(&event, is_expected);
        let stamped = Stamped { seq: Seq(self.seq), at: self.now, event };
        let mut out = Outbox::new();
        let result = self.conductor.handle(&stamped, &mut out);
        self.seq += 1;
        assert_eq!(result.is_ok(), is_expected, "{result:?} to {:?}", stamped.event);
        if let Some(before) = before {
            assert!(out.is_empty(), "a refused event had the effect {out:?}");
            assert_eq!(
                before,
                checks::without_seq(&self.conductor, self.seq),
                "a refused event changed the state (S4)"
            );
        }
        self.history.push(stamped);
        if let Some(id) = settled {
            self.settle(id);
        }
        for command in out.drain() {
            assert!(!self.has_exited, "{command:?} after the exit (L9)");
            match command {
                Command::Call { id, deadline, call, .. } => {
                    self.check_id(id);
                    self.check_call(&call, deadline);
                    self.pending.insert(id, Wish::Call { deadline, call });
                }
                Command::Verify { id, job } => {
                    self.check_id(id);
                    self.pending.insert(id, Wish::Job(job));
                }
                Command::Cancel { id } => {
                    assert!(self.pending.contains_key(&id), "{id:?} is cancelled and was not waited for");
                    self.settle(id);
                }
                // The reports that say everything; how much that may be, their own tests say.
                Command::Report(Report::FalseNamespaces { .. } | Report::FalseBlock { .. }) => {}
                Command::Report(report) => {
                    let length = format!("{report:?}").len();
                    assert!(length < 16_384, "a report of {length} bytes");
                }
                Command::Persist { records } => {
                    for record in records {
                        match record {
                            Record::SequencerHeader(_) | Record::CelestiaHeader(_) => {}
                            // Anybody can answer falsely.
                            Record::FalseNamespaces(evidence) => drop(evidence.verify(&self.limits).expect("evidence")),
                            Record::FalseBlock(evidence) => drop(evidence.verify(&self.limits).expect("evidence")),
                            // Nobody has the validators' keys.
                            Record::SequencerConflict(_) => panic!("evidence"),
                        }
                    }
                }
                Command::Exit(_) => self.has_exited = true,
                Command::JudgeGossip { handle, verdict } => self.check_verdict(handle, &verdict),
                Command::PublishGossip { message, .. } => self.check_publication(&message),
                Command::PenalizePeer { peer, .. } => self.check_penalty(peer),
            }
        }
        self.check();
    }

    /// Whether the conductor has to take the event.
    fn is_expected(&self, event: &Event) -> bool {
        match event {
            Event::CellInstalled { cell, .. } => {
                !self.specs_installed().any(|known| known == *cell)
                    && self.specs_installed().count() < self.limits.cells
            }
            Event::DeadlineReached | Event::StopRequested | Event::Gossiped { .. } => true,
            Event::Answered { id, answer } => match self.pending.get(id) {
                Some(Wish::Call { call, .. }) => call.is_answered_by(answer),
                _ => false,
            },
            Event::Failed { id, .. } => matches!(self.pending.get(id), Some(Wish::Call { .. })),
            Event::JobFinished { id, outcome } => match self.pending.get(id) {
                Some(Wish::Job(job)) => matches!(
                    (job, outcome),
                    (Job::VerifySoftBlock { .. }, JobOutcome::SoftBlock(_))
                        | (Job::VerifyHeader { .. }, JobOutcome::Header(_))
                        | (Job::VerifyLinks { .. }, JobOutcome::Links(_))
                        | (Job::VerifyTransactions { .. }, JobOutcome::Transactions(_))
                        | (Job::DecodeBlobs(_), JobOutcome::Blobs(_))
                        | (Job::VerifyGossip(_), JobOutcome::Gossip(_))
                        | (Job::MakeGossip(_), JobOutcome::Messages(_))
                        | (Job::CompareWitness { .. }, JobOutcome::Witness(_))
                        | (Job::VerifyCelestiaHeaders(_), JobOutcome::CelestiaHeaders(_))
                        | (Job::ProveFalseBlock(_), JobOutcome::FalseBlock(_))
                ),
                _ => false,
            },
        }
    }

    fn specs_installed(&self) -> impl Iterator<Item = CellId> {
        self.conductor.status(self.now).cells.into_keys()
    }

    /// What the event tells the conductor, before it is told.
    fn learn(&mut self, event: &Event, is_expected: bool) {
        let Event::Answered { id, answer } = event else { return };
        let Some(Wish::Call { call, .. }) = self.pending.get(id).filter(|_| is_expected) else { return };
        match (call, answer) {
            (_, Answer::SequencerIdentified { .. }) => self.told_sequencer = true,
            (_, Answer::CelestiaHeadFetched { .. }) => self.told_celestia = true,
            (Call::OpenSession { cell }, Answer::SessionOpened { session }) => {
                self.sessions.insert(*cell, session.session_id.clone());
                self.heads.remove(cell);
            }
            (Call::ExecuteBlock { cell, .. }, Answer::BlockExecuted { response }) => {
                let request = self.executing.remove(cell);
                if let (Some(request), Some(metadata)) = (request, &response.executed_block_metadata) {
                    self.executed.insert((*cell, metadata.hash.clone()), request);
                }
            }
            _ => {}
        }
    }

    fn settle(&mut self, id: CommandId) {
        self.pending.remove(&id);
        self.settled.push(id);
        if self.settled.len() > 16 {
            self.settled.remove(0);
        }
    }

    fn rollup(&self, cell: CellId) -> RollupId {
        self.model.rollup(cell)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_alone_lead_to_the_end_of_the_chain_as_well() {
        for is_alone in [false, true] {
            Model::with(|model| {
                let mut limits = Limits::default();
                peers::switch_on(&mut limits, &model.world, is_alone);
                let mut run = Run::new(model, limits, [(CellId(0), spec(1))].into(), [0; 32]);
                let none = &mut Unstructured::new(&[]);
                for byte in 0..40_u8 {
                    run.gossip(0, &mut Unstructured::new(&[byte, 0]));
                    run.gossip(0, &mut Unstructured::new(&[byte, 1]));
                    run.gossip(7, none);
                    run.go_on(8);
                }
                run.check_replay();
                assert_eq!(run.heads[&CellId(0)].numbers().0, model.world.sequencer.head().0);
                let won = run.conductor.status(run.now).gossip.expect("it is on").counts.won;
                assert_eq!(won.contains_key(&downbeat_core::gossip::Source::Server), !is_alone, "{won:?}");
            });
        }
    }

    #[test]
    fn a_healthy_world_is_followed_to_its_end() {
        for mode in [Mode::SoftOnly, Mode::FirmOnly, Mode::SoftAndFirm] {
            Model::with(|model| {
                let spec = CellSpec { mode, expected_sequencer_chain_id: None, expected_celestia_chain_id: None };
                let mut run = Run::new(model, Limits::default(), [(CellId(0), spec)].into(), [0; 32]);
                run.go_on(EVENTS_MAX);
                run.check_replay();
                let (soft, firm) = run.heads[&CellId(0)].numbers();
                if mode.follows_soft() {
                    assert_eq!(soft, model.world.sequencer.head().0, "{mode:?}");
                }
                if mode.follows_firm() {
                    assert_eq!(firm, model.world.relayer.next().0 - 1, "{mode:?}");
                }
            });
        }
    }
}
