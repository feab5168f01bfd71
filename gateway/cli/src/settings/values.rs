//! Values that come as text from the environment and as what they are from files.

use std::net::IpAddr;

use alephlab_api::market::FEE_MAX;
use alephlab_api::money::Amount;
use alephlab_gateway::DatabaseUrl;
use serde::Deserialize;
use url::Url;

/// Lists come as text from the environment: entries with commas between them.
pub(super) fn list<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        List(Vec<String>),
        Text(String),
    }
    match Either::deserialize(deserializer) {
        Ok(Either::List(list)) => Ok(list),
        Ok(Either::Text(text)) => {
            let entries = text.split(',').map(str::trim);
            Ok(entries
                .filter(|entry| !entry.is_empty())
                .map(str::to_owned)
                .collect())
        }
        Err(_) => Err(serde::de::Error::custom("write a list of texts in quotes")),
    }
}

/// Truths come as text from the environment.
pub(super) fn yes_or_no<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<bool, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Truth(bool),
        Text(String),
    }
    let truth = match Either::deserialize(deserializer)? {
        Either::Truth(truth) => Some(truth),
        Either::Text(text) => text.parse().ok(),
    };
    truth.ok_or_else(|| serde::de::Error::custom("write true or false"))
}

pub(super) fn ip<'de, D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<IpAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.trim()
        .parse()
        .map_err(|_| serde::de::Error::custom("write an IP address, such as 127.0.0.1"))
}

pub(super) fn ips<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Vec<IpAddr>, D::Error> {
    let texts = list(deserializer)?;
    let wrong = |text: &String| serde::de::Error::custom(format!("`{text}` is no IP address"));
    texts
        .iter()
        .map(|text| text.parse().map_err(|_| wrong(text)))
        .collect()
}

/// The root of an origin: pages have no prefix.
pub(super) fn web_url<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<Url>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let url = Url::parse(text.trim()).ok().filter(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none()
    });
    let wrong = || serde::de::Error::custom("write it as https://lab.example, without a path");
    url.map(Some).ok_or_else(wrong)
}

pub(super) fn port<'de, D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<u16, D::Error> {
    whole(deserializer, "a port is a number from 0 to 65535")
}

/// Within what bytes can count.
pub(super) fn gibibytes<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<u64, D::Error> {
    whole::<u32, _>(deserializer, "write a whole number of GiB").map(u64::from)
}

pub(super) fn count<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<usize, D::Error> {
    whole::<u32, _>(deserializer, "write a whole number")
        .map(|count| usize::try_from(count).unwrap_or(usize::MAX))
}

/// Bytes, as a number or with a unit of 1,024: `20 GiB`.
pub(super) fn bytes<'de, D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u64),
        Text(String),
    }
    let bytes = match Either::deserialize(deserializer) {
        Ok(Either::Number(number)) => Some(number),
        Ok(Either::Text(text)) => bytes_of(&text),
        Err(_) => None,
    };
    // The widest number that a settings file can hold.
    bytes
        .filter(|bytes| i64::try_from(*bytes).is_ok())
        .ok_or_else(|| serde::de::Error::custom("write a number of bytes, or one with KiB, MiB, GiB or TiB"))
}

fn bytes_of(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 4] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
    ];
    let text = text.trim();
    let with_unit = UNITS
        .into_iter()
        .find_map(|(unit, one)| Some((text.strip_suffix(unit)?, one)));
    let (number, one) = with_unit.unwrap_or((text, 1));
    number.trim().parse::<u64>().ok()?.checked_mul(one)
}

/// Within what a clock can count.
pub(super) fn minutes<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<u32, D::Error> {
    whole(deserializer, "write a whole number of minutes")
}

/// Long enough for a machine elsewhere to answer.
pub(super) fn a_while<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<u32, D::Error> {
    const EXPECTED: &str = "write a whole number of seconds, at least 60";
    match whole(deserializer, EXPECTED)? {
        0..60 => Err(serde::de::Error::custom(EXPECTED)),
        seconds => Ok(seconds),
    }
}

/// Hundredths of a percent, at most what a sale leaves room for.
pub(super) fn a_share<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<u16, D::Error> {
    let expected = format!("write hundredths of a percent, at most {FEE_MAX}");
    let points: u16 = whole(deserializer, &expected)?;
    match points <= FEE_MAX {
        true => Ok(points),
        false => Err(serde::de::Error::custom(expected)),
    }
}

pub(super) fn often<'de, D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<u32, D::Error> {
    whole(deserializer, "write how often")
}

/// How often in a minute: never would lock everybody out.
pub(super) fn a_minute<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<u32, D::Error> {
    const EXPECTED: &str = "write how often in a minute, at least 1";
    match whole(deserializer, EXPECTED)? {
        0 => Err(serde::de::Error::custom(EXPECTED)),
        often => Ok(often),
    }
}

/// Numbers may come as text from the environment.
fn whole<'de, N, D>(deserializer: D, expected: &str) -> std::result::Result<N, D::Error>
where
    N: TryFrom<i64> + std::str::FromStr,
    D: serde::Deserializer<'de>,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(i64),
        Text(String),
    }
    let number = match Either::deserialize(deserializer) {
        Ok(Either::Number(number)) => N::try_from(number).ok(),
        Ok(Either::Text(text)) => text.parse().ok(),
        Err(_) => None,
    };
    number.ok_or_else(|| serde::de::Error::custom(expected))
}

/// An amount in whole assets, as text or as a number.
pub(super) fn amount<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Text(String),
        Whole(u64),
        Fine(f64),
    }
    let text = match Written::deserialize(deserializer)? {
        Written::Text(text) => text.trim().to_owned(),
        Written::Whole(whole) => whole.to_string(),
        // As it was written: the shortest digits that mean this number.
        Written::Fine(fine) => fine.to_string(),
    };
    match text.parse::<Amount>() {
        Ok(_) => Ok(text),
        Err(error) => Err(serde::de::Error::custom(error)),
    }
}

/// The URL of a database; what is refused is not repeated, because a password may be in it.
pub(super) fn database<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<DatabaseUrl>, D::Error> {
    let Ok(text) = String::deserialize(deserializer) else {
        return Err(serde::de::Error::custom("write a URL in quotes"));
    };
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_may_have_a_unit() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("1048576", Some(1 << 20)),
            ("20 GiB", Some(20 << 30)),
            ("1KiB", Some(1 << 10)),
            ("20 GB", None),
            ("", None),
            ("-1", None),
            ("99999999999 TiB", None),
        ] {
            assert_eq!(bytes_of(text), bytes, "{text}");
        }
    }
}
