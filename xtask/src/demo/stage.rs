//! Where the demo plays: the files, the server that reads them, the agent that watches them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use super::{
    screen::{Screen, Tone},
    script::{self, Act, Scene, Then},
    server::{self, Answer, Kind, Server},
    tell::{Cast, since, tell},
};
use crate::{
    agent::{Agent, Recipe},
    child::{Ask, Child},
    patience::Patience,
    show,
    volume::{Step, Volume},
};

/// How long a change may take to show its effect.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often we look whether it has.
const PACE: Duration = Duration::from_millis(1);

/// The stage. What it holds ends in the order of its fields.
#[derive(Debug)]
pub(crate) struct Stage {
    agent: Agent,
    server: Server,
    no_handler: Child,
    /// The workers that the server has.
    workers: Vec<u32>,
    volume: Volume,
    binary: PathBuf,
    /// What to call the server, and its first process.
    label: &'static str,
    master: &'static str,
    screen: Screen,
    patience: Patience,
    home: TempDir,
}

/// What came of a change.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// The change.
    pub(crate) title: &'static str,
    /// What was seen in the kernel, and who did it.
    pub(crate) seen: Option<String>,
    /// The time from the change to each signal, as the agent measures it.
    pub(crate) signals: Vec<Duration>,
    /// The time from the first step to the new content in an answer.
    pub(crate) served: Option<Duration>,
    /// Whether the signal was withheld on purpose.
    pub(crate) is_refused: bool,
    /// Whether the agent has seen that the reload took.
    pub(crate) is_confirmed: bool,
    /// What was not as expected.
    pub(crate) faults: Vec<String>,
}

impl Stage {
    /// Sets everything up, and tells what there is.
    ///
    /// # Errors
    ///
    /// Fails where a file cannot be written, or the server or the agent does not start.
    pub(crate) fn set(
        binary: PathBuf,
        kind: &Kind,
        source: &str,
        screen: Screen,
        patience: Patience,
    ) -> Result<Self> {
        let home = tempfile::Builder::new()
            .prefix("demo-")
            .tempdir()
            .context("cannot create a temporary folder")?;
        let at = |name: &str| home.path().join(name);
        let volume = Volume::new(at("volume"), "site.conf", &page(script::SITE))?;
        let host = at("host");
        fs::create_dir(&host).with_context(|| format!("cannot create {}", host.display()))?;
        for (file, content) in [("host/host.conf", script::HOST), ("draft.conf", script::DRAFT)] {
            fs::write(at(file), page(content)).with_context(|| format!("cannot write {file}"))?;
        }

        // Started first, for it is only told from one that has not installed its handler yet once
        // it is no longer young.
        let no_handler = start_without_handler(home.path())?;
        let name = unique_name(home.path());
        let server = Server::start(kind, &name, home.path(), [volume.folder(), &host], &patience)?;
        let workers = server.workers();
        screen.fact(kind.label(), &format!("{}, as {name}, on {}", kind.name, server.url()));
        let list = pids(&workers);
        screen.fact("", &format!("master {}, workers {list}", server.master()));
        screen
            .fact("volume", &format!("{}, written as the kubelet does", volume.folder().display()));
        screen.fact("files", &format!("{}, written by commands", host.display()));

        let check = show(&kind.check(home.path(), [volume.folder(), &host]));
        let recipe = Recipe {
            binary: binary.clone(),
            watch: vec![volume.folder().to_owned(), host],
            process: Some(name),
            // Each change is to show its own reload, however quickly they follow each other.
            options: ["--check", &check, "--min-interval", "0s", "--source", source]
                .map(str::to_owned)
                .to_vec(),
        };
        screen.fact("agent", &show(Command::new("reload-agent").args(recipe.arguments())));
        let (agent, ready) = Agent::start(&recipe, &patience)?;
        let strategy = ready.text("/strategy");
        let strategy =
            if strategy.is_empty() { String::new() } else { format!(", strategy {strategy}") };
        screen.fact(
            "",
            &format!(
                "ready after {} ms: source {}{strategy}",
                ready.number("/after_ms").unwrap_or_default(),
                ready.text("/source"),
            ),
        );
        let (label, master) = (kind.label(), kind.master());
        Ok(Self {
            agent,
            server,
            no_handler,
            workers,
            volume,
            binary,
            label,
            master,
            screen,
            patience,
            home,
        })
    }

