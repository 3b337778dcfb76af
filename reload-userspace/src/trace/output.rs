//! How updates are told: as they come, or all of them at the end.

mod chrome;
mod html;
mod json;
mod text;

use std::io::{self, Write};

use super::{record::Record, summary::Summary};

/// A way to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people: a timeline for each update.
    Text {
        /// Whether the slowest is coloured.
        has_colour: bool,
    },
    /// One object for each update, a line each, and one for all.
    Json,
    /// Trace events, as Perfetto and `chrome://tracing` load them.
    Chrome,
    /// One page, at the end.
    Html,
}

/// Where it is told.
pub struct Output {
    format: Format,
    to: Box<dyn Write>,
    has_begun: bool,
}

impl Output {
    /// Tells in that format.
    #[must_use]
    pub fn new(format: Format, to: Box<dyn Write>) -> Self {
        Self { format, to, has_begun: false }
    }

    /// Tells of an update.
    ///
    /// # Errors
    ///
    /// Fails where nothing can be written.
    pub(crate) fn tell(&mut self, record: &Record) -> io::Result<()> {
        match self.format {
            Format::Text { has_colour } => text::tell(&mut self.to, record, has_colour)?,
            Format::Json => json::tell(&mut self.to, record)?,
            Format::Chrome => chrome::tell(&mut self.to, record, self.has_begun)?,
            Format::Html => {}
        }
        self.has_begun = true;
        self.to.flush()
    }

    /// Tells of all updates, at the end.
    ///
    /// # Errors
    ///
    /// As [`Output::tell`].
    pub(crate) fn end(&mut self, summary: &Summary) -> io::Result<()> {
        match self.format {
            Format::Text { .. } => text::end(&mut self.to, &summary.told())?,
            Format::Json => json::end(&mut self.to, &summary.told())?,
            Format::Chrome => chrome::end(&mut self.to, self.has_begun)?,
            Format::Html => html::write(&mut self.to, summary)?,
        }
        self.to.flush()
    }
}
