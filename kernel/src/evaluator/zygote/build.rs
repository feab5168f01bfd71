//! Compiles crates of items, each once: optimised, by rustc itself, into a library that cells are loaded with.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::diagnostics::{self, Diagnostic};
use super::items::{Imports, Items, PlannedCrate};
use super::parse::UseLeaf;
use super::server;
use super::source::Source;
use super::store::{self, Store};
use super::toolbox::{Kind, Optimise, Scope, Toolbox, external};
use crate::{Error, Result};

/// A compiled crate of items.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) metadata: PathBuf,
    pub(super) library: PathBuf,
    pub(super) scope: Scope,
    pub(super) source: Arc<Source>,
    /// All crates that it needs, each behind those that it needs itself.
    pub(super) chain: Vec<Arc<Built>>,
}

/// Why a crate was not built.
#[derive(Debug)]
pub(super) enum Fault {
    /// The compiler refused it.
    Errors {
        errors: Vec<Diagnostic>,
        source: Arc<Source>,
    },
    /// The compiler was stopped, or crashed: what it printed.
    Stopped(String),
    /// It could not be tried.
    Failed(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// What crates are built from.
pub(super) struct Workshop<'a> {
    pub(super) toolbox: &'a Toolbox,
    pub(super) store: &'a Store,
    pub(super) items: &'a Items,
    /// For the debugger.
    pub(super) debug: bool,
}

impl Workshop<'_> {
    /// Builds a plan in its order; crates that are there already are not built again.
    pub(super) fn build(
        &self,
        plan: &[PlannedCrate],
    ) -> std::result::Result<BTreeMap<u32, Arc<Built>>, Fault> {
        let mut built = BTreeMap::new();
        for planned in plan {
            let done = self.build_crate(planned, &built)?;
            built.insert(planned.id, Arc::new(done));
        }
        Ok(built)
    }

    fn build_crate(
        &self,
        planned: &PlannedCrate,
        built: &BTreeMap<u32, Arc<Built>>,
    ) -> std::result::Result<Built, Fault> {
        let imports = self.items.imports_of(planned.id);
        let chain = chain(planned.needs.iter().filter_map(|need| built.get(need)));
        let mentions: BTreeSet<String> = self
            .items
            .of_crate(planned.id)
            .flat_map(|item| self.items.close(&item.mentions))
            .collect();
        let own: BTreeSet<&str> = self
            .items
            .of_crate(planned.id)
            .flat_map(|item| item.names.iter().map(String::as_str))
            .collect();
        let number = self.items.number_of(planned.id);
        let seen = self.items.uses.iter().filter(|leaf| leaf.is_seen_by(number));
        let uses = needed_uses(seen, &mentions, |name| own.contains(name));
        let scope = scope(self.toolbox, self.items, &mentions, &uses, &chain);
        let mut source = Source::default();
        source.push(&self.toolbox.header(scope));
        for one in &chain {
            source.push(&format!("extern crate {};\n", one.name));
        }
        source.push(&import_lines(&imports, built, &own));
        uses.iter()
            .for_each(|leaf| source.push(&format!("{}\n", leaf.text)));
        for item in self.items.of_crate(planned.id) {
            source.paste(&item.origin, &item.edits);
            source.push("\n");
        }
        let kind = if self.debug {
            Kind::for_debugger(scope)
        } else {
            Kind::new(scope, Optimise::Yes)
        };
        let base = format!("{} {kind:?}", self.toolbox.base());
        let parts = [base.as_str(), planned.name.as_str(), source.text.as_str()].into_iter();
        let version = store::name(parts.chain(chain.iter().map(|one| one.version.as_str())));
        let source = Arc::new(source);
        let folder = match self.store.find(&version) {
            Some(folder) => folder,
            None => self.compile(&planned.name, &version, kind, &source, &chain)?,
        };
        Ok(Built {
            metadata: folder.join(metadata_name(&planned.name)),
            library: store::library(&folder),
            name: planned.name.clone(),
            version,
            scope,
            source,
            chain,
        })
    }

    fn compile(
        &self,
        name: &str,
        version: &str,
        kind: Kind,
        source: &Arc<Source>,
        chain: &[Arc<Built>],
    ) -> std::result::Result<PathBuf, Fault> {
        let folder = self.store.begin()?;
        let file = source_name(version);
        let path = folder.join(&file);
        fs::write(&path, &source.text).map_err(Error::file("write", path))?;
        let mut command = Command::new(&self.toolbox.rustc);
        command.args(["--crate-type=rlib", "--crate-name", name]);
        command.arg(format!("--emit=metadata={},obj=items.o", metadata_name(name)));
        command.args(self.toolbox.flags(kind));
        for one in chain {
            command.args(external(&one.name, &one.metadata));
        }
        command
            .arg(&file)
            .current_dir(&folder)
            .env_remove("RUST_BACKTRACE");
        let printed = server::run(command)?;
        let (errors, other) = diagnostics::read(&printed.text);
        let object = folder.join("items.o");
        if !errors.is_empty() {
            let _ = fs::remove_dir_all(&folder);
            let source = Arc::clone(source);
            return Err(Fault::Errors { errors, source });
        }
        if !object.exists() {
            let _ = fs::remove_dir_all(&folder);
            return Err(Fault::Stopped(other));
        }
        let mut libraries: Vec<PathBuf> = chain.iter().map(|one| one.library.clone()).collect();
        libraries.extend(self.toolbox.libraries(kind.scope));
        link(self.toolbox, &object, &libraries, &store::library(&folder))?;
        let _ = fs::remove_file(object);
        Ok(self.store.keep(&folder, version)?)
    }
}

