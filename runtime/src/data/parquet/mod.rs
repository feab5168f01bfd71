//! Parquet files, one group of rows after the other: [`Parquet`] and [`read_parquet`].
//!
//! Written by hand, as the `parquet` crate in the runtime would keep notebooks from bringing it in, or polars or datafusion,
//! with the features they want ([why](../../../../docs/adr/0005-hand-written-parts.md)). Reads flat columns of numbers, truths
//! and texts. Not here: lists and structures, decimal numbers, encryption, writing.

mod bits;
mod footer;
mod pages;
mod thrift;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use crate::table::Table;
use crate::{Error, Result};
use footer::{Column, Footer, Kind};
use pages::{Decoded, Values};

/// Largest footer.
const FOOTER_MAX: u64 = 256 << 20;
/// Most values that are read at once, of all groups and columns: a small file can say very many.
const VALUES_MAX: usize = 1 << 28;
/// Most bytes of texts that are read at once.
const TEXTS_MAX: usize = 16 << 30;

/// A Parquet file that was opened: what it holds is known, and read when it is wanted.
#[derive(Debug, Clone)]
pub struct Parquet {
    path: PathBuf,
    footer: Footer,
}

/// Reads all columns of a Parquet file, which have to be numbers or truths, as a table. For some of them, for texts and for
/// files that are larger than memory see [`Parquet`].
///
/// # Errors
/// As [`Parquet::open`] and [`Parquet::table`].
pub fn read_parquet(path: impl AsRef<Path>) -> Result<Table> {
    let file = Parquet::open(path)?;
    let columns: Vec<&str> = file.columns().collect();
    file.table(&columns)
}

impl Parquet {
    /// Opens a file and reads what it holds.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be read, [`Error::Data`] with its name when it is no Parquet file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let failed = |source| Error::file("read", path, source);
        let broken = |reason: &str| Error::Data {
            reason: format!("{} is no Parquet file that can be read: {reason}", path.display()),
        };
        let mut file = File::open(path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        if size < 12 {
            return Err(broken("it is too short"));
        }
        file.seek(SeekFrom::End(-8)).map_err(failed)?;
        let mut end = [0; 8];
        file.read_exact(&mut end).map_err(failed)?;
        let [a, b, c, d, magic @ ..] = end;
        let length = u64::from(u32::from_le_bytes([a, b, c, d]));
        match &magic {
            b"PAR1" => {}
            b"PARE" => return Err(broken("it is encrypted")),
            _ => return Err(broken("it does not end as one")),
        }
        if length > (size - 8).min(FOOTER_MAX) {
            return Err(broken("its end says more than there is"));
        }
        file.seek(SeekFrom::Start(size - 8 - length)).map_err(failed)?;
        let mut bytes = Vec::new();
        file.take(length).read_to_end(&mut bytes).map_err(failed)?;
        let footer = Footer::parse(&bytes).map_err(broken)?;
        Ok(Self {
            path: path.to_owned(),
            footer,
        })
    }

    /// Names of the columns, in the file's order.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.footer.columns.iter().map(|column| column.name.as_str())
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.footer
            .groups
            .iter()
            .fold(0, |all, group| all.saturating_add(group.rows))
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of groups of rows, each of which can be read alone.
    pub fn groups(&self) -> usize {
        self.footer.groups.len()
    }

    /// These columns of all rows as a table of numbers. A missing value is NaN where the column holds fractions. Whole numbers
    /// above 2^53 are rounded, as a table is of `f64`; dates and times are the numbers that the file has.
    ///
    /// # Errors
    /// [`Error::File`]; [`Error::Data`] with file and column where there is no such one, where it holds texts, lists or
    /// decimal numbers, where a whole number or a truth is missing, where it is more than 2^28 values (see
    /// [`Parquet::group`]), and where the file is broken.
    pub fn table(&self, columns: &[&str]) -> Result<Table> {
        let mut values = self.room(self.len(), columns.len())?;
        for group in 0..self.groups() {
            self.append(group, columns, &mut values)?;
        }
        Ok(Table::of(columns, values))
    }

    /// The same of one group of rows, from 0: for files that are larger than memory.
    ///
    /// # Errors
    /// As [`Parquet::table`], and [`Error::Data`] when there are not so many groups.
    pub fn group(&self, group: usize, columns: &[&str]) -> Result<Table> {
        let rows = self.footer.groups.get(group).map_or(0, |group| group.rows);
        let mut values = self.room(rows, columns.len())?;
        self.append(group, columns, &mut values)?;
        Ok(Table::of(columns, values))
    }

