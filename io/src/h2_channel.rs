//! One HTTP/2 connection to a gRPC peer, opened when first needed and again whenever it broke.
//!
//! Requests go from the calling task straight to the connection's task: one hop less than with a buffering channel,
//! which counts where two round trips per block are the bound of everything.

use std::{
    error::Error as StdError,
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::Mutex;
use tonic::body::Body;
use tower::Service;

use crate::{
    connector::{Network, Protocol, Target},
    endpoint::Endpoint,
    json_rpc::causes,
};

/// Rollup nodes commonly refuse more frequent pings than one in five minutes when nothing flows, and three in a row
/// at any time; these only serve to notice a peer that vanished in the middle of an answer.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_mins(1);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// A gRPC transport. Clones share the connection.
#[derive(Clone, Debug)]
pub struct H2Channel(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    network: Network,
    target: Target,
    connection: Mutex<Option<Connection>>,
}

#[derive(Clone)]
struct Connection {
    sender: http2::SendRequest<Body>,
    /// How many answers have begun to arrive.
    answers: Arc<AtomicU64>,
}

/// Why a request did not get an HTTP answer with status 200.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error("cannot connect: {0}")]
    Connect(#[from] io::Error),
    #[error("{}", causes(.0))]
    Http(#[from] hyper::Error),
    /// A gRPC server answers 200 whatever happens: this comes from something in between.
    #[error("HTTP status {0}")]
    Status(StatusCode),
    /// The same: some page instead of an answer.
    #[error("the answer is not gRPC but {0:?}")]
    NotGrpc(Option<HeaderValue>),
}

impl H2Channel {
    /// Connects at the first call.
    pub fn new(network: Network, endpoint: &Endpoint) -> Self {
        Self(Arc::new(Shared { network, target: endpoint.target().clone(), connection: Mutex::new(None) }))
    }
}

impl Shared {
    /// The open connection, or a new one. While one caller connects, the others wait for it.
    async fn connection(&self) -> Result<Connection, ChannelError> {
        let mut current = self.connection.lock().await;
        if let Some(connection) = current.as_ref().filter(|connection| !connection.sender.is_closed()) {
            return Ok(connection.clone());
        }
        let stream = self.network.connect(&self.target, Protocol::Http2).await?;
        let (sender, driver) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .handshake(TokioIo::new(stream))
            .await?;
        // Ends when the last sender is gone or the peer closes; its error is also seen by the requests.
        tokio::spawn(driver);
        Ok(current.insert(Connection { sender, answers: Arc::default() }).clone())
    }
}

/// Gives a connection up when a call on it is abandoned (at its deadline) and nothing at all came back meanwhile: a peer
/// that vanished without a word would otherwise swallow every later call as well.
struct Watch {
    shared: Arc<Shared>,
    answers: Arc<AtomicU64>,
    at_start: u64,
    answered: bool,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.answered || self.answers.load(Ordering::Relaxed) != self.at_start {
            return;
        }
        if let Ok(mut current) = self.shared.connection.try_lock() {
            current.take_if(|connection| Arc::ptr_eq(&connection.answers, &self.answers));
        }
    }
}

impl Service<Request<Body>> for H2Channel {
    type Response = Response<Incoming>;
    type Error = Box<dyn StdError + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            let agent = HeaderValue::from_static(concat!("downbeat/", env!("CARGO_PKG_VERSION")));
            request.headers_mut().insert(header::USER_AGENT, agent);
            let Connection { mut sender, answers } = shared.connection().await?;
            let at_start = answers.load(Ordering::Relaxed);
            let mut watch = Watch { shared, answers, at_start, answered: false };
            let answer = sender.send_request(request).await;
            watch.answered = answer.is_ok();
            let response = answer.map_err(ChannelError::Http)?;
            watch.answers.fetch_add(1, Ordering::Relaxed);
            let content = response.headers().get(header::CONTENT_TYPE);
            match response.status() {
                StatusCode::OK if content.is_some_and(is_grpc) => Ok(response),
                StatusCode::OK => Err(ChannelError::NotGrpc(content.cloned()).into()),
                status => Err(ChannelError::Status(status).into()),
            }
        })
    }
}

/// `application/grpc`, perhaps with `+proto` or parameters.
fn is_grpc(content: &HeaderValue) -> bool {
    content.as_bytes().starts_with(b"application/grpc")
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("closed", &self.sender.is_closed()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use downbeat_core::FaultClass;
    use http_body_util::Full;
    use hyper::service::service_fn;
    use tokio::io::AsyncReadExt as _;
    use tonic::client::Grpc;

    use super::*;
    use crate::{adapters::execution_fault, connector::TcpConnector, execution::Execution};

    #[tokio::test]
    async fn a_peer_that_fell_silent_is_connected_to_again_once_a_call_was_abandoned() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint: Endpoint = format!("http://{}", silent.local_addr().unwrap()).parse().unwrap();
        let rollup = Arc::new(Execution::new(Network::plain(TcpConnector), endpoint).unwrap());
        let mut connections = Vec::new();
        for _ in 0..3 {
            let rollup = Arc::clone(&rollup);
            let call = tokio::spawn(async move { rollup.open_session().await });
            let connected = tokio::time::timeout(Duration::from_secs(5), silent.accept()).await;
            let (mut stream, _) = connected.expect("a new connection for each call").unwrap();
            // More than the preface and the settings: the request itself has been sent.
            stream.read_exact(&mut [0; 150]).await.unwrap();
            connections.push(stream);
            call.abort();
            assert!(call.await.is_err());
        }
    }

    /// Read as gRPC it would look like an internal error of the rollup node, for which its cell is parked.
    #[tokio::test]
    async fn a_page_of_something_in_between_is_no_answer_of_the_peer() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint: Endpoint = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let page = service_fn(|_| async {
                let response = Response::builder().header(header::CONTENT_TYPE, "text/html");
                Ok::<_, hyper::Error>(response.body(Full::new(Bytes::from("<p>We will be back soon.</p>"))).unwrap())
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            server.serve_connection(TokioIo::new(stream), page).await.ok();
        });
        let rollup = Execution::new(Network::plain(TcpConnector), endpoint.clone()).unwrap();
        let fault = execution_fault(&rollup.open_session().await.unwrap_err(), &endpoint);
        assert_eq!(fault.class, FaultClass::Transient, "{fault:?}");
        assert!(fault.detail.contains("text/html"), "{fault:?}");
    }

    #[tokio::test]
    async fn an_idle_channel_connects_to_nobody() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint: Endpoint = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let mut grpc = Grpc::new(H2Channel::new(Network::plain(TcpConnector), &endpoint));
        grpc.ready().await.unwrap();
        tokio::time::timeout(Duration::from_millis(50), listener.accept()).await.unwrap_err();
    }
}
