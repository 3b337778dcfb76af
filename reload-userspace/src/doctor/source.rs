//! Where events can come from.

use super::{
    finding::{Finding, Id},
    report::Report,
};
use crate::source::EbpfSource;

/// Tries the source.
pub(super) fn examine(report: &mut Report) {
    let finding = match EbpfSource::open(false) {
        Ok(_) => {
            let strategy = EbpfSource::STRATEGY;
            let detail =
                format!("strategy {strategy}: loaded, attached, and a test write was seen");
            Finding::ok(Id::Source, detail)
        }
        Err(error) => Finding::bad(Id::Source, format!("{:#}", anyhow::Error::new(error))),
    };
    report.add(finding.of("ebpf"));
}
