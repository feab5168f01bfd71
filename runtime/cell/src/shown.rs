//! The value of a cell's last expression.
//!
//! Unsafe code is allowed here: the identity of a type that may hold references.
#![expect(unsafe_code, reason = "the identity of a type that may hold references")]

use std::any::TypeId;
use std::fmt::Debug;
use std::marker::PhantomData;
use std::ops::Deref;

/// Shows the value of a cell's last expression. Generated code calls it by this name; a type's own inherent
/// `evcxr_display` wins over it, so crates written for evcxr keep their own way.
pub trait EvcxrDisplay {
    /// Shows `self` as the result of the cell.
    fn evcxr_display(&self);
}

impl<T: Debug> EvcxrDisplay for T {
    #[inline(always)]
    fn evcxr_display(&self) {
        show(identity::<T>(), std::ptr::from_ref(self).cast(), self);
    }
}

/// The value of a cell's last expression, before it is known what it is: generated code calls
/// `Shown(Rare(&value)).evcxr_display()`.
///
/// For the types of [`known`] the method is one that is compiled here. Looking for the `Debug` of a type takes the compiler
/// 10 ms, because it looks at every `Debug` there is; this way it need not. Any other type is reached by
/// dereferencing twice: its own `evcxr_display`, or the trait's. No `Debug` here: it would be found in its place.
pub struct Shown<'a, T: ?Sized>(pub Rare<'a, T>);

/// See [`Shown`]. A literal that could be of several types is of the one that Rust takes by itself, so only that one may
/// be found in the first step.
pub struct Rare<'a, T: ?Sized>(pub &'a T);

impl<'a, T: ?Sized> Deref for Shown<'a, T> {
    type Target = Rare<'a, T>;

    #[inline(always)]
    fn deref(&self) -> &Rare<'a, T> {
        &self.0
    }
}

impl<T: ?Sized> Deref for Rare<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        self.0
    }
}

/// Types that are shown without looking for their `Debug`. Of each generic type there are several, or the only one would be
/// taken for what is not known yet: `(1, "2".parse().unwrap())` must not become a pair of `i32`.
macro_rules! known {
    ($step:ident, $value:ident => $reference:expr, $($kind:ty),* $(,)?) => {
        $(
            impl $step<'_, $kind> {
                /// Shows the value as the result of the cell.
                pub fn evcxr_display(&self) {
                    let $value = self;
                    let value: &$kind = $reference;
                    show(identity::<$kind>(), std::ptr::from_ref(value).cast(), value);
                }
            }
        )*
    };
}

known!(
    Shown, shown => shown.0.0,
    (), bool, char, i32, f64, String, &str, Vec<bool>, Vec<i32>, Vec<f64>, Vec<String>, Vec<&str>, Option<i32>,
    Option<f64>, Option<String>,
);

known!(
    Rare, rare => rare.0,
    i8, i16, i64, i128, isize, u8, u16, u32, u64, u128, usize, f32, Vec<u8>, Vec<i64>, Vec<u32>, Vec<u64>,
    Vec<usize>, Vec<f32>, Option<usize>,
);

#[inline(never)]
fn show(identity: TypeId, address: *const (), value: &dyn Debug) {
    // A cell that ends with `()` has no result.
    if identity == TypeId::of::<()>() {
        return;
    }
    match crate::hooks() {
        Some(hooks) => (hooks.show)(identity, address, value),
        None => {
            let _ = std::io::Write::write_fmt(&mut std::io::stdout(), format_args!("{value:?}\n"));
        }
    }
}

/// The type's identity without regard to lifetimes. Good for looking, not for keeping: who is shown a `&'a str` must
/// not hold it longer than the call.
#[inline(always)]
fn identity<T>() -> TypeId {
    trait Erased {
        fn get(&self) -> TypeId
        where
            Self: 'static;
    }
    impl<T> Erased for PhantomData<T> {
        #[inline(always)]
        fn get(&self) -> TypeId
        where
            Self: 'static,
        {
            TypeId::of::<T>()
        }
    }
    let phantom = PhantomData::<T>;
    let erased: &dyn Erased = &phantom;
    // SAFETY: only the lifetime bound of the trait object changes; `get` looks at no value of it.
    let erased = unsafe { std::mem::transmute::<&dyn Erased, &(dyn Erased + 'static)>(erased) };
    erased.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<T>(_value: &T) -> TypeId {
        identity::<T>()
    }

    #[test]
    fn literals_are_of_the_type_that_rust_takes_by_itself_and_other_types_are_reached() {
        #[derive(Debug)]
        struct Own;
        struct Opaque;
        impl Opaque {
            fn evcxr_display(&self) {}
        }
        // Printed, as outside a kernel: what counts is that each of these is one method.
        Shown(Rare(&(1 + 1))).evcxr_display();
        Shown(Rare(&1.5)).evcxr_display();
        Shown(Rare(&vec![1, 2])).evcxr_display();
        Shown(Rare(&7_u64)).evcxr_display();
        Shown(Rare(&Own)).evcxr_display();
        Shown(Rare(&&Own)).evcxr_display();
        Shown(Rare(&Opaque)).evcxr_display();
    }

    #[test]
    fn lifetimes_do_not_count_and_types_do() {
        let text = "a".to_owned();
        let borrowed: &str = &text;
        assert_eq!(of(&borrowed), TypeId::of::<&'static str>());
        assert_ne!(of(&borrowed), TypeId::of::<String>());
        assert_eq!(of(&()), TypeId::of::<()>());
    }
}
