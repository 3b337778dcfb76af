//! From rules to what is watched for them and whom they mean, at the start and whenever they change.
//!
//! **Invariant:** rules change as a whole or not at all, and no event of a rule that stays is lost: what
//! is watched for it goes on being watched, with all that is known of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::{
    Agent,
    crew::{Crew, CrewId},
    feed::Reread,
    heritage::Heritage,
    recall::recall,
    reloader::{Reloader, RuleId},
};
use crate::{
    clock::{self, Boot},
    places::Index,
    report::Decision,
    rule::{self, Origin, Rule, RulesFile, RulesText},
    source::{Source, Tells},
    target::Selector,
    telemetry::Confirms,
    watch::{Obstacle, Reach},
    watched::Watched,
};

/// A rule that is about to be put to work.
struct Draft {
    rule: Rule,
    /// The one of the same name that it takes the place of.
    before: Option<RuleId>,
    crew: Option<CrewId>,
    /// Its paths that were not watched for that one.
    fresh: BTreeMap<PathBuf, (Index, Box<Watched>)>,
}

impl<S: Source> Agent<S> {
    /// Watches the file that the rules come from, if they do, and gives those that are in it from here
    /// on: it may have changed since it was read.
    pub(super) fn watch_rules_file(&mut self, rules: Vec<Rule>) -> Result<Vec<Rule>> {
        let pace = match &self.settings.origin {
            Origin::Pods { pace, .. } => Some(*pace),
            Origin::Options | Origin::File(_) => rules.first().map(Rule::pace),
        };
        let Some((path, pace)) = self.settings.origin.file().map(Path::to_owned).zip(pace) else {
            return Ok(rules);
        };
        let draft = self.draft(Rule::about(path.clone(), pace), &[], &[])?;
        self.rules_file = Some(self.put_to_work(draft, None));
        // They have been read, and are heeded.
        let heeded = Decision::Rules { path: Some(String::new()), rules: Vec::new(), error: None };
        self.teller.count(&heeded);
        let Origin::File(file) = &self.settings.origin else {
            self.feed.pass_on(Reread { text: rule::read_text(&path), is_asked: false });
            return Ok(rules);
        };
        Ok(rule::read_file(&path, &file.defaults)?)
    }

    /// What the file with rules contains, if that is what this rule is about.
    pub(super) fn rules_text(&self, id: RuleId) -> Option<RulesText> {
        let is_about_rules = self.rules_file == Some(id);
        self.settings.origin.file().filter(|_| is_about_rules).map(rule::read_text)
    }

    /// Heeds the rules in the text of their file. Bad ones are told of, and not heeded.
    pub(super) fn heed_rules(&mut self, text: RulesText) {
        let is_asked = mem::take(&mut self.is_asked_for_rules);
        let Origin::File(file) = self.settings.origin.clone() else {
            self.feed.pass_on(Reread { text, is_asked });
            return;
        };
        let RulesFile { path, defaults } = *file;
        // What has been decided is told while there is somebody to tell it.
        self.tell_what_was_decided();
        let before: Vec<_> = self.reloaders.keys().copied().collect();
        let read = text.and_then(|text| rule::parse_file(&text, &path, &defaults));
        let applied = read.map_err(anyhow::Error::new).and_then(|rules| self.set_up(rules));
        let error = applied.err().map(|error| format!("{error:#}"));
        let is_same = before.iter().eq(self.reloaders.keys());
        let is_news = is_asked || self.rules_fault != error || !is_same;
        self.rules_fault.clone_from(&error);
        if !is_news {
            return;
        }
        let path = Some(path.to_string_lossy().into_owned());
        // Whoever reads that they are applied may ask.
        self.tell_of_readiness();
        self.teller.tell(&Decision::Rules { path, rules: self.rule_names(), error });
        self.tell_of_rules();
    }

    /// Puts the rules to work that others say there are now; each that is new and each that is gone is told.
    pub(super) fn adopt(&mut self, rules: &[Rule], started: Boot) {
        self.tell_what_was_decided();
        let before: BTreeSet<_> = self.rule_names().into_iter().collect();
        if let Err(error) = self.set_up(rules.to_vec()) {
            let reason = format!("the rules stay as they were: {error:#}");
            self.teller.tell(&Decision::Warning { rule: None, reason });
        }
        let now: BTreeSet<_> = self.rule_names().into_iter().collect();
        self.tell_of_readiness();
        for rule in before.difference(&now) {
            self.teller.tell(&Decision::Released { rule: rule.clone() });
        }
        for reloader in self.reloaders.values().filter(|it| !before.contains(it.name())) {
            let Some(selector) = reloader.rule.selector() else { continue };
            let watches = reloader.rule.watches().iter();
            self.teller.tell(&Decision::Adopted {
                rule: reloader.name().to_owned(),
                process: selector.to_string(),
                watches: watches.map(|path| path.to_string_lossy().into_owned()).collect(),
            });
        }
        self.tell_of_source(started);
        self.tell_of_rules();
    }

