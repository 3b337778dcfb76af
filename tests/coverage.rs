//! Every way to change a file, on every filesystem, under every source: whether it is seen at once,
//! when it has settled, or by the slow look at the content.
//!
//! `cargo xtask coverage` makes docs/coverage.md of what is measured here.

#![cfg(test)]

#[macro_use]
#[path = "support/promise.rs"]
mod promise;
mod support;

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::RwLock,
    time::{Duration, Instant},
};

use rustix::{fs::OFlags, system::uname};
use serde_json::json;

use crate::support::{
    agent::{Agent, Event, arguments, command, count, run_to_end},
    filesystem::{
        Filesystem::{self, Btrfs, Ext4, Overlay, Subvolume, Tmpfs, Xfs},
        place_apart, with_each,
    },
    kubelet::{Order, Volume, keys},
    process::run,
    source::Source::{self, Ebpf, Fanotify, Inotify},
    target::{Recipe, Running},
    time::{PATIENCE, pause, pause_here},
    way::{COPY_UP, HELD, KUBELET, MOUNT, WAYS, Way},
    writer::{Outcome, change, printed},
};

/// How a change is seen, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// The source tells that there is a change, and that it is over.
    AtOnce,
    /// The source tells that there is a change. Its end is guessed: nothing more has come for
    /// `--settle`, or `--settle-max` has passed.
    AtSettle,
    /// The source tells nothing, and the slow look at the content finds it.
    ByReconcile,
    /// It is not seen.
    Not,
    /// It cannot be made.
    Impossible,
}

impl Seen {
    /// Its name in docs/coverage.md.
    fn name(self, source: Source) -> &'static str {
        match self {
            Self::AtOnce if source == Source::Poll => "by poll",
            Self::AtOnce => "at once",
            Self::AtSettle => "at settle",
            Self::ByReconcile => "reconcile",
            Self::Not => "no",
            Self::Impossible => "—",
        }
    }
}

/// Cells that are not seen at once, and why.
struct Gap {
    sources: &'static [Source],
    only: Only,
    filesystems: &'static [Filesystem],
    ways: &'static [&'static str],
    seen: Seen,
    reason: &'static str,
}

/// Where a gap is one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Only {
    Everywhere,
    /// Under this strategy of the source.
    Strategy(&'static str),
    /// On kernels before this version.
    Before(u32, u32),
}

/// All cells of fanotify on a subvolume.
const SUBVOLUME: Gap = Gap {
    sources: &[Fanotify],
    only: Only::Everywhere,
    filesystems: &[Subvolume],
    ways: &[],
    seen: Seen::Impossible,
    reason: "fanotify tells files of subvolumes from those of no other filesystem, so it does not watch \
             them beside another (`EXDEV`): `--source auto` takes inotify there.",
};

const KERNEL_DRIVEN: [Source; 3] = [Ebpf, Fanotify, Inotify];

