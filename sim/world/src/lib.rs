//! Model peers for Downbeat: a sequencer chain, a Celestia, the relayer between them, and rollup nodes.
//!
//! The models are machines without I/O, clock or entropy: time is a parameter and randomness comes from a seed, so the
//! same seed gives the same bytes. [`World`] holds them together. The feature `serve` adds servers that speak the real
//! protocols and hold no logic of their own.

pub mod celestia;
pub mod cometbft;
pub mod forge;
pub mod generate;
pub mod memo;
pub mod published;
pub mod random;
pub mod relayer;
pub mod rollup;
pub mod sequencer;
#[cfg(feature = "serve")]
pub mod serve;
pub mod square;
pub mod validators;
pub mod world;

pub use celestia::{CelestiaChain, CelestiaConfig};
pub use memo::Memo;
pub use relayer::{Relayer, RelayerConfig};
pub use rollup::{RollupConfig, RollupNode};
pub use sequencer::{BlockInput, SequencerChain, SequencerConfig};
pub use world::{World, WorldConfig};
