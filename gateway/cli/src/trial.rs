//! What is found out about a revision by running something of it: V5, a forward pass, and V8, its evaluation once more.
//!
//! In a kernel of the gateway on this machine that has neither network nor broker (`KERNEL_NETWORK`), over a copy of the files,
//! with bounds of memory and time. Files of strangers decide what runs there; what comes back is text that is read as such. The
//! notebook with its outputs is the log; its hash stands in the check. Called by `alephlab model verify`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use alephlab_api::jupyter::NewKernel;
use alephlab_api::time;
use alephlab_verify::{Check, CheckId, Finding, Outcome, Tool};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::error::{CliError, Result};
use crate::jupyter::notebook::Notebook;
use crate::jupyter::session::{self, Place};

/// The notebook by which a model of another network shows that it loads and predicts.
const LOADS: &str = "verify.ipynb";
/// The notebook that measures what the card claims.
const EVALUATION: &str = "evaluation.ipynb";
/// Networks that the runtime can build; what `forward_pass` knows.
const NETWORKS: [&str; 5] = ["gpt2", "bert", "alephlab-mlp", "alephlab-cnn", "alephlab-resnet"];
/// What the runtime shows a forward pass with.
const FORWARD: &str = "application/vnd.alephlab.forward+json";
/// Where a machine keeps what tells it from others.
const MACHINE: &str = "/etc/machine-id";
/// What the runtime shows a measured value with.
const METRIC: &str = "application/vnd.alephlab.metric+json";
/// In the copy: tells that the kernel sees these files and not a folder of that name elsewhere.
const MARK: &str = ".alephlab-trial";
/// How far a measured value may be from a claimed one, where the notebook states nothing.
const TOLERANCE: f64 = 0.001;
/// The largest tolerance that a notebook may state.
const TOLERANCE_MAX: f64 = 0.05;
/// Characters of an error of the notebook that are kept.
const TOLD: usize = 600;

/// Bounds of one run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Bytes of memory of all its processes, where the host counts them together; else of each.
    pub(crate) memory: u64,
    /// For V5.
    pub(crate) loading: Duration,
    /// For V8.
    pub(crate) evaluation: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            memory: 8 << 30,
            loading: Duration::from_secs(600),
            evaluation: Duration::from_secs(3600),
        }
    }
}

/// A copy of a revision's files that may be spoilt, and where its notebooks go once they ran.
pub(crate) struct Trial<'a> {
    pub(crate) place: &'a Place<'a>,
    /// The copy, whole and verified; without links in its path.
    pub(crate) folder: &'a Path,
    /// Where logs are kept.
    pub(crate) logs: &'a Path,
    /// What the runtime that runs is made of.
    pub(crate) runtime: &'a str,
    pub(crate) bounds: Bounds,
    /// This machine, where it can be told from others.
    pub(crate) host: Option<&'a str>,
}

/// A word for this machine that is the same for every verifier and says nothing else of it: a hash of what the system keeps to tell
/// machines apart, as its manual asks for.
pub(crate) fn this_host() -> Option<String> {
    let id = std::fs::read_to_string(MACHINE).ok()?;
    host_of(&id)
}

fn host_of(id: &str) -> Option<String> {
    let id = id.trim();
    let is_one = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_one.then(|| {
        let mut word = hex::encode(Sha256::digest(format!("alephlab/host/v1 {id}")));
        word.truncate(16);
        word
    })
}

/// How a notebook ended.
struct Ran {
    notebook: Notebook,
    /// What failed, in a cell or by leaving the bounds; none when every cell ran.
    fault: Option<String>,
    /// SHA-256 of the notebook with its outputs, hex.
    log: String,
}

