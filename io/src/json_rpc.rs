//! JSON-RPC 2.0 over HTTP/1.1 with our own transport: kept-alive connections, bounded bodies, classified errors.
//!
//! A call lasts until it is answered or its future is dropped; deadlines are the caller's. Nothing is retried, except
//! that a request which a stale kept-alive connection did not take is sent on a fresh one.

use std::{
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::{Body as _, Incoming},
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{
    connector::{Network, Protocol},
    endpoint::{Endpoint, Secret},
};

/// Connections that are kept open while nothing is asked.
const IDLE_MAX: usize = 8;

/// Bytes that are reserved for a body before any of it has arrived.
const RESERVED_MAX: usize = 1 << 20;

/// Characters of a peer's text that are quoted in an error.
const QUOTE_MAX: usize = 200;

/// Characters of a peer's error message that are kept: its class may be told by any of them.
const MESSAGE_MAX: usize = 4_096;

/// A JSON-RPC peer.
pub struct JsonRpcClient {
    network: Network,
    endpoint: Endpoint,
    authorization: Option<HeaderValue>,
    body_max: usize,
    next_id: AtomicU64,
    /// How many answers have arrived.
    answers: AtomicU64,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

/// Throws all kept connections away when a call is abandoned (at its deadline) and nothing at all came back meanwhile: each
/// of them would otherwise swallow a call when a peer has vanished without a word.
struct Watch<'a> {
    client: &'a JsonRpcClient,
    at_start: u64,
    ended: bool,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if !self.ended && self.client.answers.load(Ordering::Relaxed) == self.at_start {
            self.client.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }
}

/// Why a call has no result. Holds nothing secret.
#[derive(Debug, thiserror::Error)]
pub enum JsonRpcError {
    /// The peer could not be reached or the connection broke.
    #[error("{peer}: {detail}")]
    Transport { peer: String, detail: String },
    #[error("{peer}: HTTP status {status}{}", quoted(.body))]
    HttpStatus { peer: String, status: StatusCode, body: String },
    #[error("{peer}: the answer is larger than {limit} bytes")]
    TooLarge { peer: String, limit: usize },
    #[error("{peer}: the answer cannot be read: {detail}")]
    Undecodable { peer: String, detail: String },
    /// Well-formed, but not an answer to what was asked.
    #[error("{peer}: {detail}")]
    Invalid { peer: String, detail: String },
    /// The peer's own error object.
    #[error("{peer}: error {code}: {message}")]
    Rpc { peer: String, code: i64, message: String },
}

fn quoted(body: &str) -> String {
    if body.is_empty() { String::new() } else { format!(" ({body})") }
}

/// The beginning of a peer's text, on one line.
fn quote(text: &str) -> String {
    one_line(text, QUOTE_MAX)
}

fn one_line(text: &str, max: usize) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(max).collect::<String>().trim().to_owned()
}

/// A token that cannot be sent in a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token holds characters that cannot stand in an HTTP header")]
pub struct BadToken;

#[derive(Serialize)]
struct Call<'a, P> {
    jsonrpc: &'static str,
    id: u64,
    method: &'a str,
    params: P,
}

#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<ErrorObject<'a>>,
}

#[derive(Deserialize)]
struct ErrorObject<'a> {
    code: i64,
    #[serde(default)]
    message: String,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

