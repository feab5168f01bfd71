//! The pages of one column: unpacked, decoded, with what is missing marked. Called by [`super::Parquet`].
//!
//! Encodings: plain, dictionaries, runs, differences (of numbers and of lengths), bytes in streams. Compression: none,
//! Snappy, gzip, Zstandard.

use std::io::Read;

use super::bits::{differences, runs};
use super::footer::Kind;
use super::thrift::Fields;
use crate::interrupt::check_interrupt;

/// Largest page, unpacked.
const PAGE_MAX: usize = 1 << 30;
/// Most values of a page, which few bytes can say when all are equal.
const VALUES_MAX: usize = 1 << 27;

/// Why a column cannot be read.
pub(super) type Found<T> = Result<T, String>;

/// Values in a row, without those that are missing.
#[derive(Debug, Clone)]
pub(super) enum Values {
    /// Little-endian, all of this width.
    Fixed {
        width: usize,
        bytes: Vec<u8>,
    },
    Texts(Vec<Vec<u8>>),
}

/// A column of a group.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) values: Values,
    /// For each row, whether it has a value; empty when all have.
    pub(super) present: Vec<bool>,
}

impl Values {
    fn none(kind: Kind) -> Self {
        match kind.width() {
            Some(width) => Self::Fixed { width, bytes: vec![] },
            None => Self::Texts(vec![]),
        }
    }

    fn extend(&mut self, other: Self) {
        match (self, other) {
            (Self::Fixed { bytes, .. }, Self::Fixed { bytes: more, .. }) => bytes.extend(more),
            (Self::Texts(texts), Self::Texts(more)) => texts.extend(more),
            _ => {}
        }
    }

    /// Those with these numbers.
    fn gathered(&self, indices: &[u32]) -> Option<Self> {
        let index = |&index: &u32| usize::try_from(index).ok();
        Some(match self {
            Self::Fixed { width, bytes } => {
                let mut gathered = Vec::with_capacity(indices.len() * width);
                for at in indices.iter().map(index) {
                    let at = at?.checked_mul(*width)?;
                    gathered.extend_from_slice(bytes.get(at..at + width)?);
                }
                Self::Fixed {
                    width: *width,
                    bytes: gathered,
                }
            }
            Self::Texts(texts) => {
                let gathered = indices.iter().map(|at| texts.get(index(at)?).cloned());
                Self::Texts(gathered.collect::<Option<_>>()?)
            }
        })
    }
}

/// All pages of a chunk with so many rows.
pub(super) fn decode(bytes: &[u8], kind: Kind, is_optional: bool, codec: i64, rows: usize) -> Found<Decoded> {
    let early = || "it ends too early".to_owned();
    let (mut rest, mut dictionary) = (bytes, None);
    let mut decoded = Decoded {
        values: Values::none(kind),
        present: vec![],
    };
    let mut seen = 0_usize;
    while seen < rows {
        check_interrupt();
        let (header, length) = Fields::read(rest).ok_or_else(early)?;
        let (size, unpacked) = header.count(3).zip(header.count(2)).ok_or_else(early)?;
        rest = rest.get(length..).ok_or_else(early)?;
        let page = rest.get(..size).ok_or_else(early)?;
        rest = &rest[size..];
        if unpacked > PAGE_MAX {
            return Err(format!("a page says that it has {unpacked} bytes"));
        }
        if let Some(about) = header.fields(7) {
            let page = unpack(page, codec, unpacked)?;
            let count = about.count(1).ok_or_else(early)?;
            dictionary = Some(plain(&page, kind, count).ok_or_else(early)?);
            continue;
        }
        let Some((page, levels, count, encoding)) = data_page(&header, page, codec, unpacked, is_optional)?
        else {
            continue;
        };
        if count > VALUES_MAX {
            return Err(format!("a page says that it has {count} values"));
        }
        let count = count.min(rows - seen);
        let levels = levels
            .map(|levels| runs(&levels, 1, count).ok_or_else(early))
            .transpose()?;
        let there = levels
            .as_ref()
            .map_or(count, |levels| levels.iter().filter(|&&level| level == 1).count());
        if levels.is_some() && decoded.present.is_empty() {
            decoded.present = vec![true; seen];
        }
        match levels {
            Some(levels) => decoded.present.extend(levels.iter().map(|&level| level == 1)),
            None if !decoded.present.is_empty() => decoded.present.resize(seen + count, true),
            None => {}
        }
        decoded
            .values
            .extend(values(&page, kind, encoding, there, dictionary.as_ref())?);
        seen += count;
        if count == 0 {
            return Err(early());
        }
    }
    Ok(decoded)
}

/// Values, levels, number and encoding of a page; none for one that is no data.
type DataPage = (Vec<u8>, Option<Vec<u8>>, usize, i64);

fn data_page(
    header: &Fields,
    page: &[u8],
    codec: i64,
    unpacked: usize,
    is_optional: bool,
) -> Found<Option<DataPage>> {
    let early = || "it ends too early".to_owned();
    if let Some(about) = header.fields(5) {
        let (count, encoding) = about.count(1).zip(about.number(2)).ok_or_else(early)?;
        let page = unpack(page, codec, unpacked)?;
        if !is_optional {
            return Ok(Some((page, None, count, encoding)));
        }
        if about.number(3) != Some(3) {
            return Err("its levels are of a kind that nobody writes any more".to_owned());
        }
        let (length, rest) = page.split_first_chunk::<4>().ok_or_else(early)?;
        let (levels, rest) = rest
            .split_at_checked(u32::from_le_bytes(*length) as usize)
            .ok_or_else(early)?;
        return Ok(Some((rest.to_vec(), Some(levels.to_vec()), count, encoding)));
    }
    let Some(about) = header.fields(8) else {
        return Ok(None);
    };
    let (count, encoding) = about.count(1).zip(about.number(4)).ok_or_else(early)?;
    let (levels, repeated) = (about.count(5).unwrap_or(0), about.count(6).unwrap_or(0));
    let (front, rest) = repeated
        .checked_add(levels)
        .and_then(|at| page.split_at_checked(at))
        .ok_or_else(early)?;
    let codec = if about.truth(7) == Some(false) { 0 } else { codec };
    let rest = unpack(rest, codec, unpacked.checked_sub(front.len()).ok_or_else(early)?)?;
    let levels = is_optional.then(|| front[repeated..].to_vec());
    Ok(Some((rest, levels, count, encoding)))
}

