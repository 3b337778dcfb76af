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

/// A version of the kernel: major and minor.
pub(super) type Version = (u32, u32);

/// That of the running one, or the oldest there is where it is not told.
///
/// It never decides what is used, for distributions port features back; it only helps to explain.
pub(super) fn version() -> Version {
    parse_version(&rustix::system::uname().release().to_string_lossy()).unwrap_or_default()
}

fn parse_version(release: &str) -> Option<Version> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_two_numbers() {
        fn check(release: &str, expected: Option<Version>) {
            assert_eq!(parse_version(release), expected, "for {release}");
        }
        check("6.18.5", Some((6, 18)));
        check("5.10.0-28-cloud-amd64", Some((5, 10)));
        check("6.1-rc3", Some((6, 1)));
        check("6", None);
        check("mainline", None);
    }
}
