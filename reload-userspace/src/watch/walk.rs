//! The walk to what a path means, one component at a time.
//!
//! Below a volume ([`Reach::Beneath`]) it goes where the kernel says that it stays inside
//! ([`reach::step`]), and `..` leads back the way that it has come. Whoever fills a volume decides how
//! much there is to see, so all of it is counted.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    io,
    mem::{MaybeUninit, replace},
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{FileType, Mode, OFlags, RawDir, Stat, fstat, open, openat, readlinkat},
    io::{Errno, fcntl_dupfd_cloexec},
};

use super::{
    Child, Identity, Obstacle, Straight, View, Visitor, changed_at, identity, is_forbidden,
    open_again, state, wait_for_changes,
};
use crate::{
    reach::{self, Reach},
    source::Interest,
};

/// The name of the symlink that the kubelet swaps to update a volume.
const VOLUME_LINK: &str = "..data";

/// How many symlinks the kernel follows in one path (`path_resolution(7)`).
pub(super) const MAX_LINKS: usize = 40;

/// How many names of all kinds a volume may have in it.
///
/// Each file takes a place in the source, some hundred bytes in several tables, and tens of
/// microseconds in a look. A `ConfigMap` or a Secret holds 1 MiB at most, and a projected volume joins a
/// few of them: a thousand keys are more than people keep.
pub(super) const MOST_NAMES: usize = 1024;

/// How deep the directories below a volume may be: one is open for each while a path is followed.
const MOST_DEPTH: usize = 64;

/// How far all names of a volume may lead, in the bytes of the paths on the way, for these are kept.
///
/// A file of the kubelet takes four steps, three hundred bytes or so: [`MOST_NAMES`] of them a third of
/// this, and with the longest names (253 characters) half of it. One link can say a path of two thousand
/// directories, and a path may lead through [`MAX_LINKS`].
const MOST_EFFORT: usize = 2 * 1024 * 1024;

/// What a step takes besides the bytes of its path, so that many short ones count as well.
const STEP: usize = 64;

const PATH_ONLY: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A walk under way.
pub(super) struct Walk<'a, V> {
    visitor: &'a mut V,
    view: View,
    links: usize,
    /// How far the names of a volume have led, if it is in one.
    effort: usize,
    /// Whether the kernel can be asked to keep it there.
    is_confinable: bool,
    /// Whether it has only passed directories so far, each by its name.
    is_straight: bool,
    /// How far it has.
    straight: Option<Straight>,
}

/// Where a walk has arrived.
struct Arrival {
    handle: OwnedFd,
    stat: Stat,
    /// Its path without symlinks.
    path: PathBuf,
}

/// What keeps a walk.
#[derive(Clone, Copy)]
enum Bounds<'a> {
    None,
    /// The volume at this path, without symlinks.
    Volume(&'a Path),
}

impl<'a, V: Visitor> Walk<'a, V> {
    /// Walks to a path, and gives what it has seen.
    pub(super) fn to(path: &Path, reach: Reach, visitor: &'a mut V) -> View {
        Self::with(reach::is_confinable(), visitor).go(path, reach)
    }

    fn with(is_confinable: bool, visitor: &'a mut V) -> Self {
        let view = View::default();
        Self {
            visitor,
            view,
            links: 0,
            effort: 0,
            is_confinable,
            is_straight: true,
            straight: None,
        }
    }

    fn go(mut self, path: &Path, reach: Reach) -> View {
        if let Err(obstacle) = self.all(path, reach) {
            self.view.obstacle = Some(obstacle);
            self.straight = None;
        }
        self.visitor.was_straight(self.straight);
        self.view
    }

    fn all(&mut self, path: &Path, reach: Reach) -> Result<(), Obstacle> {
        let (begin, rest) = self.begin(path)?;
        let found = self.walk(begin, rest, Bounds::None)?;
        self.is_straight = false;
        match (FileType::from_raw_mode(found.stat.st_mode), reach) {
            (FileType::RegularFile, Reach::Anywhere) => self.file(&found, path),
            (FileType::Directory, Reach::Anywhere) => {
                self.directory(&found, path, Bounds::None)?;
            }
            (FileType::Directory, Reach::Beneath) => {
                if !self.is_confinable {
                    return Err(Obstacle::Unconfined(path.to_owned()));
                }
                self.view.root = Some(path.to_owned());
                self.view.changed_within = changed_at(&found.stat);
                self.directory(&found, path, Bounds::Volume(&found.path))?;
            }
            (_, Reach::Beneath) => return Err(Obstacle::NotDirectory(path.to_owned())),
            (_, Reach::Anywhere) => return Err(Obstacle::WrongKind(path.to_owned())),
        }
        Ok(())
    }

