//! Runs a conductor through a recording again and compares what it wishes for.

use std::{
    any::Any,
    collections::BTreeMap,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
};

use downbeat_core::{
    Command, CommandId, Conductor, Job, Limits, Outbox, Record, Refusal, Seq, Stamped, Timestamp, json,
    light::RecordError,
};

use super::{Digester, Entry, Header, OutboxDigest, describe_command, describe_event};

/// Why a replay cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error("the recording is of version {program} and its limits cannot be read by this program: {error}")]
    Limits { program: String, error: serde_json::Error },
    #[error("it begins with event {0}: what happened before is gone, and with it the conductor's state")]
    NoBeginning(u64),
    #[error("what it went on from cannot be read: {0}")]
    Record(RecordError),
}

/// Looks at each event of a replay.
pub type Visit<'a> = &'a mut dyn FnMut(&Stamped, &Result<(), Refusal>, &[Command], &Conductor);

/// A conductor that is taken through a recording.
#[derive(Debug)]
pub struct Replay {
    conductor: Conductor,
    /// Work whose end has not come yet.
    jobs: BTreeMap<CommandId, Job>,
    digester: Digester,
    equal: u64,
}

/// How an event went that was replayed without a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stepped {
    /// The same outbox as recorded.
    Equal,
    /// The conductor panicked, as it did when this was recorded. Nothing can follow.
    PanickedAgain,
}

/// The first event that went otherwise than recorded.
#[derive(Clone, Debug)]
pub struct Difference {
    pub seq: Seq,
    pub at: Timestamp,
    /// What happened.
    pub event: String,
    pub expected: Outcome,
    pub found: Outcome,
    /// What the conductor wishes for now. Of what it wished for then only the kinds are known.
    pub commands: Vec<String>,
}

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Outbox(OutboxDigest),
    Panicked(String),
    /// The conductor refused it because another sequence number is due.
    OutOfSequence {
        expected: Seq,
    },
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outbox(digest) => digest.fmt(f),
            Self::Panicked(message) if message.is_empty() => f.write_str("a panic"),
            Self::Panicked(message) => write!(f, "a panic: {message}"),
            Self::OutOfSequence { expected } => write!(f, "event {} is due", expected.0),
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "event {} at {} differs: {}", self.seq.0, self.at, self.event)?;
        writeln!(f, "  expected {}", self.expected)?;
        write!(f, "  found    {}", self.found)?;
        self.commands.iter().try_for_each(|command| write!(f, "\n    {command}"))
    }
}

impl Replay {
    /// A conductor as it was at the start of the recording.
    ///
    /// # Errors
    /// When the recording does not begin with the first event, or its limits are not those of this version.
    pub fn new(header: &Header) -> Result<Self, ReplayError> {
        if header.first_seq != 0 {
            return Err(ReplayError::NoBeginning(header.first_seq));
        }
        let limits: Limits = json::from_slice(header.limits.as_bytes())
            .map_err(|error| ReplayError::Limits { program: header.program.clone(), error })?;
        let records: Result<Vec<Record>, _> =
            header.records.iter().map(|(key, bytes)| Record::decode(key, bytes)).collect();
        let conductor = Conductor::new(limits, header.seed, &records.map_err(ReplayError::Record)?);
        Ok(Self { conductor, jobs: BTreeMap::new(), digester: Digester::default(), equal: 0 })
    }

    /// Events that went as recorded.
    pub fn equal(&self) -> u64 {
        self.equal
    }

    pub fn conductor(&self) -> &Conductor {
        &self.conductor
    }

    /// Takes the next event. `visit` sees it, whether it was refused, what followed from it, and the conductor after it,
    /// whether that is as recorded or not.
    ///
    /// # Errors
    /// When something else follows than what was recorded. What comes after it means nothing.
    pub fn step(&mut self, mut entry: Entry, visit: Visit<'_>) -> Result<Stepped, Box<Difference>> {
        let expected = entry.outbox.take();
        let mut job = None;
        if let super::Recorded::JobFinished(id) = &entry.event {
            job = self.jobs.remove(id);
        }
        // An outcome that nobody waits for is refused unseen, so any will do.
        let input = match job {
            Some(job) => entry.into_stamped(|_| job.run()),
            None => entry.into_stamped_without_outcome(),
        };
        let mut out = Outbox::new();
        let handled = catch_unwind(AssertUnwindSafe(|| self.conductor.handle(&input, &mut out)));
        let commands: Vec<Command> = out.drain().collect();
        if let Ok(result) = &handled {
            visit(&input, result, &commands, &self.conductor);
        }
        let found = match handled {
            Err(panic) => Outcome::Panicked(panic_message(panic.as_ref())),
            Ok(Err(Refusal::OutOfSequence { expected, .. })) => Outcome::OutOfSequence { expected },
            Ok(_) => Outcome::Outbox(match &expected {
                Some(expected) => self.digester.digest_like(expected, commands.iter()),
                None => self.digester.digest(commands.iter()),
            }),
        };
        match (expected, found) {
            (Some(expected), Outcome::Outbox(found)) if expected == found => {
                self.equal += 1;
                self.keep_jobs(commands);
                Ok(Stepped::Equal)
            }
            (None, Outcome::Panicked(_)) => {
                self.equal += 1;
                Ok(Stepped::PanickedAgain)
            }
            (expected, found) => Err(Box::new(Difference {
                seq: input.seq,
                at: input.at,
                event: describe_event(&input.event),
                expected: expected.map_or_else(|| Outcome::Panicked(String::new()), Outcome::Outbox),
                found,
                commands: commands.iter().map(describe_command).collect(),
            })),
        }
    }

    fn keep_jobs(&mut self, commands: Vec<Command>) {
        for command in commands {
            match command {
                Command::Verify { id, job } => {
                    self.jobs.insert(id, job);
                }
                Command::Cancel { id } => {
                    self.jobs.remove(&id);
                }
                Command::Call { .. }
                | Command::Persist { .. }
                | Command::Report(_)
                | Command::Exit(_)
                | Command::JudgeGossip { .. }
                | Command::PublishGossip { .. }
                | Command::PenalizePeer { .. } => {}
            }
        }
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or_default().to_owned()
}