impl Trial<'_> {
    /// V5: the revision loads and computes. A network that is known is built and given a fixed input; any other model shows it by
    /// a notebook of its own, and the check says which it was.
    pub(crate) async fn loads(&self) -> Result<Check> {
        let network = known_network(self.folder);
        let (what, notebook) = match &network {
            Some(network) => (
                format!("forward pass of {network}"),
                code("forward_pass(&load(\".\")?)?"),
            ),
            None if self.folder.join(LOADS).is_file() => {
                (LOADS.to_owned(), Notebook::read(&self.folder.join(LOADS))?)
            }
            None => return Ok(self.check(CheckId::V5, Outcome::NotRun, vec![nothing_to_run()], None)),
        };
        let ran = self.run("loading", notebook, self.bounds.loading).await?;
        let mut faults: Vec<_> = ran.fault.iter().map(|fault| found(&what, fault)).collect();
        let mut told = what.clone();
        if network.is_some() && faults.is_empty() {
            match shown(&ran.notebook, FORWARD).next() {
                Some(facts) => told = format!("{what}: {}", facts_of(facts)),
                None => faults.push(found(&what, "it showed no forward pass")),
            }
        } else if faults.is_empty() && !shows_anything(&ran.notebook) {
            faults.push(found(
                LOADS,
                "none of its cells showed anything, so nothing was predicted",
            ));
        }
        Ok(self.judged(CheckId::V5, faults, told, &ran))
    }

    /// V8: the model's evaluation notebook, run here, measures what its card claims. On how many hosts it did is counted by who reads
    /// the evidence.
    pub(crate) async fn evaluation(&self, claimed: &BTreeMap<String, f64>) -> Result<Check> {
        let file = self.folder.join(EVALUATION);
        if !file.is_file() || claimed.is_empty() {
            let why = if claimed.is_empty() {
                "the card claims no metric".to_owned()
            } else {
                format!("there is no {EVALUATION}")
            };
            let hint = format!(
                "ship an {EVALUATION} that calls report(\"name\", value) for each metric of the card"
            );
            let finding = Finding {
                file: String::new(),
                what: "revision".to_owned(),
                why: format!("its evaluation was not repeated: {why}"),
                hint,
            };
            return Ok(self.check(CheckId::V8, Outcome::NotRun, vec![finding], None));
        }
        let notebook = Notebook::read(&file)?;
        let tolerance = stated_tolerance(&file)?;
        let ran = self.run("evaluation", notebook, self.bounds.evaluation).await?;
        let mut faults: Vec<_> = ran.fault.iter().map(|fault| found(EVALUATION, fault)).collect();
        if tolerance > TOLERANCE_MAX {
            faults.push(found(
                EVALUATION,
                &format!("it states a tolerance of {tolerance}, and at most {TOLERANCE_MAX} means anything"),
            ));
        }
        let measured = measured(&ran.notebook);
        for (name, claimed) in claimed {
            match measured.get(name) {
                None => faults.push(found(EVALUATION, &format!("it did not report `{name}`"))),
                Some(value) if (value - claimed).abs() > tolerance => faults.push(found(
                    EVALUATION,
                    &format!(
                        "`{name}` is {value} here, the card claims {claimed}, more than {tolerance} apart"
                    ),
                )),
                Some(_) => {}
            }
        }
        let told = measured
            .iter()
            .map(|(name, value)| format!("{name} {value}"))
            .collect::<Vec<_>>()
            .join(", ");
        let told = format!("{EVALUATION}: {told} (tolerance {tolerance})");
        let check = self.judged(CheckId::V8, faults, told, &ran);
        Ok(check)
    }

    /// Runs a notebook over the copy in a kernel that reaches nothing else.
    async fn run(&self, name: &'static str, mut notebook: Notebook, limit: Duration) -> Result<Ran> {
        let mark = Uuid::new_v4().to_string();
        let file = self.folder.join(MARK);
        std::fs::write(&file, &mark).map_err(|source| CliError::file("write", &file, source))?;
        let seen = notebook.prepend(&format!(
            "println!(\"{{}}\", std::fs::read_to_string(\"{MARK}\").unwrap_or_default());"
        ));
        let wanted = NewKernel {
            path: Some(self.folder.to_string_lossy().into_owned()),
            env: BTreeMap::from([
                ("KERNEL_NETWORK".to_owned(), "none".to_owned()),
                ("KERNEL_MEMORY".to_owned(), self.bounds.memory.to_string()),
            ]),
            ..NewKernel::default()
        };
        let kernel = session::start_with(self.place, name, wanted).await?;
        let running = session::run(self.place, name, kernel, &mut notebook);
        let ended = tokio::time::timeout(limit, running).await;
        session::stop(self.place, kernel).await;
        let fault = match ended {
            Err(_) => Some(format!("it did not end within {} minutes", limit.as_secs() / 60)),
            Ok(Ok(())) => None,
            Ok(Err(CliError::Cell { ename, evalue, .. })) => Some(short(&format!("{ename}: {evalue}"))),
            // It was there before it ran, so what it ran ended it: by memory, or by itself.
            Ok(Err(CliError::Kernel { reason, .. })) => Some(short(&format!("its kernel ended: {reason}"))),
            Ok(Err(other)) => return Err(other),
        };
        if !text_of(&notebook, seen).contains(&mark) && ended_before_looking(&fault) {
            return Err(CliError::Check {
                message: format!(
                    "the kernel does not see {}: only the operator's own kernels work in any folder of their machine, so a \
                     revision is tried with the `alephlab up` of this data folder",
                    self.folder.display()
                ),
            });
        }
        let log = self.keep(name, &notebook)?;
        Ok(Ran { notebook, fault, log })
    }

    fn keep(&self, name: &str, notebook: &Notebook) -> Result<String> {
        let bytes = notebook.to_bytes();
        let path = self.log(name);
        std::fs::write(&path, &bytes).map_err(|source| CliError::file("write", &path, source))?;
        Ok(hex::encode(Sha256::digest(&bytes)))
    }

    /// Where the log of a run is.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.ipynb"))
    }

    fn judged(&self, id: CheckId, faults: Vec<Finding>, told: String, ran: &Ran) -> Check {
        let outcome = if faults.is_empty() {
            Outcome::Passed
        } else {
            Outcome::Failed
        };
        let tool = Tool {
            name: told,
            version: format!("runtime {}, log {}", self.runtime, ran.log),
            outcome,
            host: self.host.map(str::to_owned),
        };
        self.check(id, outcome, faults, Some(tool))
    }

    fn check(&self, id: CheckId, outcome: Outcome, findings: Vec<Finding>, tool: Option<Tool>) -> Check {
        let version = concat!("alephlab ", env!("CARGO_PKG_VERSION")).to_owned();
        let mut check = Check::new(id, outcome, findings, version, time::now());
        check.tools.extend(tool);
        check
    }
}

