//! What the runtime says of this machine's GPU, asked by loading it: the kernel itself knows nothing of GPUs.
#![expect(unsafe_code, reason = "dynamic loading")]

use std::ffi::{CStr, c_char, c_void};

use super::{CELL_LIB, open, symbol};
use crate::template::Template;
use crate::template::stamp::Stamp;
use crate::{Error, Result};

type ReportFn = unsafe extern "C" fn() -> *const c_char;

/// One JSON object. Loads the runtime into this process, which opens the GPU: call it in one that ends then.
///
/// # Errors
/// [`Error::Template`] when the runtime is not built, [`Error::Child`] when it cannot be loaded.
pub fn report(template: &std::path::Path) -> Result<String> {
    let template = Template::new(template)?;
    let stamp = Stamp::read(&template)?;
    let runtime = template.evcxr().join(&stamp.runtime_lib);
    // SAFETY: this process has one thread yet, so nobody reads the environment. candle would take a backtrace otherwise.
    unsafe { libc::setenv(c"RUST_BACKTRACE".as_ptr(), c"0".as_ptr(), 1) };
    open(&stamp.libstd, libc::RTLD_GLOBAL)?;
    open(&runtime.with_file_name(CELL_LIB), libc::RTLD_GLOBAL)?;
    let runtime = open(&runtime, libc::RTLD_GLOBAL)?;
    let report = symbol(runtime, c"alephlab_gpu_report")?;
    // SAFETY: the runtime's function of that name, whose type is fixed in `runtime/src/child.rs`.
    let report = unsafe { std::mem::transmute::<*mut c_void, ReportFn>(report) };
    // SAFETY: takes nothing; returns a NUL-terminated text that lives as long as the process.
    let text = unsafe { CStr::from_ptr(report()) };
    text.to_str().map(str::to_owned).map_err(|error| Error::Child {
        message: format!("cannot read what the runtime says: {error}"),
    })
}
