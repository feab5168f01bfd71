//! Money in the words of our pages: one unit that is charged, and beside it what that is in dollars.

use std::time::{Duration, UNIX_EPOCH};

use alephlab_api::market::{Part, PartKind};
use alephlab_api::money::{Amount, AmountError, Asset};
use alephlab_api::offer::{CREDITS_PER_USD, usd};
use alephlab_api::payout::Rate;
use alephlab_api::time;

use crate::routes::pages::{readable, short};
use crate::routes::registry::short_name;
use crate::routes::words::grouped;

/// `1,842.50`: thousands apart, two digits behind the point from 1 up and two that say something below; the rest is cut off, so that
/// nobody is shown more than there is.
pub(in crate::routes) fn figure(amount: Amount) -> String {
    let text = amount.to_string();
    let (whole, fine) = text.split_once('.').unwrap_or((&text, ""));
    let digits = match (whole, fine.find(|c| c != '0')) {
        ("0", Some(zeros)) => zeros + 2,
        _ => 2,
    };
    let kept = fine.get(..digits).unwrap_or(fine);
    format!("{}.{kept:0<2}", apart(whole))
}

/// `1,842.50 ALEPH`.
pub(in crate::routes) fn aleph(amount: Amount) -> String {
    format!("{} {}", figure(amount), Asset::Aleph.label())
}

/// `14.40 USD` of credits, `0.0000064 USD` of few.
pub(in crate::routes) fn dollars(credits: Amount) -> String {
    let whole = credits.part(1, CREDITS_PER_USD).unwrap_or_default();
    format!("{} USD", figure(whole))
}

/// To the last digit, two at least: what is charged, and parts that add up to it.
pub(in crate::routes) fn full(amount: Amount) -> String {
    let text = amount.to_string();
    let (whole, fine) = text.split_once('.').unwrap_or((&text, ""));
    format!("{}.{fine:0<2}", apart(whole))
}

/// What is charged: `240.00 ALEPH`.
pub(in crate::routes) fn exact(amount: Amount) -> String {
    format!("{} {}", full(amount), Asset::Aleph.label())
}

/// Digits with their thousands apart.
fn apart(whole: &str) -> String {
    whole
        .parse()
        .map_or_else(|_| whole.to_owned(), |whole: u64| grouped(whole))
}

/// Base units, as they are signed.
pub(in crate::routes) fn base_units(amount: Amount) -> String {
    serde_json::to_value(amount)
        .ok()
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}

/// `0.0600 USD`: what one ALEPH is worth.
pub(in crate::routes) fn rate(rate: Rate) -> String {
    let units = rate.credits.times(Amount::from_whole(CREDITS_PER_USD / 10_000));
    format!("{}.{:04} USD", units / 10_000, units % 10_000)
}

/// `14.40 USD` of ALEPH at a rate.
pub(in crate::routes) fn in_usd(amount: Amount, rate: Option<Rate>) -> Option<String> {
    let credits = amount.at_rate(rate?.credits)?;
    Some(format!("{} USD", usd(credits)))
}

/// `14.40 USD at 0.0600 USD, 16:40 UTC`.
pub(in crate::routes) fn at_rate(amount: Amount, at: Option<Rate>) -> Option<String> {
    let known = at?;
    let dollars = in_usd(amount, at)?;
    Some(format!("{dollars} at {}, {}", rate(known), clock(known.time)))
}

/// `2026-11-22 16:40` of seconds since 1970.
pub(in crate::routes) fn moment(seconds: u64) -> String {
    readable(&time::format(UNIX_EPOCH + Duration::from_secs(seconds)))
}

/// `16:40 UTC`.
pub(in crate::routes) fn clock(seconds: u64) -> String {
    format!("{} UTC", moment(seconds).get(11..).unwrap_or_default())
}

/// `24 hours`.
pub(in crate::routes) fn term(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} seconds"),
        120..7_200 => format!("{} minutes", seconds.div_ceil(60)),
        _ => format!("{} hours", seconds / 3_600),
    }
}

/// ALEPH as somebody typed it, or what is wrong with it in words that may be followed by a full stop. A comma stands between
/// thousands, as pages write them, and nowhere else: whoever means `1,5` by 1.5 must not send 15.
pub(in crate::routes) fn typed(text: &str) -> Result<Amount, String> {
    let text = text.trim();
    let unit = format!(" {}", Asset::Aleph.label());
    let text = match text.len().checked_sub(unit.len()) {
        Some(at) if text.is_char_boundary(at) && text[at..].eq_ignore_ascii_case(&unit) => text[..at].trim(),
        _ => text,
    };
    let example = "write ALEPH in digits, such as 50 or 2.5";
    if text.is_empty() {
        return Err(format!("no amount is there yet; {example}"));
    }
    let (whole, fine) = match text.split_once('.') {
        Some((whole, fine)) => (whole, Some(fine)),
        None => (text, None),
    };
    let mut groups = whole.split(',');
    let first = groups.next().unwrap_or_default();
    let is_grouped = (1..=3).contains(&first.len()) && groups.clone().all(|group| group.len() == 3);
    if whole.contains(',') && !is_grouped {
        return Err(format!(
            "`{text}` can be read in two ways; write a point before what is less than one, such as 1.5"
        ));
    }
    let plain = whole.replace(',', "");
    let plain = fine.map_or_else(|| plain.clone(), |fine| format!("{plain}.{fine}"));
    match plain.parse::<Amount>() {
        Ok(amount) if amount.is_zero() => Err("the amount is nothing; write more than 0".to_owned()),
        Ok(amount) => Ok(amount),
        Err(AmountError::TooFine { .. }) => Err(format!(
            "`{text}` has more digits behind the point than there can be, which are 18"
        )),
        Err(AmountError::TooLarge { .. }) => Err(format!("`{text}` is more than any amount")),
        Err(_) if text.starts_with('-') => Err(format!("`{text}` is less than nothing; {example}")),
        Err(_) => Err(format!("`{text}` is no amount; {example}")),
    }
}

