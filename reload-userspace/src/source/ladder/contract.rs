//! The ladder as a source: what is asked of it goes to whoever watches the place.

use std::{ffi::OsStr, future, os::fd::BorrowedFd};

use super::{Footing, Ladder, canary, explain};
use crate::{
    clock,
    event::{Event, PlaceId, SourceName, Writers},
    source::{Interest, Source, SourceError, Tells, Trouble, WatchError},
};

impl Source for Ladder {
    /// The best source that watches anything or, as long as there is nothing to watch, could.
    fn name(&self) -> SourceName {
        let in_use = self.counts.iter().find(|(_, count)| **count > 0).map(|(&name, _)| name);
        let open = || self.rungs.iter().find(|rung| rung.is_open()).map(Source::name);
        in_use.or_else(open).unwrap_or(SourceName::Poll)
    }

    fn strategy(&self) -> Option<&'static str> {
        let name = self.name();
        self.rungs.iter().find(|rung| rung.name() == name).and_then(Source::strategy)
    }

    fn watch(
        &mut self,
        place: PlaceId,
        handle: BorrowedFd<'_>,
        interest: Interest,
    ) -> Result<(), WatchError> {
        let footing = self.seat(place, handle, interest)?;
        self.set(place, Some(footing));
        Ok(())
    }

    fn forget(&mut self, place: PlaceId) {
        self.set(place, None);
        self.unseat(place);
    }

    fn arm(
        &mut self,
        place: PlaceId,
        handle: BorrowedFd<'_>,
        interest: Interest,
    ) -> Result<(), WatchError> {
        if let Some(&footing) = self.places.get(&place)
            && footing.retry_at.is_some_and(|retry_at| retry_at <= clock::now())
        {
            self.retry(place, footing, handle, interest);
        }
        if let Some(&Footing { source, .. }) = self.places.get(&place) {
            let armed = self.rung(source).map(|rung| rung.arm(place, handle, interest));
            if armed.is_none_or(|armed| armed.is_ok()) {
                return Ok(());
            }
        }
        self.unseat(place);
        self.watch(place, handle, interest)
    }

    fn writers(&mut self, place: PlaceId, handle: BorrowedFd<'_>) -> Writers {
        let Some(&Footing { source, is_polled, .. }) = self.places.get(&place) else {
            return Writers::Unknown;
        };
        match self.rung(source).map(|rung| rung.writers(place, handle)) {
            // Where not every change is announced somebody elsewhere may have it open.
            Some(Writers::None) if is_polled => Writers::Unknown,
            Some(writers) => writers,
            None => Writers::Unknown,
        }
    }

    fn await_end(&mut self, place: PlaceId) -> bool {
        match self.places.get(&place) {
            Some(&Footing { source, is_polled: false, .. }) => {
                self.rung(source).is_some_and(|rung| rung.await_end(place))
            }
            _ => false,
        }
    }

    fn follow(&mut self, names: &[String]) -> Result<Tells, WatchError> {
        let [best, ..] = &mut self.rungs;
        best.follow(names)
    }

    async fn next(&mut self) -> Result<Event, SourceError> {
        if let Some(event) = self.aside.pop_front() {
            return Ok(event);
        }
        let [ebpf, fanotify, inotify] = &mut self.rungs;
        let mounted = async {
            match &mut self.mounts {
                Some(mounts) => mounts.next().await,
                None => future::pending().await,
            }
        };
        tokio::select! {
            biased;
            event = ebpf.next() => event,
            event = fanotify.next() => event,
            event = inotify.next() => event,
            event = self.poll.next() => event,
            event = mounted => {
                // A device number may be another filesystem's now.
                self.grounds.clear();
                event
            }
        }
    }

    fn try_next(&mut self) -> Result<Option<Event>, SourceError> {
        if let Some(event) = self.aside.pop_front() {
            return Ok(Some(event));
        }
        for rung in &mut self.rungs {
            if let Some(event) = rung.try_next()? {
                return Ok(Some(event));
            }
        }
        self.poll.try_next()
    }

    fn troubles(&mut self) -> Vec<Trouble> {
        let own = std::mem::take(&mut self.troubles);
        own.into_iter().chain(self.rungs.iter_mut().flat_map(Source::troubles)).collect()
    }

    fn passed_over(&self) -> Option<&str> {
        self.rungs.iter().find(|rung| rung.is_open()).and_then(Source::passed_over)
    }

    fn tell_opens(&mut self) -> Tells {
        let [best, ..] = &mut self.rungs;
        best.tell_opens()
    }

    fn tells_reads(&self) -> Tells {
        let [best, ..] = &self.rungs;
        best.tells_reads()
    }

    fn expect_open(&mut self, place: PlaceId) -> Tells {
        let source = self.places.get(&place).map(|footing| footing.source);
        let rung = source.and_then(|source| self.rung(source));
        rung.map_or(Tells::No, |rung| rung.expect_open(place))
    }

    fn expect_open_of(&mut self, name: &OsStr, directory: PlaceId, place: PlaceId) -> Tells {
        let source = self.places.get(&directory).map(|footing| footing.source);
        let rung = source.and_then(|source| self.rung(source));
        rung.map_or(Tells::No, |rung| rung.expect_open_of(name, directory, place))
    }

    fn expect_no_open(&mut self, place: PlaceId) {
        // The place of a name is nobody's, and only the best tells of opens.
        let [best, ..] = &mut self.rungs;
        best.expect_no_open(place);
    }

    fn prove(&mut self) -> Result<(), String> {
        let Self { rungs, counts, aside, .. } = self;
        let is_in_use = |name: SourceName| counts.get(&name).is_some_and(|&count| count > 0);
        for rung in rungs.iter_mut().filter(|rung| is_in_use(rung.name())) {
            match canary::sing(rung, aside) {
                Ok(true) => {}
                Ok(false) => {
                    return Err(format!("source {} did not hear a test write", rung.name()));
                }
                Err(error) => return Err(format!("source {}: {}", rung.name(), explain(&error))),
            }
        }
        Ok(())
    }

    fn losses(&mut self) -> Vec<Event> {
        self.rungs.iter_mut().flat_map(Source::losses).collect()
    }
}
