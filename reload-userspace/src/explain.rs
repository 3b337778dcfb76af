//! What each rule means here and now, for people: what `run --dry-run` says before it runs on.

use std::{fs, os::fd::BorrowedFd, path::Path};

use humantime::format_duration;
use nix::unistd::Pid;

use crate::{
    doctor::{self, Finding, Standing},
    event::Writers,
    mount::Mounts,
    report::one_line,
    rule::{Action, Check, CheckIn, OnStart, Pace, Rule},
    source::Interest,
    target::{By, Procfs, Selector, Which},
    watch::{self, FileState, Identity, Reach, Visitor},
};

/// How far the lines below a rule's name are indented, for each level.
const INDENT: &str = "  ";

/// Says what each rule means, and looks at what it is about; nothing is changed.
#[must_use]
pub fn explain(rules: &[Rule]) -> String {
    let mounts = Mounts::read().unwrap_or_default();
    let mut page = Page(String::new());
    for rule in rules {
        page.line(0, format!("rule {}", rule.name()));
        for path in rule.watches() {
            watched(&mut page, path, rule.reach(), &mounts);
        }
        if let Some(selector) = rule.selector() {
            processes(&mut page, rule, selector);
        }
        if let Some(check) = rule.check() {
            page.line(1, self::check(check));
        }
        page.line(1, format!("does {}", listed(rule.actions())));
        page.line(1, pace(rule.pace()));
    }
    page.0
}

/// The text so far.
struct Page(String);

impl Page {
    /// Adds a line; what is in it cannot end it, for names may be hostile.
    fn line(&mut self, level: usize, text: impl AsRef<str>) {
        self.0.extend([&INDENT.repeat(level), one_line(text.as_ref()).as_str(), "\n"]);
    }

    fn finding(&mut self, finding: &Finding) {
        self.line(2, &finding.detail);
        if let Some(remedy) = &finding.remedy {
            self.line(3, format!("remedy: {remedy}"));
        }
    }
}

fn watched(page: &mut Page, path: &Path, reach: Reach, mounts: &Mounts) {
    let mut hops = Hops::default();
    let view = watch::look(path, reach, &mut hops);
    page.line(1, format!("watches {}", path.display()));
    page.finding(&doctor::whether_watched(path, &view));
    for hop in hops.0 {
        page.line(2, hop);
    }
    let filesystem = doctor::filesystem(path, mounts);
    page.line(2, format!("on {}", filesystem.detail));
}

/// The directories and symlinks on the way, in the order in which they are come to.
#[derive(Default)]
struct Hops(Vec<String>);

impl Hops {
    fn add(&mut self, hop: String) {
        if !self.0.contains(&hop) {
            self.0.push(hop);
        }
    }
}

impl Visitor for Hops {
    fn directory(&mut self, _: BorrowedFd<'_>, _: Identity, path: &Path, _: Interest) {
        self.add(format!("directory {}", path.display()));
    }

    fn link(&mut self, path: &Path, target: &Path) {
        self.add(format!("symlink {} -> {}", path.display(), target.display()));
    }

    fn file(&mut self, _: BorrowedFd<'_>, _: Identity, path: &Path) {
        self.add(format!("file {}", path.display()));
    }

    fn writers(&mut self, _: BorrowedFd<'_>, _: &Path, _: &FileState) -> Writers {
        Writers::Unknown
    }
}

fn processes(page: &mut Page, rule: &Rule, selector: &Selector) {
    page.line(1, format!("reloads {}", whom(selector)));
    let procfs = Procfs::default();
    let found = procfs.verify().and_then(|()| procfs.resolve(selector));
    let found = match found {
        Ok(found) => found,
        Err(error) => {
            page.line(2, format!("{:#}", anyhow::Error::from(error)));
            return;
        }
    };
    let me = Standing::own();
    if found.is_empty() {
        page.line(2, "no such process now; it is waited for");
    }
    for held in &found {
        let pid = held.target().pid;
        page.line(2, format!("pid {pid}, {}", known_as(pid)));
        let signals = rule.actions().iter().filter_map(Action::signal);
        let caution = rule.pace().caution;
        for signal in signals {
            let verdict = me
                .as_ref()
                .and_then(|me| doctor::whether_signalled(&procfs, held, signal, caution, me));
            if let Some(verdict) = verdict {
                page.finding(&verdict);
            }
        }
    }
}