impl JsonRpcClient {
    /// `body_max` bounds an answer, in bytes. A bearer token goes before credentials in the URL.
    ///
    /// # Errors
    /// When the token or the credentials cannot stand in a header.
    pub fn new(
        network: Network,
        endpoint: Endpoint,
        bearer_token: Option<&Secret>,
        body_max: usize,
    ) -> Result<Self, BadToken> {
        let authorization = match (bearer_token, endpoint.basic_auth()) {
            (Some(token), _) => Some(format!("Bearer {}", token.expose())),
            (None, basic) => basic.map(|basic| basic.expose().to_owned()),
        };
        let authorization = authorization
            .map(|text| {
                let mut value = HeaderValue::from_str(&text).map_err(|_| BadToken)?;
                value.set_sensitive(true);
                Ok(value)
            })
            .transpose()?;
        let (next_id, answers) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Self { network, endpoint, authorization, body_max, next_id, answers, idle: Mutex::default() })
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Calls `method`. A result that is missing is read as `null`.
    ///
    /// # Errors
    /// See [`JsonRpcError`].
    pub async fn call<T: DeserializeOwned>(&self, method: &str, params: impl Serialize) -> Result<T, JsonRpcError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let body = serde_json::to_vec(&Call { jsonrpc: "2.0", id, method, params })
            .map_err(|error| self.undecodable(&format!("the request cannot be written: {error}")))?;
        let mut watch = Watch { client: self, at_start: self.answers.load(Ordering::Relaxed), ended: false };
        let answer = self.exchange(body.into()).await;
        watch.ended = true;
        let (status, body) = answer?;
        let reply = serde_json::from_slice::<Reply<'_>>(&body);
        if let Ok(Reply { error: Some(error), .. }) = &reply {
            return Err(self.rpc_error(error));
        }
        if !status.is_success() {
            let body = quote(&String::from_utf8_lossy(body.get(..QUOTE_MAX).unwrap_or(&body)));
            return Err(JsonRpcError::HttpStatus { peer: self.endpoint.to_string(), status, body });
        }
        let reply = reply.map_err(|error| self.undecodable(&error.to_string()))?;
        if reply.id.is_none_or(|got| got.get().trim_matches('"') != id.to_string()) {
            return Err(self.undecodable(&format!("it is not for request {id}")));
        }
        serde_json::from_str(reply.result.map_or("null", RawValue::get))
            .map_err(|error| self.undecodable(&error.to_string()))
    }

    /// An error that says that an answer is not one to what was asked.
    pub fn invalid(&self, detail: &str) -> JsonRpcError {
        JsonRpcError::Invalid { peer: self.endpoint.to_string(), detail: quote(detail) }
    }

    /// Sends a request and reads the whole answer.
    async fn exchange(&self, body: Bytes) -> Result<(StatusCode, Vec<u8>), JsonRpcError> {
        let (connection, response) = self.send(body).await?;
        let status = response.status();
        let body = self.read(response).await?;
        self.answers.fetch_add(1, Ordering::Relaxed);
        self.keep(connection);
        Ok((status, body))
    }

    /// Sends on a kept connection if there is one that takes the request, else on a new one.
    async fn send(&self, body: Bytes) -> Result<(SendRequest<Full<Bytes>>, Response<Incoming>), JsonRpcError> {
        let mut request = self.request(body)?;
        while let Some(mut connection) = self.take_idle() {
            if connection.ready().await.is_err() {
                continue;
            }
            match connection.try_send_request(request).await {
                Ok(response) => return Ok((connection, response)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(self.transport(&error.into_error())),
                },
            }
        }
        let stream = self
            .network
            .connect(self.endpoint.target(), Protocol::Http1)
            .await
            .map_err(|error| self.transport(&error))?;
        let (mut connection, driver) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.transport(&error))?;
        // Ends by itself when the connection is dropped; its error is also seen by the request.
        tokio::spawn(driver);
        let response = connection.send_request(request).await.map_err(|error| self.transport(&error))?;
        Ok((connection, response))
    }

    fn request(&self, body: Bytes) -> Result<Request<Full<Bytes>>, JsonRpcError> {
        let mut request = Request::post(self.endpoint.path_and_query().expose())
            .header(header::HOST, self.endpoint.authority())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("downbeat/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(body))
            // Never shown: the error of a path would quote it.
            .map_err(|_| self.undecodable("the request cannot be made: the URL's path is not valid"))?;
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(header::AUTHORIZATION, authorization.clone());
        }
        Ok(request)
    }

    async fn read(&self, response: Response<Incoming>) -> Result<Vec<u8>, JsonRpcError> {
        let too_large = || JsonRpcError::TooLarge { peer: self.endpoint.to_string(), limit: self.body_max };
        let mut body = response.into_body();
        let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        if announced > self.body_max {
            return Err(too_large());
        }
        // An announcement is only a word: what it reserves at once is bounded.
        let mut bytes = Vec::with_capacity(announced.min(RESERVED_MAX));
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.transport(&error))?;
            if let Some(data) = frame.data_ref() {
                if data.len() > self.body_max.saturating_sub(bytes.len()) {
                    return Err(too_large());
                }
                bytes.extend_from_slice(data);
            }
        }
        Ok(bytes)
    }

    fn take_idle(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|connection| !connection.is_closed());
        idle.pop()
    }

    fn keep(&self, connection: SendRequest<Full<Bytes>>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX && !connection.is_closed() {
            idle.push(connection);
        }
    }

    fn transport(&self, error: &(dyn std::error::Error + 'static)) -> JsonRpcError {
        JsonRpcError::Transport { peer: self.endpoint.to_string(), detail: causes(error) }
    }

    fn undecodable(&self, detail: &str) -> JsonRpcError {
        JsonRpcError::Undecodable { peer: self.endpoint.to_string(), detail: quote(detail) }
    }

    fn rpc_error(&self, error: &ErrorObject<'_>) -> JsonRpcError {
        // CometBFT says "Internal error" in the message and what happened in the data.
        let data = error.data.map(RawValue::get).filter(|data| *data != "null").unwrap_or_default();
        let data = serde_json::from_str::<String>(data).unwrap_or_else(|_| data.to_owned());
        let message = if data.is_empty() { error.message.clone() } else { format!("{}: {data}", error.message) };
        JsonRpcError::Rpc {
            peer: self.endpoint.to_string(),
            code: error.code,
            message: one_line(&message, MESSAGE_MAX),
        }
    }
}

