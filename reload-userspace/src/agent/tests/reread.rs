//! A file with rules that is written while it is read.

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
        if let Some(text) = self.text.take() {
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
        let source = Meanwhile {
            file: file.clone(),
            text: None,
            tells,
            places: Vec::new(),
            news: Vec::new(),
        };
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
