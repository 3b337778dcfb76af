//! The source `ebpf`: programs in the kernel that record the changes of watched inodes.
//!
//! Only this module and its folder name aya.

mod decode;
mod layout;
mod losses;
mod object;
mod queue;
mod strategy;
mod superblocks;
mod unavailable;

use std::{
    collections::{HashMap, VecDeque},
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
};

use aya::{
    Ebpf,
    maps::{Array, HashMap as MapOf, MapData, MapError, PerCpuArray, RingBuf},
    programs::{FExit, ProgramType, RawTracePoint, RawTracePointRunOptions, TestRun as _},
    sys::is_program_supported,
};
use aya_log::EbpfLogger;
use reload_ebpf::{
    Answer, Armed, COMM_LEN, Hook, Key, MAX_NAMES, MAX_PLACES, NAME_LEN, NAMES_EXPECTED, NO_PLACE,
    Name, Observer, Refusal,
};
use rustix::process::getpid;
use tokio::{io::unix::AsyncFd, task::JoinHandle};
use zerocopy::transmute;

use self::{
    decode::decode,
    layout::Layout,
    losses::Losses,
    object::{OBJECT, load, read_layout, take, tell_syscalls},
    strategy::Strategy,
    superblocks::Superblocks,
};
use super::{
    Interest, Source, SourceError, Tells, Trouble, WatchError, canary, ladder::explain, number,
};
use crate::{
    event::{Event, PlaceId, SourceName, Writers},
    sys,
};

pub(crate) use self::unavailable::BTF;
pub(super) use self::unavailable::Unavailable;

/// How many openings of a file are told of until it is looked whether they were the right ones.
///
/// Whoever opens it all the time, a server for each request say, costs a thousand wake-ups a second at
/// most, and only until a reload is confirmed.
const OPENS_AT_A_TIME: u32 = 256;

/// There is no room for another place.
const FULL: WatchError =
    WatchError::Full { limit: MAX_PLACES - 1, things: "files and directories" };

/// The eBPF programs, loaded, attached and proved to work.
pub struct EbpfSource {
    purpose: Purpose,
    strategy: Strategy,
    /// Why a better strategy is not used.
    passed_over: Option<String>,
    /// Owns the programs: they are detached when it is dropped.
    ebpf: Ebpf,
    records: RingBuf<MapData>,
    ready: AsyncFd<OwnedFd>,
    places: MapOf<MapData, [u64; 2], u32>,
    superblocks: Superblocks,
    armed: Array<MapData, u32>,
    names: MapOf<MapData, [u8; COMM_LEN], u8>,
    losses: Losses,
    answer: Array<MapData, [u64; 4]>,
    observer: Array<MapData, [u64; 2]>,
    expected: Array<MapData, u32>,
    expected_names: MapOf<MapData, [u8; size_of::<Name>()], u32>,
    /// The names that places stand for.
    names_of: HashMap<PlaceId, Name>,
    /// Whether the program is attached that tells who opens a file.
    tells_opens: bool,
    /// Whether those are told of who read from a queue of inotify.
    tells_reads: bool,
    /// What to take out of `places` when a place is forgotten.
    keys: HashMap<PlaceId, Key>,
    /// What is not seen here, until it has been told.
    blind: Vec<String>,
    /// Carries the eBPF side's own diagnostics to the log.
    diagnostics: Option<JoinHandle<()>>,
}

/// What events are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To reload.
    Reload,
    /// To tell what happens: every change of a place, which never falls silent, and also forks and signals
    /// of the processes whose names are [followed](Source::follow), and who reads from queues of notifications.
    Trace,
}

