//! Pictures as tensors: PNG and JPEG files whose folders are their classes, or a list of them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::pixels::decode;
use crate::data::Batches;
use crate::train::{BatchIter, BatchSource, Examples, Pass, SeededRandom, fingerprint_of};
use crate::{Error, Result, files};

/// Files that are pictures, by the ends of their names.
const ENDS: [&str; 3] = ["png", "jpg", "jpeg"];

/// Pictures with classes: of a folder in path order, where the folder that a picture lies in is its class, or of a list.
#[derive(Debug, Clone)]
pub struct Images {
    root: Arc<Path>,
    files: Arc<[PathBuf]>,
    classes: Arc<[String]>,
    labels: Arc<[u32]>,
    size: Option<(usize, usize)>,
}

/// The pictures (PNG, JPEG) in a folder and below; the folders that they lie in are their classes. For those of a dataset
/// see [`crate::Dataset::images`].
///
/// # Errors
/// [`Error::Data`] when there is none, [`Error::File`] when the folder cannot be read.
pub fn read_images(folder: impl AsRef<Path>) -> Result<Images> {
    let folder = folder.as_ref();
    Images::of(folder, files::list(folder)?, "")
}

fn is_picture(file: &Path) -> bool {
    let end = file.extension().and_then(|end| end.to_str());
    end.is_some_and(|end| ENDS.iter().any(|known| end.eq_ignore_ascii_case(known)))
}

impl Images {
    /// All pictures among these files of the folder `root`, `folder` of it or below.
    pub(super) fn of(root: &Path, files: Vec<PathBuf>, folder: &str) -> Result<Self> {
        let inside = |file: &PathBuf| is_picture(file) && (folder.is_empty() || file.starts_with(folder));
        let files = files.into_iter().filter(inside).map(|file| {
            let parent = file.parent().unwrap_or(Path::new(""));
            let class = parent
                .strip_prefix(folder)
                .unwrap_or(parent)
                .display()
                .to_string();
            (file, class)
        });
        Self::labelled(root, files.collect()).ok_or_else(|| Error::Data {
            reason: format!("there is no PNG or JPEG file in `{folder}` of {}", root.display()),
        })
    }

    /// Pictures from a list, each with the name of its class, in the order of the list; classes are in the order of their
    /// names.
    ///
    /// # Errors
    /// [`Error::Data`] when there is none. Files are first looked at when they are read.
    pub fn list<P: Into<PathBuf>, C: Into<String>>(files: impl IntoIterator<Item = (P, C)>) -> Result<Self> {
        let files = files.into_iter().map(|(file, class)| (file.into(), class.into()));
        Self::labelled(Path::new(""), files.collect()).ok_or_else(|| Error::Data {
            reason: "there is no picture in the list".to_owned(),
        })
    }

    /// None when there is no file.
    fn labelled(root: &Path, files: Vec<(PathBuf, String)>) -> Option<Self> {
        let classes: BTreeSet<&String> = files.iter().map(|(_, class)| class).collect();
        let classes: Vec<String> = classes.into_iter().cloned().collect();
        let label = |class: &String| {
            classes
                .binary_search(class)
                .ok()
                .and_then(|at| u32::try_from(at).ok())
        };
        let labels: Arc<[u32]> = files.iter().filter_map(|(_, class)| label(class)).collect();
        let files: Arc<[PathBuf]> = files.into_iter().map(|(file, _)| file).collect();
        (!files.is_empty()).then(|| Self {
            root: root.into(),
            files,
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

    /// The file of a picture, relative to the folder that they are in.
    pub fn file(&self, index: usize) -> Option<&Path> {
        self.files.get(index).map(PathBuf::as_path)
    }

    /// One picture as an `f32` tensor of shape (3, height, width), values 0 to 1, and its class.
    ///
    /// # Errors
    /// [`Error::Data`] for a number that is too high and a file that is no picture, [`Error::File`].
    pub fn read(&self, index: usize) -> Result<(Tensor, u32)> {
        let mut values = Vec::new();
        let (height, width) = self.append(index, &mut values)?;
        let picture = Tensor::from_vec(values, (3, height, width), &Device::Cpu)?;
        Ok((picture, self.labels[index]))
    }

    /// Batches of up to `size` pictures in path order, or, with a seed, in the random order that it gives: inputs are `f32` of
    /// shape (batch, 3, height, width), values 0 to 1. They are read and decoded ahead, on threads of their own. For random
    /// changes see [`crate::data::Loader`].
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
            images.examples(&order[from..order.len().min(from + size)])
        })
    }

