//! The eBPF object: with the constants of this kernel it becomes maps and programs.

use std::{fs, io};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapError},
    programs::RawTracePoint,
};

use reload_ebpf::MAX_BEGUN;

use super::{
    Purpose, Unavailable,
    decode::{creating_syscalls, opening_syscalls, queue_syscalls},
    layout::Layout,
    setup,
    strategy::anchors,
    unavailable::BTF,
};
use crate::sys;

/// The eBPF object, made by `cargo xtask build`.
#[cfg(ebpf_object)]
pub(super) const OBJECT: Option<&[u8]> =
    Some(aya::include_bytes_aligned!(env!("RELOAD_EBPF_OBJECT")));
#[cfg(not(ebpf_object))]
pub(super) const OBJECT: Option<&[u8]> = None;

/// Reads where things lie in this kernel.
///
/// # Errors
///
/// Fails where the kernel does not tell, or has them otherwise.
pub(super) fn read_layout() -> Result<Layout, Unavailable> {
    let text = fs::read(BTF).map_err(|source| Unavailable::Btf { source })?;
    let anchors: Vec<_> = anchors().collect();
    Layout::parse(&text, &anchors).map_err(|source| Unavailable::Layout { source })
}

/// Loads the object with the constants of this kernel: its maps, and the program that is never attached.
///
/// # Errors
///
/// Says what is missing here, and what to grant.
pub(super) fn load(
    object: &[u8],
    layout: &Layout,
    purpose: Purpose,
    diagnostics: bool,
) -> Result<Ebpf, Unavailable> {
    let is_trace = u32::from(purpose == Purpose::Trace);
    let log_level = if diagnostics { aya_log::Level::Debug as u8 } else { 0 };
    // aya would parse all types of the kernel here, 30 MB of them, of which we need none.
    let mut loader = sys::without_opening(EbpfLoader::new);
    loader.btf(None).override_global(aya_log::LEVEL, &log_level, true);
    loader.override_global("IS_TRACE", &is_trace, true);
    // What is done at once by all processes, on a machine where it is of use.
    loader.map_max_entries("BEGUN", if is_trace == 0 { 1 } else { MAX_BEGUN });
    let [call_read, call_watch] = queue_syscalls();
    loader.override_global("CALL_READ", &call_read, true);
    loader.override_global("CALL_WATCH", &call_watch, true);
    for (name, offset) in &layout.constants {
        loader.override_global(name, offset, true);
    }
    let mut ebpf = loader.load(object).map_err(Unavailable::load)?;
    let learn = ebpf.program_mut("learn").and_then(|learn| learn.try_into().ok());
    let learn: &mut RawTracePoint = learn.ok_or(Unavailable::Incomplete { name: "learn" })?;
    learn.load().map_err(|error| Unavailable::program("learn", error))?;
    Ok(ebpf)
}

/// Tells the programs which system calls create, and which open.
///
/// # Errors
///
/// Fails where the object is another, or the kernel refuses it.
pub(super) fn tell_syscalls(ebpf: &mut Ebpf) -> Result<(), Unavailable> {
    let mut tell = |name, mut numbers: Box<dyn Iterator<Item = u32>>| {
        // Not taken out: the map must be there when the programs are loaded.
        let map = ebpf.map_mut(name).ok_or(Unavailable::Incomplete { name })?;
        let mut map: Array<_, u32> =
            map.try_into().map_err(|source| Unavailable::Map { name, source })?;
        let told = numbers.try_for_each(|number| map.set(number, 1, 0));
        told.map_err(|error| setup(io::Error::other(error)))
    };
    tell("CREATING", Box::new(creating_syscalls()))?;
    tell("OPENING", Box::new(opening_syscalls()))
}

/// Takes a map out of the object.
///
/// # Errors
///
/// Fails where the object has none of this name and kind.
pub(super) fn take<T>(
    ebpf: &mut Ebpf,
    name: &'static str,
    convert: impl FnOnce(aya::maps::Map) -> Result<T, MapError>,
) -> Result<T, Unavailable> {
    let map = ebpf.take_map(name).ok_or(Unavailable::Incomplete { name })?;
    convert(map).map_err(|source| Unavailable::Map { name, source })
}
