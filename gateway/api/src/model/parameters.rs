//! How many numbers a model's weights are, from the headers of its safetensors files. Nobody needs to read the numbers for that.

use std::collections::BTreeMap;
use std::io::Read;

use serde::Deserialize;

use super::RecordFile;

/// The longest header that is read; the format's own readers take up to 100 MB, and clients of the Hub 25 MB.
const HEADER_MAX: u64 = 25 << 20;

/// The files that a revision's weights are in, as loaders find them: `model.safetensors`, or else its shards, or else the only
/// file of the format. Where there are several variants none is the model's, and there is no number.
pub fn weight_files(files: &[RecordFile]) -> Vec<&RecordFile> {
    let of_format = |file: &&RecordFile| file.path.ends_with(".safetensors");
    let at = |path: &str| files.iter().find(|file| file.path == path);
    if let Some(whole) = at("model.safetensors") {
        return vec![whole];
    }
    if at("model.safetensors.index.json").is_some() {
        let is_shard = |file: &&RecordFile| file.path.starts_with("model-") && file.path.contains("-of-");
        return files.iter().filter(of_format).filter(is_shard).collect();
    }
    let mut all = files.iter().filter(of_format);
    match (all.next(), all.next()) {
        (Some(only), None) => vec![only],
        _ => Vec::new(),
    }
}

/// Adds the numbers of each type that the header of one file tells; false where it is no such header.
pub fn add_parameters(counts: &mut BTreeMap<String, u64>, file: &mut impl Read) -> bool {
    parameters_of(file).is_some_and(|found| {
        for (kind, count) in found {
            let sum = counts.entry(kind).or_default();
            *sum = sum.saturating_add(count);
        }
        true
    })
}

fn parameters_of(file: &mut impl Read) -> Option<BTreeMap<String, u64>> {
    let mut length = [0; 8];
    file.read_exact(&mut length).ok()?;
    let length = u64::from_le_bytes(length);
    if length > HEADER_MAX {
        return None;
    }
    let mut header = Vec::new();
    file.take(length).read_to_end(&mut header).ok()?;
    let tensors: BTreeMap<String, Item> = serde_json::from_slice(&header).ok()?;
    let mut counts = BTreeMap::new();
    for item in tensors.into_values() {
        let (Some(kind), Some(shape)) = (item.dtype, item.shape) else {
            continue;
        };
        let count = shape
            .iter()
            .try_fold(1_u64, |product, size| product.checked_mul(*size))?;
        let sum: &mut u64 = counts.entry(kind).or_default();
        *sum = sum.checked_add(count)?;
    }
    Some(counts)
}

/// A tensor, or the metadata, which has neither.
#[derive(Deserialize)]
struct Item {
    dtype: Option<String>,
    shape: Option<Vec<u64>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes
    }

    #[test]
    fn numbers_are_counted_by_type_from_the_header() {
        let header = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},
            "b":{"dtype":"F32","shape":[],"data_offsets":[24,28]},"c":{"dtype":"I64","shape":[4],"data_offsets":[28,60]}}  "#;
        let mut counts = BTreeMap::new();
        assert!(add_parameters(&mut counts, &mut file(header).as_slice()));
        assert!(add_parameters(&mut counts, &mut file(header).as_slice()));
        assert_eq!(
            counts,
            BTreeMap::from([("F32".to_owned(), 14), ("I64".to_owned(), 8)])
        );
        let huge = r#"{"a":{"dtype":"F32","shape":[18446744073709551615,2]}}"#;
        for wrong in [
            &b"short"[..],
            &file("[]"),
            &file("{"),
            &file(huge),
            &u64::MAX.to_le_bytes(),
        ] {
            assert!(!add_parameters(&mut counts, &mut &*wrong));
        }
    }

    #[test]
    fn one_set_of_weights_is_the_model() {
        let found = |paths: &[&str]| -> Vec<String> {
            let files: Vec<_> = paths
                .iter()
                .map(|path| RecordFile {
                    path: (*path).to_owned(),
                    size: 1,
                    sha256: String::new(),
                })
                .collect();
            weight_files(&files)
                .iter()
                .map(|file| file.path.clone())
                .collect()
        };
        assert_eq!(
            found(&["a.safetensors", "model.safetensors"]),
            ["model.safetensors"]
        );
        let shards = ["model-1-of-2.safetensors", "model-2-of-2.safetensors"];
        assert_eq!(
            found(&[
                shards[0],
                shards[1],
                "model.safetensors.index.json",
                "x.safetensors"
            ]),
            shards
        );
        assert_eq!(found(&["only.safetensors", "config.json"]), ["only.safetensors"]);
        assert!(found(&["a.safetensors", "b.safetensors"]).is_empty());
        assert!(found(&["model.gguf"]).is_empty());
    }
}
