//! One item of a cell: what it defines, what it mentions, and its text.

use std::collections::BTreeSet;

use ra_ap_syntax::ast::{self, AstNode, HasName};
use ra_ap_syntax::{SyntaxElement, SyntaxKind, SyntaxNode};

use super::edits::{self, Loops};
use super::parse::{bytes, mentions};
use super::source::{Edit, Origin};

/// An item.
#[derive(Debug, Clone)]
pub(super) struct Item {
    /// What a later item of the same key replaces.
    pub(super) key: Key,
    /// Names that others use it by. For a macro call that defines items: every name in its arguments.
    pub(super) names: Vec<String>,
    pub(super) kind: Kind,
    pub(super) origin: Origin,
    pub(super) edits: Vec<Edit>,
    /// Names that it mentions, without its own.
    pub(super) mentions: BTreeSet<String>,
    /// Of a trait its functions, of an `impl` what it defines.
    pub(super) members: BTreeSet<String>,
    /// A function, constant or static: its name means what a variable's would.
    pub(super) is_value: bool,
}

/// Identity of an item.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// A name.
    Name(String),
    /// The head of an `impl`.
    Impl(String),
}

/// What matters about the kind of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `struct`, `enum`, `union`, `type`, `const`, `const fn`, `mod`, a macro or its call: can change how values lie in
    /// memory or what type they are.
    Shaping,
    /// `trait`: as [`Kind::Shaping`], and its functions can be called without naming it.
    Trait,
    /// An `impl` with constants or types in it.
    ShapingImpl,
    /// Any other `impl`.
    Impl,
    /// A function.
    Function,
    /// `static`.
    Static,
}

impl Kind {
    /// Whether the types of a crate depend on the text of the item.
    pub(super) fn is_shaping(self) -> bool {
        matches!(
            self,
            Self::Shaping | Self::Trait | Self::ShapingImpl | Self::Static
        )
    }

    pub(super) fn is_impl(self) -> bool {
        matches!(self, Self::Impl | Self::ShapingImpl)
    }
}

impl Item {
    /// Of any item but `use` and `extern crate`.
    pub(super) fn new(item: &ast::Item, origin: Origin) -> Self {
        let node = item.syntax();
        let name = name(item);
        let kind = kind(item);
        let members = members(item);
        let key = match item {
            ast::Item::Impl(block) => Key::Impl(head(block, &members)),
            _ => Key::Name(name.clone().unwrap_or_else(|| node.text().to_string())),
        };
        let start = bytes(node.text_range()).start;
        let mut changes = edits::visibility(item);
        changes.extend(edits::checks(node, Loops::AllButFiniteLeaves));
        changes.sort_by_key(|edit| edit.at);
        for edit in &mut changes {
            edit.at -= start;
        }
        let names: Vec<String> = match item {
            ast::Item::ExternBlock(_) => members.iter().cloned().collect(),
            ast::Item::MacroCall(call) => {
                let tree = call.token_tree();
                tree.map(|tree| mentions(tree.syntax()).into_iter().collect())
                    .unwrap_or_default()
            }
            _ => name.into_iter().collect(),
        };
        let mut mentions = mentions(node);
        if !matches!(item, ast::Item::MacroCall(_)) {
            mentions.retain(|one| !names.contains(one));
        }
        Self {
            key,
            names,
            kind,
            origin,
            edits: changes,
            mentions,
            members,
            is_value: matches!(
                item,
                ast::Item::Fn(_) | ast::Item::Const(_) | ast::Item::Static(_)
            ),
        }
    }

    /// Of a macro call that is written like a statement.
    pub(super) fn of_macro_call(path: &str, arguments: &SyntaxNode, origin: Origin) -> Self {
        let names = defined(arguments);
        let mut mentions = mentions(arguments);
        mentions.retain(|one| !names.contains(one));
        mentions.extend(path.split("::").map(|part| part.trim().to_owned()));
        let kind = if path.ends_with("bitflags") {
            Kind::Shaping
        } else {
            Kind::Static
        };
        Self {
            key: Key::Name(names.first().cloned().unwrap_or_else(|| path.to_owned())),
            edits: publish_statics(arguments, &origin),
            names,
            kind,
            origin,
            mentions,
            members: BTreeSet::new(),
            is_value: true,
        }
    }

    /// Whether its text stands for what lies elsewhere, and so may mean another thing each time it is compiled.
    pub(super) fn is_volatile(&self) -> bool {
        is_volatile(self.text())
    }

    pub(super) fn text(&self) -> &str {
        self.origin.text()
    }

    /// How a person calls it.
    pub(super) fn title(&self) -> &str {
        match &self.key {
            Key::Name(name) | Key::Impl(name) => name,
        }
    }
}

/// Files and variables of the environment that the compiler reads.
pub(super) fn is_volatile(text: &str) -> bool {
    ["include!", "include_str!", "include_bytes!", "env!", "#[path"]
        .iter()
        .any(|mark| text.contains(mark))
}

fn name(item: &ast::Item) -> Option<String> {
    let name = match item {
        ast::Item::Const(one) => one.name(),
        ast::Item::Enum(one) => one.name(),
        ast::Item::Fn(one) => one.name(),
        ast::Item::MacroDef(one) => one.name(),
        ast::Item::MacroRules(one) => one.name(),
        ast::Item::Module(one) => one.name(),
        ast::Item::Static(one) => one.name(),
        ast::Item::Struct(one) => one.name(),
        ast::Item::Trait(one) => one.name(),
        ast::Item::TypeAlias(one) => one.name(),
        ast::Item::Union(one) => one.name(),
        _ => None,
    };
    name.map(|name| name.to_string().trim_start_matches("r#").to_owned())
}