    /// Where the walk begins, and how the way goes on.
    ///
    /// Where the kernel cannot be asked to follow no symlink, one may have taken the place of a directory on the
    /// way and lead to the same.
    fn begin<'p>(&mut self, path: &'p Path) -> Result<(Arrival, &'p Path), Obstacle> {
        if self.is_confinable
            && let Some(straight) = self.visitor.vouched()
            && let Ok(rest) = path.strip_prefix(&straight.path)
            && let Some((handle, stat)) = open_again(&straight.path, straight.identity)
            // A number is handed out again.
            && is_directory(&stat)
        {
            self.visitor.begins_at(&straight);
            self.view.latest_change = straight.latest_change.max(changed_at(&stat));
            let path = straight.path.clone();
            self.straight = Some(straight);
            return Ok((Arrival { handle, stat, path }, rest));
        }
        Ok((root()?, path))
    }

    /// Tells `path` from a directory on.
    fn walk(
        &mut self,
        from: Arrival,
        path: &Path,
        bounds: Bounds<'_>,
    ) -> Result<Arrival, Obstacle> {
        self.links = 0;
        let Arrival { handle: mut at, mut stat, path: mut here } = from;
        let mut rest: VecDeque<OsString> = names(path).collect();
        // The way back from within a volume.
        let mut above: Vec<(OwnedFd, Stat, PathBuf)> = Vec::new();
        while let Some(name) = rest.pop_front() {
            if !is_directory(&stat) {
                return Err(Obstacle::NotDirectory(here));
            }
            let next = here.join(&name);
            self.spend(&next, bounds)?;
            if name == ".." && matches!(bounds, Bounds::Volume(_)) {
                (at, stat, here) = above.pop().ok_or(Obstacle::Outside(next))?;
                continue;
            }
            let handle = self.look_up(&at, identity(&stat), &here, &name, bounds)?;
            let found = fstat(&handle).map_err(|errno| denied(&next, errno))?;
            self.view.latest_change = self.view.latest_change.max(changed_at(&found));
            if matches!(bounds, Bounds::Volume(_)) {
                self.view.changed_within = self.view.changed_within.max(changed_at(&found));
            }
            self.visitor.child(identity(&stat), &next, Child::of(&found));
            self.is_straight &= is_directory(&found) && name != "..";
            if self.is_straight {
                self.straight = Some(Straight {
                    path: next.clone(),
                    identity: identity(&found),
                    latest_change: self.view.latest_change,
                });
            }
            if FileType::from_raw_mode(found.st_mode) != FileType::Symlink {
                // What `..` leads to has a name of its own, which we need not find out.
                let there = if name == ".." { parent(&here) } else { next };
                let passed = (replace(&mut at, handle), replace(&mut stat, found));
                let passed = (passed.0, passed.1, replace(&mut here, there));
                if matches!(bounds, Bounds::Volume(_)) {
                    above.push(passed);
                    if above.len() > MOST_DEPTH {
                        return Err(Obstacle::Outside(here));
                    }
                }
                continue;
            }
            self.links += 1;
            if self.links > MAX_LINKS {
                return Err(Obstacle::Loop(next));
            }
            let link = readlinkat(&handle, "", Vec::new()).map_err(|errno| denied(&next, errno))?;
            let link = PathBuf::from(OsString::from_vec(link.into_bytes()));
            self.visitor.link(&next, &link);
            self.spend(&link, bounds)?;
            if name == VOLUME_LINK && is_of_kubelet(&here, &link, bounds) {
                self.view.volumes.insert(next.clone(), here.join(&link));
            }
            if link.is_absolute() {
                if matches!(bounds, Bounds::Volume(_)) {
                    return Err(Obstacle::Outside(next));
                }
                Arrival { handle: at, stat, path: here } = root()?;
            }
            for name in names(&link).collect::<Vec<_>>().into_iter().rev() {
                rest.push_front(name);
            }
        }
        Ok(Arrival { handle: at, stat, path: here })
    }

    /// Counts a part of the way, if it is counted.
    fn spend(&mut self, path: &Path, bounds: Bounds<'_>) -> Result<(), Obstacle> {
        let Bounds::Volume(volume) = bounds else { return Ok(()) };
        let length = path.strip_prefix(volume).unwrap_or(path).as_os_str().len();
        self.effort += STEP + length;
        if self.effort > MOST_EFFORT { Err(Obstacle::Tangled(volume.to_owned())) } else { Ok(()) }
    }

    /// Opens what a name means in a directory.
    fn look_up(
        &mut self,
        at: &OwnedFd,
        identity: Identity,
        here: &Path,
        name: &OsStr,
        bounds: Bounds<'_>,
    ) -> Result<OwnedFd, Obstacle> {
        for interest in [Interest::Replacement, Interest::Any] {
            self.visitor.directory(at.as_fd(), identity, here, interest);
            if interest == Interest::Any {
                // A name that was being made before this was of interest is not announced.
                wait_for_changes(at.as_fd());
            }
            let found = match bounds {
                Bounds::None => openat(at, name, PATH_ONLY, Mode::empty()),
                Bounds::Volume(_) => reach::step(at.as_fd(), name),
            };
            match found {
                Ok(handle) => return Ok(handle),
                Err(Errno::NOENT) => {}
                Err(errno) if matches!(bounds, Bounds::Volume(_)) && reach::leads_out(errno) => {
                    return Err(Obstacle::Outside(here.join(name)));
                }
                Err(errno) => return Err(denied(&here.join(name), errno)),
            }
        }
        Err(Obstacle::Missing(here.join(name)))
    }

    /// Takes the files of a directory, whatever symlinks they are behind; not those of its
    /// subdirectories.
    fn directory(
        &mut self,
        found: &Arrival,
        path: &Path,
        bounds: Bounds<'_>,
    ) -> Result<(), Obstacle> {
        let here = identity(&found.stat);
        self.visitor.directory(found.handle.as_fd(), here, &found.path, Interest::Any);
        // A log that the agent writes would be the next change, for ever.
        let own_log = fstat(io::stderr()).ok().map(|stat| identity(&stat));
        let most = match bounds {
            Bounds::None => usize::MAX,
            Bounds::Volume(_) => MOST_NAMES,
        };
        let names = entries(found.handle.as_fd(), most).map_err(|errno| denied(path, errno))?;
        for name in names.ok_or_else(|| Obstacle::Crowded(path.to_owned()))? {
            let handle = fcntl_dupfd_cloexec(&found.handle, 0);
            let handle = handle.map_err(|errno| denied(path, errno))?;
            let from = Arrival { handle, stat: found.stat, path: found.path.clone() };
            match self.walk(from, Path::new(&name), bounds) {
                Ok(found) if is_configuration(&found.stat, own_log.as_ref()) => {
                    self.file(&found, &path.join(&name));
                }
                // We are short of something: what we do not see is not gone.
                Err(Obstacle::Denied(path, errno)) if !is_forbidden(errno) => {
                    return Err(Obstacle::Denied(path, errno));
                }
                Err(obstacle @ Obstacle::Tangled(_)) => return Err(obstacle),
                // Not there any more, dangling, or no file: nothing that a reader could read.
                Ok(_) | Err(_) => {}
            }
        }
        Ok(())
    }

    fn file(&mut self, found: &Arrival, path: &Path) {
        let handle = found.handle.as_fd();
        self.visitor.file(handle, identity(&found.stat), path);
        // Asked for only now: from here on the next write gets a time of its own (multigrain
        // timestamps, Linux 6.13), and is therefore announced even within a tick of the clock.
        let Ok(stat) = fstat(handle) else {
            return;
        };
        let state = state(&stat, self.links > 0);
        let writers = self.visitor.writers(handle, path, &state);
        self.view.writers = Some(self.view.writers.map_or(writers, |others| others.or(writers)));
        Arc::make_mut(&mut self.view.files).insert(path.to_owned(), state);
    }
}

