//! The adapters, the driver and the command of the Downbeat rollup conductor. Decisions are taken in `downbeat-core`.

pub mod adapters;
pub mod celestia;
pub mod cometbft;
pub mod connector;
pub mod endpoint;
pub mod execution;
pub mod h2_channel;
pub mod json_rpc;
mod lenient;
pub mod sequencer;
#[cfg(test)]
mod testing;
