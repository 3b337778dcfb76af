//! Checks the rules that the compiler cannot: who may name whom, what must be written down.
//!
//! They run as unit tests, so that `cargo test` keeps them. Each looks at text and gives faults,
//! each fault one line, `path: what is wrong`.

mod import;
mod text;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use self::text::Text;

/// Check the rules of ARCHITECTURE.md and CONTRIBUTING.md that the compiler cannot
///
/// `cargo test` checks them too.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {}

/// A file with more lines of code than this, its tests left out, wants to be two.
const MAX_LINES: usize = 400;

/// The map of the code: a line for every file.
const MAP: &str = "ARCHITECTURE.md";

/// The documents that may name no file which is gone.
const DOCUMENTS: &[&str] = &[MAP, "CONTRIBUTING.md", "README.md"];

/// The agent's source.
const AGENT: &str = "reload-userspace/src/";

/// Where `unsafe` may stand, by the start of the path.
const UNSAFE: &[&str] =
    &["reload-userspace/src/sys.rs", "reload-userspace/src/sys/", "reload-ebpf/src/"];

/// Where it may not, all the same: what the host compiles of the eBPF half.
const SAFE: &[&str] = &["reload-ebpf/src/lib.rs", "reload-ebpf/src/abi.rs"];

/// Where aya may be named in the agent.
const AYA: &str = "reload-userspace/src/source/ebpf";

/// Checks the whole checkout and prints every fault.
///
/// # Errors
///
/// Fails where there is a fault, and where a file cannot be read.
pub(crate) fn run(_: &Options) -> Result<()> {
    let faults = faults(&Checkout::read(root())?);
    for fault in &faults {
        println!("{fault}");
    }
    ensure!(faults.is_empty(), "{} of the rules are broken", faults.len());
    Ok(())
}

fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// The files that the rules are about: their paths, relative to the root, and their text.
#[derive(Debug, Default)]
struct Checkout(BTreeMap<String, String>);

impl Checkout {
    fn read(root: &Path) -> Result<Self> {
        let mut files = Self::default();
        for document in DOCUMENTS {
            files.add(root, &root.join(document))?;
        }
        files.add_tree(root, &root.join("tests"))?;
        for package in folder(root)?.into_iter().filter(|path| path.join("Cargo.toml").is_file()) {
            files.add(root, &package.join("Cargo.toml"))?;
            files.add(root, &package.join("build.rs"))?;
            files.add_tree(root, &package.join("src"))?;
        }
        Ok(files)
    }

    fn add_tree(&mut self, root: &Path, path: &Path) -> Result<()> {
        if !path.is_dir() {
            return Ok(());
        }
        for entry in folder(path)? {
            if entry.is_dir() {
                self.add_tree(root, &entry)?;
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                self.add(root, &entry)?;
            }
        }
        Ok(())
    }

    /// Adds a file where there is one.
    fn add(&mut self, root: &Path, path: &Path) -> Result<()> {
        if path.is_file() {
            let text = fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let name = path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
            self.0.insert(name, text);
        }
        Ok(())
    }
}

fn folder(path: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))?;
    entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .with_context(|| format!("cannot list {}", path.display()))
}

fn faults(checkout: &Checkout) -> Vec<String> {
    let files = &checkout.0;
    let mut faults = Vec::new();
    for (path, text) in files {
        let found = match kind(path) {
            "rs" => faults_of_source(path, text),
            "toml" => inherits_lints(text),
            _ => Vec::new(),
        };
        faults.extend(found.into_iter().map(|fault| format!("{path}: {fault}")));
    }

    let agent: Vec<_> = files.keys().filter_map(|path| path.strip_prefix(AGENT)).collect();
    let table = "xtask/src/tidy/import.rs";
    faults.extend(import::stale(&agent).iter().map(|fault| format!("{table}: {fault}")));

    let sources: Vec<_> =
        files.keys().map(String::as_str).filter(|path| kind(path) == "rs").collect();
    let text_of = |document: &str| files.get(document).map_or("", String::as_str);
    faults.extend(unnamed(text_of(MAP), &sources).iter().map(|fault| format!("{MAP}: {fault}")));
    for document in DOCUMENTS {
        let gone = gone(text_of(document), &sources);
        faults.extend(gone.iter().map(|fault| format!("{document}: {fault}")));
    }
    faults
}

fn kind(path: &str) -> &str {
    path.rsplit_once('.').map_or("", |(_, kind)| kind)
}

fn faults_of_source(path: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if !text.starts_with("//! ") {
        faults.push("the first line is no module doc, `//! …`".to_owned());
    }
    let text = Text::new(text);
    faults.extend(bare_todos(&text));
    if path.contains("/src/") {
        faults.extend(too_long(&text));
        faults.extend(unsafe_code(path, &text));
    }
    if let Some(inner) = path.strip_prefix(AGENT) {
        faults.extend(import::faults(inner, &text));
        faults.extend(aya(path, &text));
    }
    faults
}

