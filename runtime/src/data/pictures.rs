//! Steps for pictures in a [`super::Loader`]: each function answers a closure for `.augment(..)` or `.map(..)`.
//!
//! A picture is an `f32` tensor of shape (channels, height, width). What comes from outside of it is 0, so normalise last.

use candle_core::{DType, Device, Tensor};

use super::Sample;
use crate::train::SeededRandom;
use crate::{Error, Result};

/// Channel after channel, row by row.
struct Picture {
    channels: usize,
    height: usize,
    width: usize,
    values: Vec<f32>,
}

/// A part of the picture, `height` by `width`, at a random place of it with `padding` places of 0 around.
///
/// The closure fails with [`Error::Data`] for an input that is no picture or is smaller than the part, padding included.
pub fn random_crop(
    height: usize,
    width: usize,
    padding: usize,
) -> impl Fn(Sample, &mut SeededRandom) -> Result<Sample> + Send + Sync + 'static {
    changed(move |picture, random| {
        let padded = (picture.height + 2 * padding, picture.width + 2 * padding);
        if padded.0 < height || padded.1 < width || height == 0 || width == 0 {
            return Err(Error::Data {
                reason: format!(
                    "no part of {height} x {width} can be cut out of a picture of {} x {}, padded by {padding}",
                    picture.height, picture.width
                ),
            });
        }
        let top = random.below(padded.0 - height + 1);
        let left = random.below(padded.1 - width + 1);
        Ok(picture.part(offset(top, padding), offset(left, padding), height, width))
    })
}

/// Left and right change places, in half of all pictures.
///
/// The closure fails with [`Error::Data`] for an input that is no picture.
pub fn random_flip() -> impl Fn(Sample, &mut SeededRandom) -> Result<Sample> + Send + Sync + 'static {
    changed(|mut picture, random| {
        if random.next_u64() >> 63 == 1 {
            picture
                .values
                .chunks_exact_mut(picture.width)
                .for_each(<[f32]>::reverse);
        }
        Ok(picture)
    })
}

/// Moved by up to so many places up or down, and left or right.
///
/// The closure fails with [`Error::Data`] for an input that is no picture.
pub fn random_shift(
    places: usize,
) -> impl Fn(Sample, &mut SeededRandom) -> Result<Sample> + Send + Sync + 'static {
    changed(move |picture, random| {
        let (down, right) = (random.below(2 * places + 1), random.below(2 * places + 1));
        let (height, width) = (picture.height, picture.width);
        Ok(picture.part(offset(down, places), offset(right, places), height, width))
    })
}

/// Turned about its middle by up to so many degrees to either side, between the four places that a point falls among.
///
/// The closure fails with [`Error::Data`] for an input that is no picture.
pub fn random_rotation(
    degrees: f64,
) -> impl Fn(Sample, &mut SeededRandom) -> Result<Sample> + Send + Sync + 'static {
    changed(move |picture, random| Ok(picture.turned((random.uniform() * 2.0 - 1.0) * degrees)))
}

/// Each channel less its mean, divided by its standard deviation: for `.map(..)`, as what is measured needs it as well.
///
/// The closure fails with [`Error::Data`] for an input that is no picture with so many channels, and where a deviation is
/// not above 0.
pub fn normalise<const CHANNELS: usize>(
    mean: [f32; CHANNELS],
    deviation: [f32; CHANNELS],
) -> impl Fn(Sample) -> Result<Sample> + Send + Sync + 'static {
    move |sample| {
        let mut picture = Picture::of(&sample.input)?;
        if picture.channels != CHANNELS
            || deviation
                .iter()
                .any(|deviation| deviation.is_nan() || *deviation <= 0.0)
        {
            return Err(Error::Data {
                reason: format!(
                    "a picture of {} channels cannot be normalised by deviations {deviation:?}",
                    picture.channels
                ),
            });
        }
        let places = picture.height * picture.width;
        for (channel, values) in picture.values.chunks_exact_mut(places).enumerate() {
            let (mean, scale) = (mean[channel], 1.0 / deviation[channel]);
            values
                .iter_mut()
                .for_each(|value| *value = (*value - mean) * scale);
        }
        let input = picture.tensor()?;
        Ok(Sample { input, ..sample })
    }
}

fn changed(
    change: impl Fn(Picture, &mut SeededRandom) -> Result<Picture> + Send + Sync + 'static,
) -> impl Fn(Sample, &mut SeededRandom) -> Result<Sample> + Send + Sync + 'static {
    move |sample, random| {
        let input = change(Picture::of(&sample.input)?, random)?.tensor()?;
        Ok(Sample { input, ..sample })
    }
}

