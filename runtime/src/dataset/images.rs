//! Pictures of a dataset as tensors: PNG and JPEG files whose folders are their classes.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::batches::{Batches, Raw};
use crate::train::{BatchIter, BatchSource, Pass, SeededRandom, fingerprint_of};
use crate::{Error, Result};

/// Files that are pictures, by the ends of their names.
const ENDS: [&str; 3] = ["png", "jpg", "jpeg"];

/// Largest picture, width times height.
const PLACES_MAX: u64 = 1 << 28;

/// Pictures of a dataset, in path order. The folder that a picture lies in is its class.
#[derive(Debug, Clone)]
pub struct Images {
    root: Arc<Path>,
    files: Arc<[PathBuf]>,
    classes: Arc<[String]>,
    labels: Arc<[u32]>,
    size: Option<(usize, usize)>,
}

/// One picture, row by row, three values (red, green, blue) for each place.
struct Pixels {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Images {
    /// All pictures among these files of the folder `root`.
    pub(super) fn of(root: &Path, files: Vec<PathBuf>, folder: &str) -> Result<Self> {
        let is_picture = |file: &PathBuf| {
            let end = file.extension().and_then(|end| end.to_str());
            end.is_some_and(|end| ENDS.iter().any(|known| end.eq_ignore_ascii_case(known)))
        };
        let inside = |file: &PathBuf| folder.is_empty() || file.starts_with(folder);
        let files: Vec<PathBuf> = files
            .into_iter()
            .filter(|file| is_picture(file) && inside(file))
            .collect();
        if files.is_empty() {
            return Err(Error::Data {
                reason: format!("there is no PNG or JPEG file in `{folder}` of the dataset"),
            });
        }
        let class = |file: &PathBuf| {
            let parent = file.parent().unwrap_or(Path::new(""));
            parent
                .strip_prefix(folder)
                .unwrap_or(parent)
                .display()
                .to_string()
        };
        let classes: BTreeSet<String> = files.iter().map(class).collect();
        let classes: Vec<String> = classes.into_iter().collect();
        let label = |file: &PathBuf| {
            classes
                .binary_search(&class(file))
                .ok()
                .and_then(|at| u32::try_from(at).ok())
        };
        let labels = files.iter().map(|file| label(file).unwrap_or(0)).collect();
        Ok(Self {
            root: root.into(),
            files: files.into(),
            labels,
            classes: classes.into(),
            size: None,
        })
    }

    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there is none; [`crate::Dataset::images`] refuses that.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Names of the classes: the folders, in order. A label is a place in this list.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Makes all pictures `height` by `width`, each place the mean of what it covers, or the nearest where it is enlarged.
    #[must_use]
    pub fn resized(mut self, height: usize, width: usize) -> Self {
        self.size = Some((height.max(1), width.max(1)));
        self
    }

    /// One picture as an `f32` tensor of shape (3, height, width), values 0 to 1, and its class.
    ///
    /// # Errors
    /// [`Error::Data`] for a number that is too high and a file that is no picture, [`Error::File`].
    pub fn read(&self, index: usize) -> Result<(Tensor, u32)> {
        let raw = self.raw(&[index])?;
        Ok((
            Tensor::from_vec(raw.inputs, raw.shape, &Device::Cpu)?,
            raw.labels[0],
        ))
    }

    /// Batches of up to `size` pictures in path order, or, with a seed, in the random order that it gives: inputs are `f32` of
    /// shape (batch, 3, height, width), values 0 to 1. They are read and decoded ahead, on threads of their own.
    pub fn batches(&self, size: usize, seed: Option<u64>) -> Batches {
        let order = match seed {
            Some(seed) => SeededRandom::new(seed).permutation(self.len()),
            None => (0..self.len()).collect(),
        };
        self.in_order(order, size)
    }

    fn in_order(&self, order: Vec<usize>, size: usize) -> Batches {
        let (images, size) = (self.clone(), size.max(1));
        Batches::new(order.len().div_ceil(size), move |number| {
            let from = number * size;
            images.raw(&order[from..order.len().min(from + size)])
        })
    }

