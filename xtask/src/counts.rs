//! Counts of tests, added over all steps, read from what cargo and pytest print.

use std::fmt;
use std::ops::AddAssign;

/// How many tests ended how.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Counts {
    /// Did what they promise.
    pub passed: u64,
    /// Did not, or could not run for a reason that must be mended.
    pub failed: u64,
    /// Need something that this machine lacks; each says what.
    pub skipped: u64,
}

impl Counts {
    /// One test with this verdict.
    pub(crate) fn one(ok: bool) -> Self {
        Self {
            passed: u64::from(ok),
            failed: u64::from(!ok),
            skipped: 0,
        }
    }

    /// Reads cargo's `test result: ok. 3 passed; 1 failed; 2 ignored; ..`.
    pub(crate) fn of_cargo(line: &str) -> Option<Self> {
        let counts = line.trim().strip_prefix("test result: ")?;
        let (passed, failed) = (number_before(counts, "passed"), number_before(counts, "failed"));
        Some(Self {
            passed: passed?,
            failed: failed?,
            skipped: number_before(counts, "ignored").unwrap_or(0),
        })
    }

    /// Reads pytest's last line, such as `=== 1 failed, 3 passed, 2 skipped in 4.5s ===`.
    pub(crate) fn of_pytest(line: &str) -> Option<Self> {
        let text = line.trim().trim_matches('=').trim();
        if !text.contains(" in ") {
            return None;
        }
        let count = |word| number_before(text, word).unwrap_or(0);
        let failed = count("failed") + count("error") + count("errors") + count("xpassed");
        let found = Self {
            passed: count("passed"),
            failed,
            skipped: count("skipped") + count("xfailed"),
        };
        (found != Self::default() || text.starts_with("no tests ran")).then_some(found)
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// The number that stands before a whole word.
fn number_before(text: &str, word: &str) -> Option<u64> {
    let words: Vec<&str> = text
        .split([' ', ',', ';', '.'])
        .filter(|word| !word.is_empty())
        .collect();
    words
        .windows(2)
        .find(|pair| pair[1] == word)
        .and_then(|pair| pair[0].parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargos_results_are_read() {
        let line = "test result: FAILED. 12 passed; 1 failed; 3 ignored; 0 measured; 9 filtered out; finished in 0.1s";
        assert_eq!(
            Counts::of_cargo(line),
            Some(Counts {
                passed: 12,
                failed: 1,
                skipped: 3
            })
        );
        assert_eq!(Counts::of_cargo("test a ... ok"), None);
    }

    #[test]
    fn pytests_results_are_read() {
        let line = "======= 1 failed, 3 passed, 2 skipped, 1 error in 4.50s =======";
        assert_eq!(
            Counts::of_pytest(line),
            Some(Counts {
                passed: 3,
                failed: 2,
                skipped: 2
            })
        );
        assert_eq!(
            Counts::of_pytest("5 passed in 1.0s"),
            Some(Counts {
                passed: 5,
                failed: 0,
                skipped: 0
            })
        );
        assert_eq!(
            Counts::of_pytest("no tests ran in 0.01s"),
            Some(Counts::default())
        );
        assert_eq!(Counts::of_pytest("test_cli.py::x PASSED in there"), None);
    }

    #[test]
    fn the_last_line_is_as_promised() {
        assert_eq!(
            Counts {
                passed: 1,
                failed: 0,
                skipped: 2
            }
            .to_string(),
            "1 passed, 0 failed, 2 skipped"
        );
    }
}
