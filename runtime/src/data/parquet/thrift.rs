//! Thrift's compact protocol, as far as footers and page headers of Parquet need it. Called by [`super::footer`].

use std::collections::BTreeMap;

/// Structures within structures; Parquet's own have six.
const DEPTH_MAX: usize = 16;

/// Fields of a structure by their numbers.
#[derive(Debug, Clone, Default)]
pub(super) struct Fields(BTreeMap<i16, Value>);

/// What a field holds.
#[derive(Debug, Clone)]
enum Value {
    Truth(bool),
    Number(i64),
    Bytes(Vec<u8>),
    List(Vec<Value>),
    Fields(Fields),
    /// A kind that Parquet's headers have nothing of.
    Other,
}

impl Fields {
    /// Reads a structure; answers also how many bytes it took. None when it is none.
    pub(super) fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        let mut reader = Reader { bytes, at: 0 };
        let fields = reader.fields(0)?;
        Some((fields, reader.at))
    }

    pub(super) fn truth(&self, field: i16) -> Option<bool> {
        match self.0.get(&field) {
            Some(Value::Truth(truth)) => Some(*truth),
            _ => None,
        }
    }

    pub(super) fn number(&self, field: i16) -> Option<i64> {
        match self.0.get(&field) {
            Some(Value::Number(number)) => Some(*number),
            _ => None,
        }
    }

    /// A number that counts something.
    pub(super) fn count(&self, field: i16) -> Option<usize> {
        self.number(field).and_then(|number| usize::try_from(number).ok())
    }

    pub(super) fn text(&self, field: i16) -> Option<String> {
        match self.0.get(&field) {
            Some(Value::Bytes(bytes)) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        }
    }

    pub(super) fn texts(&self, field: i16) -> Vec<String> {
        let text = |value: &Value| match value {
            Value::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        };
        self.list(field).iter().filter_map(text).collect()
    }

    pub(super) fn fields(&self, field: i16) -> Option<&Fields> {
        match self.0.get(&field) {
            Some(Value::Fields(fields)) => Some(fields),
            _ => None,
        }
    }

    pub(super) fn structures(&self, field: i16) -> Vec<&Fields> {
        let mut found = Vec::new();
        for value in self.list(field) {
            if let Value::Fields(fields) = value {
                found.push(fields);
            }
        }
        found
    }

    fn list(&self, field: i16) -> &[Value] {
        match self.0.get(&field) {
            Some(Value::List(values)) => values,
            _ => &[],
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn zigzag(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    fn fields(&mut self, depth: usize) -> Option<Fields> {
        let (mut fields, mut last) = (BTreeMap::new(), 0_i16);
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Some(Fields(fields));
            }
            last = match head >> 4 {
                0 => i16::try_from(self.zigzag()?).ok()?,
                more => last.checked_add(i16::from(more))?,
            };
            fields.insert(last, self.value(head & 15, depth)?);
        }
    }

    fn value(&mut self, kind: u8, depth: usize) -> Option<Value> {
        if depth > DEPTH_MAX {
            return None;
        }
        Some(match kind {
            1 => Value::Truth(true),
            2 => Value::Truth(false),
            3 => Value::Number(i64::from(self.byte()?.cast_signed())),
            4..=6 => Value::Number(self.zigzag()?),
            7 => {
                self.at = self.at.checked_add(8).filter(|&at| at <= self.bytes.len())?;
                Value::Other
            }
            8 => {
                let length = usize::try_from(self.varint()?).ok()?;
                let end = self.at.checked_add(length)?;
                let bytes = self.bytes.get(self.at..end)?.to_vec();
                self.at = end;
                Value::Bytes(bytes)
            }
            9 | 10 => self.elements(depth)?,
            12 => Value::Fields(self.fields(depth + 1)?),
            _ => return None,
        })
    }

    fn elements(&mut self, depth: usize) -> Option<Value> {
        let head = self.byte()?;
        let count = match head >> 4 {
            15 => usize::try_from(self.varint()?).ok()?,
            few => usize::from(few),
        };
        let mut values = Vec::new();
        for _ in 0..count {
            // In lists a truth takes a byte of its own; an element takes at least one, which bounds their number.
            let value = match head & 15 {
                1 | 2 => Value::Truth(self.byte()? == 1),
                kind => self.value(kind, depth + 1)?,
            };
            values.push(value);
        }
        Some(Value::List(values))
    }
}
