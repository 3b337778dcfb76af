//! What the facts come to: pure, so that it can be compared with what a file gives back.

use std::{collections::HashMap, time::Duration};

use super::fact::{Fact, Here};
use crate::{clock::Boot, content::Digest, target::Target};

/// What is known of every rule, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    rules: HashMap<String, Known>,
}

/// What is known of one rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Known {
    /// What its files contain, and since when.
    content: Option<(Digest, Boot)>,
    /// What has been applied, by action and by target.
    applied: HashMap<String, HashMap<Option<Target>, Digest>>,
}

impl Memory {
    /// What was written `there`, as far as it holds `here`.
    ///
    /// The numbers of processes mean nothing after a boot or in another pid namespace. After a boot
    /// the moments do not either, but whatever runs has started after what was there before.
    pub(super) fn recall(facts: Vec<Fact>, there: &Here, here: &Here) -> Self {
        let mut memory = Self::default();
        for fact in facts {
            memory.learn(fact);
        }
        if there != here {
            memory.retain(|_target| false);
        }
        if there.boot != here.boot {
            let contents = memory.rules.values_mut().filter_map(|known| known.content.as_mut());
            contents.for_each(|(_digest, since)| *since = Boot(Duration::ZERO));
        }
        memory
    }

    pub(super) fn content(&self, rule: &str) -> Option<(Digest, Boot)> {
        self.rules.get(rule)?.content
    }

    pub(super) fn applied(
        &self,
        rule: &str,
        action: &str,
        target: Option<Target>,
    ) -> Option<Digest> {
        self.rules.get(rule)?.applied.get(action)?.get(&target).copied()
    }

    /// Whether anything is known of an action.
    pub(super) fn knows(&self, rule: &str, action: &str) -> bool {
        self.rules.get(rule).is_some_and(|rule| rule.applied.contains_key(action))
    }

    /// Takes a fact in, and says whether that is news.
    pub(super) fn learn(&mut self, fact: Fact) -> bool {
        match fact {
            Fact::Content { rule, digest, since } => {
                let content = Some((digest, since));
                let known = self.rules.entry(rule).or_default();
                std::mem::replace(&mut known.content, content) != content
            }
            Fact::Applied { rule, action, to, digest } => {
                let applied = &mut self.rules.entry(rule).or_default().applied;
                let receivers = applied.entry(action).or_default();
                receivers.insert(to.map(Target::from), digest) != Some(digest)
            }
            Fact::Dropped { rule } => self.rules.remove(&rule).is_some(),
        }
    }

    /// The rules of which something is known.
    pub(super) fn rules(&self) -> impl Iterator<Item = &str> {
        self.rules.keys().map(String::as_str)
    }

    /// Forgets the targets that no longer live.
    pub(super) fn retain(&mut self, mut is_alive: impl FnMut(Target) -> bool) {
        for known in self.rules.values_mut() {
            known.applied.retain(|_action, receivers| {
                receivers.retain(|target, _digest| target.is_none_or(&mut is_alive));
                !receivers.is_empty()
            });
        }
        self.rules.retain(|_rule, known| known.content.is_some() || !known.applied.is_empty());
    }

    /// How many facts it takes to know all of it.
    pub(super) fn len(&self) -> usize {
        let receivers = |known: &Known| known.applied.values().map(HashMap::len).sum::<usize>();
        self.rules
            .values()
            .map(|known| usize::from(known.content.is_some()) + receivers(known))
            .sum()
    }

    /// Facts that come to the same.
    pub(super) fn facts(&self) -> impl Iterator<Item = Fact> + '_ {
        self.rules.iter().flat_map(|(rule, known)| {
            let content = known.content.map(|(digest, since)| Fact::Content {
                rule: rule.clone(),
                digest,
                since,
            });
            let applied = known.applied.iter().flat_map(move |(action, receivers)| {
                receivers.iter().map(move |(target, &digest)| Fact::Applied {
                    rule: rule.clone(),
                    action: action.clone(),
                    to: target.map(Into::into),
                    digest,
                })
            });
            content.into_iter().chain(applied)
        })
    }
}

#[cfg(test)]
mod tests {
    use nix::unistd::Pid;
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::ledger::fact::{self, Fault};

    fn here() -> Here {
        Here { boot: "one".to_owned(), pid_namespace: 7 }
    }

    /// A digest that is easily told from others.
    fn digest(byte: u8) -> Digest {
        format!("{byte:02x}").repeat(32).parse().unwrap()
    }

    /// Few names and numbers, so that facts meet.
    fn any_fact() -> impl Strategy<Value = Fact> {
        let rule = || prop_oneof!["[ab]", any::<String>()];
        let to = proptest::option::of((1..4_i32, 0..2_u64));
        prop_oneof![
            (rule(), any::<u8>(), any::<u64>()).prop_map(|(rule, byte, nanos)| Fact::Content {
                rule,
                digest: digest(byte),
                since: Boot(Duration::from_nanos(nanos)),
            }),
            (rule(), rule(), to, any::<u8>()).prop_map(|(rule, action, to, byte)| {
                let target = |(pid, started)| Target { pid: Pid::from_raw(pid), started };
                let to = to.map(|to| target(to).into());
                Fact::Applied { rule, action, to, digest: digest(byte) }
            }),
            rule().prop_map(|rule| Fact::Dropped { rule }),
        ]
    }

    fn memory_of(facts: &[Fact]) -> Memory {
        Memory::recall(facts.to_vec(), &here(), &here())
    }

