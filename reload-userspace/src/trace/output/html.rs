//! One page that needs nothing else: no script that runs, no network, no font. Its data are in it, as JSON.

use std::io::{self, Write};

use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::json;

use super::text::took;
use crate::{
    report::one_line,
    trace::{
        record::{Passed, Record},
        step::{Stage, Who},
        summary::{KEPT, Summary, Told},
    },
};

const STYLE: &str = include_str!("html/style.css");

pub(super) fn write(to: &mut dyn Write, summary: &Summary) -> io::Result<()> {
    let told = summary.told();
    let mut data = Vec::new();
    super::json::write(&mut data, &json!({"updates": summary.slowest(), "summary": told}))?;
    let data = String::from_utf8(data).map_err(io::Error::other)?;
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "reload-agent trace" }
                // Browsers ask for one otherwise.
                link rel="icon" href="data:,";
                style { (PreEscaped(STYLE)) }
            }
            body {
                a class="skip" href="#updates" { "Skip to the updates" }
                header {
                    h1 { "Where the time of each update went" }
                    p {
                        (told.updates) " updates, " (told.unchanged) " of them without a change, "
                        (told.lost) " records lost"
                    }
                }
                main {
                    (stages(&told))
                    (actors(&told))
                    section id="updates" aria-labelledby="updates-title" {
                        h2 id="updates-title" { "Updates" }
                        @if told.updates > KEPT as u64 { p { "The " (KEPT) " slowest." } }
                        @for record in summary.slowest() { (update(record)) }
                    }
                }
                script type="application/json" id="data" { (PreEscaped(data.replace('<', "\\u003c"))) }
            }
        }
    };
    writeln!(to, "{}", page.into_string())
}

fn stages(told: &Told) -> Markup {
    html! {
        section aria-labelledby="stages-title" {
            h2 id="stages-title" { "Stages" }
            div class="wide" { table {
                caption { "How long each stage came after the one before it" }
                thead { tr {
                    @for title in ["Stage", "Updates", "p50", "p90", "p99", "Max"] {
                        th scope="col" { (title) }
                    }
                } }
                tbody { @for row in &told.stages {
                    tr {
                        th scope="row" { (row.stage.map_or("the whole update", Stage::words)) }
                        td { (row.count) }
                        @for micros in [row.p50_us, row.p90_us, row.p99_us, row.max_us] { (time(micros)) }
                    }
                } }
            } }
        }
    }
}

fn actors(told: &Told) -> Markup {
    html! {
        section aria-labelledby="actors-title" {
            h2 id="actors-title" { "Actors" }
            div class="wide" { table {
                caption { "Who did what was seen" }
                thead { tr {
                    @for title in ["Name", "Last pid", "Container", "Steps", "Updates"] {
                        th scope="col" { (title) }
                    }
                } }
                tbody { @for it in &told.actors {
                    tr {
                        th scope="row" { (one_line(it.who.comm.as_deref().unwrap_or("not known"))) }
                        td { @if let Some(pid) = it.who.pid { (pid) } }
                        td { (one_line(it.who.container.as_deref().unwrap_or_default())) }
                        td { (it.steps) }
                        td { (it.updates) }
                    }
                } }
            } }
            @if told.more_actors > 0 { p { "And " (told.more_actors) " steps of others." } }
        }
    }
}

fn update(record: &Record) -> Markup {
    let title = format!("update-{}", record.update);
    html! {
        article aria-labelledby=(title) {
            h3 id=(title) { "Update " (record.update) ", " (took(record.total_us)) }
            p {
                time { (record.began) } " "
                @if record.unchanged { "The content is what it was." }
                @for obstacle in &record.obstacles { (one_line(obstacle)) ". " }
                @for path in &record.paths { code { (one_line(path)) } " " }
            }
            (timeline(record))
            @for gap in &record.lost {
                p class="gap" role="note" { "Gap: " (gap.count) " records lost: " (one_line(&gap.reason)) }
            }
            @if !record.remaining.is_empty() {
                p { "Has not ended, and was there before: "
                    (record.remaining.iter().map(name).collect::<Vec<_>>().join(", ")) "." }
            }
            @if !record.absent.is_empty() {
                p { "Did not happen within " (took(record.followed_us)) ": "
                    (record.absent.iter().map(|it| it.words()).collect::<Vec<_>>().join(", ")) "." }
            }
            details {
                summary { "Steps of update " (record.update) }
                div class="wide" { table {
                    caption { "All that happened, in the order of time" }
                    thead { tr {
                        @for title in ["At", "Stage", "Who", "What", "Times"] {
                            th scope="col" { (title) }
                        }
                    } }
                    tbody { @for step in &record.steps {
                        tr {
                            (time(step.at_us))
                            td { (step.stage.map_or("", Stage::words)) }
                            td { (name(&step.who)) }
                            th scope="row" class="what" { (one_line(&step.what)) }
                            td { (step.count) }
                        }
                    } }
                } }
                @if record.more_steps > 0 { p { "And " (record.more_steps) " steps more." } }
                @if !record.not_visible.is_empty() {
                    ul { @for it in &record.not_visible {
                        li { (it.stage.words()) ": not visible, for " (one_line(&it.reason)) }
                    } }
                }
            }
        }
    }
}

/// A row for each stage, with a bar from the stage before it.
fn timeline(record: &Record) -> Markup {
    let part =
        |micros: f64| if record.total_us > 0.0 { micros * 100.0 / record.total_us } else { 0.0 };
    let bar = |it: &Passed| {
        let width = part(it.took_us.unwrap_or_default());
        let left = part(it.at_us) - width;
        // Of what is short something is to be seen, too.
        format!("margin-left:min({left:.2}%,calc(100% - 3px));width:max({width:.2}%,3px)")
    };
    html! {
        div class="wide" { table class="timeline" {
            caption { "The stages of update " (record.update) }
            thead { tr {
                @for title in ["Stage", "At", "Took", "Who", "From the first step to the last stage"] {
                    th scope="col" { (title) }
                }
            } }
            tbody { @for it in &record.stages {
                tr class=[it.is_slowest.then_some("slowest")] {
                    th scope="row" { (it.stage.words()) @if it.is_slowest { " (slowest)" } }
                    (time(it.at_us))
                    @match it.took_us { Some(took) => (time(took)), None => td {} }
                    td { (name(&it.who)) }
                    td class="track" { div class="bar" style=(bar(it)) {} }
                }
            } }
        } }
    }
}

/// A cell with a time, which says it in microseconds for programs.
fn time(micros: f64) -> Markup {
    html! { td class="time" data-us=(micros) { (took(micros)) } }
}

fn name(who: &Who) -> String {
    let name = who.comm.as_deref().map(one_line);
    match (name, who.pid) {
        (Some(name), Some(pid)) => format!("{name} ({pid})"),
        (Some(name), None) => name,
        (None, Some(pid)) => format!("pid {pid}"),
        (None, None) => String::new(),
    }
}
