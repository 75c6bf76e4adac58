//! The one loop: take a fact, stamp it, let the core decide, and dispatch what it wishes for (`dispatch`).
//!
//! Calls to rollup nodes are polled inside the driver's own task, for their two round trips per block are what
//! everything waits for. Fetches are tasks of their own (their answers are long to parse) and verification runs on
//! worker threads; both report through one bounded channel.

mod dispatch;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    future::Future,
    iter::from_fn,
    path::Path,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use dispatch::InFlight;
use downbeat_core::{
    Answer, CellId, Command, CommandId, Conductor, Event, Fault, Job, JobOutcome, Outbox, Refusal, RollupId, Seq,
    Stamped, Timestamp, cell::CellSpec, command::Exit, gossip::Topic, view::Status,
};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tracing::{Level, debug, error, info, warn};

use crate::{
    adapters::Adapters,
    clock::{Clock, wall_clock},
    gossip::{Gossip, Received},
    journal::{Digester, Entry, OutboxDigest, Record},
    reporter::Counters,
    status_line::StatusLine,
    store::{Store, StoreError},
};

/// Events that may wait in the channel; their senders wait beyond that.
const CHANNEL: usize = 256;

/// Events taken from the channel before rollup calls and timers are looked at again.
const BATCH: usize = 64;

/// The same for messages of peers, of which each may have to be verified.
const GOSSIP_BATCH: usize = 8;

/// The status is published at most this often.
const PUBLISH_PERIOD: Duration = Duration::from_millis(100);

/// The status line is written this often at level info.
const STATUS_PERIOD: Duration = Duration::from_secs(10);

/// After this time a requested stop no longer waits for the core.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// The resolution of tokio's timers: a core that is late is not asked more often.
const TIMER_RESOLUTION: Duration = Duration::from_millis(1);

/// Where verification runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Workers {
    /// On tokio's blocking threads.
    #[default]
    Threads,
    /// At once, inside the loop: deterministic, for simulated networks.
    Inline,
}

/// Is shown every event that the core was handed, refused ones too, and what the core wishes for in return, before any of
/// it is dispatched. Runs inside the loop: it must be quick and must not panic.
pub struct Observer(Box<Observe>);

type Observe = dyn FnMut(&Stamped, &Outbox) + Send;

impl Observer {
    pub fn new(observe: impl FnMut(&Stamped, &Outbox) + Send + 'static) -> Self {
        Self(Box::new(observe))
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

/// How to drive.
#[derive(Debug)]
pub struct Options {
    /// Installed in this order at start.
    pub cells: Vec<(CellId, CellSpec)>,
    pub workers: Workers,
    /// What the clock shows at start.
    pub started_at: Timestamp,
    pub observer: Option<Observer>,
}

impl Options {
    /// Worker threads, the system's clock and no observer.
    pub fn new(cells: Vec<(CellId, CellSpec)>) -> Self {
        Self { cells, workers: Workers::Threads, started_at: wall_clock(), observer: None }
    }
}

/// What the driver shows of itself and its conductor.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub at: Timestamp,
    pub status: Status,
    pub counters: Counters,
}

/// Controls a driver from outside. Dropping it changes nothing.
#[derive(Clone, Debug)]
pub struct Handle {
    stop: Arc<watch::Sender<bool>>,
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    gossip: Option<Gossip>,
}

impl Handle {
    /// Asks the driver to end; it takes at most ten seconds.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// The newest snapshot, not older than about a tenth of a second; `None` before the first.
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.snapshots.borrow().clone()
    }

    /// The network of peers, if the driver has one.
    pub fn gossip(&self) -> Option<&Gossip> {
        self.gossip.as_ref()
    }

    /// To wait for snapshots with.
    pub fn snapshots(&self) -> watch::Receiver<Option<Arc<Snapshot>>> {
        self.snapshots.clone()
    }
}

/// Why a driver cannot go on. All are defects of this program.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    #[error("a rollup could not be installed: {0}")]
    NotInstalled(Refusal),
    #[error("events went to the core out of order: {0}")]
    OutOfSequence(Refusal),
    #[error("verification ended without a result and the core does not know how to go on: {0}")]
    VerificationLost(Refusal),
    #[error("what has to be kept cannot be written, so nothing that depends on it is done: {0}")]
    NotKept(#[from] StoreError),
    #[error("the thread that writes to the data directory is gone")]
    StoreLost,
}

