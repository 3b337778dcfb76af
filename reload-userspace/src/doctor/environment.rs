//! Was a process configured by its environment? That is fixed when it starts, and no signal changes it.
//!
//! Nothing says where a variable came from, so this compares: a variable of the name of a watched file
//! (a `ConfigMap` that is both mounted and taken by `envFrom`), one whose value is what a file holds
//! (`valueFrom`), and one that a file sets in so many words (`NAME=value`).

use std::{
    collections::{BTreeMap, HashSet},
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

/// How long a value must be for its equality with a file to be no accident, in bytes.
const TELLING: usize = 12;

/// Variables that nearly every process has, whatever configures it.
const COMMON: &[&[u8]] = &[
    b"HOME",
    b"HOSTNAME",
    b"LANG",
    b"LANGUAGE",
    b"LOGNAME",
    b"MAIL",
    b"OLDPWD",
    b"PATH",
    b"PWD",
    b"SHELL",
    b"SHLVL",
    b"TERM",
    b"TMPDIR",
    b"TZ",
    b"USER",
    b"_",
];

/// A variable that seems to have come from a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Suspicion {
    /// Its name. Its value may be a secret, and is not told.
    pub(super) variable: String,
    /// The file.
    pub(super) file: PathBuf,
}

/// Finds the variables of an environment, as in `/proc/<pid>/environ`, that seem to have come from
/// these files; one for each file at most.
pub(super) fn suspicions(environment: &[u8], files: &BTreeMap<PathBuf, Vec<u8>>) -> Vec<Suspicion> {
    let variables = environment.split(|&byte| byte == 0).filter_map(halves);
    let variables: Vec<_> = variables.filter(|&(name, _)| !is_common(name)).collect();
    let suspect = |(file, content): (&PathBuf, &Vec<u8>)| {
        let content = content.trim_ascii();
        let set: HashSet<_> = content.split(|&byte| byte == b'\n').filter_map(assignment).collect();
        let &(variable, _) = variables.iter().find(|&&(name, value)| {
            is_for(name, value, file)
                || (content.len() >= TELLING && value.trim_ascii() == content)
                || set.contains(&(name, value))
        })?;
        let variable = String::from_utf8_lossy(variable).into_owned();
        Some(Suspicion { variable, file: file.clone() })
    };
    files.iter().filter_map(suspect).collect()
}

fn is_common(name: &[u8]) -> bool {
    COMMON.contains(&name) || name.starts_with(b"LC_")
}

/// Whether the file is called as the variable is, and the variable does not just say where it is.
fn is_for(name: &[u8], value: &[u8], file: &Path) -> bool {
    let value = Path::new(OsStr::from_bytes(value));
    file.file_name().is_some_and(|file| file.as_bytes() == name)
        && value.file_name() != file.file_name()
}

fn halves(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|&byte| byte == b'=')?;
    Some((&text[..at], &text[at + 1..]))
}

/// Takes a line `NAME=value` of a file apart, as a shell, systemd and Docker do.
fn assignment(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = line.trim_ascii();
    let (name, value) = halves(line.strip_prefix(b"export ").unwrap_or(line))?;
    let is_name = |&byte: &u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let unquoted = |quote: &[u8]| value.strip_prefix(quote)?.strip_suffix(quote);
    let value = unquoted(b"\"").or_else(|| unquoted(b"'")).unwrap_or(value);
    let is_telling = !name.is_empty() && name.iter().all(is_name) && !value.is_empty();
    is_telling.then_some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares with one file, and says which variable is suspected.
    #[track_caller]
    fn check(environment: &str, file: &str, content: &str, expected: Option<&str>) {
        let files = BTreeMap::from([(PathBuf::from(file), content.as_bytes().to_vec())]);
        let found = suspicions(environment.as_bytes(), &files);
        let variables: Vec<_> = found.iter().map(|it| it.variable.as_str()).collect();
        assert_eq!(variables, Vec::from_iter(expected), "for {environment:?} and {content:?}");
    }

    #[test]
    fn a_file_of_the_name_of_a_variable_is_suspected() {
        check("A=1\0LOG_LEVEL=info\0", "/etc/config/LOG_LEVEL", "info\n", Some("LOG_LEVEL"));
        // It has been changed since.
        check("LOG_LEVEL=info\0", "/etc/config/LOG_LEVEL", "debug", Some("LOG_LEVEL"));
        check("LOG_LEVEL=info\0", "/etc/config/log_level", "x", None);
        // It says where the file is.
        check("KUBECONFIG=/etc/k/KUBECONFIG\0", "/etc/k/KUBECONFIG", "x", None);
        check("HOME=/root\0", "/etc/config/HOME", "/root", None);
    }

    #[test]
    fn a_file_with_the_value_of_a_variable_is_suspected() {
        let content = "level = 3\nname = \"x\"\n";
        let environment = format!("A=1\0SETTINGS={content}\0");
        check(&environment, "/etc/app.toml", content, Some("SETTINGS"));
        check("SETTINGS=level = 3\0", "/etc/app.toml", content, None);
        // Too short to tell.
        check("DEBUG=true\0", "/etc/debug", "true\n", None);
        check("HOSTNAME=web-7d9f8b6c-x2x\0", "/etc/hostname", "web-7d9f8b6c-x2x\n", None);
        check("EMPTY=\0", "/etc/empty", "", None);
    }

    #[test]
    fn a_file_that_sets_a_variable_is_suspected() {
        let content = "# for docker --env-file\nLANG=C\n export MODE='fast'\nOTHER=2\n";
        check("LANG=C\0MODE=fast\0", "/etc/app.env", content, Some("MODE"));
        check("LANG=C\0MODE=slow\0", "/etc/app.env", content, None);
        check("LANG=C\0", "/etc/app.env", content, None);
        check("NONE=\0", "/etc/app.env", "NONE=\n", None);
        check("a b=c\0", "/etc/app.env", "a b=c\n", None);
        check("\0=\0no\0\0", "/etc/app.env", "=\n\n=x\nno\n", None);
    }

    #[test]
    fn names_need_not_be_text() {
        let files = BTreeMap::from([(PathBuf::from("/a"), b"X\xff=1\nMODE=\xff\n".to_vec())]);
        let found = suspicions(b"X\xff=1\0MODE=\xff\0", &files);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].variable, "MODE");
    }
}
