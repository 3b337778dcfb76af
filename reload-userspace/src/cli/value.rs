//! Values that are written in more than one way.

use std::{
    fmt,
    net::{Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use serde::{
    Deserialize, Deserializer,
    de::{Error, SeqAccess, Visitor},
};

/// A text, or a list of texts.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(untagged))]
pub enum Texts {
    /// One.
    One(String),
    /// A list.
    Many(Vec<String>),
}

impl From<String> for Texts {
    fn from(text: String) -> Self {
        Self::One(text)
    }
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct OneOrMany;

        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Texts, E> {
                Ok(Texts::One(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Texts, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = list.next_element()? {
                    texts.push(text);
                }
                Ok(Texts::Many(texts))
            }
        }

        from.deserialize_any(OneOrMany)
    }
}

/// Reads a path or a list of them.
pub(super) fn paths<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<PathBuf>, D::Error> {
    Ok(match Texts::deserialize(from)? {
        Texts::One(path) => vec![path.into()],
        Texts::Many(paths) => paths.into_iter().map(PathBuf::from).collect(),
    })
}

/// Reads a duration of a file with rules.
///
/// # Errors
///
/// Fails where it is none.
pub fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(from)?;
    let wrong = |remedy| D::Error::custom(format!("{text:?} is no duration; {remedy}"));
    Ok(Some(span(&text).map_err(wrong)?))
}

/// A duration. What the library has to say of a wrong one teaches units that nobody needs here.
pub(super) fn span(text: &str) -> Result<Duration, String> {
    let wrong = |_| "write 250ms, 2s or 1m";
    Ok(humantime::parse_duration(text).map_err(wrong)?)
}

/// A duration that is not over at once.
pub(super) fn some_span(text: &str) -> Result<Duration, String> {
    let span = span(text)?;
    if span.is_zero() {
        Err("write more than nothing, as 250ms, 2s or 1m".to_owned())
    } else {
        Ok(span)
    }
}

/// Where to listen: a port, an address and a port, or a colon and a port.
///
/// A port alone means all addresses, as those who ask for metrics are elsewhere as a rule.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let port = text.strip_prefix(':').unwrap_or(text);
    // A number may have a sign.
    if port.bytes().all(|byte| byte.is_ascii_digit())
        && let Ok(port) = port.parse()
    {
        return Ok(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)));
    }
    let wrong = |_| "give a port or an address and a port: 9533, 127.0.0.1:9533, [::1]:9533";
    Ok(text.parse().map_err(wrong)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_unit() {
        for (text, millis) in
            [("250ms", 250), ("2s", 2000), ("1m", 60_000), ("0", 0), ("1m 1s", 61_000)]
        {
            assert_eq!(span(text), Ok(Duration::from_millis(millis)), "for {text}");
        }
        for text in ["", "5", "soon", "5 parsecs", "-1s", "99999999999999999999s"] {
            assert_eq!(span(text), Err("write 250ms, 2s or 1m".to_owned()), "for {text}");
        }
    }

    #[test]
    fn an_address_may_be_a_port_alone() {
        fn check(text: &str, expected: Option<&str>) {
            let address = address(text).ok().map(|address| address.to_string());
            assert_eq!(address.as_deref(), expected, "for {text:?}");
        }
        check("9090", Some("[::]:9090"));
        check(":9090", Some("[::]:9090"));
        check("127.0.0.1:9090", Some("127.0.0.1:9090"));
        check("[::1]:9090", Some("[::1]:9090"));
        check("0", Some("[::]:0"));
        for text in ["", ":", "+9090", "65536", "localhost:9090", "127.0.0.1", "::1:9090x"] {
            check(text, None);
        }
    }
}
