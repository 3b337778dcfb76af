//! The last of what a command has written, however much that was.

use std::io::ErrorKind;

use tokio::net::unix::pipe::Receiver;

/// How much is kept at most, in bytes.
const MOST_KEPT: usize = 64 * 1024;

/// How much of that is shown, in bytes.
const SHOWN: usize = 4 * 1024;

/// How much is read at once, in bytes.
const CHUNK: usize = 16 * 1024;

/// How often a pipe is read after the end of the command: all that it holds by default.
const LAST_READS: usize = 4 * (64 * 1024) / CHUNK;

/// The last of what a command has written.
#[derive(Debug, Default)]
pub(super) struct Output {
    kept: Vec<u8>,
    /// How many bytes came before those.
    before: u64,
}

impl Output {
    /// Takes what comes, for ever: a command is never held up by a full pipe.
    pub(super) async fn collect(&mut self, pipe: &Receiver) {
        while pipe.readable().await.is_ok() {
            if !self.read(pipe) {
                // Closed. That is no end: the command may go on without a word.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Takes what is there. A process that the command has left behind may write for ever, so that
    /// has an end.
    pub(super) fn drain(&mut self, pipe: &Receiver) {
        for _ in 0..LAST_READS {
            let before = self.total();
            if !self.read(pipe) || self.total() == before {
                return;
            }
        }
    }

    /// How many bytes have come.
    fn total(&self) -> u64 {
        self.before + self.kept.len() as u64
    }

    /// Reads once; whether there may be more, now or later.
    fn read(&mut self, pipe: &Receiver) -> bool {
        let mut chunk = [0; CHUNK];
        match pipe.try_read(&mut chunk) {
            Ok(0) => false,
            Ok(count) => {
                self.add(chunk.get(..count).unwrap_or_default());
                true
            }
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        self.kept.extend_from_slice(bytes);
        if self.kept.len() > MOST_KEPT {
            self.forget(self.kept.len() - SHOWN);
        }
    }

    fn forget(&mut self, count: usize) {
        self.kept.drain(..count);
        self.before += count as u64;
    }

    /// The last of it, and how much came before.
    pub(super) fn shown(mut self) -> String {
        let mut cut = self.kept.len().saturating_sub(SHOWN);
        if cut > 0 || self.before > 0 {
            // Not within a character, which has three bytes more at the most.
            let is_within = |byte: &&u8| **byte & 0b1100_0000 == 0b1000_0000;
            cut += self.kept[cut..].iter().take(3).take_while(is_within).count();
        }
        self.forget(cut);
        let text = String::from_utf8_lossy(&self.kept);
        if self.before == 0 {
            return text.into_owned();
        }
        format!("... {} bytes before\n{text}", self.before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(parts: &[&[u8]]) -> String {
        let mut output = Output::default();
        for part in parts {
            output.add(part);
        }
        output.shown()
    }

    #[test]
    fn what_is_short_is_shown_as_it_is() {
        fn check(parts: &[&[u8]], expected: &str) {
            assert_eq!(shown(parts), expected, "for {parts:?}");
        }
        check(&[], "");
        check(&[b"a\n", b"b"], "a\nb");
        check(&[b"\x80\xff"], "\u{fffd}\u{fffd}");
        check(&["é".as_bytes().get(..1).unwrap(), &"é".as_bytes()[1..]], "é");
    }

    #[test]
    fn of_what_is_long_the_end_is_shown() {
        let text = shown(&[b"first", &[b'x'; SHOWN]]);
        assert_eq!(text, format!("... 5 bytes before\n{}", "x".repeat(SHOWN)));
    }

    #[test]
    fn a_character_is_not_cut() {
        // The cut would be behind the first of the two bytes of the last é before it.
        let text = shown(&["éé".as_bytes(), &[b'x'; SHOWN - 1]]);
        assert_eq!(text, format!("... 4 bytes before\n{}", "x".repeat(SHOWN - 1)));
    }

    #[test]
    fn what_is_endless_takes_no_memory() {
        let mut output = Output::default();
        for _ in 0..1000 {
            output.add(&[b'x'; CHUNK]);
            assert!(output.kept.len() <= MOST_KEPT);
        }
        let before = 1000 * CHUNK - SHOWN;
        assert!(output.shown().starts_with(&format!("... {before} bytes before\nxxx")));
    }
}