fn too_long(text: &Text) -> Option<String> {
    let lines = text.tested_code().lines().filter(|line| !line.trim().is_empty()).count();
    (lines > MAX_LINES).then(|| format!("{lines} lines of code, more than {MAX_LINES}"))
}

/// A thing left to do names an issue and what it threatens: `TODO(#12, hardening): …`.
fn bare_todos(text: &Text) -> Vec<String> {
    let mut faults = Vec::new();
    for (number, line) in (1..).zip(text.comments.lines()) {
        for (at, word) in line.match_indices("TODO") {
            // In backticks it is talked about.
            let is_bare = !has_issue(&line[at + word.len()..]) && !line[..at].ends_with('`');
            if is_bare {
                faults.push(format!("line {number} has a TODO without `(#issue, what for)`"));
            }
        }
    }
    faults
}

fn has_issue(after: &str) -> bool {
    let inner = after.strip_prefix("(#").and_then(|rest| rest.split_once("):"));
    inner.and_then(|(inner, _)| inner.split_once(", ")).is_some_and(|(issue, what)| {
        !issue.is_empty() && issue.chars().all(|c| c.is_ascii_digit()) && !what.trim().is_empty()
    })
}

fn unsafe_code(path: &str, text: &Text) -> Option<String> {
    let is_place = UNSAFE.iter().any(|place| path.starts_with(place)) && !SAFE.contains(&path);
    (!is_place && words(&text.code).any(|word| word == "unsafe"))
        .then(|| "`unsafe` outside of `sys` and the eBPF program".to_owned())
}

fn aya(path: &str, text: &Text) -> Option<String> {
    let is_aya = |word: &str| word == "aya" || word.starts_with("aya_");
    (!path.starts_with(AYA) && words(&text.code).any(is_aya))
        .then(|| "names aya, which only `source::ebpf` may".to_owned())
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_')
}

/// A crate without these two lines obeys none of the lints in the root's Cargo.toml, and silently.
fn inherits_lints(manifest: &str) -> Vec<String> {
    let mut lines = manifest.lines().map(str::trim).skip_while(|line| *line != "[lints]").skip(1);
    let inherits =
        lines.by_ref().take_while(|line| !line.starts_with('[')).any(|l| l == "workspace = true");
    if inherits { Vec::new() } else { vec!["no `[lints] workspace = true`".to_owned()] }
}

/// Lists the files that have no line in the map of the code.
fn unnamed(map: &str, sources: &[&str]) -> Vec<String> {
    let named: Vec<_> = paths_in(map).collect();
    sources
        .iter()
        .filter(|path| path.contains("/src/") && !named.contains(path))
        .map(|path| format!("no line names `{path}`"))
        .collect()
}

/// Lists the files that a document names and that do not exist.
fn gone(document: &str, sources: &[&str]) -> Vec<String> {
    paths_in(document)
        // `sys/pidfd.rs` may stand for a longer path that ends so.
        .filter(|name| !sources.iter().any(|path| is_end(path, name)))
        .map(|name| format!("names `{name}`, which does not exist"))
        .collect()
}

/// Lists the paths of Rust files in backticks.
fn paths_in(document: &str) -> impl Iterator<Item = &str> {
    // A fence is three backticks, which leave the pairs as they are once they are out of the way.
    document
        .lines()
        .filter(|line| !line.trim_start().starts_with("```"))
        .flat_map(|line| line.split('`').skip(1).step_by(2).filter(|name| is_path(name)))
}

fn is_path(name: &str) -> bool {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./".contains(c);
    name.strip_suffix(".rs").is_some_and(|stem| !stem.is_empty()) && name.chars().all(is_plain)
}

