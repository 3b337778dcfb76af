//! Who may name whom among the modules of the agent.
//!
//! The table is the arrows of ARCHITECTURE.md: they point one way, down the pipeline.

use super::text::Text;

/// Which of the agent's modules a module names.
#[derive(Debug)]
enum May {
    /// All of them: it puts the others together.
    All,
    /// All but these.
    AllBut(&'static [&'static str]),
    /// These and no other.
    Only(&'static [&'static str]),
}

use May::{All, AllBut, Only};

/// The modules of reload-userspace, and whom each may name besides itself.
///
/// A module is a file of `src/` with the folder of its name. A new one gets a line here; say in
/// ARCHITECTURE.md where in the pipeline it stands.
const MAY_IMPORT: &[(&str, May)] = &[
    ("agent", AllBut(&["doctor", "explain", "node"])),
    ("child", Only(&["rule", "sys", "target", "timeout"])),
    ("cli", Only(&[])),
    ("clock", Only(&[])),
    ("confirm", Only(&["clock", "reach", "sys", "target"])),
    ("content", Only(&["reach", "watch"])),
    ("delivery", Only(&["clock", "content"])),
    ("doctor", AllBut(&["agent", "explain", "node"])),
    ("event", Only(&["clock"])),
    ("explain", Only(&["doctor", "event", "mount", "report", "rule", "source", "target", "watch"])),
    ("filesystem", Only(&[])),
    ("ledger", Only(&["clock", "content", "target"])),
    ("lib", All),
    ("main", All),
    ("mount", Only(&[])),
    ("node", Only(&["agent", "cli", "clock", "report", "rule", "target", "telemetry"])),
    ("places", Only(&["clock", "event", "reach", "source", "watch"])),
    ("post", Only(&["report", "rule", "sys", "timeout"])),
    ("preflight", Only(&["target"])),
    ("reach", Only(&["sys"])),
    ("report", Only(&["cli", "confirm", "event", "preflight"])),
    ("rights", Only(&["event", "rule", "source", "sys"])),
    ("rule", Only(&["cli", "preflight", "settle", "sys", "target", "watch"])),
    ("settle", Only(&["clock", "event"])),
    ("source", Only(&["clock", "event", "filesystem", "mount", "reach", "sys"])),
    ("sys", Only(&[])),
    ("target", Only(&["clock", "sys"])),
    ("telemetry", Only(&["confirm", "content", "event", "preflight", "report"])),
    ("timeout", Only(&[])),
    ("trace", AllBut(&["agent", "delivery", "doctor", "explain", "ledger", "node", "telemetry"])),
    ("watch", Only(&["event", "reach", "source"])),
    ("watched", Only(&["clock", "content", "event", "places", "settle", "source", "watch"])),
    ("witness", Only(&["clock", "confirm", "event", "places", "reach", "source", "watch"])),
];

/// Says what is wrong with the names in one file, `path` being relative to `src/`.
pub(super) fn faults(path: &str, text: &Text) -> Vec<String> {
    faults_by(MAY_IMPORT, path, text)
}

/// Lists the lines of the table that are about no module, `paths` being relative to `src/`.
pub(super) fn stale(paths: &[&str]) -> Vec<String> {
    stale_by(MAY_IMPORT, paths)
}

fn faults_by(table: &[(&str, May)], path: &str, text: &Text) -> Vec<String> {
    let module = module_of(path);
    let Some((_, may)) = table.iter().find(|(name, _)| *name == module) else {
        return vec![format!("`{module}` is not in MAY_IMPORT")];
    };
    let is_module = |name: &str| table.iter().any(|(known, _)| *known == name);
    let mut strangers: Vec<_> = named(path, text.tested_code())
        .into_iter()
        .filter(|name| *name != module && is_module(name))
        .filter(|name| match may {
            All => false,
            AllBut(names) => names.contains(name),
            Only(names) => !names.contains(name),
        })
        .collect();
    strangers.sort_unstable();
    strangers.dedup();
    strangers.iter().map(|name| format!("`{module}` may not name `{name}`")).collect()
}

