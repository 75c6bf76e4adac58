//! Events and commands on one line each, without what is long in them.

use downbeat_core::{
    Answer, Call, Command, Event, Job, JobOutcome, Node, Record, Report,
    command::Exit,
    job::{BlockVerdict, CelestiaTop, Found},
    light::Witnessed,
};

/// What happened.
pub fn describe_event(event: &Event) -> String {
    match event {
        Event::CellInstalled { cell, spec } => format!("{cell} installed, {:?}", spec.mode),
        Event::DeadlineReached => "deadline reached".to_owned(),
        Event::Answered { id, answer } => format!("#{} answered: {}", id.ordinal, describe_answer(answer)),
        Event::Failed { id, fault } => format!("#{} failed, {:?}: {}", id.ordinal, fault.class, fault.detail),
        Event::JobFinished { id, outcome } => format!("#{} finished: {}", id.ordinal, describe_outcome(outcome)),
        Event::StopRequested => "stop requested".to_owned(),
        Event::Gossiped { handle, peer, topic, bytes } => {
            format!("gossip {} from peer {} about {topic}, {} bytes", handle.0, peer.0, bytes.len())
        }
    }
}

fn describe_answer(answer: &Answer) -> String {
    match answer {
        Answer::SequencerIdentified { chain_id } => format!("sequencer is {chain_id}"),
        Answer::SequencerHeadFetched { height } => format!("sequencer head {height}"),
        Answer::SoftBlockFetched { block } => format!("soft block, {} bytes", block.len()),
        Answer::SignedHeaderFetched { signed_header } => format!(
            "signed header {}, {} signatures",
            signed_header.header.height,
            signed_header.commit.signatures.len()
        ),
        Answer::CelestiaHeaderFetched { header } => format!("Celestia header {}", header.signed_header.header.height),
        Answer::CelestiaHeadersFetched { headers } => format!("{} Celestia headers", headers.len()),
        Answer::HeadersFetched { headers } => match (headers.first(), headers.last()) {
            (Some(first), Some(last)) => format!("{} headers, {} to {}", headers.len(), first.height, last.height),
            _ => "no headers".to_owned(),
        },
        Answer::ValidatorsFetched { validators } => format!("{} validators", validators.len()),
        Answer::BlockTransactionsFetched { transactions } => format!("{} data items", transactions.len()),
        Answer::CelestiaHeadFetched { head } => format!("Celestia head {} of {}", head.height, head.chain_id),
        Answer::BlobsFetched { blobs, .. } => {
            let bytes: usize = blobs.iter().map(|blob| blob.data.len()).sum();
            format!("{} blobs, {bytes} bytes", blobs.len())
        }
        Answer::NamespacesFetched { block } => {
            format!("Celestia block {}, {} shares", block.signed.signed_header.header.height, block.share_count())
        }
        Answer::SessionOpened { session } => {
            let commitment = session.commitment_state.as_ref();
            let number = |block: Option<&downbeat_core::wire::proto::astria::execution::v2::ExecutedBlockMetadata>| {
                block.map_or_else(|| "?".to_owned(), |block| block.number.to_string())
            };
            format!(
                "session {} at soft {} firm {}",
                session.session_id,
                number(commitment.and_then(|state| state.soft_executed_block_metadata.as_ref())),
                number(commitment.and_then(|state| state.firm_executed_block_metadata.as_ref())),
            )
        }
        Answer::BlockExecuted { response } => match &response.executed_block_metadata {
            Some(block) => format!("block {} executed, {}", block.number, block.hash),
            None => "block executed, nothing said about it".to_owned(),
        },
        Answer::CommitmentUpdated { commitment } => {
            format!("commitment updated, Celestia from {}", commitment.lowest_celestia_search_height)
        }
        Answer::ExecutedBlockFetched { metadata } => format!("block {} is {}", metadata.number, metadata.hash),
        Answer::FetchedFromPeers { peer, block, rollups } => {
            let block = if block.is_some() { "a block" } else { "no block" };
            format!("{block} and {} rollups from peer {}", rollups.len(), peer.0)
        }
    }
}

fn describe_verdict(verdict: &BlockVerdict) -> String {
    match verdict {
        BlockVerdict::Unknown(reason) => format!("the refused block proves nothing, {reason}"),
        BlockVerdict::False(reason) => format!("the refused block contradicts its header, {reason}"),
        BlockVerdict::Proven(evidence) => format!("the refused block {} is proven to be false", evidence.height),
        BlockVerdict::NotCommitted(reason) => format!("the header of the refused block has no commit, {reason}"),
    }
}