/// The bytes of a page of this size.
fn unpack(page: &[u8], codec: i64, size: usize) -> Found<Vec<u8>> {
    let broken = |error: &dyn std::fmt::Display| format!("a page cannot be unpacked: {error}");
    let mut unpacked = Vec::new();
    let most = size as u64;
    match codec {
        0 => unpacked = page.to_vec(),
        _ if size == 0 => {}
        1 => {
            let said = snap::raw::decompress_len(page).map_err(|error| broken(&error))?;
            if said != size {
                return Err(broken(&"it has another size than it says"));
            }
            unpacked = snap::raw::Decoder::new()
                .decompress_vec(page)
                .map_err(|error| broken(&error))?;
        }
        2 => {
            let reader = flate2::read::MultiGzDecoder::new(page);
            reader
                .take(most)
                .read_to_end(&mut unpacked)
                .map_err(|error| broken(&error))?;
        }
        6 => {
            let reader = ruzstd::decoding::StreamingDecoder::new(page).map_err(|error| broken(&error))?;
            reader
                .take(most)
                .read_to_end(&mut unpacked)
                .map_err(|error| broken(&error))?;
        }
        other => {
            let name = ["LZO", "Brotli", "LZ4", "", "LZ4"].get(usize::try_from(other - 3).unwrap_or(9));
            let name = name.unwrap_or(&"a way that is not known");
            return Err(format!(
                "it is packed by {name}; Snappy, gzip and Zstandard can be read"
            ));
        }
    }
    if unpacked.len() != size {
        return Err(broken(&"it has another size than it says"));
    }
    Ok(unpacked)
}

fn values(
    page: &[u8],
    kind: Kind,
    encoding: i64,
    count: usize,
    dictionary: Option<&Values>,
) -> Found<Values> {
    let early = || "it ends too early".to_owned();
    match (encoding, kind.width()) {
        (0, _) => plain(page, kind, count).ok_or_else(early),
        (2 | 8, _) => {
            let dictionary = dictionary.ok_or("a page wants a dictionary that is not there")?;
            if count == 0 {
                return Ok(Values::none(kind));
            }
            let (&width, page) = page.split_first().ok_or_else(early)?;
            let indices = runs(page, usize::from(width), count).ok_or_else(early)?;
            dictionary
                .gathered(&indices)
                .ok_or_else(|| "a page wants more than its dictionary has".to_owned())
        }
        (3, Some(width @ 1)) => {
            let page = page.get(4..).ok_or_else(early)?;
            let bits = runs(page, 1, count).ok_or_else(early)?;
            Ok(Values::Fixed {
                width,
                bytes: bits.into_iter().map(|bit| u8::from(bit == 1)).collect(),
            })
        }
        (5, Some(width @ (4 | 8))) => {
            let (numbers, _) = differences(page, count)
                .filter(|(all, _)| all.len() == count)
                .ok_or_else(early)?;
            let bytes = numbers
                .iter()
                .flat_map(|number| number.to_le_bytes().into_iter().take(width));
            Ok(Values::Fixed {
                width,
                bytes: bytes.collect(),
            })
        }
        (6, None) => {
            let (lengths, mut rest) = differences(page, count)
                .filter(|(all, _)| all.len() == count)
                .ok_or_else(early)?;
            let mut texts = Vec::new();
            for length in lengths {
                let length = usize::try_from(length).map_err(|_| early())?;
                let (text, after) = rest.split_at_checked(length).ok_or_else(early)?;
                texts.push(text.to_vec());
                rest = after;
            }
            Ok(Values::Texts(texts))
        }
        (9, Some(width @ (4 | 8))) => {
            let page = count
                .checked_mul(width)
                .and_then(|size| page.get(..size))
                .ok_or_else(early)?;
            let bytes = (0..count).flat_map(|row| (0..width).map(move |byte| page[byte * count + row]));
            Ok(Values::Fixed {
                width,
                bytes: bytes.collect(),
            })
        }
        (other, _) => Err(format!("encoding {other} of {kind:?} values cannot be read")),
    }
}

/// One after the other, as they are.
fn plain(page: &[u8], kind: Kind, count: usize) -> Option<Values> {
    let Some(width) = kind.width() else {
        let (mut texts, mut rest) = (Vec::new(), page);
        for _ in 0..count {
            let (length, after) = rest.split_first_chunk::<4>()?;
            let (text, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            texts.push(text.to_vec());
            rest = after;
        }
        return Some(Values::Texts(texts));
    };
    let bytes = if kind == Kind::Truth {
        let page = page.get(..count.div_ceil(8))?;
        (0..count).map(|at| page[at / 8] >> (at % 8) & 1).collect()
    } else {
        page.get(..count.checked_mul(width)?)?.to_vec()
    };
    Some(Values::Fixed { width, bytes })
}
