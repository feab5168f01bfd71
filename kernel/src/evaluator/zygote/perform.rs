//! Does what a cell's commands say.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command as Program, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use alephlab_link::MimeBundle;
use serde_json::Value;

use super::bundle::{self, BundleFault, Spec};
use super::commands::{Command, HELP};
use super::parse::{self, Parsed};
use super::source::CellText;
use super::toolbox::{Kind, Optimise, Scope};
use super::{Wishes, Zygote, diagnostics, outcome, types};
use crate::cell::Cell;
use crate::evaluator::CellError;
use crate::evaluator::link::errors;
use crate::iopub::Stream;

/// What `:type` calls the expression.
const TYPE_OF: &str = "alephlab_type_of";
/// How long the last text of a command may take that has ended.
const SHELL_GRACE: Duration = Duration::from_millis(500);
/// How often what a build does is shown.
const SHOW_EVERY: Duration = Duration::from_millis(200);

impl Zygote {
    pub(super) fn perform(
        &mut self,
        command: &Command,
        cell: &Arc<Cell>,
        wishes: &mut Wishes,
    ) -> Result<(), CellError> {
        match command {
            Command::Dep(text) => self.depend(text, cell),
            Command::Vars => {
                show(cell, &self.variables_as_text(), Some(self.variables_as_html()));
                Ok(())
            }
            Command::Type(expression) => {
                let kind = self.type_of(expression)?;
                show(cell, &kind, None);
                Ok(())
            }
            Command::Clear => {
                self.clear();
                Ok(())
            }
            Command::Time => {
                wishes.time = true;
                Ok(())
            }
            Command::Opt(level) => self.optimise(level, cell),
            Command::Explain(code) => self.explain(code, cell),
            Command::Version => {
                let text = format!("Alephlab {}, {}", env!("CARGO_PKG_VERSION"), self.stamp.rustc);
                show(cell, &text, None);
                Ok(())
            }
            Command::ShowDeps => {
                let names = self
                    .toolbox
                    .dependencies
                    .crates
                    .iter()
                    .map(|(name, _)| name.as_str());
                let text = names.collect::<Vec<_>>().join("\n");
                show(
                    cell,
                    if text.is_empty() {
                        "none; :dep NAME adds one"
                    } else {
                        &text
                    },
                    None,
                );
                Ok(())
            }
            Command::Help => {
                cell.page(&bundle(HELP, None));
                Ok(())
            }
            Command::Shell(line) => self.shell(line, cell),
            Command::Unknown(name) => Err(unknown(name)),
        }
    }

    fn variables_as_text(&self) -> String {
        let lines = self
            .session
            .variables
            .iter()
            .map(|(name, one)| format!("{name}: {}", types::short(&one.kind)));
        let text = lines.collect::<Vec<_>>().join("\n");
        if text.is_empty() {
            "no variables".to_owned()
        } else {
            text
        }
    }

    fn variables_as_html(&self) -> String {
        let escape = |text: &str| {
            text.replace('&', "&amp;")
                .replace('<', "&lt;")
                .replace('>', "&gt;")
        };
        let rows = self.session.variables.iter().map(|(name, one)| {
            let mutable = if one.is_mut { "mut" } else { "" };
            format!(
                "<tr><td>{mutable}</td><td><code>{}</code></td><td><code>{}</code></td></tr>",
                escape(name),
                escape(&types::short(&one.kind))
            )
        });
        let rows: String = rows.collect();
        format!(
            "<table><thead><tr><th></th><th>variable</th><th>type</th></tr></thead><tbody>{rows}</tbody></table>"
        )
    }

    /// The type that the compiler finds for an expression, which is not run.
    fn type_of(&mut self, expression: &str) -> Result<String, CellError> {
        if expression.is_empty() {
            return Err(command_error(":type needs an expression", ":type 1 + 1"));
        }
        if let Some(variable) = self.session.variables.get(expression) {
            return Ok(types::short(&variable.kind));
        }
        let parsed = self.parse_text(format!("let {TYPE_OF} = {expression};"), 0);
        let session = self.session.clone();
        let compiled = self.compiler.compile(&self.toolbox, &session, &parsed);
        let kind = match compiled {
            Ok(compiled) => compiled.facts.types.get(TYPE_OF).cloned().unwrap_or_default(),
            // Nothing needs to live on here.
            Err(super::run::Refused::Unnameable(_, kind, _)) => kind,
            Err(refused) => return Err(self.refusal(refused, &parsed.cell, &session)),
        };
        Ok(diagnostics::clean(&types::short(&kind)))
    }

