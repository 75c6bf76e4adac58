use std::collections::BTreeMap;

use base64::Engine as _;
use downbeat_core::{
    Answer, Call, CellId, Command, CommandId, Conductor, Event, Fault, Limits, Outbox, Seq, SequencerHeight, Stamped,
    Timestamp,
    cell::{CellSpec, Mode},
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{Actor, Builder, Change, Leg, Message, Outcome, StepKind, Timeline, html};

const SECOND: u64 = 1_000_000_000;
const START: u64 = 1_700_000_000 * SECOND;

/// A conductor, a builder that watches it, and what is in flight.
struct Run {
    conductor: Conductor,
    builder: Builder,
    seq: u64,
    now: u64,
    open: BTreeMap<u64, (CommandId, Call)>,
}

impl Run {
    /// One cell is installed, and the first calls are out.
    fn new(builder: Builder) -> Self {
        let conductor = Conductor::new(Limits::default(), [1; 32], &[]);
        let mut run = Self { conductor, builder, seq: 0, now: START, open: BTreeMap::new() };
        run.install();
        run
    }

    fn install(&mut self) {
        let spec =
            CellSpec { mode: Mode::SoftAndFirm, expected_sequencer_chain_id: None, expected_celestia_chain_id: None };
        self.give(Event::CellInstalled { cell: CellId(0), spec });
    }

    fn restart(&mut self) {
        self.conductor = Conductor::new(Limits::default(), [2; 32], &[]);
        self.seq = 0;
        self.open.clear();
        self.install();
    }

    fn give(&mut self, event: Event) {
        let input = Stamped { seq: Seq(self.seq), at: Timestamp(self.now), event };
        let mut out = Outbox::new();
        let result = self.conductor.handle(&input, &mut out);
        self.builder.step(&input, &result, out.iter(), &self.conductor);
        for command in out.drain() {
            if let Command::Call { id, call, .. } = command {
                self.open.insert(id.ordinal, (id, call));
            }
        }
        self.seq += 1;
    }

    /// Takes a call that is in flight.
    fn take(&mut self, is_wanted: impl Fn(&Call) -> bool) -> CommandId {
        let (ordinal, id) = self
            .open
            .iter()
            .find(|(_, (_, call))| is_wanted(call))
            .map(|(ordinal, (id, _))| (*ordinal, *id))
            .expect("such a call is in flight");
        self.open.remove(&ordinal);
        id
    }

    fn head(&mut self) -> CommandId {
        self.take(|call| matches!(call, Call::FetchSequencerHead))
    }
}

fn builder() -> Builder {
    Builder::new("a run", "downbeat replay run.journal")
}

fn head_answer(height: u64) -> Answer {
    Answer::SequencerHeadFetched { height: SequencerHeight(height) }
}

fn message<'a>(timeline: &'a Timeline, label: &str) -> &'a Message {
    timeline.messages.iter().find(|message| message.label == label).expect("the message is there")
}

/// The state after the last step, from the differences.
fn last_state(timeline: &Timeline) -> BTreeMap<String, Value> {
    let mut state = BTreeMap::new();
    let changes = timeline.steps.iter().flat_map(|step| &step.changes);
    for Change(field, value) in timeline.base.iter().chain(changes) {
        let name = timeline.fields[*field].clone();
        if value.is_null() {
            state.remove(&name)
        } else {
            state.insert(name, value.clone())
        };
    }
    state
}

#[test]
fn a_request_is_paired_with_its_answer() {
    let mut run = Run::new(builder());
    let id = run.head();
    run.builder.arrived(id, Timestamp(START + SECOND / 4));
    run.now += SECOND / 2;
    run.give(Event::Answered { id, answer: head_answer(7) });
    let timeline = run.builder.build();
    let (index, asked) =
        timeline.messages.iter().enumerate().find(|(_, message)| message.ordinal == id.ordinal).expect("it was sent");
    assert_eq!((asked.to, asked.outcome, asked.answer.as_str()), (Actor::CometBft, Outcome::Ok, "height 7"));
    assert_eq!((asked.sent_at, asked.arrived_at, asked.ended_at), (0, Some(SECOND / 4), Some(SECOND / 2)));
    assert_eq!((asked.sent_by, asked.ended_by), (Some(0), Some(1)));
    assert!(timeline.steps[0].sends.contains(&index));
    assert_eq!((timeline.steps[1].message, timeline.steps[1].kind), (Some(index), StepKind::Answered));
    assert_eq!(last_state(&timeline)["sequencer.head"], 7);
    let head = timeline.heads.iter().find(|heads| heads.actor == Actor::CometBft).expect("the head is drawn");
    assert_eq!(head.points.last().map(|point| point.1), Some(Some(7)));
}

