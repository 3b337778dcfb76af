//! What is written while the agent is at work.

use std::os::fd::BorrowedFd;

use super::*;
use crate::{
    event::{Actor, Operation, PlaceId, Writers},
    source::{SourceError, Tells, WatchError},
};

/// A source under which a file is written when it is asked for events.
struct Meanwhile {
    file: PathBuf,
    text: Option<&'static str>,
    /// How often it is asked before.
    asked_before: u32,
    /// Whether it tells of that.
    tells: bool,
    places: Vec<PlaceId>,
    news: Vec<Event>,
}

impl Source for Meanwhile {
    fn name(&self) -> SourceName {
        SourceName::Poll
    }
    fn watch(&mut self, at: PlaceId, _: BorrowedFd<'_>, _: Interest) -> Result<(), WatchError> {
        self.places.push(at);
        Ok(())
    }
    fn forget(&mut self, _: PlaceId) {}
    fn arm(&mut self, _: PlaceId, _: BorrowedFd<'_>, _: Interest) -> Result<(), WatchError> {
        Ok(())
    }
    fn writers(&mut self, _: PlaceId, _: BorrowedFd<'_>) -> Writers {
        Writers::None
    }
    fn follow(&mut self, _: &[String]) -> Result<Tells, WatchError> {
        Ok(Tells::No)
    }
    async fn next(&mut self) -> Result<Event, SourceError> {
        std::future::pending().await
    }
    fn try_next(&mut self) -> Result<Option<Event>, SourceError> {
        let is_time = self.text.is_some() && self.asked_before == 0;
        self.asked_before = self.asked_before.saturating_sub(1);
        if let Some(text) = self.text.take_if(|_| is_time) {
            fs::write(&self.file, text).unwrap();
            let tells_of = self.places.iter().filter(|_| self.tells);
            self.news.extend(tells_of.map(|&place| Event::Changed {
                place,
                at: clock::now(),
                by: Actor::unknown(Operation::Write),
            }));
        }
        Ok(self.news.pop())
    }
    fn losses(&mut self) -> Vec<Event> {
        Vec::new()
    }
}

impl Meanwhile {
    fn of(file: &Path, tells: bool) -> Self {
        let (places, news) = (Vec::new(), Vec::new());
        Self { file: file.to_owned(), text: None, asked_before: 0, tells, places, news }
    }
}

/// What is written after the content was read is for the next look, also where it is not announced yet.
#[tokio::test(flavor = "current_thread")]
async fn rules_are_those_of_the_content_that_was_read() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().canonicalize().unwrap().join("rules.yaml");
    let arguments = ["--config", file.to_str().unwrap()];
    let text = |names: [&str; 2]| {
        let rule =
            |name| format!("- {{name: {name}, watch: /etc, process: nobody-is-called-so}}\n");
        format!("rules:\n{}", names.map(rule).concat())
    };
    for tells in [false, true] {
        fs::write(&file, text(["a", "b"])).unwrap();
        let source = Meanwhile::of(&file, tells);
        let rules = rule::from_args(&typed(&arguments)).unwrap();
        let mut agent = agent_with(source, rules, &arguments);
        let id = agent.rules_file.unwrap();
        let begun = clock::now();
        let complete = |agent: &mut Agent<Meanwhile>| {
            agent.reloaders.get_mut(&id).unwrap().verify(begun);
            loop {
                let now = clock::now();
                assert!(now < begun.after(PATIENCE), "it is never complete");
                agent.look(id, now);
                if agent.reloaders[&id].is_complete(now) {
                    return agent.complete(id, now).unwrap();
                }
            }
        };
        fs::write(&file, text(["c", "d"])).unwrap();
        // Somebody writes it anew, and so far the first half is there: rules as well.
        let half = "rules:\n- {name: e, watch: /etc, process: nobody-is-called-so}\n";
        agent.source.text = Some(half);
        let is_concluded = complete(&mut agent);
        assert_eq!(is_concluded, !tells);
        assert_eq!(agent.rule_names(), if tells { ["a", "b"] } else { ["c", "d"] });
        while !complete(&mut agent) {}
        assert_eq!(agent.rule_names(), ["e"]);
    }
}

/// The step looks, and then somebody writes: nobody is sent to read that.
#[tokio::test(flavor = "current_thread")]
async fn what_is_written_since_the_check_is_not_acted_upon() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().canonicalize().unwrap().join("a.conf");
    fs::write(&file, "0").unwrap();
    let arguments = ["--watch", file.to_str().unwrap(), "--check", "true", "--exec", "true"];
    let rules = rule::from_args(&typed(&arguments)).unwrap();
    let mut agent = agent_with(Meanwhile::of(&file, true), rules, &arguments);
    let begun = clock::now();
    let id = *agent.reloaders.keys().next().unwrap();
    fs::write(&file, "good").unwrap();
    agent.reloaders.get_mut(&id).unwrap().verify(begun);
    while agent.work.is_empty() {
        assert!(clock::now() < begun.after(PATIENCE), "its check is never begun");
        agent.step().unwrap();
    }
    while agent.reloaders[&id].look_at(clock::now()).is_some() {
        assert!(clock::now() < begun.after(PATIENCE), "it is looked at for ever");
        agent.step().unwrap();
    }
    // It has passed, be that said here: this program is not the agent, whom a check is run by.
    agent.work.shutdown().await;
    let delivery = &mut agent.reloaders.get_mut(&id).unwrap().delivery;
    delivery.checked(Some(true), clock::now());
    assert!(delivery.owed().next().is_some() && !delivery.is_unchecked());
    (agent.source.text, agent.source.asked_before) = (Some("bad, for all we know"), 1);
    let next = agent.step().unwrap();
    assert_eq!(agent.source.text, None, "it was written when it had been looked at");
    assert!(next <= clock::now(), "and is looked at at once");
    assert!(agent.work.is_empty(), "neither is it acted upon nor checked, for it may go on");
    assert!(agent.reloaders[&id].delivery.owed().next().is_some());
}
