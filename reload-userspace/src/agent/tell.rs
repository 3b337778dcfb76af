//! What the agent tells, and when it is news.

use std::{
    collections::{BTreeMap, HashSet},
    io, mem,
    path::Path,
};

use rustix::process::geteuid;

use super::{
    Agent,
    crew::{Crew, CrewId},
    reloader::{Reloader, RuleId},
};
use crate::{
    child::program,
    clock::{self, Boot},
    content::Unread,
    event::SourceName,
    mount::Mounts,
    report::{Awaited, Decision, Failure},
    rule::{Action, CheckIn},
    source::{Source, Trouble},
    target::{Target, TargetError},
    telemetry::Teller,
    watch::{Obstacle, Reach},
    watched::Watched,
};

impl<S: Source> Agent<S> {
    /// Tells what each rule has decided since the last time.
    pub(super) fn tell_what_was_decided(&mut self) {
        for reloader in self.reloaders.values_mut().filter(|it| !it.untold.is_empty()) {
            reloader.untold.drain(..).for_each(|decision| self.teller.tell(&decision));
            tell_of_unreadable(reloader, self.source.name(), &self.teller);
        }
    }

    /// Tells that the processes of a crew cannot be looked for, if that is news. The agent may be short
    /// of descriptors or of memory, or a pid file is not to be relied on: the next reconcile tries
    /// again.
    pub(super) fn tell_of_roll_call(&mut self, id: CrewId, error: TargetError) {
        let reason = format!("cannot find the process: {:#}", anyhow::Error::new(error));
        let Some(crew) = self.crews.get_mut(&id) else { return };
        if crew.told.replace(reason.clone()).as_ref() == Some(&reason) {
            return;
        }
        let retry = Some(self.reconcile_at.since(clock::now()));
        for reloader in self.reloaders.values_mut().filter(|it| it.crew == Some(id)) {
            let (rule, reason) = (reloader.name().to_owned(), reason.clone());
            let what = Failure::NotReloaded;
            reloader.untold.push(Decision::Failed { rule, pid: None, what, reason, retry });
        }
    }

    /// Tells what works less well than it should, and which source there is if that is news.
    pub(super) fn tell_of_source(&mut self, since: Boot) {
        for Trouble { source, reason } in self.source.troubles() {
            self.teller.tell(&Decision::Degraded { source, reason });
        }
        // It is not ready as long as nobody has said what for.
        if self.feed.is_awaited() {
            return;
        }
        let source = self.source.name();
        if self.told_source.replace(source) != Some(source) {
            self.teller.tell(&Decision::Ready {
                source,
                strategy: self.source.strategy(),
                rules: self.rule_names(),
                watches: self.watches().count(),
                missing: self.watches().filter(|it| it.obstacle().is_some()).count(),
                targets: self.targets().len(),
                listen: self.outlets.listen,
                after: clock::now().since(since),
            });
        }
    }

    /// All paths of all rules.
    fn watches(&self) -> impl Iterator<Item = &Watched> {
        self.reloaders.values().flat_map(Reloader::watches)
    }

    /// The names of the rules.
    pub(super) fn rule_names(&self) -> Vec<String> {
        let rules = self.reloaders.values().filter(|it| !it.rule.is_about_rules());
        rules.map(|it| it.name().to_owned()).collect()
    }

    /// Tells those who ask whether the agent is ready what is missing.
    pub(super) fn tell_of_readiness(&self) {
        for reloader in self.reloaders.values() {
            let clear = reloader.watches().filter(|it| it.obstacle().is_none()).count();
            self.teller.measure(|metrics| metrics.set_watches(reloader.name(), clear));
        }
        self.tell_of_targets();
        // What is in the way of a volume is a matter of whoever owns that.
        let watches = self.watches().filter(|watched| watched.reach() == Reach::Anywhere);
        let missing = watches.filter_map(|watched| watched.obstacle().map(ToString::to_string));
        let unknown = "which pods there are is not known yet".to_owned();
        let unknown = self.feed.is_awaited().then_some(unknown);
        // Last, so that whoever is told that it is ready finds the figures so.
        self.outlets.readiness.set(missing.chain(unknown).collect());
    }

