//! Exhaustive search in a small scope: the real core and tiny peers, every order of deliveries, every place for a fault.
//!
//! A search goes breadth first through all situations that a few blocks, one crash and a few faults can lead to, and
//! meets each one once ([`canonical`] says when two are the same). In each it checks the promises of `DESIGN.md` on the
//! calls that the rollup node gets, and that something is in flight or due; and from each it checks that the run arrives
//! if from then on everything is delivered (`search`). A violation is written down as the list of choices that lead to it, shortest
//! first, which can be replayed.
//!
//! What makes the search small enough, and what that leaves out:
//!
//! * Time passes in steps as long as every deadline, delay and polling period, and by choice only: at no cost when
//!   nothing is in flight, otherwise as the fault "late". Timers of different lengths are left to the seeds.
//! * Time is noticed by the timer or by an answer that comes at its deadline; that any other event notices it as well as
//!   the timer is checked each time.
//! * What cannot depend on the moment is one choice instead of two: a read of blocks that exist is answered when its
//!   request arrives, and a failure arrives as soon as it happens. Nothing is left out by this.
//! * Pure work is done when it is asked for; its result arrives at any later moment ([`Scope::work_takes_time`]).
//! * An answer that nobody waits for any more is given to the core at once, which has to refuse it. As ids are never
//!   used again, later would be the same. For the same reason a repeated answer is checked at every delivery and is not
//!   a choice.
//! * Calls in flight are a set: in which order they were made is left out of the digest, although the core gives calls
//!   that are overdue at the same moment up in that order.
//! * Limits are tiny: one soft block, one header, one Celestia height in flight.

pub mod canonical;
pub mod command;
mod peers;
mod probes;
mod rollup;
mod search;
mod setting;
mod state;
mod trail;
mod words;

use downbeat_core::cell::Mode;
use serde::{Deserialize, Serialize};

pub use probes::{PROBES, Probe};
pub use search::{Bounds, Outcome, Summary, search};
pub use trail::Trail;

/// What a search goes through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scope {
    pub mode: Mode,
    /// Sequencer blocks.
    pub soft: u8,
    /// Of these, how many are published on Celestia.
    pub firm: u8,
    /// Crashes of the conductor.
    pub crashes: u8,
    /// Faults in one run, at most one of each kind: a lost request, a lost reply, a refused call, lateness, a revoked
    /// session, a restart of the rollup node, a stranger's copies on Celestia.
    pub faults: u8,
    pub layout: Layout,
    /// Lengths of the rollup's first sessions, in blocks; an endless one follows.
    pub sessions: Vec<u64>,
    /// How far soft may be ahead of firm.
    pub spread: u64,
    /// Blocks are made while the conductor runs, instead of all before.
    pub growing: bool,
    /// The result of a job arrives by a choice of its own, instead of at once.
    pub work_takes_time: bool,
    /// A bug in the peers that the search has to find.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub planted: Option<Planted>,
}

impl Default for Scope {
    fn default() -> Self {
        Self {
            mode: Mode::SoftAndFirm,
            soft: 3,
            firm: 3,
            crashes: 1,
            faults: 1,
            layout: Layout::InOrder,
            sessions: Vec::new(),
            spread: 3,
            growing: false,
            work_takes_time: true,
            planted: None,
        }
    }
}

impl Scope {
    /// Scopes that are searched to their end in every check, with their names.
    pub fn suite() -> Vec<(&'static str, Self)> {
        let small = || Self { soft: 2, firm: 2, crashes: 0, faults: 0, ..Self::default() };
        vec![
            ("3 blocks, no fault", Self { crashes: 0, faults: 0, ..Self::default() }),
            ("3 blocks, 1 crash", Self { faults: 0, ..Self::default() }),
            ("2 blocks, 1 fault", Self { faults: 1, ..small() }),
            ("2 blocks, split, 1 crash", Self { layout: Layout::Split, crashes: 1, ..small() }),
            (
                "3 blocks in one Celestia height, 1 crash",
                Self { layout: Layout::Together, faults: 0, ..Self::default() },
            ),
            ("2 blocks, made meanwhile, 1 crash", Self { growing: true, crashes: 1, ..small() }),
            ("2 sessions of 1 block, 1 crash", Self { sessions: vec![1, 1], crashes: 1, ..small() }),
            ("3 soft and 1 firm block, lead of 1, 1 crash", Self { firm: 1, spread: 1, faults: 0, ..Self::default() }),
            ("1 block, 1 crash, 2 faults", Self { soft: 1, firm: 1, faults: 2, ..Self::default() }),
            (
                "soft only, 2 blocks, 1 crash, 1 fault",
                Self { mode: Mode::SoftOnly, firm: 0, soft: 2, ..Self::default() },
            ),
            (
                "firm only, 2 blocks, 1 crash, 1 fault",
                Self { mode: Mode::FirmOnly, firm: 2, soft: 2, ..Self::default() },
            ),
        ]
    }
}

/// How the records of blocks lie on Celestia.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// Block by block, height by height.
    InOrder,
    /// The rollup's data one height below the metadata.
    Split,
    /// All in one height.
    Together,
}

/// What a faulty peer does. For tests of the search itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Planted {
    /// `ExecuteBlock` takes effect twice.
    ExecutesTwice,
    /// Calls that name an old session are taken as if they named the current one.
    TakesOldSessions,
}
