//! Whether anything is forgotten or grows when it goes on for long: three rules, whose files change all the
//! time, whose targets are started anew, and an agent that is killed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    sync::mpsc::Receiver,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use fastrand::Rng;
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    agent::{Agent, Recipe},
    build::{Linkage, Profile, build},
    child::{Ask, Child, lines},
    patience::Patience,
    place::{Place, is_root},
    program::Program,
    setup::{Extent, setup},
    usage::Usage,
    volume::Volume,
};

/// A process that reads a file when it starts and when it is told to, and says what it reads.
const TARGET: Program =
    Program { name: "target", source: include_str!("../../tests/programs/target.c") };

/// Run an agent for long beside random updates, restarts and kills
///
/// Three rules: a file that is renamed over, a volume of a kubelet, a file that is written in place. Their
/// targets are started anew at random, and twice the agent is killed and started again, with its ledger. At
/// the end no target may lack the last content, and the agent may not have grown. Needs root.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// For how long
    #[arg(long = "for", value_name = "DURATION", default_value = "5m", value_parser = humantime::parse_duration)]
    span: Duration,

    /// Where chance begins, to have the same again; it is printed
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,

    /// Where the agent's events come from: auto, ebpf, fanotify, inotify or poll
    #[arg(long, value_name = "NAME", default_value = "auto")]
    source: String,
}

/// How long it may take until everybody has the last content, on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(20);

/// How often it is made sure that everybody has what there is: an update that was missed is not made up for by
/// the next one.
const ROUND: Duration = Duration::from_secs(10);

/// How long an agent is given until its memory is looked at for the first time.
const WARM_UP: Duration = Duration::from_secs(10);

/// The shortest that is of any use.
const SHORTEST: Duration = Duration::from_mins(1);

/// How much an agent may grow after that, in KiB: a few pages that had not been touched yet.
const MOST_GROWTH: u64 = 512;

/// The name of each file.
const KEY: &str = "app.conf";

/// How the files are changed, one way for each rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Rename,
    Swap,
    Write,
}

/// A rule, its file, and the process that reads it.
struct Line {
    name: String,
    way: Way,
    folder: PathBuf,
    /// What is in the folder, if that is a kubelet's.
    volume: Option<Volume>,
    program: PathBuf,
    revision: u64,
    target: Option<Target>,
}

struct Target {
    child: Child,
    said: Receiver<String>,
    /// What it has read last.
    content: String,
}

/// What has happened.
#[derive(Debug, Default)]
struct Counts {
    updates: u64,
    restarts: u64,
    kills: u64,
}

/// Sets up, builds, and lets it go on.
///
/// # Errors
///
/// Fails where a target lacks the last content at the end, where the agent has grown, and where it ends unasked.
pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(is_root(), "the agent's eBPF programs need root: run it as root");
    ensure!(
        options.span >= SHORTEST,
        "give --for {SHORTEST:?} or more: its memory is to be looked at"
    );
    let place = Place::find()?;
    let toolchain = setup(&place, Extent::Build)?;
    let agent = build(&place, &toolchain, Profile::Debug, Linkage::Dynamic)?;
    carry_out(&place, agent, options)
}

/// As long as it takes by default, beside other tests.
///
/// # Errors
///
/// As [`run`].
pub(crate) fn in_tests(place: &Place, binary: PathBuf) -> Result<()> {
    let span = Duration::from_mins(5);
    let options = Options { span, seed: None, source: "auto".to_owned() };
    carry_out(place, binary, &options).context("the soak has failed")
}

fn carry_out(place: &Place, binary: PathBuf, options: &Options) -> Result<()> {
    let patience = Patience::new()?;
    let home = tempfile::tempdir_in(&place.target).context("cannot make a folder")?;
    let program = TARGET.compile(place)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seed = options.seed.unwrap_or(now.as_secs());
    let mut chance = Rng::with_seed(seed);
    println!("Chance begins at {seed}; it takes {}.", humantime::format_duration(options.span));

    let mut all = Vec::new();
    for (index, way) in [Way::Rename, Way::Swap, Way::Write].into_iter().enumerate() {
        all.push(Line::new(home.path(), &program, index, way)?);
    }
    let rules = home.path().join("rules.yaml");
    fs::write(&rules, text(&all)).context("cannot write the rules")?;
    let state = home.path().join("state");
    fs::create_dir(&state).context("cannot make a folder")?;
    let options_of_agent = [
        ["--config".into(), rules.to_string_lossy().into_owned()],
        ["--state-dir".into(), state.to_string_lossy().into_owned()],
        ["--source".into(), options.source.clone()],
        ["--min-interval".into(), "100ms".into()],
        // What it has not heard of is not to be found by comparing.
        ["--reconcile".into(), "1d".into()],
    ];
    let options_of_agent = options_of_agent.into_iter().flatten().collect();
    let recipe = Recipe { binary, watch: Vec::new(), process: None, options: options_of_agent };

    let begin = Instant::now();
    let (mut agent, _) = Agent::start(&recipe, &patience)?;
    let (mut started, mut checked) = (begin, begin);
    let mut first = None;
    let mut counts = Counts::default();
    while begin.elapsed() < options.span {
        patience.pause(Duration::from_millis(chance.u64(..200)))?;
        act(&mut all, &mut chance, &mut counts)?;
        while agent.next()?.is_some() {}
        // What they say is taken, for it would pile up.
        for line in &mut all {
            drop(line.lack());
        }
        if first.is_none() && started.elapsed() > WARM_UP {
            first = Some(Usage::of_process(agent.pid())?.rss_kib);
        }
        if checked.elapsed() > ROUND {
            serve(&mut all, &mut agent, &patience)?;
            checked = Instant::now();
        }
        // In the first two thirds: the last one has a third to show whether it grows.
        let due = options.span.mul_f64(f64::from(u32::try_from(counts.kills + 1)?) / 3.0);
        if counts.kills < 2 && begin.elapsed() > due {
            counts.kills += 1;
            kill(agent.pid(), Signal::KILL)?;
            drop(agent);
            for _ in 0..chance.u64(..10) {
                act(&mut all, &mut chance, &mut counts)?;
            }
            (agent, _) = Agent::start(&recipe, &patience)?;
            (started, first) = (Instant::now(), None);
        }
    }
    let Counts { updates, restarts, kills } = counts;
    println!("{updates} updates, {restarts} targets started anew, {kills} agents killed.");
    serve(&mut all, &mut agent, &patience)?;
    let last = Usage::of_process(agent.pid())?.rss_kib;
    agent.stop()?;
    let first =
        first.context("it was too short for the memory to be looked at: give --for 1m or more")?;
    println!("Everybody has the last content. Resident: {first} KiB, then {last} KiB.");
    ensure!(
        last <= first + MOST_GROWTH,
        "the agent has grown from {first} to {last} KiB, more than {MOST_GROWTH} KiB"
    );
    Ok(())
}

