//! A grid of small grey images with captions, as one PNG.

use candle_core::{DType, Tensor};

use super::glyphs;
use crate::display::{Bundle, Rich};
use crate::{Error, Result};

/// Pictures in one grid: more than a person looks at.
const IMAGES_MAX: usize = 400;
/// Smallest side of a picture on the page, in pixels; smaller images are enlarged without blurring.
const SIDE_MIN: usize = 56;
/// Largest side of one image, in pixels.
const SIDE_MAX: usize = 512;
/// Pixels of a caption's pixel.
const CAPTION_SCALE: usize = 2;
const CAPTION_HEIGHT: usize = glyphs::HEIGHT * CAPTION_SCALE + 8;
const GAP: usize = 8;

const PAPER: [u8; 3] = [0xff, 0xff, 0xff];
const FRAME: [u8; 3] = [0xe3, 0xdf, 0xd6];
const INK: [u8; 3] = [0x1c, 0x1a, 0x16];

/// Small images side by side. Shown as the last expression of a cell or with `display`.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageGrid {
    /// Row by row, image by image; from 0 (paper) to 1 (ink).
    pixels: Vec<f32>,
    height: usize,
    width: usize,
    columns: usize,
    captions: Vec<String>,
}

/// Shows the images of a tensor of shape (count, height, width), the largest value as black.
///
/// # Errors
/// [`Error::Plot`] when the shape is another or there are more than 400, [`Error::Tensor`] from candle.
pub fn plot_images(images: &Tensor) -> Result<ImageGrid> {
    let &[count, height, width] = images.dims() else {
        let reason = format!(
            "images have the shape (count, height, width), not {:?}",
            images.dims()
        );
        return Err(Error::Plot { reason });
    };
    if !(1..=IMAGES_MAX).contains(&count)
        || !(1..=SIDE_MAX).contains(&height)
        || !(1..=SIDE_MAX).contains(&width)
    {
        let reason = format!(
            "a grid takes 1 to {IMAGES_MAX} images of at most {SIDE_MAX} x {SIDE_MAX}, not {count} of {height} x {width}"
        );
        return Err(Error::Plot { reason });
    }
    let pixels: Vec<f32> = images.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    let low = pixels.iter().copied().fold(f32::INFINITY, f32::min);
    let high = pixels.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let span = if high > low { high - low } else { 1.0 };
    let pixels = pixels
        .into_iter()
        .map(|value| ((value - low) / span).clamp(0.0, 1.0))
        .collect();
    Ok(ImageGrid {
        pixels,
        height,
        width,
        columns: 10,
        captions: Vec::new(),
    })
}

impl ImageGrid {
    /// Images in one row; 10 without it.
    #[must_use]
    pub fn columns(mut self, columns: usize) -> Self {
        self.columns = columns.max(1);
        self
    }

    /// What stands under the images: figures and ` . - / > % ?`; anything else becomes a box.
    #[must_use]
    pub fn captions<C: ToString>(mut self, captions: &[C]) -> Self {
        self.captions = captions.iter().map(ToString::to_string).collect();
        self
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.pixels.len() / (self.height * self.width)
    }

    /// Whether there is no image; [`plot_images`] refuses that.
    pub fn is_empty(&self) -> bool {
        self.pixels.is_empty()
    }

    /// The grid as a PNG file.
    ///
    /// # Errors
    /// [`Error::Plot`] when it cannot be encoded.
    pub fn png(&self) -> Result<Vec<u8>> {
        let canvas = self.draw();
        let failed = |error: png::EncodingError| Error::Plot {
            reason: error.to_string(),
        };
        let side = |pixels: usize| {
            u32::try_from(pixels).map_err(|_| Error::Plot {
                reason: "the picture is too large".to_owned(),
            })
        };
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, side(canvas.width)?, side(canvas.height)?);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header().map_err(failed)?;
        writer.write_image_data(&canvas.bytes).map_err(failed)?;
        writer.finish().map_err(failed)?;
        Ok(file)
    }

    /// The grid in words.
    pub fn text(&self) -> String {
        let what = format!("{} images of {} x {}", self.len(), self.height, self.width);
        if self.captions.is_empty() {
            what
        } else {
            format!("{what}: {}", self.captions.join(" "))
        }
    }

    fn draw(&self) -> Canvas {
        let scale = (SIDE_MIN / self.height.max(self.width)).max(1);
        let (wide, high) = (self.width * scale + 2, self.height * scale + 2);
        let caption = if self.captions.is_empty() {
            0
        } else {
            CAPTION_HEIGHT
        };
        let columns = self.columns.min(self.len());
        let rows = self.len().div_ceil(columns);
        let (across, down) = (wide + GAP, high + caption + GAP);
        let mut canvas = Canvas::new(columns * across + GAP, rows * down + GAP);
        for (number, image) in self.pixels.chunks_exact(self.height * self.width).enumerate() {
            let left = GAP + number % columns * across;
            let top = GAP + number / columns * down;
            canvas.fill(left, top, wide, high, FRAME);
            for (at, &value) in image.iter().enumerate() {
                let (row, column) = (at / self.width, at % self.width);
                canvas.fill(
                    left + 1 + column * scale,
                    top + 1 + row * scale,
                    scale,
                    scale,
                    shade(value),
                );
            }
            if let Some(text) = self.captions.get(number) {
                canvas.write(left + wide / 2, top + high + 4, wide, text);
            }
        }
        canvas
    }
}

