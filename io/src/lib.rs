//! The adapters, the driver and the command of the Downbeat rollup conductor. Decisions are taken in `downbeat-core`.

pub mod adapters;
pub mod celestia;
mod clock;
pub mod cometbft;
pub mod config;
pub mod connector;
pub mod driver;
pub mod endpoint;
pub mod execution;
pub mod genesis;
pub mod gossip;
pub mod h2_channel;
pub mod journal;
pub mod json_rpc;
mod lenient;
pub mod node;
mod reporter;
pub mod sequencer;
mod settings;
pub mod status_line;
pub mod store;
#[cfg(test)]
mod testing;
pub mod timeline;

pub use reporter::Counters;
