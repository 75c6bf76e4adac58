//! What the core wishes for, and how it is begun: calls, verification, what is to be kept, words to peers.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use downbeat_core::{
    Call, Command, CommandId, Event, Fault, Job, Node, Report, Timestamp, command::Exit, job::CelestiaTop,
};
use futures_util::future::{AbortHandle, Abortable};
use tokio::{task, time::timeout_at};
use tracing::{debug, info};

use super::{Driver, DriverError, Ready, Workers};
use crate::{
    adapters::is_execution,
    gossip::Acceptance,
    store::{Kept, Store, StoreError},
};

/// Verifications at the same time: they must leave processors to the driver.
const VERIFIERS: usize = 2;

/// Up to so many bytes a verification takes less than about a tenth of a millisecond. It then runs as a task, for waking a thread
/// would cost more than the worker is missed. At most one larger one runs at a time, on a thread of its own: what such
/// ones hold in memory together would be most of what the process needs.
const LIGHT_BYTES: usize = 48 << 10;

/// The same for headers, in signatures.
const LIGHT_SIGNATURES: usize = 16;

/// A command that an event will answer.
#[derive(Debug)]
pub(super) enum InFlight {
    Fetch(task::AbortHandle),
    Execution { abort: AbortHandle, transactions: u64 },
    Verification,
}

impl Driver {
    pub(super) fn dispatch(
        &mut self,
        command: Command,
        exit: &mut Option<Exit>,
        head_moved: &mut bool,
    ) -> Result<(), DriverError> {
        match command {
            Command::Call { id, deadline, call, node } => self.dispatch_call(id, deadline, call, node),
            Command::Persist { records } => self.persist(&records)?,
            Command::Verify { id, job } => self.dispatch_job(id, job),
            Command::Cancel { id } => {
                if let Some(in_flight) = self.in_flight.remove(&id) {
                    in_flight.abort();
                }
            }
            Command::Report(report) => {
                *head_moved |= matches!(report, Report::HeadMoved { .. });
                self.counters.take(report);
            }
            Command::Exit(reason) => *exit = Some(reason),
            Command::JudgeGossip { handle, verdict } => {
                if let Some(gossip) = &self.gossip {
                    debug!("gossip {}: {verdict}", handle.0);
                    gossip.judge(handle, Acceptance::from(&verdict));
                }
            }
            Command::PublishGossip { message, is_old } => {
                if let Some(gossip) = &self.gossip {
                    if is_old {
                        gossip.keep_message(message);
                    } else {
                        gossip.publish_message(message);
                    }
                }
            }
            Command::PenalizePeer { peer, reason } => {
                if let Some(gossip) = &self.gossip {
                    info!("peer {} answered what cannot be true: {reason}", peer.0);
                    gossip.penalize(peer);
                }
            }
        }
        Ok(())
    }

    /// Has records written. Until they are durable, commands wait. Without a store nothing is kept.
    fn persist(&mut self, records: &[downbeat_core::Record]) -> Result<(), DriverError> {
        let Some(mut store) = self.store.take() else { return Ok(()) };
        let records: Vec<Kept> =
            records.iter().map(|record| Kept { key: record.key(), value: record.encode() }).collect();
        if self.workers == Workers::Inline {
            store.put(&records)?;
            self.store = Some(store);
            return Ok(());
        }
        self.is_persisting = true;
        let sender = self.sender.clone();
        let write = task::spawn_blocking(move || {
            let result = store.put(&records);
            (store, result)
        });
        tokio::spawn(async move {
            // A panic of the store is a defect, and the driver must not wait for ever.
            let written = write.await.ok();
            sender.send(Ready::Persisted(written.map(Box::new))).await.ok();
        });
        Ok(())
    }

    /// The records are durable: what stood behind them is performed.
    pub(super) fn persisted(
        &mut self,
        written: Option<Box<(Store, Result<(), StoreError>)>>,
    ) -> Result<Option<Exit>, DriverError> {
        let Some((store, result)) = written.map(|written| *written) else { return Err(DriverError::StoreLost) };
        result?;
        self.store = Some(store);
        self.is_persisting = false;
        let (mut exit, mut head_moved) = (None, false);
        while !self.is_persisting
            && let Some(command) = self.waiting.pop_front()
        {
            self.dispatch(command, &mut exit, &mut head_moved)?;
        }
        self.performed(head_moved);
        Ok(exit)
    }