    /// Tells what there is to be said of the rules that has not been told yet.
    pub(super) fn tell_of_rules(&mut self) {
        self.tell_of_obstacles();
        self.tell_of_all_unreadable();
        self.tell_of_pins();
        self.tell_of_commands();
        self.tell_whether_anybody_is_there();
    }

    /// Puts the rules to work in place of those that there are.
    ///
    /// # Errors
    ///
    /// Fails where one of them cannot be; then everything is as it was.
    pub(super) fn set_up(&mut self, rules: Vec<Rule>) -> Result<()> {
        let mut kept: BTreeSet<_> = self.rules_file.into_iter().collect();
        let mut drafts: Vec<Draft> = Vec::new();
        let names: Vec<_> = rules.iter().map(|rule| rule.name().to_owned()).collect();
        for rule in rules {
            let same = self.reloaders.iter().find(|(_, it)| it.rule == rule);
            if let Some((&id, _)) = same {
                kept.insert(id);
                continue;
            }
            match self.draft(rule, &names, &drafts) {
                Ok(draft) => drafts.push(draft),
                Err(error) => {
                    let fresh = drafts.into_iter().flat_map(|draft| draft.fresh.into_values());
                    self.unwatch(fresh.map(|(index, _)| index));
                    self.dismiss_crews();
                    return Err(error);
                }
            }
        }
        let crews: BTreeSet<_> = drafts.iter().filter_map(|draft| draft.crew).collect();
        let crews: Vec<_> = crews.into_iter().collect();
        let mut old = mem::take(&mut self.reloaders);
        self.reloaders = kept.iter().filter_map(|id| Some((*id, old.remove(id)?))).collect();
        for draft in drafts {
            let before = draft.before.and_then(|id| Some((id, old.remove(&id)?)));
            let id = self.put_to_work(draft, before);
            if let Some(it) = self.reloaders.get(&id) {
                self.teller.measure(|metrics| metrics.add_rule(it.name(), confirms(&it.rule)));
            }
        }
        for reloader in old.into_values() {
            // A pod may have taken the name of another.
            if !self.reloaders.values().any(|it| it.name() == reloader.name()) {
                self.teller.measure(|metrics| metrics.forget_rule(reloader.name()));
            }
            self.unwatch(reloader.into_watches().into_keys());
        }
        // As long as nobody has said what the rules are, none is gone.
        if !self.feed.is_awaited() {
            let names: Vec<_> = self.reloaders.values().map(|it| it.rule.identity()).collect();
            let names: Vec<_> = names.iter().map(AsRef::as_ref).collect();
            self.ledger.as_mut().into_iter().for_each(|ledger| ledger.retain_rules(&names));
        }
        self.dismiss_crews();
        self.call_rolls_of(&crews);
        self.forget_the_dead();
        Ok(())
    }

    /// The rule that is called otherwise now: it watches the same, none is called as it was, and none of the
    /// others has taken its place.
    fn renamed(&self, rule: &Rule, names: &[String], others: &[Draft]) -> Option<RuleId> {
        let is_it = |(id, it): &(&RuleId, &Reloader)| {
            it.rule.watches() == rule.watches()
                && !names.iter().any(|name| name == it.name())
                && !others.iter().any(|other| other.before == Some(**id))
        };
        let mut old = self.reloaders.iter().filter(|(id, _)| Some(**id) != self.rules_file);
        old.find(is_it).map(|(&id, _)| id)
    }

    /// Looks at the new paths of a rule, and takes care of being told of its processes.
    fn draft(&mut self, rule: Rule, names: &[String], others: &[Draft]) -> Result<Draft> {
        let mut old = self.reloaders.iter().filter(|(id, _)| Some(**id) != self.rules_file);
        let is_before = |(id, it): &(&RuleId, &Reloader)| {
            it.rule.identity() == rule.identity()
                && !others.iter().any(|other| other.before == Some(**id))
        };
        let before = old.find(is_before).map(|(&id, _)| id);
        let before = before.or_else(|| self.renamed(&rule, names, others));
        let known: Vec<_> = before
            .and_then(|id| self.reloaders.get(&id))
            .into_iter()
            .flat_map(Reloader::watches)
            .filter(|watched| watched.reach() == rule.reach())
            .map(|watched| watched.path().to_owned())
            .collect();
        let crew = rule.selector().cloned().map(|selector| self.crew(selector));
        let mut fresh = BTreeMap::new();
        for path in rule.watches() {
            if known.contains(path) || fresh.contains_key(path) {
                continue;
            }
            let index = Index::try_from(self.number()).context("there are too many paths")?;
            let (reach, limits) = (rule.reach(), rule.pace().limits);
            let Self { places, source, .. } = self;
            let looked = Watched::new(index, path, reach, limits, places, source);
            let looked = match reach {
                Reach::Anywhere => refuse(looked),
                // What is wrong with a volume is the pod's concern, and is told when the rule is at work.
                Reach::Beneath => Ok(looked),
            };
            match looked {
                Ok(looked) => fresh.insert(path.clone(), (index, Box::new(looked))),
                Err(error) => {
                    self.unwatch(fresh.into_values().map(|(index, _)| index).chain([index]));
                    return Err(error);
                }
            };
        }
        Ok(Draft { rule, before, crew, fresh })
    }