/// A cell that is in none of them is seen at once.
const GAPS: &[Gap] = &[
    Gap {
        sources: &Source::ALL,
        only: Only::Everywhere,
        filesystems: &[Ext4, Tmpfs, Xfs, Btrfs, Subvolume],
        ways: &["copy_up"],
        seen: Seen::Impossible,
        reason: "The filesystem has no layers.",
    },
    Gap {
        sources: &Source::ALL,
        only: Only::Everywhere,
        filesystems: &[Ext4, Tmpfs, Overlay],
        ways: &["ficlone"],
        seen: Seen::Impossible,
        reason: "The filesystem has no reflinks, nor has the ext4 below the overlayfs.",
    },
    Gap {
        sources: &KERNEL_DRIVEN,
        only: Only::Everywhere,
        filesystems: &Filesystem::ALL,
        ways: &["recreate"],
        seen: Seen::AtSettle,
        reason: "A name that has come may not be all: its file may still be written to, or another may \
                 be about to take its place.",
    },
    Gap {
        sources: &KERNEL_DRIVEN,
        only: Only::Everywhere,
        filesystems: &Filesystem::ALL,
        ways: &["write_held"],
        seen: Seen::AtSettle,
        reason: "As long as the writer has the file open it may go on: the change is complete after \
                 `--settle-max`.",
    },
    Gap {
        sources: &[Ebpf],
        only: Only::Strategy("tracepoint"),
        filesystems: &[Overlay],
        ways: &["mmap", "mmap_closed", "mmap_msync", "mprotect", "mmap_held", "mprotect_held"],
        seen: Seen::ByReconcile,
        reason: "A mapping of overlayfs is one of the upper file: a store changes the times of the \
                 upper inode alone, until somebody reads the file.",
    },
    Gap {
        sources: &KERNEL_DRIVEN,
        only: Only::Everywhere,
        filesystems: &[Overlay],
        ways: &["mmap_closed"],
        seen: Seen::ByReconcile,
        reason: "A mapping of overlayfs is one of the upper file, whose end is not that of the file that is \
                 watched.",
    },
    Gap {
        sources: &[Ebpf],
        only: Only::Strategy("trampoline"),
        filesystems: &Filesystem::ALL,
        ways: &["mprotect_held"],
        seen: Seen::ByReconcile,
        reason: "A mapping is announced when it is made, if it may be stored to by then, and when it ends.",
    },
    Gap {
        sources: &[Ebpf],
        only: Only::Everywhere,
        filesystems: &Filesystem::ALL,
        ways: &["mmap_held", "mprotect_held"],
        seen: Seen::AtSettle,
        reason: "As long as the file is mapped for writing it may be stored to: the change is complete \
                 after `--settle-max`.",
    },
    Gap {
        sources: &[Fanotify, Inotify],
        only: Only::Everywhere,
        filesystems: &Filesystem::ALL,
        ways: &["mmap_held", "mprotect_held"],
        seen: Seen::ByReconcile,
        reason: "A store to a mapping is not announced, but the end of the mapping is.",
    },
    Gap {
        sources: &[Fanotify, Inotify],
        only: Only::Everywhere,
        filesystems: &Filesystem::ALL,
        ways: &["link", "tmpfile"],
        seen: Seen::AtSettle,
        reason: "A new name is announced alike whether it is that of a new file or of one that is \
                 complete.",
    },
    Gap {
        sources: &[Fanotify, Inotify],
        only: Only::Everywhere,
        filesystems: &Filesystem::ALL,
        ways: &["truncate"],
        seen: Seen::AtSettle,
        reason: "A truncation by path is announced like a write, and there is no close that would end \
                 it: it is complete after `--settle-max`.",
    },
    Gap {
        sources: &Source::ALL,
        only: Only::Everywhere,
        filesystems: &[Overlay],
        ways: &["directory"],
        seen: Seen::Impossible,
        reason: "overlayfs renames no directory that is in a lower layer.",
    },
    Gap {
        sources: &Source::ALL,
        only: Only::Before(6, 6),
        filesystems: &[Tmpfs],
        ways: &["direct"],
        seen: Seen::Impossible,
        reason: "tmpfs knows `O_DIRECT` since Linux 6.6.",
    },
    Gap {
        sources: &Source::ALL,
        only: Only::Before(6, 3),
        filesystems: &[Overlay],
        ways: &["tmpfile"],
        seen: Seen::Impossible,
        reason: "overlayfs knows `O_TMPFILE` since Linux 6.3.",
    },
];

promise!(every_way_to_change_a_file);
fn every_way_to_change_a_file(source: Source) {
    let place = place_apart();
    let strategy = Agent::on(source, place, "nobody").strategy().map(str::to_owned);
    let quiet = RwLock::new(());
    with_each(Filesystem::ALL, |filesystem| {
        let strategy = strategy.as_deref();
        let surprises = Vec::new();
        let mut column = Column { source, strategy, filesystem, place, quiet: &quiet, surprises };
        if !filesystem.is_there() {
            rows().for_each(|way| column.record(way, NOT_RUN));
        } else if source == Fanotify && filesystem == Subvolume {
            column.is_refused();
        } else {
            column.fill();
        }
        assert!(column.surprises.is_empty(), "{source} on {filesystem}: {:#?}", column.surprises);
    });
}

/// What stands in a cell of a filesystem that this kernel does not have.
const NOT_RUN: &str = "not run";

/// What stands in a cell of a filesystem that the source cannot watch.
const REFUSED: &str = "refused";

/// The rows of the table.
fn rows() -> impl Iterator<Item = &'static Way> {
    [&KUBELET].into_iter().chain(WAYS).chain(HELD).chain([&COPY_UP, &MOUNT])
}

