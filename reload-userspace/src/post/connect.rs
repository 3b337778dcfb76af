//! The way to a server: its address, a connection, and TLS if it is to be.
//!
//! Looking for an address and reading certificates may take long, and neither can be waited for
//! otherwise than by a thread. It is one of our own and not of the runtime's, which would wait for it
//! when the agent is asked to stop.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _},
    sync::Arc,
    thread,
};

use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::oneshot,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::PostError;
use crate::{
    rule::{Endpoint, Scheme},
    sys,
};

/// A connection to a server, in the clear or not.
pub(super) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<W: AsyncRead + AsyncWrite + Send + Unpin> Wire for W {}

/// What is known of a server before it is spoken to.
struct Server {
    addresses: Vec<SocketAddr>,
    tls: Option<Arc<ClientConfig>>,
}

/// Connects to the first address of the server's that takes connections.
///
/// # Errors
///
/// Each says what could not be had.
pub(super) async fn connect(endpoint: &Endpoint) -> Result<Box<dyn Wire>, PostError> {
    let (tell, told) = oneshot::channel();
    let asked = endpoint.clone();
    let look = move || {
        let server = prepare(&asked);
        // Nobody wants to know any more where it has taken too long.
        drop(tell.send(server));
    };
    let thread = |source| PostError::Thread { url: endpoint.to_string(), source };
    thread::Builder::new().name("resolve".to_owned()).spawn(look).map_err(thread)?;
    let server = told.await.map_err(|error| thread(io::Error::other(error)))??;
    let stream = open(&server.addresses)
        .await
        .map_err(|source| PostError::Connect { url: endpoint.to_string(), source })?;
    match server.tls {
        None => Ok(Box::new(stream)),
        Some(config) => {
            let stream = encrypt(endpoint.host(), stream, config).await;
            let tls = |source| PostError::Tls { url: endpoint.to_string(), source };
            Ok(Box::new(stream.map_err(tls)?))
        }
    }
}

/// Finds the addresses of a server, and what its certificate is checked with.
fn prepare(endpoint: &Endpoint) -> Result<Server, PostError> {
    let addresses = addresses(endpoint.host(), endpoint.port())
        .map_err(|source| PostError::Resolve { url: endpoint.to_string(), source })?;
    let tls = match endpoint.scheme() {
        Scheme::Http => None,
        Scheme::Https => Some(tls(endpoint)?),
    };
    Ok(Server { addresses, tls })
}

/// The addresses of a host.
///
/// `localhost` is this machine whatever a file or a server says (RFC 6761), so it is found in an
/// empty image too; most servers that listen for it alone do so in version 4.
fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let here = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    if host.trim_end_matches('.').eq_ignore_ascii_case("localhost") {
        return Ok(here.map(|address| SocketAddr::new(address, port)).to_vec());
    }
    sys::resolve_without_plugins();
    Ok((host, port).to_socket_addrs()?.collect())
}

async fn open(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "it has no address");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

async fn encrypt(
    host: &str,
    stream: TcpStream,
    config: Arc<ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    TlsConnector::from(config).connect(name, stream).await
}

/// What certificates are checked with: the system's authorities, as they are at this moment.
fn tls(endpoint: &Endpoint) -> Result<Arc<ClientConfig>, PostError> {
    let mut roots = RootCertStore::empty();
    // One that cannot be read is left out, and so the certificates that only it vouches for fail.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(PostError::Authorities { url: endpoint.to_string() });
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| PostError::Tls {
            url: endpoint.to_string(),
            source: io::Error::other(error),
        })?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}
