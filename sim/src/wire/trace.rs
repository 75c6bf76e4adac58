//! What a run did, folded into one hash: every event that drivers handed to their core and every outbox, position by
//! position, and at the end what the models saw.

use std::{
    fmt::{self, Write as _},
    time::Duration,
};

use downbeat_core::{Command, Event, Outbox, Stamped};
use sha2::{Digest as _, Sha256};

/// A chain of hashes over what happened, and counters.
#[derive(Debug, Default)]
pub struct Trace {
    chain: [u8; 32],
    /// One line per position, if wanted.
    lines: Option<Vec<String>>,
    pub(super) events: u64,
    pub(super) calls: u64,
    pub(super) failures: u64,
    /// The second that is being counted, and the calls in it.
    second: (u64, u64),
    pub(super) busiest_second: u64,
}

/// Characters of a position that a line shows.
const LINE_MAX: usize = 400;

impl Trace {
    /// `keeps_lines` to see the positions, for people and for comparing.
    pub fn new(keeps_lines: bool) -> Self {
        Self { lines: keeps_lines.then(Vec::new), ..Self::default() }
    }

    /// The hash of everything so far.
    pub fn chain(&self) -> String {
        hex::encode(self.chain)
    }

    /// One line per position: the chain's first digits, and what happened, cut short.
    pub fn into_lines(self) -> Vec<String> {
        self.lines.unwrap_or_default()
    }

    pub(super) fn observe(&mut self, life: u64, input: &Stamped, outbox: &Outbox) {
        self.events += 1;
        self.failures += u64::from(matches!(input.event, Event::Failed { .. }));
        let second = input.at.since(downbeat_core::Timestamp::ZERO).as_secs();
        if second != self.second.0 {
            self.second = (second, 0);
        }
        let calls = outbox.iter().filter(|command| matches!(command, Command::Call { .. })).count() as u64;
        self.calls += calls;
        self.second.1 += calls;
        self.busiest_second = self.busiest_second.max(self.second.1);
        self.fold(format_args!("life {life}: {input:?} -> {outbox:?}"));
    }

    pub(super) fn note(&mut self, at: Duration, what: fmt::Arguments<'_>) {
        self.fold(format_args!("{:.3} s: {what}", at.as_secs_f64()));
    }

    fn fold(&mut self, what: fmt::Arguments<'_>) {
        let mut hash = Hashing(Sha256::new_with_prefix(self.chain));
        // Neither of the two can fail.
        let _ = hash.write_fmt(what);
        self.chain = hash.0.finalize().into();
        if let Some(lines) = &mut self.lines {
            let mut line = what.to_string();
            if let Some((cut, _)) = line.char_indices().nth(LINE_MAX) {
                line.truncate(cut);
            }
            let hash = hex::encode(&self.chain[..4]);
            lines.push(format!("{hash} {line}"));
        }
    }
}

struct Hashing(Sha256);

impl fmt::Write for Hashing {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text);
        Ok(())
    }
}
