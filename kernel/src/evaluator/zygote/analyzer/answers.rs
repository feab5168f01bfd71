//! What rust-analyzer is asked, and its answers in Jupyter's terms.

use std::panic::{AssertUnwindSafe, catch_unwind};

use alephlab_link::MimeBundle;
use ra_ap_hir::PrefixKind;
use ra_ap_ide::{
    Analysis, CompletionConfig, CompletionFieldsToResolve, CompletionItem, CompletionItemKind, FileId,
    FilePosition, FileRange, HoverConfig, HoverDocFormat, RaFixtureConfig, SubstTyLen, SymbolKind, TextRange,
    TextSize,
};
use ra_ap_ide_db::imports::insert_use::{ImportGranularity, InsertUseConfig};
use serde_json::json;

use super::Document;
use crate::evaluator::{Completions, Match};

/// Most completions of one answer: a client shows them all.
const MAX_MATCHES: usize = 500;
/// How names begin that are ours or evcxr's, and nobody types.
const OWN: [&str; 2] = ["alephlab_", "evcxr_"];

/// What could stand at the cursor.
pub(super) fn complete(analysis: &Analysis, file: FileId, document: &Document) -> Option<Completions> {
    let position = FilePosition {
        file_id: file,
        offset: offset(document.cursor)?,
    };
    let found = survive(|| analysis.completions(&completion_config(), position, None).ok())???;
    let mut items: Vec<(u32, CompletionItem)> = Vec::new();
    let mut range = None;
    for item in found {
        let replaced = item.source_range;
        let typed = document
            .text
            .get(usize::from(replaced.start())..document.cursor)?;
        let mut edits = item.text_edit.iter();
        let is_plain = edits.next().is_some_and(|edit| edit.delete == replaced) && edits.next().is_none();
        let is_own = OWN
            .iter()
            .any(|own| item.lookup.starts_with(own) && !typed.starts_with(own));
        if !is_plain
            || is_own
            || !begins_with(&item.lookup, typed)
            || *range.get_or_insert(replaced) != replaced
        {
            continue;
        }
        items.push((item.relevance.score(), item));
    }
    // Best first, and the same each time.
    items.sort_by(|(a, one), (b, other)| b.cmp(a).then_with(|| one.label.primary.cmp(&other.label.primary)));
    let range = range.unwrap_or_else(|| TextRange::empty(position.offset));
    let mut matches: Vec<Match> = items.into_iter().map(|(_, item)| as_match(&item)).collect();
    matches.truncate(MAX_MATCHES);
    Some(Completions {
        matches,
        start: usize::from(range.start()).checked_sub(document.start)?,
        end: usize::from(range.end()).checked_sub(document.start)?,
    })
}

/// Documentation of the name at the cursor, or else of the function in whose parentheses it stands.
pub(super) fn inspect(analysis: &Analysis, file: FileId, document: &Document) -> Option<MimeBundle> {
    let offset = offset(document.cursor)?;
    let (before, after) = document.text.split_at_checked(document.cursor)?;
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let at_name = before.ends_with(is_name) || after.starts_with(is_name);
    let named = at_name.then(|| of_name(analysis, file, offset)).flatten();
    let (text, markdown) = named.or_else(|| of_call(analysis, file, offset))?;
    let mut bundle = MimeBundle::new();
    bundle.insert("text/plain".to_owned(), json!(text));
    bundle.insert("text/markdown".to_owned(), json!(markdown));
    Some(bundle)
}

/// Plain text and Markdown.
fn of_name(analysis: &Analysis, file: FileId, offset: TextSize) -> Option<(String, String)> {
    let hover = |format| {
        let range = FileRange {
            file_id: file,
            range: TextRange::empty(offset),
        };
        let found = survive(|| analysis.hover(&hover_config(format), range).ok())??;
        Some(found?.info.markup.as_str().to_owned())
    };
    Some((
        hover(HoverDocFormat::PlainText)?,
        hover(HoverDocFormat::Markdown)?,
    ))
}

