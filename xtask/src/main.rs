//! The project's chores, as `cargo xtask <chore>`.
//!
//! What plain cargo can do is not here. One chore is one module with an `Options` and a `run`; the
//! modules below the line are what chores share.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "xtask talks to a person at a terminal"
)]

mod bench;
mod build;
mod coverage;
mod demo;
mod image;
mod k8s;
mod lint;
mod setup;
mod soak;
mod test;
mod tidy;
mod vm;
// ---
mod agent;
mod child;
mod docker;
mod helm;
mod package;
mod patience;
mod place;
mod program;
mod toolchain;
mod usage;
mod verifier;
mod volume;

use std::{
    iter,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;

/// The project's chores
///
/// Start with `cargo xtask test`: it installs what is missing, builds both halves and runs every
/// test.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
enum Chore {
    Setup(setup::Options),
    Build(build::Options),
    Image(image::Options),
    Demo(demo::Options),
    Bench(bench::Options),
    Soak(soak::Options),
    Test(test::Options),
    Vm(vm::Options),
    K8s(k8s::Options),
    Coverage(coverage::Options),
    Lint(lint::Options),
    Tidy(tidy::Options),
}

fn main() -> ExitCode {
    let done = match Chore::parse() {
        Chore::Setup(options) => setup::run(&options),
        Chore::Build(options) => build::run(&options),
        Chore::Image(options) => image::run(&options),
        Chore::Demo(options) => demo::run(&options),
        Chore::Bench(options) => bench::run(&options),
        Chore::Soak(options) => soak::run(&options),
        Chore::Test(options) => test::run(&options),
        Chore::Vm(options) => vm::run(&options),
        Chore::K8s(options) => k8s::run(&options),
        Chore::Coverage(options) => coverage::run(&options),
        Chore::Lint(options) => lint::run(&options),
        Chore::Tidy(options) => tidy::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs `command` and fails, naming the command, unless it succeeds.
fn exec(command: &mut Command) -> Result<()> {
    let shown = show(command);
    println!("$ {shown}");
    let status = command.status().with_context(|| format!("cannot run `{shown}`"))?;
    ensure!(status.success(), "`{shown}` failed: {status}");
    Ok(())
}

/// Writes `command` as one would type it. What it removes from the environment is left out: that
/// is long, and a person's shell has none of it.
fn show(command: &Command) -> String {
    let set = command.get_envs().filter_map(|(name, value)| {
        Some(format!("{}={}", name.to_string_lossy(), quote(&value?.to_string_lossy())))
    });
    let words = iter::once(command.get_program()).chain(command.get_args());
    set.chain(words.map(|word| quote(&word.to_string_lossy()))).collect::<Vec<_>>().join(" ")
}

fn quote(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''").replace('\x1f', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_one_would_type_it() {
        let mut command = Command::new("/usr/bin/cargo");
        command.args(["build", "a b", "it's"]).env("SET", "1").env_remove("GONE");
        assert_eq!(show(&command), r"SET=1 /usr/bin/cargo build 'a b' 'it'\''s'");
    }

    #[test]
    fn a_command_that_fails_is_named() {
        let error = exec(&mut Command::new("false")).unwrap_err();
        assert_eq!(format!("{error:#}"), "`false` failed: exit status: 1");
    }
}