    fn raw(&self, indices: &[usize]) -> Result<Raw> {
        let (mut inputs, mut labels, mut shape) = (Vec::new(), Vec::with_capacity(indices.len()), None);
        for &index in indices {
            let file = self.files.get(index).ok_or_else(|| Error::Data {
                reason: format!("there is no picture {index}: there are {}", self.len()),
            })?;
            let mut pixels = decode(&self.root.join(file))?;
            if let Some((height, width)) = self.size {
                pixels = pixels.resized(height, width);
            }
            let own = (pixels.height, pixels.width);
            let first = *shape.get_or_insert(own);
            if own != first {
                return Err(Error::Data {
                    reason: format!(
                        "{} is {} x {}, others are {} x {}: use .resized(height, width)",
                        file.display(),
                        own.0,
                        own.1,
                        first.0,
                        first.1
                    ),
                });
            }
            pixels.append_to(&mut inputs);
            labels.push(self.labels[index]);
        }
        let (height, width) = shape.unwrap_or((0, 0));
        Ok(Raw {
            inputs,
            shape: vec![3, height, width],
            labels,
        })
    }
}

impl Pixels {
    /// Channel after channel, values 0 to 1.
    fn append_to(&self, values: &mut Vec<f32>) {
        for channel in 0..3 {
            let of_channel = self.rgb.iter().skip(channel).step_by(3);
            values.extend(of_channel.map(|value| f32::from(*value) / 255.0));
        }
    }

    fn resized(&self, height: usize, width: usize) -> Self {
        let mut rgb = Vec::with_capacity(height * width * 3);
        for y in 0..height {
            let rows = covered(y, height, self.height);
            for x in 0..width {
                let columns = covered(x, width, self.width);
                for channel in 0..3 {
                    let row = |row: usize| {
                        columns
                            .clone()
                            .map(move |column| (row * self.width + column) * 3 + channel)
                    };
                    let places = rows.clone().flat_map(row);
                    let sum: u64 = places.map(|place| u64::from(self.rgb[place])).sum();
                    let mean = sum / (rows.len() * columns.len()) as u64;
                    rgb.push(u8::try_from(mean).unwrap_or(u8::MAX));
                }
            }
        }
        Self { width, height, rgb }
    }
}

/// A trainer learns from them as they are decoded, ahead of it.
impl BatchSource for Images {
    fn pass(&self, pass: &Pass) -> Result<BatchIter<'_>> {
        let mut order = pass.order(self.len());
        // Those that were learned from already are not even read.
        let done = order.len().min(pass.first.saturating_mul(pass.batch_size));
        order.drain(..done);
        Ok(Box::new(self.in_order(order, pass.batch_size)))
    }

    fn example_count(&self) -> Option<usize> {
        Some(self.len())
    }

    /// Of names and size, not of what the files hold: that would be to read them all.
    fn fingerprint(&self) -> Result<Option<u64>> {
        let text = format!("{:?} {:?} {:?}", self.files, self.labels, self.size);
        Ok(Some(fingerprint_of(&text)))
    }
}

/// What of `old` places the place `at` of `new` ones covers; one at least.
fn covered(at: usize, new: usize, old: usize) -> std::ops::Range<usize> {
    let from = (at * old / new).min(old - 1);
    from..((at + 1) * old / new).clamp(from + 1, old)
}

fn decode(path: &Path) -> Result<Pixels> {
    let failed = |source| Error::file("read", path, source);
    let broken = |reason: String| Error::Data {
        reason: format!("{} is no picture that can be read: {reason}", path.display()),
    };
    let mut file = BufReader::new(File::open(path).map_err(failed)?);
    let mut start = [0; 2];
    file.read_exact(&mut start).map_err(failed)?;
    file.rewind().map_err(failed)?;
    // By the first bytes: names lie.
    let pixels = if start == [0xff, 0xd8] {
        jpeg(file)
    } else {
        png(file)
    };
    pixels.map_err(broken)
}

