//! What `ALEPHLAB_DEVICE` says.

use crate::{Error, Result};

/// Chooses the device of a kernel.
pub const DEVICE_ENV: &str = "ALEPHLAB_DEVICE";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// The first GPU where one can be used, else the CPU.
    Auto,
    Cpu,
    /// The GPU of this number.
    Cuda(usize),
}

impl Choice {
    pub(super) fn of_environment() -> Result<Self> {
        match std::env::var_os(DEVICE_ENV) {
            None => Ok(Self::Auto),
            Some(text) => Self::parse(&text.to_string_lossy()),
        }
    }

    fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        match text {
            "" | "auto" => return Ok(Self::Auto),
            "cpu" => return Ok(Self::Cpu),
            "cuda" => return Ok(Self::Cuda(0)),
            _ => {}
        }
        let ordinal = text.strip_prefix("cuda:").and_then(|number| number.parse().ok());
        ordinal.map(Self::Cuda).ok_or_else(|| Error::Name {
            name: text.to_owned(),
            reason: format!("{DEVICE_ENV} is auto, cpu, cuda or cuda:NUMBER"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_named_as_candle_names_it() {
        for (text, wanted) in [
            ("", Choice::Auto),
            ("auto", Choice::Auto),
            (" cpu\n", Choice::Cpu),
            ("cuda", Choice::Cuda(0)),
            ("cuda:3", Choice::Cuda(3)),
        ] {
            assert_eq!(Choice::parse(text).unwrap(), wanted);
        }
        for text in ["gpu", "cuda:", "cuda:-1", "cuda:x"] {
            let error = Choice::parse(text).unwrap_err();
            assert!(error.to_string().contains("auto, cpu"), "{error}");
        }
    }
}
