//! Servers for the models. Each is generic over its [`Listener`], holds no logic, and takes the shared state only for
//! the moment in which it computes a reply.
//!
//! gRPC is served without generated code: a unary call is a path and a message, see [`grpc`].

pub mod celestia;
pub mod cometbft;
mod connections;
pub mod devnet;
pub mod execution;
pub mod grpc;
pub mod hooks;
pub mod json_rpc;
pub mod listener;
pub mod preencoded;
pub mod sequencer;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

pub use devnet::{Devnet, DevnetConfig, DevnetHandle, Urls};
pub use hooks::{Failure, Hooks};
pub use listener::Listener;

/// State that servers, the clock and tests share.
#[derive(Debug)]
pub struct Shared<T>(Arc<Mutex<T>>);

impl<T> Shared<T> {
    pub fn new(value: T) -> Self {
        Self(Arc::new(Mutex::new(value)))
    }

    /// Runs `use_it` on the state. It is not async, hence the lock is never held while waiting.
    pub fn with<R>(&self, use_it: impl FnOnce(&mut T) -> R) -> R {
        // A test that failed while it held the lock must not hide its own message behind a poisoned one.
        use_it(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}
