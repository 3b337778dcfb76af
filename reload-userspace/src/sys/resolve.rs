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
    DONE.call_once(|| {
        let (database, service) = (c"hosts", c"files dns");
        // SAFETY: both are strings that end with a nul and live for ever. The function copies what it
        // keeps, locks what it changes, and reports what it does not know.
        let error = unsafe { __nss_configure_lookup(database.as_ptr(), service.as_ptr()) };
        if error != 0 {
            tracing::debug!("hosts are looked for as /etc/nsswitch.conf says");
        }
    });
}

/// Leaves it to the machine's C library how it looks for hosts: its plugins fit it.
#[cfg(not(all(target_env = "gnu", target_feature = "crt-static")))]
pub fn resolve_without_plugins() {}