/// The files of the witnesses, in directories that they do not share, and their volumes.
const FILES: [&str; 3] = ["etc0/app.conf", "etc1/app.conf", "etc2/app.conf"];
const VOLUMES: [&str; 3] = ["volume0", "volume1", "volume2"];

/// A column of the table of a source.
struct Column<'a> {
    source: Source,
    strategy: Option<&'a str>,
    filesystem: Filesystem,
    place: &'static Path,
    /// Held by one who waits for what is not seen, and shared by those who make a directory in the place
    /// or mount something.
    quiet: &'a RwLock<()>,
    /// What is not as expected.
    surprises: Vec<String>,
}

impl Column<'_> {
    fn fill(&mut self) {
        let mounted = {
            let _noisy = self.quiet.read();
            self.filesystem.mount_in(self.place, &FILES.map(|file| (file, "")))
        };
        let mut scene = Scene::new(self.source, FILES.map(|file| mounted.dir.join(file)));
        // A file that was changed is not in the lower layer any more.
        for way in [&COPY_UP].into_iter().chain(WAYS).chain(HELD).chain([&MOUNT]) {
            self.judge(way, |expected| scene.measure(way, expected));
        }
        drop(scene);

        let mut volumes = VOLUMES.map(|volume| {
            let dir = mounted.dir.join(volume);
            fs::create_dir(&dir).unwrap();
            Volume::mount(&dir, Order::NamesLast, keys(&[("app.conf", &text(0))]))
        });
        let paths = VOLUMES.map(|volume| mounted.dir.join(volume).join("app.conf"));
        let mut scene = Scene::new(self.source, paths);
        self.judge(&KUBELET, |expected| {
            let text = scene.next_text();
            for volume in &mut volumes {
                volume.update(keys(&[("app.conf", &text)]));
            }
            scene.classify(expected)
        });
        drop(scene);

        let _noisy = self.quiet.read();
        drop(mounted);
    }

    /// Checks that the source may not watch this filesystem, beside those above it.
    fn is_refused(&mut self) {
        let mounted = self.filesystem.mount_in(self.place, &[]);
        let mut agent = command();
        agent.args(arguments(&mounted.dir, "nobody")).args(self.source.arguments());
        let (code, said) = run_to_end(&mut agent);
        if code == Some(0) || !said.contains("Invalid cross-device link") {
            self.surprises.push(format!("exit status {code:?}: {said}"));
        }
        rows().for_each(|way| self.record(way, REFUSED));
    }

    /// Measures a cell.
    fn judge(&mut self, way: &Way, mut measure: impl FnMut(Seen) -> Seen) {
        let expected = self.gap(way).map_or(Seen::AtOnce, |gap| gap.seen);
        if way.name == COPY_UP.name && expected == Seen::Impossible {
            self.record(way, expected.name(self.source));
            return;
        }
        let quiet = self.quiet;
        let _quiet = (expected == Seen::ByReconcile).then(|| quiet.write());
        let _noisy = (way.name == MOUNT.name).then(|| quiet.read());
        // On a busy machine an agent may be late, or look at just the right moment, but not always. A
        // file is copied up but once.
        let tries = if way.name == COPY_UP.name { 1 } else { 3 };
        let mut seen = measure(expected);
        for _ in 1..tries {
            if seen == expected {
                break;
            }
            seen = measure(expected);
        }
        println!("{}, {}, {}: {seen:?}", self.source, self.filesystem, way.name);
        self.record(way, seen.name(self.source));
        if seen != expected {
            self.surprises.push(format!("{}: {seen:?} and not {expected:?}", way.name));
        }
    }

    fn gap(&self, way: &Way) -> Option<&'static Gap> {
        if self.source == Fanotify && self.filesystem == Subvolume {
            return Some(&SUBVOLUME);
        }
        GAPS.iter().find(|gap| {
            gap.sources.contains(&self.source)
                && self.is_here(gap.only)
                && gap.filesystems.contains(&self.filesystem)
                && gap.ways.contains(&way.name)
        })
    }

    fn is_here(&self, only: Only) -> bool {
        match only {
            Only::Everywhere => true,
            Only::Strategy(name) => self.strategy == Some(name),
            Only::Before(major, minor) => kernel() < (major, minor),
        }
    }

    /// Adds a cell to the file that `cargo xtask coverage` asks for.
    fn record(&self, way: &Way, seen: &str) {
        let Some(path) = std::env::var_os("RELOAD_COVERAGE") else { return };
        let cell = json!({
            "row": rows().position(|row| row.name == way.name),
            "way": way.what,
            "source": self.source.name(),
            "strategy": self.strategy,
            "filesystem": self.filesystem.to_string(),
            "seen": seen,
            "reason": self.gap(way).map(|gap| gap.reason),
        });
        let mut file = fs::File::options().create(true).append(true).open(path).unwrap();
        // In one write, for others write to it as well.
        file.write_all(format!("{cell}\n").as_bytes()).unwrap();
    }
}

