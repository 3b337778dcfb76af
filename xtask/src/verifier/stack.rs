//! How much stack each program of the eBPF object uses, by its instructions.
//!
//! The kernel finds that out as well, and tells only those who load a program with a log.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use aya_obj::{Object, generated::bpf_insn};

/// Operation codes of `include/uapi/linux/bpf.h` and `bpf_common.h`.
const CLASS: u8 = 0x07;
const LOAD: u8 = 0x01;
const STORE: u8 = 0x02;
const STORE_REGISTER: u8 = 0x03;
const JUMP: u8 = 0x05;
const JUMP32: u8 = 0x06;
const WIDE: u8 = 0x18;
const ALWAYS: u8 = 0x05;
const ALWAYS_FAR: u8 = 0x06;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const COPY: u8 = 0xbf;
const ADD: u8 = 0x07;

/// A call of another function of the object, and not of the kernel.
const PSEUDO_CALL: u8 = 1;

/// The register that points to the end of the stack of a function.
const FRAME: u8 = 10;

/// Gives the stack of each program, in bytes, with all that it calls.
///
/// # Errors
///
/// Fails where the object cannot be read.
pub(crate) fn of_programs(object: &[u8]) -> Result<BTreeMap<String, u32>> {
    let mut object = Object::parse(object).context("cannot read the eBPF object")?;
    let sections = object.functions.keys().map(|(section, _)| *section).collect();
    // From here on each program has what it calls behind it.
    object.relocate_calls(&sections).context("cannot link the eBPF programs")?;
    let depth = |(name, program): (&String, &aya_obj::Program)| {
        let function = object.functions.get(&program.function_key())?;
        Some((name.clone(), deepest(&function.instructions, 0, &mut Vec::new())))
    };
    Ok(object.programs.iter().filter_map(depth).collect())
}

/// The stack of the function that starts there, and of the one that it calls which takes most.
fn deepest(program: &[bpf_insn], start: usize, callers: &mut Vec<usize>) -> u32 {
    /// The kernel gives out stack in pieces of this size.
    const PIECE: u32 = 32;
    // The verifier refuses recursion, so this does not occur in what it accepts.
    if callers.contains(&start) {
        return 0;
    }
    callers.push(start);
    let mut own = 0;
    let mut below = 0;
    let mut seen = BTreeSet::new();
    let mut ahead = vec![start];
    while let Some(at) = ahead.pop() {
        let Some(instruction) = program.get(at).filter(|_| seen.insert(at)) else { continue };
        own = own.max(touched(program, at));
        let there = |distance: i32| at.checked_add_signed(distance as isize + 1);
        let (class, operation) = (instruction.code & CLASS, instruction.code >> 4);
        let near = there(instruction.off.into());
        match instruction.code {
            EXIT => {}
            CALL => {
                if let Some(callee) = there(instruction.imm)
                    && instruction.src_reg() == PSEUDO_CALL
                {
                    below = below.max(deepest(program, callee, callers));
                }
                ahead.push(at + 1);
            }
            ALWAYS => ahead.extend(near),
            ALWAYS_FAR => ahead.extend(there(instruction.imm)),
            _ if class == JUMP || class == JUMP32 => {
                debug_assert_ne!(operation, 0, "an unconditional jump is above");
                ahead.push(at + 1);
                ahead.extend(near);
            }
            // The constant takes the place of the next instruction.
            WIDE => ahead.push(at + 2),
            _ => ahead.push(at + 1),
        }
    }
    callers.pop();
    own.max(1).next_multiple_of(PIECE) + below
}

/// How far below its end an instruction touches the stack: by itself, or by an address that it takes.
fn touched(program: &[bpf_insn], at: usize) -> u32 {
    let instruction = &program[at];
    let class = instruction.code & CLASS;
    let is_stored = matches!(class, STORE | STORE_REGISTER) && instruction.dst_reg() == FRAME;
    let is_loaded = class == LOAD && instruction.code != WIDE && instruction.src_reg() == FRAME;
    let offset = if is_stored || is_loaded {
        i32::from(instruction.off)
    } else if instruction.code == COPY && instruction.src_reg() == FRAME {
        let register = instruction.dst_reg();
        let mut behind = program[at + 1..].iter();
        let added = behind.find(|next| next.code == ADD && next.dst_reg() == register);
        added.map_or(0, |next| next.imm)
    } else {
        0
    };
    offset.min(0).unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instruction(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> bpf_insn {
        bpf_insn {
            code,
            _bitfield_align_1: [],
            _bitfield_1: bpf_insn::new_bitfield_1(dst, src),
            off,
            imm,
        }
    }

    fn exit() -> bpf_insn {
        instruction(EXIT, 0, 0, 0, 0)
    }

    #[test]
    fn what_is_stored_and_what_is_pointed_to_counts() {
        let store = instruction(0x7b, FRAME, 1, -8, 0);
        assert_eq!(deepest(&[store, exit()], 0, &mut Vec::new()), 32);
        let pointer = [instruction(COPY, 1, FRAME, 0, 0), instruction(ADD, 1, 0, 0, -40), exit()];
        assert_eq!(deepest(&pointer, 0, &mut Vec::new()), 64);
        assert_eq!(deepest(&[exit()], 0, &mut Vec::new()), 32);
    }

    #[test]
    fn the_deepest_function_that_is_called_counts_and_code_that_is_not_reached_does_not() {
        let program = [
            // Two calls, of 4 and of 6.
            instruction(CALL, 0, PSEUDO_CALL, 0, 3),
            instruction(CALL, 0, PSEUDO_CALL, 0, 4),
            exit(),
            instruction(0x7b, FRAME, 1, -512, 0),
            instruction(0x7b, FRAME, 1, -64, 0),
            exit(),
            instruction(0x79, 1, FRAME, -96, 0),
            exit(),
        ];
        assert_eq!(deepest(&program, 0, &mut Vec::new()), 32 + 96);
    }

    #[test]
    fn jumps_are_followed_both_ways() {
        let program = [
            instruction(0x15, 1, 0, 2, 0),
            instruction(0x7b, FRAME, 1, -32, 0),
            exit(),
            instruction(0x7b, FRAME, 1, -100, 0),
            exit(),
        ];
        assert_eq!(deepest(&program, 0, &mut Vec::new()), 128);
    }
}
