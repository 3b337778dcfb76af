//! One rule at work: its paths, the content that is wanted, and how far that has come.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{crew::CrewId, recall::since_boot, summary::Summary, work::Jobs};
use crate::{
    clock::{self, Boot},
    content::{Content, Digest},
    delivery::{Delivery, Plan, Reach, Wanted},
    event::Actor,
    places::{Index, Patience, Places, Touched},
    reach::Spot,
    report::{Change, Decision},
    rule::{CheckIn, Rule},
    settle::Next,
    source::{Interest, Source},
    target::Target,
    watch::{Obstacle, Reach as WatchReach},
    watched::Watched,
};

/// The number of a rule at work, which no other ever gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct RuleId(pub(super) u64);

/// How long after a reload the content is compared once more.
///
/// It catches what a kernel lock or a clock tick may have hidden from the look that led to it: a
/// write within the same tick on a filesystem without multigrain timestamps.
const SECOND_LOOK: Duration = Duration::from_millis(20);

/// How long the other volumes of a rule are waited for when one was updated.
///
/// The kubelet updates the volumes of a pod one after the other, some milliseconds apart; what belongs
/// together should be read together.
const VOLUME_GROUP: Duration = Duration::from_millis(100);

/// How many names of files that have changed are kept of a rule whose files are somebody else's, before
/// those are forgotten that are there no more.
const MOST_CHANGED: usize = 4096;

/// One rule at work.
#[derive(Debug)]
pub(super) struct Reloader {
    pub(super) rule: Rule,
    pub(super) crew: Option<CrewId>,
    pub(super) delivery: Delivery<Target>,
    /// Boxed, for a node of such a tree has room for eleven, and most rules have a few.
    watches: BTreeMap<Index, Box<Watched>>,
    summary: Summary,
    /// Those of them that anything is under way or due of: of thousands, a few.
    active: BTreeSet<Index>,
    /// Since when the change under way is waited for, if what was read of it was out of date at once.
    began: Option<Boot>,
    /// Since when it is left alone, because nobody may be reloaded yet.
    held: Option<Boot>,
    /// The files that have changed since everybody last had the content.
    pub(super) changed: BTreeSet<PathBuf>,
    /// For which content a target was last ended, so that another starts with it, and when.
    pub(super) ended_for: Option<(Digest, Boot)>,
    /// The steps of which the ledger knows nothing, although it knows the content: whoever was there
    /// when they were said has it.
    pub(super) new_steps: BTreeSet<usize>,
    /// What is under way for it beside the loop.
    pub(super) jobs: Jobs,
    /// What has been decided and will be told when the signals are out.
    pub(super) untold: Vec<Decision>,
    /// Whether it has been told that there is nobody to reload.
    pub(super) has_told_waiting: bool,
    /// What cannot be read, as far as it has been told.
    pub(super) unreadable: HashSet<PathBuf>,
    /// Whether anything else is unreadable than when that was last told.
    pub(super) may_have_news_of_unreadable: bool,
}

/// What was read of a change.
pub(super) struct Reading {
    contents: Vec<(Index, Option<Content>)>,
    last: Option<Boot>,
    dated: Option<Boot>,
    began: Option<Boot>,
}

/// What came of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conclusion {
    /// More has happened while it was read.
    NotYet,
    /// The content is another one.
    Changed,
    /// It is what it was; whether somebody did something is told.
    Same { was_announced: bool },
}

impl Reloader {
    /// Puts a rule to work on paths that have been looked at.
    pub(super) fn new(
        rule: Rule,
        crew: Option<CrewId>,
        watches: Vec<(Index, Box<Watched>)>,
    ) -> Self {
        let order: Vec<_> = watches.iter().map(|(index, _)| *index).collect();
        let watches = BTreeMap::from_iter(watches);
        let mut summary = Summary::new(order);
        let digest = summary.digest(|index| content_of(&watches, index));
        let wanted = Wanted { digest, changed: None, since: Boot::ZERO };
        let active = watches.keys().copied().collect();
        Self {
            delivery: Delivery::new(plan(&rule), wanted, |_| Some(wanted.digest)),
            rule,
            crew,
            watches,
            summary,
            active,
            began: None,
            held: None,
            changed: BTreeSet::new(),
            ended_for: None,
            new_steps: BTreeSet::new(),
            jobs: Jobs::default(),
            untold: Vec::new(),
            has_told_waiting: false,
            unreadable: HashSet::new(),
            may_have_news_of_unreadable: true,
        }
    }