impl EbpfSource {
    /// Loads the programs that are for that purpose, attaches them, and proves with a canary that records
    /// arrive.
    ///
    /// With `diagnostics` the eBPF side tells of itself at the level `debug`; otherwise the code for
    /// that is removed when the object is loaded.
    ///
    /// # Errors
    ///
    /// Says what is missing here, and what to grant.
    pub fn open(purpose: Purpose, diagnostics: bool) -> Result<Self, Unavailable> {
        let object = OBJECT.ok_or(Unavailable::NotBuiltIn)?;
        // To be refused here takes microseconds and no memory; to read the kernel's types takes both.
        is_program_supported(ProgramType::RawTracePoint)
            .map_err(|error| Unavailable::program("learn", error))?;
        let layout = read_layout()?;
        let mut ebpf = load(object, &layout, purpose, diagnostics)?;
        let diagnostics = diagnostics.then(|| follow_diagnostics(&mut ebpf)).transpose();
        let records = take(&mut ebpf, "RECORDS", RingBuf::try_from)?;
        let mut source = Self {
            purpose,
            strategy: Strategy::Trampoline,
            passed_over: None,
            ready: sys::readable(&records).map_err(setup)?,
            records,
            places: take(&mut ebpf, "PLACES", MapOf::try_from)?,
            superblocks: Superblocks::new(take(&mut ebpf, "SUPERBLOCKS", Array::try_from)?),
            armed: take(&mut ebpf, "ARMED", Array::try_from)?,
            names: take(&mut ebpf, "NAMES", MapOf::try_from)?,
            losses: Losses::new(take(&mut ebpf, "DROPPED", PerCpuArray::try_from)?),
            answer: take(&mut ebpf, "ANSWER", Array::try_from)?,
            observer: take(&mut ebpf, "OBSERVER", Array::try_from)?,
            expected: take(&mut ebpf, "EXPECTED", Array::try_from)?,
            expected_names: take(&mut ebpf, "EXPECTED_NAMES", MapOf::try_from)?,
            names_of: HashMap::new(),
            tells_opens: false,
            tells_reads: false,
            keys: HashMap::new(),
            blind: Vec::new(),
            diagnostics: diagnostics.map_err(setup)?,
            ebpf,
        };
        tell_syscalls(&mut source.ebpf)?;
        source.attach(&layout)?;
        if purpose == Purpose::Trace {
            strategy::attach_trace(source.strategy, &mut source.ebpf, &layout)?;
            source.tells_opens = source.strategy == Strategy::Tracepoint;
            source.learn_queues()?;
        }
        drop(layout);
        sys::give_back_memory();
        Ok(source)
    }

    /// Attaches the programs by the best strategy that works here.
    fn attach(&mut self, layout: &Layout) -> Result<(), Unavailable> {
        let may_hang = layout.waits_for_the_dead && self.may_be_killed_with_another()?;
        let tried = if may_hang {
            Err(Unavailable::MayHang)
        } else {
            self.try_strategy(Strategy::Trampoline, layout)
        };
        let Err(trampoline) = tried else {
            return Ok(());
        };
        match self.try_strategy(Strategy::Tracepoint, layout) {
            Ok(()) => {
                self.passed_over = Some(explain(&trampoline));
                Ok(())
            }
            Err(tracepoint) => Err(Unavailable::both(&trampoline, tracepoint)),
        }
    }

    /// Whether the agent is in a pid namespace whose first process is another, with which all others are
    /// killed.
    ///
    /// That process waits for them, and the kernel's tasks RCU waited for it (`zap_pid_ns_processes`): so
    /// whoever waited for that at his own end, as for a trampoline that he leaves, never ended. Nor did
    /// anybody else on the machine who attached or detached anything from then on. Seen on Debian's 6.1.
    fn may_be_killed_with_another(&mut self) -> Result<bool, Unavailable> {
        let descriptor = self.ready.get_ref().as_fd().try_clone_to_owned().map_err(setup)?;
        // It leaves there who we are.
        self.learn(descriptor.as_fd(), NO_PLACE, Armed::Silent)
            .map_err(|error| setup(io::Error::other(error)))?;
        let observer = self.observer.get(&0, 0).map_err(|error| setup(io::Error::other(error)))?;
        let observer: Observer = transmute!(observer);
        Ok(match observer.level {
            0 => false,
            1 => !getpid().is_init(),
            _ => true,
        })
    }

