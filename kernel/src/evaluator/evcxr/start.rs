//! Starts evcxr: private copy of the template, sockets for the child, context, first cell.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use alephlab_link::HANDOVER_ENV;
use evcxr::{CommandContext, EvalContext, EvalContextOutputs};

use super::errors;
use crate::evaluator::RustConfig;
use crate::evaluator::link::Link;
use crate::evaluator::link::shared::Shared;
use crate::template::Template;
use crate::template::private::Private;
use crate::template::stamp::{Stamp, Toolchain};
use crate::{Error, Result};

/// evcxr learns that `?` is used from a build that fails, and that build also costs the last expression its rich
/// display. It remembers, so it learns before the first cell.
const ALLOW_QUESTION_MARK: &str = "Ok::<(), ::std::fmt::Error>(())?;\n";

/// Starts everything. Also tells whether the sources of std are installed.
pub(super) fn start(
    config: &RustConfig,
    template: &Template,
    shared: &Arc<Shared>,
) -> Result<(CommandContext, bool)> {
    let stamp = Stamp::read(template)?;
    let toolchain = Toolchain::find(&template.source())?;
    stamp.check(template, &toolchain)?;
    let private = Arc::new(Private::create(template)?);
    // Before it is filled: a kernel that is stopped meanwhile removes it.
    shared.own(&private)?;
    private.fill(template, &stamp)?;
    let link = Link::bind(private.sockets(), shared)?;
    let mut child = Command::new(&config.program);
    child.arg("child");
    child.arg("--kernel").arg(std::process::id().to_string());
    child
        .arg("--link")
        .arg(link.socket())
        .arg("--stdout")
        .arg(link.stdout())
        .arg("--stderr")
        .arg(link.stderr());
    child.arg("--libstd").arg(&toolchain.libstd);
    child
        .arg("--runtime-lib")
        .arg(private.evcxr().join(&stamp.runtime_lib));
    // A group of its own: killed as a whole, and untouched by Ctrl-C in a terminal.
    child.current_dir(&config.work_dir).process_group(0);
    if let Some(handover) = &config.handover {
        child.env(HANDOVER_ENV, handover);
    }
    link.serve();
    let root = private.root().to_owned();
    let lock_file = private.evcxr().join("Cargo.lock");
    let context = create(child, &root, &config.work_dir)?;
    let mut context = CommandContext::with_eval_context(context);
    seed_lock(template, &lock_file)?;
    run_first_cell(&mut context, template)?;
    Ok((context, toolchain.has_rust_src))
}

/// Has evcxr compile everything once, for the template: the same first cell, run by evcxr's own child, because
/// the runtime that ours needs is what is being built.
pub(crate) fn warm_up(template: &Template) -> Result<()> {
    let program = std::env::current_exe().map_err(|error| Error::Program {
        program: "alephlab-kernel".into(),
        message: error.to_string(),
    })?;
    let mut child = Command::new(program);
    child.arg("plain-child");
    // evcxr loads cells from one folder above the one that their run path was computed for.
    let toolchain = Toolchain::find(&template.source())?;
    if let Some(folder) = toolchain.libstd.parent() {
        child.env("LD_LIBRARY_PATH", folder);
    }
    let home = std::env::current_dir().unwrap_or_else(|_| template.root().to_owned());
    let mut context = CommandContext::with_eval_context(create(child, template.root(), &home)?);
    seed_lock(template, &template.evcxr().join("Cargo.lock"))?;
    run_first_cell(&mut context, template)
}

/// The cell before the first: the runtime, its prelude, and an `eprintln!` that sends what evcxr's generated code
/// prints for an error that `?` returned (`eprintln!("{}", error)`) as a frame. A cell's own line of that form takes
/// the same way: the kernel tells them by the control line that follows only the former.
pub(super) fn first_cell(template: &Template) -> String {
    let dependency = template.dependency();
    let arms: String = ["{}", "{:?}", "{:#?}"]
        .iter()
        .map(|format| {
            format!(
                "    (\"{format}\", $error:ident) => {{ \
                 ::alephlab::prelude::alephlab_error_text(::std::format!(\"{format}\", $error)) }};\n"
            )
        })
        .collect();
    format!(
        "{dependency}\nuse alephlab::prelude::*;\nmacro_rules! eprintln {{\n{arms}    \
         ($($text:tt)*) => {{ ::std::eprintln!($($text)*) }};\n}}\n{ALLOW_QUESTION_MARK}"
    )
}

fn run_first_cell(context: &mut CommandContext, template: &Template) -> Result<()> {
    let done = context.execute(&first_cell(template));
    done.map(drop).map_err(|error| Error::Evaluator {
        message: errors::plain(&error),
    })
}

/// Makes the context. evcxr takes its settings, and rustup its toolchain, from the current folder, so this process
/// is in `settings` while that happens.
fn create(child: Command, settings: &Path, home: &Path) -> Result<EvalContext> {
    std::env::set_current_dir(settings).map_err(Error::file("enter", settings))?;
    let created = EvalContext::with_subprocess_command(child);
    std::env::set_current_dir(home).map_err(Error::file("enter", home))?;
    let (context, outputs) = created.map_err(|error| Error::Evaluator {
        message: errors::plain(&error),
    })?;
    drain(outputs);
    Ok(context)
}

/// evcxr waits until these are empty. Nothing of interest comes: the cell's text goes to our FIFOs.
fn drain(outputs: EvalContextOutputs) {
    let EvalContextOutputs { stdout, stderr } = outputs;
    std::thread::spawn(move || stdout.iter().for_each(|_| {}));
    std::thread::spawn(move || stderr.iter().for_each(|_| {}));
}

/// evcxr's first build, which has no dependency yet, empties the lock file.
fn seed_lock(template: &Template, lock_file: &Path) -> Result<()> {
    let lock = template.source().join("Cargo.lock");
    std::fs::copy(&lock, lock_file)
        .map(drop)
        .map_err(Error::file("copy", lock))
}
