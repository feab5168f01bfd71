//! Checkpoints of a training: what they hold, and the folder they lie in.
//!
//! Each is two files of one name: `step-00000120.safetensors` with all tensors (`weights/`, `optimizer/`, `average/` and
//! `best/`, then the variable's name) and `step-00000120.json` with the rest. The tensors are written first and the
//! second file names their digest, so a checkpoint is whole as soon as its second file is there, whenever the process is
//! killed; none is ever written over. `-end` stands behind the step where an epoch was measured, `-best` where that was
//! the best so far. The format is `FORMAT`; another one is refused. Called by the trainer.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::optimizer::Weights;
use super::stopping::Watched;
use super::{History, Runs};
use crate::{Error, Result, files};

/// Version of what is written here.
const FORMAT: u32 = 1;
const PREFIX: &str = "step-";
/// Read at once for a digest; whole words.
const PIECE_BYTES: usize = 1 << 20;

/// What must be the same for a training to go on: otherwise order, sums or state mean something else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) batch_size: usize,
    pub(super) accumulate: usize,
    pub(super) optimizer: String,
    pub(super) average: Option<f64>,
    pub(super) examples: Option<usize>,
    /// Of the data, where its source has one.
    pub(super) data: Option<u64>,
}

/// Where a training is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    /// From 0.
    pub(super) epoch: usize,
    /// Batches of this epoch that are learned from.
    pub(super) batch: usize,
    /// Steps of the optimiser that are done. Schedules follow from it.
    pub(super) step: u64,
}

/// What the mean loss of the epoch that is begun is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Sums {
    pub(super) loss: f64,
    pub(super) examples: usize,
}

/// A training as it was between two steps, without its tensors. Random numbers need no place here: they follow from
/// seed and position.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) plan: Plan,
    pub(super) at: Position,
    pub(super) sums: Sums,
    pub(super) watched: Watched,
    pub(super) average_steps: u64,
    pub(super) history: History,
}

/// A whole checkpoint.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) state: State,
    pub(super) tensors: Weights,
}

/// Why a checkpoint was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Moment {
    Step,
    End,
    Best,
}

/// What the second file holds.
#[derive(Debug, Serialize, Deserialize)]
struct Sidecar {
    format: u32,
    /// Of the state's JSON and the bytes of the tensors.
    digest: String,
    state: State,
}

/// The folder of a training's checkpoints.
#[derive(Debug, Clone)]
pub(super) struct Store {
    folder: PathBuf,
    /// How many of the newest are kept, at least 1. The newest that was best is kept beside.
    keep: usize,
}

/// One checkpoint in the folder, in order of age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    step: u64,
    moment: Moment,
}

/// Why a checkpoint could not be read.
enum Unread {
    /// It is damaged: an older one may be whole.
    Damaged(String),
    /// It is whole and not for us: an older one will not be either.
    Refused(String),
}

impl Snapshot {
    /// Its tensors whose names begin with this and a stroke, without both.
    pub(super) fn part(&self, part: &str) -> Weights {
        let inside = |(name, tensor): (&String, &Tensor)| {
            let rest = name.strip_prefix(part)?.strip_prefix('/')?;
            Some((rest.to_owned(), tensor.clone()))
        };
        self.tensors.iter().filter_map(inside).collect()
    }
}

impl Plan {
    /// The first thing that is set otherwise than in `self`, in words.
    pub(super) fn difference(&self, now: &Self) -> Option<String> {
        let told = |what: &str, then: String, now: String| {
            (then != now).then(|| format!("it was made with {what} {then}, and now it is {now}"))
        };
        let number = |value: Option<usize>| value.map_or("of unknown number".to_owned(), |n| n.to_string());
        let average = |value: Option<f64>| value.map_or("none".to_owned(), |decay| decay.to_string());
        told("seed", self.seed.to_string(), now.seed.to_string())
            .or_else(|| {
                told(
                    "batch size",
                    self.batch_size.to_string(),
                    now.batch_size.to_string(),
                )
            })
            .or_else(|| {
                told(
                    "batches in a step:",
                    self.accumulate.to_string(),
                    now.accumulate.to_string(),
                )
            })
            .or_else(|| told("the optimiser", self.optimizer.clone(), now.optimizer.clone()))
            .or_else(|| told("average of weights:", average(self.average), average(now.average)))
            .or_else(|| told("examples:", number(self.examples), number(now.examples)))
            .or_else(|| {
                let differs = self.data != now.data;
                differs.then(|| "it learned from other examples than these".to_owned())
            })
    }
}

