//! What takes time, beside the loop: checks, commands and requests.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs,
    future::Future,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use rustix::process::geteuid;
use tokio::{sync::Semaphore, task::AbortHandle};

use super::{
    Agent,
    deliver::name,
    reloader::{Reloader, RuleId},
};
use crate::{
    child::{self, Ended, Job, Outcome, Place},
    clock::{self, Boot},
    confirm::Evidence,
    delivery::{Acted, News, Receiver, Then},
    post,
    preflight::Refusal,
    report::{Decision, Failure},
    rule::{Action, Check, CheckIn},
    source::Source,
    target::{PodUid, Target},
};

/// How long a command that is an action may take.
const EXEC_TIMEOUT: Duration = Duration::from_mins(1);

/// How many commands run at a time.
const MOST_COMMANDS: usize = 16;

/// How many of one pod do, so that none keeps the others waiting.
const MOST_OF_POD: usize = 2;

/// How long a request may take.
const POST_TIMEOUT: Duration = Duration::from_secs(10);

/// Why no check is of any use.
const RESTLESS: &str = "the files were touched whenever they were checked";

/// What to do about that.
const RESTLESS_REMEDY: &str = "see that the check writes to nothing that is watched";

/// How many bytes of the names of changed files a command is told.
const MOST_NAMES: usize = 32 * 1024;

/// Something that has come to its end.
#[derive(Debug)]
pub(super) struct Done {
    rule: RuleId,
    what: What,
}

#[derive(Debug)]
enum What {
    /// A check, in the place of that target if it was in one: why the content is withheld, if it is.
    Check(Option<Target>, Result<(), Fault>),
    /// An action that was begun at that moment: why it was not carried out, if so.
    Action(Receiver<Target>, Begun, Result<(), String>),
}

/// When an action was begun, and when what it is about has changed.
#[derive(Clone, Copy, Debug)]
struct Begun {
    at: Boot,
    changed: Option<Boot>,
}

/// Why a command is not taken for a success.
#[derive(Debug)]
struct Fault {
    detail: String,
    /// Whether it was run, so that it has said something of the content.
    was_run: bool,
}

/// What is under way for a rule; it ends with the rule.
#[derive(Debug, Default)]
pub(super) struct Jobs(Vec<AbortHandle>);

impl Drop for Jobs {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

impl<S: Source> Agent<S> {
    /// Begins to check the content that a rule wants.
    pub(super) fn begin_check(&mut self, id: RuleId) {
        let Some(reloader) = self.reloaders.get(&id) else { return };
        let Some(Check { command, place, timeout }) = reloader.rule.check().cloned() else {
            return;
        };
        let first = self
            .targets_of(reloader)
            .min_by_key(|target| (is_others(*target), target.pid.as_raw()));
        let pod = reloader.rule.pod();
        let (place, target) = match (place, first) {
            (CheckIn::Agent, _) => (Place::Agent, None),
            (CheckIn::Target, Some(target)) => {
                let selector = reloader.rule.selector();
                let scope = selector.map(|selector| selector.scope.clone()).unwrap_or_default();
                (Place::Target(target, scope), Some(target))
            }
            (CheckIn::Target, None) => return,
        };
        let shown = command.to_string();
        let job = Job { command, place, timeout, environment: environment(reloader) };
        self.begin(id, async move {
            let verdict = verdict(run(job, pod).await, &shown, timeout);
            Done { rule: id, what: What::Check(target, verdict) }
        });
    }

    /// Begins an action that is about no process.
    pub(super) fn begin_action(&mut self, id: RuleId, receiver: Receiver<Target>, action: Action) {
        let Some(reloader) = self.reloaders.get(&id) else { return };
        let environment = environment(reloader);
        let begun = Begun { at: clock::now(), changed: reloader.delivery.wanted().changed };
        let done = move |result| Done { rule: id, what: What::Action(receiver, begun, result) };
        match action {
            _ if self.settings.is_dry => self.finish_action(id, receiver, begun, Ok(())),
            Action::Exec(command) => self.begin(id, async move {
                let shown = command.to_string();
                let job = Job { command, place: Place::Agent, timeout: EXEC_TIMEOUT, environment };
                let verdict = verdict(run(job, None).await, &shown, EXEC_TIMEOUT);
                done(verdict.map_err(|fault| fault.detail))
            }),
            Action::Post(endpoint) => self.begin(id, async move {
                let posted = post::send(endpoint, POST_TIMEOUT).await;
                done(posted.map_err(|error| format!("{:#}", anyhow::Error::new(error))))
            }),
            Action::Signal(_) | Action::Restart => {}
        }
    }