/// Who gets what of a price.
pub(in crate::routes) struct PartRow {
    pub(in crate::routes) who: String,
    /// The whole address or model, where `who` is short.
    pub(in crate::routes) whole: String,
    pub(in crate::routes) amount: String,
}

/// Parts of a price in the order in which they are paid.
pub(in crate::routes) fn parts(parts: &[Part], model: &str, price: Amount) -> Vec<PartRow> {
    let owner = model.split('/').next().unwrap_or_default();
    let row = |part: &Part| {
        let who = match part.kind {
            PartKind::Sale if part.to == owner => format!("{}, owner", short(&part.to)),
            PartKind::Sale => format!("{}, with the owner", short(&part.to)),
            PartKind::Royalty => format!("{}, for {}", short(&part.to), short_name(&part.model)),
            PartKind::Fee => "This gateway, fee".to_owned(),
        };
        PartRow {
            who: format!("{who}, {}", percent(part.amount, price)),
            whole: match part.kind {
                PartKind::Royalty => format!("{} for {}", part.to, part.model),
                PartKind::Sale | PartKind::Fee => part.to.clone(),
            },
            amount: full(part.amount),
        }
    };
    parts.iter().map(row).collect()
}

/// `85 %`, `2.5 %`, to a hundredth.
fn percent(part: Amount, whole: Amount) -> String {
    // Basis points, bit by bit: the most that are not more than the part, however large both are.
    let points = (0..14).rev().fold(0, |points: u64, bit| {
        let more = points + (1 << bit);
        match more <= 10_000 && whole.part(more, 10_000).is_some_and(|of| of <= part) {
            true => more,
            false => points,
        }
    });
    let text = format!("{}.{:02}", points / 100, points % 100);
    let text = text.trim_end_matches('0').trim_end_matches('.');
    // They stay together at the end of a line.
    format!("{text}\u{a0}%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_two_digits_that_say_something_and_are_never_more_than_there_is() {
        for (text, shown) in [
            ("240", "240.00"),
            ("1842.5", "1,842.50"),
            ("119.999999999999999999", "119.99"),
            ("0.000123456", "0.00012"),
            ("0.5", "0.50"),
            ("0", "0.00"),
        ] {
            assert_eq!(figure(text.parse().unwrap()), shown);
        }
        assert_eq!(exact("1240.000123456".parse().unwrap()), "1,240.000123456 ALEPH");
        assert_eq!(base_units(Amount::from_whole(2)), "2000000000000000000");
        let credits = [14_400_000, 6].map(|credits| dollars(Amount::from_whole(credits)));
        assert_eq!(credits, ["14.40 USD", "0.000006 USD"]);
    }

    #[test]
    fn dollars_stand_beside_what_is_charged_with_their_rate_and_its_time() {
        let known = Rate {
            credits: Amount::from_whole(52_000),
            time: 1_795_370_760,
        };
        let price = Amount::from_whole(240);
        assert_eq!(
            at_rate(price, Some(known)).as_deref(),
            Some("12.48 USD at 0.0520 USD, 18:06 UTC")
        );
        assert_eq!(at_rate(price, None), None);
    }

    #[test]
    fn what_is_typed_is_one_amount_or_says_what_is_wrong() {
        for (text, read) in [
            ("50", "50"),
            (" 2.50 ", "2.5"),
            ("1,842.5", "1842.5"),
            ("1,234,567", "1234567"),
            ("240.00 ALEPH", "240"),
            ("10 aleph", "10"),
        ] {
            assert_eq!(typed(text).unwrap().to_string(), read, "{text}");
        }
        for (text, said) in [
            ("", "no amount"),
            ("  ", "no amount"),
            ("0", "nothing"),
            ("0.000", "nothing"),
            ("-1", "less than nothing"),
            ("1e5", "is no amount"),
            ("1,5", "two ways"),
            ("1.5,0", "is no amount"),
            ("12,34,567", "two ways"),
            (",5", "two ways"),
            ("1.2.3", "is no amount"),
            (".5", "is no amount"),
            ("٣", "is no amount"),
            ("€€€€€", "is no amount"),
            ("0.0000000000000000001", "behind the point"),
            (&"9".repeat(90), "more than any"),
        ] {
            assert!(
                typed(text).unwrap_err().contains(said),
                "{text}: {:?}",
                typed(text)
            );
        }
    }

    #[test]
    fn parts_say_who_and_how_much_of_it() {
        let owner = format!("0x{}", "a1".repeat(20));
        let model = format!("{owner}/digits");
        let part = |kind, to: &str, amount: u64| Part {
            kind,
            to: to.to_owned(),
            amount: Amount::from_whole(amount),
            model: model.clone(),
        };
        let all = [
            part(PartKind::Sale, &owner, 228),
            part(PartKind::Fee, "gateway", 12),
        ];
        let rows = parts(&all, &model, Amount::from_whole(240));
        let said: Vec<_> = rows.iter().map(|row| (&*row.who, &*row.amount)).collect();
        assert_eq!(
            said,
            [
                ("0xa1a1…a1a1, owner, 95\u{a0}%", "228.00"),
                ("This gateway, fee, 5\u{a0}%", "12.00")
            ]
        );
        assert_eq!(
            percent(Amount::from_whole(1), Amount::from_whole(3)),
            "33.33\u{a0}%"
        );
    }
}
