//! A client of what the agent serves.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

use super::time::PATIENCE;

/// A connection on which nothing has been said.
#[track_caller]
pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, *PATIENCE).unwrap();
    stream.set_read_timeout(Some(*PATIENCE)).unwrap();
    stream
}

/// Asks for a path, and gives the status and the text of the answer.
#[track_caller]
pub(crate) fn get(address: SocketAddr, path: &str) -> (u16, String) {
    try_get(address, path).unwrap_or_else(|| panic!("{address} does not answer to {path}"))
}

/// The same, or `None` where the connection is cut off.
pub(crate) fn try_get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = connect(address);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: agent\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// The metrics at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Scrape(String);

impl Scrape {
    #[track_caller]
    pub(crate) fn of(address: SocketAddr) -> Self {
        let (status, text) = get(address, "/metrics");
        assert_eq!(status, 200, "{text}");
        Self(text)
    }

    /// The value of a series, named without its prefix, with its labels in their order.
    pub(crate) fn get(&self, series: &str) -> Option<f64> {
        let is_it = |line: &&str| {
            line.strip_prefix("reload_agent_")
                .and_then(|line| line.strip_prefix(series))
                .is_some_and(|rest| rest.trim_start_matches("{}").starts_with(' '))
        };
        let line = self.0.lines().find(is_it)?;
        line.rsplit(' ').next()?.parse().ok()
    }

    /// The metrics of which it tells, with their types.
    pub(crate) fn types(&self) -> Vec<(&str, &str)> {
        let types = self.0.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        types.filter_map(|line| line.split_once(' ')).collect()
    }

    /// The series that have this in them.
    pub(crate) fn with(&self, text: &str) -> Vec<&str> {
        self.0.lines().filter(|line| !line.starts_with('#') && line.contains(text)).collect()
    }
}
