//! Where the members of the kernel's structures lie, from the kernel's own type information.
//!
//! rustc knows no CO-RE relocations, and aya knows types but not their members, so this reads BTF
//! itself.

mod btf;

use std::collections::HashSet;

use aya::{Btf, BtfError, Endianness};
use reload_ebpf::Hook;

use self::btf::{FUNCTION, HEADER_BYTES, MAGIC, Name, STRUCT, TYPEDEF, Types, VERSION};
use super::strategy::{Anchor, Kind, PREFIX, RENAMED};

/// The constants of the eBPF program (`reload-ebpf/src/offsets.rs`), and the member that each is the
/// offset of.
const MEMBERS: &[(&str, &str, &[&str])] = &[
    ("OFF_INODE_INO", "inode", &["i_ino"]),
    ("OFF_INODE_SB", "inode", &["i_sb"]),
    ("OFF_INODE_MODE", "inode", &["i_mode"]),
    ("OFF_INODE_WRITECOUNT", "inode", &["i_writecount"]),
    ("OFF_SB_DEV", "super_block", &["s_dev"]),
    ("OFF_FILE_INODE", "file", &["f_inode"]),
    ("OFF_FILE_DENTRY", "file", &["f_path", "dentry"]),
    ("OFF_FILE_MODE", "file", &["f_mode"]),
    ("OFF_FILE_OPERATIONS", "file", &["f_op"]),
    ("OFF_FILES_FDT", "files_struct", &["fdt"]),
    ("OFF_FDT_FD", "fdtable", &["fd"]),
    ("OFF_TASK_FILES", "task_struct", &["files"]),
    ("OFF_TASK_COMM", "task_struct", &["comm"]),
    ("OFF_ACTION_HANDLER", "k_sigaction", &["sa", "sa_handler"]),
    ("OFF_TASK_LEADER", "task_struct", &["group_leader"]),
    ("OFF_TASK_PID", "task_struct", &["thread_pid"]),
    ("OFF_PID_LEVEL", "pid", &["level"]),
    ("OFF_PID_NUMBERS", "pid", &["numbers"]),
    ("OFF_UPID_NR", "upid", &["nr"]),
    ("OFF_UPID_NS", "upid", &["ns"]),
    ("OFF_REGS_SYSCALL", "pt_regs", &[SYSCALL_REGISTER]),
    ("OFF_REGS_FIRST", "pt_regs", &[FIRST_ARGUMENT]),
    ("OFF_BPRM_FILE", "linux_binprm", &["file"]),
    ("OFF_DENTRY_NAME", "dentry", &["d_name", "name"]),
    ("OFF_DENTRY_PARENT", "dentry", &["d_parent"]),
    ("OFF_DENTRY_INODE", "dentry", &["d_inode"]),
];

/// The constants that are the size of a structure.
const SIZES: &[(&str, &str)] = &[("SIZE_UPID", "upid")];

/// The member of `pt_regs` that keeps the number of the system call.
const SYSCALL_REGISTER: &str = if cfg!(target_arch = "aarch64") { "syscallno" } else { "orig_ax" };

/// The member that keeps the first argument of a system call until it returns.
const FIRST_ARGUMENT: &str = if cfg!(target_arch = "aarch64") { "orig_x0" } else { "di" };

/// The member that the second argument is in, and how many bytes into it.
const SECOND_ARGUMENT: (&str, u32) =
    if cfg!(target_arch = "aarch64") { ("regs", 8) } else { ("si", 0) };

/// What the BTF of this kernel lacks.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// It is no BTF, or cut short.
    #[error("the kernel's type information is malformed")]
    Malformed,
    /// A structure or a member is not there.
    #[error("the kernel's type information has no {0}")]
    Missing(String),
    /// aya does not understand what we tell it of the kernel's types.
    #[error("aya does not take the numbers of some types; please report it")]
    StandIn {
        /// What aya said.
        source: BtfError,
    },
}

/// What the programs need to know of a kernel.
#[derive(Debug)]
pub(super) struct Layout {
    /// The value of every constant of the eBPF program, by name.
    pub(super) constants: Vec<(&'static str, u32)>,
    /// Where hooks can be attached.
    points: Vec<Point>,
    /// What aya is told instead of all types.
    pub(super) stand_in: Btf,
    /// Whether whoever waits for trampolines to be left waits for tasks that have ended, too (until Linux
    /// 6.8, commit 1612160b9127 and its backports).
    pub(super) waits_for_the_dead: bool,
}

/// A place in the kernel that a hook can be attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Point {
    hook: Hook,
    /// What the kernel calls it.
    name: &'static str,
    kind: Kind,
    /// The number of its type.
    number: u32,
}