/// Refuses a size, which the file only says, before room is made for it.
fn check_size(width: u32, height: u32) -> std::result::Result<(), String> {
    if u64::from(width) * u64::from(height) > PLACES_MAX {
        return Err(format!(
            "it says that it is {height} x {width}, which is too large"
        ));
    }
    Ok(())
}

fn png(file: BufReader<File>) -> std::result::Result<Pixels, String> {
    let mut decoder = png::Decoder::new(file);
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(|error| error.to_string())?;
    check_size(reader.info().width, reader.info().height)?;
    let mut bytes = vec![0; reader.output_buffer_size().ok_or("it is too large")?];
    let info = reader.next_frame(&mut bytes).map_err(|error| error.to_string())?;
    bytes.truncate(info.buffer_size());
    Pixels::new(info.width, info.height, info.color_type.samples(), &bytes)
}

fn jpeg(file: BufReader<File>) -> std::result::Result<Pixels, String> {
    let mut decoder = jpeg_decoder::Decoder::new(file);
    decoder.read_info().map_err(|error| error.to_string())?;
    let info = decoder.info().ok_or("it has no size")?;
    check_size(u32::from(info.width), u32::from(info.height))?;
    let bytes = decoder.decode().map_err(|error| error.to_string())?;
    let samples = match info.pixel_format {
        jpeg_decoder::PixelFormat::L8 => 1,
        jpeg_decoder::PixelFormat::RGB24 => 3,
        other => return Err(format!("its colours are {other:?}")),
    };
    Pixels::new(u32::from(info.width), u32::from(info.height), samples, &bytes)
}

