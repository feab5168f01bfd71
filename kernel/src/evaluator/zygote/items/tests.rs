//! What becomes of items, cell after cell.

use std::sync::Arc;

use super::*;
use crate::evaluator::zygote::parse::parse;
use crate::evaluator::zygote::source::CellText;

fn cells(all: &[&str]) -> Items {
    let mut items = Items::default();
    for (number, code) in (1..).zip(all) {
        items = add(&items, number, code);
    }
    items
}

fn add(items: &Items, number: u32, code: &str) -> Items {
    let cell = CellText {
        number,
        shown: 1,
        code: (*code).to_owned(),
    };
    items.with(&parse(&Arc::new(cell)).items).0
}

fn titles(items: &Items) -> Vec<Vec<String>> {
    let plan = items.plan();
    plan.iter()
        .map(|one| {
            items
                .of_crate(one.id)
                .map(|item| item.title().to_owned())
                .collect()
        })
        .collect()
}

fn names(items: &Items) -> Vec<String> {
    items.plan().into_iter().map(|one| one.name).collect()
}

#[test]
fn each_cell_is_a_crate_behind_those_that_it_needs() {
    let items = cells(&["struct P(u8);", "fn f(p: &P) -> u8 { p.0 }", "fn g() {}"]);
    assert_eq!(titles(&items), [vec!["P"], vec!["f"], vec!["g"]]);
    assert_eq!(items.plan()[1].needs, BTreeSet::from([0]));
}

#[test]
fn an_impl_joins_its_type_and_leaves_the_types_name_alone() {
    let before = cells(&["struct P(u8);", "trait T { fn t(&self); }"]);
    let after = add(&before, 3, "impl P { fn f(&self) {} }");
    assert_eq!(titles(&after), [vec!["P", "impl P { f }"], vec!["T"]]);
    assert_eq!(names(&before), names(&after));
    let both = add(&after, 4, "impl T for P { fn t(&self) {} }");
    assert_eq!(titles(&both)[1], ["T", "impl T for P"]);
}

#[test]
fn another_layout_is_another_name_also_for_what_holds_it_and_back_again_is_the_old_one() {
    let first = cells(&["struct P(u8);", "struct L(P);", "fn f() {}"]);
    let second = add(&first, 4, "struct P(String);");
    let (before, after) = (names(&first), names(&second));
    assert!(before[0] != after[0] && before[1] != after[1]);
    assert_eq!(before[2], after[2]);
    assert_eq!(names(&add(&second, 5, "struct P(u8);")), before);
}

#[test]
fn a_changed_method_replaces_the_old_one_and_another_method_stands_beside() {
    let items = cells(&[
        "struct P;",
        "impl P { fn a(&self) -> u8 { 1 } }",
        "impl P { fn b(&self) {} }",
    ]);
    let items = add(&items, 4, "impl P { fn a(&self) -> u8 { 2 } fn c(&self) {} }");
    assert_eq!(titles(&items), [vec!["P", "impl P { b }", "impl P { a, c }"]]);
}

#[test]
fn crates_that_need_each_other_become_one() {
    let items = cells(&[
        "fn even(n: u8) -> bool { n == 0 }",
        "fn odd(n: u8) -> bool { n != 0 && even(n - 1) }",
    ]);
    let items = add(&items, 3, "fn even(n: u8) -> bool { n == 0 || odd(n - 1) }");
    assert_eq!(titles(&items), [vec!["even", "odd"]]);
}

#[test]
fn a_name_that_came_later_is_not_meant_by_what_is_older() {
    // `x` is a field there.
    let items = cells(&["struct P { x: u8 }", "fn x(p: P) -> u8 { p.x }"]);
    assert_eq!(items.plan()[0].needs, BTreeSet::new());
}

#[test]
fn traits_come_with_their_functions_and_macros_with_what_they_mention() {
    let items = cells(&[
        "trait T { fn t(&self) {} }\nimpl T for u8 {}",
        "fn f() {}",
        "macro_rules! m { () => { f() } }",
    ]);
    let imports = items.imports(&BTreeSet::from(["t".to_owned()]));
    assert_eq!(imports.names[&0], BTreeSet::from(["T".to_owned()]));
    let closed = items.close(&BTreeSet::from(["m".to_owned()]));
    assert!(closed.contains("f"));
}

#[test]
fn a_name_of_a_crate_follows_what_its_words_mean_and_not_what_they_do_not_mean() {
    let with_use = |text: &str| {
        let cell = CellText {
            number: 2,
            shown: 2,
            code: text.to_owned(),
        };
        let mut items = cells(&["struct S { m: String }"]);
        items.add_uses(&parse(&Arc::new(cell)).uses);
        names(&add(&items, 3, "impl S { fn f(&self) {} }"))
    };
    let plain = names(&cells(&["struct S { m: String }"]));
    assert_eq!(with_use("use std::collections::HashMap;"), plain);
    // The crate is built anew with the `impl`, and there `String` is another type.
    assert_ne!(with_use("use std::primitive::u64 as String;"), plain);
    let mut items = cells(&["struct S(semver::Version);"]);
    let before = names(&items);
    items
        .foreign
        .insert("semver".to_owned(), "libsemver-1.rlib".to_owned());
    assert_ne!(names(&items), before);
}

#[test]
fn a_declaration_that_is_repeated_or_replaced_stays_for_what_is_older() {
    let uses = |number: u32, text: &str| {
        let cell = CellText {
            number,
            shown: number,
            code: text.to_owned(),
        };
        parse(&Arc::new(cell)).uses
    };
    let mut items = Items::default();
    items.add_uses(&uses(1, "use std::io::Result;"));
    items.add_uses(&uses(3, "use std::io::Result;"));
    assert!(items.uses.len() == 1 && items.uses[0].is_seen_by(2));
    items.add_uses(&uses(4, "use std::fmt::Result;"));
    assert!(items.uses[0].is_seen_by(2) && !items.uses[0].is_seen_by(4));
    let items = add(&items, 5, "enum E { A, B }");
    let mut items = items;
    items.add_uses(&uses(6, "use E::{A, B};"));
    let items = add(&items, 7, "enum E { A, C }");
    let living: Vec<&str> = items
        .uses
        .iter()
        .filter(|leaf| leaf.is_seen_by(8))
        .map(|leaf| leaf.text.as_str())
        .collect();
    assert_eq!(living, ["use std::fmt::Result;", "use E::A;"]);
}

#[test]
fn the_same_text_again_changes_nothing() {
    let items = cells(&["struct P(u8);"]);
    let cell = CellText {
        number: 2,
        shown: 2,
        code: "struct P(u8);".to_owned(),
    };
    let (_, changed) = items.with(&parse(&Arc::new(cell)).items);
    assert!(changed.keys.is_empty());
}
