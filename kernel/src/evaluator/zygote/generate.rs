//! The source of a cell's statements.
//!
//! ```text
//! extern crate slot3 as it_5f…;  use it_5f…::{P};      items that the cell mentions
//! pub extern "C-unwind" fn alephlab_cell_entry() -> Done {
//!     let mut x: Vec<f64> = take("x");                 variables that it mentions
//!     run(|| { …the cell…; put("y", y); Ok(()) });     what it makes
//!     restore("x", x);                                 unless it uses x up
//! }
//! ```
//!
//! A cell that takes no variable and has no `?` is the entry's own body: a closure and its result cost the compiler 5 ms.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::build::{self, Built};
use super::item::is_volatile;
use super::items::Items;
use super::parse::{Parsed, UseLeaf};
use super::source::Source;
use super::store::{self, Fate, Moves};
use super::toolbox::{Kind, Optimise, Scope, Toolbox};
use super::types;
use crate::child::ENTRY;

/// A variable that lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Variable {
    /// As the compiler spells it.
    pub(super) kind: String,
    /// Declared with `mut`.
    pub(super) is_mut: bool,
}

/// Everything that later cells can see.
#[derive(Debug, Clone, Default)]
pub(super) struct Session {
    pub(super) items: Items,
    /// Crates of the items, by number.
    pub(super) built: BTreeMap<u32, Arc<Built>>,
    /// The newest crate of each name that there ever was: variables may have types of older ones.
    pub(super) known: BTreeMap<String, Arc<Built>>,
    pub(super) variables: BTreeMap<String, Variable>,
    /// `:opt 2`: every cell is optimised.
    pub(super) optimise_all: bool,
    /// Cells are compiled for the debugger.
    pub(super) debug: bool,
    /// Cells of a subshell: they take and store only what may go from thread to thread.
    pub(super) beside: bool,
}

/// What a cell turned out to need that its text does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// The runtime in scope.
    pub(super) full: bool,
    /// A body that may fail: a macro made a `?`.
    pub(super) fails: bool,
}

/// How the entry function is written.
#[derive(Debug, Clone, Copy)]
struct Form {
    scope: Scope,
    /// It is the cell's body itself.
    is_plain: bool,
}

/// A cell, ready for the compiler.
#[derive(Debug)]
pub(super) struct Generated {
    pub(super) source: Arc<Source>,
    pub(super) kind: Kind,
    /// Hash of all that it is made from.
    pub(super) key: String,
    pub(super) libraries: Vec<PathBuf>,
    /// Variables that it stores, in the order of their numbers.
    pub(super) puts: Vec<String>,
}

impl Session {
    /// Writes the source of a cell's statements. Variables that it `moves` are not given back from outside its body; `slot`
    /// numbers crates for the compile server.
    pub(super) fn generate(
        &self,
        toolbox: &Toolbox,
        parsed: &Parsed,
        moves: &Moves,
        needs: Needs,
        mut slot: impl FnMut(&Built) -> usize,
    ) -> Generated {
        let mentions = self.mentions(parsed);
        let taken: BTreeSet<String> = self
            .variables
            .keys()
            .filter(|name| mentions.contains(*name))
            .cloned()
            .collect();
        let imports = self.items.imports(&mentions);
        let of_types: Vec<&Arc<Built>> = taken
            .iter()
            .flat_map(|name| types::crates(&self.variables[name].kind))
            .filter_map(|name| self.known.get(&name))
            .collect();
        let chain = build::chain(
            imports
                .names
                .keys()
                .filter_map(|id| self.built.get(id))
                .chain(of_types),
        );
        let uses = build::needed_uses(self.living_uses(), &mentions, |name| self.is_item_newer(name));
        let kinds = taken
            .iter()
            .flat_map(|name| types::crates(&self.variables[name].kind));
        let typed = kinds.into_iter().any(|name| !is_small(&name));
        let scope = match build::scope(toolbox, &self.items, &mentions, &uses, &chain) {
            Scope::Lean if !typed && !needs.full => Scope::Lean,
            _ => Scope::Full,
        };
        let optimise = if parsed.has_loop || self.optimise_all {
            Optimise::Yes
        } else {
            Optimise::No
        };
        let mut source = Source::default();
        for one in &chain {
            source.push(&format!("extern crate slot{} as {};\n", slot(one), one.name));
        }
        let after_slots = source.text.len();
        source.push(&build::import_lines(&imports, &self.built, &self.use_names()));
        uses.iter()
            .for_each(|leaf| source.push(&format!("{}\n", leaf.text)));
        let is_plain = taken.is_empty() && !parsed.awaits && !parsed.tries && !needs.fails;
        let form = Form { scope, is_plain };
        let puts = self.body(parsed, &taken, moves, form, &mentions, &mut source);
        let kind = if self.debug {
            Kind::for_debugger(scope)
        } else {
            Kind::new(scope, optimise)
        };
        let base = if self.debug || is_volatile(&parsed.cell.code) {
            // What it reads may have changed, or the debugger wants its file to be this one: it is not looked for among
            // what was compiled before.
            uuid::Uuid::new_v4().to_string()
        } else {
            toolbox.base()
        };
        let flags = format!("{kind:?}");
        let parts = [base.as_str(), flags.as_str(), &source.text[after_slots..]].into_iter();
        let key = store::name(parts.chain(chain.iter().map(|one| one.version.as_str())));
        let mut libraries: Vec<PathBuf> = chain.iter().map(|one| one.library.clone()).collect();
        libraries.extend(toolbox.libraries(scope));
        Generated {
            source: Arc::new(source),
            kind,
            key,
            libraries,
            puts,
        }
    }

