//! Where the members of the kernel's structures lie, from the kernel's own type information.
//!
//! rustc knows no CO-RE relocations, and aya knows types but not their members, so this reads BTF
//! itself. The format is `Documentation/bpf/btf.rst` of the kernel.

use std::collections::HashMap;

/// The constants of the eBPF program (`reload-ebpf/src/offsets.rs`), and the member that each is the
/// offset of.
const MEMBERS: &[(&str, &str, &[&str])] = &[
    ("OFF_INODE_INO", "inode", &["i_ino"]),
    ("OFF_INODE_SB", "inode", &["i_sb"]),
    ("OFF_INODE_WRITECOUNT", "inode", &["i_writecount"]),
    ("OFF_SB_DEV", "super_block", &["s_dev"]),
    ("OFF_FILE_INODE", "file", &["f_inode"]),
    ("OFF_FILE_DENTRY", "file", &["f_path", "dentry"]),
    ("OFF_FILES_FDT", "files_struct", &["fdt"]),
    ("OFF_FDT_FD", "fdtable", &["fd"]),
    ("OFF_TASK_FILES", "task_struct", &["files"]),
    ("OFF_TASK_LEADER", "task_struct", &["group_leader"]),
    ("OFF_TASK_PID", "task_struct", &["thread_pid"]),
    ("OFF_PID_LEVEL", "pid", &["level"]),
    ("OFF_PID_NUMBERS", "pid", &["numbers"]),
    ("OFF_UPID_NR", "upid", &["nr"]),
    ("OFF_UPID_NS", "upid", &["ns"]),
    ("OFF_REGS_SYSCALL", "pt_regs", &[SYSCALL_REGISTER]),
    ("OFF_BPRM_FILE", "linux_binprm", &["file"]),
    ("OFF_DENTRY_NAME", "dentry", &["d_name", "name"]),
];

/// The constants that are the size of a structure.
const SIZES: &[(&str, &str)] = &[("SIZE_UPID", "upid")];

/// The member of `pt_regs` that keeps the number of the system call.
const SYSCALL_REGISTER: &str = if cfg!(target_arch = "aarch64") { "syscallno" } else { "orig_ax" };

/// What the BTF of this kernel lacks.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// It is no BTF, or cut short.
    #[error("the kernel's type information is malformed")]
    Malformed,
    /// A structure or a member is not there.
    #[error("the kernel's type information has no {0}")]
    Missing(String),
}

/// What the program needs to know of a kernel.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// The value of every constant of the eBPF program, by name.
    pub(super) constants: Vec<(&'static str, u32)>,
    /// The numbers of the wanted tracepoints' types, where the kernel has them.
    pub(super) tracepoints: Vec<Option<u32>>,
}

impl Layout {
    /// Reads the BTF of a kernel.
    ///
    /// # Errors
    ///
    /// Fails where the BTF is malformed or a structure is not as expected: this kernel needs another
    /// program.
    pub(super) fn parse(btf: &[u8], tracepoints: &[&str]) -> Result<Self, LayoutError> {
        let types = Types::parse(btf).ok_or(LayoutError::Malformed)?;
        let members = MEMBERS.iter().map(|&(name, structure, path)| {
            let missing = || LayoutError::Missing(format!("{structure}.{}", path.join(".")));
            types.offset(structure, path).map(|offset| (name, offset)).ok_or_else(missing)
        });
        let sizes = SIZES.iter().map(|&(name, structure)| {
            let missing = || LayoutError::Missing(structure.to_owned());
            types.size(structure).map(|size| (name, size)).ok_or_else(missing)
        });
        Ok(Self {
            constants: members.chain(sizes).collect::<Result<_, _>>()?,
            tracepoints: tracepoints.iter().map(|name| types.tracepoint(name)).collect(),
        })
    }
}

/// A BTF in which one tracepoint has the number that it has in the kernel's, and nothing else is right.
///
/// aya asks the kernel's BTF for that number and for no more; to let it parse the real one takes 30 MB
/// and 30 ms, which a sidecar has better uses for.
pub(super) fn stand_in(tracepoint: &str, number: u32) -> Vec<u8> {
    let strings = format!("\0{TRACEPOINT}{tracepoint}\0");
    let type_bytes = number * 12;
    let string_bytes = u32::try_from(strings.len()).unwrap_or(0);
    let header = [MAGIC | VERSION << 16, HEADER_BYTES, 0, type_bytes, type_bytes, string_bytes];
    let nameless = [0, TYPEDEF << 24, 0];
    let named = [1, TYPEDEF << 24, 0];
    let types = (1..number).flat_map(|_| nameless).chain(named);
    let words = header.into_iter().chain(types).flat_map(u32::to_ne_bytes);
    words.chain(strings.into_bytes()).collect()
}

