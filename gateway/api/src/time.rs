//! Times as Jupyter's clients parse them: UTC, six digits of fraction, a literal `Z`.
//!
//! `jupyter_server`'s gateway client reads `last_activity` with one fixed format; nanoseconds or `+00:00` make it
//! raise (`reference/jupyter-server.md` section 1a). No other calendar arithmetic lives here.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `2026-11-22T18:06:00.000000Z` for a moment; moments before 1970 read as 1970.
pub fn format(moment: SystemTime) -> String {
    let since = moment.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (date, seconds) = (civil(since.as_secs() / 86_400), since.as_secs() % 86_400);
    let (year, month, day) = date;
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:06}Z",
        since.subsec_micros()
    )
}

/// The present moment in that form.
pub fn now() -> String {
    format(SystemTime::now())
}

/// The present moment in whole seconds since 1970.
pub fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs()
}

/// The present moment in microseconds since 1970.
pub fn unix_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or(Duration::ZERO).as_micros()).unwrap_or(u64::MAX)
}

/// Milliseconds and `Z`, as the Hub's answers write times, for seconds since 1970.
pub fn hub(seconds: u64) -> String {
    let mut text = format(UNIX_EPOCH + Duration::from_secs(seconds.min(253_402_300_799)));
    text.truncate(text.len().saturating_sub(4));
    text.push('Z');
    text
}

/// Days since 1970 to year, month, day (Howard Hinnant's `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 {
        month_index + 3
    } else {
        month_index - 9
    };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_six_digits_and_z() {
        let at = |secs, micros: u32| UNIX_EPOCH + Duration::new(secs, micros * 1000);
        assert_eq!(format(at(0, 0)), "1970-01-01T00:00:00.000000Z");
        assert_eq!(format(at(1_795_370_760, 42)), "2026-11-22T18:06:00.000042Z");
        assert_eq!(format(at(951_782_400, 0)), "2000-02-29T00:00:00.000000Z");
        assert_eq!(format(at(4_107_542_399, 999_999)), "2100-02-28T23:59:59.999999Z");
    }

    #[test]
    fn writes_hub_milliseconds() {
        assert_eq!(hub(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(hub(u64::MAX), "9999-12-31T23:59:59.000Z");
    }
}
