//! A command and its arguments, for no shell.

use std::{fmt, str::FromStr};

use super::endpoint::discreet;

/// A command and its arguments, which no shell ever sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    words: Vec<String>,
}

/// Why a text is no command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// There is not even a program.
    #[error("is empty; give a program and its arguments")]
    Empty,
    /// A quote is opened and not closed, or there is nothing behind the last backslash.
    #[error("{given:?} has a quote that is not closed; close it, or write a backslash before it")]
    Unclosed {
        /// What was given.
        given: String,
    },
    /// No program can be given a zero byte (`execve(2)`).
    #[error("{given:?} has a zero byte in it; leave it out")]
    Zero {
        /// The word.
        given: String,
    },
}

impl CommandLine {
    /// A command of words that are taken as they are.
    ///
    /// # Errors
    ///
    /// Fails where there is no word, the first is empty, or one has a zero byte in it.
    pub fn new(words: Vec<String>) -> Result<Self, CommandError> {
        if words.first().is_none_or(String::is_empty) {
            return Err(CommandError::Empty);
        }
        if let Some(word) = words.iter().find(|word| word.contains('\0')) {
            return Err(CommandError::Zero { given: discreet(word) });
        }
        Ok(Self { words })
    }

    /// The program.
    #[must_use]
    pub fn program(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// What it is given.
    #[must_use]
    pub fn arguments(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }
}

impl FromStr for CommandLine {
    type Err = CommandError;

    /// Splits a text into words as a shell would, and does nothing else that a shell does.
    ///
    /// Quotes and backslashes are heeded, and what is behind a `#` that begins a word is a comment.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unclosed = |_| CommandError::Unclosed { given: discreet(text) };
        Self::new(shell_words::split(text).map_err(unclosed)?)
    }
}

impl fmt::Display for CommandLine {
    /// In such a way that a shell would understand it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shell_words::join(&self.words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_split_as_a_shell_would() {
        fn check(text: &str, words: &[&str], shown: &str) {
            let command: CommandLine = text.parse().unwrap();
            assert_eq!(command.words, words, "for {text:?}");
            assert_eq!(command.to_string(), shown, "for {text:?}");
            assert_eq!(shown.parse::<CommandLine>().unwrap(), command, "for {text:?}");
        }
        check("nginx -t", &["nginx", "-t"], "nginx -t");
        check("  nginx\t-t\n", &["nginx", "-t"], "nginx -t");
        check("a 'b c' \"d e\"", &["a", "b c", "d e"], "a 'b c' 'd e'");
        check(r"a b\ c ''", &["a", "b c", ""], "a 'b c' ''");
        check("a $HOME *;", &["a", "$HOME", "*;"], "a '$HOME' '*;'");
        check("a '#b' c#d # e", &["a", "#b", "c#d"], "a '#b' 'c#d'");
        check("a 'it'\\''s'", &["a", "it's"], r"a 'it'\''s'");
    }

    #[test]
    fn what_is_no_command_is_told_with_the_remedy() {
        fn check(text: &str, expected: &str) {
            assert_eq!(text.parse::<CommandLine>().unwrap_err().to_string(), expected);
        }
        check("", "is empty; give a program and its arguments");
        check(" ", "is empty; give a program and its arguments");
        check("'' x", "is empty; give a program and its arguments");
        check(
            "a 'b",
            "\"a 'b\" has a quote that is not closed; close it, or write a backslash before it",
        );
        check(
            "a http://u:secret@h/ 'b",
            "\"a http://u:***@h/ 'b\" has a quote that is not closed; close it, or write a backslash \
             before it",
        );
        check("a b\0c", "\"b\\0c\" has a zero byte in it; leave it out");
    }
}
