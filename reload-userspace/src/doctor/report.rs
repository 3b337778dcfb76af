//! What a doctor says: findings, and how they are written.

use super::finding::{Finding, Group, Status};

/// Where the text of a finding starts.
const INDENT: usize = 24;

/// How wide a line of it is at most, if its words allow.
const WIDTH: usize = 96;

/// Everything that was found, in the order of the pipeline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    pub fn add(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// The report for people: a line for each finding, and what follows from them.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut group: Option<Group> = None;
        for finding in &self.findings {
            let own = finding.id.group();
            if group != Some(own) {
                let gap = if group.is_some() { "\n" } else { "" };
                text.extend([gap, own.title(), "\n"]);
                group = Some(own);
            }
            text += &paragraph(finding);
        }
        format!("{text}\n{}\n", self.conclusion())
    }

    /// What follows from the findings. What is missing may be misspelt, so it is named again.
    fn conclusion(&self) -> String {
        if !self.is_well() {
            return "`reload-agent run` does not work here: see what is marked BAD.".to_owned();
        }
        let mut awaited: Vec<_> =
            self.findings.iter().filter_map(|it| it.awaited.as_deref()).collect();
        awaited.dedup();
        if awaited.is_empty() {
            return "`reload-agent run` works here.".to_owned();
        }
        let start =
            "`reload-agent run` would start here, and wait for what is not there. Is it spelt so?";
        awaited.into_iter().fold(start.to_owned(), |text, it| text + "\n  " + it)
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

fn paragraph(finding: &Finding) -> String {
    let mark = match finding.status {
        Status::Ok => "ok",
        Status::Note => "note",
        Status::Bad => "BAD",
    };
    let head = format!("  {mark:4}  {:14}", finding.id.label());
    let detail = match &finding.object {
        Some(object) => format!("{object}: {}", finding.detail),
        None => finding.detail.clone(),
    };
    let mut lines = wrapped(&detail);
    if let Some(remedy) = &finding.remedy {
        lines.extend(wrapped(&format!("remedy: {remedy}")));
    }
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        let left = if index == 0 { head.as_str() } else { "" };
        text += format!("{left:INDENT$}{line}").trim_end();
        text.push('\n');
    }
    text
}

/// Breaks text between words. A word that is too long, a path perhaps, stays whole.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is one from the start");
        if line.is_empty() {
            word.clone_into(line);
        } else if line.chars().count() + 1 + word.chars().count() <= WIDTH - INDENT {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Id, *};

    #[test]
    fn one_bad_finding_is_enough() {
        let mut report = Report::default();
        report.add(Finding::ok(Id::Kernel, "Linux"));
        report.add(Finding::note(Id::Process, "waited for").of("x"));
        assert!(report.is_well());
        report.add(Finding::bad(Id::Environment, "missing\nfor good").remedy("none"));
        assert!(!report.is_well());
        let expected = "kernel\n  \
                          ok    kernel          Linux\n\
                        \n\
                        target\n  \
                          note  process         x: waited for\n  \
                          BAD   environment     missing\\nfor good\n                        \
                                                remedy: none\n\
                        \n\
                        `reload-agent run` does not work here: see what is marked BAD.\n";
        assert_eq!(report.text(), expected);
    }

    #[test]
    fn what_is_missing_is_named_at_the_end() {
        let mut report = Report::default();
        report.add(Finding::ok(Id::Kernel, "Linux"));
        let end = |report: &Report| {
            let text = report.text();
            text.rsplit_once("\n\n").unwrap().1.to_owned()
        };
        assert_eq!(end(&report), "`reload-agent run` works here.\n");
        report.add(Finding::note(Id::Watch, "missing").awaiting("the path /etc/ngnix"));
        report.add(Finding::note(Id::Process, "missing").awaiting("the process ngnix"));
        let expected = "`reload-agent run` would start here, and wait for what is not there. Is it \
                        spelt so?\n  the path /etc/ngnix\n  the process ngnix\n";
        assert_eq!(end(&report), expected);
    }

    #[test]
    fn lines_are_broken_between_words() {
        let word = "0123456789".repeat(9);
        let text = format!("{word} {}", "four ".repeat(20));
        let lines = wrapped(text.trim_end());
        assert_eq!(lines[0], word);
        assert_eq!(lines[1], "four ".repeat(14).trim_end());
        assert_eq!(lines[2], "four ".repeat(6).trim_end());
        assert_eq!(wrapped(""), [""]);
    }

    #[test]
    fn programs_get_only_what_there_is() {
        let mut report = Report::default();
        report.add(Finding::ok(Id::Kernel, "Linux"));
        report.add(Finding::note(Id::Capability, "missing").of("CAP_BPF").remedy("grant it"));
        let report: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        let expected = serde_json::json!({
            "ok": true,
            "findings": [
                { "id": "kernel", "status": "ok", "detail": "Linux" },
                {
                    "id": "capability",
                    "status": "note",
                    "object": "CAP_BPF",
                    "detail": "missing",
                    "remedy": "grant it",
                },
            ],
        });
        assert_eq!(report, expected);
    }
}