fn describe_outcome(outcome: &JobOutcome) -> String {
    match outcome {
        JobOutcome::SoftBlock(Ok(block)) => format!("soft block {} verified", block.height()),
        JobOutcome::SoftBlock(Err(reason)) => format!("soft block refused, {reason}"),
        JobOutcome::Header(Ok(signed)) => format!("header {} verified", signed.header.height()),
        JobOutcome::Header(Err(refusal)) => format!("header refused, {}", refusal.reason),
        JobOutcome::Links(Ok(headers)) => format!("{} headers linked", headers.len()),
        JobOutcome::Links(Err(reason)) => format!("headers not linked, {reason}"),
        JobOutcome::Transactions(Ok(items)) => format!("{} data items verified", items.len()),
        JobOutcome::Transactions(Err(reason)) => format!("data items refused, {reason}"),
        JobOutcome::Witness(Witnessed::Same) => "the witness agrees".to_owned(),
        JobOutcome::Witness(Witnessed::Unproven(reason)) => format!("the witness proves nothing, {reason}"),
        JobOutcome::Witness(Witnessed::Conflict(_)) => "the witness proves that validators signed twice".to_owned(),
        JobOutcome::CelestiaHeaders(Ok(linked)) => format!("{} Celestia headers trusted", linked.ids.len()),
        JobOutcome::CelestiaHeaders(Err(refusal)) => format!("Celestia header refused, {}", refusal.reason),
        JobOutcome::Gossip(judged) => {
            let accepted = judged.rollups.iter().filter(|(_, result)| result.is_ok()).count();
            match &judged.block {
                Some(Err(refusal)) => format!("message about a block {}", refusal.verdict),
                Some(Ok(block)) => {
                    format!("message about block {} is genuine, {accepted} about rollups", block.message.height)
                }
                None => format!("{accepted} of {} messages about rollups are genuine", judged.rollups.len()),
            }
        }
        JobOutcome::Messages(messages) => format!("{} messages made", messages.len()),
        JobOutcome::FalseBlock(verdict) => describe_verdict(verdict),
        JobOutcome::Blobs(Err(refusal)) => format!("Celestia block refused, {}", refusal.reason),
        JobOutcome::Blobs(Ok(decoded)) => format!(
            "blobs decoded: {} blocks, {} bound, {} candidates, {} records, {} dropped",
            decoded.blocks.len(),
            decoded.bound.len(),
            decoded.candidates.len(),
            decoded.records.len(),
            decoded.dropped.len(),
        ),
    }
}

/// What the conductor wishes for.
pub fn describe_command(command: &Command) -> String {
    match command {
        Command::Call { id, call, node: Node(0), .. } => format!("#{} {}", id.ordinal, describe_call(call)),
        Command::Call { id, call, node, .. } => format!("#{} {} of node {}", id.ordinal, describe_call(call), node.0),
        Command::Persist { records } => {
            format!("persist {}", records.iter().map(Record::key).collect::<Vec<_>>().join(", "))
        }
        Command::Verify { id, job } => format!("#{} {}", id.ordinal, describe_job(job)),
        Command::Cancel { id } => format!("cancel #{}", id.ordinal),
        Command::Report(report) => describe_report(report),
        Command::JudgeGossip { handle, verdict } => format!("gossip {} {verdict}", handle.0),
        Command::PublishGossip { message, .. } => format!("publish block {} to {}", message.height, message.topic),
        Command::PenalizePeer { peer, reason } => format!("penalize peer {}: {reason}", peer.0),
        Command::Exit(Exit::Stopped) => "exit: stopped".to_owned(),
        Command::Exit(Exit::AllCellsParked { reason }) => format!("exit: all cells are parked, {reason}"),
    }
}

