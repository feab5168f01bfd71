//! What changes when a person's text is pasted into generated source: interrupt checks, and visibility.
//!
//! Each is an insertion without a new line. Offsets are those of the parsed text. Pure; called by [`super::parse`] and
//! [`super::item`].

use ra_ap_syntax::ast::{self, AstNode, HasAttrs, HasLoopBody};
use ra_ap_syntax::{NodeOrToken, SyntaxKind, SyntaxNode, SyntaxToken};

use super::source::Edit;

/// Looks at the interrupt flag. A full path: a person may have a `check` of their own.
const CHECK: &str = "::alephlab_cell::check();";

/// Which loops look at the flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loops {
    /// All of them: without optimisation the look costs little.
    All,
    /// All but innermost `for` loops over a range that call nothing: they end by themselves, and the look would stop
    /// the compiler from using vector instructions (6 times slower).
    AllButFiniteLeaves,
}

/// Interrupt checks at the start of every loop, function and closure body.
pub(super) fn checks(node: &SyntaxNode, loops: Loops) -> Vec<Edit> {
    let mut edits = Vec::new();
    visit(node, loops, &mut edits);
    edits.sort_by_key(|edit| edit.at);
    edits
}

fn visit(node: &SyntaxNode, loops: Loops, edits: &mut Vec<Edit>) {
    match node.kind() {
        // Evaluated by the compiler, where the flag cannot be read.
        SyntaxKind::CONST | SyntaxKind::STATIC | SyntaxKind::CONST_ARG | SyntaxKind::VARIANT => return,
        SyntaxKind::FN => {
            let function = ast::Fn::cast(node.clone());
            let is_const = function.as_ref().is_some_and(|one| one.const_token().is_some());
            let naked = function.as_ref().is_some_and(|one| {
                one.attrs()
                    .any(|attribute| attribute.syntax().text().to_string().contains("naked"))
            });
            if is_const || naked {
                return;
            }
            if let Some(body) = function.and_then(|one| one.body()) {
                into_block(&body, edits);
            }
        }
        SyntaxKind::BLOCK_EXPR => {
            let is_const =
                ast::BlockExpr::cast(node.clone()).is_some_and(|block| block.const_token().is_some());
            if is_const {
                return;
            }
        }
        SyntaxKind::LOOP_EXPR => into_loop(ast::LoopExpr::cast(node.clone()), edits),
        SyntaxKind::WHILE_EXPR => into_loop(ast::WhileExpr::cast(node.clone()), edits),
        SyntaxKind::FOR_EXPR => {
            let looped = ast::ForExpr::cast(node.clone());
            let skipped = loops == Loops::AllButFiniteLeaves && looped.as_ref().is_some_and(is_finite_leaf);
            if !skipped {
                into_loop(looped, edits);
            }
        }
        SyntaxKind::CLOSURE_EXPR => into_closure(ast::ClosureExpr::cast(node.clone()), edits),
        _ => {}
    }
    for child in node.children() {
        visit(&child, loops, edits);
    }
}

fn into_loop(looped: Option<impl HasLoopBody>, edits: &mut Vec<Edit>) {
    if let Some(body) = looped.and_then(|looped| looped.loop_body()) {
        into_block(&body, edits);
    }
}

fn into_closure(closure: Option<ast::ClosureExpr>, edits: &mut Vec<Edit>) {
    let Some(closure) = closure.filter(|closure| closure.const_token().is_none()) else {
        return;
    };
    match closure.body() {
        Some(ast::Expr::BlockExpr(block)) if is_plain(&block) => into_block(&block, edits),
        Some(body) => {
            let range = super::parse::bytes(body.syntax().text_range());
            edits.push(insert(range.start, format!("{{{CHECK} ")));
            edits.push(insert(range.end, "}".to_owned()));
        }
        None => {}
    }
}

