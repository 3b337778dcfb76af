//! What a person sees: rows in columns, in 80 columns, in colour where that is wanted.

use std::{
    env,
    io::{self, IsTerminal as _},
    time::Duration,
};

/// The width that everything fits into.
const WIDTH: usize = 80;

/// Where the text of a row starts.
const INDENT: usize = 22;

/// What a piece of text is, which decides on its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// A heading.
    Title,
    /// Less important than what surrounds it.
    Dim,
    /// As expected.
    Good,
    /// Not as expected.
    Bad,
    /// What was done to the files.
    Change,
    /// What the kernel told.
    Kernel,
    /// What the agent did.
    Signal,
    /// What became of the server.
    Server,
}

impl Tone {
    /// The parameters of the escape sequence, `console_codes(4)`.
    fn code(self) -> &'static str {
        match self {
            Self::Title => "1",
            Self::Dim => "2",
            Self::Good | Self::Server => "32",
            Self::Bad => "1;31",
            Self::Change => "36",
            Self::Kernel => "35",
            Self::Signal => "33",
        }
    }
}

/// Standard output.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    is_coloured: bool,
}

impl Screen {
    /// Colours only a terminal that can show them, and only where `NO_COLOR` is unset or empty.
    pub(crate) fn new() -> Self {
        let is_set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self { is_coloured: io::stdout().is_terminal() && !is_set("NO_COLOR") && !is_dumb }
    }

    /// The text in the colour of its tone.
    pub(crate) fn paint(self, tone: Tone, text: &str) -> String {
        if !self.is_coloured || text.is_empty() {
            return text.to_owned();
        }
        format!("\x1b[{}m{text}\x1b[0m", tone.code())
    }

    /// Writes a heading, with an empty line before it.
    pub(crate) fn heading(self, text: &str) {
        println!("\n{}", self.paint(Tone::Title, text));
    }

    /// Writes a fact about the scene.
    pub(crate) fn fact(self, name: &str, text: &str) {
        let lines = wrap(text, WIDTH - 11);
        for (index, line) in lines.iter().enumerate() {
            let name = if index == 0 { name } else { "" };
            println!("  {}{line}", self.paint(Tone::Dim, &format!("{name:9}")));
        }
    }

    /// Writes what happened, and when.
    pub(crate) fn row(self, at: Duration, tone: Tone, who: &str, text: &str) {
        let mut at = millis(at);
        let mut who = who;
        for line in wrap(text, WIDTH - INDENT) {
            let time = self.paint(Tone::Dim, &format!("{at:>11}"));
            println!("{time}  {} {line}", self.paint(tone, &format!("{who:8}")));
            at.clear();
            who = "";
        }
    }

    /// Writes a row of the table: text to the left, numbers to the right. The tone is that of the
    /// result, or of all where there is none.
    pub(crate) fn cells(self, cells: [&str; 5], tone: Tone) {
        let [title, seen, signal, served, result] = cells;
        let row = format!("  {title:26} {seen:23} {signal:>10} {served:>9}");
        if result.is_empty() {
            println!("{}", self.paint(tone, &row));
        } else {
            println!("{row}  {}", self.paint(tone, result));
        }
    }
}

/// A time in milliseconds, so that all line up.
pub(crate) fn millis(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

/// Breaks text at spaces into lines of at most `width` characters; a longer word has its own line.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is always a line");
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_broken_at_spaces() {
        fn check(text: &str, expected: &[&str]) {
            assert_eq!(wrap(text, 9), expected, "for {text:?}");
        }
        check("", &[""]);
        check("one two", &["one two"]);
        check("one two three", &["one two", "three"]);
        check("nine char", &["nine char"]);
        check("a longerthanthat b", &["a", "longerthanthat", "b"]);
    }

    #[test]
    fn times_line_up() {
        fn check(micros: u64, expected: &str) {
            assert_eq!(millis(Duration::from_micros(micros)), expected);
        }
        check(0, "0.00 ms");
        check(412, "0.41 ms");
        check(12_345, "12.35 ms");
        check(2_000_000, "2000.00 ms");
    }

    #[test]
    fn text_is_plain_where_colour_is_not_wanted() {
        let plain = Screen { is_coloured: false };
        assert_eq!(plain.paint(Tone::Bad, "no"), "no");
        let coloured = Screen { is_coloured: true };
        assert_eq!(coloured.paint(Tone::Bad, "no"), "\x1b[1;31mno\x1b[0m");
        assert_eq!(coloured.paint(Tone::Bad, ""), "");
    }
}