/// Plain text and Markdown.
fn of_call(analysis: &Analysis, file: FileId, offset: TextSize) -> Option<(String, String)> {
    let position = FilePosition {
        file_id: file,
        offset,
    };
    let call = survive(|| analysis.signature_help(position).ok())???;
    let doc = call.doc.map(|doc| doc.as_str().to_owned()).unwrap_or_default();
    let text = format!("{}\n\n{doc}", call.signature);
    let markdown = format!("```rust\n{}\n```\n\n{doc}", call.signature);
    Some((text.trim_end().to_owned(), markdown.trim_end().to_owned()))
}

/// rust-analyzer sees half-written code most of the time, and does not survive all of it.
fn survive<T>(ask: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(ask)).ok()
}

fn offset(at: usize) -> Option<TextSize> {
    u32::try_from(at).ok().map(TextSize::from)
}

fn begins_with(name: &str, typed: &str) -> bool {
    let mut name = name.chars().flat_map(char::to_lowercase);
    typed
        .chars()
        .flat_map(char::to_lowercase)
        .all(|c| name.next() == Some(c))
}

fn as_match(item: &CompletionItem) -> Match {
    let text = item.text_edit.iter().map(|edit| edit.insert.as_str()).collect();
    let signature = item.label.detail_right.clone().or_else(|| item.detail.clone());
    Match {
        text,
        kind: kind(item.kind).to_owned(),
        signature: signature.unwrap_or_default(),
    }
}

/// The names that JupyterLab has icons for.
fn kind(kind: CompletionItemKind) -> &'static str {
    match kind {
        CompletionItemKind::SymbolKind(kind) => match kind {
            SymbolKind::Function
            | SymbolKind::Method
            | SymbolKind::Macro
            | SymbolKind::ProcMacro
            | SymbolKind::Derive
            | SymbolKind::Attribute
            | SymbolKind::BuiltinAttr => "function",
            SymbolKind::Struct
            | SymbolKind::Enum
            | SymbolKind::Union
            | SymbolKind::Trait
            | SymbolKind::TypeAlias
            | SymbolKind::TypeParam
            | SymbolKind::SelfType => "class",
            SymbolKind::Module | SymbolKind::CrateRoot | SymbolKind::ToolModule => "module",
            SymbolKind::Field => "property",
            _ => "instance",
        },
        CompletionItemKind::Keyword => "keyword",
        CompletionItemKind::BuiltinType => "class",
        _ => "instance",
    }
}

fn completion_config() -> CompletionConfig<'static> {
    CompletionConfig {
        enable_postfix_completions: false,
        enable_imports_on_the_fly: false,
        enable_self_on_the_fly: true,
        enable_auto_iter: false,
        enable_auto_await: false,
        enable_private_editable: false,
        enable_term_search: false,
        term_search_fuel: 0,
        full_function_signatures: true,
        callable: None,
        add_colons_to_module: false,
        add_semicolon_to_unit: false,
        // Jupyter's clients insert text as it is.
        snippet_cap: None,
        insert_use: InsertUseConfig {
            granularity: ImportGranularity::Crate,
            enforce_granularity: false,
            prefix_kind: PrefixKind::Plain,
            group: false,
            skip_glob_imports: false,
        },
        prefer_no_std: false,
        prefer_prelude: true,
        prefer_absolute: false,
        snippets: Vec::new(),
        limit: None,
        fields_to_resolve: CompletionFieldsToResolve::empty(),
        exclude_flyimport: Vec::new(),
        exclude_traits: &[],
        ra_fixture: RaFixtureConfig::default(),
    }
}

fn hover_config(format: HoverDocFormat) -> HoverConfig<'static> {
    HoverConfig {
        links_in_hover: false,
        memory_layout: None,
        documentation: true,
        keywords: true,
        format,
        max_trait_assoc_items_count: Some(5),
        max_fields_count: Some(5),
        max_enum_variants_count: Some(5),
        max_subst_ty_len: SubstTyLen::LimitTo(60),
        show_drop_glue: false,
        ra_fixture: RaFixtureConfig::default(),
    }
}
