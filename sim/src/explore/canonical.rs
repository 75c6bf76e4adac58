//! Digests under which two situations are equal when nothing that happens from now on can tell them apart.
//!
//! `Conductor::state_hash` also tells moments, sequence numbers, counters and command ids apart, so that no situation
//! would ever be met twice. Here the `Debug` output of the state is rewritten while it is produced. What is not named
//! below goes into the digest as it is, so a field that is added to the core later can only split states and never
//! merges two that differ.

use std::fmt::{self, Debug, Write as _};

use sha2::{Digest as _, Sha256};

/// Names a situation.
pub type Digest = u128;

/// Digest of bytes.
pub fn of_bytes(bytes: &[u8]) -> Digest {
    let hash: [u8; 32] = Sha256::digest(bytes).into();
    let (half, _) = hash.split_at(16);
    half.try_into().map_or(0, u128::from_be_bytes)
}

/// Digest of anything's `Debug` output, word for word.
pub fn of_debug(value: &impl Debug) -> Digest {
    of_bytes(format!("{value:?}").as_bytes())
}

/// What the text of a state is relative to.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// In nanoseconds.
    pub now: u64,
    /// Time passes in steps of this many nanoseconds only.
    pub step: u64,
    /// The session that the rollup node accepts.
    pub session: Option<&'a str>,
}

/// Digest of a conductor, or of anything else made of the core's types, seen from `frame`.
pub fn of_state(value: &impl Debug, frame: Frame<'_>) -> Digest {
    of_bytes(text_of_state(value, frame).as_bytes())
}

/// What is digested by [`of_state`].
pub fn text_of_state(value: &impl Debug, frame: Frame<'_>) -> String {
    let mut sink =
        Sink { frame, text: String::with_capacity(8 << 10), mode: Mode::Copy, is_trusted: false, calls: None };
    // Writing to memory does not fail.
    let _ = write!(sink, "{value:?}");
    sink.text
}

/// Takes the pieces that derived `Debug` implementations write: names, brackets and values each come on their own.
struct Sink<'a> {
    frame: Frame<'a>,
    text: String,
    mode: Mode,
    /// Inside of a trusted header.
    is_trusted: bool,
    /// Where the list of calls in flight began.
    calls: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Copy,
    /// Leave everything out until a piece that is this field's name.
    SkipTo(&'static str),
    /// After the name `Timestamp`, which other types have as well.
    Timestamp,
    /// Between the bracket that follows it and the one that closes.
    Moment,
    /// Between the name `CommandId` and its end.
    Id,
    /// After the name of a field: a number that is its value is left out, or cut to a maximum.
    Number(u64),
}

impl fmt::Write for Sink<'_> {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        match self.mode {
            Mode::Copy => self.copy(piece),
            Mode::SkipTo(name) if piece == name => {
                self.mode = Mode::Copy;
                self.copy(piece);
            }
            Mode::SkipTo(_) => {}
            Mode::Timestamp if piece == "(" => self.mode = Mode::Moment,
            Mode::Timestamp => {
                self.mode = Mode::Copy;
                self.copy(piece);
            }
            Mode::Moment if piece == ")" => self.mode = Mode::Copy,
            Mode::Moment => self.moment(piece),
            Mode::Id => {
                if piece.ends_with('}') {
                    self.mode = Mode::Copy;
                }
            }
            Mode::Number(_) if piece == ": " => {}
            Mode::Number(most) => {
                self.mode = Mode::Copy;
                match piece.parse::<u64>() {
                    Ok(number) => write!(self.text, "{}", number.min(most))?,
                    Err(_) => self.copy(piece),
                }
            }
        }
        Ok(())
    }
}

