//! The libraries: their files, the codes that stand for a missing one, and opening them once.
#![expect(unsafe_code, reason = "dynamic loading")]

use std::cell::Cell;
use std::ffi::{CStr, CString, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::OnceLock;

use crate::places;

/// A library of CUDA's.
pub struct Library {
    /// What people call it.
    pub name: &'static str,
    /// Its file's names, the best first.
    pub files: &'static [&'static str],
    /// Comes with a driver, and not with a toolkit.
    pub(crate) of_driver: bool,
    /// The status where the library is missing.
    pub(crate) absent: c_int,
    /// The status where it has no such function.
    pub(crate) unknown: c_int,
    opened: OnceLock<Result<Opened, Missing>>,
}

/// Why a library is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// What the loader said of the name that it should know.
    pub reason: String,
    /// Files that exist and cannot be loaded, with the loader's reason.
    pub refused: Vec<String>,
}

struct Opened {
    handle: NonNull<c_void>,
    path: PathBuf,
}

// SAFETY: a handle of `dlopen` that is never closed; `dlsym` may be called by any thread.
unsafe impl Send for Opened {}
// SAFETY: as above.
unsafe impl Sync for Opened {}

/// The driver.
pub static DRIVER: Library = Library::new("the NVIDIA driver", &["libcuda.so.1"], true, 100, 500);
/// Products of matrices.
pub static CUBLAS: Library = Library::new(
    "cuBLAS",
    &["libcublas.so.13", "libcublas.so.12", "libcublas.so"],
    false,
    1,
    15,
);
/// Products of matrices, the newer way.
pub static CUBLAS_LT: Library = Library::new(
    "cuBLASLt",
    &["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"],
    false,
    1,
    15,
);
/// Compiles kernels while a program runs.
pub static NVRTC: Library = Library::new(
    "NVRTC",
    &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"],
    false,
    11,
    11,
);
/// Random numbers.
pub static CURAND: Library = Library::new("cuRAND", &["libcurand.so.10", "libcurand.so"], false, 101, 203);

#[cfg(test)]
pub(crate) static ALL: [&Library; 5] = [&DRIVER, &CUBLAS, &CUBLAS_LT, &NVRTC, &CURAND];

/// As drivers count.
const CUDA_13: c_int = 13000;

thread_local! {
    /// Set while this thread opens a library, whose initialisers may call one of our functions.
    static OPENS: Cell<bool> = const { Cell::new(false) };
}

impl Library {
    const fn new(
        name: &'static str,
        files: &'static [&'static str],
        of_driver: bool,
        absent: c_int,
        unknown: c_int,
    ) -> Self {
        Self {
            name,
            files,
            of_driver,
            absent,
            unknown,
            opened: OnceLock::new(),
        }
    }

    /// Where the library is, opening it when nobody has; or why it is not there. Asked once: the answer stays as long as
    /// the process lives.
    ///
    /// # Errors
    /// [`Missing`].
    pub fn found(&'static self) -> Result<&'static Path, &'static Missing> {
        self.open().as_ref().map(|opened| opened.path.as_path())
    }

    /// A function's address. None when this thread is opening a library; otherwise the status that stands for the fault.
    pub(crate) fn function(&'static self, name: &CStr) -> Result<NonNull<()>, Option<c_int>> {
        if OPENS.get() && self.opened.get().is_none() {
            return Err(None);
        }
        let opened = self.open().as_ref().map_err(|_| Some(self.absent))?;
        // SAFETY: a handle that is never closed, and a NUL-terminated name.
        let found = unsafe { libc::dlsym(opened.handle.as_ptr(), name.as_ptr()) };
        NonNull::new(found.cast()).ok_or(Some(self.unknown))
    }

    fn open(&'static self) -> &'static Result<Opened, Missing> {
        self.opened.get_or_init(|| {
            // cuBLAS needs cuBLASLt by its name, which then is the one of the same folder.
            if std::ptr::eq(self, &raw const CUBLAS) {
                let _ = CUBLAS_LT.open();
            }
            let files = self.files_for(if self.of_driver { None } else { driver_version() });
            OPENS.set(true);
            let opened = self.look(&files);
            OPENS.set(false);
            opened
        })
    }

    /// Names of the file, the best first for a driver of this CUDA version: libraries of a newer one do not start with it.
    fn files_for(&self, driver: Option<c_int>) -> Vec<&'static str> {
        let mut files = self.files.to_vec();
        if driver.is_some_and(|version| version < CUDA_13) {
            files.sort_by_key(|file| file.ends_with(".13"));
        }
        files
    }

    /// Tries the folders that a person named, then what the loader knows, then where toolkits and wheels put things.
    fn look(&self, files: &[&str]) -> Result<Opened, Missing> {
        let mut missing = Missing {
            reason: String::new(),
            refused: Vec::new(),
        };
        let in_folder = |folder: &PathBuf| {
            let files = files.iter();
            files.map(|file| folder.join(file)).collect::<Vec<_>>()
        };
        let named = places::named();
        let by_name = files.iter().map(PathBuf::from);
        let usual = places::usual(self.of_driver);
        let candidates = named
            .iter()
            .flat_map(in_folder)
            .chain(by_name)
            .chain(usual.iter().flat_map(in_folder));
        for path in candidates {
            let is_name = path.components().count() == 1;
            if !is_name && !path.exists() {
                continue;
            }
            match load(&path) {
                Ok(handle) => {
                    return Ok(Opened {
                        path: file_of(handle).unwrap_or(path),
                        handle,
                    });
                }
                Err(reason) if is_name => {
                    if missing.reason.is_empty() {
                        missing.reason = reason;
                    }
                }
                Err(reason) => missing.refused.push(reason),
            }
        }
        Err(missing)
    }
}

