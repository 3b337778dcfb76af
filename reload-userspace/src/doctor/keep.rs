//! What the agent would keep and serve: the state directory, and the address for metrics and health.
//!
//! `doctor` may run beside the agent, as a health check does, and must not be in its way for a moment:
//! it takes no lock, and an address only where nobody has it.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::Duration,
};

use rustix::{
    fs::{Access, AtFlags, CWD, Mode, OFlags, accessat, major, minor, open},
    io::Errno,
};

use super::{
    finding::{Finding, Id},
    report::Report,
    twin,
};
use crate::telemetry::Server;

/// What the agent answers to whoever asks for `/`.
const INTRODUCTION: &str = "\r\n\r\nreload-agent\n";

/// How long somebody on this machine may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// How much of an answer is read, in bytes.
const MOST_READ: u64 = 4096;

const WRITABLE: &str = "give --state-dir a directory that the agent may write to, on a volume that \
                        outlives it (emptyDir, StateDirectory=)";

/// Whoever has what was asked for, and may.
const TWIN: &str = "the agent that runs with these options";

/// Looks at what was asked for.
pub(super) fn examine(report: &mut Report, state_dir: Option<&Path>, listen: Option<SocketAddr>) {
    if let Some(path) = state_dir {
        report.add(state(path).at(path));
    }
    if let Some(address) = listen {
        report.add(listener(address).of(address.to_string()));
    }
}

/// Whether the ledger could be kept in a directory.
fn state(path: &Path) -> Finding {
    let id = Id::StateDir;
    let bad = |detail: String| Finding::bad(id, detail).remedy(WRITABLE);
    match fs::metadata(path) {
        Ok(it) if !it.is_dir() => bad("it is no directory".to_owned()),
        Ok(it) => {
            if let Err(error) = File::open(path) {
                return bad(format!("it cannot be opened: {error}"));
            }
            if let Err(errno) = try_to_write(path) {
                // `run` goes on from memory, and says so.
                let detail =
                    format!("nothing would be remembered, for it cannot be written: {errno}");
                return Finding::note(id, detail).remedy(WRITABLE);
            }
            if is_locked(&it) {
                return match twin::find() {
                    Some(pid) => Finding::ok(id, format!("{TWIN} (pid {pid}) is using it")),
                    None => bad("another agent is using it: this one would not start".to_owned())
                        .remedy("give each agent a --state-dir of its own, or stop that one"),
                };
            }
            Finding::ok(id, "it can be written")
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let above = path.ancestors().skip(1).find(|it| it.exists());
            let above = above.unwrap_or(Path::new("/"));
            match accessat(CWD, above, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
                Ok(()) if above.is_dir() => Finding::ok(id, "it does not exist; it would be made"),
                Ok(()) => bad(format!("{} is no directory", above.display())),
                Err(errno) => bad(format!(
                    "it does not exist, and cannot be made in {}: {errno}",
                    above.display()
                )),
            }
        }
        Err(error) => bad(format!("it cannot be looked at: {error}")),
    }
}

/// Writes nothing: a file without a name is one that nobody ever sees.
fn try_to_write(path: &Path) -> Result<(), Errno> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    match open(path, flags, Mode::RUSR | Mode::WUSR) {
        // Not every filesystem has such files.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT) => {
            accessat(CWD, path, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)
        }
        answer => answer.map(drop),
    }
}

/// Whether somebody has locked the directory, as far as this pid namespace shows locks.
fn is_locked(directory: &fs::Metadata) -> bool {
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let (device, inode) = (directory.dev(), directory.ino());
    let key = format!(" {:02x}:{:02x}:{inode} ", major(device), minor(device));
    locks.lines().any(|line| line.contains(" FLOCK ") && line.contains(&key))
}

/// Whether metrics could be served there.
fn listener(address: SocketAddr) -> Finding {
    let id = Id::Listen;
    // Who asks first does not take it from an agent that is just about to.
    if is_agent(address) {
        return match twin::find() {
            Some(pid) => Finding::ok(id, format!("{TWIN} (pid {pid}) answers there")),
            None => Finding::bad(id, "another agent answers there: this one would not start")
                .remedy("give each agent a --listen of its own, or stop that one"),
        };
    }
    match Server::bind(&address.to_string()) {
        Ok(_) => Finding::ok(id, "metrics and health can be served there"),
        Err(error) => Finding::bad(id, format!("{:#}", anyhow::Error::new(error)))
            .remedy("stop who listens there, or give --listen another port"),
    }
}

/// Whether whoever listens there is an agent.
fn is_agent(address: SocketAddr) -> bool {
    let ask = |address| -> io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.take(MOST_READ).read_to_string(&mut answer)?;
        Ok(answer)
    };
    let mut answers = reachable(address).into_iter().filter_map(|address| ask(address).ok());
    answers.any(|answer| answer.contains(INTRODUCTION))
}

/// All addresses of a machine are none to connect to, but its own are among them; a container need not
/// have one of version 6.
fn reachable(address: SocketAddr) -> Vec<SocketAddr> {
    let own: &[IpAddr] = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => &[IpAddr::V4(Ipv4Addr::LOCALHOST)],
        IpAddr::V6(ip) if ip.is_unspecified() => {
            &[IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::LOCALHOST)]
        }
        ip => &[ip],
    };
    own.iter().map(|&ip| SocketAddr::new(ip, address.port())).collect()
}