/// Connects a conductor with its peers.
#[derive(Debug)]
pub struct Driver {
    conductor: Conductor,
    adapters: Adapters,
    workers: Workers,
    clock: Clock,
    observer: Option<Observer>,
    next_seq: Seq,
    outbox: Outbox,
    journal: Option<Box<dyn Record>>,
    digester: Digester,
    /// The newest event, until what follows from it was begun and it is recorded.
    current: Option<Stamped>,
    /// What the core wished for in return, once it did.
    current_digest: Option<OutboxDigest>,
    /// Not here while it writes.
    store: Option<Store>,
    is_persisting: bool,
    /// Commands behind records that are not durable yet.
    waiting: VecDeque<Command>,
    ready: VecDeque<Ready>,
    in_flight: BTreeMap<CommandId, InFlight>,
    /// Verification that waits for a thread.
    jobs: VecDeque<(CommandId, Job)>,
    jobs_running: usize,
    is_heavy_job_running: bool,
    executions: FuturesUnordered<Pin<Box<dyn Future<Output = Option<Ready>> + Send>>>,
    sender: mpsc::Sender<Ready>,
    receiver: mpsc::Receiver<Ready>,
    gossip: Option<Gossip>,
    /// What comes from peers; nothing any more if the network has ended.
    gossiped: Option<mpsc::Receiver<Received>>,
    stop: watch::Receiver<bool>,
    stop_deadline: Option<Instant>,
    counters: Counters,
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    publish_at: Option<Instant>,
    last_publication: Instant,
    status_line_at: Instant,
    deadline_not_before: Instant,
}

/// An event that waits to be taken in.
#[derive(Debug)]
enum Ready {
    /// Belongs to a command that is dropped when it was cancelled meanwhile.
    Reply(CommandId, Event),
    /// Verification outside of the loop has ended; without an outcome if it panicked.
    JobDone {
        id: CommandId,
        outcome: Option<JobOutcome>,
        was_light: bool,
    },
    Fact(Event),
    /// Records were written, or not; nothing if the writer was lost.
    Persisted(Option<Box<(Store, Result<(), StoreError>)>>),
}

impl Driver {
    /// A driver and its handle. To be made and run inside a tokio runtime.
    pub fn new(conductor: Conductor, adapters: Adapters, options: Options) -> (Self, Handle) {
        let (sender, receiver) = mpsc::channel(CHANNEL);
        let (stop_sender, stop) = watch::channel(false);
        let (snapshot_sender, snapshots) = watch::channel(None);
        let now = Instant::now();
        let install = |(cell, spec)| Ready::Fact(Event::CellInstalled { cell, spec });
        let driver = Self {
            conductor,
            adapters,
            workers: options.workers,
            clock: Clock::starting_at(options.started_at),
            observer: options.observer,
            next_seq: Seq(0),
            outbox: Outbox::new(),
            journal: None,
            digester: Digester::default(),
            current: None,
            current_digest: None,
            store: None,
            is_persisting: false,
            waiting: VecDeque::new(),
            ready: options.cells.into_iter().map(install).collect(),
            in_flight: BTreeMap::new(),
            jobs: VecDeque::new(),
            jobs_running: 0,
            is_heavy_job_running: false,
            executions: FuturesUnordered::new(),
            sender,
            receiver,
            gossip: None,
            gossiped: None,
            stop,
            stop_deadline: None,
            counters: Counters::default(),
            snapshots: snapshot_sender,
            publish_at: Some(now),
            last_publication: now,
            status_line_at: now + STATUS_PERIOD,
            deadline_not_before: now,
        };
        (driver, Handle { stop: Arc::new(stop_sender), snapshots, gossip: None })
    }

    /// Has every event recorded. To be called before [`Driver::run`].
    pub fn record_to(&mut self, journal: impl Record + 'static) {
        self.journal = Some(Box::new(journal));
    }

    /// Has records kept across restarts, and evidence written beside them: also what is among `records`, which an earlier
    /// life kept. To be called before [`Driver::run`].
    pub fn keep_in(&mut self, store: Store, records: &[downbeat_core::Record]) {
        self.counters.evidence_dir = store.path().parent().map(Path::to_path_buf);
        self.counters.keep_again(records);
        self.store = Some(store);
    }

    /// Takes blocks from peers and hands them on. To be called before [`Driver::run`].
    pub fn share_with(&mut self, handle: &mut Handle, gossip: Gossip, received: mpsc::Receiver<Received>) {
        self.adapters.ask_peers(gossip.clone());
        handle.gossip = Some(gossip.clone());
        self.gossip = Some(gossip);
        self.gossiped = Some(received);
    }

