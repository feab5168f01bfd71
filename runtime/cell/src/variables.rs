//! Variables that outlive their cell.
//!
//! A cell takes the ones that it uses out as locals, so that all of Rust works on them (moves, borrows, fields), and
//! gives back what it has not used up. Those of the main shell's cells need not be `Send`: only its thread takes them
//! out, and drops them. What a cell of a subshell takes and stores is `Send`, see [`sent`].
//!
//! A value is kept as its bytes and the identity of its type: all but a few lines is compiled here and not again in
//! every cell, for every type, as `Box<dyn Any>` would be. Unsafe code is allowed here for that.
#![expect(
    unsafe_code,
    reason = "each cell compiles `take` and `put` again for each variable"
)]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::any::TypeId;
use std::cell::Cell;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

/// A variable's memory.
struct Slot {
    identity: TypeId,
    layout: Layout,
    /// Drops the value that lies at an address.
    drop: unsafe fn(*mut u8),
    bytes: NonNull<u8>,
    /// False while a cell has the value.
    is_there: bool,
    /// Stored by a cell of the main shell, and so perhaps not `Send`.
    of_main: bool,
}

// SAFETY: a value that may not be `Send` is one of the main shell's. Cells of subshells cannot take it (the compiler
// refuses, see `sent`), and its slot is dropped on the main shell's thread only (see `let_go`).
unsafe impl Send for Slot {}

type Variables = HashMap<&'static str, Slot>;

static VARIABLES: LazyLock<Mutex<Variables>> = LazyLock::new(Mutex::default);
/// What cells of subshells have put something in place of; the main shell's thread drops it.
static LEFT: Mutex<Vec<Slot>> = Mutex::new(Vec::new());

thread_local! {
    /// Set on threads of subshells.
    static IS_BESIDE: Cell<bool> = const { Cell::new(false) };
}

/// This thread runs cells of a subshell.
pub fn beside() {
    IS_BESIDE.set(true);
}

/// A value that a subshell's cell takes or stores: it goes from one thread to another.
#[inline(always)]
pub fn sent<T: Send>(value: T) -> T {
    value
}

/// Never held while code of cells runs, a destructor for example.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Drops a slot, or leaves it to the thread that may.
fn let_go(slot: Option<Slot>) {
    match slot {
        Some(slot) if slot.of_main && IS_BESIDE.get() => lock(&LEFT).push(slot),
        slot => drop(slot),
    }
}

/// Drops what was left to the main shell's thread. Called there.
pub(crate) fn drop_left() {
    if !IS_BESIDE.get() {
        let left = std::mem::take(&mut *lock(&LEFT));
        for slot in left {
            // One of a cell that has ended: its panic is nobody's.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(slot)));
        }
    }
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
    let mut value = ManuallyDrop::new(value);
    let address = std::ptr::from_mut(&mut value).cast();
    // SAFETY: the value is a `T`, and is not used here any more.
    unsafe { put_bytes(name, TypeId::of::<T>(), Layout::new::<T>(), drop_at::<T>, address) };
    Stored(PhantomData)
}

/// Takes a variable out.
///
/// # Panics
/// When there is none of this name and type: the kernel's books and the child's differ, which is a fault of ours.
#[inline(always)]
pub fn take<T: 'static>(name: &'static str) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: there is room for a `T`, and when this returns a `T` is there: its identity was compared.
    unsafe {
        take_bytes(name, TypeId::of::<T>(), value.as_mut_ptr().cast());
        value.assume_init()
    }
}

/// Gives a variable back, unless the cell has stored another of its name.
#[inline(always)]
pub fn restore<T: 'static>(name: &'static str, value: T) {
    let mut value = ManuallyDrop::new(value);
    let address = std::ptr::from_mut(&mut value).cast();
    // SAFETY: as in `put`.
    unsafe { restore_bytes(name, TypeId::of::<T>(), drop_at::<T>, address) };
}

/// Shows every variable of this very type that no cell is using now. `see` runs while nobody can take or store one: it must
/// not do so either.
pub fn look<T: Sync + 'static>(mut see: impl FnMut(&'static str, &T)) {
    let all = lock(&VARIABLES);
    let there = all
        .iter()
        .filter(|(_, slot)| slot.is_there && slot.identity == TypeId::of::<T>());
    for (name, slot) in there {
        // SAFETY: a `T` is there, which nobody can take while the lock is held; it is `Sync`, whichever thread this is.
        see(name, unsafe { slot.bytes.cast::<T>().as_ref() });
    }
}

/// # Safety
/// A `T` lies there, and nobody uses it after this.
unsafe fn drop_at<T>(address: *mut u8) {
    // SAFETY: the caller's.
    unsafe { std::ptr::drop_in_place(address.cast::<T>()) };
}

impl Slot {
    /// Memory without a value.
    fn new(identity: TypeId, layout: Layout, drop: unsafe fn(*mut u8)) -> Self {
        let bytes = if layout.size() == 0 {
            NonNull::without_provenance(
                layout
                    .align()
                    .try_into()
                    .unwrap_or(std::num::NonZero::<usize>::MIN),
            )
        } else {
            // SAFETY: the layout has a size.
            match NonNull::new(unsafe { alloc(layout) }) {
                Some(bytes) => bytes,
                None => handle_alloc_error(layout),
            }
        };
        Self {
            identity,
            layout,
            drop,
            bytes,
            is_there: false,
            of_main: !IS_BESIDE.get(),
        }
    }