#[test]
fn a_failure_is_marked_and_its_text_kept() {
    let mut run = Run::new(builder());
    let id = run.head();
    run.give(Event::Failed { id, fault: Fault::transient("connection refused") });
    let timeline = run.builder.build();
    assert_eq!(message(&timeline, "head").outcome, Outcome::Fault);
    assert_eq!(message(&timeline, "head").answer, "Transient: connection refused");
    assert!(timeline.reports.iter().any(|line| line.step == 1 && line.text.contains("connection refused")));
}

#[test]
fn what_has_no_answer_at_its_deadline_is_overdue_or_known_to_be_lost() {
    let mut run = Run::new(builder());
    let lost = run.head();
    run.builder.lost(lost, Leg::Reply);
    let (due, _) = run.conductor.next_deadline().expect("calls have deadlines");
    run.now = due.0;
    run.give(Event::DeadlineReached);
    let timeline = run.builder.build();
    let step = timeline.steps.last().expect("there are steps");
    assert!(step.label.ends_with("no answer"), "the reason is named: {}", step.label);
    assert!(!step.gives_up.is_empty());
    for index in &step.gives_up {
        let given_up = &timeline.messages[*index];
        assert_eq!(given_up.ended_by, Some(1));
        if given_up.ordinal == lost.ordinal {
            assert_eq!((given_up.outcome, given_up.answer.as_str()), (Outcome::Lost, "the answer was lost"));
        } else {
            assert_eq!(given_up.outcome, Outcome::Overdue);
        }
    }
    assert_eq!(timeline.deadlines[0].at, Some(due.0 - START));
}

#[test]
fn what_is_cancelled_before_its_deadline_is_marked_so_and_its_late_answer_is_shown() {
    let mut run = Run::new(builder());
    let id = run.head();
    let input = Stamped { seq: Seq(1), at: Timestamp(START + 5), event: Event::DeadlineReached };
    run.builder.step(&input, &Ok(()), &[Command::Cancel { id }], &run.conductor);
    let late = Stamped { seq: Seq(2), at: Timestamp(START + 9), event: Event::Answered { id, answer: head_answer(3) } };
    let refusal = Err(downbeat_core::Refusal::UnknownCommand(id));
    run.builder.step(&late, &refusal, &[], &run.conductor);
    let timeline = run.builder.build();
    let index = timeline.steps[1].gives_up[0];
    assert_eq!((timeline.messages[index].outcome, timeline.messages[index].ended_at), (Outcome::Cancelled, Some(5)));
    assert_eq!(timeline.steps[2].message, Some(index), "the late answer belongs to the call");
    assert!(timeline.steps[2].refused.is_some());
    assert_eq!(timeline.messages[index].answer, "", "and changes nothing at it");
}

