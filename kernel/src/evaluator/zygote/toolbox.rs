//! Paths and flags: everything that is fixed when a kernel starts.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use ra_ap_syntax::ast::{self, AstNode};
use ra_ap_syntax::{Edition, SourceFile};
use sha2::{Digest, Sha256};

use super::parse;
use crate::child::CELL_LIB;
use crate::template::Template;
use crate::template::stamp::{Stamp, Toolchain, find_file};
use crate::{Error, Result};

/// What a cell may name: a cell that names nothing of the runtime is compiled without its metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Scope {
    /// std and variables.
    Lean,
    /// The runtime, candle, and the crates of `:dep` as well.
    Full,
}

/// How hard the compiler tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Optimise {
    /// Not at all: for straight-line cells, whose time is the compiler's.
    No,
    /// For loops.
    Yes,
}

/// What a compile server is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Kind {
    pub(super) scope: Scope,
    pub(super) optimise: Optimise,
    /// With debug information.
    pub(super) debug: bool,
    /// It also writes the dump that spells types out, which costs it half as much again.
    pub(super) spells_types: bool,
}

impl Kind {
    /// One that only compiles.
    pub(super) fn new(scope: Scope, optimise: Optimise) -> Self {
        Self {
            scope,
            optimise,
            debug: false,
            spells_types: false,
        }
    }

    /// One for the debugger: every line is there, in its order.
    pub(super) fn for_debugger(scope: Scope) -> Self {
        Self {
            debug: true,
            ..Self::new(scope, Optimise::No)
        }
    }
}

/// Crates of a `:dep` bundle.
#[derive(Debug, Clone, Default)]
pub(super) struct Dependencies {
    /// The bundle's dylibs, first ones first: crate name and path.
    pub(super) bundles: Vec<(String, PathBuf)>,
    /// Every crate that a person asked for: name in code and path.
    pub(super) crates: Vec<(String, PathBuf)>,
    /// Folders that hold everything they need.
    pub(super) folders: Vec<PathBuf>,
    /// Hashes of the bundles' libraries.
    pub(super) identities: Vec<String>,
    /// What was asked for, as a manifest has it, and a hash of a crate of the person's own.
    pub(super) lines: Vec<(String, String)>,
}

/// Paths of the tools.
#[derive(Debug, Clone)]
pub(super) struct Toolbox {
    pub(super) rustc: PathBuf,
    pub(super) linker: Linker,
    pub(super) zygote: PathBuf,
    pub(super) cell_lib: PathBuf,
    pub(super) runtime_lib: PathBuf,
    /// What is compiled against another one of these does not fit.
    pub(super) build: String,
    /// Names that the runtime's prelude brings in.
    pub(super) prelude: BTreeSet<String>,
    pub(super) dependencies: Dependencies,
    /// Crates for cells, and macros.
    runtime_deps: Vec<PathBuf>,
}

/// What makes a library of an object.
#[derive(Debug, Clone)]
pub(super) struct Linker {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<OsString>,
}

/// Changes with the form of generated code and of what is kept about it.
const GENERATOR: &str = "8";
/// Crates of the runtime that a cell can name by themselves.
const RUNTIME_CRATES: [&str; 3] = ["alephlab", "candle_core", "candle_nn"];

impl Toolbox {
    /// Finds everything.
    pub(super) fn find(template: &Template, stamp: &Stamp, toolchain: &Toolchain) -> Result<Self> {
        let runtime_lib = template.evcxr().join(&stamp.runtime_lib);
        let target = template.evcxr().join("target");
        let deps = target.join(&stamp.target).join("debug/deps");
        let runtime_deps = vec![deps.clone(), target.join("debug/deps")];
        let zygote = template.zygote();
        let cell_lib = deps.join(CELL_LIB);
        for needed in [&zygote, &cell_lib] {
            if !needed.exists() {
                return Err(Error::Template {
                    path: template.root().to_owned(),
                    message: format!("{} is missing", needed.display()),
                });
            }
        }
        let mut prelude = prelude(&template.source().join("runtime/src/prelude.rs"))?;
        prelude.extend(RUNTIME_CRATES.map(str::to_owned));
        let mut hash = Sha256::new();
        for part in [&stamp.rustc, &stamp.source_hash, &stamp.profile, GENERATOR] {
            hash.update(part);
            hash.update([0]);
        }
        Ok(Self {
            rustc: toolchain.sysroot.join("bin/rustc"),
            linker: Linker::find(toolchain)?,
            zygote,
            cell_lib,
            runtime_lib,
            build: hex::encode(hash.finalize()),
            prelude,
            dependencies: Dependencies::default(),
            runtime_deps,
        })
    }

