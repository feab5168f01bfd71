//! Modules of kernels: PTX by name, unpacked when it is first asked for.

use std::io::Read;
use std::sync::OnceLock;

use flate2::read::GzDecoder;

use crate::ptx::PACKED;

/// candle's modules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "a file of candle's each")]
pub enum Id {
    Affine,
    Binary,
    Cast,
    Conv,
    Fill,
    Indexing,
    Quantized,
    Reduce,
    Sort,
    Ternary,
    Unary,
}

/// All of them, in the order of their indices.
pub const ALL_IDS: [Id; 11] = [
    Id::Affine,
    Id::Binary,
    Id::Cast,
    Id::Conv,
    Id::Fill,
    Id::Indexing,
    Id::Quantized,
    Id::Reduce,
    Id::Sort,
    Id::Ternary,
    Id::Unary,
];

/// PTX of one file of kernels.
#[derive(Debug)]
pub struct Module {
    index: usize,
    name: &'static str,
    text: OnceLock<String>,
}

impl Module {
    const fn new(id: Id, name: &'static str) -> Self {
        Self {
            index: id as usize,
            name,
            text: OnceLock::new(),
        }
    }

    /// Its place in [`ALL_IDS`].
    pub fn index(&self) -> usize {
        self.index
    }

    /// The PTX, which has no NUL byte; empty in a build without kernels, which every driver refuses.
    pub fn ptx(&self) -> &str {
        self.text.get_or_init(|| unpack(self.name).unwrap_or_default())
    }
}

macro_rules! modules {
    ($($name:ident $id:ident $file:literal;)*) => { $(
        #[doc = concat!("Kernels of candle's `", $file, ".cu`.")]
        pub static $name: Module = Module::new(Id::$id, $file);
    )* };
}

modules! {
    AFFINE Affine "affine";
    BINARY Binary "binary";
    CAST Cast "cast";
    CONV Conv "conv";
    FILL Fill "fill";
    INDEXING Indexing "indexing";
    QUANTIZED Quantized "quantized";
    REDUCE Reduce "reduce";
    SORT Sort "sort";
    TERNARY Ternary "ternary";
    UNARY Unary "unary";
}

/// PTX of one of our own files, `kernels/NAME.cu`. Unpacked anew each time: the caller keeps what it loads.
pub fn own(name: &str) -> Option<String> {
    unpack(&format!("own_{name}"))
}

fn unpack(name: &str) -> Option<String> {
    let (_, packed) = PACKED.iter().find(|(known, _)| *known == name)?;
    let mut text = String::new();
    GzDecoder::new(*packed).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_module_is_there_or_none_and_its_index_is_its_place() {
        let all = [
            &AFFINE, &BINARY, &CAST, &CONV, &FILL, &INDEXING, &QUANTIZED, &REDUCE, &SORT, &TERNARY, &UNARY,
        ];
        for (place, module) in all.into_iter().enumerate() {
            assert_eq!(module.index(), place);
            assert_eq!(ALL_IDS[place] as usize, place);
            let ptx = module.ptx();
            assert_eq!(
                crate::BUILT.is_some(),
                ptx.contains(".target sm_"),
                "{}",
                module.name
            );
            assert!(!ptx.contains('\0'));
        }
        assert_eq!(own("nothing of this name"), None);
    }
}