    pub(super) fn name(&self) -> &str {
        self.rule.name()
    }

    pub(super) fn watches(&self) -> impl Iterator<Item = &Watched> {
        self.watches.values().map(Box::as_ref)
    }

    /// Gives its paths away, with all that is known of them.
    pub(super) fn into_watches(mut self) -> BTreeMap<Index, Box<Watched>> {
        if let Some(held) = self.held.take() {
            self.put_off(held, clock::now());
        }
        self.watches
    }

    /// One of its files, and what nothing may lead out of on the way to it.
    pub(super) fn spot(&self, path: &Path) -> Spot {
        let is_confined = self.rule.reach() == WatchReach::Beneath;
        // One that is below none of them is not to be found.
        let root = || self.rule.watches().iter().find(|it| path.starts_with(it));
        let root = is_confined.then(|| root().map_or(path, PathBuf::as_path).to_owned());
        Spot { path: path.to_owned(), root }
    }

    /// A path, to do something with it.
    pub(super) fn watch(&mut self, index: Index) -> Option<&mut Watched> {
        self.active.insert(index);
        self.watches.get_mut(&index).map(Box::as_mut)
    }

    /// Notes that something happened to what a path depends on.
    pub(super) fn touch(&mut self, touched: Touched) {
        let Touched { index, interest, at, by } = touched;
        if let Some(watched) = self.watch(index) {
            watched.touch(at, by, interest);
        }
    }

    /// Notes that a path may lead elsewhere.
    pub(super) fn touch_quietly(&mut self, index: Index, now: Boot) {
        if let Some(watched) = self.watch(index) {
            watched.touch(now, None, Interest::Replacement);
        }
    }

    /// Has all content compared, although nothing may be seen.
    pub(super) fn verify(&mut self, now: Boot) {
        self.watches.values_mut().for_each(|watched| watched.verify(now));
        self.active = self.watches.keys().copied().collect();
    }

    /// Whether anybody may be reloaded at `now`. Until then it is left alone, and that is not time in which
    /// it has waited for the end of a change.
    pub(super) fn is_open(&mut self, now: Boot) -> bool {
        let is_open = self.delivery.held_until(now).is_none();
        if !is_open {
            self.held.get_or_insert(now);
        } else if let Some(held) = self.held.take() {
            self.put_off(held, now);
        }
        is_open
    }

    /// Whether it is left alone.
    pub(super) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Nobody has looked from one moment to the other: that is not time that the end of what is under way was
    /// waited for.
    pub(super) fn put_off(&mut self, from: Boot, to: Boot) {
        self.began = self.began.map(|began| began.put_off(from, to));
        for index in &self.active {
            if let Some(watched) = self.watches.get_mut(index) {
                watched.put_off(from, to);
            }
        }
    }

    /// Looks at the paths that there is a reason to look at, and gives what cannot be watched.
    pub(super) fn look<S: Source>(
        &mut self,
        now: Boot,
        places: &mut Places,
        source: &mut S,
    ) -> Vec<String> {
        let mut failures = Vec::new();
        for index in &self.active {
            let Some(watched) = self.watches.get_mut(index) else { continue };
            watched.look_if_due(now, places, source);
            failures.extend(watched.take_failure());
        }
        failures
    }

    /// Looks at what has been touched since it was looked at, and gives the paths of which that is new.
    pub(super) fn look_again<S: Source>(
        &mut self,
        now: Boot,
        places: &mut Places,
        source: &mut S,
    ) -> Vec<Index> {
        let mut news = Vec::new();
        for &index in &self.active {
            let watched = self.watches.get_mut(&index).filter(|it| it.is_out_of_date());
            if watched.is_some_and(|it| it.look(now, places, source, Patience::Hasty)) {
                news.push(index);
            }
        }
        news
    }

