//! Turns steps into a timeline: pairs commands with their answers and keeps what fits.

use std::collections::{BTreeMap, VecDeque};

use downbeat_core::{Command, CommandId, Conductor, Event, Refusal, Report, Stamped, Timestamp, view::Status};
use serde_json::Value;

use super::{
    Actor, Band, Change, Deadline, HeadPoint, Heads, Message, Note, Outcome, ReportLine, Step, StepKind, Timeline,
    Violation,
    describe::{self, TEXT_MAX, cut},
};

/// Steps that are kept unless [`Builder::keep`] says otherwise.
const KEEP: usize = 10_000;

/// Longest label, in bytes.
const LABEL_MAX: usize = 80;

/// Longest command, in bytes: it may hold a whole scenario in one word, and is of no use when cut.
const COMMAND_MAX: usize = 16_384;

/// Violations that are kept; one is what a run normally ends with.
const VIOLATIONS_MAX: usize = 100;

/// Which half of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leg {
    /// The peer never saw it.
    Request,
    /// The peer acted, and the conductor never heard of it.
    Reply,
}

/// Collects a [`Timeline`]. What it holds is bounded by the number of steps that it keeps, the newest.
///
/// Numbers of steps, messages and reports count from the beginning of the run until [`Builder::build`] turns them
/// into positions.
#[derive(Clone, Debug)]
pub struct Builder {
    timeline: Timeline,
    keep: usize,
    start: Option<Timestamp>,
    steps: VecDeque<Step>,
    /// Steps at the beginning that were dropped.
    first_step: usize,
    messages: BTreeMap<usize, Message>,
    next_message: usize,
    /// Messages by their ids, also those that have ended.
    numbers: BTreeMap<CommandId, usize>,
    ids: BTreeMap<usize, CommandId>,
    lost: BTreeMap<usize, Leg>,
    deadlines: VecDeque<Deadline>,
    reports: VecDeque<ReportLine>,
    first_report: usize,
    faults: VecDeque<Band>,
    notes: VecDeque<Note>,
    heads: BTreeMap<(Actor, String), VecDeque<HeadPoint>>,
    fields: BTreeMap<String, usize>,
    /// The state after the last step, and the one before the first that was kept.
    state: BTreeMap<usize, Value>,
    base: BTreeMap<usize, Value>,
}

impl Builder {
    /// `command` is what to type to see the run again.
    pub fn new(title: impl Into<String>, command: impl Into<String>) -> Self {
        Self {
            timeline: Timeline {
                title: cut(title.into(), TEXT_MAX),
                command: cut(command.into(), COMMAND_MAX),
                ..Timeline::default()
            },
            keep: KEEP,
            start: None,
            steps: VecDeque::new(),
            first_step: 0,
            messages: BTreeMap::new(),
            next_message: 0,
            numbers: BTreeMap::new(),
            ids: BTreeMap::new(),
            lost: BTreeMap::new(),
            deadlines: VecDeque::new(),
            reports: VecDeque::new(),
            first_report: 0,
            faults: VecDeque::new(),
            notes: VecDeque::new(),
            heads: BTreeMap::new(),
            fields: BTreeMap::new(),
            state: BTreeMap::new(),
            base: BTreeMap::new(),
        }
    }

    /// Keeps the last `steps` steps, at least one; and as many faults, notes and points of each head.
    pub fn keep(mut self, steps: usize) -> Self {
        self.keep = steps.max(1);
        self
    }

