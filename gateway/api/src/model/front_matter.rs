//! Where a card's front matter begins and ends: the same for who shows a card and for who checks it. What stands in it is theirs to read.

/// Where front matter begins and ends.
const FENCE: &str = "---";

/// A `README.md`, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrontMatter<'a> {
    /// It has none.
    Absent,
    /// It begins and has no end.
    Open,
    /// What stands between the fences, and what follows.
    Whole(&'a str, &'a str),
}

impl<'a> FrontMatter<'a> {
    /// Of a text, whatever its ends of lines are.
    pub fn of(text: &'a str) -> Self {
        let text = text.trim_start_matches('\u{feff}');
        let mut lines = text.split_inclusive('\n');
        let is_fence = |line: &str| line.trim_end() == FENCE;
        let Some(first) = lines.next().filter(|line| is_fence(line)) else {
            return Self::Absent;
        };
        let rest = &text[first.len()..];
        let mut at = 0;
        for line in lines {
            if is_fence(line) {
                return Self::Whole(&rest[..at], &rest[at + line.len()..]);
            }
            at += line.len();
        }
        Self::Open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn front_matter_stands_between_the_first_two_fences() {
        let whole = FrontMatter::Whole("a: 1\n", "\n# b\n---\n");
        assert_eq!(FrontMatter::of("---\na: 1\n---\n\n# b\n---\n"), whole);
        assert_eq!(
            FrontMatter::of("\u{feff}--- \r\na: 1\r\n---\r\nb"),
            FrontMatter::Whole("a: 1\r\n", "b")
        );
        assert_eq!(FrontMatter::of("---\n---"), FrontMatter::Whole("", ""));
        assert_eq!(FrontMatter::of("---\na: 1\n----\n"), FrontMatter::Open);
        assert_eq!(FrontMatter::of("---"), FrontMatter::Open);
        for text in ["", "# a\n---\n", "----\n", "\n---\n---\n"] {
            assert_eq!(FrontMatter::of(text), FrontMatter::Absent, "{text:?}");
        }
    }
}
