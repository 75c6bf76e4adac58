//! All peers of one process, by port, and the one place where what they answer becomes a fault class.

use std::{collections::BTreeMap, future::Future, sync::Arc};

use downbeat_core::{
    Answer, Call, CellId, Fault, FaultClass, Node,
    fault::{CelestiaError, celestia_error, cometbft_error, execution_status, sequencer_status},
};
use tonic::Status;

use crate::{
    celestia::{Blobs, Celestia},
    cometbft::CometBft,
    endpoint::Endpoint,
    execution::Execution,
    gossip::{Gossip, port},
    json_rpc::{JsonRpcError, causes},
    sequencer::{Sequencer, is_too_large},
};

/// Performs calls. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Adapters {
    sequencer: Arc<Sequencer>,
    /// The first one is asked unless it fails; the others are witnesses, too.
    cometbft: Arc<[CometBft]>,
    celestia: Arc<Celestia>,
    executions: Arc<BTreeMap<CellId, Execution>>,
    gossip: Option<Gossip>,
}

impl Adapters {
    /// `cometbft` holds at least one node; `executions` one rollup node per cell.
    pub fn new(
        sequencer: Sequencer,
        cometbft: Vec<CometBft>,
        celestia: Celestia,
        executions: BTreeMap<CellId, Execution>,
    ) -> Self {
        Self {
            sequencer: Arc::new(sequencer),
            cometbft: cometbft.into(),
            celestia: Arc::new(celestia),
            executions: Arc::new(executions),
            gossip: None,
        }
    }

    /// Peers can be asked, too.
    pub(crate) fn ask_peers(&mut self, gossip: Gossip) {
        self.gossip = Some(gossip);
    }

