//! Arrays as numpy writes them: [`read_npy`] and [`read_npz`].
//!
//! candle's own readers know neither Fortran order, other byte orders, compressed archives nor half of the types, and
//! make room for as much as a broken header says. Not here: writing, which `Tensor::write_npy` does well.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::npy_header::{Header, Kind};
use crate::interrupt::check_interrupt;
use crate::{Error, Result};

/// Longest header that is read; numpy's own are below 10,000 bytes.
const HEADER_MAX: usize = 1 << 20;
/// Most bytes of all arrays of an archive together, where it is not itself large.
const ARCHIVE_MAX: u64 = 64 << 30;
/// Bytes that are read between two looks at the interrupt flag.
const PART: usize = 16 << 20;

/// What is wrong with a file, without its name.
type Found<T> = std::result::Result<T, Fault>;

/// Why an array cannot be read.
enum Fault {
    /// Not one that we read.
    Format(String),
    /// The file cannot be read.
    Io(std::io::Error),
    /// candle's own.
    Tensor(candle_core::Error),
}

/// Reads an array that numpy saved (`numpy.save`, versions 1 to 3) onto the CPU, with the shape it had; one in Fortran
/// order is put in C order. `bool` and `uint8` become `u8`, `int8` and `int16` `i16`, `int32` `i32`, `uint16` and `uint32`
/// `u32`, `int64` and `uint64` `i64`, `float16`, `float32` and `float64` as they are.
///
/// # Errors
/// [`Error::File`] when it cannot be read; [`Error::Data`] with the file's name when it is no such file, ends too early,
/// or holds objects, texts, complex numbers, structures, or `uint64` numbers that `i64` does not hold.
pub fn read_npy(path: impl AsRef<Path>) -> Result<Tensor> {
    let path = path.as_ref();
    let file = File::open(path).map_err(|source| Error::file("read", path, source))?;
    let size = file.metadata().map_or(u64::MAX, |about| about.len());
    array(&mut BufReader::new(file), size).map_err(|fault| fault.in_file(path, None))
}

/// Reads the arrays of an archive that numpy saved (`numpy.savez`, `numpy.savez_compressed`) onto the CPU, by their names;
/// each as [`read_npy`] does.
///
/// # Errors
/// As [`read_npy`], with the array's name; [`Error::Data`] also when arrays lie over each other, or are together larger
/// than 64 GiB and four times the file.
pub fn read_npz(path: impl AsRef<Path>) -> Result<BTreeMap<String, Tensor>> {
    let path = path.as_ref();
    let file = File::open(path).map_err(|source| Error::file("read", path, source))?;
    let length = file.metadata().map_or(0, |about| about.len());
    let most = ARCHIVE_MAX.max(length.saturating_mul(4));
    let broken = |error: zip::result::ZipError| Fault::from(error).in_file(path, None);
    let mut archive = zip::ZipArchive::new(BufReader::new(file)).map_err(broken)?;
    // The same bytes under many names would become very many.
    if archive.has_overlapping_files().map_err(broken)? {
        let reason = "its entries lie over each other".to_owned();
        return Err(Fault::Format(reason).in_file(path, None));
    }
    let (mut arrays, mut all) = (BTreeMap::new(), 0_u64);
    for number in 0..archive.len() {
        let mut entry = archive.by_index(number).map_err(broken)?;
        let name = entry.name().map_err(broken)?.into_owned();
        // numpy's own reader passes over other entries, too.
        let Some(name) = name.strip_suffix(".npy") else {
            continue;
        };
        // The archive only says the size; no deflated byte becomes more than 1032.
        let size = entry.size().min(entry.compressed_size().saturating_mul(1032));
        all = all.saturating_add(size);
        if all > most {
            let reason = format!("its arrays are together larger than {most} bytes");
            return Err(Fault::Format(reason).in_file(path, None));
        }
        let tensor = array(&mut entry, size).map_err(|fault| fault.in_file(path, Some(name)))?;
        arrays.insert(name.to_owned(), tensor);
    }
    Ok(arrays)
}