    /// Flags that every compile has.
    pub(super) fn flags(&self, kind: Kind) -> Vec<OsString> {
        let optimised = kind.optimise == Optimise::Yes;
        let mut flags: Vec<OsString> = [
            "--edition=2024",
            "-Cprefer-dynamic",
            "-Ccodegen-units=1",
            if kind.debug {
                "-Cdebuginfo=2"
            } else {
                "-Cdebuginfo=0"
            },
            "-Cdebug-assertions=on",
            "-Coverflow-checks=on",
            "-Cembed-bitcode=no",
            "-Csymbol-mangling-version=v0",
            "--error-format=json",
            "-Awarnings",
            if optimised {
                "-Copt-level=2"
            } else {
                "-Copt-level=0"
            },
        ]
        .map(OsString::from)
        .into();
        flags.extend(external("alephlab_cell", &self.cell_lib));
        if kind.scope == Scope::Full {
            flags.extend(external("alephlab", &self.runtime_lib));
            let folders = match self.dependencies.folders.as_slice() {
                [] => &self.runtime_deps[..],
                bundles => bundles,
            };
            for folder in folders {
                flags.push("-L".into());
                flags.push(joined("dependency=", folder));
            }
            let all = self.dependencies.bundles.iter().chain(&self.dependencies.crates);
            all.for_each(|(name, path)| flags.extend(external(name, path)));
        }
        flags
    }

    /// First lines of every generated crate.
    pub(super) fn header(&self, scope: Scope) -> String {
        let mut text = "#![allow(warnings)]\nextern crate alephlab_cell;\n".to_owned();
        if scope == Scope::Full {
            text.push_str("extern crate alephlab;\n#[allow(unused_imports)] use alephlab::prelude::*;\n");
            for (name, _) in &self.dependencies.bundles {
                text.push_str(&format!("extern crate {name};\n"));
            }
        }
        text
    }

    /// Whether a name is the runtime's or a dependency's.
    pub(super) fn is_full_name(&self, name: &str) -> bool {
        self.prelude.contains(name) || self.dependencies.crates.iter().any(|(one, _)| one == name)
    }

    /// Libraries that what is compiled in a scope must be loaded with. The runtime is there already.
    pub(super) fn libraries(&self, scope: Scope) -> Vec<PathBuf> {
        match scope {
            Scope::Lean => Vec::new(),
            Scope::Full => self
                .dependencies
                .bundles
                .iter()
                .map(|(_, path)| path.clone())
                .collect(),
        }
    }

    /// Identity of everything that generated code is compiled against.
    pub(super) fn base(&self) -> String {
        let bundles = self.dependencies.identities.iter().map(String::as_str);
        std::iter::once(self.build.as_str())
            .chain(bundles)
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// `--extern NAME=PATH`.
pub(super) fn external(name: &str, path: &Path) -> [OsString; 2] {
    ["--extern".into(), joined(&format!("{name}="), path)]
}

pub(super) fn joined(before: &str, path: &Path) -> OsString {
    let mut text = OsString::from(before);
    text.push(path);
    text
}

impl Linker {
    /// The system's `ld`, called without a compiler around it (five times faster); else the toolchain's own.
    fn find(toolchain: &Toolchain) -> Result<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let system = std::env::split_paths(&path)
            .map(|folder| folder.join("ld"))
            .find(|file| file.is_file());
        if let Some(program) = system {
            return Ok(Self {
                program,
                arguments: Vec::new(),
            });
        }
        let folder = toolchain
            .sysroot
            .join("lib/rustlib")
            .join(&toolchain.target)
            .join("bin");
        match find_file(&folder, "rust-lld", "") {
            Some(program) => Ok(Self {
                program,
                arguments: vec!["-flavor".into(), "gnu".into()],
            }),
            None => Err(Error::Program {
                program: "ld".into(),
                message: "no linker is installed".into(),
            }),
        }
    }
}

/// What `pub use` in the prelude brings in.
fn prelude(file: &Path) -> Result<BTreeSet<String>> {
    let text = std::fs::read_to_string(file).map_err(Error::file("read", file))?;
    let root = SourceFile::parse(&text, Edition::Edition2024).tree();
    let mut leaves = Vec::new();
    for used in root.syntax().children().filter_map(ast::Use::cast) {
        if let Some(tree) = used.use_tree() {
            parse::leaves(&tree, "", "", &mut leaves);
        }
    }
    Ok(leaves.into_iter().filter_map(|leaf| leaf.name).collect())
}
