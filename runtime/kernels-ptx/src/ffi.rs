//! Functions of candle's that NVIDIA's compiler makes for one GPU only: none of them is in this build.
//!
//! Products with quantised weights have another way, through PTX, which the runtime has candle take
//! (`set_force_dmmv`). Where code switches that off again, candle calls these through C function pointers that return
//! nothing: an error cannot be given back and unwinding would end the process, so the name is kept and the runtime makes it
//! the error of the cell that called it ([`take_unsupported`]); what the cell calculated from it is not to be used. Mixtures of experts
//! are called directly and panic, which is an error of the cell as well.

use std::cell::Cell;
use std::ffi::c_void;
use std::sync::Mutex;

/// Called by threads that do not note apart.
static CALLED: Mutex<Option<&'static str>> = Mutex::new(None);

thread_local! {
    /// Whether this thread notes apart, and what it called.
    static APART: Cell<Option<Option<&'static str>>> = const { Cell::new(None) };
}

/// From now on what this thread calls is told to this thread only: cells run on it beside those of another.
pub fn note_apart() {
    APART.set(Some(None));
}

/// The function of these that was called since it was last asked, when one was: what it should have calculated is garbage.
pub fn take_unsupported() -> Option<&'static str> {
    if let Some(called) = APART.get() {
        APART.set(Some(None));
        return called;
    }
    CALLED
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .take()
}

fn note(name: &'static str) {
    if APART.get().is_some() {
        APART.set(Some(Some(name)));
    } else {
        *CALLED.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(name);
    }
}

/// Functions that only note their names, with parameters of these types.
macro_rules! noted {
    ($kinds:tt: $($name:ident)*) => { $( noted!(@ $kinds $name); )* };
    (@ ($($kind:ty),*) $name:ident) => {
        #[doc = "Not in this build: notes its name."]
        #[allow(clippy::too_many_arguments, non_snake_case, reason = "candle's")]
        pub extern "C" fn $name($(_: $kind),*) {
            note(stringify!($name));
        }
    };
}

noted! { (*const c_void, *const c_void, *mut c_void, i32, i32, i32, i32, i32, *mut c_void):
    launch_mmvq_gguf_q4_0_bf16_plain launch_mmvq_gguf_q4_1_bf16_plain launch_mmvq_gguf_q5_0_bf16_plain
    launch_mmvq_gguf_q5_1_bf16_plain launch_mmvq_gguf_q8_0_bf16_plain launch_mmvq_gguf_q2_k_bf16_plain
    launch_mmvq_gguf_q3_k_bf16_plain launch_mmvq_gguf_q4_k_bf16_plain launch_mmvq_gguf_q5_k_bf16_plain
    launch_mmvq_gguf_q6_k_bf16_plain launch_mmvq_gguf_q4_0_f32_plain launch_mmvq_gguf_q4_1_f32_plain
    launch_mmvq_gguf_q5_0_f32_plain launch_mmvq_gguf_q5_1_f32_plain launch_mmvq_gguf_q8_0_f32_plain
    launch_mmvq_gguf_q2_k_f32_plain launch_mmvq_gguf_q3_k_f32_plain launch_mmvq_gguf_q4_k_f32_plain
    launch_mmvq_gguf_q5_k_f32_plain launch_mmvq_gguf_q6_k_f32_plain launch_mmvq_gguf_q4_0_f16_plain
    launch_mmvq_gguf_q4_1_f16_plain launch_mmvq_gguf_q5_0_f16_plain launch_mmvq_gguf_q5_1_f16_plain
    launch_mmvq_gguf_q8_0_f16_plain launch_mmvq_gguf_q2_k_f16_plain launch_mmvq_gguf_q3_k_f16_plain
    launch_mmvq_gguf_q4_k_f16_plain launch_mmvq_gguf_q5_k_f16_plain launch_mmvq_gguf_q6_k_f16_plain
}

noted! { (*const c_void, *mut c_void, i32, i32, i32, *mut c_void):
    launch_mmvq_gguf_quantize_q8_1_bf16 launch_mmvq_gguf_quantize_q8_1_f16 launch_mmvq_gguf_quantize_q8_1_f32
}

noted! { (*const c_void, *const i32, *mut c_void, i32, i64, i64, i64, i64, i64, i64, i64, i64, *mut c_void):
    launch_mmq_quantize_q8_1_D4 launch_mmq_quantize_q8_1_DS4 launch_mmq_quantize_q8_1_D2S6
}

noted! { (
        *mut c_void, *const c_void, *const c_void, *mut c_void, i64, i64, i64, i64, i64, i32, i32, i64, i32, *mut c_void
    ):
    launch_mmq_gguf_q4_0 launch_mmq_gguf_q4_1 launch_mmq_gguf_q5_0 launch_mmq_gguf_q5_1 launch_mmq_gguf_q8_0
    launch_mmq_gguf_q2_k launch_mmq_gguf_q3_k launch_mmq_gguf_q4_k launch_mmq_gguf_q5_k launch_mmq_gguf_q6_k
}

/// Functions that panic, with parameters of these types.
macro_rules! refused {
    (($($kind:ty),*): $name:ident) => {
        #[doc = "Not in this build."]
        #[doc = ""]
        #[doc = "# Panics"]
        #[doc = "Always."]
        #[allow(clippy::too_many_arguments, reason = "candle's")]
        pub fn $name($(_: $kind),*) {
            panic!(
                "mixtures of experts (`{}`) are not in this build's GPU kernels: calculate them on the CPU",
                stringify!($name)
            );
        }
    };
}

refused! { (
    *const c_void, *const c_void, *const i32, *const i32, *const f32, *mut c_void, *mut i32, *mut i32, i32, i32, i32,
    i32, i32, i32, bool, i64
): moe_gemm_wmma }

refused! { (
    *const f32, *const c_void, *const i32, *const i32, *const f32, *mut c_void, i32, i32, i32, i32, i32, i32, i64
): moe_gemm_gguf }

refused! { (
    *const c_void, *const u8, *const i32, *const i32, *const f32, *mut c_void, i32, i32, i32, i32, i32, i32, i32, i64
): moe_gemm_gguf_prefill }

#[cfg(test)]
mod tests {
    use std::ptr::{null, null_mut};

    use super::*;

    #[test]
    fn what_is_not_here_is_noted_once_and_for_whom_it_concerns() {
        let call = || launch_mmvq_gguf_quantize_q8_1_f32(null(), null_mut(), 0, 0, 0, null_mut());
        let beside = std::thread::spawn(move || {
            note_apart();
            call();
            [take_unsupported(), take_unsupported()]
        });
        assert_eq!(
            beside.join().unwrap(),
            [Some("launch_mmvq_gguf_quantize_q8_1_f32"), None]
        );
        assert_eq!(take_unsupported(), None);
        call();
        assert_eq!(take_unsupported(), Some("launch_mmvq_gguf_quantize_q8_1_f32"));
        assert_eq!(take_unsupported(), None);
    }
}