#[test]
fn a_restart_begins_a_new_life_and_leaves_behind_what_was_in_flight() {
    let mut run = Run::new(builder());
    let before = run.open.len();
    run.now += SECOND;
    run.restart();
    let timeline = run.builder.build();
    assert_eq!(timeline.steps.iter().map(|step| step.life).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(timeline.steps[1].gives_up.len(), before);
    let lost: Vec<_> = timeline.messages.iter().filter(|message| message.outcome == Outcome::Lost).collect();
    assert!(lost.len() == before && lost.iter().all(|message| message.life == 0));
}

#[test]
fn only_the_last_steps_are_kept_and_what_is_kept_is_whole() {
    let mut whole = Run::new(builder());
    let mut part = Run::new(builder().keep(20));
    for run in [&mut whole, &mut part] {
        for height in 1..200 {
            run.now += 20 * SECOND;
            run.give(Event::DeadlineReached);
            if run.open.values().any(|(_, call)| matches!(call, Call::FetchSequencerHead)) {
                let id = run.head();
                run.give(Event::Answered { id, answer: head_answer(height) });
            }
        }
    }
    let (whole, part) = (whole.builder.build(), part.builder.build());
    assert_eq!(part.steps.len(), 20);
    assert_eq!(part.omitted + 20, whole.steps.len() as u64);
    assert!(part.messages.len() < 100 && part.messages.len() < whole.messages.len());
    assert_eq!(last_state(&part), last_state(&whole));
    for (kept, all) in part.steps.iter().zip(&whole.steps[whole.steps.len() - 20..]) {
        assert_eq!((kept.seq, &kept.label), (all.seq, &all.label));
        assert_eq!(
            kept.message.map(|index| &part.messages[index].label),
            all.message.map(|index| &whole.messages[index].label)
        );
        for index in &kept.sends {
            assert_eq!(part.messages[*index].sent_at, kept.at);
        }
        for index in &kept.reports {
            assert_eq!(part.steps[part.reports[*index].step].seq, kept.seq);
        }
    }
}

#[test]
fn the_data_survives_the_way_into_the_page_and_back() {
    let mut run = Run::new(builder());
    let id = run.head();
    run.give(Event::Failed { id, fault: Fault::transient("</script><script>alert(1)</script> & \u{2028} ü") });
    run.builder.fault("partition", Actor::Celestia, Timestamp(START), None, "from everyone");
    run.builder.fault_over("partition", Actor::Celestia, Timestamp(START + 3));
    run.builder.link_fault("delay", Actor::Rollup(CellId(3)), Timestamp(START), Some(Timestamp(START)), "");
    run.builder.note(Actor::Sequencer, Timestamp(START + 1), "block 1");
    run.builder.head(Actor::Celestia, "head", Timestamp(START), 3);
    run.builder.violation("S8", "firm went back", Timestamp(START + 2));
    let timeline = run.builder.build();
    assert_eq!((timeline.faults[0].to, timeline.faults[1].is_link), (Some(3), true));
    assert!(timeline.lanes.contains(&Actor::Rollup(CellId(3))));
    let page = html(&timeline);
    let (_, rest) = page.split_once("id=\"data\">").expect("the data is there");
    let (data, _) = rest.split_once("</script>").expect("its element ends");
    let read: Timeline = serde_json::from_str(data).expect("it is JSON");
    assert_eq!(read, timeline);
}

#[test]
fn hostile_texts_stay_text() {
    let hostile = "</script></title><img src=x onerror=alert(1)>&lt;\u{202e}\u{7}";
    let mut run = Run::new(Builder::new(hostile, hostile));
    let id = run.head();
    run.give(Event::Failed { id, fault: Fault::transient(hostile) });
    run.builder.violation(hostile, hostile, Timestamp(START));
    run.builder.note(Actor::Celestia, Timestamp(START), hostile);
    run.builder.fault(hostile, Actor::Celestia, Timestamp(START), None, hostile);
    let page = html(&run.builder.build());
    assert!(!page.contains("<img"), "nothing of it becomes an element");
    assert_eq!(page.matches("</script>").count(), 2, "the data and the viewer end once each");
    assert_eq!(page.matches("</title>").count(), 1);
    assert!(!page.contains('\u{202e}'), "nor turns the text around it");
    for door in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"] {
        assert!(!page.contains(door), "the viewer uses {door}");
    }
}

#[test]
fn the_page_needs_nothing_else_and_its_policy_allows_nothing_else() {
    let page = html(&Run::new(builder()).builder.build());
    for reference in ["http://", "https://", " src=", " href=", "url(", "@import", "fetch(", "XMLHttpRequest"] {
        assert!(!page.contains(reference), "{reference}");
    }
    let (_, rest) = page.split_once("</script>\n<script>").expect("the viewer follows the data");
    let (script, _) = rest.split_once("</script>").expect("it ends");
    let hash = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(script.as_bytes()));
    assert!(page.contains(&format!("default-src 'none'; script-src 'sha256-{hash}'")));
}

#[test]
fn ten_thousand_steps_make_a_page_of_at_most_five_megabytes() {
    let mut run = Run::new(builder());
    let mut height = 0;
    while run.seq < 10_000 {
        run.now += 15 * SECOND;
        run.give(Event::DeadlineReached);
        height += 1;
        for (id, call) in std::mem::take(&mut run.open).into_values() {
            let answer = match call {
                Call::FetchSequencerHead => head_answer(height),
                Call::IdentifySequencer => Answer::SequencerIdentified { chain_id: "a-sequencer".to_owned() },
                _ => {
                    let fault = Fault::transient("connection refused by a peer whose name is rather long: node-17");
                    run.give(Event::Failed { id, fault });
                    continue;
                }
            };
            run.give(Event::Answered { id, answer });
        }
    }
    let timeline = run.builder.build();
    assert_eq!(timeline.steps.len(), 10_000);
    let page = html(&timeline);
    assert!(page.len() < 5_000_000, "{} bytes", page.len());
}

#[test]
fn actors_are_read_as_they_are_written() {
    for actor in [Actor::Celestia, Actor::Rollup(CellId(7)), Actor::ClockAndOperator] {
        let text = serde_json::to_string(&actor).expect("a text");
        assert_eq!(serde_json::from_str::<Actor>(&text).expect("an actor"), actor);
    }
    assert!(serde_json::from_str::<Actor>("\"rollup:x\"").is_err());
}
