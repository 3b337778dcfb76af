//! Answers whoever asks over HTTP, on a thread of its own.
//!
//! A client can cost the agent a connection for ten seconds and some kilobytes, and nothing else:
//! it has one request, a small header and no body, and there are only so many of its kind.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    sync::Arc,
    thread,
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpStream, task::AbortHandle, time::timeout};

use super::{
    Metrics, Probes, Readiness,
    health::{Doctor, Health},
    text::Exposition,
};
use crate::report::one_line;

/// What a client may take.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// How many clients there may be; who is one more is cut off at once.
    connections: usize,
    /// How long a client may take to say what it wants.
    header: Duration,
    /// How long all of it may take, a reader that is slow included.
    whole: Duration,
}

const LIMITS: Limits =
    Limits { connections: 64, header: Duration::from_secs(5), whole: Duration::from_secs(10) };

/// How large a request may be, in bytes.
const MOST_READ: usize = 16 * 1024;

/// How many fields its header may have.
const MOST_FIELDS: usize = 64;

/// How long nobody is let in after the machine had no descriptor for somebody.
const PAUSE: Duration = Duration::from_millis(100);

const INDEX: &str = "\
reload-agent
/metrics  what it has done, for Prometheus
/healthz  whether it still hears of changes
/readyz   whether it watches all that it should
";

/// Why nobody can be answered.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// It is no address.
    #[error(
        "--listen {given:?} is no address; give one with a port, as in 127.0.0.1:9533, or :9533 \
         for all addresses"
    )]
    Address {
        /// What was given.
        given: String,
    },
    /// It cannot be had.
    #[error("cannot listen on {address}; give --listen an address of this machine and a free port")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is not for everybody.
    #[error(
        "cannot listen on {address}, for ports below 1024 are for who has CAP_NET_BIND_SERVICE; \
         give --listen another port, or grant that"
    )]
    Forbidden {
        /// Which.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The machine has no thread or descriptor left.
    #[error("cannot start the thread that answers on {address}; the machine allows no more")]
    Start {
        /// On which address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

/// An address that is listened on, where nobody is answered yet.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    listener: TcpListener,
    limits: Limits,
}

/// What the answers are made of.
struct Desk {
    metrics: Arc<Metrics>,
    readiness: Readiness,
    doctor: Doctor,
}

/// An address to listen on, and what stands for it where there is no version 6.
fn with_version_4(address: Option<SocketAddr>) -> Vec<SocketAddr> {
    let is_all = |it: &SocketAddr| it.ip() == Ipv6Addr::UNSPECIFIED;
    let second = address.filter(is_all).map(|it| (Ipv4Addr::UNSPECIFIED, it.port()).into());
    address.into_iter().chain(second).collect()
}

impl Server {
    /// Listens on an address: `127.0.0.1:9533`, `[::1]:9533`, or `:9533` for all of this machine's.
    ///
    /// # Errors
    ///
    /// Fails where it is no address of this machine, or taken; the agent should not go on.
    pub fn bind(address: &str) -> Result<Self, ServerError> {
        let everywhere = address.strip_prefix(':').and_then(|port| port.parse().ok());
        let addresses = match everywhere {
            // Where there is no version 6, there is still version 4.
            Some(port) => vec![
                SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
                SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
            ],
            None => with_version_4(address.parse().ok()),
        };
        let Some(first) = addresses.first().copied() else {
            return Err(ServerError::Address { given: address.to_owned() });
        };
        let bind = |source: io::Error| match source.kind() {
            io::ErrorKind::PermissionDenied => ServerError::Forbidden { address: first, source },
            _ => ServerError::Bind { address: first, source },
        };
        let listener = TcpListener::bind(addresses.as_slice()).map_err(bind)?;
        listener.set_nonblocking(true).map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        Ok(Self { address, listener, limits: LIMITS })
    }

    /// The address that is listened on, with the port that the kernel chose where it was 0.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers from here on, until the process ends, and gives the questions that only the loop can
    /// answer.
    ///
    /// # Errors
    ///
    /// Fails where the machine has no thread or descriptor left.
    pub fn start(self, metrics: Arc<Metrics>, readiness: Readiness) -> Result<Probes, ServerError> {
        let Self { address, listener, limits } = self;
        let start = |source| ServerError::Start { address, source };
        let (doctor, probes) = Doctor::new();
        let desk = Arc::new(Desk { metrics, readiness, doctor });
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(start)?;
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener).map_err(start)?
        };
        thread::Builder::new()
            .name("listen".to_owned())
            .spawn(move || runtime.block_on(serve(listener, &desk, limits)))
            .map_err(start)?;
        Ok(probes)
    }
}

