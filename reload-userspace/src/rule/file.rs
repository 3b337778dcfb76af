//! Rules in a file: YAML with the names of the options in camelCase, below `rules:`.

use std::{
    collections::HashMap,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags, open};
use serde::Deserialize;
use serde_saphyr::{MessageFormatter as _, Spanned, UserMessageFormatter};

use super::{
    Rule, RuleError,
    endpoint::discreet,
    error::Speaker,
    sketch::{self, absolute},
};
use crate::cli::{RuleArgs, RunArgs};

/// How much is read of a file with rules, in bytes.
const MOST_READ: u64 = 1024 * 1024;

/// The file that the rules come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RulesFile {
    /// Where it is, from the root.
    pub path: PathBuf,
    /// What counts for rules that do not say otherwise.
    pub defaults: RuleArgs,
}

/// What is in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(title = "Rules of reload-agent"))]
struct Document {
    /// At least one rule
    #[cfg_attr(test, schemars(with = "Vec<RuleArgs>", length(min = 1)))]
    rules: Option<Vec<Spanned<RuleArgs>>>,
}

impl RulesFile {
    /// The file that was named, or `None` where the options are the rule.
    ///
    /// # Errors
    ///
    /// Fails where the options say as well what a rule says.
    pub(super) fn new(args: &RunArgs) -> Result<Option<Self>, RuleError> {
        let RunArgs { config, rule, variables, .. } = args;
        let speaker = Speaker::Options(variables);
        let Some(path) = config else {
            return Ok(None);
        };
        if let Some(id) = about_one_rule(rule) {
            let (option, config) = (speaker.calls(id), speaker.calls("config"));
            return Err(RuleError::BesideFile { option, config });
        }
        // Whatever the file says, they must make sense by themselves.
        sketch::pace(rule, speaker)?;
        let path = absolute(path, "config", speaker)?;
        Ok(Some(Self { path, defaults: rule.clone() }))
    }
}

/// The first of what was said that makes sense for one rule only, by the name of its field.
pub(super) fn about_one_rule(said: &RuleArgs) -> Option<&'static str> {
    let RuleArgs { watch, process, exe, pid_file, all, exec, signal, post, restart, .. } = said;
    let said = [
        ("watch", !watch.is_empty()),
        ("process", process.is_some()),
        ("exe", exe.is_some()),
        ("pid_file", pid_file.is_some()),
        ("all", *all == Some(true)),
        ("exec", exec.is_some()),
        ("signal", signal.is_some()),
        ("post", post.is_some()),
        ("restart", *restart == Some(true)),
        ("check", said.check.is_some()),
    ];
    said.iter().find(|(_, is_said)| *is_said).map(|(id, _)| *id)
}

/// Reads the rules in a file; `defaults` counts for those that do not say otherwise.
///
/// # Errors
///
/// Fails where the file cannot be read or one of its rules cannot be carried out. The error names the
/// place in the file, and what to do about it.
pub fn read_file(path: &Path, defaults: &RuleArgs) -> Result<Vec<Rule>, RuleError> {
    parse_file(&read_text(path)?, path, defaults)
}

/// What a file with rules contains, or why it cannot be read.
pub type RulesText = Result<String, RuleError>;

/// Reads a file with rules, and understands nothing of it.
///
/// # Errors
///
/// Fails where it cannot be read, is no file or too large.
pub fn read_text(path: &Path) -> RulesText {
    let read = |error| RuleError::Read { path: path.to_owned(), error };
    let mut text = String::new();
    // Without waiting: it may be a FIFO.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(open(path, flags, Mode::empty()).map_err(|errno| read(errno.into()))?);
    if !file.metadata().map_err(read)?.is_file() {
        return Err(RuleError::NoFile { path: path.to_owned() });
    }
    file.take(MOST_READ + 1).read_to_string(&mut text).map_err(read)?;
    if text.len() as u64 > MOST_READ {
        return Err(RuleError::Large { path: path.to_owned() });
    }
    Ok(text)
}

