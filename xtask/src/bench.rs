//! Measures what the project promises, each thing side by side with what it is compared to.
//!
//! Times mean nothing across machines, and little across runs. So everything is measured in one run
//! and by turns, A B A B, summed up per turn, and compared between neighbours; what is printed is the
//! median. Nothing here fails for a number.

mod burst;
mod contender;
mod cost;
mod document;
mod instructions;
mod kernel;
mod lab;
mod latency;
mod plot;
mod report;
mod scale;
mod stat;
mod upkeep;

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};

use self::{
    document::Document,
    lab::Lab,
    latency::Way,
    plot::{Line, Picture, distribution},
    report::{Report, Row},
    scale::Kind,
};
use crate::{
    build::{Linkage, Profile, build},
    place::{Place, is_root, printed},
    setup::{Extent, setup},
};

/// Measure the agent beside other reloaders, and what it costs
///
/// Prints what was measured beside the goals of the design. The agent's own clock is trusted for
/// nothing that can be seen from outside. Takes about half an hour, and needs root, a machine that
/// does little else, and of the other reloaders those that are to be compared: inotify-tools, entr,
/// watchexec and watchman; of one that is missing that is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// What to measure; all but instructions if nothing is named
    #[arg(value_name = "WHAT")]
    parts: Vec<Part>,

    /// Take fewer samples: some minutes, and more noise
    #[arg(long)]
    quick: bool,

    /// Also write what was measured to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Also write docs/benchmarks.md and its pictures anew; takes all but instructions
    #[arg(long)]
    write: bool,

    /// Where the agent's events come from, except where it is compared: auto, ebpf, fanotify, inotify or poll
    #[arg(long, value_name = "NAME", default_value = "auto")]
    source: String,
}

/// Something that is measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// From a change to the handler, beside other reloaders
    Latency,
    /// Changes in quick succession, beside other reloaders
    Burst,
    /// Idleness beside a busy program
    Idle,
    /// Many directories, many rules, and a machine that is busy otherwise
    Scale,
    /// What others pay, and how long the agent takes to start
    Cost,
    /// The memory of an agent that has worked, and the size of its binary
    Memory,
    /// What others pay on Debian's kernels, in instructions, which virtual machines count; only where it is
    /// named
    Instructions,
    /// All but instructions
    All,
}

/// How much to measure.
#[derive(Clone, Copy, Debug)]
struct Plan {
    latency: latency::Plan,
    burst: burst::Plan,
    cost_rounds: usize,
    idle: Duration,
}

const FULL: Plan = Plan {
    latency: latency::Plan { rounds: 7, samples: 100, samples_of_slow: 30 },
    burst: burst::Plan { changes: 10_000, pairs: 10 },
    cost_rounds: 40,
    idle: Duration::from_secs(30),
};

const QUICK: Plan = Plan {
    latency: latency::Plan { rounds: 3, samples: 50, samples_of_slow: 10 },
    burst: burst::Plan { changes: 1_000, pairs: 3 },
    cost_rounds: 8,
    idle: Duration::from_secs(5),
};

/// Sets up, builds, measures.
///
/// # Errors
///
/// Fails where something cannot be measured, never for what was measured.
pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(is_root(), "the bench looks into the agent, which runs as root: run it as root");
    if let Some(path) = &options.json {
        // Before half an hour has gone by.
        let opened = fs::File::options().create(true).append(true).open(path);
        opened.with_context(|| format!("cannot write {}, which --json names", path.display()))?;
    }
    let is_all = options.parts.is_empty() || options.parts.contains(&Part::All);
    ensure!(is_all || !options.write, "--write wants all that is measured: name `all`, or nothing");
    let place = Place::find()?;
    let toolchain = setup(&place, Extent::Build)?;
    // As it is shipped.
    let agent = build(&place, &toolchain, Profile::Release, Linkage::Static)?;
    let plan = if options.quick { QUICK } else { FULL };
    let lab = Lab::new(&place, agent.clone(), options.source.clone())?;

    let machine = format!("{}, {}", lab.says()?, machine(&place));
    println!("\n{machine}");
    let mut report = Report::default();
    let mut pictures = Vec::new();
    let is_asked = |part| is_all || options.parts.contains(&part);
    if is_asked(Part::Latency) {
        for way in Way::ALL {
            pictures.push(latency_of(&lab, plan.latency, way, &mut report)?);
        }
    }
    if is_asked(Part::Burst) {
        pictures.push(bursts(&lab, plan.burst, &mut report)?);
    }
    if is_asked(Part::Scale) {
        pictures.extend(scales(&lab, plan.idle, &mut report)?);
    }
    if is_asked(Part::Cost) {
        let costs = cost::measure(&lab, plan.cost_rounds)?;
        report.add("Start to `ready`", upkeep::start(&costs));
        report.add("Added to others, and its 95 % interval", costs.rows);
        let title = "The eBPF programs themselves, while the kernel counts";
        report.add(title, cost::count(&lab)?);
    }
    if options.parts.contains(&Part::Instructions) {
        for (line, rows) in instructions::count(&place, &agent, &lab)? {
            report.add(format!("Instructions added on Linux {line}"), rows);
        }
    }
    if is_asked(Part::Memory) {
        report.add("Memory", upkeep::memory(&lab)?);
        report.add("Binaries", upkeep::sizes(&lab)?);
    }
    if is_asked(Part::Idle) {
        let title = format!("Idle, for {} s beside a busy program", plan.idle.as_secs());
        report.add(title, upkeep::idle(&lab, plan.idle)?);
    }
    println!("\nAt the end the load average is {}.", load());

    if let Some(path) = &options.json {
        let text = format!("{:#}\n", report.json(&machine));
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if options.write {
        Document { machine: &machine, report: &report, pictures: &pictures }.write(&place)?;
    }
    Ok(())
}

