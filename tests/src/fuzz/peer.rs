//! A JSON-RPC peer in memory: the real adapters talk to it over a stream that answers from a script.

use std::{
    cell::RefCell,
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use downbeat::{
    connector::{BoxStream, Connecting, Connector, Network},
    json_rpc::{JsonRpcClient, JsonRpcError},
};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How much of an answer comes from the script; the rest is as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// The `result`, in a right envelope.
    Result,
    /// The `error`, in a right envelope.
    Error,
    /// The body.
    Body,
    /// Everything, after which the peer hangs up.
    Stream,
}

/// What the peer answers: one piece for each request, the last one again and again.
#[derive(Clone, Debug)]
pub(super) struct Script {
    pub(super) depth: Depth,
    pub(super) pieces: Vec<Vec<u8>>,
}

/// A peer with a script.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    script: Arc<Script>,
    requests: Arc<AtomicUsize>,
}

impl Peer {
    pub(super) fn new(script: Script) -> Self {
        Self { script: Arc::new(script), requests: Arc::default() }
    }

    /// A client whose answers have at most `body_max` bytes.
    pub(super) fn client(&self, body_max: usize) -> JsonRpcClient {
        let endpoint = "http://user:hunter2@peer/key".parse().expect("a URL");
        JsonRpcClient::new(Network::plain(self.clone()), endpoint, None, body_max).expect("credentials for a header")
    }

    pub(super) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    fn answer(&self, request: &[u8]) -> (Vec<u8>, bool) {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let pieces = &self.script.pieces;
        let piece = pieces.get(number).or(pieces.last()).map_or(&[][..], Vec::as_slice);
        let request: Value = serde_json::from_slice(request).expect("a request is JSON");
        let envelope = |field: &str| {
            let begin = format!("{{\"jsonrpc\":\"2.0\",\"id\":{},\"{field}\":", request["id"]);
            [begin.as_bytes(), piece, b"}"].concat()
        };
        let body = match self.script.depth {
            Depth::Result => envelope("result"),
            Depth::Error => envelope("error"),
            Depth::Body => piece.to_vec(),
            Depth::Stream => return (piece.to_vec(), true),
        };
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        ([head.into_bytes(), body].concat(), false)
    }
}

impl Connector for Peer {
    fn connect<'a>(&'a self, _: &'a str, _: u16) -> Connecting<'a> {
        let stream = Stream { peer: self.clone(), received: Vec::new(), answer: Mutex::default() };
        Box::pin(async move { Ok(Box::new(stream) as BoxStream) })
    }
}

#[derive(Debug)]
struct Stream {
    peer: Peer,
    received: Vec<u8>,
    answer: Mutex<Answer>,
}

#[derive(Debug, Default)]
struct Answer {
    bytes: Vec<u8>,
    sent: usize,
    ends: bool,
    reader: Option<Waker>,
}

impl Stream {
    /// Answers each request that has arrived completely.
    fn serve(&mut self) {
        loop {
            let Some(head) = self.received.windows(4).position(|window| window == b"\r\n\r\n") else { return };
            let text = String::from_utf8_lossy(&self.received[..head]).to_ascii_lowercase();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
            let length: usize = length.and_then(|length| length.trim().parse().ok()).expect("requests have a length");
            let end = head + 4 + length;
            if self.received.len() < end {
                return;
            }
            let (bytes, ends) = self.peer.answer(&self.received[head + 4..end]);
            self.received.drain(..end);
            let mut answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
            answer.bytes.extend(bytes);
            answer.ends |= ends;
            if let Some(reader) = answer.reader.take() {
                reader.wake();
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.received.extend_from_slice(bytes);
        self.serve();
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        let left = &answer.bytes[answer.sent..];
        let count = left.len().min(into.remaining());
        if count == 0 && !answer.ends {
            answer.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        into.put_slice(&left[..count]);
        answer.sent += count;
        Poll::Ready(Ok(()))
    }
}

/// Runs to the end; tasks that are left over are dropped.
pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: RefCell<tokio::runtime::Runtime> = RefCell::new(
            tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime without I/O"),
        );
    }
    RUNTIME.with_borrow(|runtime| runtime.block_on(future))
}

/// A peer decides neither how long an error is nor where its lines end, and no error shows what is secret.
pub(super) fn check_error(error: &JsonRpcError) {
    let text = error.to_string();
    // A peer's message has up to 4,096 characters of up to four bytes.
    assert!(text.len() < 20_000, "an error of {} bytes", text.len());
    assert!(!text.chars().any(char::is_control), "{text:?}");
    assert!(!text.contains("hunter2") || matches!(error, JsonRpcError::Rpc { .. } | JsonRpcError::HttpStatus { .. }));
}

/// Splits input into the pieces of a script: 255 is in no UTF-8 text.
pub(super) fn pieces(data: &[u8]) -> Vec<Vec<u8>> {
    data.split(|byte| *byte == 0xff).take(8).map(<[u8]>::to_vec).collect()
}

/// The result as an ordinary JSON parser sees it, if it is the only one.
pub(super) fn only_result(script: &Script) -> Option<Value> {
    match (script.depth, script.pieces.as_slice()) {
        (Depth::Result, [only]) => serde_json::from_slice(only).ok(),
        _ => None,
    }
}

pub(super) fn depth(selector: u8) -> Depth {
    match selector & 7 {
        5 => Depth::Error,
        6 => Depth::Body,
        7 => Depth::Stream,
        _ => Depth::Result,
    }
}