    fn dispatch_call(&mut self, id: CommandId, deadline: Timestamp, call: Call, node: Node) {
        let is_execution = is_execution(&call);
        let transactions = match &call {
            Call::ExecuteBlock { request, .. } => u64::try_from(request.transactions.len()).unwrap_or(u64::MAX),
            _ => 0,
        };
        let answer = timeout_at(self.clock.instant(deadline), self.adapters.perform(call, node));
        let reply = async move {
            let event = match answer.await {
                Ok(Ok(answer)) => Event::Answered { id, answer },
                Ok(Err(fault)) => Event::Failed { id, fault },
                Err(_) => Event::Failed { id, fault: Fault::transient("no answer before the deadline") },
            };
            Ready::Reply(id, event)
        };
        let in_flight = if is_execution {
            let (abort, registration) = AbortHandle::new_pair();
            let reply = Abortable::new(reply, registration);
            self.executions.push(Box::pin(async move { reply.await.ok() }));
            InFlight::Execution { abort, transactions }
        } else {
            let sender = self.sender.clone();
            let fetch = tokio::spawn(async move {
                let ready = reply.await;
                // Fails only when the driver is gone, and with it everybody who could want the answer.
                sender.send(ready).await.ok();
            });
            InFlight::Fetch(fetch.abort_handle())
        };
        self.in_flight.insert(id, in_flight);
    }

    fn dispatch_job(&mut self, id: CommandId, job: Job) {
        self.in_flight.insert(id, InFlight::Verification);
        match self.workers {
            Workers::Inline => {
                let outcome = job.run();
                self.ready.push_back(Ready::Reply(id, Event::JobFinished { id, outcome }));
            }
            Workers::Threads => {
                self.jobs.push_back((id, job));
                self.start_jobs();
            }
        }
    }

    /// Starts what may run now, the oldest first. What was cancelled meanwhile is not even begun.
    pub(super) fn start_jobs(&mut self) {
        let in_flight = &self.in_flight;
        self.jobs.retain(|(id, _)| in_flight.contains_key(id));
        while self.jobs_running < VERIFIERS {
            let may_start = |(_, job): &(_, Job)| !self.is_heavy_job_running || is_light(job);
            let Some((id, job)) = self.jobs.iter().position(may_start).and_then(|next| self.jobs.remove(next)) else {
                return;
            };
            let was_light = is_light(&job);
            let sender = self.sender.clone();
            let run = move || {
                let outcome = catch_unwind(AssertUnwindSafe(|| job.run())).ok();
                Ready::JobDone { id, outcome, was_light }
            };
            self.jobs_running += 1;
            if was_light {
                task::spawn(async move { sender.send(run()).await.ok() });
            } else {
                self.is_heavy_job_running = true;
                task::spawn_blocking(move || sender.blocking_send(run()).ok());
            }
        }
    }
}

/// Whether a worker of the runtime may do it, see [`LIGHT_BYTES`].
fn is_light(job: &Job) -> bool {
    let size = |parts: &mut dyn Iterator<Item = usize>| parts.fold(0, usize::saturating_add);
    match job {
        Job::VerifySoftBlock { block, .. } => block.len() <= LIGHT_BYTES,
        Job::VerifyHeader { signed_header, .. } | Job::CompareWitness { signed_header, .. } => {
            signed_header.commit.signatures.len() <= LIGHT_SIGNATURES
        }
        Job::VerifyCelestiaHeaders(job) => match &job.top {
            CelestiaTop::Known(_) => true,
            CelestiaTop::Signed { block, .. } => block.signed_header.commit.signatures.len() <= LIGHT_SIGNATURES,
        },
        // At most twenty headers of some hundred bytes.
        Job::VerifyLinks { .. } => true,
        Job::VerifyTransactions { transactions, .. } => size(&mut transactions.iter().map(Bytes::len)) <= LIGHT_BYTES,
        // A few bytes of a blob or of a message may unpack to many.
        Job::DecodeBlobs(_) | Job::VerifyGossip(_) => false,
        Job::MakeGossip(job) => job.block.len() <= LIGHT_BYTES,
        Job::ProveFalseBlock(job) => {
            let signatures = job.commit.as_ref().map_or(0, |(signed_header, _)| signed_header.commit.signatures.len());
            job.block.len() <= LIGHT_BYTES && signatures <= LIGHT_SIGNATURES
        }
    }
}

impl InFlight {
    pub(super) fn abort(self) {
        match self {
            Self::Fetch(task) => task.abort(),
            Self::Execution { abort, .. } => abort.abort(),
            // Its thread cannot be stopped; the result will be dropped.
            Self::Verification => {}
        }
    }
}