    /// Writes the entry function; the variables that it stores.
    fn body(
        &self,
        parsed: &Parsed,
        taken: &BTreeSet<String>,
        moves: &Moves,
        form: Form,
        mentions: &BTreeSet<String>,
        source: &mut Source,
    ) -> Vec<String> {
        let Form { scope, is_plain } = form;
        let mut puts = Vec::new();
        if scope == Scope::Full && parsed.tail.is_some() {
            source.push("use ::alephlab::display::ShowKnown as _;\n");
        }
        source.push(&format!(
            "use ::alephlab_cell::EvcxrDisplay as _;\n#[unsafe(no_mangle)] pub extern \"C-unwind\" fn {ENTRY}() -> ::alephlab_cell::Done {{\n"
        ));
        for name in taken {
            let variable = &self.variables[name];
            let is_mut = if variable.is_mut { "mut " } else { "" };
            let (sent, closed) = self.sent();
            source.push(&format!(
                "let {is_mut}{}: {} = {sent}::alephlab_cell::take({name:?}){closed};\n",
                build::raw(name),
                variable.kind
            ));
        }
        if !is_plain {
            source
                .push("::alephlab_cell::run(|| -> ::core::result::Result<(), ::alephlab_cell::Failure> {\n");
        }
        if parsed.awaits {
            source.push("::alephlab_cell::block_on(async {\n");
        } else if scope == Scope::Full && mentions.contains("tokio") {
            source.push("let _entered = ::alephlab::executor::enter();\n");
        }
        for part in &parsed.statements {
            source.paste(&part.origin, &part.edits);
            source.push("\n");
        }
        if let Some(tail) = &parsed.tail {
            source.push("::alephlab_cell::Shown(::alephlab_cell::Rare(&(");
            source.paste(&tail.origin, &tail.edits);
            source.push("\n))).evcxr_display();\n");
        }
        let made = parsed.bindings.iter().map(|binding| &binding.name);
        let made = made.filter(|name| !moves.made.contains(*name));
        // Moved, but given a new value: it is in the body's hands, and given back there.
        let remade = moves.taken.iter().filter(|(_, fate)| **fate == Fate::Remade);
        let remade = remade.map(|(name, _)| name);
        for (number, name) in made.chain(remade).enumerate() {
            let (sent, closed) = self.sent();
            source.push(&format!(
                "::alephlab_cell::put::<_, {number}>({name:?}, {sent}{}{closed});\n",
                build::raw(name)
            ));
            puts.push(name.clone());
        }
        if !is_plain {
            source.push("::core::result::Result::<(), ::alephlab_cell::Failure>::Ok(())");
            source.push(if parsed.awaits { " }) });\n" } else { " });\n" });
        }
        for name in taken.iter().filter(|name| !moves.taken.contains_key(*name)) {
            source.push(&format!(
                "::alephlab_cell::restore({name:?}, {});\n",
                build::raw(name)
            ));
        }
        source.push("::alephlab_cell::Done(0)\n}\n");
        puts
    }

    /// What stands around a value that a subshell's cell takes or stores.
    fn sent(&self) -> (&'static str, &'static str) {
        if self.beside {
            ("::alephlab_cell::sent(", ")")
        } else {
            ("", "")
        }
    }

    /// Variables that a cell takes, or stores.
    pub(super) fn names(&self, parsed: &Parsed) -> BTreeSet<String> {
        let mentions = self.mentions(parsed);
        let taken = self.variables.keys().filter(|name| mentions.contains(*name));
        let made = parsed.bindings.iter().map(|binding| &binding.name);
        taken.chain(made).cloned().collect()
    }

    /// What the cell mentions, also through macros.
    pub(super) fn mentions(&self, parsed: &Parsed) -> BTreeSet<String> {
        self.items.close(&parsed.mentions)
    }

    /// Declarations that a cell of now sees.
    fn living_uses(&self) -> impl Iterator<Item = &UseLeaf> {
        self.items.uses.iter().filter(|leaf| leaf.until == u32::MAX)
    }

    fn use_names(&self) -> BTreeSet<&str> {
        let names = self.living_uses().filter_map(|leaf| leaf.name.as_deref());
        names.filter(|name| !self.is_item_newer(name)).collect()
    }

    /// Whether a name that both an item and a declaration have is the item's. A declaration that comes later removes
    /// the item, so an item that is there is the newer one.
    fn is_item_newer(&self, name: &str) -> bool {
        self.items.defines(name)
    }
}

/// Whether the cell has `name = …`.
pub(super) fn is_assigned(parsed: &Parsed, name: &str) -> bool {
    let code = parsed.cell.code.as_str();
    code.match_indices(name).any(|(at, _)| {
        let begins = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '.');
        let rest = code[at + name.len()..].trim_start();
        begins && rest.starts_with('=') && !rest.starts_with("==") && !rest.starts_with("=>")
    })
}

/// Crates whose metadata every server has.
fn is_small(name: &str) -> bool {
    matches!(name, "std" | "core" | "alloc" | "alephlab_cell") || name.starts_with(super::items::CRATE_PREFIX)
}