/// Where the part at `place` of a padded picture begins in the picture itself.
fn offset(place: usize, padding: usize) -> isize {
    place.cast_signed() - padding.cast_signed()
}

impl Picture {
    fn of(input: &Tensor) -> Result<Self> {
        match *input.dims() {
            [channels, height, width] if channels * height * width > 0 => Ok(Self {
                channels,
                height,
                width,
                values: input.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?,
            }),
            ref other => Err(Error::Data {
                reason: format!("a picture has channels, height and width; the input is of shape {other:?}"),
            }),
        }
    }

    fn tensor(self) -> Result<Tensor> {
        let shape = (self.channels, self.height, self.width);
        Ok(Tensor::from_vec(self.values, shape, &Device::Cpu)?)
    }

    /// From row `top` and column `left` on, which may lie outside.
    fn part(&self, top: isize, left: isize, height: usize, width: usize) -> Self {
        let mut values = vec![0.0; self.channels * height * width];
        // Columns of the part that lie inside.
        let first = usize::try_from(-left).unwrap_or(0).min(width);
        let from = usize::try_from(left).unwrap_or(0).min(self.width);
        let count = (self.width - from).min(width - first);
        for (row, own) in values.chunks_exact_mut(width).enumerate() {
            let (channel, row) = (row / height, row % height);
            let row = top
                .checked_add_unsigned(row)
                .and_then(|row| usize::try_from(row).ok());
            if let Some(row) = row.filter(|&row| row < self.height) {
                let at = (channel * self.height + row) * self.width + from;
                own[first..first + count].copy_from_slice(&self.values[at..at + count]);
            }
        }
        Self {
            channels: self.channels,
            height,
            width,
            values,
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "places of a picture, checked to lie inside; pictures are f32"
    )]
    fn turned(&self, degrees: f64) -> Self {
        // With a border of 0 every place that counts has four neighbours, and none is below 0.
        let padded = self.part(-1, -1, self.height + 2, self.width + 2);
        let (stride, plane) = (padded.width, padded.height * padded.width);
        let (sine, cosine) = degrees.to_radians().sin_cos();
        let middle = ((self.height - 1) as f64 / 2.0, (self.width - 1) as f64 / 2.0);
        let end = ((self.height + 1) as f64, (self.width + 1) as f64);
        let mut values = vec![0.0; self.values.len()];
        for to in 0..self.height * self.width {
            let (y, x) = (
                (to / self.width) as f64 - middle.0,
                (to % self.width) as f64 - middle.1,
            );
            let (y, x) = (
                cosine * y - sine * x + middle.0 + 1.0,
                sine * y + cosine * x + middle.1 + 1.0,
            );
            if !(y >= 0.0 && x >= 0.0 && y < end.0 && x < end.1) {
                continue;
            }
            let (top, left) = (y as usize, x as usize);
            let (down, right) = ((y - top as f64) as f32, (x - left as f64) as f32);
            for channel in 0..self.channels {
                let at = channel * plane + top * stride + left;
                let above = padded.values[at] * (1.0 - right) + padded.values[at + 1] * right;
                let at = at + stride;
                let below = padded.values[at] * (1.0 - right) + padded.values[at + 1] * right;
                values[channel * self.height * self.width + to] = above * (1.0 - down) + below * down;
            }
        }
        Self { values, ..*self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(height: usize, width: usize) -> Sample {
        let count = 2 * height * width;
        let values: Vec<f32> = (1..=count).map(|value| value as f32).collect();
        let input = Tensor::from_vec(values, (2, height, width), &Device::Cpu).unwrap();
        Sample::of_class(input, 1).unwrap()
    }

    fn values(sample: &Sample) -> Vec<f32> {
        sample.input.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Value of the picture that is padded without end.
    fn at(picture: &Picture, channel: usize, row: isize, column: isize) -> f32 {
        let inside = |at: isize, size: usize| usize::try_from(at).ok().filter(|&at| at < size);
        match (inside(row, picture.height), inside(column, picture.width)) {
            (Some(row), Some(column)) => {
                picture.values[(channel * picture.height + row) * picture.width + column]
            }
            _ => 0.0,
        }
    }

    #[test]
    fn parts_are_what_lies_there_and_0_outside() {
        let mut random = SeededRandom::new(4);
        for _ in 0..300 {
            let (height, width) = (1 + random.below(5), 1 + random.below(5));
            let picture = Picture::of(&sample(height, width).input).unwrap();
            let (top, left) = (offset(random.below(15), 7), offset(random.below(15), 7));
            let part = picture.part(top, left, 1 + random.below(6), 1 + random.below(6));
            for channel in 0..2 {
                for row in 0..part.height.cast_signed() {
                    for column in 0..part.width.cast_signed() {
                        let expected = at(&picture, channel, top + row, left + column);
                        assert_eq!(at(&part, channel, row, column), expected);
                    }
                }
            }
        }
    }

    #[test]
    fn a_crop_can_be_every_part_and_a_flip_is_one_in_two() {
        let (crop, flip, mut random) = (random_crop(2, 2, 1), random_flip(), SeededRandom::new(1));
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let part = crop(sample(2, 2), &mut random).unwrap();
            assert_eq!(part.input.dims(), [2, 2, 2]);
            seen.insert(format!("{:?}", values(&part)));
        }
        assert_eq!(seen.len(), 9);
        let flipped = (0..400).filter(|_| {
            let flipped = values(&flip(sample(1, 3), &mut random).unwrap());
            assert!(flipped == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0] || flipped == [3.0, 2.0, 1.0, 6.0, 5.0, 4.0]);
            flipped[0] > 1.0
        });
        assert!((150..250).contains(&flipped.count()));
        let shifted = random_shift(0)(sample(3, 3), &mut random).unwrap();
        assert_eq!(values(&shifted), values(&sample(3, 3)));
    }

    #[test]
    fn turning_moves_values_about_the_middle() {
        let picture = Picture::of(&sample(3, 3).input).unwrap();
        let near = |one: &[f32], other: &[f32]| {
            assert!(
                one.iter()
                    .zip(other)
                    .all(|(one, other)| (one - other).abs() < 1e-4),
                "{one:?}"
            );
        };
        near(&picture.turned(0.0).values, &picture.values);
        let mut around: Vec<f32> = picture.values.clone();
        around.chunks_exact_mut(9).for_each(<[f32]>::reverse);
        near(&picture.turned(180.0).values, &around);
        near(
            &picture.turned(90.0).values[..9],
            &[7.0, 4.0, 1.0, 8.0, 5.0, 2.0, 9.0, 6.0, 3.0],
        );
        // As the padded picture says, for random sizes and angles.
        let mut random = SeededRandom::new(6);
        for _ in 0..50 {
            let picture = Picture::of(&sample(1 + random.below(6), 1 + random.below(6)).input).unwrap();
            let degrees = random.uniform() * 360.0;
            let (turned, (sine, cosine)) = (picture.turned(degrees), degrees.to_radians().sin_cos());
            for (row, column) in
                (0..picture.height).flat_map(|row| (0..picture.width).map(move |column| (row, column)))
            {
                let middle = (
                    (picture.height - 1) as f64 / 2.0,
                    (picture.width - 1) as f64 / 2.0,
                );
                let (y, x) = (row as f64 - middle.0, column as f64 - middle.1);
                let (y, x) = (cosine * y - sine * x + middle.0, sine * y + cosine * x + middle.1);
                let mut expected = 0.0;
                for from_row in 0..picture.height.cast_signed() {
                    for from_column in 0..picture.width.cast_signed() {
                        let near = |place: f64, at: isize| (1.0 - (place - at as f64).abs()).max(0.0);
                        let share = near(y, from_row) * near(x, from_column);
                        expected += share * f64::from(at(&picture, 1, from_row, from_column));
                    }
                }
                let found = at(&turned, 1, row.cast_signed(), column.cast_signed());
                assert!(
                    (f64::from(found) - expected).abs() < 1e-3,
                    "{degrees}: {found}, not {expected}"
                );
            }
        }
        let turn = |seed| values(&random_rotation(20.0)(sample(3, 3), &mut SeededRandom::new(seed)).unwrap());
        assert_eq!(turn(1), turn(1));
        assert_ne!(turn(1), turn(2));
    }

    #[test]
    fn normalising_takes_each_channel_by_its_own_numbers() {
        let normal = normalise([1.0, 5.0], [2.0, 0.5])(sample(2, 2)).unwrap();
        assert_eq!(values(&normal), [0.0, 0.5, 1.0, 1.5, 0.0, 2.0, 4.0, 6.0]);
        assert!(normalise([0.0; 3], [1.0; 3])(sample(2, 2)).is_err());
        assert!(normalise([0.0; 2], [1.0, 0.0])(sample(2, 2)).is_err());
        let flat = Sample::of_class(Tensor::zeros(4, DType::F32, &Device::Cpu).unwrap(), 0).unwrap();
        let error = random_flip()(flat, &mut SeededRandom::new(1))
            .unwrap_err()
            .to_string();
        assert!(error.contains("[4]"), "{error}");
        let error = random_crop(9, 1, 1)(sample(2, 2), &mut SeededRandom::new(1))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("9 x 1") && error.contains("2 x 2, padded by 1"),
            "{error}"
        );
    }
}
