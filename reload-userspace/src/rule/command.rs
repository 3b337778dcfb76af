//! A command and its arguments, for no shell.

use std::{fmt, str::FromStr};

/// A command and its arguments, which no shell ever sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    words: Vec<String>,
}

/// Why a text is no command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// There is not even a program.
    #[error("the command is empty; give a program and its arguments")]
    Empty,
}

impl CommandLine {
    /// A command of words that are taken as they are.
    ///
    /// # Errors
    ///
    /// Fails where there is no word, or the first is empty.
    pub fn new(words: Vec<String>) -> Result<Self, CommandError> {
        if words.first().is_none_or(String::is_empty) {
            return Err(CommandError::Empty);
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

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text.split_whitespace().map(str::to_owned).collect())
    }
}

impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words.join(" "))
    }
}