/// One array; `size` is how many bytes there are at most, header included.
fn array(reader: &mut impl Read, size: u64) -> Found<Tensor> {
    let header = header(reader)?;
    let truncated = |found: u64, wanted: usize| {
        Fault::Format(format!(
            "it ends too early: its header says {wanted} bytes of numbers, there are {found}"
        ))
    };
    let wanted = header.bytes().map_err(Fault::Format)?;
    // Before room is made for what a header only says.
    if wanted as u64 > size {
        return Err(truncated(size, wanted));
    }
    let mut bytes = Vec::new();
    let no_room = |_| Fault::Format(format!("there is no memory for its {wanted} bytes"));
    bytes.try_reserve_exact(wanted).map_err(no_room)?;
    while bytes.len() < wanted {
        check_interrupt();
        let before = bytes.len();
        let part = PART.min(wanted - before) as u64;
        reader.by_ref().take(part).read_to_end(&mut bytes)?;
        if bytes.len() == before {
            return Err(truncated(before as u64, wanted));
        }
    }
    tensor(&header, bytes)
}

fn header(reader: &mut impl Read) -> Found<Header> {
    let no_array = || Fault::Format("it does not begin as an array of numpy does".to_owned());
    let mut start = [0; 8];
    reader.read_exact(&mut start).map_err(|_| no_array())?;
    if &start[..6] != b"\x93NUMPY" {
        return Err(no_array());
    }
    let length = match start[6] {
        1 => {
            let mut length = [0; 2];
            reader.read_exact(&mut length)?;
            usize::from(u16::from_le_bytes(length))
        }
        2 | 3 => {
            let mut length = [0; 4];
            reader.read_exact(&mut length)?;
            u32::from_le_bytes(length) as usize
        }
        other => {
            return Err(Fault::Format(format!(
                "it is of version {other} of the format; 1 to 3 are known"
            )));
        }
    };
    if length > HEADER_MAX {
        return Err(Fault::Format(format!(
            "its header says that it has {length} bytes"
        )));
    }
    let mut text = vec![0; length];
    reader.read_exact(&mut text)?;
    // Latin-1 or UTF-8; what is not ASCII can only be in names of fields, which are refused anyway.
    Header::parse(&String::from_utf8_lossy(&text)).map_err(Fault::Format)
}

fn tensor(header: &Header, mut bytes: Vec<u8>) -> Found<Tensor> {
    if header.is_big_endian {
        bytes.chunks_exact_mut(header.width).for_each(<[u8]>::reverse);
    }
    let (bytes, dtype) = match (header.kind, header.width) {
        (Kind::Bool | Kind::Unsigned, 1) => (bytes, DType::U8),
        (Kind::Signed, 1) => (
            widened(&bytes, |[byte]: [u8; 1]| {
                i16::from(byte.cast_signed()).to_le_bytes()
            }),
            DType::I16,
        ),
        (Kind::Signed, 2) => (bytes, DType::I16),
        (Kind::Signed, 4) => (bytes, DType::I32),
        (Kind::Signed, 8) => (bytes, DType::I64),
        (Kind::Unsigned, 2) => (
            widened(&bytes, |two: [u8; 2]| {
                u32::from(u16::from_le_bytes(two)).to_le_bytes()
            }),
            DType::U32,
        ),
        (Kind::Unsigned, 4) => (bytes, DType::U32),
        (Kind::Unsigned, 8) => {
            if bytes.chunks_exact(8).any(|number| number[7] > 0x7f) {
                let reason = "it holds a uint64 above 2^63 - 1, which i64 does not";
                return Err(Fault::Format(reason.to_owned()));
            }
            (bytes, DType::I64)
        }
        (Kind::Float, 2) => (bytes, DType::F16),
        (Kind::Float, 4) => (bytes, DType::F32),
        (Kind::Float, 8) => (bytes, DType::F64),
        (kind, width) => {
            let reason = format!("it holds {kind:?} numbers of {width} bytes, which no tensor does");
            return Err(Fault::Format(reason));
        }
    };
    placed(header, &bytes, dtype)
}

/// Each number in more bytes.
fn widened<const FROM: usize, const TO: usize>(
    bytes: &[u8],
    wide: impl Fn([u8; FROM]) -> [u8; TO],
) -> Vec<u8> {
    let (numbers, _) = bytes.as_chunks::<FROM>();
    numbers.iter().flat_map(|number| wide(*number)).collect()
}