    /// Tells those who ask how many targets each rule has.
    pub(super) fn tell_of_targets(&self) {
        for reloader in self.reloaders.values().filter(|it| it.crew.is_some()) {
            let targets = self.targets_of(reloader).count();
            self.teller.measure(|metrics| metrics.set_targets(reloader.name(), targets));
        }
    }

    /// The targets that a rule is about, whether it signals them or not.
    pub(super) fn targets_of(&self, reloader: &Reloader) -> impl Iterator<Item = Target> + '_ {
        let crew = reloader.crew.and_then(|crew| self.crews.get(&crew));
        crew.into_iter().flat_map(Crew::targets)
    }

    /// All targets of all rules.
    fn targets(&self) -> HashSet<Target> {
        self.crews.values().flat_map(Crew::targets).collect()
    }

    /// Tells that a rule has nobody to reload, and when it has again.
    pub(super) fn tell_whether_anybody_is_there(&mut self) {
        let Self { reloaders, crews, procfs, teller, .. } = self;
        for reloader in reloaders.values_mut() {
            let crew = reloader.crew.and_then(|crew| crews.get(&crew));
            let is_empty = crew.is_some_and(|crew| crew.targets().next().is_none());
            if is_empty != reloader.has_told_waiting {
                let (rule, what) = (reloader.name().to_owned(), Awaited::Target);
                let selector = reloader.rule.selector();
                let object = selector.map(ToString::to_string).unwrap_or_default();
                let mut pids: Vec<_> =
                    crew.into_iter().flat_map(Crew::targets).map(|it| it.pid.as_raw()).collect();
                pids.sort_unstable();
                teller.tell(&if is_empty {
                    let detail = selector.and_then(|it| it.lack(procfs));
                    Decision::Waiting { rule, what, object, detail }
                } else {
                    Decision::Found { rule, what, object, pids }
                });
            }
            reloader.has_told_waiting = is_empty;
        }
    }

    /// Tells what is in the way of any path, if that is news.
    pub(super) fn tell_of_obstacles(&mut self) {
        for id in self.reloaders.keys().copied().collect::<Vec<_>>() {
            self.tell_of_obstacles_of(id);
        }
    }

    /// The same, of the paths of one rule.
    pub(super) fn tell_of_obstacles_of(&mut self, id: RuleId) {
        let Some(reloader) = self.reloaders.get_mut(&id) else { return };
        let (news, has_news) = reloader.news_of_obstacles();
        // That the rules file is not there is told when that is complete: it may be about to be made anew.
        let news = if self.rules_file == Some(id) { Vec::new() } else { news };
        for obstacle in news {
            self.teller.tell(&match obstacle {
                Obstacle::Missing(path) => {
                    let rule = reloader.name().to_owned();
                    let object = path.to_string_lossy().into_owned();
                    Decision::Waiting { rule, what: Awaited::Path, object, detail: None }
                }
                obstacle => {
                    let reason = format!("{obstacle}; keeping what was read before");
                    match reloader.rule.reach() {
                        Reach::Anywhere => {
                            Decision::Degraded { source: self.source.name(), reason }
                        }
                        // The pod's matter, and told to it.
                        Reach::Beneath => {
                            Decision::Warning { rule: Some(reloader.name().to_owned()), reason }
                        }
                    }
                }
            });
        }
        if has_news {
            self.tell_of_readiness();
        }
    }

    pub(super) fn tell_of_failures(&self, failures: Vec<String>) {
        for reason in failures {
            self.teller.tell(&Decision::Degraded { source: self.source.name(), reason });
        }
    }

    /// Tells of mounts through which changes cannot be seen, or not any more.
    pub(super) fn tell_of_pins(&mut self) {
        // A volume that nothing leads out of is where the kubelet writes it, and nothing in it is mounted.
        let rules = || self.reloaders.values().filter(|it| it.rule.reach() == Reach::Anywhere);
        let files = rules().flat_map(Reloader::watches);
        let files = files.flat_map(|watched| watched.content().paths());
        let paths = rules().flat_map(|it| it.rule.watches()).chain(files);
        for pin in Mounts::read().unwrap_or_default().pins(paths) {
            let reason = format!("{pin}; {}", pin.remedy());
            if self.warned.insert(reason.clone()) {
                self.teller.tell(&Decision::Degraded { source: self.source.name(), reason });
            }
        }
    }

    /// Tells of commands that could not be run, so that nobody finds out when they are wanted.
    pub(super) fn tell_of_commands(&mut self) {
        for rule in self.reloaders.values().map(|it| &it.rule) {
            let check = rule.check().filter(|check| check.place == CheckIn::Agent);
            let elsewhere = match rule.selector() {
                Some(_) => ", give its path, or --check-in target",
                None => " or give its path",
            };
            let check = check.map(|check| {
                let loss = "the check cannot be run, and every reload will be withheld";
                (&check.command, loss, elsewhere)
            });
            let commands = rule.actions().iter().filter_map(|action| match action {
                Action::Exec(command) => Some((
                    command,
                    "it cannot be run when the content changes",
                    " or give its path",
                )),
                Action::Signal(_) | Action::Restart | Action::Post(_) => None,
            });
            for (command, loss, more) in check.into_iter().chain(commands) {
                let name = command.program();
                if program::own(name).is_some() {
                    continue;
                }
                let (lack, remedy) = program::lack(name);
                let reason = format!("{lack}: {loss}; {remedy}{more}");
                let rule = rule.name().to_owned();
                if self.warned.insert(format!("{rule}: {reason}")) {
                    self.teller.tell(&Decision::Warning { rule: Some(rule), reason });
                }
            }
        }
    }

    pub(super) fn tell_of_all_unreadable(&mut self) {
        for reloader in self.reloaders.values_mut() {
            tell_of_unreadable(reloader, self.source.name(), &self.teller);
        }
    }
}