/// Measures everybody's latency with one way to change a file.
fn latency_of(lab: &Lab, plan: latency::Plan, way: Way, report: &mut Report) -> Result<Picture> {
    let all = latency::measure(lab, plan, way)?;
    let latency::Plan { rounds, samples, samples_of_slow } = plan;
    let title = format!(
        "{} -> handler, us: p50 / p90 / p99 / max of {rounds} x {samples} ({samples_of_slow} of scripts)",
        way.name()
    );
    report.add(title, all.iter().map(latency::Measured::row).chain(absent()).collect());
    let title = format!(
        "The same, {}: 95 % interval of p50 in us / processor in us and wake-ups a change / RSS and PSS \
         in MiB / ms until ready",
        way.name()
    );
    report.add(title, all.iter().map(latency::Measured::cost_row).collect());
    if way == Way::Rename {
        report.add("The agent beside others, by rename", latency::ratios(&all));
    }
    let is_shown = |it: &&latency::Measured| !it.samples().is_empty();
    let lines = all.iter().filter(is_shown);
    let lines = lines.map(|it| distribution(it.contender.name, &it.samples())).collect();
    Ok(Picture {
        file: match way {
            Way::Rename => "latency-rename",
            Way::Swap => "latency-swap",
            Way::Write => "latency-write",
        },
        title: format!("From {} to the handler", way.name()),
        across: "microseconds",
        up: "% of changes handled by then",
        is_log: false,
        lines,
    })
}

/// A row for each contender that is not measured.
fn absent() -> impl Iterator<Item = Row> {
    contender::ALL.iter().filter_map(|it| {
        let shown = format!("not run: {}", it.absence()?);
        Some(Row::new(it.name, shown, serde_json::Value::Null))
    })
}

/// Measures what becomes of changes in quick succession.
fn bursts(lab: &Lab, plan: burst::Plan, report: &mut Report) -> Result<Picture> {
    let all = burst::measure(lab, plan)?;
    let title = format!(
        "{} changes as fast as they can be made: when the last was read, and signals",
        plan.changes
    );
    report.add(title, all.iter().map(burst::Measured::storm_row).chain(absent()).collect());
    let spacings: Vec<_> = burst::SPACINGS.iter().map(|us| (us / 1000).to_string()).collect();
    let title = format!(
        "The second of two changes {} ms apart is missed, of {} times each",
        spacings.join(" / "),
        plan.pairs
    );
    report.add(title, all.iter().map(burst::Measured::pairs_row).collect());
    let part = |missed: u32| 100.0 * f64::from(missed) / f64::from(plan.pairs);
    let point = |&(us, missed): &(u32, u32)| (f64::from(us.max(100)) / 1e3, part(missed));
    let lines = all.iter().map(|it| Line {
        name: it.contender.name.to_owned(),
        points: it.missed.iter().map(point).collect(),
    });
    Ok(Picture {
        file: "missed",
        title: "Of two changes, the second is missed".to_owned(),
        across: "milliseconds between them",
        up: "% of second changes missed",
        is_log: false,
        lines: lines.collect(),
    })
}

/// Measures what becomes of the agent where there is much to do.
fn scales(lab: &Lab, time: Duration, report: &mut Report) -> Result<Vec<Picture>> {
    let mut curves = Vec::new();
    for kind in [Kind::Directories, Kind::Rules] {
        let all = scale::measure(lab, kind)?;
        let rows = all.iter().flat_map(|it| it.rows(kind)).collect();
        report.add(format!("More and more {}", kind.name()), rows);
        curves.push((kind, all));
    }
    report.add("Beside others", scale::beside_others(lab, time)?);
    let lines = |pick: fn(&scale::Measured) -> Option<f64>| {
        let line = |(kind, all): &(Kind, Vec<scale::Measured>)| {
            let points = all.iter().filter_map(|it| Some((f64::from(it.count), pick(it)?)));
            Line { name: kind.name().to_owned(), points: points.collect() }
        };
        curves.iter().map(line).collect::<Vec<_>>()
    };
    let picture = |file, title: &str, up, lines| Picture {
        file,
        title: title.to_owned(),
        across: "directories, or rules with one each",
        up,
        is_log: true,
        lines,
    };
    let latency = lines(|it| it.p50);
    let memory = lines(|it| Some(it.rss_mib));
    let processor = lines(|it| Some(it.processor_us));
    Ok(vec![
        picture(
            "scale-latency",
            "A change in one: rename to handler, p50",
            "microseconds",
            latency,
        ),
        picture("scale-memory", "Memory in use", "MiB", memory),
        picture("scale-processor", "Processor time for a change", "microseconds", processor),
    ])
}

/// What is measured, and on what.
fn machine(place: &Place) -> String {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty"]).current_dir(&place.root);
    let version = printed(&mut git).unwrap_or_default();
    let kernel = printed(Command::new("uname").args(["-sr"])).unwrap_or_default();
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    let (version, kernel) = (version.trim(), kernel.trim());
    format!("reload-agent {version} on {kernel}, {count} processors, load average {}", load())
}

fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("unknown").to_owned()
}