/// As a tensor of the header's shape, in C order.
fn placed(header: &Header, bytes: &[u8], dtype: DType) -> Found<Tensor> {
    let mut shape = header.shape.clone();
    if !header.is_fortran || shape.len() < 2 {
        return Ok(Tensor::from_raw_buffer(bytes, dtype, &shape, &Device::Cpu)?);
    }
    // The first index changes fastest: in C order that is the shape turned round.
    shape.reverse();
    let axes: Vec<usize> = (0..shape.len()).rev().collect();
    Ok(Tensor::from_raw_buffer(bytes, dtype, &shape, &Device::Cpu)?
        .permute(axes)?
        .contiguous()?)
}

impl Fault {
    fn in_file(self, path: &Path, name: Option<&str>) -> Error {
        let name = name.map_or_else(String::new, |name| format!(", array `{name}`"));
        match self {
            Self::Format(reason) => Error::Data {
                reason: format!("{}{name} cannot be read: {reason}", path.display()),
            },
            Self::Io(source) if source.kind() == std::io::ErrorKind::UnexpectedEof => Error::Data {
                reason: format!("{}{name} cannot be read: it ends too early", path.display()),
            },
            // What an inflater says of broken bytes.
            Self::Io(source) if source.kind() == std::io::ErrorKind::InvalidData || !name.is_empty() => {
                Error::Data {
                    reason: format!("{}{name} cannot be read: {source}", path.display()),
                }
            }
            Self::Io(source) => Error::file("read", path, source),
            Self::Tensor(source) => source.into(),
        }
    }
}

impl From<std::io::Error> for Fault {
    fn from(source: std::io::Error) -> Self {
        Self::Io(source)
    }
}

impl From<candle_core::Error> for Fault {
    fn from(source: candle_core::Error) -> Self {
        Self::Tensor(source)
    }
}