    /// Makes a change, and follows it until it has had its effect.
    ///
    /// # Errors
    ///
    /// Fails where the change cannot be made or the agent has ended. That the change has not had
    /// its effect is a fault of the [`Outcome`].
    pub(crate) fn play(&mut self, scene: &Scene) -> Result<Outcome> {
        let steps = match scene.act {
            Act::Kubelet { key, page: text } => self.volume.set(key, text.map(page).as_deref())?,
            Act::Command(words) => self.command(words)?,
        };
        let zero = steps.first().context("the change has no step")?.at;
        self.tell_steps(zero, &steps);

        let mut outcome = Outcome { title: scene.title, ..Outcome::default() };
        let mut is_unchanged = false;
        let is_done = self.patience.until(PACE, PATIENCE, || {
            let text = match outcome.served {
                None => served(&self.server, scene.then),
                Some(_) => None,
            };
            let after = since(zero, SystemTime::now());
            self.server.check()?;
            // Taken after the answer and told before it, for it comes of them.
            while let Some(event) = self.agent.next()? {
                is_unchanged |= event.name() == "unchanged";
                let home = self.home.path();
                let cast = Cast { home, master: self.master, pid: self.server.master() };
                tell(self.screen, zero, &cast, &event, &mut outcome);
            }
            if let Some(text) = text {
                outcome.served = Some(after);
                self.screen.row(after, Tone::Server, self.label, &text);
            }
            let is_done = match scene.then {
                Then::Nothing => is_unchanged,
                Then::Withheld => outcome.is_refused,
                Then::Serves(..) | Then::Forgets(_) => {
                    outcome.served.is_some()
                        && outcome.is_confirmed
                        && !outcome.signals.is_empty()
                        && self.server.has_replaced(&self.workers)
                }
            };
            Ok(is_done.then_some(()))
        })?;
        self.judge(zero, scene.then, is_done.is_some(), &mut outcome);
        for fault in &outcome.faults {
            self.screen.row(since(zero, SystemTime::now()), Tone::Bad, "FAILED", fault);
        }
        Ok(outcome)
    }

    /// Lists what is not as it should be, and tells of the workers.
    fn judge(&mut self, zero: SystemTime, then: Then, is_done: bool, outcome: &mut Outcome) {
        let after = since(zero, SystemTime::now());
        let old = std::mem::replace(&mut self.workers, self.server.workers());
        let (old, new) = (pids(&old), pids(&self.workers));
        let mut faults = Vec::new();
        let signals = outcome.signals.len();
        match then {
            Then::Nothing | Then::Withheld => {
                if !is_done {
                    faults.push(format!("nothing was seen in {PATIENCE:?}"));
                }
                if signals != 0 {
                    faults.push(format!("{signals} signals, where none was due"));
                }
                if old == new {
                    let text = format!("left alone: still workers {new}");
                    self.screen.row(after, Tone::Server, self.label, &text);
                } else {
                    faults.push(format!("workers {old} became {new}"));
                }
            }
            Then::Serves(path, _) | Then::Forgets(path) => {
                if outcome.seen.is_none() {
                    faults.push(format!("no change was seen in {PATIENCE:?}"));
                }
                if signals != 1 {
                    faults.push(format!("{signals} signals, where one was due"));
                }
                if !outcome.is_confirmed {
                    faults.push(format!("the reload was not confirmed in {PATIENCE:?}"));
                }
                if outcome.served.is_none() {
                    faults.push(format!("{path} is not what it should be after {PATIENCE:?}"));
                } else if is_done {
                    let text = format!("workers {old} replaced by {new}");
                    self.screen.row(after, Tone::Server, self.label, &text);
                } else {
                    faults.push(format!("workers {old} are {new} after {PATIENCE:?}"));
                }
            }
        }
        outcome.faults.extend(faults);
    }