fn is_plain(block: &ast::BlockExpr) -> bool {
    block.async_token().is_none()
        && block.unsafe_token().is_none()
        && block.const_token().is_none()
        && block.label().is_none()
}

fn into_block(block: &ast::BlockExpr, edits: &mut Vec<Edit>) {
    let Some(list) = block.stmt_list() else { return };
    // An inner attribute must come first.
    if list
        .syntax()
        .children()
        .any(|child| child.kind() == SyntaxKind::ATTR && child.text().to_string().starts_with("#!"))
    {
        return;
    }
    if let Some(brace) = list.l_curly_token() {
        edits.push(insert(usize::from(brace.text_range().end()), CHECK.to_owned()));
    }
}

/// A `for` over a range that has an end, whose body has no call, macro, closure or loop.
fn is_finite_leaf(looped: &ast::ForExpr) -> bool {
    let range = looped.syntax().children().filter_map(ast::RangeExpr::cast).next();
    let ends = range.is_some_and(|range| range.syntax().children().count() == 2);
    let calls = |node: SyntaxNode| {
        matches!(
            node.kind(),
            SyntaxKind::CALL_EXPR
                | SyntaxKind::METHOD_CALL_EXPR
                | SyntaxKind::MACRO_EXPR
                | SyntaxKind::CLOSURE_EXPR
                | SyntaxKind::LOOP_EXPR
                | SyntaxKind::WHILE_EXPR
                | SyntaxKind::FOR_EXPR
        )
    };
    let body = looped.loop_body();
    ends && body.is_some_and(|body| !body.syntax().descendants().any(calls))
}

/// Makes an item and its parts public: each is compiled in a crate of its own, and a person sees no crates.
pub(super) fn visibility(item: &ast::Item) -> Vec<Edit> {
    let mut edits = Vec::new();
    match item {
        ast::Item::Impl(block) => {
            // Of a trait everything is public anyway.
            if block.for_token().is_none() {
                let parts = block
                    .assoc_item_list()
                    .into_iter()
                    .flat_map(|list| list.assoc_items());
                parts.for_each(|part| publish(part.syntax(), &mut edits));
            }
        }
        ast::Item::ExternBlock(block) => {
            let parts = block
                .extern_item_list()
                .into_iter()
                .flat_map(|list| list.extern_items());
            parts.for_each(|part| publish(part.syntax(), &mut edits));
        }
        ast::Item::MacroRules(rules) => {
            if !rules.syntax().text().to_string().contains("macro_export") {
                let at = super::parse::bytes(rules.syntax().text_range()).start;
                edits.push(insert(at, "#[macro_export] ".to_owned()));
            }
        }
        ast::Item::MacroCall(_) | ast::Item::AsmExpr(_) => {}
        other => {
            publish(other.syntax(), &mut edits);
            let fields =
                |node: &SyntaxNode| matches!(node.kind(), SyntaxKind::RECORD_FIELD | SyntaxKind::TUPLE_FIELD);
            if matches!(other, ast::Item::Struct(_) | ast::Item::Union(_)) {
                let all = other.syntax().descendants().filter(fields);
                all.for_each(|field| publish(&field, &mut edits));
            }
        }
    }
    edits.sort_by_key(|edit| edit.at);
    edits
}

fn publish(node: &SyntaxNode, edits: &mut Vec<Edit>) {
    let written = node
        .children()
        .find(|child| child.kind() == SyntaxKind::VISIBILITY);
    if let Some(written) = written {
        let range = super::parse::bytes(written.text_range());
        edits.push(Edit {
            at: range.start,
            remove: range.len(),
            insert: "pub".to_owned(),
        });
    } else if let Some(first) = first_word(node) {
        edits.push(insert(usize::from(first), "pub ".to_owned()));
    }
}