    /// Takes what the conductor was given, what it said to it, and what it wished for. To be called after
    /// [`Conductor::handle`], before the next event. An event whose number does not grow begins a new life.
    pub fn step<'a>(
        &mut self,
        input: &Stamped,
        result: &Result<(), Refusal>,
        commands: impl IntoIterator<Item = &'a Command>,
        conductor: &Conductor,
    ) {
        // A restarted conductor may read a clock that went back; the time line does not.
        let at = self.moment(input.at).max(self.steps.back().map_or(0, |last| last.at));
        let number = self.first_step + self.steps.len();
        let life = match self.steps.back() {
            Some(last) if input.seq.0 <= last.seq && !matches!(result, Err(Refusal::OutOfSequence { .. })) => {
                last.life.saturating_add(1)
            }
            Some(last) => last.life,
            None => 0,
        };
        let status = conductor.status(input.at);
        let (kind, label, detail) = describe::event(&input.event);
        let mut step = Step {
            life,
            seq: input.seq.0,
            at,
            kind,
            label,
            detail,
            message: None,
            refused: result.as_ref().err().map(|refusal| cut(refusal.to_string(), TEXT_MAX)),
            sends: Vec::new(),
            gives_up: Vec::new(),
            reports: Vec::new(),
            exit: None,
            changes: Vec::new(),
        };
        if self.steps.back().is_some_and(|last| last.life != life) {
            self.leave_behind(number, &mut step);
        }
        self.take_answer(number, &input.event, &mut step);
        if kind == StepKind::Deadline
            && let Some(due) = self.deadlines.back().filter(|due| due.at.is_some_and(|due| due <= at))
        {
            step.label.clone_from(&due.reason);
        }
        for command in commands {
            self.take_command(number, command, &status, &mut step);
        }
        step.changes = self.take_state(&status, conductor.in_flight());
        self.take_heads(at, &status);
        self.take_deadline(number, conductor);
        step.label = cut(step.label, LABEL_MAX);
        step.detail = cut(step.detail, TEXT_MAX);
        self.steps.push_back(step);
        self.forget();
    }

    /// The peer acted on a call at this moment.
    pub fn arrived(&mut self, id: CommandId, at: Timestamp) {
        let at = self.moment(at);
        if let Some(message) = self.message(id) {
            message.arrived_at = Some(at);
        }
    }

    /// The network lost a call or its answer.
    pub fn lost(&mut self, id: CommandId, leg: Leg) {
        if let Some(number) = self.numbers.get(&id) {
            self.lost.insert(*number, leg);
        }
    }

    /// Something was wrong with an actor. `to` equals `from` for what happened in one moment, and is absent for what
    /// lasts until [`Builder::fault_over`], or until the end.
    pub fn fault(&mut self, kind: &str, actor: Actor, from: Timestamp, to: Option<Timestamp>, detail: &str) {
        self.band(kind, actor, false, (from, to), detail);
    }

    /// The same for the link between the conductor and an actor.
    pub fn link_fault(&mut self, kind: &str, actor: Actor, from: Timestamp, to: Option<Timestamp>, detail: &str) {
        self.band(kind, actor, true, (from, to), detail);
    }

    /// Ends the newest fault of this kind and actor that has no end yet.
    pub fn fault_over(&mut self, kind: &str, actor: Actor, at: Timestamp) {
        let at = self.moment(at);
        let is_it = |band: &&mut Band| band.to.is_none() && band.actor == actor && band.kind == kind;
        if let Some(band) = self.faults.iter_mut().rev().find(is_it) {
            band.to = Some(at.max(band.from));
        }
    }

    /// The head of an actor moved, as the world knows it. What the conductor believes is read from its status.
    pub fn head(&mut self, actor: Actor, name: &str, at: Timestamp, value: u64) {
        let at = self.moment(at);
        self.point(actor, name, at, Some(value));
    }

    /// A remark on a lane, such as a block that was made.
    pub fn note(&mut self, actor: Actor, at: Timestamp, text: &str) {
        let at = self.moment(at);
        self.notes.push_back(Note { actor, at, text: cut(text.to_owned(), TEXT_MAX) });
        if self.notes.len() > self.keep {
            self.notes.pop_front();
        }
    }

    /// A promise was broken.
    pub fn violation(&mut self, invariant: &str, text: &str, at: Timestamp) {
        let at = self.moment(at);
        if self.timeline.violations.len() < VIOLATIONS_MAX {
            let (invariant, text) = (cut(invariant.to_owned(), LABEL_MAX), cut(text.to_owned(), 16 * TEXT_MAX));
            self.timeline.violations.push(Violation { invariant, text, at });
        }
    }

    /// Everything so far.
    pub fn build(&self) -> Timeline {
        let first = self.first_step;
        let step = |number: usize| number.checked_sub(first);
        let positions: BTreeMap<usize, usize> =
            self.messages.keys().enumerate().map(|(index, number)| (*number, index)).collect();
        let places = |numbers: &[usize]| numbers.iter().filter_map(|number| positions.get(number).copied()).collect();
        let mut timeline = self.timeline.clone();
        timeline.start = self.start.unwrap_or_default().0.to_string();
        timeline.omitted = u64::try_from(first).unwrap_or(u64::MAX);
        timeline.steps = self.steps.iter().cloned().collect();
        for step in &mut timeline.steps {
            step.message = step.message.and_then(|number| positions.get(&number).copied());
            step.sends = places(&step.sends);
            step.gives_up = places(&step.gives_up);
            step.reports = step.reports.iter().filter_map(|number| number.checked_sub(self.first_report)).collect();
        }
        for (number, message) in &self.messages {
            let mut message = message.clone();
            message.sent_by = message.sent_by.and_then(step);
            message.ended_by = message.ended_by.and_then(step);
            if message.outcome == Outcome::Open && self.lost.contains_key(number) {
                message.outcome = Outcome::Lost;
                message.answer = self.why_lost(*number);
            }
            timeline.messages.push(message);
        }
        timeline.deadlines = self
            .deadlines
            .iter()
            .map(|deadline| Deadline { step: deadline.step.saturating_sub(first), ..deadline.clone() })
            .collect();
        timeline.reports = self
            .reports
            .iter()
            .map(|line| ReportLine { step: line.step.saturating_sub(first), ..line.clone() })
            .collect();
        let begin = if first == 0 { 0 } else { timeline.steps.first().map_or(0, |step| step.at) };
        timeline.faults = self.faults.iter().filter(|band| band.to.is_none_or(|to| to >= begin)).cloned().collect();
        timeline.notes = self.notes.iter().filter(|note| note.at >= begin).cloned().collect();
        for ((actor, name), points) in &self.heads {
            // The last value before the first step still holds when it comes.
            let from = points.partition_point(|point| point.0 <= begin).saturating_sub(1);
            let points = points.iter().skip(from).copied().collect();
            timeline.heads.push(Heads { actor: *actor, name: name.clone(), points });
        }
        let mut fields: Vec<(&String, &usize)> = self.fields.iter().collect();
        fields.sort_by_key(|(_, index)| **index);
        timeline.fields = fields.into_iter().map(|(name, _)| name.clone()).collect();
        timeline.base = self.base.iter().map(|(field, value)| Change(*field, value.clone())).collect();
        let mut lanes: Vec<Actor> = timeline.messages.iter().map(|message| message.to).collect();
        lanes.extend([Actor::Conductor, Actor::ClockAndOperator]);
        lanes.extend(timeline.faults.iter().map(|band| band.actor));
        lanes.extend(timeline.notes.iter().map(|note| note.actor));
        lanes.extend(timeline.heads.iter().map(|heads| heads.actor));
        lanes.sort();
        lanes.dedup();
        timeline.lanes = lanes;
        timeline
    }

    fn moment(&mut self, at: Timestamp) -> u64 {
        let start = *self.start.get_or_insert(at);
        at.0.saturating_sub(start.0)
    }

    fn message(&mut self, id: CommandId) -> Option<&mut Message> {
        self.messages.get_mut(self.numbers.get(&id)?)
    }

    fn why_lost(&self, number: usize) -> String {
        match self.lost.get(&number) {
            Some(Leg::Request) => "the request was lost".to_owned(),
            Some(Leg::Reply) => "the answer was lost".to_owned(),
            None => String::new(),
        }
    }

    /// What was in flight when the conductor was restarted is nobody's any more.
    fn leave_behind(&mut self, number: usize, step: &mut Step) {
        for (message_number, message) in &mut self.messages {
            if message.ended_by.is_none() {
                message.ended_by = Some(number);
                message.ended_at = Some(step.at);
                message.outcome = Outcome::Lost;
                "the conductor was restarted".clone_into(&mut message.answer);
                step.gives_up.push(*message_number);
            }
        }
    }

    fn take_answer(&mut self, number: usize, event: &Event, step: &mut Step) {
        let (id, outcome) = match event {
            Event::Answered { id, .. } => (id, Outcome::Ok),
            Event::JobFinished { id, outcome } if describe::outcome(outcome).0 => (id, Outcome::Ok),
            Event::Failed { id, .. } | Event::JobFinished { id, .. } => (id, Outcome::Fault),
            Event::CellInstalled { .. } | Event::DeadlineReached | Event::StopRequested | Event::Gossiped { .. } => {
                return;
            }
        };
        let Some(message_number) = self.numbers.get(id).copied() else { return };
        let Some(message) = self.messages.get_mut(&message_number) else { return };
        step.message = Some(message_number);
        step.label.clone_from(&message.label);
        if step.refused.is_none() && message.ended_by.is_none() {
            message.ended_at = Some(step.at);
            message.ended_by = Some(number);
            message.outcome = outcome;
            // The answer stands at the message.
            let answer = cut(std::mem::take(&mut step.detail), TEXT_MAX);
            let is_echo = !answer.is_empty() && message.detail.starts_with(&answer);
            message.answer = if is_echo { "as asked".to_owned() } else { answer };
            self.lost.remove(&message_number);
        }
    }

    fn take_command(&mut self, number: usize, command: &Command, status: &Status, step: &mut Step) {
        match command {
            Command::Call { id, deadline, call, node } => {
                let (to, mut label, detail) = describe::call(call, status);
                if node.0 > 0 {
                    label = format!("{label} (node {})", node.0);
                }
                let deadline = Some(self.moment(*deadline));
                self.send(number, *id, deadline, (to, label, detail), step);
            }
            Command::Verify { id, job } => {
                let (label, detail) = describe::job(job);
                self.send(number, *id, None, (Actor::Verification, label, detail), step);
            }
            Command::Cancel { id } => {
                let Some(message_number) = self.numbers.get(id).copied() else { return };
                let why = self.why_lost(message_number);
                let Some(message) = self.messages.get_mut(&message_number) else { return };
                if message.ended_by.is_some() {
                    return;
                }
                message.outcome = match message.deadline {
                    _ if !why.is_empty() => Outcome::Lost,
                    Some(deadline) if deadline <= step.at => Outcome::Overdue,
                    _ => Outcome::Cancelled,
                };
                message.ended_at = Some(step.at);
                message.ended_by = Some(number);
                message.answer = why;
                step.gives_up.push(message_number);
            }
            Command::Persist { records } => {
                let keys = records.iter().map(downbeat_core::Record::key).collect::<Vec<_>>().join(", ");
                self.say(number, super::Severity::Debug, format!("persists {keys}"), step);
            }
            Command::Report(report) => self.take_report(number, report, step),
            Command::JudgeGossip { handle, verdict } => {
                self.say(number, super::Severity::Debug, format!("message {} {verdict}", handle.0), step);
            }
            Command::PublishGossip { message, .. } => {
                let text = format!("publishes block {} to {}", message.height, message.topic);
                self.say(number, super::Severity::Debug, text, step);
            }
            Command::PenalizePeer { peer, reason } => {
                self.say(number, super::Severity::Warn, format!("peer {} is to blame: {reason}", peer.0), step);
            }
            Command::Exit(exit) => step.exit = Some(cut(describe::exit(exit), TEXT_MAX)),
        }
    }

    fn send(
        &mut self,
        number: usize,
        id: CommandId,
        deadline: Option<u64>,
        (to, label, detail): (Actor, String, String),
        step: &mut Step,
    ) {
        let message = Message {
            to,
            life: step.life,
            ordinal: id.ordinal,
            label: cut(label, LABEL_MAX),
            detail: cut(detail, TEXT_MAX),
            sent_at: step.at,
            sent_by: Some(number),
            deadline,
            arrived_at: None,
            ended_at: None,
            ended_by: None,
            outcome: Outcome::Open,
            answer: String::new(),
        };
        step.sends.push(self.next_message);
        self.numbers.insert(id, self.next_message);
        self.ids.insert(self.next_message, id);
        self.messages.insert(self.next_message, message);
        self.next_message += 1;
    }

    fn take_report(&mut self, number: usize, report: &Report, step: &mut Step) {
        let (severity, text) = describe::report(report);
        self.say(number, severity, text, step);
    }

    fn say(&mut self, number: usize, severity: super::Severity, text: String, step: &mut Step) {
        step.reports.push(self.first_report + self.reports.len());
        self.reports.push_back(ReportLine { step: number, severity, text: cut(text, TEXT_MAX) });
    }

    /// Notes what became different, and returns it.
    fn take_state(&mut self, status: &Status, in_flight: usize) -> Vec<Change> {
        let mut state = BTreeMap::new();
        for (name, value) in leaves(status, in_flight) {
            let next = self.fields.len();
            state.insert(*self.fields.entry(name).or_insert(next), value);
        }
        let gone = self.state.keys().filter(|field| !state.contains_key(field));
        let mut changes: Vec<Change> = gone.map(|field| Change(*field, Value::Null)).collect();
        let is_new = |(field, value): &(&usize, &Value)| self.state.get(*field) != Some(*value);
        changes.extend(state.iter().filter(is_new).map(|(field, value)| Change(*field, value.clone())));
        self.state = state;
        changes
    }

    fn take_heads(&mut self, at: u64, status: &Status) {
        self.point(Actor::CometBft, "known head", at, status.sequencer.head.map(|height| height.0));
        self.point(Actor::Celestia, "known head", at, status.celestia.head.map(|height| height.0));
        for (id, cell) in &status.cells {
            for (name, head) in [("soft", &cell.soft), ("firm", &cell.firm)] {
                self.point(Actor::Rollup(*id), name, at, head.as_ref().map(|head| head.number.0));
            }
        }
    }

    fn point(&mut self, actor: Actor, name: &str, at: u64, value: Option<u64>) {
        let key = (actor, cut(name.to_owned(), LABEL_MAX));
        if value.is_none() && !self.heads.contains_key(&key) {
            return;
        }
        let points = self.heads.entry(key).or_default();
        let at = at.max(points.back().map_or(0, |last| last.0));
        if points.back().is_none_or(|last| last.1 != value) {
            points.push_back(HeadPoint(at, value));
        }
        if points.len() > self.keep {
            points.pop_front();
        }
    }

    fn take_deadline(&mut self, step: usize, conductor: &Conductor) {
        let deadline = match conductor.next_deadline() {
            Some((at, timer)) => Deadline { step, at: Some(self.moment(at)), reason: describe::timer(timer) },
            None => Deadline { step, at: None, reason: String::new() },
        };
        let is_same = |last: &Deadline| last.at == deadline.at && last.reason == deadline.reason;
        if !self.deadlines.back().is_some_and(is_same) {
            self.deadlines.push_back(deadline);
        }
    }

    fn band(&mut self, kind: &str, actor: Actor, is_link: bool, span: (Timestamp, Option<Timestamp>), detail: &str) {
        let from = self.moment(span.0);
        let to = span.1.map(|to| self.moment(to).max(from));
        let (kind, detail) = (cut(kind.to_owned(), LABEL_MAX), cut(detail.to_owned(), TEXT_MAX));
        self.faults.push_back(Band { kind, actor, is_link, from, to, detail });
        if self.faults.len() > self.keep {
            self.faults.pop_front();
        }
    }

    /// Drops the oldest steps beyond those to keep, with what ended in them.
    fn forget(&mut self) {
        while self.steps.len() > self.keep {
            let Some(step) = self.steps.pop_front() else { return };
            let number = self.first_step;
            self.first_step += 1;
            for Change(field, value) in step.changes {
                match value {
                    Value::Null => self.base.remove(&field),
                    value => self.base.insert(field, value),
                };
            }
            for message in step.message.into_iter().chain(step.gives_up) {
                if self.messages.get(&message).is_some_and(|message| message.ended_by == Some(number)) {
                    self.messages.remove(&message);
                    self.lost.remove(&message);
                    if let Some(id) = self.ids.remove(&message) {
                        self.numbers.remove(&id);
                    }
                }
            }
            while self.reports.front().is_some_and(|line| line.step <= number) {
                self.reports.pop_front();
                self.first_report += 1;
            }
            // The one that holds at the first step is still needed.
            while self.deadlines.get(1).is_some_and(|next| next.step <= self.first_step) {
                self.deadlines.pop_front();
            }
        }
    }
}

