//! The capabilities of this process, and how to have no others (`capabilities(7)`).
//!
//! They belong to threads: what is given up here is given up by threads that are started later, and by
//! none that there is already.

use std::io;

use rustix::{
    process::geteuid,
    thread::{
        CapabilitySet, CapabilitySets, capabilities, capability_is_in_ambient_set,
        configure_capability_in_ambient_set, no_new_privs, remove_capability_from_bounding_set,
        set_capabilities, set_no_new_privs,
    },
};

/// The capabilities that are effective now; none where the kernel does not say.
#[must_use]
pub fn effective() -> CapabilitySet {
    capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective)
}

/// Those that this process may make effective; none where the kernel does not say.
#[must_use]
pub fn permitted() -> CapabilitySet {
    capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.permitted)
}

/// Those that every program gets that this process runs.
#[must_use]
pub fn ambient() -> CapabilitySet {
    let is_handed_on = |one: &CapabilitySet| capability_is_in_ambient_set(*one).unwrap_or(false);
    each(CapabilitySet::all()).filter(is_handed_on).collect()
}

/// Makes every capability that was granted effective.
///
/// The executable of the image may be *given* capabilities by its file. Were they to become effective
/// by themselves, it could not be started where one of them is withheld.
pub fn use_granted() {
    if let Ok(sets) = capabilities(None) {
        let sets = CapabilitySets { effective: sets.permitted, ..sets };
        // The kernel does not refuse what is permitted. If it did, what lacks would say what it lacks.
        let _refused = set_capabilities(None, sets);
    }
}

/// What the programs get that this process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Programs {
    /// Of these what they would get now: what is ambient, and root's whatever is in the bounding set.
    AtMost(CapabilitySet),
    /// There are none. If there were, they would get nothing, be they root's.
    None,
}

/// Gives up every capability but these, for good.
///
/// What is ambient stays permitted where programs are to get it, and is not effective; and so does what
/// root is permitted where programs get no more than that.
///
/// # Errors
///
/// Fails where the kernel does not let go of them, as where a filter refuses `capset(2)`.
pub fn keep(wanted: CapabilitySet, programs: Programs) -> io::Result<()> {
    let had = capabilities(None)?;
    let (idle, inheritable) = match programs {
        Programs::AtMost(most) => {
            ((ambient() | lent(had.permitted)) & most, had.inheritable & most)
        }
        Programs::None => (CapabilitySet::empty(), CapabilitySet::empty()),
    };
    if programs == Programs::None {
        // It needs `CAP_SETPCAP`, so it comes first.
        bound(CapabilitySet::all());
    }
    let effective = had.permitted & wanted;
    let permitted = had.permitted & (wanted | idle);
    set_capabilities(None, CapabilitySets { effective, permitted, inheritable })?;
    if programs == Programs::None {
        // The second lock, which needs nothing.
        set_no_new_privs(true)?;
    }
    Ok(())
}

/// What programs of root's get only as long as it is permitted: where new privileges are forbidden
/// (`allowPrivilegeEscalation: false`), `execve(2)` gives root nothing of the bounding set back.
fn lent(permitted: CapabilitySet) -> CapabilitySet {
    let is_lent = geteuid().is_root() && no_new_privs().unwrap_or(false);
    if is_lent { permitted } else { CapabilitySet::empty() }
}

/// Has no program that this process runs get any of these, be it root's, where that is allowed: it
/// needs `CAP_SETPCAP`.
pub fn bound(excess: CapabilitySet) {
    for one in each(excess) {
        let _is_bounded = remove_capability_from_bounding_set(one).is_ok();
    }
}

/// Has what is permitted survive `exec`, which otherwise only root's capabilities do. What cannot be
/// handed on, the program does without.
pub fn hand_on(sets: CapabilitySets) {
    if set_capabilities(None, CapabilitySets { inheritable: sets.permitted, ..sets }).is_ok() {
        for one in each(sets.permitted) {
            let _is_handed_on = configure_capability_in_ambient_set(one, true).is_ok();
        }
    }
}

/// The capabilities of a set one by one.
fn each(set: CapabilitySet) -> impl Iterator<Item = CapabilitySet> {
    let bits = set.bits();
    (0..u64::BITS)
        .map(|bit| 1 << bit)
        .filter(move |bit| bits & bit != 0)
        .map(CapabilitySet::from_bits_retain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_its_capabilities() {
        let set = CapabilitySet::KILL | CapabilitySet::CHOWN;
        let ones: Vec<_> = each(set).collect();
        assert_eq!(ones, [CapabilitySet::CHOWN, CapabilitySet::KILL]);
    }
}
