//! A little HTTP server that answers as it is told.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use super::time::PATIENCE;

/// A server on the loopback; what it is asked and what it answers are the test's.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    requests: Receiver<Vec<String>>,
    answers: Sender<String>,
}

impl Server {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, requests) = channel();
        let (answers, told) = channel::<String>();
        // The thread ends with the test's process.
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let lines = lines.map_while(Result::ok).take_while(|line| !line.is_empty());
                let head: Vec<_> = lines.collect();
                println!("server: {head:?}");
                if asked.send(head).is_err() {
                    return;
                }
                let Ok(answer) = told.recv() else { return };
                println!("server: answers {answer}");
                // One who has gone away does not hear it.
                drop(write!(stream, "HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n"));
            }
        });
        Self { address, requests, answers }
    }

    /// Where it listens: address and port.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for the next request, and gives the lines of its head.
    #[track_caller]
    pub(crate) fn request(&self) -> Vec<String> {
        self.requests.recv_timeout(*PATIENCE).expect("a request comes")
    }

    /// Whether a request has come that was not waited for.
    pub(crate) fn has_request(&self) -> bool {
        self.requests.try_recv().is_ok()
    }

    /// Answers the request with this status, and header fields maybe.
    pub(crate) fn answer(&self, answer: &str) {
        self.answers.send(answer.to_owned()).unwrap();
    }
}