/// Waits until everybody has what there is.
fn serve(all: &mut [Line], agent: &mut Agent, patience: &Patience) -> Result<()> {
    let served = patience.until(Duration::from_millis(50), LIMIT, || {
        while agent.next()?.is_some() {}
        Ok(all.iter_mut().all(Line::is_served).then_some(()))
    })?;
    let lacking = all.iter_mut().filter_map(Line::lack).collect::<Vec<_>>();
    ensure!(served.is_some(), "after {LIMIT:?}: {}", lacking.join("; "));
    Ok(())
}

/// Does something at random.
fn act(all: &mut [Line], chance: &mut Rng, counts: &mut Counts) -> Result<()> {
    let index = chance.usize(..3);
    let line = &mut all[index];
    let times = match chance.u64(..20) {
        0 => {
            counts.restarts += 1;
            return line.restart();
        }
        1 => 10,
        _ => 1,
    };
    for _ in 0..times {
        line.update()?;
        counts.updates += 1;
    }
    Ok(())
}

impl Line {
    fn new(home: &Path, program: &Path, index: usize, way: Way) -> Result<Self> {
        let name = format!("soak{}-{index}", process::id());
        let folder = home.join(index.to_string());
        if way != Way::Swap {
            fs::create_dir(&folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let own = home.join(&name);
        fs::hard_link(program, &own)
            .or_else(|_unlinked| fs::copy(program, &own).map(drop))
            .with_context(|| format!("cannot create {}", own.display()))?;
        let mut line =
            Self { name, way, folder, volume: None, program: own, revision: 0, target: None };
        line.update()?;
        line.restart()?;
        Ok(line)
    }

    fn file(&self) -> PathBuf {
        self.folder.join(KEY)
    }

    fn content(&self) -> String {
        format!("revision-{}", self.revision)
    }

    /// Changes the file to the next revision.
    fn update(&mut self) -> Result<()> {
        self.revision += 1;
        let content = self.content();
        let changed = match self.way {
            Way::Rename => {
                let draft = self.folder.with_extension("draft");
                fs::write(&draft, content).and_then(|()| fs::rename(&draft, self.file()))
            }
            Way::Write => fs::write(self.file(), content),
            Way::Swap => return self.swap(&content),
        };
        changed.with_context(|| format!("cannot change {}", self.file().display()))
    }

    fn swap(&mut self, content: &str) -> Result<()> {
        if let Some(volume) = &mut self.volume {
            return volume.set(KEY, Some(content)).map(drop);
        }
        self.volume = Some(Volume::new(self.folder.clone(), KEY, content)?);
        Ok(())
    }

    /// Starts the target, and ends the one that runs.
    fn restart(&mut self) -> Result<()> {
        drop(self.target.take());
        let mut command = Command::new(&self.program);
        command.arg("--read").arg(self.file()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = Child::spawn(&mut command, Ask::Signal)?;
        let said = child.pipes().stdout.take().context("its output is not piped")?;
        self.target = Some(Target { child, said: lines(said), content: String::new() });
        Ok(())
    }

    /// Whether the target has read the last revision.
    fn is_served(&mut self) -> bool {
        self.lack().is_none()
    }

    /// What the target lacks, if anything.
    fn lack(&mut self) -> Option<String> {
        let wanted = self.content();
        let target = self.target.as_mut()?;
        for line in target.said.try_iter() {
            let mut words = line.split(' ');
            if let (Some("started" | "signal"), Some(_), Some(content)) =
                (words.next(), words.next(), words.next())
            {
                content.clone_into(&mut target.content);
            }
        }
        let (name, pid, has) = (&self.name, target.child.pid(), &target.content);
        (*has != wanted).then(|| format!("{name} ({pid}) has {has:?} and not {wanted:?}"))
    }
}

/// The rules, as a file has them.
fn text(all: &[Line]) -> String {
    let rule = |line: &Line| {
        let path = serde_json::Value::from(line.file().to_string_lossy());
        format!("  - {{name: {0}, watch: {path}, process: {0}}}\n", line.name)
    };
    format!("rules:\n{}", all.iter().map(rule).collect::<Vec<_>>().concat())
}

fn kill(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("that is no pid")?;
    kill_process(pid, signal).context("cannot kill the agent")
}
