//! All peers of one process, by port, and the one place where what they answer becomes a fault class.

use std::{collections::BTreeMap, future::Future, sync::Arc};

use downbeat_core::{
    Answer, Call, CellId, Fault, FaultClass,
    fault::{CelestiaError, celestia_error, cometbft_error, execution_status, sequencer_status},
};
use tonic::Status;

use crate::{
    celestia::{Blobs, Celestia},
    cometbft::CometBft,
    endpoint::Endpoint,
    execution::Execution,
    json_rpc::{JsonRpcError, causes},
    sequencer::{Sequencer, is_too_large},
};

/// Performs calls. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Adapters {
    sequencer: Arc<Sequencer>,
    cometbft: Arc<CometBft>,
    celestia: Arc<Celestia>,
    executions: Arc<BTreeMap<CellId, Execution>>,
}

impl Adapters {
    /// `executions` holds one rollup node per cell.
    pub fn new(
        sequencer: Sequencer,
        cometbft: CometBft,
        celestia: Celestia,
        executions: BTreeMap<CellId, Execution>,
    ) -> Self {
        Self {
            sequencer: Arc::new(sequencer),
            cometbft: Arc::new(cometbft),
            celestia: Arc::new(celestia),
            executions: Arc::new(executions),
        }
    }

    /// Asks the peer that the call is for. Dropping the future gives the call up.
    ///
    /// # Errors
    /// The fault that the answer, or its absence, means.
    pub fn perform(&self, call: Call) -> impl Future<Output = Result<Answer, Fault>> + Send + 'static {
        let adapters = self.clone();
        async move { adapters.dispatch(call).await }
    }

    async fn dispatch(&self, call: Call) -> Result<Answer, Fault> {
        match call {
            Call::IdentifySequencer => {
                let chain_id = self.cometbft.chain_id().await.map_err(|error| cometbft_fault(&error))?;
                Ok(Answer::SequencerIdentified { chain_id })
            }
            Call::FetchSequencerHead => {
                let height = self.cometbft.head().await.map_err(|error| cometbft_fault(&error))?;
                Ok(Answer::SequencerHeadFetched { height })
            }
            Call::FetchSoftBlock { height, rollup_ids } => {
                let block = self.sequencer.filtered_block(height, &rollup_ids).await;
                let block = block.map_err(|status| sequencer_fault(&status, self.sequencer.endpoint()))?;
                Ok(Answer::SoftBlockFetched { block })
            }
            Call::FetchSignedHeader { height } => {
                let signed_header = self.cometbft.signed_header(height).await;
                let signed_header = Box::new(signed_header.map_err(|error| cometbft_fault(&error))?);
                Ok(Answer::SignedHeaderFetched { signed_header })
            }
            Call::FetchValidators { height } => {
                let validators = self.cometbft.validators(height).await.map_err(|error| cometbft_fault(&error))?;
                Ok(Answer::ValidatorsFetched { validators })
            }
            Call::FetchBlockTransactions { height } => {
                let transactions = self.cometbft.block_transactions(height).await;
                let transactions = transactions.map_err(|error| cometbft_fault(&error))?;
                Ok(Answer::BlockTransactionsFetched { transactions })
            }
            Call::FetchCelestiaHead => {
                let head = self.celestia.head().await.map_err(|error| celestia_fault(&error))?;
                Ok(Answer::CelestiaHeadFetched { head })
            }
            Call::FetchBlobs { height, namespaces } => {
                let found = self.celestia.blobs(height, &namespaces).await;
                let Blobs { blobs, unreadable } = found.map_err(|error| celestia_fault(&error))?;
                Ok(Answer::BlobsFetched { blobs, unreadable })
            }
            Call::OpenSession { cell } => {
                let rollup = self.execution(cell)?;
                let endpoint = rollup.endpoint().clone();
                let session = rollup.open_session().await.map_err(|status| execution_fault(&status, &endpoint))?;
                Ok(Answer::SessionOpened { session: Box::new(session) })
            }
            Call::ExecuteBlock { cell, request } => {
                let rollup = self.execution(cell)?;
                let endpoint = rollup.endpoint().clone();
                let response = rollup.execute_block(*request).await;
                let response = Box::new(response.map_err(|status| execution_fault(&status, &endpoint))?);
                Ok(Answer::BlockExecuted { response })
            }
            Call::UpdateCommitment { cell, request } => {
                let rollup = self.execution(cell)?;
                let endpoint = rollup.endpoint().clone();
                let commitment = rollup.update_commitment(*request).await;
                let commitment = Box::new(commitment.map_err(|status| execution_fault(&status, &endpoint))?);
                Ok(Answer::CommitmentUpdated { commitment })
            }
            Call::FetchExecutedBlock { cell, number } => {
                let rollup = self.execution(cell)?;
                let endpoint = rollup.endpoint().clone();
                let metadata = rollup.executed_block(number).await;
                let metadata = Box::new(metadata.map_err(|status| execution_fault(&status, &endpoint))?);
                Ok(Answer::ExecutedBlockFetched { metadata })
            }
        }
    }

    fn execution(&self, cell: CellId) -> Result<Execution, Fault> {
        let rollup = self.executions.get(&cell).cloned();
        rollup.ok_or_else(|| Fault::new(FaultClass::Fatal, format!("{cell} has no rollup node")))
    }
}