/// Whether this `..data` is one that the kubelet swaps. In a volume that is only the one at its top, with
/// a directory beside it: whether that is still there is asked for by its path.
fn is_of_kubelet(here: &Path, link: &Path, bounds: Bounds<'_>) -> bool {
    let Bounds::Volume(volume) = bounds else { return true };
    let mut parts = link.components();
    let is_name = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
    here == volume && is_name
}

/// Where every walk begins that nobody shortens.
fn root() -> Result<Arrival, Obstacle> {
    let path = PathBuf::from("/");
    let handle = open(&path, PATH_ONLY, Mode::empty()).map_err(|errno| denied(&path, errno))?;
    let stat = fstat(&handle).map_err(|errno| denied(&path, errno))?;
    Ok(Arrival { handle, stat, path })
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Whether this is a file that somebody may read for its configuration.
fn is_configuration(stat: &Stat, own_log: Option<&Identity>) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && own_log != Some(&identity(stat))
}

/// Whether an editor or a tool has made this file for its own use, so that it is no configuration.
///
/// Vim's swap files and its probe `4913`, Emacs' locks and autosaves, and backups.
pub(super) fn is_scratch(name: &[u8]) -> bool {
    let is_swap = name.starts_with(b".")
        && [".swp", ".swo", ".swx"].iter().any(|end| name.ends_with(end.as_bytes()));
    let is_autosave = name.starts_with(b"#") && name.ends_with(b"#");
    is_swap || is_autosave || name.ends_with(b"~") || name.starts_with(b".#") || name == b"4913"
}