impl Rich for ImageGrid {
    fn bundle(&self) -> Bundle {
        let bundle = Bundle::new().text(self.text());
        match self.png() {
            Ok(png) => bundle.png(&png),
            Err(_) => bundle,
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between two bytes"
)]
fn shade(value: f32) -> [u8; 3] {
    let mix =
        |paper: u8, ink: u8| (f32::from(paper) + value * (f32::from(ink) - f32::from(paper))).round() as u8;
    [
        mix(PAPER[0], INK[0]),
        mix(PAPER[1], INK[1]),
        mix(PAPER[2], INK[2]),
    ]
}

struct Canvas {
    width: usize,
    height: usize,
    bytes: Vec<u8>,
}

impl Canvas {
    fn new(width: usize, height: usize) -> Self {
        Self {
            width,
            height,
            bytes: PAPER.repeat(width * height),
        }
    }

    fn fill(&mut self, left: usize, top: usize, wide: usize, high: usize, colour: [u8; 3]) {
        for row in top..(top + high).min(self.height) {
            let from = row * self.width;
            let pixels = from + left.min(self.width)..from + (left + wide).min(self.width);
            for pixel in self.bytes[pixels.start * 3..pixels.end * 3].chunks_exact_mut(3) {
                pixel.copy_from_slice(&colour);
            }
        }
    }

    /// Writes a text centred at `centre`, cut where it is wider than `room`.
    fn write(&mut self, centre: usize, top: usize, room: usize, text: &str) {
        let step = (glyphs::WIDTH + 1) * CAPTION_SCALE;
        let shown: Vec<char> = text.chars().take(room / step).collect();
        let mut left = centre.saturating_sub(shown.len() * step / 2);
        for character in shown {
            for (row, bits) in glyphs::glyph(character).into_iter().enumerate() {
                for column in
                    (0..glyphs::WIDTH).filter(|column| bits >> (glyphs::WIDTH - 1 - column) & 1 == 1)
                {
                    let (x, y) = (left + column * CAPTION_SCALE, top + row * CAPTION_SCALE);
                    self.fill(x, y, CAPTION_SCALE, CAPTION_SCALE, INK);
                }
            }
            left += step;
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn images(count: usize) -> Tensor {
        let count = u32::try_from(count * 64).unwrap();
        let values = Tensor::arange(0, count, &Device::Cpu).unwrap();
        values.reshape(((), 8, 8)).unwrap()
    }

    fn decoded(file: &[u8]) -> (u32, u32, Vec<u8>) {
        let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
        let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut bytes).unwrap();
        (info.width, info.height, bytes)
    }

    #[test]
    fn draws_each_image_enlarged_with_black_for_the_largest_value() {
        let grid = plot_images(&images(3)).unwrap().columns(2).captions(&[0, 1, 2]);
        let (width, height, bytes) = decoded(&grid.png().unwrap());
        // Two columns and two rows of 58 pixels with a gap of 8 around, captions of 22 under each.
        assert_eq!((width, height), (2 * 66 + 8, 2 * 88 + 8));
        let pixel = |x: usize, y: usize| {
            let at = (y * width as usize + x) * 3;
            [bytes[at], bytes[at + 1], bytes[at + 2]]
        };
        assert_eq!(pixel(9, 9), PAPER);
        assert_eq!(pixel(9 + 55, 8 + 88 + 1 + 55), INK);
        assert_eq!(pixel(8, 8), FRAME);
        assert_eq!(grid.text(), "3 images of 8 x 8: 0 1 2");
    }

    #[test]
    fn refuses_what_is_not_a_stack_of_images() {
        let flat = images(2).reshape((2, 64)).unwrap();
        assert!(plot_images(&flat).unwrap_err().to_string().contains("[2, 64]"));
        assert!(plot_images(&images(IMAGES_MAX + 1)).is_err());
    }

    #[test]
    fn survives_equal_values_long_captions_and_letters() {
        let grid = plot_images(&images(1).zeros_like().unwrap()).unwrap();
        let grid = grid.captions(&["a very long caption of many letters"]).columns(0);
        assert!(decoded(&grid.png().unwrap()).2.len() > 58 * 58);
    }
}