    /// Runs until the core wishes to exit, or until a requested stop has taken too long.
    ///
    /// # Errors
    /// See [`DriverError`].
    pub async fn run(mut self) -> Result<Exit, DriverError> {
        let result = self.run_until_exit().await;
        self.publish();
        for in_flight in std::mem::take(&mut self.in_flight).into_values() {
            in_flight.abort();
        }
        if let Some(gossip) = &self.gossip {
            gossip.end().await;
        }
        result
    }

    async fn run_until_exit(&mut self) -> Result<Exit, DriverError> {
        let timer = sleep_until(Instant::now());
        tokio::pin!(timer);
        loop {
            self.take_due();
            while let Some(ready) = self.ready.pop_front() {
                if let Some(exit) = self.step(ready)? {
                    return Ok(exit);
                }
            }
            if self.stop_deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                warn!("the stop took longer than {} s: leaving at once", STOP_PATIENCE.as_secs());
                return Ok(Exit::Stopped);
            }
            let wake = self.next_wake();
            if timer.deadline() != wake {
                timer.as_mut().reset(wake);
            }
            tokio::select! {
                biased;
                Some(done) = self.executions.next(), if !self.executions.is_empty() => self.ready.extend(done),
                Some(ready) = self.receiver.recv() => self.ready.push_back(ready),
                received = next_of(&mut self.gossiped) => if let Some(received) = received {
                    self.ready.push_back(Ready::Fact(received.into()));
                } else {
                    error!("the network of peers has ended unexpectedly: going on without it");
                    self.gossiped = None;
                },
                requested = self.stop.wait_for(|stop| *stop), if self.stop_deadline.is_none() => {
                    if requested.is_ok() {
                        self.stop_deadline = Some(Instant::now() + STOP_PATIENCE);
                        self.ready.push_back(Ready::Fact(Event::StopRequested));
                    } else {
                        // All handles are gone: nobody can ask any more, and this arm would spin.
                        self.stop_deadline = Some(Instant::now() + FAR);
                    }
                }
                () = &mut timer => {}
            }
            // Whichever of them woke the loop, none of the others may starve.
            for _ in 0..BATCH {
                match self.receiver.try_recv() {
                    Ok(ready) => self.ready.push_back(ready),
                    Err(_) => break,
                }
            }
            let gossiped = self.gossiped.iter_mut().flat_map(|gossiped| from_fn(|| gossiped.try_recv().ok()));
            self.ready.extend(gossiped.take(GOSSIP_BATCH).map(|received| Ready::Fact(received.into())));
        }
    }

    /// Does what has come due.
    fn take_due(&mut self) {
        let now = Instant::now();
        if now >= self.deadline_not_before
            && self.conductor.next_deadline().is_some_and(|(deadline, _)| deadline <= self.clock.now())
        {
            self.deadline_not_before = now + TIMER_RESOLUTION;
            self.ready.push_back(Ready::Fact(Event::DeadlineReached));
        }
        if self.publish_at.is_some_and(|at| at <= now) {
            self.publish();
        }
        if self.status_line_at <= now {
            self.status_line_at = now + STATUS_PERIOD;
            info!("status: {}", StatusLine(&self.conductor.status(self.clock.now())));
        }
    }

    /// When something will come due.
    fn next_wake(&self) -> Instant {
        let deadline = self.conductor.next_deadline();
        let deadline = deadline.map(|(deadline, _)| self.clock.instant(deadline).max(self.deadline_not_before));
        [deadline, self.publish_at, self.stop_deadline].into_iter().flatten().fold(self.status_line_at, Instant::min)
    }

    /// Takes one event in and dispatches what follows.
    fn step(&mut self, ready: Ready) -> Result<Option<Exit>, DriverError> {
        let (event, is_job_lost) = match ready {
            Ready::Persisted(written) => return self.persisted(written),
            Ready::Fact(event) => (event, false),
            Ready::Reply(id, event) => match self.in_flight.remove(&id) {
                Some(command) => {
                    self.count(&command, &event);
                    (event, false)
                }
                None => return Ok(None),
            },
            Ready::JobDone { id, outcome, was_light } => {
                self.jobs_running -= 1;
                self.is_heavy_job_running &= was_light;
                self.start_jobs();
                if self.in_flight.remove(&id).is_none() {
                    return Ok(None);
                }
                self.counters.verifications += 1;
                match outcome {
                    Some(outcome) => (Event::JobFinished { id, outcome }, false),
                    None => (Event::Failed { id, fault: Fault::invalid("verification panicked: a defect") }, true),
                }
            }
        };
        self.follow_topic(&event);
        let is_installation = matches!(event, Event::CellInstalled { .. });
        let input = self.current.insert(Stamped { seq: self.next_seq, at: self.clock.now(), event });
        self.next_seq = Seq(self.next_seq.0 + 1);
        let result = self.conductor.handle(input, &mut self.outbox);
        if let Some(Observer(observe)) = &mut self.observer {
            observe(input, &self.outbox);
        }
        if self.journal.is_some() {
            self.current_digest = Some(self.digester.digest(self.outbox.iter()));
        }
        let acted = self.act(result, is_installation, is_job_lost);
        // Whoever is waited for has been asked by now: to write events down delays nothing that matters.
        self.record();
        acted
    }

    fn record(&mut self) {
        let (input, digest) = (self.current.take(), self.current_digest.take());
        if let Some((journal, input)) = self.journal.as_mut().zip(input) {
            journal.record(Entry::new(input, digest));
        }
    }

    /// Does what the core wishes, now that it has taken an event or refused it.
    fn act(
        &mut self,
        result: Result<(), Refusal>,
        is_installation: bool,
        is_job_lost: bool,
    ) -> Result<Option<Exit>, DriverError> {
        match result {
            Ok(()) => {}
            Err(refusal @ Refusal::OutOfSequence { .. }) => return Err(DriverError::OutOfSequence(refusal)),
            Err(refusal) if is_installation => return Err(DriverError::NotInstalled(refusal)),
            Err(refusal) if is_job_lost => return Err(DriverError::VerificationLost(refusal)),
            Err(refusal) => debug!("refused an event: {refusal}"),
        }
        // An inline verification adds to the events, never to this outbox.
        let mut outbox = std::mem::take(&mut self.outbox);
        let mut exit = None;
        let mut head_moved = false;
        for command in outbox.drain() {
            // Persist, then act.
            if self.is_persisting {
                self.waiting.push_back(command);
            } else {
                self.dispatch(command, &mut exit, &mut head_moved)?;
            }
        }
        self.outbox = outbox;
        self.performed(head_moved);
        Ok(exit)
    }

    /// A session says which rollup a cell drives: its data are wanted from peers.
    fn follow_topic(&self, event: &Event) {
        let Some(gossip) = &self.gossip else { return };
        if let Event::Answered { answer: Answer::SessionOpened { session }, .. } = event
            && let Some(id) = session.execution_session_parameters.as_ref().and_then(|p| p.rollup_id.as_ref())
            && let Ok(id) = <[u8; 32]>::try_from(id.inner.as_ref())
        {
            gossip.follow(vec![Topic::Rollup(RollupId(id))]);
        }
    }

    /// Commands were performed: whoever watches will see what changed.
    fn performed(&mut self, head_moved: bool) {
        if head_moved && tracing::enabled!(Level::DEBUG) {
            debug!("status: {}", StatusLine(&self.conductor.status(self.clock.now())));
        }
        if self.publish_at.is_none() {
            self.publish_at = Some((self.last_publication + PUBLISH_PERIOD).max(Instant::now()));
        }
    }

    fn count(&mut self, command: &InFlight, event: &Event) {
        match (command, event) {
            (
                InFlight::Execution { transactions, .. },
                Event::Answered { answer: Answer::BlockExecuted { .. }, .. },
            ) => {
                self.counters.blocks_executed += 1;
                self.counters.transactions_executed += transactions;
            }
            (InFlight::Verification, _) => self.counters.verifications += 1,
            _ => {}
        }
    }

    fn publish(&mut self) {
        self.publish_at = None;
        self.last_publication = Instant::now();
        let at = self.clock.now();
        let snapshot = Snapshot { at, status: self.conductor.status(at), counters: self.counters.clone() };
        self.snapshots.send_replace(Some(Arc::new(snapshot)));
    }
}

/// An event that a panic left unrecorded is the one that will be looked for.
impl Drop for Driver {
    fn drop(&mut self) {
        self.record();
    }
}

/// What comes next from peers; never anything where nothing can come.
async fn next_of(gossiped: &mut Option<mpsc::Receiver<Received>>) -> Option<Received> {
    match gossiped {
        Some(gossiped) => gossiped.recv().await,
        None => std::future::pending().await,
    }
}

/// Further away than any run lasts.
const FAR: Duration = Duration::from_hours(24 * 365);

#[cfg(test)]
mod tests;