/// An error with its causes, on one line, without repeating what a cause says anyway.
pub(crate) fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    quote(&text)
}

impl fmt::Debug for JsonRpcClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonRpcClient").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::{connector::TcpConnector, testing::HttpServer};

    fn client(url: &str, token: Option<&str>, body_max: usize) -> JsonRpcClient {
        let token = token.map(Secret::new);
        JsonRpcClient::new(Network::plain(TcpConnector), url.parse().unwrap(), token.as_ref(), body_max).unwrap()
    }

    #[tokio::test]
    async fn a_result_comes_back_over_one_kept_connection() {
        let server = HttpServer::start(|request| {
            let sum: u64 = request["params"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum();
            (200, json!({"jsonrpc": "2.0", "id": request["id"], "result": sum}).to_string())
        })
        .await;
        let client = client(&server.url(), None, 1_000);
        for count in 1..4_u64 {
            assert_eq!(client.call::<u64>("add", [count, 1]).await.unwrap(), count + 1);
        }
        assert_eq!(server.connections(), 1);
        assert_eq!(server.requests(), 3);
    }

    #[tokio::test]
    async fn a_kept_connection_that_the_peer_closed_is_replaced_unnoticed() {
        let server = HttpServer::start_closing(|request| {
            (200, json!({"jsonrpc": "2.0", "id": request["id"], "result": 1}).to_string())
        })
        .await;
        let client = client(&server.url(), None, 1_000);
        for _ in 0..3 {
            assert_eq!(client.call::<u64>("one", ()).await.unwrap(), 1);
        }
        assert_eq!(server.connections(), 3);
    }

    /// Or else each of them would cost a call its whole time.
    #[tokio::test]
    async fn after_an_abandoned_call_no_kept_connection_is_trusted() {
        let server =
            HttpServer::start(|request| (200, json!({"jsonrpc": "2.0", "id": request["id"], "result": 1}).to_string()))
                .await;
        let client = client(&server.url(), None, 1_000);
        let call = || client.call::<u64>("one", ());
        let (a, b, c) = tokio::join!(call(), call(), call());
        assert_eq!((a.unwrap(), b.unwrap(), c.unwrap(), server.connections()), (1, 1, 1, 3));

        server.fall_silent();
        for abandoned in 1..4 {
            let connections = server.connections();
            let requests = server.requests();
            let asked = async {
                while server.requests() == requests {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::select! {
                answer = call() => panic!("{answer:?}"),
                () = asked => {}
            }
            assert_eq!(server.connections() - connections, usize::from(abandoned > 1), "call {abandoned}");
        }
    }

    #[tokio::test]
    async fn each_kind_of_failure_is_told_apart() {
        type Expected = fn(&JsonRpcError) -> bool;
        let cases: [(u16, String, Expected); 8] = [
            (
                503,
                "busy\nnow".into(),
                |e| matches!(e, JsonRpcError::HttpStatus { status, body, .. } if status.as_u16() == 503 && body == "busy now"),
            ),
            (200, "x".repeat(501), |e| matches!(e, JsonRpcError::TooLarge { limit: 500, .. })),
            (200, "{".into(), |e| matches!(e, JsonRpcError::Undecodable { .. })),
            (200, json!({"id": 7, "result": 1}).to_string(), |e| matches!(e, JsonRpcError::Undecodable { .. })),
            (200, json!({"result": 1}).to_string(), |e| matches!(e, JsonRpcError::Undecodable { .. })),
            (200, json!({"id": 0, "result": "one"}).to_string(), |e| matches!(e, JsonRpcError::Undecodable { .. })),
            (
                200,
                json!({"id": 0, "error": {"code": 1, "message": "blob: not found"}}).to_string(),
                |e| matches!(e, JsonRpcError::Rpc { code: 1, message, .. } if message == "blob: not found"),
            ),
            (
                500,
                json!({"id": -1, "error": {"code": -32603, "message": "Internal error", "data": "why"}}).to_string(),
                |e| matches!(e, JsonRpcError::Rpc { code: -32603, message, .. } if message == "Internal error: why"),
            ),
        ];
        for (status, body, expected) in cases {
            let shown = body.clone();
            let server = HttpServer::start(move |_| (status, body.clone())).await;
            let error = client(&server.url(), None, 500).call::<u64>("any", ()).await.unwrap_err();
            assert!(expected(&error), "{shown}: {error:?}");
        }
        let error = client("http://127.0.0.1:1", None, 500).call::<u64>("any", ()).await.unwrap_err();
        assert!(matches!(error, JsonRpcError::Transport { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn credentials_are_sent_and_never_shown() {
        let server = HttpServer::start(|request| (418, request["authorization"].to_string())).await;
        let url = server.url().replace("http://", "http://user:hunter2@");
        let bearer = client(&url, Some("topsecret"), 500);
        let basic = client(&url, None, 500);
        for (client, sent) in [(bearer, "Bearer topsecret"), (basic, "Basic dXNlcjpodW50ZXIy")] {
            let error = client.call::<u64>("any", ()).await.unwrap_err();
            // The server repeats what it was sent, which is the only reason why it stands in this error.
            let JsonRpcError::HttpStatus { body, peer, .. } = &error else { panic!("{error:?}") };
            assert!(body.contains(sent), "{body}");
            for shown in [format!("{client:?}"), peer.clone()] {
                assert!(!shown.contains("hunter2") && !shown.contains("topsecret"), "{shown}");
            }
        }
        let refused = client("http://user:hunter2@127.0.0.1:1/?key=topsecret", Some("topsecret"), 500);
        let error = refused.call::<u64>("any", ()).await.unwrap_err();
        for shown in [format!("{error:?}"), error.to_string()] {
            assert!(!shown.contains("hunter2") && !shown.contains("topsecret"), "{shown}");
        }
    }
}