    /// Makes a rule of a draft, which inherits what is known from the one before it.
    fn put_to_work(&mut self, draft: Draft, before: Option<(RuleId, Reloader)>) -> RuleId {
        let Draft { rule, mut fresh, crew, .. } = draft;
        let id = RuleId(self.number());
        if let Some((_, before)) = before.as_ref().filter(|(_, it)| it.name() != rule.name()) {
            self.teller.measure(|metrics| metrics.forget_rule(before.name()));
        }
        let heritage = before.as_ref().map(|(id, it)| (*id, Heritage::of(it)));
        let mut known = before.map(|(_, it)| it.into_watches()).unwrap_or_default();
        let mut watches: Vec<(Index, Box<Watched>)> = Vec::new();
        for path in rule.watches() {
            let is_same = |it: &Watched| it.path() == path && it.reach() == rule.reach();
            let inherited = known.iter().find(|(_, it)| is_same(it)).map(|(&index, _)| index);
            let inherited = inherited.and_then(|index| Some((index, known.remove(&index)?)));
            if let Some((index, mut watched)) = fresh.remove(path).or(inherited) {
                watched.set_limits(rule.pace().limits);
                self.owners.insert(index, id);
                watches.push((index, watched));
            }
        }
        self.unwatch(known.into_keys());
        let mut reloader = Reloader::new(rule, crew, watches);
        match heritage {
            Some((before, heritage)) => {
                heritage.leave_to(&mut reloader);
                self.hand_on_proofs(before, id, |step| heritage.step(step, &reloader.rule));
            }
            None => recall(self.ledger.as_ref(), &mut reloader),
        }
        self.reloaders.insert(id, reloader);
        self.remember(id);
        id
    }

    fn unwatch(&mut self, indices: impl Iterator<Item = Index>) {
        for index in indices {
            self.places.remove(index);
            self.owners.remove(&index);
        }
    }

    /// Forgets whom no rule means any more.
    fn dismiss_crews(&mut self) {
        let reloaders = &self.reloaders;
        let before = self.crews.len();
        self.crews.retain(|id, _| reloaders.values().any(|it| it.crew == Some(*id)));
        if self.crews.len() != before {
            self.follow(None);
        }
    }

    /// A number that nothing else has.
    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Has it told when processes of the crews' names, and of one more, start and end. Where there are
    /// too many of them, those of that one are looked for without being told.
    fn follow(&mut self, more: Option<&str>) -> Tells {
        let names = self.crews.values().filter_map(|crew| crew.selector().name()).chain(more);
        let names: Vec<_> = names.map(str::to_owned).collect();
        self.source.follow(&names).unwrap_or_else(|error| {
            let reason = format!("cannot follow processes: {:#}", anyhow::Error::new(error));
            self.teller.tell(&Decision::Degraded { source: self.source.name(), reason });
            Tells::No
        })
    }

    /// The crew of a selector; two rules may have the same.
    fn crew(&mut self, selector: Selector) -> CrewId {
        let known = self.crews.iter().find(|(_, crew)| *crew.selector() == selector);
        if let Some((&id, _)) = known {
            return id;
        }
        let follows = match selector.name() {
            Some(name) => self.follow(Some(name)),
            None => Tells::No,
        };
        let id = CrewId(self.number());
        self.crews.insert(id, Crew::new(selector, follows, clock::now()));
        id
    }
}

/// Whether evidence is looked for that a rule's signals took.
fn confirms(rule: &Rule) -> Confirms {
    if rule.pace().confirm_timeout.is_zero() { Confirms::No } else { Confirms::Yes }
}

/// Refuses a path that cannot be watched at all.
///
/// Not one whose content is somebody else's, who would keep all other rules from being heeded with it:
/// what is in its way is told as soon as it is watched.
fn refuse(mut watched: Watched) -> Result<Watched> {
    if watched.reach() == Reach::Beneath {
        return Ok(watched);
    }
    match watched.obstacle() {
        None | Some(Obstacle::Missing(_)) => {}
        Some(obstacle) => bail!(
            "cannot watch {}: {obstacle}; give --watch a file or directory that can be read",
            watched.path().display()
        ),
    }
    if let Some(reason) = watched.take_failure() {
        bail!(reason);
    }
    Ok(watched)
}