impl Store {
    /// Makes the folder where it is missing, and clears what a killed process left half written.
    pub(super) fn open(folder: &Path, keep: usize) -> Result<Self> {
        let failed = |source| Error::file("make the folder", folder, source);
        std::fs::create_dir_all(folder).map_err(failed)?;
        for file in std::fs::read_dir(folder).map_err(|source| Error::file("read", folder, source))? {
            let path = file.map_err(|source| Error::file("read", folder, source))?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if name.starts_with(PREFIX) && name.ends_with(".part") {
                // Another process may have cleared it; what is left is only space.
                let _ = std::fs::remove_file(&path);
            }
        }
        Ok(Self {
            folder: folder.to_owned(),
            keep: keep.max(1),
        })
    }

    /// Writes a checkpoint, then removes those that are not kept any more.
    pub(super) fn write(&self, snapshot: &Snapshot, moment: Moment) -> Result<()> {
        let entry = Entry {
            step: snapshot.state.at.step,
            moment,
        };
        let (tensors, sidecar) = self.paths(entry);
        let all: HashMap<String, Tensor> = snapshot.tensors.clone().into_iter().collect();
        files::replace_durably(&tensors, |path| Ok(candle_core::safetensors::save(&all, path)?))?;
        // What is on the disk counts, not what was meant to be.
        let state = json(&snapshot.state)?;
        let file = std::fs::File::open(&tensors);
        let digest = file.and_then(|file| digest(&state, file));
        let written = Sidecar {
            format: FORMAT,
            digest: digest.map_err(|source| Error::file("read", &tensors, source))?,
            state: snapshot.state.clone(),
        };
        let text = json(&written)?;
        files::replace_durably(&sidecar, |path| {
            std::fs::write(path, &text).map_err(|source| Error::file("write", path, source))
        })?;
        self.prune()
    }

    /// The newest checkpoint that is whole, and what is to be said of those that are not. None in an empty folder.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when there are some and none is whole, or the newest whole one has another format.
    pub(super) fn newest(&self) -> Result<Option<(Snapshot, Vec<String>)>> {
        let mut damaged: Vec<(PathBuf, String)> = Vec::new();
        for entry in self.entries()?.into_iter().rev() {
            let (tensors, sidecar) = self.paths(entry);
            match read(&tensors, &sidecar) {
                Ok(snapshot) => {
                    let told = damaged.iter().map(|(path, reason)| {
                        format!(
                            "{} cannot be used ({reason}), the one before it is",
                            path.display()
                        )
                    });
                    return Ok(Some((snapshot, told.collect())));
                }
                Err(Unread::Damaged(reason)) => damaged.push((tensors, reason)),
                Err(Unread::Refused(reason)) => return Err(refused(sidecar, reason)),
            }
        }
        match damaged.into_iter().next() {
            Some((path, reason)) => Err(refused(path, format!("{reason}, and no older one is whole"))),
            None => Ok(None),
        }
    }

    /// What an error about the newest checkpoint names.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes the history beside the checkpoints, for [`Runs`] of another day.
    pub(super) fn write_history(&self, history: &History) -> Result<()> {
        history.save(self.folder.join(Runs::FILE))
    }

