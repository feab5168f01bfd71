//! Deterministic CBOR (RFC 8949 section 4.2) within the limits of section 7 of the container: a writer that
//! writes only the canonical form, and a reader whose callers re-encode what they read and compare.

use crate::{Result, VaultError};
use minicbor::data::Type;
use minicbor::{Decoder, Encoder};

/// Longest text or byte string in a record, bytes.
pub(crate) const MAX_STRING: usize = 4_096;
/// Longest encoded record, bytes.
pub(crate) const MAX_RECORD: usize = 16 << 20;

/// Writes canonical CBOR. Callers give map keys in order.
pub(crate) struct Writer(Encoder<Vec<u8>>);

impl Writer {
    pub(crate) fn new() -> Self {
        Self(Encoder::new(Vec::new()))
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0.into_writer()
    }

    // Writing to a Vec can not fail, so the results below carry nothing.
    pub(crate) fn map(&mut self, entries: usize) -> &mut Self {
        let _ = self.0.map(entries as u64);
        self
    }

    pub(crate) fn array(&mut self, items: usize) -> &mut Self {
        let _ = self.0.array(items as u64);
        self
    }

    pub(crate) fn uint(&mut self, value: u64) -> &mut Self {
        let _ = self.0.u64(value);
        self
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) -> &mut Self {
        let _ = self.0.bytes(value);
        self
    }

    pub(crate) fn text(&mut self, value: &str) -> &mut Self {
        let _ = self.0.str(value);
        self
    }

    pub(crate) fn bool(&mut self, value: bool) -> &mut Self {
        let _ = self.0.bool(value);
        self
    }

    pub(crate) fn null(&mut self) -> &mut Self {
        let _ = self.0.null();
        self
    }

    /// The value, or null.
    pub(crate) fn optional_uint(&mut self, value: Option<u64>) -> &mut Self {
        match value {
            Some(value) => self.uint(value),
            None => self.null(),
        }
    }
}

/// Reads one record, refusing what the limits forbid.
pub(crate) struct Reader<'a> {
    decoder: Decoder<'a>,
    what: &'static str,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(what: &'static str, bytes: &'a [u8]) -> Result<Self> {
        if bytes.len() > MAX_RECORD {
            return Err(VaultError::Limit {
                what: format!("the {what}"),
                limit: MAX_RECORD as u64,
            });
        }
        Ok(Self {
            decoder: Decoder::new(bytes),
            what,
        })
    }

    pub(crate) fn refuse(&self, reason: impl Into<String>) -> VaultError {
        VaultError::Cbor {
            what: self.what,
            reason: reason.into(),
        }
    }

    pub(crate) fn map(&mut self) -> Result<u64> {
        let count = self.decoder.map();
        self.definite(count)
    }

    pub(crate) fn array(&mut self) -> Result<u64> {
        let count = self.decoder.array();
        self.definite(count)
    }

    /// An array that must have exactly `items` items.
    pub(crate) fn tuple(&mut self, items: u64) -> Result<()> {
        match self.array()? {
            count if count == items => Ok(()),
            count => Err(self.refuse(format!("an array has {count} items instead of {items}"))),
        }
    }

    pub(crate) fn uint(&mut self) -> Result<u64> {
        let value = self.decoder.u64();
        self.taken(value)
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        let value = self.decoder.u32();
        self.taken(value)
    }

    pub(crate) fn bool(&mut self) -> Result<bool> {
        let value = self.decoder.bool();
        self.taken(value)
    }

    pub(crate) fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let value = self.decoder.bytes();
        let value = self.taken(value)?;
        value
            .try_into()
            .map_err(|_| self.refuse(format!("{} bytes where {N} belong", value.len())))
    }

    pub(crate) fn text(&mut self) -> Result<String> {
        let value = self.decoder.str();
        let value = self.taken(value)?;
        if value.len() > MAX_STRING {
            return Err(VaultError::Limit {
                what: format!("a text in the {}", self.what),
                limit: MAX_STRING as u64,
            });
        }
        Ok(value.to_owned())
    }

    /// True, and steps over it, when a null comes next.
    pub(crate) fn null(&mut self) -> Result<bool> {
        let kind = self.decoder.datatype();
        if self.taken(kind)? == Type::Null {
            let null = self.decoder.null();
            self.taken(null)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Items of the array that comes next, if one does; does not step over it.
    pub(crate) fn next_array(&self) -> Option<u64> {
        self.decoder.clone().array().ok().flatten()
    }

    /// The end of the record, whose canonical form is `again`.
    pub(crate) fn end(self, again: &[u8]) -> Result<()> {
        if self.decoder.input() == again {
            return Ok(());
        }
        Err(self.refuse("encoding it again gives other bytes"))
    }

    fn definite(&self, count: std::result::Result<Option<u64>, minicbor::decode::Error>) -> Result<u64> {
        match self.taken(count)? {
            Some(count) => Ok(count),
            None => Err(self.refuse("an array or map of indefinite length")),
        }
    }

    fn taken<T>(&self, value: std::result::Result<T, minicbor::decode::Error>) -> Result<T> {
        value.map_err(|error| self.refuse(error.to_string()))
    }
}