/// Whether a call goes to a rollup node.
pub(crate) fn is_execution(call: &Call) -> bool {
    matches!(
        call,
        Call::OpenSession { .. }
            | Call::ExecuteBlock { .. }
            | Call::UpdateCommitment { .. }
            | Call::FetchExecutedBlock { .. }
    )
}

/// Class of a failure that is not the peer's own error object.
fn transport_class(error: &JsonRpcError) -> FaultClass {
    match error {
        JsonRpcError::TooLarge { .. } | JsonRpcError::Undecodable { .. } | JsonRpcError::Invalid { .. } => {
            FaultClass::Invalid
        }
        JsonRpcError::Transport { .. } | JsonRpcError::HttpStatus { .. } | JsonRpcError::Rpc { .. } => {
            FaultClass::Transient
        }
    }
}

fn cometbft_fault(error: &JsonRpcError) -> Fault {
    let class = match error {
        JsonRpcError::Rpc { code, message, .. } => cometbft_error(*code, message),
        error => transport_class(error),
    };
    Fault::new(class, format!("CometBFT node {error}"))
}

fn celestia_fault(error: &JsonRpcError) -> Fault {
    let class = match error {
        JsonRpcError::Rpc { code, message, .. } => match celestia_error(*code, message) {
            CelestiaError::Fault(class) => class,
            // Only `blob.GetAll` may say so, where it is no error.
            CelestiaError::NoBlobs => FaultClass::Invalid,
        },
        error => transport_class(error),
    };
    Fault::new(class, format!("Celestia node {error}"))
}

fn sequencer_fault(status: &Status, endpoint: &Endpoint) -> Fault {
    let class = match own_class(status) {
        Some(class) => class,
        None if is_too_large(status) => FaultClass::Invalid,
        None => sequencer_status(i32::from(status.code())),
    };
    Fault::new(class, format!("sequencer node {endpoint}: {}", describe(status)))
}

fn execution_fault(status: &Status, endpoint: &Endpoint) -> Fault {
    let class = own_class(status).unwrap_or_else(|| execution_status(i32::from(status.code())));
    Fault::new(class, format!("rollup node {endpoint}: {}", describe(status)))
}

/// A status with a source was made on this side from a broken connection or a failed attempt to connect. Its code is a
/// guess of the library (a peer that shuts down may look like INTERNAL) and says nothing about the request.
fn own_class(status: &Status) -> Option<FaultClass> {
    std::error::Error::source(status).map(|_| FaultClass::Transient)
}

fn describe(status: &Status) -> String {
    match std::error::Error::source(status) {
        Some(source) => causes(source),
        None => format!("{:?}: {}", status.code(), status.message()),
    }
}
