//! What is on its way, in words that are the same for the same thing.

use downbeat_core::{Answer, Call, Fault, FaultClass, Job, job::Found};

use super::peers::Peers;

pub(super) fn what_call(call: &Call, peers: &Peers) -> String {
    match call {
        Call::IdentifySequencer => "the sequencer's chain id".to_owned(),
        Call::FetchSequencerHead => "the sequencer's head".to_owned(),
        Call::FetchSoftBlock { height, .. } => format!("soft block {height}"),
        Call::FetchSignedHeader { height } => format!("commit {height}"),
        Call::FetchHeaders { first, last } => format!("headers {first} to {last}"),
        Call::FetchValidators { height } => format!("validators {height}"),
        Call::FetchBlockTransactions { height } => format!("data items {height}"),
        Call::FetchCelestiaHead => "Celestia's head".to_owned(),
        Call::FetchBlobs { height, .. } => format!("blobs {height}"),
        Call::FetchNamespaces { height, .. } => format!("namespaces {height}"),
        Call::FetchCelestiaHeader { height } => format!("Celestia header {height}"),
        Call::FetchCelestiaHeaders { first, last } => format!("Celestia headers {first} to {last}"),
        Call::OpenSession { .. } => "open a session".to_owned(),
        Call::ExecuteBlock { request, .. } => match peers.height_of(&request.sequencer_block_hash) {
            Some(height) => format!("execute sequencer block {height} on {}", short(&request.parent_hash)),
            None => format!("execute unknown block {}", request.sequencer_block_hash),
        },
        Call::UpdateCommitment { request, .. } => {
            let state = request.commitment_state.as_ref();
            let soft = state.and_then(|state| state.soft_executed_block_metadata.as_ref());
            let firm = state.and_then(|state| state.firm_executed_block_metadata.as_ref());
            let lowest = state.map_or(0, |state| state.lowest_celestia_search_height);
            let (soft, firm) = (soft.map_or(0, |block| block.number), firm.map_or(0, |block| block.number));
            format!("commit soft {soft} firm {firm} search {lowest}")
        }
        Call::FetchFromPeers { height, .. } => format!("block {height} of peers"),
        Call::FetchExecutedBlock { number, .. } => format!("look up block {number}"),
    }
}

pub(super) fn what_job(job: &Job) -> String {
    match job {
        Job::VerifySoftBlock { request, .. } => format!("verify soft block {}", request.height),
        Job::VerifyHeader { height, .. } => format!("verify header {height}"),
        Job::VerifyLinks { anchor, first, .. } => format!("verify links from {} down to {first}", anchor.height()),
        Job::VerifyTransactions { header, .. } => format!("verify data items {}", header.height()),
        Job::VerifyCelestiaHeaders(job) => format!("verify a Celestia header and {} below", job.headers.len()),
        Job::CompareWitness { trusted, .. } => format!("compare header {}", trusted.height()),
        Job::VerifyGossip(job) => format!("verify messages about block {}", job.height),
        Job::ProveFalseBlock(job) => format!("prove false block {}", job.header.height()),
        Job::MakeGossip(job) => format!("make messages of block {}", job.light.height()),
        Job::DecodeBlobs(job) => {
            let what = match &job.found {
                Found::Blobs(blobs) => format!("{} blobs", blobs.len()),
                Found::Block { block, .. } => format!("{} shares", block.share_count()),
            };
            format!("decode {what} for heights from {} on", job.wanted.0)
        }
    }
}

pub(super) fn what_result(result: &Result<Answer, Fault>) -> String {
    match result {
        Ok(_) => "done".to_owned(),
        Err(fault) if fault.class == FaultClass::SessionLost => {
            "refused, the session is not the current one".to_owned()
        }
        Err(fault) => format!("failed, {}", fault.detail),
    }
}

fn short(hash: &str) -> &str {
    hash.get(..8).unwrap_or(hash)
}