/// The types of a BTF, undecoded but for where each begins.
struct Types<'a> {
    /// The type section.
    section: &'a [u8],
    /// The string section.
    strings: &'a [u8],
    /// Where each type begins in the type section; type 1 is the first.
    starts: Vec<u32>,
    /// The structures by name.
    structures: HashMap<&'a [u8], usize>,
    /// The types of tracepoints by name, and their numbers.
    tracepoints: HashMap<&'a [u8], u32>,
}

/// A type's head: name, kind and number of members, size or type.
struct Head {
    name: u32,
    kind: u32,
    members: usize,
    has_bitfields: bool,
    size_or_type: u32,
}

const MAGIC: u32 = 0xeb9f;
const VERSION: u32 = 1;
const HEADER_BYTES: u32 = 24;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const TYPEDEF: u32 = 8;
/// What the kernel puts before the name of a tracepoint to name its type.
const TRACEPOINT: &str = "btf_trace_";
const HEAD_BYTES: usize = 12;
const MEMBER_BYTES: usize = 12;

impl<'a> Types<'a> {
    fn parse(btf: &'a [u8]) -> Option<Self> {
        if word(btf, 0)? & 0xffff != MAGIC {
            return None;
        }
        let header = size(word(btf, 4)?)?;
        let section = |at: usize| {
            let start = header.checked_add(size(word(btf, at)?)?)?;
            btf.get(start..start.checked_add(size(word(btf, at + 4)?)?)?)
        };
        let mut all = Self {
            section: section(8)?,
            strings: section(16)?,
            starts: vec![0],
            structures: HashMap::new(),
            tracepoints: HashMap::new(),
        };
        let mut start = 0;
        while start < all.section.len() {
            let head = all.head(start)?;
            let name = all.text(head.name)?;
            let is_wanted = || MEMBERS.iter().any(|(_, wanted, _)| wanted.as_bytes() == name);
            if head.kind == STRUCT && is_wanted() {
                all.structures.insert(name, start);
            }
            if head.kind == TYPEDEF && name.starts_with(TRACEPOINT.as_bytes()) {
                all.tracepoints.insert(name, u32::try_from(all.starts.len()).ok()?);
            }
            all.starts.push(u32::try_from(start).ok()?);
            start += HEAD_BYTES + body_bytes(&head)?;
        }
        Some(all)
    }

    fn head(&self, start: usize) -> Option<Head> {
        let info = word(self.section, start + 4)?;
        Some(Head {
            name: word(self.section, start)?,
            kind: info >> 24 & 0x1f,
            members: size(info & 0xffff)?,
            has_bitfields: info >> 31 != 0,
            size_or_type: word(self.section, start + 8)?,
        })
    }

    fn text(&self, offset: u32) -> Option<&'a [u8]> {
        self.strings.get(size(offset)?..)?.split(|&byte| byte == 0).next()
    }

    fn tracepoint(&self, name: &str) -> Option<u32> {
        self.tracepoints.get(format!("{TRACEPOINT}{name}").as_bytes()).copied()
    }

    fn size(&self, structure: &str) -> Option<u32> {
        let start = *self.structures.get(structure.as_bytes())?;
        Some(self.head(start)?.size_or_type)
    }

    /// The offset in bytes of the member that `path` leads to.
    fn offset(&self, structure: &str, path: &[&str]) -> Option<u32> {
        let mut start = *self.structures.get(structure.as_bytes())?;
        let mut bits = 0;
        for name in path {
            let (offset, kind) = self.member(start, name.as_bytes())?;
            bits += offset;
            start = self.start(kind)?;
        }
        Some(bits / 8)
    }

    /// Where a type begins, behind its qualifiers and other names.
    fn start(&self, kind: u32) -> Option<usize> {
        let start = size(*self.starts.get(size(kind)?)?)?;
        let head = self.head(start)?;
        // TYPEDEF, VOLATILE, CONST, RESTRICT, TYPE_TAG
        if matches!(head.kind, TYPEDEF | 9..=11 | 18) {
            self.start(head.size_or_type)
        } else {
            Some(start)
        }
    }

    /// The offset in bits and the type of a member, looked for in nameless members as well.
    fn member(&self, start: usize, wanted: &[u8]) -> Option<(u32, u32)> {
        let head = self.head(start)?;
        if head.kind != STRUCT && head.kind != UNION {
            return None;
        }
        (0..head.members).find_map(|index| {
            let at = start + HEAD_BYTES + index * MEMBER_BYTES;
            let name = self.text(word(self.section, at)?)?;
            let kind = word(self.section, at + 4)?;
            let raw = word(self.section, at + 8)?;
            // With bit fields, the upper byte is the width of the field.
            let offset = if head.has_bitfields { raw & 0x00ff_ffff } else { raw };
            if name == wanted {
                return Some((offset, kind));
            }
            let nested = name.is_empty().then(|| self.start(kind)).flatten()?;
            let (inner, kind) = self.member(nested, wanted)?;
            Some((offset + inner, kind))
        })
    }
}

