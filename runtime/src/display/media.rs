//! Images and sound, as files hold them.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::{Bundle, Rich};
use crate::{Error, Result};

/// Bits of a sample in the WAV files that [`Audio::from_samples`] makes.
const SAMPLE_BITS: u16 = 16;
/// Bytes of a WAV header that count as the file's content (RIFF size field).
const RIFF_HEADER_BYTES: u32 = 36;

/// An image as its file holds it: PNG, JPEG, GIF, WebP or SVG.
#[derive(Clone)]
pub struct Image {
    media_type: &'static str,
    bytes: Arc<[u8]>,
}

/// Sound as its file holds it: WAV, MP3, Ogg or FLAC.
#[derive(Clone)]
pub struct Audio {
    media_type: &'static str,
    bytes: Arc<[u8]>,
}

impl Image {
    /// Reads an image file; what it is, its first bytes say.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be read, [`Error::Data`] when it is no image that clients show.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::from_bytes(read(path.as_ref())?)
    }

    /// An image from the bytes of its file.
    ///
    /// # Errors
    /// [`Error::Data`] when it is no image that clients show.
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Result<Self> {
        let bytes = bytes.into();
        let media_type = match &bytes[..] {
            [0x89, b'P', b'N', b'G', ..] => "image/png",
            [0xff, 0xd8, 0xff, ..] => "image/jpeg",
            [b'G', b'I', b'F', b'8', ..] => "image/gif",
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => "image/webp",
            text if is_svg(text) => "image/svg+xml",
            _ => return Err(unknown("an image (PNG, JPEG, GIF, WebP, SVG)")),
        };
        Ok(Self {
            media_type,
            bytes: bytes.into(),
        })
    }
}

impl Audio {
    /// Reads a sound file; what it is, its first bytes say.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be read, [`Error::Data`] when it is no sound that clients play.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::from_bytes(read(path.as_ref())?)
    }

    /// Sound from the bytes of its file.
    ///
    /// # Errors
    /// [`Error::Data`] when it is no sound that clients play.
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Result<Self> {
        let bytes = bytes.into();
        let media_type = match &bytes[..] {
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E', ..] => "audio/wav",
            [b'I', b'D', b'3', ..] | [0xff, 0xe2..=0xff, ..] => "audio/mpeg",
            [b'O', b'g', b'g', b'S', ..] => "audio/ogg",
            [b'f', b'L', b'a', b'C', ..] => "audio/flac",
            _ => return Err(unknown("sound (WAV, MP3, Ogg, FLAC)")),
        };
        Ok(Self {
            media_type,
            bytes: bytes.into(),
        })
    }

    /// One channel of sound from samples between -1 and 1 (louder ones are cut), at `rate` samples a second.
    ///
    /// # Errors
    /// [`Error::Data`] for a rate of 0, and for more than a WAV file holds (4 GiB).
    pub fn from_samples(samples: &[f32], rate: u32) -> Result<Self> {
        let too_much = |_| Error::Data {
            reason: "a WAV file holds at most 4 GiB".to_owned(),
        };
        let length = u32::try_from(samples.len() * usize::from(SAMPLE_BITS / 8)).map_err(too_much)?;
        let riff_length = length.checked_add(RIFF_HEADER_BYTES).ok_or_else(|| Error::Data {
            reason: "a WAV file holds at most 4 GiB".to_owned(),
        })?;
        if rate == 0 {
            return Err(Error::Data {
                reason: "sound needs a rate of at least one sample a second".to_owned(),
            });
        }
        let mut wav = Vec::with_capacity(samples.len() * 2 + 44);
        wav.extend(b"RIFF");
        wav.extend(riff_length.to_le_bytes());
        // One block of 16 bytes about the format: 1 is PCM, then channels, rate, bytes a second, bytes a frame, bits.
        wav.extend(b"WAVEfmt ");
        wav.extend(16_u32.to_le_bytes());
        wav.extend(1_u16.to_le_bytes());
        wav.extend(1_u16.to_le_bytes());
        wav.extend(rate.to_le_bytes());
        wav.extend(rate.saturating_mul(u32::from(SAMPLE_BITS / 8)).to_le_bytes());
        wav.extend((SAMPLE_BITS / 8).to_le_bytes());
        wav.extend(SAMPLE_BITS.to_le_bytes());
        wav.extend(b"data");
        wav.extend(length.to_le_bytes());
        for sample in samples {
            #[expect(clippy::cast_possible_truncation, reason = "clamped to the range of i16")]
            let sample = (sample.clamp(-1.0, 1.0) * f32::from(i16::MAX)) as i16;
            wav.extend(sample.to_le_bytes());
        }
        Self::from_bytes(wav)
    }
}

impl Rich for Image {
    fn bundle(&self) -> Bundle {
        let bundle = Bundle::new().text(format!("{self:?}"));
        if self.media_type == "image/svg+xml" {
            return bundle.svg(String::from_utf8_lossy(&self.bytes));
        }
        let encoded = STANDARD.encode(&self.bytes);
        if self.media_type == "image/webp" {
            // Not one of Jupyter's media types, but browsers draw it.
            return bundle.html(format!("<img src=\"data:{};base64,{encoded}\">", self.media_type));
        }
        bundle.with(self.media_type, Value::String(encoded))
    }
}

impl Rich for Audio {
    fn bundle(&self) -> Bundle {
        let encoded = STANDARD.encode(&self.bytes);
        let html = format!(
            "<audio controls src=\"data:{};base64,{encoded}\"></audio>",
            self.media_type
        );
        Bundle::new().text(format!("{self:?}")).html(html)
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image ({}, {} bytes)", self.media_type, self.bytes.len())
    }
}

impl fmt::Debug for Audio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Audio ({}, {} bytes)", self.media_type, self.bytes.len())
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|source| Error::file("read", path, source))
}

fn is_svg(bytes: &[u8]) -> bool {
    let start = &bytes[..bytes.len().min(1024)];
    String::from_utf8_lossy(start).contains("<svg")
}

fn unknown(wanted: &str) -> Error {
    Error::Data {
        reason: format!("these bytes are not {wanted}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_become_a_wav_file_of_their_length() {
        let audio = Audio::from_samples(&[0.0, 0.5, -2.0], 8_000).unwrap();
        assert_eq!(audio.bytes.len(), 44 + 6);
        assert_eq!(&audio.bytes[24..28], &8_000_u32.to_le_bytes());
        assert_eq!(&audio.bytes[48..50], &(-i16::MAX).to_le_bytes());
        let (data, _) = audio.bundle().into_parts();
        assert!(
            data["text/html"]
                .as_str()
                .unwrap()
                .starts_with("<audio controls src=\"data:audio/wav;")
        );
        assert_eq!(Audio::from_samples(&[0.0], 0).unwrap_err().code(), "data");
    }

    #[test]
    fn an_image_is_what_its_first_bytes_say() {
        let png = Image::from_bytes(vec![0x89, b'P', b'N', b'G', 1]).unwrap();
        assert!(png.bundle().into_parts().0.contains_key("image/png"));
        let svg = Image::from_bytes("<?xml version=\"1.0\"?><svg></svg>").unwrap();
        assert!(svg.bundle().into_parts().0.contains_key("image/svg+xml"));
        assert!(Image::from_bytes("text").is_err());
    }
}
