//! Whom a selector means at this moment.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use nix::unistd::Pid;

use super::{
    By, Procfs, Selector, Target, TargetError,
    pid_file::{Entry, is_missing},
    procfs::{if_there, read},
    stat::Stat,
    status::FILE,
};
use crate::clock;

/// How many bytes of a task's name the kernel keeps (`TASK_COMM_LEN` without the zero).
const COMM_BYTES: usize = 15;

/// What the kernel appends to the path of an executable that has been replaced or removed.
const DELETED: &[u8] = b" (deleted)";

/// What stands between the name of a program and the rest of the title that it gives itself
/// (`setproctitle(3)`).
const TITLE: &[u8] = b": ";

/// A selector whose files have been looked at.
#[derive(Debug)]
pub(super) enum Look<'a> {
    /// Processes of that name.
    Name(&'a [u8]),
    /// Processes that run that executable.
    Exe(Executable),
    /// The process with that pid, if the file names one.
    Pid(Option<Pid>),
}

/// An executable, to be compared with those that processes run.
#[derive(Debug)]
pub(super) struct Executable {
    /// The path, without symlinks if it is there.
    path: PathBuf,
    /// Which file is at the path for the agent, as device and inode, if that can be told.
    file: Option<(u64, u64)>,
    /// Whether the agent has nothing at the path.
    is_absent: bool,
    /// The agent's mount namespace.
    namespace: Option<PathBuf>,
}

impl<'a> Look<'a> {
    /// Looks at what the selector depends on besides processes.
    pub(super) fn of(procfs: &Procfs, selector: &'a Selector) -> Result<Self, TargetError> {
        Ok(match &selector.by {
            By::Process(name) => Self::Name(name.as_bytes()),
            By::Exe(path) if selector.scope.is_anywhere() => {
                Self::Exe(Executable::at(procfs, path))
            }
            By::Exe(path) => Self::Exe(Executable::of_target(path)),
            By::PidFile(path) => Self::Pid(named_by(procfs, path)?),
        })
    }

    /// Whether this process is meant.
    pub(super) fn means(
        &self,
        procfs: &Procfs,
        pid: Pid,
        stat: &Stat,
    ) -> Result<bool, TargetError> {
        if !stat.is_running() {
            return Ok(false);
        }
        match self {
            Self::Name(name) => is_named(&procfs.living_home(pid, stat)?, stat, name),
            Self::Exe(executable) => executable.is_run_in(&procfs.living_home(pid, stat)?),
            Self::Pid(named) => Ok(*named == Some(pid)),
        }
    }
}

impl Executable {
    fn at(procfs: &Procfs, path: &Path) -> Self {
        let canonical = fs::canonicalize(path);
        let is_absent = canonical.as_ref().is_err_and(is_missing);
        let namespace = procfs.own_mount_namespace();
        let path = canonical.unwrap_or_else(|_| path.to_owned());
        Self { file: file_at(&path), path, is_absent, namespace }
    }

    /// The one at a path as the target has it, whatever the agent has there.
    fn of_target(path: &Path) -> Self {
        Self { path: path.to_owned(), file: None, is_absent: true, namespace: None }
    }

    /// Whether a process runs it: one at the same path, and there the same file.
    ///
    /// The file alone would not do: all programs of a busybox may be one file. The path alone would not
    /// either: in another mount namespace it leads to another file. In the agent's own it does not,
    /// even if the file has been replaced since. Where the agent has no such file at all the path can
    /// only be meant as the target sees it.
    fn is_run_in(&self, home: &Path) -> Result<bool, TargetError> {
        let exe = home.join("exe");
        let Some(path) = if_there(&exe, fs::read_link(&exe))? else {
            return Ok(false);
        };
        let path = path.as_os_str().as_bytes();
        let wanted = self.path.as_os_str().as_bytes();
        if path != wanted && path.strip_suffix(DELETED) != Some(wanted) {
            return Ok(false);
        }
        if self.is_absent {
            return Ok(true);
        }
        let namespace = home.join("ns/mnt");
        let namespace = if_there(&namespace, fs::read_link(&namespace))?;
        let is_same_file = || self.file.is_some() && file_at(&exe) == self.file;
        Ok((namespace.is_some() && namespace == self.namespace) || is_same_file())
    }
}

