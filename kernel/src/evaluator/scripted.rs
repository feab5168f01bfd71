//! A tiny language for tests: one command a line, so that the whole protocol runs without a compiler.
//!
//! `print T`, `write T` (no line feed), `err T`, `result T`, `display T`, `shown ID T`, `update ID T`, `clear`,
//! `page T`, `next T` (set_next_input), `comm ID` (one that echoes), `set NAME VALUE`, `get NAME`, `input PROMPT`, `password PROMPT`, `repeat N T`, `flood MIB`, `hang`
//! (until interrupted), `until FILE` (until the file exists or the person interrupts), `error NAME VALUE`,
//! `crash`, `turn COMMAND` (of a subshell, in the main shell's turn). Chosen by the hidden flag `--engine scripted`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use alephlab_link::{CommEvent, MimeBundle, ToldEvent};
use serde_json::Value;

use super::{Analyst, CellError, Completions, Engine, Evaluator, Language, MainShell, Match, Subshell};
use crate::cell::Cell;
use crate::comms::Comms;
use crate::iopub::Stream;

const COMMANDS: &[&str] = &[
    "clear", "comm", "crash", "display", "err", "error", "flood", "get", "hang", "input", "next", "page",
    "password", "print", "repeat", "result", "set", "shown", "turn", "until", "update", "write",
];
/// How often `until` looks at its file.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The engine; `ready` delays its start until the file exists.
pub fn engine(ready: Option<std::path::PathBuf>) -> Engine {
    let wake: Arc<Wake> = Arc::default();
    let interrupt = Arc::clone(&wake);
    let variables: Arc<Variables> = Arc::default();
    let analyst = Arc::clone(&variables) as Arc<dyn Analyst>;
    let comms: Arc<Comms> = Arc::default();
    let heard = Arc::clone(&comms);
    let of_subshells = (Arc::clone(&variables), Arc::clone(&wake), Arc::clone(&comms));
    Engine {
        language: Language {
            name: "scripted",
            version: "1".to_owned(),
            mimetype: "text/x-scripted",
            file_extension: ".script",
        },
        start: Box::new(move || {
            while ready.as_deref().is_some_and(|file| !file.exists()) {
                wake.pause();
            }
            Ok(Box::new(Scripted {
                variables,
                wake,
                comms: heard,
                turn: None,
            }))
        }),
        analyst,
        comms,
        debugger: None,
        subshell: Some(Box::new(move |turn| {
            let (variables, wake, comms) = of_subshells.clone();
            let interrupt = Arc::clone(&wake);
            let turn = Some(turn);
            Subshell {
                start: Box::new(move || {
                    Ok(Box::new(Scripted {
                        variables,
                        wake,
                        comms,
                        turn,
                    }))
                }),
                interrupt: Arc::new(move || interrupt.condition.notify_all()),
            }
        })),
        interrupt: Arc::new(move || interrupt.condition.notify_all()),
        stop: Arc::new(|| {}),
    }
}

struct Scripted {
    variables: Arc<Variables>,
    wake: Arc<Wake>,
    comms: Arc<Comms>,
    /// Of a subshell.
    turn: Option<MainShell>,
}

#[derive(Default)]
struct Wake {
    lock: Mutex<()>,
    condition: Condvar,
}

impl Wake {
    /// Waits a little, shorter when somebody interrupts.
    fn pause(&self) {
        let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.condition.wait_timeout(guard, LOOK_EVERY));
    }
}

impl Evaluator for Scripted {
    fn execute(&mut self, code: &str, cell: &Arc<Cell>) -> Result<(), CellError> {
        code.lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .try_for_each(|line| self.line(line, cell))
    }
}

/// What is in scope, for clients that ask beside a running cell.
#[derive(Default)]
struct Variables(Mutex<BTreeMap<String, String>>);

impl Variables {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Analyst for Variables {
    fn complete(&self, code: &str, cursor: usize) -> Completions {
        let start = code[..cursor]
            .rfind(|c: char| c.is_whitespace())
            .map_or(0, |at| at + 1);
        let variables = self.lock();
        let names = COMMANDS.iter().copied().map(|name| (name, "keyword"));
        let variables = variables.keys().map(|name| (name.as_str(), "variable"));
        let matches = names
            .chain(variables)
            .filter(|(name, _)| name.starts_with(&code[start..cursor]))
            .map(|(text, kind)| Match {
                text: text.into(),
                kind: kind.into(),
                signature: String::new(),
            })
            .collect();
        Completions {
            matches,
            start,
            end: cursor,
        }
    }

