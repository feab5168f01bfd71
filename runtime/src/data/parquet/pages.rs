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
/// Most values of a page, a dictionary or a group, which few bytes can say when all are equal.
const VALUES_MAX: usize = 1 << 27;
/// Most bytes of a group's texts, with what each takes beside its own.
const TEXTS_MAX: usize = 2 << 30;
/// What a text takes beside its bytes.
const TEXT_SIZE: usize = size_of::<Vec<u8>>();
/// Longest header of a page, and most values of it; there are about twenty.
const HEADER_MAX: usize = 16 << 20;
const HEADER_VALUES_MAX: usize = 1000;

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

    /// Makes room for so many, where all have one width.
    fn reserve(&mut self, count: usize) -> Found<()> {
        let Self::Fixed { width, bytes } = self else {
            return Ok(());
        };
        bytes
            .try_reserve_exact(count.saturating_mul(*width))
            .map_err(|_| format!("there is no memory for {count} values"))
    }

    fn extend(&mut self, other: Self) -> Found<()> {
        match (self, other) {
            // There is room already: see `decode`.
            (Self::Fixed { bytes, .. }, Self::Fixed { bytes: more, .. }) => bytes.extend(more),
            (Self::Texts(texts), Self::Texts(more)) => {
                // Pages come one by one: not exactly, or all would move for each.
                texts
                    .try_reserve(more.len())
                    .map_err(|_| format!("there is no memory for {} texts", more.len()))?;
                texts.extend(more);
            }
            _ => {}
        }
        Ok(())
    }

    /// Bytes of texts, with what each takes beside its own; 0 for others.
    pub(super) fn text_size(&self) -> usize {
        match self {
            Self::Fixed { .. } => 0,
            Self::Texts(texts) => texts.iter().map(|text| text.len() + TEXT_SIZE).sum(),
        }
    }

    /// Those with these numbers.
    fn gathered(&self, indices: &[u32]) -> Found<Self> {
        let beyond = || "a page wants more than its dictionary has".to_owned();
        let no_memory = |_| format!("there is no memory for {} values", indices.len());
        let index = |&index: &u32| usize::try_from(index).ok();
        match self {
            Self::Fixed { width, bytes } => {
                let mut gathered = Vec::new();
                gathered
                    .try_reserve_exact(indices.len().saturating_mul(*width))
                    .map_err(no_memory)?;
                for at in indices {
                    let at = index(at).and_then(|at| at.checked_mul(*width));
                    let value = at.and_then(|at| bytes.get(at..at.checked_add(*width)?));
                    gathered.extend_from_slice(value.ok_or_else(beyond)?);
                }
                Ok(Self::Fixed {
                    width: *width,
                    bytes: gathered,
                })
            }
            Self::Texts(texts) => {
                // One long text can be meant by all: their size is known before any is copied.
                let mut size = 0_usize;
                for at in indices {
                    let text = index(at).and_then(|at| texts.get(at)).ok_or_else(beyond)?;
                    size = size.saturating_add(text.len() + TEXT_SIZE);
                }
                check_texts(size)?;
                let mut gathered = Vec::new();
                gathered.try_reserve_exact(indices.len()).map_err(no_memory)?;
                for at in indices {
                    let text = index(at).and_then(|at| texts.get(at)).ok_or_else(beyond)?;
                    gathered.push(text.clone());
                }
                Ok(Self::Texts(gathered))
            }
        }
    }
}

/// Refuses texts of a group that take too much memory.
fn check_texts(size: usize) -> Found<()> {
    if size > TEXTS_MAX {
        return Err(format!(
            "its texts in a group of rows take {size} bytes, more than the {TEXTS_MAX} that are read at once: write it \
             with smaller groups"
        ));
    }
    Ok(())
}

/// Refuses so many values of `what`, which the file only says.
fn check_count(what: &str, count: usize) -> Found<()> {
    if count > VALUES_MAX {
        return Err(format!(
            "{what} says that it has {count} values, more than the {VALUES_MAX} that are read at once"
        ));
    }
    Ok(())
}