    fn armed(&self, interest: Interest) -> Armed {
        match (self.purpose, interest) {
            (Purpose::Trace, _) => Armed::Every,
            (Purpose::Reload, Interest::Any) => Armed::Any,
            (Purpose::Reload, Interest::Replacement) => Armed::Replacement,
        }
    }

    fn try_strategy(&mut self, strategy: Strategy, layout: &Layout) -> Result<(), Unavailable> {
        self.strategy = strategy;
        let attached = strategy.attach(&mut self.ebpf, layout);
        let proved = attached.and_then(|blind| self.prove().map(|()| blind));
        if proved.is_err() {
            strategy.detach(&mut self.ebpf);
        }
        self.blind = proved?;
        if strategy == Strategy::Trampoline
            && let Err(error) = strategy::load_open(&mut self.ebpf, layout)
        {
            tracing::debug!(error = explain(&error), "it will not be seen who opens a file");
        }
        Ok(())
    }

    /// Writes to a private file in memory and looks for the record.
    fn prove(&mut self) -> Result<(), Unavailable> {
        let is_heard = canary::sing(self, &mut VecDeque::new())
            .map_err(|error| setup(io::Error::other(error)))?;
        if is_heard { Ok(()) } else { Err(Unavailable::Canary) }
    }

    /// Runs `learn` on a file of ours: has it watched as `place`, if that is one, and counts who has
    /// it open for writing.
    fn learn(
        &mut self,
        handle: BorrowedFd<'_>,
        place: u32,
        armed: Armed,
    ) -> Result<Answer, WatchError> {
        let program = self.ebpf.program("learn").ok_or(WatchError::Unknown)?;
        let program: &RawTracePoint = program.try_into().map_err(refused)?;
        let mut options = RawTracePointRunOptions::new();
        options.args[..3].copy_from_slice(&[number(handle), place.into(), armed as u64]);
        program.test_run(options).map_err(refused)?;
        let answer: Answer = transmute!(self.answer.get(&0, 0).map_err(refused)?);
        match answer.writers {
            refusal if refusal == Refusal::Full as i64 => Err(FULL),
            refusal if refusal < 0 => Err(WatchError::Unknown),
            _ => Ok(answer),
        }
    }

    /// Has the kernel side know a place no more.
    fn let_go(&mut self, place: PlaceId, key: Key) {
        let words: [u64; 2] = transmute!(key);
        // An inode number is handed out again, so the key may be another place's by now.
        if self.places.get(&words, 0).is_ok_and(|owner| owner == place.0)
            && let Err(error) = self.places.remove(&words)
        {
            tracing::debug!(place = place.0, %error, "a place was not there to be forgotten");
        }
    }

    /// Has the names looked up, or not where there is none: that costs whoever opens a file.
    fn count_names(&mut self) {
        let count = u32::try_from(self.names_of.len()).unwrap_or(u32::MAX);
        // It does not fail for a slot that is there.
        drop(self.expected.set(NAMES_EXPECTED, count, 0));
    }
}

impl Drop for EbpfSource {
    fn drop(&mut self) {
        if let Some(diagnostics) = &self.diagnostics {
            diagnostics.abort();
        }
    }
}

impl Source for EbpfSource {
    fn name(&self) -> SourceName {
        SourceName::Ebpf
    }

