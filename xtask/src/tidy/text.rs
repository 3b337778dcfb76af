//! Tells the code of a Rust file from its comments and strings.
//!
//! It knows as much of Rust as that takes, and no more: there is no syntax tree.

/// A Rust file, taken apart. Both halves have the lines of the whole.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Text {
    /// What the compiler acts on; strings are emptied.
    pub(super) code: String,
    /// What it skips.
    pub(super) comments: String,
}

impl Text {
    /// Takes a file apart.
    pub(super) fn new(text: &str) -> Self {
        let mut halves = Self { code: String::new(), comments: String::new() };
        let mut rest = text;
        while !rest.is_empty() {
            let (piece, len) = piece(rest, &halves.code);
            let (taken, left) = rest.split_at(len);
            match piece {
                Piece::Code => halves.code.push_str(taken),
                Piece::Comment => {
                    halves.comments.push_str(taken);
                    halves.code.extend(taken.chars().filter(|&c| c == '\n'));
                }
                Piece::Quoted => {
                    halves.code.push_str("\"\"");
                    halves.code.extend(taken.chars().filter(|&c| c == '\n'));
                }
            }
            if piece != Piece::Comment {
                halves.comments.extend(taken.chars().filter(|&c| c == '\n'));
            }
            rest = left;
        }
        halves
    }

    /// The code without the tests at its end.
    pub(super) fn tested_code(&self) -> &str {
        // A module of tests is the last thing in its file.
        self.code.split("#[cfg(test)]\nmod ").next().unwrap_or_default()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    Code,
    Comment,
    Quoted,
}

/// Tells what `rest` starts with, and how long that is. `before` is the code up to there.
fn piece(rest: &str, before: &str) -> (Piece, usize) {
    if rest.starts_with("//") {
        return (Piece::Comment, rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return (Piece::Comment, rest.find("*/").map_or(rest.len(), |end| end + 2));
    }
    if rest.starts_with('"') {
        return (Piece::Quoted, quoted(rest, '"'));
    }
    let is_in_word = before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
    if let (false, Some(len)) = (is_in_word, raw(rest)) {
        return (Piece::Quoted, len);
    }
    if rest.starts_with('\'') && is_character(rest) {
        return (Piece::Quoted, quoted(rest, '\''));
    }
    (Piece::Code, rest.chars().next().map_or(1, char::len_utf8))
}

/// The length of the literal that `rest` starts with, both quotes included.
fn quoted(rest: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        if !is_escaped && c == quote {
            return at + 1;
        }
        is_escaped = !is_escaped && c == '\\';
    }
    rest.len()
}

/// The length of the raw string that `rest` starts with, if it does: `r#"…"#`, `br"…"`, `cr"…"`.
fn raw(rest: &str) -> Option<usize> {
    let opening = rest.strip_prefix(['b', 'c']).unwrap_or(rest).strip_prefix('r')?;
    let hashes = opening.len() - opening.trim_start_matches('#').len();
    let body = opening[hashes..].strip_prefix('"')?;
    let closing = format!("\"{}", "#".repeat(hashes));
    let end = body.find(&closing).map_or(body.len(), |end| end + closing.len());
    Some(rest.len() - body.len() + end)
}

/// Whether the `'` at the start of `rest` opens a character and not a lifetime.
fn is_character(rest: &str) -> bool {
    let mut after = rest.chars().skip(1);
    after.next() == Some('\\') || after.next() == Some('\'')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_told_from_comments_and_strings() {
        fn check(text: &str, code: &str, comments: &str) {
            let expected = Text { code: code.to_owned(), comments: comments.to_owned() };
            assert_eq!(Text::new(text), expected, "for {text:?}");
        }
        check("a // b\nc", "a \nc", "// b\n");
        check("a /* b\n c */ d", "a \n d", "/* b\n c */");
        check(r#"a("b // c") // d"#, r#"a("") "#, "// d");
        check(r#"a("b \" c", d)"#, r#"a("", d)"#, "");
        check(r##"a(r#"b " c"#, d)"##, r#"a("", d)"#, "");
        check(r#"a(br"b\", c)"#, r#"a("", c)"#, "");
        check("a(\"b\nc\")", "a(\"\"\n)", "\n");
        check(r#"a('"', '\'', b)"#, r#"a("", "", b)"#, "");
        check("fn a<'b>(c: &'b D) // e", "fn a<'b>(c: &'b D) ", "// e");
        check("for\"\"", "for\"\"", "");
        check("\"open", "\"\"", "");
    }

    #[test]
    fn tests_are_no_tested_code() {
        let text = Text::new("fn a() {}\n\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n");
        assert_eq!(text.tested_code(), "fn a() {}\n\n");
    }
}