    fn written(facts: impl IntoIterator<Item = Fact>) -> Vec<u8> {
        let mut bytes = fact::header(&here());
        facts.into_iter().for_each(|it| bytes.extend(fact::line(&it)));
        bytes
    }

    fn loaded(bytes: &[u8]) -> Result<Memory, Fault> {
        let read = fact::read(bytes)?;
        Ok(read
            .map_or_else(Memory::default, |(there, facts)| Memory::recall(facts, &there, &here())))
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn facts_are_read_as_they_were_written(facts in vec(any_fact(), 0..20)) {
            let (there, read) = fact::read(&written(facts.clone())).unwrap().unwrap();
            prop_assert_eq!((there, read), (here(), facts));
        }

        #[test]
        fn a_file_cut_anywhere_is_what_was_known_once(facts in vec(any_fact(), 0..6)) {
            let bytes = written(facts.clone());
            let states: Vec<_> = (0..=facts.len()).map(|count| memory_of(&facts[..count])).collect();
            let mut count = 0;
            for end in 0..=bytes.len() {
                let lines = bytes[..end].split(|&byte| byte == b'\n').count() - 1;
                count = lines.saturating_sub(1);
                prop_assert_eq!(loaded(&bytes[..end]).unwrap(), states[count].clone());
                // Some filesystems leave zeros where something was to be.
                let zeros = [&bytes[..end], &[0; 9]].concat();
                prop_assert_eq!(loaded(&zeros).unwrap(), states[count].clone());
            }
            prop_assert_eq!(count, facts.len());
        }

        #[test]
        fn a_memory_is_as_many_facts_as_it_takes(facts in vec(any_fact(), 0..20)) {
            let memory = memory_of(&facts);
            let fewest: Vec<_> = memory.facts().collect();
            prop_assert_eq!(fewest.len(), memory.len());
            prop_assert!(fewest.len() <= facts.len());
            prop_assert_eq!(loaded(&written(fewest)).unwrap(), memory);
        }

        #[test]
        fn whatever_is_in_the_file_is_survived(garbage in vec(any::<u8>(), 0..200), at in 0..200_usize) {
            let _any = loaded(&garbage);
            let mut bytes = written([Fact::Dropped { rule: "a".to_owned() }]);
            let at = at.min(bytes.len());
            bytes.splice(at..at, garbage);
            let _any = loaded(&bytes);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        #[track_caller]
        fn check(text: &str, expected: &str) {
            assert_eq!(loaded(text.as_bytes()).unwrap_err().to_string(), expected);
        }
        let header = String::from_utf8(fact::header(&here())).unwrap();
        assert_eq!(header, "{\"version\":1,\"boot\":\"one\",\"pid_namespace\":7}\n");
        check("hello\n", "it does not begin as a ledger does");
        check("hello", "it does not begin as a ledger does");
        check("\n", "it does not begin as a ledger does");
        check("{\"version\":1}\n", "it does not begin as a ledger does");
        check(
            "{\"version\":2,\"boot\":[]}\n",
            "its format is version 2, and this agent knows version 1",
        );
        check(&format!("{header}\n"), "its line 2 is no fact");
        check(&format!("{header}{header}"), "its line 2 is no fact");
        check(&format!("{header}{{\"dropped\":{{\"rule\":\"a\"}}}}\nx\n"), "its line 3 is no fact");
        check(
            &format!("{header}{{\"dropped\":{{\"rule\":\"a\",\"b\":1}}}}\n"),
            "its line 2 is no fact",
        );
    }

    #[test]
    fn processes_are_forgotten_where_their_numbers_mean_nothing() {
        let target = Target { pid: Pid::from_raw(7), started: 991 };
        let applied = |to: Option<Target>| Fact::Applied {
            rule: "a".to_owned(),
            action: "restart".to_owned(),
            to: to.map(Into::into),
            digest: digest(1),
        };
        let since = Boot(Duration::from_secs(9));
        let content = Fact::Content { rule: "a".to_owned(), digest: digest(1), since };
        let facts = vec![content, applied(Some(target)), applied(None)];
        let check = |boot: &str, pid_namespace: u64, since: u64, is_known: bool| {
            let there = Here { boot: boot.to_owned(), pid_namespace };
            let memory = Memory::recall(facts.clone(), &there, &here());
            let since = Boot(Duration::from_secs(since));
            assert_eq!(memory.content("a"), Some((digest(1), since)), "for {there:?}");
            assert_eq!(memory.applied("a", "restart", None), Some(digest(1)), "for {there:?}");
            let has = memory.applied("a", "restart", Some(target));
            assert_eq!(has.is_some(), is_known, "for {there:?}");
        };
        check("one", 7, 9, true);
        check("one", 8, 9, false);
        check("two", 7, 0, false);
        check("two", 8, 0, false);
    }

    #[test]
    fn what_is_known_already_is_no_news() {
        let mut memory = Memory::default();
        let since = Boot(Duration::from_secs(9));
        let content = |byte| Fact::Content { rule: "a".to_owned(), digest: digest(byte), since };
        assert!(memory.learn(content(1)));
        assert!(!memory.learn(content(1)));
        assert!(memory.learn(content(2)));
        assert!(memory.learn(Fact::Dropped { rule: "a".to_owned() }));
        assert!(!memory.learn(Fact::Dropped { rule: "a".to_owned() }));
        assert_eq!(memory, Memory::default());
    }
}