    fn prune(&self) -> Result<()> {
        let entries = self.entries()?;
        let best = entries.iter().rev().find(|entry| entry.moment == Moment::Best);
        let old = entries.len().saturating_sub(self.keep);
        for entry in entries[..old].iter().filter(|entry| Some(*entry) != best) {
            let (tensors, sidecar) = self.paths(*entry);
            // The second file first: without it there is no checkpoint, with it there must be a whole one.
            for path in [sidecar, tensors] {
                std::fs::remove_file(&path).map_err(|source| Error::file("remove", &path, source))?;
            }
        }
        Ok(())
    }

    fn entries(&self) -> Result<Vec<Entry>> {
        let failed = |source| Error::file("read", &self.folder, source);
        let mut found = Vec::new();
        for file in std::fs::read_dir(&self.folder).map_err(failed)? {
            let name = file.map_err(failed)?.file_name();
            found.extend(name.to_str().and_then(Entry::of));
        }
        found.sort_unstable();
        Ok(found)
    }

    fn paths(&self, entry: Entry) -> (PathBuf, PathBuf) {
        let name = entry.name();
        (
            self.folder.join(format!("{name}.safetensors")),
            self.folder.join(format!("{name}.json")),
        )
    }
}

impl Entry {
    fn name(self) -> String {
        let end = match self.moment {
            Moment::Step => "",
            Moment::End => "-end",
            Moment::Best => "-best",
        };
        format!("{PREFIX}{:08}{end}", self.step)
    }

    /// Of the name of a second file.
    fn of(file: &str) -> Option<Self> {
        let middle = file.strip_prefix(PREFIX)?.strip_suffix(".json")?;
        let (step, moment) = match middle.split_once('-') {
            None => (middle, Moment::Step),
            Some((step, "end")) => (step, Moment::End),
            Some((step, "best")) => (step, Moment::Best),
            Some(_) => return None,
        };
        let step = step.parse().ok()?;
        Some(Self { step, moment })
    }
}

pub(super) fn refused(path: PathBuf, reason: String) -> Error {
    Error::Checkpoint { path, reason }
}

fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|source| Error::Data {
        reason: format!("the checkpoint cannot be written: {source}"),
    })
}

fn read(tensors: &Path, sidecar: &Path) -> std::result::Result<Snapshot, Unread> {
    let bytes_of = |path: &Path| {
        std::fs::read(path).map_err(|source| Unread::Damaged(format!("it cannot be read: {source}")))
    };
    let text = bytes_of(sidecar)?;
    let damaged = |reason: &str| Unread::Damaged(reason.to_owned());
    let any: serde_json::Value =
        serde_json::from_slice(&text).map_err(|_| damaged("its second file is not whole"))?;
    match any.get("format").and_then(serde_json::Value::as_u64) {
        Some(format) if format == u64::from(FORMAT) => {}
        Some(format) => {
            let reason = format!("it has the format {format}, and this library reads format {FORMAT}");
            return Err(Unread::Refused(reason));
        }
        None => return Err(damaged("its second file names no format")),
    }
    let found: Sidecar = serde_json::from_value(any)
        .map_err(|source| Unread::Damaged(format!("its second file is damaged: {source}")))?;
    let bytes = bytes_of(tensors)?;
    let state = json(&found.state).map_err(|error| Unread::Damaged(error.to_string()))?;
    if digest(&state, bytes.as_slice()).ok() != Some(found.digest) {
        return Err(damaged("its bytes are not those that were written"));
    }
    // On the CPU: each tensor goes to the device of its variable later.
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
        .map_err(|source| Unread::Damaged(format!("its tensors cannot be read: {source}")))?;
    Ok(Snapshot {
        state: found.state,
        tensors: tensors.into_iter().collect(),
    })
}

/// Finds damage, not malice: FNV-1a over words of eight bytes, with their order mixed in, of a text and a file that is
/// not held in memory.
fn digest(state: &str, mut tensors: impl Read) -> std::io::Result<String> {
    let mut hash = Hash(0xcbf2_9ce4_8422_2325);
    hash.add(state.as_bytes());
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let filled = fill(&mut tensors, &mut piece)?;
        hash.add(&piece[..filled]);
        if filled < piece.len() {
            return Ok(format!("{:016x}", hash.0));
        }
    }
}

