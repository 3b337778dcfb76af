//! Facts as lines of text: pure, so that any file can be tried.

use std::time::Duration;

use nix::unistd::Pid;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{clock::Boot, content::Digest, target::Target};

/// The version of the format that is written, and the only one that is read.
const VERSION: u32 = 1;

/// The machine and the pid namespace that the numbers of processes mean anything in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Here {
    /// Which boot of the machine: `/proc/sys/kernel/random/boot_id`.
    pub(super) boot: String,
    /// The inode of the pid namespace.
    ///
    /// The kernel hands such a number out again; the processes of the old namespace have then all
    /// ended before the first of the new one has started, so that no start tick can mislead.
    pub(super) pid_namespace: u64,
}

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    version: u32,
    #[serde(flatten)]
    here: Here,
}

/// What every version of the first line has in it.
#[derive(Debug, Deserialize)]
struct Version {
    version: u32,
}

/// Something that is known from now on, whatever was known before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Fact {
    /// What the files of a rule contain.
    Content {
        rule: String,
        #[serde(serialize_with = "in_hex", deserialize_with = "from_hex")]
        digest: Digest,
        /// Since when, in nanoseconds since boot.
        #[serde(rename = "since_ns", serialize_with = "in_nanos", deserialize_with = "from_nanos")]
        since: Boot,
    },
    /// What a target has; without a process, what the receiver of the action itself has.
    Applied {
        rule: String,
        action: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<Process>,
        #[serde(serialize_with = "in_hex", deserialize_with = "from_hex")]
        digest: Digest,
    },
    /// There is no such rule any more.
    Dropped { rule: String },
}

/// A [`Target`] as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Process {
    pid: i32,
    started: u64,
}

impl From<Target> for Process {
    fn from(target: Target) -> Self {
        Self { pid: target.pid.as_raw(), started: target.started }
    }
}

impl From<Process> for Target {
    fn from(process: Process) -> Self {
        Self { pid: Pid::from_raw(process.pid), started: process.started }
    }
}

/// What is wrong with a ledger.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The first line is of something else.
    #[error("it does not begin as a ledger does")]
    Header,
    /// The format is not ours.
    #[error("its format is version {version}, and this agent knows version {VERSION}")]
    Version { version: u32 },
    /// A line makes no sense.
    #[error("its line {line} is no fact")]
    Line { line: usize },
}

/// A line, with its end.
pub(super) fn line(fact: &Fact) -> Vec<u8> {
    encode(fact)
}

/// The first line, with its end.
pub(super) fn header(here: &Here) -> Vec<u8> {
    encode(&Header { version: VERSION, here: here.clone() })
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    // It cannot fail, for there are only names and numbers in it. An empty line would be found by
    // whoever reads it.
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

/// Where the ledger was written and what is in it, or `None` where nothing was written yet.
///
/// What follows the last end of a line is what a power failure has left of one that was being
/// written; some filesystems leave zeros.
pub(super) fn read(bytes: &[u8]) -> Result<Option<(Here, Vec<Fact>)>, Fault> {
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    let mut lines = bytes[..whole].split_inclusive(|&byte| byte == b'\n');
    let Some(first) = lines.next() else {
        return if is_start_of_header(bytes) { Ok(None) } else { Err(Fault::Header) };
    };
    let Version { version } = serde_json::from_slice(first).map_err(|_json| Fault::Header)?;
    if version != VERSION {
        return Err(Fault::Version { version });
    }
    let header: Header = serde_json::from_slice(first).map_err(|_json| Fault::Header)?;
    let facts = lines
        .zip(2..)
        .map(|(text, line)| serde_json::from_slice(text).map_err(|_json| Fault::Line { line }));
    Ok(Some((header.here, facts.collect::<Result<_, _>>()?)))
}

/// Whether these may be the first bytes of a header.
fn is_start_of_header(bytes: &[u8]) -> bool {
    const START: &[u8] = b"{\"version\":";
    let written = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    let start = &bytes[..written.min(START.len())];
    START.starts_with(start)
}

fn in_hex<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(digest)
}

fn from_hex<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
}

fn in_nanos<S: Serializer>(moment: &Boot, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(moment.0.as_nanos()).unwrap_or(u64::MAX))
}

fn from_nanos<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Boot, D::Error> {
    Ok(Boot(Duration::from_nanos(u64::deserialize(deserializer)?)))
}