impl Sink<'_> {
    fn copy(&mut self, piece: &str) {
        match piece {
            "Timestamp" => self.mode = Mode::Timestamp,
            // Which call is in flight follows from where its id stands.
            "CommandId" => self.mode = Mode::Id,
            // Settings, the random numbers (every delay takes one step, whatever is drawn) and the place in the input.
            "limits" => self.mode = Mode::SkipTo("now"),
            "incarnation" => self.mode = Mode::SkipTo("pending"),
            "pending" => {
                self.text.push_str(piece);
                self.calls = Some(self.text.len());
            }
            "follower" => {
                self.sort_calls();
                self.text.push_str(piece);
            }
            // Counters that are shown and never looked at. `executed` and `sessions` of other types are no numbers.
            "executed" | "sessions" | "recent_bytes" => {
                self.text.push_str(piece);
                self.mode = Mode::Number(0);
            }
            "dropped" => self.mode = Mode::SkipTo("stop"),
            // All delays between tries and sessions are one step, whatever number of failures they follow.
            "losses" => self.mode = Mode::SkipTo("remembered"),
            // A trusted header is named by its hash, which comes before it.
            "TrustedHeader" => {
                self.text.push_str(piece);
                self.is_trusted = true;
            }
            "header" if self.is_trusted => {
                self.is_trusted = false;
                self.mode = Mode::SkipTo("proposer_address");
            }
            // A set of validators is named by its hash, which comes last.
            "validators" => self.mode = Mode::SkipTo("hash"),
            // The number of failures counts up to five (`LOOKUPS_MAX` in the cell's machine).
            "failures" => {
                self.text.push_str(piece);
                self.mode = Mode::Number(5);
            }
            session if session.starts_with("session-") => {
                self.text.push_str(if self.frame.session == Some(session) { "current" } else { "old" });
            }
            _ => self.text.push_str(piece),
        }
    }

    /// The past is one moment; the future is counted in steps. Time stands on a step always, so moments within the same
    /// step are told apart by nothing.
    fn moment(&mut self, number: &str) {
        let at = number.parse::<u64>().unwrap_or(u64::MAX);
        let _ = write!(self.text, "+{}", at.saturating_sub(self.frame.now).div_ceil(self.frame.step));
    }

    /// Calls in flight have different purposes and do not touch each other: the order in which they were made is left
    /// out.
    fn sort_calls(&mut self) {
        let Some(from) = self.calls.take() else { return };
        let calls = self.text.split_off(from);
        let mut calls: Vec<&str> = calls.split("Pending {").skip(1).collect();
        for call in &mut calls {
            *call = call.split_once('}').map_or(*call, |(call, _)| call);
        }
        calls.sort_unstable();
        for call in calls {
            self.text.push_str(call);
            self.text.push(';');
        }
    }
}

#[cfg(test)]
mod tests {
    use downbeat_core::{
        Answer, CellId, Command, Conductor, Event, Limits, Outbox, Seq, SequencerHeight, Stamped, Timestamp,
        cell::{CellSpec, Mode},
    };

    use super::*;

    const STEP: u64 = 1_000_000;

    /// A conductor with a cell, and with the sequencer's head if it `knows` it.
    fn conductor(seed: u8, now: u64, knows: bool) -> Digest {
        let mut conductor = Conductor::new(Limits::default(), [seed; 32], &[]);
        let spec =
            CellSpec { mode: Mode::SoftOnly, expected_sequencer_chain_id: None, expected_celestia_chain_id: None };
        let mut out = Outbox::new();
        let event = Event::CellInstalled { cell: CellId(0), spec };
        conductor.handle(&Stamped { seq: Seq(0), at: Timestamp(now), event }, &mut out).expect("taken");
        let head = out.drain().find_map(|command| match command {
            Command::Call { id, call: downbeat_core::Call::FetchSequencerHead, .. } => Some(id),
            _ => None,
        });
        if knows {
            let answer = Answer::SequencerHeadFetched { height: SequencerHeight(3) };
            let event = Event::Answered { id: head.expect("asked for"), answer };
            conductor.handle(&Stamped { seq: Seq(1), at: Timestamp(now), event }, &mut out).expect("taken");
        }
        of_state(&conductor, Frame { now, step: STEP, session: None })
    }

    #[test]
    fn a_situation_is_the_same_at_another_moment_and_with_other_random_numbers() {
        assert_eq!(conductor(1, 5 * STEP, false), conductor(2, 900 * STEP, false));
        assert_eq!(conductor(1, 5 * STEP, true), conductor(2, 900 * STEP, true));
    }

    #[test]
    fn what_was_learnt_makes_another_situation() {
        assert_ne!(conductor(1, STEP, false), conductor(1, STEP, true));
    }

    #[test]
    fn a_deadline_makes_another_situation_when_it_is_a_step_nearer() {
        let deadline = Timestamp(5 * STEP);
        let seen_from = |now| of_state(&deadline, Frame { now, step: STEP, session: None });
        assert_eq!(seen_from(3 * STEP), seen_from(3 * STEP + 1), "nothing can tell");
        assert_ne!(seen_from(3 * STEP), seen_from(4 * STEP));
        assert_eq!(seen_from(5 * STEP), seen_from(9 * STEP), "the past is one");
    }
}
