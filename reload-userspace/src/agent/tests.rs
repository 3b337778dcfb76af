//! A volume whose owner does what he can, beside one whose owner does not.

mod meanwhile;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use clap::Parser as _;
use rustix::time::{ClockId, clock_gettime};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::*;
use crate::{
    cli::{Cli, Command, Format, LogLevel, RunArgs},
    places::Places,
    report::Log,
    rule::{self, Rule},
    source::{Choice, Interest, Ladder, Purpose},
    watched::Watched,
};

/// How long anything may take before it counts as lost.
const PATIENCE: Duration = Duration::from_mins(2);

/// How many files the hostile volume has in it.
const FILES: usize = 300;

/// How much more memory it may cost whatever is done, in bytes: a few times what it does.
const MOST_MEMORY: u64 = 64 * 1024 * 1024;

fn typed(arguments: &[&str]) -> RunArgs {
    let words = [&["reload-agent", "run"], arguments].concat();
    let Command::Run(run) = Cli::parse_from(words).command else {
        unreachable!("it is what was typed");
    };
    run
}

/// A rule about a volume.
fn beneath(volume: &Path, rest: &[&str]) -> Rule {
    let arguments = [&["--watch", volume.to_str().unwrap()], rest].concat();
    rule::from_args(&typed(&arguments)).unwrap().remove(0).beneath()
}

/// An agent with these rules that says nothing.
fn agent(source: SourceName, rules: Vec<Rule>) -> Agent<Ladder> {
    let source = Ladder::open(Choice::Only(source), Purpose::Reload, false).unwrap();
    agent_with(source, rules, &["--watch", "/", "--process", "x"])
}

fn agent_with<S: Source>(mut source: S, rules: Vec<Rule>, arguments: &[&str]) -> Agent<S> {
    let settings = Settings::new(&typed(arguments)).unwrap();
    let witness = Witness::open(false, &mut source);
    let log = Log { format: Format::Text, level: LogLevel::Error };
    let outlets = Outlets {
        teller: Teller { log, metrics: None, herald: None },
        probes: Probes::none(),
        listen: None,
        readiness: Readiness::default(),
    };
    Agent::new(source, witness, Rules::Given(rules), settings, outlets).unwrap()
}

/// A volume, written as the kubelet does it but for the pauses.
struct Volume {
    dir: PathBuf,
    files: usize,
    number: u64,
}

impl Volume {
    fn new(dir: PathBuf, files: usize) -> Self {
        fs::create_dir(&dir).unwrap();
        let mut volume = Self { dir, files, number: 0 };
        volume.update();
        for file in 0..files {
            symlink(format!("..data/{file}"), volume.dir.join(file.to_string())).unwrap();
        }
        volume
    }

    fn update(&mut self) {
        let old = self.dir.join(format!("..{}", self.number));
        self.number += 1;
        let name = format!("..{}", self.number);
        self.fill(&name, &self.number.to_string());
        self.swap(&name);
        if old.exists() {
            fs::remove_dir_all(old).unwrap();
        }
    }

    fn fill(&self, name: &str, text: &str) {
        fs::create_dir(self.dir.join(name)).unwrap();
        for file in 0..self.files {
            fs::write(self.dir.join(name).join(file.to_string()), text).unwrap();
        }
    }

    fn swap(&self, name: &str) {
        symlink(name, self.dir.join("..data_tmp")).unwrap();
        fs::rename(self.dir.join("..data_tmp"), self.dir.join("..data")).unwrap();
    }
}

/// Has a volume show one state and another by turns as fast as it can, until it is told to stop.
struct Writer {
    rounds: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Volume>,
}

impl Writer {
    fn start(volume: Volume) -> Self {
        let (rounds, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, stop) = (Arc::clone(&rounds), Arc::clone(&is_over));
        let thread = thread::spawn(move || {
            let states = ["..other".to_owned(), format!("..{}", volume.number)];
            volume.fill(&states[0], "other");
            for state in states.iter().cycle() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                volume.swap(state);
                count.fetch_add(1, Ordering::Relaxed);
            }
            volume
        });
        Self { rounds, is_over, thread }
    }

    fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }

    fn stop(self) -> Volume {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Serves every reload, and tells of it: what was asked for, and what the file of that rule said then.
fn serve(files: [PathBuf; 2]) -> (String, mpsc::UnboundedReceiver<(usize, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (sender, receiver) = mpsc::unbounded_channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            let mut buffer = [0; 512];
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                match stream.read(&mut buffer) {
                    Ok(length @ 1..) => request.extend(&buffer[..length]),
                    _ => break,
                }
            }
            let rule = usize::from(request.starts_with(b"POST /1 "));
            let text = fs::read_to_string(&files[rule]).unwrap_or_default();
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            if stream.write_all(answer).is_err() || sender.send((rule, text)).is_err() {
                break;
            }
        }
    });
    (address, receiver)
}

fn memory() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * u64::try_from(rustix::param::page_size()).unwrap()
}

