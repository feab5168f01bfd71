//! Cells as the client names them, and as files for the compiler.
//!
//! A client names a cell by a path that it makes of a hash of the text; the debugger knows the generated
//! file that the cell was compiled from. Pure.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// Seed of the hash; clients are told.
pub(super) const HASH_SEED: u32 = 0xc70f_6907;
/// End of every path.
pub(super) const SUFFIX: &str = ".rs";

/// Where each line of a generated file came from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lines {
    /// By line of the file, the first one first: text of the cell, and line in it from 1.
    pub(crate) of_cells: Vec<Option<(String, usize)>>,
}

/// A place as a client names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) path: String,
    pub(super) line: u64,
}

/// What is known of cells.
#[derive(Debug)]
pub(super) struct Cells {
    prefix: String,
    /// Text by path, as the client wrote it.
    texts: BTreeMap<String, String>,
    /// Path by the text that is compiled: the cell's without its commands.
    compiled: HashMap<String, String>,
    /// Lines with a breakpoint, by path.
    breakpoints: BTreeMap<String, Vec<u64>>,
    /// By generated file: where each of its lines came from.
    files: BTreeMap<PathBuf, Vec<Option<Place>>>,
}

impl Cells {
    pub(super) fn new(prefix: String) -> Self {
        Self {
            prefix,
            texts: BTreeMap::new(),
            compiled: HashMap::new(),
            breakpoints: BTreeMap::new(),
            files: BTreeMap::new(),
        }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Notes a cell's text; its path.
    pub(super) fn dump(&mut self, text: &str) -> String {
        let path = format!("{}{}{SUFFIX}", self.prefix, murmur2(text.as_bytes(), HASH_SEED));
        self.texts.insert(path.clone(), text.to_owned());
        path
    }

    /// A cell begins, with the text that a client has, and the one that is compiled.
    pub(super) fn begin(&mut self, text: &str, compiled: &str) {
        let path = self.dump(text);
        self.compiled.insert(compiled.to_owned(), path);
    }

    pub(super) fn text(&self, path: &str) -> Option<&str> {
        self.texts.get(path).map(String::as_str)
    }

    /// A generated file that is about to be loaded: the lines of it with a breakpoint.
    pub(super) fn add_file(&mut self, file: &Path, lines: Lines) -> Vec<u64> {
        let places = lines.of_cells.into_iter().map(|place| {
            let (text, line) = place?;
            let path = self.compiled.get(&text)?.clone();
            let line = u64::try_from(line).ok()?;
            Some(Place { path, line })
        });
        let places = places.collect();
        self.files.insert(file.to_owned(), places);
        self.lines(file)
    }

    /// Sets the breakpoints of a cell, in place of those that it had; the files that this changes.
    pub(super) fn set_breakpoints(&mut self, path: &str, lines: Vec<u64>) -> Vec<PathBuf> {
        self.breakpoints.insert(path.to_owned(), lines);
        let of_cell = |places: &[Option<Place>]| places.iter().flatten().any(|place| place.path == path);
        let files = self.files.iter().filter(|(_, places)| of_cell(places));
        files.map(|(file, _)| file.clone()).collect()
    }

    pub(super) fn has_breakpoints(&self) -> bool {
        self.breakpoints.values().any(|lines| !lines.is_empty())
    }

    pub(super) fn breakpoints(&self) -> Value {
        let all = self.breakpoints.iter().filter(|(_, lines)| !lines.is_empty());
        all.map(|(path, lines)| {
            let lines: Vec<Value> = lines.iter().map(|line| json!({ "line": line })).collect();
            json!({ "source": path, "breakpoints": lines })
        })
        .collect()
    }

    /// Lines of a generated file with a breakpoint, from 1. One on a line without code goes to the next one with some.
    pub(super) fn lines(&self, file: &Path) -> Vec<u64> {
        let places = self.files.get(file).map_or(&[][..], Vec::as_slice);
        let mut found = Vec::new();
        for (path, wanted) in &self.breakpoints {
            for line in wanted {
                let numbered = places.iter().enumerate();
                let behind = numbered.filter_map(|(at, place)| {
                    let place = place.as_ref()?;
                    (place.path == *path && place.line >= *line).then_some((place.line, at))
                });
                if let Some((_, at)) = behind.min() {
                    found.push(at as u64 + 1);
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Generated files, as they were added.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.keys().map(PathBuf::as_path)
    }

    /// What a line of a generated file is in a cell. The file was added by its path, or by a name that only it has.
    pub(super) fn place(&self, file: &Path, line: u64) -> Option<&Place> {
        let by_name = || self.files.get(Path::new(file.file_name()?));
        let places = self.files.get(file).or_else(by_name)?;
        let at = usize::try_from(line.checked_sub(1)?).ok()?;
        // A line of ours between two of the person's, an inserted check for example, is the one before it.
        places.get(..=at)?.iter().rev().find_map(Option::as_ref)
    }
}

/// MurmurHash2, 32 bits: what JupyterLab and ipykernel name cells by. By hand: twenty lines, and the crates with this
/// variant are unmaintained (docs/adr/0005-hand-written-parts.md).
fn murmur2(data: &[u8], seed: u32) -> u32 {
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the algorithm takes the length modulo 2^32"
    )]
    let mut hash = seed ^ data.len() as u32;
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> R;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        for (at, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * at);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text and hash.
    const KNOWN: [(&str, u32); 6] = [
        ("", 3990065800),
        ("a", 2167009006),
        ("ab", 2805137849),
        ("let x = 1;", 67329842),
        ("1 + 1\nx", 1279838552),
        ("é😀 \"q\"", 3798678271),
    ];

    #[test]
    fn hashes_are_those_of_ipykernel() {
        // ipykernel.compiler.murmur2_x86 of 7.4.0.
        for (text, hash) in KNOWN {
            assert_eq!(murmur2(text.as_bytes(), HASH_SEED), hash, "{text:?}");
        }
    }

    #[test]
    fn breakpoints_go_to_the_generated_line_and_places_lead_back() {
        let mut cells = Cells::new("/x/".to_owned());
        let text = ":dep a\nlet x = 1;\n\nx + 1";
        let path = cells.dump(text);
        assert!(cells.set_breakpoints(&path, vec![3]).is_empty());
        let compiled = "\nlet x = 1;\n\nx + 1";
        cells.begin(text, compiled);
        let file = Path::new("/g/cell.rs");
        let of = |line| Some((compiled.to_owned(), line));
        let lines = Lines {
            of_cells: vec![None, None, of(2), None, of(4), None],
        };
        // Line 3 is empty: the breakpoint stands on line 4, which is the file's fifth.
        assert_eq!(cells.add_file(file, lines), [5]);
        let place = |line| cells.place(file, line).map(|place| place.line);
        assert_eq!(
            (place(1), place(3), place(4), place(5)),
            (None, Some(2), Some(2), Some(4))
        );
        assert_eq!(cells.set_breakpoints(&path, vec![1]), [file]);
        assert_eq!(cells.lines(file), [3]);
    }
}