/// Which file is at a path, as device and inode.
fn file_at(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|it| (it.dev(), it.ino()))
}

/// Whom the pid file names, or `None` where that is nobody.
fn named_by(procfs: &Procfs, path: &Path) -> Result<Option<Pid>, TargetError> {
    let failed = |fault| TargetError::PidFile { path: path.to_owned(), fault };
    let Some(entry) = Entry::read(path).map_err(failed)? else {
        return Ok(None);
    };
    let pid = entry.pid;
    let Some(stat) = procfs.stat(pid)? else {
        return Ok(None);
    };
    if !is_process(procfs, pid)? {
        return Ok(None);
    }
    let started = Target { pid, started: stat.started }.start();
    let user = fs::metadata(procfs.home(pid)).map_or(0, |it| it.uid());
    entry.verify(started, user, (clock::now(), SystemTime::now())).map_err(failed)?;
    Ok(Some(pid))
}

/// Whether this is the number of a process: under that of a thread procfs gives the thread.
pub(super) fn is_process(procfs: &Procfs, pid: Pid) -> Result<bool, TargetError> {
    let status = read(&procfs.home(pid).join(FILE))?.unwrap_or_default();
    let process = format!("Tgid:\t{pid}");
    Ok(status.split(|&byte| byte == b'\n').any(|line| line == process.as_bytes()))
}

/// Whether a process bears the name.
///
/// The kernel cuts a task's name to 15 bytes: a longer name must also be that of the executable, of
/// `argv[0]`, or of the script that an interpreter runs (`argv[1]`).
fn is_named(home: &Path, stat: &Stat, name: &[u8]) -> Result<bool, TargetError> {
    if name.len() <= COMM_BYTES && (stat.comm == name || titled(&stat.comm) == Some(name)) {
        return Ok(true);
    }
    if executable(home)?.as_deref() == Some(name) {
        return Ok(true);
    }
    let arguments = read(&home.join("cmdline"))?.unwrap_or_default();
    let mut arguments = arguments.split(|&byte| byte == 0);
    let called = arguments.next().unwrap_or_default();
    if base_name(called) == name || titled(called).map(base_name) == Some(name) {
        return Ok(true);
    }
    let is_cut = name.len() > COMM_BYTES && stat.comm == name[..COMM_BYTES];
    Ok(is_cut && arguments.next().map(base_name) == Some(name))
}

/// The base name of the executable. Only visible to its owner and to root.
fn executable(home: &Path) -> Result<Option<Vec<u8>>, TargetError> {
    let exe = home.join("exe");
    let path = if_there(&exe, fs::read_link(&exe))?;
    Ok(path.map(|path| {
        let name = base_name(path.as_os_str().as_bytes());
        name.strip_suffix(DELETED).unwrap_or(name).to_owned()
    }))
}

/// The name of a program that has given itself a title, as `nginx` in `nginx: master process`.
fn titled(text: &[u8]) -> Option<&[u8]> {
    let end = text.windows(TITLE.len()).position(|it| it == TITLE)?;
    Some(&text[..end])
}

