//! Addresses of peers and the secrets that belong to them. Neither shows a secret when printed.

use std::{fmt, str::FromStr};

use base64::Engine as _;
use url::{Host, Url};

use crate::connector::Target;

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the request that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

/// An `http` or `https` URL. Credentials, path and query are kept for requests and hidden when printed, for providers
/// put keys into each of them.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    target: Target,
    /// `host:port`, with brackets where IPv6 needs them.
    authority: String,
    path_and_query: Secret,
    /// Value of an `Authorization` header.
    basic_auth: Option<Secret>,
}

/// Why a text is not an endpoint. Never holds the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    #[error("not a URL ({0})")]
    NotAUrl(String),
    #[error("the scheme {0:?} is neither http nor https")]
    Scheme(String),
    #[error("the URL names no host")]
    NoHost,
}

impl Endpoint {
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// `host:port`.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Where requests go on that host; holds the query, if any.
    pub fn path_and_query(&self) -> &Secret {
        &self.path_and_query
    }

    /// The credentials of the URL as the value of an `Authorization` header.
    pub fn basic_auth(&self) -> Option<&Secret> {
        self.basic_auth.as_ref()
    }

    /// Scheme and authority only, as gRPC wants it.
    pub fn origin(&self) -> String {
        format!("{}://{}", if self.target.tls { "https" } else { "http" }, self.authority)
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let url = Url::parse(text.trim()).map_err(|error| EndpointError::NotAUrl(error.to_string()))?;
        let tls = match url.scheme() {
            "http" => false,
            "https" => true,
            // A text such as "name:secret" parses as a scheme: show no more of it than a scheme may be long.
            scheme => return Err(EndpointError::Scheme(scheme.chars().take(8).collect())),
        };
        let (host, shown_host) = match url.host() {
            None => return Err(EndpointError::NoHost),
            Some(Host::Ipv6(address)) => (address.to_string(), format!("[{address}]")),
            Some(host) => (host.to_string(), host.to_string()),
        };
        let port = url.port_or_known_default().unwrap_or(if tls { 443 } else { 80 });
        let mut path_and_query = url.path().to_owned();
        if let Some(query) = url.query() {
            path_and_query.push('?');
            path_and_query.push_str(query);
        }
        let basic_auth = (!url.username().is_empty() || url.password().is_some()).then(|| {
            let mut pair = percent_decode(url.username());
            pair.push(b':');
            pair.extend(percent_decode(url.password().unwrap_or_default()));
            Secret::new(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)))
        });
        Ok(Self {
            target: Target { host, port, tls },
            authority: format!("{shown_host}:{port}"),
            path_and_query: Secret::new(path_and_query),
            basic_auth,
        })
    }
}

/// Undoes `%xx`; what is not of that form stays.
fn percent_decode(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = (byte == b'%')
            .then(|| tail.get(..2))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(escaped.unwrap_or(byte));
        rest = if escaped.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
    }
    bytes
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin())?;
        if self.path_and_query.expose() == "/" { Ok(()) } else { f.write_str("/…") }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_prints_neither_credentials_nor_path_nor_query() {
        let endpoint: Endpoint = "https://us%40er:hunter2@node.example/key/abcdef?token=topsecret".parse().unwrap();
        for shown in [endpoint.to_string(), format!("{endpoint:?}"), format!("{endpoint:#?}")] {
            for secret in ["us", "hunter2", "abcdef", "topsecret", "Basic"] {
                assert!(!shown.contains(secret), "{shown} shows {secret}");
            }
            assert!(shown.contains("https://node.example:443/…"), "{shown}");
        }
        assert_eq!(endpoint.path_and_query().expose(), "/key/abcdef?token=topsecret");
        assert_eq!(endpoint.basic_auth().unwrap().expose(), "Basic dXNAZXI6aHVudGVyMg==");
    }

    #[test]
    fn ports_hosts_and_schemes_are_understood() {
        let table = [
            ("http://127.0.0.1:26657", "127.0.0.1", 26657, false, "http://127.0.0.1:26657"),
            ("http://[::1]:9/", "::1", 9, false, "http://[::1]:9"),
            ("https://celestia.example", "celestia.example", 443, true, "https://celestia.example:443"),
            (" http://localhost ", "localhost", 80, false, "http://localhost:80"),
        ];
        for (text, host, port, tls, shown) in table {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.target(), &Target { host: host.into(), port, tls }, "{text}");
            assert_eq!(endpoint.to_string(), shown);
        }
    }

    #[test]
    fn what_is_not_an_endpoint_says_why_without_repeating_it() {
        for text in ["", "127.0.0.1:26657", "ws://user:hunter2@host", "localhost:hunter2", "http://", "unix:///tmp/x"] {
            let error = Endpoint::from_str(text).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?}"), "<redacted> <redacted>");
    }
}
