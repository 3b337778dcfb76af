//! Who is measured: the agent, and whatever else has a process reload when a file changes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::lab::{Lab, Running, Talker};
use crate::{
    child::{Ask, Child},
    place::{is_program, program},
    usage::Usage,
};

/// Somebody who has a process reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The least that can be done.
    Bare,
    /// The agent, with this source.
    Agent(&'static str),
    /// A script, which gets the folder, the name of the target, its pid and a folder of its own, and the
    /// programs that it needs.
    Script(&'static [&'static str], &'static str),
    /// One that does not run on such a machine, and why.
    Absent(&'static str),
}

/// The bare loop, which others are compared to.
pub(crate) const BARE: Contender = Contender { name: "bare C loop", kind: Kind::Bare };

/// The loop that sidecars run: whoever mounts a `ConfigMap` and knows no better writes it.
pub(crate) const SHELL_LOOP: Contender = Contender {
    name: "inotifywait loop",
    kind: Kind::Script(
        &["inotifywait", "pgrep"],
        r#"while :; do
    folder=$(dirname "$(readlink -f "$1/app.conf")")
    inotifywait -qq -e moved_to,close_write,delete_self "$folder"
    kill -HUP $(pgrep -x "$2")
done"#,
    ),
};

/// All of them, each set up as its documentation says.
pub(crate) const ALL: [Contender; 9] = [
    BARE,
    Contender { name: "reload-agent, ebpf", kind: Kind::Agent("ebpf") },
    Contender { name: "reload-agent, fanotify", kind: Kind::Agent("fanotify") },
    Contender { name: "reload-agent, inotify", kind: Kind::Agent("inotify") },
    SHELL_LOOP,
    Contender {
        name: "entr",
        kind: Kind::Script(
            &["entr"],
            r#"while :; do echo "$1/app.conf" | entr -np kill -HUP "$3"; done"#,
        ),
    },
    Contender {
        name: "watchexec",
        kind: Kind::Script(
            &["watchexec"],
            r#"exec watchexec --quiet --postpone --no-vcs-ignore --watch "$1" -- kill -HUP "$3""#,
        ),
    },
    Contender {
        name: "watchman",
        kind: Kind::Script(
            &["watchman"],
            r#"export HOME="$4"
folder=$1 target=$3 own=$4
ask() { watchman --sockname "$own/socket" --no-spawn "$@"; }
watchman --sockname "$own/socket" --statefile "$own/state" --logfile "$own/log" --foreground &
until ask watch "$folder"; do sleep 0.05; done
# Its pattern `*` leaves out what begins with a dot, as `..data` does.
ask -- trigger "$folder" reload '*' '.*' -- sh -c "kill -HUP $target"
wait"#,
        ),
    },
    Contender { name: "systemd.path", kind: Kind::Absent("needs systemd as the first process") },
];

/// One that runs.
pub(crate) struct Started {
    inner: Inner,
    /// From its start until it watches.
    pub(crate) ready: Duration,
}

enum Inner {
    Bare(Talker),
    Agent(Running),
    Script(Child),
}

impl Contender {
    /// Whether it is the agent.
    pub(crate) fn is_agent(self) -> bool {
        matches!(self.kind, Kind::Agent(_))
    }

    /// Whether it takes so long that few samples must do.
    pub(crate) fn is_slow(self) -> bool {
        matches!(self.kind, Kind::Script(..))
    }

    /// Why it is not measured here, if so.
    pub(crate) fn absence(self) -> Option<String> {
        match self.kind {
            Kind::Absent(reason) => Some(reason.to_owned()),
            Kind::Script(needed, _) => {
                let missing = needed.iter().find(|program| !is_program(program))?;
                Some(format!("{missing} is not installed"))
            }
            Kind::Bare | Kind::Agent(_) => None,
        }
    }

    /// The program that does the watching, if it is installed.
    pub(crate) fn program(self, lab: &Lab) -> Option<PathBuf> {
        match self.kind {
            Kind::Bare => Some(lab.bare.clone()),
            Kind::Agent(_) => Some(lab.binary.clone()),
            Kind::Script(needed, _) => program(needed.first()?),
            Kind::Absent(_) => None,
        }
    }

    /// Starts it, and waits until it watches.
    ///
    /// # Errors
    ///
    /// Fails where it cannot be run, or does not begin to watch.
    pub(crate) fn start(self, lab: &Lab, folder: &Path, pid: &str) -> Result<Started> {
        let begun = Instant::now();
        let inner = match self.kind {
            Kind::Bare => {
                let mut bare = Talker::start(Command::new(&lab.bare).arg(folder).arg(pid))?;
                let ready = bare.line(&lab.patience)?;
                ensure!(ready.as_deref() == Some("ready"), "the bare loop does not start");
                Inner::Bare(bare)
            }
            Kind::Agent(source) => {
                let running = lab.agent_with(vec![folder.join("app.conf")], source)?;
                return Ok(Started { ready: running.wall, inner: Inner::Agent(running) });
            }
            Kind::Script(_, script) => {
                let own = folder.with_extension("own");
                fs::create_dir_all(&own)
                    .with_context(|| format!("cannot create {}", own.display()))?;
                let mut command = Command::new("sh");
                command.args(["-c", script, "sh"]).arg(folder).arg(Lab::name()).arg(pid).arg(own);
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                let script = Child::spawn(&mut command, Ask::Signal)?;
                wait_for_inotify(lab, &script)
                    .with_context(|| format!("{} does not begin to watch", self.name))?;
                Inner::Script(script)
            }
            Kind::Absent(reason) => anyhow::bail!("{}: {reason}", self.name),
        };
        Ok(Started { inner, ready: begun.elapsed() })
    }
}

impl Started {
    /// What it has taken so far.
    pub(crate) fn usage(&self) -> Result<Usage> {
        match &self.inner {
            Inner::Bare(talker) => Usage::of_group(talker.child.pid()),
            Inner::Agent(running) => Usage::of_process(running.agent.pid()),
            Inner::Script(child) => Usage::of_group(child.pid()),
        }
    }

    /// Ends it.
    ///
    /// # Errors
    ///
    /// Fails where it does not end when it is asked to.
    pub(crate) fn stop(self) -> Result<()> {
        match self.inner {
            Inner::Agent(running) => running.agent.stop().map(drop),
            Inner::Script(mut child) => child.stop().map(drop),
            Inner::Bare(mut talker) => talker.child.stop().map(drop),
        }
    }
}

/// Waits until somebody of the group watches: the kernel then lists a watch of his descriptor.
fn wait_for_inotify(lab: &Lab, script: &Child) -> Result<()> {
    const PACE: Duration = Duration::from_millis(5);
    const LIMIT: Duration = Duration::from_secs(10);
    let is_armed = |pid: &u32| {
        let infos = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten();
        infos.flatten().any(|info| {
            fs::read_to_string(info.path()).is_ok_and(|text| text.contains("inotify wd:"))
        })
    };
    let armed = lab.patience.until(PACE, LIMIT, || {
        Ok(crate::usage::group(script.pid()).iter().any(is_armed).then_some(()))
    })?;
    armed.context("no inotify watch is to be seen")
}