    fn strategy(&self) -> Option<&'static str> {
        Some(self.strategy.name())
    }

    fn passed_over(&self) -> Option<&str> {
        self.passed_over.as_deref()
    }

    fn watch(
        &mut self,
        place: PlaceId,
        handle: BorrowedFd<'_>,
        interest: Interest,
    ) -> Result<(), WatchError> {
        if place.0 >= MAX_PLACES {
            return Err(FULL);
        }
        let answer = self.learn(handle, place.0, self.armed(interest))?;
        // Until now nothing of it is heard where nobody has watched its superblock: whoever asked looks
        // at it after this.
        self.superblocks.add(answer.key).inspect_err(|_| self.let_go(place, answer.key))?;
        self.keys.insert(place, answer.key);
        Ok(())
    }

    fn forget(&mut self, place: PlaceId) {
        let Some(key) = self.keys.remove(&place) else {
            return;
        };
        self.superblocks.remove(key);
        self.expect_no_open(place);
        // Its number may become that of another directory.
        let names = self.names_of.iter().filter(|(_, name)| name.directory == place.0);
        let names: Vec<_> = names.map(|(&stand_in, _)| stand_in).collect();
        for stand_in in names {
            self.expect_no_open(stand_in);
        }
        self.let_go(place, key);
    }

    fn arm(
        &mut self,
        place: PlaceId,
        _: BorrowedFd<'_>,
        interest: Interest,
    ) -> Result<(), WatchError> {
        let armed = self.armed(interest) as u32;
        self.armed.set(place.0, armed, 0).map_err(refused)
    }

    fn await_end(&mut self, place: PlaceId) -> bool {
        // The other strategy has no hook that would tell of the end.
        self.strategy == Strategy::Trampoline
            && self.purpose == Purpose::Reload
            && self.armed.set(place.0, Armed::End as u32, 0).is_ok()
    }

    fn writers(&mut self, _: PlaceId, handle: BorrowedFd<'_>) -> Writers {
        match self.learn(handle, NO_PLACE, Armed::Silent) {
            Ok(Answer { writers: 0, .. }) => Writers::None,
            Ok(_) => Writers::Some,
            Err(_) => Writers::Unknown,
        }
    }

    fn follow(&mut self, names: &[String]) -> Result<Tells, WatchError> {
        let wanted: Vec<_> = names.iter().map(|name| comm(name)).collect();
        let followed: Vec<_> = self.names.keys().filter_map(Result::ok).collect();
        for gone in followed.iter().filter(|it| !wanted.contains(it)) {
            self.names.remove(gone).map_err(refused)?;
        }
        for new in wanted.iter().filter(|it| !followed.contains(it)) {
            self.names.insert(new, 1, 0).map_err(full(MAX_NAMES, "process names"))?;
        }
        Ok(Tells::Yes)
    }

    async fn next(&mut self) -> Result<Event, SourceError> {
        loop {
            let mut ready =
                self.ready.readable().await.map_err(|source| SourceError::Wait { source })?;
            // From here to the return there is no await, so a cancelled call has taken no record.
            if let Some(event) = take_record(&mut self.records)? {
                return Ok(event);
            }
            ready.clear_ready();
        }
    }

    fn try_next(&mut self) -> Result<Option<Event>, SourceError> {
        take_record(&mut self.records)
    }

    fn troubles(&mut self) -> Vec<Trouble> {
        let blind = std::mem::take(&mut self.blind).into_iter();
        blind.map(|reason| Trouble { source: SourceName::Ebpf, reason }).collect()
    }

    fn tell_opens(&mut self) -> Tells {
        if self.tells_opens {
            return Tells::Yes;
        }
        let program = self.ebpf.program_mut(Hook::Open.program());
        let program: Option<&mut FExit> = program.and_then(|program| program.try_into().ok());
        let attached = program.map(|program| program.attach().map(drop));
        self.tells_opens = matches!(attached, Some(Ok(())));
        if let Some(Err(error)) = attached {
            tracing::debug!(error = explain(&error), "it will not be seen who opens a file");
        }
        if self.tells_opens { Tells::Yes } else { Tells::No }
    }

    fn tells_reads(&self) -> Tells {
        if self.tells_reads { Tells::Yes } else { Tells::No }
    }

    fn expect_open(&mut self, place: PlaceId) -> Tells {
        let is_set = self.expected.set(place.0, OPENS_AT_A_TIME, 0).is_ok();
        if is_set && self.tells_opens { Tells::Yes } else { Tells::No }
    }

    fn expect_open_of(&mut self, name: &OsStr, directory: PlaceId, place: PlaceId) -> Tells {
        if !self.tells_opens {
            return Tells::No;
        }
        let name = match self.purpose {
            Purpose::Reload => named(directory, name),
            // What is traced may be opened before anybody has looked at its directory.
            Purpose::Trace => named(PlaceId(NO_PLACE), name),
        };
        let words: [u8; size_of::<Name>()] = transmute!(name);
        // Before the name stands for it, which may have stood for another: so that no open goes by untold.
        let tells = self.expect_open(place);
        if self.expected_names.insert(words, place.0, 0).is_err() {
            self.expect_no_open(place);
            return Tells::No;
        }
        self.names_of.insert(place, name);
        self.count_names();
        tells
    }

    fn expect_no_open(&mut self, place: PlaceId) {
        // It fails for a number that is no place, of which nothing is told anyway.
        drop(self.expected.set(place.0, 0, 0));
        if let Some(name) = self.names_of.remove(&place) {
            let words: [u8; size_of::<Name>()] = transmute!(name);
            // Another place may stand for the same name, which counts in any directory.
            if self.expected_names.get(&words, 0).is_ok_and(|owner| owner == place.0) {
                // Nor does it matter where it was not there.
                drop(self.expected_names.remove(&words));
            }
            self.count_names();
        }
    }

    fn losses(&mut self) -> Vec<Event> {
        self.losses.news(&self.ebpf)
    }
}