    /// Parses text that is no cell of the person's.
    pub(super) fn parse_text(&mut self, code: String, shown: u32) -> Parsed {
        let text = CellText {
            number: self.beside.next_number(),
            shown,
            code,
        };
        parse::parse(&Arc::new(text))
    }

    fn optimise(&mut self, level: &str, cell: &Cell) -> Result<(), CellError> {
        match level {
            "0" => self.session.optimise_all = false,
            "1" | "2" | "3" => self.session.optimise_all = true,
            "" => self.session.optimise_all = !self.session.optimise_all,
            _ => {
                return Err(command_error(
                    &format!("there is no level `{level}`"),
                    ":opt 0 or :opt 2",
                ));
            }
        }
        let text = if self.session.optimise_all {
            "every cell is optimised"
        } else {
            "cells with loops are optimised"
        };
        show(cell, text, None);
        Ok(())
    }

    fn explain(&self, code: &str, cell: &Cell) -> Result<(), CellError> {
        let code = if code.is_empty() {
            self.last_code.as_deref().unwrap_or_default()
        } else {
            code
        };
        if code.is_empty() {
            return Err(command_error(
                "there is no error to explain yet",
                ":explain E0382",
            ));
        }
        let output = Program::new(&self.toolbox.rustc)
            .args(["--explain", code])
            .output();
        match output {
            Ok(output) if output.status.success() => {
                cell.page(&bundle(&String::from_utf8_lossy(&output.stdout), None));
                Ok(())
            }
            _ => Err(command_error(
                &format!("the compiler knows no error `{code}`"),
                ":explain E0382",
            )),
        }
    }

    /// Brings a crate in; shows what cargo does while it does it.
    fn depend(&mut self, text: &str, cell: &Arc<Cell>) -> Result<(), CellError> {
        let spec = Spec::parse(text, &self.config.work_dir).map_err(|fault| dependency_error(fault, text))?;
        let before = &self.toolbox.dependencies;
        if let Some((_, content)) = before.lines.iter().find(|(line, _)| *line == spec.line) {
            if *content == spec.content() {
                return Ok(());
            }
            return Err(CellError::new(
                "DependencyError",
                format!("`{}` has changed since this kernel loaded it", spec.name),
                Some("restart the kernel: one process cannot hold both"),
            ));
        }
        let mut last = Instant::now();
        let mut shown = false;
        let mut progress = |line: &str| {
            let line = line.trim();
            let is_news = ["Compiling", "Downloading", "Updating"]
                .iter()
                .any(|verb| line.starts_with(verb));
            if is_news && (last.elapsed() >= SHOW_EVERY || !shown) {
                cell.text(Stream::Stderr, format!("\r\u{1b}[K{line}").as_bytes());
                last = Instant::now();
                shown = true;
            }
        };
        let added = bundle::add(&self.template, &self.stamp, before, &[spec], &mut progress);
        if shown {
            cell.text(Stream::Stderr, b"\r\x1b[K");
        }
        let dependencies = added.map_err(|fault| {
            if cell.is_interrupted() {
                errors::interrupted_compiling()
            } else {
                dependency_error(fault, text)
            }
        })?;
        let mut toolbox = (*self.toolbox).clone();
        toolbox.dependencies = dependencies;
        self.toolbox = Arc::new(toolbox);
        // What servers have loaded does not hold the new crate.
        self.compiler.servers.end();
        for scope in [Scope::Full, Scope::Lean] {
            let kind = Kind::new(scope, Optimise::No);
            self.compiler.servers.warm(&self.toolbox, kind);
        }
        // Items are compiled against the crates as well.
        let mut session = self.session.clone();
        let crates = self.toolbox.dependencies.crates.iter();
        session.items.foreign = crates
            .map(|(name, file)| (name.clone(), file.display().to_string()))
            .collect();
        let nothing = self.parse_text(String::new(), 0);
        self.build_items(&mut session, &std::collections::BTreeSet::new(), &nothing, cell)?;
        self.session = session;
        Ok(())
    }

