//! A cell's text, taken apart: items, statements, the expression at its end, the names that it binds and mentions.
//!
//! Parsed with the parser that evcxr uses, as the body of a function. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use ra_ap_syntax::ast::{self, AstNode, HasName};
use ra_ap_syntax::{Edition, SourceFile, SyntaxElement, SyntaxKind, SyntaxNode, TextRange};

use super::edits;
use super::item::Item;
use super::source::{CellText, Edit, Origin};

const BEFORE: &str = "fn cell() {\n";
const AFTER: &str = "\n}";

/// What a cell consists of.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) cell: Arc<CellText>,
    /// In the order of the text.
    pub(super) items: Vec<Item>,
    /// Trees of `use` and `extern crate` declarations.
    pub(super) uses: Vec<UseLeaf>,
    /// Statements, in order; items are left out.
    pub(super) statements: Vec<Part>,
    /// The expression at the end.
    pub(super) tail: Option<Part>,
    /// What `let` binds at the top of the cell.
    pub(super) bindings: Vec<Binding>,
    /// Every name that the statements mention.
    pub(super) mentions: BTreeSet<String>,
    /// `.await` at the top of the cell.
    pub(super) awaits: bool,
    /// A loop at the top of the cell: worth optimising.
    pub(super) has_loop: bool,
    /// A `?` may end its body.
    pub(super) tries: bool,
    /// `return` at the top of the cell, which has nothing to return from.
    pub(super) returns: bool,
}

/// A part of a cell with the changes for pasting it.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) origin: Origin,
    pub(super) edits: Vec<Edit>,
}

/// A variable that a cell makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Binding {
    pub(super) name: String,
    pub(super) is_mut: bool,
}

/// One name that a `use` declaration brings in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UseLeaf {
    /// The declaration of this name alone.
    pub(super) text: String,
    /// The name; none for `*` and `as _`.
    pub(super) name: Option<String>,
    /// First part of the path.
    pub(super) root: String,
    /// Number of its cell: older items do not see it.
    pub(super) number: u32,
    /// Number of the cell that gave its name another meaning: only older items see it still.
    pub(super) until: u32,
}

impl UseLeaf {
    /// Whether a text of this cell sees it.
    pub(super) fn is_seen_by(&self, number: u32) -> bool {
        self.number <= number && number < self.until
    }

    /// Whether a cell that mentions these names needs it. What may be a trait works without being mentioned.
    pub(super) fn is_needed(&self, mentions: &BTreeSet<String>) -> bool {
        match &self.name {
            Some(name) if name.starts_with(|c: char| c.is_lowercase() || c == '_') => mentions.contains(name),
            _ => true,
        }
    }
}

/// Takes a cell's text apart.
pub(super) fn parse(cell: &Arc<CellText>) -> Parsed {
    let text = format!("{BEFORE}{}{AFTER}", cell.code);
    let root = SourceFile::parse(&text, Edition::Edition2024).tree();
    let mut parsed = Parsed {
        cell: Arc::clone(cell),
        items: Vec::new(),
        uses: Vec::new(),
        statements: Vec::new(),
        tail: None,
        bindings: Vec::new(),
        mentions: BTreeSet::new(),
        awaits: false,
        has_loop: false,
        tries: false,
        returns: false,
    };
    let whole = root.syntax().children().find_map(ast::Fn::cast);
    let Some(list) = whole.and_then(|whole| whole.body()?.stmt_list()) else {
        parsed.keep_whole();
        return parsed;
    };
    // Braces that do not match: the function ended before the cell did, or not at all.
    let end = list
        .r_curly_token()
        .map(|brace| usize::from(brace.text_range().end()));
    let is_torn = list
        .syntax()
        .children()
        .any(|child| child.kind() == SyntaxKind::ERROR);
    if end != Some(text.len()) || is_torn {
        parsed.keep_whole();
        return parsed;
    }
    for statement in list.statements() {
        match statement {
            ast::Stmt::Item(item) => parsed.add_item(&item),
            ast::Stmt::LetStmt(statement) => {
                if let Some(pattern) = statement.pat() {
                    parsed.bind(pattern.syntax(), statement.let_else().is_some());
                }
                parsed.add_statement(statement.syntax());
            }
            ast::Stmt::ExprStmt(statement) => match item_macro(statement.expr(), statement.syntax(), cell) {
                Some(item) => parsed.items.push(item),
                None => parsed.add_statement(statement.syntax()),
            },
        }
    }
    // Written out in this cell in any case: a wrong declaration must be told now.
    let declared = parsed.uses.iter().filter_map(|leaf| leaf.name.clone());
    parsed.mentions.extend(declared.collect::<Vec<_>>());
    if let Some(tail) = list.tail_expr() {
        match item_macro(Some(tail.clone()), tail.syntax(), cell) {
            Some(item) => parsed.items.push(item),
            None => {
                parsed.look_at(tail.syntax());
                parsed.tail = Some(part(cell, tail.syntax()));
            }
        }
    }
    parsed
}

