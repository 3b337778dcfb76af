//! What is written while the agent is at work.

use std::os::fd::BorrowedFd;

use super::{reloader::Reading, *};
use crate::{
    event::{Actor, Operation, PlaceId, Writers},
    source::{SourceError, Tells, WatchError},
};

/// A source under which a file is written when it is asked for events; with no text it only tells of that.
struct Meanwhile {
    file: PathBuf,
    text: Option<&'static str>,
    /// How often it is asked before.
    asked_before: u32,
    /// Whether it tells of that.
    tells: bool,
    /// Who may be writing, as far as it knows, and when it was last asked.
    writers: (Writers, Boot),
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
        self.writers.1 = clock::now();
        self.writers.0
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
            if !text.is_empty() {
                fs::write(&self.file, text).unwrap();
            }
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
        let (file, writers) = (file.to_owned(), (Writers::None, Boot::ZERO));
        Self { file, text: None, asked_before: 0, tells, writers, places, news }
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

/// A rule of what is at these paths, and where it looks.
fn reloader(paths: [&Path; 2]) -> (Reloader, Places, Meanwhile) {
    let mut source = Meanwhile::of(paths[0], false);
    let mut places = Places::new();
    let [a, b] = paths.map(|path| path.to_str().unwrap());
    let arguments = ["--watch", a, "--watch", b, "--post", "http://127.0.0.1:1"];
    let rule = rule::from_args(&typed(&arguments)).unwrap().remove(0);
    let limits = rule.pace().limits;
    let watches = paths.iter().enumerate().map(|(index, path)| {
        let (places, source) = (&mut places, &mut source);
        let watched = Watched::new(index, path, Reach::Anywhere, limits, places, source);
        (index, Box::new(watched))
    });
    let watches = watches.collect();
    (Reloader::new(rule, None, watches), places, source)
}

fn announce(reloader: &mut Reloader, index: usize, at: Boot) {
    reloader.touch(Touched { index, interest: Interest::Any, at, by: None });
}

#[track_caller]
fn check_changed(reloader: &mut Reloader, reading: Reading, now: Boot, files: usize) {
    assert_eq!(reloader.conclude(reading, false, now), Conclusion::Changed);
    let Some(Decision::Changed { paths, .. }) = reloader.untold.pop() else {
        panic!("it has changed");
    };
    assert_eq!(paths.told().count(), files, "{paths:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn another_volume_is_waited_for_since_the_update_of_one_was_found() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path().canonicalize().unwrap();
    let mut volumes = ["a", "b"].map(|name| Volume::new(home.join(name), 1));
    let (mut reloader, mut places, mut source) =
        reloader(volumes.each_ref().map(|it| it.dir.as_path()));
    let group = Duration::from_millis(100);
    volumes[0].update();
    // Nobody was free to look when that was announced.
    let now = clock::now();
    announce(&mut reloader, 0, Boot(now.0.saturating_sub(group)));
    reloader.look(now, &mut places, &mut source);
    let found = clock::now();
    assert!(!reloader.is_complete(found), "the other may follow");
    assert!(reloader.is_complete(found.after(group)), "it has not followed");
    volumes[1].update();
    announce(&mut reloader, 1, found);
    reloader.look(found, &mut places, &mut source);
    assert!(reloader.is_complete(found), "it has");
    let (reading, _) = reloader.read(found);
    check_changed(&mut reloader, reading, found, 2);
}

/// One of them is replaced when the other was read.
#[tokio::test(flavor = "current_thread")]
async fn two_files_are_one_change_although_one_was_read_before_the_other() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path().canonicalize().unwrap();
    let files = ["a", "b"].map(|name| home.join(name));
    for file in &files {
        fs::write(file, "0").unwrap();
    }
    let (mut reloader, mut places, mut source) = reloader(files.each_ref().map(PathBuf::as_path));
    let replace = |index: usize| {
        fs::write(home.join("draft"), "1").unwrap();
        fs::rename(home.join("draft"), &files[index]).unwrap();
    };
    replace(0);
    let now = clock::now();
    announce(&mut reloader, 0, now);
    reloader.look(now, &mut places, &mut source);
    assert!(reloader.is_complete(now));
    let (reading, _) = reloader.read(now);
    replace(1);
    announce(&mut reloader, 1, clock::now());
    assert_eq!(reloader.look_again(clock::now(), &mut places, &mut source), [1]);
    assert_eq!(reloader.conclude(reading, true, now), Conclusion::NotYet);
    // At once, as the agent does.
    reloader.look(now, &mut places, &mut source);
    assert!(reloader.is_complete(now));
    let (reading, _) = reloader.read(now);
    check_changed(&mut reloader, reading, now, 2);
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

/// An agent that has looked at a file that somebody may be writing: since when its quiet is waited for at least,
/// and when that is over.
fn looked_at(file: &Path) -> (Agent<Meanwhile>, RuleId, Boot, Boot) {
    fs::write(file, "0").unwrap();
    let arguments = ["--watch", file.to_str().unwrap(), "--exec", "true"];
    let rules = rule::from_args(&typed(&arguments)).unwrap();
    let mut agent = agent_with(Meanwhile::of(file, false), rules, &arguments);
    agent.source.writers.0 = Writers::Unknown;
    let (&id, reloader) = agent.reloaders.iter_mut().next().unwrap();
    let (began, &index) = (clock::now(), agent.owners.keys().next().unwrap());
    fs::write(file, "half of").unwrap();
    reloader.touch_quietly(index, began);
    agent.look(id, began);
    let since = agent.source.writers.1;
    let over = agent.reloaders[&id].look_at(began).unwrap();
    (agent, id, since, over)
}

#[tokio::test(flavor = "current_thread")]
async fn the_quiet_is_that_since_a_look_and_never_that_of_a_hold_or_of_a_stop() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().canonicalize().unwrap().join("a.conf");
    let hour = Duration::from_hours(1);
    let receiver = crate::delivery::Receiver { step: 0, target: None };

    let (mut agent, id, since, over) = looked_at(&file);
    let quiet = agent.reloaders[&id].rule.pace().limits.quiet;
    assert!(since.after(quiet) <= over, "the look itself may take long");
    let later = since.after(hour);
    agent.put_off(since, later);
    assert_eq!(agent.reloaders[&id].look_at(since), Some(later.after(quiet)));

    let (mut agent, id, since, over) = looked_at(&file);
    let later = since.after(hour);
    let reloader = agent.reloaders.get_mut(&id).unwrap();
    reloader.delivery.has_got(receiver, later);
    assert!(!reloader.is_open(since));
    agent.put_off(since, since.after(hour / 2));
    let reloader = agent.reloaders.get_mut(&id).unwrap();
    assert_eq!(reloader.look_at(since), Some(over), "that will be a part of the hold");
    assert!(reloader.is_open(later));
    assert_eq!(reloader.look_at(since), Some(later.after(quiet)));

    let (mut agent, id, since, _) = looked_at(&file);
    let mut reloader = agent.reloaders.remove(&id).unwrap();
    reloader.delivery.has_got(receiver, since.after(hour));
    assert!(!reloader.is_open(since));
    let handed_on = clock::now();
    let watches = reloader.into_watches();
    let over = watches.values().next().unwrap().look_at(since).unwrap();
    assert!(handed_on.after(quiet) <= over, "whoever has it from here on waits for it anew");
}

/// Between the moment at which the loop woke up and the one for which it asks what is due.
#[tokio::test(flavor = "current_thread")]
async fn a_stop_before_a_step_does_not_count_either() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().canonicalize().unwrap().join("a.conf");
    let (mut agent, id, since, _) = looked_at(&file);
    let quiet = agent.reloaders[&id].rule.pace().limits.quiet;
    let woke = Boot(since.0.saturating_sub(Duration::from_secs(10)));
    agent.stall.wake(woke);
    let going_on = clock::now();
    agent.step().unwrap();
    assert!(agent.reloaders[&id].look_at(going_on) >= Some(going_on.after(quiet)));
}

