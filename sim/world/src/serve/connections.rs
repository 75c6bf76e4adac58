//! Connections: accepted, served with hyper, and cut when the server goes down or ends.

use std::{convert::Infallible, future::Future, pin::pin, time::Duration};

use http::{Request, Response};
use hyper::{
    body::{Body, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::task::JoinSet;

use super::{Hooks, Listener};

/// Which HTTP a server speaks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Version {
    Http1,
    Http2,
}

/// Answers every request with `answer`, until `shutdown`. Then all connections are cut.
pub(super) async fn serve<L, F, R, B>(
    mut listener: L,
    version: Version,
    hooks: Hooks,
    shutdown: impl Future<Output = ()> + Send,
    answer: F,
) where
    L: Listener,
    F: Fn(Request<Incoming>) -> R + Clone + Send + 'static,
    R: Future<Output = Response<B>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // Dropping the set ends the connections.
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        // In this order, so that a simulated network sees the same whatever the runtime's randomness.
        let accepted = tokio::select! {
            biased;
            () = &mut shutdown => return,
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let io = match accepted {
            Ok(io) => TokioIo::new(io),
            Err(error) => {
                tracing::debug!(%error, "connection not accepted");
                // Out of descriptors, most likely, which passes.
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        let mut down = hooks.watch_down();
        let answer = answer.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let reply = answer(request);
                async { Ok::<_, Infallible>(reply.await) }
            });
            let serve = async {
                let result = match version {
                    Version::Http1 => http1::Builder::new().serve_connection(io, service).await,
                    Version::Http2 => {
                        http2::Builder::new(TokioExecutor::new())
                            .max_concurrent_streams(1_000)
                            .serve_connection(io, service)
                            .await
                    }
                };
                if let Err(error) = result {
                    tracing::trace!(%error, "connection ended");
                }
            };
            tokio::select! {
                biased;
                _ = down.wait_for(|down| *down) => {}
                () = serve => {}
            }
        });
    }
}
