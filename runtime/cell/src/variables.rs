//! Variables that outlive their cell.
//!
//! A cell takes the ones that it uses out as locals, so that all of Rust works on them (moves, borrows, fields), and
//! gives back what it has not used up. They belong to the cell thread, so they need not be `Send`. Unsafe code is
//! allowed here: a checked downcast without the generic code of the safe one.
#![expect(unsafe_code, reason = "each cell compiles `take` again for each variable")]

use std::any::{Any, TypeId};
use std::cell::RefCell;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};

struct Variable {
    /// `None` while a cell has it.
    value: Option<Box<dyn Any>>,
}

thread_local! {
    static VARIABLES: RefCell<HashMap<&'static str, Variable>> = RefCell::default();
}

/// What [`put`] returns: nothing but its type, which the compiler's dump of a cell spells out with whole paths. From it
/// the kernel learns what to call a type that it does not know by its symbol.
#[derive(Debug)]
pub struct Stored<T>(PhantomData<T>);

/// Stores a variable, in place of one of that name. `name` lives in the cell's library, which is never unloaded.
///
/// Never inlined, and numbered: so there is a symbol for each variable of a cell that says its type.
#[inline(never)]
pub fn put<T: 'static, const NUMBER: usize>(name: &'static str, value: T) -> Stored<T> {
    put_boxed(name, Box::new(value));
    Stored(PhantomData)
}

/// Takes a variable out.
///
/// # Panics
/// When there is none of this name and type: the kernel's books and the child's differ, which is a fault of ours.
#[inline(always)]
pub fn take<T: 'static>(name: &'static str) -> T {
    let value = take_boxed(name, TypeId::of::<T>());
    // SAFETY: `take_boxed` has checked that the value is a `T`.
    unsafe { *Box::from_raw(Box::into_raw(value).cast::<T>()) }
}

/// Gives a variable back, unless the cell has stored another of its name.
#[inline(always)]
pub fn restore<T: 'static>(name: &'static str, value: T) {
    restore_boxed(name, Box::new(value));
}

/// Drops all variables.
pub fn clear() {
    // Taken out first: a destructor may run code that looks here.
    let all = VARIABLES.with_borrow_mut(std::mem::take);
    drop(all);
}

#[inline(never)]
fn put_boxed(name: &'static str, value: Box<dyn Any>) {
    let variable = Variable { value: Some(value) };
    let before = VARIABLES.with_borrow_mut(|all| all.insert(name, variable));
    drop(before);
}

#[inline(never)]
fn take_boxed(name: &'static str, wanted: TypeId) -> Box<dyn Any> {
    let taken = VARIABLES.with_borrow_mut(|all| {
        let value = &mut all.get_mut(name)?.value;
        value.take_if(|value| (**value).type_id() == wanted)
    });
    match taken {
        Some(value) => value,
        None => missing(name),
    }
}

#[cold]
#[expect(clippy::panic, reason = "caught and told as the cell's error")]
fn missing(name: &str) -> ! {
    panic!("the variable `{name}` is not there, or has another type; restart the kernel")
}

#[inline(never)]
fn restore_boxed(name: &'static str, value: Box<dyn Any>) {
    let refused = VARIABLES.with_borrow_mut(|all| match all.get_mut(name) {
        Some(variable) if variable.value.is_none() => {
            variable.value = Some(value);
            None
        }
        _ => Some(value),
    });
    // Others wait to be given back behind this one: a destructor that panics must not keep them from it.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(refused)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_taken_and_given_back_and_a_new_one_wins() {
        put::<_, 0>("a", vec![1, 2]);
        let mut a: Vec<i32> = take("a");
        a.push(3);
        restore("a", a);
        let a: Vec<i32> = take("a");
        assert_eq!(a, [1, 2, 3]);
        put::<_, 0>("a", "new");
        restore("a", a);
        assert_eq!(take::<&str>("a"), "new");
    }

    #[test]
    fn a_destructor_that_panics_does_not_keep_others_from_being_given_back() {
        struct Bad;
        impl Drop for Bad {
            fn drop(&mut self) {
                panic!("in a destructor");
            }
        }
        put::<_, 0>("bad", Bad);
        let bad: Bad = take("bad");
        put::<_, 1>("bad", 1);
        restore("bad", bad);
        assert_eq!(take::<i32>("bad"), 1);
    }

    #[test]
    fn another_type_is_refused_and_the_value_stays() {
        put::<_, 0>("b", 7_u64);
        assert!(std::panic::catch_unwind(|| take::<i64>("b")).is_err());
        assert_eq!(take::<u64>("b"), 7);
        assert!(std::panic::catch_unwind(|| take::<u64>("b")).is_err());
    }

    #[test]
    fn clearing_drops_values_whose_destructors_look_at_the_variables() {
        struct Nosy;
        impl Drop for Nosy {
            fn drop(&mut self) {
                put::<_, 0>("c", 1);
            }
        }
        put::<_, 0>("nosy", Nosy);
        clear();
        assert_eq!(take::<i32>("c"), 1);
    }
}
