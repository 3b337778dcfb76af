//! Where measurements are taken: the programs, a folder on each filesystem, and the agent.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    sync::mpsc::{Receiver, TryRecvError},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::{
    agent::{Agent, Event, Recipe},
    child::{Ask, Child, lines},
    patience::Patience,
    place::Place,
    program::Program,
};

const LATENCY: Program = Program { name: "latency", source: include_str!("latency.c") };
const BARE: Program = Program { name: "bare", source: include_str!("bare.c") };
const COST: Program = Program { name: "cost", source: include_str!("cost.c") };

/// How often we look whether a program has said something: seldom, for it takes processor time.
const PACE: Duration = Duration::from_millis(50);

/// How long a program may take to say the next line.
const LIMIT: Duration = Duration::from_mins(3);

/// All that measurements share.
#[derive(Debug)]
pub(crate) struct Lab {
    /// The agent's binary.
    pub(crate) binary: PathBuf,
    source: String,
    pub(crate) latency: PathBuf,
    pub(crate) bare: PathBuf,
    pub(crate) cost: PathBuf,
    pub(crate) patience: Patience,
    /// A folder beside what cargo builds, then one on tmpfs, if that is another filesystem.
    pub(crate) grounds: Vec<Ground>,
}

/// A folder to measure in.
#[derive(Debug)]
pub(crate) struct Ground {
    /// What its filesystem is called.
    pub(crate) filesystem: &'static str,
    folder: TempDir,
}

impl Ground {
    fn new(parent: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(parent);
        let folder =
            folder.with_context(|| format!("cannot create a folder in {}", parent.display()))?;
        Ok(Self { filesystem: filesystem(parent)?, folder })
    }

    /// The path of something in it.
    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes a folder with a file, for the agent to watch.
    ///
    /// # Errors
    ///
    /// Fails where that cannot be written.
    pub(crate) fn watched(&self, name: &str) -> Result<PathBuf> {
        let folder = self.at(name);
        let written = fs::create_dir_all(&folder)
            .and_then(|()| fs::write(folder.join("app.conf"), "revision 0\n"));
        written.with_context(|| format!("cannot write {}", folder.display()))?;
        Ok(folder)
    }
}

impl Lab {
    /// Compiles what is needed and makes the folders.
    ///
    /// # Errors
    ///
    /// Fails where one of these does.
    pub(crate) fn new(place: &Place, binary: PathBuf, source: String) -> Result<Self> {
        let [latency, bare, cost] = [LATENCY, BARE, COST].map(|program| program.compile(place));
        // Not among temporary files, where others come and go: the agent watches the folders above.
        let mut grounds = vec![Ground::new(&place.target)?];
        let memory = Path::new("/dev/shm");
        if grounds[0].filesystem != "tmpfs" && filesystem(memory).is_ok_and(|it| it == "tmpfs") {
            grounds.push(Ground::new(memory)?);
        }
        let patience = Patience::new()?;
        Ok(Self { binary, source, latency: latency?, bare: bare?, cost: cost?, patience, grounds })
    }

    /// A name for processes that nobody else's has.
    pub(crate) fn name() -> String {
        format!("bench-{}", process::id())
    }

    /// Starts the agent, and says how long it took as well.
    ///
    /// # Errors
    ///
    /// Fails where it does not start, with what it said.
    pub(crate) fn agent(&self, watch: Vec<PathBuf>) -> Result<Running> {
        self.agent_with(watch, &self.source)
    }

    /// Which source of the agent is measured, and by which strategy.
    ///
    /// # Errors
    ///
    /// As [`Lab::agent`].
    pub(crate) fn says(&self) -> Result<String> {
        let Running { agent, ready, .. } = self.agent(vec![self.grounds[0].watched("says")?])?;
        agent.stop()?;
        let (source, strategy) = (ready.text("/source"), ready.text("/strategy"));
        let by = if strategy.is_empty() { String::new() } else { format!(" by {strategy}") };
        Ok(format!("Source {source}{by}"))
    }

    /// The same, with a source of its own.
    ///
    /// # Errors
    ///
    /// As [`Lab::agent`].
    pub(crate) fn agent_with(&self, watch: Vec<PathBuf>, source: &str) -> Result<Running> {
        self.start(watch, Some(Self::name()), source, &[])
    }

    /// The same, with the rules of a file.
    ///
    /// # Errors
    ///
    /// As [`Lab::agent`].
    pub(crate) fn agent_of_rules(&self, file: &Path) -> Result<Running> {
        let file = file.to_string_lossy();
        self.start(Vec::new(), None, &self.source, &["--config", &file])
    }

    fn start(
        &self,
        watch: Vec<PathBuf>,
        process: Option<String>,
        source: &str,
        more: &[&str],
    ) -> Result<Running> {
        let options = ["--min-interval", "0s", "--reconcile", "1h", "--source", source];
        let options = options.iter().chain(more).map(|&it| it.to_owned()).collect();
        let recipe = Recipe { binary: self.binary.clone(), watch, process, options };
        let begun = SystemTime::now();
        let (agent, ready) = Agent::start(&recipe, &self.patience)?;
        let wall = ready.at.duration_since(begun).unwrap_or_default();
        Ok(Running { agent, ready, wall })
    }
}

/// An agent that runs, and how it started.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) agent: Agent,
    /// What it said when it was ready.
    pub(crate) ready: Event,
    /// How long it took from the outside, the start of its process included.
    pub(crate) wall: Duration,
}

/// A program of ours that runs and talks.
#[derive(Debug)]
pub(crate) struct Talker {
    pub(crate) child: Child,
    lines: Receiver<String>,
}

impl Talker {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// Fails where it cannot be run.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let mut child =
            Child::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()), Ask::Signal)?;
        let output = child.pipes().stdout.take().context("its output is not piped")?;
        Ok(Self { child, lines: lines(output) })
    }

    /// Tells it to go on, and with what.
    ///
    /// # Errors
    ///
    /// Fails where it has ended.
    pub(crate) fn go(&mut self, word: &str) -> Result<()> {
        let input = self.child.pipes().stdin.as_mut().context("its input is not piped")?;
        writeln!(input, "{word}").context("a program of the bench has ended")
    }

    /// The next line, or `None` at the end.
    ///
    /// # Errors
    ///
    /// Fails where none comes.
    pub(crate) fn line(&mut self, patience: &Patience) -> Result<Option<String>> {
        let line = patience.until(PACE, LIMIT, || match self.lines.try_recv() {
            Ok(line) => Ok(Some(Some(line))),
            Err(TryRecvError::Disconnected) => Ok(Some(None)),
            Err(TryRecvError::Empty) => Ok(None),
        })?;
        match line {
            Some(line) => Ok(line),
            None => bail!("a program of the bench has said nothing for {LIMIT:?}"),
        }
    }
}

fn filesystem(path: &Path) -> Result<&'static str> {
    let stat =
        rustix::fs::statfs(path).with_context(|| format!("cannot ask {}", path.display()))?;
    // `statfs(2)` has the list.
    Ok(match stat.f_type {
        0xef53 => "ext4",
        0x0102_1994 => "tmpfs",
        0x794c_7630 => "overlayfs",
        0x9123_683e => "btrfs",
        0x5846_5342 => "xfs",
        _ => "another filesystem",
    })
}