impl Parsed {
    /// A text that is no list of statements goes to the compiler as it is: nobody explains it better.
    fn keep_whole(&mut self) {
        let range = 0..self.cell.code.len();
        let origin = Origin {
            cell: Arc::clone(&self.cell),
            range,
        };
        self.statements = vec![Part {
            origin,
            edits: Vec::new(),
        }];
    }

    fn add_item(&mut self, item: &ast::Item) {
        let origin = origin(&self.cell, item.syntax());
        match item {
            ast::Item::Use(used) => {
                let attributes: String = used
                    .syntax()
                    .children()
                    .filter(|child| child.kind() == SyntaxKind::ATTR)
                    .map(|child| format!("{child} "))
                    .collect();
                if let Some(tree) = used.use_tree() {
                    leaves(&tree, &attributes, "", &mut self.uses);
                }
                self.uses
                    .iter_mut()
                    .for_each(|leaf| leaf.number = self.cell.number);
            }
            ast::Item::ExternCrate(external) => {
                let name = external
                    .name_ref()
                    .map(|name| name.to_string())
                    .unwrap_or_default();
                let alias = external.rename().and_then(|rename| rename.name());
                self.uses.push(UseLeaf {
                    text: format!("{};", external.syntax().text().to_string().trim_end_matches(';')),
                    name: Some(alias.map_or_else(|| name.clone(), |alias| alias.to_string())),
                    number: self.cell.number,
                    until: u32::MAX,
                    root: name,
                });
            }
            other => self.items.push(Item::new(other, origin)),
        }
    }

    fn add_statement(&mut self, node: &SyntaxNode) {
        self.look_at(node);
        self.statements.push(part(&self.cell, node));
    }

    fn look_at(&mut self, node: &SyntaxNode) {
        self.mentions.extend(mentions(node));
        self.awaits |= awaits(node);
        self.returns |= returns(node);
        self.tries |= tries(node);
        self.has_loop |= node.descendants().any(|node| {
            matches!(
                node.kind(),
                SyntaxKind::LOOP_EXPR | SyntaxKind::WHILE_EXPR | SyntaxKind::FOR_EXPR
            )
        });
    }

    /// Notes what a pattern binds; a refutable one may name constants, which look like names that are bound.
    fn bind(&mut self, pattern: &SyntaxNode, refutable: bool) {
        for found in pattern.descendants().filter_map(ast::IdentPat::cast) {
            let Some(name) = found.name() else { continue };
            let name = name.text().trim_start_matches("r#").to_owned();
            let plain = found.mut_token().is_none() && found.ref_token().is_none() && found.pat().is_none();
            if plain && (name == "None" || refutable && name.starts_with(char::is_uppercase)) {
                continue;
            }
            let is_mut = found.mut_token().is_some();
            self.bindings.retain(|one| one.name != name);
            self.bindings.push(Binding { name, is_mut });
        }
    }
}

fn part(cell: &Arc<CellText>, node: &SyntaxNode) -> Part {
    let origin = origin(cell, node);
    let start = usize::from(node.text_range().start());
    let mut edits = edits::checks(node, edits::Loops::All);
    for edit in &mut edits {
        edit.at -= start;
    }
    Part { origin, edits }
}

fn origin(cell: &Arc<CellText>, node: &SyntaxNode) -> Origin {
    let range = node.text_range();
    let offset = |at| usize::from(at) - BEFORE.len();
    Origin {
        cell: Arc::clone(cell),
        range: offset(range.start())..offset(range.end()),
    }
}

