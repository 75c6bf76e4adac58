//! End-to-end stories: the model world on real sockets, followed through the real adapters. Each story asserts the exact
//! blocks that the rollup nodes executed and committed. One binary, so that stories run beside each other.

mod blobs;
mod celestia_trust;
mod lies;
mod modes;
mod outages;
mod peers;
mod proofs;
mod restarts;
mod sessions;
mod trust;