/// The status as names and simple values, such as `cells.0.soft.number`. What a cell waits for is one field, in words.
fn leaves(status: &Status, in_flight: usize) -> Vec<(String, Value)> {
    let mut leaves = vec![("in_flight".to_owned(), in_flight.into())];
    for (id, cell) in &status.cells {
        let waits: Vec<String> = cell.waiting_for.iter().map(ToString::to_string).collect();
        leaves.push((format!("cells.{}.waiting_for", id.0), cut(waits.join("; "), TEXT_MAX).into()));
    }
    let mut rest = vec![(String::new(), serde_json::to_value(status).unwrap_or_default())];
    while let Some((name, value)) = rest.pop() {
        match value {
            Value::Null | Value::Array(_) => {}
            Value::Object(fields) if fields.contains_key("secs") && fields.contains_key("nanos") => {
                let part = |name| fields.get(name).and_then(Value::as_u64).unwrap_or_default();
                let milliseconds = part("secs").saturating_mul(1_000).saturating_add(part("nanos") / 1_000_000);
                leaves.push((name, format!("{milliseconds} ms").into()));
            }
            Value::Object(fields) => {
                let prefix = if name.is_empty() { name } else { name + "." };
                rest.extend(fields.into_iter().map(|(field, value)| (format!("{prefix}{field}"), value)));
            }
            Value::String(text) => leaves.push((name, cut(describe::recognisable(text), TEXT_MAX).into())),
            simple => leaves.push((name, simple)),
        }
    }
    leaves
}
