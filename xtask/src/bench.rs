//! Measures what the project promises, each thing side by side with what it is compared to.
//!
//! Times mean nothing across machines, and little across runs. So everything is measured in one run
//! and by turns, A B A B, summed up per turn, and compared between neighbours; what is printed is the
//! median. Nothing here fails for a number.

mod cost;
mod instructions;
mod kernel;
mod lab;
mod latency;
mod report;
mod stat;
mod upkeep;

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};

use self::{lab::Lab, report::Report};
use crate::{
    build::{Built, Linkage, Profile, build},
    place::{Place, is_root, printed},
    setup::{Extent, setup},
};

/// Measure latency, memory, and what the agent costs others
///
/// Prints what was measured beside the goals of the design. The agent's own clock is trusted for
/// nothing that can be seen from outside. Takes about four minutes, and needs root, a machine that
/// does little else, and for one of the comparisons inotify-tools.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// What to measure; all of it if nothing is named
    #[arg(value_name = "WHAT")]
    parts: Vec<Part>,

    /// Take fewer samples: less than a minute, and more noise
    #[arg(long)]
    quick: bool,

    /// Also write what was measured to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Where the agent's events come from: auto, ebpf, fanotify, inotify or poll
    #[arg(long, value_name = "NAME", default_value = "auto")]
    source: String,
}

/// Something that is measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// From a change to the handler
    Latency,
    /// What others pay, and how long the agent takes to start
    Cost,
    /// What others pay on Debian's kernels, in instructions, which virtual machines count; only where it is
    /// named
    Instructions,
    /// Memory, and many directories
    Memory,
    /// Idleness beside a busy program
    Idle,
}

/// How much to measure.
#[derive(Clone, Copy, Debug)]
struct Plan {
    latency: latency::Plan,
    cost_rounds: usize,
    idle: Duration,
}

const FULL: Plan = Plan {
    latency: latency::Plan { rounds: 9, samples: 500, samples_of_loop: 50 },
    cost_rounds: 40,
    idle: Duration::from_secs(30),
};

const QUICK: Plan = Plan {
    latency: latency::Plan { rounds: 3, samples: 200, samples_of_loop: 15 },
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
    let place = Place::find()?;
    let toolchain = setup(&place, Extent::Build)?;
    let Built { agent, .. } = build(&place, &toolchain, Profile::Release, Linkage::Dynamic)?;
    let plan = if options.quick { QUICK } else { FULL };
    let binary = agent.clone();
    let lab = Lab::new(&place, agent, options.source.clone())?;

    let machine = machine(&place);
    println!("\n{machine}");
    let mut report = Report::default();
    let is_asked = |part| options.parts.is_empty() || options.parts.contains(&part);
    if is_asked(Part::Latency) {
        let title = "rename(2) of the watched file -> handler, us: p50 / p90 / p99";
        report.add(title, latency::measure(&lab, plan.latency)?);
    }
    if is_asked(Part::Cost) {
        let costs = cost::measure(&lab, plan.cost_rounds)?;
        report.add("Start to `ready`", upkeep::start(&costs));
        report.add("Added to others, and its 95 % interval", costs.rows);
        let title = "The eBPF programs themselves, while the kernel counts";
        report.add(title, cost::count(&lab)?);
    }
    if options.parts.contains(&Part::Instructions) {
        for (line, rows) in instructions::count(&place, &binary, &lab)? {
            report.add(format!("Instructions added on Linux {line}"), rows);
        }
    }
    if is_asked(Part::Memory) {
        let (memory, scale) = upkeep::memory_and_scale(&lab)?;
        report.add("Memory", memory);
        report.add("Many directories", scale);
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
    Ok(())
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