/// How many bytes follow a type's head.
fn body_bytes(head: &Head) -> Option<usize> {
    Some(match head.kind {
        // INT, VAR, DECL_TAG
        1 | 14 | 17 => 4,
        // ARRAY
        3 => 12,
        // STRUCT, UNION, DATASEC, ENUM64
        STRUCT | UNION | 15 | 19 => head.members * MEMBER_BYTES,
        // ENUM, FUNC_PROTO
        6 | 13 => head.members * 8,
        // PTR, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FLOAT, TYPE_TAG
        2 | 7..=12 | 16 | 18 => 0,
        // A kind of a later kernel: without its length nothing after it can be read.
        _ => return None,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(word.try_into().ok()?))
}

fn size(word: u32) -> Option<usize> {
    usize::try_from(word).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A BTF with `struct outer { int a; struct { int b; }; struct inner i; }`, where `inner` is
    /// `struct inner { int c; int d; }`, and `outer` bears the name of a structure that we look for.
    fn btf() -> Vec<u8> {
        let strings = b"\0int\0inode\0i_ino\0i_sb\0inner\0c\0d\0f_path\0btf_trace_x\0";
        let at = |name: &str| {
            let mut offset = 0;
            for text in strings.split(|&byte| byte == 0) {
                if text == name.as_bytes() && !(name.is_empty() && offset > 0) {
                    break;
                }
                offset += u32::try_from(text.len()).unwrap() + 1;
            }
            offset
        };
        let structure = |members: u32| STRUCT << 24 | members;
        let types: Vec<u32> = [
            vec![at("int"), 1 << 24, 4, 32],
            vec![at("inner"), structure(2), 8, at("c"), 1, 0, at("d"), 1, 32],
            vec![0, structure(1), 4, at("i_sb"), 1, 0],
            vec![at("inode"), structure(3), 16, at("i_ino"), 1, 0, 0, 3, 32, at("f_path"), 2, 64],
            vec![at("btf_trace_x"), TYPEDEF << 24, 1],
        ]
        .concat();
        let type_bytes = u32::try_from(types.len() * 4).unwrap();
        let header =
            [0x1_eb9f, 24, 0, type_bytes, type_bytes, u32::try_from(strings.len()).unwrap()];
        header
            .iter()
            .chain(&types)
            .flat_map(|word| word.to_ne_bytes())
            .chain(strings.iter().copied())
            .collect()
    }

    #[test]
    fn members_are_found_by_their_path() {
        fn check(path: &[&str], expected: Option<u32>) {
            let btf = btf();
            let types = Types::parse(&btf).unwrap();
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
        let missing = LayoutError::Missing("inode.i_writecount".to_owned());
        assert_eq!(Layout::parse(&btf(), &[]), Err(missing));
    }

    #[test]
    fn a_tracepoint_is_known_by_the_number_of_its_type() {
        let btf = btf();
        let types = Types::parse(&btf).unwrap();
        assert_eq!(types.tracepoint("x"), Some(5));
        assert_eq!(types.tracepoint("y"), None);
    }

    #[test]
    fn a_stand_in_knows_one_number() {
        let btf = stand_in("x", 700);
        let types = Types::parse(&btf).unwrap();
        assert_eq!(types.tracepoint("x"), Some(700));
        assert_eq!(types.starts.len(), 701);
    }

    #[test]
    fn no_prefix_of_a_btf_is_taken_for_one() {
        let whole = btf();
        assert!(Types::parse(&whole).is_some());
        for length in 0..whole.len() {
            assert!(Types::parse(&whole[..length]).is_none(), "for the first {length} bytes");
        }
    }
}