/// Macros whose calls define items. By its form such a call cannot be told from a statement.
const ITEM_MACROS: [&str; 3] = ["thread_local", "lazy_static", "bitflags"];

fn item_macro(expression: Option<ast::Expr>, whole: &SyntaxNode, cell: &Arc<CellText>) -> Option<Item> {
    let ast::Expr::MacroExpr(call) = expression? else {
        return None;
    };
    let call = call.macro_call()?;
    let path = call.path()?;
    let name = path.segment()?.name_ref()?.to_string();
    if !ITEM_MACROS.contains(&name.as_str()) {
        return None;
    }
    let tree = call.token_tree()?;
    Some(Item::of_macro_call(
        &path.syntax().text().to_string(),
        tree.syntax(),
        origin(cell, whole),
    ))
}

/// Every identifier in a piece of syntax, also those in format strings (`"{name}"`).
pub(super) fn mentions(node: &SyntaxNode) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for token in node
        .descendants_with_tokens()
        .filter_map(SyntaxElement::into_token)
    {
        match token.kind() {
            SyntaxKind::IDENT => {
                found.insert(token.text().trim_start_matches("r#").to_owned());
            }
            SyntaxKind::STRING => captured(token.text(), &mut found),
            _ => {}
        }
    }
    found
}

/// Names in braces, as format strings capture them.
fn captured(text: &str, found: &mut BTreeSet<String>) {
    for part in text.split('{').skip(1) {
        let end = part
            .find(|c: char| !(c.is_alphanumeric() || c == '_'))
            .unwrap_or(part.len());
        let name = &part[..end];
        if name.starts_with(|c: char| c.is_alphabetic() || c == '_') {
            found.insert(name.to_owned());
        }
        // A width or precision: `{x:>width$}`.
        for piece in part
            .split('$')
            .map(|piece| piece.rsplit(['.', '>', '<', '^', ':', '+']).next())
        {
            if let Some(name) = piece.filter(|name| name.starts_with(char::is_alphabetic)) {
                found.insert(name.to_owned());
            }
        }
    }
}

/// Whether there is a `?`, also one in the text of a macro's call.
fn tries(node: &SyntaxNode) -> bool {
    node.descendants_with_tokens()
        .any(|one| one.kind() == SyntaxKind::QUESTION)
}

/// Whether the code returns from its own body.
fn returns(node: &SyntaxNode) -> bool {
    match node.kind() {
        SyntaxKind::RETURN_EXPR => true,
        SyntaxKind::CLOSURE_EXPR | SyntaxKind::FN => false,
        SyntaxKind::BLOCK_EXPR
            if ast::BlockExpr::cast(node.clone()).is_some_and(|block| block.async_token().is_some()) =>
        {
            false
        }
        _ => node.children().any(|child| returns(&child)),
    }
}

/// Whether the code awaits in its own body, and not in an async block or closure within.
fn awaits(node: &SyntaxNode) -> bool {
    match node.kind() {
        SyntaxKind::AWAIT_EXPR => return true,
        SyntaxKind::CLOSURE_EXPR | SyntaxKind::FN => return false,
        SyntaxKind::BLOCK_EXPR => {
            let is_async =
                ast::BlockExpr::cast(node.clone()).is_some_and(|block| block.async_token().is_some());
            if is_async {
                return false;
            }
        }
        // `println!("{}", f.await)`: the arguments of a macro are tokens.
        SyntaxKind::TOKEN_TREE => {
            let text = node.text().to_string();
            return text.contains(".await") && !text.contains("async ");
        }
        _ => {}
    }
    node.children().any(|child| awaits(&child))
}

