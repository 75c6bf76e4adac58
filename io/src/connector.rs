//! How every adapter reaches the network: plain streams from a [`Connector`], and TLS on top of them.

use std::{fmt, future::Future, io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// A byte stream to a peer.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A stream of whatever kind.
pub type BoxStream = Box<dyn Stream>;

/// The future of a connection attempt.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<BoxStream>> + Send + 'a>>;

/// Opens plain streams. Real TCP in production; a simulated network implements the same trait.
pub trait Connector: fmt::Debug + Send + Sync + 'static {
    /// `host` is a name or an address (IPv6 without brackets).
    fn connect<'a>(&'a self, host: &'a str, port: u16) -> Connecting<'a>;
}

/// TCP of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpConnector;

/// How long one address may take before the name's next one is tried.
const ADDRESS_PATIENCE: Duration = Duration::from_secs(3);

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

impl Connector for TcpConnector {
    fn connect<'a>(&'a self, host: &'a str, port: u16) -> Connecting<'a> {
        Box::pin(async move {
            let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.take(ADDRESSES_MAX).collect();
            let mut failure = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
            for address in addresses {
                match tokio::time::timeout(ADDRESS_PATIENCE, TcpStream::connect(address)).await {
                    Ok(Ok(stream)) => {
                        // Requests are small and wait for their answers: never hold one back to fill a packet.
                        stream.set_nodelay(true)?;
                        return Ok(Box::new(stream) as BoxStream);
                    }
                    Ok(Err(error)) => failure = error,
                    Err(_) => failure = io::Error::new(io::ErrorKind::TimedOut, format!("{address} does not answer")),
                }
            }
            Err(failure)
        })
    }
}

/// What is spoken inside TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

/// Where to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Name or address, IPv6 without brackets.
    pub host: String,
    pub port: u16,
    pub tls: bool,
}

/// A connector with what TLS needs. Cheap to clone.
#[derive(Clone)]
pub struct Network {
    connector: Arc<dyn Connector>,
    tls: Option<Arc<Tls>>,
}

struct Tls {
    http1: tokio_rustls::TlsConnector,
    http2: tokio_rustls::TlsConnector,
}

/// Why TLS cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("no root certificate of the system could be read{0}: install ca-certificates or set SSL_CERT_FILE")]
    NoRoots(String),
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

impl Network {
    /// A network without TLS: to connect to an `https` target is an error.
    pub fn plain(connector: impl Connector) -> Self {
        Self { connector: Arc::new(connector), tls: None }
    }

    /// A network with TLS that trusts the system's root certificates.
    ///
    /// # Errors
    /// When the system has no readable root certificate.
    pub fn with_system_roots(connector: impl Connector) -> Result<Self, TlsError> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let reason = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
            return Err(TlsError::NoRoots(reason));
        }
        Self::with_roots(connector, roots)
    }

    /// A network with TLS that trusts `roots`.
    ///
    /// # Errors
    /// When the TLS library offers no protocol version in common with its cipher suites.
    pub fn with_roots(connector: impl Connector, roots: rustls::RootCertStore) -> Result<Self, TlsError> {
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let with_alpn = |alpn: &[u8]| {
            let mut config = config.clone();
            config.alpn_protocols = vec![alpn.to_vec()];
            tokio_rustls::TlsConnector::from(Arc::new(config))
        };
        let tls = Tls { http1: with_alpn(b"http/1.1"), http2: with_alpn(b"h2") };
        Ok(Self { connector: Arc::new(connector), tls: Some(Arc::new(tls)) })
    }

    /// Opens a stream to `target`.
    ///
    /// # Errors
    /// When no address of the host accepts, or when the certificate is not acceptable.
    pub async fn connect(&self, target: &Target, protocol: Protocol) -> io::Result<BoxStream> {
        let stream = self.connector.connect(&target.host, target.port).await?;
        if !target.tls {
            return Ok(stream);
        }
        let Some(tls) = &self.tls else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "TLS is not set up on this network"));
        };
        let name = ServerName::try_from(target.host.clone())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let connector = match protocol {
            Protocol::Http1 => &tls.http1,
            Protocol::Http2 => &tls.http2,
        };
        Ok(Box::new(connector.connect(name, stream).await?))
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").field("connector", &self.connector).field("tls", &self.tls.is_some()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_with_several_addresses_is_reached_at_whichever_listens() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = Target { host: "localhost".into(), port, tls: false };
        let network = Network::plain(TcpConnector);
        let (connected, accepted) = tokio::join!(network.connect(&target, Protocol::Http1), listener.accept());
        assert!(connected.is_ok());
        assert_eq!(accepted.unwrap().0.local_addr().unwrap(), listener.local_addr().unwrap());
    }

    #[tokio::test]
    async fn https_without_tls_is_refused_and_never_sent_in_the_clear() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = Target { host: "127.0.0.1".into(), port, tls: true };
        let error = Network::plain(TcpConnector).connect(&target, Protocol::Http1).await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    }

    /// A server with a certificate for `localhost` and `127.0.0.1`, and what trusts its issuer.
    async fn tls_server() -> (u16, rustls::RootCertStore) {
        use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
        let certificate = CertificateDer::from_pem_slice(include_bytes!("testdata/localhost.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_slice(include_bytes!("testdata/localhost.key")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Says which protocol was agreed upon; a client that does not trust us ends the handshake.
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    let alpn = stream.get_ref().1.alpn_protocol().unwrap_or_default().to_vec();
                    tokio::io::AsyncWriteExt::write_all(&mut stream, &alpn).await.unwrap();
                    tokio::io::AsyncWriteExt::shutdown(&mut stream).await.ok();
                }
            }
        });
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(include_bytes!("testdata/roots.pem")).unwrap()).unwrap();
        (port, roots)
    }

    #[tokio::test]
    async fn tls_agrees_on_the_protocol_and_insists_on_a_trusted_certificate_for_the_host() {
        let (port, roots) = tls_server().await;
        let network = Network::with_roots(TcpConnector, roots).unwrap();
        for (host, protocol, alpn) in [("localhost", Protocol::Http2, "h2"), ("127.0.0.1", Protocol::Http1, "http/1.1")]
        {
            let target = Target { host: host.into(), port, tls: true };
            let mut stream = network.connect(&target, protocol).await.unwrap();
            let mut said = String::new();
            tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut said).await.unwrap();
            assert_eq!(said, alpn);
        }
        let elsewhere = Network::with_roots(TcpConnector, rustls::RootCertStore::empty()).unwrap();
        let target = Target { host: "localhost".into(), port, tls: true };
        let error = elsewhere.connect(&target, Protocol::Http2).await.err().unwrap();
        assert!(error.to_string().contains("UnknownIssuer"), "{error}");
    }
}
