//! Faults to order from a server, and counters of what it was asked.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

use crate::rollup::{Code, Status};

/// What a request is answered instead of its reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// An HTTP status without content. A gRPC client sees it as UNAVAILABLE or UNKNOWN.
    Http(u16),
    /// A JSON-RPC error; from a gRPC server UNKNOWN.
    JsonRpc { code: i64, message: String },
    /// A gRPC status; from a JSON-RPC server an error with its message.
    Grpc(Status),
    /// A reply that is not what the protocol says: these bytes stand in for the result (JSON) or message (gRPC).
    Garbage(Vec<u8>),
}

/// Fault hooks and counters of one server. Clones are the same server's.
#[derive(Clone, Debug)]
pub struct Hooks(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    /// True while the server is down.
    down: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    delays: Vec<(Option<String>, Duration)>,
    counters: BTreeMap<String, u64>,
}

#[derive(Debug)]
struct Rule {
    method: Option<String>,
    remaining: u32,
    failure: Failure,
}

impl Default for Hooks {
    fn default() -> Self {
        Self(Arc::new(Inner { state: Mutex::default(), down: watch::Sender::new(false) }))
    }
}

impl Hooks {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Going down cuts every connection; while down, each new one is closed at once.
    pub fn set_down(&self, down: bool) {
        // Only a change wakes those that watch: tokio wakes them in an order that it draws by chance.
        self.0.down.send_if_modified(|current| std::mem::replace(current, down) != down);
    }

    /// The next `times` requests of `method` (of any, if unset) fail.
    pub fn fail(&self, method: Option<&str>, times: u32, failure: Failure) {
        let method = method.map(str::to_owned);
        self.state().rules.push(Rule { method, remaining: times, failure });
    }

    /// From now on replies to `method` (to all, if unset) come this much later. Zero ends it.
    pub fn delay(&self, method: Option<&str>, delay: Duration) {
        let mut state = self.state();
        state.delays.retain(|(delayed, _)| delayed.as_deref() != method);
        if !delay.is_zero() {
            state.delays.push((method.map(str::to_owned), delay));
        }
    }

    /// Forgets every failure and delay that is still to come.
    pub fn heal(&self) {
        let mut state = self.state();
        state.rules.clear();
        state.delays.clear();
        drop(state);
        self.set_down(false);
    }

    /// How often `method` was asked for, failures included.
    pub fn count(&self, method: &str) -> u64 {
        self.state().counters.get(method).copied().unwrap_or(0)
    }

    /// All counters, by method.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.state().counters.clone()
    }

    /// Counts a request, and says how long to wait and whether to fail.
    pub(super) fn admit(&self, method: &str) -> (Option<Duration>, Option<Failure>) {
        let mut state = self.state();
        if let Some(counter) = state.counters.get_mut(method) {
            *counter += 1;
        } else {
            state.counters.insert(method.to_owned(), 1);
        }
        let applies = |to: &Option<String>| to.as_deref().is_none_or(|to| to == method);
        let delay = state.delays.iter().find(|(to, _)| applies(to)).map(|(_, delay)| *delay);
        let position = state.rules.iter().position(|rule| applies(&rule.method) && rule.remaining > 0);
        let failure = position.map(|position| {
            let rule = &mut state.rules[position];
            rule.remaining -= 1;
            let failure = rule.failure.clone();
            if rule.remaining == 0 {
                state.rules.remove(position);
            }
            failure
        });
        (delay, failure)
    }

    pub(super) fn watch_down(&self) -> watch::Receiver<bool> {
        self.0.down.subscribe()
    }
}

impl Failure {
    pub(super) fn into_status(self) -> Status {
        match self {
            Self::Grpc(status) => status,
            Self::Http(status) => Status::new(Code::Unavailable, format!("HTTP status {status}")),
            Self::JsonRpc { message, .. } => Status::new(Code::Unknown, message),
            Self::Garbage(_) => Status::new(Code::Internal, "garbage"),
        }
    }
}