/// The version of this kernel, `6.1` of `6.1.0-56-cloud-amd64`.
fn kernel() -> (u32, u32) {
    let system = uname();
    let mut numbers = system.release().to_str().unwrap().split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next().unwrap().parse().unwrap();
    (number(), number())
}

/// The content of a revision, which is as long as that of any other.
fn text(revision: u32) -> String {
    format!("revision-{revision:03}-{}\n", "x".repeat(60))
}

/// Three agents that differ in what they do where they are not told that a change is over. What tells
/// how a change is seen is which of them notice, and not when.
struct Scene {
    source: Source,
    witnesses: [Witness; 3],
    revision: u32,
}

/// An agent that notices a change that is seen in one way, or in a better one.
///
/// Each has a file of its own, for what one reads another may notice: overlayfs takes over the times of
/// the upper file when the file is read.
struct Witness {
    seen: Seen,
    path: PathBuf,
    stage: PathBuf,
    agent: Agent,
    target: Running,
    _recipe: Recipe,
    /// What the target has read last.
    content: String,
}

/// What makes an agent see no worse than this.
fn options(source: Source, seen: Seen) -> [&'static str; 6] {
    // Poll never knows that a change is over.
    let guesses = seen != Seen::AtOnce || source == Source::Poll;
    let (settle, max) = if guesses { ("300ms", "600ms") } else { ("1h", "1h") };
    let reconcile = if seen == Seen::ByReconcile { "2s" } else { "1h" };
    ["--settle", settle, "--settle-max", max, "--reconcile", reconcile]
}

/// Longer than it takes any agent to look again at what it has just seen, or to settle.
const SETTLED: Duration = Duration::from_secs(1);

impl Scene {
    fn new(source: Source, paths: [PathBuf; 3]) -> Self {
        let mut kinds = [Seen::AtOnce, Seen::AtSettle, Seen::ByReconcile].into_iter();
        let witnesses = paths.map(|path| {
            let seen = kinds.next().unwrap();
            let stage = path.parent().unwrap().with_extension("stage");
            fs::create_dir(&stage).unwrap();
            let recipe = Recipe::new().reading(&path);
            let target = recipe.start();
            let agent = Agent::with(source, &path, recipe.name(), &options(source, seen));
            let content = target.content.clone();
            Witness { seen, path, stage, agent, target, _recipe: recipe, content }
        });
        Self { source, witnesses, revision: 0 }
    }

    fn next_text(&mut self) -> String {
        self.revision += 1;
        text(self.revision)
    }

    /// Changes the files, and says how that was seen.
    fn measure(&mut self, way: &Way, expected: Seen) -> Seen {
        if way.name == "other_name" {
            self.level(Names::Two);
        }
        let text = self.next_text();
        let changes = self.witnesses.each_ref().map(|witness| witness.change(way, &text));
        let seen = if changes.contains(&Outcome::Unsupported) {
            Seen::Impossible
        } else {
            self.classify(expected)
        };
        let seen = if way.name == MOUNT.name { self.unmount(seen) } else { seen };
        self.let_go(expected);
        self.level(Names::One);
        seen
    }

