//! A model's print: a picture computed from its revision, so that another revision is seen at once. Made here as SVG; there is
//! no image to load.
//!
//! It is for the eye and proves nothing: 240 bits of a simple generator, drawn from the 160 of the revision, choose of each
//! tile what stands in it, which way it looks and its colour.

use std::fmt::Write as _;

/// Tiles of a card's picture, and of the small square one.
const WIDE: (u32, u32) = (12, 4);
const SQUARE: (u32, u32) = (6, 6);
/// Side of a tile.
const SIDE: u32 = 8;

/// One picture: three paths, one for each colour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Print {
    pub(crate) view: &'static str,
    pub(crate) paths: [String; 3],
    /// Class of its hue.
    pub(crate) hue: &'static str,
}

impl Print {
    /// The one of a card in a list.
    pub(crate) fn wide(revision: &str, task: Option<&str>) -> Self {
        Self {
            view: "0 0 96 32",
            paths: paths(revision, WIDE),
            hue: hue(task),
        }
    }

    /// The small one beside a name.
    pub(crate) fn square(revision: &str, task: Option<&str>) -> Self {
        Self {
            view: "0 0 48 48",
            paths: paths(revision, SQUARE),
            hue: hue(task),
        }
    }
}

/// The hue of a task's kind, as the style sheet names it.
pub(crate) fn hue(task: Option<&str>) -> &'static str {
    const KINDS: [(&str, &[&str]); 5] = [
        ("hue-audio", &["audio", "speech", "voice", "sound"]),
        (
            "hue-vision",
            &[
                "image",
                "video",
                "depth",
                "object-detection",
                "vision",
                "3d",
                "mask-generation",
                "visual",
            ],
        ),
        ("hue-table", &["tabular", "time-series", "forecast", "table"]),
        (
            "hue-text",
            &[
                "text",
                "translation",
                "summarization",
                "question",
                "fill-mask",
                "sentence",
                "token",
                "language",
                "feature",
            ],
        ),
        (
            "hue-science",
            &[
                "protein",
                "graph",
                "reinforcement",
                "robotics",
                "science",
                "molecule",
            ],
        ),
    ];
    let Some(task) = task else {
        return "hue-none";
    };
    // Visual question answering is of pictures before it is of text: the first kind that fits counts.
    KINDS
        .iter()
        .find(|(_, words)| words.iter().any(|word| task.contains(word)))
        .map_or("hue-none", |(hue, _)| hue)
}

fn paths(revision: &str, (columns, rows): (u32, u32)) -> [String; 3] {
    let mut paths: [String; 3] = Default::default();
    let mut bits = Bits::of(revision);
    for tile in 0..columns * rows {
        let (x, y) = (tile % columns * SIDE, tile / columns * SIDE);
        let (colour, way, odd) = (bits.take(2), bits.take(2), bits.take(1));
        // One tile of four stays empty.
        let Some(path) = usize::try_from(colour)
            .ok()
            .and_then(|colour| paths.get_mut(colour))
        else {
            continue;
        };
        let (right, below) = (x + SIDE, y + SIDE);
        let shape = match (odd, way) {
            (1, 0) => format!("M{x} {y}h8v8h-8z"),
            (1, 1) => format!(
                "M{} {}a2.5 2.5 0 1 1 0 5a2.5 2.5 0 1 1 0-5z",
                x + 4,
                tenths(y, 15)
            ),
            (_, 0) => format!("M{right} {below}h-8a8 8 0 0 1 8-8z"),
            (_, 1) => format!("M{x} {below}v-8a8 8 0 0 1 8 8z"),
            (_, 2) => format!("M{x} {y}h8a8 8 0 0 1-8 8z"),
            _ => format!("M{right} {y}v8a8 8 0 0 1-8-8z"),
        };
        // Writing into a text does not fail.
        let _ = write!(path, "{shape}");
    }
    paths
}

/// `y` and so many tenths.
fn tenths(y: u32, more: u32) -> String {
    format!("{}.{}", y + more / 10, more % 10)
}

/// Bits that follow from a revision, by SplitMix64.
struct Bits {
    state: u64,
    word: u64,
    left: u32,
}

impl Bits {
    fn of(revision: &str) -> Self {
        // FNV-1a over the digits: every one of them moves the state.
        let state = revision.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |state, byte| {
            (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self {
            state,
            word: 0,
            left: 0,
        }
    }

    fn take(&mut self, bits: u32) -> u64 {
        if self.left < bits {
            self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let word = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (self.word, self.left) = (word ^ (word >> 31), u64::BITS);
        }
        let taken = self.word & ((1 << bits) - 1);
        self.word >>= bits;
        self.left -= bits;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_revision_is_another_picture_and_the_same_is_the_same() {
        let (one, other) = ("a".repeat(40), format!("{}b", "a".repeat(39)));
        let print = Print::wide(&one, Some("text-generation"));
        assert_eq!(print, Print::wide(&one, Some("text-generation")));
        let changed = Print::wide(&other, Some("text-generation"));
        assert!(
            print
                .paths
                .iter()
                .zip(&changed.paths)
                .all(|(one, other)| one != other)
        );
        assert!(
            print
                .paths
                .iter()
                .all(|path| !path.is_empty() && path.len() < 1_200)
        );
        assert_ne!(Print::square(&one, None).paths, print.paths);
    }

    #[test]
    fn hues_follow_the_kind_of_task() {
        for (task, expected) in [
            (Some("automatic-speech-recognition"), "hue-audio"),
            (Some("image-text-to-text"), "hue-vision"),
            (Some("text-generation"), "hue-text"),
            (Some("tabular-classification"), "hue-table"),
            (Some("brewing"), "hue-none"),
            (None, "hue-none"),
        ] {
            assert_eq!(hue(task), expected);
        }
    }
}