fn tell_of_unreadable(reloader: &mut Reloader, source: SourceName, teller: &Teller) {
    if !mem::take(&mut reloader.may_have_news_of_unreadable) {
        return;
    }
    let contents = reloader.watches().map(Watched::content);
    let now = contents.flat_map(|it| it.unreadable.iter().map(|(path, why)| (path.clone(), *why)));
    let now: BTreeMap<_, _> = now.collect();
    // Of files that are somebody else's, and may have another name each time, the first is told.
    let most = match reloader.rule.reach() {
        Reach::Anywhere => usize::MAX,
        Reach::Beneath => usize::from(reloader.unreadable.is_empty()),
    };
    reloader.unreadable.retain(|path| now.contains_key(path));
    let mut told = 0;
    for (path, why) in now {
        let reason = without_content(&path, why);
        if reloader.unreadable.insert(path) && told < most {
            told += 1;
            teller.tell(&Decision::Degraded { source, reason });
        }
    }
}

/// Why the content of a file is not compared, and what to do about it.
fn without_content(path: &Path, why: Unread) -> String {
    let (why, remedy) = match why {
        Unread::TooLarge(_) | Unread::TooMuch => (why.to_string(), ""),
        Unread::Refused(errno) => (
            format!(
                "cannot be read by uid {} ({})",
                geteuid().as_raw(),
                io::Error::from_raw_os_error(errno)
            ),
            "; run the agent as a user or group that may read it, or give it CAP_DAC_READ_SEARCH as \
             an effective capability",
        ),
    };
    format!("{} {why}: its inode, size and time stand for its content{remedy}", path.display())
}

/// Why a signal was not sent, and what to do about it.
pub(super) fn explain(error: TargetError) -> String {
    let is_forbidden = matches!(&error, TargetError::Signal { source, .. }
        if source.kind() == io::ErrorKind::PermissionDenied);
    let text = format!("{:#}", anyhow::Error::new(error));
    if is_forbidden {
        text + "; run the agent as the uid of that process, or give it CAP_KILL as an effective \
                capability"
    } else {
        text
    }
}