    fn begin(&mut self, id: RuleId, work: impl Future<Output = Done> + Send + 'static) {
        let handle = self.work.spawn(work);
        if let Some(reloader) = self.reloaders.get_mut(&id) {
            reloader.jobs.0.retain(|job| !job.is_finished());
            reloader.jobs.0.push(handle);
        }
    }

    /// Takes in what has come to its end.
    pub(super) fn finish(&mut self, done: Done) -> anyhow::Result<()> {
        let Done { rule, what } = done;
        match what {
            What::Check(target, result) => self.finish_check(rule, target, result)?,
            What::Action(receiver, begun, result) => {
                self.finish_action(rule, receiver, begun, result);
            }
        }
        Ok(())
    }

    fn finish_check(
        &mut self,
        id: RuleId,
        target: Option<Target>,
        result: Result<(), Fault>,
    ) -> anyhow::Result<()> {
        // What was checked is what is applied only if it has not changed meanwhile.
        self.take_all()?;
        let now = clock::now();
        self.peek(now);
        let Self { reloaders, places, source, crews, procfs, .. } = self;
        let Some(reloader) = reloaders.get_mut(&id) else { return Ok(()) };
        let is_as_wanted = reloader.is_as_wanted(now, places, source);
        // Of a target that has ended before the check could run it says nothing of the content.
        let crew = reloader.crew.and_then(|crew| crews.get_mut(&crew));
        let is_nowhere = result.as_ref().is_err_and(|fault| !fault.was_run)
            && target.zip(crew).is_some_and(|(target, crew)| crew.miss(target, procfs, now));
        if is_nowhere {
            reloader.delivery.retract_check();
            return Ok(());
        }
        let verdict = Some(result.is_ok()).filter(|_| is_as_wanted);
        if let Some(news) = reloader.delivery.checked(verdict, now) {
            let rule = reloader.name().to_owned();
            let (reason, detail, remedy) = match (verdict, result) {
                (Some(_), Err(Fault { detail, was_run: true })) => {
                    (Refusal::CheckFailed, detail, Refusal::CheckFailed.remedy())
                }
                (Some(_), Err(Fault { detail, was_run: false })) => {
                    (Refusal::Unchecked, detail, Refusal::Unchecked.remedy())
                }
                _ => (Refusal::Unchecked, RESTLESS.to_owned(), RESTLESS_REMEDY),
            };
            let (pid, signal, detail) = (None, None, Some(detail));
            let refused = Decision::Refused { rule, pid, signal, reason, remedy, detail };
            if news == News::New {
                reloader.untold.push(refused);
            } else {
                self.teller.count(&refused);
            }
        }
        Ok(())
    }

    fn finish_action(
        &mut self,
        id: RuleId,
        receiver: Receiver<Target>,
        begun: Begun,
        result: Result<(), String>,
    ) {
        let now = clock::now();
        let dry_run = self.settings.is_dry;
        let Some(reloader) = self.reloaders.get_mut(&id) else { return };
        let Some(action) = reloader.rule.actions().get(receiver.step).cloned() else { return };
        let rule = reloader.name().to_owned();
        if let Err(reason) = result {
            if reloader.delivery.acted(receiver, Acted::Failed, now) {
                let retry = reloader.delivery.retries_in(receiver, now);
                let what = Failure::NotReloaded;
                let failed = Decision::Failed { rule, pid: None, what, reason, retry };
                reloader.untold.push(failed);
            }
            return;
        }
        reloader.delivery.acted(receiver, Acted::Applied(Then::Rest), now);
        let object = match &action {
            Action::Exec(command) => command.to_string(),
            Action::Post(endpoint) => endpoint.to_string(),
            Action::Signal(_) | Action::Restart => return,
        };
        reloader.untold.push(Decision::Reloaded {
            rule: rule.clone(),
            action: name(&action),
            pid: None,
            signal: None,
            object: Some(object),
            change_to_signal: begun.changed.map(|changed| begun.at.since(changed)),
            dry_run,
        });
        if !dry_run {
            let after = now.since(begun.at);
            let evidence = Evidence::Accepted;
            reloader.untold.push(Decision::Confirmed { rule, pid: None, evidence, after });
            self.remember_applied(id, receiver);
            self.tell_content(id);
        }
    }

