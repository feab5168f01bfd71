//! Sequences of revisions against a plain model, and the same with the process killed at random writes.

use super::resuming::Killed;
use super::revisions::{Model, RECORD, safetensors};
use super::{long, noise};
use crate::storage::{PostQuery, Storage};
use crate::{HEAD_POST_TYPE, SourceFile, heads_of};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// What a step does to the files.
#[derive(Clone, Debug)]
enum Step {
    Write { file: u8, size: u32, seed: u64 },
    Remove { file: u8 },
    Rename { file: u8, to: u8 },
    Copy { file: u8, to: u8 },
    Tensor { tensor: u8, size: u32, seed: u64 },
    Swap { one: u8, two: u8 },
    Note { length: u16 },
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![
        Just(0_u32),
        1_u32..3_000,
        200_000_u32..300_000,
        1_040_000_u32..2_200_000
    ];
    let tensor = prop_oneof![1_u32..3_000, 500_000_u32..550_000, 1_000_000_u32..1_600_000];
    prop_oneof![
        (0_u8..5, size, 0_u64..4).prop_map(|(file, size, seed)| Step::Write { file, size, seed }),
        (0_u8..5).prop_map(|file| Step::Remove { file }),
        (0_u8..5, 0_u8..5).prop_map(|(file, to)| Step::Rename { file, to }),
        (0_u8..5, 0_u8..5).prop_map(|(file, to)| Step::Copy { file, to }),
        (0_u8..5, tensor, 0_u64..4).prop_map(|(tensor, size, seed)| Step::Tensor { tensor, size, seed }),
        (0_u8..5, 0_u8..5).prop_map(|(one, two)| Step::Swap { one, two }),
        (0_u16..3_000).prop_map(|length| Step::Note { length }),
    ]
}

/// The plain model.
#[derive(Clone, Default)]
struct Plain {
    files: BTreeMap<String, Vec<u8>>,
    tensors: Vec<(u8, Vec<u8>)>,
    note: usize,
}

const WEIGHTS: &str = "z/model.safetensors";

impl Plain {
    fn apply(&mut self, step: &Step) {
        let path = |file: u8| format!("d{}/f{file}", file % 2);
        match *step {
            Step::Write { file, size, seed } => {
                self.files.insert(path(file), noise(seed, size as usize));
            }
            Step::Remove { file } => {
                self.files.remove(&path(file));
            }
            Step::Rename { file, to } => {
                if let Some(bytes) = self.files.remove(&path(file)) {
                    self.files.insert(path(to), bytes);
                }
            }
            Step::Copy { file, to } => {
                if let Some(bytes) = self.files.get(&path(file)).cloned() {
                    self.files.insert(path(to), bytes);
                }
            }
            Step::Tensor { tensor, size, seed } => {
                let bytes = noise(seed, size as usize);
                match self.tensors.iter_mut().find(|(name, _)| *name == tensor) {
                    Some((_, old)) => *old = bytes,
                    None => self.tensors.push((tensor, bytes)),
                }
            }
            Step::Swap { one, two } => {
                let count = self.tensors.len();
                if count > 0 {
                    self.tensors
                        .swap(usize::from(one) % count, usize::from(two) % count);
                }
            }
            Step::Note { length } => self.note = usize::from(length),
        }
        let names: Vec<String> = self.tensors.iter().map(|(name, _)| format!("t{name}")).collect();
        let tensors: Vec<(&str, Vec<u8>)> = names
            .iter()
            .zip(&self.tensors)
            .map(|(name, (_, bytes))| (name.as_str(), bytes.clone()))
            .collect();
        if !tensors.is_empty() {
            let weights = safetensors(&tensors, &"n".repeat(self.note));
            self.files.insert(WEIGHTS.into(), weights);
        }
    }

    /// As a put is given them: what is in `before` partly without its bytes.
    fn files(&self, before: &Self, keeps: u64) -> Vec<SourceFile> {
        let file = |(number, (path, bytes)): (u64, (&String, &Vec<u8>))| {
            let may_keep = keeps >> (number % 8) & 1 == 1;
            let known = before.files.iter().find(|(_, old)| *old == bytes);
            match known {
                Some(_) if may_keep && before.files.get(path) == Some(bytes) => SourceFile::kept(path),
                Some((from, _)) if may_keep => SourceFile::kept_as(path, from),
                _ => SourceFile::bytes(path, bytes.clone()),
            }
        };
        (0..).zip(&self.files).map(file).collect()
    }
}

