//! From a function's name to the function: machine code of the trampolines, and what their first call does.
#![expect(unsafe_code, reason = "machine code, and functions by their address")]

use std::ffi::{CStr, c_char, c_int};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::library::Library;

/// What a function returns where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A status of its library.
    Status,
    /// A text.
    Text,
    /// A status, and a text through its second argument: `cuGetErrorName` and `cuGetErrorString`.
    Told,
    /// A number of which 0 says nothing.
    Size,
    /// Nothing.
    Nothing,
}

/// One function. The machine code knows that `target` comes first.
#[repr(C)]
pub(crate) struct Slot {
    /// Where the trampoline jumps: [`first_call`], then the function or what answers in its place.
    target: AtomicPtr<()>,
    pub(crate) name: &'static CStr,
    pub(crate) library: &'static Library,
    pub(crate) kind: Kind,
}

impl Slot {
    pub(crate) const fn new(name: &'static CStr, library: &'static Library, kind: Kind) -> Self {
        Self {
            target: AtomicPtr::new(first_call as *mut ()),
            name,
            library,
            kind,
        }
    }
}

/// Defines functions: `trampolines! { LIBRARY; status cuInit; … }`.
macro_rules! trampolines {
    ($library:ident; $($kind:ident $name:ident;)*) => { $(
        const _: () = {
            static SLOT: $crate::trampoline::Slot = $crate::trampoline::Slot::new(
                // SAFETY: one NUL, at its end.
                unsafe { ::std::ffi::CStr::from_bytes_with_nul_unchecked(concat!(stringify!($name), "\0").as_bytes()) },
                &$crate::library::$library,
                $crate::trampoline::kinds::$kind,
            );

            // SAFETY: takes whatever the caller of a function of this name passes, and leaves all of it as it is.
            #[unsafe(naked)]
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name() {
                // r11 belongs to nobody across a call: linkers use it so, too.
                ::std::arch::naked_asm!("lea r11, [rip + {slot}]", "jmp qword ptr [r11]", slot = sym SLOT)
            }
        };
    )* };
}
pub(crate) use trampolines;

/// The words that lists of names use.
#[expect(non_upper_case_globals, reason = "written in lists of names")]
pub(crate) mod kinds {
    use super::Kind;

    pub(crate) const status: Kind = Kind::Status;
    pub(crate) const text: Kind = Kind::Text;
    pub(crate) const told: Kind = Kind::Told;
    pub(crate) const size: Kind = Kind::Size;
    pub(crate) const nothing: Kind = Kind::Nothing;
}

/// Where every trampoline jumps at first, with its slot in r11: keeps the arguments, asks [`resolve`], and goes on there.
// SAFETY: six registers and eight vector registers hold all arguments that are not on the stack; they are put back as
// they were, and so is the stack. It is aligned at the call: 8 + 6 * 8 + 136 is a multiple of 16.
#[unsafe(naked)]
unsafe extern "C" fn first_call() {
    std::arch::naked_asm!(
        "push rdi",
        "push rsi",
        "push rdx",
        "push rcx",
        "push r8",
        "push r9",
        "sub rsp, 136",
        "movups [rsp], xmm0",
        "movups [rsp + 16], xmm1",
        "movups [rsp + 32], xmm2",
        "movups [rsp + 48], xmm3",
        "movups [rsp + 64], xmm4",
        "movups [rsp + 80], xmm5",
        "movups [rsp + 96], xmm6",
        "movups [rsp + 112], xmm7",
        "mov rdi, r11",
        "call {resolve}",
        "mov r11, rax",
        "movups xmm0, [rsp]",
        "movups xmm1, [rsp + 16]",
        "movups xmm2, [rsp + 32]",
        "movups xmm3, [rsp + 48]",
        "movups xmm4, [rsp + 64]",
        "movups xmm5, [rsp + 80]",
        "movups xmm6, [rsp + 96]",
        "movups xmm7, [rsp + 112]",
        "add rsp, 136",
        "pop r9",
        "pop r8",
        "pop rcx",
        "pop rdx",
        "pop rsi",
        "pop rdi",
        "jmp r11",
        resolve = sym resolve,
    )
}

/// Finds a slot's function. Two threads that do it at once find the same.
extern "C" fn resolve(slot: &Slot) -> *mut () {
    let target = match slot.library.function(slot.name) {
        Ok(found) => found.as_ptr(),
        // The library is being opened by this very thread: an answer for now.
        Err(None) => return substitute(slot, slot.library.absent),
        Err(Some(code)) => substitute(slot, code),
    };
    slot.target.store(target, Ordering::Release);
    target
}

/// What answers in a function's place. `code` is one of its library.
fn substitute(slot: &Slot, code: c_int) -> *mut () {
    let is_absent = code == slot.library.absent;
    match slot.kind {
        Kind::Status => status(code),
        Kind::Text => text as *mut (),
        Kind::Told if is_absent => told_absent as *mut (),
        Kind::Told => told_unknown as *mut (),
        Kind::Size => zero as *mut (),
        Kind::Nothing => nothing as *mut (),
    }
}

/// A function that answers a code. There are as many as libraries have codes.
fn status(code: c_int) -> *mut () {
    extern "C" fn answer<const CODE: c_int>() -> c_int {
        CODE
    }
    match code {
        1 => answer::<1> as *mut (),
        11 => answer::<11> as *mut (),
        15 => answer::<15> as *mut (),
        100 => answer::<100> as *mut (),
        101 => answer::<101> as *mut (),
        203 => answer::<203> as *mut (),
        // Of no library: the tests go through all of them.
        _ => answer::<500> as *mut (),
    }
}

extern "C" fn text() -> *const c_char {
    c"the library is not on this machine".as_ptr()
}

extern "C" fn zero() -> usize {
    0
}

extern "C" fn nothing() {}

/// # Safety
/// `to` can be written.
unsafe extern "C" fn told_absent(_code: c_int, to: *mut *const c_char) -> c_int {
    // SAFETY: the caller's.
    unsafe { tell(c"there is no NVIDIA driver: libcuda.so.1 was not found", to) }
}

/// # Safety
/// `to` can be written.
unsafe extern "C" fn told_unknown(_code: c_int, to: *mut *const c_char) -> c_int {
    // SAFETY: the caller's.
    unsafe { tell(c"the NVIDIA driver has no words for this error", to) }
}

/// # Safety
/// `to` is null or can be written.
unsafe fn tell(text: &'static CStr, to: *mut *const c_char) -> c_int {
    if !ptr::eq(to, ptr::null_mut()) {
        // SAFETY: the caller's.
        unsafe { to.write(text.as_ptr()) };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::library::ALL;

    #[test]
    fn every_code_of_every_library_has_a_function_that_answers_it() {
        for library in ALL {
            for code in [library.absent, library.unknown] {
                // SAFETY: it takes nothing and returns a number.
                let answer =
                    unsafe { std::mem::transmute::<*mut (), extern "C" fn() -> c_int>(status(code)) };
                assert_eq!(answer(), code, "{}", library.name);
            }
        }
    }
}