    /// Everybody has what a rule wants: that is its content now, for those who ask.
    fn tell_content(&self, id: RuleId) {
        let Some(reloader) = self.reloaders.get(&id) else { return };
        if reloader.delivery.owed().next().is_none() {
            let digest = reloader.delivery.wanted().digest;
            self.teller.measure(|metrics| metrics.set_content(reloader.name(), &digest));
        }
    }
}

/// Whether a process is another user's: anybody may call his as he likes.
fn is_others(target: Target) -> bool {
    let owner = fs::metadata(format!("/proc/{}", target.pid)).map(|it| it.uid());
    owner.is_ok_and(|owner| owner != geteuid().as_raw())
}

/// Runs a command when it is its turn: a file that many rules watch is not to start hundreds at once.
async fn run(job: Job, pod: Option<PodUid>) -> Ended {
    static SEATS: Semaphore = Semaphore::const_new(MOST_COMMANDS);
    // They are never closed.
    let _seat_of_pod = match pod.map(seats_of) {
        Some(seats) => seats.acquire_owned().await.ok(),
        None => None,
    };
    let _seat = SEATS.acquire().await.ok();
    child::run(job).await
}

/// Those of a pod, as long as any of its commands runs or waits.
fn seats_of(pod: PodUid) -> Arc<Semaphore> {
    static SEATS: Mutex<BTreeMap<PodUid, Weak<Semaphore>>> = Mutex::new(BTreeMap::new());
    let mut seats = SEATS.lock().unwrap_or_else(PoisonError::into_inner);
    seats.retain(|_, it| it.strong_count() > 0);
    seats.get(&pod).and_then(Weak::upgrade).unwrap_or_else(|| {
        let fresh = Arc::new(Semaphore::new(MOST_OF_POD));
        seats.insert(pod, Arc::downgrade(&fresh));
        fresh
    })
}

/// What a command is told of the change.
fn environment(reloader: &Reloader) -> Vec<(OsString, OsString)> {
    let mut names = OsString::new();
    for path in &reloader.changed {
        if names.len() + path.as_os_str().len() > MOST_NAMES {
            break;
        }
        if !names.is_empty() {
            names.push("\n");
        }
        names.push(OsStr::from_bytes(path.as_os_str().as_bytes()));
    }
    vec![
        ("RELOAD_RULE".into(), reloader.name().into()),
        ("RELOAD_CHANGED".into(), names),
        ("RELOAD_CHANGED_COUNT".into(), reloader.changed.len().to_string().into()),
    ]
}

/// Why a command is not taken for a success, if so.
fn verdict(ended: Ended, command: &str, timeout: Duration) -> Result<(), Fault> {
    let Ended { outcome, output } = ended;
    let how = match outcome {
        Outcome::Passed => return Ok(()),
        Outcome::Exited(status) => format!("{command} ended with exit status {status}"),
        Outcome::Killed(signal) => format!("{command} was killed by signal {signal}"),
        Outcome::TimedOut => {
            format!(
                "{command} was killed, for it took longer than {}",
                humantime::format_duration(timeout)
            )
        }
        Outcome::NotRun(error) => {
            return Err(Fault { detail: error.to_string(), was_run: false });
        }
    };
    let output = output.trim();
    let detail = if output.is_empty() { how } else { format!("{how}: {output}") };
    Err(Fault { detail, was_run: true })
}