/// Lets clients in, for ever.
async fn serve(listener: tokio::net::TcpListener, desk: &Arc<Desk>, limits: Limits) {
    let mut seated: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // It may be out of descriptors: to ask again at once would only keep the thread busy.
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        // Whoever has been here for the longest makes room: who asks is answered in no time.
        seated.retain(|client| !client.is_finished());
        if seated.len() >= limits.connections
            && let Some(oldest) = seated.pop_front()
        {
            oldest.abort();
        }
        let desk = Arc::clone(desk);
        let attended = tokio::spawn(async move {
            // What went wrong is the client's business, and it knows.
            drop(timeout(limits.whole, attend(stream, desk, limits)).await);
        });
        seated.push_back(attended.abort_handle());
    }
}

/// Answers one request.
async fn attend(stream: TcpStream, desk: Arc<Desk>, limits: Limits) -> hyper::Result<()> {
    let service = service_fn(move |request| answer(Arc::clone(&desk), request));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header)
        .max_buf_size(MOST_READ)
        .max_headers(MOST_FIELDS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

async fn answer(
    desk: Arc<Desk>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    Ok(match request.uri().path() {
        "/" | "/metrics" | "/healthz" | "/readyz" if !is_read => {
            let mut response =
                plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are heeded\n");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            response
        }
        "/" => plain(StatusCode::OK, INDEX),
        "/metrics" => metrics(&desk.metrics, &request),
        "/healthz" => health(desk).await,
        "/readyz" => readiness(&desk.readiness),
        _ => plain(StatusCode::NOT_FOUND, "there is nothing here; see /\n"),
    })
}

fn metrics(metrics: &Metrics, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let accept = request.headers().get_all(header::ACCEPT).iter();
    let accept: Vec<_> = accept.filter_map(|value| value.to_str().ok()).collect();
    let exposition = Exposition::accepted(&accept.join(","));
    match exposition.write(metrics) {
        Ok(text) => response(StatusCode::OK, exposition.content_type(), text),
        Err(_fmt) => {
            plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written down\n")
        }
    }
}

async fn health(desk: Arc<Desk>) -> Response<Full<Bytes>> {
    // A task of its own: a client that hangs up would take the question back, and the next would
    // ask it anew.
    let examined = tokio::spawn(async move { desk.doctor.examine().await }).await;
    match examined {
        Ok(Health::Well) => plain(StatusCode::OK, "ok\n"),
        Ok(Health::Ill(reason)) => unavailable(&[reason]),
        Err(error) => unavailable(&[error.to_string()]),
    }
}

fn readiness(readiness: &Readiness) -> Response<Full<Bytes>> {
    let missing = readiness.missing();
    if missing.is_empty() { plain(StatusCode::OK, "ok\n") } else { unavailable(&missing) }
}

/// It does not work, and why: one reason a line, whatever is in it.
fn unavailable(reasons: &[String]) -> Response<Full<Bytes>> {
    let text: String = reasons.iter().map(|reason| one_line(reason) + "\n").collect();
    plain(StatusCode::SERVICE_UNAVAILABLE, text)
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", text)
}

fn response(
    status: StatusCode,
    content_type: &'static str,
    text: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests;