/// Takes the next record out of the ring, if there is one.
fn take_record(records: &mut RingBuf<MapData>) -> Result<Option<Event>, SourceError> {
    let Some(record) = records.next() else {
        return Ok(None);
    };
    let malformed = SourceError::Malformed { length: record.len() };
    decode(&record).ok_or(malformed).map(Some)
}

/// Forwards what the eBPF side says of itself to the log, until the source is dropped.
fn follow_diagnostics(ebpf: &mut Ebpf) -> io::Result<JoinHandle<()>> {
    let mut logger = EbpfLogger::init(ebpf).map_err(io::Error::other)?;
    let ready = sys::readable(&logger)?;
    Ok(tokio::spawn(async move {
        while let Ok(mut guard) = ready.readable().await {
            logger.flush();
            guard.clear_ready();
        }
    }))
}

/// A name as the kernel keeps it: cut, and ended by a zero.
fn comm(name: &str) -> [u8; COMM_LEN] {
    let mut comm = [0; COMM_LEN];
    let bytes = name.bytes().take(COMM_LEN - 1);
    comm.iter_mut().zip(bytes).for_each(|(to, byte)| *to = byte);
    comm
}

/// A name as the kernel side compares it: cut, and ended by a zero.
fn named(directory: PlaceId, name: &OsStr) -> Name {
    let mut text = [0; NAME_LEN];
    let bytes = name.as_bytes().iter().take(NAME_LEN - 1);
    text.iter_mut().zip(bytes).for_each(|(to, byte)| *to = *byte);
    Name { directory: directory.0, text }
}

fn setup(error: impl Into<io::Error>) -> Unavailable {
    Unavailable::Setup { source: error.into() }
}

fn refused(error: impl std::error::Error + Send + Sync + 'static) -> WatchError {
    WatchError::Refused { source: io::Error::other(error) }
}

/// Names the limit where the kernel says that a map is full (`E2BIG`).
fn full(limit: u32, things: &'static str) -> impl Fn(MapError) -> WatchError {
    move |error| match error {
        MapError::SyscallError(call)
            if call.io_error.kind() == io::ErrorKind::ArgumentListTooLong =>
        {
            WatchError::Full { limit, things }
        }
        error => refused(error),
    }
}
