//! A small HTTP server for the unit tests of the adapters.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::Value;

type Answer = dyn Fn(&Value) -> (u16, String) + Send + Sync;

/// Answers every request with what a function makes of its JSON body (and its `authorization` header). Ends when dropped.
pub(crate) struct HttpServer {
    port: u16,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    is_silent: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl HttpServer {
    pub(crate) async fn start(answer: impl Fn(&Value) -> (u16, String) + Send + Sync + 'static) -> Self {
        Self::start_with(Arc::new(answer), true).await
    }

    /// Closes each connection after one answer, without announcing it.
    pub(crate) async fn start_closing(answer: impl Fn(&Value) -> (u16, String) + Send + Sync + 'static) -> Self {
        Self::start_with(Arc::new(answer), false).await
    }

    async fn start_with(answer: Arc<Answer>, keep_alive: bool) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("a bound listener").port();
        let (connections, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let is_silent = Arc::new(AtomicBool::new(false));
        let (opened, asked, silent) = (connections.clone(), requests.clone(), is_silent.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                opened.fetch_add(1, Ordering::SeqCst);
                let (answer, asked, silent) = (answer.clone(), asked.clone(), silent.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let (answer, asked, silent) = (answer.clone(), asked.clone(), silent.clone());
                    async move {
                        asked.fetch_add(1, Ordering::SeqCst);
                        if silent.load(Ordering::SeqCst) {
                            std::future::pending::<()>().await;
                        }
                        let authorization = request.headers().get(header::AUTHORIZATION).cloned();
                        let body = request.into_body().collect().await?.to_bytes();
                        let mut body: Value = serde_json::from_slice(&body).unwrap_or_default();
                        if let (Value::Object(body), Some(authorization)) = (&mut body, authorization) {
                            let authorization = authorization.to_str().unwrap_or_default().to_owned();
                            body.insert("authorization".into(), authorization.into());
                        }
                        let (status, text) = answer(&body);
                        let response = Response::builder().status(status).body(Full::new(Bytes::from(text)));
                        let response = response.expect("a status between 100 and 999");
                        Ok::<_, hyper::Error>(response)
                    }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .keep_alive(keep_alive)
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self { port, connections, requests, is_silent, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on no request is answered.
    pub(crate) fn fall_silent(&self) {
        self.is_silent.store(true, Ordering::SeqCst);
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