/// The name of a crate's source: what a panic's location names.
pub(super) fn source_name(version: &str) -> String {
    format!("{version}-items.rs")
}

fn metadata_name(name: &str) -> String {
    format!("lib{name}.rmeta")
}

/// Crates and what they need, each once and behind what it needs.
pub(super) fn chain<'a>(crates: impl Iterator<Item = &'a Arc<Built>>) -> Vec<Arc<Built>> {
    let mut chain: Vec<Arc<Built>> = Vec::new();
    for one in crates {
        for link in one.chain.iter().chain([one]) {
            if !chain.iter().any(|known| known.name == link.name) {
                chain.push(Arc::clone(link));
            }
        }
    }
    chain
}

/// `use` lines for items of other crates; names that are `own` mean something else here.
pub(super) fn import_lines(
    imports: &Imports,
    built: &BTreeMap<u32, Arc<Built>>,
    own: &BTreeSet<&str>,
) -> String {
    let mut text = String::new();
    for (id, names) in &imports.names {
        let Some(one) = built.get(id) else { continue };
        let names: Vec<String> = names
            .iter()
            .filter(|name| !own.contains(name.as_str()))
            .map(|name| raw(name))
            .collect();
        if names.iter().any(|name| name == "*") {
            text.push_str(&format!("use {}::*;\n", one.name));
        } else if !names.is_empty() {
            text.push_str(&format!("use {}::{{{}}};\n", one.name, names.join(", ")));
        }
    }
    text
}

/// A name that is a keyword, as code writes it.
pub(super) fn raw(name: &str) -> String {
    let is_keyword =
        ra_ap_syntax::SyntaxKind::from_keyword(name, ra_ap_syntax::Edition::Edition2024).is_some();
    if is_keyword {
        format!("r#{name}")
    } else {
        name.to_owned()
    }
}

/// Declarations that a text with these mentions needs.
pub(super) fn needed_uses<'a>(
    uses: impl Iterator<Item = &'a UseLeaf>,
    mentions: &BTreeSet<String>,
    hidden: impl Fn(&str) -> bool,
) -> Vec<&'a UseLeaf> {
    let visible = |leaf: &&UseLeaf| !leaf.name.as_deref().is_some_and(&hidden);
    uses.filter(|leaf| leaf.is_needed(mentions))
        .filter(visible)
        .collect()
}

/// What a text needs to be compiled with.
pub(super) fn scope(
    toolbox: &Toolbox,
    items: &Items,
    mentions: &BTreeSet<String>,
    uses: &[&UseLeaf],
    chain: &[Arc<Built>],
) -> Scope {
    let is_std = |root: &str| matches!(root, "std" | "core" | "alloc" | "self" | "crate" | "super" | "");
    let foreign = |leaf: &&UseLeaf| !is_std(&leaf.root) && !items.defines(&leaf.root);
    let full = mentions.iter().any(|name| toolbox.is_full_name(name))
        || uses.iter().any(foreign)
        || chain.iter().any(|one| one.scope == Scope::Full);
    if full { Scope::Full } else { Scope::Lean }
}

/// Makes a library of an object. Symbols that it does not have are found when it is loaded.
pub(super) fn link(toolbox: &Toolbox, object: &Path, libraries: &[PathBuf], out: &Path) -> Result<()> {
    let mut command = Command::new(&toolbox.linker.program);
    command.args(&toolbox.linker.arguments);
    // Without the index of unwind tables a panic would abort; `-Bsymbolic` binds a crate's calls to its own functions
    // and not to those of an earlier version of it; few segments, because a process has only so many mappings.
    command.args(["--eh-frame-hdr", "-shared", "-Bsymbolic", "--build-id=none"]);
    command.args([
        "-z",
        "noexecstack",
        "-z",
        "noseparate-code",
        "-z",
        "norelro",
        "-o",
    ]);
    command.arg(out).arg(object).args(libraries);
    // rustc's libraries are needed by name alone.
    let folders: BTreeSet<&Path> = libraries.iter().filter_map(|library| library.parent()).collect();
    for folder in folders {
        command.arg("-rpath").arg(folder);
    }
    let failed = |message: String| Error::Program {
        program: "ld".into(),
        message,
    };
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let output = command.output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}