/// The processor time of this thread, which is the agent's.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

/// Waits until a rule is reloaded with that in its file.
async fn reloaded(
    reloads: &mut mpsc::UnboundedReceiver<(usize, String)>,
    rule: usize,
    wanted: impl Fn(&str) -> bool,
) {
    let wait = async {
        loop {
            let (which, text) = reloads.recv().await.expect("the server goes on");
            if which == rule && wanted(&text) {
                return;
            }
        }
    };
    timeout(PATIENCE, wait).await.expect("it is reloaded");
}

/// Since when what is there now counts as having been there, where it is concluded long after it was swapped:
/// that moment as well, and between which it was swapped.
fn concluded_late(volume: &mut Volume, reach: Reach) -> (Boot, Boot, [Boot; 2]) {
    let mut source = Ladder::open(Choice::Only(SourceName::Poll), Purpose::Reload, false).unwrap();
    let mut places = Places::new();
    let rule = match reach {
        Reach::Beneath => beneath(&volume.dir, &["--post", "http://127.0.0.1:1"]),
        Reach::Anywhere => {
            let watch = volume.dir.to_str().unwrap();
            let arguments = ["--watch", watch, "--post", "http://127.0.0.1:1"];
            rule::from_args(&typed(&arguments)).unwrap().remove(0)
        }
    };
    let limits = rule.pace().limits;
    let watched = Watched::new(0, &volume.dir, reach, limits, &mut places, &mut source);
    let mut reloader = Reloader::new(rule, None, vec![(0, Box::new(watched))]);
    let before = clock::now();
    volume.update();
    let swapped = [before, clock::now()];
    // An agent that is busy, or is kept from its processor.
    while clock::now() < swapped[1].after(Duration::from_millis(500)) {
        thread::yield_now();
    }
    let late = clock::now();
    reloader.watch(0).unwrap().touch(late, None, Interest::Any);
    loop {
        let now = clock::now();
        assert!(now < late.after(PATIENCE), "it is not concluded");
        reloader.watch(0).unwrap().look_if_due(now, &mut places, &mut source);
        let (reading, failures) = reloader.read(now);
        assert_eq!(failures, [""; 0]);
        if reloader.conclude(reading, false, now) == Conclusion::Changed {
            break;
        }
    }
    (reloader.delivery.wanted().since, late, swapped)
}

#[tokio::test(flavor = "current_thread")]
async fn a_volume_is_what_it_is_since_it_was_swapped() {
    let home = tempfile::tempdir().unwrap();
    let mut volume = Volume::new(home.path().canonicalize().unwrap().join("volume"), 1);
    let (since, late, [before, _]) = concluded_late(&mut volume, Reach::Beneath);
    assert!(before <= since, "whoever started before it may have read what was there before");
    assert!(since < late, "whoever started after it has read it");
    // Elsewhere somebody may write in place, and nobody knows how far he was.
    let (since, late, _) = concluded_late(&mut volume, Reach::Anywhere);
    assert!(late <= since);
}

/// A process of that name that does nothing until this is dropped.
struct Idler(process::Child);

impl Idler {
    /// Its program is in this directory.
    fn start(home: &Path, name: &str) -> Self {
        let program = home.join(name);
        if !program.exists() {
            symlink("/bin/sleep", &program).unwrap();
        }
        Self(process::Command::new(program).arg("infinity").spawn().unwrap())
    }
}

