//! Indexes of sharded models, compared with the shards that they name.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::BuildHasher as _;

use crate::elsewhere::beside;
use crate::formats::safetensors::Index;
use crate::reader::{Parsed, Reader, fault, shown};
use crate::source::Source;

/// Longest index; it is kept while it is compared.
const INDEX_MAX: u64 = 4 * 1024 * 1024;
/// Names of tensors kept, over all shards.
const NAMES_MAX: usize = 4_000_000;
/// How the path of an index ends.
pub(crate) const ENDING: &str = ".safetensors.index.json";

/// Which tensors are in which safetensors file, by hashes of their names under a key that no file can know.
#[derive(Default)]
pub(crate) struct Shards {
    hasher: RandomState,
    by_path: HashMap<String, HashSet<u64>>,
    count: usize,
    /// Files whose content is not known: they are malformed, and have a finding of their own.
    unread: HashSet<String>,
}

impl Shards {
    /// A well-formed shard has these tensors.
    pub(crate) fn add(&mut self, path: &str, names: &[String]) -> Parsed<()> {
        self.count = self.count.saturating_add(names.len());
        if self.count > NAMES_MAX {
            self.malformed(path);
            return fault(format!("brings the tensors of all files above {NAMES_MAX}"));
        }
        let hashes = names.iter().map(|name| self.hasher.hash_one(name)).collect();
        self.by_path.insert(path.to_owned(), hashes);
        Ok(())
    }

    /// A safetensors file could not be read.
    pub(crate) fn malformed(&mut self, path: &str) {
        self.unread.insert(path.to_owned());
    }

    /// Compares one index.
    pub(crate) fn index(&self, source: &dyn Source, entry: usize) -> Parsed<()> {
        let mut reader = Reader::new(source, entry);
        let (size, path) = (reader.left(), reader.path());
        let bytes = reader.bytes(size, INDEX_MAX)?;
        let Ok(index) = serde_json::from_slice::<Index>(&bytes) else {
            return fault("has no `weight_map` of texts");
        };
        let mut by_shard: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (tensor, file) in &index.weight_map {
            by_shard.entry(file).or_default().push(tensor);
        }
        for (file, tensors) in by_shard {
            let target = beside(path, file).unwrap_or_default();
            if self.unread.contains(&target) {
                continue;
            }
            let Some(names) = self.by_path.get(&target) else {
                return fault(format!(
                    "names `{}`, which is no safetensors file of this revision",
                    shown(file)
                ));
            };
            let is_missing = |tensor: &&&str| !names.contains(&self.hasher.hash_one(**tensor));
            if let Some(missing) = tensors.iter().find(is_missing) {
                return fault(format!(
                    "says that `{}` has the tensor `{}`, and it has not",
                    shown(file),
                    shown(missing)
                ));
            }
        }
        Ok(())
    }
}
