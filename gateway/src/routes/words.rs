//! Figures, sizes and days in the words of our pages.

use std::ops::Range;
use std::time::{Duration, UNIX_EPOCH};

use alephlab_api::time;

const DAY: u64 = 86_400;
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// A day for reading, and the exact time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Day {
    pub(super) text: String,
    pub(super) exact: String,
}

impl Day {
    /// `22 Nov 2026`.
    pub(super) fn at(seconds: u64) -> Self {
        Self::of(&time::format(UNIX_EPOCH + Duration::from_secs(seconds)))
    }

    /// The same of a time as RFC 3339 writes it.
    pub(super) fn of(exact: &str) -> Self {
        let part = |range: Range<usize>| exact.get(range).and_then(|part| part.parse::<usize>().ok());
        let month = part(5..7).and_then(|month| MONTHS.get(month.checked_sub(1)?));
        let text = match (part(8..10), month, part(0..4)) {
            (Some(day), Some(month), Some(year)) => format!("{day} {month} {year}"),
            _ => exact.to_owned(),
        };
        let minute = exact.get(..16).map(|minute| minute.replace('T', " "));
        Self {
            text,
            exact: format!("{} UTC", minute.unwrap_or_default()),
        }
    }

    /// The day of a last use; its time is not known.
    pub(super) fn of_use(used: Option<u64>) -> Self {
        let Some(used) = used else {
            return Self {
                text: "never".to_owned(),
                exact: "Not used yet".to_owned(),
            };
        };
        let day = Self::at(used);
        match time::unix_now() / DAY == used / DAY {
            true => Self {
                text: "today".to_owned(),
                exact: day.text,
            },
            false => Self {
                exact: day.text.clone(),
                ..day
            },
        }
    }

    /// The end of something; `No end` where there is none.
    pub(super) fn of_end(end: Option<u64>) -> Self {
        end.map_or_else(
            || Self {
                text: "No end".to_owned(),
                exact: "It does not end by itself".to_owned(),
            },
            Self::at,
        )
    }
}

/// `1.6 GB`: two digits, in steps of a thousand.
pub(super) fn bytes(count: u64) -> String {
    scaled(count, &[" B", " kB", " MB", " GB", " TB", " PB"])
}

/// `7.2B` of numbers in tensors.
pub(super) fn parameters(count: u64) -> String {
    scaled(count, &["", "K", "M", "B", "T"])
}

/// `3.2k` of pulls.
pub(super) fn pulls(count: u64) -> String {
    let figure = scaled(count, &["", "k", "M", "G"]);
    match count {
        1 => "1 pull".to_owned(),
        _ => format!("{figure} pulls"),
    }
}

fn scaled(count: u64, units: &[&str]) -> String {
    let mut step = 1_u64;
    let mut at = 0;
    // What would be shown as a thousand of one unit is one of the next.
    while at + 1 < units.len() && count.saturating_add(step / 2) / step >= 1_000 {
        step = step.saturating_mul(1_000);
        at += 1;
    }
    let unit = units.get(at).copied().unwrap_or_default();
    let tenths = u128::from(count) * 10 + u128::from(step) / 2;
    let tenths = tenths / u128::from(step);
    match at == 0 || tenths >= 100 {
        true => format!(
            "{}{unit}",
            (u128::from(count) + u128::from(step) / 2) / u128::from(step)
        ),
        false => format!("{}.{}{unit}", tenths / 10, tenths % 10),
    }
}

/// `1,284`.
pub(super) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut shown = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// `1 file`, `2 files`.
pub(super) fn counted(count: u64, one: &str, many: &str) -> String {
    match count {
        1 => format!("1 {one}"),
        _ => format!("{} {many}", grouped(count)),
    }
}

/// The first `digits` of a hash, and a sign that there are more.
pub(super) fn short_hash(hash: &str, digits: usize) -> String {
    hash.get(..digits)
        .filter(|_| hash.len() > digits)
        .map_or_else(|| hash.to_owned(), |front| format!("{front}…"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_written_out_and_a_use_today_says_so() {
        assert_eq!(Day::at(1_795_370_760).text, "22 Nov 2026");
        assert_eq!(Day::at(1_795_370_760).exact, "2026-11-22 18:06 UTC");
        assert_eq!(Day::of("2026-11-22T18:06:00.000Z").text, "22 Nov 2026");
        assert_eq!(Day::of("soon").text, "soon");
        assert_eq!(Day::of_use(None).text, "never");
        assert_eq!(Day::of_use(Some(time::unix_now())).text, "today");
        assert_eq!(Day::of_use(Some(86_400)).text, "2 Jan 1970");
        assert_eq!(Day::of_end(None).text, "No end");
    }

    #[test]
    fn figures_have_two_digits_and_the_unit_that_fits() {
        let shown: Vec<_> = [
            0,
            999,
            1_000,
            2_149,
            999_999,
            612_000_000,
            1_550_000_000,
            u64::MAX,
        ]
        .into_iter()
        .map(bytes)
        .collect();
        assert_eq!(
            shown,
            [
                "0 B", "999 B", "1.0 kB", "2.1 kB", "1.0 MB", "612 MB", "1.6 GB", "18447 PB"
            ]
        );
        assert_eq!(parameters(7_240_000_000), "7.2B");
        assert_eq!(
            (pulls(1), pulls(0), pulls(3_240)),
            ("1 pull".into(), "0 pulls".into(), "3.2k pulls".into())
        );
        assert_eq!((grouped(1_284), grouped(12)), ("1,284".into(), "12".into()));
        assert_eq!(short_hash("abcdef", 4), "abcd…");
    }
}