/// One rule has a process end that another, with a check, is about too; in the same step that may have been
/// found to be what it was.
#[tokio::test(flavor = "current_thread")]
async fn nobody_is_sent_to_read_what_the_check_of_another_rule_has_not_seen() {
    let home = tempfile::tempdir().unwrap();
    let root = home.path().canonicalize().unwrap();
    let [checked, plain] = ["checked", "plain"].map(|name| root.join(name));
    let about = |file: &Path, rest: &[&str]| {
        fs::write(file, "0").unwrap();
        let basis =
            ["--watch", file.to_str().unwrap(), "--process", "meanwhile-idler", "--signal", "TERM"];
        rule::from_args(&typed(&[&basis[..], rest].concat())).unwrap().remove(0)
    };
    for (is_just_completed, text) in [(false, "bad"), (true, "bad"), (false, ""), (true, "")] {
        let _idler = Idler::start(&root, "meanwhile-idler");
        let rules = vec![about(&checked, &["--check", "true"]), about(&plain, &[])];
        let mut agent =
            agent_with(Meanwhile::of(&checked, true), rules, &["--watch", "/", "--process", "x"]);
        let begun = clock::now();
        fs::write(&plain, "1").unwrap();
        let (&id, reloader) = agent.reloaders.last_key_value().unwrap();
        assert!(reloader.rule.check().is_none());
        for (&other, reloader) in &mut agent.reloaders {
            if other == id || is_just_completed {
                reloader.verify(begun);
            }
        }
        // Asked by the step and by whoever has read a content, and now before anybody is signalled.
        agent.source.asked_before = 2 + u32::from(is_just_completed);
        agent.source.text = Some(text);
        let mut next = begun;
        while agent.source.text.is_some() {
            assert!(clock::now() < begun.after(PATIENCE), "it is not asked any more");
            next = agent.step().unwrap();
        }
        let is_owed = agent.reloaders[&id].delivery.owed().any(|it| it.target.is_some());
        assert_eq!(is_owed, !text.is_empty(), "it would be started anew with that");
        assert!(!is_owed || next <= clock::now(), "and what is there now is looked at at once");
    }
}