struct Hash(u64);

impl Hash {
    fn add(&mut self, part: &[u8]) {
        let (words, rest) = part.as_chunks::<8>();
        let length = part.len() as u64;
        let last = rest
            .iter()
            .fold(length, |word, byte| (word << 8) ^ u64::from(*byte));
        let words = words.iter().map(|word| u64::from_le_bytes(*word));
        for word in words.chain([last]) {
            self.0 = (self.0 ^ word)
                .wrapping_mul(0x0000_0100_0000_01b3)
                .rotate_left(29);
        }
    }
}

/// Reads until `piece` is full or there is no more.
fn fill(source: &mut impl Read, piece: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < piece.len() {
        match source.read(&mut piece[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(step: u64) -> Snapshot {
        let plan = Plan {
            seed: 1,
            batch_size: 2,
            accumulate: 3,
            optimizer: "none".to_owned(),
            average: Some(0.9),
            examples: Some(10),
            data: Some(u64::MAX),
        };
        let history = History {
            train_loss: vec![0.1 + 0.2, 1.0 / 3.0],
            ..History::default()
        };
        let state = State {
            plan,
            at: Position {
                epoch: 1,
                batch: 2,
                step,
            },
            sums: Sums {
                loss: 0.7,
                examples: 4,
            },
            watched: Watched::default(),
            average_steps: 5,
            history,
        };
        let tensor = Tensor::new(&[step as f64, 0.1], &Device::Cpu).unwrap();
        let tensors =
            ["weights/a", "optimizer/a/first", "weightsx/a"].map(|name| (name.to_owned(), tensor.clone()));
        Snapshot {
            state,
            tensors: tensors.into(),
        }
    }

    fn names(store: &Store) -> Vec<String> {
        store.entries().unwrap().into_iter().map(Entry::name).collect()
    }

    fn newest(store: &Store) -> (u64, Vec<String>) {
        let (snapshot, told) = store.newest().unwrap().unwrap();
        (snapshot.state.at.step, told)
    }

    #[test]
    fn is_read_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "").unwrap();
        let error = Store::open(&folder.path().join("file/run"), 3).unwrap_err();
        assert_eq!(error.code(), "file");
        let store = Store::open(&folder.path().join("deep/run"), 3).unwrap();
        assert!(store.newest().unwrap().is_none());
        store.write(&snapshot(7), Moment::Step).unwrap();
        let (back, told) = store.newest().unwrap().unwrap();
        assert_eq!((back.state.clone(), told), (snapshot(7).state, vec![]));
        let weights = back.part("weights");
        assert_eq!(weights.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(weights["a"].to_vec1::<f64>().unwrap(), [7.0, 0.1]);
        assert_eq!(back.part("optimizer").keys().collect::<Vec<_>>(), ["a/first"]);
    }

    #[test]
    fn the_newest_are_kept_and_the_best_beside_them() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), 2).unwrap();
        for (step, moment) in [
            (1, Moment::Best),
            (2, Moment::Best),
            (2, Moment::Step),
            (3, Moment::End),
            (4, Moment::Step),
        ] {
            store.write(&snapshot(step), moment).unwrap();
        }
        let expected = ["step-00000002-best", "step-00000003-end", "step-00000004"];
        assert_eq!(names(&store), expected);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 6);
        assert_eq!(newest(&store).0, 4);
    }

    #[test]
    fn a_damaged_checkpoint_is_passed_over_and_named() {
        let whole = |folder: &Path| {
            let store = Store::open(folder, 5).unwrap();
            store.write(&snapshot(1), Moment::Step).unwrap();
            store.write(&snapshot(2), Moment::Step).unwrap();
            store
        };
        type Damage<'a> = &'a dyn Fn(&mut Vec<u8>);
        let damage: [(&str, Damage<'_>); 5] = [
            ("step-00000002.safetensors", &|bytes| {
                bytes.truncate(bytes.len() - 1)
            }),
            ("step-00000002.safetensors", &|bytes| bytes.clear()),
            ("step-00000002.safetensors", &|bytes| {
                let last = bytes.len() - 3;
                bytes[last] ^= 1;
            }),
            ("step-00000002.json", &|bytes| bytes.truncate(bytes.len() / 2)),
            ("step-00000002.json", &|bytes| {
                let text = String::from_utf8(bytes.clone()).unwrap();
                *bytes = text.replace("\"epoch\":1", "\"epoch\":0").into_bytes();
            }),
        ];
        for (name, damage) in damage {
            let folder = tempfile::tempdir().unwrap();
            let store = whole(folder.path());
            let path = folder.path().join(name);
            let mut bytes = std::fs::read(&path).unwrap();
            damage(&mut bytes);
            std::fs::write(&path, bytes).unwrap();
            let (step, told) = newest(&store);
            assert_eq!((step, told.len()), (1, 1), "{name}");
            assert!(
                told[0].contains("step-00000002") && told[0].contains("cannot be used"),
                "{told:?}"
            );
        }
        let folder = tempfile::tempdir().unwrap();
        let store = whole(folder.path());
        for step in [1, 2] {
            std::fs::write(folder.path().join(format!("step-0000000{step}.safetensors")), "x").unwrap();
        }
        let error = store.newest().unwrap_err();
        assert_eq!(error.code(), "checkpoint");
        assert!(error.to_string().contains("no older one is whole"), "{error}");
    }

    #[test]
    fn another_format_is_refused_and_what_a_killed_process_left_is_cleared() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), 5).unwrap();
        store.write(&snapshot(1), Moment::Step).unwrap();
        std::fs::write(folder.path().join("step-00000002.json"), r#"{"format":2}"#).unwrap();
        let error = store.newest().unwrap_err().to_string();
        assert!(
            error.contains("has the format 2, and this library reads format 1"),
            "{error}"
        );
        for left in ["step-00000003.safetensors.77.part", "step-00000003.json.77.part"] {
            std::fs::write(folder.path().join(left), "half").unwrap();
        }
        let foreign = folder.path().join("notes.part");
        std::fs::write(&foreign, "mine").unwrap();
        Store::open(folder.path(), 5).unwrap();
        assert!(foreign.is_file());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 4);
    }

    #[test]
    fn a_digest_tells_every_bit_and_does_not_depend_on_how_it_is_read() {
        let bytes: Vec<u8> = (0..PIECE_BYTES + 13).map(|at| at.to_le_bytes()[0]).collect();
        let whole = digest("state", bytes.as_slice()).unwrap();
        let (front, back) = bytes.split_at(777);
        assert_eq!(digest("state", front.chain(back)).unwrap(), whole);
        assert_ne!(digest("stat", bytes.as_slice()).unwrap(), whole);
        for place in [0, 8, 4_000, PIECE_BYTES - 1, PIECE_BYTES + 12] {
            let mut other = bytes.clone();
            other[place] ^= 0x80;
            assert_ne!(digest("state", other.as_slice()).unwrap(), whole, "{place}");
        }
        assert_ne!(digest("state", &bytes[..bytes.len() - 1]).unwrap(), whole);
    }

    #[test]
    fn a_plan_says_what_differs() {
        let plan = snapshot(1).state.plan;
        assert_eq!(plan.difference(&plan), None);
        let other = Plan {
            batch_size: 4,
            ..plan.clone()
        };
        let told = plan.difference(&other).unwrap();
        assert_eq!(told, "it was made with batch size 2, and now it is 4");
        let other = Plan {
            examples: None,
            ..plan.clone()
        };
        assert!(plan.difference(&other).unwrap().contains("of unknown number"));
        let other = Plan {
            data: Some(1),
            ..plan.clone()
        };
        assert!(plan.difference(&other).unwrap().contains("other examples"));
    }
}