/// The rules in the text of the file at `path`; `defaults` counts for those that do not say otherwise.
///
/// # Errors
///
/// Fails where one of the rules cannot be carried out, as [`read_file`] does.
pub fn parse_file(text: &str, path: &Path, defaults: &RuleArgs) -> Result<Vec<Rule>, RuleError> {
    let options = serde_saphyr::options! { with_snippet: false };
    let document: Result<Option<Document>, _> = serde_saphyr::from_str_with_options(text, options);
    let document = document.map_err(|error| syntax(text, path, &error))?;
    let listed = document.and_then(|document| document.rules).unwrap_or_default();
    if listed.is_empty() {
        return Err(RuleError::NoRules { path: path.to_owned() });
    }
    let mut lines = HashMap::new();
    let mut rules = Vec::new();
    for (index, Spanned { value: said, referenced: at, .. }) in listed.into_iter().enumerate() {
        let called =
            [&said.name, &said.process].into_iter().flatten().find(|name| !name.is_empty());
        let called = called.map_or_else(|| (index + 1).to_string(), |name| discreet(name));
        let rule = Rule::new(&said.or(defaults), Speaker::File).and_then(|rule| {
            match lines.insert(rule.name().to_owned(), at.line()) {
                None => Ok(rule),
                Some(line) => Err(RuleError::SameName { line }),
            }
        });
        rules.push(rule.map_err(|source| RuleError::Rule {
            path: path.to_owned(),
            line: at.line(),
            column: at.column(),
            rule: called,
            source: Box::new(source),
        })?);
    }
    Ok(rules)
}

/// Says where and how the text is not made as rules are.
pub(super) fn syntax(text: &str, path: &Path, error: &serde_saphyr::Error) -> RuleError {
    use serde_saphyr::Error;
    let (line, column) = error.location().map_or((0, 0), |at| (at.line(), at.column()));
    let said = UserMessageFormatter.format_message(error);
    let problem = match error {
        Error::SerdeUnknownField { field, expected, .. } => {
            format!("there is no key {field:?}; the keys are {}", expected.join(", "))
        }
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("the key {key:?} is there twice; leave one of them out")
        }
        Error::MultipleDocuments { .. } => {
            "a second document begins here; give all rules below one `rules:`".to_owned()
        }
        Error::ExpectedMappingEndAfterEnumVariantValue { .. } => {
            "an action has one key; begin the next one with a dash of its own".to_owned()
        }
        // What is no YAML may be about anything on the line.
        Error::ExternalMessage { .. } => said.into_owned(),
        _ => match key(text, line, column) {
            Some(key) => format!("{key}: {said}"),
            None => said.into_owned(),
        },
    };
    // A password may stand where none belongs.
    let problem = discreet(&problem);
    RuleError::Syntax { path: path.to_owned(), line, column, problem }
}

/// The key that stands at a place in a text, or right before it on the same line.
fn key(text: &str, line: u64, column: u64) -> Option<&str> {
    let line = text.lines().nth(usize::try_from(line.checked_sub(1)?).ok()?)?;
    let column = usize::try_from(column.checked_sub(1)?).ok()?;
    let (at, _) = line.char_indices().nth(column)?;
    let (before, after) = line.split_at(at);
    let before = before.trim_start_matches([' ', '-']).trim_end();
    let key =
        if before.is_empty() { after.split_once(':')?.0 } else { before.strip_suffix(':')? };
    key.bytes().all(|byte| byte.is_ascii_alphanumeric()).then_some(key)
}

#[cfg(test)]
mod tests {
    use std::{env, fs, time::Duration};

    use super::*;
    use crate::{
        cli::StartChoice,
        rule::{Action, OnStart},
    };

    fn rules(text: &str) -> Result<Vec<Rule>, String> {
        let rules = parse_file(text, Path::new("/r.yaml"), &RuleArgs::default());
        rules.map_err(|error| format!("{:#}", anyhow::Error::from(error)))
    }

    /// A file with one rule that is complete but for these lines.
    fn rule(lines: &[&str]) -> String {
        let lines = lines.iter().map(|line| format!("  {line}\n"));
        format!("rules:\n- watch: /a\n{}", lines.collect::<String>())
    }