    /// Lets those who have the files open go, which is the end of the change for who waits for it.
    fn let_go(&mut self, expected: Seen) {
        let held = self.witnesses.each_ref().map(|witness| witness.stage.join("held"));
        if held.map(|held| fs::remove_file(held).is_ok()).contains(&true) {
            // All are told of the end, for a descriptor is closed by then; but where ebpf is not told of a
            // mapping it need not see that anything is new by then, so there is nothing to wait for.
            let may_miss = self.source == Ebpf && expected == Seen::ByReconcile;
            let patience = if may_miss { *PATIENCE / 20 } else { *PATIENCE };
            let [first, ..] = &mut self.witnesses;
            let before = first.content.clone();
            if first.notices(patience) && first.content != before {
                first.agent.events_until("reloaded");
            }
        }
    }

    /// Unmounts what is mounted over the files, and says how that was seen, if that was no better.
    fn unmount(&mut self, mounted: Seen) -> Seen {
        for witness in &self.witnesses {
            run(Command::new("umount").arg("--lazy").arg(&witness.path));
        }
        let unmounted = self.classify(mounted);
        if unmounted == Seen::AtOnce { mounted } else { unmounted }
    }

    /// Says how the change that has just been made was seen.
    fn classify(&mut self, expected: Seen) -> Seen {
        // How long a busy machine may take.
        let late = *PATIENCE / 2;
        let able = self.witnesses.iter().position(|witness| witness.seen == expected);
        let mut able = self.witnesses[able.unwrap_or_default()..].iter_mut();
        let _first = able.find_map(|witness| witness.notices(late).then_some(()));
        if expected == Seen::ByReconcile {
            // The time of the slow look may come at once: those who see more have to have theirs.
            pause(SETTLED);
        }
        let mut witnesses = self.witnesses.iter_mut();
        let Some(first) = witnesses.find_map(|one| one.notices(Duration::ZERO).then_some(one))
        else {
            return Seen::Not;
        };
        if first.seen == Seen::AtOnce {
            let events = first.agent.events_until("reloaded");
            first.check_one_change(&events);
        }
        first.seen
    }

    /// Puts a file there in a way that everybody sees, so that all wait for nothing.
    fn level(&mut self, names: Names) {
        let text = self.next_text();
        for Witness { path, stage, .. } in &self.witnesses {
            let draft = stage.join("draft");
            fs::write(&draft, &text).unwrap();
            if names == Names::Two {
                let other = stage.join("other");
                drop(fs::remove_file(&other));
                fs::hard_link(&draft, other).unwrap();
            }
            fs::rename(&draft, path).unwrap();
        }
        for witness in &mut self.witnesses {
            assert!(witness.notices(*PATIENCE), "{:?} does not see a rename", witness.seen);
        }
        // A second look of theirs must not find what comes next.
        pause_here(SETTLED / 4);
        let [first, ..] = &mut self.witnesses;
        // It is signalled before it is told of.
        let mut events = first.agent.events_until("reloaded");
        events.extend(first.agent.events_at_hand());
        first.check_one_change(&events);
    }
}

/// The names of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    One,
    /// One more in the stage, for the way that writes by that name.
    Two,
}

impl Witness {
    /// Changes its file.
    fn change(&self, way: &Way, text: &str) -> Outcome {
        let before = self.read();
        let outcome = change(way.name, &self.path, &self.stage, text);
        if outcome != Outcome::Unsupported {
            assert_ne!(self.read(), before, "{} changes the file", way.name);
        }
        outcome
    }

    /// What is in its file, read so that nobody notices.
    fn read(&self) -> Vec<u8> {
        let mut content = Vec::new();
        let mut options = fs::File::options();
        let flags = OFlags::NOATIME.bits().cast_signed();
        let mut file = options.read(true).custom_flags(flags).open(&self.path).unwrap();
        file.read_to_end(&mut content).unwrap();
        content
    }

    /// Whether its target has been told of what is there, or will be in this time.
    fn notices(&mut self, time: Duration) -> bool {
        let content = printed(&self.read());
        let deadline = Instant::now() + time;
        while self.content != content {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.target.signal_within(left) {
                Some(signal) => self.content = signal.content,
                None => return false,
            }
        }
        true
    }

    #[track_caller]
    fn check_one_change(&self, events: &[Event]) {
        assert_eq!(count(events, "changed"), 1, "it is one change: {events:?}");
        assert_eq!(count(events, "lost"), 0, "{events:?}");
        let changed = events.iter().find(|event| event.name() == "changed").unwrap();
        assert_eq!(changed.paths(), [self.path.to_str().unwrap()]);
    }
}
