//! What an ALEPH is worth in credits: from a setting, or from a file that somebody keeps new.

use std::io::Read as _;
use std::path::Path;
use std::time::UNIX_EPOCH;

use alephlab_api::money::Amount;
use alephlab_api::payout::Rate;
use alephlab_api::time::unix_now;
use axum::http::StatusCode;

use super::RateSource;
use crate::error::{GatewayError, Result};

/// A rate that is older is refused.
const OLDEST: u64 = 3_600;
/// Clocks of two machines may differ by so much.
const AHEAD: u64 = 60;
/// Longest file.
const BYTES_MAX: u64 = 200;

pub(super) fn rate(source: Option<&RateSource>) -> Result<Rate> {
    let unknown = |text: String| {
        GatewayError::refused(StatusCode::CONFLICT, "rate_unknown", text)
            .with_hint("ask the gateway's operator")
    };
    let rate = match source {
        None => {
            let text = "no rate of ALEPH is set (settlement.rate or settlement.rate_file)";
            return Err(unknown(text.to_owned()));
        }
        Some(RateSource::Fixed(credits)) => Rate {
            credits: *credits,
            time: unix_now(),
        },
        Some(RateSource::File(path)) => {
            read(path).map_err(|reason| unknown(format!("the rate of ALEPH cannot be read: {reason}")))?
        }
    };
    if rate.credits.is_zero() {
        return Err(unknown("the rate of ALEPH is nothing".to_owned()));
    }
    let now = unix_now();
    if now.saturating_sub(rate.time) > OLDEST || rate.time > now + AHEAD {
        let text = "the rate of ALEPH is more than an hour old, and is not used";
        return Err(GatewayError::refused(StatusCode::CONFLICT, "rate_stale", text)
            .with_hint("ask again when the gateway has a newer one"));
    }
    Ok(rate)
}

/// The number in the file, and when it was written.
fn read(path: &Path) -> std::result::Result<Rate, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = std::fs::File::open(path).map_err(failed)?;
    let written = file
        .metadata()
        .and_then(|about| about.modified())
        .map_err(failed)?;
    let mut text = String::new();
    file.take(BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    let credits: Amount = text
        .trim()
        .parse()
        .map_err(|error| format!("{}: {error}", path.display()))?;
    let time = written
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    Ok(Rate { credits, time })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn a_rate_that_is_old_or_none_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rate");
        let source = RateSource::File(path.clone());
        let code = || rate(Some(&source)).unwrap_err().code().to_owned();
        assert_eq!(rate(None).unwrap_err().code(), "rate_unknown");
        assert_eq!(code(), "rate_unknown");
        std::fs::write(&path, "60000.5\n").unwrap();
        let read = rate(Some(&source)).unwrap();
        assert_eq!(read.credits.to_string(), "60000.5");
        assert!(unix_now().abs_diff(read.time) < 60);
        let hours = Duration::from_secs(7_200);
        for time in [SystemTime::now() - hours, SystemTime::now() + hours] {
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(time).unwrap();
            assert_eq!(code(), "rate_stale", "{time:?}");
        }
        for wrong in ["0", "", "-1", "about 3"] {
            std::fs::write(&path, wrong).unwrap();
            assert_eq!(code(), "rate_unknown", "{wrong:?}");
        }
        let fixed = RateSource::Fixed(Amount::from_whole(3));
        assert_eq!(rate(Some(&fixed)).unwrap().credits, Amount::from_whole(3));
    }
}
