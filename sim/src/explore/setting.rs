//! What all situations of a search have in common: the scope, the peers, limits, and what was computed before.

use std::{cell::RefCell, collections::HashMap, rc::Rc, time::Duration};

use downbeat_core::{
    Job, JobOutcome, Limits,
    job::{Found, Validators},
    light::TrustSettings,
};

use super::{
    Scope,
    canonical::{self, Digest},
    peers::Peers,
};

/// Every period, delay and deadline.
pub(super) const STEP: Duration = Duration::from_mins(1);

/// What a search has in common with all its situations.
#[derive(Debug)]
pub(super) struct Setting {
    pub(super) scope: Scope,
    pub(super) peers: Peers,
    pub(super) limits: Limits,
    /// Work that was done before, by what it works on.
    done: RefCell<HashMap<Key, Work>>,
    /// Digests of conductors, by that of the one before and what happened. Equal digests stand for equal futures, so a
    /// step that was made before from an equal conductor leads to an equal one; now and then this is checked.
    pub(super) steps: RefCell<HashMap<(Digest, Digest), Digest>>,
}

/// What came of a job, and its digest.
type Work = (Rc<JobOutcome>, Digest);

impl Setting {
    pub(super) fn new(scope: &Scope) -> Result<Self, String> {
        if !(1..=8).contains(&scope.soft) || scope.firm > scope.soft {
            return Err("there are 1 to 8 soft blocks, and no more firm ones than soft ones".to_owned());
        }
        if !scope.sessions.is_empty() && scope.mode.follows_firm() && scope.soft != scope.firm {
            return Err(
                "a session ends by a firm block, hence with short sessions all blocks have to be firm".to_owned()
            );
        }
        let limits = Limits {
            soft_in_flight: 1,
            soft_ahead: 2,
            soft_firm_spread: scope.spread,
            celestia_in_flight: 1,
            headers_in_flight: 1,
            headers_ahead: 4,
            candidates_per_height: 2,
            trusted_headers: 4,
            sequencer_poll: STEP,
            celestia_poll: STEP,
            celestia_poll_min: STEP,
            celestia_poll_max: STEP,
            backoff_first: STEP,
            backoff_last: STEP,
            session_delay_first: STEP,
            session_delay_last: STEP,
            fetch_deadline: STEP,
            execution_deadline: STEP,
            // What is searched for is the order of things; what is believed does not depend on it.
            trust: TrustSettings::endpoint(),
            ..Limits::default()
        };
        Ok(Self {
            scope: scope.clone(),
            peers: Peers::new(scope)?,
            limits,
            done: RefCell::default(),
            steps: RefCell::default(),
        })
    }

    pub(super) fn run(&self, job: Job) -> Work {
        let key = key_of(&job);
        if let Some(done) = self.done.borrow().get(&key) {
            return done.clone();
        }
        let outcome = job.run();
        let digest = canonical::of_debug(&outcome);
        let done = (Rc::new(outcome), digest);
        self.done.borrow_mut().insert(key, done.clone());
        done
    }
}

/// What the outcome of a job follows from. Jobs are pure, and in a search there is one sequencer block and one trusted
/// header per height, so heights and the blobs themselves (which are shared, never copied) tell jobs apart.
type Key = (&'static str, Vec<u64>);

fn key_of(job: &Job) -> Key {
    match job {
        Job::VerifySoftBlock { request, .. } => ("soft block", vec![request.height.0]),
        Job::VerifyHeader { height, validators, .. } => {
            ("header", vec![height.0, u64::from(matches!(validators, Validators::Known(_)))])
        }
        Job::VerifyLinks { anchor, first, headers } => {
            ("links", vec![anchor.height().0, first.0, headers.len() as u64])
        }
        // The search believes the node.
        Job::VerifyCelestiaHeaders(job) => ("celestia headers", vec![job.headers.len() as u64]),
        Job::CompareWitness { trusted, .. } => ("witness", vec![trusted.height()]),
        Job::VerifyTransactions { header, .. } => ("data items", vec![header.height().0]),
        // There are no peers in a search.
        Job::VerifyGossip(job) => ("gossip", vec![job.height.0]),
        // No peer of a search tells a lie.
        Job::ProveFalseBlock(job) => ("false block", vec![job.header.height().0, u64::from(job.commit.is_some())]),
        Job::MakeGossip(job) => ("messages", vec![job.light.height()]),
        Job::DecodeBlobs(job) => {
            let mut key = vec![job.wanted.0.0, job.wanted.1.0];
            let blobs = match &job.found {
                Found::Blobs(blobs) => blobs.as_slice(),
                Found::Block { .. } => &[],
            };
            let lists: [Vec<u64>; 4] = [
                blobs.iter().map(|blob| blob.data.as_ptr().addr() as u64).collect(),
                job.headers.keys().map(|height| height.0).collect(),
                job.contents.keys().map(|height| height.0).collect(),
                job.bound.iter().map(|metadata| metadata.height().0).collect(),
            ];
            for list in lists {
                key.push(list.len() as u64);
                key.extend(list);
            }
            ("blobs", key)
        }
    }
}