    #[test]
    fn a_fifo_in_the_place_of_the_file_does_not_hold_the_reader() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rules.yaml");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let error = read_file(&path, &RuleArgs::default()).unwrap_err().to_string();
        assert_eq!(error, format!("{} is no regular file; give --config one", path.display()));
    }

    #[test]
    fn what_cannot_be_read_is_named_with_its_place_and_remedy() {
        #[track_caller]
        fn check(text: &str, expected: &str) {
            assert_eq!(rules(text).unwrap_err(), expected, "for {text}");
        }
        let none = "there are no rules in /r.yaml; give at least one, below `rules:`";
        for text in ["", "# rules\n", "rules:\n", "rules: []\n"] {
            check(text, none);
        }
        check("rule: []\n", "/r.yaml:1:1: there is no key \"rule\"; the keys are rules");
        check("rules: 5\n", "/r.yaml:1:8: rules: expected sequence start");
        check("rules:\n- 5\n", "/r.yaml:2:3: expected mapping start");
        check("- watch: /b\n", "/r.yaml:1:1: expected mapping start");
        check(
            &rule(&["proces: x"]),
            "/r.yaml:3:3: there is no key \"proces\"; the keys are name, watch, process, exe, \
             pidFile, all, exec, signal, post, restart, actions, check, checkIn, checkTimeout, \
             confirmTimeout, force, handlerTimeout, settle, settleMax, minInterval, onStart",
        );
        check(&rule(&["process: [x]"]), "/r.yaml:3:12: process: expected string scalar");
        check(
            &rule(&["process: x", "process: y"]),
            "/r.yaml:4:3: the key \"process\" is there twice; leave one of them out",
        );
        check(
            "rules:\n- watch: {a: b}\n",
            "/r.yaml:2:10: watch: invalid type: map, expected a text or a list of texts",
        );
        check(
            &rule(&["process: x", "check: 5"]),
            "/r.yaml:4:3: check: invalid type: integer `5`, expected a text or a list of texts",
        );
        check(
            &rule(&["process: x", "settle: soon"]),
            "/r.yaml:4:11: settle: \"soon\" is no duration; write 250ms, 2s or 1m",
        );
        check(&rule(&["all: maybe"]), "/r.yaml:3:8: all: invalid boolean");
        check(
            &rule(&["process: x", "checkIn: there"]),
            "/r.yaml:4:12: checkIn: unknown variant `there`, expected one of agent, target",
        );
        check(
            &rule(&["actions:", "- signl: 10"]),
            "/r.yaml:4:5: signl: unknown variant `signl`, expected one of exec, signal, post, \
             restart",
        );
        check(
            &rule(&["actions:", "- signal: 10", "  exec: a"]),
            "/r.yaml:5:5: an action has one key; begin the next one with a dash of its own",
        );
        check(
            "rules: [{watch: /a, process: x}]\n---\nrules: []\n",
            "/r.yaml:3:1: a second document begins here; give all rules below one `rules:`",
        );
        check(
            "rules:\n\t- watch: /a\n",
            "/r.yaml:2:2: tabs disallowed within this context (block indentation)",
        );
    }

    #[test]
    fn a_rule_that_makes_no_sense_is_named_with_its_place_and_remedy() {
        #[track_caller]
        fn check(lines: &[&str], expected: &str) {
            let text = rule(lines);
            let expected = format!("/r.yaml:2:3: rule {expected}");
            assert_eq!(rules(&text).unwrap_err(), expected, "for {text}");
        }
        check(
            &[],
            "1: there is nobody to reload; say `process: NAME`, or what else to do: post or exec",
        );
        check(
            &["restart: true"],
            "1: there is nobody to reload; say `process: NAME`, or what else to do: post or exec",
        );
        check(
            &["name: ''"],
            "1: name \"\" is not of 1 to 63 characters, none a control character; give another",
        );
        check(&["exe: ''"], "1: exe is empty; give the path of a file");
        check(
            &["process: x", "exe: x"],
            "x: process and exe both say whom to reload; give one of them",
        );
        check(
            &["exe: bin/x"],
            "1: exe bin/x is relative; give it from the root, for the agent has no directory of \
             its own",
        );
        check(
            &["process: ''"],
            "1: process is empty; give the name of a process, as in /proc/<pid>/comm",
        );
        check(
            &["process: x", "signal: HUPP"],
            "x: signal \"HUPP\" is no signal; give a name such as HUP, SIGUSR1 or RTMIN+3, or a \
             number from 1 to 64",
        );
        check(
            &["process: x", "signal: http://u:secret@h/"],
            "x: signal \"http://u:***@h/\" is no signal; give a name such as HUP, SIGUSR1 or \
             RTMIN+3, or a number from 1 to 64",
        );
        check(
            &["name: \"http://u:secret@h/\\t\""],
            "http://u:***@h/\t: name \"http://u:***@h/\\t\" is not of 1 to 63 characters, none a \
             control character; give another",
        );
        check(
            &["exe: http://u:secret@h/"],
            "1: exe http://u:***@h/ is relative; give it from the root, for the agent has no \
             directory of its own",
        );
        check(
            &["process: http://u:secret@h/"],
            "http://u:***@h/: process \"http://u:***@h/\" has a slash in it; give the name without \
             its directories",
        );
        check(
            &["exec: a 'b"],
            "1: exec \"a 'b\" has a quote that is not closed; close it, or write a backslash \
             before it",
        );
        check(&["process: x", "check: []"], "x: check is empty; give a program and its arguments");
        check(
            &["exec: a", "check: a", "checkIn: target"],
            "1: checkIn is about the process to reload, and none is named; give process or exe or \
             pidFile",
        );
        check(
            &["process: x", "actions: []"],
            "x: actions is empty; give at least one of exec, signal, post and restart",
        );
        check(
            &["process: x", "actions: [restart: false]"],
            "x: restart is false; give true, or leave it out",
        );
        check(
            &["process: x", "signal: HUP", "actions: [restart: true]"],
            "x: actions and signal both say what to do; give one of them",
        );
        check(
            &["process: x", "settle: 5s"],
            "x: settle is 5s, more than settleMax, which is 2s; give a shorter settle or a longer \
             settleMax",
        );
    }

    #[test]
    fn each_rule_has_a_name_of_its_own() {
        let text = "rules:\n- {watch: /a, process: x}\n- {watch: /b, process: x}\n";
        let expected = "/r.yaml:3:3: rule x: the rule on line 2 has that name too; give each its own \
                        with `name:`";
        assert_eq!(rules(text).unwrap_err(), expected);
        let text = "rules:\n- {watch: /a, process: x}\n- {name: y, watch: /b, process: x}\n\
                    - {watch: /c, exec: a 'b c'}\n- {watch: /c, pidFile: /run/z.pid}\n";
        let rules = rules(text).unwrap();
        let names: Vec<_> = rules.iter().map(Rule::name).collect();
        assert_eq!(names, ["x", "y", "exec a 'b c'", "/run/z.pid"]);
    }

    #[test]
    fn actions_are_carried_out_in_their_order() {
        fn check(lines: &[&str], expected: &[&str]) {
            let rules = rules(&rule(lines)).unwrap();
            let actions: Vec<_> = rules[0].actions().iter().map(Action::to_string).collect();
            assert_eq!(actions, expected, "for {lines:?}");
        }
        check(&["process: x"], &["signal HUP"]);
        check(&["process: x", "restart: true"], &["restart"]);
        check(&["process: x", "signal: 10", "exec: [a, b c]"], &["exec a 'b c'", "signal USR1"]);
        check(
            &["process: x", "actions:", "- restart: true", "- signal: USR2", "- exec: a"],
            &["restart", "signal USR2", "exec a"],
        );
    }

    #[test]
    fn what_a_rule_does_not_say_the_options_say() {
        let defaults = RuleArgs {
            settle: Some(Duration::from_millis(5)),
            force: Some(true),
            on_start: Some(StartChoice::Reload),
            ..RuleArgs::default()
        };
        let text = rule(&["process: x", "force: false", "settleMax: 7ms"]);
        let rules = parse_file(&text, Path::new("/r.yaml"), &defaults).unwrap();
        let pace = rules[0].pace();
        let limits = (pace.limits.quiet.as_millis(), pace.limits.max.as_millis());
        assert_eq!((limits, pace.caution.is_forced), ((5, 7), false));
        assert_eq!(pace.on_start, OnStart::Reload);
    }

    #[test]
    fn only_a_file_that_can_be_read_has_rules() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rules.yaml");
        let read = || {
            let rules = read_file(&path, &RuleArgs::default());
            let error = format!("{:#}", anyhow::Error::from(rules.unwrap_err()));
            error.replace(dir.path().to_str().unwrap(), "{dir}")
        };
        let missing = "cannot read the rules in {dir}/rules.yaml: No such file or directory (os \
                       error 2); make it, or give --config another";
        assert_eq!(read(), missing);
        fs::write(&path, "#".repeat(1024 * 1024 + 1)).unwrap();
        assert_eq!(read(), "{dir}/rules.yaml is larger than 1 MiB; give a file with rules");
        fs::write(&path, b"rules: \xff").unwrap();
        let foreign = "cannot read the rules in {dir}/rules.yaml: stream did not contain valid \
                       UTF-8; save it as UTF-8";
        assert_eq!(read(), foreign);
    }

    /// A file of the repository.
    fn document(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name)
    }

    #[test]
    fn the_schema_is_that_of_the_code() {
        let schema = schemars::schema_for!(Document);
        let schema = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        let path = document("rules.schema.json");
        if env::var_os("UPDATE").is_some() {
            fs::write(&path, &schema).unwrap();
        }
        let written = fs::read_to_string(&path).unwrap_or_default();
        assert!(written == schema, "{} is out of date: UPDATE=1 cargo test", path.display());
    }

    #[test]
    fn the_document_explains_every_key_and_its_examples_are_right() {
        let text = fs::read_to_string(document("rules.md")).unwrap();
        let schema = serde_json::to_value(schemars::schema_for!(RuleArgs)).unwrap();
        for key in schema["properties"].as_object().unwrap().keys() {
            assert!(text.contains(&format!("| `{key}` |")), "docs/rules.md has no row for {key}");
        }
        let mut examples = text.split("```yaml\n").skip(1).peekable();
        assert!(examples.peek().is_some());
        for example in examples {
            let (example, _) = example.split_once("```").unwrap();
            assert_eq!(rules(example).err(), None, "for {example}");
        }
    }
}
