//! The value of a cell's last expression.
//!
//! Unsafe code is allowed here: the identity of a type that may hold references.
#![expect(unsafe_code, reason = "the identity of a type that may hold references")]

use std::any::TypeId;
use std::fmt::Debug;
use std::marker::PhantomData;

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
    fn lifetimes_do_not_count_and_types_do() {
        let text = "a".to_owned();
        let borrowed: &str = &text;
        assert_eq!(of(&borrowed), TypeId::of::<&'static str>());
        assert_ne!(of(&borrowed), TypeId::of::<String>());
        assert_eq!(of(&()), TypeId::of::<()>());
    }
}
