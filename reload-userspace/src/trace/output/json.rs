//! One object for each update, a line each, and one for all of them at the end.

use std::io::{self, Write};

use serde_json::json;

use crate::trace::{record::Record, summary::Told};

pub(super) fn tell(to: &mut dyn Write, record: &Record) -> io::Result<()> {
    serde_json::to_writer(&mut *to, record)?;
    writeln!(to)
}

pub(super) fn end(to: &mut dyn Write, told: &Told) -> io::Result<()> {
    serde_json::to_writer(&mut *to, &json!({ "summary": told }))?;
    writeln!(to)
}