    /// The pictures with these numbers as one batch.
    pub(crate) fn examples(&self, indices: &[usize]) -> Result<Examples> {
        let (mut inputs, mut labels, mut shape) = (Vec::new(), Vec::with_capacity(indices.len()), None);
        for &index in indices {
            let own = self.append(index, &mut inputs)?;
            let first = *shape.get_or_insert(own);
            if own != first {
                return Err(Error::Data {
                    reason: format!(
                        "{} is {} x {}, others are {} x {}: use .resized(height, width)",
                        self.files[index].display(),
                        own.0,
                        own.1,
                        first.0,
                        first.1
                    ),
                });
            }
            labels.push(self.labels[index]);
        }
        let (height, width) = shape.unwrap_or((0, 0));
        let inputs = Tensor::from_vec(inputs, (labels.len(), 3, height, width), &Device::Cpu)?;
        Examples::new(inputs, Tensor::new(labels, &Device::Cpu)?)
    }

    /// Appends the values of a picture, answers its height and width.
    fn append(&self, index: usize, values: &mut Vec<f32>) -> Result<(usize, usize)> {
        let file = self.files.get(index).ok_or_else(|| Error::Data {
            reason: format!("there is no picture {index}: there are {}", self.len()),
        })?;
        let mut pixels = decode(&self.root.join(file))?;
        if let Some((height, width)) = self.size {
            pixels = pixels.resized(height, width);
        }
        pixels.append_to(values);
        Ok((pixels.height, pixels.width))
    }
}

/// A trainer learns from them as they are decoded, ahead of it.
impl Images {
    /// The batches of a pass.
    fn batches_of(&self, pass: &Pass) -> Batches {
        let mut order = pass.order(self.len());
        // Those that were learned from already are not even read.
        let done = order.len().min(pass.first.saturating_mul(pass.batch_size));
        order.drain(..done);
        self.in_order(order, pass.batch_size)
    }
}

impl BatchSource for Images {
    fn pass_for(&self, pass: &Pass, device: &Device) -> Result<BatchIter<'_>> {
        Ok(Box::new(self.batches_of(pass).to_device(device)))
    }

    fn pass(&self, pass: &Pass) -> Result<BatchIter<'_>> {
        Ok(Box::new(self.batches_of(pass)))
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

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::super::pixels::{check_size, covered};
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
    fn a_list_keeps_its_order_and_a_folder_that_is_no_dataset_can_be_read() {
        let folder = folder();
        let file = |name: &str| folder.path().join(name);
        let list = [
            (file("train/dog/2.png"), "b"),
            (file("train/cat/1.png"), "a"),
            (file("none.png"), "b"),
        ];
        let listed = Images::list(list).unwrap();
        assert_eq!(
            (listed.len(), listed.classes()),
            (3, &["a".to_owned(), "b".to_owned()][..])
        );
        assert_eq!((listed.read(0).unwrap().1, listed.read(1).unwrap().1), (1, 0));
        let error = listed.batches(3, None).next().unwrap().unwrap_err().to_string();
        assert!(error.contains("none.png"), "{error}");
        assert!(Images::list::<PathBuf, String>([]).is_err());
        let read = read_images(file("train")).unwrap();
        assert_eq!(
            (read.len(), read.classes()),
            (3, &["cat".to_owned(), "dog".to_owned()][..])
        );
        assert!(read_images(file("nowhere")).is_err());
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
