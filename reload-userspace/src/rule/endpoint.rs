//! Where an HTTP request goes.

use std::{fmt, str::FromStr};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hyper::{Uri, http::uri::Authority};

/// What stands for what is not shown.
const HIDDEN: &str = "***";

/// Where an HTTP request goes.
///
/// **Invariant:** it has a host and a port, and goes by http or https. Whoever prints it shows
/// neither a password nor a value of the query, which may be a token.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    scheme: Scheme,
    /// An address of version 6 without its brackets.
    host: String,
    port: u16,
    /// The path and the query, as the server is told.
    target: String,
    /// The value of the header `Authorization`.
    authorization: Option<String>,
    shown: String,
}

/// How a server is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS, with a certificate that is checked.
    Https,
}

/// Why a text is no endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// It is empty.
    #[error("--post is empty; give a URL, as in http://127.0.0.1:9090/-/reload")]
    Empty,
    /// It is not written as a URL is.
    #[error("--post {shown:?} is no URL; give one, as in http://127.0.0.1:9090/-/reload")]
    Malformed {
        /// What was given, without its secrets.
        shown: String,
    },
    /// It goes by something else.
    #[error("--post {shown:?} goes by neither http nor https; give a URL that begins with http://")]
    Scheme {
        /// What was given, without its secrets.
        shown: String,
    },
    /// There is no such port.
    #[error("--post {shown:?} has no port from 1 to 65535; give one, or leave it out")]
    Port {
        /// What was given, without its secrets.
        shown: String,
    },
}

impl Endpoint {
    /// How the server is spoken to.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The name or the address of the server; one of version 6 has no brackets here.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, which is 80 or 443 where none was given.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The path and the query: a secret, for a query may hold one.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }

    /// What the header `Host` is: the port is only there if it is not the usual one.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = bracketed(&self.host);
        if self.port == self.scheme.port() { host } else { format!("{host}:{}", self.port) }
    }

    /// What the header `Authorization` is: a secret.
    #[must_use]
    pub fn authorization(&self) -> Option<&str> {
        self.authorization.as_deref()
    }
}

impl Scheme {
    fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(EndpointError::Empty);
        }
        let shown = redact(text);
        let malformed = || EndpointError::Malformed { shown: shown.clone() };
        let (scheme, rest) = text.split_once("://").ok_or_else(malformed)?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err(EndpointError::Scheme { shown }),
        };
        if rest.starts_with(['/', '?', '#']) {
            return Err(malformed());
        }
        // The error of the parser says less than ours, and would be a second sentence.
        let Ok(uri) = text.parse::<Uri>() else { return Err(malformed()) };
        let authority = uri.authority().ok_or_else(malformed)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(malformed());
        }
        let port = match port(authority) {
            None => scheme.port(),
            Some(port) => {
                let port = port.parse().ok().filter(|port| *port != 0);
                port.ok_or(EndpointError::Port { shown: shown.clone() })?
            }
        };
        let target = uri.path_and_query().map_or("", |target| target.as_str());
        let root = if target.starts_with('/') { "" } else { "/" };
        let target = format!("{root}{target}");
        let authorization = userinfo(authority).map(basic);
        Ok(Self { scheme, host, port, target, authorization, shown })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What stands before the last `@`: a password may have one in it.
fn userinfo(authority: &Authority) -> Option<&str> {
    authority.as_str().rsplit_once('@').map(|(user, _)| user)
}

/// What stands after the colon that follows the host, a number or not.
fn port(authority: &Authority) -> Option<&str> {
    let address = authority.as_str().rsplit('@').next().unwrap_or_default();
    let after = address.rsplit(']').next().unwrap_or_default();
    after.rsplit_once(':').map(|(_, port)| port)
}

/// The value of the header for `user:password`, in which each may be percent-encoded (RFC 7617).
fn basic(userinfo: &str) -> String {
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    let credentials = [decoded(user), decoded(password)].join(&b':');
    format!("Basic {}", BASE64_STANDARD.encode(credentials))
}

/// The bytes that a percent-encoded text stands for; a `%` that encodes nothing is itself.
fn decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let digits = after.get(..2).filter(|_| *first == b'%');
        let digits = digits.filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let byte = digits.and_then(|digits| str::from_utf8(digits).ok());
        if let Some(byte) = byte.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            bytes.push(byte);
            rest = after.get(2..).unwrap_or_default();
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    bytes
}

/// The address as it stands in a URL.
fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// A text that should be no URL, without what may be secret in it where it is one all the same: it
/// may have been said under the wrong name.
#[must_use]
pub fn discreet(text: &str) -> String {
    if text.contains("://") { redact(text) } else { text.to_owned() }
}

