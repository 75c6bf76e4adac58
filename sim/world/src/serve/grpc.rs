//! Unary gRPC: a path and a message in, a message or a status out.

use std::future::{Future, Ready, ready};

use bytes::{Buf as _, BufMut as _, Bytes};
use hyper::body::Incoming;
use prost::Message;
use tonic::{
    body::Body,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    server::{Grpc, UnaryService},
};

use super::{Failure, Hooks, Listener, connections};
use crate::rollup::{Code, Status};

/// Answers unary calls. `method` is the last part of the path.
pub trait Api: Clone + Send + Sync + 'static {
    /// Package and name of the service: the first part of the path.
    const SERVICE: &'static str;

    /// The encoded reply.
    fn call(&self, method: &str, request: Bytes) -> Result<Bytes, Status>;
}

/// Decodes a request.
pub(super) fn decode<M: Message + Default>(request: Bytes) -> Result<M, Status> {
    M::decode(request).map_err(|error| Status::new(Code::InvalidArgument, error.to_string()))
}

/// Serves `api` over HTTP/2 until `shutdown`.
pub async fn serve<L: Listener>(listener: L, api: impl Api, hooks: Hooks, shutdown: impl Future<Output = ()> + Send) {
    let answer = {
        let hooks = hooks.clone();
        move |request| answer(api.clone(), hooks.clone(), request)
    };
    connections::serve(listener, connections::Version::Http2, hooks, shutdown, answer).await;
}

async fn answer<A: Api>(api: A, hooks: Hooks, request: http::Request<Incoming>) -> http::Response<Body> {
    let path = request.uri().path().trim_start_matches('/');
    let method = match path.rsplit_once('/') {
        Some((service, method)) if service == A::SERVICE => method.to_owned(),
        _ => {
            let status = Status::new(Code::Unimplemented, format!("no service at {path}"));
            return to_tonic(status).into_http();
        }
    };
    let (delay, failure) = hooks.admit(&method);
    if let Some(delay) = delay {
        tokio::time::sleep(delay).await;
    }
    if let Some(Failure::Http(status)) = failure {
        let mut response = http::Response::new(Body::empty());
        *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
        return response;
    }
    Grpc::new(RawCodec).unary(Unary { api, method, failure }, request).await
}

fn to_tonic(status: Status) -> tonic::Status {
    tonic::Status::new(tonic::Code::from_i32(status.code as i32), status.message)
}

/// One call, between tonic's framing and the [`Api`].
struct Unary<A> {
    api: A,
    method: String,
    failure: Option<Failure>,
}

impl<A: Api> UnaryService<Bytes> for Unary<A> {
    type Response = Bytes;
    type Future = Ready<Result<tonic::Response<Bytes>, tonic::Status>>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        let reply = match self.failure.take() {
            Some(Failure::Garbage(bytes)) => Ok(bytes.into()),
            Some(failure) => Err(failure.into_status()),
            None => self.api.call(&self.method, request.into_inner()),
        };
        ready(reply.map(tonic::Response::new).map_err(to_tonic))
    }
}

/// Leaves messages as they are.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = tonic::Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), tonic::Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = tonic::Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, tonic::Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
