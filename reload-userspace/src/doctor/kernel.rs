//! What the machine has.

use std::{ffi::CStr, fs};

use super::{
    finding::{Finding, Id},
    report::Report,
};
use crate::{
    source::BTF,
    sys::{self, LOCKDOWN, Lockdown},
};

/// Looks at the kernel.
pub(super) fn examine(report: &mut Report) {
    let uname = rustix::system::uname();
    let text = |part: &CStr| part.to_string_lossy().into_owned();
    let name = format!("Linux {} {}", text(uname.release()), text(uname.machine()));
    report.add(Finding::ok(Id::Kernel, name));

    report.add(match fs::metadata(BTF) {
        Ok(btf) => Finding::ok(Id::Btf, format!("{BTF}, {} KiB", btf.len() / 1024)),
        Err(error) => Finding::note(Id::Btf, format!("{BTF}: {error}"))
            .remedy("for eBPF, CONFIG_DEBUG_INFO_BTF and a mounted /sys"),
    });
    report.add(lockdown());
}

fn lockdown() -> Finding {
    match sys::lockdown() {
        None => {
            let why = "cannot be read (securityfs is not mounted?)";
            Finding::note(Id::Lockdown, format!("not known: {LOCKDOWN} {why}"))
        }
        Some(Lockdown::Confidentiality) => {
            let detail = "confidentiality: eBPF programs may not read the kernel";
            Finding::note(Id::Lockdown, detail)
                .remedy("for eBPF, start the kernel with lockdown=integrity")
        }
        Some(Lockdown::Less(mode)) => Finding::ok(Id::Lockdown, mode),
    }
}