/// The names in a directory that may be configuration, in the order of their bytes; `None` where there
/// are more names than `most` of any kind.
///
/// Reading a directory takes its lock, so that a rename that is being carried out is waited for.
fn entries(directory: BorrowedFd<'_>, most: usize) -> Result<Option<Vec<OsString>>, Errno> {
    const BUFFER: usize = 8192;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let readable = openat(directory, ".", flags, Mode::empty())?;
    let mut buffer = [const { MaybeUninit::<u8>::uninit() }; BUFFER];
    let mut listing = RawDir::new(readable, &mut buffer);
    let mut names = Vec::new();
    let mut count = 0;
    while let Some(entry) = listing.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        count += 1;
        if count > most {
            return Ok(None);
        }
        // What the kubelet keeps beside the keys of a volume.
        let is_internal = name.starts_with(b"..");
        let is_directory = entry.file_type() == FileType::Directory;
        if !is_internal && !is_directory && !is_scratch(name) {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    names.sort_unstable();
    Ok(Some(names))
}

/// The components of a path as the kernel resolves them: `..` stays, for it may follow a symlink.
fn names(path: &Path) -> impl Iterator<Item = OsString> + '_ {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(path).to_owned()
}

fn denied(path: &Path, errno: Errno) -> Obstacle {
    match errno {
        Errno::NOENT => Obstacle::Missing(path.to_owned()),
        Errno::NOTDIR => Obstacle::NotDirectory(path.to_owned()),
        errno => Obstacle::Denied(path.to_owned(), errno.raw_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, os::unix::fs::symlink, process::Command};

    use tempfile::TempDir;

    use super::*;
    use crate::{event::Writers, watch::FileState};

    /// Writes down where it was led.
    #[derive(Default)]
    struct Notes(Vec<PathBuf>);

    impl Visitor for Notes {
        fn directory(&mut self, _: BorrowedFd<'_>, _: Identity, path: &Path, _: Interest) {
            self.0.push(path.to_owned());
        }

        fn file(&mut self, handle: BorrowedFd<'_>, _: Identity, _: &Path) {
            self.0.push(reach::path_of(handle).unwrap());
        }

        fn writers(&mut self, _: BorrowedFd<'_>, _: &Path, _: &FileState) -> Writers {
            Writers::None
        }
    }

    /// A volume as the kubelet makes it, with a file `a.conf`.
    struct Volume {
        home: TempDir,
        path: PathBuf,
    }

    impl Volume {
        fn new() -> Self {
            let home = tempfile::tempdir().unwrap();
            let path = home.path().canonicalize().unwrap().join("volume");
            let volume = Self { home, path };
            fs::create_dir_all(volume.at("..1/sub")).unwrap();
            fs::write(volume.at("..1/a.conf"), "a").unwrap();
            volume.link("..1", "..data");
            volume.link("..data/a.conf", "a.conf");
            volume
        }

        fn at(&self, name: &str) -> PathBuf {
            self.path.join(name)
        }

        fn link(&self, target: &str, name: &str) {
            symlink(target, self.at(name)).unwrap();
        }

        /// Looks, and makes sure that nothing outside of the volume was come to.
        #[track_caller]
        fn look(&self) -> View {
            let mut notes = Notes::default();
            let view = Walk::to(&self.path, Reach::Beneath, &mut notes);
            for place in notes.0 {
                let is_on_the_way = self.path.starts_with(&place);
                assert!(is_on_the_way || place.starts_with(&self.path), "{}", place.display());
            }
            view
        }

        /// The names of the files that are there.
        #[track_caller]
        fn names(&self) -> Vec<String> {
            let view = self.look();
            assert_eq!(view.obstacle, None);
            let names =
                view.files.keys().map(|path| path.strip_prefix(&self.path).unwrap().to_owned());
            names.map(|name| name.to_str().unwrap().to_owned()).collect()
        }
    }

    #[test]
    fn a_volume_of_the_kubelet_is_what_it_always_was() {
        let volume = Volume::new();
        let anywhere = Walk::to(&volume.path, Reach::Anywhere, &mut Notes::default());
        let view = volume.look();
        assert_eq!(view.root, Some(volume.path.clone()));
        assert_eq!(view.volumes, BTreeMap::from([(volume.at("..data"), volume.at("..1"))]));
        assert_eq!((view.files, view.volumes), (anywhere.files, anywhere.volumes));
    }

    #[test]
    fn what_is_beside_a_volume_does_not_date_it() {
        let volume = Volume::new();
        let first = volume.look().changed_within;
        assert!(!first.is_zero());
        fs::write(volume.home.path().join("beside"), "").unwrap();
        assert_eq!(volume.look().changed_within, first);
        // Until the clock of the filesystem has gone on.
        while volume.look().changed_within == first {
            volume.link("..1", "..data_tmp");
            fs::rename(volume.at("..data_tmp"), volume.at("..data")).unwrap();
        }
        let view = volume.look();
        assert!(view.changed_within > first && view.latest_change >= view.changed_within);
        let anywhere = Walk::to(&volume.path, Reach::Anywhere, &mut Notes::default());
        assert!(anywhere.changed_within.is_zero());
    }

    #[test]
    fn nothing_leads_out() {
        let volume = Volume::new();
        let secret = volume.home.path().join("secret");
        fs::create_dir(&secret).unwrap();
        fs::write(secret.join("key"), "key").unwrap();
        let absolute = secret.join("key");
        for (target, name) in [
            (absolute.to_str().unwrap(), "absolute"),
            (volume.at("..1/a.conf").to_str().unwrap(), "absolute-and-in-it"),
            ("../secret/key", "up"),
            ("..data/sub/../../../secret/key", "down-and-up"),
            ("../volume/..data/a.conf", "out-and-in"),
            ("/proc/self/fd/0", "descriptor"),
            ("/proc/self/root/etc/passwd", "root"),
            ("/dev/null", "device"),
            ("pipe", "to-a-fifo"),
            ("nowhere", "dangling"),
            ("round", "round"),
        ] {
            volume.link(target, name);
        }
        nix::unistd::mkfifo(&volume.at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let socket = std::os::unix::net::UnixListener::bind(volume.at("socket")).unwrap();
        assert_eq!(volume.names(), ["a.conf"]);
        drop(socket);
    }

    #[test]
    fn the_link_of_the_kubelet_leads_nowhere_else_either() {
        let volume = Volume::new();
        let secret = volume.home.path().join("secret");
        fs::create_dir(&secret).unwrap();
        fs::write(secret.join("a.conf"), "key").unwrap();
        for target in [secret.to_str().unwrap(), "../secret", "..1/../../secret", "..1/.."] {
            fs::remove_file(volume.at("..data")).unwrap();
            volume.link(target, "..data");
            let view = volume.look();
            assert_eq!((view.files.len(), view.volumes.len()), (0, 0), "for {target}");
        }
    }

    #[test]
    fn a_way_may_be_long_as_long_as_it_stays_inside() {
        let volume = Volume::new();
        volume.link("..data/a.conf", "0");
        for number in 1..MAX_LINKS + 2 {
            volume.link(&(number - 1).to_string(), &number.to_string());
        }
        volume.link("..data/sub/../sub/../a.conf", "detour");
        let names = volume.names();
        // `..data` is one link more.
        assert!(names.contains(&(MAX_LINKS - 2).to_string()), "{names:?}");
        assert!(!names.contains(&(MAX_LINKS - 1).to_string()), "{names:?}");
        assert!(names.contains(&"detour".to_owned()), "{names:?}");
    }

    #[test]
    fn nothing_in_it_is_opened_where_the_kernel_cannot_keep_the_walk_there() {
        let volume = Volume::new();
        let mut notes = Notes::default();
        let view = Walk::with(false, &mut notes).go(&volume.path, Reach::Beneath);
        assert_eq!(view.obstacle, Some(Obstacle::Unconfined(volume.path.clone())));
        assert!(view.files.is_empty() && !notes.0.contains(&volume.path));
        // Whatever leads anywhere needs no such thing.
        let view = Walk::with(false, &mut notes).go(&volume.path, Reach::Anywhere);
        assert_eq!((view.obstacle, view.files.len()), (None, 1));
    }

    #[test]
    fn too_many_names_are_not_looked_at() {
        let volume = Volume::new();
        // The directory, `..data` and `a.conf` are there.
        for number in 3..MOST_NAMES {
            fs::write(volume.at(&number.to_string()), "").unwrap();
        }
        assert_eq!(volume.names().len(), MOST_NAMES - 2);
        fs::create_dir(volume.at("one-more")).unwrap();
        let view = volume.look();
        assert_eq!(view.obstacle, Some(Obstacle::Crowded(volume.path.clone())));
        assert!(view.files.is_empty());
        // Of an operator's own directory there may be as many as he likes.
        let view = Walk::to(&volume.path, Reach::Anywhere, &mut Notes::default());
        assert_eq!((view.obstacle, view.files.len()), (None, MOST_NAMES - 2));
    }

    #[test]
    fn no_maze_takes_for_ever() {
        let volume = Volume::new();
        // Each of them goes up and down a thousand times, and to the next.
        let detour = "..1/../".repeat(500);
        for number in 0..30 {
            volume.link(&format!("{detour}{}", number + 1), &number.to_string());
        }
        let view = volume.look();
        assert_eq!(view.obstacle, Some(Obstacle::Tangled(volume.path.clone())));
    }

    #[test]
    fn nothing_is_kept_open_for_a_deep_directory() {
        let volume = Volume::new();
        let deep = |depth: usize| ["d/"; 100][..depth].concat();
        fs::create_dir_all(volume.at(&deep(100))).unwrap();
        for (depth, name) in [(MOST_DEPTH - 1, "shallow"), (MOST_DEPTH, "deep")] {
            fs::write(volume.at(&(deep(depth) + "file")), "").unwrap();
            volume.link(&(deep(depth) + "file"), name);
        }
        assert_eq!(volume.names(), ["a.conf", "shallow"]);
    }

    #[test]
    fn a_volume_is_a_directory_and_may_be_behind_a_link_of_its_owner() {
        let volume = Volume::new();
        let link = volume.home.path().join("link");
        symlink(&volume.path, &link).unwrap();
        let view = Walk::to(&link, Reach::Beneath, &mut Notes::default());
        assert_eq!(view.files.keys().cloned().collect::<Vec<_>>(), [link.join("a.conf")]);
        let file = volume.at("a.conf");
        let view = Walk::to(&file, Reach::Beneath, &mut Notes::default());
        assert_eq!(view.obstacle, Some(Obstacle::NotDirectory(file)));
    }

    /// A filesystem in memory, until it is dropped.
    struct Mounted<'a>(&'a Path);

    impl<'a> Mounted<'a> {
        fn at(point: &'a Path) -> Self {
            fs::create_dir(point).unwrap();
            let mount = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(point).status();
            assert!(mount.unwrap().success());
            Self(point)
        }
    }

    impl Drop for Mounted<'_> {
        fn drop(&mut self) {
            Command::new("umount").arg(self.0).status().unwrap();
        }
    }

    #[test]
    #[ignore = "needs root; `cargo xtask test` runs it"]
    fn a_volume_may_be_a_mount_and_none_is_entered_from_it() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().canonicalize().unwrap().join("secret");
        let _outer = Mounted::at(&path);
        let volume = Volume { home, path: path.clone() };
        fs::write(volume.at("a.conf"), "a").unwrap();
        let point = volume.at("mounted");
        let inner = Mounted::at(&point);
        fs::write(point.join("b.conf"), "b").unwrap();
        volume.link("mounted/b.conf", "b.conf");
        assert_eq!(volume.names(), ["a.conf"]);
        drop(inner);
        fs::write(point.join("b.conf"), "b").unwrap();
        assert_eq!(volume.names(), ["a.conf", "b.conf"]);
    }
}