fn stale_by(table: &[(&str, May)], paths: &[&str]) -> Vec<String> {
    table
        .iter()
        .filter(|(name, _)| !paths.iter().any(|path| module_of(path) == *name))
        .map(|(name, _)| format!("MAY_IMPORT has a line for `{name}`, which is no module"))
        .collect()
}

fn module_of(path: &str) -> &str {
    path.split(['/', '.']).next().unwrap_or_default()
}

/// Lists what `code` takes from the root of the crate.
fn named<'a>(path: &str, code: &'a str) -> Vec<&'a str> {
    // From `a/b.rs` the root is two steps up, for it is the module `a::b`.
    let up = "super::".repeat(path.split('/').count());
    let roots = ["crate::", "reload_userspace::", &up];
    roots.into_iter().flat_map(|root| after(code, root)).collect()
}

/// Lists the first names after each `root`: one, or several in braces.
fn after<'a>(code: &'a str, root: &str) -> Vec<&'a str> {
    let mut names = Vec::new();
    for (at, _) in code.match_indices(root) {
        // `super::` is also the end of `super::super::`, which is a longer way up.
        if code[..at].ends_with(|c: char| is_word(c) || c == ':') {
            continue;
        }
        let rest = &code[at + root.len()..];
        match rest.strip_prefix('{') {
            Some(group) => names.extend(in_group(group)),
            None => names.push(first_word(rest)),
        }
    }
    names
}

/// Lists the first word of each item of `a, b::{c, d}, e}…`, up to the brace that closes it.
fn in_group(group: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let (mut depth, mut start) = (0_u32, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(first_word(group[start..at].trim_start()));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn first_word(text: &str) -> &str {
    text.split(|c| !is_word(c)).next().unwrap_or_default()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[(&str, May)] = &[
        ("agent", All),
        ("doctor", AllBut(&["agent"])),
        ("event", Only(&[])),
        ("source", Only(&["event"])),
    ];

    #[test]
    fn a_module_names_only_those_that_it_may() {
        fn check(path: &str, code: &str, expected: &[&str]) {
            assert_eq!(faults_by(TABLE, path, &Text::new(code)), expected, "for {path}: {code}");
        }
        let no_agent = "`source` may not name `agent`";
        check("source.rs", "use crate::event::Event;", &[]);
        check("source.rs", "use crate::agent::Agent;", &[no_agent]);
        check("source.rs", "use crate::{event::Event, agent};", &[no_agent]);
        check("source.rs", "use crate::{event::{A, B}, agent::{C, D}};", &[no_agent]);
        check("source.rs", "use crate::{\n    agent,\n};", &[no_agent]);
        check("source.rs", "fn f() { crate::agent::f(); crate::agent::g() }", &[no_agent]);
        check("source.rs", "use super::agent;", &[no_agent]);
        check("source/ebpf.rs", "use super::super::agent;", &[no_agent]);
        check("source/ebpf.rs", "use super::agent;", &[]);
        check("source/ebpf.rs", "use crate::source::ebpf::map;", &[]);
        check("source/ebpf/load.rs", "use crate::agent;", &[no_agent]);
        check("source.rs", "//! Unlike [`crate::agent`].", &[]);
        check("source.rs", "#[cfg(test)]\nmod tests { use crate::agent; }", &[]);
        check("source.rs", "use crate::{Error, no_module};", &[]);
        check("event.rs", "use crate::source;", &["`event` may not name `source`"]);
        check("doctor.rs", "use crate::{source, agent};", &["`doctor` may not name `agent`"]);
        check("agent.rs", "use crate::{source, doctor};", &[]);
        check("new.rs", "", &["`new` is not in MAY_IMPORT"]);
    }

    #[test]
    fn a_line_of_the_table_without_a_module_is_stale() {
        let paths = ["agent.rs", "doctor.rs", "source.rs", "source/ebpf.rs"];
        let expected = ["MAY_IMPORT has a line for `event`, which is no module"];
        assert_eq!(stale_by(TABLE, &paths), expected);
    }
}
