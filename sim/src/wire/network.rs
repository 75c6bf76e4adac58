//! turmoil's TCP as the adapters' connector and the model servers' listener.
//!
//! turmoil refuses a connection at once when a message of its handshake is lost, and lets one to a dead process hang. Real
//! networks do the opposite, so the connector is told what is wrong ([`Reach`]) and behaves as they do.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use downbeat::connector::{BoxStream, Connecting, Connector};
use downbeat_world::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::{TcpListener, TcpStream};

/// Between tries of a handshake that is lost on the way.
const SYN_RETRY: Duration = Duration::from_secs(1);

/// How a host answers somebody who wants to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Nobody listens: an immediate refusal.
    Refused,
    /// Nothing comes back: tried again and again until it does.
    Silent,
}

/// Connects from within a simulated host; names are those of hosts. Clones share what they know and count.
#[derive(Clone, Debug, Default)]
pub struct TurmoilConnector(Arc<Mutex<Connections>>);

#[derive(Debug, Default)]
struct Connections {
    reach: BTreeMap<String, Reach>,
    opened: u64,
    open: u64,
    most_open: u64,
}

impl TurmoilConnector {
    fn state(&self) -> MutexGuard<'_, Connections> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hosts that are not mentioned can be reached.
    pub fn set_reach(&self, reach: BTreeMap<String, Reach>) {
        self.state().reach = reach;
    }

    /// Connections so far, and the most that were open at once.
    pub fn counts(&self) -> (u64, u64) {
        let state = self.state();
        (state.opened, state.most_open)
    }

    /// Connections that are open.
    pub fn open(&self) -> u64 {
        self.state().open
    }

    async fn open_stream(&self, host: &str, port: u16) -> io::Result<Counted> {
        loop {
            let reach = self.state().reach.get(host).copied();
            let failure = match reach {
                Some(Reach::Refused) => io::Error::from(io::ErrorKind::ConnectionRefused),
                _ => match TcpStream::connect((host, port)).await {
                    Ok(stream) => return Ok(Counted::new(stream, self.clone())),
                    Err(failure) => failure,
                },
            };
            if reach != Some(Reach::Silent) {
                return Err(failure);
            }
            tokio::time::sleep(SYN_RETRY).await;
        }
    }
}

impl Connector for TurmoilConnector {
    fn connect<'a>(&'a self, host: &'a str, port: u16) -> Connecting<'a> {
        Box::pin(async move { Ok(Box::new(self.open_stream(host, port).await?) as BoxStream) })
    }
}

/// A stream that is counted while it is open.
#[derive(Debug)]
struct Counted {
    stream: TcpStream,
    connector: TurmoilConnector,
}

impl Counted {
    fn new(stream: TcpStream, connector: TurmoilConnector) -> Self {
        {
            let mut state = connector.state();
            state.opened += 1;
            state.open += 1;
            state.most_open = state.most_open.max(state.open);
        }
        Self { stream, connector }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.connector.state().open -= 1;
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Listens on a port of a simulated host.
#[expect(missing_debug_implementations, reason = "turmoil's listener has none")]
pub struct TurmoilListener(TcpListener);

impl TurmoilListener {
    /// To be called from within a simulated host.
    ///
    /// # Errors
    /// When the host listens there already.
    pub async fn bind(port: u16) -> io::Result<Self> {
        Ok(Self(TcpListener::bind((IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)).await?))
    }
}

impl Listener for TurmoilListener {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<TcpStream> {
        Ok(self.0.accept().await?.0)
    }
}
