//! One line of plain text for each event, command and report. Texts from peers are cut, not interpreted.

use std::fmt::Write as _;

use downbeat_core::{
    Answer, BlockHash, Call, Event, Fault, Job, JobOutcome, Report,
    celestia::FalseNamespaces,
    command::{Chain, Exit, Level},
    conductor::Timer,
    gossip::BlockPart,
    job::{BlobsRefusal, BlockVerdict, CelestiaTop, Found, Validators},
    light::Witnessed,
    sequencer::FalseBlock,
    view::{Status, Wait},
    wire::proto::astria::execution::v2::{CommitmentState, ExecutedBlockMetadata},
};

use super::{Actor, Severity, StepKind};

/// Longest text that is kept, in bytes.
pub(super) const TEXT_MAX: usize = 300;

/// Cuts a text to `max` bytes, at a character, and replaces what would disturb the text around it.
pub(super) fn cut(mut text: String, max: usize) -> String {
    if text.contains(is_disturbing) {
        text = text.replace(is_disturbing, "\u{fffd}");
    }
    if text.len() > max {
        let end = (0..=max).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Control characters, and those that change the direction of what follows.
fn is_disturbing(character: char) -> bool {
    (character.is_control() && character != '\n')
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn short(text: &str) -> String {
    cut(text.to_owned(), 12)
}

fn hash(hash: BlockHash) -> String {
    short(&hash.to_string())
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Label and detail of an event that names no command, or of one whose command is not known.
pub(super) fn event(event: &Event) -> (StepKind, String, String) {
    match event {
        Event::CellInstalled { cell, spec } => {
            let mut detail = format!("mode {:?}", spec.mode);
            for id in [&spec.expected_sequencer_chain_id, &spec.expected_celestia_chain_id].into_iter().flatten() {
                let _ = write!(detail, ", expects {id:?}");
            }
            (StepKind::Installed, format!("{cell} installed"), detail)
        }
        Event::DeadlineReached => (StepKind::Deadline, "deadline reached".to_owned(), String::new()),
        Event::Answered { answer: what, .. } => (StepKind::Answered, "answer".to_owned(), answer(what)),
        Event::Failed { fault: what, .. } => (StepKind::Failed, "failure".to_owned(), fault(what)),
        Event::JobFinished { outcome: what, .. } => (StepKind::Verified, "verification".to_owned(), outcome(what).1),
        Event::StopRequested => (StepKind::Stop, "stop requested".to_owned(), String::new()),
        Event::Gossiped { handle, peer, topic, bytes } => {
            let detail = format!("message {} from peer {}, {} bytes", handle.0, peer.0, bytes.len());
            (StepKind::Gossiped, format!("gossip: {topic}"), detail)
        }
    }
}

pub(super) fn fault(fault: &Fault) -> String {
    format!("{:?}: {}", fault.class, fault.detail)
}

/// Whom a call goes to, its label and its detail. `status` is that of the conductor which has just sent it.
pub(super) fn call(call: &Call, status: &Status) -> (Actor, String, String) {
    let plain = |actor, label: String| (actor, label, String::new());
    match call {
        Call::IdentifySequencer => plain(Actor::CometBft, "chain id".to_owned()),
        Call::FetchSequencerHead => plain(Actor::CometBft, "head".to_owned()),
        Call::FetchSoftBlock { height, rollup_ids } => {
            (Actor::Sequencer, format!("soft block {height}"), format!("for {}", count(rollup_ids.len(), "rollup")))
        }
        Call::FetchSignedHeader { height } => plain(Actor::CometBft, format!("commit {height}")),
        Call::FetchHeaders { first, last } => plain(Actor::CometBft, format!("headers {first}–{last}")),
        Call::FetchValidators { height } => plain(Actor::CometBft, format!("validators {height}")),
        Call::FetchBlockTransactions { height } => plain(Actor::CometBft, format!("data items {height}")),
        Call::FetchCelestiaHead => plain(Actor::Celestia, "head".to_owned()),
        Call::FetchBlobs { height, namespaces } => {
            (Actor::Celestia, format!("blobs {height}"), format!("in {}", count(namespaces.len(), "namespace")))
        }
        Call::FetchNamespaces { height, namespaces } => (
            Actor::Celestia,
            format!("namespaces {height}"),
            format!("{} with proofs", count(namespaces.len(), "namespace")),
        ),
        Call::FetchCelestiaHeader { height } => plain(Actor::Celestia, format!("header {height}")),
        Call::FetchCelestiaHeaders { first, last } => plain(Actor::Celestia, format!("headers {first}–{last}")),
        Call::OpenSession { cell } => plain(Actor::Rollup(*cell), "open session".to_owned()),
        Call::ExecuteBlock { cell, request } => {
            let waits = status.cells.get(cell).map_or(&[][..], |cell| &cell.waiting_for);
            let number = waits.iter().find_map(|wait| match wait {
                Wait::Execution { number } => Some(format!(" {number}")),
                _ => None,
            });
            let bytes: usize = request.transactions.iter().map(prost::Message::encoded_len).sum();
            let detail = format!(
                "on parent {}, {} ({bytes} bytes), of sequencer block {}, session {}",
                short(&request.parent_hash),
                count(request.transactions.len(), "item"),
                short(&request.sequencer_block_hash),
                short(&request.session_id),
            );
            (Actor::Rollup(*cell), format!("execute{}", number.unwrap_or_default()), detail)
        }
        Call::UpdateCommitment { cell, request } => {
            let (numbers, detail) = request.commitment_state.as_ref().map(commitment).unwrap_or_default();
            (
                Actor::Rollup(*cell),
                format!("commit {numbers}"),
                format!("{detail}, session {}", short(&request.session_id)),
            )
        }
        Call::FetchExecutedBlock { cell, number } => plain(Actor::Rollup(*cell), format!("look up {number}")),
        Call::FetchFromPeers { height, rollups } => {
            (Actor::Peers, format!("block {height}"), format!("with {}", count(rollups.len(), "rollup")))
        }
    }
}

/// Label and detail of a job.
pub(super) fn job(job: &Job) -> (String, String) {
    match job {
        Job::VerifySoftBlock { block, request, .. } => {
            (format!("check soft block {}", request.height), format!("{} bytes", block.len()))
        }
        Job::VerifyHeader { height, signed_header, validators, .. } => {
            let votes = count(signed_header.commit.signatures.len(), "signature");
            let set = match validators {
                Validators::Known(_) => "a validator set that is known".to_owned(),
                Validators::Fetched(validators) => count(validators.len(), "fetched validator"),
            };
            (format!("check header {height}"), format!("{votes} against {set}"))
        }
        Job::CompareWitness { trusted, .. } => (format!("compare header {}", trusted.height()), String::new()),
        Job::VerifyLinks { anchor, first, headers } => (
            format!("check links {first}–{}", anchor.height()),
            format!("{} below the trusted one", count(headers.len(), "header")),
        ),
        Job::VerifyTransactions { header, transactions } => {
            (format!("check data items {}", header.height()), count(transactions.len(), "item"))
        }
        Job::VerifyCelestiaHeaders(job) => {
            let linked = format!("{} below", count(job.headers.len(), "header"));
            match &job.top {
                CelestiaTop::Known(id) => (format!("check links to Celestia header {}", id.height()), linked),
                CelestiaTop::Signed { height, .. } => (format!("verify Celestia header {height}"), linked),
            }
        }
        Job::VerifyGossip(job) => {
            let with = count(job.rollups.len(), "rollup");
            let what = match job.block {
                BlockPart::Known(_) => format!("{with} of a block that is known"),
                BlockPart::Message { .. } => format!("the block with {with}"),
            };
            (format!("check messages {}", job.height), what)
        }
        Job::ProveFalseBlock(job) => (format!("prove false block {}", job.header.height()), String::new()),
        Job::MakeGossip(job) => (format!("make messages {}", job.light.height()), String::new()),
        Job::DecodeBlobs(job) => {
            let (first, last) = job.wanted;
            let wanted = format!("sequencer heights {first} to {last} are wanted");
            match &job.found {
                Found::Blobs(blobs) => {
                    let bytes: usize = blobs.iter().map(|blob| blob.data.len()).sum();
                    (format!("decode {}", count(blobs.len(), "blob")), format!("{bytes} bytes; {wanted}"))
                }
                Found::Block { block, expected } => (
                    format!("prove and decode {}", expected.header.height()),
                    format!("{}; {wanted}", count(block.share_count(), "share")),
                ),
            }
        }
    }
}

/// What an answer says.
pub(super) fn answer(answer: &Answer) -> String {
    match answer {
        Answer::SequencerIdentified { chain_id } => format!("{chain_id:?}"),
        Answer::SequencerHeadFetched { height } => format!("height {height}"),
        Answer::SoftBlockFetched { block } => format!("{} bytes", block.len()),
        Answer::SignedHeaderFetched { signed_header } => {
            let votes = count(signed_header.commit.signatures.len(), "signature");
            let block = signed_header.commit.block_id.hash.to_string().to_lowercase();
            format!("height {}, hash {}, {votes}", signed_header.header.height, short(&block))
        }
        Answer::HeadersFetched { headers } | Answer::CelestiaHeadersFetched { headers } => {
            count(headers.len(), "header")
        }
        Answer::ValidatorsFetched { validators } => count(validators.len(), "validator"),
        Answer::BlockTransactionsFetched { transactions } => count(transactions.len(), "item"),
        Answer::CelestiaHeadFetched { head } => format!("height {} of {:?}", head.height, head.chain_id),
        Answer::BlobsFetched { blobs, unreadable } => {
            let bytes: usize = blobs.iter().map(|blob| blob.data.len()).sum();
            let mut text = format!("{} ({bytes} bytes)", count(blobs.len(), "blob"));
            if *unreadable > 0 {
                let _ = write!(text, ", {unreadable} unreadable");
            }
            text
        }
        Answer::CelestiaHeaderFetched { header } => format!("header {}", header.signed_header.header.height),
        Answer::NamespacesFetched { block } => {
            let rows = block.namespaces.iter().map(|namespace| namespace.rows.len()).sum();
            format!(
                "header {}, {} in {}",
                block.signed.signed_header.header.height,
                count(block.share_count(), "share"),
                count(rows, "row")
            )
        }
        Answer::SessionOpened { session } => {
            let heads = session.commitment_state.as_ref().map(|state| commitment(state).1).unwrap_or_default();
            let bounds = session.execution_session_parameters.as_ref().map(|session| {
                let last = match session.rollup_end_block_number {
                    0 => "no end".to_owned(),
                    last => format!("to {last}"),
                };
                format!(
                    "blocks from {} ({last}), sequencer from {}, look-ahead {}",
                    session.rollup_start_block_number,
                    session.sequencer_start_block_height,
                    session.celestia_search_height_max_look_ahead,
                )
            });
            format!("{}: {heads}; {}", short(&session.session_id), bounds.unwrap_or_default())
        }
        Answer::BlockExecuted { response } => response.executed_block_metadata.as_ref().map(block).unwrap_or_default(),
        Answer::CommitmentUpdated { commitment: state } => commitment(state).1,
        Answer::ExecutedBlockFetched { metadata } => block(metadata),
        Answer::FetchedFromPeers { peer, block, rollups } => {
            let block = if block.is_some() { "the block" } else { "no block" };
            format!("{block} and {} from peer {}", count(rollups.len(), "rollup"), peer.0)
        }
    }
}

fn block(block: &ExecutedBlockMetadata) -> String {
    format!("block {}, hash {}, parent {}", block.number, short(&block.hash), short(&block.parent_hash))
}

/// The start of a hash in hexadecimal, which is enough to tell it from others; other texts as they are.
pub(super) fn recognisable(text: String) -> String {
    let digits = text.strip_prefix("0x").unwrap_or(&text);
    if digits.len() >= 40 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) { short(&text) } else { text }
}

/// Both numbers, and the same with hashes and the search height.
fn commitment(state: &CommitmentState) -> (String, String) {
    let number = |block: &Option<ExecutedBlockMetadata>| block.as_ref().map_or(0, |block| block.number);
    let hash =
        |block: &Option<ExecutedBlockMetadata>| block.as_ref().map(|block| short(&block.hash)).unwrap_or_default();
    let (soft, firm) = (&state.soft_executed_block_metadata, &state.firm_executed_block_metadata);
    let numbers = format!("{}/{}", number(soft), number(firm));
    let detail = format!(
        "soft {} ({}), firm {} ({}), search from Celestia {}",
        number(soft),
        hash(soft),
        number(firm),
        hash(firm),
        state.lowest_celestia_search_height,
    );
    (numbers, detail)
}

/// Whether a job accepted what it was given, and what it says.
pub(super) fn outcome(outcome: &JobOutcome) -> (bool, String) {
    let result = |result: Result<String, &String>| match result {
        Ok(text) => (true, text),
        Err(reason) => (false, format!("refused: {reason}")),
    };
    match outcome {
        JobOutcome::SoftBlock(Ok(block)) => {
            (true, format!("soft block {}, hash {}", block.height(), hash(block.block_hash())))
        }
        JobOutcome::Header(Ok(signed)) => {
            (true, format!("header {}, hash {}", signed.header.height(), hash(signed.header.hash())))
        }
        JobOutcome::SoftBlock(Err(reason))
        | JobOutcome::Blobs(Err(BlobsRefusal { reason, .. }))
        | JobOutcome::Witness(Witnessed::Unproven(reason)) => result(Err(reason)),
        JobOutcome::Header(Err(refusal)) | JobOutcome::CelestiaHeaders(Err(refusal)) => result(Err(&refusal.reason)),
        JobOutcome::CelestiaHeaders(Ok(linked)) => (true, count(linked.ids.len(), "header")),
        JobOutcome::Witness(Witnessed::Same) => (true, "the same header".to_owned()),
        JobOutcome::Witness(Witnessed::Conflict(evidence)) => {
            (false, format!("two headers of height {} are signed", evidence.height))
        }
        JobOutcome::Links(links) => result(links.as_ref().map(|headers| count(headers.len(), "header"))),
        JobOutcome::Transactions(items) => result(items.as_ref().map(|items| count(items.len(), "item"))),
        JobOutcome::Gossip(judged) => {
            let refused = judged.rollups.iter().find_map(|(_, result)| result.as_ref().err());
            match (&judged.block, refused) {
                (Some(Err(refusal)), _) => (false, refusal.verdict.to_string()),
                (_, Some(verdict)) => (false, verdict.to_string()),
                (_, None) => (true, format!("genuine, with {}", count(judged.rollups.len(), "rollup"))),
            }
        }
        JobOutcome::FalseBlock(verdict) => match verdict {
            BlockVerdict::Unknown(reason) => (true, format!("nothing, {reason}")),
            BlockVerdict::False(reason) => (true, format!("it contradicts its header: {reason}")),
            BlockVerdict::Proven(evidence) => (true, format!("proven: {}", evidence.reason)),
            BlockVerdict::NotCommitted(reason) => result(Err(reason)),
        },
        JobOutcome::Messages(messages) => (true, count(messages.len(), "message")),
        JobOutcome::Blobs(Ok(decoded)) => {
            let mut text = format!(
                "{}, {} bound, {} waiting for a header, {} waiting for metadata",
                count(decoded.blocks.len(), "complete block"),
                decoded.bound.len(),
                decoded.candidates.len(),
                decoded.records.len(),
            );
            let dropped = decoded.dropped_more.saturating_add(u64::try_from(decoded.dropped.len()).unwrap_or(u64::MAX));
            if dropped > 0 {
                let _ = write!(text, ", {dropped} dropped");
            }
            if decoded.overflow {
                text.push_str(", to be read again");
            }
            (true, text)
        }
    }
}

/// Why the conductor wants to be woken.
pub(super) fn timer(timer: Timer) -> String {
    match timer {
        Timer::CallOverdue(what) => format!("{what}: no answer"),
        Timer::CallDue(what) => format!("{what}: due again"),
        Timer::StopGrace => "the stop no longer waits".to_owned(),
    }
}

pub(super) fn exit(exit: &Exit) -> String {
    match exit {
        Exit::Stopped => "stopped on request".to_owned(),
        Exit::AllCellsParked { reason } => format!("all cells are parked: {reason}"),
    }
}

pub(super) fn report(report: &Report) -> (Severity, String) {
    match report {
        Report::ChainIdentified { chain, chain_id } => {
            let chain = match chain {
                Chain::Sequencer => "the sequencer",
                Chain::Celestia => "Celestia",
            };
            (Severity::Info, format!("{chain} is {chain_id:?}, as expected"))
        }
        Report::SessionOpened { cell, session_id, soft, firm, .. } => {
            (Severity::Info, format!("{cell}: session {session_id:?} is open, soft {soft}, firm {firm}"))
        }
        Report::SessionLost { cell, reason, delay_ms } => {
            (Severity::Warn, format!("{cell}: session lost, the next in {delay_ms} ms: {reason}"))
        }
        Report::SessionFinished { cell, last } => {
            (Severity::Info, format!("{cell}: the session ended with its last block {last}"))
        }
        Report::HeadMoved { cell, level, number, height, block_hash, .. } => {
            let level = match level {
                Level::Soft => "soft",
                Level::Firm => "firm",
            };
            let of = format!("sequencer block {height} ({})", hash(*block_hash));
            (Severity::Debug, format!("{cell}: {level} is {number}, from {of}"))
        }
        Report::Dropped { what, at, reason } => {
            (Severity::Debug, format!("dropped {} at {at}: {reason}", what.name().replace('_', " ")))
        }
        Report::CallFailed { what, attempt, retry_in_ms, reason } => {
            (Severity::Warn, format!("{what} failed (try {attempt}), again in {retry_in_ms} ms: {reason}"))
        }
        Report::Gap { cell, missing, from, to, reason } => {
            let window = format!("Celestia {from} to {to}");
            (Severity::Warn, format!("{cell}: sequencer block {missing} is not on {window}: {reason}"))
        }
        Report::TrustedOnFirstUse { height, hash: block, .. } => {
            (Severity::Warn, format!("trust begins with header {height} ({}), which nobody vouched for", hash(*block)))
        }
        Report::CelestiaTrustedOnFirstUse { height, hash: block } => (
            Severity::Warn,
            format!("trust in Celestia begins with header {height} ({}), which nobody vouched for", hash(*block)),
        ),
        Report::Conflict { evidence, node } => {
            let node = node.0;
            (Severity::Error, format!("CometBFT node {node}: two headers of height {} are signed", evidence.height))
        }
        Report::FalseNamespaces { evidence } => {
            let FalseNamespaces { height, reason, .. } = evidence.as_ref();
            (Severity::Error, format!("the answer about Celestia height {height} is proven to be false: {reason}"))
        }
        Report::FalseBlock { evidence } => {
            let FalseBlock { height, reason, .. } = evidence.as_ref();
            (Severity::Error, format!("what was answered as block {height} is proven to be false: {reason}"))
        }
        Report::Parked { cell, reason } => (Severity::Error, format!("{cell}: parked: {reason}")),
    }
}