async fn holds(model: &Model, plain: &Plain) {
    let (head, _) = model.newest().await.unwrap();
    let reader = model.open(&head).await;
    let read: Vec<&str> = reader
        .entries()
        .iter()
        .filter(|entry| entry.is_file())
        .map(|entry| entry.path.as_str())
        .collect();
    let written: Vec<&str> = plain.files.keys().map(String::as_str).collect();
    assert_eq!(read, written);
    for (path, bytes) in &plain.files {
        assert!(reader.read(path).await.unwrap() == *bytes, "{path}");
    }
    // No object that only an earlier revision needs, and none twice.
    let mut used: Vec<u32> = reader
        .entries()
        .iter()
        .flat_map(|entry| entry.extents.iter().map(|extent| extent.object))
        .collect();
    used.sort_unstable();
    used.dedup();
    assert_eq!(used.len(), reader.object_names().0.len());
}

async fn sequence(steps: Vec<(Vec<Step>, u64)>) {
    let model = Model::new();
    let mut before = Plain::default();
    for (steps, keeps) in steps {
        let mut plain = before.clone();
        steps.iter().for_each(|step| plain.apply(step));
        if plain.files.is_empty() {
            continue;
        }
        model.put(plain.files(&before, keeps)).await;
        holds(&model, &plain).await;
        before = plain;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if long() { 1_000 } else { 16 }))]
    #[test]
    fn what_is_read_back_is_what_was_put(
        steps in proptest::collection::vec(
            (proptest::collection::vec(step(), 1..4), any::<u64>()),
            1..7,
        ),
    ) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(sequence(steps));
    }
}

/// Four files, a tensor of three that differs between revisions, and one small file that does.
fn revision(version: u64) -> Plain {
    let mut plain = Plain::default();
    for (tensor, seed) in [(0, 1), (1, 10 + version), (2, 3)] {
        plain.apply(&Step::Tensor {
            tensor,
            size: 1_000_000,
            seed,
        });
    }
    for (file, seed) in [(0, 5), (1, 6), (2, 20 + version)] {
        plain.apply(&Step::Write {
            file,
            size: 2_000,
            seed,
        });
    }
    plain
}

#[tokio::test]
async fn a_publishing_that_is_killed_is_finished_once() {
    let rounds = if long() { 1_000 } else { 12 };
    for round in 0..rounds {
        let model = Model::new();
        let folder = tempfile::tempdir().unwrap();
        let journal = folder.path().join("model.jsonl");
        let mut before = Plain::default();
        for version in 1..=3_u64 {
            let plain = revision(version);
            for cut in 0..2 {
                let bytes = noise(round * 16 + version * 4 + cut, 2);
                let kill = (i64::from(bytes[0] % 11), bytes[1].is_multiple_of(2));
                let killed = Killed::new(&model.storage, kill);
                let files = plain.files(&before, 0x55);
                // Of a revision that was posted already, the same call is to find nothing to do.
                if model
                    .newest()
                    .await
                    .is_some_and(|(head, _)| head.head.version == version)
                {
                    break;
                }
                tokio::select! {
                    done = model.put_through(killed.clone(), files, Some(&journal)) => { done.unwrap(); }
                    () = killed.killed() => {}
                }
            }
            let put = model
                .put_through(model.storage.clone(), given(&plain), Some(&journal))
                .await
                .unwrap();
            assert_eq!(put.version, version, "round {round}");
            assert!(!journal.exists(), "round {round}");
            holds(&model, &plain).await;
            before = plain;
        }
        complete(&model, round).await;
    }
}

/// One head and one record for each revision, every object stored once and used.
async fn complete(model: &Model, round: u64) {
    let (head, _) = model.newest().await.unwrap();
    let heads = heads_of(&*model.storage, &model.wallet.address(), &head.head.dataset_id)
        .await
        .unwrap();
    let versions: Vec<u64> = heads.iter().map(|(head, _)| head.head.version).collect();
    assert_eq!(versions, [1, 2, 3], "round {round}");
    let posts = |kind: &str| {
        let query = PostQuery {
            addresses: vec![model.wallet.address()],
            types: vec![kind.to_owned()],
            ..PostQuery::default()
        };
        model.storage.posts(query)
    };
    assert_eq!(posts(HEAD_POST_TYPE).await.unwrap().len(), 3, "round {round}");
    let records = posts(RECORD).await.unwrap();
    assert_eq!(records.len(), 3, "round {round}");
    for (head, message) in &heads {
        let named = |record: &&crate::storage::StoredPost| record.content["head"] == **message;
        let record = records.iter().find(named).unwrap();
        assert_eq!(record.content["commit"], *head.revision());
    }
    let stores = model.storage.messages();
    let stores = stores.iter().filter(|message| message.message_type() == "STORE");
    let mut used = std::collections::BTreeSet::new();
    for (head, _) in &heads {
        let (files, manifest) = model.open(head).await.object_names();
        used.extend(files.into_iter().chain(manifest));
    }
    assert_eq!(
        model.storage.objects().len(),
        used.len(),
        "round {round}: none in vain"
    );
    assert_eq!(stores.count(), used.len(), "round {round}: none twice");
}

fn given(plain: &Plain) -> Vec<SourceFile> {
    plain.files(&Plain::default(), 0)
}
