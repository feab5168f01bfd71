//! README's first command, twice on one fresh data folder: it must do its job, and do it again.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::counts::Counts;
use crate::steps::{Steps, lines};

/// The promise of the quickstart notebook on a test split that it has not trained on.
const ACCURACY_MIN: f64 = 0.97;
/// Every key that the last line must have.
const KEYS: [&str; 10] = [
    "accuracy",
    "pulled_accuracy",
    "dataset",
    "model",
    "revision",
    "share_uuid",
    "share_token",
    "gateway_url",
    "aleph_url",
    "seconds",
];

/// Runs it, once with each engine, and checks what it says of itself. The first run also builds the runtime that later steps use; that the
/// second one finds everything done is shown by its dataset, and its seconds are printed, not judged.
pub(crate) fn test(steps: &Steps) -> Result<Counts> {
    let folder = Folder::new()?;
    let mut counts = Counts::default();
    let first = verdict("first run", run(steps, &folder.0, "zygote"), &mut counts);
    let second = verdict(
        "second run, evcxr compiles",
        run(steps, &folder.0, "evcxr"),
        &mut counts,
    );
    if let (Some(first), Some(second)) = (first, second) {
        let ok = first["dataset"] == second["dataset"] && first["revision"] != second["revision"];
        println!(
            "quickstart, same dataset and a new revision of the model: {}",
            word(ok)
        );
        println!(
            "seconds: first {}, second {}",
            first["seconds"], second["seconds"]
        );
        counts += Counts::one(ok);
    }
    Ok(counts)
}

fn verdict(name: &str, result: Result<Value>, counts: &mut Counts) -> Option<Value> {
    *counts += Counts::one(result.is_ok());
    match result {
        Ok(answer) => {
            println!("quickstart, {name}: {}", word(true));
            Some(answer)
        }
        Err(error) => {
            println!("quickstart, {name}: {}: {error:#}", word(false));
            None
        }
    }
}

fn run(steps: &Steps, data: &Path, engine: &str) -> Result<Value> {
    let mut last = String::new();
    let mut command = steps.command(steps.program("alephlab"));
    command
        .args(["quickstart", "--exit", "--json", "--port", "0", "--data"])
        .arg(data)
        .env("ALEPHLAB__RUNTIME__DIR", steps.runtime())
        .env("ALEPHLAB__KERNEL__ENGINE", engine);
    let ok = lines(&mut command, |line| line.clone_into(&mut last))?;
    ensure!(ok, "it did not end well");
    check(&last)
}

fn check(line: &str) -> Result<Value> {
    let answer: Value = serde_json::from_str(line).context("its last line is not JSON")?;
    let keys: Vec<&str> = answer
        .as_object()
        .context("its last line is no object")?
        .keys()
        .map(String::as_str)
        .collect();
    ensure!(
        keys.len() == KEYS.len() && KEYS.iter().all(|key| keys.contains(key)),
        "its keys are {keys:?}"
    );
    let number = |key: &str| {
        answer[key]
            .as_f64()
            .with_context(|| format!("{key} is no number"))
    };
    let (made, pulled) = (number("accuracy")?, number("pulled_accuracy")?);
    if made < ACCURACY_MIN {
        bail!("the accuracy is {made}, less than {ACCURACY_MIN}");
    }
    ensure!(
        (made - pulled).abs() < f64::EPSILON,
        "the pulled model has accuracy {pulled}, not {made}"
    );
    ensure!(
        answer["share_token"]
            .as_str()
            .is_some_and(|token| token.starts_with("hf_")),
        "the token is none"
    );
    ensure!(
        answer["revision"]
            .as_str()
            .is_some_and(|revision| revision.len() == 40),
        "the revision is none"
    );
    ensure!(
        answer["seconds"]
            .as_object()
            .is_some_and(|seconds| !seconds.is_empty()),
        "no phase was timed"
    );
    Ok(answer)
}

fn word(ok: bool) -> &'static str {
    if ok { "ok" } else { "FAILED" }
}

/// A data folder of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("alephlab-quickstart-{}", std::process::id()));
        std::fs::create_dir(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder that stays in the temporary folder harms nobody.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer() -> Value {
        json!({
            "accuracy": 0.98, "pulled_accuracy": 0.98, "dataset": "digits", "model": "m", "revision": "a".repeat(40),
            "share_uuid": "u", "share_token": "hf_x", "gateway_url": "g", "aleph_url": "a", "seconds": {"x": 1.0},
        })
    }

    #[test]
    fn a_whole_answer_is_accepted_and_each_fault_refused() {
        check(&answer().to_string()).unwrap();
        for (key, bad) in [
            ("accuracy", json!(0.9)),
            ("pulled_accuracy", json!(0.97)),
            ("share_token", json!("x")),
            ("revision", json!("abc")),
            ("seconds", json!({})),
        ] {
            let mut answer = answer();
            answer[key] = bad;
            assert!(check(&answer.to_string()).is_err(), "{key}");
        }
        let mut answer = answer();
        answer.as_object_mut().unwrap().remove("model");
        assert!(check(&answer.to_string()).is_err());
        assert!(check("done").is_err());
    }
}