/// A text that may be a URL, without what may be secret in it, whether or not it is one.
///
/// A user without a password is hidden as well, for such a user is a token.
fn redact(text: &str) -> String {
    // A user with a `?` or a `#` in it makes it no URL, and is hidden all the same.
    if let Some((before, after)) = text.split_once("://")
        && let Some((user, host)) = after.rsplit_once('@')
        && user.contains(['?', '#'])
    {
        return redact(&format!("{before}://{HIDDEN}@{host}"));
    }
    let text = text.split('#').next().unwrap_or_default();
    let (text, query) =
        text.split_once('?').map_or((text, None), |(path, query)| (path, Some(query)));
    let (scheme, rest) = text.find("://").map_or(("", text), |at| text.split_at(at + 3));
    // An `@` in the path hides more than it must, and never less.
    let (user, host) = match rest.rsplit_once('@') {
        None => (String::new(), rest),
        Some((user, host)) => match user.split_once(':') {
            None => (format!("{HIDDEN}@"), host),
            Some((user, _)) => (format!("{user}:{HIDDEN}@"), host),
        },
    };
    let query = query.map(|query| {
        let values = query.split('&').map(|pair| match pair.split_once('=') {
            Some((key, _)) => format!("{key}={HIDDEN}"),
            None => HIDDEN.to_owned(),
        });
        format!("?{}", values.collect::<Vec<_>>().join("&"))
    });
    format!("{scheme}{user}{host}{}", query.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_secret_is_hidden_in_what_is_no_url_too() {
        fn check(text: &str, expected: &str) {
            assert_eq!(redact(text), expected, "for {text}");
        }
        check("http://u:s3cret@h/x", "http://u:***@h/x");
        check("http://u:s3c?et@h/x", "http://***@h/x");
        check("http://u:s3c#et@h/x?a=b", "http://***@h/x?a=***");
        check("post http://u:s3cret@h/x", "post http://u:***@h/x");
        check("h/x?a=b", "h/x?a=***");
    }

    #[test]
    fn a_url_is_taken_apart() {
        #[track_caller]
        fn check(text: &str, scheme: Scheme, host: &str, port: u16, target: &str, authority: &str) {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.scheme(), scheme);
            assert_eq!(
                (endpoint.host(), endpoint.port(), endpoint.target(), endpoint.authority()),
                (host, port, target, authority.to_owned())
            );
        }
        use Scheme::{Http, Https};
        check(
            "http://127.0.0.1:9090/-/reload",
            Http,
            "127.0.0.1",
            9090,
            "/-/reload",
            "127.0.0.1:9090",
        );
        check("http://localhost", Http, "localhost", 80, "/", "localhost");
        check(
            "HTTPS://prometheus.svc/x?a=b#c",
            Https,
            "prometheus.svc",
            443,
            "/x?a=b",
            "prometheus.svc",
        );
        check("http://[::1]:81/x", Http, "::1", 81, "/x", "[::1]:81");
        check("http://[::1]/x", Http, "::1", 80, "/x", "[::1]");
        check("http://localhost:80?now", Http, "localhost", 80, "/?now", "localhost");
        check("http://a:b@host:8080/x", Http, "host", 8080, "/x", "host:8080");
    }

    #[test]
    fn each_bad_value_is_named_with_its_remedy_and_without_its_secrets() {
        #[track_caller]
        fn check(text: &str, expected: &str) {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert_eq!(error, expected);
        }
        let no_url = |text| {
            format!("--post {text:?} is no URL; give one, as in http://127.0.0.1:9090/-/reload")
        };
        check("", "--post is empty; give a URL, as in http://127.0.0.1:9090/-/reload");
        check("localhost:9090/-/reload", &no_url("localhost:9090/-/reload"));
        check("http://", &no_url("http://"));
        check("http:///-/reload", &no_url("http:///-/reload"));
        check("http://:9090/x", &no_url("http://:9090/x"));
        check("http://a b/", &no_url("http://a b/"));
        check("http://host/\n", &no_url("http://host/\n"));
        check("admin:secret@host", &no_url("admin:***@host"));
        check("http://admin:sec ret@host", &no_url("http://admin:***@host"));
        check(
            "ftp://token@host/?token=secret",
            "--post \"ftp://***@host/?token=***\" goes by neither http nor https; \
             give a URL that begins with http://",
        );
        let no_port = |text| {
            format!("--post {text:?} has no port from 1 to 65535; give one, or leave it out")
        };
        check("http://host:0/", &no_port("http://host:0/"));
        check("http://host:65536/", &no_port("http://host:65536/"));
        check("http://admin:se/c@ret@host", &no_port("http://admin:***@host"));
        check("http://u:p@host:/", &no_port("http://u:***@host:/"));
    }

    #[test]
    fn secrets_are_sent_and_never_shown() {
        #[track_caller]
        fn check(text: &str, shown: &str, authorization: Option<&str>) {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), shown);
            assert_eq!(format!("{endpoint:?}"), shown);
            assert_eq!(endpoint.authorization(), authorization);
        }
        check("http://host/x", "http://host/x", None);
        check("http://u:p@host/x", "http://u:***@host/x", Some("Basic dTpw"));
        check("http://u@host/x", "http://***@host/x", Some("Basic dTo="));
        check("http://u:%40%3a%@host/", "http://u:***@host/", Some("Basic dTpAOiU="));
        check("http://host/x?token=s&b&c=", "http://host/x?token=***&***&c=***", None);
        check("http://host/?", "http://host/?***", None);
        check("http://host/x#secret", "http://host/x", None);
    }
}