impl Point {
    /// Its name as people know it.
    pub(super) fn name(&self) -> &'static str {
        self.name.strip_prefix(PREFIX).unwrap_or(self.name)
    }
}

impl Layout {
    /// Reads the BTF of a kernel.
    ///
    /// # Errors
    ///
    /// Fails where the BTF is malformed or a structure is not as expected: this kernel needs another
    /// program. That an anchor has no place to be attached to is no error yet.
    pub(super) fn parse(btf: &[u8], anchors: &[&'static Anchor]) -> Result<Self, LayoutError> {
        let types = Types::parse(btf, &wanted(anchors)).ok_or(LayoutError::Malformed)?;
        let members = MEMBERS.iter().map(|&(name, structure, path)| {
            let missing = || LayoutError::Missing(format!("{structure}.{}", path.join(".")));
            types.offset(structure, path).map(|offset| (name, offset)).ok_or_else(missing)
        });
        let sizes = SIZES.iter().map(|&(name, structure)| {
            let missing = || LayoutError::Missing(structure.to_owned());
            types.size(structure).map(|size| (name, size)).ok_or_else(missing)
        });
        let (register, into) = SECOND_ARGUMENT;
        let second = types.offset("pt_regs", &[register]).map(|it| ("OFF_REGS_SECOND", it + into));
        let second = second.ok_or_else(|| LayoutError::Missing(format!("pt_regs.{register}")));
        let renamed = renamed(&types);
        // Without them the program would read something else.
        let is_known = |point: &Point| point.hook != Hook::Rename || !renamed.is_empty();
        let points = anchors.iter().filter_map(|anchor| point(&types, anchor));
        let points: Vec<_> = points.filter(is_known).collect();
        Ok(Self {
            constants: members
                .chain(sizes)
                .chain([second])
                .chain(renamed.into_iter().map(Ok))
                .collect::<Result<_, _>>()?,
            stand_in: Btf::parse(&stand_in(&points), Endianness::default())
                .map_err(|source| LayoutError::StandIn { source })?,
            points,
            waits_for_the_dead: types.offset("task_struct", &["rcu_tasks_exit_list"]).is_none(),
        })
    }

    /// Where a hook can be attached here, if anywhere.
    pub(super) fn point(&self, hook: Hook) -> Option<Point> {
        self.points.iter().copied().find(|point| point.hook == hook)
    }
}

/// What is to be looked for: aya and we need no other type.
fn wanted(anchors: &[&'static Anchor]) -> HashSet<Name<'static>> {
    let members = MEMBERS.iter().map(|(_, structure, _)| structure);
    let structures = members.chain(SIZES.iter().map(|(_, structure)| structure)).chain([&RENAMED]);
    let names = |anchor: &&'static Anchor| {
        let anchor = *anchor;
        anchor.names.iter().map(|name| (type_of(anchor.kind), name.as_bytes()))
    };
    structures.map(|name| (STRUCT, name.as_bytes())).chain(anchors.iter().flat_map(names)).collect()
}

/// The kind of the type that the BTF has for something to attach to.
const fn type_of(kind: Kind) -> u32 {
    match kind {
        Kind::Tracepoint => TYPEDEF,
        Kind::Entry | Kind::End => FUNCTION,
    }
}

/// The first of an anchor's names that is as expected here.
fn point(types: &Types<'_>, anchor: &Anchor) -> Option<Point> {
    let Anchor { hook, kind, names, arguments, .. } = *anchor;
    names.iter().find_map(|&name| {
        let number = types.number(type_of(kind), name)?;
        let is_as_expected = arguments
            .iter()
            .all(|&(index, structure)| types.pointee(number, index) == Some(structure.as_bytes()));
        // Whether it has succeeded is told by what it returns, but at the end of `vfs_mkdir`.
        let is_told =
            kind != Kind::End || hook == Hook::Mkdir || types.returned(number) == Some(&b"int"[..]);
        (is_as_expected && is_told).then_some(Point { hook, name, kind, number })
    })
}

/// The constants about renames, as far as this kernel has what they are about.
fn renamed(types: &Types<'_>) -> Vec<(&'static str, u32)> {
    let offset = |member| types.offset(RENAMED, &[member]);
    let both = |old, new, has_dentries| {
        Some(vec![
            ("OFF_RENAME_OLD", offset(old)?),
            ("OFF_RENAME_NEW", offset(new)?),
            ("RENAME_HAS_DENTRIES", has_dentries),
        ])
    };
    both("old_dir", "new_dir", 0)
        .or_else(|| both("old_parent", "new_parent", 1))
        .unwrap_or_default()
}

/// A BTF in which some types have the numbers that they have in the kernel's, and nothing else is right.
///
/// aya asks the kernel's BTF for these numbers and for no more; to let it parse the real one takes 30 MB
/// and 30 ms, which a sidecar has better uses for.
fn stand_in(points: &[Point]) -> Vec<u8> {
    let count = points.iter().map(|point| point.number).max().unwrap_or(0);
    let mut strings = vec![0];
    let mut types = vec![[0, TYPEDEF << 24, 0]; count as usize];
    for point in points {
        let name = u32::try_from(strings.len()).unwrap_or(0);
        strings.extend(point.name.bytes().chain([0]));
        if let Some(entry) = types.get_mut(point.number as usize - 1) {
            *entry = [name, type_of(point.kind) << 24, 0];
        }
    }
    let type_bytes = count * 12;
    let string_bytes = u32::try_from(strings.len()).unwrap_or(0);
    let header = [MAGIC | VERSION << 16, HEADER_BYTES, 0, type_bytes, type_bytes, string_bytes];
    let words = header.into_iter().chain(types.into_iter().flatten());
    words.flat_map(u32::to_ne_bytes).chain(strings).collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::strategy::{Need, anchors},
        btf::{FORWARD, POINTER, PROTOTYPE},
        *,
    };

    fn all() -> Vec<&'static Anchor> {
        anchors().collect()
    }