/// The CUDA version that the driver supports, such as 13000; none where there is no driver.
fn driver_version() -> Option<c_int> {
    let function = DRIVER.function(c"cuDriverGetVersion").ok()?;
    // SAFETY: the driver's function of this name, whose type NVIDIA keeps.
    let ask =
        unsafe { std::mem::transmute::<NonNull<()>, unsafe extern "C" fn(*mut c_int) -> c_int>(function) };
    let mut version = 0;
    // SAFETY: writes one number.
    (unsafe { ask(&raw mut version) } == 0).then_some(version)
}

fn load(path: &Path) -> Result<NonNull<c_void>, String> {
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
    // SAFETY: a NUL-terminated path; the initialisers are those of NVIDIA's library.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_LAZY | libc::RTLD_GLOBAL) };
    NonNull::new(handle).ok_or_else(|| {
        // SAFETY: after a failure it returns a NUL-terminated text that is valid until this thread's next dl call.
        let said = unsafe { libc::dlerror() };
        if said.is_null() {
            return format!("{} cannot be loaded", path.display());
        }
        // SAFETY: checked for null.
        unsafe { CStr::from_ptr(said) }.to_string_lossy().into_owned()
    })
}

/// The file behind a handle.
fn file_of(handle: NonNull<c_void>) -> Option<PathBuf> {
    let mut map: *mut LinkMap = std::ptr::null_mut();
    // SAFETY: an open handle; glibc writes one pointer.
    let asked = unsafe { libc::dlinfo(handle.as_ptr(), libc::RTLD_DI_LINKMAP, (&raw mut map).cast()) };
    if asked != 0 || map.is_null() {
        return None;
    }
    // SAFETY: glibc's entry of an open library, whose name is NUL-terminated.
    let name = unsafe { CStr::from_ptr((*map).name) };
    let path = PathBuf::from(std::ffi::OsStr::from_bytes(name.to_bytes()));
    (!path.as_os_str().is_empty()).then_some(path)
}

/// First members of glibc's `struct link_map`.
#[repr(C)]
struct LinkMap {
    address: usize,
    name: *const std::ffi::c_char,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_driver_is_given_the_libraries_that_it_can_run() {
        assert_eq!(CUBLAS.files_for(Some(13000))[0], "libcublas.so.13");
        assert_eq!(CUBLAS.files_for(None)[0], "libcublas.so.13");
        assert_eq!(
            CUBLAS.files_for(Some(12040)),
            ["libcublas.so.12", "libcublas.so", "libcublas.so.13"]
        );
    }
}
