//! What writes, beside what looks: whoever reads may stop, and nothing should be missed for that.

use std::{
    io::{self, Write},
    mem,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

/// How many bytes may wait to be written.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// How many are written at a time.
const PIECE: usize = 16 * 1024;

/// How long they are waited for at the end where none of them goes out.
const PATIENCE: Duration = Duration::from_secs(2);

/// A writer whose [`flush`](Write::flush) does not wait.
pub(super) struct Outlet {
    text: Vec<u8>,
    parts: Option<Sender<Vec<u8>>>,
    /// A word for each part that was written.
    written: Receiver<usize>,
    waiting: usize,
    failure: Arc<Mutex<Option<io::Error>>>,
}

impl Outlet {
    /// Starts the thread that writes there.
    pub(super) fn new(mut to: Box<dyn Write + Send>) -> Self {
        let (parts, taken) = mpsc::channel::<Vec<u8>>();
        let (told, written) = mpsc::channel();
        let failure = Arc::new(Mutex::new(None));
        let noted = Arc::clone(&failure);
        thread::spawn(move || {
            for part in taken {
                if let Err(error) = to.write_all(&part).and_then(|()| to.flush()) {
                    *noted.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    return;
                }
                if told.send(part.len()).is_err() {
                    return;
                }
            }
        });
        Self { text: Vec::new(), parts: Some(parts), written, waiting: 0, failure }
    }

    /// Writes what waits, as long as it goes out.
    ///
    /// # Errors
    ///
    /// Fails where it cannot be written, or whoever reads it has stopped.
    pub(super) fn end(&mut self) -> io::Result<()> {
        if self.parts.is_none() {
            return Ok(());
        }
        self.flush()?;
        // The thread ends with it.
        self.parts = None;
        loop {
            match self.written.recv_timeout(PATIENCE) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => return self.failed(),
                Err(RecvTimeoutError::Timeout) => return Err(stuck()),
            }
        }
    }

    fn failed(&self) -> io::Result<()> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        failure.map_or(Ok(()), Err)
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        // What was told before the trace has failed is worth as much.
        drop(self.end());
    }
}

impl Write for Outlet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    /// Hands on what was written so far.
    fn flush(&mut self) -> io::Result<()> {
        let written: usize = self.written.try_iter().sum();
        self.waiting += self.text.len();
        self.waiting -= written;
        if self.waiting > MOST_BYTES {
            return Err(stuck());
        }
        // In pieces, so that whoever reads slowly is seen to read.
        let text = mem::take(&mut self.text);
        let mut pieces = text.chunks(PIECE).map(<[u8]>::to_vec);
        let is_taken =
            pieces.all(|it| self.parts.as_ref().is_some_and(|parts| parts.send(it).is_ok()));
        if is_taken { Ok(()) } else { self.failed() }
    }
}

fn stuck() -> io::Error {
    io::Error::other("whoever reads it has stopped, and what is told waits")
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, pipe},
        sync::mpsc::channel,
    };

    use super::*;

    #[test]
    fn all_is_written_in_order() {
        let (mut reader, writer) = pipe().unwrap();
        let mut outlet = Outlet::new(Box::new(writer));
        for number in 0..100 {
            writeln!(outlet, "{number}").unwrap();
            outlet.flush().unwrap();
        }
        outlet.end().unwrap();
        drop(outlet);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text.lines().count(), 100);
        assert!(text.starts_with("0\n1\n") && text.ends_with("\n99\n"));
    }

    /// One that never comes to an end.
    struct Stuck(Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            self.0.recv().map_err(io::Error::other)?;
            Ok(0)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn whoever_does_not_read_is_not_waited_for() {
        let (stop, wait) = channel();
        let mut outlet = Outlet::new(Box::new(Stuck(wait)));
        outlet.write_all(&vec![0; MOST_BYTES]).unwrap();
        outlet.flush().unwrap();
        outlet.write_all(&[0]).unwrap();
        let error = outlet.flush().unwrap_err().to_string();
        assert!(error.starts_with("whoever reads it has stopped"), "{error}");
        drop(stop);
    }

    #[test]
    fn what_cannot_be_written_is_told() {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let mut outlet = Outlet::new(Box::new(writer));
        outlet.write_all(b"x").unwrap();
        let error = outlet.end().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
