//! Shows the agent at work on a real nginx, and checks what it shows.

mod screen;
mod script;
mod server;
mod stage;
mod tell;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use self::{
    screen::{Screen, Tone, millis},
    server::Kind,
    stage::{Outcome, Stage},
};
use crate::{
    agent::become_root,
    build::{Linkage, Profile, build},
    patience::Patience,
    place::Place,
    setup::{Extent, setup},
};

/// Watch the agent reload a real nginx
///
/// Installs what is missing, builds, and starts an nginx of its own in a temporary folder. Then the
/// configuration is changed in every way that matters, a volume as the kubelet does it
/// among them, and for each change it shows what the kernel told, which process got the signal and
/// when, and when nginx served the new content. The exit status is 0 where all went as expected.
/// Nothing outside of the temporary folder is touched, and nothing stays.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Wait before each change, to read along: 2s
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    #[arg(value_parser = humantime::parse_duration)]
    pause: Duration,

    /// Reload the stand-in for machines that have no nginx, although there is one
    #[arg(long)]
    stand_in: bool,

    /// Where the agent's events come from: auto, ebpf, fanotify, inotify or poll
    #[arg(long, value_name = "NAME", default_value = "auto")]
    source: String,
}

/// Sets up, builds, and plays.
///
/// # Errors
///
/// Fails where something did not go as expected, and names it.
pub(crate) fn run(options: &Options) -> Result<()> {
    let place = Place::find()?;
    // The demo can do without nginx, the build without nothing.
    let toolchain = setup(&place, Extent::Demo).or_else(|error| {
        println!("{error:#}.");
        setup(&place, Extent::Build)
    })?;
    let agent = build(&place, &toolchain, Profile::Release, Linkage::Dynamic)?;
    let kind = Kind::nginx(&place).filter(|_| !options.stand_in);
    let kind = kind.map_or_else(|| Kind::stand_in(&place), Ok)?;
    become_root()?;

    let begun = Instant::now();
    let screen = Screen::new();
    let patience = Patience::new()?;
    screen.heading("reload-agent, live");
    let mut stage = Stage::set(agent, &kind, &options.source, screen, patience)?;
    let mut outcomes = Vec::new();
    for (number, scene) in (1..).zip(&script::SCENES) {
        stage.pause(options.pause)?;
        screen.heading(&format!("{number}  {}", scene.title));
        outcomes.push(stage.play(scene)?);
    }
    stage.pause(options.pause)?;
    screen.heading(&format!("{}  {}", outcomes.len() + 1, script::NO_HANDLER_TITLE));
    outcomes.push(stage.play_without_handler()?);
    let unexplained = stage.clear()?;

    summarize(screen, &outcomes);
    judge(screen, &outcomes, unexplained, begun.elapsed())
}

fn summarize(screen: Screen, outcomes: &[Outcome]) {
    println!();
    screen.cells(["", "seen in the kernel", "HUP after", "served", ""], Tone::Dim);
    for outcome in outcomes {
        let signal = match outcome.signals.as_slice() {
            [] if outcome.is_refused => "refused".to_owned(),
            [] => "none".to_owned(),
            [first, ..] => millis(*first),
        };
        let served = outcome.served.map_or_else(|| "-".to_owned(), millis);
        let seen = outcome.seen.as_deref().unwrap_or("nothing");
        let (result, tone) =
            if outcome.faults.is_empty() { ("ok", Tone::Good) } else { ("FAIL", Tone::Bad) };
        screen.cells([outcome.title, seen, &signal, &served, result], tone);
    }
    println!(
        "\n  HUP after: from the change to the signal, as the agent measured it.\n  \
         served: from its first step to the first answer with the new content."
    );
}

fn judge(screen: Screen, outcomes: &[Outcome], unexplained: usize, took: Duration) -> Result<()> {
    let faults = faults(outcomes, unexplained);
    println!();
    if faults.is_empty() {
        let text =
            format!("All {} went as expected, in {:.1} s.", outcomes.len(), took.as_secs_f64());
        println!("{}", screen.paint(Tone::Good, &text));
        return Ok(());
    }
    bail!("{} not as expected:\n  {}", count(faults.len()), faults.join("\n  "))
}

fn count(number: usize) -> String {
    if number == 1 { "one thing was".to_owned() } else { format!("{number} things were") }
}

fn faults(outcomes: &[Outcome], unexplained: usize) -> Vec<String> {
    let mut faults: Vec<_> = outcomes
        .iter()
        .flat_map(|Outcome { title, faults, .. }| {
            faults.iter().map(move |fault| format!("{title}: {fault}"))
        })
        .collect();
    if unexplained != 0 {
        faults.push(format!("{unexplained} signals were sent that no change explains"));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_as_expected_is_named() {
        let fine = Outcome { title: "fine", ..Outcome::default() };
        let bad = Outcome { title: "bad", faults: vec!["no signal".to_owned()], ..fine.clone() };
        assert!(faults(std::slice::from_ref(&fine), 0).is_empty());
        let expected = ["bad: no signal", "2 signals were sent that no change explains"];
        assert_eq!(faults(&[fine, bad], 2), expected);
    }
}
