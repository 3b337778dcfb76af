//! The trace-event format of Chromium, which Perfetto loads: an object with a list, in microseconds.
//!
//! An update is a row of its own, of stages one after the other, and what processes did stands with them.

use std::io::{self, Write};

use serde_json::{Value, json};

use crate::trace::record::{Passed, Record, Step};

/// The process that the stages are shown for: no real one has this number.
const STAGES: i32 = 0;

pub(super) fn tell(to: &mut dyn Write, record: &Record, has_begun: bool) -> io::Result<()> {
    let mut events = Vec::new();
    if !has_begun {
        events.push(named(STAGES, "updates"));
    }
    #[expect(clippy::cast_precision_loss, reason = "a boot lasts no 2^53 nanoseconds")]
    let began = record.boot_ns as f64 / 1e3;
    events.push(json!({"name": format!("update {}", record.update), "cat": "update", "ph": "i",
        "s": "p", "ts": began, "pid": STAGES, "tid": record.update,
        "args": {"paths": record.paths, "unchanged": record.unchanged, "absent": record.absent}}));
    let pairs = record.stages.iter().zip(record.stages.iter().skip(1));
    events.extend(pairs.map(|(before, stage)| span(record, began, before, stage)));
    let mut pids = Vec::new();
    for step in &record.steps {
        let pid = step.who.pid.unwrap_or(STAGES);
        if pid != STAGES && !pids.contains(&pid) {
            pids.push(pid);
            events.push(named(pid, step.who.comm.as_deref().unwrap_or("unknown")));
        }
        events.push(instant(began, step, pid));
    }
    events.extend(record.lost.iter().map(|gap| {
        json!({"name": format!("{} lost: {}", gap.count, gap.reason), "cat": "gap", "ph": "i",
               "s": "g", "ts": began + gap.at_us, "pid": STAGES, "tid": record.update})
    }));
    for (index, event) in events.iter().enumerate() {
        let is_first = index == 0 && !has_begun;
        to.write_all(if is_first { b"{\"traceEvents\":[\n" } else { b",\n" })?;
        super::json::write(to, event)?;
    }
    Ok(())
}

pub(super) fn end(to: &mut dyn Write, has_begun: bool) -> io::Result<()> {
    if !has_begun {
        write!(to, "{{\"traceEvents\":[")?;
    }
    writeln!(to, "\n],\"displayTimeUnit\":\"ms\"}}")
}

/// What a process is called.
fn named(pid: i32, name: &str) -> Value {
    json!({"name": "process_name", "ph": "M", "pid": pid, "tid": 0, "args": {"name": name}})
}

/// From one stage to the next.
fn span(record: &Record, began: f64, before: &Passed, stage: &Passed) -> Value {
    json!({"name": format!("until {}", stage.stage.words()), "cat": "stage", "ph": "X",
           "ts": began + before.at_us, "dur": stage.at_us - before.at_us,
           "pid": STAGES, "tid": record.update,
           "args": {"update": record.update, "paths": record.paths, "pid": stage.who.pid,
                    "comm": stage.who.comm, "container": stage.who.container}})
}

fn instant(began: f64, step: &Step, pid: i32) -> Value {
    json!({"name": step.what, "cat": "step", "ph": "i", "s": "p", "ts": began + step.at_us,
           "pid": pid, "tid": pid,
           "args": {"stage": step.stage, "count": step.count, "container": step.who.container}})
}