fn describe_call(call: &Call) -> String {
    match call {
        Call::IdentifySequencer => "identify the sequencer".to_owned(),
        Call::FetchSequencerHead => "fetch sequencer head".to_owned(),
        Call::FetchSoftBlock { height, rollup_ids } => {
            format!("fetch soft block {height} for {} rollups", rollup_ids.len())
        }
        Call::FetchSignedHeader { height } => format!("fetch signed header {height}"),
        Call::FetchHeaders { first, last } => format!("fetch headers {first} to {last}"),
        Call::FetchValidators { height } => format!("fetch validators of {height}"),
        Call::FetchBlockTransactions { height } => format!("fetch data items of {height}"),
        Call::FetchCelestiaHead => "fetch Celestia head".to_owned(),
        Call::FetchBlobs { height, namespaces } => {
            format!("fetch blobs of {height} in {} namespaces", namespaces.len())
        }
        Call::FetchNamespaces { height, namespaces } => {
            format!("fetch {} whole namespaces of {height}", namespaces.len())
        }
        Call::FetchCelestiaHeader { height } => format!("fetch Celestia header {height}"),
        Call::FetchCelestiaHeaders { first, last } => format!("fetch Celestia headers {first} to {last}"),
        Call::OpenSession { cell } => format!("open session for {cell}"),
        Call::ExecuteBlock { cell, request } => {
            let (block, count) = (&request.sequencer_block_hash, request.transactions.len());
            format!("execute for {cell}: {count} elements of block {block} on {}", request.parent_hash)
        }
        Call::UpdateCommitment { cell, request } => {
            let state = request.commitment_state.as_ref();
            let soft = state.and_then(|state| state.soft_executed_block_metadata.as_ref()).map(|block| block.number);
            let firm = state.and_then(|state| state.firm_executed_block_metadata.as_ref()).map(|block| block.number);
            format!("commit for {cell}: soft {} firm {}", soft.unwrap_or_default(), firm.unwrap_or_default())
        }
        Call::FetchExecutedBlock { cell, number } => format!("fetch executed block {number} of {cell}"),
        Call::FetchFromPeers { height, rollups } => {
            format!("ask peers for block {height} with {} rollups", rollups.len())
        }
    }
}

fn describe_job(job: &Job) -> String {
    match job {
        Job::VerifySoftBlock { request, .. } => format!("verify soft block {}", request.height),
        Job::VerifyHeader { height, .. } => format!("verify header {height}"),
        Job::VerifyLinks { anchor, first, .. } => format!("verify links from {first} to {}", anchor.height()),
        Job::VerifyTransactions { header, .. } => format!("verify data items of {}", header.height()),
        Job::VerifyCelestiaHeaders(job) => match &job.top {
            CelestiaTop::Known(id) => format!("link {} Celestia headers to {}", job.headers.len(), id.height()),
            CelestiaTop::Signed { height, .. } => {
                format!("verify Celestia header {height} and link {} to it", job.headers.len())
            }
        },
        Job::VerifyGossip(job) => format!("verify messages about block {}", job.height),
        Job::MakeGossip(job) => format!("make messages of block {}", job.light.height()),
        Job::ProveFalseBlock(job) => format!("see what a refused block {} proves", job.header.height()),
        Job::CompareWitness { trusted, .. } => format!("compare a witness's header {}", trusted.height()),
        Job::DecodeBlobs(job) => match &job.found {
            Found::Blobs(blobs) => format!("decode {} blobs", blobs.len()),
            Found::Block { block, expected } => {
                format!("prove and decode {} shares of {}", block.share_count(), expected.header.height())
            }
        },
    }
}

fn describe_report(report: &Report) -> String {
    match report {
        Report::ChainIdentified { chain, chain_id } => format!("says: {chain:?} is {chain_id}"),
        Report::SessionOpened { cell, session_id, soft, firm, .. } => {
            format!("says: {cell} has session {session_id}, soft {soft} firm {firm}")
        }
        Report::SessionLost { cell, reason, delay_ms } => {
            format!("says: {cell} lost its session, next in {delay_ms} ms, {reason}")
        }
        Report::SessionFinished { cell, last } => format!("says: session of {cell} is finished at {last}"),
        Report::HeadMoved { cell, level, number, .. } => format!("says: {cell} {level:?} is {number}"),
        Report::Dropped { what, at, reason } => format!("says: dropped {} at {at}, {reason}", what.name()),
        Report::CallFailed { what, attempt, retry_in_ms, reason } => {
            format!("says: {what} failed, try {attempt}, next in {retry_in_ms} ms, {reason}")
        }
        Report::Gap { cell, missing, from, to, .. } => {
            format!("says: {cell} misses block {missing} between Celestia heights {from} and {to}")
        }
        Report::Parked { cell, reason } => format!("says: {cell} is parked, {reason}"),
        Report::TrustedOnFirstUse { height, .. } => format!("says: trust begins with header {height}"),
        Report::CelestiaTrustedOnFirstUse { height, .. } => {
            format!("says: trust in Celestia begins with header {height}")
        }
        Report::FalseNamespaces { evidence } => {
            format!("says: what was answered about Celestia height {} is false, {}", evidence.height, evidence.reason)
        }
        Report::FalseBlock { evidence } => {
            format!("says: what was answered as block {} is false, {}", evidence.height, evidence.reason)
        }
        Report::Conflict { evidence, .. } => format!("says: two headers of height {} are signed", evidence.height),
    }
}