/// Where a declaration starts behind its attributes and comments.
fn first_word(node: &SyntaxNode) -> Option<ra_ap_syntax::TextSize> {
    let is_lead = |token: &SyntaxToken| matches!(token.kind(), SyntaxKind::WHITESPACE | SyntaxKind::COMMENT);
    node.children_with_tokens().find_map(|element| match element {
        NodeOrToken::Node(child) if child.kind() == SyntaxKind::ATTR => None,
        NodeOrToken::Token(token) if is_lead(&token) => None,
        other => Some(other.text_range().start()),
    })
}

fn insert(at: usize, text: String) -> Edit {
    Edit {
        at,
        remove: 0,
        insert: text,
    }
}

#[cfg(test)]
mod tests {
    use ra_ap_syntax::{Edition, SourceFile};

    use super::*;

    fn apply(text: &str, edits: &[Edit]) -> String {
        let mut out = String::new();
        let mut done = 0;
        for edit in edits {
            out.push_str(&text[done..edit.at]);
            out.push_str(&edit.insert);
            done = edit.at + edit.remove;
        }
        out.push_str(&text[done..]);
        out
    }

    fn checked(text: &str, loops: Loops) -> String {
        let file = SourceFile::parse(text, Edition::Edition2024).tree();
        apply(text, &checks(file.syntax(), loops)).replace(CHECK, "!")
    }

    fn published(text: &str) -> String {
        let file = SourceFile::parse(text, Edition::Edition2024).tree();
        let item = file.syntax().children().find_map(ast::Item::cast).unwrap();
        apply(text, &visibility(&item))
    }

    #[test]
    fn loops_functions_and_closures_look_at_the_flag() {
        assert_eq!(
            checked("fn f() { loop { g(|x| x + 1, || { 2 }) } }", Loops::All),
            "fn f() {! loop {! g(|x| {! x + 1}, || {! 2 }) } }"
        );
        assert_eq!(
            checked("const fn f() { while a {} }", Loops::All),
            "const fn f() { while a {} }"
        );
        assert_eq!(
            checked("static A: u8 = { loop {} };", Loops::All),
            "static A: u8 = { loop {} };"
        );
        assert_eq!(
            checked("fn f() { let g = || async { 1 }; }", Loops::All),
            "fn f() {! let g = || {! async { 1 }}; }"
        );
    }

    #[test]
    fn a_finite_innermost_loop_that_calls_nothing_may_be_left_alone() {
        let text = "fn f() { for i in 0..9 { for j in 0..n { a[j] += b[i]; } } }";
        assert_eq!(
            checked(text, Loops::AllButFiniteLeaves),
            "fn f() {! for i in 0..9 {! for j in 0..n { a[j] += b[i]; } } }"
        );
        let endless = "fn f() { for j in 0.. { a += 1; } }";
        assert_eq!(
            checked(endless, Loops::AllButFiniteLeaves),
            "fn f() {! for j in 0.. {! a += 1; } }"
        );
    }

    #[test]
    fn items_fields_and_methods_become_public() {
        assert_eq!(
            published("/// Doc\n#[derive(Debug)]\nstruct P<T> { a: T, pub(crate) b: u8 }"),
            "/// Doc\n#[derive(Debug)]\npub struct P<T> { pub a: T, pub b: u8 }"
        );
        assert_eq!(
            published("struct P(u8, pub u8);"),
            "pub struct P(pub u8, pub u8);"
        );
        assert_eq!(
            published("enum E { A(u8), B { x: u8 } }"),
            "pub enum E { A(u8), B { x: u8 } }"
        );
        assert_eq!(
            published("impl P { fn f(&self) {} const A: u8 = 1; }"),
            "impl P { pub fn f(&self) {} pub const A: u8 = 1; }"
        );
        assert_eq!(
            published("impl T for P { fn f(&self) {} }"),
            "impl T for P { fn f(&self) {} }"
        );
        assert_eq!(published("pub(super) async fn f() {}"), "pub async fn f() {}");
        assert_eq!(
            published("macro_rules! m { () => {} }"),
            "#[macro_export] macro_rules! m { () => {} }"
        );
    }
}
