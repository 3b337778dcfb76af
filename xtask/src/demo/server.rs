//! The server that is reloaded: a real nginx, or a small stand-in where there is none.
//!
//! Both read the same configuration, and answer `/site` with what a file of it says.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    child::{Ask, Child},
    patience::Patience,
    place::{Place, is_root, printed},
    program::Program,
};

/// How many workers it has.
const WORKERS: usize = 2;

/// How long it may take to start.
const START: Duration = Duration::from_secs(5);

/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(1);

const STAND_IN: Program = Program { name: "stand-in", source: include_str!("stand_in.c") };

/// Which program it is.
#[derive(Clone, Debug)]
pub(crate) struct Kind {
    program: PathBuf,
    /// What to call it.
    pub(crate) name: String,
    is_nginx: bool,
}

impl Kind {
    /// Finds nginx.
    pub(crate) fn nginx(place: &Place) -> Option<Self> {
        // A server's program is of use to root alone, so Debian keeps it off the PATH of others.
        let usual = PathBuf::from("/usr/sbin/nginx");
        let program =
            place.programs("nginx").into_iter().chain([usual]).find(|path| path.is_file())?;
        // nginx writes its version to standard error.
        let mut version = Command::new("sh");
        version.args(["-c", r#""$0" -v 2>&1"#]).arg(&program);
        let version = printed(&mut version).unwrap_or_default();
        let name = version.trim().rsplit_once(": ").map_or("nginx", |(_, name)| name);
        Some(Self { program, name: name.replace('/', " "), is_nginx: true })
    }

    /// Compiles the stand-in.
    ///
    /// # Errors
    ///
    /// Fails where there is no C compiler.
    pub(crate) fn stand_in(place: &Place) -> Result<Self> {
        let name = "a stand-in in C, for there is no nginx here".to_owned();
        Ok(Self { program: STAND_IN.compile(place)?, name, is_nginx: false })
    }

    /// The command by which it judges its configuration in the folder `home`.
    pub(crate) fn check(&self, home: &Path, include: [&Path; 2]) -> Command {
        let mut command = Command::new(&self.program);
        if self.is_nginx {
            command
                .args(["-t", "-q", "-e", "error.log", "-p"])
                .arg(home)
                .args(["-c", "nginx.conf"]);
        } else {
            command.arg("-t").args(include);
        }
        command
    }

    /// What to call it in a word.
    pub(crate) fn label(&self) -> &'static str {
        if self.is_nginx { "nginx" } else { "server" }
    }

    /// What to call its first process.
    pub(crate) fn master(&self) -> &'static str {
        if self.is_nginx { "nginx's master" } else { "the server's master" }
    }
}

/// A server that runs.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    port: u16,
}

/// What it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The text, without the end of its line.
    pub(crate) body: String,
}

impl Server {
    /// Starts it in the folder `home`, under a name of its own, for an agent finds every nginx of
    /// the machine; waits until it answers `/site`.
    ///
    /// # Errors
    ///
    /// Fails where it does not start, with what it said.
    pub(crate) fn start(
        kind: &Kind,
        name: &str,
        home: &Path,
        include: [&Path; 2],
        patience: &Patience,
    ) -> Result<Self> {
        let program = copy(&kind.program, home, name)?;
        // The port is free until somebody else takes it, so there is a second and a third try.
        let mut tries = 0..3;
        loop {
            match Self::try_start(kind, &program, home, include, patience) {
                Err(error) if tries.next().is_none() => return Err(error),
                Err(error) if error.is::<crate::patience::Interrupted>() => return Err(error),
                Err(_) => {}
                Ok(server) => return Ok(server),
            }
        }
    }