    fn inspect(&self, code: &str, cursor: usize) -> Option<MimeBundle> {
        let word = code[..cursor].split_whitespace().next_back()?;
        let variables = self.lock();
        let value = variables.get(word)?;
        Some(text_bundle(&format!("{word} = {value}")))
    }
}

impl Scripted {
    fn line(&mut self, line: &str, cell: &Arc<Cell>) -> Result<(), CellError> {
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (first, second) = rest.split_once(' ').unwrap_or((rest, ""));
        let none = MimeBundle::new();
        match command {
            "print" => cell.text(Stream::Stdout, format!("{rest}\n").as_bytes()),
            "write" => cell.text(Stream::Stdout, rest.as_bytes()),
            "err" => cell.text(Stream::Stderr, format!("{rest}\n").as_bytes()),
            "result" => cell.result(text_bundle(rest), none),
            "display" => cell.display(&text_bundle(rest), &none, None),
            "shown" => cell.display(&text_bundle(second), &none, Some(first)),
            "update" => cell.update_display(&text_bundle(second), &none, first),
            "clear" => cell.clear_output(false),
            "page" => cell.page(&text_bundle(rest)),
            "next" => cell.set_next_input(rest, false),
            "comm" => self.comm(cell, first),
            "set" => drop(self.variables.lock().insert(first.to_owned(), second.to_owned())),
            "get" => match self.variables.lock().get(first) {
                Some(value) => cell.result(text_bundle(value), none),
                None => return Err(CellError::new("NameError", format!("no variable {first}"), None)),
            },
            "input" | "password" => return ask(cell, rest, command == "password"),
            "repeat" => {
                (0..count(first)).for_each(|_| cell.text(Stream::Stdout, format!("{second}\n").as_bytes()))
            }
            "flood" => flood(cell, count(first)),
            "turn" => {
                if let Some(turn) = &self.turn {
                    return turn(rest, cell);
                }
            }
            "hang" => return self.wait(cell, None),
            "until" => return self.wait(cell, Some(Path::new(rest))),
            "error" => return Err(CellError::new(first, second, None)),
            #[expect(clippy::panic, reason = "tests what an evaluator's own crash does")]
            "crash" => panic!("crash"),
            _ => {
                return Err(CellError::new(
                    "CompileError",
                    format!("unknown command {command}"),
                    None,
                ));
            }
        }
        Ok(())
    }

    /// Opens a comm that says back what it hears.
    fn comm(&self, cell: &Arc<Cell>, comm_id: &str) {
        let open = CommEvent::open(comm_id, "echo", Value::Null);
        let (_, mut told) = self.comms.listen();
        self.comms.note(&open);
        cell.comm(&open, None);
        let (cell, comms) = (Arc::clone(cell), Arc::clone(&self.comms));
        std::thread::spawn(move || {
            while let Some(ToldEvent { number, event }) = told.blocking_recv() {
                cell.comm(&event, comms.parent_of(number).as_ref());
                comms.heard(number);
            }
        });
    }

    fn wait(&self, cell: &Cell, file: Option<&Path>) -> Result<(), CellError> {
        while !file.is_some_and(Path::exists) {
            if cell.is_interrupted() {
                return Err(CellError::new(
                    CellError::INTERRUPTED,
                    "stopped; variables are kept",
                    None,
                ));
            }
            self.wake.pause();
        }
        Ok(())
    }
}

fn ask(cell: &Cell, prompt: &str, password: bool) -> Result<(), CellError> {
    match cell.input_blocking(prompt, password) {
        Some(answer) => cell.text(Stream::Stdout, format!("got {answer}\n").as_bytes()),
        None if cell.is_interrupted() => {
            return Err(CellError::new(
                CellError::INTERRUPTED,
                "stopped; variables are kept",
                None,
            ));
        }
        None => return Err(CellError::new("NoInput", "nobody can answer here", None)),
    }
    Ok(())
}

fn flood(cell: &Cell, mebibytes: usize) {
    let line = format!("{}\n", "x".repeat(127));
    let block = line.repeat(512);
    (0..mebibytes * 16).for_each(|_| cell.text(Stream::Stdout, block.as_bytes()));
}

fn count(text: &str) -> usize {
    text.parse().unwrap_or(0)
}

fn text_bundle(text: &str) -> MimeBundle {
    let mut bundle = MimeBundle::new();
    bundle.insert("text/plain".to_owned(), Value::String(text.to_owned()));
    bundle
}
