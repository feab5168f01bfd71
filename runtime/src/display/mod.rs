//! How values are shown: `display(&x)`, the value of a cell's last expression, and updates in place.
//!
//! A [`Bundle`] is one output in several formats; the client picks the best it can draw. Types with more than
//! text implement [`Rich`] and stand in [`RICH`]. Everything goes to the kernel as frames of the link; outside
//! a kernel the plain text is printed. Called by cells through the prelude. Unsafe code is allowed here.

#![expect(
    unsafe_code,
    reason = "values reach this module as an address and the identity of their type"
)]

mod bundle;
mod tensor;

use std::any::{Any, TypeId};
use std::fmt::Debug;

pub use alephlab_cell::EvcxrDisplay;
use alephlab_link::{ToChild, ToKernel};

pub use bundle::Bundle;

use crate::{Error, Result, child};

/// A type with more to show than its `Debug` text.
pub trait Rich {
    /// What to show now.
    fn bundle(&self) -> Bundle;
}

/// The rich types. A list, because a blanket impl for every `Debug` type leaves no room for others (Rust has
/// no specialisation), and the value's type is known when the cell runs.
static RICH: [RichType; 10] = [
    RichType::of::<candle_core::Tensor>(),
    RichType::of::<candle_core::Var>(),
    RichType::of::<Bundle>(),
    RichType::of::<crate::Dataset>(),
    RichType::of::<crate::Model>(),
    RichType::of::<crate::Saved>(),
    RichType::of::<crate::Table>(),
    RichType::of::<crate::plot::ImageGrid>(),
    RichType::of::<crate::plot::LinePlot>(),
    RichType::of::<crate::train::History>(),
];

struct RichType {
    is: fn(TypeId) -> bool,
    bundle: unsafe fn(*const ()) -> Bundle,
}

impl RichType {
    const fn of<T: Rich + 'static>() -> Self {
        Self {
            is: |identity| identity == TypeId::of::<T>(),
            // SAFETY: the caller passes the address of a `T`.
            bundle: |address| unsafe { &*address.cast::<T>() }.bundle(),
        }
    }
}

/// Shows the value of a cell's last expression: its type without lifetimes, its address, its `Debug`.
pub(crate) fn show_erased(identity: TypeId, address: *const (), value: &dyn Debug) {
    let rich = RICH.iter().find(|rich| (rich.is)(identity));
    let bundle = match rich {
        // SAFETY: the value at `address` has the type `identity`, and no rich type has a lifetime.
        Some(rich) => unsafe { (rich.bundle)(address) },
        None => Bundle::new().text(format!("{value:?}")),
    };
    show_result(bundle);
}

/// Shows a value now, in the middle of a cell.
pub fn display<T: Debug + 'static>(value: &T) {
    show(bundle_of(value), None);
}

/// Shows a value under a name, so that [`update_display`] can replace it later, also from another cell.
pub fn display_as<T: Debug + 'static>(id: &str, value: &T) {
    show(bundle_of(value), Some(id));
}

/// Replaces what was shown under `id`.
pub fn update_display<T: Debug + 'static>(id: &str, value: &T) {
    update(bundle_of(value), id);
}

/// Shows HTML.
pub fn display_html(html: impl Into<String>) {
    show(Bundle::new().html(html), None);
}

/// Shows Markdown.
pub fn display_markdown(markdown: impl Into<String>) {
    show(Bundle::new().markdown(markdown), None);
}

/// Shows an SVG image.
pub fn display_svg(svg: impl Into<String>) {
    show(Bundle::new().svg(svg), None);
}

/// Shows a PNG image, given as the bytes of its file.
pub fn display_png(png: &[u8]) {
    show(Bundle::new().png(png), None);
}

/// Removes this cell's output so far; with `wait`, only when the next output comes (no flicker).
pub fn clear_output(wait: bool) {
    let _ = child::call(&ToKernel::ClearOutput { wait });
}