    fn active(&self) -> impl Iterator<Item = &Watched> + '_ {
        self.active.iter().filter_map(|index| self.watches.get(index).map(Box::as_ref))
    }

    /// What is in the way of its paths, if it has not been told yet; and whether anything is that was not
    /// before, or is not any more.
    pub(super) fn news_of_obstacles(&mut self) -> (Vec<Obstacle>, bool) {
        let (mut news, mut has_changed) = (Vec::new(), false);
        for index in &self.active {
            let watched = self.watches.get_mut(index);
            let Some(watched) = watched.filter(|it| it.has_news_of_obstacle()) else {
                continue;
            };
            has_changed = true;
            news.extend(watched.news_of_obstacle());
        }
        (news, has_changed)
    }

    /// Forgets of which paths nothing is under way any more.
    pub(super) fn rest(&mut self, now: Boot) {
        let watches = &self.watches;
        let is_active = |index: &Index| watches.get(index).is_some_and(|it| it.is_active(now));
        self.active.retain(is_active);
    }

    /// Whether no change is under way.
    pub(super) fn is_idle(&self, now: Boot) -> bool {
        self.active().all(|watched| watched.next(now) == Next::Idle)
    }

    /// Whether something has happened that nobody has looked at yet.
    pub(super) fn is_touched(&self) -> bool {
        self.active().any(Watched::is_out_of_date)
    }

    /// When to look at anything although nothing happens, if ever.
    pub(super) fn look_at(&self, now: Boot) -> Option<Boot> {
        let looks = self.active().filter_map(|watched| watched.look_at(now));
        looks.chain(self.group_end().filter(|&end| end > now)).min()
    }

    /// Whether there is something to compare, and no change under way in any path.
    pub(super) fn is_complete(&self, now: Boot) -> bool {
        let mut changes = self.active().map(|watched| watched.next(now));
        self.active().any(|watched| watched.is_to_compare(now))
            && changes.all(|next| !matches!(next, Next::Look(_)))
            && self.group_end().is_none_or(|end| end <= now)
    }

    /// Until when other volumes of the rule are waited for, if one was updated and others were not: since that
    /// was found, for what was announced first of an update may be old by then.
    fn group_end(&self) -> Option<Boot> {
        let swapped: BTreeSet<_> = self.active().flat_map(Watched::swapped).collect();
        let found = self.active().filter(|it| it.swapped().next().is_some());
        let found = found.filter_map(Watched::found).max()?;
        let mut all = self.watches().flat_map(Watched::volumes);
        all.any(|volume| !swapped.contains(volume)).then(|| found.after(VOLUME_GROUP))
    }

    /// Reads the content, and gives what cannot be read besides.
    pub(super) fn read(&mut self, now: Boot) -> (Reading, Vec<String>) {
        let mut reading = Reading {
            contents: Vec::new(),
            last: self.active().filter_map(Watched::last).max(),
            dated: self.active().filter_map(Watched::dated).max(),
            began: self.began.or(self.active().filter_map(Watched::since).min()),
        };
        let mut failures = Vec::new();
        for &index in &self.active {
            let watched = self.watches.get_mut(&index).filter(|it| it.is_to_compare(now));
            let Some(watched) = watched else { continue };
            let content = watched.read();
            watched.finish();
            if content.as_ref().is_some_and(|content| content.is_torn) {
                // It may not have been announced yet: the kernel announces some changes afterwards.
                watched.touch(clock::now(), None, Interest::Any);
            }
            failures.extend(watched.take_failure());
            reading.contents.push((index, content));
        }
        (reading, failures)
    }

    /// Wants everybody to have what was read, unless it was no state that there ever was: more has
    /// happened while it was read.
    pub(super) fn conclude(
        &mut self,
        reading: Reading,
        has_more_happened: bool,
        now: Boot,
    ) -> Conclusion {
        let Reading { contents, last, dated, began } = reading;
        if has_more_happened || last.is_some() {
            for (index, _) in &contents {
                self.watches
                    .get_mut(index)
                    .into_iter()
                    .for_each(|it| it.verify(now.after(SECOND_LOOK)));
            }
        }
        // A writer without end is not waited for without end.
        let max = self.rule.pace().limits.max;
        let is_overdue = began.is_some_and(|began| now.since(began) >= max);
        self.began = began.filter(|_| has_more_happened && !is_overdue);
        if has_more_happened && !is_overdue {
            for (index, content) in &contents {
                if let Some((watched, content)) = self.watches.get_mut(index).zip(content.as_ref())
                {
                    watched.discard(content);
                }
            }
            return Conclusion::NotYet;
        }
        let mut paths = Vec::new();
        let mut by: Option<Actor> = None;
        let mut since = self.delivery.wanted().since;
        let has_read = contents.iter().any(|(_, content)| content.is_some());
        for (index, content) in contents {
            let Some(watched) = self.watches.get_mut(&index) else { continue };
            by = watched.take_by().or(by);
            let Some(content) = content else { continue };
            self.may_have_news_of_unreadable |= content.unreadable != watched.content().unreadable;
            self.summary.renew(index);
            let changed = watched.accept(content);
            if !changed.is_empty() {
                since = since.max(led_there_since(watched));
                paths.extend(changed);
            }
        }
        // Two watches may be of the same file.
        paths.sort_unstable();
        paths.dedup();
        if !paths.is_empty() {
            let changed = dated.or(last);
            let digest = self.summary.digest(|index| content_of(&self.watches, index));
            // Whoever has not got an earlier change gets it with this one.
            if self.delivery.owed().next().is_none() {
                self.changed.clear();
            }
            self.changed.extend(paths.iter().cloned());
            self.forget_the_gone();
            self.delivery.want(Wanted { digest, changed, since });
            let rule = self.name().to_owned();
            // What was rolled back before anybody had it is nothing new to anybody.
            self.untold.push(if self.delivery.is_everybody_served() {
                Decision::Unchanged { rule, by }
            } else {
                Decision::Changed { rule, paths: paths.into(), by, when: Change::Now }
            });
            return Conclusion::Changed;
        }
        let was_announced = last.is_some() && has_read;
        if was_announced {
            self.delivery.doubt_check();
            self.untold.push(Decision::Unchanged { rule: self.name().to_owned(), by });
        }
        Conclusion::Same { was_announced }
    }

    /// Forgets which files have changed and are there no more, where somebody else gives them names: as
    /// long as nobody can be reloaded there is no end to them.
    fn forget_the_gone(&mut self) {
        let watches = &self.watches;
        let is_there = |path: &PathBuf| watches.values().any(|it| it.content().has(path));
        if self.rule.reach() == WatchReach::Beneath && self.changed.len() > MOST_CHANGED {
            self.changed.retain(is_there);
        }
    }

    /// Whether the files still contain what is wanted, as they are now.
    pub(super) fn is_as_wanted<S: Source>(
        &mut self,
        now: Boot,
        places: &mut Places,
        source: &mut S,
    ) -> bool {
        let mut is_same = true;
        for (&index, watched) in &mut self.watches {
            let is_new = watched.look(now, places, source, Patience::Patient);
            if is_new || !watched.is_as_read() {
                is_same = false;
                watched.verify(now);
            }
            self.active.insert(index);
        }
        is_same && self.is_idle(now)
    }

    /// Whether its check is to run in the place of a target.
    pub(super) fn is_checked_in_target(&self) -> bool {
        self.rule.check().is_some_and(|check| check.place == CheckIn::Target)
    }

    /// When what the paths mean last changed, in time since 1970.
    pub(super) fn latest_change(&self) -> Duration {
        self.watches().map(Watched::latest_change).max().unwrap_or_default()
    }
}

/// How a rule's actions are to be carried out.
fn plan(rule: &Rule) -> Plan {
    let reach = |action: &crate::rule::Action| match action.signal() {
        Some(_) => Reach::Targets,
        None => Reach::One,
    };
    Plan {
        steps: rule.actions().iter().map(reach).collect(),
        is_checked: rule.check().is_some(),
        min_interval: rule.pace().min_interval,
    }
}

/// Since when a path has led to what it does, rather too late than too early.
///
/// The kubelet swaps a volume at once: whoever starts after that reads what is new, even if nobody has
/// looked at it yet, and the links and directories say when that was. What is written in place may not be
/// there before somebody has seen that it is.
fn led_there_since(watched: &Watched) -> Boot {
    let now = clock::now();
    let swapped = watched.changed_within();
    // Zero where it is no volume.
    if swapped.is_zero() { now } else { since_boot(swapped, now).min(now) }
}

fn content_of(watches: &BTreeMap<Index, Box<Watched>>, index: Index) -> Option<&Content> {
    watches.get(&index).map(|watched| watched.content())
}