    const INT: u32 = 1;

    /// What follows the head of a type.
    #[derive(Clone, Copy)]
    enum Word {
        Number(u32),
        Name(&'static str),
    }
    use Word::{Name as T, Number as N};

    /// A BTF that tests make up.
    struct Made {
        types: Vec<u32>,
        strings: Vec<u8>,
    }

    impl Made {
        fn new() -> Self {
            Self { types: Vec::new(), strings: vec![0] }
        }

        /// Adds a type with so many members, of such a size or about such a type.
        fn add(
            mut self,
            (kind, members): (u32, u32),
            name: &str,
            size_or_type: u32,
            rest: &[Word],
        ) -> Self {
            let head = [self.name(name), kind << 24 | members, size_or_type];
            self.types.extend(head);
            for &word in rest {
                let word = match word {
                    N(number) => number,
                    T(name) => self.name(name),
                };
                self.types.push(word);
            }
            self
        }

        fn name(&mut self, name: &str) -> u32 {
            if name.is_empty() {
                return 0;
            }
            let at = u32::try_from(self.strings.len()).unwrap();
            self.strings.extend(name.bytes().chain([0]));
            at
        }

        fn bytes(self) -> Vec<u8> {
            let type_bytes = u32::try_from(self.types.len() * 4).unwrap();
            let string_bytes = u32::try_from(self.strings.len()).unwrap();
            let header = [0x1_eb9f, 24, 0, type_bytes, type_bytes, string_bytes];
            let words = header.into_iter().chain(self.types);
            words.flat_map(u32::to_ne_bytes).chain(self.strings).collect()
        }
    }

    /// A BTF with `struct outer { int a; struct { int b; }; struct inner i; }`, where `inner` is
    /// `struct inner { int c; int d; }`, and `outer` bears the name of a structure that we look for.
    fn btf() -> Vec<u8> {
        Made::new()
            .add((INT, 0), "int", 4, &[N(32)])
            .add((STRUCT, 2), "inner", 8, &[T("c"), N(1), N(0), T("d"), N(1), N(32)])
            .add((STRUCT, 1), "", 4, &[T("i_sb"), N(1), N(0)])
            .add(
                (STRUCT, 3),
                "inode",
                16,
                &[T("i_ino"), N(1), N(0), N(0), N(3), N(32), T("f_path"), N(2), N(64)],
            )
            .add((TYPEDEF, 0), "btf_trace_ctime_ns_xchg", 1, &[])
            .bytes()
    }

    #[test]
    fn members_are_found_by_their_path() {
        fn check(path: &[&str], expected: Option<u32>) {
            let btf = btf();
            let types = Types::parse(&btf, &wanted(&all())).unwrap();
            assert_eq!(types.offset("inode", path), expected, "for the path {path:?}");
        }
        check(&["i_ino"], Some(0));
        check(&["i_sb"], Some(4));
        check(&["f_path", "d"], Some(12));
        check(&["nothing"], None);
        check(&["i_ino", "c"], None);
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = Layout::parse(&btf(), &[]).unwrap_err();
        assert_eq!(error.to_string(), "the kernel's type information has no inode.i_mode");
    }

