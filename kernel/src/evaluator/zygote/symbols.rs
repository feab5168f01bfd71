//! Types of variables, by the symbols of a compiled cell.
//!
//! A cell stores its variable number N with `alephlab_cell::put::<T, N>`, and the symbol of that function says what `T`
//! is (mangling v0). It names a type by where it is defined, which is not always where code can name it:
//! `std::collections::hash::map::HashMap`. What is known here costs nothing; for the rest the compiler is asked to spell
//! types out ([`super::types`]), which makes it half as slow again. Pure.

use std::collections::BTreeMap;

use object::{Object, ObjectSymbol};

/// Where a type is defined, and how code calls it.
const KNOWN: [(&str, &str); 34] = [
    ("alloc::borrow::Cow", "std::borrow::Cow"),
    ("alloc::boxed::Box", "std::boxed::Box"),
    (
        "alloc::collections::btree::map::BTreeMap",
        "std::collections::BTreeMap",
    ),
    (
        "alloc::collections::btree::set::BTreeSet",
        "std::collections::BTreeSet",
    ),
    (
        "alloc::collections::vec_deque::VecDeque",
        "std::collections::VecDeque",
    ),
    ("alloc::rc::Rc", "std::rc::Rc"),
    ("alloc::string::String", "std::string::String"),
    ("alloc::sync::Arc", "std::sync::Arc"),
    ("alloc::vec::Vec", "std::vec::Vec"),
    ("alephlab::dataset::Dataset", "alephlab::dataset::Dataset"),
    ("alephlab::table::Split", "alephlab::table::Split"),
    ("alephlab::table::Table", "alephlab::table::Table"),
    ("candle_core::device::Device", "alephlab::candle_core::Device"),
    ("candle_core::dtype::DType", "alephlab::candle_core::DType"),
    ("candle_core::shape::Shape", "alephlab::candle_core::Shape"),
    ("candle_core::tensor::Tensor", "alephlab::candle_core::Tensor"),
    ("candle_core::variable::Var", "alephlab::candle_core::Var"),
    ("candle_nn::linear::Linear", "alephlab::candle_nn::Linear"),
    ("candle_nn::var_map::VarMap", "alephlab::candle_nn::VarMap"),
    ("core::cell::Cell", "std::cell::Cell"),
    ("core::cell::RefCell", "std::cell::RefCell"),
    ("core::num::nonzero::NonZero", "std::num::NonZero"),
    ("core::ops::range::Range", "std::ops::Range"),
    ("core::option::Option", "std::option::Option"),
    ("core::result::Result", "std::result::Result"),
    ("core::sync::atomic::AtomicBool", "std::sync::atomic::AtomicBool"),
    ("core::time::Duration", "std::time::Duration"),
    (
        "std::collections::hash::map::HashMap",
        "std::collections::HashMap",
    ),
    (
        "std::collections::hash::set::HashSet",
        "std::collections::HashSet",
    ),
    ("std::hash::random::RandomState", "std::hash::RandomState"),
    ("std::path::PathBuf", "std::path::PathBuf"),
    ("std::sync::mpsc::Receiver", "std::sync::mpsc::Receiver"),
    ("std::sync::mpsc::Sender", "std::sync::mpsc::Sender"),
    ("std::time::Instant", "std::time::Instant"),
];
/// Names that stand for themselves.
const PLAIN: [&str; 21] = [
    "bool", "char", "const", "f32", "f64", "i128", "i16", "i32", "i64", "i8", "isize", "mut", "str", "u128",
    "u16", "u32", "u64", "u8", "usize", "true", "false",
];
/// The default argument that collections have and that code cannot name.
const ALLOCATOR: &str = ", alloc::alloc::Global";

/// Type by number of a stored variable, as the symbol says it.
pub(super) fn stored(object: &[u8]) -> BTreeMap<usize, String> {
    let mut found = BTreeMap::new();
    let Ok(file) = object::File::parse(object) else {
        return found;
    };
    for symbol in file.symbols().filter_map(|symbol| symbol.name().ok()) {
        // Cheap to see in the mangled form, where most symbols are something else.
        if !symbol.contains("13alephlab_cell") || !symbol.contains("3put") {
            continue;
        }
        let name = format!("{:#}", rustc_demangle::demangle(symbol));
        let arguments = name
            .strip_prefix("alephlab_cell::variables::put::<")
            .and_then(|rest| rest.strip_suffix('>'));
        if let Some((kind, number)) = arguments.and_then(|text| text.rsplit_once(", "))
            && let Ok(number) = number.trim_end_matches("usize").parse()
        {
            found.insert(number, kind.to_owned());
        }
    }
    found
}

/// How code names a type, when that is known for all parts of it.
pub(super) fn spelling(symbol: &str) -> Option<String> {
    let text = symbol.replace(ALLOCATOR, "");
    // Functions, closures, trait objects and lifetimes are written otherwise.
    if text.contains(['{', '\'', '='])
        || text.contains("dyn ")
        || text.contains("fn(")
        || text.contains("for<")
    {
        return None;
    }
    let mut out = String::new();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let end = rest.find(|c: char| !is_path(c)).unwrap_or(rest.len());
        let (path, after) = rest.split_at(end);
        if !path.is_empty() {
            out.push_str(&named(path)?);
        }
        let next = after.chars().next();
        out.extend(next);
        rest = &after[next.map_or(0, char::len_utf8)..];
    }
    Some(out)
}

fn is_path(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == ':'
}

fn named(path: &str) -> Option<String> {
    let is_number = path.starts_with(|c: char| c.is_ascii_digit());
    if is_number || PLAIN.contains(&path) {
        return Some(path.to_owned());
    }
    // An item of the notebook: public, and at the top of its crate.
    let is_item = path.starts_with(super::items::CRATE_PREFIX) && path.matches("::").count() == 1;
    if is_item {
        return Some(path.to_owned());
    }
    let known = KNOWN.iter().find(|(defined, _)| *defined == path);
    known.map(|(_, called)| (*called).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_types_are_spelled_without_what_code_cannot_name() {
        let spelled = |symbol: &str| spelling(symbol).unwrap();
        assert_eq!(
            spelled("alloc::vec::Vec<(alloc::string::String, f64), alloc::alloc::Global>"),
            "std::vec::Vec<(std::string::String, f64)>"
        );
        assert_eq!(spelled("&str"), "&str");
        assert_eq!(spelled("[u8; 3]"), "[u8; 3]");
        assert_eq!(spelled("*mut u8"), "*mut u8");
        assert_eq!(
            spelled("core::option::Option<it_0123456789ab::P<i32>>"),
            "std::option::Option<it_0123456789ab::P<i32>>"
        );
        assert_eq!(
            spelled("std::collections::hash::map::HashMap<u8, i8, std::hash::random::RandomState>"),
            "std::collections::HashMap<u8, i8, std::hash::RandomState>"
        );
    }

    #[test]
    fn others_are_left_to_the_compiler() {
        for symbol in [
            "std::fs::File",
            "it_0123456789ab::m::P",
            "alloc::boxed::Box<dyn core::any::Any>",
            "cell::alephlab_cell_entry::{closure#0}",
            "fn(i32) -> i32",
        ] {
            assert_eq!(spelling(symbol), None, "{symbol}");
        }
    }
}
