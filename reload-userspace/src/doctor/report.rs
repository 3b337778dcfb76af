//! What a doctor says: findings, and how they are written.

use serde::Serialize;

/// Whether something works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It works.
    Ok,
    /// `run` works without it; one may want to know.
    Note,
    /// `run` would not work.
    Bad,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Whether it works.
    pub status: Status,
    /// What was looked at.
    pub what: String,
    /// What was found and, where it is not well, what to do about it.
    pub detail: String,
}

/// Everything that was found, in the order of the pipeline.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// One after the other.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether `run` would work.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.findings.iter().all(|finding| finding.status != Status::Bad)
    }

    /// Writes down a finding.
    pub fn add(&mut self, status: Status, what: impl Into<String>, detail: impl Into<String>) {
        self.insert(self.findings.len(), status, what, detail);
    }

    /// Writes down a finding before what has been found since there were only `at`.
    pub fn insert(
        &mut self,
        at: usize,
        status: Status,
        what: impl Into<String>,
        detail: impl Into<String>,
    ) {
        self.findings.insert(at, Finding { status, what: what.into(), detail: detail.into() });
    }

    /// The report for people: a line for each finding, and what follows from them.
    #[must_use]
    pub fn text(&self) -> String {
        let width = self.findings.iter().map(|finding| finding.what.chars().count()).max();
        let width = width.unwrap_or(0);
        let line = |Finding { status, what, detail }: &Finding| {
            let mark = match status {
                Status::Ok => "ok  ",
                Status::Note => "note",
                Status::Bad => "BAD ",
            };
            format!("{mark}  {what:width$}  {}\n", crate::report::one_line(detail))
        };
        let lines: String = self.findings.iter().map(line).collect();
        let conclusion = if self.is_well() {
            "`reload-agent run` works here."
        } else {
            "`reload-agent run` does not work here: see what is marked BAD."
        };
        format!("{lines}\n{conclusion}\n")
    }

    /// The report for programs: one JSON object.
    ///
    /// # Errors
    ///
    /// None that is known: all of it is text.
    pub fn json(&self) -> serde_json::Result<String> {
        let report = serde_json::json!({ "ok": self.is_well(), "findings": self.findings });
        serde_json::to_string_pretty(&report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_finding_is_enough() {
        let mut report = Report::default();
        report.add(Status::Ok, "kernel", "Linux");
        report.add(Status::Note, "process x", "waited for");
        assert!(report.is_well());
        report.insert(1, Status::Bad, "BTF", "missing\nfor good");
        assert!(!report.is_well());
        let expected = "ok    kernel     Linux\n\
                        BAD   BTF        missing\\nfor good\n\
                        note  process x  waited for\n\
                        \n\
                        `reload-agent run` does not work here: see what is marked BAD.\n";
        assert_eq!(report.text(), expected);
    }
}