    #[test]
    fn a_tracepoint_is_known_by_the_number_of_its_type() {
        let btf = btf();
        let types = Types::parse(&btf, &wanted(&all())).unwrap();
        assert_eq!(types.number(TYPEDEF, "btf_trace_ctime_ns_xchg"), Some(5));
        assert_eq!(types.number(TYPEDEF, "btf_trace_ctime_xchg_skip"), None);
    }

    #[test]
    fn a_function_is_taken_that_takes_what_is_expected() {
        const WRITE: Anchor = Anchor {
            hook: Hook::Write,
            kind: Kind::Entry,
            names: &["of_an_int", "of_a_file", "that_gives_a_file"],
            arguments: &[(1, "file")],
            need: Need::Vital,
        };
        let anchors = [&WRITE];
        let btf = Made::new()
            .add((INT, 0), "int", 4, &[N(32)])
            .add((FORWARD, 0), "file", 0, &[])
            .add((POINTER, 0), "", 2, &[])
            .add((PROTOTYPE, 2), "", 1, &[N(0), N(1), N(0), N(1)])
            .add((FUNCTION, 0), "of_an_int", 4, &[])
            .add((PROTOTYPE, 2), "", 1, &[N(0), N(1), N(0), N(3)])
            .add((FUNCTION, 0), "of_a_file", 6, &[])
            .add((PROTOTYPE, 2), "", 3, &[N(0), N(1), N(0), N(3)])
            .add((FUNCTION, 0), "that_gives_a_file", 8, &[])
            .bytes();
        let types = Types::parse(&btf, &wanted(&anchors)).unwrap();
        assert_eq!(types.pointee(7, 1), Some(&b"file"[..]));
        for (function, argument) in [(7, 0), (7, 2), (5, 1), (1, 0), (99, 0)] {
            let found = types.pointee(function, argument);
            assert_eq!(found, None, "for argument {argument} of type {function}");
        }
        let expected = Point { hook: Hook::Write, name: "of_a_file", kind: Kind::Entry, number: 7 };
        assert_eq!(point(&types, &WRITE), Some(expected));
        let other = Anchor { names: &["of_an_int"], ..WRITE };
        assert_eq!(point(&types, &other), None);
        // What it returns is only looked at where it ends.
        assert_eq!(types.returned(7), Some(&b"int"[..]));
        let end = Anchor { kind: Kind::End, ..WRITE };
        assert!(point(&types, &end).is_some());
        let end = Anchor { names: &["that_gives_a_file"], ..end };
        assert_eq!(point(&types, &end), None);
        assert!(point(&types, &Anchor { hook: Hook::Mkdir, ..end }).is_some());
    }

    #[test]
    fn both_kinds_of_renames_are_known_and_no_other() {
        let renames = |old, new| {
            let members = [T(old), N(1), N(64), T(new), N(1), N(128)];
            let btf = Made::new().add((INT, 0), "int", 4, &[N(32)]);
            let btf = btf.add((STRUCT, 2), RENAMED, 24, &members).bytes();
            renamed(&Types::parse(&btf, &wanted(&[])).unwrap())
        };
        let expected = |has_dentries| {
            vec![
                ("OFF_RENAME_OLD", 8),
                ("OFF_RENAME_NEW", 16),
                ("RENAME_HAS_DENTRIES", has_dentries),
            ]
        };
        assert_eq!(renames("old_dir", "new_dir"), expected(0));
        assert_eq!(renames("old_parent", "new_parent"), expected(1));
        assert_eq!(renames("old_dir", "new_parent"), []);
    }

    #[test]
    fn a_stand_in_knows_the_numbers_and_kinds_of_what_is_wanted() {
        let point = |hook, name, kind, number| Point { hook, name, kind, number };
        let btf = stand_in(&[
            point(Hook::Rename, "vfs_rename", Kind::End, 700),
            point(Hook::Exec, "btf_trace_sched_process_exec", Kind::Tracepoint, 3),
        ]);
        let types = Types::parse(&btf, &wanted(&all())).unwrap();
        assert_eq!(types.number(type_of(Kind::End), "vfs_rename"), Some(700));
        assert_eq!(types.number(TYPEDEF, "btf_trace_sched_process_exec"), Some(3));
        assert_eq!(types.number(TYPEDEF, "vfs_rename"), None);
        assert_eq!(types.starts.len(), 701);
    }

    #[test]
    fn no_prefix_of_a_btf_is_taken_for_one() {
        let whole = btf();
        assert!(Types::parse(&whole, &HashSet::new()).is_some());
        for length in 0..whole.len() {
            assert!(
                Types::parse(&whole[..length], &HashSet::new()).is_none(),
                "for the first {length} bytes"
            );
        }
    }
}
