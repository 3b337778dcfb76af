//! One object for each update, a line each, and one for all of them at the end.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::{Serializer, json, ser::Formatter};

use crate::{
    report::speaks,
    trace::{record::Record, summary::Told},
};

/// As compact, and without any character that a terminal does not show: JSON demands it of the first 32 only.
struct Shown;

impl Formatter for Shown {
    fn write_string_fragment<W: Write + ?Sized>(
        &mut self,
        to: &mut W,
        text: &str,
    ) -> io::Result<()> {
        let mut rest = text;
        while let Some((place, char)) = rest.char_indices().find(|&(_, char)| speaks(char)) {
            to.write_all(&rest.as_bytes()[..place])?;
            write!(to, "\\u{:04x}", u32::from(char))?;
            rest = &rest[place + char.len_utf8()..];
        }
        to.write_all(rest.as_bytes())
    }
}

/// Writes something as JSON.
pub(super) fn write(to: &mut dyn Write, it: &impl Serialize) -> io::Result<()> {
    Ok(it.serialize(&mut Serializer::with_formatter(to, Shown))?)
}

pub(super) fn tell(to: &mut dyn Write, record: &Record) -> io::Result<()> {
    write(to, record)?;
    writeln!(to)
}

pub(super) fn end(to: &mut dyn Write, told: &Told) -> io::Result<()> {
    write(to, &json!({ "summary": told }))?;
    writeln!(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_shown_is_escaped() {
        let text = "a\u{7f}b\u{9b}c\u{202e}d\u{2066}\n\"\\é";
        let mut told = Vec::new();
        write(&mut told, &text).unwrap();
        let told = String::from_utf8(told).unwrap();
        assert_eq!(told, r#""a\u007fb\u009bc\u202ed\u2066\n\"\\é""#);
        assert_eq!(serde_json::from_str::<String>(&told).unwrap(), text);
    }
}
