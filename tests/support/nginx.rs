//! A real nginx, with its files and its socket in a directory of its own.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{
    lines::Lines,
    process::{Process, children_of, run},
    target::unique_name,
    time::poll,
};

/// How many workers it has.
pub(crate) const WORKERS: usize = 2;

/// An nginx that runs.
#[derive(Debug)]
pub(crate) struct Nginx {
    process: Process,
    name: String,
    socket: PathBuf,
    check: String,
    // Its words are not waited for, but they are shown where a test fails.
    _lines: Lines,
    home: TempDir,
}

impl Nginx {
    /// Starts an nginx that includes `*.conf` of the directory `servers`, and waits until it serves.
    pub(crate) fn start(servers: &Path) -> Self {
        Self::start_by(servers, |home, executable| {
            fs::write(home.join("nginx.conf"), configuration(home, servers)).unwrap();
            (Command::new(executable), home.to_owned())
        })
    }

    /// Starts one in a mount namespace of its own, where the directory `servers` is mounted elsewhere and
    /// the rest of its configuration is nowhere else.
    pub(crate) fn start_apart(servers: &Path) -> Self {
        const SCRIPT: &str = r#"
            set -e
            mount -t tmpfs none "$1"
            mkdir "$1/servers"
            mount --bind "$2" "$1/servers"
            printf %s "$3" > "$1/nginx.conf"
            shift 3
            exec "$@""#;
        Self::start_by(servers, |_home, executable| {
            let there = Path::new("/mnt");
            let text = configuration(there, &there.join("servers"));
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-c", SCRIPT, "sh"]).args([there, servers]).arg(text);
            command.arg(executable);
            (command, there.to_owned())
        })
    }

    /// Starts one by the command that `prepare` makes of a directory and an executable there; beside it
    /// comes where nginx finds its `nginx.conf`.
    ///
    /// It is called by a name of its own, for an agent finds every nginx of the machine.
    fn start_by(servers: &Path, prepare: impl FnOnce(&Path, &Path) -> (Command, PathBuf)) -> Self {
        let home = tempfile::tempdir().unwrap();
        let name = unique_name();
        let executable = home.path().join(&name);
        // Copied by another process: see `Recipe::named`.
        run(Command::new("cp").args([nginx(), executable.clone()]));
        let (mut command, prefix) = prepare(home.path(), &executable);
        let prefix = prefix.display();
        let options = format!("-p {prefix} -c {prefix}/nginx.conf -e stderr");
        let mut process = Process::spawn(
            command
                .args(options.split(' '))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped()),
        );
        let lines = Lines::of("nginx", process.stderr.take().unwrap());
        let check = format!("{} -t {options}", executable.display());
        let socket = socket_of(servers);
        let nginx = Self { process, name, socket, check, _lines: lines, home };
        poll("nginx serves", || nginx.get());
        poll("nginx has its workers", || (nginx.workers().len() == WORKERS).then_some(()));
        nginx
    }

    /// The command that asks it whether its configuration is good.
    pub(crate) fn check(&self) -> &str {
        &self.check
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The pid of the master.
    pub(crate) fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// The pids of the workers.
    pub(crate) fn workers(&self) -> Vec<i32> {
        children_of(self.pid())
    }

    pub(crate) fn lives(&mut self) -> bool {
        self.process.lives()
    }

    /// What it serves, or `None` where it does not.
    pub(crate) fn get(&self) -> Option<String> {
        let mut stream = UnixStream::connect(&self.socket).ok()?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (_head, body) = answer.split_once("\r\n\r\n")?;
        Some(body.to_owned())
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // A master that is killed leaves its workers behind. Our own child: the pid is its own.
        let master = Pid::from_raw(self.process.pid()).unwrap();
        let _ignored = kill_process(master, Signal::TERM);
        drop(self.process.wait());
    }
}

/// The text of a server that answers with `revision`, for a file in the directory `servers`.
pub(crate) fn server(servers: &Path, revision: &str) -> String {
    let socket = socket_of(servers);
    format!(
        "server {{\n    listen unix:{};\n    location / {{ return 200 \"{revision}\"; }}\n}}\n",
        socket.display()
    )
}

/// The socket, beside the directory of the servers.
fn socket_of(servers: &Path) -> PathBuf {
    servers.with_extension("sock")
}

fn nginx() -> PathBuf {
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&dirs)
        .chain(["/usr/sbin".into()])
        .map(|dir| dir.join("nginx"))
        .find(|path| path.exists())
        .expect("nginx is not installed; `cargo xtask setup` installs it")
}

fn configuration(home: &Path, servers: &Path) -> String {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("    {kind}_temp_path {}/{kind};\n", home.display()))
        .concat();
    format!(
        "daemon off;\nmaster_process on;\nuser root;\nworker_processes {WORKERS};\npid {}/pid;\n\
         events {{ worker_connections 64; }}\n\
         http {{\n    access_log off;\n{temporary}    include {}/*.conf;\n}}\n",
        home.display(),
        servers.display(),
    )
}
