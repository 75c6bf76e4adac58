//! turmoil's TCP as the adapters' connector and the model servers' listener.

use std::{
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr},
};

use downbeat::connector::{BoxStream, Connecting, Connector};
use downbeat_world::serve::Listener;
use turmoil::net::{TcpListener, TcpStream};

/// Connects from within a simulated host; names are those of hosts.
#[derive(Clone, Copy, Debug, Default)]
pub struct TurmoilConnector;

impl Connector for TurmoilConnector {
    fn connect<'a>(&'a self, host: &'a str, port: u16) -> Connecting<'a> {
        Box::pin(async move { Ok(Box::new(TcpStream::connect((host, port)).await?) as BoxStream) })
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

    fn accept(&mut self) -> impl Future<Output = io::Result<TcpStream>> + Send {
        async { Ok(self.0.accept().await?.0) }
    }
}
