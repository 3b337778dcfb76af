//! The kernel's type information, read as it is: `Documentation/bpf/btf.rst` of the kernel.

use std::collections::{HashMap, HashSet};

/// The types of a BTF, undecoded but for where each begins.
pub(super) struct Types<'a> {
    /// The type section.
    section: &'a [u8],
    /// The string section.
    strings: &'a [u8],
    /// Where each type begins in the type section; type 1 is the first.
    pub(super) starts: Vec<u32>,
    /// The numbers of the wanted types.
    named: HashMap<Name<'a>, u32>,
}

/// What a type is called: its kind and its name.
pub(super) type Name<'a> = (u32, &'a [u8]);

/// A type's head: name, kind and number of members, size or type.
struct Head {
    name: u32,
    kind: u32,
    members: usize,
    has_bitfields: bool,
    size_or_type: u32,
}

pub(super) const MAGIC: u32 = 0xeb9f;
pub(super) const VERSION: u32 = 1;
pub(super) const HEADER_BYTES: u32 = 24;
pub(super) const POINTER: u32 = 2;
pub(super) const STRUCT: u32 = 4;
const UNION: u32 = 5;
/// A structure of which the kernel tells only the name.
pub(super) const FORWARD: u32 = 7;
pub(super) const TYPEDEF: u32 = 8;
pub(super) const FUNCTION: u32 = 12;
pub(super) const PROTOTYPE: u32 = 13;
const HEAD_BYTES: usize = 12;
const MEMBER_BYTES: usize = 12;
const ARGUMENT_BYTES: usize = 8;

impl<'a> Types<'a> {
    /// Reads a BTF, and notes where it has the wanted types.
    pub(super) fn parse(btf: &'a [u8], wanted: &HashSet<Name<'_>>) -> Option<Self> {
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
            named: HashMap::new(),
        };
        let mut start = 0;
        while start < all.section.len() {
            let head = all.head(start)?;
            let name = all.text(head.name)?;
            if wanted.contains(&(head.kind, name)) {
                all.named.insert((head.kind, name), u32::try_from(all.starts.len()).ok()?);
            }
            all.starts.push(u32::try_from(start).ok()?);
            start += HEAD_BYTES + body_bytes(&head)?;
        }
        Some(all)
    }

    /// The number of a type that was wanted.
    pub(super) fn number(&self, kind: u32, name: &str) -> Option<u32> {
        self.named.get(&(kind, name.as_bytes())).copied()
    }

    /// The size of a structure in bytes.
    pub(super) fn size(&self, structure: &str) -> Option<u32> {
        Some(self.structure(structure)?.1.size_or_type)
    }

    /// The structure that an argument of a function points to, by name; the first is 0.
    pub(super) fn pointee(&self, function: u32, argument: usize) -> Option<&'a [u8]> {
        let prototype = self.start(self.head(self.start(function)?)?.size_or_type)?;
        let head = self.head(prototype)?;
        if head.kind != PROTOTYPE || argument >= head.members {
            return None;
        }
        let at = prototype + HEAD_BYTES + argument * ARGUMENT_BYTES;
        let pointer = self.head(self.start(word(self.section, at + 4)?)?)?;
        let target = self.head(self.start(pointer.size_or_type)?)?;
        let is_known = pointer.kind == POINTER && matches!(target.kind, STRUCT | FORWARD);
        is_known.then(|| self.text(target.name)).flatten()
    }

    /// The type of what a function returns, by name; one without a name has an empty one.
    pub(super) fn returned(&self, function: u32) -> Option<&'a [u8]> {
        let prototype = self.head(self.start(self.head(self.start(function)?)?.size_or_type)?)?;
        let is_prototype = prototype.kind == PROTOTYPE;
        let returned = self.head(self.start(prototype.size_or_type)?)?;
        is_prototype.then(|| self.text(returned.name)).flatten()
    }

    fn structure(&self, name: &str) -> Option<(usize, Head)> {
        let start = self.start(self.number(STRUCT, name)?)?;
        Some((start, self.head(start)?))
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

    /// The offset in bytes of the member that `path` leads to.
    pub(super) fn offset(&self, structure: &str, path: &[&str]) -> Option<u32> {
        let (mut start, _) = self.structure(structure)?;
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
        6 | PROTOTYPE => head.members * ARGUMENT_BYTES,
        // PTR, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FLOAT, TYPE_TAG
        POINTER | FORWARD..=FUNCTION | 16 | 18 => 0,
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