/// One declaration for each name of a `use` tree.
pub(super) fn leaves(tree: &ast::UseTree, attributes: &str, prefix: &str, out: &mut Vec<UseLeaf>) {
    let own = tree
        .path()
        .map(|path| path.syntax().text().to_string())
        .unwrap_or_default();
    let own: String = own.chars().filter(|c| !c.is_whitespace()).collect();
    let rooted = tree.coloncolon_token().is_some() && tree.path().is_none();
    let joined = match (prefix.is_empty(), own.is_empty()) {
        (true, _) if rooted => "::".to_owned(),
        (true, _) => own,
        (false, true) => prefix.to_owned(),
        (false, false) => format!("{prefix}::{own}"),
    };
    if let Some(list) = tree.use_tree_list() {
        for inner in list.use_trees() {
            leaves(&inner, attributes, &joined, out);
        }
        return;
    }
    let path = joined.strip_suffix("::self").unwrap_or(&joined);
    let alias = tree.rename().and_then(|rename| {
        let name = rename.name().map(|name| name.to_string());
        name.or_else(|| rename.underscore_token().map(|_| "_".to_owned()))
    });
    let (text, name) = match &alias {
        _ if tree.star_token().is_some() => (format!("{attributes}use {path}::*;"), None),
        Some(alias) => (
            format!("{attributes}use {path} as {alias};"),
            Some(alias.clone()).filter(|alias| alias != "_"),
        ),
        None => (
            format!("{attributes}use {path};"),
            path.rsplit("::")
                .next()
                .map(|name| name.trim_start_matches("r#").to_owned()),
        ),
    };
    let parts: Vec<&str> = path.split("::").filter(|part| !part.is_empty()).collect();
    out.push(UseLeaf {
        text,
        name,
        root: parts.first().copied().unwrap_or_default().to_owned(),
        number: 0,
        until: u32::MAX,
    });
}

/// The range of a node, as bytes.
pub(super) fn bytes(range: TextRange) -> std::ops::Range<usize> {
    usize::from(range.start())..usize::from(range.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: &str) -> Parsed {
        parse(&Arc::new(CellText {
            number: 1,
            shown: 1,
            code: code.to_owned(),
        }))
    }

    #[test]
    fn a_cell_is_taken_apart() {
        let parsed = of(
            "use std::{fmt, io::{self, Write as _}};\nlet (mut a, Some(b)) = f() else { panic!() };\n\
            struct P;\nprintln!(\"{a:?} {}\", c);\na + d",
        );
        let uses: Vec<&str> = parsed.uses.iter().map(|one| one.text.as_str()).collect();
        assert_eq!(
            uses,
            ["use std::fmt;", "use std::io;", "use std::io::Write as _;"]
        );
        let bound: Vec<_> = parsed
            .bindings
            .iter()
            .map(|one| (one.name.as_str(), one.is_mut))
            .collect();
        assert_eq!(bound, [("a", true), ("b", false)]);
        assert_eq!(parsed.items.len(), 1);
        assert_eq!(parsed.statements.len(), 2);
        assert_eq!(parsed.tail.as_ref().unwrap().origin.text(), "a + d");
        for name in ["a", "c", "d", "f"] {
            assert!(parsed.mentions.contains(name), "{name}");
        }
    }

    #[test]
    fn upper_case_names_are_bound_where_they_cannot_be_constants() {
        let names = |code: &str| {
            of(code)
                .bindings
                .into_iter()
                .map(|one| one.name)
                .collect::<Vec<_>>()
        };
        assert_eq!(names("let X = 1; let (Y, z) = (1, 2);"), ["X", "Y", "z"]);
        assert_eq!(names("let (None, z) = f() else { panic!() };"), ["z"]);
        assert!(of("if true { return Ok(()) }").returns && !of("f(|| return 1)").returns);
        assert_eq!(of("let a = 1; )").statements[0].origin.text(), "let a = 1; )");
    }

    #[test]
    fn a_keyword_can_be_a_name() {
        let parsed = of("let r#type = 1;");
        assert_eq!(parsed.bindings[0].name, "type");
        assert!(of("r#type + 1").mentions.contains("type"));
    }

    #[test]
    fn awaiting_counts_only_in_the_cells_own_body() {
        assert!(of("f().await?;").awaits);
        assert!(of("println!(\"{}\", f().await);").awaits);
        assert!(!of("let f = async { g().await };").awaits);
        assert!(of("for i in 0..3 { i; }").has_loop);
    }

    #[test]
    fn a_text_whose_braces_do_not_match_goes_to_the_compiler_whole() {
        let parsed = of("let a = 1; }");
        assert_eq!(parsed.statements.len(), 1);
        assert_eq!(parsed.statements[0].origin.text(), "let a = 1; }");
    }

    #[test]
    fn widths_and_names_in_format_strings_are_mentioned() {
        let parsed = of("println!(\"{x:>width$.prec$} {{no}}\");");
        for name in ["x", "width", "prec"] {
            assert!(parsed.mentions.contains(name), "{name}");
        }
    }
}
