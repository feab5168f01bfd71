//! Starts the evaluator: folders, link, compile servers, child, and a first cell of its own.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;

use super::beside::{Beside, Parts};
use super::child::ChildSpec;
use super::complete::NotebookAnalyst;
use super::run::Compiler;
use super::server::Servers;
use super::source::Sources;
use super::store::Store;
use super::toolbox::{Kind, Optimise, Scope, Toolbox};
use super::{Session, Zygote, work_folder};
use crate::debug::Debugger;
use crate::evaluator::link::Link;
use crate::evaluator::link::shared::Shared;
use crate::evaluator::{CellError, Evaluator, RustConfig, evcxr};
use crate::template::Template;
use crate::template::private::Private;
use crate::template::stamp::{Stamp, Toolchain};
use crate::{Error, Result};

/// Starts the evaluator, on its thread. Where everything fits and yet the first cell cannot be run, evcxr serves this
/// kernel in its place.
pub(super) fn start(
    config: &RustConfig,
    template: Template,
    shared: Arc<Shared>,
    of_all: (Arc<NotebookAnalyst>, Arc<Beside>),
    debugger: Option<Arc<Debugger>>,
) -> std::result::Result<Box<dyn Evaluator>, CellError> {
    let mut started = begin(config, &template, &shared, of_all, debugger)
        .map_err(|error| evcxr::errors::cannot_start(&error))?;
    match started.first_cell() {
        Ok(()) => Ok(Box::new(started)),
        Err(error) => {
            tracing::warn!(
                value = error.value,
                "the compile server cannot be used here: evcxr compiles"
            );
            started.clear();
            started.beside.set_parts(None);
            drop(started);
            Ok(Box::new(evcxr::start(config, template, shared)?))
        }
    }
}

fn begin(
    config: &RustConfig,
    template: &Template,
    shared: &Arc<Shared>,
    of_all: (Arc<NotebookAnalyst>, Arc<Beside>),
    debugger: Option<Arc<Debugger>>,
) -> Result<Zygote> {
    let stamp = Stamp::read(template)?;
    let toolchain = Toolchain::find(&template.source())?;
    stamp.check(template, &toolchain)?;
    let toolbox = Arc::new(Toolbox::find(template, &stamp, &toolchain)?);
    let private = Arc::new(Private::create(template)?);
    shared.own(&private)?;
    let slots = private.root().join("slots");
    for folder in [&slots, &work_folder(&private)] {
        fs::DirBuilder::new()
            .mode(0o700)
            .create(folder)
            .map_err(Error::file("make", folder))?;
    }
    let store = Store::open(&template.compiled(), &private.root().join("compiled"))?;
    let link = Link::bind(private.sockets(), shared)?;
    let spec = ChildSpec {
        program: config.program.clone(),
        link: link.socket(),
        stdout: link.stdout(),
        stderr: link.stderr(),
        libstd: toolchain.libstd,
        runtime_lib: toolbox.runtime_lib.clone(),
        work_dir: config.work_dir.clone(),
        handover: config.handover.clone(),
    };
    let main_link = link.socket();
    link.serve();
    let servers = Servers::new(private.sockets().to_owned(), slots.clone(), Arc::clone(shared));
    for scope in [Scope::Lean, Scope::Full] {
        servers.warm(&toolbox, Kind::new(scope, Optimise::No));
    }
    let sweeping = store.clone();
    // Nobody waits for it, and it may be killed at any time.
    let _ = std::thread::Builder::new()
        .name("sweep".into())
        .spawn(move || sweeping.sweep());
    let child = spec.start()?;
    if let Some(debugger) = &debugger {
        debugger.set_printers(toolchain.sysroot.join("lib/rustlib/etc"));
        debugger.set_child(Some(child.pid()));
    }
    let (analyst, beside) = of_all;
    let compiler = Arc::new(Compiler::new(servers, store, work_folder(&private), slots));
    let sources: Arc<Sources> = Arc::default();
    beside.set_parts(Some(Parts {
        compiler: Arc::clone(&compiler),
        sources: Arc::clone(&sources),
        link: main_link,
        private: Arc::clone(&private),
    }));
    Ok(Zygote {
        compiler,
        toolbox,
        session: Session::default(),
        child: Some(child),
        spec,
        shared: Arc::clone(shared),
        analyst,
        debugger,
        config: config.clone(),
        template: template.clone(),
        stamp,
        private,
        sources,
        beside,
        last_code: None,
        ahead: None,
    })
}

impl Zygote {
    /// Compiles and runs a cell of our own: shows that all parts work, and warms them.
    fn first_cell(&mut self) -> std::result::Result<(), CellError> {
        // One that nobody has compiled: what lies in the store would show nothing.
        let code = format!("let alephlab_ready = {}u128;", uuid::Uuid::new_v4().as_u128());
        let parsed = self.parse_text(code, 0);
        let session = self.session.clone();
        let compiled = self.compiler.compile(&self.toolbox, &session, &parsed);
        let compiled = compiled.map_err(|refused| self.refusal(refused, &parsed.cell, &session))?;
        self.tell_analyst();
        match self.run_in_child(&compiled)? {
            None => Ok(()),
            Some(fault) => Err(CellError::new("EvaluatorFailed", format!("{fault:?}"), None)),
        }
    }
}
