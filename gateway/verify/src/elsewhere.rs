//! Data of ONNX models in files beside them: raw numbers without a header, which only the model can vouch for.
//!
//! A model vouches for a file by accounting for each of its bytes: its tensors lie there one after the other, each of
//! the length that its type and shape need, with nothing but zeros between them. A file that is merely named could be
//! any program.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::formats::onnx::External;
use crate::kind::{self, Refused};
use crate::reader::{Parsed, Reader, fault, fault_with, shown};
use crate::source::{EntryKind, Source};

/// Zeros between tensors: less than the coarsest alignment that exporters use.
const PADDING_MAX: u64 = 64 * 1024;
/// Ranges kept over all files; models whose tensors follow each other need one for each file.
const RANGES_MAX: usize = 200_000;
/// Endings of files that some program runs or unpickles, whatever a model says of them.
const ENDINGS: [&str; 32] = [
    "pyc", "pyo", "pyd", "pkl", "pickle", "joblib", "dill", "pt", "pth", "ckpt", "pb", "so", "dll", "dylib",
    "exe", "com", "sys", "jar", "class", "plan", "engine", "trt", "mar", "nemo", "tflite", "h5", "keras",
    "msgpack", "zip", "tar", "whl", "egg",
];
/// Beginnings of names that loaders of PyTorch open and unpickle by themselves.
const NAMES: [&str; 6] = [
    "pytorch_model",
    "diffusion_pytorch_model",
    "adapter_model",
    "training_args",
    "optimizer",
    "scheduler",
];

/// What models say of the files beside them, by number of the entry.
#[derive(Default)]
pub(crate) struct Elsewhere {
    parts: BTreeMap<usize, Vec<Range<u64>>>,
    by_path: BTreeMap<String, usize>,
}

/// A location that a model names and that is no file of the revision.
pub(crate) struct Missing(pub(crate) String);

impl Elsewhere {
    /// Takes the tensors of one model; the first location that leads nowhere.
    pub(crate) fn add(
        &mut self,
        model: &str,
        tensors: Vec<External>,
        source: &dyn Source,
    ) -> Parsed<Option<Missing>> {
        if tensors.is_empty() {
            return Ok(None);
        }
        if self.by_path.is_empty() {
            let entries = source.entries().iter().enumerate();
            let files = entries.filter(|(_, entry)| entry.kind == EntryKind::File);
            self.by_path = files
                .map(|(number, entry)| (entry.path.clone(), number))
                .collect();
        }
        let mut by_file: BTreeMap<String, Vec<Range<u64>>> = BTreeMap::new();
        for tensor in tensors {
            let Some(end) = tensor.offset.checked_add(tensor.length) else {
                return beyond(&tensor.location);
            };
            let ranges = by_file.entry(tensor.location).or_default();
            ranges.push(tensor.offset..end);
        }
        let mut missing = None;
        for (location, ranges) in by_file {
            let target = beside(model, &location).and_then(|target| self.by_path.get(&target).copied());
            let Some(target) = target else {
                missing = missing.or(Some(Missing(location)));
                continue;
            };
            let size = source.entries().get(target).map_or(0, |entry| entry.size);
            if ranges.iter().any(|range| range.end > size) {
                return beyond(&location);
            }
            let Some(merged) = disjoint(ranges) else {
                return fault(format!(
                    "has tensors that overlap in `{}`, beside it",
                    shown(&location)
                ));
            };
            let held = self.parts.entry(target).or_default();
            held.extend(merged);
            union(held);
        }
        if self.parts.values().map(Vec::len).sum::<usize>() > RANGES_MAX {
            return fault("has its tensors in more places of other files than are checked");
        }
        Ok(missing)
    }

    /// What is known of an unrecognised file through the models: nothing, when none names it.
    pub(crate) fn vouched(
        &self,
        entry: usize,
        source: &dyn Source,
    ) -> Option<std::result::Result<Parsed<()>, Refused>> {
        let ranges = self.parts.get(&entry)?;
        let path = source.entries().get(entry).map_or("", |entry| &entry.path);
        let ending = kind::ending(path);
        let name = path.rsplit('/').next().unwrap_or_default().to_lowercase();
        let is_pytorch = ending == "bin" && NAMES.iter().any(|known| name.starts_with(known));
        if ENDINGS.contains(&ending.as_str()) || is_pytorch {
            return Some(Err(kind::UNKNOWN));
        }
        Some(Ok(covered(ranges, &mut Reader::new(source, entry))))
    }
}

fn beyond<T>(location: &str) -> Parsed<T> {
    fault_with(
        format!("points beyond the end of `{}`", shown(location)),
        "export the model and its data again, together",
    )
}

/// The ranges merged; none when two overlap. Tensors that share all of their bytes are one.
fn disjoint(mut ranges: Vec<Range<u64>>) -> Option<Vec<Range<u64>>> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_by_key(|range| (range.start, range.end));
    ranges.dedup();
    if ranges
        .windows(2)
        .any(|pair| matches!(pair, [a, b] if b.start < a.end))
    {
        return None;
    }
    union(&mut ranges);
    Some(ranges)
}

/// Sorts and joins what touches.
fn union(ranges: &mut Vec<Range<u64>>) {
    ranges.sort_by_key(|range| (range.start, range.end));
    ranges.dedup_by(|next, held| {
        let touches = next.start <= held.end;
        if touches {
            held.end = held.end.max(next.end);
        }
        touches
    });
}

/// Whether the ranges are the whole file, but for zeros between them.
fn covered(ranges: &[Range<u64>], reader: &mut Reader<'_>) -> Parsed<()> {
    let mut at = 0;
    let end = reader.end();
    for next in ranges.iter().cloned().chain([end..end]) {
        let gap = next.start.saturating_sub(at);
        if gap >= PADDING_MAX {
            return fault_with(
                format!("has {gap} bytes at {at} that no model of the revision accounts for"),
                "export the model and its data again, together",
            );
        }
        reader.seek(at)?;
        if reader.bytes(gap, PADDING_MAX)?.iter().any(|byte| *byte != 0) {
            return fault(format!(
                "has bytes between its tensors, at {at}, that are not zero"
            ));
        }
        at = next.end;
    }
    Ok(())
}

/// The path of `location` as seen from the folder of `path`; none when it leads out of it.
pub(crate) fn beside(path: &str, location: &str) -> Option<String> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let location = location.strip_prefix("./").unwrap_or(location);
    if !alephlab_api::model::is_path(location) || location.contains(':') {
        return None;
    }
    Some(if folder.is_empty() {
        location.to_owned()
    } else {
        format!("{folder}/{location}")
    })
}
