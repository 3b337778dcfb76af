//! The way to the API server: that of the pod that the agent runs in, or what `KUBECONFIG` says.
//!
//! The client is put together here, and not by kube as a whole, for that brings every way in which people
//! log in: half of the image for what a service account never does.

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use hyper::{Request, header::AUTHORIZATION, header::HeaderValue};
use hyper_util::{client::legacy, rt::TokioExecutor};
use kube::{
    Client, Config,
    client::{Body, ConfigExt as _},
    config::AuthInfo,
};
use tower::{ServiceBuilder, util::MapRequestLayer};

/// How long a token that was read is used: the kubelet renews it long before it ends.
const FRESH: Duration = Duration::from_mins(1);

/// How the agent shows who it is.
#[derive(Debug)]
enum Token {
    /// It does not, but by its certificate.
    None,
    /// By this.
    Said(HeaderValue),
    /// By what is in a file, and what was in it when it was last read.
    File(PathBuf, Mutex<Option<(Instant, HeaderValue)>>),
}

/// Makes a client.
///
/// # Errors
///
/// Fails where nobody says where the API server is, or how to show who one is.
pub(super) async fn client() -> Result<Client> {
    let config = Config::infer().await;
    let config =
        config.context("there is no way to the API server; run it in a pod, or set KUBECONFIG")?;
    let token = Arc::new(Token::of(&config.auth_info)?);
    let https = config.rustls_https_connector().context("cannot make a client of TLS")?;
    let http = legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(https);
    let sign = MapRequestLayer::new(move |mut request: Request<Body>| {
        if let Some(token) = token.header() {
            request.headers_mut().insert(AUTHORIZATION, token);
        }
        request
    });
    let service = ServiceBuilder::new().layer(config.base_uri_layer()).layer(sign).service(http);
    Ok(Client::new(service, config.default_namespace))
}

impl Token {
    fn of(auth: &AuthInfo) -> Result<Self> {
        if auth.exec.is_some() || auth.auth_provider.is_some() || auth.username.is_some() {
            bail!("KUBECONFIG logs in by a program or a password; use a token or a certificate");
        }
        if let Some(path) = &auth.token_file {
            return Ok(Self::File(path.into(), Mutex::new(None)));
        }
        match &auth.token {
            Some(token) => {
                let token = secrecy::ExposeSecret::expose_secret(token);
                let header = bearer(token).context("the token of KUBECONFIG is none")?;
                Ok(Self::Said(header))
            }
            None => Ok(Self::None),
        }
    }

    /// What to show; nothing where it cannot be read, which the server then answers.
    fn header(&self) -> Option<HeaderValue> {
        match self {
            Self::None => None,
            Self::Said(header) => Some(header.clone()),
            Self::File(path, last) => {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                let is_fresh = last.as_ref().is_some_and(|(at, _)| at.elapsed() < FRESH);
                let read = || bearer(fs::read_to_string(path).ok()?.trim_end());
                if !is_fresh && let Some(header) = read() {
                    *last = Some((Instant::now(), header));
                }
                last.as_ref().map(|(_, header)| header.clone())
            }
        }
    }
}

/// A token as it is shown; none where it cannot be one.
fn bearer(token: &str) -> Option<HeaderValue> {
    let mut header: HeaderValue = format!("Bearer {token}").parse().ok()?;
    header.set_sensitive(true);
    Some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_from_its_file_and_kept_when_that_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let token = Token::File(path.clone(), Mutex::new(None));
        assert_eq!(token.header(), None);
        fs::write(&path, "one\n").unwrap();
        assert_eq!(token.header().unwrap(), "Bearer one");
        fs::remove_file(&path).unwrap();
        assert_eq!(token.header().unwrap(), "Bearer one");
        let shown = format!("{:?}", token.header());
        assert!(!shown.contains("one"), "{shown}");
        assert_eq!(bearer("two\nlines"), None);
    }
}