    /// # Safety
    /// A value of the slot's type lies at `address` and is not used there any more; the slot has none.
    unsafe fn fill(&mut self, address: *const u8) {
        // SAFETY: both are as long as the layout says, and the slot's memory is its own.
        unsafe { std::ptr::copy_nonoverlapping(address, self.bytes.as_ptr(), self.layout.size()) };
        self.is_there = true;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let free = FreeOnDrop(self.bytes, self.layout);
        if self.is_there {
            // SAFETY: a value is there, and gone after this.
            unsafe { (self.drop)(self.bytes.as_ptr()) };
        }
        drop(free);
    }
}

/// Frees a slot's memory, also when the value's destructor panics.
struct FreeOnDrop(NonNull<u8>, Layout);

impl Drop for FreeOnDrop {
    fn drop(&mut self) {
        if self.1.size() > 0 {
            // SAFETY: allocated with this layout in `Slot::new`.
            unsafe { dealloc(self.0.as_ptr(), self.1) };
        }
    }
}

/// # Safety
/// A value of the identity and layout lies at `address`, `drop` drops such a one, and nobody uses it there any more.
#[inline(never)]
unsafe fn put_bytes(
    name: &'static str,
    identity: TypeId,
    layout: Layout,
    drop: unsafe fn(*mut u8),
    address: *const u8,
) {
    let mut slot = Slot::new(identity, layout, drop);
    // SAFETY: the caller's; the slot is new.
    unsafe { slot.fill(address) };
    let before = lock(&VARIABLES).insert(name, slot);
    let_go(before);
}

/// # Safety
/// `out` has room for a value of the identity.
#[inline(never)]
unsafe fn take_bytes(name: &'static str, wanted: TypeId, out: *mut u8) {
    let taken = match lock(&VARIABLES).get_mut(name) {
        Some(slot) if slot.is_there && slot.identity == wanted => {
            slot.is_there = false;
            // SAFETY: a value of this type is there, and from now on it is the caller's.
            unsafe { std::ptr::copy_nonoverlapping(slot.bytes.as_ptr(), out, slot.layout.size()) };
            true
        }
        _ => false,
    };
    if !taken {
        missing(name);
    }
}

#[cold]
#[expect(clippy::panic, reason = "caught and told as the cell's error")]
fn missing(name: &str) -> ! {
    panic!("the variable `{name}` is not there, or has another type; restart the kernel")
}

/// # Safety
/// A value of the identity lies at `address`, `drop` drops such a one, and nobody uses it there any more.
#[inline(never)]
unsafe fn restore_bytes(name: &'static str, identity: TypeId, drop: unsafe fn(*mut u8), address: *mut u8) {
    let restored = match lock(&VARIABLES).get_mut(name) {
        Some(slot) if !slot.is_there && slot.identity == identity => {
            // SAFETY: the caller's; the slot is empty.
            unsafe { slot.fill(address) };
            true
        }
        _ => false,
    };
    if !restored {
        // Others wait to be given back behind this one: a destructor that panics must not keep them from it.
        // SAFETY: the caller's.
        let _ = catch_unwind(AssertUnwindSafe(|| unsafe { drop(address) }));
    }
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
    fn variables_of_a_type_can_be_looked_at_where_they_lie() {
        put::<_, 0>("seen", 0.5_f32);
        put::<_, 0>("unseen", 0.5_f64);
        let mut seen = Vec::new();
        look(|name, value: &f32| seen.push((name, *value)));
        assert_eq!(seen, [("seen", 0.5)]);
        assert_eq!(take::<f32>("seen"), 0.5);
        look(|_, _: &f32| panic!("it is taken"));
    }

    #[test]
    fn a_destructor_of_what_is_replaced_may_store_variables() {
        struct Nosy;
        impl Drop for Nosy {
            fn drop(&mut self) {
                put::<_, 0>("c", 1);
            }
        }
        put::<_, 0>("nosy", Nosy);
        put::<_, 0>("nosy", ());
        assert_eq!(take::<i32>("c"), 1);
    }

    #[test]
    fn what_a_subshell_replaces_is_dropped_on_the_thread_of_the_main_shell() {
        struct Tells(std::sync::mpsc::Sender<std::thread::ThreadId>);
        impl Drop for Tells {
            fn drop(&mut self) {
                let _ = self.0.send(std::thread::current().id());
            }
        }
        // Each cell drops what was left.
        let _one = crate::body::ONE_CELL.lock();
        let (send, dropped_on) = std::sync::mpsc::channel();
        put::<_, 0>("tells", Tells(send));
        let of_subshell = std::thread::spawn(|| {
            beside();
            put::<_, 0>("tells", sent(vec![1]));
            drop_left();
        });
        of_subshell.join().unwrap();
        assert!(dropped_on.try_recv().is_err());
        drop_left();
        assert_eq!(dropped_on.try_recv(), Ok(std::thread::current().id()));
        assert_eq!(take::<Vec<i32>>("tells"), [1]);
    }
}
