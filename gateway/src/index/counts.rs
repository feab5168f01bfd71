//! How often each choice of each facet was seen.

use std::collections::BTreeMap;

use alephlab_api::model::Visibility;

use super::entry::{Cost, Format, Scale, Size};
use super::rows::{Row, Rows, WordId};
use super::search::Facet;

/// In the order in which they are declared: they are counted by their place.
const VISIBILITIES: [Visibility; 3] = [Visibility::Sealed, Visibility::Public, Visibility::Private];
const FORMATS: [Format; 4] = [Format::Safetensors, Format::Gguf, Format::Onnx, Format::Other];
const SCALES: [Scale; 4] = [Scale::Tiny, Scale::Some, Scale::Many, Scale::Most];
const COSTS: [Cost; 5] = [Cost::Free, Cost::Little, Cost::Some, Cost::Much, Cost::Most];
const SIZES: [Size; 4] = [Size::Small, Size::Medium, Size::Large, Size::Huge];

/// How often each choice of each facet was seen. Tasks and licences are counted by the numbers of their words.
pub(super) struct Counts {
    verified: usize,
    reproduced: usize,
    visibilities: [usize; VISIBILITIES.len()],
    costs: [usize; COSTS.len()],
    formats: [usize; FORMATS.len()],
    scales: [usize; SCALES.len()],
    sizes: [usize; SIZES.len()],
    tasks: Vec<usize>,
    licences: Vec<usize>,
}

impl Counts {
    pub(super) fn new(rows: &Rows) -> Self {
        Self {
            verified: 0,
            reproduced: 0,
            visibilities: [0; VISIBILITIES.len()],
            costs: [0; COSTS.len()],
            formats: [0; FORMATS.len()],
            scales: [0; SCALES.len()],
            sizes: [0; SIZES.len()],
            tasks: vec![0; rows.words.len()],
            licences: vec![0; rows.words.len()],
        }
    }

    pub(super) fn add(&mut self, facet: Facet, row: &Row) {
        if !row.tells(facet) {
            return;
        }
        match facet {
            Facet::Trust => {
                self.verified += usize::from(row.is_verified);
                self.reproduced += usize::from(row.reproduced);
            }
            Facet::Visibility => self.visibilities[row.visibility as usize] += 1,
            Facet::Price => {
                if let Some(cost) = row.cost {
                    self.costs[Cost::of(cost) as usize] += 1;
                }
            }
            Facet::Task => add_word(&mut self.tasks, row.task),
            Facet::Format => self.formats[row.format as usize] += 1,
            Facet::Parameters => {
                if let Some(scale) = row.scale {
                    self.scales[scale as usize] += 1;
                }
            }
            Facet::Size => self.sizes[row.size as usize] += 1,
            Facet::Licence => add_word(&mut self.licences, row.licence),
        }
    }

    pub(super) fn facets(self, rows: &Rows) -> BTreeMap<Facet, BTreeMap<String, usize>> {
        let some = |words: Vec<(&str, usize)>| -> BTreeMap<String, usize> {
            let there = words.into_iter().filter(|(_, count)| *count > 0);
            there.map(|(word, count)| (word.to_owned(), count)).collect()
        };
        let of_words = |counts: &[usize]| {
            let counted = |(id, word)| Some((word, *counts.get(id)?));
            some(rows.words.all().filter_map(counted).collect())
        };
        BTreeMap::from([
            (
                Facet::Trust,
                some(vec![("verified", self.verified), ("reproduced", self.reproduced)]),
            ),
            (
                Facet::Visibility,
                some(
                    VISIBILITIES
                        .map(Visibility::word)
                        .into_iter()
                        .zip(self.visibilities)
                        .collect(),
                ),
            ),
            (
                Facet::Price,
                some(COSTS.map(Cost::word).into_iter().zip(self.costs).collect()),
            ),
            (Facet::Task, of_words(&self.tasks)),
            (
                Facet::Format,
                some(FORMATS.map(Format::word).into_iter().zip(self.formats).collect()),
            ),
            (
                Facet::Parameters,
                some(SCALES.map(Scale::word).into_iter().zip(self.scales).collect()),
            ),
            (
                Facet::Size,
                some(SIZES.map(Size::word).into_iter().zip(self.sizes).collect()),
            ),
            (Facet::Licence, of_words(&self.licences)),
        ])
    }
}

fn add_word(counts: &mut [usize], word: WordId) {
    if let Some(count) = counts.get_mut(word as usize) {
        *count += 1;
    }
}
