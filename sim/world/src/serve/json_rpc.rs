//! JSON-RPC 2.0 over HTTP/1: single requests and batches by POST.

use std::future::Future;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use serde_json::Value;

use super::{Failure, Hooks, Listener, connections};

/// Most bytes of a request.
const REQUEST_MAX_BYTES: usize = 10 << 20;

/// Most requests of a batch.
const BATCH_MAX: usize = 1_000;

/// A JSON-RPC error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub code: i64,
    pub message: String,
    pub data: Option<String>,
}

impl Error {
    pub(super) fn new(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    pub(super) fn method_not_found(method: &str) -> Self {
        Self::new(-32601, format!("method '{method}' not found"))
    }

    pub(super) fn invalid_params(message: impl Into<String>) -> Self {
        Self::new(-32602, message)
    }
}

/// Answers calls.
pub trait Api: Clone + Send + Sync + 'static {
    /// The result as JSON. `params` is null if the request has none.
    fn call(&self, method: &str, params: &Value) -> Result<Bytes, Error>;

    /// The bearer token without which a request is a 401, if any.
    fn token(&self) -> Option<&str> {
        None
    }
}

/// Parameter by name or by position.
pub(super) fn param<'a>(params: &'a Value, name: &str, position: usize) -> &'a Value {
    static NULL: Value = Value::Null;
    params.get(name).or_else(|| params.get(position)).unwrap_or(&NULL)
}

/// A number, plain or as a decimal string.
pub(super) fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// Encodes a result.
pub(super) fn encode(value: &Value) -> Bytes {
    value.to_string().into()
}

/// Serves `api` until `shutdown`.
pub async fn serve<L: Listener>(listener: L, api: impl Api, hooks: Hooks, shutdown: impl Future<Output = ()> + Send) {
    let answer = {
        let hooks = hooks.clone();
        move |request| answer(api.clone(), hooks.clone(), request)
    };
    connections::serve(listener, connections::Version::Http1, hooks, shutdown, answer).await;
}

async fn answer<A: Api>(api: A, hooks: Hooks, request: Request<Incoming>) -> Response<Full<Bytes>> {
    if request.method() != Method::POST {
        return status(StatusCode::METHOD_NOT_ALLOWED);
    }
    if let Some(token) = api.token() {
        let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        if given.and_then(|value| value.strip_prefix("Bearer ")) != Some(token) {
            return status(StatusCode::UNAUTHORIZED);
        }
    }
    let Ok(body) = Limited::new(request.into_body(), REQUEST_MAX_BYTES).collect().await else {
        return status(StatusCode::PAYLOAD_TOO_LARGE);
    };
    let reply = match serde_json::from_slice(&body.to_bytes()) {
        Ok(Value::Array(batch)) if batch.len() <= BATCH_MAX => {
            let mut reply = BytesMut::from(&b"["[..]);
            for (index, request) in batch.iter().enumerate() {
                if index > 0 {
                    reply.put_u8(b',');
                }
                match single(&api, &hooks, request).await {
                    Ok(one) => reply.put(one),
                    Err(code) => return status(code),
                }
            }
            reply.put_u8(b']');
            reply.freeze()
        }
        Ok(Value::Array(_)) => envelope(&Value::Null, Err(Error::new(-32600, "the batch is too long"))),
        Ok(request) => match single(&api, &hooks, &request).await {
            Ok(reply) => reply,
            Err(code) => return status(code),
        },
        Err(error) => envelope(&Value::Null, Err(Error::new(-32700, error.to_string()))),
    };
    let mut response = Response::new(Full::new(reply));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

async fn single<A: Api>(api: &A, hooks: &Hooks, request: &Value) -> Result<Bytes, StatusCode> {
    let id = request.get("id").unwrap_or(&Value::Null);
    let Some(method) = request.get("method").and_then(Value::as_str) else {
        return Ok(envelope(id, Err(Error::new(-32600, "the request names no method"))));
    };
    let (delay, failure) = hooks.admit(method);
    if let Some(delay) = delay {
        tokio::time::sleep(delay).await;
    }
    let result = match failure {
        None => api.call(method, request.get("params").unwrap_or(&Value::Null)),
        Some(Failure::Http(code)) => return Err(StatusCode::from_u16(code).unwrap_or_default()),
        Some(Failure::JsonRpc { code, message }) => Err(Error::new(code, message)),
        Some(Failure::Grpc(status)) => Err(Error::new(-32603, status.message)),
        Some(Failure::Garbage(bytes)) => Ok(bytes.into()),
    };
    Ok(envelope(id, result))
}

/// A reply. The result is copied, not parsed.
fn envelope(id: &Value, result: Result<Bytes, Error>) -> Bytes {
    let result = match result {
        Ok(result) => result,
        Err(error) => {
            let mut object = serde_json::json!({ "code": error.code, "message": error.message });
            if let Some(data) = error.data {
                object["data"] = data.into();
            }
            let reply = serde_json::json!({ "jsonrpc": "2.0", "id": id, "error": object });
            return encode(&reply);
        }
    };
    let mut reply = BytesMut::with_capacity(result.len() + 64);
    reply.put(&b"{\"jsonrpc\":\"2.0\",\"id\":"[..]);
    reply.put(id.to_string().as_bytes());
    reply.put(&b",\"result\":"[..]);
    reply.put(result);
    reply.put_u8(b'}');
    reply.freeze()
}

fn status(code: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = code;
    response
}
