//! Metrics as text, in the two ways that there are of writing them.

use std::{borrow::Cow, fmt};

use prometheus_client::encoding::text::encode;

use super::Metrics;

/// How metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exposition {
    /// That of the standard `OpenMetrics`, 1.0.
    OpenMetrics,
    /// The older text of Prometheus, 0.0.4, which everything reads.
    Prometheus,
}

impl Exposition {
    /// That which fits a header `Accept`: the older one to whoever does not name the newer.
    pub(super) fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// What the header `Content-Type` is.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// Writes the metrics down.
    ///
    /// # Errors
    ///
    /// Fails where the library cannot encode one of them, which would be a bug.
    pub(super) fn write(self, metrics: &Metrics) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, metrics.registry())?;
        Ok(match self {
            Self::OpenMetrics => text,
            Self::Prometheus => aged(&text),
        })
    }
}

/// The same in the older way: there the name of a counter has its `_total` everywhere, and nothing
/// marks the end.
fn aged(text: &str) -> String {
    let mut counter = None;
    let mut lines: Vec<Cow<'_, str>> = Vec::new();
    let mut described = 0;
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("EOF"), ..) => continue,
            (Some("#"), Some("HELP"), ..) => described = lines.len(),
            (Some("#"), Some("TYPE"), Some(name), Some("counter")) => counter = Some(name),
            _ => {}
        }
        lines.push(line.into());
        // The help comes before the type, so it is mended when the type is known.
        if let Some(name) = counter.take() {
            for line in lines.iter_mut().skip(described) {
                *line = line.replacen(name, &format!("{name}_total"), 1).into();
            }
        }
    }
    lines.iter().flat_map(|line| [line.as_ref(), "\n"]).collect()
}