/// Whether a run that did not show the mark may be one that never saw the files; a cell of the model's own that failed ran after
/// the look.
fn ended_before_looking(fault: &Option<String>) -> bool {
    fault
        .as_ref()
        .is_none_or(|fault| !fault.starts_with("it did not end") && !fault.starts_with("its kernel"))
}

/// A notebook of one cell.
fn code(source: &str) -> Notebook {
    let root = json!({
        "nbformat": 4, "nbformat_minor": 5, "metadata": {},
        "cells": [{ "cell_type": "code", "id": "try", "metadata": {}, "source": source, "outputs": [],
                    "execution_count": null }],
    });
    // One of ours, whole.
    Notebook::of(root)
}

/// The network that the files are of, if it is one that is known.
fn known_network(folder: &Path) -> Option<String> {
    let is_there = folder.join("model.safetensors").is_file();
    let config = std::fs::read(folder.join("config.json"))
        .ok()
        .filter(|_| is_there)?;
    let config: Value = serde_json::from_slice(&config).ok()?;
    let word = config["model_type"].as_str()?;
    NETWORKS.contains(&word).then(|| word.to_owned())
}

/// The tolerance in a notebook's metadata, `{"alephlab": {"tolerance": 0.01}}`.
fn stated_tolerance(file: &Path) -> Result<f64> {
    let bytes = std::fs::read(file).map_err(|source| CliError::file("read", file, source))?;
    let root: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let stated = root["metadata"]["alephlab"]["tolerance"].as_f64();
    Ok(stated
        .filter(|stated| stated.is_finite() && *stated >= 0.0)
        .unwrap_or(TOLERANCE))
}

/// Everything that cells showed with a media type.
fn shown<'a>(notebook: &'a Notebook, media_type: &'a str) -> impl Iterator<Item = &'a Value> {
    notebook
        .code_cells()
        .into_iter()
        .flat_map(|index| notebook.outputs(index))
        .filter_map(move |output| output["data"].get(media_type))
}

fn shows_anything(notebook: &Notebook) -> bool {
    // The first one is ours.
    let mut cells = notebook.code_cells().into_iter().skip(1);
    cells.any(|index| !notebook.outputs(index).is_empty())
}