impl Drop for Idler {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[tokio::test(flavor = "current_thread")]
async fn whoever_starts_before_an_update_is_known_to_be_complete_has_it() {
    let home = tempfile::tempdir().unwrap();
    let root = home.path().canonicalize().unwrap();
    let mut volume = Volume::new(root.join("volume"), 1);
    let rule = beneath(&volume.dir, &["--process", "idler", "--all"]);
    let earlier = Idler::start(&root, "idler");
    let mut agent = agent(SourceName::Poll, vec![rule]);
    let (&id, reloader) = agent.reloaders.iter().next().unwrap();
    let crew = reloader.crew.unwrap();
    let owed = |agent: &Agent<Ladder>| {
        let owed = agent.reloaders[&id].delivery.owed();
        owed.filter_map(|it| it.target).map(|it| it.pid.as_raw()).collect::<Vec<_>>()
    };
    assert_eq!(owed(&agent), [0; 0]);

    volume.update();
    let swapped = clock::now();
    // The times of files and of processes are those of ticks.
    while clock::now() < swapped.after(Duration::from_millis(50)) {
        thread::yield_now();
    }
    let later = Idler::start(&root, "idler");
    let pids = [&earlier, &later].map(|it| i32::try_from(it.0.id()).unwrap());
    let now = clock::now();
    let (&index, _) = agent.owners.iter().next().unwrap();
    agent.reloader_of(index).unwrap().touch_quietly(index, now);
    agent.look(id, now);
    agent.call_rolls_of(&[crew]);
    assert!(agent.reloaders[&id].delivery.targets().any(|it| it.pid.as_raw() == pids[1]));
    assert!(owed(&agent).contains(&pids[1]), "nobody knows yet what it has read");
    let digest = |agent: &Agent<Ladder>| agent.reloaders[&id].delivery.wanted().digest;
    let before = digest(&agent);
    while digest(&agent) == before {
        let now = clock::now();
        assert!(now < swapped.after(PATIENCE), "it is not concluded");
        agent.look(id, now);
        if agent.reloaders[&id].is_complete(now) {
            agent.complete(id, now).unwrap();
        }
    }
    assert_eq!(owed(&agent), [pids[0]]);
}

#[tokio::test(flavor = "current_thread")]
async fn whoever_is_started_anew_is_not_ended_again_at_once() {
    let home = tempfile::tempdir().unwrap();
    let root = home.path().canonicalize().unwrap();
    let arguments =
        ["--watch", root.to_str().unwrap(), "--process", "restarted-idler", "--restart"];
    let rules = rule::from_args(&typed(&arguments)).unwrap();
    let mut agent = agent(SourceName::Poll, rules);
    let (&id, reloader) = agent.reloaders.iter_mut().next().unwrap();
    let (crew, ended) = (reloader.crew.unwrap(), clock::now());
    reloader.ended_for = Some((reloader.delivery.wanted().digest, ended));
    let _successor = Idler::start(&root, "restarted-idler");
    agent.call_rolls_of(&[crew]);
    let reloader = &agent.reloaders[&id];
    let until = ended.after(reloader.rule.pace().min_interval);
    assert_eq!(reloader.delivery.held_until(ended), Some(until));
}

#[tokio::test(flavor = "current_thread")]
async fn a_volume_that_is_rewritten_all_the_time_keeps_nobody_else_waiting() {
    let home = tempfile::tempdir().unwrap();
    let root = home.path().canonicalize().unwrap();
    let hostile = Volume::new(root.join("hostile"), FILES);
    let mut good = Volume::new(root.join("good"), 3);
    let file = |volume: &Volume| volume.dir.join("0");
    let (address, mut reloads) = serve([file(&hostile), file(&good)]);
    let post = |path: &str| format!("{address}/{path}");
    let often = ["--min-interval", "0s", "--post"];
    let rules = vec![
        beneath(&hostile.dir, &[&often[..], &[&post("0")]].concat()),
        // Nobody is there to be reloaded, so nothing is ever waited for.
        beneath(&hostile.dir, &["--process", "nobody is called so"]),
        beneath(&good.dir, &[&often[..], &[&post("1")]].concat()),
    ];
    let agent = agent(SourceName::Inotify, rules);
    let (stop, stopped) = oneshot::channel::<()>();
    let stop_agent = async {
        drop(stopped.await);
        "the end of the test"
    };
    let agent = agent.run(clock::now(), stop_agent, signal(SignalKind::hangup()).unwrap());

    let test = async {
        let writer = Writer::start(hostile);
        reloaded(&mut reloads, 0, |_| true).await;
        let (began, before, rounds) = (clock::now(), processor_time(), writer.rounds());
        let memory_before = memory();
        for _ in 0..10 {
            good.update();
            let wanted = good.number.to_string();
            reloaded(&mut reloads, 1, |text| text == wanted).await;
        }
        assert!(writer.rounds() > rounds && !writer.thread.is_finished(), "it goes on meanwhile");
        let rounds = writer.rounds() - rounds;
        // What it does in the end is heeded as well.
        let mut hostile = writer.stop();
        hostile.update();
        let last = hostile.number.to_string();
        reloaded(&mut reloads, 0, |text| text == last).await;
        let (time, used) = (clock::now().since(began), processor_time().saturating_sub(before));
        println!(
            "{rounds} swaps in {time:?}, in which the agent used {used:?} and {} KiB more",
            memory().saturating_sub(memory_before) / 1024
        );
        assert!(memory() < memory_before + MOST_MEMORY);
        stop.send(()).unwrap();
    };
    let (ended, ()) = tokio::join!(agent, test);
    ended.unwrap();
}

#[tokio::test(flavor = "current_thread")]
async fn a_volume_that_cannot_be_looked_at_keeps_no_other_rule_from_being_heeded() {
    let home = tempfile::tempdir().unwrap();
    let crowded = home.path().join("crowded");
    fs::create_dir(&crowded).unwrap();
    for number in 0..2000 {
        fs::write(crowded.join(number.to_string()), "").unwrap();
    }
    let rules = vec![beneath(&crowded, &["--post", "http://127.0.0.1:9/"])];
    let mut agent = agent(SourceName::Poll, rules);
    let reloader = agent.reloaders.values_mut().next().unwrap();
    let (news, _) = reloader.news_of_obstacles();
    let news: Vec<_> = news.iter().map(ToString::to_string).collect();
    assert_eq!(news, [format!("{} has more than 1024 names in it", crowded.display())]);
}
