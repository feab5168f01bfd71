//! How the program looks up the gateway's name: in `/etc/hosts` and by DNS, whatever else this host uses for its own names.
//!
//! The C library has those two in it; for all others that `/etc/nsswitch.conf` names it loads the host's libraries, and with
//! them the host's C library, into this program, which has another one in it already. Called by `main` alone.

/// Before the first name is looked up.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "one call of the C library, which std does not have")]
pub(crate) fn settle() {
    use std::ffi::{c_char, c_int};

    unsafe extern "C" {
        /// Says where entries of a database are looked for, in place of the file (`nss.h`); 0 when that was understood.
        fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int;
    }
    // SAFETY: both are strings with an end, which glibc copies or only reads; no other thread runs yet that looks up names.
    let refused = unsafe { __nss_configure_lookup(c"hosts".as_ptr(), c"files dns".as_ptr()) };
    if refused != 0 {
        tracing::warn!("names are looked up as this host does it");
    }
}

/// Other C libraries load nothing.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn settle() {}