fn measured(notebook: &Notebook) -> BTreeMap<String, f64> {
    shown(notebook, METRIC)
        .filter_map(|metric| Some((metric["name"].as_str()?.to_owned(), metric["value"].as_f64()?)))
        .collect()
}

fn text_of(notebook: &Notebook, cell: usize) -> String {
    let outputs = notebook.outputs(cell).iter();
    outputs
        .filter_map(|output| output.get("text"))
        .map(|text| match text {
            Value::Array(lines) => lines.iter().filter_map(Value::as_str).collect(),
            other => other.as_str().unwrap_or_default().to_owned(),
        })
        .collect()
}

/// One line of what a forward pass said of itself, of which nothing is trusted to be short.
fn facts_of(facts: &Value) -> String {
    let text = |key: &str| facts[key].to_string();
    short(&format!(
        "{} numbers, {} to {}, mean {}, largest {}",
        text("numbers"),
        text("input"),
        text("output"),
        text("mean"),
        text("largest")
    ))
}

fn nothing_to_run() -> Finding {
    Finding {
        file: String::new(),
        what: "revision".to_owned(),
        why: format!(
            "nothing of it can be run: its config.json names none of the networks {}, and it has no {LOADS}",
            NETWORKS.join(", ")
        ),
        hint: format!("ship a {LOADS} that loads the model and shows a prediction"),
    }
}

fn found(file: &str, why: &str) -> Finding {
    Finding {
        file: file.to_owned(),
        what: "run".to_owned(),
        why: format!("{file}: {why}"),
        hint: "run it in a kernel without network, started with KERNEL_NETWORK=none, and mend what fails"
            .to_owned(),
    }
}

fn short(text: &str) -> String {
    let line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let cut: String = line.chars().take(TOLD).collect();
    if cut.len() == line.len() {
        line
    } else {
        format!("{cut}…")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    #[test]
    fn a_network_is_known_by_its_settings_and_its_tensors() {
        let gpt = r#"{"model_type":"gpt2"}"#;
        let known = |files: &[(&str, &str)]| known_network(folder(files).path());
        assert_eq!(
            known(&[("config.json", gpt), ("model.safetensors", "")]).as_deref(),
            Some("gpt2")
        );
        assert_eq!(known(&[("config.json", gpt)]), None);
        let llama = r#"{"model_type":"llama"}"#;
        assert_eq!(known(&[("config.json", llama), ("model.safetensors", "")]), None);
        assert_eq!(known(&[("config.json", "{"), ("model.safetensors", "")]), None);
    }

    #[test]
    fn what_was_measured_is_read_from_outputs_alone() {
        let mut notebook = code("report(\"accuracy\", 0.5)?");
        let outputs = vec![
            json!({ "output_type": "display_data", "data": { METRIC: { "name": "accuracy", "value": 0.5 } } }),
            json!({ "output_type": "display_data", "data": { METRIC: { "name": "loss", "value": "low" } } }),
            json!({ "output_type": "stream", "name": "stdout", "text": ["a\n", "b"] }),
        ];
        notebook.set_result(0, outputs, Some(1));
        assert_eq!(
            measured(&notebook),
            BTreeMap::from([("accuracy".to_owned(), 0.5)])
        );
        assert_eq!(text_of(&notebook, 0), "a\nb");
    }

    #[test]
    fn a_host_is_a_hash_of_its_machines_id() {
        let host = host_of("3d1219c7c4c5404aaa1f6d2a48adfda4\n").unwrap();
        assert!(host.len() == 16 && host_of("4d1219c7c4c5404aaa1f6d2a48adfda4").unwrap() != host);
        assert!(host_of("").is_none() && host_of("uninitialized").is_none());
    }

    #[test]
    fn a_tolerance_is_stated_in_the_metadata() {
        let stated = |text: &str| {
            let folder = folder(&[("e.ipynb", text)]);
            stated_tolerance(&folder.path().join("e.ipynb")).unwrap()
        };
        assert!((stated(r#"{"metadata":{"alephlab":{"tolerance":0.02}}}"#) - 0.02).abs() < 1e-12);
        for text in ["{}", r#"{"metadata":{"alephlab":{"tolerance":-1}}}"#, "x"] {
            assert!((stated(text) - TOLERANCE).abs() < 1e-12, "{text}");
        }
    }
}
