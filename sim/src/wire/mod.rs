//! The turmoil tier: the real driver and adapters against the served model world, on a simulated network.
//!
//! Nothing is faked but TCP and time: HTTP/2, gRPC, HTTP/1, JSON, the keeping of connections, deadlines and the driver's
//! loop are those of production (verification runs inside the loop, see `Workers::Inline`). A schedule of faults (see
//! [`WireScenario`]) cuts, holds and slows links, kills hosts and starts them again. Then everything is healed, each
//! rollup must get the blocks it lacks within a bound of virtual time, and the oracle judges its whole history. Headers are
//! trusted in consensus, from the first one on; each new life goes on from the records of the one before.
//!
//! # What repeats
//!
//! The same scenario gives the same chain of hashes over every event, its time, every outbox and what the models saw,
//! in any process, in optimised builds and others. It takes: a fixed seed and epoch, hosts in a fixed order, own
//! decisions from own ChaCha streams, no `select!` without `biased` on the way, no thread, no name lookup, no file but the
//! conductor's own records (really on the disk, and written inside the loop), and tokio's count of tasks at the same place (`task_ids`; for that, runs of one process take turns). What
//! still differs between runs and is not seen by the core:
//!
//! * the `date` header of hyper's servers (the adapters read no headers but status and type, and a segment is one write
//!   whatever its length);
//! * the keys of std's hashers and the addresses of allocations: nothing on the way iterates over a std hash map (turmoil
//!   and h2 use `IndexMap`);
//! * h2 forgets streams that were reset by the wall clock after 30 s, which no run takes: a debugger's pause could show.
//!
//! turmoil draws latencies from `SmallRng`: a seed means the same only with the same lock file and word size.
//!
//! # Without `--cfg tokio_unstable`
//!
//! That flag would fix the branches of unbiased `select!`s (there are none) and end a run at a panic in a spawned task.
//! Instead a panic hook takes panics down (`panics`). Neither explores other orders of tasks than first come, first served.
//!
//! # What turmoil does not show
//!
//! A lost segment is never sent again (turmoil issues 39 and 185), so a cut connection stalls for ever and only a
//! deadline ends it: harsher than TCP, and what a vanished peer looks like. Bandwidth, partial segments, slow readers,
//! loss of single messages, pauses of a process, clock jumps, a graceful end of HTTP/2 connections (the model servers cut
//! them) and TLS are not simulated. Connections are refused where turmoil lets them hang and the other way round, as
//! real networks do, see [`Reach`]. What the event-queue tier has and this one has not: answers that are repeated or
//! reordered at will, and peers that lie.

mod apply;
mod command;
mod hosts;
mod minimise;
mod network;
mod panics;
mod run;
mod scenario;
mod task_ids;
mod trace;

pub use command::{Arguments, Total, campaign, perform, repeats};
pub use minimise::minimise;
pub use network::{Reach, TurmoilConnector, TurmoilListener};
pub use run::{Outcome, run, run_traced};
pub use scenario::{Direction, Fault, Item, Node, Peer, Relaying, WireScenario};
pub use trace::Trace;