/// Shows a bundle, under a name when it is to be updated.
pub fn show(bundle: impl Into<Bundle>, id: Option<&str>) {
    let display_id = id.map(str::to_owned);
    send(bundle.into(), |data, metadata| ToKernel::Display {
        data,
        metadata,
        display_id,
    });
}

/// Replaces what was shown under a name.
pub fn update(bundle: impl Into<Bundle>, id: &str) {
    let display_id = id.to_owned();
    send(bundle.into(), |data, metadata| ToKernel::UpdateDisplay {
        data,
        metadata,
        display_id,
    });
}

/// Makes a bundle the result of the cell. For a type's own `evcxr_display`.
pub fn show_result(bundle: impl Into<Bundle>) {
    send(bundle.into(), |data, metadata| ToKernel::Result {
        data,
        metadata,
    });
}

/// Asks the person for a line of text and waits for it.
///
/// # Errors
/// [`Error::NoInput`] where the client cannot ask (a headless run), or nobody listens.
pub fn input(prompt: impl Into<String>) -> Result<String> {
    ask(prompt.into(), false)
}

/// As [`input`], for something that must not be shown while it is typed.
///
/// # Errors
/// As [`input`].
pub fn input_password(prompt: impl Into<String>) -> Result<String> {
    ask(prompt.into(), true)
}

fn ask(prompt: String, password: bool) -> Result<String> {
    let answer = child::call(&ToKernel::Input { prompt, password });
    // An interrupt also ends the wait, and then it is the interrupt that the person wants to see.
    crate::check_interrupt();
    match answer {
        Some(ToChild::Input { value: Some(line) }) => Ok(line),
        _ => Err(Error::NoInput),
    }
}

fn bundle_of<T: Debug + 'static>(value: &T) -> Bundle {
    let identity = value.type_id();
    let rich = RICH.iter().find(|rich| (rich.is)(identity));
    match rich {
        // SAFETY: `value` is a `T`, whose identity was found.
        Some(rich) => unsafe { (rich.bundle)(std::ptr::from_ref(value).cast()) },
        None => Bundle::new().text(format!("{value:?}")),
    }
}

fn send(
    bundle: Bundle,
    frame: impl FnOnce(alephlab_link::MimeBundle, alephlab_link::MimeBundle) -> ToKernel,
) {
    crate::check_interrupt();
    if child::has_kernel() {
        let (data, metadata) = bundle.into_parts();
        let _ = child::call(&frame(data, metadata));
    } else if let Some(text) = bundle.as_text() {
        let _ = std::io::Write::write_all(&mut std::io::stdout(), format!("{text}\n").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    #[test]
    fn numbers_and_strings_are_shown_as_evcxr_shows_them() {
        assert_eq!(bundle_of(&42).as_text(), Some("42"));
        assert_eq!(bundle_of(&"a\"b".to_owned()).as_text(), Some(r#""a\"b""#));
        assert_eq!(bundle_of(&vec![1.5, 2.0]).as_text(), Some("[1.5, 2.0]"));
    }

    #[test]
    fn a_tensor_is_shown_with_its_numbers_as_text_and_html() {
        let tensor = Tensor::new(&[[1.0_f32, 2.0], [3.0, 4.0]], &Device::Cpu).unwrap();
        let bundle = bundle_of(&tensor);
        let text = bundle.as_text().unwrap();
        assert!(text.contains("F32 2×2 on cpu"), "{text}");
        assert!(text.contains("min 1, mean 2.5, max 4"), "{text}");
        let (data, _) = bundle.into_parts();
        assert!(data["text/html"].as_str().unwrap().contains("<table"));
    }

    #[test]
    fn input_without_a_kernel_is_an_error_with_a_hint() {
        let error = input("name? ").unwrap_err();
        assert_eq!(error.code(), "no_input");
        assert!(error.hint().is_some());
    }
}