    /// Runs a command of the shell; its output is the cell's.
    fn shell(&self, line: &str, cell: &Arc<Cell>) -> Result<(), CellError> {
        let failed = |error: std::io::Error| {
            CellError::new("CommandError", format!("`{line}` cannot be run: {error}"), None)
        };
        let mut command = Program::new("sh");
        command
            .args(["-c", line])
            .current_dir(&self.config.work_dir)
            .process_group(0);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = command.spawn().map_err(failed)?;
        let (done, ended) = std::sync::mpsc::channel();
        let pipes: [(Option<Box<dyn Read + Send>>, Stream); 2] = [
            (
                process.stdout.take().map(|pipe| Box::new(pipe) as _),
                Stream::Stdout,
            ),
            (
                process.stderr.take().map(|pipe| Box::new(pipe) as _),
                Stream::Stderr,
            ),
        ];
        for (pipe, stream) in pipes {
            let (cell, done) = (Arc::clone(cell), done.clone());
            std::thread::spawn(move || {
                pass(pipe, &cell, stream);
                let _ = done.send(());
            });
        }
        let status = process.wait().map_err(failed)?;
        // What it left in the background keeps the pipes open, and goes on without us.
        for _ in 0..2 {
            let _ = ended.recv_timeout(SHELL_GRACE);
        }
        if cell.is_interrupted() {
            return Err(CellError::new(
                CellError::INTERRUPTED,
                "the command was stopped; variables are kept",
                None,
            ));
        }
        if status.success() {
            return Ok(());
        }
        Err(CellError::new(
            "CommandError",
            format!("`{line}` ended with {status}"),
            None,
        ))
    }
}

fn pass(from: Option<impl Read>, cell: &Cell, stream: Stream) {
    let Some(mut from) = from else { return };
    let mut bytes = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        cell.text(stream, &bytes[..length]);
    }
}

fn show(cell: &Cell, text: &str, html: Option<String>) {
    cell.result(bundle(text, html), MimeBundle::new());
}

fn bundle(text: &str, html: Option<String>) -> MimeBundle {
    let mut bundle = MimeBundle::new();
    bundle.insert("text/plain".to_owned(), Value::String(text.to_owned()));
    if let Some(html) = html {
        bundle.insert("text/html".to_owned(), Value::String(html));
    }
    bundle
}

fn command_error(message: &str, hint: &str) -> CellError {
    CellError::new("CommandError", message, Some(hint))
}

fn unknown(name: &str) -> CellError {
    match name {
        ":quit" => command_error(
            ":quit would end the kernel without a word to the client",
            "shut the kernel down instead",
        ),
        ":toolchain" => command_error(
            "the compiler is fixed: the runtime fits this one only",
            ":version says which one it is",
        ),
        ":allow_static_linking" => command_error(
            ":allow_static_linking does not work with this compiler",
            "leave it out",
        ),
        ":cache"
        | ":sccache"
        | ":linker"
        | ":codegen_backend"
        | ":offline"
        | ":timing"
        | ":fmt"
        | ":efmt"
        | ":types"
        | ":last_compile_dir"
        | ":last_error_json"
        | ":preserve_vars_on_panic"
        | ":env"
        | ":build_env"
        | ":doc"
        | ":load_config"
        | ":restart"
        | ":time_passes"
        | ":clear_cache" => command_error(
            &format!("{name} is a setting of evcxr, which does not compile here"),
            "leave it out, or choose the kernel `Rust (evcxr)`",
        ),
        _ => command_error(&format!("there is no command {name}"), ":help lists them"),
    }
}

fn dependency_error(fault: BundleFault, text: &str) -> CellError {
    match fault {
        BundleFault::Malformed(message) => command_error(&message, "for example :dep rand = \"0.9\""),
        BundleFault::Shared(name) => CellError::new(
            "DependencyError",
            format!(
                "`{text}` needs the crate `{name}` otherwise than the runtime has it, and there can be only one"
            ),
            Some(
                "leave out features that concern it, or use another version of the crate that you asked for",
            ),
        ),
        BundleFault::Cargo(said) => {
            let said = bundle::message(&said);
            let first = said.lines().next().unwrap_or("cargo failed").to_owned();
            let mut error = CellError::new("DependencyError", first, None);
            error
                .traceback
                .extend(said.lines().skip(1).take(60).map(str::to_owned));
            error
        }
        BundleFault::Failed(error) => outcome::internal(&error),
    }
}
