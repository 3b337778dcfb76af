//! Tells an HTTP server that the content has changed: one request, one attempt.
//!
//! Nothing is kept between two requests, and nothing is there before the first: no client, no
//! thread, no certificates. An agent that posts nothing pays nothing.

mod connect;

use std::{borrow::Cow, io, pin::pin, time::Duration};

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;

use self::connect::Wire;
use crate::{report::one_line, rule::Endpoint, timeout::within};

/// How much of an answer is read, in bytes.
const MOST_READ: usize = 64 * 1024;

/// How much of an answer is told, in characters.
const MOST_TOLD: usize = 200;

/// Why a server could not be told.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    /// Its name leads to no address.
    #[error(
        "cannot find an address for the host of {url}; look for a typing error in --post, and at /etc/resolv.conf"
    )]
    Resolve {
        /// Which server, without its secrets.
        url: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// It does not take connections.
    #[error("cannot connect to {url}; see that the server runs and listens there")]
    Connect {
        /// Which server, without its secrets.
        url: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// There is nothing to check its certificate with.
    #[error(
        "no certificate authority is known here to check {url} with; mount /etc/ssl/certs, or \
         set SSL_CERT_FILE to a file of theirs"
    )]
    Authorities {
        /// Which server, without its secrets.
        url: String,
    },
    /// It is not who it should be, or speaks no TLS.
    #[error(
        "cannot speak TLS with {url}; SSL_CERT_FILE names the authorities whose certificates \
         are trusted"
    )]
    Tls {
        /// Which server, without its secrets.
        url: String,
        /// What is wrong.
        source: io::Error,
    },
    /// It broke off, or what it said is no HTTP.
    #[error("{url} gave no answer in HTTP")]
    Exchange {
        /// Which server, without its secrets.
        url: String,
        /// What is wrong.
        source: hyper::Error,
    },
    /// It took too long.
    #[error("no answer from {url} within {}", humantime::format_duration(*limit))]
    Timeout {
        /// Which server, without its secrets.
        url: String,
        /// How long it was given.
        limit: Duration,
    },
    /// It says that what is asked for is elsewhere.
    #[error(
        "{url} answered {status} and leads to {location}; a redirect is not followed: give \
         --post the URL that it leads to"
    )]
    Redirect {
        /// Which server, without its secrets.
        url: String,
        /// The code and its usual name.
        status: StatusCode,
        /// Where it leads, escaped and cut, without a password.
        location: String,
    },
    /// It did not do what it was asked for.
    #[error("{url} answered {status}{body}")]
    Status {
        /// Which server, without its secrets.
        url: String,
        /// The code and its usual name.
        status: StatusCode,
        /// A colon and the first line of what it said, escaped and cut; empty if it said nothing.
        body: String,
    },
    /// The machine has no thread left to look for the address with.
    #[error("cannot start a thread to look for {url} with; the machine allows no more")]
    Thread {
        /// Which server, without its secrets.
        url: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Posts nothing to `endpoint` and expects an answer from 200 to 299, all of it within `limit`.
///
/// It is one attempt: whoever wants another one makes it. Redirects are not followed, for they would
/// take a password elsewhere, and proxies that the environment names are not heeded. Dropping the
/// future closes the connection; the request may have arrived.
///
/// # Errors
///
/// Each says in one sentence what is wrong and, where there is one, the remedy, without any secret.
/// Most may pass: it is the caller who tries again.
pub async fn send(endpoint: Endpoint, limit: Duration) -> Result<(), PostError> {
    let done = within(limit, attempt(&endpoint)).await;
    done.unwrap_or_else(|| Err(PostError::Timeout { url: endpoint.to_string(), limit }))
}

async fn attempt(endpoint: &Endpoint) -> Result<(), PostError> {
    let wire = connect::connect(endpoint).await?;
    let (status, location, body) = exchange(endpoint, wire)
        .await
        .map_err(|source| PostError::Exchange { url: endpoint.to_string(), source })?;
    let url = endpoint.to_string();
    if status.is_success() {
        return Ok(());
    }
    if let (true, Some(location)) = (status.is_redirection(), location) {
        return Err(PostError::Redirect { url, status, location });
    }
    let body = if body.is_empty() { body } else { format!(": {body}") };
    Err(PostError::Status { url, status, body })
}

/// Sends the request and gives the answer: its status, where it leads, and how its text begins.
async fn exchange(
    endpoint: &Endpoint,
    wire: Box<dyn Wire>,
) -> hyper::Result<(StatusCode, Option<String>, String)> {
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MOST_READ)
        .handshake::<_, Empty<Bytes>>(TokioIo::new(wire))
        .await?;
    let exchange = async {
        let response = sender.send_request(request(endpoint)).await?;
        let status = response.status();
        let location = location(&response);
        // Of a success nobody wants to know more.
        let body = if status.is_success() { String::new() } else { beginning(response).await };
        Ok((status, location, body))
    };
    let (mut exchange, connection) = (pin!(exchange), pin!(connection));
    tokio::select! {
        biased;
        done = &mut exchange => done,
        // It is over, and the last that came over it is still to be taken.
        _ = connection => exchange.await,
    }
}

fn request(endpoint: &Endpoint) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.method_mut() = hyper::Method::POST;
    // It was taken out of a URI, so it is one.
    *request.uri_mut() = endpoint.target().parse().unwrap_or_default();
    let agent = concat!("reload-agent/", env!("CARGO_PKG_VERSION"));
    let fields = [
        (header::HOST, Cow::Owned(endpoint.authority())),
        (header::USER_AGENT, agent.into()),
        (header::ACCEPT, "*/*".into()),
        (header::CONTENT_LENGTH, "0".into()),
        (header::CONNECTION, "close".into()),
    ];
    let authorization = endpoint.authorization().map(|it| (header::AUTHORIZATION, it.into()));
    for (name, text) in fields.into_iter().chain(authorization) {
        if let Ok(mut value) = header::HeaderValue::from_str(&text) {
            value.set_sensitive(name == header::AUTHORIZATION);
            request.headers_mut().insert(name, value);
        }
    }
    request
}

/// Where an answer leads, fit to be told: the password that may be in it is not.
fn location(response: &Response<Incoming>) -> Option<String> {
    let location = response.headers().get(header::LOCATION)?;
    let text = String::from_utf8_lossy(location.as_bytes()).into_owned();
    // What is no URL of its own is a path on the same server, with a query perhaps.
    let shown = text.parse::<Endpoint>().map_or_else(
        |_| {
            text.split('?')
                .next()
                .unwrap_or_default()
                .rsplit('@')
                .next()
                .unwrap_or_default()
                .to_owned()
        },
        |endpoint| endpoint.to_string(),
    );
    Some(told(&shown))
}

/// The first line of what the server said; less where it says more than is read, or breaks off.
async fn beginning(response: Response<Incoming>) -> String {
    let mut body = pin!(Limited::new(response.into_body(), MOST_READ));
    let mut text = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        text.extend_from_slice(frame.data_ref().map_or(&[], Bytes::as_ref));
    }
    let text = String::from_utf8_lossy(&text);
    told(text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default())
}

/// A text of somebody else's, cut and escaped.
fn told(text: &str) -> String {
    let text = text.trim();
    let cut: String = text.chars().take(MOST_TOLD).collect();
    let end = if cut.len() < text.len() { "…" } else { "" };
    one_line(&cut) + end
}

#[cfg(test)]
mod tests;
