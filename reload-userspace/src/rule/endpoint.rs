//! Where an HTTP request goes.

use std::{fmt, str::FromStr};

/// Where an HTTP request goes. A password in it is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    url: String,
}

/// Why a text is no endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// It is empty.
    #[error("--post is empty; give a URL, as in http://127.0.0.1:9090/-/reload")]
    Empty,
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(EndpointError::Empty);
        }
        Ok(Self { url: text.to_owned() })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