impl Pixels {
    /// From one (grey), two (grey, alpha), three or four (red, green, blue, alpha) values a place; alpha is left out.
    fn new(width: u32, height: u32, samples: usize, bytes: &[u8]) -> std::result::Result<Self, String> {
        let (width, height) = (width as usize, height as usize);
        if width == 0 || height == 0 || bytes.len() != width * height * samples {
            return Err("it has another size than it says".to_owned());
        }
        let rgb = match samples {
            3 => bytes.to_vec(),
            4 => bytes
                .chunks_exact(4)
                .flat_map(|place| [place[0], place[1], place[2]])
                .collect(),
            _ => bytes
                .chunks_exact(samples)
                .flat_map(|place| [place[0]; 3])
                .collect(),
        };
        Ok(Self { width, height, rgb })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_png(path: &Path, width: u32, height: u32, color: png::ColorType, bytes: &[u8]) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut encoder = png::Encoder::new(File::create(path).unwrap(), width, height);
        encoder.set_color(color);
        encoder.write_header().unwrap().write_image_data(bytes).unwrap();
    }

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        write_png(
            &root.join("train/cat/1.png"),
            2,
            1,
            png::ColorType::Rgb,
            &[255, 0, 0, 0, 0, 255],
        );
        write_png(
            &root.join("train/dog/2.png"),
            2,
            1,
            png::ColorType::Grayscale,
            &[0, 51],
        );
        write_png(
            &root.join("train/dog/3.PNG"),
            2,
            1,
            png::ColorType::Rgba,
            &[1, 2, 3, 9, 4, 5, 6, 9],
        );
        write_png(
            &root.join("other/4.png"),
            4,
            2,
            png::ColorType::Grayscale,
            &[0, 10, 20, 30, 40, 50, 60, 70],
        );
        std::fs::write(root.join("readme.md"), "x").unwrap();
        folder
    }

    fn images(folder: &tempfile::TempDir, inside: &str) -> Result<Images> {
        Images::of(folder.path(), crate::files::list(folder.path()).unwrap(), inside)
    }

    #[test]
    fn a_folder_is_a_class_and_grey_and_alpha_become_three_channels() {
        let folder = folder();
        let images = images(&folder, "train").unwrap();
        assert_eq!(
            (images.len(), images.classes()),
            (3, &["cat".to_owned(), "dog".to_owned()][..])
        );
        let (red_blue, class) = images.read(0).unwrap();
        assert_eq!(red_blue.dims(), [3, 1, 2]);
        assert_eq!(
            red_blue.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
            [1.0, 0.0, 0.0, 0.0, 0.0, 1.0]
        );
        assert_eq!(class, 0);
        let grey = images
            .read(1)
            .unwrap()
            .0
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap();
        assert_eq!(grey, [0.0, 0.2, 0.0, 0.2, 0.0, 0.2]);
        let batches: Vec<_> = images.batches(2, None).map(Result::unwrap).collect();
        assert_eq!(batches[0].inputs.dims(), [2, 3, 1, 2]);
        assert_eq!(batches[1].labels.to_vec1::<u32>().unwrap(), [1]);
    }

    #[test]
    fn a_seed_gives_one_order_and_every_picture_once() {
        let folder = folder();
        let images = images(&folder, "train").unwrap();
        let sums = |seed| -> Vec<f32> {
            let batches = images.batches(1, Some(seed));
            let sum = |batch: Result<crate::train::Examples>| {
                batch.unwrap().inputs.sum_all().unwrap().to_scalar().unwrap()
            };
            batches.map(sum).collect()
        };
        assert_eq!(sums(3), sums(3));
        let mut sorted = [sums(3), sums(4)];
        sorted.iter_mut().for_each(|sums| sums.sort_by(f32::total_cmp));
        assert_eq!(sorted[0], sorted[1]);
    }

    #[test]
    fn a_pass_of_a_training_goes_on_where_it_was_left() {
        let folder = folder();
        let images = images(&folder, "train").unwrap();
        let pass = |first| -> Vec<f32> {
            let pass = Pass {
                seed: Some(3),
                epoch: 1,
                first,
                ..Pass::in_order(1)
            };
            let sum = |batch: Result<crate::train::Examples>| {
                batch.unwrap().inputs.sum_all().unwrap().to_scalar().unwrap()
            };
            images.pass(&pass).unwrap().map(sum).collect()
        };
        let whole = pass(0);
        assert_eq!((whole.len(), images.batch_count(2)), (3, Some(2)));
        for first in 1..5 {
            assert_eq!(pass(first), whole[first.min(3)..]);
        }
    }

    #[test]
    fn other_sizes_are_refused_with_the_way_out_which_is_the_mean() {
        let folder = folder();
        let all = images(&folder, "").unwrap();
        let error = all.batches(4, None).next().unwrap().unwrap_err().to_string();
        assert!(error.contains(".resized(") && error.contains("1 x 2"), "{error}");
        let (small, _) = all.resized(1, 2).read(0).unwrap();
        let values = small.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values[..2], [25.0 / 255.0, 45.0 / 255.0]);
        assert_eq!((covered(0, 3, 1), covered(2, 3, 1)), (0..1, 0..1));
    }

    #[test]
    fn what_is_no_picture_is_named() {
        let folder = folder();
        assert!(
            images(&folder, "none")
                .unwrap_err()
                .to_string()
                .contains("`none`")
        );
        // A header alone that says 2^30 x 2^30 takes no memory.
        let mut huge = std::fs::read(folder.path().join("train/dog/2.png")).unwrap();
        let (side, at) = ((1_u32 << 30).to_be_bytes(), 16);
        huge[at..at + 4].copy_from_slice(&side);
        huge[at + 4..at + 8].copy_from_slice(&side);
        std::fs::write(folder.path().join("train/cat/1.png"), &huge).unwrap();
        assert!(images(&folder, "train").unwrap().read(0).is_err());
        assert!(check_size(1 << 30, 1 << 30).unwrap_err().contains("too large"));
        std::fs::write(folder.path().join("train/cat/1.png"), "no picture at all").unwrap();
        let error = images(&folder, "train").unwrap().read(0).unwrap_err().to_string();
        assert!(error.contains("1.png") && error.contains("no picture"), "{error}");
    }
}
