//! How many numbers a model's weights are, from the headers of its safetensors files. Nobody needs to read the numbers for that.

use std::collections::BTreeMap;
use std::io::Read;

use serde::Deserialize;

use super::RecordFile;

/// The longest header that is read; the format's own readers take up to 100 MB, and clients of the Hub 25 MB.
const HEADER_MAX: u64 = 25 << 20;
/// Bytes of all headers of a revision: those of the largest models have together some twenty million.
const HEADERS_MAX: u64 = 64 << 20;

/// Shards whose headers are read: each costs two requests of who counts again. The largest models have some two hundred.
const SHARDS_MAX: usize = 512;

/// The files that a revision's weights are in, as loaders find them: `model.safetensors`, or else its shards, or else the only
/// file of the format. Where there are several variants, or more shards than anybody makes, none is the model's, and there is no number.
pub fn weight_files(files: &[RecordFile]) -> Vec<&RecordFile> {
    let of_format = |file: &&RecordFile| file.path.ends_with(".safetensors");
    let at = |path: &str| files.iter().find(|file| file.path == path);
    if let Some(whole) = at("model.safetensors") {
        return vec![whole];
    }
    if at("model.safetensors.index.json").is_some() {
        let is_shard = |file: &&RecordFile| file.path.starts_with("model-") && file.path.contains("-of-");
        let shards: Vec<_> = files.iter().filter(of_format).filter(is_shard).collect();
        return if shards.len() > SHARDS_MAX {
            Vec::new()
        } else {
            shards
        };
    }
    let mut all = files.iter().filter(of_format);
    match (all.next(), all.next()) {
        (Some(only), None) => vec![only],
        _ => Vec::new(),
    }
}

/// Counts the numbers of a revision's weights, file by file, from their headers. Whoever publishes and whoever counts again have the
/// same bounds, so that beyond them both have no number.
#[derive(Debug, Default)]
pub struct WeightCount {
    counts: BTreeMap<String, u64>,
    read: u64,
}

impl WeightCount {
    /// Bytes of a file's start that its header takes, of which these are the first eight; none where there are no such or it, or all
    /// together, are too long.
    pub fn header_bytes(&self, start: &[u8]) -> Option<u64> {
        let length = u64::from_le_bytes(*start.first_chunk()?);
        let is_read = length <= HEADER_MAX && self.read.saturating_add(length) <= HEADERS_MAX;
        is_read.then(|| length + 8)
    }

    /// Adds the numbers of each type that the header of one file of `size` bytes tells; false where it is no such header, or tells of
    /// more than there is.
    pub fn add(&mut self, file: &mut impl Read, size: u64) -> bool {
        let mut start = [0; 8];
        if file.read_exact(&mut start).is_err() {
            return false;
        }
        let Some(bytes) = self.header_bytes(&start) else {
            return false;
        };
        self.read += bytes - 8;
        let found = parameters_of(file, bytes - 8);
        let Some(found) = found.filter(|found| bytes_of(found).is_some_and(|bytes| bytes <= size)) else {
            return false;
        };
        for (kind, count) in found {
            let sum = self.counts.entry(kind).or_default();
            *sum = sum.saturating_add(count);
        }
        true
    }

    /// Numbers by type.
    pub fn end(self) -> BTreeMap<String, u64> {
        self.counts
    }
}

/// Bytes that the numbers take; none where a type is not known, whose name could be anything.
fn bytes_of(counts: &BTreeMap<String, u64>) -> Option<u64> {
    counts.iter().try_fold(0_u64, |sum, (kind, count)| {
        let bits: u64 = match kind.as_str() {
            "F4" => 4,
            "F6_E2M3" | "F6_E3M2" => 6,
            "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" => 8,
            "I16" | "U16" | "F16" | "BF16" => 16,
            "I32" | "U32" | "F32" => 32,
            "I64" | "U64" | "F64" | "C64" => 64,
            _ => return None,
        };
        sum.checked_add(count.checked_mul(bits)? / 8)
    })
}

fn parameters_of(file: &mut impl Read, length: u64) -> Option<BTreeMap<String, u64>> {
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
        let mut count = WeightCount::default();
        assert!(count.add(&mut file(header).as_slice(), 200));
        assert!(count.add(&mut file(header).as_slice(), 200));
        assert_eq!(
            count.counts,
            BTreeMap::from([("F32".to_owned(), 14), ("I64".to_owned(), 8)])
        );
        let huge = r#"{"a":{"dtype":"F32","shape":[18446744073709551615,2]}}"#;
        // 100 bytes are no thousand thousand million of numbers; and what a number of an unknown type takes, nobody knows.
        let claimed = file(r#"{"a":{"dtype":"F32","shape":[1000000000000]}}"#);
        assert!(!count.add(&mut claimed.as_slice(), 100));
        let unknown = r#"{"a":{"dtype":"A_TYPE_THAT_NOBODY_KNOWS","shape":[1]}}"#;
        for wrong in [
            &file(unknown)[..],
            &b"short"[..],
            &file("[]"),
            &file("{"),
            &file(huge),
            &u64::MAX.to_le_bytes(),
        ] {
            assert!(!count.add(&mut &*wrong, u64::MAX));
        }
    }

    #[test]
    fn headers_of_all_shards_are_bounded_together() {
        let long = file(&format!("{{}}{}", " ".repeat(20 << 20)));
        let mut count = WeightCount::default();
        let counted = (0..4)
            .filter(|_| count.add(&mut long.as_slice(), u64::MAX))
            .count();
        assert_eq!(counted, 3);
        assert!(count.header_bytes(&long).is_none() && count.header_bytes(&file("{}")) == Some(10));
        let longer = (HEADER_MAX + 1).to_le_bytes();
        assert!(WeightCount::default().header_bytes(&longer).is_none());
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
        let many: Vec<_> = (0..=SHARDS_MAX)
            .map(|n| format!("model-{n}-of-600.safetensors"))
            .collect();
        let mut many: Vec<&str> = many.iter().map(String::as_str).collect();
        many.push("model.safetensors.index.json");
        assert!(found(&many).is_empty());
        assert_eq!(found(&["only.safetensors", "config.json"]), ["only.safetensors"]);
        assert!(found(&["a.safetensors", "b.safetensors"]).is_empty());
        assert!(found(&["model.gguf"]).is_empty());
    }
}