    /// Asks the peer that the call is for. Dropping the future gives the call up.
    ///
    /// # Errors
    /// The fault that the answer, or its absence, means.
    pub fn perform(&self, call: Call, node: Node) -> impl Future<Output = Result<Answer, Fault>> + Send + 'static {
        let adapters = self.clone();
        async move { adapters.dispatch(call, node).await }
    }

    async fn dispatch(&self, call: Call, node: Node) -> Result<Answer, Fault> {
        match call {
            Call::IdentifySequencer => {
                let chain_id = self.node(node)?.chain_id().await.map_err(|error| cometbft_fault(&error))?;
                Ok(Answer::SequencerIdentified { chain_id })
            }
            Call::FetchSequencerHead => {
                let height = self.node(node)?.head().await.map_err(|error| cometbft_fault(&error))?;
                Ok(Answer::SequencerHeadFetched { height })
            }
            Call::FetchSoftBlock { height, rollup_ids } => {
                let block = self.sequencer.filtered_block(height, &rollup_ids).await;
                let block = block.map_err(|status| sequencer_fault(&status, self.sequencer.endpoint()))?;
                Ok(Answer::SoftBlockFetched { block })
            }
            Call::FetchSignedHeader { height } => {
                let signed_header = self.node(node)?.signed_header(height).await;
                let signed_header = Box::new(signed_header.map_err(|error| cometbft_fault(&error))?);
                Ok(Answer::SignedHeaderFetched { signed_header })
            }
            Call::FetchHeaders { first, last } => {
                let headers = self.node(node)?.headers(first, last).await.map_err(|error| cometbft_fault(&error))?;
                Ok(Answer::HeadersFetched { headers })
            }
            Call::FetchValidators { height } => {
                let validators = self.node(node)?.validators(height).await.map_err(|error| cometbft_fault(&error))?;
                Ok(Answer::ValidatorsFetched { validators })
            }
            Call::FetchBlockTransactions { height } => {
                let transactions = self.node(node)?.block_transactions(height).await;
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
            Call::FetchNamespaces { height, namespaces } => {
                let block = self.celestia.namespaces(height, &namespaces).await;
                let block = Box::new(block.map_err(|error| celestia_fault(&error))?);
                Ok(Answer::NamespacesFetched { block })
            }
            Call::FetchCelestiaHeader { height } => {
                let header = self.celestia.signed_header(height).await.map_err(|error| celestia_fault(&error))?;
                Ok(Answer::CelestiaHeaderFetched { header: Box::new(header) })
            }
            Call::FetchCelestiaHeaders { first, last } => {
                let headers = self.celestia.headers(first, last).await.map_err(|error| celestia_fault(&error))?;
                Ok(Answer::CelestiaHeadersFetched { headers })
            }
            Call::OpenSession { cell } => {
                let rollup = self.execution(cell)?;
                let session =
                    rollup.open_session().await.map_err(|status| execution_fault(&status, rollup.endpoint()))?;
                Ok(Answer::SessionOpened { session: Box::new(session) })
            }
            Call::ExecuteBlock { cell, request } => {
                let rollup = self.execution(cell)?;
                let response = rollup.execute_block(Arc::unwrap_or_clone(request)).await;
                let response = Box::new(response.map_err(|status| execution_fault(&status, rollup.endpoint()))?);
                Ok(Answer::BlockExecuted { response })
            }
            Call::UpdateCommitment { cell, request } => {
                let rollup = self.execution(cell)?;
                let commitment = rollup.update_commitment(Arc::unwrap_or_clone(request)).await;
                let commitment = Box::new(commitment.map_err(|status| execution_fault(&status, rollup.endpoint()))?);
                Ok(Answer::CommitmentUpdated { commitment })
            }
            Call::FetchExecutedBlock { cell, number } => {
                let rollup = self.execution(cell)?;
                let metadata = rollup.executed_block(number).await;
                let metadata = Box::new(metadata.map_err(|status| execution_fault(&status, rollup.endpoint()))?);
                Ok(Answer::ExecutedBlockFetched { metadata })
            }
            Call::FetchFromPeers { height, rollups } => match &self.gossip {
                Some(gossip) => port::fetch(gossip, height, &rollups).await,
                None => Err(Fault::new(FaultClass::Fatal, "there is no network of peers")),
            },
        }
    }

    fn node(&self, node: Node) -> Result<&CometBft, Fault> {
        let found = usize::try_from(node.0).ok().and_then(|index| self.cometbft.get(index));
        found.ok_or_else(|| Fault::new(FaultClass::Fatal, format!("there is no CometBFT node {}", node.0)))
    }

    fn execution(&self, cell: CellId) -> Result<&Execution, Fault> {
        let rollup = self.executions.get(&cell);
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

pub(crate) fn execution_fault(status: &Status, endpoint: &Endpoint) -> Fault {
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

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use tonic::Code;

    use super::*;
    use crate::{
        connector::{Network, TcpConnector},
        testing::HttpServer,
    };

    fn endpoint() -> Endpoint {
        "http://user:hunter2@node.example:1/?key=topsecret".parse().unwrap()
    }

    fn rpc(code: i64, message: &str) -> JsonRpcError {
        JsonRpcError::Rpc { peer: endpoint().to_string(), code, message: message.to_owned() }
    }

    #[test]
    fn what_goes_wrong_below_json_rpc_is_transient_and_what_cannot_be_an_answer_is_invalid() {
        let table = [
            (JsonRpcError::Transport { peer: endpoint().to_string(), detail: "refused".into() }, FaultClass::Transient),
            (
                JsonRpcError::HttpStatus {
                    peer: endpoint().to_string(),
                    status: StatusCode::FORBIDDEN,
                    body: String::new(),
                },
                FaultClass::Transient,
            ),
            (JsonRpcError::TooLarge { peer: endpoint().to_string(), limit: 1 }, FaultClass::Invalid),
            (JsonRpcError::Undecodable { peer: endpoint().to_string(), detail: "x".into() }, FaultClass::Invalid),
            (JsonRpcError::Invalid { peer: endpoint().to_string(), detail: "x".into() }, FaultClass::Invalid),
        ];
        for (error, class) in table {
            for fault in [cometbft_fault(&error), celestia_fault(&error)] {
                assert_eq!(fault.class, class, "{error}");
                assert!(!fault.detail.contains("hunter2") && !fault.detail.contains("topsecret"), "{}", fault.detail);
                assert!(fault.detail.contains("http://node.example:1"), "{}", fault.detail);
            }
        }
    }

    #[test]
    fn errors_of_the_peers_have_the_class_of_the_cores_tables() {
        let future = "height 9 must be less than or equal to the current blockchain height 8";
        assert_eq!(cometbft_fault(&rpc(-32603, future)).class, FaultClass::NotYet);
        assert_eq!(cometbft_fault(&rpc(-32603, "whatever")).class, FaultClass::Transient);
        assert_eq!(celestia_fault(&rpc(1, "header: given height is from the future")).class, FaultClass::NotYet);
        assert_eq!(celestia_fault(&rpc(1, "blob: not found")).class, FaultClass::Invalid);
        assert_eq!(celestia_fault(&rpc(1, "whatever")).class, FaultClass::Transient);
    }

    #[test]
    fn a_status_of_the_peer_has_the_class_of_the_cores_tables() {
        for code in 1..=16 {
            let status = Status::new(Code::from_i32(code), "why");
            assert_eq!(execution_fault(&status, &endpoint()).class, execution_status(code));
            assert_eq!(sequencer_fault(&status, &endpoint()).class, sequencer_status(code));
            assert!(!execution_fault(&status, &endpoint()).detail.contains("hunter2"));
        }
        let too_large = "Error, decoded message length too large: found 9 bytes, the limit is: 8 bytes";
        assert_eq!(sequencer_fault(&Status::out_of_range(too_large), &endpoint()).class, FaultClass::Invalid);
        assert_eq!(sequencer_fault(&Status::out_of_range("height"), &endpoint()).class, FaultClass::NotYet);
    }

    /// What the library makes of it may have any code; a rollup must never be parked for it.
    #[tokio::test]
    async fn a_rollup_node_that_cannot_be_reached_or_speaks_no_grpc_is_a_transient_fault() {
        let network = Network::plain(TcpConnector);
        let not_grpc = HttpServer::start(|_| (404, "not here".into())).await;
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let hangs_up = silent.local_addr().unwrap();
        tokio::spawn(async move { while silent.accept().await.is_ok() {} });
        for url in ["http://127.0.0.1:1".to_owned(), not_grpc.url(), format!("http://{hangs_up}")] {
            let endpoint: Endpoint = url.parse().unwrap();
            let rollup = Execution::new(network.clone(), endpoint.clone()).unwrap();
            let status = rollup.open_session().await.unwrap_err();
            let fault = execution_fault(&status, &endpoint);
            assert_eq!(fault.class, FaultClass::Transient, "{url}: {status:?}");
            assert!(fault.detail.contains(&url), "{}", fault.detail);
        }
    }
}
