//! One picture from the bytes of its file. Called by [`super::images`].

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;

use crate::{Error, Result};

/// Largest picture, width times height.
const PLACES_MAX: u64 = 1 << 26;

/// One picture, row by row, three values (red, green, blue) for each place.
pub(super) struct Pixels {
    pub(super) width: usize,
    pub(super) height: usize,
    rgb: Vec<u8>,
}

impl Pixels {
    /// Channel after channel, values 0 to 1.
    pub(super) fn append_to(&self, values: &mut Vec<f32>) {
        for channel in 0..3 {
            let of_channel = self.rgb.iter().skip(channel).step_by(3);
            values.extend(of_channel.map(|value| f32::from(*value) / 255.0));
        }
    }

    pub(super) fn resized(&self, height: usize, width: usize) -> Self {
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

/// What of `old` places the place `at` of `new` ones covers; one at least.
pub(super) fn covered(at: usize, new: usize, old: usize) -> std::ops::Range<usize> {
    let from = (at * old / new).min(old - 1);
    from..((at + 1) * old / new).clamp(from + 1, old)
}

pub(super) fn decode(path: &Path) -> Result<Pixels> {
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
pub(super) fn check_size(width: u32, height: u32) -> std::result::Result<(), String> {
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

    #[test]
    fn a_picture_of_more_than_2_to_26_places_is_refused() {
        assert!(check_size(1 << 13, 1 << 13).is_ok());
        let error = check_size((1 << 13) + 1, 1 << 13).unwrap_err();
        assert!(error.contains("too large"), "{error}");
    }
}
