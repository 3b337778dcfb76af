//! The agent that runs beside a doctor: is it the one that the doctor is asked about?

use std::{collections::BTreeSet, env, ffi::OsString, fs, os::unix::ffi::OsStringExt as _};

use nix::unistd::Pid;

/// The options that decide how something is told, and not what is done.
const MANNERS: [&str; 3] = ["--format", "--log-format", "--log-level"];

/// The variables of options that have names of their own.
const VARIABLES: [&str; 5] = ["FILE", "CONFIG_DIR", "PROCESS", "PROCESS_NAME", "SIGNAL"];

/// An option, or a variable in its place, and its value if it has one.
type Said = BTreeSet<(Vec<u8>, Vec<u8>)>;

/// The agent that runs with all that this doctor was given, if there is one.
///
/// What another one's environment says is only heeded where it may be read; its command line always may
/// (`proc_pid_cmdline(5)`).
pub(super) fn find() -> Option<Pid> {
    let typed = typed(env::args_os().skip(2).map(OsString::into_vec));
    let set =
        set(env::vars_os().map(|(name, value)| [name.into_vec(), value.into_vec()].join(&b'=')));
    let name = fs::read("/proc/self/comm").ok()?;
    let entries = fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    let mut pids: Vec<i32> =
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    let pid = pids.into_iter().find(|pid| {
        let read = |what: &str| fs::read(format!("/proc/{pid}/{what}"));
        read("comm").is_ok_and(|it| it == name)
            && read("cmdline")
                .is_ok_and(|line| is_twin(&typed, &set, &line, read("environ").ok().as_deref()))
    })?;
    Some(Pid::from_raw(pid))
}

/// Whether an agent with this command line and environment has been given all that.
fn is_twin(typed: &Said, set: &Said, command_line: &[u8], environment: Option<&[u8]>) -> bool {
    let mut words = split(command_line).skip(1);
    if words.next().as_deref() != Some(b"run") {
        return false;
    }
    let its = self::typed(words);
    let Some(environment) = environment.filter(|it| !it.is_empty()) else {
        return typed.is_subset(&its);
    };
    let its = &its | &self::set(split(environment));
    typed.is_subset(&its) && set.is_subset(&its)
}

/// What `/proc` lists with a zero byte behind each.
fn split(list: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    let list = list.strip_suffix(b"\0").unwrap_or(list);
    list.split(|&byte| byte == 0).map(<[u8]>::to_vec)
}

/// The options on a command line.
fn typed(words: impl Iterator<Item = Vec<u8>>) -> Said {
    let mut said = Said::new();
    let mut words = words.peekable();
    while let Some(word) = words.next() {
        let (name, value) = match word.iter().position(|&byte| byte == b'=') {
            Some(at) => (word[..at].to_vec(), word[at + 1..].to_vec()),
            None => (word, words.next_if(|next| !next.starts_with(b"--")).unwrap_or_default()),
        };
        said.insert((name, value));
    }
    without_manners(said)
}

/// The options in an environment, each as it would be typed.
fn set(variables: impl Iterator<Item = Vec<u8>>) -> Said {
    let known = variables.filter_map(|variable| {
        let at = variable.iter().position(|&byte| byte == b'=')?;
        let (name, value) = (variable[..at].to_vec(), variable[at + 1..].to_vec());
        if VARIABLES.iter().any(|known| known.as_bytes() == name) {
            return Some((name, value));
        }
        let option = String::from_utf8(name.strip_prefix(b"RELOAD_")?.to_vec()).ok()?;
        let option = format!("--{}", option.to_ascii_lowercase().replace('_', "-"));
        Some((option.into_bytes(), value)).filter(|(_, value)| !value.is_empty())
    });
    without_manners(known.collect())
}

fn without_manners(mut said: Said) -> Said {
    said.retain(|(name, _)| !MANNERS.iter().any(|manner| manner.as_bytes() == *name));
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_was_given_as_much_is_the_one() {
        #[track_caller]
        fn check(doctor: &str, set: &[&str], agent: &str, its: Option<&str>, expected: bool) {
            let words = |text: &str| text.split(' ').map(|it| it.as_bytes().to_vec()).collect();
            let typed = typed(Vec::into_iter(words(doctor)).filter(|word| !word.is_empty()));
            let set = self::set(set.iter().map(|it| it.as_bytes().to_vec()));
            let line = format!("/bin/reload-agent {agent} ").replace(' ', "\0");
            let its = its.map(|it| format!("{it} ").replace(' ', "\0"));
            let is_twin = is_twin(&typed, &set, line.as_bytes(), its.as_deref().map(str::as_bytes));
            assert_eq!(is_twin, expected, "for {doctor} {set:?} beside {agent} in {its:?}");
        }
        let agent = "run --watch /a --state-dir /s --force --log-format json";
        check("", &[], agent, None, true);
        check("--state-dir /s --format json", &[], agent, None, true);
        check("--force --state-dir=/s --log-level debug", &[], agent, None, true);
        check("--state-dir /t", &[], agent, None, false);
        check("--watch /s", &[], agent, None, false);
        check("--state-dir /s --listen 1", &[], agent, None, false);
        check("", &[], "doctor --state-dir /s", None, false);
        check("--state-dir /s", &[], "run", Some("RELOAD_STATE_DIR=/s"), true);
        check("", &["RELOAD_STATE_DIR=/s", "HOME=/"], agent, Some("HOME=/x"), true);
        check("", &["RELOAD_STATE_DIR=/s"], "run", Some("RELOAD_STATE_DIR=/t"), false);
        check("", &["FILE=/a"], "run", Some("FILE=/a"), true);
        check("", &["FILE=/a"], "run", Some("FILE=/b"), false);
        // Nobody may look into the environment of one with other rights.
        check("", &["RELOAD_STATE_DIR=/s"], "run", None, true);
    }
}