impl From<zip::result::ZipError> for Fault {
    fn from(error: zip::result::ZipError) -> Self {
        match error {
            zip::result::ZipError::Io(source) => Self::Io(source),
            other => Self::Format(format!("it is no archive of arrays: {other}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::SeededRandom;

    /// As numpy writes it: magic, version, length of the header, header to a multiple of 64, numbers.
    fn npy(version: u8, header: &str, numbers: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY".to_vec();
        bytes.extend([version, 0]);
        let fixed = if version == 1 { 10 } else { 12 };
        let length = (fixed + header.len() + 1).next_multiple_of(64) - fixed;
        match version {
            1 => bytes.extend(u16::try_from(length).unwrap().to_le_bytes()),
            _ => bytes.extend(u32::try_from(length).unwrap().to_le_bytes()),
        }
        bytes.extend(format!("{header:<width$}\n", width = length - 1).as_bytes());
        bytes.extend(numbers);
        bytes
    }

    fn header(descr: &str, is_fortran: bool, shape: &str) -> String {
        let order = if is_fortran { "True" } else { "False" };
        format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}")
    }

    fn read(bytes: &[u8]) -> Result<Tensor> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npy");
        std::fs::write(&path, bytes).unwrap();
        read_npy(&path)
    }

    fn values(tensor: &Tensor) -> Vec<f64> {
        let flat = tensor.flatten_all().unwrap().to_dtype(DType::F64).unwrap();
        flat.to_vec1().unwrap()
    }

    #[test]
    fn every_type_of_number_in_both_byte_orders() {
        let cases: [(&str, &[u8], DType, [f64; 2]); 17] = [
            ("|b1", &[0, 1], DType::U8, [0.0, 1.0]),
            ("|u1", &[7, 255], DType::U8, [7.0, 255.0]),
            ("|i1", &[0xff, 127], DType::I16, [-1.0, 127.0]),
            ("<i2", &[0xfe, 0xff, 1, 2], DType::I16, [-2.0, 513.0]),
            (">i2", &[0xff, 0xfe, 2, 1], DType::I16, [-2.0, 513.0]),
            ("<u2", &[0xff, 0xff, 1, 0], DType::U32, [65_535.0, 1.0]),
            (">u2", &[0xff, 0xff, 0, 1], DType::U32, [65_535.0, 1.0]),
            (
                "<i4",
                &[0xff, 0xff, 0xff, 0xff, 9, 0, 0, 0],
                DType::I32,
                [-1.0, 9.0],
            ),
            (
                "<u4",
                &[0, 0, 0, 128, 9, 0, 0, 0],
                DType::U32,
                [2_147_483_648.0, 9.0],
            ),
            ("<i8", &[255; 16], DType::I64, [-1.0, -1.0]),
            (
                ">i8",
                &[0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 3],
                DType::I64,
                [256.0, 3.0],
            ),
            (
                "<u8",
                &[3, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0],
                DType::I64,
                [3.0, 257.0],
            ),
            ("<f2", &[0, 0x3c, 0, 0xc0], DType::F16, [1.0, -2.0]),
            ("<f4", &[0, 0, 128, 63, 0, 0, 0, 192], DType::F32, [1.0, -2.0]),
            (">f4", &[63, 128, 0, 0, 192, 0, 0, 0], DType::F32, [1.0, -2.0]),
            (
                "<f8",
                &[0, 0, 0, 0, 0, 0, 240, 63, 0, 0, 0, 0, 0, 0, 0, 192],
                DType::F64,
                [1.0, -2.0],
            ),
            (
                ">f8",
                &[63, 240, 0, 0, 0, 0, 0, 0, 192, 0, 0, 0, 0, 0, 0, 0],
                DType::F64,
                [1.0, -2.0],
            ),
        ];
        for (descr, numbers, dtype, expected) in cases {
            let tensor = read(&npy(1, &header(descr, false, "(2,)"), numbers)).unwrap();
            assert_eq!((tensor.dtype(), tensor.dims()), (dtype, &[2][..]), "{descr}");
            assert_eq!(values(&tensor), expected, "{descr}");
        }
    }

    #[test]
    fn random_arrays_come_back_in_both_orders_and_all_versions() {
        let mut random = SeededRandom::new(11);
        for round in 0..60_u8 {
            let shape: Vec<usize> = (0..random.below(5)).map(|_| random.below(5)).collect();
            let count = shape.iter().product::<usize>();
            let expected: Vec<f64> = (0..count).map(|_| random.normal()).collect();
            let text: String = shape.iter().map(|side| format!("{side}, ")).collect();
            let (is_fortran, version) = (round % 2 == 1, 1 + round % 3);
            // Element by element in the order of the file, by the place that its index has in C order.
            let mut numbers = Vec::new();
            for place in 0..count {
                let (mut rest, mut index) = (place, vec![0; shape.len()]);
                let mut axes: Vec<usize> = (0..shape.len()).collect();
                if !is_fortran {
                    axes.reverse();
                }
                for axis in axes {
                    index[axis] = rest % shape[axis];
                    rest /= shape[axis];
                }
                let at = index
                    .iter()
                    .zip(&shape)
                    .fold(0, |at, (index, side)| at * side + index);
                numbers.extend(expected[at].to_le_bytes());
            }
            let header = header("<f8", is_fortran, &format!("({text})"));
            let tensor = read(&npy(version, &header, &numbers)).unwrap();
            assert_eq!(
                (tensor.dims(), values(&tensor)),
                (&shape[..], expected),
                "{shape:?}"
            );
        }
    }

    #[test]
    fn archives_plain_and_compressed_hold_arrays_by_name() {
        use std::io::Write as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npz");
        let mut archive = zip::ZipWriter::new(File::create(&path).unwrap());
        let plain =
            zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        let small = plain.compression_method(zip::CompressionMethod::Deflated);
        let numbers = [0_u8; 4096];
        for (name, options) in [("x.npy", plain), ("y.npy", small), ("notes.txt", plain)] {
            archive.start_file(name, options).unwrap();
            archive
                .write_all(&npy(1, &header("<f4", true, "(32, 32)"), &numbers))
                .unwrap();
        }
        archive.finish().unwrap();
        assert!(std::fs::metadata(&path).unwrap().len() < 2 * 4096 + 2048);
        let arrays = read_npz(&path).unwrap();
        assert_eq!(arrays.keys().collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!(arrays["y"].dims(), [32, 32]);
        // candle's own writer.
        let tensors = [(
            "w",
            Tensor::arange(0_f32, 6.0, &Device::Cpu)
                .unwrap()
                .reshape((2, 3))
                .unwrap(),
        )];
        Tensor::write_npz(&tensors, &path).unwrap();
        assert_eq!(
            values(&read_npz(&path).unwrap()["w"]),
            [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
        );
        std::fs::write(&path, "no archive").unwrap();
        let error = read_npz(&path).unwrap_err().to_string();
        assert!(error.contains("a.npz"), "{error}");
    }

    #[test]
    fn an_archive_whose_arrays_are_the_same_bytes_is_refused() {
        use std::io::Write as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npz");
        let mut archive = zip::ZipWriter::new(File::create(&path).unwrap());
        archive
            .start_file("x.npy", zip::write::SimpleFileOptions::default())
            .unwrap();
        archive
            .write_all(&npy(1, &header("<f4", false, "(2,)"), &[0; 8]))
            .unwrap();
        archive.shallow_copy_file("x.npy", "y.npy").unwrap();
        archive.finish().unwrap();
        let error = read_npz(&path).unwrap_err().to_string();
        assert!(error.contains("over each other"), "{error}");
    }

    #[test]
    fn files_that_numpy_itself_wrote() {
        // See `make.py` beside them.
        let path = |name: &str| {
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests/numpy")
                .join(name)
        };
        let counted: Vec<f64> = (0..24).map(f64::from).collect();
        for name in ["plain.npz", "compressed.npz"] {
            let arrays = read_npz(path(name)).unwrap();
            assert_eq!(arrays.len(), 5);
            for name in ["c", "fortran"] {
                assert_eq!(arrays[name].dims(), [2, 3, 4]);
                assert_eq!(values(&arrays[name]), counted);
            }
            let turned = arrays["c"].permute((2, 0, 1)).unwrap();
            assert_eq!(arrays["turned"].dims(), [4, 2, 3]);
            assert_eq!(values(&arrays["turned"]), values(&turned));
            assert_eq!(arrays["truth"].dtype(), DType::U8);
            assert_eq!(
                (arrays["one"].dims(), values(&arrays["one"])),
                (&[][..], vec![7.0])
            );
        }
        for name in ["big-endian.npy", "version-3.npy"] {
            let array = read_npy(path(name)).unwrap();
            assert_eq!((array.dims(), values(&array)), (&[2, 3, 4][..], counted.clone()));
        }
        let error = read_npy(path("objects.npy")).unwrap_err().to_string();
        assert!(error.contains("Python objects"), "{error}");
    }

    #[test]
    fn what_cannot_be_read_is_said_with_the_name() {
        let wrong = |bytes: &[u8]| {
            let error = read(bytes).unwrap_err();
            assert_eq!(error.code(), "data");
            let error = error.to_string();
            assert!(error.contains("a.npy cannot be read"), "{error}");
            error
        };
        let of = |descr: &str, shape: &str| npy(1, &header(descr, false, shape), &[0; 16]);
        for (bytes, expected) in [
            (of("|O", "(2,)"), "Python objects"),
            (of("<U4", "(1,)"), "texts"),
            (of("<c16", "(1,)"), "complex"),
            (of("<M8[ns]", "(2,)"), "times"),
            (of("<f16", "(1,)"), "16 bytes"),
            (of("<f8", "(3,)"), "24 bytes of numbers, there are 16"),
            (of("<f8", "(4611686018427387904, 8)"), "too large"),
            (of("<f8", "(1152921504606846975,)"), "ends too early"),
            (
                npy(
                    1,
                    "{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (2,), }",
                    &[0; 16],
                ),
                "fields",
            ),
            (npy(4, &header("<f8", false, "(2,)"), &[0; 16]), "version 4"),
            (b"PK and more".to_vec(), "does not begin"),
            (b"\x93NUMPY\x01\x00\xff\xff{".to_vec(), "ends too early"),
            (npy(1, &header("<u8", false, "(2,)"), &[255; 16]), "uint64"),
        ] {
            let error = wrong(&bytes);
            assert!(error.contains(expected), "{expected} in {error}");
        }
        // Cut anywhere, or with any byte of its header changed, it is an array or an error and nothing worse.
        let whole = npy(1, &header("<f8", true, "(2, 1)"), &[1; 16]);
        for end in 0..whole.len() {
            wrong(&whole[..end]);
        }
        let mut random = SeededRandom::new(5);
        for _ in 0..200 {
            let mut bytes = whole.clone();
            bytes[random.below(whole.len() - 16)] = u8::try_from(random.below(256)).unwrap();
            let _ = read(&bytes);
        }
        assert_eq!(read_npy("/nowhere/a.npy").unwrap_err().code(), "file");
    }
}