    /// Changes the configuration of a process that would die of the signal.
    ///
    /// # Errors
    ///
    /// As [`Stage::play`].
    pub(crate) fn play_without_handler(&mut self) -> Result<Outcome> {
        let watched = self.home.path().join("app.conf");
        fs::write(&watched, "level = 1\n").context("cannot write app.conf")?;
        let recipe = Recipe {
            binary: self.binary.clone(),
            watch: vec![watched],
            process: Some(script::NO_HANDLER.to_owned()),
            options: Vec::new(),
        };
        let (mut agent, _ready) = Agent::start(&recipe, &self.patience)?;
        let steps = self.command(&["sed", "-i", "s/1/2/", "app.conf"])?;
        let zero = steps.first().context("the change has no step")?.at;
        self.tell_steps(zero, &steps);

        let mut outcome = Outcome { title: script::NO_HANDLER_TITLE, ..Outcome::default() };
        let pid = self.no_handler.pid();
        let home = self.home.path();
        let cast = Cast { home, master: script::NO_HANDLER, pid };
        let screen = self.screen;
        self.patience.until(PACE, PATIENCE, || {
            while let Some(event) = agent.next()? {
                // Another demo on this machine has such a process, too.
                let is_ours = event.number("/pid").is_none_or(|number| number == u64::from(pid));
                if is_ours {
                    tell(screen, zero, &cast, &event, &mut outcome);
                }
            }
            Ok(outcome.is_refused.then_some(()))
        })?;
        agent.stop()?;
        let after = since(zero, SystemTime::now());
        if !outcome.is_refused {
            outcome.faults.push(format!("the signal was not refused in {PATIENCE:?}"));
        }
        match self.no_handler.ended()? {
            None => {
                let text = format!("{} {pid} still runs", script::NO_HANDLER);
                screen.row(after, Tone::Server, "process", &text);
            }
            Some(status) => {
                outcome.faults.push(format!("{} has ended: {status}", script::NO_HANDLER));
            }
        }
        for fault in &outcome.faults {
            screen.row(after, Tone::Bad, "FAILED", fault);
        }
        Ok(outcome)
    }

    /// Lets time pass.
    ///
    /// # Errors
    ///
    /// Fails where we were asked to stop.
    pub(crate) fn pause(&self, time: Duration) -> Result<()> {
        self.patience.pause(time)
    }

    /// Stops the agent, and gives how many signals it sent that no change explains.
    ///
    /// # Errors
    ///
    /// Fails where the agent does.
    pub(crate) fn clear(self) -> Result<usize> {
        let events = self.agent.stop()?;
        Ok(events.iter().filter(|event| event.name() == "reloaded").count())
    }

    fn command(&self, words: &[&str]) -> Result<Vec<Step>> {
        let [program, arguments @ ..] = words else { bail!("there is no command") };
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.home.path()).stdin(Stdio::null());
        let shown = show(&command);
        let begun = SystemTime::now();
        let output = command.output().with_context(|| format!("cannot run `{shown}`"))?;
        if !output.status.success() {
            bail!("`{shown}` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(vec![Step { at: begun, what: shown }])
    }

    fn tell_steps(&self, zero: SystemTime, steps: &[Step]) {
        for step in steps {
            self.screen.row(since(zero, step.at), Tone::Change, "change", &step.what);
        }
    }
}

/// What shows that the server has the new content, if it has.
fn served(server: &Server, then: Then) -> Option<String> {
    let (path, wanted) = match then {
        Then::Serves(path, text) => (path, Answer { status: 200, body: text.to_owned() }),
        // What else it says is the server's own affair.
        Then::Forgets(path) => (path, Answer { status: 404, body: String::new() }),
        Then::Nothing | Then::Withheld => return None,
    };
    let answer = server.get(path)?;
    let is_it = answer.status == wanted.status && (answer.status == 404 || answer == wanted);
    is_it.then(|| match then {
        Then::Forgets(_) => format!("GET {path}: 404, the page is gone"),
        _ => format!("GET {path}: {}", answer.body),
    })
}

fn page((path, text): (&str, &str)) -> String {
    server::answer(path, text)
}

fn pids(pids: &[u32]) -> String {
    pids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
}

/// A name for the server's process that nobody else's has.
fn unique_name(home: &Path) -> String {
    let name = home.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.replace("demo-", "nginx-")
}

fn start_without_handler(home: &Path) -> Result<Child> {
    let sleep =
        ["/bin/sleep", "/usr/bin/sleep"].map(Path::new).into_iter().find(|path| path.exists());
    let program = server::copy(sleep.context("there is no sleep")?, home, script::NO_HANDLER)?;
    Child::spawn(Command::new(program).arg("300").stdin(Stdio::null()), Ask::Signal)
}
