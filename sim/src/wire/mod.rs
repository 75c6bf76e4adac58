//! The turmoil tier: the real driver and adapters against the served model world, on a simulated network.
//!
//! Nothing in it is faked but TCP and time: HTTP/2, gRPC, HTTP/1, JSON, connection keeping, deadlines and the driver's
//! loop are those of production (verification runs inside the loop, see `Workers::Inline`). A schedule of faults (see
//! [`WireScenario`]) cuts, holds and slows links, kills hosts and starts them again. Then everything is healed, each
//! rollup must get the blocks it lacks in bounded virtual time, and the oracle judges its whole history.
//!
//! What the event-queue tier has and this one has not: answers that are reordered at will, or repeated.
mod command;
mod network;
mod panics;
mod run;
mod scenario;
mod trace;

pub use command::{Arguments, perform};
pub use network::{Reach, TurmoilConnector, TurmoilListener};
pub use run::{Outcome, run, run_traced};
pub use scenario::{Direction, Fault, Item, Node, Peer, WireScenario};
pub use trace::Trace;
