//! What an account earned by day and model, as a plot that the server draws: bars upon each other, the words beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use alephlab_api::market::EarningsRow;
use alephlab_api::money::Amount;

use super::words::{aleph, figure};
use crate::routes::registry::short_name;
use crate::routes::words::Day;

const DAY: u64 = 86_400;
/// Days in it.
const DAYS: u64 = 30;
/// Height of the plot and width of a day, in its own units.
const HEIGHT: u128 = 160;
const WIDTH: u64 = 12;
/// Classes of series, in stacking order from below.
const CLASSES: [&str; 3] = ["s1", "s2", "s3"];

/// The plot of the last days.
pub(super) struct Chart {
    /// From below.
    pub(super) legend: Vec<(&'static str, String)>,
    /// At the top, in the middle and below.
    pub(super) scale: [String; 3],
    pub(super) days: Vec<Bar>,
    /// The first and the last day.
    pub(super) from: String,
    pub(super) to: String,
    /// In one sentence, for who does not see it.
    pub(super) said: String,
    pub(super) total: String,
}

/// A day.
pub(super) struct Bar {
    pub(super) day: String,
    pub(super) amount: String,
    /// `<rect>` attributes of each series: class and place.
    pub(super) rects: Vec<(&'static str, String)>,
    pub(super) is_empty: bool,
}

/// What one model brought.
pub(super) struct ModelRow {
    pub(super) class: &'static str,
    pub(super) name: String,
    pub(super) short: String,
    pub(super) sales: u64,
    pub(super) pending: String,
    pub(super) earned: String,
    pub(super) total: String,
}

/// Together, or as much as there can be.
pub(super) fn sum(amounts: impl Iterator<Item = Amount>) -> Amount {
    amounts.fold(Amount::ZERO, |sum, one| sum.checked_add(one).unwrap_or(sum))
}

fn of_row(row: &EarningsRow) -> Amount {
    sum([row.pending, row.earned].into_iter())
}

/// Models by what they brought, the most first.
pub(super) fn models(rows: &[EarningsRow]) -> Vec<ModelRow> {
    let mut all: BTreeMap<&str, Vec<&EarningsRow>> = BTreeMap::new();
    for row in rows {
        all.entry(&row.model).or_default().push(row);
    }
    let mut all: Vec<_> = all.into_iter().collect();
    all.sort_by_key(|(_, rows)| std::cmp::Reverse(sum(rows.iter().map(|row| of_row(row)))));
    let of = |(at, (name, rows)): (usize, (&str, Vec<&EarningsRow>))| ModelRow {
        class: class(at),
        short: short_name(name),
        sales: rows.iter().map(|row| row.sales).sum(),
        pending: figure(sum(rows.iter().map(|row| row.pending))),
        earned: figure(sum(rows.iter().map(|row| row.earned))),
        total: aleph(sum(rows.iter().map(|row| of_row(row)))),
        name: name.to_owned(),
    };
    all.into_iter().enumerate().map(of).collect()
}

/// Of the model at this place; all from the third on are one.
fn class(at: usize) -> &'static str {
    CLASSES.get(at).copied().unwrap_or("s3")
}

impl Chart {
    /// The last days up to now; none where they brought nothing.
    pub(super) fn of(rows: &[EarningsRow], now: u64) -> Option<Self> {
        let today = now - now % DAY;
        let first = today.saturating_sub((DAYS - 1) * DAY);
        let recent: Vec<_> = rows.iter().filter(|row| row.day >= first).collect();
        // As the table has them, so that colours agree.
        let order = models(rows);
        let shown: BTreeSet<&str> = recent.iter().map(|row| row.model.as_str()).collect();
        let place = |model: &str| {
            let at = order.iter().position(|one| one.name == model);
            at.unwrap_or(usize::MAX).min(CLASSES.len() - 1)
        };
        let mut days = vec![[Amount::ZERO; CLASSES.len()]; usize::try_from(DAYS).unwrap_or(0)];
        for row in &recent {
            let at = usize::try_from((row.day - first) / DAY).unwrap_or(usize::MAX);
            if let Some(part) = days.get_mut(at).and_then(|day| day.get_mut(place(&row.model))) {
                *part = sum([*part, of_row(row)].into_iter());
            }
        }
        let totals: Vec<_> = days.iter().map(|day| sum(day.iter().copied())).collect();
        let most = totals.iter().copied().max().filter(|most| !most.is_zero())?;
        let top = ceiling(micro(most));
        let said = |at: u64| Day::at(first + at * DAY).text;
        let total = sum(totals.iter().copied());
        let best = totals.iter().position(|one| *one == most).unwrap_or_default();
        Some(Self {
            legend: legend(&order, &shown),
            scale: [top, top / 2, 0].map(of_micro),
            days: (0..DAYS)
                .zip(&days)
                .zip(&totals)
                .map(|((at, parts), total)| Bar {
                    day: said(at),
                    amount: aleph(*total),
                    rects: rects(at, parts, top),
                    is_empty: total.is_zero(),
                })
                .collect(),
            from: said(0),
            to: said(DAYS - 1),
            said: format!(
                "{} to {}: {} in all, most on {} with {}.",
                said(0),
                said(DAYS - 1),
                aleph(total),
                said(best as u64),
                aleph(most)
            ),
            total: aleph(total),
        })
    }
}

fn legend(order: &[ModelRow], shown: &BTreeSet<&str>) -> Vec<(&'static str, String)> {
    let mut legend: Vec<(&'static str, String)> = Vec::new();
    for (at, one) in order.iter().enumerate() {
        if !shown.contains(one.name.as_str()) {
            continue;
        }
        match legend.last_mut().filter(|(last, _)| *last == class(at)) {
            Some((_, words)) => "Other models".clone_into(words),
            None => legend.push((class(at), one.short.clone())),
        }
    }
    legend
}

/// The bars of a day, from below.
fn rects(at: u64, parts: &[Amount], top: u64) -> Vec<(&'static str, String)> {
    let mut below = 0_u128;
    let mut rects = Vec::new();
    for (class, part) in CLASSES.iter().zip(parts) {
        if part.is_zero() {
            continue;
        }
        // In hundredths; what is there is seen.
        let height = (u128::from(micro(*part)) * HEIGHT * 100 / u128::from(top.max(1))).max(50);
        below += height;
        let (y, x) = ((HEIGHT * 100).saturating_sub(below), at * WIDTH);
        let mut place = String::new();
        let _ = write!(
            place,
            "x=\"{x}.5\" y=\"{}.{:02}\" width=\"9\" height=\"{}.{:02}\"",
            y / 100,
            y % 100,
            height / 100,
            height % 100
        );
        rects.push((*class, place));
    }
    rects
}

/// Millionths of an ALEPH.
fn micro(amount: Amount) -> u64 {
    amount.times(Amount::from_base(1_000_000_000_000))
}

fn of_micro(units: u64) -> String {
    let amount = Amount::from_base(u128::from(units) * 1_000_000_000_000);
    let text = figure(amount);
    text.strip_suffix(".00").unwrap_or(&text).to_owned()
}

/// The next of 2, 4, 10, 20 and so on.
fn ceiling(units: u64) -> u64 {
    let mut step = 1_u64;
    loop {
        for times in [2, 4, 10] {
            let top = step.saturating_mul(times);
            if top >= units {
                return top;
            }
        }
        step = step.saturating_mul(10);
    }
}

#[cfg(test)]
mod tests {
    use alephlab_api::market::PartKind;

    use super::*;

    fn row(day: u64, model: &str, amount: u64) -> EarningsRow {
        EarningsRow {
            day: day * DAY,
            model: model.to_owned(),
            kind: PartKind::Sale,
            sales: 1,
            pending: Amount::ZERO,
            earned: Amount::from_whole(amount),
        }
    }

    #[test]
    fn bars_stand_on_each_other_and_say_what_they_are() {
        let rows = [row(100, "a/1", 60), row(100, "a/2", 30), row(60, "a/3", 900)];
        let chart = Chart::of(&rows, 100 * DAY + 5).unwrap();
        assert_eq!(chart.scale, ["100", "50", "0"]);
        let last = chart.days.last().unwrap();
        assert_eq!((last.amount.as_str(), last.rects.len()), ("90.00 ALEPH", 2));
        // a/3 brought the most in all, but nothing of late.
        assert_eq!(last.rects[0].0, "s2");
        assert!(last.rects[0].1.contains("y=\"64.00\"") && last.rects[1].1.contains("y=\"16.00\""));
        assert_eq!(chart.legend, [("s2", "a/1".to_owned()), ("s3", "a/2".to_owned())]);
        assert!(chart.said.contains("90.00 ALEPH in all"), "{}", chart.said);
        assert!(Chart::of(&rows[2..], 100 * DAY).is_none());
        assert_eq!([1, 3, 5, 11, 90].map(ceiling), [2, 4, 10, 20, 100]);
    }
}