    fn try_start(
        kind: &Kind,
        program: &Path,
        home: &Path,
        include: [&Path; 2],
        patience: &Patience,
    ) -> Result<Self> {
        let port = free_port().context("cannot find a free port on 127.0.0.1")?;
        let log = home.join("error.log");
        let mut command = Command::new(program);
        if kind.is_nginx {
            let config = home.join("nginx.conf");
            fs::write(&config, configuration(home, port, include))
                .with_context(|| format!("cannot write {}", config.display()))?;
            command.arg("-p").arg(home).arg("-c").arg(config).arg("-e").arg(&log);
        } else {
            command.arg(port.to_string()).args(include);
        }
        let output = fs::File::create(home.join("output.log"))
            .with_context(|| format!("cannot write into {}", home.display()))?;
        let child = Child::spawn(
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output),
            Ask::Signal,
        )?;
        let mut server = Self { child, port };
        let is_up = patience.until(Duration::from_millis(5), START, || {
            let is_up = server.get("/site").is_some() && server.workers().len() == WORKERS;
            Ok((is_up || server.child.ended()?.is_some()).then_some(is_up))
        })?;
        if is_up == Some(true) {
            return Ok(server);
        }
        let said: String = ["output.log", "error.log"]
            .iter()
            .filter_map(|name| fs::read_to_string(home.join(name)).ok())
            .collect();
        bail!("{} does not serve 127.0.0.1:{port}; it said: {}", kind.name, said.trim());
    }

    /// Makes sure that it still runs.
    ///
    /// # Errors
    ///
    /// Fails where it does not.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.ended()? {
            None => Ok(()),
            Some(status) => bail!("the server has ended, and should not have: {status}"),
        }
    }

    /// Where it serves.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    /// The pid of its master.
    pub(crate) fn master(&self) -> u32 {
        self.child.pid()
    }

    /// The pids of its workers.
    pub(crate) fn workers(&self) -> Vec<u32> {
        self.child.children()
    }

    /// Whether all of its workers are others than `old`, and there are as many as there should be.
    pub(crate) fn has_replaced(&self, old: &[u32]) -> bool {
        let now = self.workers();
        now.len() == WORKERS && now.iter().all(|pid| !old.contains(pid))
    }

    /// What it answers, or `None` where it does not.
    pub(crate) fn get(&self, path: &str) -> Option<Answer> {
        parse(&self.request(path).ok()?)
    }

    fn request(&self, path: &str) -> io::Result<String> {
        let address = (Ipv4Addr::LOCALHOST, self.port).into();
        let mut stream = TcpStream::connect_timeout(&address, REQUEST)?;
        stream.set_read_timeout(Some(REQUEST))?;
        stream.set_write_timeout(Some(REQUEST))?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

/// Copies a program under another name, which becomes the name of its process.
///
/// # Errors
///
/// Fails where `cp` does.
pub(crate) fn copy(program: &Path, home: &Path, name: &str) -> Result<PathBuf> {
    let copy = home.join(name);
    // By another process: a child that another thread forks meanwhile would inherit our descriptor,
    // and what is open for writing cannot be executed.
    let mut cp = Command::new("cp");
    let output = cp.arg(program).arg(&copy).output().context("cannot run `cp`")?;
    if output.status.success() {
        return Ok(copy);
    }
    bail!("cannot copy {}: {}", program.display(), String::from_utf8_lossy(&output.stderr).trim())
}

/// The text of a file that makes the server answer `path` with `text`.
pub(crate) fn answer(path: &str, text: &str) -> String {
    format!("location = {path} {{ return 200 \"{text}\"; }}\n")
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn configuration(home: &Path, port: u16, include: [&Path; 2]) -> String {
    let home = home.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("    {kind}_temp_path \"{home}/{kind}\";\n"))
        .concat();
    let include: String = include
        .map(|folder| format!("        include \"{}/*.conf\";\n", folder.display()))
        .concat();
    // As root, the workers would become nobody, who cannot enter a private folder.
    let user = if is_root() { "user root;\n" } else { "" };
    format!(
        "{user}daemon off;\nworker_processes {WORKERS};\npid \"{home}/nginx.pid\";\n\
         events {{ worker_connections 64; }}\nhttp {{\n    access_log off;\n{temporary}\
         \x20   server {{\n        listen 127.0.0.1:{port};\n{include}    }}\n}}\n"
    )
}

fn parse(answer: &str) -> Option<Answer> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, body: body.trim_end().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_a_status_and_a_body() {
        fn check(answer: &str, expected: Option<(u16, &str)>) {
            let expected = expected.map(|(status, body)| Answer { status, body: body.to_owned() });
            assert_eq!(parse(answer), expected, "for {answer:?}");
        }
        check("HTTP/1.1 200 OK\r\nA: b\r\n\r\nrevision 2\n", Some((200, "revision 2")));
        check("HTTP/1.0 404 Not Found\r\n\r\n", Some((404, "")));
        check("HTTP/1.0 200 OK\r\nA: b\r\n", None);
        check("", None);
    }
}