fn whom(selector: &Selector) -> String {
    let (by, name) = match &selector.by {
        By::Process(_) => ("by the name", selector),
        By::Exe(_) => ("by the executable", selector),
        By::PidFile(_) => return format!("the process whose pid is in {selector}"),
    };
    match selector.which {
        Which::Topmost => format!("the topmost process of each tree {by} {name}"),
        Which::All => format!("every process {by} {name}"),
    }
}

/// By what a process can be told: the name of its task, and its executable where it may be seen.
fn known_as(pid: Pid) -> String {
    let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    let name = String::from_utf8_lossy(&name).trim_end_matches('\n').to_owned();
    match fs::read_link(format!("/proc/{pid}/exe")) {
        Ok(executable) => format!("called {name}, runs {}", executable.display()),
        Err(_) => format!("called {name}"),
    }
}

fn check(check: &Check) -> String {
    let Check { command, place, timeout } = check;
    let place = match place {
        CheckIn::Agent => "as the agent",
        CheckIn::Target => "in the namespaces of the process, as its user",
    };
    format!("checks with {command}, {place}, within {}", format_duration(*timeout))
}

/// The actions in their order.
fn listed(actions: &[Action]) -> String {
    actions.iter().map(Action::to_string).collect::<Vec<_>>().join(", then ")
}

fn pace(pace: Pace) -> String {
    let Pace { limits, caution, min_interval, confirm_timeout, on_start } = pace;
    let mut parts = vec![
        format!("waits for {} of quiet", format_duration(limits.quiet)),
        format!("{} at most", format_duration(limits.max)),
        format!("{} between two reloads", format_duration(min_interval)),
    ];
    parts.push(if confirm_timeout.is_zero() {
        "no confirmation".to_owned()
    } else {
        format!("{} for confirmation", format_duration(confirm_timeout))
    });
    if caution.is_forced {
        parts.push("signals whatever the process does with them".to_owned());
    }
    if on_start == OnStart::Reload {
        parts.push("a reload at start".to_owned());
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use clap::Parser as _;

    use super::*;
    use crate::{
        cli::{Cli, Command},
        rule::from_args,
    };

    fn rules(arguments: &[&str]) -> Vec<Rule> {
        let Command::Run(run) =
            Cli::parse_from([&["reload-agent", "run"], arguments].concat()).command
        else {
            unreachable!("it is what was typed");
        };
        from_args(&run).unwrap()
    }

    #[test]
    fn a_rule_is_told_hop_by_hop() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.conf");
        fs::write(dir.path().join("real"), "0").unwrap();
        symlink("real", &path).unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id().to_string();

        let watch = path.to_str().unwrap();
        let common = ["--watch", watch, "--check", "true 'a b'", "--exec", "render"];
        let named = ["--process", "sleep", "--all", "--signal", "USR1"];
        let text = explain(&rules(&[&common[..], &named].concat()));
        child.kill().unwrap();
        child.wait().unwrap();

        let dir = dir.path().display();
        let lines: Vec<_> = text.lines().collect();
        for line in [
            "rule sleep".to_owned(),
            format!("  watches {dir}/app.conf"),
            "    a file of 1 bytes".to_owned(),
            format!("    directory {dir}"),
            format!("    symlink {dir}/app.conf -> real"),
            format!("    file {dir}/app.conf"),
            "  reloads every process by the name sleep".to_owned(),
            "  checks with true 'a b', as the agent, within 10s".to_owned(),
            "  does exec render, then signal USR1".to_owned(),
            "  waits for 100ms of quiet, 2s at most, 1s between two reloads, 5s for confirmation"
                .to_owned(),
        ] {
            assert!(lines.contains(&line.as_str()), "no line {line:?} in {text}");
        }
        let at =
            lines.iter().position(|line| line.starts_with(&format!("    pid {pid}, called sleep")));
        let verdict = lines[at.unwrap() + 1];
        assert!(
            verdict
                .ends_with(": USR1 would be withheld: the process has no handler for the signal"),
            "{text}"
        );
        assert!(lines[at.unwrap() + 2].starts_with("      remedy: "), "{text}");
    }

    #[test]
    fn what_is_missing_is_waited_for_and_names_stay_on_their_line() {
        let text = explain(&rules(&["--watch", "/nonexistent\n", "--process", "nobody\n"]));
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "rule nobody\\n");
        assert_eq!(lines[1], "  watches /nonexistent\\n");
        assert!(lines.contains(&"    no such process now; it is waited for"), "{text}");
    }
}
