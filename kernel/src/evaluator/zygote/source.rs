//! Generated source, and where each part of it came from.
//!
//! Text of a person's goes in with small insertions (visibility, interrupt checks) and no new lines; a byte of the
//! result leads back to a byte of the cell it came from.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The text of one cell, kept as long as anything compiled from it may be named in an error.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CellText {
    /// Counts the cells of a session: what is older has a smaller number.
    pub(super) number: u32,
    /// Execution count, as the person sees it.
    pub(super) shown: u32,
    /// What the person wrote.
    pub(super) code: String,
}

/// A part of a cell.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    pub(super) cell: Arc<CellText>,
    /// Byte range of the part in the cell.
    pub(super) range: Range<usize>,
}

impl Origin {
    pub(super) fn text(&self) -> &str {
        self.cell.code.get(self.range.clone()).unwrap_or_default()
    }
}

/// A change of a part when it is pasted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Edit {
    /// Byte offset in the part.
    pub(super) at: usize,
    /// Bytes that are left out.
    pub(super) remove: usize,
    /// What goes there.
    pub(super) insert: String,
}

/// A file for the compiler.
#[derive(Debug, Default, Clone)]
pub(super) struct Source {
    pub(super) text: String,
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone)]
struct Piece {
    generated: Range<usize>,
    cell: Arc<CellText>,
    start: usize,
}

/// Sources that locations of panics may still lead to.
const MAX_SOURCES: usize = 2_000;

/// Source by the name that a panic's location holds. Of the main shell and of subshells.
#[derive(Debug, Default)]
pub(super) struct Sources(Mutex<BTreeMap<String, Arc<Source>>>);

impl Sources {
    pub(super) fn insert(&self, name: String, source: &Arc<Source>) {
        let mut all = self.lock();
        all.insert(name, Arc::clone(source));
        while all.len() > MAX_SOURCES {
            all.pop_first();
        }
    }

    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    /// What `file:line:column` of generated source came from.
    pub(super) fn place(&self, location: &str) -> Option<Place> {
        let mut parts = location.rsplitn(3, ':');
        let column = parts.next()?.parse().ok()?;
        let line = parts.next()?.parse().ok()?;
        let path = Path::new(parts.next()?);
        let file = path.file_name()?.to_str()?;
        let name = if file == "cell.rs" {
            path.parent()?.file_name()?.to_str()?
        } else {
            file
        };
        self.lock().get(name)?.place_at(line, column)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Source>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in a cell.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) cell: Arc<CellText>,
    pub(super) offset: usize,
}

impl Source {
    /// Adds text of our own.
    pub(super) fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// Adds a part of a cell with its edits, which are in order and do not overlap.
    pub(super) fn paste(&mut self, origin: &Origin, edits: &[Edit]) {
        let text = origin.text();
        let mut done = 0;
        for edit in edits {
            self.piece(origin, text, done..edit.at);
            self.text.push_str(&edit.insert);
            done = edit.at + edit.remove;
        }
        self.piece(origin, text, done..text.len());
    }

    fn piece(&mut self, origin: &Origin, text: &str, range: Range<usize>) {
        let Some(part) = text.get(range.clone()).filter(|part| !part.is_empty()) else {
            return;
        };
        let from = self.text.len();
        self.text.push_str(part);
        self.pieces.push(Piece {
            generated: from..self.text.len(),
            cell: Arc::clone(&origin.cell),
            start: origin.range.start + range.start,
        });
    }

    /// Where a byte of the file came from; nothing for text of ours.
    pub(super) fn place(&self, offset: usize) -> Option<Place> {
        let index = self.pieces.partition_point(|piece| piece.generated.end < offset);
        let piece = self
            .pieces
            .get(index)
            .filter(|piece| piece.generated.start <= offset)?;
        Some(Place {
            cell: Arc::clone(&piece.cell),
            offset: piece.start + (offset - piece.generated.start),
        })
    }

    /// Of each line, from the first one: the first place in a cell that it holds.
    pub(super) fn lines(&self) -> Vec<Option<Place>> {
        let mut start = 0;
        let lines = self.text.split_inclusive('\n').map(|line| {
            let end = start + line.len();
            let index = self.pieces.partition_point(|piece| piece.generated.end <= start);
            // Not the line's indentation or end: code.
            let first = self.pieces[index..]
                .iter()
                .take_while(|piece| piece.generated.start < end)
                .find_map(|piece| {
                    let from = piece.generated.start.max(start);
                    let text = self.text.get(from..piece.generated.end.min(end))?;
                    Some(from + text.find(|c: char| !c.is_whitespace())?)
                });
            start = end;
            first.and_then(|offset| self.place(offset))
        });
        lines.collect()
    }

    /// As [`Source::place`], for a line and a column in characters, both from 1.
    pub(super) fn place_at(&self, line: usize, column: usize) -> Option<Place> {
        let start: usize = self
            .text
            .split_inclusive('\n')
            .take(line.checked_sub(1)?)
            .map(str::len)
            .sum();
        let rest = self.text.get(start..)?;
        let within = rest
            .char_indices()
            .nth(column.checked_sub(1)?)
            .map_or(rest.len(), |(at, _)| at);
        self.place(start + within)
    }
}

impl Place {
    /// Line and column from 1, the column in characters.
    pub(super) fn line_and_column(&self) -> (usize, usize) {
        let before = self.cell.code.get(..self.offset).unwrap_or(&self.cell.code);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (
            before.matches('\n').count() + 1,
            before[line_start..].chars().count() + 1,
        )
    }

    /// The whole line.
    pub(super) fn line(&self) -> &str {
        let (line, _) = self.line_and_column();
        self.cell.code.split('\n').nth(line - 1).unwrap_or_default()
    }

    /// As a person reads it: a cell that runs now has no number yet that they have seen.
    pub(super) fn describe(&self, current: &CellText) -> String {
        let (line, column) = self.line_and_column();
        if *self.cell == *current {
            format!("cell:{line}:{column}")
        } else {
            format!("cell [{}]:{line}:{column}", self.cell.shown)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(code: &str) -> Origin {
        Origin {
            cell: Arc::new(CellText {
                number: 3,
                shown: 3,
                code: code.to_owned(),
            }),
            range: 0..code.len(),
        }
    }

    #[test]
    fn places_lead_back_through_insertions_and_removals() {
        let origin = origin("ä fn f() {}\nx");
        let mut source = Source::default();
        source.push("// ours\n");
        let edits = [
            Edit {
                at: 3,
                remove: 0,
                insert: "pub ".to_owned(),
            },
            Edit {
                at: 6,
                remove: 1,
                insert: "g".to_owned(),
            },
        ];
        source.paste(&origin, &edits);
        assert_eq!(source.text, "// ours\nä pub fn g() {}\nx");
        assert!(source.place(2).is_none());
        let place = source.place(source.text.rfind('x').unwrap()).unwrap();
        assert_eq!(place.line_and_column(), (2, 1));
        let lines = source.lines().into_iter();
        let lines: Vec<Option<usize>> = lines.map(|place| Some(place?.line_and_column().0)).collect();
        assert_eq!(lines, [None, Some(1), Some(2)]);
        let place = source.place_at(2, 7).unwrap();
        assert_eq!((place.line_and_column(), place.line()), ((1, 3), "ä fn f() {}"));
    }
}
