//! The corpus (`kernel/tests/corpus`) on both engines. How its files are read is told in its README.

use std::fmt::Write;
use std::path::Path;

use serde_json::json;

use crate::client::{Message, stream};
use crate::{Engine, Session, start_with};

/// Of this many sequences evcxr runs one, but in a long run all: each of its cells takes half a second.
const SAMPLE: usize = 12;

/// evcxr pastes every item of earlier cells into each cell again, and takes a minute for one after a hundred sequences.
const IN_ONE_KERNEL: usize = 15;

#[derive(Debug, Default)]
struct Sequence {
    file: String,
    name: String,
    cells: Vec<Cell>,
    /// Engines that do not run it.
    left_out: Vec<String>,
}

#[derive(Debug, Default)]
struct Cell {
    code: String,
    values: Vec<String>,
    stdout: Vec<String>,
    stderr: Vec<String>,
    error: Option<String>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_corpus_runs_on_the_zygote() {
    let Some(mut session) = start_with(Engine::Zygote).await else {
        return;
    };
    let all = read("zygote");
    assert!(all.len() >= 150, "{} sequences", all.len());
    let faults = run(&mut session, all.iter()).await;
    assert!(faults.is_empty(), "{faults}");
    session.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_corpus_runs_on_evcxr() {
    let all = read("evcxr");
    let step = if std::env::var_os("ALEPHLAB_TEST_LONG").is_some() {
        1
    } else {
        SAMPLE
    };
    let selected: Vec<&Sequence> = all.iter().step_by(step).collect();
    let mut faults = String::new();
    for part in selected.chunks(IN_ONE_KERNEL) {
        let Some(mut session) = start_with(Engine::Evcxr).await else {
            return;
        };
        faults += &run(&mut session, part.iter().copied()).await;
        session.end().await;
    }
    assert!(faults.is_empty(), "{faults}");
}

/// Sequences for an engine, with its own expectations.
fn read(engine: &str) -> Vec<Sequence> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let mut all = Vec::new();
    for path in files
        .iter()
        .filter(|path| path.extension().is_some_and(|end| end == "txt"))
    {
        let text = std::fs::read_to_string(path).unwrap();
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        parse(&text, &file, engine, &mut all);
    }
    all.retain(|one| !one.left_out.iter().any(|name| name == engine));
    all
}

fn parse(text: &str, file: &str, engine: &str, all: &mut Vec<Sequence>) {
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("## ") {
            all.push(Sequence {
                file: file.to_owned(),
                name: name.to_owned(),
                ..Sequence::default()
            });
            continue;
        }
        let Some(sequence) = all.last_mut() else { continue };
        let (limit, rest) = match line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
            Some((limit, rest)) if limit == "zygote" || limit == "evcxr" => (Some(limit), rest),
            _ => (None, line),
        };
        if let Some(limit) = limit
            && rest.starts_with("- ")
        {
            sequence.left_out.push(limit.to_owned());
            continue;
        }
        if line == ">>>" {
            sequence.cells.push(Cell::default());
            continue;
        }
        let Some(cell) = sequence.cells.last_mut() else {
            continue;
        };
        let is_ours = limit.is_none_or(|limit| limit == engine);
        let expected = [("= ", 0), ("> ", 1), ("2> ", 2), ("! ", 3)]
            .iter()
            .find_map(|(prefix, kind)| Some((*kind, rest.strip_prefix(prefix)?)));
        match expected {
            Some((kind, text)) if is_ours => {
                let text = text.replace("\\r", "\r");
                match kind {
                    0 => cell.values.push(text),
                    1 => cell.stdout.push(text),
                    2 => cell.stderr.push(text),
                    _ => cell.error = Some(text),
                }
            }
            Some(_) => {}
            None => {
                cell.code.push_str(line);
                cell.code.push('\n');
            }
        }
    }
}

async fn run(session: &mut Session, all: impl Iterator<Item = &Sequence>) -> String {
    let mut faults = String::new();
    for sequence in all {
        for cell in &sequence.cells {
            let (_, messages) = session
                .client
                .run_with(json!({ "code": cell.code.trim_end(), "allow_stdin": false }))
                .await;
            let wrong = check(cell, &messages);
            if !wrong.is_empty() {
                let _ = writeln!(
                    faults,
                    "\n{}: {}\n{}{wrong}",
                    sequence.file, sequence.name, cell.code
                );
                break;
            }
        }
    }
    faults
}

/// What is not as expected, in words; nothing when all is well.
fn check(cell: &Cell, messages: &[Message]) -> String {
    let mut wrong = String::new();
    let values: Vec<&str> = messages
        .iter()
        .filter(|message| message.msg_type == "execute_result")
        .map(|message| message.content["data"]["text/plain"].as_str().unwrap_or_default())
        .collect();
    let mut compare = |what: &str, expected: &[String], actual: &str| {
        let expected = expected.join("\n");
        let actual = actual.strip_suffix('\n').unwrap_or(actual);
        if !fits(&expected, actual) {
            let short: String = actual.chars().take(600).collect();
            let _ = writeln!(wrong, "  {what}: expected {expected:?}, got {short:?}");
        }
    };
    compare("value", &cell.values, &values.join("\n"));
    compare("stdout", &cell.stdout, &stream(messages, "stdout"));
    if !cell.stderr.is_empty() {
        compare("stderr", &cell.stderr, &stream(messages, "stderr"));
    }
    let error = messages.iter().find(|message| message.msg_type == "error");
    let got = error.map(|error| {
        let part = |name: &str| error.content[name].as_str().unwrap_or_default().to_owned();
        let traceback = error.content["traceback"].as_array().cloned().unwrap_or_default();
        let traceback: Vec<&str> = traceback.iter().filter_map(|line| line.as_str()).collect();
        (part("ename"), part("evalue"), traceback.join("\n"))
    });
    let is_right = match (&cell.error, &got) {
        (None, None) => true,
        (Some(expected), Some((name, value, traceback))) => {
            let (wanted, part) = expected.split_once(' ').unwrap_or((expected, ""));
            name == wanted && (value.contains(part) || traceback.contains(part))
        }
        _ => false,
    };
    if !is_right {
        let _ = writeln!(wrong, "  error: expected {:?}, got {got:#?}", cell.error);
    }
    wrong
}

/// Whether a text fits a pattern: `*` is any text, `*N lines` and `*N bytes` count.
fn fits(pattern: &str, text: &str) -> bool {
    if let Some(count) = pattern
        .strip_prefix('*')
        .and_then(|rest| rest.strip_suffix(" lines"))
    {
        return text.lines().count() == count.parse::<usize>().unwrap();
    }
    if let Some(count) = pattern
        .strip_prefix('*')
        .and_then(|rest| rest.strip_suffix(" bytes"))
    {
        return text.len() == count.parse::<usize>().unwrap();
    }
    if !pattern.contains('*') {
        return pattern == text;
    }
    let mut rest = text;
    let parts: Vec<&str> = pattern.split('*').collect();
    for (index, part) in parts.iter().enumerate() {
        let found = if index == 0 {
            rest.starts_with(part).then_some(0)
        } else {
            rest.find(part)
        };
        let Some(at) = found else { return false };
        rest = &rest[at + part.len()..];
    }
    parts.last().is_some_and(|last| last.is_empty()) || rest.is_empty()
}

#[test]
fn patterns_mean_what_the_readme_says() {
    assert!(fits("a*c", "abc") && !fits("a*c", "abcd") && fits("a*", "abc"));
    assert!(fits("*3 lines", "a\nb\nc") && !fits("*2 bytes", "abc") && fits("", ""));
}