    /// One column as a tensor of shape (rows,) of its own type on the CPU: `u8` for truths, `i32`, `u32`, `i64` (also for
    /// `uint64`), `f32`, `f64`. A missing fraction is NaN.
    ///
    /// # Errors
    /// As [`Parquet::table`].
    pub fn tensor(&self, column: &str) -> Result<Tensor> {
        self.check_size(self.len(), 1)?;
        let mut all: Option<(DType, Vec<u8>)> = None;
        for group in 0..self.groups() {
            let (dtype, bytes) = self.part(group, column)?;
            match &mut all {
                Some((_, known)) => known.extend(bytes),
                None => {
                    // Room for all groups, before any more is read.
                    let size = self.len().saturating_mul(dtype.size_in_bytes());
                    let mut room = bytes;
                    room.try_reserve_exact(size.saturating_sub(room.len()))
                        .map_err(|_| self.no_memory(self.len()))?;
                    all = Some((dtype, room));
                }
            }
        }
        let (dtype, bytes) = all.ok_or_else(|| self.broken(column, "there is no row"))?;
        of_bytes(dtype, &bytes)
    }

    /// One column of texts; none where one is missing.
    ///
    /// # Errors
    /// As [`Parquet::table`], and [`Error::Data`] for a column of other values or what is no UTF-8.
    pub fn texts(&self, column: &str) -> Result<Vec<Option<String>>> {
        self.check_size(self.len(), 1)?;
        let (mut all, mut size) = (Vec::new(), 0_usize);
        all.try_reserve_exact(self.len())
            .map_err(|_| self.no_memory(self.len()))?;
        for group in 0..self.groups() {
            let (_, decoded) = self.decoded(group, column)?;
            size = size.saturating_add(decoded.values.text_size());
            if size > TEXTS_MAX {
                let reason = format!(
                    "its texts take more than the {TEXTS_MAX} bytes that are read at once: write it as several files"
                );
                return Err(self.broken(column, &reason));
            }
            let Values::Texts(texts) = decoded.values else {
                return Err(self.broken(column, "it holds numbers, not texts"));
            };
            let text = |bytes| {
                String::from_utf8(bytes).map_err(|_| self.broken(column, "it holds bytes that are no text"))
            };
            let mut texts = texts.into_iter().map(text);
            if decoded.present.is_empty() {
                for text in texts {
                    all.push(Some(text?));
                }
            } else {
                for is_there in decoded.present {
                    all.push(if is_there { texts.next().transpose()? } else { None });
                }
            }
        }
        Ok(all)
    }

    /// Appends a group, row by row.
    fn append(&self, group: usize, columns: &[&str], values: &mut Vec<f64>) -> Result<()> {
        let read = columns.iter().map(|column| {
            let (dtype, bytes) = self.part(group, column)?;
            let part = of_bytes(dtype, &bytes)?;
            Ok(part.to_dtype(DType::F64)?.to_vec1::<f64>()?)
        });
        let read: Vec<Vec<f64>> = read.collect::<Result<_>>()?;
        let rows = read.first().map_or(0, Vec::len);
        values.extend((0..rows).flat_map(|row| read.iter().map(move |column| column[row])));
        Ok(())
    }

    /// Refuses so many rows and columns, which the file only says.
    fn check_size(&self, rows: usize, columns: usize) -> Result<()> {
        if rows
            .checked_mul(columns)
            .is_some_and(|values| values <= VALUES_MAX)
        {
            return Ok(());
        }
        Err(Error::Data {
            reason: format!(
                "{} says that it has {rows} rows, which in {columns} columns is more than the {VALUES_MAX} values that are \
                 read at once: read group by group (Parquet::group) or fewer columns",
                self.path.display()
            ),
        })
    }

    /// Room for a table of this size.
    fn room(&self, rows: usize, columns: usize) -> Result<Vec<f64>> {
        self.check_size(rows, columns)?;
        let mut values = Vec::new();
        let count = rows.saturating_mul(columns);
        values
            .try_reserve_exact(count)
            .map_err(|_| self.no_memory(count))?;
        Ok(values)
    }

    fn no_memory(&self, values: usize) -> Error {
        Error::Data {
            reason: format!(
                "there is no memory for {values} values of {}: read group by group (Parquet::group) or fewer columns",
                self.path.display()
            ),
        }
    }