fn kind(item: &ast::Item) -> Kind {
    match item {
        ast::Item::Fn(one) if one.const_token().is_some() => Kind::Shaping,
        // A type of its own can get out of a function in a box.
        ast::Item::Fn(one) if defines_types(one.syntax()) => Kind::Shaping,
        ast::Item::Fn(_) | ast::Item::ExternBlock(_) | ast::Item::AsmExpr(_) => Kind::Function,
        ast::Item::Static(_) => Kind::Static,
        ast::Item::Trait(_) => Kind::Trait,
        ast::Item::Impl(block) => {
            let parts = block
                .assoc_item_list()
                .into_iter()
                .flat_map(|list| list.assoc_items());
            let shapes = parts.into_iter().any(|part| match part {
                ast::AssocItem::Fn(one) => one.const_token().is_some(),
                _ => true,
            });
            if shapes || defines_types(block.syntax()) {
                Kind::ShapingImpl
            } else {
                Kind::Impl
            }
        }
        _ => Kind::Shaping,
    }
}

fn defines_types(node: &SyntaxNode) -> bool {
    let is_type = |node: SyntaxNode| {
        matches!(
            node.kind(),
            SyntaxKind::STRUCT
                | SyntaxKind::ENUM
                | SyntaxKind::UNION
                | SyntaxKind::CONST
                | SyntaxKind::TYPE_ALIAS
        )
    };
    node.descendants().any(is_type)
}

fn members(item: &ast::Item) -> BTreeSet<String> {
    let nodes: Vec<SyntaxNode> = match item {
        ast::Item::Trait(one) => {
            let list = one.assoc_item_list();
            list.into_iter()
                .flat_map(|list| list.assoc_items())
                .map(|part| part.syntax().clone())
                .collect()
        }
        ast::Item::Impl(one) => {
            let list = one.assoc_item_list();
            list.into_iter()
                .flat_map(|list| list.assoc_items())
                .map(|part| part.syntax().clone())
                .collect()
        }
        ast::Item::ExternBlock(one) => {
            let list = one.extern_item_list();
            list.into_iter()
                .flat_map(|list| list.extern_items())
                .map(|part| part.syntax().clone())
                .collect()
        }
        _ => Vec::new(),
    };
    nodes
        .iter()
        .filter_map(|node| node.children().find(|child| child.kind() == SyntaxKind::NAME))
        .map(|name| name.text().to_string())
        .collect()
}

/// The head of an `impl`, in single spaces. An inherent one is told apart by what it defines as well: two of them for
/// one type may stand side by side.
fn head(block: &ast::Impl, members: &BTreeSet<String>) -> String {
    let text = block.syntax().text().to_string();
    let body = block
        .assoc_item_list()
        .map(|list| bytes(list.syntax().text_range()).start);
    let start = bytes(block.syntax().text_range()).start;
    let text = body.and_then(|end| text.get(..end - start)).unwrap_or(&text);
    let text = text
        .rfind("impl")
        .and_then(|_| text.find("impl"))
        .map_or(text, |at| &text[at..]);
    let head = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if block.for_token().is_some() {
        return head;
    }
    let list: Vec<&str> = members.iter().map(String::as_str).collect();
    format!("{head} {{ {} }}", list.join(", "))
}

/// Names behind the keywords that define something.
fn defined(arguments: &SyntaxNode) -> Vec<String> {
    let mut names = Vec::new();
    let mut after_keyword = false;
    for token in arguments
        .descendants_with_tokens()
        .filter_map(SyntaxElement::into_token)
    {
        match token.kind() {
            SyntaxKind::STATIC_KW | SyntaxKind::STRUCT_KW | SyntaxKind::CONST_KW => after_keyword = true,
            SyntaxKind::IDENT if after_keyword => {
                names.push(token.text().to_owned());
                after_keyword = false;
            }
            SyntaxKind::WHITESPACE | SyntaxKind::REF_KW => {}
            _ => after_keyword = false,
        }
    }
    names
}

/// `static` inside a macro's arguments becomes `pub static`.
fn publish_statics(arguments: &SyntaxNode, origin: &Origin) -> Vec<Edit> {
    let text = origin.text();
    let tree = arguments.text().to_string();
    // The arguments end the call, but for a `;`.
    let Some(start) = text.find(&tree) else {
        return Vec::new();
    };
    let base = bytes(arguments.text_range()).start;
    let tokens = arguments
        .descendants_with_tokens()
        .filter_map(SyntaxElement::into_token);
    let mut before = None;
    let mut edits = Vec::new();
    for token in tokens.filter(|token| token.kind() != SyntaxKind::WHITESPACE) {
        if matches!(token.kind(), SyntaxKind::STATIC_KW | SyntaxKind::STRUCT_KW)
            && before != Some(SyntaxKind::PUB_KW)
        {
            edits.push(Edit {
                at: start + bytes(token.text_range()).start - base,
                remove: 0,
                insert: "pub ".to_owned(),
            });
        }
        before = Some(token.kind());
    }
    edits
}
