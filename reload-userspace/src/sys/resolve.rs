//! How names of hosts become addresses in a binary that carries its own C library.

/// Has the C library look for hosts in `/etc/hosts` and ask the servers of `/etc/resolv.conf`, and
/// nothing else, where it is linked in.
///
/// It would otherwise load the plugins that `/etc/nsswitch.conf` names. They belong to the machine's
/// own C library, and one of another version ends the process that loads them.
#[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
pub fn resolve_without_plugins() {
    use std::{
        ffi::{c_char, c_int},
        sync::Once,
    };

    unsafe extern "C" {
        /// `nss.h`; glibc only.
        fn __nss_configure_lookup(database: *const c_char, service: *const c_char) -> c_int;
    }
    static DONE: Once = Once::new();
    // SAFETY: both are strings that end with a nul and live for ever; it keeps neither, and reports
    // what it does not know. It locks what it changes.
    DONE.call_once(|| {
        match unsafe { __nss_configure_lookup(c"hosts".as_ptr(), c"files dns".as_ptr()) } {
            0 => {}
            error => tracing::debug!(error, "hosts are looked for as /etc/nsswitch.conf says"),
        }
    });
}

/// Leaves it to the machine's C library how it looks for hosts: its plugins fit it.
#[cfg(not(all(target_env = "gnu", target_feature = "crt-static")))]
pub fn resolve_without_plugins() {}
