//! The helper runs from a copy of the executable that nobody can write to.
//!
//! A program that is run from the helper can have its interpreter be `/proc/self/exe`, and so come by
//! a way to the file that the helper runs from. Root of a container could write to the agent itself
//! through it as soon as no agent runs (CVE-2019-5736, which was runc's). So it only ever meets a copy.

use std::{
    env,
    fs::File,
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::Command,
};

use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create},
    io::Errno,
};

use super::rights;

/// Starts this program anew from a sealed copy in memory, unless it runs from one already.
///
/// Whatever this process has changed about itself must be changed again, but for its capabilities.
pub(super) fn ensure() -> io::Result<()> {
    let mut original = File::open("/proc/self/exe")?;
    // Only what lies in memory has seals.
    if fcntl_get_seals(&original).is_ok_and(|seals| seals.contains(SealFlags::WRITE)) {
        return Ok(());
    }
    let mut copy = File::from(in_memory()?);
    io::copy(&mut original, &mut copy)?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    fcntl_add_seals(&copy, seals)?;
    // The copy has none by its file.
    rights::hand_on_all()?;
    let mut again = Command::new(format!("/proc/self/fd/{}", copy.as_raw_fd()));
    Err(again.arg0("reload-agent").args(env::args_os().skip(1)).exec())
}

fn in_memory() -> Result<OwnedFd, Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Linux 6.3; before, all of them may be run.
    match memfd_create("reload-agent", flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => memfd_create("reload-agent", flags),
        made => made,
    }
}