    /// A column of one group: of which type, and its bytes.
    fn part(&self, group: usize, column: &str) -> Result<(DType, Vec<u8>)> {
        let (kind, decoded) = self.decoded(group, column)?;
        let Values::Fixed { width, bytes } = decoded.values else {
            return Err(self.broken(column, "it holds texts: see Parquet::texts"));
        };
        let (dtype, missing) = match kind {
            Kind::Truth => (DType::U8, None),
            Kind::Int32 => (DType::I32, None),
            Kind::Uint32 => (DType::U32, None),
            Kind::Int64 | Kind::Uint64 | Kind::Text => (DType::I64, None),
            Kind::Float => (DType::F32, Some(f32::NAN.to_le_bytes().to_vec())),
            Kind::Double => (DType::F64, Some(f64::NAN.to_le_bytes().to_vec())),
        };
        if kind == Kind::Uint64 && bytes.chunks_exact(8).any(|number| number[7] > 0x7f) {
            return Err(self.broken(column, "it holds a number above 2^63 - 1, which i64 does not"));
        }
        let bytes = match missing {
            _ if decoded.present.iter().all(|&is_there| is_there) => bytes,
            Some(missing) => {
                let mut values = bytes.chunks_exact(width);
                let value = |&is_there: &bool| if is_there { values.next() } else { None };
                let mut filled = Vec::new();
                let rows = decoded.present.len();
                filled
                    .try_reserve_exact(rows.saturating_mul(width))
                    .map_err(|_| self.no_memory(rows))?;
                for value in decoded.present.iter().map(value) {
                    filled.extend_from_slice(value.unwrap_or(&missing));
                }
                filled
            }
            None => {
                let row = decoded
                    .present
                    .iter()
                    .position(|&is_there| !is_there)
                    .unwrap_or(0);
                let reason = format!("a whole number is missing in row {row} of group {group}");
                return Err(self.broken(column, &reason));
            }
        };
        Ok((dtype, bytes))
    }

    fn decoded(&self, group: usize, column: &str) -> Result<(Kind, Decoded)> {
        let Column {
            name,
            kind,
            is_optional,
        } = self.column(column)?;
        let kind =
            kind.map_err(|holds| self.broken(column, &format!("it holds {holds}, which cannot be read")))?;
        let group = self.footer.groups.get(group).ok_or_else(|| Error::Data {
            reason: format!(
                "there is no group {group} of rows, {} has {}",
                self.path.display(),
                self.groups()
            ),
        })?;
        let chunk = group
            .chunks
            .iter()
            .find(|chunk| chunk.path.as_slice() == [name.as_str()]);
        let chunk = chunk.ok_or_else(|| self.broken(column, "a group of rows has none of it"))?;
        let failed = |source| Error::file("read", &self.path, source);
        let mut file = File::open(&self.path).map_err(failed)?;
        file.seek(SeekFrom::Start(chunk.start)).map_err(failed)?;
        // As much as there is of what the footer says.
        let mut bytes = Vec::new();
        file.take(chunk.size as u64)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        let decoded = pages::decode(&bytes, kind, *is_optional, chunk.codec, group.rows);
        Ok((kind, decoded.map_err(|reason| self.broken(column, &reason))?))
    }

    fn column(&self, name: &str) -> Result<&Column> {
        let known: Vec<&str> = self.columns().take(30).collect();
        let column = self.footer.columns.iter().find(|column| column.name == name);
        column.ok_or_else(|| Error::Data {
            reason: format!(
                "{} has no column {name}; it has {}",
                self.path.display(),
                known.join(", ")
            ),
        })
    }

    fn broken(&self, column: &str, reason: &str) -> Error {
        Error::Data {
            reason: format!(
                "column {column} of {} cannot be read: {reason}",
                self.path.display()
            ),
        }
    }
}