fn is_end(path: &str, name: &str) -> bool {
    path.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checkout_is_tidy() {
        let faults = faults(&Checkout::read(root()).unwrap());
        assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
    }

    #[test]
    fn a_fault_names_its_file() {
        let mut checkout = Checkout::default();
        checkout.0.insert("xtask/src/a.rs".to_owned(), "fn a() {}\n".to_owned());
        let faults = faults(&checkout);
        let expected = "xtask/src/a.rs: the first line is no module doc, `//! …`";
        assert_eq!(faults.first().unwrap(), expected);
        assert_eq!(faults.last().unwrap(), "ARCHITECTURE.md: no line names `xtask/src/a.rs`");
    }

    #[test]
    fn a_file_starts_with_its_doc() {
        fn check(text: &str, expected: &[&str]) {
            assert_eq!(faults_of_source("tests/a.rs", text), expected, "for {text:?}");
        }
        let fault = "the first line is no module doc, `//! …`";
        check("//! A test.\n", &[]);
        check("\n//! A test.\n", &[fault]);
        check("use std::fs;\n", &[fault]);
        check("", &[fault]);
    }

    #[test]
    fn a_file_is_not_too_long() {
        fn check(lines: usize, after: &str, expected: Option<&str>) {
            let text = format!("//! Doc.\n\n{}{after}", "f(); // why\n".repeat(lines));
            assert_eq!(too_long(&Text::new(&text)).as_deref(), expected, "for {lines}{after}");
        }
        check(400, "", None);
        check(401, "", Some("401 lines of code, more than 400"));
        check(400, "// A comment.\n\n", None);
        check(400, "#[cfg(test)]\nmod tests {\n    fn f() {}\n}\n", None);
    }

    #[test]
    fn what_is_left_to_do_has_an_issue() {
        fn check(text: &str, is_fine: bool) {
            assert_eq!(bare_todos(&Text::new(text)).is_empty(), is_fine, "for {text:?}");
        }
        check("// TODO(#12, hardening): check it.", true);
        check("// Write `TODO(#n, what)`.", true);
        check("f(\"TODO\");", true);
        check("// TODO: check it.", false);
        check("// TODO(me): check it.", false);
        check("// TODO(#12): check it.", false);
        check("// TODO(#x, hardening): check it.", false);
        check("// TODO(#12, ): check it.", false);
        check("/* TODO */", false);
    }

    #[test]
    fn unsafe_code_has_its_places() {
        fn check(path: &str, code: &str, is_fine: bool) {
            let fault = unsafe_code(path, &Text::new(code));
            assert_eq!(fault.is_none(), is_fine, "for {path}: {code}");
        }
        check("reload-userspace/src/sys.rs", "unsafe { f() }", true);
        check("reload-userspace/src/sys/pidfd.rs", "unsafe { f() }", true);
        check("reload-ebpf/src/emit.rs", "unsafe { f() }", true);
        check("reload-ebpf/src/abi.rs", "unsafe { f() }", false);
        check("reload-userspace/src/agent.rs", "unsafe { f() }", false);
        check("reload-userspace/src/system.rs", "#[unsafe(no_mangle)]", false);
        check("xtask/src/main.rs", "unsafe fn f() {}", false);
        check("xtask/src/main.rs", "// unsafe\nf(\"unsafe\"); #![deny(unsafe_code)]", true);
    }

    #[test]
    fn aya_is_named_by_one_module() {
        fn check(path: &str, code: &str, is_fine: bool) {
            let fault = aya(path, &Text::new(code));
            assert_eq!(fault.is_none(), is_fine, "for {path}: {code}");
        }
        check("reload-userspace/src/source/ebpf.rs", "use aya::Ebpf;", true);
        check("reload-userspace/src/source/ebpf/load.rs", "use aya::Ebpf;", true);
        check("reload-userspace/src/source.rs", "use aya::Ebpf;", false);
        check("reload-userspace/src/agent.rs", "aya_log::EbpfLogger::init(a)", false);
        check("reload-userspace/src/agent.rs", "// aya\nlet player = \"aya\";", true);
    }

    #[test]
    fn a_crate_inherits_the_lints() {
        fn check(manifest: &str, is_fine: bool) {
            assert_eq!(inherits_lints(manifest).is_empty(), is_fine, "for {manifest:?}");
        }
        check("[package]\n[lints]\nworkspace = true\n", true);
        check("[lints]\nworkspace = true\n[features]\n", true);
        check("[package]\nname = \"a\"\n", false);
        check("[lints]\n[dependencies.a]\nworkspace = true\n", false);
        check("[lints]\nworkspace = false\n", false);
    }

    const SOURCES: [&str; 3] = ["a/src/lib.rs", "a/src/sys/fd.rs", "tests/b.rs"];

    #[test]
    fn every_file_has_a_line_in_the_map() {
        fn check(map: &str, expected: &[&str]) {
            assert_eq!(unnamed(map, &SOURCES), expected, "for {map:?}");
        }
        check("| `a/src/lib.rs` | … |\n| `a/src/sys/fd.rs` | … |", &[]);
        check("`a/src/sys/fd.rs`, a/src/lib.rs", &["no line names `a/src/lib.rs`"]);
        check("`a/src/lib.rs` `sys/fd.rs`", &["no line names `a/src/sys/fd.rs`"]);
        check("```text\n```\n`a/src/lib.rs`", &["no line names `a/src/sys/fd.rs`"]);
    }

    #[test]
    fn a_document_names_no_file_that_is_gone() {
        fn check(document: &str, expected: &[&str]) {
            assert_eq!(gone(document, &SOURCES), expected, "for {document:?}");
        }
        check("`a/src/sys/fd.rs`, `sys/fd.rs`, `fd.rs` and `tests/b.rs`", &[]);
        check("`*.rs` and `foo(\"x.rs\")` and tests/old.rs", &[]);
        check("`a/src/old.rs`", &["names `a/src/old.rs`, which does not exist"]);
        check("`d.rs`", &["names `d.rs`, which does not exist"]);
    }
}
