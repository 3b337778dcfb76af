//! From rules to what is watched for them and whom they mean.

use anyhow::{Context as _, Result, bail};

use super::{
    Agent,
    crew::{Crew, CrewId},
    places::Index,
    reloader::{Reloader, RuleId},
    watched::Watched,
};
use crate::{
    rule::Rule,
    source::{Follows, Source},
    target::Selector,
    watch::Obstacle,
};

impl<S: Source> Agent<S> {
    /// Puts the rules to work.
    pub(super) fn set_up(&mut self, rules: Vec<Rule>) -> Result<()> {
        for rule in rules {
            let id = RuleId(self.number());
            let crew = rule.selector().cloned().map(|selector| self.crew(selector)).transpose()?;
            let mut watches = Vec::new();
            for path in rule.watches() {
                let index = Index::try_from(self.number()).context("there are too many paths")?;
                let Self { places, source, .. } = self;
                let limits = rule.pace().limits;
                let looked = Watched::new(index, path, limits, places, source);
                watches.push((index, refuse(looked)?));
                self.owners.insert(index, id);
            }
            self.reloaders.insert(id, Reloader::new(rule, crew, watches));
        }
        let crews: Vec<_> = self.crews.keys().copied().collect();
        for crew in crews {
            self.call_roll(crew).context("cannot find the process to reload")?;
        }
        Ok(())
    }

    /// A number that nothing else has.
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// The crew of a selector; two rules may have the same.
    fn crew(&mut self, selector: Selector) -> Result<CrewId> {
        let known = self.crews.iter().find(|(_, crew)| *crew.selector() == selector);
        if let Some((&id, _)) = known {
            return Ok(id);
        }
        let name = selector.name().map(str::to_owned);
        let follows = match name {
            Some(name) => self.source.follow(&[name]).context("cannot follow the process")?,
            None => Follows::No,
        };
        let id = CrewId(self.number());
        self.crews.insert(id, Crew::new(selector, follows));
        Ok(id)
    }
}

/// Refuses a path that cannot be watched at all.
fn refuse(mut watched: Watched) -> Result<Watched> {
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