/// What is behind the last slash.
fn base_name(path: &[u8]) -> &[u8] {
    Path::new(OsStr::from_bytes(path)).file_name().map_or(path, OsStr::as_bytes)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use crate::target::{
        PidFileFault, Scope, Which,
        made::{Machine, Made, plain, stat},
    };

    use super::*;

    fn selector(by: By) -> Selector {
        Selector { by, which: Which::Topmost, scope: Scope::Anywhere }
    }

    fn matches(machine: &Machine, pid: i32, by: By) -> bool {
        machine.procfs.matches(Pid::from_raw(pid), &selector(by)).unwrap()
    }

    #[test]
    fn a_name_is_that_of_the_task_the_executable_or_the_first_argument() {
        const LONG: &str = "a-name-of-more-than-fifteen-bytes";
        fn check(comm: &str, exe: &str, arguments: &[&str], name: &str, expected: bool) {
            let machine = Machine::new(&[Made { pid: 4, parent: 1, comm, exe, arguments }]);
            let matches = matches(&machine, 4, By::Process(name.to_owned()));
            assert_eq!(matches, expected, "for {comm}, {exe}, {arguments:?} and {name}");
        }
        check("nginx", "/opt/x", &["y"], "nginx", true);
        check("x", "/usr/sbin/nginx", &["y"], "nginx", true);
        check("x", "/opt/x", &["/bin/nginx", "-g"], "nginx", true);
        check("nginx-debug", "/opt/nginx-debug", &[], "nginx", false);
        check("x", "/nginx (deleted)", &[], "nginx", true);
        check("a-name-of-more-", "/opt/other", &["x"], LONG, false);
        check("a-name-of-more-", "/opt/other", &["x"], "a-name-of-more-", true);
        check(
            "a-name-of-more-",
            "/usr/bin/python3",
            &["python3", &format!("/x/{LONG}")],
            LONG,
            true,
        );
    }

    #[test]
    fn a_title_begins_with_the_name() {
        fn check(comm: &str, called: &str, name: &str, expected: bool) {
            let arguments = &[called, "", ""];
            let made = Made { pid: 4, parent: 1, comm, exe: "/usr/bin/python3.11", arguments };
            let matches = matches(&Machine::new(&[made]), 4, By::Process(name.to_owned()));
            assert_eq!(matches, expected, "for {comm}, {called} and {name}");
        }
        check("gunicorn: maste", "gunicorn: master [app:app]", "gunicorn", true);
        check("python3", "gunicorn: master [a/b]", "gunicorn", true);
        check("gunicorn: maste", "", "gunicorn", true);
        check("nginx", "nginx: master process /usr/sbin/nginx -g daemon off;", "nginx", true);
        check("postgres", "/usr/lib/postgresql/bin/postgres: writer", "postgres", true);
        check("gunicorn: maste", "gunicorn: master [app:app]", "gunicorn: maste", true);
        check("gunicorn: maste", "gunicorn: master [nginx]", "nginx", false);
        check("python3", "python3:app", "gunicorn", false);
        check("python3", "gunicornd: master", "gunicorn", false);
        check(": x", ": x", "x", false);
    }

    #[test]
    fn who_has_lost_only_the_first_thread_is_known_by_another() {
        let machine = Machine::new(&[plain(4, 1, "x"), plain(5, 1, "nginx")]);
        let headless = stat("x", 1).replace(") S ", ") Z ").replace(" 20 0 1 ", " 20 0 2 ");
        machine.set_stat(4, &headless);
        // As the kernel has it: no program, no arguments.
        fs::remove_file(machine.home(4).join("exe")).unwrap();
        machine.write(4, "cmdline", "");
        machine.write(4, "task/4/stat", &headless);
        machine.write(4, "task/9/stat", stat("x", 1).replace(" 20 0 1 ", " 20 0 2 "));
        machine.write(4, "task/9/cmdline", "/bin/worker\0--x\0");
        machine.link("4", "task/9/exe", "/opt/service");
        for name in ["x", "worker", "service"] {
            assert!(matches(&machine, 4, By::Process(name.to_owned())), "{name}");
        }
        assert!(matches(&machine, 4, By::Exe("/opt/service".into())));

        machine.set_stat(5, &stat("nginx", 1).replace(") S ", ") Z "));
        assert!(!matches(&machine, 5, By::Process("nginx".to_owned())), "a zombie");
        machine.set_stat(5, &stat("nginx", 1).replace(" 4194560 ", " 2097216 "));
        assert!(!matches(&machine, 5, By::Process("nginx".to_owned())), "a kernel thread");
    }

    #[test]
    fn an_executable_is_a_path_and_the_file_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| fs::canonicalize(dir.path()).unwrap().join(name);
        fs::write(path("nginx"), "").unwrap();
        fs::write(path("other"), "").unwrap();
        symlink_to("nginx", &path("link"));
        let machine = Machine::new(&[plain(4, 1, "x")]);
        machine.link("self", "ns/mnt", "mnt:[1]");
        let check = |exe: PathBuf, namespace: &str, wanted: &str, expected: bool| {
            machine.link("4", "exe", &exe);
            machine.link("4", "ns/mnt", namespace);
            let matches = matches(&machine, 4, By::Exe(path(wanted)));
            assert_eq!(matches, expected, "for {}, {namespace} and {wanted}", exe.display());
        };
        let (own, foreign) = ("mnt:[1]", "mnt:[2]");
        check(path("nginx"), own, "nginx", true);
        check(path("nginx"), own, "link", true);
        check(path("nginx"), own, "other", false);
        check(path("nginx (deleted)"), own, "nginx", true);
        // It is the same file there.
        check(path("nginx"), foreign, "nginx", true);
        // There it is another file, though the path is the same.
        check(path("nginx (deleted)"), foreign, "nginx", false);
        // The agent has none: it is the target's path.
        check(path("absent"), foreign, "absent", true);
        check(path("absent (deleted)"), own, "absent", true);
        check(path("nginx"), own, "absent", false);
    }

    fn symlink_to(to: &str, path: &Path) {
        std::os::unix::fs::symlink(to, path).unwrap();
    }

    /// A process that ends with the test.
    struct Sleeper(Child);

    impl Sleeper {
        fn start() -> Self {
            Self(Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap())
        }

        fn pid(&self) -> Pid {
            Pid::from_raw(i32::try_from(self.0.id()).unwrap())
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            drop(self.0.kill());
            drop(self.0.wait());
        }
    }

    #[test]
    fn a_pid_file_names_one_process_and_is_read_every_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pid");
        let selector = selector(By::PidFile(path.clone()));
        let procfs = Procfs::default();
        let found = || -> Vec<_> {
            procfs.resolve(&selector).unwrap().iter().map(|held| held.target().pid).collect()
        };
        let sleepers = [Sleeper::start(), Sleeper::start()];

        assert_eq!(found(), [], "no file");
        for sleeper in &sleepers {
            fs::write(&path, format!("{}\n", sleeper.pid())).unwrap();
            assert_eq!(found(), [sleeper.pid()]);
            assert!(procfs.matches(sleeper.pid(), &selector).unwrap());
        }
        assert!(!procfs.matches(sleepers[0].pid(), &selector).unwrap());
        fs::write(&path, "").unwrap();
        assert_eq!(found(), [], "being written");
        // Above the highest pid that Linux ever hands out (2^22).
        fs::write(&path, "2147483647\n").unwrap();
        assert_eq!(found(), [], "stale");
    }

    #[test]
    fn a_pid_file_that_is_older_than_its_process_names_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pid");
        let sleeper = Sleeper::start();
        fs::write(&path, format!("{}\n", sleeper.pid())).unwrap();
        let hour_ago = SystemTime::now() - std::time::Duration::from_hours(1);
        fs::File::open(&path).unwrap().set_modified(hour_ago).unwrap();

        let error = Procfs::default().resolve(&selector(By::PidFile(path.clone()))).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot go by the pid file {}", path.display()));
        let TargetError::PidFile { fault: PidFileFault::Reused { pid, .. }, .. } = error else {
            panic!("another error: {error}");
        };
        assert_eq!(pid, sleeper.pid());
    }

    #[test]
    fn a_thread_is_no_process() {
        let machine = Machine::new(&[plain(4, 1, "x")]);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pid");
        fs::write(&path, "4\n").unwrap();
        // The made-up one started with the machine.
        assert!(matches(&machine, 4, By::PidFile(path.clone())));
        machine.write(4, "status", "Name:\tx\nTgid:\t3\nPid:\t4\n");
        assert!(!matches(&machine, 4, By::PidFile(path)));
    }
}