/// A column as a tensor.
fn of_bytes(dtype: DType, bytes: &[u8]) -> Result<Tensor> {
    let rows = bytes.len() / dtype.size_in_bytes();
    Ok(Tensor::from_raw_buffer(bytes, dtype, &[rows], &Device::Cpu)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::SeededRandom;

    /// Files that pyarrow made, see `make.py` beside them.
    fn path(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/parquet")
            .join(name)
    }

    fn values(file: &Parquet, column: &str) -> Vec<f64> {
        file.tensor(column)
            .unwrap()
            .to_dtype(DType::F64)
            .unwrap()
            .to_vec1()
            .unwrap()
    }

    fn each(value: impl Fn(u32) -> f64) -> Vec<f64> {
        (0..100).map(value).collect()
    }

    #[test]
    fn every_encoding_and_compression_gives_the_same_columns() {
        for (name, groups) in [
            ("snappy.parquet", 1),
            ("groups-zstd-2.parquet", 4),
            ("gzip-plain.parquet", 2),
            ("delta.parquet", 1),
        ] {
            let file = Parquet::open(path(name)).unwrap();
            let columns: Vec<&str> = file.columns().collect();
            assert_eq!(
                columns,
                ["i32", "i64", "f32", "f64", "truth", "text", "u32", "u8"],
                "{name}"
            );
            assert_eq!((file.len(), file.groups()), (100, groups), "{name}");
            for (column, dtype, expected) in [
                ("i32", DType::I32, each(|i| f64::from(i) * 3.0 - 50.0)),
                ("i64", DType::I64, each(|i| f64::from(i * i) * 1_000_003.0)),
                ("f32", DType::F32, each(|i| f64::from(i) / 8.0)),
                ("truth", DType::U8, each(|i| f64::from(u8::from(i % 3 == 0)))),
                ("u32", DType::U32, each(|i| f64::from(4_000_000_000 - i))),
            ] {
                assert_eq!(file.tensor(column).unwrap().dtype(), dtype, "{name} {column}");
                assert_eq!(values(&file, column), expected, "{name} {column}");
            }
            assert_eq!(values(&file, "u8"), each(|i| f64::from(i) * 2.0), "{name}");
            for (row, value) in values(&file, "f64").into_iter().enumerate() {
                assert_eq!(value.is_nan(), row % 7 == 3, "{name} {row}");
                assert!(value.is_nan() || value == row as f64 * 0.1, "{name} {row}");
            }
            for (row, text) in file.texts("text").unwrap().into_iter().enumerate() {
                let expected = (row % 4 != 1).then(|| format!("word {}", row % 5));
                assert_eq!(text, expected, "{name} {row}");
            }
        }
    }

    #[test]
    fn groups_of_rows_are_parts_of_the_table() {
        let file = Parquet::open(path("groups-zstd-2.parquet")).unwrap();
        let whole = file.table(&["u8", "i32"]).unwrap();
        assert_eq!(
            (whole.columns(), whole.len()),
            (&["u8".to_owned(), "i32".to_owned()][..], 100)
        );
        assert_eq!(whole.row(99).unwrap(), [198.0, 247.0]);
        let parts: Vec<Table> = (0..4)
            .map(|group| file.group(group, &["u8", "i32"]).unwrap())
            .collect();
        assert_eq!(parts.iter().map(Table::len).collect::<Vec<_>>(), [30, 30, 30, 10]);
        assert_eq!(parts[3].row(9).unwrap(), whole.row(99).unwrap());
        assert!(file.group(4, &["u8"]).is_err());
        let error = read_parquet(path("snappy.parquet")).unwrap_err().to_string();
        assert!(
            error.contains("column text") && error.contains("Parquet::texts"),
            "{error}"
        );
    }

    #[test]
    fn what_cannot_be_read_is_said_with_column_and_file() {
        let file = Parquet::open(path("other.parquet")).unwrap();
        assert_eq!(values(&file, "after")[..2], [1.5, 2.5]);
        for (column, expected) in [
            ("whole", "missing in row 1"),
            ("list", "lists or structures"),
            ("huge", "2^63"),
            ("none", "it has whole, list, after, huge"),
        ] {
            let error = file.tensor(column).unwrap_err().to_string();
            assert!(
                error.contains(expected) && error.contains("other.parquet"),
                "{error}"
            );
        }
        let error = file.texts("after").unwrap_err().to_string();
        assert!(error.contains("numbers, not texts"), "{error}");
        let error = read_parquet(path("brotli.parquet")).unwrap_err().to_string();
        assert!(error.contains("Brotli"), "{error}");
        assert_eq!(Parquet::open("/nowhere.parquet").unwrap_err().code(), "file");
    }

    #[test]
    fn more_values_than_are_read_at_once_are_refused() {
        let mut file = Parquet::open(path("groups-zstd-2.parquet")).unwrap();
        file.footer.groups[3].rows = VALUES_MAX;
        for error in [
            file.table(&["i32"]).unwrap_err(),
            file.tensor("i32").unwrap_err(),
            file.texts("text").unwrap_err(),
        ] {
            let error = error.to_string();
            assert!(
                error.contains("Parquet::group") && error.contains("groups-zstd-2"),
                "{error}"
            );
        }
        assert_eq!(file.group(1, &["i32"]).unwrap().len(), 30);
        assert!(file.group(3, &["i32"]).is_err() && file.group(3, &["i32", "u8"]).is_err());
    }

    #[test]
    fn a_broken_file_is_an_error_and_nothing_worse() {
        let folder = tempfile::tempdir().unwrap();
        let broken = folder.path().join("broken.parquet");
        let mut random = SeededRandom::new(8);
        for name in [
            "snappy.parquet",
            "groups-zstd-2.parquet",
            "gzip-plain.parquet",
            "delta.parquet",
        ] {
            let whole = std::fs::read(path(name)).unwrap();
            for round in 0..150 {
                let mut bytes = whole.clone();
                if round < 30 {
                    bytes.truncate(random.below(whole.len()));
                } else {
                    for _ in 0..1 + random.below(3) {
                        bytes[random.below(whole.len())] = random.next_u64().to_le_bytes()[0];
                    }
                }
                std::fs::write(&broken, &bytes).unwrap();
                let Ok(file) = Parquet::open(&broken) else {
                    continue;
                };
                for column in file.columns() {
                    let _ = (file.tensor(column), file.texts(column));
                }
            }
        }
    }
}