/// All pages of a chunk with so many rows.
pub(super) fn decode(bytes: &[u8], kind: Kind, is_optional: bool, codec: i64, rows: usize) -> Found<Decoded> {
    let early = || "it ends too early".to_owned();
    check_count("a group of rows", rows)?;
    let (mut rest, mut dictionary) = (bytes, None);
    let mut decoded = Decoded {
        values: Values::none(kind),
        present: vec![],
    };
    decoded.values.reserve(rows)?;
    let (mut seen, mut text_size) = (0_usize, 0_usize);
    while seen < rows {
        check_interrupt();
        let front = &rest[..rest.len().min(HEADER_MAX)];
        let (header, length) = Fields::read(front, HEADER_VALUES_MAX)?;
        let (size, unpacked) = header.count(3).zip(header.count(2)).ok_or_else(early)?;
        rest = rest.get(length..).ok_or_else(early)?;
        let page = rest.get(..size).ok_or_else(early)?;
        rest = &rest[size..];
        if unpacked > PAGE_MAX {
            return Err(format!("a page says that it has {unpacked} bytes"));
        }
        if let Some(about) = header.fields(7) {
            if dictionary.is_some() {
                return Err("it has more than one dictionary in a group of rows".to_owned());
            }
            let page = unpack(page, codec, unpacked)?;
            let count = about.count(1).ok_or_else(early)?;
            check_count("a dictionary", count)?;
            if kind.width().is_none() {
                check_texts(count.saturating_mul(TEXT_SIZE))?;
            }
            dictionary = Some(plain(&page, kind, count).ok_or_else(early)?);
            continue;
        }
        let Some((page, levels, count, encoding)) = data_page(&header, page, codec, unpacked, is_optional)?
        else {
            continue;
        };
        check_count("a page", count)?;
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
        let more = values(&page, kind, encoding, there, dictionary.as_ref())?;
        text_size = text_size.saturating_add(more.text_size());
        check_texts(text_size)?;
        decoded.values.extend(more)?;
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
    if kind.width().is_none() {
        check_texts(count.saturating_mul(TEXT_SIZE))?;
    }
    match (encoding, kind.width()) {
        (0, _) => plain(page, kind, count).ok_or_else(early),
        (2 | 8, _) => {
            let dictionary = dictionary.ok_or("a page wants a dictionary that is not there")?;
            if count == 0 {
                return Ok(Values::none(kind));
            }
            let (&width, page) = page.split_first().ok_or_else(early)?;
            let indices = runs(page, usize::from(width), count).ok_or_else(early)?;
            dictionary.gathered(&indices)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// As headers have it: twice the number, seven bits a byte.
    fn number(value: usize) -> Vec<u8> {
        let (mut left, mut bytes) = (value * 2, Vec::new());
        while left > 127 {
            bytes.push(u8::try_from(left & 127).unwrap() | 128);
            left >>= 7;
        }
        bytes.push(u8::try_from(left).unwrap());
        bytes
    }

    /// A page that is not packed: of data where `field` is 5, a dictionary where it is 7.
    fn page(field: u8, count: usize, encoding: usize, bytes: &[u8]) -> Vec<u8> {
        let size = number(bytes.len());
        let (count, encoding) = (number(count), number(encoding));
        let begin = [(field - 3) << 4 | 12, 0x15];
        let header: [&[u8]; 10] = [
            &[0x15, 0, 0x15],
            &size,
            &[0x15],
            &size,
            &begin,
            &count,
            &[0x15],
            &encoding,
            &[0, 0],
            bytes,
        ];
        header.concat()
    }

    /// A dictionary of one text, and a page that says it so often, in numbers of no bits.
    fn repeated(text: &[u8], count: usize) -> Vec<u8> {
        let mut entry = u32::try_from(text.len()).unwrap().to_le_bytes().to_vec();
        entry.extend(text);
        let indices = [vec![0], number(count)].concat();
        [page(7, 1, 0, &entry), page(5, count, 8, &indices)].concat()
    }

    fn error(bytes: &[u8], kind: Kind, rows: usize) -> String {
        decode(bytes, kind, false, 0, rows).unwrap_err()
    }

    #[test]
    fn few_bytes_that_say_very_many_values_are_refused() {
        let decoded = decode(&repeated(b"ab", 3), Kind::Text, false, 0, 3).unwrap();
        assert!(matches!(&decoded.values, Values::Texts(texts) if *texts == vec![b"ab".to_vec(); 3]));
        // A text of a megabyte, 4,096 times.
        let reason = error(&repeated(&[97; 1 << 20], 4096), Kind::Text, 4096);
        assert!(reason.contains("its texts in a group"), "{reason}");
        let reason = error(&repeated(b"ab", 3), Kind::Text, VALUES_MAX + 1);
        assert!(reason.contains("a group of rows says"), "{reason}");
        let reason = error(&page(7, VALUES_MAX + 1, 0, &[]), Kind::Int32, 3);
        assert!(reason.contains("a dictionary says"), "{reason}");
        let reason = error(&page(5, VALUES_MAX + 1, 0, &[]), Kind::Int32, 3);
        assert!(reason.contains("a page says"), "{reason}");
        let twice = [page(7, 1, 0, &[0; 4]), page(7, 1, 0, &[0; 4])].concat();
        let reason = error(&twice, Kind::Int32, 3);
        assert!(reason.contains("more than one dictionary"), "{reason}");
    }
}
